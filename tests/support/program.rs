//! Programs that run to their end, with their output; and with fewer privileges than root has.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::{
        ffi::OsStrExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{Command, Stdio},
    thread,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::{PROCESS_TIMEOUT, wait_for};

/// How a program ended and what it wrote.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end; fails where that takes too long or the output is not UTF-8.
pub fn run(command: &mut Command) -> Finished {
    let shown = format!("{command:?}");
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {shown}: {error}"));
    let mut stdout = child.stdout.take().expect("its output");
    let mut stderr = child.stderr.take().expect("its log");
    let stdout = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_bytes| text)
    });
    let stderr = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_bytes| text)
    });
    let status = wait_for(&format!("the end of {shown}"), PROCESS_TIMEOUT, || child.try_wait().expect("wait"));
    let text = |reader: thread::JoinHandle<io::Result<String>>| reader.join().expect("a reader").expect("UTF-8");
    Finished { code: status.code(), signal: status.signal(), stdout: text(stdout), stderr: text(stderr) }
}

/// What a program writes to a terminal of so many columns.
pub fn run_on_terminal(mut command: Command, columns: u16) -> String {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("a terminal");
    let name = ptsname(&controller, Vec::new()).expect("its name");
    let terminal = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.to_bytes()));
    let terminal = terminal.expect("open the terminal");
    tcsetwinsize(&terminal, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).expect("its size");
    command.stdin(Stdio::null()).stdout(terminal).stderr(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    drop(command);
    let mut text = Vec::new();
    // The last process that has it open ends it, which is an error.
    drop(File::from(controller).read_to_end(&mut text));
    assert!(child.wait().expect("wait").success());
    String::from_utf8(text).expect("UTF-8")
}

/// Runs a program that must succeed; its output without the end of the last line.
pub(crate) fn succeed(command: &mut Command) -> String {
    let finished = run(command);
    assert_eq!(finished.code, Some(0), "{command:?} failed: {finished:?}");
    finished.stdout.trim_end().to_owned()
}

/// A privilege, by the kernel's number (`include/uapi/linux/capability.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Capability {
    /// `CAP_DAC_OVERRIDE`
    DacOverride = 1,
    /// `CAP_DAC_READ_SEARCH`
    DacReadSearch = 2,
    /// `CAP_SYS_PTRACE`
    SysPtrace = 19,
    /// `CAP_SYS_ADMIN`
    SysAdmin = 21,
    /// `CAP_PERFMON`
    Perfmon = 38,
    /// `CAP_BPF`
    Bpf = 39,
}

/// Takes privileges from what a command starts, for good: root gets back only what the bounding set holds.
pub fn without_capabilities(command: &mut Command, capabilities: &'static [Capability]) {
    let drop_all = move || {
        for capability in capabilities {
            // SAFETY: the call takes a number and touches no memory.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *capability as libc::c_ulong, 0, 0, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes only system calls and allocates nothing.
    unsafe { command.pre_exec(drop_all) };
}

//! Boots a kernel with an archive in QEMU and tells how it ended. The guest's second serial port
//! carries what its first process says, the first one is the kernel's console.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::process::say;

/// Longer than the longest run by far; emulation takes about ten times as long as the host.
const TIMEOUT: Duration = Duration::from_mins(15);

/// Enough for the archive, which stays in memory, and for two sandboxes at their limits with the kernel's share.
const MEMORY: &str = "2048M";

/// The last line of the guest's first process when all scenarios passed.
const SUCCESS: &str = "init: success";

/// Lines of the console that are shown when the guest did not end as it should.
const CONSOLE_TAIL: usize = 40;

/// Runs the guest to its end, showing what it says; an error unless every scenario passed.
pub(super) fn boot(kernel: &Path, archive: &Path, console: &Path, filter: Option<&str>) -> anyhow::Result<()> {
    let filter = filter.unwrap_or_default();
    ensure!(!filter.contains(char::is_whitespace), "a filter with a space cannot be passed to the guest");
    // panic=-1 makes a kernel that panics reboot at once, which -no-reboot turns into an end. What
    // comes after `--` are arguments of the first process. Without cx16, because QEMU 7.2 sometimes leaves garbage
    // in the flags after the allocator's cmpxchg16b, and then the kernel panics.
    let append = format!("console=ttyS0 quiet panic=-1 -- {filter}");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-accel", "tcg", "-cpu", "qemu64,-cx16", "-smp", "1"])
        .args(["-m", MEMORY, "-append", &append])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let child = qemu.spawn().context("run qemu-system-x86_64")?;
    let last_line = Machine(child).watch();
    match last_line {
        Ok(line) if line == SUCCESS => Ok(()),
        Ok(line) if line.starts_with("init: failure") => bail!("{line}"),
        Ok(_) => bail!("the guest ended before its verdict{}", tail(console)),
        Err(error) => bail!("{error:#}{}", tail(console)),
    }
}

/// A running QEMU, ended when this is dropped.
struct Machine(Child);

impl Machine {
    /// Shows what the guest says until it ends; gives its last line.
    fn watch(mut self) -> anyhow::Result<String> {
        let output = self.0.stdout.take().context("QEMU's output")?;
        let lines = read_in_background(output);
        let deadline = Instant::now() + TIMEOUT;
        let mut last = String::new();
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    say(&format!("vm| {line}"));
                    last = line;
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest did not end in {} s", TIMEOUT.as_secs())
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.0.wait().context("wait for QEMU")?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(last)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let ended = self.0.kill().and_then(|()| self.0.wait());
            if let Err(error) = ended {
                say(&format!("cannot end QEMU: {error}"));
            }
        }
    }
}

fn read_in_background(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The end of the kernel's console, where a panic would stand.
fn tail(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let first = lines.len().saturating_sub(CONSOLE_TAIL);
    let mut shown = format!("; the end of its console ({}):", console.display());
    for line in lines.iter().skip(first) {
        shown.push_str("\n  ");
        shown.push_str(line);
    }
    shown
}

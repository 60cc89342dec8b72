//! First process of the virtual machine that `cargo xtask vm` starts: prepares what a host has
//! (`/proc`, `/sys`, cgroups, tracefs), runs every program of `/tests`, says how that went and
//! switches the machine off. Its arguments, each a word:
//!
//! - `cgroup=v1`, `cgroup=v2`: which cgroups have the memory controller
//! - `all`, `subset`: every scenario, or those of `/subset`
//! - `half=0`, `half=1`: every other program
//! - `skip=TEXT`, any number of times: no scenarios whose name has this
//! - `filter=TEXT`: only scenarios whose name has this
//! - `shell`: instead of scenarios a shell for a person

mod cgroups;
mod programs;

use std::{
    error::Error,
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use programs::Choice;
use rustix::{
    mount::{MountFlags, mount, mount_bind_recursive, mount_move},
    process::{WaitOptions, chdir, chroot, wait},
    system::{RebootCommand, reboot},
};

/// The serial port that `cargo xtask vm` reads. The console is a port of the same kind on x86 only.
const OUTPUT: &str = if cfg!(target_arch = "x86_64") { "/dev/ttyS1" } else { "/dev/ttyS0" };

/// Type and place of what is mounted, in this order.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
];

/// What a program is told; the first three as on the host; no skip for want of something is allowed here.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("OOMWATCH_BIN", "/usr/bin/oomwatch"),
    ("OOMWATCH_HOG", "/usr/bin/hog"),
    ("OOMWATCH_RUNSC", "/usr/lib/runsc"),
    ("OOMWATCH_REQUIRE", "all"),
    ("OOMWATCH_GUEST", "1"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/runsc/20240729"),
    ("HOME", "/root"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().any(|argument| argument == word);
    let outcome = prepare(has("cgroup=v1")).and_then(|()| {
        if has("shell") {
            return shell().map(|()| Vec::new());
        }
        let values = |name| arguments.iter().filter_map(move |argument| argument.strip_prefix(name)?.strip_prefix('='));
        let value = |name| values(name).next();
        let choice = if has("subset") { Choice::Subset } else { Choice::All };
        let half = value("half").and_then(|half| half.parse().ok());
        programs::run(choice, half, &values("skip").collect::<Vec<_>>(), value("filter"))
    });
    let verdict = match outcome {
        Ok(failed) if failed.is_empty() => "init: success".to_owned(),
        Ok(failed) => format!("init: failure: {}", failed.join(", ")),
        Err(error) => format!("init: failure: {error}"),
    };
    writeln!(output()?, "{verdict}")?;
    rustix::fs::sync();
    // If even this fails, the kernel panics because its first process ends, and QEMU ends too.
    Ok(reboot(RebootCommand::PowerOff)?)
}

fn prepare(with_cgroup1: bool) -> Result<(), Box<dyn Error>> {
    leave_the_kernels_root()?;
    for (kind, place) in MOUNTS {
        mount_new(kind, place, None)?;
    }
    fs::create_dir_all("/root")?;
    let mount = if with_cgroup1 { cgroups::mount_v1 } else { cgroups::mount_v2 };
    mount()?;
    busybox(&["--install", "-s", "/bin"])?;
    // Where a host has it, whatever else is there.
    symlink("/bin/busybox", "/usr/bin/env")?;
    // runc executes itself by descriptor, and TOMOYO of old kernels wants to see the name of that.
    symlink("/proc/self/fd", "/dev/fd")?;
    busybox(&["ip", "link", "set", "lo", "up"])?;
    // The version of the package, which is that of the kernel without a distribution's own counting.
    let version = fs::read_to_string("/proc/version")?;
    let version = version.split_once(" Debian ").map_or(version.as_str(), |(_, version)| version);
    let version = version.split_whitespace().next().unwrap_or_default();
    Ok(writeln!(output()?, "init: Linux {version}")?)
}

fn mount_new(kind: &str, place: &str, options: Option<&CStr>) -> Result<(), Box<dyn Error>> {
    fs::create_dir_all(place).map_err(|error| format!("create {place}: {error}"))?;
    mount(kind, place, kind, MountFlags::empty(), options)
        .map_err(|error| format!("mount {kind} on {place}: {error}").into())
}

/// Moves to a mount that has a parent. Container runtimes cannot `pivot_root` away from the
/// kernel's own root filesystem, where an initramfs starts.
fn leave_the_kernels_root() -> io::Result<()> {
    fs::create_dir_all("/new_root")?;
    mount_bind_recursive("/", "/new_root")?;
    chdir("/new_root")?;
    mount_move(".", "/")?;
    chroot(".")?;
    Ok(chdir("/")?)
}

fn busybox(arguments: &[&str]) -> Result<(), Box<dyn Error>> {
    let status = Command::new("/bin/busybox").args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("busybox {}: {status}", arguments.join(" ")).into()) }
}

/// A shell at the serial port, with signals from there.
fn shell() -> Result<(), Box<dyn Error>> {
    let port = OpenOptions::new().read(true).write(true).open(OUTPUT)?;
    let child = Command::new("/bin/busybox")
        .args(["setsid", "-c", "/bin/busybox", "sh"])
        .current_dir("/root")
        .envs(ENVIRONMENT)
        .env("PS1", "guest# ")
        .stdin(Stdio::from(port.try_clone()?))
        .stdout(Stdio::from(port.try_clone()?))
        .stderr(Stdio::from(port))
        .spawn()
        .map_err(|error| format!("run a shell: {error}"))?;
    reap_until(i32::try_from(child.id())?)?;
    Ok(())
}

/// Waits for one process, and for every orphan that ends meanwhile: this is process 1.
fn reap_until(wanted: i32) -> Result<bool, Box<dyn Error>> {
    loop {
        if let Some((pid, status)) = wait(WaitOptions::empty())?
            && pid.as_raw_nonzero().get() == wanted
        {
            return Ok(status.exit_status() == Some(0));
        }
    }
}

fn output() -> io::Result<File> {
    OpenOptions::new().write(true).open(Path::new(OUTPUT))
}

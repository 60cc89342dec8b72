//! First process of the virtual machine that `cargo xtask vm` starts: prepares what a host has
//! (`/proc`, `/sys`, cgroup v2, tracefs), runs every program of `/tests`, says how that went and
//! switches the machine off. Its arguments go to each test program.

use std::{
    collections::BTreeMap,
    error::Error,
    ffi::CStr,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::Path,
    process::Command,
};

use rustix::{
    mount::{MountFlags, mount, mount_bind_recursive, mount_move},
    process::{WaitOptions, chdir, chroot, wait},
    system::{RebootCommand, reboot},
};

/// The serial port that `cargo xtask vm` reads.
const OUTPUT: &str = "/dev/ttyS1";

/// `PROGRAM SCENARIO` lines: what is left out here. `cargo xtask vm` said why.
const HOST_ONLY: &str = "/host-only";

/// Type and place of what is mounted, in this order.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
];

/// What a test program is told; the first three as on the host, and no skip is allowed here.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("OOMWATCH_BIN", "/usr/bin/oomwatch"),
    ("OOMWATCH_HOG", "/usr/bin/hog"),
    ("OOMWATCH_RUNSC", "/usr/lib/runsc"),
    ("OOMWATCH_REQUIRE", "all"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
];

fn main() -> Result<(), Box<dyn Error>> {
    let failed = prepare().and_then(|()| run_tests());
    let verdict = match failed {
        Ok(failed) if failed.is_empty() => "init: success".to_owned(),
        Ok(failed) => format!("init: failure: {}", failed.join(", ")),
        Err(error) => format!("init: failure: {error}"),
    };
    writeln!(output()?, "{verdict}")?;
    rustix::fs::sync();
    // If even this fails, the kernel panics because its first process ends, and QEMU ends too.
    Ok(reboot(RebootCommand::PowerOff)?)
}

fn prepare() -> Result<(), Box<dyn Error>> {
    leave_the_kernels_root()?;
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).map_err(|error| format!("create {place}: {error}"))?;
        mount(kind, place, kind, MountFlags::empty(), None::<&CStr>)
            .map_err(|error| format!("mount {kind} on {place}: {error}"))?;
    }
    fs::create_dir_all("/root")?;
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids +cpu")
        .map_err(|error| format!("enable cgroup controllers: {error}"))?;
    busybox(&["--install", "-s", "/bin"])?;
    // Where a host has it, whatever else is there.
    symlink("/bin/busybox", "/usr/bin/env")?;
    busybox(&["ip", "link", "set", "lo", "up"])
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

/// Runs the test programs by name; gives the names of those that failed.
fn run_tests() -> Result<Vec<String>, Box<dyn Error>> {
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir("/tests")? {
        let entry = entry?;
        programs.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
    }
    let host_only = fs::read_to_string(HOST_ONLY).map_err(|error| format!("read {HOST_ONLY}: {error}"))?;
    let mut failed = Vec::new();
    for (name, program) in programs {
        writeln!(output()?, "--- {name}")?;
        let of_it = host_only.lines().filter_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        if !run_test(&program, of_it)? {
            failed.push(name);
        }
    }
    Ok(failed)
}

fn run_test<'a>(program: &Path, skipped: impl Iterator<Item = &'a str>) -> Result<bool, Box<dyn Error>> {
    let child = Command::new(program)
        .arg("--test-threads=1")
        .args(skipped.flat_map(|scenario| ["--skip", scenario]))
        .args(std::env::args_os().skip(1))
        .current_dir("/tmp")
        .envs(ENVIRONMENT)
        .stdout(output()?)
        .stderr(output()?)
        .spawn()
        .map_err(|error| format!("run {}: {error}", program.display()))?;
    reap_until(i32::try_from(child.id())?)
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

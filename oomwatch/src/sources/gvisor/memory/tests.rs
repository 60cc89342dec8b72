//! On processes of the test itself: what a sentry is to the estimators is any process with memory files.
#![expect(clippy::disallowed_methods, reason = "a test looks for itself")]

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process};

use super::*;

const MIB: u64 = 1 << 20;
const SECOND: u64 = 1_000_000_000;
/// What a small process may hold beside its memory files.
const SMALL: u64 = 8 * MIB;

/// A stand-in for a sentry; ended on drop, and with it what waits for its standard input. Its standard descriptors are memory files: no other process gets those.
struct Sentry(Child);

impl Sentry {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn key(&self) -> ProcessKey {
        key(self.0.id())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.0.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits for one byte.
    fn hear(&mut self) {
        self.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Sentry {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn key(pid: u32) -> ProcessKey {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start_ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    ProcessKey { pid, start_ticks }
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::null());
    command
}

fn shell(program: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// A memory file of so many MiB.
fn memory_file(mib: u64) -> OwnedFd {
    let file = memfd_create("runsc-memory", MemfdFlags::CLOEXEC).unwrap();
    grow(&file, mib);
    file
}

fn grow(file: &OwnedFd, mib: u64) {
    let mut file = fs::File::from(copy(file));
    file.seek(SeekFrom::End(0)).unwrap();
    for _ in 0..mib {
        file.write_all(&vec![1; 1 << 20]).unwrap();
    }
}

fn copy(file: &OwnedFd) -> OwnedFd {
    file.try_clone().unwrap()
}

/// A stand-in for a sentry with a memory file of so many MiB.
fn sentry_with(mib: u64) -> (Sentry, OwnedFd) {
    let file = memory_file(mib);
    (Sentry::start(sleeper().stderr(copy(&file))), file)
}

fn meter(choice: Choice, sentry: &Sentry) -> Meter {
    Meter::new(choice, sentry.key(), None)
}

fn usage(meter: &mut Meter, boot_ns: u64) -> u64 {
    meter.read(&HostRoot::default(), boot_ns, None).unwrap().usage_bytes
}

fn assert_about(usage: u64, mib: u64) {
    assert!((mib * MIB..mib * MIB + SMALL).contains(&usage), "{usage} bytes instead of {mib} MiB and a little");
}

#[test]
fn memory_files_count_once_whatever_descriptors_there_are() {
    let file = memory_file(20);
    let sentry = Sentry::start(sleeper().stdin(copy(&file)).stdout(copy(&file)).stderr(file));
    assert_about(usage(&mut meter(Choice::Auto, &sentry), 0), 20);
}

#[test]
fn two_memory_files_of_the_same_name_count_both() {
    let sentry = Sentry::start(sleeper().stdout(memory_file(10)).stderr(memory_file(15)));
    assert_about(usage(&mut meter(Choice::Auto, &sentry), 0), 25);
}

#[test]
fn growth_and_release_show_at_once() {
    let (sentry, file) = sentry_with(5);
    let mut meter = meter(Choice::Auto, &sentry);
    assert_about(usage(&mut meter, 0), 5);
    grow(&file, 30);
    assert_about(usage(&mut meter, 1), 35);
    rustix::fs::ftruncate(&file, 0).unwrap();
    assert_about(usage(&mut meter, 2), 0);
}

#[test]
fn a_stopped_sandbox_is_measured() {
    let (sentry, file) = sentry_with(10);
    sentry.signal(Signal::STOP);
    let mut meter = meter(Choice::Auto, &sentry);
    assert_about(usage(&mut meter, 0), 10);
    grow(&file, 10);
    assert_about(usage(&mut meter, 6 * SECOND), 20);
}

#[test]
fn a_descriptor_that_is_another_file_now_is_found_out() {
    let second = memory_file(20);
    // Closes the first file and puts the second one in its place.
    let mut command = shell("read x; exec 2<&99; echo; read x");
    command.stderr(memory_file(10));
    let fd = second.as_raw_fd();
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(move || (libc::dup2(fd, 99) == 99).then_some(()).ok_or_else(std::io::Error::last_os_error))
    };
    let mut sentry = Sentry::start(&mut command);
    let mut meter = meter(Choice::Auto, &sentry);
    assert_about(usage(&mut meter, 0), 30);
    sentry.go();
    sentry.hear();
    assert_about(usage(&mut meter, 1), 20);
    grow(&second, 1);
    assert_about(usage(&mut meter, 2), 21);
}

#[test]
fn no_descriptor_is_kept_so_a_dead_sandbox_gives_its_memory_back() {
    let (mut sentry, file) = sentry_with(10);
    let mut meter = meter(Choice::Auto, &sentry);
    let identity = |path: std::path::PathBuf| {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
    };
    let ours = identity(format!("/proc/self/fd/{}", file.as_raw_fd()).into()).unwrap();
    assert_about(usage(&mut meter, 0), 10);
    drop(file);
    let names = || fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(names().filter(|path| identity(path.clone()) == Some(ours)).count(), 0);
    sentry.end();
    assert!(matches!(meter.read(&HostRoot::default(), 1, None), Err(MeterError::Host(HostError::Gone { .. }))));
}

#[test]
fn a_later_process_with_the_same_number_is_not_the_sentry() {
    let (sentry, _file) = sentry_with(1);
    let key = ProcessKey { start_ticks: sentry.key().start_ticks + 1, ..sentry.key() };
    for choice in [Choice::Auto, Choice::Only(Estimator::RssSum)] {
        let error = Meter::new(choice, key, None).read(&HostRoot::default(), 0, None).unwrap_err();
        assert!(matches!(error, MeterError::Host(HostError::Gone { .. })), "{error}");
    }
}

#[test]
fn a_process_without_memory_files_gives_no_figure() {
    let sentry = Sentry::start(sleeper().stdout(Stdio::null()).stderr(Stdio::null()));
    let error = meter(Choice::Auto, &sentry).read(&HostRoot::default(), 0, None).unwrap_err();
    assert_eq!(error.to_string(), format!("/proc/{}/fd: no memory file", sentry.0.id()));
}

#[test]
fn private_memory_of_gofers_counts_and_ends_with_them() {
    let (sentry, _file) = sentry_with(10);
    let (mut ended, _other) = sentry_with(1);
    let mut meter = meter(Choice::Auto, &sentry);
    assert_about(usage(&mut meter, 0), 10);
    let private = vec![1_u8; 30 << 20];
    let gofer = key(std::process::id());
    meter.set_gofers(vec![gofer, ended.key()]);
    let with_gofers = usage(&mut meter, 1);
    assert!(with_gofers > 40 * MIB, "{with_gofers}");
    meter.set_gofers(vec![ProcessKey { start_ticks: gofer.start_ticks + 1, ..gofer }, ended.key()]);
    ended.end();
    assert_about(usage(&mut meter, 2), 10);
    drop(private);
}

#[test]
fn processes_below_the_sentry_cost_the_kernel_something() {
    let children = "for i in $(seq 40); do cat <&4 & done; echo; read x <&4";
    for program in [format!("exec 4<&0; read x; {children}"), format!("exec 4<&0; read x; ( {children} ) & read x <&4")]
    {
        let mut sentry = Sentry::start(shell(&program).stderr(memory_file(1)));
        let mut meter = meter(Choice::Auto, &sentry);
        let before = usage(&mut meter, 0);
        sentry.go();
        sentry.hear();
        let soon = usage(&mut meter, SECOND);
        let later = usage(&mut meter, 6 * SECOND);
        // A process with its thread 40 times, and between 20 and 120 KiB of page tables for each.
        assert!(soon < before + MIB, "{soon} and {before}: surveyed again for nothing");
        assert!((40 * 55 * 1024..40 * 155 * 1024).contains(&(later - before)), "{program}: {later} and {before}");
    }
}

#[test]
fn rss_sum_adds_up_the_tree() {
    let program = "exec 4<&0; for i in 1 2 3; do ( (read x <&4) & echo; read x <&4) & done; read x";
    let mut sentry = Sentry::start(shell(program).stderr(Stdio::null()));
    for _ in 0..3 {
        sentry.hear();
    }
    let mut meter = meter(Choice::Only(Estimator::RssSum), &sentry);
    let settled = (0..250).any(|_attempt| {
        let before = resident(sentry.0.id());
        let measured = usage(&mut meter, 0);
        let after = resident(sentry.0.id());
        assert_eq!(after.0, 7, "processes");
        std::thread::sleep(std::time::Duration::from_millis(20));
        before == after && measured == after.1
    });
    assert!(settled, "never the sum of VmRSS");
}

/// Number of processes and bytes of `VmRSS`, from a process downwards.
fn resident(pid: u32) -> (u32, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix(" kB")).unwrap();
    let own = (1, line.trim().parse::<u64>().unwrap() << 10);
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let below = children.split_whitespace().map(|child| resident(child.parse().unwrap()));
    below.fold(own, |sum, child| (sum.0 + child.0, sum.1 + child.1))
}

#[test]
fn a_cgroup_that_was_asked_for_and_is_not_there_gives_no_figure() {
    let (sentry, _file) = sentry_with(1);
    let error = meter(Choice::Only(Estimator::Cgroup), &sentry).read(&HostRoot::default(), 0, None).unwrap_err();
    assert!(matches!(error, MeterError::NoCgroup), "{error}");
}

#[test]
fn a_cgroup_that_went_away_is_replaced_by_the_memory_files_unless_asked_for() {
    let (sentry, _file) = sentry_with(10);
    let gone = || Some(CgroupFiles::new(std::path::Path::new("/no/such/cgroup"), 1));
    let measured = Meter::new(Choice::Auto, sentry.key(), gone()).read(&HostRoot::default(), 0, None).unwrap();
    assert_eq!(measured.estimator, Estimator::Memfd);
    assert_about(measured.usage_bytes, 10);
    let error = Meter::new(Choice::Only(Estimator::Cgroup), sentry.key(), gone()).read(&HostRoot::default(), 0, None);
    assert!(matches!(error, Err(MeterError::Host(HostError::Gone { .. }))));
}

#[test]
fn a_host_seen_below_another_root_is_measured_alike() {
    let (sentry, _file) = sentry_with(10);
    let root = HostRoot::new("/proc/..");
    let measured = meter(Choice::Auto, &sentry).read(&root, 0, None).unwrap();
    assert_about(measured.usage_bytes, 10);
}

//! Boots a kernel with an archive in QEMU and tells how it ended. The guest's second serial port
//! carries what its first process says, the first one is the kernel's console.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use crate::{arch::Arch, process::say};

/// Three times as long as the longest run on an idle machine: longer is a hang.
const TIMEOUT: Duration = Duration::from_mins(15);

/// From the end of the guest's output to the end of QEMU.
const END: Duration = Duration::from_secs(10);

/// Enough for the archive, which stays in memory, and for two sandboxes at their limits with the kernel's share. The
/// second node is for scenarios that fill one.
const MEMORY: &str = "2048M";
const NODES: [&str; 2] = ["1920M", "128M"];

/// A disk that is not written to but by scenarios that swap, bytes.
const DISK: u64 = 64 << 20;

/// What a guest is booted with.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) arch: Arch,
    pub(super) image: &'a Path,
    pub(super) archive: &'a Path,
    /// Gets what the kernel says.
    pub(super) console: &'a Path,
    /// Gets what the first process says.
    pub(super) log: &'a Path,
    /// Words for the first process.
    pub(super) arguments: &'a str,
    /// Before each line that is shown.
    pub(super) name: &'a str,
}

/// How a guest ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) lines: Vec<String>,
    pub(super) took: Duration,
    /// What QEMU took of the processors, where that is known.
    pub(super) cpu: Option<Duration>,
    /// It did not end by itself.
    pub(super) hung: bool,
    pub(super) status: Option<ExitStatus>,
}

/// QEMU with this guest, its first process at standard output; with `for_a_person` at standard input too, where Ctrl-C is
/// for what runs in the guest.
pub(super) fn command(
    arch: Arch,
    image: &Path,
    archive: &Path,
    console: &Path,
    arguments: &str,
    for_a_person: bool,
) -> anyhow::Result<Command> {
    // Without cx16, because QEMU 7.2 sometimes leaves garbage in the flags after the allocator's cmpxchg16b, and then
    // the kernel panics.
    let (program, machine, port) = match arch {
        Arch::Amd64 => ("qemu-system-x86_64", ["pc", "qemu64,-cx16", "ttyS0"], "isa-serial"),
        Arch::Arm64 => ("qemu-system-aarch64", ["virt", "neoverse-n1", "ttyAMA0"], "pci-serial"),
    };
    let [machine, processor, terminal] = machine;
    // Debian's kernels before 6.1 tell of pressure only where they are asked to. panic=-1 makes a kernel that panics reboot at once, which -no-reboot turns into an end. What comes after `--` are
    // arguments of the first process. With one processor, because with two the kernel now and then trips over its own
    // patches. Programs lie at the same addresses each time, because QEMU translates their code anew for others: ten starts of
    // the agent for its version took 1.1 s of user time, so they take 0.1 s.
    let append = format!("console={terminal} quiet psi=1 panic=-1 norandmaps -- {arguments}");
    let mut qemu = Command::new(program);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-accel", "tcg", "-machine", machine, "-cpu", processor, "-smp", "1"])
        .args(["-m", MEMORY, "-append", &append])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .arg("-serial")
        .arg(format!("file:{}", console.display()));
    for (number, size) in NODES.iter().enumerate() {
        // The one processor belongs to the first.
        let processors = if number == 0 { ",cpus=0" } else { "" };
        qemu.arg("-object").arg(format!("memory-backend-ram,id=memory{number},size={size}"));
        qemu.arg("-numa").arg(format!("node,nodeid={number},memdev=memory{number}{processors}"));
    }
    let disk = console.with_extension("disk");
    let file = File::create(&disk).with_context(|| format!("create {}", disk.display()))?;
    file.set_len(DISK).context("make a disk")?;
    qemu.arg("-drive").arg(format!("file={},format=raw,if=none,id=disk", disk.display()));
    // All these kernels have this driver built in.
    qemu.args(["-device", "nvme,drive=disk,serial=disk"]);
    let signals = if for_a_person { "off" } else { "on" };
    qemu.args(["-chardev", &format!("stdio,id=output,signal={signals}")]);
    qemu.args(["-device", &format!("{port},chardev=output")]);
    Ok(qemu)
}

impl Machine<'_> {
    /// Runs it to its end, showing what its first process says.
    pub(super) fn run(&self) -> anyhow::Result<Ended> {
        let mut log = File::create(self.log).with_context(|| format!("create {}", self.log.display()))?;
        let mut qemu = command(self.arch, self.image, self.archive, self.console, self.arguments, false)?;
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        let begin = Instant::now();
        let mut running = Running(qemu.spawn().context("run QEMU")?);
        let output = running.0.stdout.take().context("QEMU's output")?;
        let received = read_in_background(output);
        let mut ended = Ended::default();
        loop {
            match received.recv_timeout(TIMEOUT.saturating_sub(begin.elapsed())) {
                Ok(line) => {
                    say(&format!("{}| {line}", self.name));
                    writeln!(log, "{line}").context("write the guest's log")?;
                    ended.lines.push(line);
                }
                Err(RecvTimeoutError::Timeout) => {
                    ended.hung = true;
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        ended.took = begin.elapsed();
        ended.cpu = cpu_time(running.0.id());
        ended.status = running.wait()?;
        ended.hung |= ended.status.is_none();
        Ok(ended)
    }
}

/// A running QEMU, ended when this is dropped.
struct Running(Child);

impl Running {
    /// `None` where it does not end.
    fn wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().context("wait for QEMU")? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }
}

impl Drop for Running {
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

/// Of a process that was not waited for yet, with all its threads.
fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields 14 and 15; the name, field 2, ends with the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let ticks_a_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis((user + system) * 1000 / ticks_a_second))
}

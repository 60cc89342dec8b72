//! Memory eater of the scenarios: does what its arguments say, one after the other ([`step::Step`] lists them).
//! Linked statically, for containers that hold nothing else.

mod process;
mod step;

use std::{
    env, fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, ExitCode},
    ptr, thread,
    time::Duration,
};

use step::{Amount, Steps};

/// Taken at once where memory is eaten without end, bytes.
const CHUNK: usize = 1 << 18;
const MIB: usize = 1 << 20;
/// From a refusal of the kernel to the next attempt.
const RETRY: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let outcome = Steps::parse(env::args_os().skip(1)).and_then(|steps| run(&steps));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told where this fails.
            drop(writeln!(io::stderr(), "hog: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Takes the steps in their order.
fn run(steps: &Steps) -> Result<(), String> {
    let mut rest = steps.as_slice();
    while let Some((step, after)) = rest.split_first() {
        rest = after;
        if let step::Step::LoseLeader = step {
            process::go_on_without_leader(Steps::from(rest));
        }
        take(step).map_err(|error| format!("{step:?}: {error}"))?;
    }
    Ok(())
}

fn take(step: &step::Step) -> io::Result<()> {
    use step::Step;
    match step {
        Step::Cgroup(folder) => fs::write(folder.join("cgroup.procs"), "0"),
        Step::Comm(name) => process::set_comm(name),
        Step::OomScoreAdj(value) => fs::write("/proc/self/oom_score_adj", value.to_string()),
        Step::Uid(uid) => process::set_uid(*uid),
        Step::Say(word) => say(word),
        Step::Wait => process::read_byte(),
        Step::Eat(amount) => eat(*amount, libc::MAP_PRIVATE),
        Step::EatShared(amount) => eat(*amount, libc::MAP_SHARED),
        Step::FillPipes(amount) => fill_pipes(*amount),
        Step::ReadFile(file) => io::copy(&mut fs::File::open(file)?, &mut io::sink()).map(drop),
        Step::Child(steps) => process::fork(steps),
        Step::VforkChild(steps) => process::vfork(steps),
        Step::Sharer => process::share_memory(),
        Step::Reap => say(&process::reap()?),
        Step::Sleep => loop {
            thread::sleep(Duration::from_hours(1));
        },
        Step::Exec(command) => exec(command),
        Step::LoseLeader => Ok(()),
    }
}

fn say(word: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{word}")?;
    out.flush()
}

fn exec(command: &[std::ffi::OsString]) -> io::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let Some((program, arguments)) = command.split_first() else { return Ok(()) };
    Err(Command::new(Path::new(program)).args(arguments).exec())
}

fn eat(amount: Amount, sharing: i32) -> io::Result<()> {
    match amount {
        Amount::Mib(mib) => map(mib * MIB, sharing),
        Amount::All => loop {
            map(CHUNK, sharing)?;
        },
    }
}

/// Maps memory that is never given back, and writes to each page of it.
fn map(bytes: usize, sharing: i32) -> io::Result<()> {
    let flags = sharing | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping touches no memory that is in use.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Page by page, so that usage comes as close to the limit as it can. A kernel without huge pages refuses.
    // SAFETY: the range was mapped right above.
    let _refused: i32 = unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    for offset in (0..bytes).step_by(page_bytes()) {
        // SAFETY: `offset` lies within the mapping, which is writable.
        unsafe { ptr::write_volatile(start.cast::<u8>().add(offset), 1) };
    }
    Ok(())
}

fn page_bytes() -> usize {
    // SAFETY: the call has no precondition.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Fills pipes: memory of the kernel, charged to the cgroup of whoever writes, whoever owns the address space. Where the
/// kernel refuses, that is the end of it, or it tries again for ever. Saying so would take memory, too.
fn fill_pipes(amount: Amount) -> io::Result<()> {
    let refused = |error: &io::Error| error.raw_os_error() == Some(libc::ENOMEM);
    match amount {
        Amount::Mib(mib) => match (0..mib).try_for_each(|_| process::fill_pipe(MIB)) {
            Err(error) if refused(&error) => Ok(()),
            outcome => outcome,
        },
        Amount::All => loop {
            match process::fill_pipe(MIB) {
                Err(error) if refused(&error) => thread::sleep(RETRY),
                outcome => outcome?,
            }
        },
    }
}

//! Memory eater of the scenarios: does what its arguments say, one after the other ([`step::Step`] lists them).
//! Linked statically, for containers that hold nothing else.

mod process;
mod step;

use std::{
    env, fs,
    io::{self, Write as _},
    path::Path,
    process::{Command, ExitCode},
    ptr,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use step::{Amount, Steps};

/// Taken at once where memory is eaten without end, bytes.
const CHUNK: usize = 1 << 18;
const MIB: usize = 1 << 20;
/// From a refusal of the kernel to the next attempt.
const RETRY: Duration = Duration::from_millis(20);

/// What `eat=MIB` mapped, for `read-again` and `free`.
static EATEN: Mutex<Vec<Mapping>> = Mutex::new(Vec::new());

/// Memory of this process, every byte of it writable.
#[derive(Debug, Clone, Copy)]
struct Mapping {
    start: usize,
    bytes: usize,
}

fn main() -> ExitCode {
    let pretends = env::args_os().next().is_some_and(|name| name == process::SENTRY);
    let outcome = if pretends {
        say("pretending").and_then(|()| process::read_byte()).map_err(|error| error.to_string())
    } else {
        Steps::parse(env::args_os().skip(1)).and_then(|steps| run(&steps))
    };
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
        Step::Grow(mib) => process::grow(mib * MIB).map(write_to_each_page),
        Step::ReadAgain => {
            read_again();
            Ok(())
        }
        Step::WriteAgain => {
            EATEN.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().for_each(write_to_each_page);
            Ok(())
        }
        Step::Free => free(),
        Step::WriteFile(file) => write_file(file, usize::MAX),
        Step::FillFile(mib, file) => write_file(file, *mib),
        Step::MapFile(file) => map_file(file),
        Step::FillPipes(amount) => fill_pipes(*amount),
        Step::ReadFile(file) => io::copy(&mut fs::File::open(file)?, &mut io::sink()).map(drop),
        Step::Child(steps) => process::fork(steps),
        Step::VforkChild(steps) => process::vfork(steps),
        Step::Sharer => process::share_memory(),
        Step::Reap => say(&process::reap()?),
        Step::Sleep => loop {
            thread::sleep(Duration::from_hours(1));
        },
        Step::Pause(time) => {
            thread::sleep(*time);
            Ok(())
        }
        Step::Exit(code) => process::exit(*code),
        Step::NewPids => process::new_namespace(libc::CLONE_NEWPID),
        Step::NewUser => process::new_namespace(libc::CLONE_NEWUSER),
        Step::NewCgroups => process::new_namespace(libc::CLONE_NEWCGROUP),
        Step::BindMemory(node) => process::bind_memory(*node),
        Step::Exec(command) => exec(command),
        Step::Pretend(arguments) => process::pretend(arguments),
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
        Amount::Mib(mib) => {
            let mapping = map(mib * MIB, sharing)?;
            EATEN.lock().unwrap_or_else(PoisonError::into_inner).push(mapping);
            Ok(())
        }
        Amount::All => loop {
            let _kept: Mapping = map(CHUNK, sharing)?;
        },
    }
}

/// Maps memory, and writes to each page of it.
fn map(bytes: usize, sharing: i32) -> io::Result<Mapping> {
    let flags = sharing | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping touches no memory that is in use.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // Page by page, so that usage comes as close to the limit as it can. A kernel without huge pages refuses.
    // SAFETY: the range was mapped right above.
    let _refused: i32 = unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    let mapping = Mapping { start: start.expose_provenance(), bytes };
    write_to_each_page(mapping);
    Ok(mapping)
}

fn write_to_each_page(mapping: Mapping) {
    let start: *mut u8 = ptr::with_exposed_provenance_mut(mapping.start);
    for offset in (0..mapping.bytes).step_by(page_bytes()) {
        // SAFETY: `offset` lies within the mapping, which is writable.
        unsafe { ptr::write_volatile(start.add(offset), 1) };
    }
}

/// Reads each page of what was eaten, as a child does that shares it with its parent.
fn read_again() {
    EATEN.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().for_each(read_each_page);
}

fn read_each_page(mapping: Mapping) {
    let start: *const u8 = ptr::with_exposed_provenance(mapping.start);
    for offset in (0..mapping.bytes).step_by(page_bytes()) {
        // SAFETY: `offset` lies within the mapping, which is readable while it is there.
        let _byte: u8 = unsafe { ptr::read_volatile(start.add(offset)) };
    }
}

/// Gives back what was eaten.
fn free() -> io::Result<()> {
    for mapping in EATEN.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let start: *mut libc::c_void = ptr::with_exposed_provenance_mut(mapping.start);
        // SAFETY: the range was mapped by `map`, and nothing refers to it but the list that it just left.
        if unsafe { libc::munmap(start, mapping.bytes) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// So much, unless it is killed or the file system refuses before.
fn write_file(file: &Path, mib: usize) -> io::Result<()> {
    let mut file = fs::File::create(file)?;
    let chunk = vec![1; MIB];
    (0..mib).try_for_each(|_| file.write_all(&chunk))
}

/// Maps a file for good, and reads each page of it.
fn map_file(file: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let file = fs::File::open(file)?;
    let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let (protection, sharing) = (libc::PROT_READ, libc::MAP_SHARED);
    // SAFETY: a new mapping touches no memory that is in use.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, sharing, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    read_each_page(Mapping { start: start.expose_provenance(), bytes });
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

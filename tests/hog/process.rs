//! What the standard library does not offer: processes that share memory, names of bytes, pipes of any size.

use std::{
    ffi::{CString, OsStr, OsString},
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, IntoRawFd as _},
        unix::{ffi::OsStrExt as _, process::CommandExt as _},
    },
    process::Command,
    ptr, thread,
};

use crate::{Mapping, step::Steps};

/// What a sentry calls itself.
pub(crate) const SENTRY: &str = "runsc-sandbox";
/// Stack of a process that shares this one's memory, bytes.
const STACK: usize = 1 << 18;

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(crate) fn set_comm(name: &OsStr) -> io::Result<()> {
    let name = CString::new(name.as_bytes())?;
    // SAFETY: the kernel reads at most 16 bytes and stops at the NUL.
    checked(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) }).map(drop)
}

/// A namespace of its own, by the flag of `unshare`.
pub(crate) fn new_namespace(flag: i32) -> io::Result<()> {
    // SAFETY: the call has no precondition.
    checked(unsafe { libc::unshare(flag) }).map(drop)
}

/// Takes memory from one node only.
pub(crate) fn bind_memory(node: u32) -> io::Result<()> {
    let nodes = 1_u64.checked_shl(node).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (policy, nodes, bits) = (libc::MPOL_BIND, &raw const nodes, u64::BITS);
    // SAFETY: the kernel reads as many bits as it is told, and they are there.
    match unsafe { libc::syscall(libc::SYS_set_mempolicy, policy, nodes, libc::c_ulong::from(bits)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

pub(crate) fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: the call has no precondition.
    checked(unsafe { libc::setresuid(uid, uid, uid) }).map(drop)
}

/// Reads one byte of standard input without taking more, for others may read the same pipe.
pub(crate) fn read_byte() -> io::Result<()> {
    let mut byte = 0_u8;
    // SAFETY: `byte` has room for the one byte asked for.
    let read = unsafe { libc::read(libc::STDIN_FILENO, (&raw mut byte).cast(), 1) };
    if read < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Fills a pipe that holds so many bytes, and leaves it open for as long as the process lives.
pub(crate) fn fill_pipe(bytes: usize) -> io::Result<()> {
    let (reader, mut writer) = io::pipe()?;
    let size = i32::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: the call has no precondition.
    checked(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, size) })?;
    writer.write_all(&vec![1; bytes])?;
    let _open_for_good = (reader.into_raw_fd(), writer.into_raw_fd());
    Ok(())
}

/// Moves the end of the data segment; the new part of it.
pub(crate) fn grow(bytes: usize) -> io::Result<Mapping> {
    let increment = isize::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: memory is only added; the allocator copes with a break that others moved.
    let start = unsafe { libc::sbrk(increment) };
    if start.addr() == usize::MAX {
        Err(io::Error::last_os_error())
    } else {
        Ok(Mapping { start: start.expose_provenance(), bytes })
    }
}

/// Becomes a process with the name, the arguments and the memory file of a sentry.
pub(crate) fn pretend(arguments: &[OsString]) -> io::Result<()> {
    // SAFETY: the name is a string that ends in NUL. The file outlives `exec`.
    let file = checked(unsafe { libc::memfd_create(c"runsc-memory".as_ptr(), 0) })?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let mut file = unsafe { std::fs::File::from_raw_fd(file) };
    file.write_all(&vec![1; 1 << 20])?;
    let _open_for_good = file.into_raw_fd();
    Err(Command::new("/proc/self/exe").arg0(SENTRY).args(arguments).exec())
}

/// Ends this process without running what the parent registered for its own end.
pub(crate) fn exit(code: u8) -> ! {
    // SAFETY: the call has no precondition and does not return.
    unsafe { libc::_exit(code.into()) }
}

/// The same, with the outcome as a code.
fn end(outcome: Result<(), String>) -> ! {
    exit(match outcome {
        Ok(()) => 0,
        Err(error) => {
            // Nobody is left to be told where this fails.
            drop(writeln!(io::stderr(), "hog's child: {error}"));
            2
        }
    })
}

pub(crate) fn fork(steps: &Steps) -> io::Result<()> {
    // SAFETY: the process has one thread, so the child may go on as it likes.
    match checked(unsafe { libc::fork() })? {
        0 => end(crate::run(steps)),
        _ => Ok(()),
    }
}

pub(crate) fn vfork(steps: &Steps) -> io::Result<()> {
    clone(take_steps, libc::CLONE_VM | libc::CLONE_VFORK, ptr::from_ref(steps).cast_mut().cast())
}

extern "C" fn take_steps(steps: *mut libc::c_void) -> i32 {
    // SAFETY: `vfork` passed a reference, which is valid while the parent waits for the end of this process.
    end(crate::run(unsafe { &*steps.cast::<Steps>() }))
}

pub(crate) fn share_memory() -> io::Result<()> {
    clone(sleep_only, libc::CLONE_VM, ptr::null_mut())
}

/// Shares thread-local storage with the parent too, so it may do nothing but sleep.
extern "C" fn sleep_only(_nothing: *mut libc::c_void) -> i32 {
    loop {
        // SAFETY: the call has no precondition.
        unsafe { libc::pause() };
    }
}

fn clone(function: extern "C" fn(*mut libc::c_void) -> i32, flags: i32, argument: *mut libc::c_void) -> io::Result<()> {
    // Never freed: the child uses it for as long as it lives.
    let stack: &mut [u128] = Vec::leak(vec![0; STACK / size_of::<u128>()]);
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: the stack is used by nobody else and aligned to 16 bytes; `function` never returns.
    checked(unsafe { libc::clone(function, top.cast(), flags | libc::SIGCHLD, argument) }).map(drop)
}

/// Waits for a child; how it ended.
pub(crate) fn reap() -> io::Result<String> {
    let mut status = 0;
    // SAFETY: `status` has room for the answer.
    checked(unsafe { libc::waitpid(-1, &raw mut status, 0) })?;
    Ok(if libc::WIFSIGNALED(status) {
        format!("killed={}", libc::WTERMSIG(status))
    } else {
        format!("exited={}", libc::WEXITSTATUS(status))
    })
}

/// Ends the first thread of the process and lets another one take the steps.
pub(crate) fn go_on_without_leader(steps: Steps) -> ! {
    drop(thread::spawn(move || -> () { end(crate::run(&steps)) }));
    // SAFETY: ends this thread only; it holds no lock and nobody joins it.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("exit does not return")
}

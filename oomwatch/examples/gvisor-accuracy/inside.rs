//! What runs in a sandbox: one workload, by name and amount.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::fd::AsRawFd as _,
    ptr, thread,
    time::Duration,
};

use super::Outcome;

const MIB: usize = 1 << 20;
const PAGE: usize = 4096;

pub(super) fn run(name: &str, amount: usize) -> Outcome<()> {
    match name {
        "idle" => {}
        "brk" => grow_heap(amount)?,
        "map" | "big" => touch(map(amount * MIB)?),
        "readers" | "big-readers" => {
            let memory = map(amount * MIB)?;
            touch(memory);
            children(8, || look(memory))?;
        }
        "cow" => {
            let memory = map(amount * MIB)?;
            touch(memory);
            children(8, || touch(memory))?;
        }
        "children" => children(amount, || ())?,
        "threads" => (0..amount).for_each(|_| drop(thread::spawn(|| thread::sleep(Duration::from_secs(1000))))),
        "read-file" => read_twice()?,
        "map-file" => map_file()?,
        "tmpfs" => write_file("/mnt/file", amount)?,
        "overlay" | "overlay-on-tmpfs" => write_file("/file", amount)?,
        "small-files" => (0..amount).try_for_each(|number| fs::write(format!("/file{number}"), ""))?,
        "freed" => free(map(amount * MIB)?),
        _ => return Err(format!("no workload {name}").into()),
    }
    writeln!(io::stdout(), "done")?;
    io::stdout().flush()?;
    drop(io::stdin().read(&mut [0]));
    Ok(())
}

#[derive(Clone, Copy)]
struct Memory {
    start: *mut u8,
    bytes: usize,
}

fn grow_heap(mib: usize) -> Outcome<()> {
    for _ in 0..mib {
        // SAFETY: new heap is given to nobody else.
        let start = unsafe { libc::sbrk(isize::try_from(MIB)?) };
        touch(Memory { start: start.cast(), bytes: MIB });
    }
    Ok(())
}

fn map(bytes: usize) -> Outcome<Memory> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping touches no memory that is in use.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        Err(io::Error::last_os_error().into())
    } else {
        Ok(Memory { start: start.cast(), bytes })
    }
}

fn map_file() -> Outcome<()> {
    let file = File::open("/data/file")?;
    let bytes = usize::try_from(file.metadata()?.len())?;
    let flags = libc::MAP_SHARED;
    // SAFETY: a new mapping touches no memory that is in use.
    let start = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    look(Memory { start: start.cast(), bytes });
    Ok(())
}

fn touch(memory: Memory) {
    for offset in (0..memory.bytes).step_by(PAGE) {
        // SAFETY: within a mapping that is writable.
        unsafe { memory.start.add(offset).write_volatile(1) };
    }
}

fn look(memory: Memory) {
    for offset in (0..memory.bytes).step_by(PAGE) {
        // SAFETY: within a mapping that is readable.
        let _byte: u8 = unsafe { memory.start.add(offset).read_volatile() };
    }
}

fn free(memory: Memory) {
    touch(memory);
    // SAFETY: nothing refers to the mapping.
    let _done: i32 = unsafe { libc::munmap(memory.start.cast(), memory.bytes) };
}

/// Forks so many children that do something and stay; returns when all have done it.
fn children(count: usize, action: impl Fn()) -> Outcome<()> {
    let (mut reader, writer) = io::pipe()?;
    for _ in 0..count {
        // SAFETY: the process has one thread.
        if unsafe { libc::fork() } == 0 {
            action();
            drop((&writer).write(&[1]));
            loop {
                thread::sleep(Duration::from_secs(1000));
            }
        }
    }
    Ok(reader.read_exact(&mut vec![0; count])?)
}

fn read_twice() -> Outcome<()> {
    let mut block = vec![0; MIB];
    for _ in 0..2 {
        let mut file = File::open("/data/file")?;
        while file.read(&mut block)? > 0 {}
    }
    Ok(())
}

fn write_file(path: &str, mib: usize) -> Outcome<()> {
    let block = vec![7; MIB];
    let mut file = File::create(path)?;
    (0..mib).try_for_each(|_| file.write_all(&block))?;
    Ok(())
}

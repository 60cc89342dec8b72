//! Reads a ring buffer ahead of what is given back to the kernel, so that records whose event is not written yet outlive
//! a killed agent. aya's own reader gives a record back as soon as it was looked at.
//!
//! Layout (`kernel/bpf/ringbuf.c`, Linux 5.8 to 7.2): a page with the consumer's position, a page with the producer's,
//! then the data, mapped twice in a row so that no record is cut. A record is a header of 8 bytes, of which the first 4
//! are its length and two flags, and its data, rounded up to 8. Positions only grow.

use std::{
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::load::LoadError;

/// The record is being written (`BPF_RINGBUF_BUSY_BIT`).
const BUSY: u32 = 1 << 31;
/// The record was given up (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARDED: u32 = 1 << 30;
const HEADER: usize = 8;

/// A mapping, undone on drop.
#[derive(Debug)]
struct Pages {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the pages belong to no thread; they are shared with the kernel and read as such.
unsafe impl Send for Pages {}
// SAFETY: as above; positions and headers are read and written by atomics only.
unsafe impl Sync for Pages {}

impl Pages {
    fn map(fd: BorrowedFd<'_>, bytes: usize, offset: usize, access: ProtFlags) -> rustix::io::Result<Self> {
        // SAFETY: a new mapping, at an address that the kernel chooses, that no Rust object lies in.
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, fd, offset as u64)? };
        NonNull::new(start.cast()).map(|start| Self { start, bytes }).ok_or(rustix::io::Errno::NOMEM)
    }

    /// The position that the pages begin with.
    fn position(&self) -> &AtomicUsize {
        // SAFETY: the first word of either metadata page is an `unsigned long` position, aligned to its page.
        unsafe { self.start.cast().as_ref() }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, made by `map`; references into it borrow `self`.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        if let Err(error) = unmapped {
            tracing::debug!(%error, "a ring buffer stays mapped");
        }
    }
}

/// Gives records back to the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Consumed(Arc<Pages>);

impl Consumed {
    /// All before this position may be written over.
    pub(crate) fn up_to(&self, position: usize) {
        // Pairs with the acquire of `__bpf_ringbuf_reserve`: what was read was read before.
        self.0.position().store(position, Ordering::Release);
    }

    /// The position given back last.
    pub(crate) fn position(&self) -> usize {
        self.0.position().load(Ordering::Acquire)
    }
}

/// A ring and the position up to which it was read.
#[derive(Debug)]
pub(crate) struct Ring {
    map: MapData,
    consumed: Consumed,
    /// The page with the producer's position, then the data, twice.
    produced: Pages,
    page_bytes: usize,
    data_bytes: usize,
    position: usize,
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}

impl Ring {
    /// Begins with the first record that was not given back.
    pub(crate) fn new(name: &'static str, map: MapData) -> Result<Self, LoadError> {
        let error = |reason: String| LoadError::Map { name, reason };
        let info = map.info().map_err(|cause| error(cause.to_string()))?;
        let data_bytes = info.max_entries() as usize;
        let page_bytes = rustix::param::page_size();
        if !data_bytes.is_power_of_two() || data_bytes < page_bytes {
            return Err(error(format!("{data_bytes} bytes are no ring")));
        }
        let pages = |bytes, offset, access| {
            Pages::map(map.fd().as_fd(), bytes, offset, access).map_err(|errno| error(errno.to_string()))
        };
        let first_page = pages(page_bytes, 0, ProtFlags::READ | ProtFlags::WRITE)?;
        let produced = pages(page_bytes + 2 * data_bytes, page_bytes, ProtFlags::READ)?;
        let consumed = Consumed(Arc::new(first_page));
        let position = consumed.position();
        Ok(Self { map, consumed, produced, page_bytes, data_bytes, position })
    }

    /// The end of what was read.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The end of what was written.
    pub(crate) fn end(&self) -> usize {
        self.produced.position().load(Ordering::Acquire)
    }

    /// What was read and not given back leaves less room than that.
    pub(crate) fn is_half_full(&self) -> bool {
        self.position.wrapping_sub(self.consumed.position()) > self.data_bytes / 2
    }

    /// The handle by which records are given back.
    pub(crate) fn consumed(&self) -> Consumed {
        self.consumed.clone()
    }

    /// Leaves out what lies before `position`. One that this ring cannot have had changes nothing.
    pub(crate) fn skip_to(&mut self, position: usize) {
        if position >= self.position && position <= self.end() {
            self.position = position;
        }
    }

    /// The next record as `read` sees it; `None` where there is none yet.
    pub(crate) fn next<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        while self.position != self.end() {
            let offset = self.page_bytes + (self.position & (self.data_bytes - 1));
            // SAFETY: `offset` is a multiple of 8 and lies in the first copy of the data, behind which is the second.
            let header: &AtomicU32 = unsafe { self.produced.start.add(offset).cast().as_ref() };
            // Pairs with the exchange of `bpf_ringbuf_commit`: a record that is not busy is whole.
            let header = header.load(Ordering::Acquire);
            if header & BUSY != 0 {
                return None;
            }
            let bytes = (header & !DISCARDED) as usize;
            if bytes > self.data_bytes - HEADER {
                // Only a kernel with another layout writes this; its records are not read, and so counted as lost.
                tracing::error!(bytes, "a ring buffer holds a record that is larger than itself");
                self.position = self.end();
                return None;
            }
            self.position = self.position.wrapping_add((HEADER + bytes).next_multiple_of(8));
            if header & DISCARDED == 0 {
                // SAFETY: the record lies within the two copies of the data, and the kernel does not write to it before
                // its place is given back, which needs a position behind it.
                let record =
                    unsafe { std::slice::from_raw_parts(self.produced.start.add(offset + HEADER).as_ptr(), bytes) };
                return Some(read(record));
            }
        }
        None
    }
}

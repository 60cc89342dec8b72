//! The journal: JSON lines in numbered files, bounded in size, for root only. Starts at once and opens its files with
//! the first event, so that a disk that is full or not there is tried again with each batch.
//!
//! A line counts as settled once `write(2)` took it: it survives the agent, however that ends. There is no `fsync` for
//! each line, so a crash of the kernel can cost the last seconds. It is written after standard output, for the next
//! agent does not tell again what is here.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags},
    io::Errno,
};

use super::{Delivery, Sink, loss, worker::Worker};
use crate::{
    clock,
    journal::{file_name, folder, numbers, open_folder},
};

const NAME: &str = "journal";
/// Events waiting for a slow disk: the kills of a heavy storm.
const QUEUE: usize = 8192;
/// Into how many files the journal is divided: the share of it that is deleted at once.
const FILES: u64 = 8;

/// Longest wait for an output that is to have a line before the journal: many times what one takes that works.
const PATIENCE_NS: u64 = 50_000_000;
/// Time between two looks at its progress.
const LOOK: Duration = Duration::from_micros(100);

/// The journal.
#[derive(Debug)]
pub(crate) struct Journal(Worker);

impl Journal {
    /// Starts the thread that writes. All files together have at most about this many bytes. A line is written after
    /// the outputs with this progress have it, unless that takes long.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(state_dir: &Path, bytes: u64, before: Vec<Arc<AtomicU64>>) -> anyhow::Result<Self> {
        let mut writer = Writer::new(folder(state_dir), bytes);
        let mut before = Before::new(before);
        Ok(Self(Worker::start(NAME, QUEUE, move |batch| {
            before.wait_for(batch);
            writer.write(batch)
        })?))
    }
}

impl Sink for Journal {
    fn name(&self) -> &'static str {
        NAME
    }

    fn take(&mut self, event: &Arc<Delivery>) -> bool {
        self.0.take(event)
    }

    fn take_failed(&mut self) -> u64 {
        self.0.take_failed()
    }

    fn is_busy(&self) -> bool {
        self.0.is_busy()
    }

    fn settled(&self) -> Option<u64> {
        Some(self.0.settled())
    }

    fn close(&mut self) {
        self.0.close();
    }

    fn finish(&mut self, until_ns: u64) -> bool {
        self.0.finish(until_ns)
    }
}

/// Outputs that have no memory of their own. A killed agent's successor does not tell again what the journal has.
#[derive(Debug)]
struct Before(Vec<(Arc<AtomicU64>, Option<u64>)>);

impl Before {
    fn new(outputs: Vec<Arc<AtomicU64>>) -> Self {
        Self(outputs.into_iter().map(|progress| (progress, None)).collect())
    }

    /// Waits until each has these, and for none that stands where it stood when it was last waited for in vain.
    fn wait_for(&mut self, batch: &[Arc<Delivery>]) {
        let Some(last) = batch.last() else { return };
        let until_ns = clock::boot_ns().saturating_add(PATIENCE_NS);
        for (progress, stuck_at) in &mut self.0 {
            loop {
                let reached = progress.load(Ordering::Acquire);
                if reached >= last.event.seq || *stuck_at == Some(reached) {
                    break;
                }
                if clock::boot_ns() >= until_ns {
                    *stuck_at = Some(reached);
                    break;
                }
                thread::sleep(LOOK);
            }
        }
    }
}

/// Writes, and notes what it could not.
#[derive(Debug)]
struct Writer {
    folder: PathBuf,
    file_bytes: u64,
    open: Option<Open>,
    /// The last attempt failed.
    fails: bool,
    /// Events that are missing since the last line.
    missing: u64,
}

impl Writer {
    fn new(folder: PathBuf, bytes: u64) -> Self {
        Self { folder, file_bytes: bytes / FILES, open: None, fails: false, missing: 0 }
    }

    /// Writes these; gives how many of them are lost.
    fn write(&mut self, batch: &[Arc<Delivery>]) -> u64 {
        let told = loss_line(self.missing, batch);
        let mut written = 0;
        let outcome = self.try_write(told.iter().chain(batch.iter().map(AsRef::as_ref)), &mut written);
        if told.is_some() && written > 0 {
            written -= 1;
            self.missing = 0;
        }
        let Err(error) = outcome else {
            if std::mem::take(&mut self.fails) {
                tracing::info!("the journal can be written again");
            }
            return 0;
        };
        if !self.fails {
            let folder = self.folder.display();
            tracing::error!(%folder, %error, "the journal cannot be written; events that are missing there are counted");
        }
        (self.open, self.fails) = (None, true);
        // The report of a loss here is written anew once this works again.
        let lost = batch.iter().skip(written).filter(|delivery| !loss::is_of(NAME, &delivery.event)).count() as u64;
        self.missing += lost;
        lost
    }

    fn try_write<'a>(&mut self, batch: impl Iterator<Item = &'a Delivery>, written: &mut usize) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) if open.is_linked() => open,
            _ => self.open.insert(Open::at(&self.folder, self.file_bytes)?),
        };
        let mut lines = String::new();
        for delivery in batch {
            let line = delivery.json();
            if !lines.is_empty() && !open.has_room(lines.len() + line.len() + 2) {
                open.append(&lines, written)?;
                lines.clear();
            }
            if !lines.is_empty() {
                lines.push('\n');
            }
            lines.push_str(line);
        }
        open.append(&lines, written)
    }
}

/// What says in the journal how many events are missing before this batch.
fn loss_line(missing: u64, batch: &[Arc<Delivery>]) -> Option<Delivery> {
    let boot_id = &batch.first()?.event.boot_id;
    (missing > 0).then(|| loss::here(NAME, missing, boot_id))
}

/// The folder and the file that is written, both locked against other agents.
#[derive(Debug)]
struct Open {
    folder: OwnedFd,
    file_bytes: u64,
    number: u64,
    file: File,
    /// Length of the file.
    bytes: u64,
}

impl Open {
    fn at(path: &Path, file_bytes: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let folder = open_folder(path)?;
        rustix::fs::fchmod(&folder, Mode::RWXU)?;
        if rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            tracing::warn!(folder = %path.display(), "another agent writes this journal; waiting for its end");
            rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
        }
        let number = numbers(&folder)?.last().copied().unwrap_or(1);
        let mut file = open_file(&folder, number)?;
        let bytes = remove_half_line(&mut file)?;
        Ok(Self { folder, file_bytes, number, file, bytes })
    }

    /// Nobody deleted the file.
    fn is_linked(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| stat.st_nlink > 0)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes as u64) <= self.file_bytes
    }

    /// Appends lines, without the end of the last, and counts those that are there to stay. Half a line does not stay.
    fn append(&mut self, lines: &str, written: &mut usize) -> io::Result<()> {
        if self.bytes > 0 && !self.has_room(lines.len() + 1) {
            self.begin_next_file()?;
        }
        let lines = format!("{lines}\n");
        let (taken, outcome) = write_all(&mut self.file, lines.as_bytes());
        let whole = lines.as_bytes()[..taken].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.bytes += whole as u64;
        *written += lines[..whole].lines().count();
        if outcome.is_err() {
            self.file.set_len(self.bytes)?;
        }
        outcome
    }

    fn begin_next_file(&mut self) -> io::Result<()> {
        self.delete_oldest()?;
        self.file = open_file(&self.folder, self.number + 1)?;
        self.number += 1;
        self.bytes = self.file.seek(SeekFrom::End(0))?;
        Ok(())
    }

    /// Makes room for one more file: no more than [`FILES`], and no more than so many bytes where it was more once.
    fn delete_oldest(&self) -> io::Result<()> {
        let (mut files, mut bytes) = (1, self.file_bytes);
        for number in numbers(&self.folder)?.into_iter().rev() {
            let name = file_name(number);
            let stat = rustix::fs::statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            files += 1;
            bytes += u64::try_from(stat.st_size).unwrap_or_default();
            if files > FILES || bytes > self.file_bytes.saturating_mul(FILES) {
                rustix::fs::unlinkat(&self.folder, &name, AtFlags::empty())?;
            }
        }
        Ok(())
    }
}

fn open_file(folder: &OwnedFd, number: u64) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = rustix::fs::openat(folder.as_fd(), file_name(number), flags, Mode::RUSR | Mode::WUSR)?;
    Ok(File::from(file))
}

/// As [`io::Write::write_all`], and tells how much was taken before an error.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut taken = 0;
    while taken < bytes.len() {
        match file.write(&bytes[taken..]) {
            Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
            Ok(more) => taken += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Ok(()))
}

/// Cuts off what an agent that was ended in the middle of a line left of it. Gives the length of the file.
fn remove_half_line(file: &mut File) -> io::Result<u64> {
    const BLOCK: u64 = 1 << 16;
    let length = file.seek(SeekFrom::End(0))?;
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        let mut block = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        (&mut *file).take(end - start).read_to_end(&mut block)?;
        if let Some(last) = block.iter().rposition(|byte| *byte == b'\n') {
            end = start + last as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        tracing::warn!(bytes = length - end, "the journal ended in the middle of a line, which was removed");
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests;

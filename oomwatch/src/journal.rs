//! The journal on disk as a reader sees it: numbered files of JSON lines in a folder. `sinks::journal` writes them.
//!
//! A file keeps its name for life; the one with the highest number is written, the lowest are deleted.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};

/// The longest line that is read in one piece, bytes; the agent's own have some thousand.
const LONGEST_LINE: u64 = 1 << 20;
const SUFFIX: &str = ".jsonl";

/// Where the journal of this state folder is.
pub(crate) fn folder(state_dir: &Path) -> PathBuf {
    state_dir.join("events")
}

/// Opens a folder.
pub(crate) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Name of a file.
pub(crate) fn file_name(number: u64) -> String {
    format!("{number:08}{SUFFIX}")
}

/// Numbers of the files in the folder, oldest first. What has another name is not the journal's.
pub(crate) fn numbers(folder: impl AsFd) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let number = entry.file_name().to_str().ok().and_then(|name| name.strip_suffix(SUFFIX)?.parse().ok());
        numbers.extend(number.filter(|number| file_name(*number).as_bytes() == entry.file_name().to_bytes()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Lines of the journal, oldest first, without their ends, while the agent may write on.
#[derive(Debug)]
pub(crate) struct Lines {
    folder: OwnedFd,
    next: VecDeque<u64>,
    current: Option<Current>,
    half_line: bool,
}

#[derive(Debug)]
struct Current {
    number: u64,
    file: BufReader<File>,
    /// Nothing will be added to it: there was a newer file before it was last read.
    complete: bool,
}

impl Lines {
    /// Of the journal in this folder.
    ///
    /// # Errors
    /// The folder cannot be opened or listed.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let folder = open_folder(folder)?;
        let next = numbers(&folder)?.into();
        Ok(Self { folder, next, current: None, half_line: false })
    }

    /// The last lines of the journal, about so many bytes of them or more.
    ///
    /// # Errors
    /// The folder cannot be opened or listed.
    pub(crate) fn tail(folder: &Path, bytes: u64) -> io::Result<Self> {
        let mut lines = Self::open(folder)?;
        let mut behind = 0_u64;
        let mut from = lines.next.len();
        while from > 0 && behind < bytes {
            from -= 1;
            // One that is gone was the oldest.
            let stat = statat(&lines.folder, file_name(lines.next[from]), AtFlags::SYMLINK_NOFOLLOW);
            behind = behind.saturating_add(stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or_default()));
        }
        lines.next.drain(..from);
        Ok(lines)
    }

    /// Whether the journal ended in the middle of a line when it was read to its end.
    pub(crate) fn ends_in_half_a_line(&self) -> bool {
        self.half_line
    }

    fn read(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let Some(current) = &mut self.current else {
                if !self.open_next()? {
                    return Ok(None);
                }
                continue;
            };
            let mut line = Vec::new();
            (&mut current.file).take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            if line.pop_if(|last| *last == b'\n').is_some() || line.len() as u64 == LONGEST_LINE {
                return Ok(Some(line));
            }
            if current.complete {
                self.current = None;
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            // What is here of a line that is being written is read again.
            current.file.seek_relative(-i64::try_from(line.len()).unwrap_or_default())?;
            let number = current.number;
            self.next = numbers(&self.folder)?.into_iter().filter(|other| *other > number).collect();
            if self.next.is_empty() {
                self.half_line = !line.is_empty();
                return Ok(None);
            }
            current.complete = true;
        }
    }

    /// Opens the next file; false where there is none. One that is gone was the oldest and was deleted.
    fn open_next(&mut self) -> io::Result<bool> {
        while let Some(number) = self.next.pop_front() {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            match openat(&self.folder, file_name(number), flags, Mode::empty()) {
                Ok(file) => {
                    let file = BufReader::with_capacity(1 << 16, File::from(file));
                    self.current = Some(Current { number, file, complete: false });
                    return Ok(true);
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }
}

/// Ends where the journal ends; may be asked again later.
impl Iterator for Lines {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn lines(lines: &mut Lines) -> Vec<String> {
        lines.map(|line| String::from_utf8(line.unwrap()).unwrap()).collect()
    }

    #[test]
    fn the_tail_is_the_newest_files_that_have_so_much() {
        let folder = tempfile::tempdir().unwrap();
        for number in 1..=4 {
            fs::write(folder.path().join(file_name(number)), format!("{number}\n")).unwrap();
        }
        let tail = |bytes| lines(&mut Lines::tail(folder.path(), bytes).unwrap());
        assert_eq!((tail(0), tail(1), tail(3)), (vec![], vec!["4".to_owned()], vec!["3".to_owned(), "4".to_owned()]));
        assert_eq!(tail(1 << 20).len(), 4);
    }

    #[test]
    fn files_are_read_by_number_and_foreign_ones_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("00000010.jsonl", "c\n"),
            ("00000009.jsonl", "a\nb\n"),
            ("9.jsonl", "x\n"),
            ("00000011.jsonl.bak", "x\n"),
            ("notes", "x\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(lines(&mut Lines::open(folder.path()).unwrap()), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_written_meanwhile_is_read_next_time_also_in_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |number| folder.path().join(file_name(number));
        fs::write(file(1), "a\nhal").unwrap();
        let mut reader = Lines::open(folder.path()).unwrap();
        assert_eq!(lines(&mut reader), ["a"]);
        assert!(reader.ends_in_half_a_line());
        fs::write(file(1), "a\nhalf\n").unwrap();
        fs::write(file(2), "b\n").unwrap();
        fs::write(file(3), "").unwrap();
        assert_eq!(lines(&mut reader), ["half", "b"]);
        assert!(!reader.ends_in_half_a_line());
    }

    #[test]
    fn a_half_line_in_an_old_file_is_given_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file_name(1)), "a\nhalf").unwrap();
        fs::write(folder.path().join(file_name(2)), "b\n").unwrap();
        assert_eq!(lines(&mut Lines::open(folder.path()).unwrap()), ["a", "half", "b"]);
    }

    #[test]
    fn a_file_without_an_end_comes_in_pieces() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(file_name(1)), vec![0; usize::try_from(LONGEST_LINE + 5).unwrap()]).unwrap();
        let mut reader = Lines::open(folder.path()).unwrap();
        assert_eq!(reader.next().unwrap().unwrap().len() as u64, LONGEST_LINE);
        assert!(reader.next().is_none());
        assert!(reader.ends_in_half_a_line());
    }
}

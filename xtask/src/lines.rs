//! Lines of a program's output, each with the moment it was read.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::{Duration, SystemTime},
};

use crate::interrupt::Interrupt;

/// One line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) read_at: SystemTime,
}

/// The output of a running program, read by a thread of its own.
#[derive(Debug)]
pub(crate) struct Lines(Receiver<Line>);

impl Lines {
    /// Begins to read.
    pub(crate) fn of(pipe: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for bytes in BufReader::new(pipe).split(b'\n') {
                let Ok(bytes) = bytes else { break };
                let read_at = SystemTime::now();
                let line = Line { text: String::from_utf8_lossy(&bytes).into_owned(), read_at };
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self(receiver)
    }

    /// The lines that are there already.
    pub(crate) fn read_so_far(&self) -> Vec<Line> {
        self.0.try_iter().collect()
    }

    /// The next line; `None` where the program closed its output.
    pub(crate) fn next(&self, interrupt: &Interrupt, what: &str, timeout: Duration) -> anyhow::Result<Option<Line>> {
        interrupt.wait_for(what, timeout, || match self.0.try_recv() {
            Ok(line) => Ok(Some(Some(line))),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Ok(Some(None)),
        })
    }
}

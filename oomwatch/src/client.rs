//! The other side of the agent's socket: asks it questions and follows its events. Blocking, for commands.
//!
//! The agent sends lines of JSON. One with a key `answer` is an answer, every other line an event.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::{clock, inventory::Row};

/// How long an answer may take: a loaded host, an agent in a storm of kills.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line that is read, bytes: an answer about some ten thousand workloads.
const LONGEST_LINE: u64 = 32 << 20;

/// Why the agent cannot be asked; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No such file.
    #[error("no agent is running: there is no socket {}; start `oomwatch run`, or name its socket with --socket", .0.display())]
    NoSocket(PathBuf),
    /// Nobody listens.
    #[error("no agent is running: it left its socket {} behind; start `oomwatch run`", .0.display())]
    NobodyListens(PathBuf),
    /// Not for this user.
    #[error("the agent's socket {} is for root only; run this as root, for example with sudo", .0.display())]
    NotAllowed(PathBuf),
    /// The agent said no.
    #[error("the agent does not answer this question: {0}; is it of another version than this command?")]
    Refused(String),
    /// The agent said something else than it should.
    #[error("the agent's answer cannot be understood: {0}; is it of another version than this command?")]
    Misunderstood(#[source] serde_json::Error),
    /// It took too long.
    #[error("the agent did not answer within {} seconds; look at its log", PATIENCE.as_secs())]
    TooSlow,
    /// The agent went away, or never had room.
    #[error("the agent closed the connection: it ended, or has too many clients already")]
    Closed,
    /// Anything else.
    #[error("cannot talk to the agent at {}: {source}", socket.display())]
    Io {
        /// Where.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// A connection to the running agent.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    socket: PathBuf,
}

/// What tells an answer from an event.
#[derive(Deserialize)]
struct Answer {
    answer: Option<String>,
    message: Option<String>,
}

impl Client {
    /// Connects. From then on the agent keeps events for this client, as many as it has room for.
    ///
    /// # Errors
    /// There is no agent, or it is not for this user.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ClientError::NoSocket(socket.to_owned()),
            io::ErrorKind::ConnectionRefused => ClientError::NobodyListens(socket.to_owned()),
            io::ErrorKind::PermissionDenied => ClientError::NotAllowed(socket.to_owned()),
            _ => ClientError::Io { socket: socket.to_owned(), source: error },
        })?;
        Ok(Self { stream: BufReader::new(stream), socket: socket.to_owned() })
    }

    /// Every workload under watch, nearest to its limit first.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn workloads(&mut self) -> Result<Vec<Row>, ClientError> {
        self.ask("workloads")
    }

    /// Asks a question of one word and gives its answer: the field of that name. Events in between are skipped.
    ///
    /// # Errors
    /// The agent does not know the question, does not answer in time, or went away.
    pub fn ask<T: DeserializeOwned>(&mut self, question: &str) -> Result<T, ClientError> {
        let until_ns = clock::boot_ns().saturating_add(clock::ns(PATIENCE));
        self.wait_at_most(Some(PATIENCE))?;
        self.stream.get_mut().write_all(format!("{question}\n").as_bytes()).map_err(|error| self.failed(error))?;
        let line = loop {
            let line = self.next_line()?.ok_or(ClientError::Closed)?;
            let Answer { answer, message } = serde_json::from_str(&line).map_err(ClientError::Misunderstood)?;
            match answer.as_deref() {
                Some("error") => return Err(ClientError::Refused(message.unwrap_or_default())),
                Some(answer) if answer == question => break line,
                // An event, or an answer to an earlier question.
                _ if clock::boot_ns() < until_ns => {}
                _ => return Err(ClientError::TooSlow),
            }
        };
        self.wait_at_most(None)?;
        let mut fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&line).map_err(ClientError::Misunderstood)?;
        let payload = fields.remove(question).unwrap_or_default();
        serde_json::from_value(payload).map_err(ClientError::Misunderstood)
    }

    /// The next line without its end, waited for; `None` where the agent went away. What is left of a line that the
    /// agent did not end is no line.
    ///
    /// # Errors
    /// The connection broke, or a line is too long or not UTF-8.
    pub fn next_line(&mut self) -> Result<Option<String>, ClientError> {
        let mut line = String::new();
        let read = (&mut self.stream).take(LONGEST_LINE).read_line(&mut line);
        match read {
            Ok(_) if line.ends_with('\n') => {
                line.pop();
                Ok(Some(line))
            }
            Ok(read) if read as u64 == LONGEST_LINE => {
                Err(self.failed(io::Error::new(io::ErrorKind::InvalidData, "a line without an end")))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn wait_at_most(&self, time: Option<Duration>) -> Result<(), ClientError> {
        let stream = self.stream.get_ref();
        stream.set_read_timeout(time).and_then(|()| stream.set_write_timeout(time)).map_err(|error| self.failed(error))
    }

    fn failed(&self, source: io::Error) -> ClientError {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::TooSlow,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ClientError::Closed,
            _ => ClientError::Io { socket: self.socket.clone(), source },
        }
    }
}

/// Lines as they come, until the agent goes away.
impl Iterator for Client {
    type Item = Result<String, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_line().transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, thread};

    use super::*;

    /// An agent that reads one line and then says this.
    fn agent(says: &'static str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut question).unwrap();
            stream.write_all(says.as_bytes()).unwrap();
        });
        (folder, socket)
    }

    fn ask(says: &'static str) -> Result<Vec<u32>, ClientError> {
        let (_folder, socket) = agent(says);
        Client::connect(&socket).unwrap().ask("numbers")
    }

    #[test]
    fn an_answer_is_found_between_events() {
        let says = "{\"event\":\"oom_kill\"}\n{\"answer\":\"others\",\"others\":[]}\n{\"answer\":\"numbers\",\"numbers\":[1,2]}\n{";
        assert_eq!(ask(says).unwrap(), [1, 2]);
    }

    #[test]
    fn an_agent_that_says_something_else_is_an_error() {
        assert!(
            matches!(ask("{\"answer\":\"error\",\"message\":\"no\"}\n"), Err(ClientError::Refused(text)) if text == "no")
        );
        assert!(matches!(ask("{\"answer\":\"numbers\"}\n"), Err(ClientError::Misunderstood(_))));
        assert!(matches!(ask("what\n"), Err(ClientError::Misunderstood(_))));
        assert!(matches!(ask("{\"answer\":\"numbers\",\"numbers\":[1,"), Err(ClientError::Closed)));
        assert!(matches!(ask(""), Err(ClientError::Closed)));
    }

    #[test]
    fn an_agent_that_is_not_there_is_an_error_that_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let error = Client::connect(&socket).unwrap_err();
        assert!(matches!(error, ClientError::NoSocket(_)), "{error}");
        assert!(error.to_string().contains("oomwatch run"), "{error}");
        drop(UnixListener::bind(&socket).unwrap());
        let error = Client::connect(&socket).unwrap_err();
        assert!(matches!(error, ClientError::NobodyListens(_)), "{error}");
    }

    #[test]
    fn lines_are_followed_to_the_end() {
        let (_folder, socket) = agent("a\nb\nhalf");
        let mut client = Client::connect(&socket).unwrap();
        client.stream.get_mut().write_all(b"\n").unwrap();
        let lines: Result<Vec<_>, _> = client.collect();
        assert_eq!(lines.unwrap(), ["a", "b"]);
    }
}

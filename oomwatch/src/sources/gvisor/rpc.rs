//! Asks a sentry once what its memory is, by its control socket (`--gvisor-rpc`): read-only, bounded in time and size.
//!
//! One JSON value each way, without a frame. The socket is full control of the sandbox, and the sentry is not trusted:
//! only `Usage.Collect` is ever sent, and of the answer only six numbers are kept. The interface is gVisor's own and
//! promises nothing; seen with 20221219 and 20240729.

use std::{
    io,
    os::{fd::AsRawFd as _, unix::net::UnixStream as StdStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::observation::MemoryBreakdown;

/// From the question to the answer.
const TIMEOUT: Duration = Duration::from_millis(200);
/// Longest answer read, bytes; the real one has 200.
const MAX_ANSWER: usize = 64 << 10;
const QUESTION: &[u8] = br#"{"method":"Usage.Collect","arg":{"Full":true}}"#;
/// Longest path that a socket address holds, bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Where a sentry listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    /// A socket in the file system (since early 2023).
    Path(PathBuf),
    /// The abstract name of a sandbox (before); it ends in a NUL, which belongs to it.
    Abstract(String),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RpcError {
    /// It did not come in time.
    #[error("no answer within {} ms", TIMEOUT.as_millis())]
    Timeout,
    /// The socket cannot be used.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The answer is none.
    #[error("the answer {0}")]
    Answer(&'static str),
}

/// Asks.
pub(super) async fn usage(address: Address) -> Result<MemoryBreakdown, RpcError> {
    tokio::time::timeout(TIMEOUT, ask(&address)).await.map_err(|_elapsed| RpcError::Timeout)?
}

async fn ask(address: &Address) -> Result<MemoryBreakdown, RpcError> {
    let mut stream = open(address)?;
    stream.write_all(QUESTION).await?;
    let mut answer = Vec::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(RpcError::Answer("ended too early"));
        }
        if answer.len() > MAX_ANSWER {
            return Err(RpcError::Answer("is too long"));
        }
        match parse(&answer) {
            None => {}
            Some(Ok(breakdown)) => return breakdown,
            Some(Err(error)) if error.is_eof() => {}
            Some(Err(_malformed)) => return Err(RpcError::Answer("is not what Usage.Collect says")),
        }
    }
}

/// Connects without waiting: a sentry that accepts nothing fills its backlog.
fn open(address: &Address) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match address {
        Address::Path(path) if path.as_os_str().len() > MAX_SOCKET_PATH => {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let short = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
            connect(&socket, &SocketAddrUnix::new(&short)?)?;
        }
        Address::Path(path) => connect(&socket, &SocketAddrUnix::new(path)?)?,
        Address::Abstract(sandbox_id) => {
            let name = format!("runsc-sandbox.{sandbox_id}\0");
            connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
        }
    }
    UnixStream::from_std(StdStream::from(socket))
}

#[derive(Deserialize)]
struct Answer {
    success: bool,
    result: Option<Usage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Usage {
    #[serde(default)]
    anonymous: u64,
    #[serde(default)]
    tmpfs: u64,
    #[serde(default)]
    mapped: u64,
    #[serde(default)]
    page_cache: u64,
    #[serde(default)]
    system: u64,
    total: u64,
}

/// The first value, `None` before it begins. The outer error is of the JSON: an end of file means that more is to come.
fn parse(bytes: &[u8]) -> Option<Result<Result<MemoryBreakdown, RpcError>, serde_json::Error>> {
    let answer = serde_json::Deserializer::from_slice(bytes).into_iter::<Answer>().next()?;
    Some(answer.map(|answer| match (answer.success, answer.result) {
        (true, Some(usage)) => Ok(MemoryBreakdown {
            anonymous_bytes: usage.anonymous,
            tmpfs_bytes: usage.tmpfs,
            mapped_bytes: usage.mapped,
            page_cache_bytes: usage.page_cache,
            system_bytes: usage.system,
            total_bytes: usage.total,
        }),
        _ => Err(RpcError::Answer("is a refusal")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20221219.
    const REAL: &str = r#"{"success":true,"err":"","result":{"Unknown":0,"System":0,"Anonymous":209948672,"PageCache":12,
        "Mapped":495616,"Tmpfs":7,"Ramdiskfs":0,"Total":210456576}}"#;

    #[test]
    fn a_real_answer_is_read() {
        let breakdown = parse(REAL.as_bytes()).unwrap().unwrap().unwrap();
        assert_eq!(breakdown.anonymous_bytes, 209_948_672);
        assert_eq!((breakdown.tmpfs_bytes, breakdown.mapped_bytes, breakdown.page_cache_bytes), (7, 495_616, 12));
        assert_eq!(breakdown.total_bytes, 210_456_576);
    }

    #[test]
    fn every_beginning_of_an_answer_asks_for_more() {
        for end in 1..REAL.len() {
            assert!(parse(&REAL.as_bytes()[..end]).unwrap().is_err_and(|error| error.is_eof()), "{end}");
        }
    }

    #[test]
    fn refusals_and_garbage_are_errors() {
        let refusal = r#"{"success":false,"err":"unknown method","result":null}"#;
        assert!(matches!(parse(refusal.as_bytes()), Some(Ok(Err(RpcError::Answer(_))))));
        for garbage in ["[]", "nonsense", r#"{"success":true,"result":{"Total":-1}}"#, "{\"success\":1}"] {
            assert!(parse(garbage.as_bytes()).unwrap().is_err_and(|error| !error.is_eof()), "{garbage}");
        }
    }

    #[tokio::test]
    async fn a_sentry_that_says_nothing_costs_its_time_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(usage(Address::Path(path)).await, Err(RpcError::Timeout)));
        assert!(matches!(usage(Address::Abstract("nobody-here".into())).await, Err(RpcError::Io(_))));
    }

    #[tokio::test]
    async fn an_endless_answer_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{}/socket", "long".repeat(40)));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let listener = {
            let folder = rustix::fs::open(path.parent().unwrap(), OFlags::PATH, Mode::empty()).unwrap();
            let near = format!("/proc/self/fd/{}/socket", folder.as_raw_fd());
            std::os::unix::net::UnixListener::bind(near).unwrap()
        };
        let writer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _cut = io::Write::write_all(&mut stream, &vec![b' '; 1 << 20]);
        });
        assert!(matches!(usage(Address::Path(path)).await, Err(RpcError::Answer("is too long"))));
        writer.join().unwrap();
    }
}

//! The socket with real clients.

#![expect(clippy::disallowed_methods, reason = "a test looks for itself")]

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixListener, net::UnixStream},
    path::PathBuf,
    thread,
};

use serde_json::Value;

use super::*;
use crate::{client::ClientError, event::Event, sinks::hub_tests::event};

/// A socket whose questions are answered with nothing.
struct Served {
    socket: Socket,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/oomwatch.sock");
    let (asker, mut requests) = mpsc::channel(4);
    thread::spawn(move || {
        while let Some(Request::Workloads(back)) = requests.blocking_recv() {
            back.send(Vec::new()).unwrap();
        }
    });
    Served { socket: Socket::start(&path, &asker).unwrap(), path, _folder: folder }
}

impl Served {
    /// A client that was taken in: it got an answer.
    fn client(&self) -> crate::client::Client {
        let mut client = crate::client::Client::connect(&self.path).unwrap();
        assert_eq!(client.workloads().unwrap(), []);
        client
    }

    fn send(&mut self, numbers: std::ops::RangeInclusive<u64>) {
        for seq in numbers {
            assert!(self.socket.take(&Arc::new(Delivery::new(event(seq)))));
        }
    }

    fn end(&mut self) -> bool {
        self.socket.close();
        self.socket.finish(clock::boot_ns() + 60_000_000_000)
    }
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

#[test]
fn every_client_gets_every_event_from_its_first_on_and_the_end() {
    let mut served = served();
    let first = served.client();
    served.send(1..=2);
    let second = served.client();
    served.send(3..=500);
    assert!(served.end());
    let numbers = |client: crate::client::Client| -> Vec<u64> {
        client.map(|line| json(&line.unwrap())["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(numbers(first), (1..=500).collect::<Vec<_>>());
    assert_eq!(numbers(second), (3..=500).collect::<Vec<_>>());
    assert!(!served.path.exists(), "the file goes with the agent");
}

#[test]
fn a_client_that_sleeps_loses_the_oldest_and_is_told_how_many_while_others_lose_nothing() {
    let mut served = served();
    let sleeping = served.client();
    let mut awake = served.client();
    let total = 20 * KEPT as u64;
    for seq in 1..=total {
        served.send(seq..=seq);
        assert_eq!(json(&awake.next_line().unwrap().unwrap())["seq"], seq);
    }
    // The one that slept wakes while the agent goes on.
    let newest = total + 1;
    let waker = thread::spawn(move || {
        let (mut expected, mut missing) = (1, 0);
        for line in sleeping {
            let event = json(&line.unwrap());
            if event["event"] == "loss" {
                assert_eq!((&event["sink"], &event["stage"]), (&"socket".into(), &"sink".into()));
                assert!(event.get("seq").is_none() && event["boot_id"].is_string());
                let told = event["lost"].as_u64().unwrap();
                (expected, missing) = (expected + told, missing + told);
            } else {
                assert_eq!(event["seq"], expected, "a gap that nobody told of");
                expected += 1;
            }
        }
        (expected - 1, missing)
    });
    served.send(newest..=newest);
    assert!(served.end());
    let (seen, lost) = waker.join().unwrap();
    assert_eq!(seen, newest);
    assert!(lost > 0 && lost < total, "{lost}");
}

#[test]
fn questions_nobody_knows_and_endless_ones_are_told() {
    let served = served();
    let mut client = served.client();
    assert!(matches!(client.ask::<Value>("nonsense"), Err(ClientError::Refused(_))));
    assert_eq!(client.workloads().unwrap(), [], "and the next one is answered");
    let mut stream = UnixStream::connect(&served.path).unwrap();
    stream.write_all(&[b'x'; 256]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(json(&answer)["answer"], "error");
}

#[test]
fn a_question_without_more_to_say_is_answered_too() {
    let mut served = served();
    let mut stream = UnixStream::connect(&served.path).unwrap();
    stream.write_all(b"workloads\n\n\xff\xfe\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut lines = io::BufRead::lines(io::BufReader::new(stream)).map(|line| json(&line.unwrap()));
    assert_eq!(lines.next().unwrap(), serde_json::json!({"answer": "workloads", "workloads": []}));
    assert_eq!(lines.next().unwrap()["answer"], "error");
    served.send(7..=7);
    assert_eq!(lines.next().unwrap()["seq"], 7, "it still listens");
}

#[test]
fn clients_that_went_make_room_and_too_many_are_turned_away() {
    let served = served();
    for _ in 0..CLIENTS + 10 {
        drop(served.client());
    }
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = crate::client::Client::connect(&served.path).unwrap();
        match client.workloads() {
            Ok(_) => clients.push(client),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ClientError::Refused(_) | ClientError::Closed), "{refused}");
    assert!(clients.len() <= CLIENTS, "{}", clients.len());
}

#[test]
fn the_file_is_for_root_only_and_a_dead_ones_is_replaced() {
    let mut served = served();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&served.path), 0o600);
    assert_eq!(mode(served.path.parent().unwrap()), 0o755);
    let (asker, _requests) = mpsc::channel(1);
    let error = Socket::start(&served.path, &asker).unwrap_err();
    assert!(error.to_string().contains("another agent"), "{error}");
    assert!(served.end());
    drop(UnixListener::bind(&served.path).unwrap());
    assert!(served.path.exists(), "left behind");
    Socket::start(&served.path, &asker).unwrap();
}

#[test]
fn a_file_that_is_no_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    fs::write(&path, "precious").unwrap();
    let (asker, _requests) = mpsc::channel(1);
    assert!(Socket::start(&path, &asker).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_client_that_never_reads_does_not_keep_the_agent() {
    let mut served = served();
    let _sleeping = served.client();
    // All that is kept must be more than a socket has room for.
    for seq in 1..=KEPT as u64 {
        let large = Event { boot_id: "x".repeat(4096).into(), ..event(seq) };
        assert!(served.socket.take(&Arc::new(Delivery::new(large))));
    }
    served.socket.close();
    assert!(!served.socket.finish(clock::boot_ns() + 50_000_000), "there is something left for it");
    assert!(served.socket.finish(clock::boot_ns() + 60_000_000_000), "but it is left behind");
}

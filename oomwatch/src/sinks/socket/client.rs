//! One client of the socket: events to it as they come, answers in between.

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{
        broadcast::{
            Receiver,
            error::{RecvError, TryRecvError},
        },
        mpsc, oneshot,
    },
};

use super::NAME;
use crate::{
    pipeline::Request,
    sinks::{Delivery, loss},
};

/// The longest question, bytes.
const LONGEST_QUESTION: usize = 256;
/// Events are gathered up to so many bytes for one write, so that a burst costs few system calls.
const GATHER_BYTES: usize = 1 << 16;
/// How often a client that will not ask any more is looked after.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// A client.
pub(super) struct Client {
    events: Receiver<Arc<Delivery>>,
    questions: Questions,
    write: OwnedWriteHalf,
    asker: mpsc::Sender<Request>,
    boot_id: Arc<str>,
}

impl Client {
    pub(super) fn new(
        stream: UnixStream,
        events: Receiver<Arc<Delivery>>,
        asker: mpsc::Sender<Request>,
        boot_id: Arc<str>,
    ) -> Self {
        let (read, write) = stream.into_split();
        Self { events, questions: Questions { read, pending: Vec::new() }, write, asker, boot_id }
    }

    /// Until the client goes or the agent ends.
    pub(super) async fn serve(mut self) {
        // An error says that the client went.
        while let Ok(true) = self.turn().await {}
    }

    /// Does one thing; false after the last.
    async fn turn(&mut self) -> io::Result<bool> {
        tokio::select! {
            event = self.events.recv() => self.tell(event).await,
            question = self.questions.next(&self.write) => match question? {
                Question::Asked(question) => {
                    let answer = answer(&question, &self.asker).await;
                    self.write.write_all(answer.as_bytes()).await?;
                    Ok(true)
                }
                Question::TooLong => {
                    let message = format!("a question has at most {LONGEST_QUESTION} bytes");
                    self.write.write_all(error(&message).as_bytes()).await?;
                    Ok(false)
                }
                Question::Gone => Ok(false),
            },
        }
    }

    /// Writes what there is for this client.
    async fn tell(&mut self, first: Result<Arc<Delivery>, RecvError>) -> io::Result<bool> {
        let mut lines = String::new();
        let mut next = first;
        let goes_on = loop {
            match next {
                Ok(delivery) => push_line(&mut lines, delivery.json()),
                Err(RecvError::Lagged(lost)) => push_line(&mut lines, loss::here(NAME, lost, &self.boot_id).json()),
                Err(RecvError::Closed) => break false,
            }
            if lines.len() >= GATHER_BYTES {
                break true;
            }
            next = match self.events.try_recv() {
                Ok(delivery) => Ok(delivery),
                Err(TryRecvError::Lagged(lost)) => Err(RecvError::Lagged(lost)),
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Closed) => break false,
            };
        };
        self.write.write_all(lines.as_bytes()).await?;
        Ok(goes_on)
    }
}

/// What a client asks.
struct Questions {
    read: OwnedReadHalf,
    pending: Vec<u8>,
}

/// A step of that.
enum Question {
    Asked(String),
    TooLong,
    Gone,
}

impl Questions {
    /// May be given up at any time: nothing that was read is lost.
    async fn next(&mut self, write: &OwnedWriteHalf) -> io::Result<Question> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let question = String::from_utf8_lossy(&line).trim().to_owned();
                if question.is_empty() {
                    continue;
                }
                return Ok(Question::Asked(question));
            }
            if self.pending.len() >= LONGEST_QUESTION {
                return Ok(Question::TooLong);
            }
            let mut chunk = [0; LONGEST_QUESTION];
            match self.read.read(&mut chunk).await? {
                0 => {
                    gone(write).await?;
                    return Ok(Question::Gone);
                }
                read => self.pending.extend_from_slice(&chunk[..read]),
            }
        }
    }
}

/// Waits until a client that said all it had to say does not listen either.
async fn gone(write: &OwnedWriteHalf) -> io::Result<()> {
    while !write.ready(Interest::WRITABLE).await?.is_write_closed() {
        tokio::time::sleep(LOOK_AFTER).await;
    }
    Ok(())
}

/// The line that answers a question; each has one here.
async fn answer(question: &str, asker: &mpsc::Sender<Request>) -> String {
    match question {
        "workloads" => ask(question, asker, Request::Workloads).await,
        "history" => ask(question, asker, Request::History).await,
        _ => error(&format!("there is no such question: {question}")),
    }
}

/// Asks the pipeline.
async fn ask<T: Serialize>(
    question: &str,
    asker: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> String {
    let (back, answered) = oneshot::channel();
    if asker.send(request(back)).await.is_err() {
        return error("the agent is ending");
    }
    match answered.await.map(|payload| serde_json::to_value(payload)) {
        Ok(Ok(payload)) => line(&serde_json::json!({ "answer": question, question: payload })),
        Ok(Err(failure)) => error(&format!("the answer cannot be written: {failure}")),
        Err(_ended) => error("the agent is ending"),
    }
}

fn error(message: &str) -> String {
    line(&serde_json::json!({ "answer": "error", "message": message }))
}

fn line(json: &serde_json::Value) -> String {
    format!("{json}\n")
}

fn push_line(lines: &mut String, line: &str) {
    lines.push_str(line);
    lines.push('\n');
}

/// Tells a client that there is no room for it, if it can be told at once.
pub(super) fn turn_away(stream: UnixStream, clients: usize) {
    let message = error(&format!("the agent has {clients} clients already"));
    // A new socket has room for a line; where it has not, the end of the connection says enough.
    let _unheard: io::Result<()> = stream.into_std().and_then(|mut stream| stream.write_all(message.as_bytes()));
}

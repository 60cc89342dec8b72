//! The hub: every sink gets every event, each loses alone, and losses are told.

use std::{
    sync::{Arc, Mutex, mpsc::channel},
    time::SystemTime,
};

use super::{worker::Worker, *};
use crate::event::{AgentStopped, Body, Confidence, Loss, LossStage, SCHEMA, Severity, Source};

pub(super) fn event(seq: u64) -> Event {
    let stopped = AgentStopped {
        version: "0".into(),
        tier: String::new(),
        kernel: String::new(),
        cgroup_version: None,
        degraded: vec![],
    };
    Event {
        schema: SCHEMA,
        seq,
        timestamp: SystemTime::UNIX_EPOCH,
        boot_id: "boot".into(),
        body: Body::AgentStopped(stopped),
        severity: Severity::Info,
        source: Source::Agent,
        confidence: Confidence::Exact,
        incident_id: None,
        workload: None,
    }
}

/// Keeps what it took while it has room.
#[derive(Debug, Clone, Default)]
struct Room(Arc<Mutex<(usize, Vec<u64>)>>);

impl Room {
    fn with(room: usize) -> Self {
        Self(Arc::new(Mutex::new((room, Vec::new()))))
    }

    fn make(&self, room: usize) {
        self.0.lock().unwrap().0 = room;
    }

    fn taken(&self) -> Vec<u64> {
        self.0.lock().unwrap().1.clone()
    }
}

impl Sink for Room {
    fn name(&self) -> &'static str {
        "room"
    }

    fn take(&mut self, event: &Arc<Delivery>) -> bool {
        let mut state = self.0.lock().unwrap();
        let has_room = state.0 > 0;
        if has_room {
            state.0 -= 1;
            state.1.push(event.event.seq);
        }
        has_room
    }

    fn settled(&self) -> Option<u64> {
        self.taken().last().copied()
    }

    fn close(&mut self) {}

    fn finish(&mut self, _until_ns: u64) -> bool {
        true
    }
}

#[test]
fn a_full_sink_costs_the_others_nothing() {
    let (full, free) = (Room::with(1), Room::with(9));
    let mut sinks = Sinks::new(vec![Box::new(full.clone()), Box::new(free.clone())]);
    for seq in 1..=4 {
        sinks.deliver(event(seq));
    }
    assert_eq!(full.taken(), [1]);
    assert_eq!(free.taken(), [1, 2, 3, 4]);
    assert_eq!(sinks.settled(), Some(4), "nobody waits for a full one");
}

#[test]
fn losses_are_told_once_the_sink_has_room_again() {
    let room = Room::with(0);
    let mut sinks = Sinks::new(vec![Box::new(room.clone())]);
    assert_eq!(sinks.take_losses(TELL_AGAIN_NS), []);
    (1..=3).for_each(|seq| sinks.deliver(event(seq)));
    assert_eq!(sinks.take_losses(TELL_AGAIN_NS), [("room", 3)], "the first loss is told at once");
    (4..=5).for_each(|seq| sinks.deliver(event(seq)));
    assert_eq!(sinks.take_losses(TELL_AGAIN_NS + 1), [], "not again and again");
    room.make(9);
    sinks.deliver(event(6));
    assert_eq!(sinks.take_losses(TELL_AGAIN_NS + 2), []);
    assert_eq!(sinks.take_losses(TELL_AGAIN_NS + LOOK_AGAIN_NS), [("room", 2)]);
    assert_eq!(sinks.take_losses(9 * TELL_AGAIN_NS), []);
    assert_eq!(sinks.next_deadline(), None);
}

#[test]
fn a_sink_that_stays_full_is_told_of_now_and_then() {
    let mut sinks = Sinks::new(vec![Box::new(Room::with(0))]);
    sinks.deliver(event(1));
    assert_eq!(sinks.take_losses(TELL_AGAIN_NS), [("room", 1)]);
    sinks.deliver(event(2));
    assert_eq!(sinks.next_deadline(), Some(2 * TELL_AGAIN_NS));
    assert_eq!(sinks.take_losses(2 * TELL_AGAIN_NS), [("room", 1)]);
}

#[test]
fn a_worker_delivers_everything_before_it_ends_and_counts_what_it_could_not() {
    let (sender, receiver) = channel();
    let mut worker = Worker::start("test", 64, move |batch| {
        for delivery in batch {
            sender.send(delivery.event.seq).unwrap();
        }
        batch.iter().filter(|delivery| delivery.event.seq == 3).count() as u64
    })
    .unwrap();
    for seq in 1..=50 {
        assert!(worker.take(&Arc::new(Delivery::new(event(seq)))));
    }
    worker.close();
    assert!(worker.finish(u64::MAX));
    assert_eq!(receiver.iter().collect::<Vec<_>>(), (1..=50).collect::<Vec<_>>());
    assert_eq!(worker.take_failed(), 1);
    assert_eq!(worker.settled(), 50);
}

#[test]
fn a_worker_that_hangs_is_waited_for_no_longer_than_asked() {
    let (release, gate) = channel::<()>();
    let mut worker = Worker::start("test", 1, move |_batch| {
        let _released: Result<(), _> = gate.recv();
        0
    })
    .unwrap();
    let delivery = Arc::new(Delivery::new(event(1)));
    // One is in its hands, one waits, the next has no room.
    while worker.take(&delivery) {}
    worker.close();
    assert!(!worker.finish(0));
    drop(release);
    assert!(worker.finish(u64::MAX));
}

/// What the pipeline tells of losses, handed to all sinks as it does: how often in so many rounds.
fn told_in(sinks: &mut Sinks, rounds: u64) -> u64 {
    let mut told = 0;
    for round in 1..=rounds {
        for (sink, lost) in sinks.take_losses(round * TELL_AGAIN_NS) {
            told += 1;
            let loss = Loss { stage: LossStage::Sink, lost, records: None, sink: Some(sink.into()) };
            sinks.deliver(Event { body: Body::Loss(loss), ..event(100 + round) });
        }
    }
    told
}

#[test]
fn the_news_of_a_loss_is_no_loss_of_the_sink_that_it_is_about() {
    let mut sinks = Sinks::new(vec![Box::new(Room::with(0)), Box::new(Room::with(99))]);
    sinks.deliver(event(1));
    assert_eq!(told_in(&mut sinks, 20), 1, "one event was lost");
    assert_eq!(sinks.next_deadline(), None);
}

#[test]
fn the_news_of_a_loss_is_a_loss_of_another_sink_that_is_full() {
    let lost = Loss { stage: LossStage::Sink, lost: 1, records: None, sink: Some("other".into()) };
    let mut sinks = Sinks::new(vec![Box::new(Room::with(0))]);
    sinks.deliver(Event { body: Body::Loss(lost), ..event(1) });
    assert_eq!(sinks.take_losses(TELL_AGAIN_NS), [("room", 1)]);
}

/// A worker that fails at everything.
#[derive(Debug)]
struct Failing(Worker);

impl Sink for Failing {
    fn name(&self) -> &'static str {
        "failing"
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

    fn close(&mut self) {
        self.0.close();
    }

    fn finish(&mut self, until_ns: u64) -> bool {
        self.0.finish(until_ns)
    }
}

#[test]
fn what_a_worker_could_not_deliver_is_told_though_no_event_follows() {
    let (release, gate) = channel::<()>();
    let worker = Worker::start("test", 64, move |batch| {
        let _released: Result<(), _> = gate.recv();
        batch.len() as u64
    });
    let mut sinks = Sinks::new(vec![Box::new(Failing(worker.unwrap()))]);
    sinks.deliver(event(1));
    assert_eq!(sinks.take_losses(TELL_AGAIN_NS), []);
    let look_ns = sinks.next_deadline().unwrap();
    drop(release);
    while sinks.is_any_busy() {
        std::thread::yield_now();
    }
    assert_eq!(sinks.take_losses(look_ns.max(TELL_AGAIN_NS)), [("failing", 1)]);
}

#[test]
fn a_sink_that_loses_again_and_again_is_told_of_less_and_less_often() {
    let room = Room::with(0);
    let mut sinks = Sinks::new(vec![Box::new(room.clone())]);
    let mut told = Vec::new();
    for second in 1..60 {
        room.make(0);
        sinks.deliver(event(2 * second));
        room.make(1);
        sinks.deliver(event(2 * second + 1));
        told.extend(sinks.take_losses(100 * TELL_AGAIN_NS + second * 1_000_000_000).iter().map(|_| second));
    }
    assert_eq!(told, [1, 2, 4, 8, 16, 26, 36, 46, 56]);
}

//! oomwatch and its peers beside each other: the same kills, seen by each, compared with what was done and with the
//! kernel's own tracepoint. One line for each, for `cargo xtask peers`: `peers|NAME|KILLS SEEN|OF|RIGHT CONTAINER|RIGHT
//! LIMIT|TOLD THAT WAS NONE|P50 MS|P99 MS|P50 MS OF OOMWATCH FOR THE SAME KILLS`, and one for each scene: `scene|NAME|SCENE|KILLS SEEN|OF`.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by a panic, its helpers too")]

mod clock;
mod kmsg;
mod polled;
mod scenes;
mod score;
mod tools;

use std::{
    io::{self, Write as _},
    thread::sleep,
    time::Duration,
};

use clock::Clock;
use score::Score;
use support::{in_guest, require, say_skipped};

/// What somebody said: a kill, as far as it was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) pid: Option<u32>,
    pub(crate) cgroup: Option<String>,
    pub(crate) limit: Option<String>,
    /// When it was there to be read, by the monotonic clock.
    pub(crate) at: Duration,
}

/// Somebody who watches.
pub(crate) trait Watcher {
    fn name(&self) -> &'static str;
    /// What it said until now; it need not go on afterwards.
    fn finish(&mut self) -> Vec<Seen>;
}

/// The poller looks every half a second, and all share one processor.
const UNTIL_ALL_IS_SEEN: Duration = Duration::from_secs(5);

#[test]
fn each_sees_the_same_kills() {
    require!(Agent);
    if !in_guest() {
        return say_skipped("the peers are in an archive of their own: `cargo xtask peers`");
    }
    let clock = Clock::start();
    let mut watchers: Vec<Box<dyn Watcher>> = vec![
        Box::new(tools::oomwatch()),
        Box::new(tools::bpftrace()),
        Box::new(tools::libbpf_tools()),
        Box::new(kmsg::Kmsg::start()),
        Box::new(polled::Polled::start()),
    ];
    // Afterwards nobody is busy with getting ready.
    sleep(UNTIL_ALL_IS_SEEN);
    // An emulator translates what runs for the first time, which takes as long as ten kills.
    scenes::rehearsal();
    sleep(UNTIL_ALL_IS_SEEN);
    let begin = clock::now();
    let scenes = scenes::all();
    sleep(UNTIL_ALL_IS_SEEN);
    let moments = clock.moments();
    let mut out = io::stdout();
    // It is the first.
    let mut of_oomwatch: Option<Score> = None;
    for watcher in &mut watchers {
        let mut seen = watcher.finish();
        seen.retain(|said| said.at >= begin);
        let score = Score::of(&scenes, &moments, &seen);
        let same = of_oomwatch.as_ref().unwrap_or(&score).median_of_those_of(&score);
        writeln!(out, "peers|{}|{score}|{same}", watcher.name()).expect("write a score");
        for (scene, told, made) in &score.scenes {
            writeln!(out, "scene|{}|{scene}|{told}|{made}", watcher.name()).expect("write a score");
        }
        if watcher.name() == "oomwatch" {
            assert_eq!(score.seen, score.made, "oomwatch itself misses none");
            of_oomwatch = Some(score);
        }
    }
}

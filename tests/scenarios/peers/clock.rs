//! When each kill happened, by the kernel: its tracepoint, in a buffer of the test's own.

use std::{collections::HashMap, fs, path::Path, time::Duration};

const INSTANCE: &str = "/sys/kernel/tracing/instances/oomwatch-peers";

/// Now, by the clock that the kernel stamps with, too.
pub(crate) fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// The recording; its buffer goes on drop.
#[derive(Debug)]
pub(crate) struct Clock(&'static Path);

impl Clock {
    pub(crate) fn start() -> Self {
        fs::create_dir(INSTANCE).expect("make a buffer for traces");
        let clock = Self(Path::new(INSTANCE));
        fs::write(clock.0.join("trace_clock"), "mono").expect("choose the clock");
        fs::write(clock.0.join("events/oom/mark_victim/enable"), "1").expect("trace victims");
        clock
    }

    /// Moments by victims; ends the recording.
    pub(crate) fn moments(self) -> HashMap<u32, Duration> {
        let text = fs::read_to_string(self.0.join("trace")).expect("read the trace");
        text.lines().filter(|line| !line.starts_with('#')).filter_map(moment).collect()
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        drop(fs::write(self.0.join("events/oom/mark_victim/enable"), "0"));
        let removed = fs::remove_dir(self.0);
        assert!(removed.is_ok() || std::thread::panicking(), "{INSTANCE} is left behind: {removed:?}");
    }
}

/// `hog-93 [000] d..1. 12.345678: mark_victim: pid=93 comm=...`
fn moment(line: &str) -> Option<(u32, Duration)> {
    let (before, after) = line.split_once(": mark_victim: ")?;
    let pid = after.split_once("pid=")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let seconds: f64 = before.rsplit(' ').next()?.parse().ok()?;
    Some((pid, Duration::from_secs_f64(seconds)))
}

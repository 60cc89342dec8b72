//! What holds for every run of the agent, whatever happened in it.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use crate::Event;

/// All that an agent wrote in one run.
#[derive(Debug)]
pub(crate) struct EventStream(Vec<Event>);

impl EventStream {
    pub(crate) fn parse(stdout: &str) -> Self {
        Self(stdout.lines().map(Event::parse).collect())
    }

    /// The events, numbered without a gap from start to stop, with no loss among them.
    pub(crate) fn checked(self) -> Vec<Event> {
        self.checked_but_for_losses_of(None)
    }

    /// The same, where a sink may lose.
    pub(crate) fn checked_but_for_losses_of(self, sink: Option<&str>) -> Vec<Event> {
        let events = self.0;
        let is_allowed = |event: &Event| event.kind() == "loss" && sink.is_some() && event.text("/sink") == sink;
        assert_eq!(events.first().map(Event::kind), Some("agent_started"));
        assert_eq!(events.iter().rfind(|event| !is_allowed(event)).map(Event::kind), Some("agent_stopped"));
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot id");
        let now = SystemTime::now() + Duration::from_secs(1);
        for (event, seq) in events.iter().zip(1..) {
            assert_eq!(event.number("/seq"), Some(seq), "numbers have a gap before {event}");
            assert_eq!(event.number("/schema"), Some(1), "{event}");
            assert_eq!(event.text("/boot_id"), Some(boot_id.trim()), "{event}");
            assert!(event.time() < now, "in the future: {event}");
            assert!(event.text("/severity").is_some(), "{event}");
            assert!(event.text("/source").is_some(), "{event}");
            assert!(event.text("/confidence").is_some(), "{event}");
            assert!(event.kind() != "loss" || is_allowed(event), "{event}");
        }
        let once = |kind| events.iter().filter(|event| event.kind() == kind).count();
        assert_eq!((once("agent_started"), once("agent_stopped")), (1, 1));
        events
    }
}

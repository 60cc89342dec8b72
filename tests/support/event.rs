//! Lines of the agent's JSON output.

use std::time::SystemTime;

use serde_json::Value;

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event(Value);

impl Event {
    /// Reads a line; fails where it is not one JSON object.
    pub(crate) fn parse(line: &str) -> Self {
        match serde_json::from_str(line) {
            Ok(value @ Value::Object(_)) => Self(value),
            Ok(other) => panic!("a line on standard output is not an object: {other}"),
            Err(error) => panic!("a line on standard output is not JSON ({error}): {line:?}"),
        }
    }

    /// What happened.
    pub fn kind(&self) -> &str {
        self.text("/event").unwrap_or_else(|| panic!("no field `event` in {self}"))
    }

    /// A field by its JSON pointer; `None` where it is absent.
    pub fn field(&self, pointer: &str) -> Option<&Value> {
        self.0.pointer(pointer)
    }

    /// A text.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.field(pointer).map(|value| value.as_str().unwrap_or_else(|| panic!("{pointer} is no text in {self}")))
    }

    /// A whole number that is not negative.
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.field(pointer).map(|value| value.as_u64().unwrap_or_else(|| panic!("{pointer} is no number in {self}")))
    }

    /// A number of seconds.
    pub fn seconds(&self, pointer: &str) -> Option<f64> {
        self.field(pointer).map(|value| value.as_f64().unwrap_or_else(|| panic!("{pointer} is no number in {self}")))
    }

    /// Yes or no.
    pub fn flag(&self, pointer: &str) -> Option<bool> {
        self.field(pointer).map(|value| value.as_bool().unwrap_or_else(|| panic!("{pointer} is no flag in {self}")))
    }

    /// When it happened.
    pub fn time(&self) -> SystemTime {
        let text = self.text("/timestamp").unwrap_or_else(|| panic!("no timestamp in {self}"));
        assert_eq!(text.len(), "2026-11-22T20:00:00.123456789Z".len(), "not in nanoseconds and UTC: {text}");
        humantime::parse_rfc3339(text).unwrap_or_else(|error| panic!("timestamp {text}: {error}"))
    }

    /// Its timestamp as written.
    pub fn time_text(&self) -> &str {
        self.text("/timestamp").unwrap_or("no timestamp")
    }

    /// Whether this is the kill of a process, by its id on the host.
    pub fn is_kill_of(&self, pid: u32) -> bool {
        self.kind() == "oom_kill" && self.number("/victim/pid") == Some(u64::from(pid))
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Selections from many events.
pub trait Events {
    /// Those of one kind.
    fn of_kind(&self, kind: &str) -> Vec<&Event>;

    /// Kills of processes whose own cgroup has this path or lies below it. Others on this machine may run out of
    /// memory at the same time.
    fn kills_below(&self, path: &std::path::Path) -> Vec<&Event>;

    /// The one kill there.
    fn only_kill_below(&self, path: &std::path::Path) -> &Event;

    /// Limits hit without a kill, of the cgroup with this id.
    fn without_kill_in(&self, cgroup_id: u64) -> Vec<&Event>;
}

impl Events for [Event] {
    fn of_kind(&self, kind: &str) -> Vec<&Event> {
        self.iter().filter(|event| event.kind() == kind).collect()
    }

    fn kills_below(&self, path: &std::path::Path) -> Vec<&Event> {
        let below = |event: &&Event| {
            let raw = event.text("/task_memcg/path").map(unescaped).unwrap_or_default();
            std::path::Path::new(&*String::from_utf8_lossy(&raw)).starts_with(path)
        };
        self.of_kind("oom_kill").into_iter().filter(below).collect()
    }

    fn only_kill_below(&self, path: &std::path::Path) -> &Event {
        let kills = self.kills_below(path);
        assert_eq!(kills.len(), 1, "one process was killed below {}, reported: {kills:#?}", path.display());
        kills[0]
    }

    fn without_kill_in(&self, cgroup_id: u64) -> Vec<&Event> {
        let there = |event: &&Event| event.number("/oom_memcg/id") == Some(cgroup_id);
        self.of_kind("oom").into_iter().filter(there).collect()
    }
}

/// The bytes behind a text in which `\xNN` stands for a byte that is not shown.
pub fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if let Some(hex) = rest.strip_prefix("\\x") {
            let (digits, after) = hex.split_at_checked(2).unwrap_or_else(|| panic!("a cut escape in {text}"));
            bytes.push(u8::from_str_radix(digits, 16).unwrap_or_else(|error| panic!("an escape in {text}: {error}")));
            rest = after;
        } else {
            assert_ne!(first, '\\', "a backslash that escapes nothing in {text}");
            bytes.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[first.len_utf8()..];
        }
    }
    bytes
}

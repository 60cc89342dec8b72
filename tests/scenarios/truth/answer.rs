//! What an agent said against what is true.

use std::{
    fmt::{self, Debug},
    path::Path,
};

use support::{Cgroup, Event, Events as _};

/// How an answer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Right,
    /// Something else was said.
    Wrong(String),
    /// It was not said, and nothing else in its place.
    Absent,
    /// Right or absent, as it happens.
    Race,
}

impl Answer {
    /// What is to be said of it where it would be another answer the next time.
    pub(crate) fn of_a_race(self) -> Self {
        match self {
            Self::Right | Self::Absent | Self::Race => Self::Race,
            wrong @ Self::Wrong(_) => wrong,
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Right => formatter.write_str("right|"),
            Self::Wrong(why) => write!(formatter, "wrong|{}", why.replace(['\n', '|'], " ")),
            Self::Absent => formatter.write_str("absent|"),
            Self::Race => formatter.write_str("race|"),
        }
    }
}

/// What was said, if anything was, against the truth.
#[expect(clippy::needless_pass_by_value, reason = "callers would put a & before each number")]
pub(crate) fn same<T: PartialEq + Debug>(said: Option<T>, truth: T) -> Answer {
    match said {
        None => Answer::Absent,
        Some(said) if said == truth => Answer::Right,
        Some(said) => Answer::Wrong(format!("said {said:?}, true is {truth:?}")),
    }
}

/// Right where all are, wrong where one is; absent where one is, and where there is none.
pub(crate) fn all(answers: impl IntoIterator<Item = Answer>) -> Answer {
    let answers: Vec<Answer> = answers.into_iter().collect();
    if let Some(wrong) = answers.iter().find(|answer| matches!(answer, Answer::Wrong(_))) {
        return wrong.clone();
    }
    let right = !answers.is_empty() && answers.iter().all(|answer| *answer == Answer::Right);
    if right { Answer::Right } else { Answer::Absent }
}

/// Kills told of these processes, and others told below this cgroup.
pub(crate) fn kills<'a>(events: &'a [Event], pids: &[u32], top: &Cgroup) -> Vec<&'a Event> {
    let of_them = |event: &Event| {
        ["/victim/pid", "/victim/tid"].iter().any(|id| pids.iter().any(|pid| event.number(id) == Some((*pid).into())))
    };
    let there = |event: &Event| {
        let paths = ["/task_memcg/path", "/oom_memcg/path", "/workload/cgroup_path"];
        paths.iter().any(|path| event.text(path).is_some_and(|path| Path::new(path).starts_with(top.path())))
    };
    events.of_kind("oom_kill").into_iter().filter(|event| of_them(event) || there(event)).collect()
}

/// As many as the kernel counted. Fewer are an honest answer only where the agent says that some are missing.
pub(crate) fn count(events: &[Event], told: usize, truth: u64) -> Answer {
    let told = told as u64;
    if told < truth && !events.of_kind("missed").is_empty() { Answer::Absent } else { same(Some(told), truth) }
}

/// Each victim once.
pub(crate) fn victims(kills: &[&Event], pids: &[u32]) -> Answer {
    let said: Option<Vec<u64>> = kills.iter().map(|kill| kill.number("/victim/pid")).collect();
    let mut truth: Vec<u64> = pids.iter().map(|pid| u64::from(*pid)).collect();
    let mut said = said.filter(|said| !said.is_empty());
    truth.sort_unstable();
    if let Some(said) = said.as_mut() {
        said.sort_unstable();
    }
    same(said, truth)
}

/// The victim's own cgroup, by its path and its id.
pub(crate) fn own_cgroup(kill: &Event, cgroup: &Cgroup) -> Answer {
    this_cgroup(kill, "/task_memcg", cgroup)
}

/// The cgroup whose limit was hit, and that limit.
pub(crate) fn limit(event: &Event, cgroup: &Cgroup) -> Answer {
    let limit = same(event.number("/oom_memcg/limit_bytes"), cgroup.limit_bytes());
    all([this_cgroup(event, "/oom_memcg", cgroup), limit])
}

fn this_cgroup(event: &Event, field: &str, cgroup: &Cgroup) -> Answer {
    let path = same(event.text(&format!("{field}/path")), cgroup.path().to_str().unwrap_or_default());
    match same(event.number(&format!("{field}/id")), cgroup.id()) {
        // The path alone says it.
        Answer::Absent => path,
        id => all([path, id]),
    }
}

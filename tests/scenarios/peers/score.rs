//! What somebody said against what was done.

use std::{collections::HashMap, fmt, time::Duration};

use crate::{Seen, scenes::Kill};

/// How well somebody watched.
#[derive(Debug, Default)]
pub(crate) struct Score {
    pub(crate) seen: usize,
    pub(crate) made: usize,
    containers: usize,
    limits: usize,
    /// Told beyond what was done.
    extra: usize,
    /// By victim.
    latencies: HashMap<u32, Duration>,
    /// Scene, kills seen, kills made.
    pub(crate) scenes: Vec<(&'static str, usize, usize)>,
}

impl Score {
    pub(crate) fn of(kills: &[Kill], moments: &HashMap<u32, Duration>, seen: &[Seen]) -> Self {
        let mut score = Self { made: kills.len(), ..Self::default() };
        // Who tells no victim but a cgroup is taken to mean the earliest there.
        let mut left: Vec<&Kill> = kills.iter().collect();
        left.sort_by_key(|kill| moments.get(&kill.pid));
        for said in seen {
            let Some(at) = left.iter().position(|kill| is_about(said, kill)) else {
                score.extra += 1;
                continue;
            };
            let kill = left.remove(at);
            score.seen += 1;
            score.containers += usize::from(said.cgroup.as_ref() == Some(&kill.cgroup));
            score.limits += usize::from(said.limit.as_ref() == Some(&kill.limit));
            score.latencies.extend(moments.get(&kill.pid).map(|moment| (kill.pid, said.at.saturating_sub(*moment))));
        }
        for kill in kills {
            if !score.scenes.iter().any(|(scene, _, _)| *scene == kill.scene) {
                let of_it = |kills: &mut dyn Iterator<Item = &Kill>| kills.filter(|it| it.scene == kill.scene).count();
                let made = of_it(&mut kills.iter());
                let missed = of_it(&mut left.iter().copied());
                score.scenes.push((kill.scene, made - missed, made));
            }
        }
        score
    }

    /// The median latency of the kills that another saw, too.
    pub(crate) fn median_of_those_of(&self, other: &Self) -> String {
        percentile(50, self.latencies.iter().filter(|(pid, _)| other.latencies.contains_key(pid)))
    }
}

/// Milliseconds.
fn percentile<'a>(percent: usize, latencies: impl Iterator<Item = (&'a u32, &'a Duration)>) -> String {
    let mut latencies: Vec<Duration> = latencies.map(|(_, latency)| *latency).collect();
    latencies.sort_unstable();
    let at = (latencies.len() * percent / 100).min(latencies.len().saturating_sub(1));
    latencies.get(at).map_or_else(|| "–".to_owned(), |it| format!("{:.1}", it.as_secs_f64() * 1000.0))
}

/// By the victim where one is told, else by the cgroup.
fn is_about(said: &Seen, kill: &Kill) -> bool {
    match said.pid {
        Some(pid) => pid == kill.pid,
        None => said.cgroup.as_ref() == Some(&kill.cgroup),
    }
}

impl fmt::Display for Score {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, made, containers, limits, extra, .. } = self;
        let (p50, p99) = (percentile(50, self.latencies.iter()), percentile(99, self.latencies.iter()));
        write!(formatter, "{seen}|{made}|{containers}|{limits}|{extra}|{p50}|{p99}")
    }
}

//! From what was seen of a workload's runs to advice on its limit, with the reasons. Pure. Sizes are bytes.

use std::fmt;

use serde::Serialize;

use crate::{
    history::{Group, Run},
    ps::{size, time},
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Runs from which on the peaks of others can be told,
const ENOUGH_RUNS: u64 = 3;
/// or time that was watched, seconds: a day has its busiest hour.
const ENOUGH_SECONDS: u64 = 86_400;
/// A limit is to leave this much above the highest peak, percent of it.
const HEADROOM_PERCENT: u64 = 25;
/// What a killed workload would have held is not known: at least this much above the limit that killed, percent of it.
const AFTER_KILL_PERCENT: u64 = 50;
/// A peak above this share of the limit is too near to it, percent.
const NEAR_PERCENT: u64 = 90;
/// A peak below this share of the limit wastes the rest, percent,
const WASTEFUL_PERCENT: u64 = 50;
/// if it is worth the change.
const WORTH_BYTES: u64 = 64 * MIB;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Raise the limit.
    TooSmall,
    /// The limit may be lowered.
    Wasteful,
    /// Leave it.
    Fits,
    /// There is none, and this is one that would fit.
    NoLimit,
    /// Nothing can be said yet.
    TooLittleEvidence,
}

/// Advice on one workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// Name of the workload.
    pub workload: String,
    /// What is to be done.
    pub verdict: Verdict,
    /// The limit to be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested_limit_bytes: Option<u64>,
    /// The limit of its latest run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
    /// What it is drawn from.
    pub evidence: Evidence,
    /// Why, in a sentence.
    pub reason: String,
}

/// What advice is drawn from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// Runs seen.
    pub runs: u64,
    /// Time over which the remembered ones were watched, together.
    pub watched_seconds: u64,
    /// The highest peak.
    pub highest_peak_bytes: u64,
    /// The peak that half of the runs stayed below.
    pub typical_peak_bytes: u64,
    /// Kills.
    pub kills: u64,
    /// Warnings.
    pub warnings: u64,
    /// The highest limit of its own that killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_at_bytes: Option<u64>,
}

impl Evidence {
    fn of(group: &Group) -> Self {
        let runs = &group.runs;
        let mut peaks: Vec<u64> = runs.iter().map(|run| run.peak_bytes).collect();
        peaks.sort_unstable();
        let sum = |of: fn(&Run) -> u64| runs.iter().map(of).fold(0, u64::saturating_add);
        let beside = group.beside();
        let killed_at = runs.iter().filter_map(|run| run.killed_at_bytes);
        let peak_beside = beside.map(|beside| beside.peak_bytes);
        Self {
            runs: group.earlier_runs.saturating_add(runs.len() as u64),
            watched_seconds: sum(|run| run.last_seconds.saturating_sub(run.first_seconds)),
            highest_peak_bytes: peaks.last().copied().max(peak_beside).unwrap_or_default(),
            typical_peak_bytes: peaks.get(peaks.len() / 2).copied().unwrap_or_default(),
            kills: sum(|run| run.kills).saturating_add(group.earlier_kills),
            warnings: sum(|run| run.warnings).saturating_add(group.earlier_warnings),
            killed_at_bytes: killed_at.chain(beside.and_then(|beside| beside.killed_at_bytes)).max(),
        }
    }

    fn is_enough(&self) -> bool {
        self.runs >= ENOUGH_RUNS || self.watched_seconds >= ENOUGH_SECONDS
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[expect(clippy::cast_precision_loss, reason = "it is shown in days and hours")]
        let watched = time(self.watched_seconds as f64);
        let highest = size(self.highest_peak_bytes);
        write!(f, "{} watched for {watched}; peak {highest}", count(self.runs, "run"))?;
        if self.runs > 1 {
            write!(f, " (typically {})", size(self.typical_peak_bytes))?;
        }
        if self.kills > 0 {
            write!(f, "; {}", count(self.kills, "kill"))?;
        }
        if self.warnings > 0 {
            write!(f, "; {}", count(self.warnings, "warning"))?;
        }
        Ok(())
    }
}

fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Advice on the workload of this name.
pub fn advise(workload: &str, group: &Group) -> Advice {
    let evidence = Evidence::of(group);
    let latest = group.runs.iter().max_by_key(|run| run.last_seconds);
    let limit_bytes = latest.and_then(|run| run.limit_bytes);
    let (verdict, suggested_limit_bytes, why) = judge(&evidence, limit_bytes);
    let reason = format!("{evidence}. {why}");
    Advice { workload: workload.to_owned(), verdict, suggested_limit_bytes, limit_bytes, evidence, reason }
}

fn judge(evidence: &Evidence, limit_bytes: Option<u64>) -> (Verdict, Option<u64>, String) {
    let peak = evidence.highest_peak_bytes;
    // What killed once, when the peak was not seen, is no advice.
    let above_kill = evidence.killed_at_bytes.map_or(0, |killed_at| more(killed_at, HEADROOM_PERCENT));
    let fitting = rounded_up(more(peak, HEADROOM_PERCENT).max(above_kill));
    let Some(limit) = limit_bytes else {
        if !evidence.is_enough() {
            return too_little("It has no limit");
        }
        let why =
            format!("It has no limit; {} would leave {HEADROOM_PERCENT} % above the highest peak.", size(fitting));
        return (Verdict::NoLimit, Some(fitting), why);
    };
    if let Some(killed_at) = evidence.killed_at_bytes.filter(|killed_at| *killed_at >= limit) {
        let suggested = rounded_up(more(killed_at, AFTER_KILL_PERCENT)).max(fitting);
        let why = format!(
            "It was killed at its limit of {}: how much it would have held is not known, so raise to {} and look again.",
            size(killed_at),
            size(suggested)
        );
        return (Verdict::TooSmall, Some(suggested), why);
    }
    if peak >= share(limit, NEAR_PERCENT) && fitting > limit {
        let why = format!(
            "The highest peak is within {} % of the limit of {}: raise to {}.",
            100 - NEAR_PERCENT,
            size(limit),
            size(fitting)
        );
        return (Verdict::TooSmall, Some(fitting), why);
    }
    if !evidence.is_enough() {
        return too_little(&format!("The limit of {} was enough so far", size(limit)));
    }
    if peak < share(limit, WASTEFUL_PERCENT) && limit.saturating_sub(fitting) >= WORTH_BYTES {
        let why = format!(
            "Less than half of the limit of {} was ever held: {} is enough, with {HEADROOM_PERCENT} % above the highest peak.",
            size(limit),
            size(fitting)
        );
        return (Verdict::Wasteful, Some(fitting), why);
    }
    (Verdict::Fits, None, format!("The limit of {} fits.", size(limit)))
}

fn too_little(so_far: &str) -> (Verdict, Option<u64>, String) {
    let why = format!("{so_far}; wait for {ENOUGH_RUNS} runs, or for a day.");
    (Verdict::TooLittleEvidence, None, why)
}

/// So many percent more.
fn more(bytes: u64, percent: u64) -> u64 {
    bytes.saturating_add(share(bytes, percent))
}

fn share(bytes: u64, percent: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(percent) / 100).unwrap_or(u64::MAX)
}

/// To a figure that people would write.
fn rounded_up(bytes: u64) -> u64 {
    let step = match bytes {
        0..GIB => 16 * MIB,
        GIB.. => 128 * MIB,
    };
    bytes.max(1).checked_next_multiple_of(step).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "advice_tests.rs"]
mod tests;

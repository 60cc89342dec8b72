//! What became of a container after a kill in it: it survived, or it ended. Pure; asked once for each incident and
//! container, when its cgroup goes or shortly before two seconds have passed.

use crate::{cgroup_path::CgroupPath, correlate::Subject, observation::MemcgId};

/// From the first kill to the verdict: an init that gives up because its child was killed takes a moment, and the
/// verdict is promised within two seconds.
const VERDICT_AFTER_NS: u64 = 1_800_000_000;
/// Verdicts awaited at once; in a storm beyond it, containers go without.
const CAPACITY: usize = 4096;

/// A verdict that is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Awaited {
    /// The incident it belongs to.
    pub(crate) incident_id: String,
    /// The cgroup of the first victim.
    pub(crate) victim: Subject,
    /// Path of the container's own cgroup.
    pub(crate) container: CgroupPath,
    /// Its id, which tells it from a successor of the same name; `None` where it was never seen.
    pub(crate) container_id: Option<MemcgId>,
    /// When the first victim was killed, `CLOCK_BOOTTIME` in nanoseconds.
    pub(crate) killed_ns: u64,
}

/// Verdicts awaited.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    awaited: Vec<Awaited>,
}

impl Outcomes {
    /// A process of a container was killed.
    pub(crate) fn killed(&mut self, kill: Awaited) {
        let known = self.awaited.iter().any(|other| {
            other.container == kill.container
                && (other.incident_id == kill.incident_id || other.container_id == kill.container_id)
        });
        if !known && self.awaited.len() < CAPACITY {
            self.awaited.push(kill);
        }
    }

    /// A cgroup was removed: verdicts on the container it was.
    pub(crate) fn removed(&mut self, memcg: MemcgId) -> Vec<Awaited> {
        self.awaited.extract_if(.., |kill| kill.container_id == Some(memcg)).collect()
    }

    /// Verdicts that are due.
    pub(crate) fn due(&mut self, now_ns: u64) -> Vec<Awaited> {
        self.awaited.extract_if(.., |kill| kill.due_ns() <= now_ns).collect()
    }

    /// When [`Self::due`] has something next.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        self.awaited.iter().map(Awaited::due_ns).min()
    }
}

impl Awaited {
    fn due_ns(&self) -> u64 {
        self.killed_ns.saturating_add(VERDICT_AFTER_NS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kill(incident_id: &str, container: u64, killed_ns: u64) -> Awaited {
        let memcg = MemcgId { hierarchy: 0, id: container };
        Awaited {
            incident_id: incident_id.to_owned(),
            victim: Subject { memcg, path: None },
            container: CgroupPath::from_bytes(format!("/c{container}").as_bytes()),
            container_id: Some(memcg),
            killed_ns,
        }
    }

    #[test]
    fn a_verdict_is_due_once_for_each_container() {
        let mut outcomes = Outcomes::default();
        outcomes.killed(kill("a", 1, 0));
        outcomes.killed(kill("a", 1, 5));
        outcomes.killed(kill("b", 1, 9));
        outcomes.killed(kill("a", 2, 7));
        assert!(outcomes.due(1_000_000_000).is_empty());
        assert_eq!(outcomes.next_deadline(), Some(VERDICT_AFTER_NS));
        assert_eq!(outcomes.due(2_000_000_000), [kill("a", 1, 0), kill("a", 2, 7)]);
        assert_eq!(outcomes.next_deadline(), None);
    }

    #[test]
    fn a_removed_cgroup_ends_the_wait() {
        let mut outcomes = Outcomes::default();
        outcomes.killed(kill("a", 1, 0));
        outcomes.killed(kill("a", 2, 0));
        assert_eq!(outcomes.removed(MemcgId { hierarchy: 0, id: 2 }), [kill("a", 2, 0)]);
        assert_eq!(outcomes.due(u64::MAX), [kill("a", 1, 0)]);
    }
}

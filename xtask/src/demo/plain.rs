//! Scene: one process in a cgroup of no container, with a limit.

use super::{Stage, explain, in_plain_words};
use crate::cgroup::Cgroup;

const LIMIT_BYTES: u64 = 20 << 20;

pub(super) fn play(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let cgroup = Cgroup::scratch(&stage.hierarchy, LIMIT_BYTES)?;
    let mut eater = cgroup.eater()?;
    let kill = stage.expect("the kill of that process", |event| event.is_kill_in(cgroup.name()))?;
    eater.wait_for_kill()?;
    in_plain_words(&format!("{}; it ran in no container.", explain::kill(&kill)))
}

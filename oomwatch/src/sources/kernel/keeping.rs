//! What the kernel source keeps beyond the agent's end, and what it finds of an earlier agent.

use std::path::PathBuf;

use aya::programs::links::FdLink;

use super::{
    pin::{self, Kept, Past, Pins},
    ring::Consumed,
};
use crate::state::Account;

/// What the agent asks to be kept.
#[derive(Debug, Clone)]
pub(crate) struct Keep {
    /// Where the BPF file system is mounted.
    pub(crate) bpf_fs: PathBuf,
    /// The state folder.
    pub(crate) state_dir: PathBuf,
    /// What an earlier agent told.
    pub(crate) account: Option<Account>,
    /// Why nothing can be pinned, where that is known.
    pub(crate) cannot_pin: Option<String>,
}

/// What is kept.
#[derive(Debug)]
pub(crate) struct Keeping {
    /// The ring in use; 0 where it ends with the agent.
    pub(super) generation: u64,
    /// What earlier agents left to be read, oldest first.
    pub(super) past: Vec<Past>,
    /// Held while the agent runs.
    _pins: Option<Pins>,
}

/// Gives records back to the kernel once their events are written. What earlier agents left goes with the first of them.
#[derive(Debug)]
pub(crate) struct Release {
    consumed: Consumed,
    past: Vec<PathBuf>,
}

impl Keeping {
    /// Pins what is attached, after a look at what is pinned already.
    ///
    /// # Errors
    /// The kernel refused a link, which is lost by that.
    pub(super) fn start(keep: &Keep, maps: &Kept<'_>, links: &mut Vec<(String, FdLink)>) -> anyhow::Result<Self> {
        let pins = Pins::open(&keep.bpf_fs, &keep.state_dir).inspect_err(|error| by_number_only(&format!("{error:#}")));
        let Ok(pins) = pins else { return Ok(Self { generation: 0, past: Vec::new(), _pins: None }) };
        let past = pins.past(&maps.reading).into_iter().filter_map(|past| left_to_tell(past, keep.account.as_ref()));
        let past = past.collect();
        let generation = match &keep.cannot_pin {
            None => pins.pin(maps, links)?,
            Some(reason) => {
                by_number_only(reason);
                0
            }
        };
        Ok(Self { generation, past, _pins: Some(pins) })
    }
}

/// Ends what earlier agents left recording, for this one has no programs: nobody would read it, or somebody later what
/// was told meanwhile.
pub(crate) fn end(keep: &Keep) {
    match Pins::open(&keep.bpf_fs, &keep.state_dir) {
        Ok(pins) => pins.past("").iter().for_each(|past| pin::remove(&past.folder)),
        Err(error) => tracing::debug!("nothing pinned is ended: {error:#}"),
    }
}

fn by_number_only(reason: &str) {
    tracing::info!(reason, "kills while no agent runs will be known by their number only");
}

/// Nothing, and then it is removed, where a later ring was read already.
fn left_to_tell(mut past: Past, account: Option<&Account>) -> Option<Past> {
    let Some(account) = account else { return Some(past) };
    if past.number < account.generation {
        pin::remove(&past.folder);
        return None;
    }
    if let (Some(rings), true) = (&mut past.rings, past.number == account.generation) {
        rings.told_lost = account.lost;
        if let Ok(position) = usize::try_from(account.position) {
            rings.ooms.skip_to(position);
        }
    }
    Some(past)
}

impl Release {
    pub(super) fn new(consumed: Consumed, past: &[Past]) -> Self {
        Self { consumed, past: past.iter().map(|past| past.folder.clone()).collect() }
    }

    /// Everything before `position` of the ring in use is written, and so is all that earlier agents left.
    pub(crate) fn up_to(&mut self, position: u64) {
        if let Ok(position) = usize::try_from(position) {
            self.consumed.up_to(position);
        }
        self.past.drain(..).for_each(|folder| pin::remove(&folder));
    }
}

//! Up to where kills are told, kept across restarts: a record is given back to the kernel when its event is written, and
//! the account is written before, so that a killed agent's successor goes on exactly there.

use std::{collections::VecDeque, path::Path, sync::Arc, time::Duration};

use super::{Pipeline, notebook::Notebook};
use crate::{
    clock,
    observation::{MemcgId, ReadMark},
    state::{Account, Container, StateDir},
    told,
};

/// Longest wait for outputs: one that hangs must not fill the kernel's ring.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Time between two looks at what outputs have written.
const LOOK_NS: u64 = 20_000_000;
/// From a change to the next `state.json`.
const SAVE_AFTER_NS: u64 = 1_000_000_000;
/// The same of containers: it has all of them.
const SAVE_CONTAINERS_AFTER_NS: u64 = 5_000_000_000;

/// How long the end waits for the disk.
const LAST_NOTE: Duration = Duration::from_secs(1);

/// Gives back to the kernel what was read up to a position.
pub(crate) type GiveBack = Box<dyn FnMut(u64) + Send>;

/// A place in the ring, and the events that came from before it.
#[derive(Debug, Clone, Copy)]
struct Pending {
    account: Account,
    seq: u64,
    since_ns: u64,
    urgent: bool,
}

/// What is kept, and what still waits for the outputs.
pub(crate) struct Keeper {
    state: Arc<StateDir>,
    notebook: Notebook,
    pending: VecDeque<Pending>,
    /// Kills accounted for when it began.
    kills_before: Option<u64>,
    /// Given back though no output had written it yet.
    unwritten: VecDeque<Pending>,
    written: Option<Account>,
    look_ns: Option<u64>,
    save_ns: Option<u64>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Keeper").field("pending", &self.pending).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Of this folder.
    ///
    /// # Errors
    /// The thread that writes there cannot be started.
    pub(crate) fn new(state: StateDir, give_back: GiveBack, kills_before: Option<u64>) -> anyhow::Result<Self> {
        let state = Arc::new(state);
        Ok(Self {
            notebook: Notebook::start(Arc::clone(&state), give_back)?,
            state,
            pending: VecDeque::new(),
            kills_before,
            unwritten: VecDeque::new(),
            written: None,
            look_ns: None,
            save_ns: None,
        })
    }

    /// Everything up to `mark` is in events up to `seq`.
    fn read(&mut self, mark: ReadMark, kills: u64, seq: u64, now_ns: u64) {
        let account = Account { kills, generation: mark.generation, position: mark.position, lost: mark.lost };
        let last = self.pending.back().or(self.unwritten.back()).map(|pending| pending.account).or(self.written);
        if last != Some(account) {
            self.pending.push_back(Pending { account, seq, since_ns: now_ns, urgent: mark.urgent });
        }
    }

    /// `settled` is the last event that every output has written, `written` the last that one has; `None` where nobody
    /// says so.
    fn settle(&mut self, settled: Option<u64>, written: Option<u64>, now_ns: u64) {
        let is_over = |first: &Pending| first.urgent || now_ns >= first.since_ns.saturating_add(PATIENCE_NS);
        let has = |seq: Option<u64>, first: &Pending| seq.is_none_or(|seq| first.seq <= seq);
        let mut done = self.written;
        while let Some(first) = self.pending.pop_front_if(|first| has(settled, first) || is_over(first)) {
            // What nobody has written is not told: the next agent would have to say that it is missing.
            let kills = done.map(|done| done.kills).or(self.kills_before).unwrap_or(first.account.kills);
            done = Some(Account { kills, ..first.account });
            self.unwritten.push_back(first);
        }
        while let Some(first) = self.unwritten.pop_front_if(|first| has(settled, first) || has(written, first)) {
            done = done.map(|done| Account { kills: first.account.kills, ..done });
        }
        if let Some(account) = done.filter(|account| self.written != Some(*account)) {
            self.write(account, now_ns);
        }
        let waits = !self.pending.is_empty() || !self.unwritten.is_empty();
        self.look_ns = waits.then_some(now_ns.saturating_add(LOOK_NS));
    }

    fn write(&mut self, account: Account, now_ns: u64) {
        self.notebook.note(account);
        if self.written.map(|written| written.kills) != Some(account.kills) {
            self.save_ns.get_or_insert(now_ns.saturating_add(SAVE_AFTER_NS));
        }
        self.written = Some(account);
    }

    /// Whether the counters of cgroups hold no kill beyond the account: a kill that is read again must be news to them.
    fn is_in_step(&self, kills: Option<u64>) -> bool {
        self.pending.is_empty()
            && self.unwritten.is_empty()
            && kills.is_some()
            && self.written.map(|written| written.kills) == kills
    }

    /// Whether `state.json` is to be written now.
    fn is_due(&mut self, now_ns: u64) -> bool {
        let due = self.save_ns.is_some_and(|at| at <= now_ns);
        if due && !self.notebook.is_idle() {
            self.save_ns = Some(now_ns.saturating_add(SAVE_AFTER_NS));
            return false;
        }
        due
    }

    fn save(&mut self, cgroups: &[(MemcgId, u64)], complete: bool, containers: impl Iterator<Item = Container>) {
        self.save_ns = None;
        self.notebook.save(self.state.contents(cgroups, complete, containers));
    }

    /// Containers came or went.
    fn note_containers(&mut self, now_ns: u64) {
        self.save_ns.get_or_insert(now_ns.saturating_add(SAVE_CONTAINERS_AFTER_NS));
    }

    fn next_deadline(&self) -> Option<u64> {
        self.look_ns.into_iter().chain(self.save_ns).min()
    }
}

impl Pipeline {
    /// What the agent before wrote into the journal is not told again.
    pub(crate) fn told_before(&mut self, state_dir: &Path) {
        match told::read(state_dir, &self.boot_id) {
            Ok(told) => self.correlator.told_before(told),
            Err(error) => tracing::warn!(%error, "the journal cannot be read: some kills may be told twice"),
        }
    }

    /// Goes on where an earlier agent ended, and keeps up to where this one came.
    pub(crate) fn keep(&mut self, keeper: Keeper, account: Option<Account>, cgroups: Option<&[(MemcgId, u64)]>) {
        if let Some(account) = account {
            self.correlator.restore(account.kills, cgroups);
        }
        self.keeper = Some(keeper);
    }

    /// Containers that an earlier agent knew: some may be gone, and their kills are yet to be told.
    pub(crate) fn recall(&mut self, containers: Vec<Container>) {
        let now_ns = clock::boot_ns();
        for container in containers {
            self.registry.recall(container, now_ns);
        }
    }

    /// Containers came or went.
    pub(super) fn note_containers(&mut self, now_ns: u64) {
        if let Some(keeper) = &mut self.keeper {
            keeper.note_containers(now_ns);
        }
    }

    pub(super) fn note_read(&mut self, mark: ReadMark) {
        let kills = self.correlator.accounted().unwrap_or_default();
        if let Some(keeper) = &mut self.keeper {
            keeper.read(mark, kills, self.seq, clock::boot_ns());
        }
        self.settle(clock::boot_ns());
    }

    /// Notes up to where kills are told where no ring says how far it was read.
    pub(super) fn note_told(&mut self) {
        if self.has_rings {
            return;
        }
        let Some(kills) = self.correlator.accounted() else { return };
        let mark = ReadMark { generation: 0, position: 0, lost: 0, urgent: false };
        if let Some(keeper) = &mut self.keeper {
            keeper.read(mark, kills, self.seq, clock::boot_ns());
            keeper.look_ns.get_or_insert(0);
        }
    }

    /// Gives back what was read and is written by now.
    pub(super) fn settle(&mut self, now_ns: u64) {
        let Some(keeper) = &mut self.keeper else { return };
        keeper.settle(self.sinks.settled(), self.sinks.written(), now_ns);
        if keeper.is_due(now_ns) {
            if !keeper.is_in_step(self.correlator.accounted()) {
                keeper.save_ns = Some(now_ns.saturating_add(SAVE_AFTER_NS));
                return;
            }
            let (cgroups, complete) = self.correlator.accounted_by_cgroup();
            keeper.save(&cgroups, complete, self.registry.kept_containers());
        }
    }

    pub(super) fn keep_deadline(&self) -> Option<u64> {
        self.keeper.as_ref().and_then(Keeper::next_deadline)
    }

    /// The last of it. What outputs did not write in time is told again by the next agent.
    pub(super) fn keep_last(&mut self, all_written: bool) {
        let Some(keeper) = &mut self.keeper else { return };
        if all_written {
            keeper.settle(None, None, clock::boot_ns());
        }
        if keeper.is_in_step(self.correlator.accounted()) {
            let (cgroups, complete) = self.correlator.accounted_by_cgroup();
            keeper.save(&cgroups, complete, self.registry.kept_containers());
        }
        if !keeper.notebook.finish(LAST_NOTE) {
            tracing::warn!("the state folder cannot be written in time: some kills may be told twice");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const MARK: ReadMark = ReadMark { generation: 5, position: 100, lost: 0, urgent: false };

    /// A keeper, its folder, and what it gave back.
    fn keeper() -> (Keeper, tempfile::TempDir, Arc<Mutex<Vec<u64>>>) {
        let folder = tempfile::tempdir().unwrap();
        let (state, _left) = StateDir::open(folder.path(), "boot").unwrap();
        let given_back = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&given_back);
        (
            Keeper::new(state, Box::new(move |position| sink.lock().unwrap().push(position)), Some(5)).unwrap(),
            folder,
            given_back,
        )
    }

    /// Settles and waits for what is written.
    fn settle(keeper: &mut Keeper, settled: Option<u64>, written: Option<u64>, now_ns: u64) {
        keeper.settle(settled, written, now_ns);
        while !keeper.notebook.is_idle() {
            std::thread::yield_now();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the agent's own file, not the host's")]
    fn account(folder: &tempfile::TempDir) -> String {
        std::fs::read_to_string(folder.path().join("account")).unwrap()
    }

    #[test]
    fn a_record_is_given_back_when_its_event_is_written() {
        let (mut keeper, folder, given_back) = keeper();
        keeper.read(MARK, 1, 7, 1);
        settle(&mut keeper, Some(6), Some(9), 2);
        assert_eq!((account(&folder).as_str(), given_back.lock().unwrap().len()), ("", 0));
        assert!(keeper.next_deadline().is_some());
        settle(&mut keeper, Some(7), Some(9), 3);
        assert!(account(&folder).contains("kills=00000000000000000001"), "{}", account(&folder));
        assert_eq!(*given_back.lock().unwrap(), [100]);
    }

    #[test]
    fn nobody_is_waited_for_longer_than_a_second_or_when_room_is_short() {
        let (mut keeper, _folder, given_back) = keeper();
        keeper.read(MARK, 1, 7, 1);
        settle(&mut keeper, Some(6), Some(9), PATIENCE_NS);
        assert!(given_back.lock().unwrap().is_empty());
        settle(&mut keeper, Some(6), Some(9), PATIENCE_NS + 1);
        keeper.read(ReadMark { position: 200, urgent: true, ..MARK }, 2, 9, PATIENCE_NS + 2);
        settle(&mut keeper, Some(6), Some(9), PATIENCE_NS + 2);
        assert_eq!(*given_back.lock().unwrap(), [100, 200]);
    }

    #[test]
    fn what_is_given_back_and_written_by_nobody_is_not_noted_as_told() {
        let (mut keeper, folder, given_back) = keeper();
        keeper.read(ReadMark { urgent: true, ..MARK }, 12, 7, 1);
        settle(&mut keeper, Some(6), Some(6), 2);
        assert_eq!(*given_back.lock().unwrap(), [100]);
        assert!(account(&folder).contains("kills=00000000000000000005"), "{}", account(&folder));
        assert!(!keeper.is_in_step(Some(12)) && keeper.next_deadline().is_some());
        settle(&mut keeper, Some(6), Some(7), 3);
        assert!(account(&folder).contains("kills=00000000000000000012"), "{}", account(&folder));
        assert!(account(&folder).contains("read=00000000000000000100"), "{}", account(&folder));
        assert!(keeper.is_in_step(Some(12)));
    }

    #[test]
    fn the_same_place_again_is_no_news() {
        let (mut keeper, _folder, given_back) = keeper();
        for now_ns in 1..5 {
            keeper.read(MARK, 1, now_ns, now_ns);
            settle(&mut keeper, None, None, now_ns);
        }
        assert_eq!(*given_back.lock().unwrap(), [100]);
    }
}

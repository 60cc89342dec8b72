//! When a cgroup is looked at, and whether another look can tell more. Pure.

/// When a new cgroup is looked at: the runtime makes it before it writes its state, the engine names it after.
pub(super) const AFTER_NS: [u64; 4] = [20_000_000, 200_000_000, 1_000_000_000, 5_000_000_000];
/// Where a runtime is slow to begin a container, looks go on after the last of these times each, up to so many: a minute.
pub(super) const MOST: usize = 16;
/// A new cgroup is looked at, too, when a program begins in it, and from then on anew, for on a slow host that is late; but no
/// more often: a runtime's own comes before the container's.
pub(super) const AT_BEGINNINGS: usize = 4;
/// And once more so much later: crun writes its state while the program begins, and deletes it right after its end.
pub(super) const AFTER_BEGINNING_NS: u64 = 2_000_000;
/// A look for an event is not made again so shortly after: of one kill more than one thing is told, and of a group kill many.
const FRESH_NS: u64 = 5_000_000;
/// After so many of them a runtime has written what it writes.
const SETTLED: usize = 2;

/// Looks at one cgroup.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// When it is looked at next.
    pub(super) due_ns: Option<u64>,
    /// When it was last looked at for an event.
    asked_ns: u64,
    count: usize,
    beginnings: usize,
    /// A program began in it since the last look but one.
    begins: bool,
    /// The last one saw a runtime's own process, so those so far tell nothing: on a slow host a runtime takes longer than all of
    /// them.
    is_beginning: bool,
    /// A runtime has written what it writes.
    pub(super) are_settled: bool,
}

impl Looks {
    /// No other is wanted.
    pub(super) fn done() -> Self {
        Self { count: AFTER_NS.len(), ..Self::default() }
    }

    /// A program begins in it; whether that is worth a look.
    pub(super) fn note_beginning(&mut self) -> bool {
        let is_worth_it = self.beginnings < AT_BEGINNINGS;
        self.beginnings += usize::from(is_worth_it);
        is_worth_it
    }

    /// One was taken because a program begins: the others begin anew.
    pub(super) fn begin_anew(&mut self) {
        (self.count, self.begins) = (0, true);
    }

    /// One was taken because its time had come; how long after it the next is due.
    pub(super) fn next(&mut self) -> Option<u64> {
        self.count += usize::from(!std::mem::take(&mut self.begins));
        self.are_settled |= self.count >= SETTLED;
        let later = AFTER_NS.last().filter(|_| self.is_beginning && self.count < MOST);
        AFTER_NS.get(self.count).or(later).copied()
    }

    /// One was taken for an event.
    pub(super) fn note_event(&mut self, now_ns: u64) {
        self.asked_ns = now_ns;
    }

    /// One for an event was taken just now.
    pub(super) fn are_fresh(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.asked_ns) < FRESH_NS
    }

    /// What one saw.
    pub(super) fn saw(&mut self, is_beginning: bool) {
        self.is_beginning = is_beginning;
    }

    /// The last one saw a runtime's own process.
    pub(super) fn see_a_beginning(&self) -> bool {
        self.is_beginning
    }

    /// What seemed to be a runtime's own process is a sentry, that is a container's: the others begin anew. Whether it seemed so.
    pub(super) fn has_begun(&mut self) -> bool {
        let seemed = std::mem::take(&mut self.is_beginning);
        if seemed {
            self.begin_anew();
        }
        seemed
    }

    /// Another would tell nothing new.
    pub(super) fn are_over(&self) -> bool {
        !self.is_beginning && self.count >= AFTER_NS.len()
    }
}

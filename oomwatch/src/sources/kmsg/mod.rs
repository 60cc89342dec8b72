//! The source that reads the kernel's log: what the OOM killer writes there of each kill, from `/dev/kmsg`.
//!
//! `record` takes a record apart, `line` reads what the OOM killer writes, `assemble` puts its lines together, `dumps` knows
//! when some are left out. Only what
//! the kernel itself wrote counts. Emits [`Observation::Logged`], [`Observation::Lost`] where records were overwritten before
//! they were read, and [`Observation::Seen`] when it is asked.

mod assemble;
mod dumps;
mod line;
mod log_clock;
mod record;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc::Sender};

use self::{
    assemble::{Assembler, Times},
    log_clock::{LogClock, Read},
    record::Record,
};
use super::{readable, totals::Totals};
use crate::{
    clock,
    host::{
        HostError, HostRoot,
        kmsg::{Buffer, Entry, KernelLog},
        memory::MemoryHierarchy,
    },
    observation::{LoggedKill, Lost, LostRecords, Observation, Seen},
    stats::{BEAT, Heartbeat},
    stop::Stop,
};

/// How long a kill waits for the line that says that it is of a group: the kernel writes it right after.
const SETTLE: Duration = Duration::from_millis(20);
/// Records read in one go, so that others may work in between.
const AT_ONCE: usize = 256;

/// What the source starts with.
#[derive(Debug)]
pub(crate) struct Start {
    /// The log, open.
    log: KernelLog,
    /// The memory cgroups.
    pub(crate) hierarchy: Option<MemoryHierarchy>,
    /// No other source reads the kernel's count of kills.
    pub(crate) reads_totals: bool,
}

impl Start {
    /// Opens the log: what the kernel writes from now on is read.
    ///
    /// # Errors
    /// It cannot be read here.
    pub(crate) fn new(
        root: &HostRoot,
        hierarchy: Option<MemoryHierarchy>,
        reads_totals: bool,
    ) -> Result<Self, HostError> {
        Ok(Self { log: KernelLog::open_at_end(root)?, hierarchy, reads_totals })
    }
}

/// Reads until `stop`, then once more. `asked` wants to know how far it read.
pub(crate) async fn run(
    start: Start,
    asked: Arc<Notify>,
    out: Sender<Observation>,
    stop: Stop,
    heartbeat: Heartbeat,
) -> anyhow::Result<()> {
    let Start { log, hierarchy, reads_totals } = start;
    let log = readable::watch(log).context("watch the kernel's log")?;
    let mut totals = reads_totals.then(Totals::default);
    let mut reader = Reader {
        assembler: Assembler::default(),
        clock: LogClock::default(),
        buffer: Buffer::default(),
        next_seq: None,
        hierarchy,
    };
    if let Some(total) = totals.as_mut().and_then(Totals::read) {
        out.send(Observation::KillTotal(total)).await.context("pass on an observation")?;
    }
    let (mut stopping, mut to_answer) = (false, None);
    loop {
        heartbeat.beat();
        let (mut total, mut is_asked) = (None, false);
        tokio::select! {
            () = stop.stopped() => stopping = true,
            ready = log.readable() => ready.context("wait for the kernel's log")?.clear_ready(),
            () = asked.notified() => is_asked = true,
            () = tokio::time::sleep(SETTLE), if reader.assembler.waits() => {}
            () = tokio::time::sleep(BEAT) => {}
            () = due(totals.as_ref()) => total = totals.as_mut().and_then(Totals::read),
        }
        let mut any = false;
        let from_ns = clock::boot_ns();
        while let Some(read) = reader.read(log.get_ref()).context("read the kernel's log")? {
            for observation in read {
                any = true;
                out.send(observation).await.context("pass on an observation")?;
            }
            heartbeat.beat();
        }
        if let Some(kill) = reader.assembler.settled(clock::boot_ns(), stopping) {
            any = true;
            out.send(logged(kill)).await.context("pass on an observation")?;
        }
        if is_asked {
            to_answer = Some((from_ns, reader.assembler.held()));
        }
        // What was held back when it was read is passed on by now.
        if let Some((until_ns, held)) = to_answer
            && (held.is_none() || held != reader.assembler.held())
        {
            to_answer = None;
            out.send(Observation::Seen(Seen::Log(until_ns))).await.context("pass on an observation")?;
        }
        if let Some(totals) = totals.as_mut().filter(|_| any) {
            totals.soon();
        }
        // One that is held back is counted already.
        if let Some(total) = total.filter(|_| !reader.assembler.waits()) {
            out.send(Observation::KillTotal(total)).await.context("pass on an observation")?;
        }
        if stopping {
            return Ok(());
        }
    }
}

async fn due(totals: Option<&Totals>) {
    match totals {
        Some(totals) => totals.due().await,
        None => std::future::pending().await,
    }
}

struct Reader {
    assembler: Assembler,
    clock: LogClock,
    buffer: Buffer,
    /// Number of the record that comes next, where one was read.
    next_seq: Option<u64>,
    hierarchy: Option<MemoryHierarchy>,
}

impl Reader {
    /// What the next records tell; `None` where there are none.
    fn read(&mut self, log: &KernelLog) -> Result<Option<Vec<Observation>>, HostError> {
        let mut read = Vec::new();
        for turn in 0..AT_ONCE {
            let record = match log.next(&mut self.buffer)? {
                Entry::Record(bytes) => Record::parse(bytes),
                // How many, the next record's number says.
                Entry::Overwritten => None,
                Entry::End if turn == 0 => return Ok(None),
                Entry::End => break,
            };
            if let Some(record) = record {
                self.take(&record, &mut read);
            }
        }
        Ok(Some(read))
    }

    fn take(&mut self, record: &Record, read: &mut Vec<Observation>) {
        let lost = self.next_seq.map_or(0, |next| record.seq.saturating_sub(next));
        self.next_seq = Some(record.seq.saturating_add(1));
        if lost > 0 {
            let before = self.assembler.interrupted(record.micros).map(logged);
            read.extend(before);
            read.push(Observation::Lost(Lost { records: LostRecords::Log, count: lost }));
        }
        let hierarchy = self.hierarchy.as_ref();
        let complete = |kill: &mut LoggedKill| {
            let Some(hierarchy) = hierarchy else { return false };
            hierarchy.complete(kill);
            hierarchy.kills_as_group(kill)
        };
        let at = Read { monotonic_ns: clock::monotonic_ns(), boot_ns: clock::boot_ns() };
        let written_ns = self.clock.written_ns(record.micros, at);
        let kill = self.assembler.take(record, Times { written_ns, read_ns: at.boot_ns }, complete);
        read.extend(kill.map(logged));
    }
}

fn logged(kill: LoggedKill) -> Observation {
    Observation::Logged(Box::new(kill))
}

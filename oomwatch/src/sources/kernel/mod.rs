//! The eBPF source: OOM victims, ends of OOM runs, births and deaths of cgroups, futile reclaim, losses.
//!
//! `load` brings the object into the kernel, `hooks` attaches what this kernel allows, each a `program`; `btf` and `offsets`
//! find the kernel's fields, `decode` turns records into observations. `ring` reads, `pin` and `keeping` leave to the next
//! agent what this one does not read. Only this module knows aya.

pub(crate) mod btf;
pub(crate) mod decode;
pub(crate) mod hooks;
pub(crate) mod keeping;
pub(crate) mod load;
pub(crate) mod offsets;
pub(crate) mod pin;
mod program;
mod ring;
mod trace_format;

use std::{
    io,
    sync::atomic::{Ordering, fence},
};

use anyhow::Context as _;
use aya::maps::{MapData, PerCpuArray};
use aya_log::EbpfLogger;
use oomwatch_common::{CHANGE_RING, OOM_RING};
use tokio::{io::unix::AsyncFd, sync::mpsc::Sender};

use self::{decode::Decoder, load::Loaded, pin::Past, ring::Ring};
use super::totals::Totals;
use crate::{
    host::memory::MemoryHierarchy,
    observation::{Lost, LostRecords, Observation, ReadMark},
    stats::{BEAT, Heartbeat},
    stop::Stop,
};

/// Kills between two marks of how far the ring was read.
const MARK_EVERY: usize = 64;

/// Reads the ring buffers until `stop`, then once more, so that a kill just before it is told. Before that, what was
/// recorded for an earlier agent.
pub(crate) async fn run(
    loaded: Loaded,
    out: Sender<Observation>,
    stop: Stop,
    heartbeat: Heartbeat,
) -> anyhow::Result<()> {
    let Loaded { mut ebpf, links, mut keeping, ooms, changes, lost, decoder, hierarchy, kills, .. } = loaded;
    let mut log = program_log(&mut ebpf)?;
    let past = keeping.as_mut().map(|keeping| std::mem::take(&mut keeping.past)).unwrap_or_default();
    let keeps = keeping.as_ref().map(|keeping| keeping.generation);
    let mut reader = Reader { lost, told: [0; 2], keeps, marks_from: 0, decoder, hierarchy, out, heartbeat };
    let mut totals = Totals::default();
    if let Some(kills) = kills {
        reader.send(Observation::KillTotal(kills)).await?;
    }
    for past in past {
        reader.read_past(past).await?;
    }
    reader.send(Observation::CaughtUp).await?;
    reader.marks_from = ooms.end();
    let mut ooms = watch(ooms).context("watch the ring of victims")?;
    let mut changes = watch(changes).context("watch the ring of cgroups")?;
    reader.drain(changes.get_mut(), ooms.get_mut()).await?;
    loop {
        reader.heartbeat.beat();
        let mut total = None;
        // Only waiting may be cancelled: a record taken from a ring must arrive.
        tokio::select! {
            () = stop.stopped() => break,
            ready = ready(&mut ooms) => ready?,
            ready = ready(&mut changes) => ready?,
            () = flush_log(log.as_mut()) => {}
            () = tokio::time::sleep(BEAT) => {}
            // A total read before the rings are is sent behind the kills that it counts.
            () = totals.due(), if kills.is_some() => total = totals.read(),
        }
        if reader.drain(changes.get_mut(), ooms.get_mut()).await? {
            totals.soon();
        }
        if let Some(total) = total {
            reader.send(Observation::KillTotal(total)).await?;
            reader.mark(ooms.get_ref()).await?;
        }
    }
    reader.drain(changes.get_mut(), ooms.get_mut()).await?;
    drop((links, keeping, ebpf));
    Ok(())
}

type ProgramLog = AsyncFd<EbpfLogger<&'static dyn tracing_log::log::Log>>;

/// The program's own diagnostics; `None` where this kernel does not let them be read.
fn program_log(ebpf: &mut aya::Ebpf) -> anyhow::Result<Option<ProgramLog>> {
    match EbpfLogger::init(ebpf) {
        Ok(logger) => Ok(Some(watch(logger).context("watch the program's log")?)),
        Err(error) => {
            tracing::debug!(%error, "the program's own log cannot be read");
            Ok(None)
        }
    }
}

/// Waits for the program's own diagnostics and passes them to the agent's log; for ever where there are none.
async fn flush_log(log: Option<&mut ProgramLog>) {
    let Some(log) = log else { return std::future::pending().await };
    if let Ok(mut guard) = log.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

/// Waits until a ring has records.
async fn ready(ring: &mut AsyncFd<Ring>) -> anyhow::Result<()> {
    let mut guard = ring.readable_mut().await.context("wait for a ring buffer")?;
    guard.clear_ready();
    Ok(())
}

/// Registers a ring buffer with the runtime.
fn watch<T: std::os::fd::AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the ring owns its descriptor, always gives the same one, and is not replaced behind the `AsyncFd`.
    unsafe { AsyncFd::register(ring) }.map_err(|error| error.into_parts().1)
}

struct Reader {
    lost: PerCpuArray<MapData, u64>,
    /// Losses told so far, by ring.
    told: [u64; 2],
    /// The generation of the ring where records are kept until their events are written.
    keeps: Option<u64>,
    /// Before this position lie kills that an earlier ring holds too: they are kept until all of them are told.
    marks_from: usize,
    decoder: Decoder,
    hierarchy: Option<MemoryHierarchy>,
    out: Sender<Observation>,
    heartbeat: Heartbeat,
}

impl Reader {
    /// Sends everything in the rings, births of cgroups before kills in them, then what was lost. True where there
    /// were kills.
    async fn drain(&mut self, changes: &mut Ring, ooms: &mut Ring) -> anyhow::Result<bool> {
        self.pass_on_changes(changes).await?;
        let before = ooms.position();
        self.pass_on_kills(ooms).await?;
        // A full ring wakes this reader, so its losses are told without a timer.
        self.tell_losses(CHANGE_RING, LostRecords::Cgroup).await?;
        self.tell_losses(OOM_RING, LostRecords::Oom).await?;
        self.mark(ooms).await?;
        Ok(ooms.position() != before)
    }

    /// Waits where the queue is full: the ring is the buffer that counts what it loses.
    async fn pass_on_kills(&mut self, ooms: &mut Ring) -> anyhow::Result<()> {
        let mut passed_on: usize = 0;
        while let Some(observation) = ooms.next(|record| self.decode(record)) {
            self.send(observation).await?;
            passed_on += 1;
            if passed_on.is_multiple_of(MARK_EVERY) {
                self.mark(ooms).await?;
            }
        }
        Ok(())
    }

    /// The kernel wakes a reader only where all but the record just written was given back, so a last look comes after.
    async fn pass_on_changes(&mut self, changes: &mut Ring) -> anyhow::Result<()> {
        loop {
            let before = changes.position();
            while let Some(observation) = changes.next(|record| self.decode(record)) {
                self.send(observation).await?;
            }
            if changes.position() == before {
                return Ok(());
            }
            changes.consumed().up_to(changes.position());
            // Either the next look sees a record, or its writer sees the position.
            fence(Ordering::SeqCst);
        }
    }

    /// What was recorded while no agent ran, and until the programs of now were there. Only births and deaths of
    /// cgroups among the changes: a limit that was hit without a kill is asked for later, and then it is too late.
    async fn read_past(&mut self, past: Past) -> anyhow::Result<()> {
        past.detach();
        if let Some(mut rings) = past.rings {
            while let Some(observation) = rings.changes.next(|record| self.decode(record)) {
                if matches!(observation, Observation::CgroupMade(_) | Observation::CgroupRemoved(_)) {
                    self.send(observation).await?;
                }
            }
            while let Some(observation) = rings.ooms.next(|record| self.decode(record)) {
                self.send(observation).await?;
            }
            let count = rings.lost();
            if count > 0 {
                self.send(Observation::Lost(Lost { records: LostRecords::Oom, count })).await?;
            }
        }
        Ok(())
    }

    /// Says how far it read, or gives back what was read where nobody waits for it.
    async fn mark(&self, ooms: &Ring) -> anyhow::Result<()> {
        let Some(generation) = self.keeps else {
            ooms.consumed().up_to(ooms.position());
            return Ok(());
        };
        if ooms.position() < self.marks_from {
            return Ok(());
        }
        let mark = ReadMark {
            generation,
            position: ooms.position() as u64,
            lost: self.told[OOM_RING as usize],
            urgent: ooms.is_half_full(),
        };
        self.send(Observation::Read(mark)).await
    }

    async fn send(&self, observation: Observation) -> anyhow::Result<()> {
        self.out.send(observation).await.context("pass on an observation")?;
        self.heartbeat.beat();
        Ok(())
    }

    fn decode(&self, record: &[u8]) -> Observation {
        let decoded = self.decoder.decode(record);
        let mut observation = decoded.unwrap_or_else(|error| Observation::Undecodable(error.to_string()));
        if let (Observation::Victim(victim), Some(hierarchy)) = (&mut observation, &self.hierarchy)
            && self.decoder.trace.is_some()
        {
            hierarchy.find_dying(victim);
        }
        observation
    }

    async fn tell_losses(&mut self, ring: u32, records: LostRecords) -> anyhow::Result<()> {
        let by_cpu = self.lost.get(&ring, 0).context("read the loss counter")?;
        let lost: u64 = by_cpu.iter().sum();
        let Some(told) = self.told.get_mut(ring as usize) else { return Ok(()) };
        let count = lost.saturating_sub(*told);
        *told = lost;
        if count > 0 {
            let lost = Observation::Lost(Lost { records, count });
            self.send(lost).await?;
        }
        Ok(())
    }
}

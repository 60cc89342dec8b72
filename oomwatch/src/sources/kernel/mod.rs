//! The eBPF source: OOM victims, ends of OOM runs, births and deaths of cgroups, futile reclaim, losses.
//!
//! `load` brings the program into the kernel, `hooks` attaches what this kernel allows, `btf` and `offsets` find the
//! kernel's fields, `decode` turns records into observations. Only this module knows aya.

pub(crate) mod btf;
pub(crate) mod decode;
pub(crate) mod hooks;
pub(crate) mod load;
pub(crate) mod offsets;
mod trace_format;

use std::io;

use anyhow::Context as _;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya_log::EbpfLogger;
use oomwatch_common::{CHANGE_RING, OOM_RING};
use tokio::{io::unix::AsyncFd, sync::mpsc::Sender};

use self::{decode::Decoder, load::Loaded};
use crate::{
    host::memory::MemoryHierarchy,
    observation::{Lost, LostRecords, Observation},
    stop::Stop,
};

/// Reads the ring buffers until `stop`, then once more, so that a kill just before it is told.
pub(crate) async fn run(loaded: Loaded, out: Sender<Observation>, stop: Stop) -> anyhow::Result<()> {
    let Loaded { mut ebpf, ooms, changes, lost, decoder, hierarchy, .. } = loaded;
    let mut log = program_log(&mut ebpf)?;
    let mut ooms = watch(ooms).context("watch the ring of victims")?;
    let mut changes = watch(changes).context("watch the ring of cgroups")?;
    let mut reader = Reader { lost, told: [0; 2], decoder, hierarchy, out };
    loop {
        // Only waiting may be cancelled: a record taken from a ring must arrive.
        tokio::select! {
            () = stop.stopped() => break,
            ready = ready(&mut ooms) => ready?,
            ready = ready(&mut changes) => ready?,
            () = flush_log(log.as_mut()) => {}
        }
        reader.drain(changes.get_mut(), ooms.get_mut()).await?;
    }
    reader.drain(changes.get_mut(), ooms.get_mut()).await?;
    drop(ebpf);
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
async fn ready(ring: &mut AsyncFd<RingBuf<MapData>>) -> anyhow::Result<()> {
    let mut guard = ring.readable_mut().await.context("wait for a ring buffer")?;
    guard.clear_ready();
    Ok(())
}

/// Registers one of aya's ring buffers with the runtime.
fn watch<T: std::os::fd::AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the ring owns its descriptor, always gives the same one, and is not replaced behind the `AsyncFd`.
    unsafe { AsyncFd::register(ring) }.map_err(|error| error.into_parts().1)
}

struct Reader {
    lost: PerCpuArray<MapData, u64>,
    /// Losses told so far, by ring.
    told: [u64; 2],
    decoder: Decoder,
    hierarchy: Option<MemoryHierarchy>,
    out: Sender<Observation>,
}

impl Reader {
    /// Sends everything in the rings, births of cgroups before kills in them, then what was lost.
    async fn drain(&mut self, changes: &mut RingBuf<MapData>, ooms: &mut RingBuf<MapData>) -> anyhow::Result<()> {
        self.pass_on(changes).await?;
        self.pass_on(ooms).await?;
        // A full ring wakes this reader, so its losses are told without a timer.
        self.tell_losses(CHANGE_RING, LostRecords::Cgroup).await?;
        self.tell_losses(OOM_RING, LostRecords::Oom).await
    }

    /// Waits where the queue is full: the ring is the buffer that counts what it loses.
    async fn pass_on(&mut self, ring: &mut RingBuf<MapData>) -> anyhow::Result<()> {
        loop {
            // The item borrows the ring, so it must be decoded and gone before the next `await`.
            let observation = match ring.next() {
                Some(record) => decode(&self.decoder, self.hierarchy.as_ref(), &record),
                None => return Ok(()),
            };
            self.out.send(observation).await.context("pass on an observation")?;
        }
    }

    async fn tell_losses(&mut self, ring: u32, records: LostRecords) -> anyhow::Result<()> {
        let by_cpu = self.lost.get(&ring, 0).context("read the loss counter")?;
        let lost: u64 = by_cpu.iter().sum();
        let Some(told) = self.told.get_mut(ring as usize) else { return Ok(()) };
        let count = lost.saturating_sub(*told);
        *told = lost;
        if count > 0 {
            let lost = Observation::Lost(Lost { records, count });
            self.out.send(lost).await.context("pass on a loss")?;
        }
        Ok(())
    }
}

fn decode(decoder: &Decoder, hierarchy: Option<&MemoryHierarchy>, record: &[u8]) -> Observation {
    let mut observation = decoder.decode(record).unwrap_or_else(|error| Observation::Undecodable(error.to_string()));
    if let (Observation::Victim(victim), Some(hierarchy)) = (&mut observation, hierarchy)
        && decoder.trace.is_some()
    {
        hierarchy.find_dying(victim);
    }
    observation
}

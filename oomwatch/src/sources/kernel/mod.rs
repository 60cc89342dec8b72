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
use tokio::{io::unix::AsyncFd, sync::mpsc::Sender};

use self::{decode::Decoder, load::Loaded};
use crate::{host::memory::MemoryHierarchy, observation::Observation, stop::Stop};

/// Reads the ring buffer until `stop`, then once more, so that a kill just before it is told.
pub(crate) async fn run(loaded: Loaded, out: Sender<Observation>, stop: Stop) -> anyhow::Result<()> {
    let Loaded { mut ebpf, events, lost, decoder, hierarchy, .. } = loaded;
    let mut log = match EbpfLogger::init(&mut ebpf) {
        Ok(logger) => Some(watch(logger).context("watch the program's log")?),
        Err(error) => {
            tracing::debug!(%error, "the program's own log cannot be read");
            None
        }
    };
    let events = watch(events).context("watch the ring buffer")?;
    let mut reader = Reader { events, lost, decoder, hierarchy, told: 0 };
    loop {
        tokio::select! {
            () = stop.stopped() => break,
            outcome = reader.wait_and_drain(&out) => outcome?,
            () = flush_log(log.as_mut()) => {}
        }
    }
    reader.drain(&out).await?;
    drop(ebpf);
    Ok(())
}

/// Waits for the program's own diagnostics and passes them to the agent's log; for ever where there are none.
async fn flush_log(log: Option<&mut AsyncFd<EbpfLogger<&'static dyn tracing_log::log::Log>>>) {
    let Some(log) = log else { return std::future::pending().await };
    if let Ok(mut guard) = log.readable_mut().await {
        guard.get_inner_mut().flush();
        guard.clear_ready();
    }
}

/// Registers one of aya's ring buffers with the runtime.
fn watch<T: std::os::fd::AsRawFd>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the ring owns its descriptor, always gives the same one, and is not replaced behind the `AsyncFd`.
    unsafe { AsyncFd::register(ring) }.map_err(|error| error.into_parts().1)
}

struct Reader {
    events: AsyncFd<RingBuf<MapData>>,
    lost: PerCpuArray<MapData, u64>,
    decoder: Decoder,
    hierarchy: Option<MemoryHierarchy>,
    /// Losses told so far.
    told: u64,
}

impl Reader {
    async fn wait_and_drain(&mut self, out: &Sender<Observation>) -> anyhow::Result<()> {
        let mut guard = self.events.readable_mut().await.context("wait for the ring buffer")?;
        guard.clear_ready();
        drop(guard);
        self.drain(out).await
    }

    /// Sends everything in the ring. Waits where the queue is full: the ring is the buffer that counts what it loses.
    async fn drain(&mut self, out: &Sender<Observation>) -> anyhow::Result<()> {
        loop {
            // The item borrows the ring, so it must be decoded and gone before the next `await`.
            let observation = match self.events.get_mut().next() {
                Some(record) => decode(&self.decoder, self.hierarchy.as_ref(), &record),
                None => break,
            };
            out.send(observation).await.context("pass on an observation")?;
        }
        // A full ring wakes this reader, so its losses are told without a timer.
        let lost = self.lost_records()?;
        if lost > self.told {
            out.send(Observation::Lost(lost - self.told)).await.context("pass on a loss")?;
            self.told = lost;
        }
        Ok(())
    }

    fn lost_records(&self) -> anyhow::Result<u64> {
        let by_cpu = self.lost.get(&0, 0).context("read the loss counter")?;
        Ok(by_cpu.iter().sum())
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

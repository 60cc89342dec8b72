//! Brings the eBPF object into the kernel: field offsets from BTF, then the hooks. No event is read here.

use std::thread;

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapData, PerCpuArray},
    programs::links::FdLink,
};
use oomwatch_common::{FIELD_COUNT, MISSING};
use rustix::{
    process::chroot,
    thread::{UnshareFlags, unshare_unsafe},
};
use thiserror::Error;

use super::{
    btf::Btf,
    decode::Decoder,
    hooks::{self, Attached, Hook},
    keeping::{Keep, Keeping, Release},
    offsets::{self, KernelLayout, kernel_name},
    pin::{self, Kept},
    program::explain,
    ring::Ring,
    trace_format::TraceFormat,
};
use crate::{
    host::{memory::MemoryHierarchy, system, tracefs, vmstat},
    observation::{KillTotal, SourceFacts},
    sinks::metrics::Limits,
};

/// The program, built by `build.rs`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/oomwatch-ebpf.o"));

/// Why no eBPF program could be loaded at all.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    /// The kernel refuses the object.
    #[error("cannot load the eBPF object: {0}")]
    Object(String),
    /// A map is not what the agent was built with.
    #[error("cannot use the eBPF map {name}: {reason}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel or the object says.
        reason: String,
    },
    /// It is not to be tried.
    #[error("withheld")]
    Withheld,
    /// No hook sees a victim.
    #[error("no eBPF hook sees OOM victims: {0}")]
    NoVictim(String),
}

/// Everything that lives in the kernel while this value does.
pub(crate) struct Loaded {
    /// Keeps programs alive, and of their links those that are not to outlive the agent or cannot be pinned.
    pub(crate) ebpf: Ebpf,
    /// Links that end with this value; elsewhere they are pinned.
    pub(crate) links: Vec<(String, FdLink)>,
    /// What outlives the agent.
    pub(crate) keeping: Option<Keeping>,
    /// Victims and ends of runs.
    pub(crate) ooms: Ring,
    /// Cgroups and futile reclaim.
    pub(crate) changes: Ring,
    /// Lost records by CPU.
    pub(crate) lost: PerCpuArray<MapData, u64>,
    /// How many kills the kernel had counted once the hooks were there; `None` where it does not count.
    pub(crate) kills: Option<KillTotal>,
    /// The memory cgroups.
    pub(crate) hierarchy: Option<MemoryHierarchy>,
    /// How records are read.
    pub(crate) decoder: Decoder,
    /// What is seen and how.
    pub(crate) sight: Sight,
}

/// What the kernel source sees on this host, and what not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// The rung of the ladder, e.g. `bpf+fentry`.
    pub(crate) tier: String,
    /// Each hook and how it went.
    pub(crate) hooks: Vec<Hook>,
    /// One sentence for each thing that is not seen.
    pub(crate) degraded: Vec<String>,
    /// Victims come with their cgroup from the kernel.
    pub(crate) exact_victim: bool,
    /// Of which kills the limit that was hit is known.
    pub(crate) limits: Limits,
    /// Starts of programs are seen.
    pub(crate) sees_exec: bool,
    /// Ends of containers are seen with their exit codes.
    pub(crate) sees_exit: bool,
    /// What conclusions depend on.
    pub(crate) facts: SourceFacts,
}

/// Loads and attaches. `withheld` names ways not to be tried: `fentry`, `kprobe`, `perf`, `btf`, `bpf`. With `keep`, records are given
/// back only when their events are written.
pub(crate) fn load(
    hierarchy: Option<&MemoryHierarchy>,
    withheld: &[String],
    keep: Option<Keep>,
) -> Result<Loaded, LoadError> {
    let is_withheld = |way: &str| withheld.iter().any(|name| name == way);
    if is_withheld("bpf") {
        return Err(LoadError::Withheld);
    }
    raise_memlock_limit();
    let layout = if is_withheld("btf") { Err("withheld".to_owned()) } else { kernel_layout(hierarchy) };
    let (layout, without) = match layout {
        Ok(layout) => (Some(layout), String::new()),
        Err(reason) => (None, format!("no BTF ({reason})")),
    };
    match attach_and_keep(hierarchy, withheld, keep.clone(), layout, &without) {
        // The tracepoint's own record holds the victim's thread where nothing hands its task over.
        Err(LoadError::NoVictim(reason)) if without.is_empty() => {
            let without = format!("no hook is handed the victim ({reason})");
            attach_and_keep(hierarchy, withheld, keep, None, &without)
        }
        other => other,
    }
}

/// `without` says why the kernel's types are not known.
fn attach_and_keep(
    hierarchy: Option<&MemoryHierarchy>,
    withheld: &[String],
    keep: Option<Keep>,
    layout: Option<KernelLayout>,
    without: &str,
) -> Result<Loaded, LoadError> {
    let mut degraded = Vec::new();
    if layout.is_none() {
        degraded.push(format!("{without}: victims come without their cgroup's limits"));
    }
    let trace = if layout.is_none() { Some(trace_format()?) } else { None };
    let table = layout.as_ref().map_or([MISSING; FIELD_COUNT], |layout| layout.table);
    let mut ebpf = loader()
        .btf(None)
        .override_global("OFFSETS", &table, true)
        .load(OBJECT)
        .map_err(|error| LoadError::Object(explain(&error)))?;
    let mut attached = hooks::attach(&mut ebpf, layout.as_ref(), withheld);
    if attached.victim.is_none() {
        return Err(LoadError::NoVictim(reasons(&attached)));
    }
    let kills = vmstat::oom_kills()
        .inspect_err(|error| tracing::debug!(%error, "reports cannot be compared with the kernel's count of kills"))
        .ok();
    let ooms = take_map(&mut ebpf, "OOMS")?;
    let changes = take_map(&mut ebpf, "CHANGES")?;
    let lost = take_map(&mut ebpf, "LOST")?;
    let mut links = std::mem::take(&mut attached.links);
    let page_bytes = rustix::param::page_size() as u64;
    let decoder = Decoder { page_bytes, sees_killing: attached.sees_killing, trace };
    let reading = pin::reading(attached.facts(), &decoder);
    let maps = Kept { ooms: &ooms, changes: &changes, lost: &lost, reading };
    let keep = keep.map(|keep| attached.as_far_as_can_be(keep));
    let keeping = keep.as_ref().map(|keep| Keeping::start(keep, &maps, &mut links)).transpose();
    let keeping = match (keeping, keep) {
        (Ok(keeping), _) => keeping,
        (Err(error), Some(keep)) if keep.cannot_pin.is_none() => {
            let cannot_pin = Some(format!("{error:#}"));
            return attach_and_keep(hierarchy, withheld, Some(Keep { cannot_pin, ..keep }), layout, without);
        }
        (Err(error), _) => return Err(LoadError::Object(format!("{error:#}"))),
    };
    let sight = sight(layout.as_ref(), attached, degraded);
    give_memory_back();
    Ok(Loaded {
        ebpf,
        links,
        keeping,
        ooms: Ring::new("OOMS", ooms)?,
        changes: Ring::new("CHANGES", changes)?,
        lost: per_cpu("LOST", lost)?,
        kills,
        hierarchy: hierarchy.cloned(),
        decoder,
        sight,
    })
}

impl Loaded {
    /// The way to give records back; `None` where they are given back as soon as they are read.
    pub(crate) fn release(&self) -> Option<Release> {
        self.keeping.as_ref().map(|keeping| Release::new(self.ooms.consumed(), &keeping.past))
    }

    /// Earlier agents left something to be told.
    pub(crate) fn has_past(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| !keeping.past.is_empty())
    }
}

/// Made in a thread to which `/dev` is the root, where that is permitted. aya's loader reads all of the kernel's BTF as soon as it is
/// made, also where it is to do without, and where there is no such file it has none. aya 0.15 is better, and wants Rust 1.98.
fn loader() -> EbpfLoader<'static> {
    let elsewhere = || {
        // SAFETY: what the thread no longer shares is its root and its working directory.
        let moved = unsafe { unshare_unsafe(UnshareFlags::FS) }.and_then(|()| chroot("/dev"));
        if let Err(error) = moved {
            tracing::debug!(%error, "aya reads the kernel's types, too");
        }
        EbpfLoader::new()
    };
    thread::Builder::new().spawn(elsewhere).ok().and_then(|thread| thread.join().ok()).unwrap_or_default()
}

/// Linux before 5.11 charges maps to `RLIMIT_MEMLOCK`. Where it may not be raised, loading says so itself.
fn raise_memlock_limit() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let unlimited = Rlimit { current: None, maximum: None };
    if let Err(error) = setrlimit(Resource::Memlock, unlimited) {
        tracing::debug!(%error, "cannot raise RLIMIT_MEMLOCK");
    }
}

/// Reading BTF takes tens of megabytes for a moment; without this they would stay with the agent for ever.
fn give_memory_back() {
    // SAFETY: `malloc_trim` has no precondition.
    let _released = unsafe { libc::malloc_trim(0) };
}

fn kernel_layout(hierarchy: Option<&MemoryHierarchy>) -> Result<KernelLayout, String> {
    let bytes = system::kernel_btf().map_err(|error| error.to_string())?;
    let btf = Btf::parse(&bytes).map_err(|error| error.to_string())?;
    let layout = offsets::resolve(&btf, hierarchy.map_or(0, |hierarchy| hierarchy.id));
    let missing: Vec<String> = layout.missing_essential().map(kernel_name).collect();
    if missing.is_empty() { Ok(layout) } else { Err(format!("it has no {}", missing.join(", "))) }
}

/// Without BTF all depends on the tracepoint's own record.
fn trace_format() -> Result<TraceFormat, LoadError> {
    let text = tracefs::ensure_mounted().and_then(|()| tracefs::format("oom/mark_victim"));
    let text = text.map_err(|error| LoadError::NoVictim(error.to_string()))?;
    TraceFormat::parse(&text).ok_or_else(|| LoadError::NoVictim("oom:mark_victim has no field pid".to_owned()))
}

fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<MapData, LoadError> {
    match ebpf.take_map(name) {
        Some(Map::RingBuf(map) | Map::PerCpuArray(map)) => Ok(map),
        _ => Err(LoadError::Map { name, reason: "not in the object".to_owned() }),
    }
}

/// One number for each CPU.
pub(super) fn per_cpu(name: &'static str, map: MapData) -> Result<PerCpuArray<MapData, u64>, LoadError> {
    let array = PerCpuArray::try_from(Map::PerCpuArray(map));
    array.map_err(|error| LoadError::Map { name, reason: explain(&error) })
}

fn reasons(attached: &Attached) -> String {
    let refused = attached.hooks.iter().filter_map(|hook| {
        let reason = hook.outcome.as_ref().err()?;
        Some(format!("{}: {reason}", hook.target))
    });
    refused.collect::<Vec<_>>().join("; ")
}

fn sight(layout: Option<&KernelLayout>, attached: Attached, mut degraded: Vec<String>) -> Sight {
    let facts = attached.facts();
    for hook in &attached.hooks {
        if let Err(reason) = &hook.outcome {
            degraded.push(format!("{} is not hooked, so {} ({reason})", hook.target, hook.without));
        }
    }
    degraded.extend(attached.skipping);
    if let Some(layout) = layout {
        let missing: Vec<String> = layout.missing.iter().map(|field| kernel_name(*field)).collect();
        if !missing.is_empty() {
            degraded.push(format!("kernel fields not found: {}", missing.join(" ")));
        }
    }
    let tier = match (layout, attached.run) {
        (None, _) => "bpf+record".to_owned(),
        (Some(_), Some(method)) => format!("bpf+{}", method.name()),
        (Some(_), None) => "bpf+inferred".to_owned(),
    };
    Sight {
        tier,
        exact_victim: layout.is_some(),
        limits: if layout.is_some() { Limits::Always } else { Limits::Never },
        sees_exec: attached.sees_exec,
        sees_exit: attached.sees_exit,
        facts,
        hooks: attached.hooks,
        degraded,
    }
}

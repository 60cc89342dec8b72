//! Brings the eBPF object into the kernel: field offsets from BTF, then the hooks. No event is read here.

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Map, MapData, PerCpuArray, RingBuf},
};
use oomwatch_common::{FIELD_COUNT, MISSING};
use thiserror::Error;

use super::{
    btf::Btf,
    decode::Decoder,
    hooks::{self, Attached, Hook, explain},
    offsets::{self, KernelLayout, kernel_name},
    trace_format::TraceFormat,
};
use crate::{
    host::{memory::MemoryHierarchy, system, tracefs},
    observation::SourceFacts,
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
    /// No hook sees a victim.
    #[error("no eBPF hook sees OOM victims: {0}")]
    NoVictim(String),
}

/// Everything that lives in the kernel while this value does.
pub(crate) struct Loaded {
    /// Keeps programs and links alive.
    pub(crate) ebpf: Ebpf,
    /// Victims and ends of runs.
    pub(crate) ooms: RingBuf<MapData>,
    /// Cgroups and futile reclaim.
    pub(crate) changes: RingBuf<MapData>,
    /// Lost records by CPU.
    pub(crate) lost: PerCpuArray<MapData, u64>,
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
    /// Starts of programs are seen.
    pub(crate) sees_exec: bool,
    /// Ends of containers are seen with their exit codes.
    pub(crate) sees_exit: bool,
    /// What conclusions depend on.
    pub(crate) facts: SourceFacts,
}

/// Loads and attaches. `withheld` names ways not to be tried: `fentry`, `kprobe`, `btf`.
pub(crate) fn load(hierarchy: Option<&MemoryHierarchy>, withheld: &[String]) -> Result<Loaded, LoadError> {
    raise_memlock_limit();
    let mut degraded = Vec::new();
    let layout =
        if withheld.iter().any(|name| name == "btf") { Err("withheld".to_owned()) } else { kernel_layout(hierarchy) };
    if let Err(reason) = &layout {
        degraded.push(format!("no BTF ({reason}): victims come without their cgroup's limits"));
    }
    let layout = layout.ok();
    let trace = if layout.is_none() { Some(trace_format()?) } else { None };
    let table = layout.as_ref().map_or([MISSING; FIELD_COUNT], |layout| layout.table);
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .override_global("OFFSETS", &table, true)
        .load(OBJECT)
        .map_err(|error| LoadError::Object(explain(&error)))?;
    let attached = hooks::attach(&mut ebpf, layout.as_ref(), withheld);
    if attached.victim.is_none() {
        return Err(LoadError::NoVictim(reasons(&attached)));
    }
    let ooms = take_map(&mut ebpf, "OOMS")?;
    let changes = take_map(&mut ebpf, "CHANGES")?;
    let lost = take_map(&mut ebpf, "LOST")?;
    let page_bytes = rustix::param::page_size() as u64;
    let decoder = Decoder { page_bytes, sees_killing: attached.sees_killing, trace };
    let sight = sight(layout.as_ref(), attached, degraded);
    give_memory_back();
    Ok(Loaded { ebpf, ooms, changes, lost, hierarchy: hierarchy.cloned(), decoder, sight })
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
    let text = tracefs::format("oom/mark_victim").map_err(|error| LoadError::NoVictim(error.to_string()))?;
    TraceFormat::parse(&text).ok_or_else(|| LoadError::NoVictim("oom:mark_victim has no field pid".to_owned()))
}

fn take_map<T: TryFrom<Map, Error = aya::maps::MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::Map { name, reason: "not in the object".to_owned() })?;
    T::try_from(map).map_err(|error| LoadError::Map { name, reason: explain(&error) })
}

fn reasons(attached: &Attached) -> String {
    let refused = attached.hooks.iter().filter_map(|hook| {
        let reason = hook.outcome.as_ref().err()?;
        Some(format!("{}: {reason}", hook.target))
    });
    refused.collect::<Vec<_>>().join("; ")
}

fn sight(layout: Option<&KernelLayout>, attached: Attached, mut degraded: Vec<String>) -> Sight {
    for hook in &attached.hooks {
        if let Err(reason) = &hook.outcome {
            degraded.push(format!("{} is not hooked, so {} ({reason})", hook.target, hook.without));
        }
    }
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
        sees_exec: attached.sees_exec,
        sees_exit: attached.sees_exit,
        facts: SourceFacts {
            sees_killing: attached.sees_killing,
            sees_run: attached.run.is_some(),
            sees_no_kill: attached.sees_no_kill,
        },
        hooks: attached.hooks,
        degraded,
    }
}

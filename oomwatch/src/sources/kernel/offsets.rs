//! Fills the table of field offsets from the running kernel's BTF, and tells what its hooks carry: which arguments
//! `mark_victim` has, which functions of the OOM killer exist, where a reclaim tracepoint names its memcg.
//!
//! A field whose type is not what the program reads counts as missing: never a wrong value, rather none.

use oomwatch_common::{FIELD_COUNT, Field, MISSING};

use super::btf::{Btf, Kind, TypeId};

/// What the running kernel offers to the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KernelLayout {
    /// The table to hand to the program, indexed by [`Field`].
    pub(crate) table: [u32; FIELD_COUNT],
    /// Fields whose entry is [`MISSING`]. The program reads them as 0, so the agent must leave out what they feed.
    pub(crate) missing: Vec<Field>,
    /// What the tracepoint `oom:mark_victim` hands to a raw tracepoint program.
    pub(crate) mark_victim: MarkVictimArgs,
    /// Functions of the OOM killer that exist and whose first argument is the one that the program reads.
    pub(crate) functions: Vec<(&'static str, TypeId)>,
    /// Index of the raw tracepoint argument of `vmscan:mm_vmscan_memcg_reclaim_end` that is a `mem_cgroup *` (since
    /// Linux 7.2).
    pub(crate) reclaim_end_memcg_arg: Option<u32>,
}

/// First argument of `oom:mark_victim`. Stable kernels changed it too (5.10.218: pid, 5.10.262: task), so the version
/// of a kernel does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkVictimArgs {
    /// The victim's `task_struct`.
    Task,
    /// Only its pid.
    PidOnly,
    /// No such tracepoint, or an argument of another type.
    Absent,
}

/// Functions of the OOM killer that may be hooked, and the struct that the first argument points to.
const FUNCTIONS: [(&str, &str); 4] = [
    ("oom_kill_process", "oom_control"),
    ("__oom_kill_process", "task_struct"),
    ("mem_cgroup_out_of_memory", "mem_cgroup"),
    ("mark_oom_victim", "task_struct"),
];

/// What the program expects to find at an offset.
#[derive(Clone, Copy)]
enum Shape {
    /// A pointer.
    Pointer,
    /// A value of so many bytes.
    Bytes(u32),
    /// At least `count` elements of `size` bytes.
    Array { size: u32, count: u32 },
    /// Elements that are this struct.
    ArrayOf(&'static str),
    /// This struct itself.
    Struct(&'static str),
}

/// A member whose offset is an entry of the table.
struct MemberEntry {
    field: Field,
    of: &'static str,
    /// Its name, the newest first.
    names: &'static [&'static str],
    shape: Shape,
}

const fn member(field: Field, of: &'static str, names: &'static [&'static str], shape: Shape) -> MemberEntry {
    MemberEntry { field, of, names, shape }
}

const POINTER: Shape = Shape::Pointer;
const U32: Shape = Shape::Bytes(4);
const U64: Shape = Shape::Bytes(8);

const MEMBERS: [MemberEntry; 41] = [
    member(Field::TaskPid, "task_struct", &["pid"], U32),
    member(Field::TaskTgid, "task_struct", &["tgid"], U32),
    member(Field::TaskComm, "task_struct", &["comm"], Shape::Array { size: 1, count: 16 }),
    member(Field::TaskCgroups, "task_struct", &["cgroups"], POINTER),
    member(Field::TaskMm, "task_struct", &["mm"], POINTER),
    member(Field::TaskSignal, "task_struct", &["signal"], POINTER),
    member(Field::TaskRealCred, "task_struct", &["real_cred"], POINTER),
    member(Field::TaskStartBoottime, "task_struct", &["start_boottime"], U64),
    member(Field::TaskGroupLeader, "task_struct", &["group_leader"], POINTER),
    member(Field::TaskThreadPid, "task_struct", &["thread_pid"], POINTER),
    member(Field::TaskRealParent, "task_struct", &["real_parent"], POINTER),
    member(Field::TaskExitCode, "task_struct", &["exit_code"], U32),
    member(Field::PidLevel, "pid", &["level"], U32),
    member(Field::PidNumbers, "pid", &["numbers"], Shape::ArrayOf("upid")),
    member(Field::UpidNr, "upid", &["nr"], U32),
    member(Field::CssSetSubsys, "css_set", &["subsys"], Shape::Array { size: 8, count: 1 }),
    member(Field::CssCgroup, "cgroup_subsys_state", &["cgroup"], POINTER),
    member(Field::CgroupKn, "cgroup", &["kn"], POINTER),
    member(Field::CgroupLevel, "cgroup", &["level"], U32),
    member(Field::CgroupRoot, "cgroup", &["root"], POINTER),
    member(Field::CgroupRootHierarchyId, "cgroup_root", &["hierarchy_id"], U32),
    member(Field::KernfsId, "kernfs_node", &["id"], U64),
    member(Field::KernfsName, "kernfs_node", &["name"], POINTER),
    member(Field::KernfsParent, "kernfs_node", &["__parent", "parent"], POINTER),
    member(Field::SignalOomScoreAdj, "signal_struct", &["oom_score_adj"], Shape::Bytes(2)),
    member(Field::SignalLive, "signal_struct", &["live"], U32),
    member(Field::SignalFlags, "signal_struct", &["flags"], U32),
    member(Field::SignalGroupExitCode, "signal_struct", &["group_exit_code"], U32),
    member(Field::CredUid, "cred", &["uid"], U32),
    member(Field::MmTotalVm, "mm_struct", &["total_vm"], U64),
    member(Field::MmPgtablesBytes, "mm_struct", &["pgtables_bytes"], U64),
    member(Field::OomControlMemcg, "oom_control", &["memcg"], POINTER),
    member(Field::OomControlTotalpages, "oom_control", &["totalpages"], U64),
    member(Field::OomControlConstraint, "oom_control", &["constraint"], U32),
    member(Field::MemcgCss, "mem_cgroup", &["css"], Shape::Struct("cgroup_subsys_state")),
    member(Field::MemcgMemory, "mem_cgroup", &["memory"], Shape::Struct("page_counter")),
    member(Field::MemcgOomGroup, "mem_cgroup", &["oom_group"], Shape::Bytes(1)),
    member(Field::MemcgEventsLocal, "mem_cgroup", &["memory_events_local"], Shape::Array { size: 8, count: 5 }),
    member(Field::PageCounterUsage, "page_counter", &["usage"], U64),
    member(Field::PageCounterMax, "page_counter", &["max"], U64),
    member(Field::PageCounterParent, "page_counter", &["parent"], POINTER),
];

/// Enumerators whose value is an entry of the table.
const ENUMERATORS: [(Field, &str, &str); 3] = [
    (Field::MemoryCgrpId, "cgroup_subsys_id", "memory_cgrp_id"),
    (Field::MemcgEventOom, "memcg_memory_event", "MEMCG_OOM"),
    (Field::MemcgEventOomKill, "memcg_memory_event", "MEMCG_OOM_KILL"),
];

/// Number of counters that the program reads from `mm_struct.rss_stat`.
const RSS_COUNTERS: u32 = 4;

/// Types of one name that are compared. Linux 5.10 to 7.2 were seen with one of each; more than a few would be crafted.
const MAX_SAME_NAME: usize = 16;

const MARK_VICTIM: &str = "btf_trace_mark_victim";
const RECLAIM_END: &str = "btf_trace_mm_vmscan_memcg_reclaim_end";

/// Fields without which a kill cannot be told exactly: the victim, its memcg and path, and the limits above it.
/// Without any other the record is right but lacks what that field feeds.
const ESSENTIAL: [Field; 18] = [
    Field::TaskPid,
    Field::TaskTgid,
    Field::TaskComm,
    Field::TaskCgroups,
    Field::CssSetSubsys,
    Field::MemoryCgrpId,
    Field::CssCgroup,
    Field::CgroupKn,
    Field::CgroupRoot,
    Field::CgroupRootHierarchyId,
    Field::KernfsId,
    Field::KernfsName,
    Field::KernfsParent,
    Field::MemcgCss,
    Field::MemcgMemory,
    Field::PageCounterUsage,
    Field::PageCounterMax,
    Field::PageCounterParent,
];

impl KernelLayout {
    /// Missing fields without which a kill cannot be told exactly; none: it can.
    pub(crate) fn missing_essential(&self) -> impl Iterator<Item = Field> {
        self.missing.iter().copied().filter(|field| ESSENTIAL.contains(field))
    }

    /// Whether a function of the OOM killer exists and takes the argument that the program reads.
    pub(crate) fn has_function(&self, symbol: &str) -> bool {
        self.functions.iter().any(|(name, _)| *name == symbol)
    }
}

/// The kernel's name of a field, such as `kernfs_node.__parent`.
pub(crate) fn kernel_name(field: Field) -> String {
    let of_member = MEMBERS.iter().find(|entry| entry.field == field);
    let of_enum = ENUMERATORS.iter().find(|(value, ..)| *value == field);
    match (field, of_member, of_enum) {
        (_, Some(entry), _) => format!("{}.{}", entry.of, entry.names.join("|")),
        (_, _, Some((_, _, enumerator))) => (*enumerator).to_owned(),
        (Field::UpidSize, ..) => "upid".to_owned(),
        (Field::MmRssStat | Field::MmRssStride, ..) => "mm_struct.rss_stat".to_owned(),
        (other, ..) => format!("{other:?}"),
    }
}

/// Reads what the program needs out of the running kernel's BTF. `memory_hierarchy_id` is the hierarchy of the memory
/// controller, 0 on cgroup2.
pub(crate) fn resolve(btf: &Btf<'_>, memory_hierarchy_id: u32) -> KernelLayout {
    let kernel = Kernel::new(btf);
    let mut table = [MISSING; FIELD_COUNT];
    let mut set = |field: Field, value: Option<u32>| {
        if let Some(entry) = table.get_mut(field as usize) {
            *entry = value.unwrap_or(MISSING);
        }
    };
    for entry in &MEMBERS {
        set(entry.field, kernel.agreed(entry.of, |of| kernel.offset(of, entry)));
    }
    for (field, of, enumerator) in ENUMERATORS {
        set(field, kernel.agreed(of, |of| btf.enumerator(of, enumerator)));
    }
    set(Field::UpidSize, kernel.agreed("upid", |of| btf.size(of)));
    let rss = kernel.agreed("mm_struct", |mm| kernel.rss_counters(mm));
    set(Field::MmRssStat, rss.map(|(first, _)| first));
    set(Field::MmRssStride, rss.map(|(_, stride)| stride));
    set(Field::MemoryHierarchyId, Some(memory_hierarchy_id));
    KernelLayout {
        missing: Field::ALL.iter().copied().filter(|field| table.get(*field as usize) == Some(&MISSING)).collect(),
        table,
        mark_victim: kernel.mark_victim(),
        functions: kernel.functions(),
        reclaim_end_memcg_arg: kernel.agreed(RECLAIM_END, |trace| kernel.memcg_argument(trace)),
    }
}

/// The types looked up by name.
struct Kernel<'k> {
    btf: &'k Btf<'k>,
    types: Vec<(&'static str, TypeId)>,
}

impl<'k> Kernel<'k> {
    fn new(btf: &'k Btf<'k>) -> Self {
        let mut names: Vec<(Kind, &'static str)> = MEMBERS.iter().map(|entry| (Kind::Struct, entry.of)).collect();
        names.dedup();
        names.extend(ENUMERATORS.iter().map(|(_, of, _)| (Kind::Enum, *of)));
        names.extend([(Kind::Typedef, MARK_VICTIM), (Kind::Typedef, RECLAIM_END)]);
        names.extend(FUNCTIONS.iter().map(|(symbol, _)| (Kind::Function, *symbol)));
        Self { btf, types: btf.find(&names) }
    }

    /// What all types of a name say alike. Where deduplication failed, BTF holds a type more than once.
    fn agreed<T: PartialEq>(&self, name: &str, ask: impl Fn(TypeId) -> Option<T>) -> Option<T> {
        let same_name = self.types.iter().filter(|(of, _)| *of == name).take(MAX_SAME_NAME);
        let mut answers = same_name.filter_map(|(_, id)| ask(*id));
        let first = answers.next()?;
        answers.all(|answer| answer == first).then_some(first)
    }

    fn offset(&self, of: TypeId, entry: &MemberEntry) -> Option<u32> {
        let found = entry.names.iter().find_map(|name| self.btf.member(of, &[name]))?;
        self.has_shape(found.type_id, entry.shape).then_some(found.offset)
    }

    fn has_shape(&self, id: TypeId, shape: Shape) -> bool {
        match shape {
            Shape::Pointer => self.btf.pointee(id).is_some(),
            Shape::Bytes(size) => {
                !matches!(self.btf.kind(id), Some(Kind::Pointer | Kind::Array)) && self.btf.size(id) == Some(size)
            }
            Shape::Array { size, count } => self
                .btf
                .array(id)
                .is_some_and(|(element, elements)| elements >= count && self.btf.size(element) == Some(size)),
            Shape::ArrayOf(name) => self.btf.array(id).is_some_and(|(element, _)| self.btf.is_struct(element, name)),
            Shape::Struct(name) => self.btf.is_struct(id, name),
        }
    }

    /// Offset of the first rss counter, and the distance between two.
    fn rss_counters(&self, mm: TypeId) -> Option<(u32, u32)> {
        let btf = self.btf;
        let rss_stat = btf.member(mm, &["rss_stat"])?;
        let (first, element) = if let Some((counter, counters)) = btf.array(rss_stat.type_id) {
            // Since Linux 6.2: `struct percpu_counter rss_stat[NR_MM_COUNTERS]`.
            let count = btf.member(counter, &["count"])?;
            let first = rss_stat.offset.checked_add(count.offset)?;
            let is_count = counters >= RSS_COUNTERS && self.has_shape(count.type_id, U64);
            (is_count.then_some(first)?, counter)
        } else {
            // Before: `struct mm_rss_stat { atomic_long_t count[NR_MM_COUNTERS]; } rss_stat`.
            let count = btf.member(rss_stat.type_id, &["count"])?;
            let first = rss_stat.offset.checked_add(count.offset)?;
            let is_count = self.has_shape(count.type_id, Shape::Array { size: 8, count: RSS_COUNTERS });
            (is_count.then_some(first)?, btf.array(count.type_id)?.0)
        };
        Some((first, btf.size(element)?))
    }

    fn points_to(&self, pointer: TypeId, name: &str) -> bool {
        self.btf.pointee(pointer).is_some_and(|target| self.btf.is_struct(target, name))
    }

    fn mark_victim(&self) -> MarkVictimArgs {
        let first = |trace| {
            // Argument 0 is the tracepoint's own `void *__data`.
            let argument = *self.btf.arguments(trace)?.get(1)?;
            if self.points_to(argument, "task_struct") {
                return Some(MarkVictimArgs::Task);
            }
            (self.btf.kind(argument) == Some(Kind::Integer)).then_some(MarkVictimArgs::PidOnly)
        };
        self.agreed(MARK_VICTIM, first).unwrap_or(MarkVictimArgs::Absent)
    }

    fn memcg_argument(&self, trace: TypeId) -> Option<u32> {
        let arguments = self.btf.arguments(trace)?;
        let index = arguments.iter().skip(1).position(|argument| self.points_to(*argument, "mem_cgroup"))?;
        u32::try_from(index).ok()
    }

    fn functions(&self) -> Vec<(&'static str, TypeId)> {
        let offered = FUNCTIONS.iter().filter(|(symbol, argument)| {
            let takes = |id| Some(self.points_to(*self.btf.arguments(id)?.first()?, argument));
            self.agreed(symbol, takes) == Some(true)
        });
        offered.filter_map(|(symbol, _)| self.types.iter().find(|(of, _)| of == symbol).copied()).collect()
    }
}

#[cfg(test)]
#[path = "offsets_tests.rs"]
mod tests;

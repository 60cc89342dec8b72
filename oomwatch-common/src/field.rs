//! The table of kernel field offsets: the agent fills it from the running kernel's BTF, the program reads it.
//!
//! rustc emits no CO-RE relocations, so the offsets travel as one read-only array indexed by [`Field`].

/// Value of a table entry whose field does not exist in the running kernel.
pub const MISSING: u32 = u32::MAX;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Index into the table. Offsets are bytes unless said otherwise.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Field { $($(#[$doc])* $name),+ }

        impl Field {
            /// Every field, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
        }

        /// Number of entries of the table.
        pub const FIELD_COUNT: usize = Field::ALL.len();
    };
}

fields! {
    /// `task_struct.pid`: the thread id.
    TaskPid,
    /// `task_struct.tgid`: the process id.
    TaskTgid,
    /// `task_struct.comm`: 16 bytes, NUL-terminated.
    TaskComm,
    /// `task_struct.cgroups`: pointer to `css_set`.
    TaskCgroups,
    /// `task_struct.mm`: pointer to `mm_struct`, NULL for kernel threads and exited tasks.
    TaskMm,
    /// `task_struct.signal`: pointer to `signal_struct`.
    TaskSignal,
    /// `task_struct.real_cred`: pointer to `cred`.
    TaskRealCred,
    /// `task_struct.start_boottime`: nanoseconds since boot.
    TaskStartBoottime,
    /// `task_struct.group_leader`: pointer to the leader's `task_struct`.
    TaskGroupLeader,
    /// `task_struct.thread_pid`: pointer to `pid`.
    TaskThreadPid,
    /// `task_struct.real_parent`: pointer to the parent's `task_struct`.
    TaskRealParent,
    /// `task_struct.exit_code`: wait status of the thread.
    TaskExitCode,
    /// `pid.level`: depth of the innermost pid namespace.
    PidLevel,
    /// `pid.numbers`: array of `upid`.
    PidNumbers,
    /// Size of `upid`, bytes.
    UpidSize,
    /// `upid.nr`.
    UpidNr,
    /// `css_set.subsys`: array of pointers to `cgroup_subsys_state`.
    CssSetSubsys,
    /// Value of `memory_cgrp_id` in `enum cgroup_subsys_id` (an index, not an offset).
    MemoryCgrpId,
    /// `cgroup_subsys_state.cgroup`: pointer to `cgroup`.
    CssCgroup,
    /// `cgroup.kn`: pointer to `kernfs_node`.
    CgroupKn,
    /// `cgroup.level`: depth below the root of its hierarchy.
    CgroupLevel,
    /// `cgroup.root`: pointer to `cgroup_root`.
    CgroupRoot,
    /// `cgroup_root.hierarchy_id`: 0 is the cgroup2 hierarchy.
    CgroupRootHierarchyId,
    /// `kernfs_node.id`: equals `st_ino` of the cgroup's directory.
    KernfsId,
    /// `kernfs_node.name`: pointer to a NUL-terminated name.
    KernfsName,
    /// `kernfs_node.parent` (`__parent` since Linux 6.15).
    KernfsParent,
    /// `signal_struct.oom_score_adj`: i16.
    SignalOomScoreAdj,
    /// `signal_struct.live`: i32, threads that did not begin to exit.
    SignalLive,
    /// `signal_struct.flags`: `SIGNAL_GROUP_EXIT` and others.
    SignalFlags,
    /// `signal_struct.group_exit_code`: wait status of the process where `SIGNAL_GROUP_EXIT` is set.
    SignalGroupExitCode,
    /// `cred.uid`: u32 in the initial user namespace.
    CredUid,
    /// `mm_struct.total_vm`: pages.
    MmTotalVm,
    /// `mm_struct.pgtables_bytes`: bytes.
    MmPgtablesBytes,
    /// First counter of `mm_struct.rss_stat`: i64 pages (order: file, anon, swap, shmem).
    MmRssStat,
    /// Distance between two counters of `mm_struct.rss_stat`, bytes.
    MmRssStride,
    /// `oom_control.memcg`: NULL for a host-wide OOM.
    OomControlMemcg,
    /// `oom_control.totalpages`: limit in pages, or the RAM the OOM may count on.
    OomControlTotalpages,
    /// `oom_control.constraint`: `enum oom_constraint`.
    OomControlConstraint,
    /// `mem_cgroup.css`.
    MemcgCss,
    /// `mem_cgroup.memory`: the embedded `page_counter`.
    MemcgMemory,
    /// `mem_cgroup.oom_group`: bool.
    MemcgOomGroup,
    /// `mem_cgroup.memory_events_local`: array of i64.
    MemcgEventsLocal,
    /// Value of `MEMCG_OOM` in `enum memcg_memory_event` (an index).
    MemcgEventOom,
    /// Value of `MEMCG_OOM_KILL` in `enum memcg_memory_event` (an index).
    MemcgEventOomKill,
    /// `page_counter.usage`: i64 pages.
    PageCounterUsage,
    /// `page_counter.max`: u64 pages.
    PageCounterMax,
    /// `page_counter.parent`: pointer, NULL at the root.
    PageCounterParent,
    /// Hierarchy id of the memory controller: 0 on cgroup2 (not an offset; from `/proc/cgroups`).
    MemoryHierarchyId,
}

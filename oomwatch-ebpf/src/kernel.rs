//! Reads kernel memory through `bpf_probe_read_kernel`. A failed read, like a missing field, is 0 or `None`.

use aya_ebpf::helpers::{bpf_get_current_task, generated::bpf_probe_read_kernel};
use oomwatch_common::{Field, MemcgRef};

use crate::offsets::offset;

/// Address of a kernel object. Never dereferenced here.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Object(pub(crate) u64);

/// Integers, for which zero bytes are a value.
pub(crate) trait Integer: Copy {
    const ZERO: Self;
}

macro_rules! integers {
    ($($name:ty),+) => { $(impl Integer for $name { const ZERO: Self = 0; })+ };
}
integers!(u8, i16, u32, u64);

/// Reads `T` at `address`; 0 where that fails.
#[inline(always)]
pub(crate) fn read<T: Integer>(address: u64) -> T {
    // Not aya's generic reader: its `MaybeUninit` fails the verifier of Linux 5.10.218.
    let mut value = T::ZERO;
    // SAFETY: the helper writes `size_of::<T>()` bytes to `value` or fails; it checks the address itself.
    let _: i64 = unsafe {
        bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, address as *const core::ffi::c_void)
    };
    value
}

impl Object {
    /// The object itself, or `None` for NULL.
    #[inline(always)]
    pub(crate) fn non_null(self) -> Option<Self> {
        if self.0 == 0 { None } else { Some(self) }
    }

    /// Address of a field. Of NULL it is one at which nothing can be read, which costs the verifier less than to ask.
    #[inline(always)]
    pub(crate) fn address_of(self, field: Field) -> Option<u64> {
        offset(field).map(|bytes| self.0 + bytes)
    }

    /// Value of a field.
    #[inline(always)]
    pub(crate) fn get<T: Integer>(self, field: Field) -> T {
        match self.address_of(field) {
            Some(address) => read(address),
            None => T::ZERO,
        }
    }

    /// Object that a pointer field points to.
    #[inline(always)]
    pub(crate) fn follow(self, field: Field) -> Option<Self> {
        Self(self.get::<u64>(field)).non_null()
    }
}

/// The running task.
#[inline(always)]
pub(crate) fn current() -> Object {
    // SAFETY: the helper has no precondition.
    Object(unsafe { bpf_get_current_task() })
}

/// `mem_cgroup` of a task, by its `css_set`; never of `current` unless that is what was passed.
#[inline(always)]
pub(crate) fn memcg_of_task(task: Object) -> Option<Object> {
    let css_set = task.follow(Field::TaskCgroups)?;
    let index = offset(Field::MemoryCgrpId)?;
    let slot = css_set.address_of(Field::CssSetSubsys)? + index * 8;
    let css = Object(read(slot)).non_null()?;
    Object(css.0 - offset(Field::MemcgCss)?).non_null()
}

/// `cgroup` of a `mem_cgroup`.
#[inline(always)]
pub(crate) fn cgroup_of_memcg(memcg: Object) -> Option<Object> {
    Object(memcg.address_of(Field::MemcgCss)?).follow(Field::CssCgroup)
}

/// Parent of a `mem_cgroup` in the chain of limits; on cgroup v1 without `use_hierarchy` there is none.
#[inline(always)]
pub(crate) fn parent_of_memcg(memcg: Object) -> Option<Object> {
    let counter = Object(memcg.address_of(Field::MemcgMemory)?);
    let parent = counter.follow(Field::PageCounterParent)?;
    Object(parent.0 - offset(Field::MemcgMemory)?).non_null()
}

/// Charge and limit of a `mem_cgroup`, pages.
#[inline(always)]
pub(crate) fn usage_and_max(memcg: Object) -> (u64, u64) {
    match memcg.address_of(Field::MemcgMemory) {
        Some(counter) => {
            let counter = Object(counter);
            (counter.get(Field::PageCounterUsage), counter.get(Field::PageCounterMax))
        }
        None => (0, 0),
    }
}

/// A counter of `memory_events_local`, by its index field.
#[inline(always)]
pub(crate) fn local_event(memcg: Object, index: Field) -> u64 {
    match (memcg.address_of(Field::MemcgEventsLocal), offset(index)) {
        (Some(counters), Some(index)) => read(counters + index * 8),
        _ => 0,
    }
}

/// Names of a `cgroup`.
#[inline(always)]
pub(crate) fn reference(cgroup: Object) -> MemcgRef {
    let node = Object(cgroup.get(Field::CgroupKn));
    let root = Object(cgroup.get(Field::CgroupRoot));
    MemcgRef {
        id: node.get(Field::KernfsId),
        hierarchy: root.get(Field::CgroupRootHierarchyId),
        level: cgroup.get(Field::CgroupLevel),
    }
}

/// Names of a `mem_cgroup`.
#[inline(always)]
pub(crate) fn memcg_reference(memcg: Object) -> MemcgRef {
    match cgroup_of_memcg(memcg) {
        Some(cgroup) => reference(cgroup),
        None => MemcgRef { id: 0, hierarchy: 0, level: 0 },
    }
}

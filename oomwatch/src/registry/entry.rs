//! One cgroup: what looks at it told, of which what tells more is kept. Pure.

use super::looks::Looks;
use crate::{
    cgroup_path::CgroupPath,
    workload::{Runtime, Workload},
};

/// One cgroup.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) path: CgroupPath,
    /// 0 where it was there before, or is not known.
    pub(super) made_ns: u64,
    /// `None` until it was first looked at.
    pub(super) known: Option<Known>,
    pub(super) looks: Looks,
    pub(super) is_removed: bool,
}

/// What a look told.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) workload: Workload,
    /// Depth of the container's own cgroup.
    pub(super) container_depth: Option<usize>,
    /// The container's first process, as its runtime wrote it down.
    pub(super) init_pid: Option<u32>,
}

impl Entry {
    pub(super) fn new(path: CgroupPath, made_ns: u64) -> Self {
        Self { path, made_ns, known: None, looks: Looks::default(), is_removed: false }
    }

    /// Another look would tell nothing new.
    pub(super) fn is_final(&self) -> bool {
        self.is_complete() || self.looks.are_over()
    }

    /// An engine writes down its part before there is a cgroup, runc its own after.
    pub(super) fn is_complete(&self) -> bool {
        let has_init = |known: &Known| known.init_pid.is_some() || known.workload.runtime == Runtime::Runsc;
        self.known.as_ref().is_some_and(|known| is_complete(&known.workload) && has_init(known))
    }

    /// Keeps what tells more: the files of a container vanish with it.
    pub(super) fn learn(&mut self, looked: Known, is_beginning: bool) -> &Known {
        self.looks.saw(is_beginning);
        let old = self.known.take();
        let kept = match old {
            Some(old) if looked.fields() <= old.fields() => old,
            _ => looked,
        };
        self.known.insert(kept)
    }
}

/// All that an engine writes down is known.
pub(super) fn is_complete(workload: &Workload) -> bool {
    workload.container_name.is_some() && workload.image.is_some()
}

impl Known {
    /// Known fields, by number.
    fn fields(&self) -> usize {
        let workload = &self.workload;
        let fields = [
            &workload.container_id,
            &workload.container_name,
            &workload.sandbox_id,
            &workload.pod_uid,
            &workload.pod_name,
            &workload.pod_namespace,
            &workload.image,
        ];
        let others = [workload.runtime != Runtime::Unknown, self.init_pid.is_some()];
        fields.into_iter().flatten().count() + others.into_iter().filter(|known| *known).count()
    }
}

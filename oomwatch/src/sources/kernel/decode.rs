//! Bytes of the ring buffer to observations. Pure: lengths are checked, sizes turned from pages into bytes.

use oomwatch_common::{
    CgroupRecord, ExecRecord, ExitRecord, KillRecord, MAX_LEVELS, MemcgLevel, MemcgRef, OomContext, OomEndRecord,
    PATH_CAPACITY, PathBytes, PressureRecord, RecordHeader, RecordKind, TraceRecord,
};
use thiserror::Error;

use super::trace_format::TraceFormat;
use crate::{
    cgroup_path::CgroupPath,
    observation::{
        CgroupChange, Exec, Exited, FutileReclaim, Level, MemcgId, Observation, Run, RunEnded, Victim, VictimMemory,
    },
};

/// Limits from here on mean "no limit", in pages: the kernel's `PAGE_COUNTER_MAX` is `LONG_MAX / PAGE_SIZE`, and
/// no machine has half of that.
const UNLIMITED_BYTES: u64 = i64::MAX as u64 / 2;

/// A record that is not one.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The record ends too early.
    #[error("record of kind {kind} has {got} bytes and needs {need}")]
    Short {
        /// Kind in the header, 0 where even that is missing.
        kind: u32,
        /// Bytes there.
        got: usize,
        /// Bytes needed.
        need: usize,
    },
    /// The kind is none of ours.
    #[error("unknown record kind {0}")]
    Kind(u32),
}

/// Facts about the kernel that records are read with.
#[derive(Debug, Clone, Default)]
pub(crate) struct Decoder {
    /// Size of a page, bytes.
    pub(crate) page_bytes: u64,
    /// `__oom_kill_process` is hooked, so a run tells whether it kills.
    pub(crate) sees_killing: bool,
    /// Layout of the tracepoint's own record, where that is all there is.
    pub(crate) trace: Option<TraceFormat>,
}

/// Types that any bytes make a value of.
///
/// # Safety
/// Implementors are `repr(C)` structs of integers and arrays of integers.
unsafe trait Record: Copy {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Record for RecordHeader {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Record for KillRecord {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Record for OomEndRecord {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Record for CgroupRecord {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Record for PressureRecord {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Record for TraceRecord {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Record for ExecRecord {}
// SAFETY: `repr(C)`, integers only.
unsafe impl Record for ExitRecord {}

/// Copies a record out of `bytes`, of which the first `need` must be there; what is missing behind them is zero.
fn read<T: Record>(kind: u32, bytes: &[u8], need: usize) -> Result<Box<T>, DecodeError> {
    if bytes.len() < need {
        return Err(DecodeError::Short { kind, got: bytes.len(), need });
    }
    let mut record = Box::<T>::new_uninit();
    // SAFETY: the first call zeroes all of the allocation and the second writes at most its size into it; any bytes
    // make a `T: Record`.
    unsafe {
        record.as_mut_ptr().cast::<u8>().write_bytes(0, size_of::<T>());
        bytes.as_ptr().copy_to_nonoverlapping(record.as_mut_ptr().cast::<u8>(), bytes.len().min(size_of::<T>()));
        Ok(record.assume_init())
    }
}

/// Copies a record whose last field is a [`PathBytes`], sent without its unused end.
fn read_with_path<T: Record>(kind: u32, bytes: &[u8]) -> Result<Box<T>, DecodeError> {
    read(kind, bytes, size_of::<T>() - PATH_CAPACITY)
}

impl Decoder {
    /// Decodes one record.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<Observation, DecodeError> {
        let header = read::<RecordHeader>(0, bytes, size_of::<RecordHeader>())?;
        let kind = header.kind;
        if kind == RecordKind::Kill as u32 {
            Ok(Observation::Victim(Box::new(self.victim(&*read_with_path(kind, bytes)?))))
        } else if kind == RecordKind::OomEnd as u32 {
            Ok(Observation::RunEnded(self.run_ended(&*read(kind, bytes, size_of::<OomEndRecord>())?)))
        } else if kind == RecordKind::CgroupMkdir as u32 {
            Ok(Observation::CgroupMade(cgroup_change(&*read_with_path(kind, bytes)?)))
        } else if kind == RecordKind::CgroupRmdir as u32 {
            Ok(Observation::CgroupRemoved(cgroup_change(&*read_with_path(kind, bytes)?)))
        } else if kind == RecordKind::Pressure as u32 {
            Ok(Observation::FutileReclaim(self.futile_reclaim(&*read_with_path(kind, bytes)?)))
        } else if kind == RecordKind::Exec as u32 {
            Ok(Observation::Exec(exec(&*read(kind, bytes, size_of::<ExecRecord>())?)))
        } else if kind == RecordKind::Exit as u32 {
            Ok(Observation::Exited(exited(&*read(kind, bytes, size_of::<ExitRecord>())?)))
        } else if let (true, Some(format)) = (kind == RecordKind::Trace as u32, &self.trace) {
            Ok(Observation::Victim(Box::new(format.victim(&*read(kind, bytes, size_of::<TraceRecord>())?))))
        } else {
            Err(DecodeError::Kind(kind))
        }
    }

    fn victim(&self, kill: &KillRecord) -> Victim {
        let levels = kill.levels.iter().take((kill.level_count as usize).min(MAX_LEVELS));
        Victim {
            boot_ns: kill.header.boot_ns,
            start_ns: (kill.start_boottime_ns != 0).then_some(kill.start_boottime_ns),
            pid: (kill.tgid != 0).then_some(kill.tgid),
            tid: kill.tid,
            ns_pid: (kill.ns_level > 0 && kill.ns_tgid != 0).then_some(kill.ns_tgid),
            comm: Some(until_nul(&kill.comm).to_vec()),
            uid: Some(kill.uid),
            oom_score_adj: Some(kill.oom_score_adj),
            memory: (kill.has_memory != 0).then(|| self.memory(kill)),
            trigger_pid: kill.trigger_tgid,
            trigger_tid: kill.trigger_tid,
            trigger_comm: until_nul(&kill.trigger_comm).to_vec(),
            memcg: kill.levels.first().filter(|_| kill.level_count > 0).map(memcg_id),
            path: path(&kill.path),
            reclaimed: (kill.reclaimed.memcg_id != 0)
                .then(|| (kill.reclaimed.memcg_id, kill.header.boot_ns.saturating_sub(kill.reclaimed.boot_ns))),
            local_oom_kill: (kill.level_count > 0).then_some(kill.local_oom_kill),
            run: (kill.oom.started_ns != 0).then(|| self.run(&kill.oom)),
            levels: levels.map(|level| self.level(level)).collect(),
        }
    }

    fn memory(&self, kill: &KillRecord) -> VictimMemory {
        // A per-CPU counter's sum can read below zero for a moment.
        let bytes = |pages: u64| if pages > i64::MAX as u64 { 0 } else { pages.saturating_mul(self.page_bytes) };
        let [file, anon, swap, shmem] = kill.rss_pages;
        VictimMemory {
            total_vm_bytes: bytes(kill.total_vm_pages),
            anon_rss_bytes: bytes(anon),
            file_rss_bytes: bytes(file),
            shmem_rss_bytes: bytes(shmem),
            swap_bytes: Some(bytes(swap)),
            pgtables_bytes: kill.pgtables_bytes,
        }
    }

    fn level(&self, level: &MemcgLevel) -> Level {
        Level {
            memcg: memcg_id(level),
            depth: level.memcg.level,
            usage_bytes: level.usage_pages.saturating_mul(self.page_bytes),
            limit_bytes: limit(level.max_pages.saturating_mul(self.page_bytes)),
            oom_group: level.oom_group != 0,
        }
    }

    fn run(&self, oom: &OomContext) -> Run {
        Run {
            started_ns: oom.started_ns,
            oom_memcg: (oom.memcg.id != 0).then(|| Level {
                memcg: MemcgId { hierarchy: oom.memcg.hierarchy, id: oom.memcg.id },
                depth: oom.memcg.level,
                usage_bytes: oom.usage_pages.saturating_mul(self.page_bytes),
                limit_bytes: limit(oom.max_pages.saturating_mul(self.page_bytes)),
                oom_group: false,
            }),
            constraint: oom.constraint,
            victims: oom.victims,
            killing: self.sees_killing.then_some(oom.killing != 0),
        }
    }

    fn run_ended(&self, ended: &OomEndRecord) -> RunEnded {
        RunEnded {
            boot_ns: ended.header.boot_ns,
            run: self.run(&ended.oom),
            no_kill: ended.no_kill != 0,
            trigger_pid: ended.trigger_tgid,
        }
    }

    fn futile_reclaim(&self, pressure: &PressureRecord) -> FutileReclaim {
        FutileReclaim {
            boot_ns: pressure.header.boot_ns,
            level: self.level(&pressure.memcg),
            path: path(&pressure.path),
            passes: pressure.futile,
            local_oom: pressure.local_oom,
        }
    }
}

fn memcg_id(level: &MemcgLevel) -> MemcgId {
    MemcgId { hierarchy: level.memcg.hierarchy, id: level.memcg.id }
}

fn limit(bytes: u64) -> Option<u64> {
    (bytes < UNLIMITED_BYTES).then_some(bytes)
}

fn cgroup_change(change: &CgroupRecord) -> CgroupChange {
    CgroupChange {
        boot_ns: change.header.boot_ns,
        memcg: MemcgId { hierarchy: change.memcg.hierarchy, id: change.memcg.id },
        path: path(&change.path),
    }
}

fn memcg(memcg: MemcgRef) -> Option<MemcgId> {
    (memcg.id != 0).then_some(MemcgId { hierarchy: memcg.hierarchy, id: memcg.id })
}

fn exec(exec: &ExecRecord) -> Exec {
    Exec { pid: exec.tgid, may_be_sentry: exec.may_be_sentry != 0, begun: memcg(exec.begun_memcg) }
}

fn exited(exit: &ExitRecord) -> Exited {
    Exited {
        boot_ns: exit.header.boot_ns,
        pid: exit.tgid,
        start_ns: exit.start_boottime_ns,
        is_init: exit.ns_level > 0 && exit.ns_tgid == 1,
        may_be_sentry: exit.may_be_sentry != 0,
        exit_code: exit_code(exit.wait_status),
        memcg: memcg(exit.memcg),
        parent_memcg: memcg(exit.parent_memcg).map(|id| (id, exit.parent_memcg.level)),
    }
}

/// `waitpid`'s status as a shell and every engine tell it. The bit for a core dump is in neither part.
fn exit_code(wait_status: u32) -> i32 {
    let [low, status, ..] = wait_status.to_le_bytes();
    match low & 0x7f {
        0 => i32::from(status),
        signal => 128 + i32::from(signal),
    }
}

/// The names were written from the leaf upward.
fn path(path: &PathBytes) -> Option<CgroupPath> {
    let used = path.bytes.get(..path.len as usize)?;
    if path.truncated != 0 {
        return None;
    }
    let names: Vec<&[u8]> = used.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    Some(CgroupPath::from_names(names.into_iter().rev()))
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;

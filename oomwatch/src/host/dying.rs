//! Tasks on their way out, which the kernel named by thread only: what `/proc` still says of them, right or absent.
//!
//! Reads `/proc/<tid>/status`, `/proc/<tid>/cgroup` and `/proc/<pid>/task/<tid>/stat`, and `memory.oom.group` of cgroups.

use std::path::Path;

use procfs::process::{Process, Status};
use rustix::fs::OFlags;

use super::{HostError, memory::MemoryHierarchy};
use crate::{
    cgroup_path::CgroupPath,
    observation::{LoggedKill, LoggedMemcg, MemcgId, Victim},
};

/// Cgroups and processes of a container, and threads of a process, that are looked at one by one; where there are more, one
/// lives.
const MOST_DYING: usize = 256;
/// Levels between a victim's cgroup and the limit that are asked for `memory.oom.group`.
const MOST_LEVELS: usize = 64;
/// Flag of `/proc/<tid>/stat` (`include/linux/sched.h`).
const PF_EXITING: u32 = 4;
/// Among pending signals.
const SIGKILL: u64 = 1 << 8;
/// Largest file read, bytes.
const MAX_FILE: usize = 1 << 14;

impl MemoryHierarchy {
    /// Completes a victim that the kernel named only by thread, from `/proc`: right or absent. A task on its way out
    /// is moved to the root, so the root is no answer.
    pub fn find_dying(&self, victim: &mut Victim) {
        let Some(process) = self.process(victim.tid) else { return };
        victim.pid = process.status().ok().and_then(|status| u32::try_from(status.tgid).ok());
        if let Some((memcg, path)) = self.memcg_of(&process) {
            victim.memcg = Some(memcg);
            victim.path = Some(path);
        }
    }

    /// Completes a kill of the log: ids of its cgroups, and what is known of the victim while it is there. A thread of
    /// another name is another one that got its id.
    pub fn complete(&self, kill: &mut LoggedKill) {
        if let Some(process) = self.process(kill.tid)
            && let Some(status) = process.status().ok().filter(|status| status.name.as_bytes() == kill.comm)
        {
            let pid = u32::try_from(status.tgid).ok();
            if kill.pid.is_some() && kill.pid != pid {
                // The dump before it was of another process.
                (kill.task_memcg, kill.oom_memcg, kill.trigger, kill.constraint) = (None, None, None, None);
            }
            kill.pid = pid;
            (kill.ns_pid, kill.is_init) = in_namespace(&status);
            if kill.task_memcg.is_none() {
                kill.task_memcg = self.memcg_of(&process).map(|(memcg, path)| LoggedMemcg {
                    memcg: Some(memcg),
                    path,
                    limit_bytes: None,
                    usage_bytes: None,
                });
            }
        }
        for memcg in kill.task_memcg.iter_mut().chain(kill.oom_memcg.iter_mut()) {
            memcg.memcg = memcg.memcg.or_else(|| self.id_of(&memcg.path));
        }
        if let Some(trigger) = &mut kill.trigger {
            trigger.pid =
                trigger.tid.and_then(|tid| if tid == kill.tid { kill.pid } else { self.group_of(tid, &trigger.comm) });
        }
    }

    /// Whether the kernel kills more with this one: `memory.oom.group` is set from its cgroup up to the one whose limit was
    /// hit (Linux `mem_cgroup_get_oom_group`). What cannot be seen is not set.
    pub fn kills_as_group(&self, kill: &LoggedKill) -> bool {
        let Some(victim) = kill.task_memcg.as_ref().filter(|_| self.version == 2) else { return false };
        // Without a dump nobody knows where the limit is, but it is not below the victim's cgroup.
        let limit = match &kill.oom_memcg {
            Some(limit) => limit.path.depth(),
            None if kill.of_memcg => victim.path.depth(),
            None => 1,
        };
        (limit.max(1)..=victim.path.depth()).rev().take(MOST_LEVELS).any(|depth| {
            let file = victim.path.ancestor(depth).map(|level| self.folder(&level).join("memory.oom.group"));
            let text = file.and_then(|file| self.root.read_bounded(&file, MAX_FILE).ok());
            text.is_some_and(|text| text.starts_with(b"1"))
        })
    }

    /// Whether this very cgroup has a process, in itself or below, that is not on its way out: to free many gigabytes takes
    /// seconds. What cannot be seen lives.
    pub fn is_alive(&self, memcg: Option<MemcgId>, path: &CgroupPath) -> bool {
        let is_there = self.id_of(path).is_some_and(|there| memcg.is_none_or(|memcg| memcg.id == there.id));
        // Cgroup v1 says so of no cgroup but by its list of processes.
        if !is_there || self.version != 1 && !self.says_populated(path) {
            return false;
        }
        let mut pending = vec![path.clone()];
        let mut looked_at = 0;
        while let Some(path) = pending.pop() {
            let Ok(processes) = self.processes(&path) else { return true };
            looked_at += 1 + processes.len();
            if looked_at > MOST_DYING || self.any_lives(&path, &processes) {
                return true;
            }
            pending.extend(self.children(&path).unwrap_or_default().into_iter().map(|(_, child)| child));
        }
        false
    }

    fn any_lives(&self, path: &CgroupPath, processes: &[u32]) -> bool {
        let mut unseen = Vec::new();
        for pid in processes {
            match self.is_on_its_way_out(*pid) {
                Some(true) => {}
                Some(false) => return true,
                None => unseen.push(pid),
            }
        }
        // One that ended meanwhile is listed no more.
        let is_listed = |still: Vec<u32>| unseen.iter().any(|pid| still.contains(pid));
        !unseen.is_empty() && self.processes(path).map_or(true, is_listed)
    }

    /// Whether every thread of a process of the host will run no program any more; `None` where that cannot be seen, for it is
    /// gone, or `/proc` hides it.
    pub fn is_on_its_way_out(&self, pid: u32) -> Option<bool> {
        let tasks = Path::new("/proc").join(pid.to_string()).join("task");
        let listing = self.root.list(&tasks, MOST_DYING).ok().filter(|listing| !listing.names.is_empty())?;
        Some(listing.complete && listing.names.iter().all(|task| self.is_thread_dying(&tasks.join(task))))
    }

    fn is_thread_dying(&self, folder: &Path) -> bool {
        let says = |name: &str, says_so: fn(&[u8]) -> bool| match self.root.read_bounded(&folder.join(name), MAX_FILE) {
            Ok(text) => says_so(&text),
            // It ended meanwhile.
            Err(error) => matches!(error, HostError::Gone { .. }),
        };
        says("stat", is_exiting) || says("status", is_killed)
    }

    /// Id of the cgroup that is at a path now.
    pub fn id_of(&self, path: &CgroupPath) -> Option<MemcgId> {
        let folder = self.root.open(&self.folder(path), OFlags::PATH | OFlags::DIRECTORY).ok()?;
        let stat = rustix::fs::fstat(&folder).ok()?;
        Some(MemcgId { hierarchy: self.id, id: stat.st_ino })
    }

    fn process(&self, tid: u32) -> Option<Process> {
        let folder = self.root.join(&Path::new("/proc").join(tid.to_string())).ok()?;
        Process::new_with_root(folder).ok()
    }

    fn group_of(&self, tid: u32, comm: &[u8]) -> Option<u32> {
        let status = self.process(tid)?.status().ok()?;
        if status.name.as_bytes() == comm { u32::try_from(status.tgid).ok() } else { None }
    }

    fn memcg_of(&self, process: &Process) -> Option<(MemcgId, CgroupPath)> {
        let cgroups = process.cgroups().ok()?;
        let of_memory = cgroups.0.iter().find(|cgroup| match self.version {
            1 => cgroup.controllers.iter().any(|name| name == "memory"),
            _ => cgroup.hierarchy == 0,
        });
        let cgroup = of_memory.filter(|cgroup| cgroup.pathname != "/")?;
        let path = CgroupPath::from_bytes(cgroup.pathname.as_bytes());
        Some((self.id_of(&path)?, path))
    }
}

/// By the flags in `/proc/<tid>/stat`, the seventh field after the name, which may hold anything.
fn is_exiting(stat: &[u8]) -> bool {
    let after = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
    let flags = str::from_utf8(after).ok().and_then(|text| text.split_whitespace().nth(6)?.parse::<u32>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

/// By the pending signals in `/proc/<tid>/status`.
fn is_killed(status: &[u8]) -> bool {
    let mut lines = status.split(|byte| *byte == b'\n');
    lines.any(|line| {
        let signals = line.strip_prefix(b"SigPnd:\t").or_else(|| line.strip_prefix(b"ShdPnd:\t"));
        let signals = signals.and_then(|signals| u64::from_str_radix(str::from_utf8(signals).ok()?, 16).ok());
        signals.is_some_and(|signals| signals & SIGKILL != 0)
    })
}

/// The innermost id of a process in a namespace of its own, and whether it is the first one there.
fn in_namespace(status: &Status) -> (Option<u32>, Option<bool>) {
    let Some(ids) = &status.nstgid else { return (None, None) };
    let innermost = ids.get(1..).and_then(<[i32]>::last).and_then(|id| u32::try_from(*id).ok());
    (innermost, Some(innermost == Some(1)))
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Duration};

    use super::*;
    use crate::host::HostRoot;

    #[test]
    fn a_process_that_was_ended_is_on_its_way_out_and_one_that_is_gone_cannot_be_seen() {
        let hierarchy = MemoryHierarchy::find(&HostRoot::new("/")).unwrap().unwrap();
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        assert_eq!(hierarchy.is_on_its_way_out(child.id()), Some(false));
        assert_eq!(hierarchy.is_on_its_way_out(std::process::id()), Some(false), "of several threads");
        child.kill().unwrap();
        while hierarchy.is_on_its_way_out(child.id()) == Some(false) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(hierarchy.is_on_its_way_out(child.id()), Some(true));
        child.wait().unwrap();
        assert_eq!(hierarchy.is_on_its_way_out(child.id()), None);
    }

    #[test]
    fn a_group_is_killed_where_it_is_set_from_the_victim_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        for (path, set) in [("a", "1"), ("a/b", "0"), ("a/b/c", "1"), ("a/b/c/d", "0")] {
            std::fs::create_dir(folder.path().join(path)).unwrap();
            std::fs::write(folder.path().join(path).join("memory.oom.group"), format!("{set}\n")).unwrap();
        }
        let hierarchy = MemoryHierarchy::of_files(&HostRoot::new(folder.path()));
        let memcg = |path: &str| {
            let path = CgroupPath::from_bytes(path.as_bytes());
            LoggedMemcg { memcg: None, path, limit_bytes: None, usage_bytes: None }
        };
        let kills_as_group = |victim: &str, limit: Option<&str>, of_memcg: bool| {
            let (oom_memcg, task_memcg) = (limit.map(memcg), Some(memcg(victim)));
            hierarchy.kills_as_group(&LoggedKill { of_memcg, oom_memcg, task_memcg, ..LoggedKill::default() })
        };
        assert!(kills_as_group("/a/b/c/d", Some("/a/b"), true));
        assert!(!kills_as_group("/a/b/c/d", Some("/a/b/c/d"), true), "set above the limit");
        assert!(!kills_as_group("/a/b", None, true), "the limit may be there");
        assert!(kills_as_group("/a/b", None, false), "of the host");
        assert!(!kills_as_group("/gone", Some("/gone"), true));
    }

    #[test]
    fn a_name_that_is_no_text_hides_nothing() {
        assert!(is_exiting(b"7 (\xff) \xd0) R 1 7 7 0 -1 4194308 1 2\n"));
        assert!(!is_exiting(b"7 (\xff) R 1 7 7 0 -1 4194304 1 2\n"));
        assert!(!is_exiting(b"7 (x"));
        assert!(is_killed(b"Name:\t\xd0\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\nSigBlk:\t00\n"));
        assert!(!is_killed(b"Name:\tSigPnd\nSigPnd:\t0000000000000200\nShdPnd:\t0000000000000000\nSigBlk:\t0100\n"));
    }
}

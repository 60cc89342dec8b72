//! The kernel's log, read as cAdvisor (and with it the kubelet) does: from `invoked oom-killer:` on, the next `oom-kill:`
//! or `Killed process` line ends an instance. Written anew after `utils/oomparser`.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use crate::{Seen, Watcher, clock};

/// The longest record of the kernel's log.
const RECORD: usize = 8192;

/// Reads until the process ends.
pub(crate) struct Kmsg(Arc<Mutex<Vec<Seen>>>);

impl Kmsg {
    pub(crate) fn start() -> Self {
        let mut log = File::open("/dev/kmsg").expect("the kernel's log");
        log.seek(SeekFrom::End(0)).expect("skip what was before");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&seen);
        drop(thread::spawn(move || {
            let mut parser = Parser::default();
            let mut record = [0; RECORD];
            // An overwritten record is an error, after which reading goes on.
            loop {
                let Ok(length) = log.read(&mut record) else { continue };
                let text = String::from_utf8_lossy(&record[..length]).into_owned();
                if let Some(instance) = parser.line(&text) {
                    let instance = Seen { at: clock::now(), ..instance };
                    told.lock().unwrap_or_else(PoisonError::into_inner).push(instance);
                }
            }
        }));
        Self(seen)
    }
}

impl Watcher for Kmsg {
    fn name(&self) -> &'static str {
        "kernel log, as cAdvisor reads it"
    }

    fn finish(&mut self) -> Vec<Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug, Default)]
struct Parser {
    in_instance: bool,
}

impl Parser {
    fn line(&mut self, line: &str) -> Option<Seen> {
        if !self.in_instance {
            self.in_instance = line.contains("invoked oom-killer:");
            return None;
        }
        let instance = summary(line).or_else(|| last_line(line))?;
        self.in_instance = false;
        Some(instance)
    }
}

/// `oom-kill:constraint=…,nodemask=…,cpuset=…,mems_allowed=…,oom_memcg=…,task_memcg=…,task=…,pid=…,uid=…`
fn summary(line: &str) -> Option<Seen> {
    let rest = line.split_once("oom-kill:constraint=")?.1;
    let (limit, rest) = rest.split_once(",oom_memcg=")?.1.split_once(",task_memcg=")?;
    let (cgroup, rest) = rest.split_once(",task=")?;
    let pid = rest.split_once(",pid=")?.1.split(',').next()?.parse().ok()?;
    Some(Seen { pid: Some(pid), cgroup: Some(cgroup.to_owned()), limit: Some(limit.to_owned()), ..Seen::default() })
}

/// `Killed process PID (comm)`: the container of such an instance is `/`, which is to say not known.
fn last_line(line: &str) -> Option<Seen> {
    let pid = line.split_once("Killed process ")?.1.split(' ').next()?.parse().ok()?;
    Some(Seen { pid: Some(pid), ..Seen::default() })
}

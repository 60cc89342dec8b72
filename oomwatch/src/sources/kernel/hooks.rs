//! Loads and attaches every program of the eBPF object on its own, tolerates each failure, and says what was won.
//!
//! Order matters: a program that others rely on comes before them, so that a run of the OOM killer is either
//! seen whole or not at all.

use aya::{Btf, Ebpf};

use super::{
    keeping::Keep,
    offsets::{KernelLayout, MarkVictimArgs},
    program::{self, NamedLink, perf_links_can_be_pinned},
};
use crate::{
    host::{system, tracefs},
    observation::SourceFacts,
};

/// A way to hook a function, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// fentry and fexit.
    Fentry,
    /// kprobe and kretprobe.
    Kprobe,
}

impl Method {
    /// Name in messages and of `--withhold`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }
}

/// How one hook went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hook {
    /// What it hooks.
    pub(crate) target: &'static str,
    /// What it is for.
    pub(crate) gives: &'static str,
    /// What is so without it.
    pub(crate) without: &'static str,
    /// The way that worked, or why none did.
    pub(crate) outcome: Result<&'static str, String>,
}

/// A function hooked by fentry/fexit or kprobe/kretprobe, with the programs' names.
struct FunctionHook {
    function: &'static str,
    fentry: &'static [&'static str],
    kprobe: &'static [&'static str],
    gives: &'static str,
    without: &'static str,
}

/// In the order of attaching: who sees the kill and the end of a run comes before who sees its beginning.
const KILL: FunctionHook = FunctionHook {
    function: "__oom_kill_process",
    fentry: &["oom_kill_one"],
    kprobe: &["oom_kill_one_kprobe"],
    gives: "tells a kill from a task that was dying anyway",
    without: "kills are told from tasks that were dying anyway by the memcg's counter",
};
const RUN: FunctionHook = FunctionHook {
    function: "oom_kill_process",
    fentry: &["oom_kill_process_exit", "oom_kill_process"],
    kprobe: &["oom_kill_process_kretprobe", "oom_kill_process_kprobe"],
    gives: "names the limit that was hit",
    without: "the limit that was hit is inferred from the victim's ancestors",
};
const NO_KILL: FunctionHook = FunctionHook {
    function: "mem_cgroup_out_of_memory",
    fentry: &["memcg_oom_exit"],
    kprobe: &["memcg_oom_kretprobe", "memcg_oom_kprobe"],
    gives: "sees a limit hit without a kill",
    without: "a limit hit without a kill is told from counters, a second later",
};
const VICTIM: FunctionHook = FunctionHook {
    function: "mark_oom_victim",
    fentry: &["mark_oom_victim"],
    kprobe: &["mark_oom_victim_kprobe"],
    gives: "sees each victim",
    without: "no kill is seen",
};

/// A tracepoint. `target` is its category and its name.
#[derive(Clone, Copy)]
struct TracepointHook {
    target: &'static str,
    program: &'static str,
    gives: &'static str,
    without: &'static str,
}

const MKDIR: TracepointHook = TracepointHook {
    target: "cgroup:cgroup_mkdir",
    program: "cgroup_mkdir",
    gives: "names a cgroup after it is gone",
    without: "a workload whose cgroup is gone may stay without its name",
};
const RMDIR: TracepointHook = TracepointHook { target: "cgroup:cgroup_rmdir", program: "cgroup_rmdir", ..MKDIR };
const RECLAIM: TracepointHook = TracepointHook {
    target: "vmscan:mm_vmscan_memcg_reclaim_end",
    program: "memcg_reclaim_end",
    gives: "counts reclaim that reclaims nothing",
    without: "no pressure signal, and no question is raised about a limit hit without a kill",
};
/// Linux 7.2 names the memcg.
const RECLAIM_NAMED: TracepointHook = TracepointHook { program: "memcg_reclaim_end_named", ..RECLAIM };
const EXEC: TracepointHook = TracepointHook {
    target: "sched:sched_process_exec",
    program: "sched_process_exec",
    gives: "finds a gVisor sandbox when it starts",
    without: "a gVisor sandbox is found by the next scan only",
};
const EXIT: TracepointHook = TracepointHook {
    target: "sched:sched_process_exit",
    program: "sched_process_exit",
    gives: "tells with which code a container ended",
    without: "exit codes of containers are not told",
};

/// Where the kernel marks a victim.
const MARK: &str = "oom:mark_victim";
/// How a tracepoint is hooked: its arguments are the program's,
const RAW: &str = "raw_tp";
/// or as an event of perf.
const BY_PERF: &str = "tracepoint";

/// What is attached.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each hook that may be missing")]
pub(crate) struct Attached {
    /// Each hook and how it went, for `check` and the log.
    pub(crate) hooks: Vec<Hook>,
    /// What keeps them attached, by program; those that only live with the agent are not here.
    pub(crate) links: Vec<NamedLink>,
    /// How victims are seen; `None`: not at all.
    pub(crate) victim: Option<&'static str>,
    /// How the limit is known exactly; `None`: it is inferred.
    pub(crate) run: Option<Method>,
    /// A run tells whether it kills.
    pub(crate) sees_killing: bool,
    /// Starts of programs are seen.
    pub(crate) sees_exec: bool,
    /// Ends of containers are seen with their exit codes.
    pub(crate) sees_exit: bool,
    /// An OOM without a kill is seen exactly.
    pub(crate) sees_no_kill: bool,
    /// One sentence for each hook that works, but not always.
    pub(crate) skipping: Vec<String>,
}

impl Attached {
    /// What conclusions depend on.
    pub(crate) fn facts(&self) -> SourceFacts {
        SourceFacts { sees_killing: self.sees_killing, sees_run: self.run.is_some(), sees_no_kill: self.sees_no_kill }
    }

    /// Pins nothing where some hook would end with the agent, for then records mean something else without it.
    pub(crate) fn as_far_as_can_be(&self, mut keep: Keep) -> Keep {
        let by_perf = |hook: &Hook| matches!(hook.outcome, Ok("kprobe" | BY_PERF));
        if !perf_links_can_be_pinned() && self.hooks.iter().any(by_perf) {
            keep.cannot_pin = Some("before Linux 5.15 kprobes and tracepoints end with their process".to_owned());
        }
        keep
    }
}

/// Attaches what this kernel allows. `withheld` names methods not to be tried.
pub(super) fn attach(ebpf: &mut Ebpf, layout: Option<&KernelLayout>, withheld: &[String]) -> Attached {
    let mut attached = Attached::default();
    let Some(layout) = layout else {
        attach_record(ebpf, &mut attached);
        return attached;
    };
    let mut prober = Prober { ebpf, layout, functions: None, withheld, links: Vec::new() };
    for hook in [MKDIR, RMDIR] {
        attached.hooks.push(prober.raw_hook(hook));
    }
    prober.kill_hooks(&mut attached);
    prober.victim_hook(&mut attached);
    prober.no_kill_hook(&mut attached);
    let reclaim = if layout.reclaim_end_memcg_arg == Some(1) { RECLAIM_NAMED } else { RECLAIM };
    attached.hooks.push(prober.raw_hook(reclaim));
    attached.sees_exec = prober.task_hook(EXEC, "sched_process_exec_perf", &mut attached);
    attached.sees_exit = prober.task_hook(EXIT, "sched_process_exit_perf", &mut attached);
    attached.links = prober.links;
    attached
}

/// Without BTF only the tracepoint's own record can be read.
fn attach_record(ebpf: &mut Ebpf, attached: &mut Attached) {
    let outcome = program::perf_event(ebpf, "mark_victim_record", MARK, true);
    let outcome = outcome.map(|link| {
        attached.links.extend(link);
        BY_PERF
    });
    attached.victim = outcome.as_ref().ok().copied();
    attached.hooks.push(Hook { target: MARK, gives: VICTIM.gives, without: VICTIM.without, outcome });
}

struct Prober<'a> {
    ebpf: &'a mut Ebpf,
    layout: &'a KernelLayout,
    /// Its functions, once the first fentry program wants them.
    functions: Option<Btf>,
    withheld: &'a [String],
    links: Vec<NamedLink>,
}

impl Prober<'_> {
    fn kill_hooks(&mut self, attached: &mut Attached) {
        let kill = self.function(&KILL);
        let run = self.function(&RUN);
        attached.run = run.as_ref().ok().copied();
        attached.sees_killing = kill.is_ok() && run.is_ok();
        attached.hooks.push(hook(&KILL, kill));
        attached.hooks.push(hook(&RUN, run));
    }

    fn victim_hook(&mut self, attached: &mut Attached) {
        if self.layout.mark_victim == MarkVictimArgs::Task {
            let hook =
                TracepointHook { target: MARK, program: "mark_victim", gives: VICTIM.gives, without: VICTIM.without };
            let hook = self.raw_hook(hook);
            attached.victim = hook.outcome.as_ref().ok().copied();
            attached.hooks.push(hook);
        } else {
            let outcome = self.function(&VICTIM);
            attached.victim = outcome.as_ref().ok().map(|method| method.name());
            attached.hooks.push(hook(&VICTIM, outcome));
        }
    }

    fn no_kill_hook(&mut self, attached: &mut Attached) {
        let outcome = self.function(&NO_KILL);
        attached.sees_no_kill = outcome.is_ok();
        attached.hooks.push(hook(&NO_KILL, outcome));
    }

    /// Hooks a function by the best method that works, or says why none does.
    fn function(&mut self, hook: &FunctionHook) -> Result<Method, String> {
        if !self.layout.has_function(hook.function) {
            return Err(format!("this kernel has no function {}", hook.function));
        }
        let mut refused = Vec::new();
        for method in [Method::Fentry, Method::Kprobe] {
            if self.withheld.iter().any(|name| name == method.name()) {
                refused.push(format!("{}: withheld", method.name()));
                continue;
            }
            match self.function_by(hook, method) {
                Ok(()) => return Ok(method),
                Err(error) => refused.push(format!("{}: {error}", method.name())),
            }
        }
        Err(refused.join("; "))
    }

    fn function_by(&mut self, hook: &FunctionHook, method: Method) -> Result<(), String> {
        match method {
            Method::Fentry => hook.fentry.iter().try_for_each(|name| self.fentry(name, hook.function)),
            Method::Kprobe => hook.kprobe.iter().try_for_each(|name| self.kprobe(name, hook.function)),
        }
    }

    fn fentry(&mut self, name: &str, function: &str) -> Result<(), String> {
        let btf = match self.functions.take() {
            Some(btf) => btf,
            None => program::functions(self.layout)?,
        };
        let link = program::fentry(self.ebpf, name, function, &btf);
        self.functions = Some(btf);
        self.links.push(link?);
        Ok(())
    }

    fn kprobe(&mut self, name: &str, function: &str) -> Result<(), String> {
        self.links.extend(program::kprobe(self.ebpf, name, function)?);
        Ok(())
    }

    fn raw_hook(&mut self, hook: TracepointHook) -> Hook {
        let TracepointHook { target, program, gives, without } = hook;
        let outcome = program::raw_tracepoint(self.ebpf, program, target, true).map(|link| {
            self.links.extend(link);
            RAW
        });
        Hook { target, gives, without, outcome }
    }

    /// A tracepoint that many tasks pass at once, with its program as an event of perf. It ends with the agent: it finds
    /// sandboxes to watch and the ends of processes that are, and would fill a ring that nobody reads. Whether it is hooked.
    ///
    /// Since Linux 7 a raw program may be preempted, and the kernel leaves it out for a task that comes by on the same CPU
    /// meanwhile (7.2, one emulated CPU busy with short processes: 3 of 100). An event of perf is not preempted, and only left out
    /// where somebody was preempted while he asked a map. The other tracepoints lie under one of the kernel's locks, but for
    /// that of reclaim, which comes again and again.
    fn task_hook(&mut self, hook: TracepointHook, by_perf: &str, attached: &mut Attached) -> bool {
        let TracepointHook { target, program, gives, without } = hook;
        let by_perf = (system::kernel_major() >= 7).then(|| self.task_event(by_perf, target));
        let outcome = if let Some(Ok(())) = by_perf {
            Ok(BY_PERF)
        } else {
            program::raw_tracepoint(self.ebpf, program, target, false).map(|_stays| RAW)
        };
        let is_hooked = outcome.is_ok();
        if let (true, Some(Err(reason))) = (is_hooked, by_perf) {
            attached.skipping.push(format!("{target} is hooked raw, which this kernel leaves out at times ({reason})"));
        }
        attached.hooks.push(Hook { target, gives, without, outcome });
        is_hooked
    }

    fn task_event(&mut self, name: &str, target: &str) -> Result<(), String> {
        if self.withheld.iter().any(|way| way == "perf") {
            return Err("withheld".to_owned());
        }
        // Where it cannot be mounted it may be there in another place.
        let mounted = tracefs::ensure_mounted();
        let attached = program::perf_event(self.ebpf, name, target, false);
        attached.map(|_stays| ()).map_err(|reason| match mounted {
            Ok(()) => reason,
            Err(error) => format!("{reason}: {error}"),
        })
    }
}

fn hook(hook: &FunctionHook, outcome: Result<Method, String>) -> Hook {
    Hook { target: hook.function, gives: hook.gives, without: hook.without, outcome: outcome.map(Method::name) }
}

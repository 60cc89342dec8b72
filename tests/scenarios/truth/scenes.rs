//! The kinds of kills, made by the test, and the questions about each.

use support::{
    Cgroup, Container, EVENT_TIMEOUT, Event, Events as _, Gate, Hog, PROCESS_TIMEOUT, Runtime, memory_cgroup_version,
    wait_for,
};

use crate::answer::{self, Answer, all as each, same};

/// Cgroups of the storm, and hogs in each.
const STORM_CGROUPS: usize = 5;
const STORM_HOGS: usize = 4;

type Answers = Vec<(&'static str, Answer)>;
type Judge = dyn Fn(&[Event]) -> Answers;

/// Something that happened.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// Keeps what it knows of, too.
    judge: Box<Judge>,
}

impl Scene {
    fn new(name: &'static str, judge: impl Fn(&[Event]) -> Answers + 'static) -> Self {
        Self { name, judge: Box::new(judge) }
    }

    /// What an agent said of it.
    pub(crate) fn ask(&self, events: &[Event]) -> Answers {
        (self.judge)(events)
    }
}

/// Makes each.
pub(crate) fn all() -> Vec<Scene> {
    let mut scenes = vec![plain_kill(), sibling_victim(), storm(), container_survived(), container_ended(), no_kill()];
    if memory_cgroup_version() == 2 {
        scenes.push(group_kill());
    }
    scenes
}

fn plain_kill() -> Scene {
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    let (pid, counted) = (hog.pid(), cgroup.kernel_count_of_kills());
    Scene::new("plain kill", move |events| {
        let kills = answer::kills(events, &[pid], &cgroup);
        vec![
            ("count", answer::count(events, kills.len(), counted)),
            ("victim", answer::victims(&kills, &[pid])),
            ("cgroup", each(kills.iter().map(|kill| answer::own_cgroup(kill, &cgroup)))),
            ("limit", each(kills.iter().map(|kill| answer::limit(kill, &cgroup)))),
        ]
    })
}

fn sibling_victim() -> Scene {
    let parent = Cgroup::scratch().limited_to_mib(64);
    let (big, small) = (parent.child("big"), parent.child("small"));
    let mut victim = Hog::ready_in(&big, ["eat=40", "say=full", "sleep"]);
    victim.go();
    victim.wait_until_it_says("full");
    let mut trigger = Hog::ready_to_outlive(&small, ["eat=28", "say=full", "sleep"]);
    trigger.go();
    victim.wait_until_killed();
    trigger.wait_until_it_says("full");
    let (pid, trigger_pid) = (victim.pid(), trigger.pid());
    let counted = big.kernel_count_of_kills() + small.kernel_count_of_kills();
    // In the order in which they can be removed.
    let cgroups = [big, small, parent];
    Scene::new("sibling victim", move |events| {
        let [big, _small, parent] = &cgroups;
        let kills = answer::kills(events, &[pid, trigger_pid], parent);
        vec![
            ("count", answer::count(events, kills.len(), counted)),
            ("victim", answer::victims(&kills, &[pid])),
            ("cgroup", each(kills.iter().map(|kill| answer::own_cgroup(kill, big)))),
            ("limit", each(kills.iter().map(|kill| answer::limit(kill, parent)))),
        ]
    })
}

fn group_kill() -> Scene {
    let cgroup = Cgroup::scratch().limited_to_mib(32);
    cgroup.write("memory.oom.group", "1");
    let mut bystanders = [Hog::ready_in(&cgroup, ["sleep"]), Hog::ready_in(&cgroup, ["sleep"])];
    let mut eater = Hog::ready_in(&cgroup, ["eat=all"]);
    eater.go();
    eater.wait_until_killed();
    bystanders.iter_mut().for_each(Hog::wait_until_killed);
    let pids = [eater.pid(), bystanders[0].pid(), bystanders[1].pid()];
    Scene::new("group kill", move |events| {
        let kills = answer::kills(events, &pids, &cgroup);
        let sum = events.of_kind("oom_group_kill").into_iter().find(|sum| {
            let there = same(sum.text("/oom_memcg/path"), cgroup.path().to_str().unwrap_or_default());
            there == Answer::Right
        });
        vec![
            // The kernel's own count has one of them twice.
            ("count", answer::count(events, kills.len(), pids.len() as u64)),
            ("victim", answer::victims(&kills, &pids)),
            ("cgroup", each(kills.iter().map(|kill| answer::own_cgroup(kill, &cgroup)))),
            ("limit", each(kills.iter().map(|kill| answer::limit(kill, &cgroup)))),
            ("group", each(kills.iter().map(|kill| same(kill.flag("/group_kill"), true)))),
            ("sum", same(sum.and_then(|sum| sum.number("/victims")), pids.len() as u64)),
        ]
    })
}

/// Twenty at once.
fn storm() -> Scene {
    let parent = Cgroup::scratch();
    let cgroups: Vec<Cgroup> =
        (0..STORM_CGROUPS).map(|index| parent.child(format!("c{index}")).limited_to_mib(12)).collect();
    let gate = Gate::new();
    let mut hogs = Vec::new();
    for (index, cgroup) in cgroups.iter().enumerate() {
        for _ in 0..STORM_HOGS {
            hogs.push((index, Hog::start_behind(&gate, [cgroup.join_step(), "wait".into(), "eat=all".into()])));
        }
    }
    wait_for("all hogs to be at their places", PROCESS_TIMEOUT, || {
        cgroups.iter().all(|cgroup| cgroup.processes().len() == STORM_HOGS).then_some(())
    });
    gate.open();
    for (_, hog) in &mut hogs {
        hog.wait_until_killed();
    }
    let counted = cgroups.iter().map(Cgroup::kernel_count_of_kills).sum();
    let homes: Vec<(u32, usize)> = hogs.iter().map(|(index, hog)| (hog.pid(), *index)).collect();
    let pids: Vec<u32> = homes.iter().map(|(pid, _)| *pid).collect();
    // In the order in which they can be removed.
    let cgroups: Vec<Cgroup> = cgroups.into_iter().chain([parent]).collect();
    Scene::new("storm", move |events| {
        let kills = answer::kills(events, &pids, &cgroups[STORM_CGROUPS]);
        let home = |kill: &Event| {
            let pid = kill.number("/victim/pid").or_else(|| kill.number("/victim/tid"))?;
            let (_, index) = homes.iter().find(|(it, _)| u64::from(*it) == pid)?;
            cgroups.get(*index)
        };
        let at_home = |judge: fn(&Event, &Cgroup) -> Answer| {
            each(kills.iter().map(|kill| home(kill).map_or(Answer::Absent, |cgroup| judge(kill, cgroup))))
        };
        vec![
            ("count", answer::count(events, kills.len(), counted)),
            ("victim", answer::victims(&kills, &pids)),
            ("cgroup", at_home(answer::own_cgroup)),
            ("limit", at_home(answer::limit)),
        ]
    })
}

/// A child is killed, and the container lives on.
fn container_survived() -> Scene {
    let steps = ["child", "say=born", "wait", "eat=all", "end", "reap", "say=alive", "wait"];
    let mut container = Container::start(Runtime::Runc, 48, &steps);
    container.go();
    assert_eq!(container.line(), "born");
    let init = container.init();
    let child = container.cgroup().processes().into_iter().find(|pid| *pid != init).expect("a child");
    container.go();
    assert_eq!(container.line(), "killed=9");
    assert_eq!(container.line(), "alive");
    let counted = container.cgroup().kernel_count_of_kills();
    Scene::new("container survived", move |events| {
        let kills = answer::kills(events, &[child, init], container.cgroup());
        let mut answers = of_container(events, &kills, &container, child, counted);
        answers.push(("outcome", same(outcome(events, &container, "/container_survived"), true.into())));
        answers
    })
}

/// Its first process is killed.
fn container_ended() -> Scene {
    let mut container = Container::start(Runtime::Runc, 48, &["eat=all"]);
    container.go();
    let code = container.wait().code().expect("a code of runc's");
    let init = container.init();
    Scene::new("container ended", move |events| {
        let kills = answer::kills(events, &[init], container.cgroup());
        let mut answers = of_container(events, &kills, &container, init, 1);
        answers.push(("outcome", same(outcome(events, &container, "/container_survived"), false.into())));
        answers.push(("code", same(outcome(events, &container, "/exit_code"), code.into())));
        answers
    })
}

fn of_container(events: &[Event], kills: &[&Event], container: &Container, pid: u32, counted: u64) -> Answers {
    vec![
        ("count", answer::count(events, kills.len(), counted)),
        ("victim", answer::victims(kills, &[pid])),
        ("container", each(kills.iter().map(|kill| same(kill.text("/workload/container_id"), container.id())))),
        ("limit", each(kills.iter().map(|kill| answer::limit(kill, container.cgroup())))),
        ("owner", each(kills.iter().map(|kill| same(kill.text("/limit_owner"), "container")))),
    ]
}

/// What is said of what became of it.
fn outcome(events: &[Event], container: &Container, field: &str) -> Option<serde_json::Value> {
    let of_it = |event: &&&Event| event.text("/workload/container_id") == Some(container.id());
    events.of_kind("oom_outcome").iter().find(of_it)?.field(field).cloned()
}

/// A limit is hit again and again, and nobody may be killed.
fn no_kill() -> Scene {
    let cgroup = Cgroup::scratch().limited_to_mib(8);
    let hog = Hog::that_nobody_may_kill(&cgroup, "fill-pipes=all");
    wait_for("the limit to be hit", EVENT_TIMEOUT, || (cgroup.times_at_the_limit() > 1).then_some(()));
    let counted = cgroup.kernel_count_of_kills();
    let pid = hog.pid();
    Scene::new("nothing to kill", move |events| {
        let _still_there = &hog;
        let told = events.without_kill_in(cgroup.id());
        let kills = answer::kills(events, &[pid], &cgroup);
        vec![
            ("told", if told.is_empty() { Answer::Absent } else { Answer::Right }),
            ("limit", each(told.iter().map(|oom| answer::limit(oom, &cgroup)))),
            ("spared", same(Some(kills.len() as u64), counted)),
        ]
    })
}

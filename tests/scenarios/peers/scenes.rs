//! The kills: a storm, a sibling, a group, a child, and a cgroup that is gone at once. All in cgroups of docker's form.

use std::{thread::sleep, time::Duration};

use support::{Cgroup, Gate, Hog, PROCESS_TIMEOUT, unique_name, wait_for};

const CONTAINERS: usize = 20;
/// Two or three in each.
const STORM: usize = 50;

/// The kernel limits what it writes into its log in five seconds; later scenes are not to suffer from the storm.
const CALM: Duration = Duration::from_secs(6);
/// The poller has its chance.
const LONGER_THAN_A_POLL: Duration = Duration::from_secs(1);

/// A kill as it was made.
#[derive(Debug, Clone)]
pub(crate) struct Kill {
    pub(crate) scene: &'static str,
    pub(crate) pid: u32,
    pub(crate) cgroup: String,
    pub(crate) limit: String,
}

/// Makes all of them, one scene after the other.
pub(crate) fn all() -> Vec<Kill> {
    // Goes after what is in it.
    let _slice = Cgroup::make("/system.slice");
    [storm(), sibling(), group(), child(), gone()].concat()
}

/// A kill that does not count.
pub(crate) fn rehearsal() {
    let _slice = Cgroup::make("/system.slice");
    let cgroup = container().limited_to_mib(24);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
}

fn kill(scene: &'static str, pid: u32, cgroup: &Cgroup, limit: &Cgroup) -> Kill {
    let text = |cgroup: &Cgroup| cgroup.path().to_string_lossy().into_owned();
    Kill { scene, pid, cgroup: text(cgroup), limit: text(limit) }
}

fn container() -> Cgroup {
    let hex = unique_name().bytes().fold(0_u128, |hex, byte| (hex << 8) | u128::from(byte));
    Cgroup::make(format!("/system.slice/docker-{hex:064x}.scope"))
}

fn storm() -> Vec<Kill> {
    let containers: Vec<Cgroup> = (0..CONTAINERS).map(|_| container().limited_to_mib(24)).collect();
    let gate = Gate::new();
    let mut hogs = Vec::new();
    for number in 0..STORM {
        let cgroup = &containers[number % CONTAINERS];
        hogs.push((cgroup, Hog::start_behind(&gate, [cgroup.join_step(), "wait".into(), "eat=all".into()])));
    }
    wait_for("all hogs to be at their places", PROCESS_TIMEOUT, || {
        (containers.iter().map(|cgroup| cgroup.processes().len()).sum::<usize>() == STORM).then_some(())
    });
    gate.open();
    for (_, hog) in &mut hogs {
        hog.wait_until_killed();
    }
    assert_eq!(containers.iter().map(Cgroup::kernel_count_of_kills).sum::<u64>(), STORM as u64);
    sleep(CALM);
    hogs.iter().map(|(cgroup, hog)| kill("storm", hog.pid(), cgroup, cgroup)).collect()
}

fn sibling() -> Vec<Kill> {
    let slice = Cgroup::make(format!("/{}.slice", unique_name())).limited_to_mib(64);
    let (big, small) = (slice.child("big"), slice.child("small"));
    let mut victim = Hog::ready_in(&big, ["eat=40", "say=full", "sleep"]);
    victim.go();
    victim.wait_until_it_says("full");
    let mut trigger = Hog::ready_to_outlive(&small, ["eat=28", "say=full", "sleep"]);
    trigger.go();
    victim.wait_until_killed();
    trigger.wait_until_it_says("full");
    sleep(LONGER_THAN_A_POLL);
    let made = vec![kill("sibling", victim.pid(), &big, &slice)];
    drop((trigger, big, small));
    made
}

fn group() -> Vec<Kill> {
    let cgroup = container().limited_to_mib(32);
    cgroup.write("memory.oom.group", "1");
    let mut hogs: Vec<Hog> = ["sleep", "sleep", "eat=all"].map(|step| Hog::ready_in(&cgroup, [step])).into();
    hogs.iter_mut().for_each(Hog::go);
    hogs.iter_mut().for_each(Hog::wait_until_killed);
    sleep(LONGER_THAN_A_POLL);
    hogs.iter().map(|hog| kill("group", hog.pid(), &cgroup, &cgroup)).collect()
}

fn child() -> Vec<Kill> {
    let cgroup = container().limited_to_mib(32);
    let mut hog = Hog::ready_in(&cgroup, ["child", "wait", "eat=all", "end", "say=born", "reap", "say=alive", "sleep"]);
    hog.go();
    hog.wait_until_it_says("born");
    let pid = cgroup.processes().into_iter().find(|pid| *pid != hog.pid()).expect("a child");
    hog.go();
    hog.wait_until_it_says("killed=9");
    hog.wait_until_it_says("alive");
    sleep(LONGER_THAN_A_POLL);
    vec![kill("child", pid, &cgroup, &cgroup)]
}

/// As runtimes do it: the cgroup goes when its last process has ended.
fn gone() -> Vec<Kill> {
    let mut cgroup = container().limited_to_mib(16);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    cgroup.remove();
    vec![kill("gone at once", hog.pid(), &cgroup, &cgroup)]
}

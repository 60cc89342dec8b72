//! How true `oomwatch ps` is of sandboxes of real runsc: each workload, by the cgroup and by the memory files alone, held
//! against what the cgroup is charged with and cannot give back. `cargo xtask bench --gvisor` prints the same as a table.

use std::{thread, time::Duration};

use support::{AskedAgent, Cgroup, Place, Plan, Runsc, Sandbox, memory_cgroup_version, require};

/// The larger of these is allowed.
const ALLOWED_BYTES: u64 = 10_000_000;
const ALLOWED_PERCENT: u64 = 3;

/// What the kernel charges the cgroup with and cannot take back.
fn truth(cgroup: &Cgroup) -> u64 {
    let reclaimable: &[&str] = match memory_cgroup_version() {
        1 => &["total_active_file", "total_inactive_file"],
        _ => &["active_file", "inactive_file", "slab_reclaimable"],
    };
    cgroup.usage() - reclaimable.iter().map(|key| cgroup.counter("memory.stat", key)).sum::<u64>()
}

fn check(agent: &AskedAgent<'_>, estimator: &str, sandbox: &Sandbox, workload: &str) {
    let cgroup = sandbox.cgroup();
    agent.wait_for_workload(&format!("{workload} to be measured right by {estimator}"), |row| {
        if row["workload"]["sandbox_id"] != sandbox.id() || row["estimator"] != estimator {
            return false;
        }
        let (told, truth) = (row["usage_bytes"].as_u64().unwrap_or_default(), truth(&cgroup));
        told.abs_diff(truth) <= ALLOWED_BYTES.max(truth * ALLOWED_PERCENT / 100)
    });
}

/// Each workload in a sandbox of its own. The last step of each says `done`.
fn workloads(runsc: Runsc) -> Vec<(&'static str, Plan)> {
    let children = |steps: &[&'static str], count: usize| [&["child"], steps, &["sleep", "end"]].concat().repeat(count);
    let hog = |steps: Vec<&'static str>| {
        let steps = [steps, vec!["say=done", "wait"]].concat();
        Plan::hog(runsc, 4096, &steps)
    };
    let overlay = hog(vec!["fill-file=200:/file"]).writable();
    let overlay = if runsc == Runsc::OLD { overlay.flag("--overlay=true") } else { overlay };
    vec![
        ("idle", hog(vec![])),
        ("growth by brk", hog(vec!["grow=200"])),
        ("growth by one mapping", hog(vec!["eat=200"])),
        ("forked readers", hog([vec!["eat=200"], children(&["read-again"], 8)].concat())),
        ("copy-on-write children", hog([vec!["eat=50"], children(&["write-again"], 8)].concat())),
        ("100 children", hog(children(&[], 100))),
        ("file reads", hog(vec!["read-file=/big", "read-file=/big"]).with_big_file(300)),
        ("mapped reads", hog(vec!["map-file=/big"]).with_big_file(300)),
        ("tmpfs writes", hog(vec!["fill-file=200:/tmp/file"])),
        ("overlay writes", overlay),
    ]
}

fn measured_right(runsc: Runsc) {
    let (place, place_by_files) = (Place::new(), Place::new());
    let (agent, by_files) = (place.agent(&[]), place_by_files.agent(&["--estimator", "memfd"]));
    for (workload, plan) in workloads(runsc) {
        let mut sandbox = plan.start();
        sandbox.go();
        assert_eq!(sandbox.line(), "done", "{workload}");
        // Children go on for a moment, and both agents look every half second.
        thread::sleep(Duration::from_millis(700));
        check(&agent, "cgroup", &sandbox, workload);
        check(&by_files, "memfd", &sandbox, workload);
        // A sentry that stands still says nothing, and is measured all the same.
        sandbox.pause();
        thread::sleep(Duration::from_millis(600));
        check(&by_files, "memfd", &sandbox, workload);
        sandbox.resume();
    }
    agent.stop();
    by_files.stop();
}

#[test]
fn every_workload_of_the_old_runsc_is_measured_right() {
    require!(Agent, Runsc);
    measured_right(Runsc::OLD);
}

#[test]
fn every_workload_on_ptrace_is_measured_right() {
    require!(Agent, Runsc);
    measured_right(Runsc::PTRACE);
}

#[test]
fn every_workload_on_systrap_is_measured_right() {
    require!(Agent, Runsc);
    measured_right(Runsc::SYSTRAP);
}

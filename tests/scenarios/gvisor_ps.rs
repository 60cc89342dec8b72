//! gVisor sandboxes in `oomwatch ps`, with a limit and without.

use serde_json::Value;
use support::{Place, Plan, Runsc, Sandbox, require};

const MIB: u64 = 1 << 20;

fn measured(place: &Place, sandbox: &Sandbox, agent: &support::AskedAgent<'_>) -> Value {
    let row = agent.wait_for_workload("the sandbox", |row| {
        row["workload"]["sandbox_id"] == sandbox.id() && row["usage_bytes"].is_u64()
    });
    assert_eq!(row["workload"]["runtime"], "runsc", "{row}");
    assert_eq!(row["pid"], sandbox.sentry(), "{row}");
    let of_it = |row: &Value| {
        row["workload"]["container_id"] == sandbox.id()
            || row["workload"]["cgroup_path"].as_str().is_some_and(|path| path.ends_with(sandbox.id()))
    };
    assert_eq!(agent.workloads().into_iter().filter(of_it).count(), 1, "one sandbox, one line");
    let table = place.ask("ps", &[]).stdout;
    let lines = table.lines().filter(|line| line.starts_with(&sandbox.id()[..12]) && line.contains("runsc"));
    assert_ne!(lines.count(), 0, "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "more than 80 columns: {table}");
    row
}

#[test]
fn a_sandbox_stands_in_the_same_table_and_without_a_limit_has_no_share_of_it() {
    require!(Agent, Runsc);
    let place = Place::new();
    let agent = place.agent(&[]);
    let limited = Plan::hog(Runsc::SYSTRAP, 256, &["wait"]).start();
    // As much as no host has: none.
    let unlimited = Plan::hog(Runsc::SYSTRAP, 1 << 24, &["wait"]).start();
    let row = measured(&place, &limited, &agent);
    assert_eq!(row["limit_bytes"], 256 * MIB, "{row}");
    assert!(row["usage_percent"].is_f64(), "{row}");
    let row = measured(&place, &unlimited, &agent);
    for absent in ["limit_bytes", "usage_percent", "limit_source", "time_to_limit_seconds"] {
        assert!(row.get(absent).is_none(), "{absent} of {row}");
    }
    agent.stop();
}

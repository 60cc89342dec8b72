//! The two lines of the original system, word for word, where events are for people.

use support::{Agent, EVENT_TIMEOUT, Output, Plan, Runsc, require, wait_for};

/// The line with this message, without its time.
fn line_with(agent: &Agent, message: &str, pid: u32) -> String {
    let begin = format!("{message} pid={pid} ");
    wait_for(message, EVENT_TIMEOUT, || {
        let lines = agent.lines();
        let mut bare = lines.iter().filter_map(|line| line.split_once(' ').map(|(_time, rest)| rest));
        bare.find(|line| line.starts_with(&begin)).map(str::to_owned)
    })
}

#[test]
fn the_start_of_a_sandbox_and_its_warning_are_the_original_lines() {
    require!(Agent, Runsc);
    let agent = Agent::start_with(Output::Text, &["--workload-events"]);
    let mut sandbox = Plan::hog(Runsc::SYSTRAP, 256, &["eat=236", "say=full", "wait"]).start();
    let (id, sentry) = (sandbox.id().to_owned(), sandbox.sentry());
    let started = line_with(&agent, "INF starting gVisor OOM watcher with memory monitoring", sentry);
    let expected = format!(
        "INF starting gVisor OOM watcher with memory monitoring pid={sentry} memory_limit_mb=256 threshold_mb=243 \
         threshold_percent=95"
    );
    assert!(started.starts_with(&expected), "{started}");
    sandbox.go();
    assert_eq!(sandbox.line(), "full");
    let warned = line_with(&agent, "WRN memory usage exceeded threshold - OOM likely", sentry);
    let fields: Vec<&str> = warned.split(' ').skip_while(|word| !word.contains('=')).collect();
    let names: Vec<&str> = fields.iter().filter_map(|field| field.split_once('=')).map(|(name, _)| name).collect();
    let original = ["pid", "memory_usage_mb", "memory_limit_mb", "usage_percent", "container_id"];
    assert!(names.starts_with(&original), "{warned}");
    let value = |at: usize| fields[at].split_once('=').unwrap().1;
    assert!((243..=256).contains(&value(1).parse::<u32>().unwrap()), "{warned}");
    assert_eq!(value(2), "256", "{warned}");
    assert!((95.0..=100.0).contains(&value(3).parse::<f64>().unwrap()), "{warned}");
    assert_eq!(value(4), id, "{warned}");
    sandbox.go();
    sandbox.wait();
    drop(agent.finish(rustix::process::Signal::TERM));
}

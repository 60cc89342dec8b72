//! Events and numbers to a real collector of OpenTelemetry; and one that is dead, hangs or comes late.

use std::{collections::BTreeSet, net::TcpListener};

use support::{
    Agent, Cgroup, Collector, Container, Event, Hog, Output, PROCESS_TIMEOUT, Plan, Runsc, Runtime, agent_command,
    require, run, wait_for,
};

fn sending_to(url: &str) -> Agent {
    Agent::start_with(Output::Json, &["--otlp-endpoint", url])
}

/// A process killed in its cgroup, and told of on standard output.
fn kill_in(cgroup: &Cgroup, agent: &Agent) -> Event {
    let mut hog = Hog::ready_in(cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    agent.wait_for_kill_of(hog.pid())
}

fn is_loss(event: &Event) -> bool {
    event.kind() == "loss" && event.text("/sink") == Some("otlp")
}

/// Tries take a while before something is lost.
fn wait_for_loss(agent: &Agent) -> Event {
    wait_for("a loss to be told", 2 * PROCESS_TIMEOUT, || agent.events().into_iter().find(is_loss))
}

#[test]
fn a_kill_reaches_a_collector_with_the_names_of_the_conventions() {
    require!(Agent, Collector, Program("runc"));
    let collector = Collector::start();
    let agent = sending_to(&collector.url());
    let mut container = Container::start(Runtime::Runc, 48, &["eat=all"]);
    container.go();
    container.wait();
    let kill = agent.wait_for_kill_of(container.init());
    let events = agent.stop();

    let record = collector.wait_for_record("the kill", |record| {
        record.field("EventName") == Some("oomwatch.oom_kill") && record.text("container.id") == Some(container.id())
    });
    assert_eq!(record.text("container.runtime.name"), Some("runc"), "{record:#?}");
    assert_eq!(record.number("process.pid"), Some(container.init().into()), "{record:#?}");
    assert_eq!(record.number("process.vpid"), Some(1), "{record:#?}");
    assert_eq!(record.number("process.user.id"), kill.number("/victim/uid"), "{record:#?}");
    assert_eq!(record.text("process.title"), kill.text("/victim/comm"), "{record:#?}");
    assert_eq!(record.text("oomwatch.incident_id"), kill.text("/incident_id"), "{record:#?}");
    assert_eq!(record.text("oomwatch.oom_memcg.path"), kill.text("/oom_memcg/path"), "{record:#?}");
    assert_eq!(record.number("oomwatch.oom_memcg.limit_bytes"), Some(48 << 20), "{record:#?}");
    assert_eq!(record.number("oomwatch.seq"), kill.number("/seq"), "{record:#?}");
    assert_eq!(record.text("oomwatch.limit_owner"), Some("container"), "{record:#?}");
    assert_eq!(record.field("SeverityText"), Some("critical"), "{record:#?}");
    assert!(record.field("SeverityNumber").unwrap().ends_with("(18)"), "{record:#?}");
    let nanoseconds = kill.time().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap().as_nanos().to_string();
    assert_eq!(record.field("Timestamp"), Some(nanoseconds.as_str()), "{record:#?}");
    let body = record.text("Body").unwrap();
    assert!(body.contains(" WRN OOM kill detected ") && body.contains(container.id()), "{body}");

    let told = |event: &Event| event.number("/seq").unwrap();
    wait_for("all events to be there", PROCESS_TIMEOUT, || {
        let got: BTreeSet<u64> =
            collector.records().iter().filter_map(|record| record.number("oomwatch.seq")).collect();
        (got == events.iter().map(told).collect()).then_some(())
    });
    for resource in collector.resources() {
        assert_eq!(resource.text("service.name"), Some("oomwatch"), "{resource:#?}");
        assert!(resource.text("service.version").is_some_and(|version| !version.is_empty()), "{resource:#?}");
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(resource.text("host.name"), Some(name.trim()), "{resource:#?}");
    }
    let of_it = wait_for("the sum of kills at the agent's end", PROCESS_TIMEOUT, || {
        let points = collector.points("oomwatch.oom_kills");
        points.into_iter().find(|point| point.text("container.id") == Some(container.id()))
    });
    assert_eq!(of_it.field("Value"), Some("1"), "{of_it:#?}");
    assert_eq!(of_it.text("oomwatch.scope"), Some("memcg"), "{of_it:#?}");
    assert_eq!(of_it.field("IsMonotonic"), Some("true"), "{of_it:#?}");
    assert_eq!(of_it.field("AggregationTemporality"), Some("AGGREGATION_TEMPORALITY_CUMULATIVE"), "{of_it:#?}");
    let time = |name: &str| of_it.field(name).unwrap().parse::<u128>().unwrap();
    assert!(0 < time("StartTimestamp") && time("StartTimestamp") < time("Timestamp"), "{of_it:#?}");
}

#[test]
fn what_a_sandbox_holds_and_may_hold_reaches_a_collector() {
    require!(Agent, Collector, Runsc);
    let collector = Collector::start();
    let mut command = agent_command(&["run", "--output", "json", "--otlp-endpoint", &collector.url()]);
    let agent = Agent::start_command(Output::Json, command.env("OTEL_METRIC_EXPORT_INTERVAL", "200"));
    let sandbox = Plan::hog(Runsc::SYSTRAP, 256, &["eat=100", "say=full", "wait"]).start();
    let value = |name: &str| {
        let points = collector.points(name);
        let of_it = points.into_iter().rev().find(|point| point.text("container.id") == Some(sandbox.id()))?;
        of_it.field("Value").unwrap().parse::<u64>().ok()
    };
    let limit = wait_for("its limit", PROCESS_TIMEOUT, || value("oomwatch.workload.memory.limit"));
    assert_eq!(limit, 256 << 20);
    wait_for("its usage", PROCESS_TIMEOUT, || value("oomwatch.workload.memory.usage").filter(|usage| *usage > 0));
    drop(sandbox);
    drop(agent.stop());
}

#[test]
fn a_dead_collector_costs_only_its_own_events_and_one_that_comes_later_gets_the_next_ones() {
    require!(Agent, Collector);
    let address = Collector::free_address();
    let agent = sending_to(&format!("http://{address}"));
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let early = kill_in(&cgroup, &agent);
    let loss = wait_for_loss(&agent);
    assert_eq!(loss.text("/stage"), Some("sink"), "{loss}");
    assert!(loss.number("/lost") > Some(0), "{loss}");

    let collector = Collector::start_at(address);
    let late = kill_in(&cgroup, &agent);
    let seq = |event: &Event| event.number("/seq");
    let record = collector.wait_for_record("the later kill", |record| record.number("oomwatch.seq") == seq(&late));
    assert_eq!(record.number("process.pid"), late.number("/victim/pid"));
    let events = agent.stop_though_lossy("otlp");
    assert!(events.iter().any(|event| seq(event) == seq(&early)), "standard output has all");
    let last = events.last().and_then(seq);
    collector.wait_for_record("the agent's end", |record| record.number("oomwatch.seq") == last);
    let got: BTreeSet<_> = collector.records().iter().map(|record| record.number("oomwatch.seq")).collect();
    let missing = events.iter().filter(|event| !got.contains(&seq(event)) && !is_loss(event)).count() as u64;
    let told: u64 = events.iter().filter(|event| is_loss(event)).filter_map(|event| event.number("/lost")).sum();
    assert_eq!(told, missing, "what was told to be lost, and what is not there: {got:?}");
}

#[test]
fn a_hung_collector_delays_nothing_and_its_loss_is_told() {
    require!(Agent);
    // Takes connections, as the kernel does by itself, and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let agent = sending_to(&format!("http://{}", listener.local_addr().unwrap()));
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    for _ in 0..5 {
        kill_in(&cgroup, &agent);
    }
    let loss = wait_for_loss(&agent);
    assert!(loss.number("/lost") > Some(0), "{loss}");
    drop(agent.stop_though_lossy("otlp"));
    drop(listener);
}

#[test]
fn an_address_that_cannot_be_used_is_refused_at_once() {
    require!(Agent);
    for (url, why) in [
        ("https://127.0.0.1:4318", "plain http only"),
        ("127.0.0.1:4318", "must be a URL"),
        ("http://", "must be a URL"),
        ("http://127.0.0.1:99999", "port"),
    ] {
        let finished = run(&mut agent_command(&["run", "--otlp-endpoint", url]));
        assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{url}: {finished:?}");
        let named = ["--otlp-endpoint", url, why].iter().all(|word| finished.stderr.contains(word));
        assert!(named, "{url}: {}", finished.stderr);
    }
}

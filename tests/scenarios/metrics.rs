//! `/metrics` as a real Prometheus and its promtool read it, and `/healthz`.

#![expect(clippy::expect_used, reason = "a test fails by a panic")]

use std::{fs, io::Read as _, net::TcpStream, os::unix::fs::symlink};

use support::{
    Agent, Cgroup, Container, EVENT_TIMEOUT, Events as _, Hog, Output, Plan, Prometheus, Reply, Runsc, Runtime, Void,
    ask, get, in_some_attempts, promtool_check, require, wait_for,
};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

fn serving() -> Agent {
    Agent::start_with(Output::Json, &["--listen-address", "127.0.0.1:0"])
}

fn page(agent: &Agent, accept: &str) -> Reply {
    let reply = get(&format!("http://{}/metrics", agent.served_at()), accept).expect("an answer");
    assert_eq!(reply.status, 200, "{reply:?}");
    reply
}

/// The value of the one sample whose line begins with this name and holds all of these labels.
fn sample(page: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let begin = format!("{name}{{");
    let mut lines = page.lines().filter(|line| line.starts_with(&begin) && labels.iter().all(|it| line.contains(it)));
    let value = lines.next()?.rsplit_once(' ')?.1.parse().expect("a number");
    assert_eq!(lines.next(), None, "more than one sample of {name} with {labels:?}");
    Some(value)
}

fn label(name: &str, value: &str) -> String {
    format!("{name}=\"{value}\"")
}

#[test]
fn prometheus_sees_the_first_kill_of_a_container() {
    require!(Agent, Prometheus, Program("runc"));
    let agent = serving();
    let prometheus = Prometheus::scraping(&agent.served_at());
    let mut container = Container::start(Runtime::Runc, 48, &["eat=all"]);
    let of_container = format!("container_id='{}',runtime='runc'", container.id());
    let kills = format!("oomwatch_oom_kills_total{{{of_container},scope='memcg',limit_owner='container'}}");
    prometheus.wait_until(&kills, 0);
    prometheus.wait_until(&format!("oomwatch_near_limit_total{{{of_container}}}"), 0);
    let before = prometheus.wait_for("oomwatch_events_total{event='oom_kill'}", |_| true);
    container.go();
    container.wait();
    agent.wait_for_kill_of(container.init());
    prometheus.wait_until(&kills, 1);
    prometheus.wait_for(&format!("increase({kills}[10m])"), |increase| increase >= 1.0);
    prometheus.wait_until(&format!("sum(oomwatch_oom_kills_total{{{of_container}}})"), 1);
    prometheus.wait_for("oomwatch_events_total{event='oom_kill'}", |kills| kills > before);
    prometheus.wait_for("oomwatch_detection_latency_seconds_count", |kills| kills >= 1.0);
    prometheus.wait_until("count(oomwatch_source_up == 1)", 3);
    prometheus.wait_until("count(oomwatch_build_info{tier=~'bpf.*'})", 1);
    prometheus.wait_until("up", 1);
    let carries_pid = prometheus.query("count({__name__=~'oomwatch.*',pid!=''})");
    assert_eq!(carries_pid, Some(vec![]), "no series carries a process id");
    drop(agent.stop());
}

/// A container that crashes again and again is rarely there when somebody scrapes.
#[test]
fn prometheus_sees_the_kill_of_a_container_that_was_gone_before_the_first_scrape() {
    require!(Agent, Prometheus, Program("runc"));
    let agent = serving();
    let mut container = Container::start(Runtime::Runc, 48, &["eat=all"]);
    let (id, init) = (container.id().to_owned(), container.init());
    container.go();
    container.wait();
    drop(container);
    agent.wait_for_kill_of(init);
    let by_hand = page(&agent, OPENMETRICS).body;
    let labels = [label("container_id", &id), label("limit_owner", "container")];
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    assert_eq!(sample(&by_hand, "oomwatch_oom_kills_total", &labels), Some(1.0), "who looks sees it at once");
    let prometheus = Prometheus::scraping(&agent.served_at());
    let kills = format!("oomwatch_oom_kills_total{{container_id='{id}',limit_owner='container'}}");
    prometheus.wait_for(&format!("increase({kills}[10m])"), |increase| increase >= 1.0);
    prometheus.wait_until(&kills, 1);
    drop(agent.stop());
}

#[test]
fn promtool_is_content_and_both_formats_say_the_same() {
    require!(Agent, Prometheus);
    let agent = serving();
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    agent.wait_for_kill_of(hog.pid());
    let path = label("cgroup_path", cgroup.path().to_str().expect("a path of text"));
    let limit = wait_for("the memory of what is no container", EVENT_TIMEOUT, || {
        sample(&page(&agent, OPENMETRICS).body, "oomwatch_workload_memory_limit_bytes", &[&path])
    });
    assert!((limit - f64::from(16 << 20)).abs() < 1.0, "{limit}");
    let classic = page(&agent, "*/*");
    assert!(classic.content_type.starts_with("text/plain; version=0.0.4"), "{classic:?}");
    let checked = promtool_check(&classic.body);
    assert_eq!((checked.code, &*checked.stdout, &*checked.stderr), (Some(0), "", ""), "{}", classic.body);
    let open = page(&agent, OPENMETRICS);
    assert!(open.content_type.starts_with("application/openmetrics-text; version=1.0.0"), "{open:?}");
    assert!(open.body.ends_with("# EOF\n"), "{}", open.body);
    for page in [&classic.body, &open.body] {
        let labels = ["runtime=\"process\"", "scope=\"memcg\"", "limit_owner=\"slice\""];
        assert!(sample(page, "oomwatch_oom_kills_total", &labels) >= Some(1.0), "{page}");
    }
    drop(agent.stop());
}

#[test]
fn memory_of_a_sandbox_and_its_kill_are_on_the_page() {
    require!(Agent, Runsc);
    in_some_attempts(sandbox_on_the_page);
}

fn sandbox_on_the_page() -> Result<(), Void> {
    let lines = ["--threshold-percent", "40", "--rearm-percent", "30"];
    let agent = Agent::start_with(Output::Json, &[&["--listen-address", "127.0.0.1:0"], &lines[..]].concat());
    let mut sandbox = Plan::hog(Runsc::SYSTRAP, 128, &["eat=60", "say=eaten", "wait", "eat=all"]).start();
    let labels = [label("container_id", sandbox.id()), label("runtime", "runsc")];
    let of_sandbox: Vec<&str> = labels.iter().map(String::as_str).collect();
    let by_container = [&*of_sandbox, &["limit_owner=\"container\""]].concat();
    sandbox.go();
    assert_eq!(sandbox.line(), "eaten");
    sandbox.wait_for(&agent, "near_limit");
    wait_for("the memory of the sandbox", EVENT_TIMEOUT, || {
        let page = page(&agent, OPENMETRICS).body;
        let usage = sample(&page, "oomwatch_workload_memory_usage_bytes", &of_sandbox)?;
        assert_eq!(sample(&page, "oomwatch_workload_memory_limit_bytes", &of_sandbox), Some(f64::from(128 << 20)));
        assert!(sample(&page, "oomwatch_workload_memory_peak_bytes", &of_sandbox) >= Some(usage), "{page}");
        assert_eq!(sample(&page, "oomwatch_oom_kills_total", &by_container), Some(0.0));
        assert!(!page.contains("oomwatch_poll_duration_seconds_count 0\n"), "{page}");
        (usage >= f64::from(60 << 20)).then_some(())
    });
    sandbox.go();
    sandbox.wait_for(&agent, "oom_kill");
    sandbox.end()?;
    wait_for("the end of the sandbox on the page", EVENT_TIMEOUT, || {
        let page = page(&agent, OPENMETRICS).body;
        assert!(sample(&page, "oomwatch_oom_kills_total", &by_container) >= Some(1.0), "{page}");
        assert!(sample(&page, "oomwatch_near_limit_total", &of_sandbox) >= Some(1.0), "{page}");
        assert!(sample(&page, "oomwatch_workload_memory_peak_bytes", &of_sandbox) > Some(0.0), "{page}");
        sample(&page, "oomwatch_workload_memory_usage_bytes", &of_sandbox).is_none().then_some(())
    });
    drop(agent.stop());
    Ok(())
}

#[test]
fn an_agent_whose_sources_turn_is_healthy() {
    require!(Agent);
    let agent = serving();
    let url = format!("http://{}/healthz", agent.served_at());
    let health = wait_for("all sources to turn", EVENT_TIMEOUT, || get(&url, "*/*").filter(|it| it.status == 200));
    assert_eq!(health.body, "kernel up\ngvisor up\ncgroup up\npipeline up\n");
    drop(agent.stop());
    assert!(get(&url, "*/*").is_none(), "an agent that ended answers");
}

/// Where the mounts of the host's processes cannot be read, sandboxes cannot be told from what pretends to be one.
#[test]
fn an_agent_with_a_dead_source_is_not_healthy_and_says_which() {
    require!(Agent);
    let root = tempfile::tempdir().unwrap();
    let process = root.path().join("proc/1");
    fs::create_dir_all(&process).unwrap();
    for file in ["stat", "cgroup"] {
        fs::copy(format!("/proc/self/{file}"), process.join(file)).unwrap();
    }
    fs::copy("/proc/cgroups", root.path().join("proc/cgroups")).unwrap();
    // The kernel's source follows a link here and the other one does not.
    symlink("/proc/self/mountinfo", process.join("mountinfo")).unwrap();
    let arguments = ["--listen-address", "127.0.0.1:0", "--host-root", root.path().to_str().unwrap()];
    let agent = Agent::start_with(Output::Json, &arguments);
    let url = format!("http://{}/healthz", agent.served_at());
    let body = "kernel up\ngvisor down\ncgroup up\npipeline up\n";
    let health =
        wait_for("the kernel's source to turn", EVENT_TIMEOUT, || get(&url, "*/*").filter(|it| it.body == body));
    assert_eq!(health.status, 503, "{health:?}");
    let page = page(&agent, OPENMETRICS).body;
    assert_eq!(sample(&page, "oomwatch_source_up", &["source=\"gvisor\""]), Some(0.0), "{page}");
    assert_eq!(sample(&page, "oomwatch_source_up", &["source=\"kernel\""]), Some(1.0), "{page}");
    drop(agent.stop());
}

#[test]
fn an_agent_whose_port_is_taken_says_so_and_goes_on() {
    require!(Agent);
    let first = serving();
    let address = first.served_at();
    let second = Agent::start_with(Output::Json, &["--listen-address", &address]);
    let line = second.wait_for_log(&address);
    assert!(line.contains("WARN the agent goes on without this output: listen at"), "{line}");
    assert!(line.contains("sink=\"metrics\""), "{line}");
    assert!(line.contains("in use"), "{line}");
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    hog.go();
    hog.wait_until_killed();
    second.wait_for_kill_of(hog.pid());
    let said: Vec<String> = second.log().into_iter().filter(|line| line.contains(&address)).collect();
    assert_eq!(said, [line], "once");
    assert!(second.stop().only_kill_below(cgroup.path()).is_kill_of(hog.pid()));
    assert_eq!(page(&first, OPENMETRICS).status, 200);
    drop(first.stop());
}

#[test]
fn what_is_no_get_and_who_says_nothing_is_turned_away() {
    require!(Agent);
    let agent = serving();
    let address = agent.served_at();
    for (method, path, status) in
        [("DELETE", "/metrics", 405), ("HEAD", "/healthz", 405), ("GET", "/", 404), ("GET", "/metrics/", 404)]
    {
        let reply = ask(method, &format!("http://{address}{path}"), "*/*").expect("an answer");
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
    }
    // More than are served at once; none of them says anything.
    let silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(&address).expect("connect")).collect();
    wait_for("a scrape beside many silent clients", EVENT_TIMEOUT * 4, || {
        get(&format!("http://{address}/metrics"), "*/*").filter(|reply| reply.status == 200)
    });
    let mut first = &silent[0];
    let mut rest = Vec::new();
    // Told of a time-out or not, it is closed.
    drop(first.read_to_end(&mut rest));
    assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "an answer to nothing");
    drop(agent.stop());
}

//! The table of truth: every kind of kill is made once, with an agent on each rung of the ladder watching, and each
//! answer is compared with what the test did and what the kernel counted. One line an answer, for `cargo xtask vm`:
//! `truth|RUNG|SCENE|QUESTION|right, wrong, absent or race|why`.

#![expect(clippy::expect_used, reason = "a test fails by a panic, its helpers too")]

mod answer;
mod scenes;

use std::{
    collections::HashMap,
    env,
    fs::OpenOptions,
    io::{self, Write},
    thread::sleep,
    time::Duration,
};

use answer::Answer;
use support::{Agent, Event, Output, agent_command, let_the_log_rest, require, run};

/// What an agent is told to stand on a rung, and the name by which it must call it.
const RUNGS: [(&str, &[&str]); 7] = [
    ("bpf+fentry", &[]),
    ("bpf+kprobe", &["--withhold", "fentry"]),
    ("bpf+inferred", &["--withhold", "fentry,kprobe"]),
    ("bpf+record", &["--withhold", "btf"]),
    ("cgroup+kmsg", &["--withhold", "bpf"]),
    ("cgroup", &["--tier", "cgroup"]),
    ("kmsg", &["--tier", "kmsg"]),
];

/// What depends on who is faster: rung, scenes (none: all), questions. A victim's process and cgroup are looked up in
/// `/proc`; of ten kills in five seconds the log tells all there is to know, of more only whom, and then the counters of
/// cgroups say where, if they were read while the cgroup was there.
const RACES: [(&str, &[&str], &[&str]); 4] = [
    ("bpf+record", &[], &["victim", "cgroup", "container", "outcome", "code"]),
    ("cgroup+kmsg", AFTER_MANY, LOOKED_UP),
    ("cgroup", AFTER_MANY, LOOKED_UP),
    ("kmsg", AFTER_MANY, LOOKED_UP),
];
const AFTER_MANY: &[&str] = &["storm", "container survived", "container ended", "group kill"];
const LOOKED_UP: &[&str] =
    &["count", "victim", "cgroup", "container", "limit", "owner", "outcome", "code", "group", "sum"];

/// An outcome is told within two seconds, a limit hit without a kill in one; several agents share one processor.
const UNTIL_ALL_IS_TOLD: Duration = Duration::from_secs(5);

#[test]
fn what_each_rung_says_of_each_kind_of_kill() {
    require!(Agent, Program("runc"));
    let agents: Vec<_> =
        RUNGS.iter().filter_map(|(tier, arguments)| Some((*tier, on_rung(tier, arguments)?))).collect();
    assert!(!agents.is_empty(), "no rung is there");
    // Of the scenarios before, and of this host.
    let_the_log_rest();
    let scenes = scenes::all();
    sleep(UNTIL_ALL_IS_TOLD);
    let mut out = output();
    let (mut wrong, mut of_wrong) = (Vec::new(), HashMap::new());
    for (tier, agent) in agents {
        let events: Vec<Event> = agent.stop();
        for scene in &scenes {
            for (question, answer) in scene.ask(&events) {
                let answer = if races(tier, scene.name, question) { answer.of_a_race() } else { answer };
                let line = format!("truth|{tier}|{}|{question}|{answer}", scene.name);
                writeln!(out, "{line}").expect("write an answer");
                if let Answer::Wrong(_) = answer {
                    wrong.push(line);
                    of_wrong.extend([(tier, events.clone())]);
                }
            }
        }
    }
    for (tier, events) in of_wrong {
        for event in events {
            writeln!(out, "{tier}: {event}").expect("write an event");
        }
    }
    assert!(wrong.is_empty(), "better no answer than a wrong one: {wrong:#?}");
}

fn races(tier: &str, scene: &str, question: &str) -> bool {
    RACES.iter().any(|(rung, scenes, questions)| {
        *rung == tier && (scenes.is_empty() || scenes.contains(&scene)) && questions.contains(&question)
    })
}

/// An agent with these arguments; `None` where it stands on another rung, or the one that it must stand on is not there.
fn on_rung(tier: &str, arguments: &[&str]) -> Option<Agent> {
    if arguments.contains(&"--tier") && run(agent_command(&["check"]).args(arguments)).code == Some(1) {
        return None;
    }
    let agent = Agent::start_with(Output::Json, arguments);
    if agent.events()[0].text("/tier") == Some(tier) {
        return Some(agent);
    }
    drop(agent.stop());
    None
}

/// A file where one is named, else past the harness to standard output.
fn output() -> Box<dyn Write> {
    match env::var_os("OOMWATCH_TRUTH") {
        Some(file) => Box::new(OpenOptions::new().create(true).append(true).open(file).expect("open the table")),
        None => Box::new(io::stdout()),
    }
}

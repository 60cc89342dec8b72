//! `oomwatch check`, wrong arguments, and what goes to which stream.

#![expect(clippy::panic, reason = "a test fails by a panic, its helpers too")]

use serde_json::Value;
use support::{
    Capability, Finished, Mount, agent_command, kernel_names_the_limit, memory_cgroup_version, require, run,
    without_capabilities,
};

fn oomwatch(arguments: &[&str]) -> Finished {
    run(&mut agent_command(arguments))
}

/// Exit code 2, nothing on standard output, and one of the lines names what is wrong.
fn refused(arguments: &[&str], named: &[&str]) {
    let finished = oomwatch(arguments);
    assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
    assert_eq!(finished.stdout, "", "{arguments:?}");
    let line = finished.stderr.lines().find(|line| named.iter().all(|name| line.contains(name)));
    assert!(line.is_some(), "{arguments:?}: no line names {named:?}: {}", finished.stderr);
}

#[test]
fn wrong_arguments_are_refused_with_a_line_that_names_them() {
    require!(Agent);
    refused(&["run", "--no-such-option"], &["--no-such-option"]);
    refused(&["run", "--output", "xml"], &["xml", "--output"]);
    refused(&["check", "--output", ""], &["--output"]);
    refused(&["run", "--log-format", "yaml"], &["yaml", "--log-format"]);
    refused(&["run", "surplus"], &["surplus"]);
    refused(&["no-such-command"], &["no-such-command"]);
    let nothing = oomwatch(&[]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""), "{nothing:?}");
    assert!(nothing.stderr.contains("run") && nothing.stderr.contains("check"), "{}", nothing.stderr);
}

#[test]
fn wrong_values_in_the_environment_are_refused_too() {
    require!(Agent);
    let finished = run(agent_command(&["run"]).env("OOMWATCH_OUTPUT", "xml"));
    assert_eq!(finished.code, Some(2), "{finished:?}");
    assert!(finished.stderr.contains("xml"), "{}", finished.stderr);
}

#[test]
fn the_version_goes_to_standard_output() {
    require!(Agent);
    let finished = oomwatch(&["--version"]);
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{finished:?}");
    assert!(finished.stdout.starts_with("oomwatch "), "{finished:?}");
}

fn check_report(arguments: &[&str], code: i32) -> Value {
    let mut all = vec!["check", "--output", "json"];
    all.extend(arguments);
    let finished = oomwatch(&all);
    assert_eq!(finished.code, Some(code), "{finished:?}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {}", finished.stdout))
}

#[test]
fn check_says_that_kernel_events_are_exact_here() {
    require!(Agent);
    let report = check_report(&[], 0);
    assert_eq!(report["exact"], true, "{report:#}");
    assert_eq!(report["cgroup_version"], memory_cgroup_version(), "{report:#}");
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(report["kernel"], kernel.trim(), "{report:#}");
    let tier = report["tier"].as_str().unwrap();
    if kernel_names_the_limit() {
        assert_eq!(tier, "bpf+fentry", "{report:#}");
        assert_eq!(report["degraded"], serde_json::json!([]), "{report:#}");
    } else {
        assert_eq!(tier, "bpf+inferred", "{report:#}");
        assert!(report["degraded"].to_string().contains("oom_kill_process"), "{report:#}");
    }
    for feature in report["features"].as_array().unwrap() {
        let works = feature["works"].as_bool().unwrap();
        assert_eq!(works, feature["reason"].is_null(), "what does not work says why: {feature}");
    }
    let works = |target: &str| {
        let features = report["features"].as_array().unwrap();
        features.iter().find(|feature| feature["target"] == target).map(|feature| feature["works"].as_bool().unwrap())
    };
    assert_eq!(works("memory.pressure"), Some(memory_cgroup_version() == 2), "{report:#}");
    for target in ["gVisor sandboxes", "/proc/vmstat"] {
        assert_eq!(works(target), Some(true), "{target}: {report:#}");
    }
    let bpf_fs = Mount::new("bpf", c"mode=0700");
    for (folder, works) in [(bpf_fs.folder().to_str().unwrap(), true), ("/tmp", false)] {
        let there = check_report(&["--bpf-fs", folder], 0);
        let features = there["features"].as_array().unwrap();
        let pins = features.iter().find(|feature| feature["target"] == "BPF file system").unwrap();
        assert_eq!(pins["works"], works, "{pins}");
    }
    let text = oomwatch(&["check"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    assert!(text.stdout.contains(tier) && text.stdout.contains("oom:mark_victim"), "{text:?}");
}

#[test]
fn check_says_where_only_degraded_tiers_work() {
    require!(Agent);
    let report = check_report(&["--withhold", "btf"], 3);
    assert_eq!(report["exact"], false, "{report:#}");
    assert_eq!(report["tier"], "bpf+record", "{report:#}");
    assert!(report["degraded"].to_string().contains("BTF"), "{report:#}");
}

#[test]
fn check_says_that_nothing_works() {
    require!(Agent);
    let mut command = agent_command(&["check", "--output", "json", "--tier", "bpf"]);
    without_capabilities(&mut command, &[Capability::Bpf, Capability::SysAdmin]);
    let finished = run(&mut command);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let report: Value = serde_json::from_str(&finished.stdout).unwrap();
    assert_eq!(report["exact"], false, "{report:#}");
    assert_eq!(report.get("tier"), None, "{report:#}");
    assert!(report["degraded"].to_string().contains("CAP_BPF"), "{report:#}");
}

#[test]
fn output_that_nobody_reads_any_more_does_not_break_check() {
    require!(Agent);
    let mut command = agent_command(&["check"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stdout(writer).stderr(std::process::Stdio::null()).spawn().unwrap();
    let status = child.wait().unwrap();
    assert!(status.code().is_some(), "a signal or a panic ended it: {status}");
    assert_ne!(status.code(), Some(101), "it panicked");
}

//! `oomwatch completions` and `oomwatch man`, read by a real shell and a real `man`.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic, its helpers too")]

use std::{fs, path::PathBuf, process::Command};

use support::{agent_command, require, run};
use tempfile::TempDir;

/// What the agent prints, in a file.
fn printed(arguments: &[&str]) -> (TempDir, PathBuf) {
    let finished = run(&mut agent_command(arguments));
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{arguments:?}: {finished:?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("printed");
    fs::write(&file, finished.stdout).unwrap();
    (folder, file)
}

/// What bash offers for the last of these words.
fn offered(words: &[&str]) -> Vec<String> {
    let (_folder, script) = printed(&["completions", "bash"]);
    let ask = r#"source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _oomwatch oomwatch "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let finished = run(Command::new("bash").args(["--norc", "-c", ask, "bash"]).arg(script).args(words));
    assert_eq!((finished.code, finished.stderr.as_str()), (Some(0), ""), "{words:?}: {finished:?}");
    finished.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_reads_its_completions_and_offers_commands_options_and_values() {
    require!(Agent, Program("bash"));
    let (_folder, script) = printed(&["completions", "bash"]);
    let checked = run(Command::new("bash").arg("-n").arg(&script));
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{checked:?}");
    for command in ["run", "check", "completions", "man"] {
        assert!(offered(&["oomwatch", ""]).contains(&command.to_owned()), "{command}");
    }
    assert_eq!(offered(&["oomwatch", "run", "--threshold"]), ["--threshold-percent"]);
    assert_eq!(offered(&["oomwatch", "run", "--estimator", "m"]), ["memfd"]);
}

#[test]
fn every_shell_gets_completions_of_its_own() {
    require!(Agent);
    let mut seen = Vec::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (_folder, script) = printed(&["completions", shell]);
        let script = fs::read_to_string(script).unwrap();
        assert!(script.contains("threshold-percent"), "{shell}: {script}");
        assert!(!seen.contains(&script), "{shell} gets another's");
        seen.push(script);
    }
}

#[test]
fn man_shows_every_page_without_a_warning() {
    require!(Agent, Program("man"));
    for (arguments, expected) in [
        (vec!["man"], vec!["oomwatch-run(1)", "oomwatch-check(1)", "VERSION"]),
        (vec!["man", "run"], vec!["--threshold-percent", "OOMWATCH_THRESHOLD_PERCENT", "WARNINGS", "GVISOR"]),
        (vec!["man", "check"], vec!["--output", "--host-root"]),
    ] {
        let (_folder, page) = printed(&arguments);
        let mut man = Command::new("man");
        man.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        let man = man.env("LC_ALL", "C").env("MANWIDTH", "100").args(["--warnings", "-P", "cat", "-l"]).arg(&page);
        let shown = run(man);
        assert_eq!((shown.code, shown.stderr.as_str()), (Some(0), ""), "{arguments:?}: {shown:?}");
        let text = shown.stdout.replace('-', "");
        for word in expected {
            assert!(text.contains(&word.replace('-', "")), "{arguments:?}: no {word} in {}", shown.stdout);
        }
    }
}

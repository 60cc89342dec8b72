//! Runs the test programs one after the other and tells how long each took.

use std::{collections::BTreeMap, error::Error, fs, io::Write as _, path::Path, process::Command, time::Instant};

use crate::{ENVIRONMENT, output, reap_until};

/// `PROGRAM SCENARIO` lines: what is left out here. `cargo xtask vm` said why.
const HOST_ONLY: &str = "/host-only";
/// `PROGRAM` or `PROGRAM SCENARIO` lines: what runs here where not all does.
const SUBSET: &str = "/subset";

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    All,
    Subset,
}

/// Runs the programs by name; gives the names of those that failed.
pub(crate) fn run(
    choice: Choice,
    half: Option<usize>,
    skip: &[&str],
    filter: Option<&str>,
) -> Result<Vec<String>, Box<dyn Error>> {
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir("/tests")? {
        let entry = entry?;
        programs.insert(entry.file_name().to_string_lossy().into_owned(), entry.path());
    }
    let read = |list: &str| fs::read_to_string(list).map_err(|error| format!("read {list}: {error}"));
    let (host_only, subset) = (read(HOST_ONLY)?, read(SUBSET)?);
    let mut failed = Vec::new();
    for (number, (name, program)) in programs.into_iter().enumerate() {
        if half.is_some_and(|half| number % 2 != half) {
            continue;
        }
        let chosen = of(&subset, &name);
        if choice == Choice::Subset && !subset.lines().any(|line| line == name) && chosen.is_empty() {
            continue;
        }
        let mut command = Command::new(program);
        command.arg("--test-threads=1");
        for scenario in of(&host_only, &name).into_iter().chain(skip.iter().copied()) {
            command.args(["--skip", scenario]);
        }
        if choice == Choice::Subset {
            command.args(chosen);
        }
        command.args(filter);
        writeln!(output()?, "--- {name}")?;
        let (begin, idle) = (Instant::now(), idle_seconds()?);
        if !run_one(&mut command)? {
            failed.push(name.clone());
        }
        let (took, idle) = (begin.elapsed().as_secs_f64(), idle_seconds()? - idle);
        writeln!(output()?, "init: {name} took {took:.1} s, {idle:.1} of them waiting")?;
    }
    Ok(failed)
}

/// How long the only processor had nothing to do.
fn idle_seconds() -> Result<f64, Box<dyn Error>> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let idle = uptime.split_whitespace().nth(1).ok_or("/proc/uptime has no second number")?;
    Ok(idle.parse()?)
}

/// The second words of a program's lines.
fn of<'a>(list: &'a str, program: &str) -> Vec<&'a str> {
    list.lines().filter_map(|line| line.strip_prefix(program)?.strip_prefix(' ')).collect()
}

fn run_one(command: &mut Command) -> Result<bool, Box<dyn Error>> {
    let child = command
        .current_dir("/tmp")
        .envs(ENVIRONMENT)
        .stdout(output()?)
        .stderr(output()?)
        .spawn()
        .map_err(|error| format!("run {}: {error}", Path::new(command.get_program()).display()))?;
    reap_until(i32::try_from(child.id())?)
}

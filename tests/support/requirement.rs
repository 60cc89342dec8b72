//! What a scenario needs of the machine. Where it is missing the scenario is skipped and says why; where
//! `OOMWATCH_REQUIRE=all` promises everything, it fails.

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
};

use crate::cgroup::memory_hierarchy;

/// Something that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// The agent's program, root, and memory cgroups: what every scenario needs.
    Agent,
    /// A program in `PATH`.
    Program(&'static str),
    /// The examples, built.
    Examples,
    /// A collector of OpenTelemetry.
    Collector,
    /// Prometheus and its promtool.
    Prometheus,
    /// Both versions of runsc, and what their containers hold.
    Runsc,
}

impl Requirement {
    fn missing(self) -> Option<String> {
        match self {
            Self::Agent => missing_for_agent(),
            Self::Prometheus => missing_for_prometheus(),
            Self::Runsc => missing_for_runsc(),
            Self::Examples => {
                let unset = env::var_os("OOMWATCH_EXAMPLES").is_none();
                unset.then(|| "OOMWATCH_EXAMPLES is not set: run this by `cargo xtask test`".to_owned())
            }
            Self::Collector => {
                let program = env::var_os("OOMWATCH_COLLECTOR").map(PathBuf::from);
                let there = program.is_some_and(|program| program.is_file());
                (!there).then(|| "there is no collector at OOMWATCH_COLLECTOR".to_owned())
            }
            Self::Program(name) => find_program(name).is_none().then(|| format!("there is no program {name}")),
        }
    }
}

fn missing_for_agent() -> Option<String> {
    for variable in ["OOMWATCH_BIN", "OOMWATCH_HOG"] {
        if env::var_os(variable).is_none() {
            return Some(format!("{variable} is not set: run this by `cargo xtask test`"));
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    memory_hierarchy().is_none().then(|| "no memory cgroup hierarchy is mounted".to_owned())
}

fn missing_for_prometheus() -> Option<String> {
    ["prometheus", "promtool"].into_iter().find_map(|name| {
        crate::prometheus::program(name).is_none().then(|| format!("there is no {name} below OOMWATCH_PROMETHEUS"))
    })
}

fn missing_for_runsc() -> Option<String> {
    for runsc in [crate::Runsc::OLD, crate::Runsc::SYSTRAP] {
        if runsc.program().is_none() {
            return Some(format!("there is no runsc {} below OOMWATCH_RUNSC", runsc.version));
        }
    }
    find_program("busybox").is_none().then(|| "there is no program busybox".to_owned())
}

/// A program in `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Whether all of it is there; else the scenario was skipped, or fails here where it may not be.
pub fn are_met(requirements: &[Requirement]) -> bool {
    let missing: Vec<String> = requirements.iter().filter_map(|requirement| requirement.missing()).collect();
    if missing.is_empty() {
        return true;
    }
    let missing = missing.join("; ");
    let promised = env::var_os("OOMWATCH_REQUIRE").is_some_and(|value| value == "all");
    assert!(!promised, "everything was promised (OOMWATCH_REQUIRE=all), but {missing}");
    say_skipped(&missing);
    false
}

/// Says that a scenario does not apply to this kernel. Past the test harness, which would keep it to itself.
pub fn say_skipped(reason: &str) {
    say("skipped", reason);
}

/// Past the harness, which keeps what a test that passes says.
pub(crate) fn say(what: &str, why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a scenario");
    // Where nobody listens there is nobody to tell.
    drop(writeln!(io::stderr(), "{what}: {test}: {why}"));
}

/// Ends a test here unless the machine has what it needs: `require!(Agent, Program("runc"))`.
#[macro_export]
macro_rules! require {
    ($($requirement:expr),+ $(,)?) => {
        if !$crate::are_met(&{
            #[expect(clippy::enum_glob_use, unused_imports, reason = "the macro's arguments are its variants")]
            use $crate::Requirement::*;
            [$($requirement),+]
        }) {
            return;
        }
    };
}

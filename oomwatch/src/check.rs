//! `oomwatch check`: loads everything, says what works and why the rest does not, unloads.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::{
    cli::HostArgs,
    config::OutputFormat,
    host::{HostRoot, memory::MemoryHierarchy, pressure, system, vmstat},
    ladder::{self, Wish},
    sources::kernel::{hooks::Hook, load::Sight, pin},
};

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Shape of the report
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_OUTPUT")]
    pub output: OutputFormat,
    /// The host.
    #[command(flatten)]
    pub host: HostArgs,
}

/// Exit code where kernel events are not exact.
const DEGRADED: u8 = 3;

/// What is found on this host.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    kernel: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup_version: Option<u8>,
    /// The tier that `oomwatch run` takes; absent where nothing works.
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    /// Kernel events are exact.
    exact: bool,
    features: Vec<Feature>,
    degraded: Vec<String>,
}

/// One thing that can be hooked.
#[derive(Debug, Serialize)]
struct Feature {
    target: &'static str,
    gives: &'static str,
    works: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Prints the report.
///
/// # Errors
/// Standard output cannot be written.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = report(args);
    let mut out = io::stdout().lock();
    match args.output {
        OutputFormat::Json => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        OutputFormat::Text => write_text(&mut out, &report)?,
    }
    Ok(match (&report.tier, report.exact) {
        (Some(_), true) => ExitCode::SUCCESS,
        (Some(_), false) => ExitCode::from(DEGRADED),
        (None, _) => ExitCode::FAILURE,
    })
}

fn report(args: &CheckArgs) -> Report {
    let mut degraded = system::missing_privileges();
    let hierarchy = MemoryHierarchy::find(&HostRoot::new(&args.host.host_root)).unwrap_or_else(|error| {
        degraded.push(error.to_string());
        None
    });
    if hierarchy.is_none() {
        degraded.push("no memory cgroup hierarchy is mounted: containers cannot be told apart by their files".into());
    }
    let root = HostRoot::new(&args.host.host_root);
    let wish = Wish { root: &root, hierarchy: hierarchy.as_ref(), tier: args.host.tier, withheld: &args.host.withhold };
    let sight = ladder::climb(wish, None).map_or_else(
        |error| {
            degraded.push(error.to_string());
            None
        },
        |rung| Some(rung.sight),
    );
    degraded.extend(sight.iter().flat_map(|sight| sight.degraded.iter().cloned()));
    let hooks = sight.iter().flat_map(|sight| sight.hooks.iter().cloned()).chain(ladder::below(wish));
    let features = hooks.map(Feature::from).chain(beside(&args.host, wish, sight.as_ref())).collect();
    Report {
        version: env!("CARGO_PKG_VERSION"),
        kernel: system::kernel_release(),
        cgroup_version: hierarchy.map(|hierarchy| hierarchy.version),
        tier: sight.as_ref().map(|sight| sight.tier.clone()),
        exact: sight.as_ref().is_some_and(|sight| sight.exact_victim),
        features,
        degraded,
    }
}

/// What else of the host the agent uses.
fn beside(host: &HostArgs, wish: Wish<'_>, sight: Option<&Sight>) -> [Feature; 4] {
    let sees_exec = sight.is_some_and(|sight| sight.sees_exec);
    [
        Feature::new(
            "gVisor sandboxes",
            "found by themselves, measured, warned of",
            Ok(if sees_exec { "told by the kernel" } else { "all processes looked at every 0.8 s" }),
        ),
        Feature::new(
            "BPF file system",
            "keeps kills while no agent runs, in full",
            pin::is_bpf_fs(&host.bpf_fs).map(|()| "pins").map_err(|error| format!("{error:#}")),
        ),
        Feature::new(
            "/proc/vmstat",
            "counts all kills, so that what is missed is told",
            vmstat::oom_kills().map(|_| "oom_kill").map_err(|error| error.to_string()),
        ),
        Feature::new(
            "memory.pressure",
            "how long workloads wait for memory",
            pressure::is_told(wish.root, wish.hierarchy).map(|()| "PSI"),
        ),
    ]
}

impl Feature {
    fn new(target: &'static str, gives: &'static str, outcome: Result<&'static str, String>) -> Self {
        Self { target, gives, works: outcome.is_ok(), by: outcome.as_ref().ok().copied(), reason: outcome.err() }
    }
}

impl From<Hook> for Feature {
    fn from(hook: Hook) -> Self {
        Self::new(hook.target, hook.gives, hook.outcome)
    }
}

fn write_text(out: &mut impl io::Write, report: &Report) -> io::Result<()> {
    let cgroup = report.cgroup_version.map_or("no memory cgroups".to_owned(), |version| format!("cgroup v{version}"));
    writeln!(out, "oomwatch {} on Linux {}, {cgroup}", report.version, report.kernel)?;
    match (&report.tier, report.exact) {
        (Some(tier), true) => writeln!(out, "tier {tier}: every OOM kill is seen exactly")?,
        (Some(tier), false) => writeln!(out, "tier {tier}: OOM kills are seen, but not exactly")?,
        (None, _) => writeln!(out, "nothing works on this host")?,
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["hook", "what it does", "works", "how, or why not"]);
    for feature in &report.features {
        let how = feature.by.map_or_else(|| feature.reason.clone().unwrap_or_default(), str::to_owned);
        table.add_row([feature.target, feature.gives, if feature.works { "yes" } else { "no" }, &how]);
    }
    writeln!(out, "\n{table}")?;
    for sentence in &report.degraded {
        writeln!(out, "- {sentence}")?;
    }
    Ok(())
}

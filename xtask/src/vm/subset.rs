//! Scenarios that a kernel can change: what every kernel of the matrix but one is asked. That one is asked everything.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, ensure};

use super::host_only::names;
use crate::compile::Scenario;

/// Files, and of each the beginnings of the scenarios; all of the file where there are none.
const SUBSET: &[(&str, &[&str])] = &[
    ("already_dying", &["a_victim_that_was_dying_anyway"]),
    ("cgroup_gone", &["a_cgroup_that_came_and_went", "a_container_of_runc_killed_right_after_its_start"]),
    ("containers", &["the_killed_child_in_a_runc"]),
    ("group_kill", &[]),
    ("gvisor_kills", &["the_application_on_ptrace", "a_sandbox_on_systrap_survives"]),
    ("nothing_to_kill", &[]),
    ("plain_memcg", &["a_process_at_its_cgroups_limit", "private_and_shared_memory"]),
    (
        "privileges",
        &[
            "who_is_not_root_is_told_what",
            "who_is_not_root_is_told_of_kills",
            "without_the_right_to_look_into",
            "the_least_privileges_are_enough",
        ],
    ),
    ("reconcile", &["what_the_kernel_counts_in_its_own_way"]),
    ("restart", &["a_kill_while_no_agent_runs"]),
    ("sibling_victim", &["a_limit_of_the_grandparent"]),
    ("threads_and_sharers", &[]),
    ("tiers", &[]),
    ("truth", &[]),
];

/// The files.
pub(super) fn files() -> impl Iterator<Item = &'static str> {
    SUBSET.iter().map(|(file, _)| *file)
}

/// Writes `FILE` or `FILE SCENARIO` lines, by which the guest's first process chooses.
pub(super) fn write_list(scenarios: &[&Scenario], list: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for (file, beginnings) in SUBSET {
        let scenario = scenarios.iter().find(|scenario| scenario.name == *file);
        let scenario = scenario.with_context(|| format!("there is no file {file} of scenarios"))?;
        let names = if beginnings.is_empty() { Vec::new() } else { names(scenario)? };
        if beginnings.is_empty() {
            writeln!(text, "{file}")?;
        }
        for beginning in *beginnings {
            let matching: Vec<_> = names.iter().filter(|name| name.starts_with(beginning)).collect();
            ensure!(matching.len() == 1, "{} scenarios of {file} begin with {beginning}", matching.len());
            writeln!(text, "{file} {}", matching[0])?;
        }
    }
    fs::write(list, text).with_context(|| format!("write {}", list.display()))
}

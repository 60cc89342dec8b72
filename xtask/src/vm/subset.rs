//! Scenarios that a kernel can change: what every kernel of the matrix but one is asked. That one is asked everything.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, ensure};

use super::{
    host_only::names,
    kernel::{Guest, Hierarchy},
};
use crate::compile::Scenario;

/// Files, and of each the beginnings of the scenarios; all of the file where there are none.
const SUBSET: &[(&str, &[&str])] = &[
    ("already_dying", &["a_victim_that_was_dying_anyway"]),
    ("below_ebpf", &["a_runc_container_is_named", "a_victim_without_a_cgroup"]),
    ("cgroup_gone", &["a_cgroup_that_came_and_went", "a_container_of_runc_killed_right_after_its_start"]),
    ("containers", &["the_killed_child_in_a_runc"]),
    ("group_kill", &[]),
    ("gvisor_kills", &["the_application_on_ptrace", "a_sandbox_on_systrap_survives"]),
    ("host_oom", &["a_kill_for_want_of_memory_on_the_host"]),
    ("namespaces", &[]),
    ("nothing_to_kill", &[]),
    ("outcome", &["a_runc_container_with_the_process_ids_of_the_host"]),
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
    ("swapped", &[]),
    ("threads_and_sharers", &[]),
    ("throttled", &["its_pressure_is_shown"]),
    ("tiers", &[]),
    ("trees", &[]),
    ("truth", &[]),
    ("warn_all", &["a_growing_cgroup_is_warned_of"]),
];

/// What a kernel that is booted with both versions of cgroups is asked with one of them: a sandbox takes a quarter of a minute
/// to start and to be killed, and hooks, rights and what is kept of an agent are the kernel's, whatever the version; `truth`
/// asks every rung with both. As in [`SUBSET`].
const WITH_ONE_VERSION: [(&str, &[&str], Hierarchy); 6] = [
    ("gvisor_kills", &["the_application_on_ptrace"], Hierarchy::V1),
    ("restart", &["a_kill_while_no_agent_runs"], Hierarchy::V1),
    ("threads_and_sharers", &["a_victim_whose_first_thread", "two_processes_with_one_memory"], Hierarchy::V1),
    ("gvisor_kills", &["a_sandbox_on_systrap_survives"], Hierarchy::V2),
    (
        "privileges",
        &["who_is_not_root_is_told_what", "without_the_right_to_look_into", "the_least_privileges_are_enough"],
        Hierarchy::V2,
    ),
    (
        "tiers",
        &[
            "without_fentry_the_limit",
            "without_fentry_and_kprobes",
            "without_btf_the_victim",
            "a_sibling_victim_is_told",
            "no_program_is_left_out",
        ],
        Hierarchy::V2,
    ),
];

/// The scenarios that another of these guests, with the same kernel, is asked instead of this one.
pub(super) fn left_to_twin(guest: &Guest, guests: &[Guest]) -> Vec<&'static str> {
    let is_twin = |other: &Guest| other.kernel == guest.kernel && other.hierarchy != guest.hierarchy;
    let has_twin = guests.iter().any(is_twin);
    let left = WITH_ONE_VERSION.iter().filter(|(.., version)| has_twin && *version != guest.hierarchy);
    left.flat_map(|(_, beginnings, _)| beginnings.iter().copied()).collect()
}

/// The files.
pub(super) fn files() -> impl Iterator<Item = &'static str> {
    SUBSET.iter().map(|(file, _)| *file)
}

/// Writes `FILE` or `FILE SCENARIO` lines, by which the guest's first process chooses.
pub(super) fn write_list(scenarios: &[&Scenario], list: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for (file, beginnings) in SUBSET {
        if beginnings.is_empty() {
            writeln!(text, "{file}")?;
        }
        for name in named(scenarios, file, beginnings)? {
            writeln!(text, "{file} {name}")?;
        }
    }
    // What is left out by its beginning is one scenario, too.
    for (file, beginnings, _) in WITH_ONE_VERSION {
        named(scenarios, file, beginnings)?;
    }
    fs::write(list, text).with_context(|| format!("write {}", list.display()))
}

/// The scenarios of a file with these beginnings, one for each.
fn named(scenarios: &[&Scenario], file: &str, beginnings: &[&str]) -> anyhow::Result<Vec<String>> {
    let scenario = scenarios.iter().find(|scenario| scenario.name == file);
    let scenario = scenario.with_context(|| format!("there is no file {file} of scenarios"))?;
    let names = if beginnings.is_empty() { Vec::new() } else { names(scenario)? };
    let one = |beginning: &&str| {
        let mut matching = names.iter().filter(|name| name.starts_with(beginning));
        let first = matching.next().with_context(|| format!("no scenario of {file} begins with {beginning}"))?;
        ensure!(matching.next().is_none(), "more than one scenario of {file} begins with {beginning}");
        Ok(first.clone())
    };
    beginnings.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_with_one_version_of_cgroups_is_in_the_subset() {
        for (file, scenarios, _) in WITH_ONE_VERSION {
            let (_, beginnings) = SUBSET.iter().find(|(name, _)| *name == file).expect(file);
            let is_in = |scenario: &&str| beginnings.is_empty() || beginnings.contains(scenario);
            assert!(scenarios.iter().all(is_in), "{file}");
        }
    }
}

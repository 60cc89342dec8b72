//! Scenarios that do not run in the virtual machine, each with its reason. Whole files are left out of the archive; of the
//! other files a list goes into it, for the guest's first process.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use anyhow::{Context as _, ensure};

use crate::{compile::Scenario, process::say};

/// Files that stay on the host, and why.
const FILES: &[(&str, &str)] = &[
    ("all_runtimes", DOCKERD),
    ("docker", DOCKERD),
    (
        "every_output_at_once",
        "two thousand kills take too long here, and what leaves the agent is the same below every kernel",
    ),
    ("configuration", SAME_EVERYWHERE),
    ("containerd", DOCKERD),
    ("gvisor_accuracy", "gigabytes of memory that are touched page by page take too long here"),
    ("gvisor_host_root", SAME_EVERYWHERE),
    ("gvisor_discovery", SAME_EVERYWHERE),
    ("gvisor_docker", DOCKERD),
    ("gvisor_lines", SAME_EVERYWHERE),
    ("hook", "hooks are scripts here, and the guest need not have a shell"),
    ("library", "the examples stay on the host"),
    ("outputs", "python3 is not in the guest, and what leaves the agent is the same below every kernel"),
    ("otlp", "the collector stays on the host"),
    (PEERS, "`cargo xtask peers` runs it, with the peers"),
    ("recommend", SAME_EVERYWHERE),
    ("storm", "five hundred kills take long here, and `reconcile` has two hundred of them below every kernel"),
    ("shell", "the guest has neither bash nor man"),
    ("metrics", "Prometheus is too large for the guest, and the rest of it is the same on every kernel"),
];
pub(super) const PEERS: &str = "peers";
const DOCKERD: &str = "the daemon is large, and dockerd wants kernel modules and a disk";

/// Scenarios of other files that stay there: file; the name or its beginning, which no other in the file has; reason.
const SCENARIOS: &[(&str, &str, &str)] = &[
    ("gvisor_kills", "a_gofer_is_told_from_sentry_and_stubs", SAME_EVERYWHERE),
    ("gvisor_kills", "a_sandbox_whose_limit_does_not_let_it_begin_is_no_stranger", SAME_EVERYWHERE),
    ("gvisor_kills", "a_pod_of_three_containers_is_one_sandbox_and_its_limit_that_of_the_first", SAME_EVERYWHERE),
    ("gvisor_kills", "an_exit_code_of_0_hides_no_kill", SAME_EVERYWHERE),
    ("gvisor_kills", "a_detached_sandbox_whose_state_says_running_for_ever_did_not_survive", SAME_EVERYWHERE),
    ("gvisor_kills", "the_application_of_the_old_runsc_is_killed_as_a_stub", PTRACE_DOES),
    (
        "gvisor_kills",
        "the_application_on_systrap_is_killed_as_a_stub",
        "the child that is killed on systrap is one, too",
    ),
    ("gvisor_warnings", "a_limit_that_nothing_enforces_is_told_as_such_and_so_is_the_recovery", SAME_EVERYWHERE),
    (
        "gvisor_warnings",
        "one_allocation_that_grew_to_96_percent_is_warned_of_where_the_sum_of_rss_sees_a_fraction_of_it",
        SAME_EVERYWHERE,
    ),
    ("gvisor_warnings", "a_limit_that_changes_is_the_limit_of_the_next_warning", SAME_EVERYWHERE),
    ("gvisor_warnings", "a_sandbox_of_a_thousand_processes", "a thousand processes take too long here"),
    ("gvisor_warnings", "a_sentry_that_does_not_answer_is_warned_of_all_the_same", SAME_EVERYWHERE),
    ("gvisor_warnings", "a_sentry_that_is_asked_says_what_its_memory_is", SAME_EVERYWHERE),
    ("gvisor_warnings", "a_sandbox_of_the_old_runsc_is_warned_of_before_its_kill", PTRACE_DOES),
    ("gvisor_warnings", "a_limit_that_changes_as_soon_as_a_sandbox_is_found_is_seen", SAME_EVERYWHERE),
    ("gvisor_warnings", "a_sandbox_that_stands_still_is_measured_and_holds_up_no_other", SAME_EVERYWHERE),
    ("gvisor_warnings", "a_threshold_that_is_lowered_while_the_agent_runs", SAME_EVERYWHERE),
    ("gvisor_warnings", "eight_readers_of_a_fifth_of_the_limit", "nine processes that read 80 MiB take too long here"),
    ("gvisor_warnings", "the_memory_files_alone_are_enough_where_they_are_asked_for", SAME_EVERYWHERE),
    ("outcome", "a_container_that_ended_while_the_agent_stood_still_has_its_code", SAME_EVERYWHERE),
    ("cgroup_gone", "containers_of_crun_that_die_in_their_first_moment_have_their_ids", SAME_EVERYWHERE),
    ("restart", "a_container_that_was_killed_and_deleted_while_no_agent_ran_is_named", SAME_EVERYWHERE),
    (
        "restart",
        "a_warning_is_not_told_again_by_the_next_agent_and_the_kill_after_it_is_of_the_same_incident",
        SAME_EVERYWHERE,
    ),
    (
        "restart",
        "what_became_of_a_container_is_told_of_a_kill_just_before_the_start_too",
        "an agent takes longer to start here than an outcome may wait",
    ),
    ("restart", "a_folder_for_pins_that_belongs_to_somebody_else_is_said_and_not_used", SAME_EVERYWHERE),
    ("restart", "an_agent_killed_in_a_storm_loses_nothing", "the upgrade while kills rain down is one, too"),
    ("restart", "state_that_cannot_be_used_is_said_once_and_made_anew", SAME_EVERYWHERE),
    ("restart", "a_second_agent_with_the_same_state_says_so_and_keeps_nothing", SAME_EVERYWHERE),
    ("restart", "kills_recorded_in_a_way_that_cannot_be_read_are_told_by_their_number", SAME_EVERYWHERE),
    (
        "reconcile",
        "kills_that_found_no_room_are_told_by_their_number",
        "four hundred kills that fill a ring take two minutes here, and the ring is the same on every kernel",
    ),
];
const SAME_EVERYWHERE: &str = "neither the kernel nor the version of cgroups changes it, and the time is short";
const PTRACE_DOES: &str = "the newer runsc does the same here, on ptrace, and the time is short";

/// Says which of these files and scenarios stay on the host; gives the files that do not.
pub(super) fn for_the_guest(scenarios: &[Scenario]) -> Vec<&Scenario> {
    let reason = |scenario: &&Scenario| FILES.iter().find(|(file, _)| *file == scenario.name);
    let (host, guest): (Vec<_>, Vec<_>) = scenarios.iter().partition(|scenario| reason(scenario).is_some());
    for (file, reason) in host.iter().filter_map(reason) {
        say(&format!("{file} does not run in the guest: {reason}"));
    }
    for (file, scenario, reason) in SCENARIOS {
        say(&format!("{file}: {scenario} does not run in the guest: {reason}"));
    }
    guest
}

/// Writes `FILE SCENARIO` lines, by which the guest's first process leaves scenarios out.
pub(super) fn write_list(scenarios: &[&Scenario], list: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for (file, name, _reason) in SCENARIOS {
        let scenario = scenarios.iter().find(|scenario| scenario.name == *file);
        let scenario = scenario.with_context(|| format!("there is no file {file} of scenarios"))?;
        let matching = names(scenario)?.into_iter().filter(|it| it.contains(name)).count();
        ensure!(matching == 1, "{matching} scenarios of {file} are called {name}");
        writeln!(text, "{file} {name}")?;
    }
    fs::write(list, text).with_context(|| format!("write {}", list.display()))
}

/// Names of a file's scenarios.
pub(super) fn names(scenario: &Scenario) -> anyhow::Result<Vec<String>> {
    let output = Command::new(&scenario.binary).args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("run {}", scenario.binary.display()))?;
    ensure!(output.status.success(), "{} lists no scenarios", scenario.binary.display());
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
}

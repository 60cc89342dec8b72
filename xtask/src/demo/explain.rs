//! An event in plain words. Pure: everything said here stands in the event's own line.

use super::event_line::{ENDED, EventLine, KILLED, NEAR, SURVIVED};

/// One sentence for an event of any kind.
pub(super) fn sentence(event: &EventLine) -> String {
    match event.message.as_str() {
        "oomwatch started" => started(event),
        "oomwatch stopped" => "The agent wrote everything it had seen and ended.".to_owned(),
        KILLED => format!("{}.", kill(event)),
        NEAR => format!(
            "gVisor sandbox {} uses {} % of its {} MiB: a warning, not yet a kill.",
            container(event),
            or_unknown(event.get("usage_percent")),
            or_unknown(event.get("memory_limit_mb"))
        ),
        SURVIVED => format!("Container {} goes on without that process.", container(event)),
        ENDED => format!("Container {} ended with that process.", container(event)),
        "OOM group kill ended" => {
            format!("The kernel killed that cgroup as a whole: {} processes.", or_unknown(event.get("victims")))
        }
        "OOM without a kill" => {
            format!("Cgroup {} stands at its limit, and the kernel killed nobody.", or_unknown(event.get("oom_memcg")))
        }
        "events were lost" => format!(
            "{} events were lost, and the agent says so instead of being silent.",
            or_unknown(event.get("lost"))
        ),
        _ => "Another event of this host.".to_owned(),
    }
}

fn started(event: &EventLine) -> String {
    let limit = match event.get("tier") {
        Some("bpf+fentry" | "bpf+kprobe") => "the kernel names the limit that was hit",
        Some("bpf+inferred") => "the limit that was hit is inferred from the victim's cgroups",
        _ => "only the victim is named, for this kernel has no BTF",
    };
    format!("The agent watches all processes and all memory cgroups of this host; {limit}.")
}

/// Who was killed and why, without a full stop, so that more can be said.
pub(super) fn kill(event: &EventLine) -> String {
    let process = process(event.get("comm"), event.get("pid").or_else(|| event.get("tid")));
    let of = match container(event) {
        "?" => String::new(),
        name => format!(" of container {name}"),
    };
    format!("The kernel killed process {process}{of}, because {}{}", reason(event), asker(event))
}

fn container(event: &EventLine) -> &str {
    or_unknown(event.get("container_name").or_else(|| event.get("container_id")))
}

fn reason(event: &EventLine) -> String {
    let limit = event.get("memory_limit_mb").map_or_else(String::new, |mib| format!(" of {mib} MiB"));
    let cgroup = or_unknown(event.get("oom_memcg"));
    let reason = match (event.get("scope"), event.get("limit_owner")) {
        (Some("host"), _) => return "the whole host ran out of memory".to_owned(),
        (None, _) => return "memory ran out, of a cgroup or of the host".to_owned(),
        (_, Some("container")) => format!("the container reached its own limit{limit}"),
        (_, Some("pod")) => format!("its pod reached its limit{limit}"),
        _ => format!("cgroup {cgroup} reached its limit{limit}"),
    };
    match event.get("oom_memcg_confidence") {
        Some("inferred") => format!("{reason} (inferred)"),
        _ => reason,
    }
}

/// Who wanted the memory, where that was not the victim.
fn asker(event: &EventLine) -> String {
    let trigger = event.get("trigger_pid");
    if trigger.is_none() || trigger == event.get("pid") {
        return String::new();
    }
    format!(" when process {} wanted more", process(event.get("trigger_comm"), trigger))
}

fn process(comm: Option<&str>, pid: Option<&str>) -> String {
    let pid = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
    format!("`{}`{pid}", or_unknown(comm))
}

fn or_unknown(value: Option<&str>) -> &str {
    value.unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &str) -> String {
        sentence(&EventLine::parse(&format!("2026-01-01T00:00:00Z WRN {fields}")))
    }

    #[test]
    fn a_kill_names_victim_container_and_limit() {
        assert_eq!(
            of("OOM kill detected container_id=c1 pid=7 comm=tail scope=memcg limit_owner=container oom_memcg=/c1 \
                memory_limit_mb=32 trigger_pid=7 trigger_comm=tail"),
            "The kernel killed process `tail` (pid 7) of container c1, because the container reached its own limit of \
             32 MiB."
        );
    }

    #[test]
    fn a_kill_outside_of_containers_names_the_cgroup_and_who_wanted_memory() {
        assert_eq!(
            of("OOM kill detected pid=7 comm=big scope=memcg limit_owner=slice oom_memcg=/a memory_limit_mb=20 \
                oom_memcg_confidence=inferred trigger_pid=8 trigger_comm=small"),
            "The kernel killed process `big` (pid 7), because cgroup /a reached its limit of 20 MiB (inferred) when \
             process `small` (pid 8) wanted more."
        );
        assert_eq!(
            of("OOM kill detected tid=7 comm=big scope=host limit_owner=host"),
            "The kernel killed process `big` (pid 7), because the whole host ran out of memory."
        );
    }

    #[test]
    fn nothing_is_claimed_that_the_line_does_not_say() {
        assert_eq!(
            of("OOM kill detected"),
            "The kernel killed process `?`, because memory ran out, of a cgroup or of the host."
        );
    }
}

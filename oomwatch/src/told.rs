//! Reads from the end of the journal what an earlier agent of this boot told, for `correlate::Told`.

use std::{io, path::Path, time::SystemTime};

use serde::Deserialize;

use crate::{
    clock,
    correlate::{Told, Warned},
    journal,
    observation::MemoryLine,
};

/// As far back as is looked, bytes: many more lines than a ring holds records.
const TAIL: u64 = 8 << 20;

/// What is read of a line.
#[derive(Deserialize)]
struct Line {
    boot_id: String,
    event: String,
    #[serde(default)]
    incident_id: Option<String>,
    #[serde(default)]
    timestamp: Option<String>,
    #[serde(default)]
    victim: Option<Victim>,
    #[serde(default)]
    pid: Option<u32>,
    #[serde(default)]
    workload: Option<Workload>,
}

#[derive(Deserialize)]
struct Workload {
    #[serde(default)]
    container_id: Option<String>,
    #[serde(default)]
    cgroup_id: Option<u64>,
}

#[derive(Deserialize)]
struct Victim {
    #[serde(default)]
    pid: Option<u32>,
    #[serde(default)]
    tid: Option<u32>,
    #[serde(default)]
    start_boottime_ns: Option<u64>,
}

/// Of the journal in this state folder. Without one nothing was told.
///
/// # Errors
/// It is there and cannot be read.
pub(crate) fn read(state_dir: &Path, boot_id: &str) -> io::Result<Told> {
    let mut told = Told::new(clock::boot_ns());
    let lines = match journal::Lines::tail(&journal::folder(state_dir), TAIL) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(told),
        lines => lines?,
    };
    for line in lines {
        // What is no event of this version is no kill of this boot.
        if let Ok(line) = serde_json::from_slice::<Line>(&line?)
            && line.boot_id == boot_id
        {
            take_in(&mut told, &line);
        }
    }
    Ok(told)
}

fn take_in(told: &mut Told, line: &Line) {
    match (&*line.event, &line.victim) {
        ("oom_kill", Some(Victim { pid: Some(pid), start_boottime_ns: Some(start_ns), .. })) => {
            told.process(*pid, *start_ns);
        }
        ("oom_kill", Some(Victim { tid: Some(tid), .. })) => {
            let at = line.timestamp.as_deref().and_then(|text| humantime::parse_rfc3339(text).ok());
            if let Some(at) = at {
                told.mark(*tid, boot_ns(at));
            }
        }
        ("oom_group_kill", _) => line.incident_id.iter().for_each(|incident_id| told.group(incident_id)),
        ("near_limit", _) => crossed(told, line, MemoryLine::Near),
        ("over_limit", _) => crossed(told, line, MemoryLine::Over),
        ("recovered", _) => crossed(told, line, MemoryLine::Recovered),
        ("oom", _) => line.incident_id.iter().for_each(|incident_id| told.unkilled(incident_id)),
        _ => {}
    }
}

fn crossed(told: &mut Told, line: &Line, of: MemoryLine) {
    let (Some(workload), Some(incident_id)) = (&line.workload, &line.incident_id) else { return };
    let who = match (line.pid, &workload.container_id) {
        (Some(pid), Some(id)) => Some(Warned::Sandbox(pid, id.clone())),
        _ => workload.cgroup_id.map(Warned::Cgroup),
    };
    if let Some(who) = who {
        told.crossed(who, of, incident_id);
    }
}

/// Boot time of a moment of the wall clock, unless that was set since.
fn boot_ns(at: SystemTime) -> u64 {
    let now_ns = clock::boot_ns();
    let age = clock::wall_time(now_ns).duration_since(at).unwrap_or_default();
    now_ns.saturating_sub(clock::ns(age))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn kills_and_group_kills_of_this_boot_are_read_and_nothing_else_breaks_it() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path(), "b").unwrap().kills(), 0, "no journal yet");
        let folder = journal::folder(state.path());
        fs::create_dir(&folder).unwrap();
        let now = humantime::format_rfc3339_nanos(clock::wall_time(clock::boot_ns()));
        let lines = [
            r#"{"boot_id":"b","event":"oom_kill","victim":{"pid":1,"tid":1,"start_boottime_ns":7}}"#.to_owned(),
            r#"{"boot_id":"a","event":"oom_kill","victim":{"pid":2,"tid":2,"start_boottime_ns":7}}"#.to_owned(),
            format!(r#"{{"boot_id":"b","event":"oom_kill","timestamp":"{now}","victim":{{"tid":3}}}}"#),
            r#"{"boot_id":"b","event":"oom_kill"}"#.to_owned(),
            r#"{"boot_id":"b","event":"oom_group_kill","incident_id":"b-1"}"#.to_owned(),
            r#"{"boot_id":"b","event":"oom","incident_id":"b-2"}"#.to_owned(),
            r#"{"boot_id":"b","event":"near_limit","incident_id":"b-3","pid":9,"workload":{"container_id":"s"}}"#
                .to_owned(),
            r#"{"boot_id":"b","event":"over_limit","incident_id":"b-3","pid":9,"workload":{"container_id":"s"}}"#
                .to_owned(),
            r#"{"boot_id":"b","event":"near_limit","incident_id":"b-4","workload":{"cgroup_id":5}}"#.to_owned(),
            r#"{"boot_id":"b","event":"recovered","incident_id":"b-4","workload":{"cgroup_id":5}}"#.to_owned(),
            "\u{0} garbage".to_owned(),
            r#"{"boot_id":"b","event":"oom_kill","victim":{"pid":4,"#.to_owned(),
        ];
        fs::write(folder.join("00000001.jsonl"), lines.join("\n")).unwrap();
        let told = read(state.path(), "b").unwrap();
        assert_eq!(told.kills(), 2);
        for part in ["(1, 7)", "groups: {\"b-1\"}", "unkilled: {\"b-2\"}", "Sandbox(9, \"s\"): Warning { line: Over"] {
            assert!(format!("{told:?}").contains(part), "{told:?}");
        }
        assert!(!format!("{told:?}").contains("Cgroup("), "that one is over: {told:?}");
    }
}

//! The page as scrapers of either format read it.

use super::*;
use crate::{
    event::Scope,
    sinks::metrics::Limits,
    workload::{LimitOwner, Runtime, Workload},
};

fn hostile() -> Workload {
    Workload {
        runtime: Runtime::Runc,
        container_id: Some("id\"} 1\n# EOF".into()),
        container_name: Some("back\\slash".into()),
        pod_name: Some("pod".into()),
        pod_namespace: Some("shop".into()),
        ..Workload::default()
    }
}

fn row(usage: u64, ended: bool) -> Row {
    Row {
        workload: Arc::new(hostile()),
        pid: None,
        usage_bytes: Some(usage),
        limit_bytes: Some(100),
        usage_percent: None,
        peak_bytes: Some(usage + 1),
        growth_bytes_per_second: None,
        time_to_limit_seconds: None,
        kills: 0,
        near_limits: 0,
        estimator: None,
        limit_source: None,
        limit_enforced: None,
        some_avg10: None,
        full_avg10: None,
        ended,
    }
}

fn page(rows: &[Row]) -> String {
    let mut series = Series::new(Limits::Always);
    series.live([&hostile()], 1);
    series.killed(Some(&hostile()), (Some(Scope::Memcg), Some(LimitOwner::Pod)), 1);
    let sources = vec![SourceState { name: "kernel", up: true }, SourceState { name: "gvisor", up: false }];
    Snapshot::of(&mut series, rows, sources, Reader::Other).page(&Registry::default()).unwrap()
}

const WHO: &str =
    r#"runtime="runc",namespace="shop",pod="pod",container="back\\slash",container_id="id\"} 1\\x0a# EOF""#;

#[test]
fn names_labels_and_units_are_those_of_the_interface() {
    let page = page(&[row(7, false)]);
    for line in [
        format!("oomwatch_oom_kills_total{{{WHO},scope=\"memcg\",limit_owner=\"pod\"}} 1"),
        format!("oomwatch_oom_kills_total{{{WHO},scope=\"memcg\",limit_owner=\"container\"}} 0"),
        "oomwatch_oom_kills_total{runtime=\"process\",scope=\"host\",limit_owner=\"host\"} 0".to_owned(),
        format!("oomwatch_oom_total{{{WHO}}} 0"),
        format!("oomwatch_near_limit_total{{{WHO}}} 0"),
        format!("oomwatch_workload_memory_usage_bytes{{{WHO}}} 7"),
        format!("oomwatch_workload_memory_limit_bytes{{{WHO}}} 100"),
        format!("oomwatch_workload_memory_peak_bytes{{{WHO}}} 8"),
        "# UNIT oomwatch_workload_memory_peak_bytes bytes".to_owned(),
        "# TYPE oomwatch_oom_kills counter".to_owned(),
        "oomwatch_series_evicted_total 0".to_owned(),
        "oomwatch_source_up{source=\"kernel\"} 1".to_owned(),
        "oomwatch_source_up{source=\"gvisor\"} 0".to_owned(),
    ] {
        assert_eq!(page.lines().filter(|other| *other == line).count(), 1, "{line} in\n{page}");
    }
    assert_eq!(page.lines().filter(|line| *line == "# EOF").count(), 1, "{page}");
    assert!(page.ends_with("# EOF\n"), "{page}");
}

#[test]
fn of_a_workload_that_ended_only_the_peak_is_told_and_of_two_with_one_id_the_one_that_lives() {
    let ended = page(&[row(7, true)]);
    assert!(!ended.contains("usage_bytes{") && !ended.contains("limit_bytes{"), "{ended}");
    assert!(ended.contains("peak_bytes{"), "{ended}");
    let nobody = Row { workload: Arc::new(Workload::default()), ..row(7, false) };
    assert!(!page(&[nobody]).contains("_bytes{"), "memory that nothing tells the owner of");
    let restarted = page(&[row(7, false), row(50, true)]);
    assert_eq!(restarted.matches("_usage_bytes{").count(), 1, "{restarted}");
    assert_eq!(restarted.matches("_peak_bytes{").count(), 1, "{restarted}");
}

#[test]
fn what_is_no_container_goes_by_its_cgroup() {
    let plain = |path: &[u8], usage| Row { workload: Arc::new(Workload::from_path(path)), ..row(usage, false) };
    let page = page(&[plain(b"/system.slice/db.service", 7), plain(b"/plain", 8), plain(b"/plain", 9)]);
    for line in [
        "oomwatch_workload_memory_usage_bytes{runtime=\"systemd\",cgroup_path=\"/system.slice/db.service\"} 7",
        "oomwatch_workload_memory_usage_bytes{runtime=\"process\",cgroup_path=\"/plain\"} 8",
    ] {
        assert_eq!(page.lines().filter(|other| *other == line).count(), 1, "{line} in\n{page}");
    }
    assert_eq!(page.matches("_usage_bytes{").count(), 2, "{page}");
}

#[test]
fn the_older_format_names_families_as_their_samples() {
    let page = "# HELP a_kills Killed.\n# TYPE a_kills counter\na_kills_total{x=\"# EOF\"} 1\n\
                # HELP a_size_bytes Size.\n# TYPE a_size_bytes gauge\n# UNIT a_size_bytes bytes\na_size_bytes 2\n\
                # HELP a_build B.\n# TYPE a_build info\na_build_info{v=\"1\"} 1\n# EOF\n";
    assert_eq!(
        classic(page),
        "# HELP a_kills_total Killed.\n# TYPE a_kills_total counter\na_kills_total{x=\"# EOF\"} 1\n\
         # HELP a_size_bytes Size.\n# TYPE a_size_bytes gauge\na_size_bytes 2\n\
         # HELP a_build_info B.\n# TYPE a_build_info gauge\na_build_info{v=\"1\"} 1\n"
    );
}

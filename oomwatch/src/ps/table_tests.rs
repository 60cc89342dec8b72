//! Tables at several widths, with names that would do harm.

use std::sync::Arc;

use super::*;

const MIB: u64 = 1 << 20;

fn row(name: &str, usage_mib: u64, limit_mib: Option<u64>) -> Row {
    let workload = Workload {
        runtime: Runtime::Runc,
        container_id: Some("f45298cd514d1930c4fe3afc4412e59547f7e3148fddd22ca33cefce046eb830".to_owned()),
        container_name: Some(name.to_owned()),
        ..Workload::default()
    };
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let percent = |limit: u64| usage_mib as f64 / limit as f64 * 100.0;
    Row {
        workload: Arc::new(workload),
        pid: None,
        usage_bytes: Some(usage_mib * MIB),
        limit_bytes: limit_mib.map(|limit| limit * MIB),
        usage_percent: limit_mib.map(percent),
        peak_bytes: Some(usage_mib * MIB),
        growth_bytes_per_second: Some(3 << 20),
        time_to_limit_seconds: limit_mib.map(|_| 90.0),
        kills: 2,
        near_limits: 0,
        estimator: Some("cgroup".to_owned()),
        limit_source: limit_mib.map(|_| "cgroup".to_owned()),
        limit_enforced: limit_mib.map(|_| true),
        some_avg10: None,
        full_avg10: None,
        ended: false,
    }
}

fn of(name: &str, workload: Workload) -> Row {
    Row { workload: Arc::new(workload), ..row(name, 1, None) }
}

fn table(rows: &[Row], width: Option<usize>) -> Vec<String> {
    let text = Style { width, red_percent: None }.table(rows);
    assert!(text.ends_with('\n'));
    text.lines().map(str::to_owned).collect()
}

#[test]
fn everything_is_shown_where_there_is_room() {
    let rows = [row("checkout", 486, Some(512)), row("a", 1536, None)];
    assert_eq!(
        table(&rows, None),
        [
            "ID            NAME      RUNTIME     USAGE    LIMIT     %      PEAK       GROWTH  TO LIMIT  KILLS  ESTIMATOR  LIMIT FROM",
            "f45298cd514d  checkout  runc      486 MiB  512 MiB  94.9   486 MiB  +3.00 MiB/s     1m30s      2  cgroup     cgroup",
            "f45298cd514d  a         runc     1.50 GiB        -     -  1.50 GiB  +3.00 MiB/s         -      2  cgroup     -",
        ]
    );
}

#[test]
fn eighty_columns_are_enough() {
    let rows = [row("checkout-service-7d9c4b5f6-x2v9q", 486, Some(512)), row("a", 1536, Some(4096))];
    assert_eq!(
        table(&rows, Some(80)),
        [
            "ID            NAME            RUNTIME     USAGE     LIMIT     %  TO LIMIT  KILLS",
            "f45298cd514d  checkout-serv…  runc      486 MiB   512 MiB  94.9     1m30s      2",
            "f45298cd514d  a               runc     1.50 GiB  4.00 GiB  37.5     1m30s      2",
        ]
    );
}

#[test]
fn every_width_of_a_terminal_is_kept_to() {
    let names = [
        "checkout-service-7d9c4b5f6-x2v9q",
        "/a/b/c/d/e/f/g/h/i/j",
        "決済サービス-本番環境",
        "/データ/ベース/🦀",
        "e\u{301}te\u{301}",
    ];
    let rows = names.map(|name| row(name, 486, Some(65_536)));
    for width in 46..200 {
        for line in table(&rows, Some(width)) {
            assert!(line.width() <= width, "{width}: {line}");
        }
    }
    assert_eq!(table(&rows, Some(1)).len(), 1 + rows.len(), "a terminal of no width is no reason to fail");
}

#[test]
fn colours_tell_what_is_near_its_limit() {
    let rows = [row("red", 96, Some(100)), row("yellow", 80, Some(100)), row("plain", 79, Some(100))];
    let ended = Row { ended: true, ..row("ended", 99, Some(100)) };
    let rows: Vec<Row> = rows.into_iter().chain([ended]).collect();
    let text = Style { width: None, red_percent: Some(95) }.table(&rows);
    let coloured: Vec<&str> =
        text.lines().map(|line| line.split('m').next().filter(|s| s.starts_with('\x1b')).unwrap_or("")).collect();
    assert_eq!(coloured, ["", "\x1b[31", "\x1b[33", "", ""]);
    assert_eq!(text.matches(RESET).count(), 2);
    assert!(text.lines().last().is_some_and(|line| line.contains("ended")));
}

#[test]
fn a_name_is_found_for_each_kind_of_workload() {
    let name = |workload: Workload| Column::Name.cell(&of("", workload));
    let long_id = "f".repeat(64);
    assert_eq!(name(Workload::from_path(b"/system.slice/cron.service")), "/system.slice/cron.service");
    assert_eq!(name(Workload { container_id: Some("web".into()), ..Workload::default() }), "web");
    assert_eq!(
        name(Workload { container_id: Some(long_id.clone()), image: Some("nginx".into()), ..Workload::default() }),
        "nginx"
    );
    let pod = Workload { pod_name: Some("web-0".into()), container_name: Some("app".into()), ..Workload::default() };
    assert_eq!(name(pod), "web-0/app");
    assert_eq!(name(Workload { container_id: Some(long_id), ..Workload::default() }), UNKNOWN);
    let id = |workload: Workload| Column::Id.cell(&of("", workload));
    assert_eq!(id(Workload { cgroup_id: Some(4711), ..Workload::default() }), "cgroup 4711");
}

#[test]
fn a_hostile_name_stays_on_its_line_and_steers_nothing() {
    let rows = [row("evil\u{1b}[2J\nWRN no OOM here\r\t\u{202e}", 1, Some(100)), row("good", 1, Some(100))];
    let lines = table(&rows, None);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[1].contains("evil\\u{1b}[2J\\u{a}WRN"), "{lines:#?}");
    assert!(lines.iter().all(|line| !line.chars().any(|c| c.is_control() || c == '\u{202e}')), "{lines:#?}");
}

#[test]
fn characters_that_take_two_columns_move_nothing_out_of_its_column() {
    let rows = [row("決済サービス-本番環境", 486, Some(512)), row("a", 486, Some(512))];
    let ends: Vec<usize> = table(&rows, Some(80)).iter().map(|line| line.width()).collect();
    assert_eq!(ends, [80, 80, 80]);
    assert!(table(&rows, Some(80))[1].contains("決済サービス-本…"), "{:#?}", table(&rows, Some(80)));
}

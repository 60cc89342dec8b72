use super::*;
use crate::{cgroup_path::CgroupPath, observation::VictimMemory};

fn at(read_ns: u64) -> Times {
    Times { written_ns: read_ns, read_ns }
}

/// Linux 6.18, cgroup v1; what it holds is in the README beside it.
const HOST: &[u8] = include_bytes!("../../../../tests/fixtures/kmsg/6.18-v1.kmsg");

/// Linux 6.12, cgroup2: a group kill.
const GROUP: &[u8] = include_bytes!("../../../../tests/fixtures/kmsg/6.12-group.kmsg");

fn records(log: &[u8]) -> Vec<Record> {
    log.split_inclusive(|byte| *byte == b'\n').map(|line| Record::parse(line).expect("a record")).collect()
}

fn kills(records: &[Record]) -> Vec<LoggedKill> {
    let mut assembler = Assembler::default();
    let mut kills: Vec<LoggedKill> =
        records.iter().filter_map(|record| assembler.take(record, at(record.micros * 1000), |_| false)).collect();
    kills.extend(assembler.flush());
    kills
}

/// Records of the kernel, a millisecond apart.
fn log(lines: &[&str]) -> Vec<Record> {
    let record = |(line, seq): (&&str, u64)| Record {
        of_kernel: true,
        seq,
        micros: seq * 1000,
        is_fragment: false,
        text: line.as_bytes().to_vec(),
    };
    lines.iter().zip(1..).map(record).collect()
}

fn killed(tid: u32, comm: &str) -> String {
    format!(
        "Memory cgroup out of memory: Killed process {tid} ({comm}) total-vm:1kB, anon-rss:2kB, file-rss:3kB, \
         shmem-rss:4kB, UID:0 pgtables:5kB oom_score_adj:0"
    )
}

fn summary(oom_memcg: &str, task_memcg: &str, comm: &str, pid: u32) -> String {
    format!(
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg={oom_memcg},\
         task_memcg={task_memcg},task={comm},pid={pid},uid=0"
    )
}

fn task_memcg(kill: &LoggedKill) -> Option<&[u8]> {
    kill.task_memcg.as_ref().map(|memcg| memcg.path.as_bytes())
}

#[test]
fn every_kill_of_a_recorded_log_is_read_and_a_forged_one_is_not() {
    let kills = kills(&records(HOST));
    assert_eq!(kills.len(), 14);
    let first = &kills[0];
    assert_eq!((first.pid, first.tid, &first.comm[..]), (Some(15204), 15204, &b"e,pid=9,uid=0) "[..]));
    assert_eq!(task_memcg(first), Some(&b"/group/a b,task=x,pid=1"[..]));
    let oom_memcg = first.oom_memcg.as_ref().unwrap();
    assert_eq!(oom_memcg.path, CgroupPath::from_bytes(b"/group"));
    assert_eq!((oom_memcg.limit_bytes, oom_memcg.usage_bytes), (Some(16 << 20), Some(16 << 20)));
    assert_eq!(first.constraint, Some("CONSTRAINT_MEMCG"));
    let trigger = first.trigger.as_ref().unwrap();
    assert_eq!((trigger.tid, &trigger.comm[..]), (Some(15204), &b"e,pid=9,uid=0) "[..]));
    let memory = VictimMemory {
        total_vm_bytes: 25996 << 10,
        anon_rss_bytes: 16000 << 10,
        file_rss_bytes: 6760 << 10,
        shmem_rss_bytes: 0,
        swap_bytes: None,
        pgtables_bytes: 92 << 10,
    };
    assert_eq!((first.memory, first.uid, first.oom_score_adj), (memory, Some(0), Some(0)));
    for (kill, tid) in kills[1..10].iter().zip(15247..) {
        assert_eq!((kill.pid, kill.tid, task_memcg(kill)), (Some(tid), tid, Some(&b"/group"[..])));
    }
    for kill in &kills[10..] {
        assert_eq!((kill.pid, task_memcg(kill), &kill.trigger, &kill.group), (None, None, &None, &None));
        assert!(kill.of_memcg);
    }
}

#[test]
fn a_recorded_group_kill_has_three_victims_and_one_of_them_twice() {
    let kills = kills(&records(GROUP));
    let seen: Vec<_> = kills.iter().map(|kill| (kill.tid, kill.again)).collect();
    assert_eq!(seen, [(151, false), (135, false), (137, false), (151, true)]);
    for kill in &kills {
        let group = kill.group.as_ref().unwrap();
        assert_eq!((group.first_seq, group.path.as_bytes()), (438, &b"/group"[..]));
        assert_eq!(kill.oom_memcg.as_ref().unwrap().limit_bytes, Some(32 << 20));
        assert_eq!(kill.trigger.as_ref().unwrap().tid, Some(151));
    }
}

#[test]
fn a_kill_without_a_dump_takes_nothing_from_the_dump_before() {
    let lines = [&summary("/a", "/a", "x", 5), &killed(5, "x"), &killed(6, "y")];
    let kills = kills(&log(&lines.map(String::as_str)));
    assert_eq!(kills.iter().map(task_memcg).collect::<Vec<_>>(), [Some(&b"/a"[..]), None]);
}

#[test]
fn a_dump_without_its_kill_is_not_the_next_ones() {
    let skipped = "Memory cgroup out of memory: OOM victim 5 (x) is already exiting. Skip killing the task";
    let invoked = "t invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0";
    for between in [skipped, invoked] {
        let kills = kills(&log(&[&summary("/a", "/a", "x", 5), between, &killed(6, "x")]));
        assert_eq!((kills.len(), task_memcg(&kills[0]), &kills[0].trigger), (1, None, &None));
    }
}

#[test]
fn lines_that_are_missing_part_what_was_before_from_what_comes() {
    let records = log(&[&summary("/a", "/a", "x", 5), &killed(6, "y")]);
    let mut assembler = Assembler::default();
    assert_eq!(assembler.take(&records[0], at(0), |_| false), None);
    assert_eq!(assembler.interrupted(0), None);
    assert_eq!(assembler.take(&records[1], at(0), |_| false), None);
    assert_eq!(task_memcg(&assembler.flush().unwrap()), None);
}

#[test]
fn the_name_in_the_kill_decides_between_readings() {
    let comma = [&summary("/a", "/a/b", "x,task=y", 5), &killed(5, "x,task=y")];
    assert_eq!(task_memcg(&kills(&log(&comma.map(String::as_str)))[0]), Some(&b"/a/b"[..]));
    let cgroup = [&summary("/a", "/a/b,task=x", "y", 5), &killed(5, "y")];
    assert_eq!(task_memcg(&kills(&log(&cgroup.map(String::as_str)))[0]), Some(&b"/a/b,task=x"[..]));
    let thread = [&summary("/a", "/a/b", "x,task=y", 5), &killed(6, "worker")];
    let kill = &kills(&log(&thread.map(String::as_str)))[0];
    assert_eq!((kill.pid, kill.tid, task_memcg(kill)), (Some(5), 6, None), "nothing tells them apart");
}

#[test]
fn a_summary_in_pieces_is_joined() {
    let whole = summary("/a", "/a/b", "x", 5);
    let (begin, rest) = whole.split_at(90);
    let (middle, end) = rest.split_at(20);
    let mut records = log(&[begin, middle, "other", end, &killed(5, "x")]);
    records[1].is_fragment = true;
    records[3].is_fragment = true;
    assert_eq!(task_memcg(&kills(&records)[0]), Some(&b"/a/b"[..]));
}

#[test]
fn members_of_a_group_kill_are_of_it_and_its_first_victim_comes_twice() {
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let lines = [&*summary("/g", "/g/a", "x", 5), &killed(5, "x"), group, &killed(5, "x"), &killed(6, "y")];
    let kills = kills(&log(&lines));
    let expected = LoggedGroup { first_seq: 2, path: CgroupPath::from_bytes(b"/g") };
    let groups: Vec<_> = kills.iter().map(|kill| (kill.tid, kill.again)).collect();
    assert_eq!(groups, [(5, false), (5, true), (6, false)]);
    assert!(kills.iter().all(|kill| kill.group.as_ref() == Some(&expected)));
    assert_eq!((task_memcg(&kills[1]), task_memcg(&kills[2])), (Some(&b"/g/a"[..]), None));
    assert_eq!(kills[2].oom_memcg, kills[0].oom_memcg);
}

#[test]
fn a_late_kill_without_a_dump_is_of_the_group_unless_its_dump_may_be_left_out() {
    let invoked = "t invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0";
    let before = summary("/a", "/a", "w", 4);
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let is_of_group = |dumps: usize, late_micros: u64| {
        let (summary, first, late) = (summary("/g", "/g", "x", 5), killed(5, "x"), killed(7, "z"));
        let mut lines = vec![invoked; 20];
        lines.extend(vec![&*before; dumps]);
        lines.extend([&*summary, &*first, group, &*late]);
        let mut records = log(&lines);
        records.last_mut().unwrap().micros += late_micros;
        kills(&records).last().unwrap().group.is_some()
    };
    assert!(is_of_group(8, 900_000), "the host stood still between them");
    assert!(is_of_group(9, 37_000), "a slow console");
    assert!(!is_of_group(9, 900_000), "the eleventh dump in five seconds");
    assert!(is_of_group(10, 900_000), "the next five seconds");
    assert!(is_of_group(9, 7_000_000), "the kernel would write a dump by then");
    assert!(!is_of_group(1, 61_000_000));
}

#[test]
fn the_kernel_says_when_its_five_seconds_begin_anew() {
    // As Linux 6.18 wrote it, right before the dump.
    let suppressed = "oom_kill_process: 12 callbacks suppressed";
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let (before, summary) = (summary("/a", "/a", "w", 4), summary("/g", "/g", "x", 5));
    let is_of_group = |news: &str| {
        let (first, late) = (killed(5, "x"), killed(7, "z"));
        let mut lines = vec![&*before; 9];
        lines.extend([news, &*summary, &*first, group, &*late]);
        let mut records = log(&lines);
        records.last_mut().unwrap().micros += 900_000;
        kills(&records).last().unwrap().group.is_some()
    };
    assert!(is_of_group(suppressed) && !is_of_group("other"));
}

#[test]
fn an_agent_that_begins_in_a_storm_sees_that_dumps_are_left_out() {
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let mut records = log(&[&killed(5, "x"), group, &killed(6, "y"), &killed(7, "z")]);
    records[3].micros += 900_000;
    assert_eq!(kills(&records).iter().map(|kill| kill.group.is_some()).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn a_group_whose_first_victim_was_spared_is_not_that_of_a_kill_before() {
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let skipped = "Memory cgroup out of memory: OOM victim 6 (y) is already exiting. Skip killing the task";
    let invoked = "t invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0";
    let lines = [&*summary("/a", "/a", "x", 5), &killed(5, "x"), invoked, skipped, group, &killed(7, "z")];
    let kills = kills(&log(&lines));
    assert_eq!(kills.iter().map(|kill| (kill.tid, kill.group.is_some())).collect::<Vec<_>>(), [(5, false), (7, false)]);
    assert_eq!(kills[1].oom_memcg, None);
}

#[test]
fn a_late_kill_in_the_cgroup_is_of_its_group_whatever_is_left_out() {
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let mut records = log(&[&*summary("/g", "/g", "x", 5), &killed(5, "x"), group, &killed(6, "y"), &killed(7, "z")]);
    records[3].micros += 900_000;
    records[4].micros += 1_800_000;
    let mut assembler = Assembler::default();
    assert_eq!(assembler.interrupted(0), None);
    let complete = |kill: &mut LoggedKill| {
        let path = CgroupPath::from_bytes(if kill.tid == 6 { b"/g/a" } else { b"/other" });
        if kill.task_memcg.is_none() {
            kill.task_memcg = Some(LoggedMemcg { memcg: None, path, limit_bytes: None, usage_bytes: None });
        }
        false
    };
    let mut kills: Vec<_> = records.iter().filter_map(|record| assembler.take(record, at(0), complete)).collect();
    kills.extend(assembler.flush());
    assert_eq!(kills.iter().map(|kill| kill.group.is_some()).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn who_is_of_no_group_makes_none_of_those_after_it_be_of_it() {
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let mut records = log(&[&*summary("/g", "/g", "x", 5), &killed(5, "x"), group, &killed(6, "y"), &killed(7, "z")]);
    records[3].micros += 900_000;
    records[4].micros += 950_000;
    let mut assembler = Assembler::default();
    assert_eq!(assembler.interrupted(0), None);
    let mut kills: Vec<_> = records.iter().filter_map(|record| assembler.take(record, at(0), |_| false)).collect();
    kills.extend(assembler.flush());
    assert_eq!(kills.iter().map(|kill| kill.group.is_some()).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn a_group_kill_without_a_dump_takes_nothing_from_the_group_before() {
    let of = |path: &str| format!("Tasks in {path} are going to be killed due to memory.oom.group set");
    let lines =
        [&*summary("/g", "/g", "x", 5), &killed(5, "x"), &of("/g"), &killed(6, "y"), &of("/h"), &killed(7, "z")];
    let kills = kills(&log(&lines));
    let told: Vec<_> =
        kills.iter().map(|kill| (kill.group.as_ref().unwrap().first_seq, kill.oom_memcg.is_some())).collect();
    assert_eq!(told, [(2, true), (4, false), (4, false)]);
}

#[test]
fn what_was_lost_may_have_been_dumps() {
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let mut records = log(&[&*summary("/g", "/g", "x", 5), &killed(5, "x"), group, &killed(7, "z")]);
    records[3].micros += 900_000;
    let mut assembler = Assembler::default();
    assert_eq!(assembler.interrupted(0), None);
    let mut kills: Vec<_> = records.iter().filter_map(|record| assembler.take(record, at(0), |_| false)).collect();
    kills.extend(assembler.flush());
    assert_eq!(kills.iter().map(|kill| kill.group.is_some()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn the_first_victim_waits_longer_where_a_group_is_to_be_killed() {
    let records = log(&[&*summary("/g", "/g", "x", 5), &killed(5, "x")]);
    for (of_group, waits_ms) in [(false, 15), (true, 900)] {
        let mut assembler = Assembler::default();
        assert!(records.iter().all(|record| assembler.take(record, at(0), |_| of_group).is_none()));
        assert_eq!(assembler.settled((waits_ms - 1) * 1_000_000, false), None);
        assert!(assembler.settled(waits_ms * 1_000_000, false).is_some());
    }
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let mut assembler = Assembler::default();
    let lines = [&*summary("/g", "/g", "x", 5), &killed(5, "x"), group, &killed(6, "y")];
    let before: Vec<_> = log(&lines).iter().filter_map(|record| assembler.take(record, at(0), |_| true)).collect();
    assert_eq!(before.len(), 1);
    assert!(assembler.settled(15_000_000, false).is_some(), "what follows a member begins no group");
}

#[test]
fn what_a_program_writes_is_nothing() {
    let mut records = log(&[&summary("/a", "/a", "x", 5), &killed(5, "x")]);
    for record in &mut records {
        record.of_kernel = false;
    }
    assert_eq!(kills(&records), []);
}

#[test]
fn neither_a_slow_console_nor_another_kill_is_taken_for_the_end_or_a_member_of_a_group() {
    let group = "Tasks in /g are going to be killed due to memory.oom.group set";
    let lines =
        [&*summary("/g", "/g", "x", 5), &killed(5, "x"), group, &killed(6, "y"), &killed(7, "z"), &killed(5, "x")];
    let mut records = log(&lines);
    records[4].micros += 37_000;
    records[5].micros += 900_000;
    let mut assembler = Assembler::default();
    let mut kills = Vec::new();
    for record in &records {
        let elsewhere = |kill: &mut LoggedKill| {
            if kill.tid == 7 {
                let path = CgroupPath::from_bytes(b"/other");
                kill.task_memcg = Some(LoggedMemcg { memcg: None, path, limit_bytes: None, usage_bytes: None });
            }
            false
        };
        kills.extend(assembler.take(record, at(0), elsewhere));
    }
    kills.extend(assembler.flush());
    let seen: Vec<_> = kills.iter().map(|kill| (kill.tid, kill.again, kill.group.is_some())).collect();
    assert_eq!(seen, [(5, false, true), (6, false, true), (7, false, false), (5, true, true)]);
}

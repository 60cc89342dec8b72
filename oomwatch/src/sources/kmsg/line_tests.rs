use super::*;

fn path(text: &str) -> CgroupPath {
    CgroupPath::from_bytes(text.as_bytes())
}

fn summary_of(text: &str) -> Option<Summary> {
    match Line::parse(text.as_bytes()) {
        Some(Line::Summary(summary)) => Some(summary),
        None => None,
        other => panic!("{other:?}"),
    }
}

fn line(names: &str) -> String {
    format!("oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0{names},pid=7,uid=0")
}

fn readings(names: &str) -> Vec<(Option<String>, String, String)> {
    let text = |path: &CgroupPath| String::from_utf8(path.as_bytes().to_vec()).unwrap();
    let summary = summary_of(&line(names)).expect("a summary");
    let reading = |it: &Reading| {
        let comm = String::from_utf8(it.comm.clone()).unwrap();
        (it.oom_memcg.as_ref().map(text), text(&it.task_memcg), comm)
    };
    summary.readings.iter().map(reading).collect()
}

fn only(oom_memcg: Option<&str>, task_memcg: &str, comm: &str) -> Vec<(Option<String>, String, String)> {
    vec![(oom_memcg.map(str::to_owned), task_memcg.to_owned(), comm.to_owned())]
}

#[test]
fn a_summary_names_both_cgroups() {
    let text = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/s2,\
                task_memcg=/s2/big,task=hog,pid=112,uid=0";
    let summary = summary_of(text).unwrap();
    assert_eq!((summary.constraint, summary.pid), (Some("CONSTRAINT_MEMCG"), 112));
    let reading = Reading { oom_memcg: Some(path("/s2")), task_memcg: path("/s2/big"), comm: b"hog".to_vec() };
    assert_eq!(summary.readings, [reading]);
}

#[test]
fn a_summary_of_a_host_that_ran_out() {
    let text = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0-1,global_oom,\
                task_memcg=/d,task=hog,pid=9,uid=65534";
    let summary = summary_of(text).unwrap();
    assert_eq!((summary.constraint, summary.pid), (Some("CONSTRAINT_NONE"), 9));
    assert_eq!(summary.readings, [Reading { oom_memcg: None, task_memcg: path("/d"), comm: b"hog".to_vec() }]);
}

#[test]
fn names_that_look_like_parts_of_the_line_are_names() {
    let of = |comm: &str| readings(&format!(",oom_memcg=/a,task_memcg=/a/b,task={comm}"));
    for comm in ["x,pid=1,uid=0", "x,uid=5", "a b=c", "", ",oom_memcg=/v", "x\n"] {
        assert_eq!(of(comm), only(Some("/a"), "/a/b", comm), "{comm}");
    }
    let cgroup = "/a/x,oom_memcg=/v,global_oom";
    assert_eq!(readings(&format!(",oom_memcg=/a,task_memcg={cgroup},task=t")), only(Some("/a"), cgroup, "t"));
    let host = "/a,oom_memcg=/v";
    assert_eq!(readings(&format!(",global_oom,task_memcg={host},task=t")), only(None, host, "t"));
}

#[test]
fn the_name_of_a_cpuset_forges_no_cgroup() {
    let cpuset = "x,mems_allowed=0,oom_memcg=,global_oom,task_memcg=,task=t,pid=1,uid=0";
    let text = format!(
        "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset={cpuset},mems_allowed=0,oom_memcg=/real,\
         task_memcg=/real,task=t,pid=7,uid=0"
    );
    let summary = summary_of(&text).unwrap();
    let reading = Reading { oom_memcg: Some(path("/real")), task_memcg: path("/real"), comm: b"t".to_vec() };
    assert_eq!(summary.readings, [reading]);
}

#[test]
fn a_cgroup_named_like_the_victims_never_leads_out_of_its_parent() {
    let nested = "/c/e,task_memcg=/victim";
    let found = readings(&format!(",oom_memcg={nested},task_memcg={nested},task=t"));
    assert_eq!(found, only(Some(nested), nested, "t"));
}

#[test]
fn where_more_than_one_reading_is_left_all_are_given() {
    let found = readings(",oom_memcg=/a,task_memcg=/a,task=x,task=y");
    let reading = |task_memcg: &str, comm: &str| (Some("/a".to_owned()), task_memcg.to_owned(), comm.to_owned());
    // The second is no reading: it would not lie in /a.
    assert_eq!(found, [reading("/a", "x,task=y")]);
    let found = readings(",oom_memcg=/a,task_memcg=/a/b,task=x,task=y");
    assert_eq!(found, [reading("/a/b", "x,task=y"), reading("/a/b,task=x", "y")]);
}

#[test]
fn what_is_cut_or_not_of_the_kernels_form_is_no_summary() {
    let whole = line(",oom_memcg=/a,task_memcg=/a,task=t");
    for end in 0..whole.len() - 1 {
        let cut = &whole[..end];
        assert!(summary_of(cut).is_none_or(|summary| summary.readings.is_empty()), "{cut}");
    }
    let too_long = line(",oom_memcg=/a,task_memcg=/a,task=0123456789abcdef");
    let outside = line(",oom_memcg=/a,task_memcg=/ab,task=t");
    for text in [&*too_long, &outside, "oom-kill:", "xoom-kill:constraint=CONSTRAINT_MEMCG,nodemask="] {
        assert_eq!(summary_of(text), None, "{text}");
    }
}

fn killed(text: &[u8]) -> Option<Killed> {
    match Line::parse(text) {
        Some(Line::Killed(killed)) => Some(killed),
        None => None,
        other => panic!("{other:?}"),
    }
}

const FIGURES: &str = ") total-vm:25996kB, anon-rss:16000kB, file-rss:6760kB, shmem-rss:8kB, UID:1000 pgtables:92kB \
                       oom_score_adj:-5";

#[test]
fn a_kill_has_victim_and_figures() {
    let text = format!("Memory cgroup out of memory: Killed process 15204 (hog{FIGURES}");
    let memory = VictimMemory {
        total_vm_bytes: 25996 << 10,
        anon_rss_bytes: 16000 << 10,
        file_rss_bytes: 6760 << 10,
        shmem_rss_bytes: 8 << 10,
        swap_bytes: None,
        pgtables_bytes: 92 << 10,
    };
    let expected =
        Killed { of_memcg: true, tid: 15204, comm: b"hog".to_vec(), memory, uid: Some(1000), oom_score_adj: Some(-5) };
    assert_eq!(killed(text.as_bytes()), Some(expected));
    let text = format!("Out of memory: Killed process 1 (x{FIGURES}");
    assert!(!killed(text.as_bytes()).unwrap().of_memcg);
}

#[test]
fn a_victim_cannot_forge_its_figures() {
    for comm in [&b"a) total-vm:9kB"[..], b"(", b") (", b"a (b) c\xff\n", b""] {
        let text = [b"Out of memory: Killed process 5 (", comm, FIGURES.as_bytes()].concat();
        let killed = killed(&text).unwrap();
        assert_eq!((killed.tid, &killed.comm[..], killed.memory.total_vm_bytes), (5, comm, 25996 << 10));
    }
    for text in [
        "Out of memory: Killed process 5 (a",
        "Out of memory: Killed process -5 (a) total-vm:1kB",
        "init: Out of memory: Killed process 5 (a) total-vm:1kB",
        "Out of memory: Killed process 5 (0123456789abcdef) total-vm:1kB, anon-rss:1kB, file-rss:1kB, shmem-rss:1kB, \
         UID:0 pgtables:1kB oom_score_adj:0",
    ] {
        assert_eq!(killed(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn the_other_lines_of_a_dump() {
    let parse = |text: &str| Line::parse(text.as_bytes());
    let invoked = "e,pid=9,uid=0)  invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0";
    assert_eq!(parse(invoked), Some(Line::Invoked { comm: b"e,pid=9,uid=0) ".to_vec() }));
    let cpu = "CPU: 0 UID: 0 PID: 15204 Comm: e Not tainted 6.18.44 #1 PREEMPT(none) ";
    assert!(matches!(parse(cpu), Some(Line::Cpu { tid: 15204, .. })));
    let older = "CPU: 1 PID: 7 Comm: hog Not tainted 6.1.0-50-cloud-amd64 #1  Debian 6.1.176-1";
    assert!(matches!(parse(older), Some(Line::Cpu { tid: 7, .. })));
    let usage = "memory: usage 16384kB, limit 16384kB, failcnt 261";
    assert_eq!(parse(usage), Some(Line::Usage { usage_bytes: 16 << 20, limit_bytes: Some(16 << 20) }));
    let unlimited = "memory: usage 1kB, limit 9007199254740988kB, failcnt 0";
    assert_eq!(parse(unlimited), Some(Line::Usage { usage_bytes: 1 << 10, limit_bytes: None }));
    let group = "Tasks in /a b are going to be killed due to memory.oom.group set";
    assert_eq!(parse(group), Some(Line::Group(path("/a b"))));
    let skipped = "Memory cgroup out of memory: OOM victim 5 (x) is already exiting. Skip killing the task";
    assert_eq!(parse(skipped), Some(Line::Skipped));
    for other in ["", "memory+swap: usage 1kB, limit 2kB, failcnt 0", "cache 0", "Call Trace:", "CPU: x PID: 1 Comm: "]
    {
        assert_eq!(parse(other), None, "{other}");
    }
}

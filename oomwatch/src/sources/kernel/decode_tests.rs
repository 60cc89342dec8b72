//! Records as the program writes them, and records as nobody should write them.

use oomwatch_common::{MAX_LEVELS, MemcgRef, TRACE_BYTES};
use proptest::prelude::*;

use super::*;

const PAGE: u64 = 4096;
/// `PAGE_COUNTER_MAX` with pages of 4 KiB.
const NO_LIMIT_PAGES: u64 = 2_251_799_813_685_247;

fn decoder() -> Decoder {
    Decoder { page_bytes: PAGE, sees_killing: true, trace: None }
}

/// The bytes of a record, as the kernel passes them on.
fn bytes<T: Record>(record: &T, used: usize) -> Vec<u8> {
    // SAFETY: a `Record` is integers without padding, and `used` is at most its size.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(record).cast::<u8>(), used) }.to_vec()
}

fn path_of(names: &[&[u8]]) -> PathBytes {
    let mut path = PathBytes { len: 0, truncated: 0, bytes: [0; PATH_CAPACITY] };
    for name in names {
        let at = path.len as usize;
        path.bytes[at..at + name.len()].copy_from_slice(name);
        path.len += u32::try_from(name.len()).unwrap() + 1;
    }
    path
}

fn kill() -> KillRecord {
    // SAFETY: integers only, of which zero is a value.
    let mut kill: KillRecord = unsafe { std::mem::zeroed() };
    kill.header = RecordHeader { kind: RecordKind::Kill as u32, cpu: 0, boot_ns: 77 };
    kill.tgid = 500;
    kill.tid = 501;
    kill.comm[..3].copy_from_slice(b"hog");
    kill.oom_score_adj = -500;
    kill.has_memory = 1;
    kill.rss_pages = [1, 2, u64::MAX, 4];
    kill.level_count = 2;
    kill.levels[0].memcg = MemcgRef { id: 9, hierarchy: 4, level: 2 };
    kill.levels[0].max_pages = NO_LIMIT_PAGES;
    kill.levels[1].memcg = MemcgRef { id: 8, hierarchy: 4, level: 1 };
    kill.levels[1].max_pages = 100;
    kill.levels[1].oom_group = 1;
    kill.path = path_of(&[b"leaf", b"top"]);
    kill
}

fn sent(kill: &KillRecord) -> Vec<u8> {
    bytes(kill, size_of::<KillRecord>() - PATH_CAPACITY + kill.path.len as usize)
}

fn victim(kill: &KillRecord) -> Victim {
    match decoder().decode(&sent(kill)) {
        Ok(Observation::Victim(victim)) => *victim,
        other => panic!("not a victim: {other:?}"),
    }
}

#[test]
fn a_kill_is_read_in_bytes_with_its_path_from_the_root() {
    let victim = victim(&kill());
    assert_eq!((victim.pid, victim.tid, victim.boot_ns), (Some(500), 501, 77));
    assert_eq!(victim.comm.as_deref(), Some(&b"hog"[..]));
    assert_eq!(victim.oom_score_adj, Some(-500));
    assert_eq!(victim.path, Some(CgroupPath::from_bytes(b"/top/leaf")));
    assert_eq!(victim.memcg, Some(MemcgId { hierarchy: 4, id: 9 }));
    assert_eq!(victim.levels[0].limit_bytes, None);
    assert_eq!(victim.levels[1].limit_bytes, Some(100 * PAGE));
    assert!(victim.levels[1].oom_group);
}

#[test]
fn a_counter_below_zero_is_no_memory_rather_than_all_of_it() {
    let memory = victim(&kill()).memory.unwrap();
    assert_eq!(memory.file_rss_bytes, PAGE);
    assert_eq!(memory.anon_rss_bytes, 2 * PAGE);
    assert_eq!(memory.swap_bytes, Some(0));
    assert_eq!(memory.shmem_rss_bytes, 4 * PAGE);
}

#[test]
fn the_root_has_an_empty_path_and_an_unread_one_has_none() {
    let mut record = kill();
    record.path = path_of(&[]);
    assert_eq!(victim(&record).path, Some(CgroupPath::root()));
    record.path.truncated = 1;
    assert_eq!(victim(&record).path, None);
}

#[test]
fn a_run_is_known_only_where_its_beginning_was_seen() {
    let mut record = kill();
    assert_eq!(victim(&record).run, None);
    record.oom.started_ns = 70;
    record.oom.constraint = 0;
    record.oom.killing = 1;
    let run = victim(&record).run.unwrap();
    assert_eq!(run.oom_memcg, None);
    assert_eq!(run.killing, Some(true));
}

#[test]
fn a_run_that_cannot_tell_whether_it_kills_does_not() {
    let mut record = kill();
    record.oom.started_ns = 70;
    let blind = Decoder { sees_killing: false, ..decoder() };
    let Ok(Observation::Victim(victim)) = blind.decode(&sent(&record)) else { panic!("not a victim") };
    assert_eq!(victim.run.unwrap().killing, None);
}

#[test]
fn a_record_that_ends_too_early_names_its_length() {
    let whole = sent(&kill());
    let need = size_of::<KillRecord>() - PATH_CAPACITY;
    let error = decoder().decode(&whole[..need - 1]).unwrap_err();
    assert_eq!(error, DecodeError::Short { kind: 1, got: need - 1, need });
    assert_eq!(decoder().decode(&[]).unwrap_err(), DecodeError::Short { kind: 0, got: 0, need: 16 });
}

#[test]
fn an_unknown_kind_is_refused() {
    let header = RecordHeader { kind: 99, cpu: 0, boot_ns: 0 };
    assert_eq!(decoder().decode(&bytes(&header, 16)).unwrap_err(), DecodeError::Kind(99));
    let trace = TraceRecord {
        header: RecordHeader { kind: RecordKind::Trace as u32, ..header },
        trigger_tgid: 0,
        trigger_tid: 0,
        trigger_comm: [0; 16],
        bytes: [0; TRACE_BYTES],
    };
    let error = decoder().decode(&bytes(&trace, size_of::<TraceRecord>())).unwrap_err();
    assert_eq!(error, DecodeError::Kind(RecordKind::Trace as u32), "no format was read");
}

fn exit(record: ExitRecord) -> Exited {
    let header = RecordHeader { kind: RecordKind::Exit as u32, cpu: 0, boot_ns: 77 };
    match decoder().decode(&bytes(&ExitRecord { header, ..record }, size_of::<ExitRecord>())) {
        Ok(Observation::Exited(exited)) => exited,
        other => panic!("not an exit: {other:?}"),
    }
}

#[test]
fn an_exit_is_told_as_a_shell_would() {
    let code = |wait_status| exit(ExitRecord { wait_status, ..ExitRecord::default() }).exit_code;
    assert_eq!([0, 3 << 8, 255 << 8].map(code), [0, 3, 255]);
    assert_eq!([9, 15, 0x8b].map(code), [137, 143, 139], "SIGKILL, SIGTERM, and SIGSEGV with a core dump");
    assert_eq!([u32::MAX, 0xffff_0000].map(code), [255, 0], "what no kernel would say");
}

#[test]
fn only_the_first_process_of_a_namespace_below_the_hosts_is_an_init() {
    let is_init = |ns_level, ns_tgid| exit(ExitRecord { ns_level, ns_tgid, ..ExitRecord::default() }).is_init;
    assert!(is_init(1, 1) && is_init(2, 1));
    assert!(!is_init(0, 1) && !is_init(1, 2) && !is_init(1, 0));
}

#[test]
fn an_exit_names_its_cgroups_where_they_are_known() {
    let memcg = MemcgRef { id: 9, hierarchy: 4, level: 2 };
    let exited = exit(ExitRecord { tgid: 5, start_boottime_ns: 6, memcg, ..ExitRecord::default() });
    assert_eq!((exited.boot_ns, exited.pid, exited.start_ns), (77, 5, 6));
    assert_eq!((exited.memcg, exited.parent_memcg), (Some(MemcgId { hierarchy: 4, id: 9 }), None));
}

#[test]
fn counts_beyond_the_arrays_are_cut() {
    let mut record = kill();
    record.level_count = u32::MAX;
    assert_eq!(victim(&record).levels.len(), MAX_LEVELS);
    record.path.len = u32::MAX;
    let Ok(Observation::Victim(victim)) = decoder().decode(&bytes(&record, size_of::<KillRecord>())) else {
        panic!("not a victim")
    };
    assert_eq!(victim.path, None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(kind in 0_u32..10, body in proptest::collection::vec(any::<u8>(), 0..6000)) {
        let mut record = kind.to_ne_bytes().to_vec();
        record.extend(body);
        drop(decoder().decode(&record));
    }
}

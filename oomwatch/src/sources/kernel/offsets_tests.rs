//! The layouts of recorded kernels against values typed in by hand, and bytes that no kernel would give.

use oomwatch_common::{FIELD_COUNT, Field, MISSING};

use super::{Btf, KernelLayout, Kind, MarkVictimArgs, kernel_name, resolve};
use crate::sources::kernel::btf;

const LINUX_5_10_218: &[u8] = include_bytes!("../../../../tests/fixtures/btf/5.10.218.btf");
const LINUX_5_10_262: &[u8] = include_bytes!("../../../../tests/fixtures/btf/5.10.262.btf");
const LINUX_6_1: &[u8] = include_bytes!("../../../../tests/fixtures/btf/6.1.176.btf");
const LINUX_6_12: &[u8] = include_bytes!("../../../../tests/fixtures/btf/6.12.111.btf");
const LINUX_6_18: &[u8] = include_bytes!("../../../../tests/fixtures/btf/6.18.44.btf");
const LINUX_7_2: &[u8] = include_bytes!("../../../../tests/fixtures/btf/7.2.13.btf");
const KERNELS: [&[u8]; 6] = [LINUX_5_10_218, LINUX_5_10_262, LINUX_6_1, LINUX_6_12, LINUX_6_18, LINUX_7_2];

/// Size of the BTF that the fixture of Linux 6.18 was cut from.
const LINUX_6_18_FULL_BYTES: usize = 5_516_713;
const RUNNING_KERNEL: &str = "/sys/kernel/btf/vmlinux";
const HIERARCHY: u32 = 7;

/// Values on each of [`KERNELS`], as `bpftool btf dump` and programs run on these kernels showed them.
#[rustfmt::skip]
const EXPECTED: [(Field, [u32; 6]); FIELD_COUNT] = [
    //                             5.10.218 5.10.262 6.1   6.12  6.18  7.2
    (Field::TaskPid,               [2232, 2232, 2416, 2432, 1264, 2808]),
    (Field::TaskTgid,              [2236, 2236, 2420, 2436, 1268, 2812]),
    (Field::TaskComm,              [2736, 2736, 2976, 2976, 1752, 3344]),
    (Field::TaskCgroups,           [3328, 3328, 3600, 3584, 2376, 4000]),
    (Field::TaskMm,                [2056, 2056, 2272, 2304, 1136, 2680]),
    (Field::TaskSignal,            [2832, 2832, 3072, 3072, 1848, 3448]),
    (Field::TaskRealCred,          [2712, 2712, 2952, 2952, 1728, 3320]),
    (Field::TaskStartBoottime,     [2544, 2544, 2784, 2784, 1560, 3160]),
    (Field::TaskGroupLeader,       [2296, 2296, 2480, 2496, 1328, 2872]),
    (Field::TaskThreadPid,         [2336, 2336, 2520, 2536, 1368, 2912]),
    (Field::TaskRealParent,        [2248, 2248, 2432, 2448, 1280, 2824]),
    (Field::TaskExitCode,          [2136, 2136, 2312, 2332, 1164, 2708]),
    (Field::PidLevel,              [4, 4, 4, 4, 4, 4]),
    (Field::PidNumbers,            [96, 96, 96, 112, 144, 128]),
    (Field::UpidSize,              [16, 16, 16, 16, 16, 16]),
    (Field::UpidNr,                [0, 0, 0, 0, 0, 0]),
    (Field::CssSetSubsys,          [0, 0, 0, 0, 0, 0]),
    (Field::MemoryCgrpId,          [4, 4, 4, 4, 4, 4]),
    (Field::CssCgroup,             [0, 0, 0, 0, 0, 0]),
    (Field::CgroupKn,              [248, 248, 248, 256, 256, 296]),
    (Field::CgroupLevel,           [208, 208, 208, 216, 216, 256]),
    (Field::CgroupRoot,            [480, 480, 656, 720, 696, 808]),
    (Field::CgroupRootHierarchyId, [12, 12, 12, 12, 12, 12]),
    (Field::KernfsId,              [104, 104, 104, 96, 96, 96]),
    (Field::KernfsName,            [16, 16, 16, 16, 16, 16]),
    (Field::KernfsParent,          [8, 8, 8, 8, 8, 8]),
    (Field::SignalOomScoreAdj,     [1010, 1010, 1026, 1018, 1058, 1074]),
    (Field::SignalLive,            [4, 4, 4, 4, 4, 4]),
    (Field::SignalFlags,           [116, 116, 116, 116, 116, 116]),
    (Field::SignalGroupExitCode,   [96, 96, 96, 96, 96, 96]),
    (Field::CredUid,               [8, 8, 8, 8, 8, 8]),
    (Field::MmTotalVm,             [192, 192, 184, 248, 360, 608]),
    (Field::MmPgtablesBytes,       [104, 104, 96, 152, 168, 392]),
    (Field::MmRssStat,             [712, 712, 720, 824, 968, 1216]),
    (Field::MmRssStride,           [8, 8, 8, 40, 40, 40]),
    (Field::OomControlMemcg,       [16, 16, 16, 16, 16, 16]),
    (Field::OomControlTotalpages,  [32, 32, 32, 32, 32, 32]),
    (Field::OomControlConstraint,  [56, 56, 56, 56, 56, 56]),
    (Field::MemcgCss,              [0, 0, 0, 0, 0, 0]),
    (Field::MemcgMemory,           [208, 208, 256, 256, 256, 256]),
    (Field::MemcgOomGroup,         [817, 817, 1184, 960, 848, 840]),
    (Field::MemcgEventsLocal,      [2304, 2304, 1552, 1216, 1104, 1128]),
    (Field::MemcgEventOom,         [3, 3, 3, 3, 3, 3]),
    (Field::MemcgEventOomKill,     [4, 4, 4, 4, 4, 4]),
    (Field::PageCounterUsage,      [0, 0, 0, 0, 0, 0]),
    (Field::PageCounterMax,        [32, 32, 152, 224, 160, 160]),
    (Field::PageCounterParent,     [40, 40, 160, 232, 168, 168]),
    (Field::MemoryHierarchyId,     [HIERARCHY; 6]),
];

fn layout(bytes: &[u8]) -> KernelLayout {
    resolve(&Btf::parse(bytes).unwrap(), HIERARCHY)
}

/// Renames a type or member of a kernel, to a name of equal length.
fn rename(bytes: &mut [u8], from: &str, to: &str) {
    let whole = |name: &str| [b"\0", name.as_bytes(), b"\0"].concat();
    let (from, to) = (whole(from), whole(to));
    let at = bytes.windows(from.len()).rposition(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(&to);
}

#[test]
fn every_field_of_every_recorded_kernel_is_found() {
    for (nth, kernel) in KERNELS.into_iter().enumerate() {
        let layout = layout(kernel);
        for (field, expected) in EXPECTED {
            assert_eq!(layout.table[field as usize], expected[nth], "{} of kernel {nth}", kernel_name(field));
        }
        assert_eq!(layout.missing, []);
    }
}

fn functions(layout: &KernelLayout) -> Vec<&'static str> {
    layout.functions.iter().map(|(name, _)| *name).collect()
}

#[test]
fn hooks_of_every_recorded_kernel_are_known() {
    use MarkVictimArgs::{PidOnly, Task};
    let mark_victim = KERNELS.map(|kernel| layout(kernel).mark_victim);
    assert_eq!(mark_victim, [PidOnly, Task, Task, Task, Task, Task]);
    let memcg_argument = KERNELS.map(|kernel| layout(kernel).reclaim_end_memcg_arg);
    assert_eq!(memcg_argument, [None, None, None, None, None, Some(1)]);
    let four = ["oom_kill_process", "__oom_kill_process", "mem_cgroup_out_of_memory", "mark_oom_victim"];
    for kernel in KERNELS {
        assert_eq!(functions(&layout(kernel)), four);
    }
}

#[test]
fn functions_alone_have_the_ids_that_the_kernel_gave_them() {
    for kernel in KERNELS {
        let known = layout(kernel).functions;
        let alone = btf::of_functions(&known);
        let wanted: Vec<(Kind, &str)> = known.iter().map(|(name, _)| (Kind::Function, *name)).collect();
        let mut found = Btf::parse(&alone).unwrap().find(&wanted);
        found.sort_by_key(|(name, _)| known.iter().position(|(known, _)| known == name));
        assert_eq!(found, known);
    }
}

#[test]
fn a_field_that_is_gone_is_missing_by_name() {
    let mut kernel = LINUX_6_18.to_vec();
    rename(&mut kernel, "hierarchy_id", "hierarchy_xx");
    rename(&mut kernel, "pgtables_bytes", "pgtables_bytex");
    let layout = layout(&kernel);
    assert_eq!(layout.missing, [Field::CgroupRootHierarchyId, Field::MmPgtablesBytes]);
    let essential: Vec<String> = layout.missing_essential().map(kernel_name).collect();
    assert_eq!(essential, ["cgroup_root.hierarchy_id"]);
    assert_eq!(layout.table[Field::MmPgtablesBytes as usize], MISSING);
}

#[test]
fn a_field_of_another_type_is_missing() {
    let mut kernel = LINUX_6_18.to_vec();
    rename(&mut kernel, "real_cred", "xxxx_cred");
    rename(&mut kernel, "exit_code", "real_cred");
    let missing = [Field::TaskRealCred, Field::TaskExitCode];
    assert_eq!(layout(&kernel).missing, missing, "an int where a pointer is expected, and what had that name");
}

#[test]
fn hooks_that_are_gone_or_of_another_type_are_not_offered() {
    let mut kernel = LINUX_7_2.to_vec();
    rename(&mut kernel, "btf_trace_mark_victim", "btf_trace_mark_victxx");
    rename(&mut kernel, "oom_kill_process", "oom_kill_proxxxx");
    rename(&mut kernel, "mem_cgroup", "mem_xgroup");
    let layout = layout(&kernel);
    assert_eq!(layout.mark_victim, MarkVictimArgs::Absent);
    assert_eq!(functions(&layout), ["__oom_kill_process", "mark_oom_victim"]);
    assert_eq!(layout.reclaim_end_memcg_arg, None);
    assert!(!layout.has_function("oom_kill_process"));
    assert!(layout.missing.contains(&Field::MemcgCss));
}

#[test]
fn every_field_has_a_name_of_the_kernel() {
    assert_eq!(kernel_name(Field::KernfsParent), "kernfs_node.__parent|parent");
    assert_eq!(kernel_name(Field::MemoryCgrpId), "memory_cgrp_id");
    let unnamed: Vec<Field> =
        Field::ALL.iter().copied().filter(|field| kernel_name(*field) == format!("{field:?}")).collect();
    assert_eq!(unnamed, [Field::MemoryHierarchyId], "which is no field of the kernel");
}

#[test]
fn damaged_bytes_never_panic() {
    const ROUNDS: usize = 3000;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 8).unwrap() % below
    };
    let extremes = [0, 1, u32::MAX, 1 << 31, 0x0400_ffff, 0x8400_ffff, 0x0300_0000, 0x0800_0000];
    let mut parsed = 0;
    for round in 0..ROUNDS {
        let mut kernel = KERNELS[round % KERNELS.len()].to_vec();
        for _ in 0..=next(24) {
            let at = next(kernel.len());
            kernel[at] = next(256).to_le_bytes()[0];
        }
        for _ in 0..next(4) {
            let at = next(kernel.len() / 4) * 4;
            let word: u32 =
                if next(2) == 0 { extremes[next(extremes.len())] } else { u32::try_from(next(2000)).unwrap() };
            kernel[at..at + 4].copy_from_slice(&word.to_ne_bytes());
        }
        if next(8) == 0 {
            kernel.truncate(next(kernel.len()));
        }
        let Ok(btf) = Btf::parse(&kernel) else { continue };
        let layout = resolve(&btf, HIERARCHY);
        assert!(layout.missing.iter().all(|field| layout.table[*field as usize] == MISSING));
        parsed += 1;
    }
    assert!((1000..ROUNDS).contains(&parsed), "{parsed} of 6000 were read: too few or too many to try both sides");
}

#[test]
fn the_running_kernel_has_all_that_an_exact_kill_needs() {
    let Ok(kernel) = crate::host::system::kernel_btf() else {
        #[expect(clippy::print_stderr, reason = "a skipped test says why")]
        {
            eprintln!("skipped: no {RUNNING_KERNEL}");
        }
        return;
    };
    let running = layout(&kernel);
    assert_eq!(running.missing_essential().map(kernel_name).collect::<Vec<_>>(), [""; 0]);
    if kernel.len() == LINUX_6_18_FULL_BYTES {
        assert_eq!(running, layout(LINUX_6_18), "the fixture was cut from this kernel");
    }
}

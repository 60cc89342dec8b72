//! Arguments as both Debian versions of runsc gave them (recorded), as today's source gives them, and hostile ones.

use std::path::Path;

use super::*;

const SENTRY_2022: &[u8] = include_bytes!("../../../../tests/fixtures/gvisor/20221219-detached.sentry.cmdline");
const GOFER_2022: &[u8] = include_bytes!("../../../../tests/fixtures/gvisor/20221219-detached.gofer.cmdline");
const SENTRY_2024: &[u8] = include_bytes!("../../../../tests/fixtures/gvisor/20240729-detached.sentry.cmdline");
const GOFER_2024: &[u8] = include_bytes!("../../../../tests/fixtures/gvisor/20240729-detached.gofer.cmdline");
const IGNORING: &[u8] = include_bytes!("../../../../tests/fixtures/gvisor/20240729-ignore-cgroups.sentry.cmdline");
const BY_DO: &[u8] = include_bytes!("../../../../tests/fixtures/gvisor/20240729-do.sentry.cmdline");
const BY_DOCKER: &[u8] = include_bytes!("../../../../tests/fixtures/gvisor/20240729-docker.sentry.cmdline");

fn sentry_of(cmdline: &[u8]) -> SentryArgs {
    match Arguments::parse(cmdline) {
        Ok(Arguments::Sentry(args)) => args,
        other => panic!("{other:?}"),
    }
}

fn gofer_of(cmdline: &[u8]) -> GoferArgs {
    match Arguments::parse(cmdline) {
        Ok(Arguments::Gofer(args)) => args,
        other => panic!("{other:?}"),
    }
}

/// Elements as the kernel shows them.
fn cmdline(elements: &[&str]) -> Vec<u8> {
    elements.iter().flat_map(|element| element.bytes().chain([0])).collect()
}

#[test]
fn a_sentry_of_2022_spells_numbers_as_two_elements() {
    let args = sentry_of(SENTRY_2022);
    assert_eq!(args.sandbox_id, "det22");
    assert_eq!(args.root.as_deref(), Some(Path::new("/tmp/gv/root")));
    assert_eq!(args.bundle.as_deref(), Some(Path::new("/tmp/gv/bundle")));
    assert_eq!(args.platform, None, "the default goes unsaid");
    assert_eq!((args.total_memory_bytes, args.total_host_memory_bytes), (Some(134_217_728), None));
    assert!(!args.ignore_cgroups);
}

#[test]
fn a_sentry_of_2024_spells_them_with_an_equals_sign() {
    let args = sentry_of(SENTRY_2024);
    assert_eq!(args.sandbox_id, "det24");
    assert_eq!(args.root.as_deref(), Some(Path::new("/tmp/gv/root")));
    assert_eq!(args.bundle.as_deref(), Some(Path::new("/tmp/gv/bundle")));
    assert_eq!(args.platform, Some(Platform::Systrap));
    assert_eq!((args.total_memory_bytes, args.total_host_memory_bytes), (Some(134_217_728), Some(25_276_502_016)));
    assert!(!args.ignore_cgroups);
}

#[test]
fn gofers_tell_root_and_bundle() {
    let root = Some(Path::new("/tmp/gv/root"));
    for gofer in [GOFER_2022, GOFER_2024] {
        let args = gofer_of(gofer);
        assert_eq!((args.root.as_deref(), args.bundle.as_deref()), (root, Some(Path::new("/tmp/gv/bundle"))));
    }
}

#[test]
fn ignored_cgroups_are_told_and_memory_is_the_hosts() {
    let args = sentry_of(IGNORING);
    assert!(args.ignore_cgroups);
    assert_eq!(args.total_memory_bytes, args.total_host_memory_bytes);
    assert!(args.total_memory_bytes.is_some());
}

#[test]
fn runsc_do_keeps_its_files_in_a_temporary_folder() {
    let args = sentry_of(BY_DO);
    assert!(args.sandbox_id.starts_with("runsc-"), "{}", args.sandbox_id);
    assert_eq!(args.root, args.bundle);
    assert!(args.root.is_some_and(|root| root.to_string_lossy().starts_with("/tmp/runsc-do")));
}

#[test]
fn docker_gives_a_root_and_an_id_of_its_own() {
    let args = sentry_of(BY_DOCKER);
    assert_eq!(args.root.as_deref(), Some(Path::new("/tmp/gv/exec/runtime-runc/moby")));
    assert_eq!(args.sandbox_id.len(), 64);
    assert!(args.bundle.is_some_and(|bundle| bundle.ends_with(&args.sandbox_id)));
}

#[test]
fn a_sentry_of_2026_may_have_either_spelling_and_a_prewarmer_before_it() {
    let own = ["--bundle=/b", "--total-host-memory", "2000", "--total-memory", "1000", "--attached", "s1"];
    let elements = [&["runsc-sandbox", "--root=/run/runsc", "--platform=kvm", "boot"][..], &own].concat();
    let args = sentry_of(&cmdline(&elements));
    assert_eq!(args.sandbox_id, "s1");
    assert_eq!((args.total_memory_bytes, args.total_host_memory_bytes), (Some(1000), Some(2000)));
    assert_eq!(args.platform, Some(Platform::Kvm));
    let warming =
        [&["/opt/gvisor-bin/gvisor-sentry-prewarmer", "/opt/gvisor-bin/gvisor_sentry"][..], &elements].concat();
    assert_eq!(Arguments::parse(&cmdline(&warming)), Ok(Arguments::Other));
}

#[test]
fn a_value_called_boot_is_not_the_command() {
    let args =
        sentry_of(&cmdline(&["runsc-sandbox", "--debug-log=boot", "--log-fd", "3", "boot", "--bundle", "/b", "s"]));
    assert_eq!(args.bundle.as_deref(), Some(Path::new("/b")));
    assert_eq!(args.sandbox_id, "s");
}

#[test]
fn the_last_of_repeated_options_counts_and_a_longer_name_is_another() {
    let elements = ["runsc-sandbox", "--root=/a", "--root=/b", "--rootless=true", "boot", "--bundle=/x", "s"];
    assert_eq!(sentry_of(&cmdline(&elements)).root.as_deref(), Some(Path::new("/b")));
}

#[test]
fn numbers_that_are_none_are_absent() {
    for memory in ["--total-memory=", "--total-memory=-1", "--total-memory=1e9", "--total-memory=99999999999999999999"]
    {
        let args = sentry_of(&cmdline(&["runsc-sandbox", "boot", memory, "s"]));
        assert_eq!(args.total_memory_bytes, None, "{memory}");
    }
}

#[test]
fn ids_that_runsc_would_not_take_are_refused() {
    let long = "x".repeat(MAX_ID + 1);
    for id in ["../../etc/passwd", "a/b", "a\nb", "a\u{1b}[31m", "", "é", "--attached", "a b", "a:b", &long] {
        let refused = Arguments::parse(&cmdline(&["runsc-sandbox", "boot", "--bundle=/b", id]));
        assert_eq!(refused, Err(ArgvError::BadId), "{id:?}");
    }
    assert_eq!(sentry_of(&cmdline(&["runsc-sandbox", "boot", "A_b+c,d.e-9"])).sandbox_id, "A_b+c,d.e-9");
}

#[test]
fn a_sentry_without_boot_or_id_is_refused() {
    for elements in [&["runsc-sandbox"][..], &["runsc-sandbox", "--root=/r", "s"], &["runsc-sandbox", "x", "boot", "s"]]
    {
        assert_eq!(Arguments::parse(&cmdline(elements)), Err(ArgvError::NoBoot), "{elements:?}");
    }
    assert_eq!(Arguments::parse(&cmdline(&["runsc-sandbox", "boot"])), Err(ArgvError::BadId));
}

#[test]
fn other_processes_are_others() {
    for elements in
        [&[][..], &[""], &["runsc", "run", "x"], &["sh", "runsc-sandbox", "boot", "x"], &["runsc-sandboxes"]]
    {
        assert_eq!(Arguments::parse(&cmdline(elements)), Ok(Arguments::Other), "{elements:?}");
    }
}

#[test]
fn no_bytes_make_it_panic_and_half_of_a_line_gives_no_half_of_an_answer() {
    let whole = sentry_of(SENTRY_2024);
    for end in 0..SENTRY_2024.len() {
        if let Ok(Arguments::Sentry(args)) = Arguments::parse(&SENTRY_2024[..end]) {
            assert!(args.root.is_none() || args.root == whole.root || end < 200, "{end}: {args:?}");
        }
    }
    for seed in 0..2000_u32 {
        let mut cmdline = SENTRY_2022.to_vec();
        let at = usize::try_from(seed.wrapping_mul(2_654_435_761) >> 8).unwrap() % cmdline.len();
        cmdline[at] = u8::try_from(seed % 256).unwrap();
        // Whatever it says, an id is one that runsc would take.
        if let Ok(Arguments::Sentry(args)) = Arguments::parse(&cmdline) {
            assert!(is_id(args.sandbox_id.as_bytes()));
        }
    }
}

//! The writer on real files: order, bounds, half lines, disks that fail.

#![expect(clippy::disallowed_methods, reason = "a test looks for itself")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use serde_json::Value;

use super::*;
use crate::{journal::Lines, sinks::hub_tests::event};

const PLENTY: u64 = 64 << 20;

fn batch(numbers: std::ops::RangeInclusive<u64>) -> Vec<Arc<Delivery>> {
    numbers.map(|seq| Arc::new(Delivery::new(event(seq)))).collect()
}

fn read(folder: &Path) -> Vec<Value> {
    let lines = Lines::open(folder).unwrap();
    lines.map(|line| serde_json::from_slice(&line.unwrap()).unwrap()).collect()
}

fn numbers_in(folder: &Path) -> Vec<u64> {
    read(folder).iter().map(|event| event["seq"].as_u64().unwrap()).collect()
}

fn files(folder: &Path) -> Vec<u64> {
    numbers(open_folder(folder).unwrap()).unwrap()
}

/// A folder for the journal that is not there yet.
fn place() -> (tempfile::TempDir, PathBuf) {
    let state = tempfile::tempdir().unwrap();
    let folder = folder(&state.path().join("state"));
    (state, folder)
}

#[test]
fn events_are_appended_across_restarts_for_root_only() {
    let (_state, folder) = place();
    for numbers in [1..=3, 4..=4, 5..=9] {
        assert_eq!(Writer::new(folder.clone(), PLENTY).write(&batch(numbers)), 0);
    }
    assert_eq!(numbers_in(&folder), (1..=9).collect::<Vec<_>>());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(&folder.join(file_name(1))), 0o600);
}

#[test]
fn the_oldest_events_make_room_for_the_newest() {
    let (_state, folder) = place();
    let line = batch(1000..=1000)[0].json().len() as u64 + 1;
    let mut writer = Writer::new(folder.clone(), FILES * 10 * line);
    for number in 1000..1500 {
        assert_eq!(writer.write(&batch(number..=number)), 0);
        let bytes: u64 = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        assert!(bytes <= FILES * 10 * line, "{bytes}");
    }
    assert_eq!(numbers_in(&folder), (1420..1500).collect::<Vec<_>>());
    // As well in one go.
    assert_eq!(writer.write(&batch(1500..=1999)), 0);
    assert_eq!(numbers_in(&folder), (1920..2000).collect::<Vec<_>>());
    drop(writer);
    // A tighter bound holds from the next file on.
    let mut writer = Writer::new(folder.clone(), FILES * 2 * line);
    assert_eq!(writer.write(&batch(2000..=2000)), 0);
    let kept = numbers_in(&folder);
    assert!(kept.len() as u64 <= FILES * 2, "{kept:?}");
    assert_eq!(kept.last(), Some(&2000));
}

#[test]
fn a_line_longer_than_a_file_is_kept_whole() {
    let (_state, folder) = place();
    assert_eq!(Writer::new(folder.clone(), 8).write(&batch(1..=20)), 0);
    assert_eq!(numbers_in(&folder).last(), Some(&20));
    assert!(files(&folder).len() as u64 <= FILES);
}

#[test]
fn half_a_line_of_an_agent_that_crashed_is_removed() {
    let (_state, folder) = place();
    fs::create_dir_all(&folder).unwrap();
    let long = "x".repeat(200_000);
    for (left, kept) in [(r#"{"seq":1}"#, 0), ("{\"seq\":1}\n{\"se", 1), ("\0\0\0", 0), (&*format!("{{}}\n{long}"), 1)]
    {
        fs::write(folder.join(file_name(7)), left).unwrap();
        assert_eq!(Writer::new(folder.clone(), PLENTY).write(&batch(2..=2)), 0);
        let lines = read(&folder);
        assert_eq!(lines.len(), kept + 1, "{lines:?}");
        assert_eq!(lines[kept]["seq"], 2);
        assert_eq!(files(&folder), [7]);
    }
}

#[test]
fn a_journal_deleted_below_the_agent_begins_anew() {
    let (_state, folder) = place();
    let mut writer = Writer::new(folder.clone(), PLENTY);
    assert_eq!(writer.write(&batch(1..=1)), 0);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(writer.write(&batch(2..=2)), 0);
    assert_eq!(numbers_in(&folder), [2]);
}

#[test]
fn what_is_lost_is_counted_and_told_in_the_journal_once_it_works_again() {
    let (state, folder) = place();
    // A file where a folder should be.
    fs::write(state.path().join("state"), "").unwrap();
    let mut writer = Writer::new(folder.clone(), PLENTY);
    assert_eq!(writer.write(&batch(1..=3)), 3);
    let own_report = Arc::new(loss::here(NAME, 3, &"boot".into()));
    assert_eq!(writer.write(&[own_report]), 0, "it is told anew, so it is not lost");
    assert_eq!(writer.write(&batch(4..=4)), 1);
    fs::remove_file(state.path().join("state")).unwrap();
    assert_eq!(writer.write(&batch(5..=6)), 0);
    let lines = read(&folder);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((&lines[0]["event"], &lines[0]["lost"]), (&"loss".into(), &4.into()));
    assert_eq!(lines[0]["sink"], NAME);
    assert!(lines[0].get("seq").is_none());
    assert_eq!(lines[2]["seq"], 6);
}

#[test]
fn no_link_is_followed_to_another_file() {
    let (state, folder) = place();
    fs::create_dir_all(&folder).unwrap();
    let other = state.path().join("other");
    fs::write(&other, "precious").unwrap();
    symlink(&other, folder.join(file_name(1))).unwrap();
    assert_eq!(Writer::new(folder, PLENTY).write(&batch(1..=1)), 1);
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
}

/// A file that takes no more than so many bytes, as on a full disk.
#[test]
fn of_a_line_that_did_not_fit_nothing_stays() {
    let (_state, folder) = place();
    let mut writer = Writer::new(folder.clone(), PLENTY);
    assert_eq!(writer.write(&batch(1..=1)), 0);
    let open = writer.open.as_mut().unwrap();
    let before = open.bytes;
    // Written beyond its end, as by a write that was cut short.
    open.file.write_all(b"{\"half").unwrap();
    assert_eq!(remove_half_line(&mut open.file).unwrap(), before);
    assert_eq!(writer.write(&batch(2..=2)), 0);
    assert_eq!(numbers_in(&folder), [1, 2]);
}

#[test]
fn an_output_that_is_to_have_a_line_before_is_waited_for_and_one_that_is_stuck_only_once() {
    let (works, stuck) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(3)));
    let mut before = Before::new(vec![Arc::clone(&works)]);
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        works.store(2, Ordering::Release);
        clock::boot_ns()
    });
    before.wait_for(&batch(1..=2));
    let waited_until = clock::boot_ns();
    assert!(writer.join().unwrap() <= waited_until, "the line was there before");
    let mut before = Before::new(vec![stuck]);
    let begin_ns = clock::boot_ns();
    (4..400).for_each(|seq| before.wait_for(&batch(seq..=seq)));
    let waited_ns = clock::boot_ns() - begin_ns;
    assert!((PATIENCE_NS..10 * PATIENCE_NS).contains(&waited_ns), "{waited_ns}");
}

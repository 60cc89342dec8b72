//! What is said of a guest that ended: whether it passed, and else why not: scenarios that failed, a panic of the kernel,
//! a hang, or an end that nobody announced.

use std::{fs, path::Path};

use super::{kernel::Guest, qemu::Ended};

/// The last line of the guest's first process when all scenarios passed.
const SUCCESS: &str = "init: success";
const FAILURE: &str = "init: failure: ";
/// What the first process says of the kernel that it finds.
const VERSION: &str = "init: Linux ";

/// Lines of the console that are shown when the guest did not end as it should.
const CONSOLE_TAIL: usize = 40;

/// `None` where all is well.
pub(super) fn complaint(guest: &Guest, ended: &Ended, console: &Path) -> Option<String> {
    let last = ended.lines.last().map_or("", String::as_str);
    let text = String::from_utf8_lossy(&fs::read(console).unwrap_or_default()).into_owned();
    if let Some(failed) = last.strip_prefix(FAILURE) {
        return Some(format!("failed: {failed}"));
    }
    if last == SUCCESS && !ended.hung {
        return wrong_kernel(guest, &ended.lines);
    }
    let what = if text.contains("Kernel panic") {
        "panic of the kernel".to_owned()
    } else if ended.hung {
        format!("hang: it did not end in {} s, and said last: {last}", ended.took.as_secs())
    } else if ended.status.is_some_and(|status| !status.success()) {
        format!("QEMU ended with {}", ended.status.unwrap_or_default())
    } else {
        format!("it ended before its verdict, and said last: {last}")
    };
    Some(format!("{what}; the end of its console ({}):{}", console.display(), tail(&text)))
}

/// A cache may hold another kernel than its name says.
fn wrong_kernel(guest: &Guest, lines: &[String]) -> Option<String> {
    let version = version(lines).unwrap_or("unknown");
    (!guest.kernel.is_version(version)).then(|| format!("this was Linux {version}, not {}", guest.kernel.version))
}

/// The version of the kernel, as its package has it.
pub(super) fn version(lines: &[String]) -> Option<&str> {
    lines.iter().find_map(|line| line.strip_prefix(VERSION))
}

/// The end of the kernel's console, where a panic would stand.
fn tail(console: &str) -> String {
    let lines: Vec<_> = console.lines().collect();
    let first = lines.len().saturating_sub(CONSOLE_TAIL);
    let mut shown = String::new();
    for line in lines.iter().skip(first) {
        shown.push_str("\n  ");
        shown.push_str(line);
    }
    shown
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, os::unix::process::ExitStatusExt as _, process::ExitStatus};

    use super::*;
    use crate::vm::kernel;

    fn complaint_of(lines: &[&str], console: &str, hung: bool) -> Option<String> {
        let guest = kernel::select(&["5.10.218-v1".to_owned()]).unwrap()[0];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(console.as_bytes()).unwrap();
        let lines = lines.iter().map(|&line| line.to_owned()).collect();
        let status = (!hung).then(|| ExitStatus::from_raw(0));
        complaint(&guest, &Ended { lines, hung, status, ..Ended::default() }, file.path())
    }

    #[test]
    fn a_guest_that_passed_has_no_complaint() {
        assert_eq!(complaint_of(&["init: Linux 5.10.218-1", "init: success"], "", false), None);
    }

    #[test]
    fn each_kind_of_failure_goes_by_its_name() {
        let of = |lines: &[&str], console: &str, hung| complaint_of(lines, console, hung).unwrap();
        assert_eq!(of(&["init: failure: storm"], "", false), "failed: storm");
        assert!(of(&["--- storm"], "oh\nKernel panic - not syncing", false).starts_with("panic of the kernel; "));
        assert!(of(&["--- storm"], "oh\nKernel panic - not syncing", false).contains("\n  Kernel panic"));
        assert!(of(&["--- storm"], "", true).starts_with("hang: it did not end in 0 s, and said last: --- storm"));
        assert!(of(&["--- storm"], "", false).starts_with("it ended before its verdict, and said last: --- storm"));
        assert_eq!(
            of(&["init: Linux 5.10.21-1", "init: success"], "", false),
            "this was Linux 5.10.21-1, not 5.10.218"
        );
    }
}

//! Pressure stall information of a memory cgroup: reads `memory.pressure` (cgroup2, Linux 4.20 with `CONFIG_PSI`).

use std::path::Path;

use super::{HostRoot, memory::MemoryHierarchy};
use crate::observation::Pressure;

/// Largest file read, bytes; the kernel's has two lines.
const MAX_FILE: usize = 4096;

/// Of the cgroup whose folder on the host this is; `None` where the kernel does not tell.
pub fn of_cgroup(root: &HostRoot, folder: &Path) -> Option<Pressure> {
    parse(&root.read_bounded(&folder.join("memory.pressure"), MAX_FILE).ok()?)
}

/// Whether the kernel tells it of cgroups.
///
/// # Errors
/// Why not.
pub fn is_told(root: &HostRoot, hierarchy: Option<&MemoryHierarchy>) -> Result<(), String> {
    match hierarchy.map(|hierarchy| hierarchy.version) {
        Some(2) => {}
        _ => return Err("only cgroup v2 has the pressure of cgroups".into()),
    }
    let own = root.read_bounded(Path::new("/proc/pressure/memory"), MAX_FILE);
    own.map(drop).map_err(|error| format!("{error}: CONFIG_PSI and, where it is off by default, the boot option psi=1"))
}

fn parse(text: &[u8]) -> Option<Pressure> {
    let text = str::from_utf8(text).ok()?;
    let avg10 = |kind: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
        let value: f64 = line.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()?;
        (0.0..=100.0).contains(&value).then_some(value)
    };
    Some(Pressure { some_avg10: avg10("some")?, full_avg10: avg10("full")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux 6.12.
    const PRESSURE: &[u8] = b"some avg10=12.50 avg60=3.11 avg300=0.70 total=1234\n\
        full avg10=7.25 avg60=2.00 avg300=0.50 total=900\n";

    #[test]
    fn both_lines_are_read() {
        assert_eq!(parse(PRESSURE), Some(Pressure { some_avg10: 12.5, full_avg10: 7.25 }));
    }

    #[test]
    fn what_is_missing_or_no_share_is_absent() {
        for text in [
            &b""[..],
            b"some avg10=1.0\n",
            b"some avg10=\nfull avg10=1.0\n",
            b"some avg10=NaN\nfull avg10=1.0\n",
            b"some avg10=inf\nfull avg10=1.0\n",
            b"some avg10=-1\nfull avg10=1.0\n",
            b"some avg60=1\nfull avg60=1.0\n",
            b"something avg10=1\nfull avg10=1.0\n",
            b"some avg10=\xff\nfull avg10=1.0\n",
        ] {
            assert_eq!(parse(text), None, "{}", text.escape_ascii());
        }
    }
}

//! How long a workload's tasks wait for memory: reads its pressure stall information now and then, and says when it
//! passed the line that the user drew.

use crate::{
    cgroup_path::CgroupPath,
    host::{HostRoot, memory::MemoryHierarchy, pressure},
    observation::{Pressure, Stalled, WorkloadKey},
};

/// How often it is read where a line is drawn: the kernel averages every two seconds (`PSI_FREQ`).
const OFTEN_NS: u64 = 2_000_000_000;
/// The same where it is only shown.
const SELDOM_NS: u64 = 30_000_000_000;

/// How often it is read.
pub(crate) fn every_ns(line_percent: Option<u8>) -> u64 {
    if line_percent.is_some() { OFTEN_NS } else { SELDOM_NS }
}

/// Whose is read, and where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    pub(crate) root: &'a HostRoot,
    pub(crate) hierarchy: &'a MemoryHierarchy,
    pub(crate) path: &'a CgroupPath,
    pub(crate) key: WorkloadKey,
}

/// One workload's.
#[derive(Debug, Default)]
pub(crate) struct Stall {
    read_ns: Option<u64>,
    last: Option<Pressure>,
    /// It is above this line, and that was told.
    told: Option<u8>,
}

impl Stall {
    /// As last read; `None` where the kernel does not tell.
    pub(crate) fn last(&self) -> Option<Pressure> {
        self.last
    }

    /// Reads it where that is due; what to tell if it passed the line, percent.
    pub(crate) fn look(&mut self, of: Of<'_>, line_percent: Option<u8>, now_ns: u64) -> Option<Stalled> {
        // The look that is meant may come early, together with others.
        let every_ns = every_ns(line_percent) / 16 * 15;
        let is_due = self.read_ns.is_none_or(|read_ns| now_ns >= read_ns.saturating_add(every_ns));
        if of.hierarchy.version != 2 || !is_due {
            return None;
        }
        self.read_ns = Some(now_ns);
        let pressure = self.observe(pressure::of_cgroup(of.root, &of.hierarchy.folder(of.path)), line_percent)?;
        Some(Stalled { boot_ns: now_ns, key: of.key, pressure, line_percent: line_percent? })
    }

    /// Told once; again after it fell below half of the line, for the average of ten seconds goes up and down.
    fn observe(&mut self, pressure: Option<Pressure>, line_percent: Option<u8>) -> Option<Pressure> {
        self.last = pressure;
        self.told = self.told.filter(|told| Some(*told) == line_percent);
        let (pressure, line_percent) = (pressure?, line_percent?);
        let line = f64::from(line_percent);
        if pressure.some_avg10 >= line {
            return self.told.replace(line_percent).is_none().then_some(pressure);
        }
        self.told = self.told.filter(|_| pressure.some_avg10 >= line / 2.0);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(shares: &[f64], line: Option<u8>) -> Vec<f64> {
        let mut stall = Stall::default();
        let pressure = |some_avg10| Some(Pressure { some_avg10, full_avg10: 0.0 });
        let passed = shares.iter().filter_map(|share| stall.observe(pressure(*share), line));
        passed.map(|pressure| pressure.some_avg10).collect()
    }

    #[test]
    fn passing_the_line_is_told_once_until_it_is_over() {
        assert_eq!(told(&[0.0, 9.9, 10.0, 50.0, 9.0, 11.0, 5.0, 12.0, 4.9, 13.0], Some(10)), [10.0, 13.0]);
        assert!(told(&[0.0, 100.0], None).is_empty());
        let mut stall = Stall::default();
        let mut passes = |line| stall.observe(Some(Pressure { some_avg10: 60.0, full_avg10: 0.0 }), line).is_some();
        let lines = [Some(10), Some(10), Some(50), None, Some(50)];
        assert_eq!(lines.map(&mut passes), [true, false, true, false, true], "another line is another matter");
        assert_eq!(told(&[99.99, 100.0], Some(100)), [100.0]);
    }
}

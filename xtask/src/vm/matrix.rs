//! Boots guests, one more at a time than there are processors for, and says of each how long it took and how it ended.

use std::{
    collections::VecDeque,
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    kernel::Guest,
    qemu::{Ended, Machine},
    report,
};
use crate::{compile, process::say};

/// Guests at a time at most: each takes up to 2 GiB.
const AT_ONCE: usize = 4;
/// Guests that are there while others wait, as each does a quarter of its time.
const SPARE: usize = 1;

/// A guest to be booted.
#[derive(Debug)]
pub(super) struct Boot {
    pub(super) guest: Guest,
    pub(super) image: PathBuf,
    pub(super) archive: PathBuf,
    /// Which half of the programs runs, 0 or 1; all where it is not halved.
    pub(super) half: Option<u8>,
    /// Scenarios of the subset that do not run here.
    pub(super) skip: Vec<&'static str>,
}

impl Boot {
    fn name(&self) -> String {
        match self.half {
            None => self.guest.to_string(),
            Some(half) => format!("{}.{half}", self.guest),
        }
    }
}

/// A guest that was booted.
#[derive(Debug)]
pub(super) struct Booted {
    pub(super) guest: Guest,
    pub(super) name: String,
    pub(super) ended: Ended,
    pub(super) complaint: Option<String>,
}

/// Runs the scenarios in all guests, also after one failed.
pub(super) fn run(boots: &[Boot], filter: &str) -> anyhow::Result<Vec<Booted>> {
    let begin = Instant::now();
    let waiting = Mutex::new(boots.iter().collect::<VecDeque<_>>());
    let done = Mutex::new(Vec::new());
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let at_once = (processors + SPARE).min(AT_ONCE).min(boots.len());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || {
        while let Some(boot) = next() {
            let booted = boot_one(boot, filter);
            done.lock().unwrap_or_else(PoisonError::into_inner).push(booted);
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    let booted = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    let booted = booted.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    summarize(&booted, begin.elapsed());
    Ok(booted)
}

fn boot_one(boot: &Boot, filter: &str) -> anyhow::Result<Booted> {
    let guest = boot.guest;
    let name = boot.name();
    let (console, log) = (log_file(&name, "console")?, log_file(&name, "log")?);
    let choice = if filter.is_empty() && !guest.kernel.everything { "subset" } else { "all" };
    let skip = if choice == "subset" { boot.skip.as_slice() } else { &[] };
    for scenario in skip {
        say(&format!("{name}| {scenario} runs with the other version of cgroups"));
    }
    let mut arguments = vec![format!("cgroup={}", guest.hierarchy), choice.to_owned()];
    arguments.extend(boot.half.map(|half| format!("half={half}")));
    arguments.extend(skip.iter().map(|scenario| format!("skip={scenario}")));
    arguments.extend((!filter.is_empty()).then(|| format!("filter={filter}")));
    let arguments = arguments.join(" ");
    let machine = Machine {
        arch: guest.kernel.arch,
        image: &boot.image,
        archive: &boot.archive,
        console: &console,
        log: &log,
        arguments: &arguments,
        name: &name,
    };
    let ended = machine.run()?;
    let complaint = report::complaint(&guest, &ended, &console);
    match &complaint {
        None => say(&format!("{name}| passed in {:.0} s", ended.took.as_secs_f64())),
        Some(complaint) => say(&format!("{name}| {complaint}")),
    }
    Ok(Booted { guest, name, ended, complaint })
}

/// One line for each guest.
fn summarize(booted: &[Booted], took: Duration) {
    say("guest           seconds  CPU  kernel            outcome");
    for Booted { name, ended, complaint, .. } in booted {
        let cpu = ended.cpu.map_or_else(|| "?".to_owned(), |cpu| cpu.as_secs().to_string());
        let outcome = complaint.as_deref().and_then(|it| it.lines().next()).unwrap_or("passed");
        let version = report::version(&ended.lines).unwrap_or("?");
        say(&format!("{:<15} {:>7} {cpu:>4}  {version:<17} {outcome}", name, ended.took.as_secs()));
    }
    say(&format!("all in {} s", took.as_secs()));
}

/// Where a guest's words of this kind go.
pub(super) fn log_file(guest: &str, kind: &str) -> anyhow::Result<PathBuf> {
    let folder = compile::target_dir().join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder.join(format!("{guest}.{kind}")))
}

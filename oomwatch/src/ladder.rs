//! The ladder: which sources tell of kills on this host. eBPF where it loads; below it the counters of cgroups and the
//! kernel's log, together where both can be had. `--tier` says where to stand instead.

use anyhow::bail;

use crate::{
    config::Tier,
    correlate::Counting,
    host::{HostRoot, memory::MemoryHierarchy},
    sinks::metrics::Limits,
    sources::{
        Look,
        counters::Watches,
        kernel::{
            hooks::Hook,
            keeping::{self, Keep},
            load::{self, Loaded, Sight},
        },
        kmsg,
    },
};

/// Where the agent stands.
pub(crate) struct Rung {
    /// What is seen and how.
    pub(crate) sight: Sight,
    /// The eBPF programs.
    pub(crate) kernel: Option<Loaded>,
    /// Hints of cgroups that come and go, and of their counters.
    pub(crate) counters: Option<Watches>,
    /// The kernel's log.
    pub(crate) log: Option<kmsg::Start>,
    /// What kills are known by where no program sees all of them.
    pub(crate) counting: Counting,
    /// Orders to the sources of these.
    pub(crate) look: Look,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wish<'a> {
    pub(crate) root: &'a HostRoot,
    pub(crate) hierarchy: Option<&'a MemoryHierarchy>,
    pub(crate) tier: Tier,
    /// Ways not to be tried.
    pub(crate) withheld: &'a [String],
}

/// Takes the best rung that there is, or the one that is asked for.
///
/// # Errors
/// It cannot be had; with [`Tier::Auto`]: none can.
pub(crate) fn climb(wish: Wish<'_>, keep: Option<Keep>) -> anyhow::Result<Rung> {
    let refused = match wish.tier {
        Tier::Bpf => return Ok(with_programs(wish, load::load(wish.hierarchy, wish.withheld, keep)?)),
        Tier::Auto => match load::load(wish.hierarchy, wish.withheld, keep.clone()) {
            Ok(loaded) => return Ok(with_programs(wish, loaded)),
            Err(error) => Some(error.to_string()),
        },
        Tier::Cgroup | Tier::Kmsg => None,
    };
    let below = without_programs(wish, refused)?;
    if let Some(keep) = keep {
        keeping::end(&keep);
    }
    Ok(below)
}

/// Each rung below eBPF with what it gives, and whether it can be had here.
pub(crate) fn below(wish: Wish<'_>) -> Vec<Hook> {
    let counters = counters(wish).map(|watches| by(wish, &watches));
    let log = log(wish, true).map(|_| "kmsg");
    vec![
        Hook {
            target: "cgroup counters",
            gives: "counts kills by cgroup, without eBPF",
            without: "kills are not counted by cgroup",
            outcome: counters,
        },
        Hook {
            target: "/dev/kmsg",
            gives: "names victims and, of ten kills in five seconds, cgroup and limit, without eBPF",
            without: "no victim is named where eBPF does not load",
            outcome: log,
        },
    ]
}

fn by(wish: Wish<'_>, watches: &Watches) -> &'static str {
    match (watches.lacking(), wish.hierarchy.map(|hierarchy| hierarchy.version)) {
        (Some(_), _) => "polling",
        (None, Some(1)) => "eventfd",
        (None, _) => "inotify",
    }
}

fn with_programs(wish: Wish<'_>, mut loaded: Loaded) -> Rung {
    let mut sight = std::mem::take(&mut loaded.sight);
    let mut rung = Rung {
        kernel: Some(loaded),
        counters: None,
        log: None,
        counting: Counting::default(),
        sight: Sight::default(),
        look: Look::default(),
    };
    if !sight.exact_victim {
        match counters(wish) {
            Ok(watches) => {
                rung.counters = Some(watches);
                rung.counting = Counting { counters: true, log: false, marks: true };
            }
            Err(reason) => {
                sight.degraded.push(format!("no counters ({reason}): a victim that is gone at once has no cgroup"));
            }
        }
    }
    rung.sight = sight;
    rung
}

fn without_programs(wish: Wish<'_>, refused: Option<String>) -> anyhow::Result<Rung> {
    let mut degraded = Vec::new();
    let chosen = |tier: Tier| matches!(wish.tier, Tier::Auto) || wish.tier == tier;
    let wanted = |tier: Tier, why: &str| if chosen(tier) { Ok(()) } else { Err(why.to_owned()) };
    let watches = counters(wish);
    let counts = wanted(Tier::Cgroup, "--tier kmsg").and_then(|()| watches.as_ref().map(drop).map_err(Clone::clone));
    let log = wanted(Tier::Kmsg, "--tier cgroup").and_then(|()| log(wish, watches.is_err()));
    let tier = match (&counts, &log) {
        (Ok(()), Ok(_)) => "cgroup+kmsg",
        (Ok(()), Err(_)) => "cgroup",
        (Err(_), Ok(_)) => "kmsg",
        (Err(counts), Err(log)) => {
            let refused = refused.map(|error| format!("eBPF: {error}; ")).unwrap_or_default();
            bail!("{refused}counters of cgroups: {counts}; /dev/kmsg: {log}");
        }
    };
    degraded.push(match refused {
        Some(error) => format!("no eBPF program sees kills ({error}): they are told by {}", told_by(tier)),
        None => format!("--tier {} leaves eBPF out: kills are told by {}", wish.tier.name(), told_by(tier)),
    });
    degraded.extend(not_seen(tier, wish, counts.as_ref().err(), log.as_ref().err()));
    if let Some(lacking) = watches.as_ref().ok().and_then(Watches::lacking) {
        degraded.push(format!("no hints of some cgroups ({lacking}): kills there are told up to five seconds late"));
    }
    let counting = Counting { counters: counts.is_ok(), log: log.is_ok(), marks: false };
    let limits = if log.is_ok() { Limits::Sometimes } else { Limits::Never };
    let sight = Sight { tier: tier.to_owned(), degraded, limits, ..Sight::default() };
    Ok(Rung { sight, kernel: None, counters: watches.ok(), log: log.ok(), counting, look: Look::default() })
}

fn told_by(tier: &str) -> &'static str {
    match tier {
        "cgroup" => "the counters of cgroups",
        "kmsg" => "the kernel's log",
        _ => "the counters of cgroups and the kernel's log",
    }
}

/// A sentence for each thing that the rung does not see.
fn not_seen(tier: &str, wish: Wish<'_>, no_counts: Option<&String>, no_log: Option<&String>) -> Vec<String> {
    let mut sentences = Vec::new();
    if let (Some(reason), Tier::Auto) = (no_counts, wish.tier) {
        sentences.push(format!("no counters of cgroups ({reason}): of kills that the log leaves out nothing is known"));
    }
    if let (Some(reason), Tier::Auto) = (no_log, wish.tier) {
        sentences.push(format!("the kernel's log is not read ({reason})"));
    }
    sentences.push(match tier {
        "cgroup" => "counters tell how many were killed in which cgroup: neither victim nor limit is named".to_owned(),
        "kmsg" => "the kernel's log names cgroup and limit of ten kills in five seconds; of others only the victim \
                   is named, and its cgroup where it still is when the agent looks"
            .to_owned(),
        _ => "the kernel's log names the limit of ten kills in five seconds; of others the cgroup is known where \
              the counters leave one possibility"
            .to_owned(),
    });
    if tier != "kmsg" {
        sentences.push("a cgroup that is gone before its counter was read is told as missed".to_owned());
    }
    if tier == "cgroup" && wish.hierarchy.is_some_and(|hierarchy| hierarchy.version == 2) {
        sentences.push(
            "group kills are told from their counter, which Linux has from 6.1 on; before, one too many".to_owned(),
        );
    }
    sentences.push("neither exit codes of containers nor a limit that was hit without a kill are seen".to_owned());
    sentences.push("a gVisor sandbox is found by the next scan only".to_owned());
    sentences
}

fn withheld(wish: Wish<'_>, way: &str) -> Result<(), String> {
    if wish.withheld.iter().any(|name| name == way) { Err("withheld".to_owned()) } else { Ok(()) }
}

fn counters(wish: Wish<'_>) -> Result<Watches, String> {
    withheld(wish, "cgroup")?;
    let hierarchy = wish.hierarchy.ok_or("no memory cgroup hierarchy is mounted")?;
    hierarchy.counts_kills()?;
    Ok(Watches::new(hierarchy))
}

fn log(wish: Wish<'_>, reads_totals: bool) -> Result<kmsg::Start, String> {
    withheld(wish, "kmsg")?;
    kmsg::Start::new(wish.root, wish.hierarchy.cloned(), reads_totals).map_err(|error| error.to_string())
}

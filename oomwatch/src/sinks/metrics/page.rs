//! The text of `/metrics`: OpenMetrics, and the older text format of Prometheus made of it for who does not ask for
//! OpenMetrics (`curl`, `promtool check metrics`).

use std::{
    collections::HashSet,
    fmt::{self, Write as _},
    sync::Arc,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, EncodeMetric as _, LabelSetEncoder, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::{Registry, Unit},
};

use super::{
    labels::{Key, Labels, bounded},
    series::{Cause, Counts, Reader, Series},
};
use crate::{inventory::Row, sinks, stats::SourceState};

/// What all names begin with.
pub(super) const PREFIX: &str = "oomwatch";
const KILLS: &str = "Processes killed by the kernel for want of memory.";
const OOMS: &str = "Times that a limit was hit and nothing was killed.";
const NEAR_LIMITS: &str = "Times that memory came near its limit.";
const USAGE: &str = "Memory held, as last measured.";
const LIMIT: &str = "Limit of memory in force.";
const PEAK: &str = "The most memory that was measured.";
const EVICTED: &str = "Series that ended early or were not begun, for there are too many workloads.";
const SOURCE_UP: &str = "Whether the loop of a source turns.";

/// Everything that one scrape shows beside the registered metrics, copied so that nobody waits while it is written.
#[derive(Debug)]
pub(super) struct Snapshot {
    counts: Vec<Counts>,
    evicted: u64,
    gauges: Vec<Gauges>,
    sources: Vec<SourceState>,
}

/// Memory of one workload, bytes.
#[derive(Debug)]
struct Gauges {
    labels: Arc<Labels>,
    /// What tells one from the other where that is no container.
    cgroup_path: Option<String>,
    usage: Option<u64>,
    limit: Option<u64>,
    peak: Option<u64>,
}

impl EncodeLabelSet for Gauges {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.labels.encode(encoder)?;
        let path = self.cgroup_path.as_deref().map(|path| ("cgroup_path", path));
        path.into_iter().try_for_each(|label| label.encode(encoder.encode_label()))
    }
}

/// Labels of kills in one workload for one cause.
struct KillLabels<'a> {
    workload: &'a Labels,
    cause: Cause,
}

impl EncodeLabelSet for KillLabels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.workload.encode(encoder)?;
        let (scope, owner) = self.cause;
        let scope = scope.map(|scope| ("scope", sinks::text::scope(scope)));
        let owner = owner.map(|owner| ("limit_owner", sinks::text::limit_owner(owner)));
        scope.into_iter().chain(owner).try_for_each(|label| label.encode(encoder.encode_label()))
    }
}

impl Snapshot {
    /// Of now. `rows` name what lives before what ended.
    pub(super) fn of(series: &mut Series, rows: &[Row], sources: Vec<SourceState>, reader: Reader) -> Self {
        let (mut counts, evicted) = series.read(reader);
        counts.sort_by(|a, b| a.labels.cmp(&b.labels));
        // A container that was restarted has the id of the one before it.
        let mut seen: HashSet<(Key, Option<String>)> = HashSet::new();
        let gauges = rows.iter().filter_map(|row| {
            let labels = Labels::of(Some(&row.workload));
            let cgroup_path = row.workload.cgroup_path.as_deref().filter(|_| !labels.is_container()).map(bounded);
            // Whose memory it is must be in the labels.
            if !labels.is_container() && cgroup_path.is_none() {
                return None;
            }
            let key = labels.key();
            let known = series.labels(&key).cloned();
            let lives = !row.ended;
            seen.insert((key, cgroup_path.clone())).then(|| Gauges {
                labels: known.unwrap_or_else(|| Arc::new(labels)),
                cgroup_path,
                usage: row.usage_bytes.filter(|_| lives),
                limit: row.limit_bytes.filter(|_| lives),
                peak: row.peak_bytes,
            })
        });
        Self { counts, evicted, gauges: gauges.collect(), sources }
    }

    /// The page: what is registered, then this.
    pub(super) fn page(self, registered: &Registry) -> Result<String, fmt::Error> {
        let mut own = Registry::with_prefix(PREFIX);
        own.register_collector(Box::new(self));
        let mut page = String::new();
        text::encode_registry(&mut page, registered)?;
        text::encode_registry(&mut page, &own)?;
        text::encode_eof(&mut page)?;
        Ok(page)
    }

    fn kills(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor("oom_kills", KILLS, None, MetricType::Counter)?;
        for counts in &self.counts {
            for kills in &counts.kills {
                let labels = KillLabels { workload: &counts.labels, cause: kills.cause };
                ConstCounter::new(kills.count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn counter(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        value: impl Fn(&Counts) -> u64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for counts in &self.counts {
            ConstCounter::new(value(counts)).encode(family.encode_family(&*counts.labels)?)?;
        }
        Ok(())
    }

    fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        value: impl Fn(&Gauges) -> Option<u64>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for gauges in &self.gauges {
            if let Some(value) = value(gauges) {
                ConstGauge::new(value).encode(family.encode_family(gauges)?)?;
            }
        }
        Ok(())
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.kills(&mut encoder)?;
        self.counter(&mut encoder, ("oom", OOMS), |counts| counts.ooms)?;
        self.counter(&mut encoder, ("near_limit", NEAR_LIMITS), |counts| counts.near_limits)?;
        self.gauge(&mut encoder, ("workload_memory_usage", USAGE), |gauges| gauges.usage)?;
        self.gauge(&mut encoder, ("workload_memory_limit", LIMIT), |gauges| gauges.limit)?;
        self.gauge(&mut encoder, ("workload_memory_peak", PEAK), |gauges| gauges.peak)?;
        let evicted = encoder.encode_descriptor("series_evicted", EVICTED, None, MetricType::Counter)?;
        ConstCounter::new(self.evicted).encode(evicted)?;
        let mut family = encoder.encode_descriptor("source_up", SOURCE_UP, None, MetricType::Gauge)?;
        for source in &self.sources {
            let labels = [("source", source.name)];
            ConstGauge::new(u64::from(source.up)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The same page in the older text format: there the suffix of a counter is part of its family's name, an info is a
/// gauge, and units and the end are not told.
pub(super) fn classic(page: &str) -> String {
    let mut out = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|text| text.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            // Writing to a String cannot fail.
            if let Some((_, text)) = help.take() {
                let _infallible = writeln!(out, "# HELP {name}{suffix} {text}");
            }
            let _infallible = writeln!(out, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
#[path = "page_tests.rs"]
mod tests;

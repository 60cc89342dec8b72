//! Workloads as a table: which columns there is room for, and what stands in them. Pure.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use unicode_width::UnicodeWidthStr as _;

use super::figures::{shortened, shown, size, speed, time};
use crate::{
    inventory::Row,
    workload::{Runtime, Workload},
};

/// Characters of an id: what engines show.
const ID_LENGTH: usize = 12;
/// A name is cut down to this before a column is left out for it,
const SHORT_NAME: usize = 12;
/// and down to this where none is left that could be.
const SHORTEST_NAME: usize = 8;
/// From here on a workload is shown in yellow, percent.
const YELLOW_PERCENT: f64 = 80.0;
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const RESET: &str = "\x1b[0m";
/// For what is not known.
const UNKNOWN: &str = "-";

/// How the table is to look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Columns of the terminal; `None` where there is no bound.
    pub(super) width: Option<usize>,
    /// With colours, red from this share of a limit on.
    pub(super) red_percent: Option<u8>,
}

/// One column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Id,
    Name,
    Runtime,
    Usage,
    Limit,
    Percent,
    Peak,
    Growth,
    TimeToLimit,
    Kills,
    Estimator,
    LimitSource,
}

impl Column {
    const ALL: [Self; 12] = [
        Self::Id,
        Self::Name,
        Self::Runtime,
        Self::Usage,
        Self::Limit,
        Self::Percent,
        Self::Peak,
        Self::Growth,
        Self::TimeToLimit,
        Self::Kills,
        Self::Estimator,
        Self::LimitSource,
    ];
    /// Left out where there is no room, the first of these first.
    const DISPENSABLE: [Self; 7] =
        [Self::LimitSource, Self::Estimator, Self::Growth, Self::Peak, Self::Runtime, Self::Id, Self::TimeToLimit];

    fn title(self) -> &'static str {
        match self {
            Self::Id => "ID",
            Self::Name => "NAME",
            Self::Runtime => "RUNTIME",
            Self::Usage => "USAGE",
            Self::Limit => "LIMIT",
            Self::Percent => "%",
            Self::Peak => "PEAK",
            Self::Growth => "GROWTH",
            Self::TimeToLimit => "TO LIMIT",
            Self::Kills => "KILLS",
            Self::Estimator => "ESTIMATOR",
            Self::LimitSource => "LIMIT FROM",
        }
    }

    fn is_text(self) -> bool {
        matches!(self, Self::Id | Self::Name | Self::Runtime | Self::Estimator | Self::LimitSource)
    }

    fn cell(self, row: &Row) -> String {
        let known = match self {
            Self::Id => id(&row.workload),
            Self::Name => name(&row.workload),
            Self::Runtime => Some(runtime(row.workload.runtime).to_owned()),
            Self::Usage => row.usage_bytes.map(size),
            Self::Limit => row.limit_bytes.map(size),
            Self::Percent => row.usage_percent.map(|percent| format!("{percent:.1}")),
            Self::Peak => row.peak_bytes.map(size),
            Self::Growth => row.growth_bytes_per_second.map(speed),
            Self::TimeToLimit if row.ended => Some("ended".to_owned()),
            Self::TimeToLimit => row.time_to_limit_seconds.map(time),
            Self::Kills => Some(row.kills.to_string()),
            Self::Estimator => row.estimator.as_deref().map(shown),
            Self::LimitSource => row.limit_source.as_deref().map(shown),
        };
        known.unwrap_or_else(|| UNKNOWN.to_owned())
    }
}

impl Style {
    /// The table, each line with its end.
    pub(super) fn table(self, rows: &[Row]) -> String {
        let (columns, name_length) = self.columns(rows);
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(columns.iter().map(|column| column.title()));
        for row in rows {
            table.add_row(columns.iter().map(|column| match column {
                Column::Name => shortened(&column.cell(row), name_length),
                _ => column.cell(row),
            }));
        }
        for (at, column) in columns.iter().enumerate() {
            if let Some(described) = table.column_mut(at) {
                described.set_padding((0, if at + 1 == columns.len() { 0 } else { GAP }));
                described.set_cell_alignment(if column.is_text() { CellAlignment::Left } else { CellAlignment::Right });
            }
        }
        let mut text = String::new();
        for (at, line) in table.lines().enumerate() {
            let colour = at.checked_sub(1).and_then(|at| rows.get(at)).and_then(|row| self.colour(row));
            let line = line.trim_end();
            match colour {
                Some(colour) => text.extend([colour, line, RESET, "\n"]),
                None => text.extend([line, "\n"]),
            }
        }
        text
    }

    fn colour(self, row: &Row) -> Option<&'static str> {
        let (red_percent, percent) = (f64::from(self.red_percent?), row.usage_percent.filter(|_| !row.ended)?);
        match percent {
            _ if percent >= red_percent => Some(RED),
            YELLOW_PERCENT.. => Some(YELLOW),
            _ => None,
        }
    }

    /// Columns that there is room for, and how long a name may be.
    fn columns(self, rows: &[Row]) -> (Vec<Column>, usize) {
        let mut columns = Column::ALL.to_vec();
        let natural = |column: Column| {
            let cells = rows.iter().map(|row| column.cell(row).width());
            cells.chain([column.title().len()]).max().unwrap_or_default()
        };
        let longest_name = natural(Column::Name);
        let Some(width) = self.width else { return (columns, longest_name) };
        let room_for_name = |columns: &[Column]| {
            let others = columns.iter().filter(|column| **column != Column::Name);
            let taken: usize = others.map(|column| natural(*column) + usize::from(GAP)).sum();
            width.saturating_sub(taken)
        };
        for dispensable in Column::DISPENSABLE {
            if room_for_name(&columns) >= longest_name.min(SHORT_NAME) {
                break;
            }
            columns.retain(|column| *column != dispensable);
        }
        let room = room_for_name(&columns).max(SHORTEST_NAME);
        (columns, longest_name.min(room))
    }
}

/// Blanks between two columns.
const GAP: u16 = 2;

fn id(workload: &Workload) -> Option<String> {
    let container = workload.container_id.as_deref().or(workload.sandbox_id.as_deref());
    let cgroup = || workload.cgroup_id.map(|id| format!("cgroup {id}"));
    container.map(|id| shown(id).chars().take(ID_LENGTH).collect()).or_else(cgroup)
}

/// What its owner calls it: where nobody gave a name, the id that a runtime was run with, or where it lies.
fn name(workload: &Workload) -> Option<String> {
    let container = workload.container_name.as_deref();
    let pod = workload.pod_name.as_deref();
    let own = match (pod, container) {
        (Some(pod), Some(container)) => Some(format!("{pod}/{container}")),
        (one, other) => one.or(other).map(str::to_owned),
    };
    let given_id = || workload.container_id.clone().filter(|id| id.len() != 64);
    let place = || workload.image.clone().or_else(|| workload.cgroup_path.clone());
    own.or_else(given_id).or_else(place).map(|name| shown(&name))
}

fn runtime(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Runc => "runc",
        Runtime::Crun => "crun",
        Runtime::Runsc => "runsc",
        Runtime::Youki => "youki",
        Runtime::Kata => "kata",
        Runtime::Systemd => "systemd",
        Runtime::Process => "process",
        Runtime::Unknown => UNKNOWN,
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

//! What commands and scrapers ask the running agent. An answer that nobody waits for any more is dropped.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Pipeline;
use crate::{history::History, inventory::Row, workload::Workload};

/// A question with the way back for its answer.
#[derive(Debug)]
pub(crate) enum Request {
    /// Every workload under watch, nearest to its limit first.
    Workloads(oneshot::Sender<Vec<Row>>),
    /// What was seen of workloads over their runs.
    History(oneshot::Sender<History>),
    /// Containers and sandboxes that live, by who they are.
    Living(oneshot::Sender<Vec<Arc<Workload>>>),
    /// Whether the pipeline turns.
    Turn(oneshot::Sender<()>),
}

impl Pipeline {
    pub(super) fn answer(&mut self, request: Request) {
        match request {
            Request::Workloads(back) => drop(back.send(self.rows())),
            Request::History(back) => drop(back.send(self.recollect())),
            Request::Living(back) => drop(back.send(self.living())),
            Request::Turn(back) => drop(back.send(())),
        }
    }

    /// Every workload that is told of.
    fn rows(&self) -> Vec<Row> {
        let mut rows = self.inventory.rows();
        rows.retain(|row| self.filter.admits(&row.workload));
        rows
    }
}

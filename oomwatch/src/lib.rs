//! `oomwatch`: tells the truth about out-of-memory on container hosts.
//!
//! # Layout
//! What happens flows through these stages in this order:
//!
//! - [`cli`], [`settings`] and [`config`]: what the user typed and wrote becomes a checked [`config::Config`]; [`live`]
//!   is one that [`reload`] may change.
//! - `sources`: each watches one thing and sends [`observation::Observation`]s. `sources::kernel` is the eBPF program.
//! - `ladder`: which of those that tell of kills can be had on this host.
//! - [`agent`]: start and stop; starts the sources and the sinks.
//! - `pipeline`: the agent's state: hands observations to the next four, and events to the sinks.
//! - [`correlate`]: a pure state machine; observations in, one [`correlate::Finding`] for each thing that happened out.
//! - `outcome`: what became of a container after a kill in it.
//! - `registry`: which workload a cgroup belongs to, also after its end; [`workload`] is the pure part of it.
//! - [`inventory`]: workloads under watch, their memory as last measured and what happened to them.
//! - [`event`]: what is reported, with the names of the interface.
//! - [`filter`]: which workloads are told of.
//! - [`sinks`]: events out.
//! - [`events`]: shows them later, from the `journal` on disk and by a [`client`] of the agent's socket.
//! - `state`: what the agent knows across restarts; `told`: what its journal has of the agent before it.
//! - `stats`: what sources measure about themselves.
//!
//! [`Agent`] is all of it inside another program, as a stream of events.
//!
//! [`host`] is the only module that opens files of `/proc`, `/sys` or of a container engine.

pub mod advice;
pub mod agent;
pub mod cgroup_path;
pub mod check;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod correlate;
pub mod event;
pub mod events;
pub mod filter;
pub mod history;
pub mod host;
pub mod inventory;
mod journal;
mod ladder;
mod library;
pub mod live;
pub mod log;
pub mod observation;
mod outcome;
mod pipeline;
pub mod ps;
pub mod recommend;
mod registry;
pub mod reload;
pub mod settings;
pub mod shell;
pub mod sinks;
mod sources;
mod state;
mod stats;
pub mod stop;
mod told;
pub mod workload;

pub use library::Agent;

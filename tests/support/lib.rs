//! What the scenarios share: guards that undo on drop what they made, and expectations that say what differs.
//!
//! A scenario drives the real agent (`OOMWATCH_BIN`) with real processes (`OOMWATCH_HOG`) on the kernel it finds, and
//! panics where something is not as promised. `cargo xtask test` sets both and runs it as root.

#![expect(clippy::expect_used, clippy::panic, reason = "a test fails by a panic")]
#![expect(clippy::missing_panics_doc, reason = "everything here panics where the scenario fails")]

mod agent;
mod asked;
mod attempt;
mod cgroup;
mod collector;
mod container;
mod containerd;
mod dialog;
mod dockerd;
mod event;
mod expected;
mod freezer;
mod hog;
mod http;
mod machine;
mod mount;
mod program;
mod prometheus;
mod requirement;
mod rootfs;
mod runsc;
mod sandbox;
mod state;
mod stream;
mod wait;

pub use self::{
    agent::{Agent, Output, agent_command},
    asked::{AskedAgent, Place},
    attempt::{Void, in_some_attempts},
    cgroup::{Cgroup, memory_cgroup_version, unique_name},
    collector::{Collector, Told},
    container::{Container, Runtime},
    containerd::{Containerd, ContainerdContainer},
    dialog::Dialog,
    dockerd::{DockerContainer, Dockerd},
    event::{Event, Events, unescaped},
    expected::{ExpectedKill, Window, kernel_names_the_limit, marks_carry_the_task},
    freezer::Freezer,
    hog::{Gate, Hog},
    http::{Reply, ask, get},
    machine::{Swap, Sysctl, in_guest, let_the_log_rest, spare_this_process},
    mount::Mount,
    program::{Capability, Finished, run, run_on_terminal, without_capabilities},
    prometheus::{Prometheus, promtool_check},
    requirement::{Requirement, are_met, say_skipped},
    rootfs::Rootfs,
    runsc::{Plan, Runsc},
    sandbox::Sandbox,
    state::State,
    wait::{EVENT_TIMEOUT, PROCESS_TIMEOUT, wait_for},
};

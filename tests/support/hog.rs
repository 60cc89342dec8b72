//! The memory eater, started and ended.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{PipeReader, PipeWriter, pipe},
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus, Stdio},
};

use crate::dialog::Dialog;

/// Number of `SIGKILL`.
const SIGKILL: i32 = 9;

/// The step of one that may not be killed.
const SPARED: &str = "oom-score-adj=-1000";

/// A memory eater that does one step after the other (`tests/hog/step.rs` lists them).
#[derive(Debug)]
pub struct Hog(Dialog);

impl Hog {
    /// Starts one.
    pub fn start<S: AsRef<OsStr>>(steps: impl IntoIterator<Item = S>) -> Self {
        Self(Dialog::start(&mut command(steps)))
    }

    /// Starts one in a cgroup that says `ready` and then waits to be let go.
    pub fn ready_in<S: AsRef<OsStr>>(cgroup: &crate::Cgroup, steps: impl IntoIterator<Item = S>) -> Self {
        let mut all: Vec<OsString> = vec![cgroup.join_step(), "say=ready".into(), "wait".into()];
        all.extend(steps.into_iter().map(|step| step.as_ref().to_owned()));
        let hog = Self::start(all);
        hog.wait_until_it_says("ready");
        hog
    }

    /// Starts one whose `wait` ends when the gate opens.
    pub fn start_behind<S: AsRef<OsStr>>(gate: &Gate, steps: impl IntoIterator<Item = S>) -> Self {
        let input = gate.reader.try_clone().expect("share the gate");
        Self(Dialog::start_mute(command(steps).stdin(input).stdout(Stdio::null())))
    }

    /// Starts one that runs into the limit of a cgroup in which nobody may be killed. Where it may, it spares itself.
    /// Else it lives in its parent's memory (`oom_badness` spares it), and the parent is elsewhere; that takes no
    /// privilege. What it uses up by `fill` is memory of the kernel, for its address space belongs to the parent. Linux
    /// 5.10 would charge that to the parent, too.
    pub fn that_nobody_may_kill(cgroup: &crate::Cgroup, fill: &str) -> Self {
        if may_be_spared() {
            return Self::start([SPARED.into(), cgroup.join_step(), fill.into(), "wait".into()]);
        }
        Self::start(["vfork-child".into(), cgroup.join_step(), fill.into(), "wait".into(), "end".into()])
    }

    /// As [`Self::ready_in`], for one that another is killed for. Where it may, it spares itself: Linux 7.2 now and then
    /// frees the memory of a victim so late that it looks for a second one.
    pub fn ready_to_outlive<S: AsRef<OsStr>>(cgroup: &crate::Cgroup, steps: impl IntoIterator<Item = S>) -> Self {
        let steps = steps.into_iter().map(|step| step.as_ref().to_owned());
        Self::ready_in(cgroup, may_be_spared().then(|| SPARED.into()).into_iter().chain(steps))
    }

    /// Where its program is.
    pub fn program() -> OsString {
        program()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Ends one `wait`.
    pub fn go(&mut self) {
        self.0.go();
    }

    /// The next line it says.
    pub fn line(&self) -> String {
        self.0.line()
    }

    /// Waits until it says this.
    pub fn wait_until_it_says(&self, line: &str) {
        assert_eq!(self.line(), line);
    }

    /// Waits until it says this, which is true, or ends without another word.
    pub fn says(&self, line: &str) -> bool {
        let said = self.0.line_or_end();
        assert!(said.as_deref().is_none_or(|said| said == line), "it said {said:?}, not {line}");
        said.is_some()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.0.wait()
    }

    /// Waits for its end by the kernel's hand.
    pub fn wait_until_killed(&mut self) {
        let status = self.wait();
        assert_eq!(status.signal(), Some(SIGKILL), "the hog ended by itself: {status}");
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.0.is_alive()
    }
}

/// Whether the kernel lets this process lower its score, which wants `CAP_SYS_RESOURCE`.
fn may_be_spared() -> bool {
    let own = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(own).expect("read the own score");
    let may = fs::write(own, "-1000").is_ok();
    fs::write(own, before.trim()).expect("take the own score back");
    may
}

/// Where the program is.
pub(crate) fn program() -> OsString {
    env::var_os("OOMWATCH_HOG").expect("OOMWATCH_HOG")
}

fn command<S: AsRef<OsStr>>(steps: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program());
    command.args(steps);
    command
}

/// Holds back many hogs and lets them go at once.
#[derive(Debug)]
pub struct Gate {
    reader: PipeReader,
    writer: PipeWriter,
}

impl Gate {
    /// A closed one.
    #[expect(clippy::new_without_default, reason = "it takes descriptors")]
    pub fn new() -> Self {
        let (reader, writer) = pipe().expect("make a pipe");
        Self { reader, writer }
    }

    /// Ends every `wait` behind it.
    pub fn open(self) {
        drop(self.writer);
    }
}

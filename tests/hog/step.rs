//! Arguments in, steps out.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    time::Duration,
};

/// How much to eat.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    /// So many MiB.
    Mib(usize),
    /// Until it is killed.
    All,
}

/// One thing to do.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// `cgroup=DIR`: moves this process there.
    Cgroup(PathBuf),
    /// `comm=BYTES`: names this thread.
    Comm(OsString),
    /// `oom-score-adj=N`
    OomScoreAdj(i32),
    /// `uid=N`: becomes this user.
    Uid(u32),
    /// `say=WORD`: one line on standard output.
    Say(String),
    /// `wait`: for one byte on standard input, or its end.
    Wait,
    /// `eat=MIB`, `eat=all`: private memory, each page of it written to.
    Eat(Amount),
    /// `eat-shared=MIB`, `eat-shared=all`: shared memory, each page of it written to.
    EatShared(Amount),
    /// `grow=MIB`: the one private allocation that `brk` moves the end of, each page of it written to.
    Grow(usize),
    /// `read-again`: each page of what `eat=MIB` took so far.
    ReadAgain,
    /// `write-again`: each page of what `eat=MIB` took so far.
    WriteAgain,
    /// `free`: gives back what `eat=MIB` took so far.
    Free,
    /// `write-file=FILE`: without end.
    WriteFile(PathBuf),
    /// `fill-file=MIB:FILE`: writes so much into it.
    FillFile(usize, PathBuf),
    /// `map-file=FILE`: maps it, and reads each page of it.
    MapFile(PathBuf),
    /// `pause=MILLISECONDS`
    Pause(Duration),
    /// `fill-pipes=MIB`: memory of the kernel, until it refuses; `fill-pipes=all`: again and again.
    FillPipes(Amount),
    /// `read-file=FILE`: from its beginning to its end, keeping nothing.
    ReadFile(PathBuf),
    /// `child STEPS end`: a forked child takes these and exits.
    Child(Steps),
    /// `vfork-child STEPS end`: so does a child with this process' memory, which waits meanwhile.
    VforkChild(Steps),
    /// `sharer`: another process with this one's memory, which sleeps.
    Sharer,
    /// `reap`: waits for a child and says `exited=CODE` or `killed=SIGNAL`.
    Reap,
    /// `new-pids`: the next child is the init of a pid namespace of its own, and those after it live in there.
    NewPids,
    /// `new-user`: a user namespace of its own, in which it is nobody.
    NewUser,
    /// `new-cgroups`: a cgroup namespace of its own, whose root is where it is.
    NewCgroups,
    /// `bind-memory=NODE`: takes memory from this node only.
    BindMemory(u32),
    /// `exit=CODE`: ends this process.
    Exit(u8),
    /// `lose-leader`: a new thread takes the other steps, and the first thread of this process ends.
    LoseLeader,
    /// `sleep`: for ever.
    Sleep,
    /// `exec PROGRAM ARGUMENTS`: becomes another program.
    Exec(Vec<OsString>),
    /// `pretend ARGUMENTS`: becomes what looks like the sentry of gVisor with these arguments, says `pretending` and
    /// waits for one byte.
    Pretend(Vec<OsString>),
}

/// Things to do, in order.
#[derive(Debug, Clone)]
pub(crate) struct Steps(Vec<Step>);

impl From<&[Step]> for Steps {
    fn from(steps: &[Step]) -> Self {
        Self(steps.to_vec())
    }
}

impl Steps {
    pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut arguments = arguments;
        let (steps, ended) = sequence(&mut arguments)?;
        if ended { Err("`end` without a child".into()) } else { Ok(steps) }
    }

    pub(crate) fn as_slice(&self) -> &[Step] {
        &self.0
    }
}

/// Steps up to `end` or the last argument; true for `end`.
fn sequence(arguments: &mut dyn Iterator<Item = OsString>) -> Result<(Steps, bool), String> {
    let mut steps = Vec::new();
    while let Some(argument) = arguments.next() {
        let step = match argument.as_bytes() {
            b"end" => return Ok((Steps(steps), true)),
            b"child" => Step::Child(block(arguments)?),
            b"vfork-child" => Step::VforkChild(block(arguments)?),
            b"exec" => Step::Exec(arguments.collect()),
            b"pretend" => Step::Pretend(arguments.collect()),
            _ => single(&argument).ok_or_else(|| format!("no such step: {}", argument.display()))?,
        };
        steps.push(step);
    }
    Ok((Steps(steps), false))
}

fn block(arguments: &mut dyn Iterator<Item = OsString>) -> Result<Steps, String> {
    match sequence(arguments)? {
        (steps, true) => Ok(steps),
        (_, false) => Err("a child without `end`".into()),
    }
}

fn single(argument: &OsStr) -> Option<Step> {
    let bytes = argument.as_bytes();
    let Some(at) = bytes.iter().position(|byte| *byte == b'=') else {
        return match bytes {
            b"wait" => Some(Step::Wait),
            b"read-again" => Some(Step::ReadAgain),
            b"write-again" => Some(Step::WriteAgain),
            b"free" => Some(Step::Free),
            b"sharer" => Some(Step::Sharer),
            b"reap" => Some(Step::Reap),
            b"new-pids" => Some(Step::NewPids),
            b"new-user" => Some(Step::NewUser),
            b"new-cgroups" => Some(Step::NewCgroups),
            b"lose-leader" => Some(Step::LoseLeader),
            b"sleep" => Some(Step::Sleep),
            _ => None,
        };
    };
    let value = OsStr::from_bytes(bytes.get(at + 1..)?);
    let text = value.to_str();
    match bytes.get(..at)? {
        b"cgroup" => Some(Step::Cgroup(value.into())),
        b"comm" => Some(Step::Comm(value.to_owned())),
        b"oom-score-adj" => Some(Step::OomScoreAdj(text?.parse().ok()?)),
        b"uid" => Some(Step::Uid(text?.parse().ok()?)),
        b"say" => Some(Step::Say(text?.to_owned())),
        b"eat" => Some(Step::Eat(amount(text?)?)),
        b"eat-shared" => Some(Step::EatShared(amount(text?)?)),
        b"grow" => Some(Step::Grow(text?.parse().ok()?)),
        b"bind-memory" => Some(Step::BindMemory(text?.parse().ok()?)),
        b"exit" => Some(Step::Exit(text?.parse().ok()?)),
        b"pause" => Some(Step::Pause(Duration::from_millis(text?.parse().ok()?))),
        b"write-file" => Some(Step::WriteFile(value.into())),
        b"fill-file" => {
            let (mib, file) = text?.split_once(':')?;
            Some(Step::FillFile(mib.parse().ok()?, file.into()))
        }
        b"map-file" => Some(Step::MapFile(value.into())),
        b"read-file" => Some(Step::ReadFile(value.into())),
        b"fill-pipes" => Some(Step::FillPipes(amount(text?)?)),
        _ => None,
    }
}

fn amount(text: &str) -> Option<Amount> {
    if text == "all" { Some(Amount::All) } else { text.parse().ok().map(Amount::Mib) }
}

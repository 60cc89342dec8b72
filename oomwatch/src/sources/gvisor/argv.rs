//! What the arguments of runsc's processes say. NUL-separated bytes of `/proc/<pid>/cmdline` in, typed fields out;
//! pure. Arguments prove nothing (any process may call itself `runsc-sandbox`): `discover` checks who it is.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

/// First argument of a sentry, in every release from 2022 to 2026.
const SENTRY: &[u8] = b"runsc-sandbox";
/// First argument of a gofer.
const GOFER: &[u8] = b"runsc-gofer";
/// Longest id taken: `<id>_sandbox:<id>.state` is one file name of at most 255 bytes.
const MAX_ID: usize = 120;

/// What a process says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// A sentry: the kernel of one sandbox.
    Sentry(SentryArgs),
    /// A gofer: serves files to one container of a sandbox.
    Gofer(GoferArgs),
    /// Neither. Also what runsc of 2026 runs for a moment before its sentry, `gvisor-sentry-prewarmer`.
    Other,
}

/// Arguments of a sentry. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentryArgs {
    /// `--root`: where runsc keeps its state files.
    pub root: Option<PathBuf>,
    /// `--bundle`, of the sandbox's first container; relative where the caller gave it so.
    pub bundle: Option<PathBuf>,
    /// The last argument.
    pub sandbox_id: String,
    /// `--platform`; absent where the release's default serves.
    pub platform: Option<Platform>,
    /// `--total-memory`: the lower of host memory and cgroup limit when the sandbox started, never updated.
    pub total_memory_bytes: Option<u64>,
    /// `--total-host-memory`: absent in 2022.
    pub total_host_memory_bytes: Option<u64>,
    /// `--ignore-cgroups`: the sandbox lives in its caller's cgroup.
    pub ignore_cgroups: bool,
}

/// Arguments of a gofer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GoferArgs {
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--bundle`, of its container.
    pub bundle: Option<PathBuf>,
}

/// How a sandbox intercepts system calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Platform {
    /// One stub process an address space, traced.
    Ptrace,
    /// One stub process an address space and a twin of it.
    Systrap,
    /// No stub processes.
    Kvm,
}

impl Platform {
    /// From its name in `--platform` or in a state file.
    pub(crate) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"ptrace" => Some(Self::Ptrace),
            b"systrap" => Some(Self::Systrap),
            b"kvm" => Some(Self::Kvm),
            _ => None,
        }
    }
}

/// Why the arguments of something that calls itself a sentry say too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgvError {
    /// There is no `boot` among them.
    #[error("a sentry without `boot`")]
    NoBoot,
    /// The last argument is no id that runsc would accept.
    #[error("a sentry without a valid id")]
    BadId,
}

impl Arguments {
    /// Reads the whole of a `/proc/<pid>/cmdline`.
    ///
    /// # Errors
    /// It calls itself a sentry, and the rest does not fit that.
    pub(crate) fn parse(cmdline: &[u8]) -> Result<Self, ArgvError> {
        let mut elements: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
        // The kernel ends each argument with NUL.
        while elements.last().is_some_and(|element| element.is_empty()) {
            elements.pop();
        }
        match elements.as_slice() {
            [SENTRY, rest @ ..] => sentry(rest).map(Self::Sentry),
            [GOFER, rest @ ..] => Ok(Self::Gofer(gofer(rest))),
            _ => Ok(Self::Other),
        }
    }
}

/// Whether runsc would take `id`: `[A-Za-z0-9_+,.-]` and no option, so neither a slash nor a control byte.
pub(crate) fn is_id(id: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"_+,.-".contains(byte);
    !id.starts_with(b"-") && !id.is_empty() && id.len() <= MAX_ID && id.iter().all(allowed)
}

fn sentry(elements: &[&[u8]]) -> Result<SentryArgs, ArgvError> {
    let boot = command(elements, b"boot").ok_or(ArgvError::NoBoot)?;
    let (global, own) = elements.split_at(boot);
    let (id, own) = own.split_last().filter(|(_, own)| !own.is_empty()).ok_or(ArgvError::BadId)?;
    let id = Some(*id).filter(|id| is_id(id)).and_then(|id| std::str::from_utf8(id).ok()).ok_or(ArgvError::BadId)?;
    Ok(SentryArgs {
        root: value(global, b"root").map(path),
        bundle: value(own, b"bundle").map(path),
        sandbox_id: id.to_owned(),
        platform: value(global, b"platform").and_then(Platform::from_name),
        total_memory_bytes: value(own, b"total-memory").and_then(number),
        total_host_memory_bytes: value(own, b"total-host-memory").and_then(number),
        ignore_cgroups: is_set(global, b"ignore-cgroups"),
    })
}

fn gofer(elements: &[&[u8]]) -> GoferArgs {
    let (global, own) = elements.split_at(command(elements, b"gofer").unwrap_or(elements.len()));
    GoferArgs { root: value(global, b"root").map(path), bundle: value(own, b"bundle").map(path) }
}

/// Where runsc's command `name` stands: the first element that is neither an option nor the value of one.
fn command(elements: &[&[u8]], name: &[u8]) -> Option<usize> {
    let mut before: &[u8] = b"";
    for (at, element) in elements.iter().enumerate() {
        let is_option = element.starts_with(b"-");
        // A lone `--option` may be a switch or take the element behind it.
        let may_be_value = before.starts_with(b"-") && !before.contains(&b'=');
        if *element == name {
            return Some(at);
        }
        if !is_option && !may_be_value {
            return None;
        }
        before = element;
    }
    None
}

/// Value of the option `name`, spelt `--name=value` or `--name`, `value`; the last one counts, as for runsc.
fn value<'a>(elements: &[&'a [u8]], name: &[u8]) -> Option<&'a [u8]> {
    let mut found = None;
    let mut elements = elements.iter();
    while let Some(element) = elements.next() {
        match option(element, name) {
            Some(b"") => found = elements.next().copied(),
            Some(rest) => found = rest.strip_prefix(b"="),
            None => {}
        }
    }
    found.filter(|value| !value.is_empty())
}

/// What stands behind the option's name: nothing, or `=` and its value.
fn option<'a>(element: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let dashed = element.strip_prefix(b"-")?;
    let rest = dashed.strip_prefix(b"-").unwrap_or(dashed).strip_prefix(name)?;
    (rest.is_empty() || rest.starts_with(b"=")).then_some(rest)
}

/// A switch: `--name` or `--name=true`.
fn is_set(elements: &[&[u8]], name: &[u8]) -> bool {
    let mut values = elements.iter().rev().filter_map(|element| option(element, name));
    values.next().is_some_and(|value| matches!(value, b"" | b"=true" | b"=1" | b"=t" | b"=T" | b"=TRUE" | b"=True"))
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn path(bytes: &[u8]) -> PathBuf {
    OsStr::from_bytes(bytes).into()
}

#[cfg(test)]
#[path = "argv_tests.rs"]
mod tests;

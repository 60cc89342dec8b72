//! The process that an engine leaves with every container: containerd's shim or conmon. Its
//! arguments and working folder say where the bundle is, wherever the engine's folders are. Without an engine, the runtime
//! that starts the container: it may not have written its state yet.
//! Reads `/proc/PID/stat`, `status`, `cmdline`, `cgroup` and `cwd`.
//!
//! Only a process of root's outside of containers is believed. Any other could play the part, and
//! hold up for ever who reads its arguments, for those are in its memory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::bundle::file_name;
use super::search::Search;
use crate::workload::path::components;

/// What they are called, as far as the kernel has room for a name.
const PROGRAMS: [&[u8]; 2] = [b"containerd-shim", b"conmon"];
/// Runtimes that are read as one, and what they are told to do while a container begins.
const STARTERS: [&str; 2] = ["runc", "crun"];
const STARTS: [&[u8]; 2] = [b"run", b"create"];
/// What else they are told to do, of what has arguments that may look like it.
const OTHERS: [&[u8]; 3] = [b"exec", b"restore", b"start"];
/// What a runtime's process is called in a container's cgroup before it executes the container's program,
const RUNTIMES: [&[u8]; 4] = [b"runc", b"crun", b"youki", b"exe"];
/// or how that begins: `runc:[2:INIT]`. A runtime that executes a copy of itself goes by `memfd:` and more, or by a descriptor's
/// number.
const RUNTIMES_STAGES: [&[u8]; 3] = [b"runc:[", b"youki:[", b"memfd:"];
/// How far up from a process the shim is looked for: a container's own tree can be deep.
const MAX_ANCESTORS: usize = 32;

/// A shim, conmon, or runtime.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Supervisor {
    pub(super) kind: Kind,
    /// Its cgroups, in every hierarchy.
    pub(super) cgroups: Vec<Vec<u8>>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `containerd-shim-runc-v2 -namespace N -id ID`, working in the bundle of `id`.
    Shim { namespace: String, id: String, bundle: PathBuf, program: String },
    /// `conmon -c ID -n NAME -r RUNTIME -b BUNDLE`.
    Conmon { id: String, name: Option<String>, runtime: Option<String>, bundle: PathBuf },
    /// `crun run --bundle BUNDLE ID`, or working in the bundle.
    Runtime { id: String, bundle: PathBuf, program: String },
}

impl Supervisor {
    /// Whether it runs in the container's own cgroup, the first `depth` of `names`: then it is the
    /// container's process and only plays the part.
    pub(super) fn is_inside(&self, names: &[&[u8]], depth: usize) -> bool {
        let Some(container) = names.get(..depth) else { return false };
        self.cgroups.iter().any(|cgroup| components(cgroup).collect::<Vec<_>>().starts_with(container))
    }
}

/// The nearest shim or conmon above the process that is not in the container itself; the nearest runtime where there is none.
pub(super) fn find(search: &mut Search<'_>, mut process: Process) -> Option<Supervisor> {
    let mut runtime = None;
    for _ in 0..MAX_ANCESTORS {
        let Some(pid) = Some(process.parent).filter(|parent| *parent > 1) else { break };
        let Some(parent) = Process::read(search, pid) else { break };
        process = parent;
        let Some(kind) = classify(search, pid, &process.name) else { continue };
        let Some(cgroups) = cgroups(search, pid) else { break };
        let supervisor = Supervisor { kind, cgroups };
        let inside = search.depth.is_some_and(|depth| supervisor.is_inside(search.names(), depth));
        match supervisor.kind {
            _ if inside => {}
            Kind::Runtime { .. } => runtime = runtime.or(Some(supervisor)),
            Kind::Shim { .. } | Kind::Conmon { .. } => return Some(supervisor),
        }
    }
    runtime
}

fn proc_file(pid: u32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Process {
    name: Vec<u8>,
    parent: u32,
}

impl Process {
    pub(super) fn read(search: &mut Search<'_>, pid: u32) -> Option<Self> {
        Self::in_stat(&search.read(&proc_file(pid, "stat"))?)
    }

    /// It is a runtime's, about to become a container's.
    pub(super) fn is_runtimes_own(&self) -> bool {
        RUNTIMES.contains(&self.name.as_slice())
            || RUNTIMES_STAGES.iter().any(|stage| self.name.starts_with(stage))
            || self.name.iter().all(u8::is_ascii_digit)
    }

    /// The second and the fourth field; the second, the name, may hold anything but ends at the last `)`.
    fn in_stat(stat: &[u8]) -> Option<Self> {
        let begin = stat.iter().position(|&byte| byte == b'(')?;
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(Self { name: stat.get(begin + 1..end)?.to_vec(), parent })
    }
}

fn cgroups(search: &mut Search<'_>, pid: u32) -> Option<Vec<Vec<u8>>> {
    let content = search.read(&proc_file(pid, "cgroup"))?;
    let lines = content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| Some(line.splitn(3, |&byte| byte == b':').nth(2)?.to_vec())).collect()
}

fn classify(search: &mut Search<'_>, pid: u32, name: &[u8]) -> Option<Kind> {
    let may_be_one = PROGRAMS.iter().any(|program| name.starts_with(program));
    let starts = STARTERS.iter().any(|program| name == program.as_bytes());
    if !may_be_one && !starts || !is_trusted(&search.read(&proc_file(pid, "status"))?) {
        return None;
    }
    let command = search.read(&proc_file(pid, "cmdline"))?;
    let arguments: Vec<&[u8]> = command.split(|&byte| byte == 0).collect();
    let program = Path::new(OsStr::from_bytes(arguments.first()?)).file_name()?.to_str()?.to_owned();
    if program == "conmon" {
        return conmon(&arguments);
    }
    if STARTERS.contains(&program.as_str()) {
        let told = option(&arguments, &["-b", "--bundle"]).map(PathBuf::from);
        let bundle = match told.filter(|bundle| bundle.is_absolute()) {
            Some(bundle) => bundle,
            None => search.read_link(&proc_file(pid, "cwd"))?,
        };
        return runtime(&arguments, program, bundle);
    }
    program.starts_with("containerd-shim").then_some(())?;
    let bundle = search.read_link(&proc_file(pid, "cwd"))?;
    shim(&arguments, program, bundle)
}

/// Whether it acts as root (`Uid:`, the second number) and has no other process id elsewhere (`NSpid:`): an engine's daemon
/// may have mounts of its own, but not process ids.
fn is_trusted(status: &[u8]) -> bool {
    let numbers = |name: &[u8]| {
        let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        let numbers = std::str::from_utf8(line).ok()?.split_ascii_whitespace().map(|number| number.parse().ok());
        numbers.collect::<Option<Vec<u32>>>()
    };
    let is_roots = numbers(b"Uid:").is_some_and(|ids| ids.get(1) == Some(&0));
    is_roots && numbers(b"NSpid:").is_some_and(|ids| ids.len() == 1)
}

/// Its last argument is the container's id.
fn runtime(arguments: &[&[u8]], program: String, bundle: PathBuf) -> Option<Kind> {
    let arguments = arguments.strip_suffix(&[b"".as_slice()]).unwrap_or(arguments);
    let (id, before) = arguments.split_last()?;
    let told = before.iter().find(|argument| STARTS.contains(argument) || OTHERS.contains(argument))?;
    let id = file_name(id).filter(|id| STARTS.contains(told) && !id.starts_with('-') && !id.contains('/'))?.to_owned();
    Some(Kind::Runtime { id, bundle, program })
}

fn conmon(arguments: &[&[u8]]) -> Option<Kind> {
    Some(Kind::Conmon {
        id: option(arguments, &["-c", "--cid"])?,
        name: option(arguments, &["-n", "--name"]),
        runtime: option(arguments, &["-r", "--runtime"]),
        bundle: option(arguments, &["-b", "--bundle"])?.into(),
    })
}

/// A shim of version 1 has no `-id`; the folder it works in is named by it in both.
fn shim(arguments: &[&[u8]], program: String, bundle: PathBuf) -> Option<Kind> {
    let folder = bundle.file_name()?.to_str()?.to_owned();
    let id = option(arguments, &["-id", "--id"]).unwrap_or_else(|| folder.clone());
    let namespace = option(arguments, &["-namespace", "--namespace"])?;
    let in_namespace = bundle.parent()?.file_name() == Some(OsStr::new(&namespace));
    (id == folder && in_namespace).then_some(Kind::Shim { namespace, id, bundle, program })
}

/// The value of the first of the options `names`, as `-o value` or `-o=value`.
fn option(arguments: &[&[u8]], names: &[&str]) -> Option<String> {
    let value = arguments.iter().enumerate().skip(1).find_map(|(at, argument)| {
        let name = names.iter().find(|name| argument.starts_with(name.as_bytes()))?;
        match argument.get(name.len()..)? {
            [] => arguments.get(at + 1).copied(),
            [b'=', value @ ..] => Some(value),
            _ => None,
        }
    })?;
    String::from_utf8(value.to_vec()).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(command: &str) -> Vec<&[u8]> {
        command.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn the_parent_is_found_behind_any_name() {
        let process = |name: &[u8], parent| Some(Process { name: name.to_vec(), parent });
        assert_eq!(Process::in_stat(b"9252 (sleep) S 9231 9252 0"), process(b"sleep", 9231));
        assert_eq!(Process::in_stat(b"7 (a) R 1) S 8 (\xff) S 9 1"), process(b"a) R 1) S 8 (\xff", 9));
        for broken in [&b""[..], b"7 (a", b")7 (a", b"7 (a)", b"7 (a) S", b"7 (a) S x", b"7 (a) S \xff"] {
            assert_eq!(Process::in_stat(broken), None);
        }
    }

    #[test]
    fn shims_of_both_versions_are_read() {
        let v2 = split("/usr/bin/containerd-shim-runc-v2 -namespace moby -id ab -address /x/containerd.sock");
        let bundle = PathBuf::from("/e/containerd/daemon/io.containerd.runtime.v2.task/moby/ab");
        let found = shim(&v2, "containerd-shim-runc-v2".into(), bundle.clone()).unwrap();
        assert!(matches!(found, Kind::Shim { id, namespace, .. } if id == "ab" && namespace == "moby"));
        let v1 = split("containerd-shim -namespace moby -workdir /var/lib/x/moby/ab -runtime-root /r");
        assert!(shim(&v1, String::new(), bundle).is_some());
        for folder in ["/", "/x/moby/cd", "/x/other/ab"] {
            assert_eq!(shim(&v2, String::new(), folder.into()), None, "{folder}");
        }
    }

    #[test]
    fn a_runtime_that_starts_a_container_names_it_at_its_end() {
        let found = |line: &[u8]| {
            let arguments: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            match runtime(&arguments, "crun".into(), "/b".into()) {
                Some(Kind::Runtime { id, .. }) => Some(id),
                _ => None,
            }
        };
        assert_eq!(found(b"crun --root /r run --bundle /b web ").as_deref(), Some("web"), "an empty one ends the line");
        assert_eq!(found(b"runc create web").as_deref(), Some("web"));
        for other in [
            &b"crun"[..],
            b"crun run",
            b"crun run -d",
            b"crun delete web",
            b"runc run \xff",
            b"runc run ../web",
            b"runc run ..",
            b"runc exec web npm run test",
        ] {
            assert_eq!(found(other), None);
        }
    }

    #[test]
    fn conmons_arguments_are_read() {
        let found =
            conmon(&split("/usr/bin/conmon --api-version 1 -c ab -u ab -r /usr/bin/crun -b /b -n web --x -c zz"));
        let expected = Kind::Conmon {
            id: "ab".into(),
            name: Some("web".into()),
            runtime: Some("/usr/bin/crun".into()),
            bundle: "/b".into(),
        };
        assert_eq!(found, Some(expected));
        assert_eq!(conmon(&split("conmon -c")), None);
        assert_eq!(conmon(&split("conmon -c ab")), None);
    }
}

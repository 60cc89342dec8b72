//! One program of the eBPF object: loaded and attached, or why the kernel refuses it.
//!
//! What keeps a program attached is taken out where it is to outlive the agent, else it stays with the program.

use std::error::Error;

use aya::{
    Btf, Ebpf, Endianness,
    programs::{FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, TracePoint, links::FdLink},
};

use super::{btf, offsets::KernelLayout};
use crate::host::system;

/// What keeps a program attached, with the program's name.
pub(super) type NamedLink = (String, FdLink);

/// The kernel's functions as aya wants them for [`fentry`].
pub(super) fn functions(layout: &KernelLayout) -> Result<Btf, String> {
    Btf::parse(&btf::of_functions(&layout.functions), Endianness::default()).map_err(|error| explain(&error))
}

/// Attaches to the beginning or the end of a function, as the program is made for.
pub(super) fn fentry(ebpf: &mut Ebpf, name: &str, function: &str, btf: &Btf) -> Result<NamedLink, String> {
    let link = match ebpf.program_mut(name) {
        Some(Program::FEntry(program)) => load_fentry(program, function, btf),
        Some(Program::FExit(program)) => load_fexit(program, function, btf),
        _ => return Err(format!("the object has no fentry program {name}")),
    };
    Ok((name.to_owned(), link.map_err(|error| refusal(&error))?))
}

/// Attaches to a function by kprobe or kretprobe, as the program is made for. `None` where the link cannot be taken.
pub(super) fn kprobe(ebpf: &mut Ebpf, name: &str, function: &str) -> Result<Option<NamedLink>, String> {
    if !system::has_kprobes() {
        return Err("this kernel has none".to_owned());
    }
    let link = with_program::<KProbe, _>(ebpf, name, |program| {
        program.load()?;
        let link = program.attach(function, 0)?;
        perf_links_can_be_pinned().then(|| program.take_link(link)).transpose()
    })?;
    Ok(link.and_then(|link| Some((name.to_owned(), link.try_into().ok()?))))
}

/// Attaches to a tracepoint `category:name`, with its arguments. The link where it is to be taken.
pub(super) fn raw_tracepoint(
    ebpf: &mut Ebpf,
    name: &str,
    target: &str,
    take: bool,
) -> Result<Option<NamedLink>, String> {
    let (_, tracepoint) = target.split_once(':').unwrap_or_default();
    let link = with_program::<RawTracePoint, _>(ebpf, name, |program| {
        program.load()?;
        let link = program.attach(tracepoint)?;
        take.then(|| program.take_link(link)).transpose()
    })?;
    Ok(link.map(|link| (name.to_owned(), link.into())))
}

/// Attaches to a tracepoint `category:name` as an event of perf. The link where it is to be taken and can be.
pub(super) fn perf_event(ebpf: &mut Ebpf, name: &str, target: &str, take: bool) -> Result<Option<NamedLink>, String> {
    let (category, tracepoint) = target.split_once(':').unwrap_or_default();
    let link = with_program::<TracePoint, _>(ebpf, name, |program| {
        program.load()?;
        let link = program.attach(category, tracepoint)?;
        (take && perf_links_can_be_pinned()).then(|| program.take_link(link)).transpose()
    })?;
    Ok(link.and_then(|link| Some((name.to_owned(), link.try_into().ok()?))))
}

fn load_fentry(program: &mut FEntry, function: &str, btf: &Btf) -> Result<FdLink, ProgramError> {
    program.load(function, btf)?;
    let link = program.attach()?;
    program.take_link(link).map(FdLink::from)
}

fn load_fexit(program: &mut FExit, function: &str, btf: &Btf) -> Result<FdLink, ProgramError> {
    program.load(function, btf)?;
    let link = program.attach()?;
    program.take_link(link).map(FdLink::from)
}

/// Before Linux 5.15 kprobes and tracepoints hang on an event of perf, which ends with its process.
pub(super) fn perf_links_can_be_pinned() -> bool {
    aya::features().bpf_perf_link()
}

fn with_program<'a, T: 'a, L>(
    ebpf: &'a mut Ebpf,
    name: &str,
    attach: impl FnOnce(&'a mut T) -> Result<L, ProgramError>,
) -> Result<L, String>
where
    &'a mut T: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
    let program = program.try_into().map_err(|error: ProgramError| explain(&error))?;
    attach(program).map_err(|error| refusal(&error))
}

/// Longest explanation kept: a verifier's log can have megabytes.
const MAX_EXPLANATION: usize = 300;

/// Why the kernel refused a program, in a few words; the verifier's last word where it had one.
fn refusal(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let last = log.lines().rfind(|line| !line.trim().is_empty() && !is_statistics(line));
            last.map_or_else(|| refused(io_error), |last| one_line(&format!("{}: {last}", refused(io_error))))
        }
        other => explain(other),
    }
}

/// Lines that the verifier writes after its reason.
fn is_statistics(line: &str) -> bool {
    ["processed ", "verification time ", "stack depth "].iter().any(|begin| line.starts_with(begin))
}

fn refused(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "not permitted (a missing capability, lockdown or a policy)".to_owned(),
        _ => one_line(&error.to_string()),
    }
}

/// An error's innermost cause, or itself, in one line.
pub(super) fn explain(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    one_line(&innermost.to_string())
}

fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(MAX_EXPLANATION) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

//! The configuration file: TOML, one level, its keys are the names of the options of `run`.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, Command};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Kind, Wrong, check, keys, run_command, wrong};
use crate::host::{HostError, HostRoot};

/// More is no configuration.
const MAX_BYTES: usize = 1 << 20;

/// What a file says, checked.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) entries: Vec<Entry>,
}

/// One key with its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// The option's id.
    pub(super) id: String,
    pub(super) line: usize,
    /// As they would be written on the command line.
    pub(super) values: Vec<String>,
}

/// Reads a file that may be absent.
pub(super) fn read_if_present(path: &Path) -> Result<Option<File>, Wrong> {
    match fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        _ => read(path).map(Some),
    }
}

/// Reads a file that must be there.
pub(super) fn read(path: &Path) -> Result<File, Wrong> {
    let unreadable = |reason: &str| Wrong::of_file(path, None, &format!("cannot be read: {reason}"));
    // Links are the user's own: mounted configuration is one.
    let real = fs::canonicalize(path).map_err(|error| unreadable(&wrong::without_number(&error)))?;
    let bytes = HostRoot::default().read_bounded(&real, MAX_BYTES).map_err(|error| match error {
        HostError::Gone { .. } => unreadable("it is gone"),
        HostError::Io { source, .. } => unreadable(&wrong::without_number(&source)),
        HostError::Format { reason, .. } => unreadable(&format!("it is {reason}")),
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        Wrong::of_file(path, Some(line_at(good)), "is not text in UTF-8")
    })?;
    parse(path, &text)
}

/// Lines are counted from 1; this one is where `before` ends.
fn line_at(before: &[u8]) -> usize {
    before.split(|byte| *byte == b'\n').count()
}

/// Takes the text of a file apart and checks every key and value.
pub(super) fn parse(path: &Path, text: &str) -> Result<File, Wrong> {
    let line = |at: usize| line_at(text.as_bytes().get(..at).unwrap_or(text.as_bytes()));
    let (table, errors) = DeTable::parse_recoverable(text);
    let start = |error: &toml::de::Error| error.span().map_or(usize::MAX, |span| span.start);
    if let Some(error) = errors.iter().min_by_key(|error| start(error)) {
        let line = error.span().map(|span| line(span.start));
        return Err(Wrong::of_file(path, line, &format!("is not TOML: {}", error.message())));
    }
    let mut pairs: Vec<_> = table.get_ref().iter().collect();
    pairs.sort_by_key(|(key, _)| key.span().start);
    let run = run_command();
    let mut entries = Vec::new();
    for (key, value) in pairs {
        let line = line(key.span().start);
        let Some((name, arg)) = keys(&run).find(|(name, _)| name == key.get_ref()) else {
            return Err(Wrong::of_file(path, Some(line), &unknown(key.get_ref(), &run)));
        };
        let wrong = |reason: &str| {
            let shown = wrong::shown(text.get(value.span()).unwrap_or_default());
            Wrong::of_file(path, Some(line), &format!("{name} = {shown}: {reason}"))
        };
        let values = values(arg, value).map_err(|reason| wrong(&reason))?;
        let arguments: Vec<OsString> = values.iter().map(OsString::from).collect();
        check(arg, &arguments).map_err(|error| wrong(&wrong::reason(&error)))?;
        entries.push(Entry { key: name.to_owned(), id: arg.get_id().to_string(), line, values });
    }
    Ok(File { path: path.to_owned(), entries })
}

fn unknown(key: &str, run: &Command) -> String {
    let names: Vec<&str> = keys(run).map(|(name, _)| name).collect();
    let hint = wrong::nearest(&key.replace('_', "-").to_lowercase(), &names)
        .map_or_else(|| format!("allowed are {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
    format!("unknown key `{}`: {hint}", wrong::shown(key))
}

/// The value as it would be written on the command line.
fn values(arg: &Arg, value: &Spanned<DeValue<'_>>) -> Result<Vec<String>, String> {
    let value = value.get_ref();
    let (wanted, values) = match Kind::of(arg) {
        Kind::Boolean => ("true or false", value.as_bool().map(|is| vec![is.to_string()])),
        Kind::Integer => {
            ("a whole number", value.as_integer().and_then(integer).map(|number| vec![number.to_string()]))
        }
        Kind::Text => ("a string", value.as_str().map(|text| vec![text.to_owned()])),
        Kind::List => ("a list of strings", list(value)),
    };
    values.ok_or_else(|| format!("must be {wanted}, not {}", article(value.type_str())))
}

fn integer(number: &toml::de::DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn list(value: &DeValue<'_>) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

fn article(kind: &str) -> String {
    format!("{} {kind}", if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" })
}

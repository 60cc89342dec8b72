//! What is not allowed, in one line that names place, key, value and what is allowed.

use std::{
    env,
    error::Error as _,
    ffi::{OsStr, OsString},
    fmt, io,
    path::Path,
};

use clap::{
    Command, CommandFactory as _,
    error::{ContextKind, ContextValue, ErrorKind},
};
use tracing_subscriber::EnvFilter;

use crate::{cli::Cli, log};

/// Longest value that is shown whole.
const MAX_SHOWN: usize = 120;
/// Most letters that are typed wrong in a name that is still recognised.
const MAX_TYPOS: usize = 2;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl Wrong {
    /// Something about settings that were each allowed.
    pub(super) fn new(sentence: String) -> Self {
        Self(sentence)
    }

    /// On the command line.
    pub(super) fn of_flag(error: &clap::Error) -> Self {
        let context = |kind| text(error, kind);
        let Some(argument) = context(ContextKind::InvalidArg) else { return Self::of_command(error) };
        let flag = argument.split(['=', ' ', '[']).next().unwrap_or(&argument).to_owned();
        if error.kind() == ErrorKind::UnknownArgument {
            let near = context(ContextKind::SuggestedArg);
            let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
            return Self(format!("unknown argument `{}`{hint}", shown(&argument)));
        }
        let value = context(ContextKind::InvalidValue).filter(|value| !value.is_empty());
        let value = value.map(|value| format!(" {}", shown(&value))).unwrap_or_default();
        Self(format!("{flag}{value}: {}", reason(error)))
    }

    fn of_command(error: &clap::Error) -> Self {
        let definition = Cli::command();
        let commands = commands(&definition);
        match text(error, ContextKind::InvalidSubcommand) {
            _ if error.kind() == ErrorKind::MissingSubcommand => {
                Self(format!("no command: must be one of {}", commands.join(", ")))
            }
            Some(name) => Self(unknown("command", &name, &commands)),
            None => Self(reason(error)),
        }
    }

    /// There is no such page of the manual.
    pub(super) fn unknown_page(name: &str, definition: &Command) -> Self {
        Self(unknown("command", name, &commands(definition)))
    }

    /// In the environment.
    pub(super) fn of_variable(name: &OsStr, value: &OsStr, error: &clap::Error) -> Self {
        Self(format!("{}={}: {}", name.display(), shown(&value.to_string_lossy()), reason(error)))
    }

    /// In the configuration file.
    pub(super) fn of_file(path: &Path, line: Option<usize>, sentence: &str) -> Self {
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        Self(format!("{}{line}: {}", shown(&path.to_string_lossy()), one_line(sentence)))
    }

    /// Another command than before.
    pub(super) fn other_command() -> Self {
        Self("the arguments are no longer those of `run`".to_owned())
    }
}

fn commands(definition: &Command) -> Vec<&str> {
    definition.get_subcommands().filter(|command| !command.is_hide_set()).map(Command::get_name).collect()
}

fn unknown(what: &str, name: &str, known: &[&str]) -> String {
    let hint = nearest(name, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    format!("unknown {what} `{}`: must be one of {}{hint}", shown(name), known.join(", "))
}

/// An argument that is no text where it must be.
pub(super) fn not_utf8(arguments: &[OsString], error: &clap::Error) -> Option<Wrong> {
    let argument = arguments.iter().skip(1).find(|argument| argument.to_str().is_none())?;
    let is_cause = error.kind() == ErrorKind::InvalidUtf8;
    is_cause.then(|| Wrong(format!("`{}`: must be text in UTF-8", shown(&argument.to_string_lossy()))))
}

/// The one variable that is no option.
pub(super) fn check_log_filter() -> Result<(), Wrong> {
    let Some(filter) = env::var_os(log::VARIABLE) else { return Ok(()) };
    if filter.to_str().is_some_and(|filter| EnvFilter::try_new(filter).is_ok()) {
        return Ok(());
    }
    let allowed = "must be a level (error, warn, info, debug, trace), or such as info,oomwatch::sources=debug";
    Err(Wrong(format!("{}={}: {allowed}", log::VARIABLE, shown(&filter.to_string_lossy()))))
}

/// Variables that are none of ours but close. Others are left alone: Kubernetes sets some of its own for every service.
pub(super) fn misspelt_variables(definition: &Command) -> Vec<String> {
    let ours = super::variables(definition).filter_map(|(_, name)| name.to_str());
    let ours: Vec<&str> = ours.chain([log::VARIABLE]).collect();
    let given = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let close = |name: String| {
        let near = nearest(&name, &ours).filter(|near| *near != name)?;
        Some(format!("the environment variable {} is not known: did you mean {near}?", shown(&name)))
    };
    given.filter(|name| name.starts_with("OOMWATCH_")).filter_map(close).collect()
}

/// Why a value is refused: what is allowed.
pub(super) fn reason(error: &clap::Error) -> String {
    let allowed = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) if !values.is_empty() => Some(values.join(", ")),
        _ => None,
    };
    let has_value = text(error, ContextKind::InvalidValue).is_some_and(|value| !value.is_empty());
    match (error.kind(), allowed) {
        (_, Some(allowed)) => format!("must be one of {allowed}"),
        (ErrorKind::ValueValidation, None) => {
            one_line(&error.source().map_or_else(|| "is not allowed".to_owned(), ToString::to_string))
        }
        (ErrorKind::InvalidUtf8, None) => "must be text in UTF-8".to_owned(),
        (ErrorKind::InvalidValue | ErrorKind::NoEquals, None) if !has_value => "needs a value".to_owned(),
        (ErrorKind::ArgumentConflict, None) => "is given more than once".to_owned(),
        _ => first_line(error),
    }
}

/// What clap says, without what it adds below.
fn first_line(error: &clap::Error) -> String {
    let all = error.render().to_string();
    let line = all.lines().next().unwrap_or_default();
    one_line(line.strip_prefix("error: ").unwrap_or(line))
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

/// The one of these that was probably meant.
pub(super) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    // Longer than any of them: a comparison would only cost.
    if name.len() > MAX_SHOWN {
        return None;
    }
    let distance = |known: &&str| strsim::damerau_levenshtein(name, known);
    let near = known.iter().copied().map(|known| (distance(&known), known)).min()?;
    (near.0 <= MAX_TYPOS).then_some(near.1)
}

/// A text from outside, on one line and not too long.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", one_line(text.get(..end).unwrap_or_default())),
        None => one_line(text),
    }
}

fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|letter| if letter.is_control() { letter.escape_default().collect() } else { vec![letter] })
        .collect()
}

/// What the kernel said, without its number.
pub(super) fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

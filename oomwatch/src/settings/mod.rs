//! What the user asked for: a flag, else its environment variable, else its key in the configuration file, else its
//! default. All four are checked by the definition of the command line (`cli`), so they mean and allow the same.
//!
//! The file's values are given to that definition as defaults; `file` reads them, `wrong` says in one line what is not
//! allowed, `effective` is what holds in the end and where each value is from.

mod effective;
mod file;
mod wrong;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Arg, ArgAction, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, builder::Resettable,
    error::ErrorKind,
};

use self::file::File;
pub use self::{
    effective::{Effective, Origin, Setting},
    wrong::Wrong,
};
use crate::{
    cli::{self, Cli, DEFAULT_CONFIG, OrNone},
    config::Config,
};

/// Keys of the file that other commands than `run` heed: where the agent and what it keeps is found. The rest is the
/// agent's own affair.
const FOR_EVERY_COMMAND: [&str; 3] = ["host-root", "socket", "state-dir"];
/// Options of `run` that are no keys.
const NO_KEYS: [&str; 4] = ["config", "help", "print-config", "version"];

/// What the user asked for.
#[derive(Debug)]
pub struct Settings {
    /// The command and its options.
    pub cli: Cli,
    /// Every key with its value; empty for other commands than `run`.
    pub effective: Effective,
    /// What is allowed and probably not meant.
    pub warnings: Vec<String>,
}

/// Why there is nothing to do.
#[derive(Debug)]
pub enum Ending {
    /// Help or the version was asked for: to be printed.
    Help(Box<clap::Error>),
    /// Something is not allowed.
    Wrong(Wrong),
}

impl From<Wrong> for Ending {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

/// Reads arguments (the first is the program's name), the environment and the configuration file.
///
/// # Errors
/// Something in them is not allowed, or help is asked for.
pub fn read(arguments: &[OsString]) -> Result<Settings, Ending> {
    let definition = Cli::command();
    let mut matches = parse(&definition, arguments)?;
    let command = matches.subcommand_name().unwrap_or_default().to_owned();
    wrong::check_log_filter()?;
    let file = if is_for_the_shell(&command) { None } else { find_file(&matches)? };
    if let Some(file) = &file {
        matches = parse(&with_defaults_of(file, &command, definition.clone()), arguments)?;
    }
    let mut cli = Cli::from_arg_matches(&matches).map_err(|error| Wrong::of_flag(&error))?;
    let mut effective = Effective::default();
    match &mut cli.command {
        cli::Command::Run(run) => {
            effective = Effective::of(&matches, &run_command(), file.as_ref());
            run.rearm_percent = effective.settle_rearm(run.threshold_percent, run.rearm_percent)?;
        }
        cli::Command::Man { command: Some(name) } if definition.find_subcommand(&name).is_none() => {
            return Err(Wrong::unknown_page(name, &definition).into());
        }
        _ => {}
    }
    Ok(Settings { cli, effective, warnings: wrong::misspelt_variables(&definition) })
}

/// Reads all again, for an agent that runs.
///
/// # Errors
/// Something in them is not allowed.
pub fn read_again(arguments: &[OsString]) -> Result<(Config, Effective), Wrong> {
    match read(arguments) {
        Ok(Settings { cli: Cli { command: cli::Command::Run(run), .. }, effective, .. }) => {
            Ok(((*run).into(), effective))
        }
        Err(Ending::Wrong(wrong)) => Err(wrong),
        // The same arguments were those of `run` before.
        Ok(_) | Err(Ending::Help(_)) => Err(Wrong::other_command()),
    }
}

fn is_for_the_shell(command: &str) -> bool {
    matches!(command, "completions" | "man")
}

fn find_file(matches: &ArgMatches) -> Result<Option<File>, Wrong> {
    match matches.get_one::<OrNone<PathBuf>>("config") {
        Some(OrNone(None)) => Ok(None),
        Some(OrNone(Some(path))) => file::read(path).map(Some),
        None => file::read_if_present(DEFAULT_CONFIG.as_ref()),
    }
}

/// Parses; where that fails, finds out whose fault it is.
fn parse(definition: &Command, arguments: &[OsString]) -> Result<ArgMatches, Ending> {
    let parsed = definition.clone().try_get_matches_from(arguments);
    parsed.map_err(
        |error| if is_help(&error) { Ending::Help(Box::new(error)) } else { explain(definition, arguments, &error) },
    )
}

fn is_help(error: &clap::Error) -> bool {
    use ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

fn explain(definition: &Command, arguments: &[OsString], error: &clap::Error) -> Ending {
    let alone = without_environment(definition.clone());
    if let Err(error) = alone.try_get_matches_from(arguments) {
        // A variable that is set counts as an argument, and then clap shows no help where the command is missing.
        return if is_help(&error) {
            Ending::Help(Box::new(error))
        } else {
            wrong::not_utf8(arguments, &error).unwrap_or_else(|| Wrong::of_flag(&error)).into()
        };
    }
    let wrong_variable = variables(definition).find_map(|(arg, name)| {
        let value = env::var_os(name)?;
        let error = check(arg, std::slice::from_ref(&value)).err()?;
        Some(Wrong::of_variable(name, &value, &error))
    });
    wrong_variable.unwrap_or_else(|| Wrong::of_flag(error)).into()
}

/// Options with their environment variables.
fn variables(definition: &Command) -> impl Iterator<Item = (&Arg, &OsStr)> {
    let all = definition.get_subcommands().flat_map(Command::get_arguments).chain(definition.get_arguments());
    all.filter_map(|arg| Some((arg, arg.get_env()?)))
}

/// Checks a value by the definition of its option, and nothing else.
fn check(arg: &Arg, values: &[OsString]) -> Result<(), Box<clap::Error>> {
    let Some(long) = arg.get_long() else { return Ok(()) };
    let flags = values.iter().map(|value| {
        let mut flag = OsString::from(format!("--{long}="));
        flag.push(value);
        flag
    });
    let alone = Command::new("oomwatch").disable_help_flag(true).arg(arg.clone().env(Resettable::Reset).global(false));
    alone.try_get_matches_from([OsString::new()].into_iter().chain(flags)).map(drop).map_err(Box::new)
}

fn without_environment(definition: Command) -> Command {
    let reset = |arg: Arg| arg.env(Resettable::Reset);
    definition.mut_args(reset).mut_subcommands(|command| command.mut_args(reset))
}

/// The definition in which the file's values are defaults.
fn with_defaults_of(file: &File, command: &str, mut definition: Command) -> Command {
    for entry in &file.entries {
        if command != "run" && !FOR_EVERY_COMMAND.contains(&entry.key.as_str()) {
            continue;
        }
        let values = entry.values.clone();
        let set = |arg: Arg| arg.default_values(values);
        let has = |command: &Command| command.get_arguments().any(|arg| arg.get_id() == &entry.id);
        if has(&definition) {
            definition = definition.mut_arg(&entry.id, set);
        } else if definition.find_subcommand(command).is_some_and(has) {
            definition = definition.mut_subcommand(command, |command| command.mut_arg(&entry.id, set));
        }
    }
    definition
}

/// `run` with all of its options, also those of every command.
fn run_command() -> Command {
    let mut definition = Cli::command();
    definition.build();
    definition.find_subcommand("run").cloned().unwrap_or_default()
}

/// Options of `run` that are keys of the file.
fn keys(run: &Command) -> impl Iterator<Item = (&str, &Arg)> {
    let long = |arg: &'_ Arg| arg.get_long().is_some_and(|long| !arg.is_hide_set() && !NO_KEYS.contains(&long));
    run.get_arguments().filter(move |arg| long(arg)).filter_map(|arg| Some((arg.get_long()?, arg)))
}

/// What a value is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Boolean,
    Integer,
    Text,
    List,
}

impl Kind {
    fn of(arg: &Arg) -> Self {
        use std::any::TypeId;
        let value = arg.get_value_parser().type_id();
        let is = |of: &[TypeId]| of.iter().any(|of| value == *of);
        if matches!(arg.get_action(), ArgAction::Append) {
            Self::List
        } else if is(&[TypeId::of::<bool>()]) {
            Self::Boolean
        } else if is(&[
            TypeId::of::<u8>(),
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
        ]) {
            Self::Integer
        } else {
            Self::Text
        }
    }
}

#[cfg(test)]
mod tests;

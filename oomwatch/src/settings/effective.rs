//! What holds in the end: every key with its value and where that is from.

use std::{fmt, path::PathBuf};

use clap::{Arg, ArgMatches, Command, parser::ValueSource};
use toml::Value;

use super::{Kind, Wrong, file::File, keys};

/// Where a value is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// This environment variable.
    Variable(String),
    /// This line of the configuration file.
    File(PathBuf, usize),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(formatter, "a flag"),
            Self::Variable(name) => write!(formatter, "{name}"),
            Self::File(path, line) => write!(formatter, "{}:{line}", super::wrong::shown(&path.to_string_lossy())),
            Self::Default => write!(formatter, "the default"),
        }
    }
}

/// One key.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The option's name.
    pub key: String,
    /// Its value in TOML; `None` where it has none.
    pub value: Option<Value>,
    /// Where that is from.
    pub origin: Origin,
    /// What it is for, in a line.
    help: String,
}

/// Every key, in the order of the help.
#[derive(Debug, Clone, Default)]
pub struct Effective(pub Vec<Setting>);

impl Effective {
    /// What `run` was given.
    pub(super) fn of(matches: &ArgMatches, run: &Command, file: Option<&File>) -> Self {
        let matches = matches.subcommand_matches("run").unwrap_or(matches);
        let setting = |(key, arg): (&str, &Arg)| Setting {
            key: key.to_owned(),
            value: value(matches, arg),
            origin: origin(matches, arg, file),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        };
        Self(keys(run).map(setting).collect())
    }

    fn get(&self, key: &str) -> Option<&Setting> {
        self.0.iter().find(|setting| setting.key == key)
    }

    /// The line below which a warning is over is at most that of the warning. One that nobody chose gives way.
    pub(super) fn settle_rearm(&mut self, threshold: u8, rearm: u8) -> Result<u8, Wrong> {
        if rearm <= threshold {
            return Ok(rearm);
        }
        let origin = |key| self.get(key).map_or(Origin::Default, |setting| setting.origin.clone());
        let (of_rearm, of_threshold) = (origin("rearm-percent"), origin("threshold-percent"));
        if of_rearm != Origin::Default {
            return Err(Wrong::new(format!(
                "rearm-percent {rearm} (from {of_rearm}): must be at most threshold-percent, which is {threshold} (from {of_threshold})"
            )));
        }
        if let Some(setting) = self.0.iter_mut().find(|setting| setting.key == "rearm-percent") {
            setting.value = Some(Value::Integer(threshold.into()));
        }
        Ok(threshold)
    }

    /// Keys whose values differ.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a str> {
        let differs = |setting: &&Setting| other.get(&setting.key).is_none_or(|other| other.value != setting.value);
        self.0.iter().filter(differs).map(|setting| setting.key.as_str())
    }

    /// A configuration file that says all this.
    pub fn to_toml(&self) -> String {
        let paragraph = |Setting { key, value, origin, help }: &Setting| match value {
            Some(value) => format!("# {help}\n# from {origin}\n{key} = {value}\n"),
            None => format!("# {help}\n# not set\n# {key} =\n"),
        };
        self.0.iter().map(paragraph).collect::<Vec<_>>().join("\n")
    }
}

/// A path that is no text is shown, and not the same any more.
fn value(matches: &ArgMatches, arg: &Arg) -> Option<Value> {
    let raw = matches.get_raw(arg.get_id().as_str()).into_iter().flatten();
    let mut values = raw.map(|value| value.to_string_lossy().into_owned());
    match Kind::of(arg) {
        Kind::List => Some(Value::Array(values.map(Value::String).collect())),
        Kind::Boolean => matches.get_one::<bool>(arg.get_id().as_str()).map(|is| Value::Boolean(*is)),
        Kind::Integer => values.next()?.parse().ok().map(Value::Integer),
        Kind::Text => values.next().map(Value::String),
    }
}

fn origin(matches: &ArgMatches, arg: &Arg, file: Option<&File>) -> Origin {
    let id = arg.get_id().as_str();
    let variable = || arg.get_env().map(|name| Origin::Variable(name.to_string_lossy().into_owned()));
    let in_file = || {
        let file = file?;
        let entry = file.entries.iter().find(|entry| entry.id == id)?;
        Some(Origin::File(file.path.clone(), entry.line))
    };
    match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Origin::Flag,
        Some(ValueSource::EnvVariable) => variable().unwrap_or(Origin::Default),
        _ => in_file().unwrap_or(Origin::Default),
    }
}

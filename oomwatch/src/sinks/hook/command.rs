//! The text of `--hook` as a program and its arguments. Quotes and backslashes mean what they mean to a shell, and
//! nothing else of a shell is there: no variables, no patterns, no pipes.

use std::{
    env,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

/// A program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HookCommand {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
}

/// The text as it is, if it is a command.
///
/// # Errors
/// What it must be.
pub fn checked(text: &str) -> Result<String, String> {
    HookCommand::parse(text).map(|_| text.to_owned())
}

impl HookCommand {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("must be a command: it cannot have a NUL in it".to_owned());
        }
        let mut words = shell_words::split(text)
            .map_err(|_unclosed| "must be a command: a quote in it is not closed".to_owned())?
            .into_iter();
        match words.next() {
            Some(program) if !program.is_empty() => Ok(Self { program, arguments: words.collect() }),
            _ => Err("must be a command".to_owned()),
        }
    }

    /// Looks where the program is as an execution would.
    pub(super) fn look_for_program(&self) -> Result<(), String> {
        let program = Path::new(&self.program);
        let candidates: Vec<PathBuf> = if self.program.contains('/') {
            vec![program.to_owned()]
        } else {
            let path = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&path).map(|folder| folder.join(program)).collect()
        };
        let files: Vec<PathBuf> = candidates.into_iter().filter(|candidate| candidate.is_file()).collect();
        if files.is_empty() {
            let place = if self.program.contains('/') { "" } else { " in PATH" };
            return Err(format!("there is no program {}{place}", self.program));
        }
        if files.iter().any(|file| access(file, Access::EXEC_OK).is_ok()) {
            return Ok(());
        }
        Err(format!("{} is not executable; type chmod +x {0}", files[0].display()))
    }
}

//! The command line: arguments, log, command, exit code.

use std::{
    env,
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use oomwatch::{
    agent, check,
    cli::{Cli, Command, RunArgs},
    events,
    host::spared,
    live, log, ps, recommend,
    reload::Reload,
    settings::{self, Effective, Ending, Settings},
    shell,
    sinks::stdout::Stdout,
    stop,
};
use tokio::signal::unix::{SignalKind, signal};

/// Exit code where the arguments, the environment or the configuration file say what is not allowed.
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let Settings { cli, effective, warnings } = match settings::read(&arguments) {
        Ok(settings) => settings,
        Err(ending) => return end(ending),
    };
    let Cli { command, log_format, .. } = cli;
    let is_agent = matches!(&command, Command::Run(args) if !args.print_config);
    let started =
        if is_agent { log::start_beside(log_format).map(Some) } else { log::start(log_format).map(|()| None) };
    // Until the last word is said.
    let (_last_lines, started) = match started {
        Ok(last_lines) => (last_lines, Ok(())),
        Err(error) => (None, Err(error)),
    };
    let outcome = started.and_then(|()| {
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        match command {
            Command::Run(args) if args.print_config => print(effective.to_toml().as_bytes()),
            Command::Run(args) => run(*args, arguments, effective).map(|()| ExitCode::SUCCESS),
            Command::Check(args) => check::run(&args),
            Command::Events(args) => events::run(&args),
            Command::Ps(args) => ps::run(&args),
            Command::Recommend(args) => recommend::run(&args),
            Command::Completions { shell } => print(&shell::completions(shell)),
            Command::Man { command } => print(&shell::manual(command.as_deref())?),
        }
    });
    outcome.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

/// Help was asked for, or something is not allowed.
fn end(ending: Ending) -> ExitCode {
    // Where nobody listens there is nobody to tell.
    match ending {
        Ending::Help(help) => {
            drop(help.print());
            u8::try_from(help.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Ending::Wrong(wrong) => {
            drop(writeln!(io::stderr(), "error: {wrong}"));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

fn print(text: &[u8]) -> anyhow::Result<ExitCode> {
    io::stdout().lock().write_all(text).context("write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

fn run(args: RunArgs, arguments: Vec<OsString>, effective: Effective) -> anyhow::Result<()> {
    spared::begin();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stopper, stop) = stop::channel();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let hangup = signal(SignalKind::hangup())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopper.stop();
        });
        let (changer, config) = live::channel(args.into());
        tokio::spawn(Reload { arguments, effective, changer }.at_every(hangup));
        let stdout = Stdout::start(config.now().output)?;
        agent::run(config, vec![Box::new(stdout)], stop).await
    })
}

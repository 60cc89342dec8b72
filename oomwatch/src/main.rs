//! The command line: arguments, log, command, exit code.

use std::process::ExitCode;

use clap::Parser as _;
use oomwatch::{agent, check, cli, config::Config, log, sinks::stdout::Stdout, stop};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let outcome = log::start(cli.log_format).and_then(|()| match cli.command {
        cli::Command::Run(args) => run(args).map(|()| ExitCode::SUCCESS),
        cli::Command::Check(args) => check::run(&args),
    });
    outcome.unwrap_or_else(|error| {
        tracing::error!("{error:#}");
        ExitCode::FAILURE
    })
}

fn run(args: cli::RunArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stopper, stop) = stop::channel();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stopper.stop();
        });
        let config: Config = args.into();
        let stdout = Stdout::start(config.output)?;
        agent::run(config, vec![Box::new(stdout)], stop).await
    })
}

//! `oomwatch recommend`: which limits are too small or wasteful, from what the agent saw; asked from the running agent,
//! else read from what it left.

use std::{
    fmt::Write as _,
    io::ErrorKind,
    path::{self, Path},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Args;

use crate::{
    advice::{Advice, Verdict, advise},
    cli::{SocketArg, StateDirArg},
    client::{Client, ClientError},
    config::OutputFormat,
    history::History,
    host::{HostError, HostRoot},
    ps::{print, shown, size, width},
};

/// What the agent keeps, in the folder of its state.
pub(crate) const HISTORY_FILE: &str = "history.json";
/// Largest history read, bytes: what is written has at most a tenth of that.
pub(crate) const MAX_HISTORY: usize = 64 << 20;
const INDENT: &str = "    ";

/// Options of `recommend`.
#[derive(Debug, Args)]
pub struct RecommendArgs {
    /// Shape of the advice
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "OOMWATCH_OUTPUT")]
    pub output: OutputFormat,
    /// The running agent.
    #[command(flatten)]
    pub socket: SocketArg,
    /// What it left, read where none is running.
    #[command(flatten)]
    pub state_dir: StateDirArg,
}

/// Prints the advice.
///
/// # Errors
/// There is neither an agent nor what it left, or standard output cannot be written.
pub fn run(args: &RecommendArgs) -> anyhow::Result<ExitCode> {
    let state_dir = args.state_dir.state_dir.0.as_deref();
    let history = match args.socket.socket.0.as_deref().map(Client::connect) {
        Some(Ok(mut client)) => client.ask("history")?,
        Some(Err(no_agent @ (ClientError::NoSocket(_) | ClientError::NobodyListens(_)))) => match state_dir {
            Some(state_dir) => left(state_dir, &no_agent.to_string())?,
            None => return Err(no_agent.into()),
        },
        Some(Err(error)) => return Err(error.into()),
        None => match state_dir {
            Some(state_dir) => left(state_dir, "no agent is asked with --socket none")?,
            None => bail!("neither an agent is asked nor what it left with --socket none and --state-dir none"),
        },
    };
    let mut advice: Vec<Advice> = history.groups().map(|(name, group)| advise(name, group)).collect();
    advice.sort_by_key(|advice| rank(advice.verdict));
    print(&match args.output {
        OutputFormat::Json => serde_json::to_string_pretty(&advice)? + "\n",
        OutputFormat::Text => text(&advice, width()),
    })
}

/// What an agent that ended left behind.
fn left(state_dir: &Path, no_agent: &str) -> anyhow::Result<History> {
    let file = path::absolute(state_dir).context("find the folder of the agent's state")?.join(HISTORY_FILE);
    let json = match HostRoot::default().read_bounded(&file, MAX_HISTORY) {
        Ok(json) => json,
        Err(HostError::Gone { .. }) => {
            bail!("nothing was seen yet: {no_agent}; there is no {} either", file.display())
        }
        Err(HostError::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
            bail!("{} is for root only; run this as root, for example with sudo", file.display())
        }
        Err(error) => return Err(error.into()),
    };
    let history = History::parse(&json).with_context(|| format!("read {}", file.display()))?;
    tracing::warn!("no agent is running: this is what the last one left in {}", file.display());
    Ok(history)
}

/// What is to be done first.
fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::TooSmall => 0,
        Verdict::Wasteful => 1,
        Verdict::NoLimit => 2,
        Verdict::Fits => 3,
        Verdict::TooLittleEvidence => 4,
    }
}

fn text(advice: &[Advice], width: Option<usize>) -> String {
    if advice.is_empty() {
        return "no workload was seen yet\n".to_owned();
    }
    let mut text = String::new();
    for one in advice {
        let suggested = one.suggested_limit_bytes.map(size).unwrap_or_default();
        let verdict = match one.verdict {
            Verdict::TooSmall => format!("too small, raise to {suggested}"),
            Verdict::Wasteful => format!("wasteful, lower to {suggested}"),
            Verdict::NoLimit => format!("no limit, {suggested} would fit"),
            Verdict::Fits => "fits".to_owned(),
            Verdict::TooLittleEvidence => "too little evidence".to_owned(),
        };
        // Writing to a String cannot fail.
        _ = writeln!(text, "{}: {verdict}", shown(&one.workload));
        wrap(&mut text, &one.reason, width.unwrap_or(usize::MAX));
    }
    text
}

/// Words of a sentence, indented, in lines of at most so many characters.
fn wrap(text: &mut String, sentence: &str, width: usize) {
    let mut line = String::new();
    for word in sentence.split(' ') {
        let longer = INDENT.len() + line.chars().count() + 1 + word.chars().count();
        if !line.is_empty() && longer > width {
            text.extend([INDENT, &line, "\n"]);
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    text.extend([INDENT, &line, "\n"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Run;

    #[test]
    fn what_is_to_be_done_stands_above_the_reasons() {
        const MIB: u64 = 1 << 20;
        let mut history = History::default();
        let run = Run {
            id: "a".to_owned(),
            first_seconds: 0,
            last_seconds: 60,
            peak_bytes: 60 * MIB,
            limit_bytes: Some(64 * MIB),
            kills: 1,
            killed_at_bytes: Some(64 * MIB),
            warnings: 0,
        };
        history.observe("web\u{1b}[2J", run, false);
        let advice: Vec<Advice> = history.groups().map(|(name, group)| advise(name, group)).collect();
        assert_eq!(
            text(&advice, Some(60)),
            "web\\u{1b}[2J: too small, raise to 96.0 MiB\n    \
             1 run watched for 1m00s; peak 60.0 MiB; 1 kill. It was\n    \
             killed at its limit of 64.0 MiB: how much it would have\n    \
             held is not known, so raise to 96.0 MiB and look again.\n"
        );
        assert!(text(&advice, Some(1)).lines().count() > 10, "a terminal of no width is no reason to fail");
        assert_eq!(text(&[], None), "no workload was seen yet\n");
    }
}

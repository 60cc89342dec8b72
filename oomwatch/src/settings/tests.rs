use std::{collections::BTreeSet, path::Path};

use proptest::prelude::*;

use super::*;
use crate::config::{Estimator, LIVE_KEYS, OutputFormat, Tier};

const ANNOTATED: &str = include_str!("../../../oomwatch.toml");
/// Keys without a default: their commented value is an example.
const EXAMPLES: [&str; 3] = ["hook", "otlp-endpoint", "pressure-percent"];

fn key_names() -> BTreeSet<String> {
    keys(&run_command()).map(|(name, _)| name.to_owned()).collect()
}

fn parsed(text: &str) -> Result<File, String> {
    file::parse(Path::new("a.toml"), text).map_err(|wrong| wrong.to_string())
}

/// What `run` does with this file, these arguments and an empty environment.
fn effective(text: &str, arguments: &[&str]) -> Result<(Config, Effective), String> {
    let file = parsed(text)?;
    let definition = without_environment(with_defaults_of(&file, "run", Cli::command()));
    let arguments = ["oomwatch", "run"].iter().chain(arguments).map(OsString::from);
    let matches = definition.try_get_matches_from(arguments).map_err(|error| Wrong::of_flag(&error).to_string())?;
    let Cli { command: cli::Command::Run(mut run), .. } = Cli::from_arg_matches(&matches).unwrap() else { panic!() };
    let mut effective = Effective::of(&matches, &run_command(), Some(&file));
    run.rearm_percent =
        effective.settle_rearm(run.threshold_percent, run.rearm_percent).map_err(|wrong| wrong.to_string())?;
    Ok(((*run).into(), effective))
}

/// The annotated file with the comment taken from every key.
fn uncommented() -> String {
    let names = key_names();
    let key =
        |line: &str| line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ")).map(|(key, _)| key.to_owned());
    let line = |line: &str| match key(line) {
        Some(key) if names.contains(&key) => line.trim_start_matches("# ").to_owned(),
        _ => line.to_owned(),
    };
    ANNOTATED.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_annotated_file_changes_nothing_as_it_is() {
    assert_eq!(parsed(ANNOTATED).unwrap().entries.len(), 0);
    assert_eq!(effective(ANNOTATED, &[]).unwrap().0, Config::default());
}

#[test]
fn the_annotated_file_names_every_key_once_with_its_default() {
    let file = parsed(&uncommented()).unwrap();
    let named: Vec<&str> = file.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(named.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), key_names());
    assert_eq!(named.len(), key_names().len());
    let (with_file, _) = effective(&uncommented(), &[]).unwrap();
    assert!(
        with_file.hook.is_some() && with_file.otlp_endpoint.is_some() && with_file.pressure_percent.is_some(),
        "the examples are used"
    );
    assert_eq!(Config { hook: None, otlp_endpoint: None, pressure_percent: None, ..with_file }, Config::default());
    let all_from_file = effective(&uncommented(), &[]).unwrap().1;
    for (mine, default) in all_from_file.0.iter().zip(effective("", &[]).unwrap().1.0) {
        assert!(matches!(mine.origin, Origin::File(..)), "{mine:?}");
        assert!(mine.value == default.value || EXAMPLES.contains(&mine.key.as_str()), "{mine:?} {default:?}");
    }
}

#[test]
fn the_annotated_file_marks_exactly_the_keys_that_change_while_the_agent_runs() {
    let mut marked = BTreeSet::new();
    for paragraph in ANNOTATED.split("\n\n").skip(1) {
        let last = paragraph.lines().last().unwrap_or_default();
        if let (true, Some((key, _))) = (paragraph.contains("[live]"), last.trim_start_matches("# ").split_once(" = "))
        {
            marked.insert(key.to_owned());
        }
    }
    assert_eq!(marked, LIVE_KEYS.iter().map(ToString::to_string).collect::<BTreeSet<_>>());
}

#[test]
fn every_key_has_a_variable_of_its_name() {
    for (name, arg) in keys(&run_command()) {
        let expected = format!("OOMWATCH_{}", name.replace('-', "_").to_uppercase());
        assert_eq!(arg.get_env().and_then(OsStr::to_str), Some(expected.as_str()));
        assert!(arg.get_help_heading().is_some(), "{name} is under no heading");
    }
}

/// A value for each key that is not its default.
const OTHER: &str = r#"
output = "json"
log-format = "json"
workload-events = true
include = ["web-*", "{a,b}"]
exclude = ["db"]
listen-address = "[::1]:80"
hook = "/bin/true"
otlp-endpoint = "http://collector:4318"
threshold-percent = 80
rearm-percent = 70
poll-interval = "1s"
warn-all = true
pressure-percent = 30
estimator = "rss-sum"
gvisor-rpc = true
tier = "kmsg"
host-root = "/host"
socket = "none"
state-dir = "/tmp"
journal-mib = 7
"#;

fn other() -> Config {
    Config {
        output: OutputFormat::Json,
        host_root: "/host".into(),
        tier: Tier::Kmsg,
        withheld: Vec::new(),
        bpf_fs: "/sys/fs/bpf".into(),
        threshold_percent: 80,
        rearm_percent: 70,
        poll_interval: std::time::Duration::from_secs(1),
        estimator: Estimator::RssSum,
        gvisor_rpc: true,
        workload_events: true,
        warn_all: true,
        pressure_percent: Some(30),
        include: vec!["web-*".into(), "{a,b}".into()],
        exclude: vec!["db".into()],
        listen_address: Some("[::1]:80".parse().unwrap()),
        socket: None,
        state_dir: Some("/tmp".into()),
        journal_mib: 7,
        hook: Some("/bin/true".into()),
        otlp_endpoint: Some("http://collector:4318".into()),
    }
}

#[test]
fn every_key_of_the_file_is_heeded() {
    let (config, all) = effective(OTHER, &[]).unwrap();
    assert_eq!(config, other());
    assert_eq!(
        all.differing(&effective("", &[]).unwrap().1).count(),
        key_names().len(),
        "a key has no other value here"
    );
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    for text in ["", OTHER, "threshold-percent = 50"] {
        let (config, all) = effective(text, &["--exclude", "x,\"y\\u{7}"]).unwrap();
        let (again, all_again) = effective(&all.to_toml(), &[]).unwrap();
        assert_eq!(again, config);
        assert_eq!(all_again.differing(&all).count(), 0);
    }
}

#[test]
fn live_keys_are_what_changes_in_a_running_agent() {
    let before = effective("", &[]).unwrap();
    let mut both = before.0.with_live_of(other());
    assert_eq!(both.with_live_of(Config::default()), Config::default());
    let mut text = String::new();
    for line in OTHER.lines().filter(|line| LIVE_KEYS.iter().any(|key| line.starts_with(key))) {
        text.push_str(line);
        text.push('\n');
    }
    let live_only = effective(&text, &[]).unwrap();
    assert_eq!(live_only.0, both, "what the live keys of a file change is what a running agent takes");
    assert_eq!(live_only.1.differing(&before.1).count(), LIVE_KEYS.len());
    both.output = OutputFormat::Json;
    assert_ne!(live_only.0, both);
}

#[test]
fn a_flag_wins_over_the_file_and_can_switch_off() {
    let flags =
        ["--threshold-percent", "99", "--warn-all=false", "--exclude", "x", "--gvisor-rpc", "--log-format=text"];
    let (config, all) = effective(OTHER, &flags).unwrap();
    let expected =
        Config { threshold_percent: 99, warn_all: false, gvisor_rpc: true, exclude: vec!["x".into()], ..other() };
    assert_eq!(config, expected);
    let origin = |key: &str| all.0.iter().find(|setting| setting.key == key).unwrap().origin.clone();
    assert_eq!(origin("warn-all"), Origin::Flag);
    assert_eq!(origin("log-format"), Origin::Flag);
    assert_eq!(origin("rearm-percent"), Origin::File("a.toml".into(), 11));
    assert_eq!(effective("", &[]).unwrap().1.0[0].origin, Origin::Default);
}

#[test]
fn a_rearm_line_that_nobody_chose_gives_way_and_a_chosen_one_is_refused() {
    let settled = |text: &str, flags: &[&str]| effective(text, flags).map(|(config, _)| config.rearm_percent);
    assert_eq!(settled("threshold-percent = 50", &[]), Ok(50));
    assert_eq!(settled("", &["--threshold-percent", "90"]), Ok(90));
    assert_eq!(settled("rearm-percent = 80", &["--threshold-percent", "80"]), Ok(80));
    let refused = "rearm-percent 81 (from a.toml:1): must be at most threshold-percent, which is 80 (from a flag)";
    assert_eq!(settled("rearm-percent = 81", &["--threshold-percent", "80"]), Err(refused.to_owned()));
    let refused = "rearm-percent 96 (from a flag): must be at most threshold-percent, which is 95 (from the default)";
    assert_eq!(settled("", &["--rearm-percent", "96"]), Err(refused.to_owned()));
}

#[test]
fn what_is_not_allowed_in_a_file_is_said_with_its_line() {
    for (text, said) in [
        ("\noutput = \"xml\"", "a.toml:2: output = \"xml\": must be one of text, json"),
        ("threshold-percent = 101", "a.toml:1: threshold-percent = 101: must be a whole number from 1 to 100"),
        ("threshold-percent = 0", "a.toml:1: threshold-percent = 0: must be a whole number from 1 to 100"),
        ("threshold-percent = -5", "a.toml:1: threshold-percent = -5: must be a whole number from 1 to 100"),
        ("threshold-percent = \"95\"", "a.toml:1: threshold-percent = \"95\": must be a whole number, not a string"),
        ("threshold-percent = 9.5", "a.toml:1: threshold-percent = 9.5: must be a whole number, not a float"),
        ("warn-all = \"true\"", "a.toml:1: warn-all = \"true\": must be true or false, not a string"),
        ("output = 5", "a.toml:1: output = 5: must be a string, not an integer"),
        ("include = \"web\"", "a.toml:1: include = \"web\": must be a list of strings, not a string"),
        ("include = [1]", "a.toml:1: include = [1]: must be a list of strings, not an array"),
        ("exclude = [\"a\", \"\"]", "a.toml:1: exclude = [\"a\", \"\"]: must be a glob pattern: it is empty"),
        ("poll-interval = \"1h\"", "a.toml:1: poll-interval = \"1h\": must be a time from 10ms to 1m, such as 500ms"),
        (
            "poll-interval = \"soon\"",
            "a.toml:1: poll-interval = \"soon\": must be a time from 10ms to 1m, such as 500ms",
        ),
        (
            "listen-address = \"localhost\"",
            "a.toml:1: listen-address = \"localhost\": must be an IP address with a port, such as 127.0.0.1:9566, or none",
        ),
        ("hook = \" \"", "a.toml:1: hook = \" \": must be a command"),
        ("otlp-endpoint = \"x\"", "a.toml:1: otlp-endpoint = \"x\": must be a URL such as http://127.0.0.1:4318"),
        ("threshold_percent = 95", "a.toml:1: unknown key `threshold_percent`: did you mean `threshold-percent`?"),
        ("thresholds-percent = 95", "a.toml:1: unknown key `thresholds-percent`: did you mean `threshold-percent`?"),
        ("output = \"text\"\noutput = \"json\"", "a.toml:2: is not TOML: duplicate key"),
        ("output = 'a\nb'", "a.toml:1: is not TOML: invalid literal string, expected `'`"),
    ] {
        assert_eq!(parsed(text).map(|file| file.entries.len()), Err(said.to_owned()), "{text}");
    }
    for text in
        ["colour = 1", "[gvisor]\nrpc = true", "withhold = []", "config = \"x\"", "print-config = true", "help = true"]
    {
        let said = parsed(text).map(drop).unwrap_err();
        assert!(said.starts_with("a.toml:1: unknown key `") && said.contains("allowed are "), "{said}");
        assert!(key_names().iter().all(|key| said.contains(key.as_str())), "{said}");
    }
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_refused_in_one_line(text in "(output|include|[a-z-]{0,9}|\\PC{0,9}) ?= ?(\\PC|\n|\r|\u{1b}){0,40}") {
        if let Err(said) = parsed(&text) {
            prop_assert!(!said.contains(char::is_control), "{said:?}");
        }
    }

    #[test]
    fn any_value_of_a_flag_is_taken_or_refused_in_one_line(value in any::<String>(), key in any::<prop::sample::Index>()) {
        let names: Vec<String> = key_names().into_iter().collect();
        if let Err(said) = effective("", &[&format!("--{}={value}", key.get(&names))]) {
            prop_assert!(!said.contains(char::is_control), "{said:?}");
            prop_assert!(said.contains("must ") || said.contains("needs a value"), "{said:?}");
        }
    }
}

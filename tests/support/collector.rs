//! A real collector of OpenTelemetry (rotel), which says in text what it received.

use std::{
    env,
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use crate::{PROCESS_TIMEOUT, wait_for};

/// A running collector. Ended on drop.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    folder: TempDir,
    address: SocketAddr,
}

/// One thing it received: a record of a log, a metric's point, or whom they are from.
#[derive(Debug, Clone)]
pub struct Told {
    title: String,
    lines: Vec<String>,
}

impl Collector {
    /// An address that is free now.
    pub fn free_address() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("find a free port");
        listener.local_addr().expect("the port")
    }

    /// Starts one anywhere.
    pub fn start() -> Self {
        Self::start_at(Self::free_address())
    }

    /// Starts one there; it listens.
    pub fn start_at(address: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("make a folder");
        let output = File::create(folder.path().join("output")).expect("make a file");
        let log = output.try_clone().expect("share a file");
        let mut child = Command::new(env::var_os("OOMWATCH_COLLECTOR").expect("OOMWATCH_COLLECTOR"))
            .arg("start")
            .args(["--exporter", "blackhole", "--debug-log-verbosity", "detailed"])
            .args(["--debug-log", "logs", "--debug-log", "metrics"])
            .args(["--otlp-http-endpoint", &address.to_string()])
            .args(["--otlp-grpc-endpoint", &Self::free_address().to_string()])
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .spawn()
            .expect("start the collector");
        wait_for("the collector to listen", PROCESS_TIMEOUT, || {
            let ended = child.try_wait().expect("look after the collector");
            let said = || fs::read_to_string(folder.path().join("output")).unwrap_or_default();
            assert!(ended.is_none(), "the collector ended at its start: {}", said());
            TcpStream::connect(address).is_ok().then_some(())
        });
        Self { child, folder, address }
    }

    /// What `--otlp-endpoint` wants.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn told(&self) -> Vec<Told> {
        let text = fs::read_to_string(self.folder.path().join("output")).expect("what the collector wrote");
        let mut told: Vec<Told> = Vec::new();
        for line in text.lines() {
            match line.split_once(" #") {
                Some((title, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                    told.push(Told { title: title.to_owned(), lines: Vec::new() });
                }
                _ => told.iter_mut().last().into_iter().for_each(|last| last.lines.push(line.to_owned())),
            }
        }
        told
    }

    /// Records of logs so far.
    pub fn records(&self) -> Vec<Told> {
        self.told().into_iter().filter(|told| told.title == "LogRecord").collect()
    }

    /// Whom records and metrics were from so far.
    pub fn resources(&self) -> Vec<Told> {
        self.told().into_iter().filter(|told| told.title.starts_with("Resource")).collect()
    }

    /// Points of a metric so far, with the lines that describe it.
    pub fn points(&self, metric: &str) -> Vec<Told> {
        let (mut points, mut description) = (Vec::new(), Vec::new());
        for told in self.told() {
            if told.title == "Metric" {
                description = told.lines;
            } else if told.title == "NumberDataPoints" && description.iter().any(|line| is_field(line, "Name", metric))
            {
                points.push(Told { lines: [description.clone(), told.lines].concat(), ..told });
            }
        }
        points
    }

    /// Waits for a record.
    pub fn wait_for_record(&self, what: &str, wanted: impl Fn(&Told) -> bool) -> Told {
        wait_for(what, PROCESS_TIMEOUT, || self.records().into_iter().find(|record| wanted(record)))
    }
}

fn is_field(line: &str, name: &str, value: &str) -> bool {
    field(line, name) == Some(value)
}

/// The value of a line `name: value`, with or without an arrow before it.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.trim_start().trim_start_matches("-> ").strip_prefix(name)?.strip_prefix(": ")
}

impl Told {
    /// A field as the collector writes it.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| field(line, name))
    }

    /// A text attribute, or the body.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.field(name).map(|value| self.inside(value, "Str"))
    }

    /// A number attribute.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.field(name).map(|value| self.inside(value, "Int").parse().expect("a number"))
    }

    fn inside<'a>(&self, value: &'a str, kind: &str) -> &'a str {
        let inside = value.strip_prefix(kind).and_then(|rest| rest.strip_prefix('(')?.strip_suffix(')'));
        inside.unwrap_or_else(|| panic!("{value} is no {kind} in {self:#?}"))
    }
}

impl Drop for Collector {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        // An error says that it ended before.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let output = fs::read_to_string(self.folder.path().join("output")).unwrap_or_default();
            eprintln!("--- the collector's output:\n{output}");
        }
    }
}

//! A real Prometheus on this machine, and its promtool.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{Finished, PROCESS_TIMEOUT, get, wait_for};

/// The program; `None` where `cargo xtask setup` did not get it.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let program = Path::new(&env::var_os("OOMWATCH_PROMETHEUS")?).join(name);
    program.is_file().then_some(program)
}

/// `promtool check metrics` of a page.
pub fn promtool_check(page: &str) -> Finished {
    let mut command = Command::new(program("promtool").expect("promtool"));
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("start promtool");
    // The end of the input is its end.
    child.stdin.take().expect("its input").write_all(page.as_bytes()).expect("give promtool the page");
    let output = child.wait_with_output().expect("promtool");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Finished { code: output.status.code(), signal: None, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A Prometheus that scrapes one agent. Ended on drop.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
    url: String,
    files: tempfile::TempDir,
}

impl Prometheus {
    /// One that scrapes this address several times a second.
    pub fn scraping(address: &str) -> Self {
        let files = tempfile::tempdir().expect("make a folder for Prometheus");
        let configuration = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}\n\
             scrape_configs: [{{ job_name: oomwatch, static_configs: [{{ targets: ['{address}'] }}] }}]\n"
        );
        let file = files.path().join("prometheus.yml");
        fs::write(&file, configuration).expect("write prometheus.yml");
        let log = File::create(files.path().join("log")).expect("make Prometheus' log");
        let mut command = Command::new(program("prometheus").expect("prometheus"));
        command.arg("--config.file").arg(&file).arg("--storage.tsdb.path").arg(files.path().join("data"));
        command.args(["--web.listen-address", "127.0.0.1:0"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("start Prometheus");
        let mut prometheus = Self { child, url: String::new(), files };
        prometheus.url = wait_for("Prometheus to listen", PROCESS_TIMEOUT, || prometheus.listens_at());
        prometheus
    }

    fn log(&self) -> String {
        fs::read_to_string(self.files.path().join("log")).unwrap_or_default()
    }

    fn listens_at(&self) -> Option<String> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("msg=\"Listening on\""))?;
        Some(format!("http://{}", line.split_once("address=")?.1.trim()))
    }

    /// The values of a query now; `None` where there is no answer yet.
    pub fn query(&self, query: &str) -> Option<Vec<f64>> {
        let encoded = query.bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"));
        let reply = get(&format!("{}/api/v1/query?query={encoded}", self.url), "*/*")?;
        let answer: Value = serde_json::from_str(&reply.body).ok()?;
        assert_ne!(answer["status"], "error", "{query}: {answer}");
        let result = answer["data"]["result"].as_array()?;
        result.iter().map(|sample| sample["value"][1].as_str()?.parse().ok()).collect()
    }

    /// Waits until a query has exactly one value, and that one is as wanted.
    pub fn wait_for(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        wait_for(&format!("Prometheus to answer {query}"), PROCESS_TIMEOUT, || {
            let values = self.query(query)?;
            (values.len() == 1 && wanted(values[0])).then(|| values[0])
        })
    }

    /// Waits until a query has exactly one value, this whole number.
    pub fn wait_until(&self, query: &str, wanted: u32) {
        self.wait_for(query, |value| value.to_bits() == f64::from(wanted).to_bits());
    }
}

impl Drop for Prometheus {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failure")]
    fn drop(&mut self) {
        // An error says that it ended before.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- Prometheus' log:\n{}", self.log());
        }
    }
}

//! Very many kills while every output has its own trouble: nobody reads standard output, the disk of the journal is
//! full, one client sleeps, a scraper comes all the time. The client that is awake hears of every kill.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic, its helpers too")]

use std::{
    collections::HashSet,
    fs::File,
    io::{BufRead as _, BufReader, PipeReader, Read, Write as _, pipe},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Cgroup, EVENT_TIMEOUT, Hog, Mount, PROCESS_TIMEOUT, agent_command, get, require, wait_for};

const CGROUPS: usize = 8;
const KILLS_IN_EACH: usize = 250;
/// Soon eaten up.
const LIMIT_MIB: u64 = 4;
const SCRAPE_EVERY: Duration = Duration::from_millis(100);

/// An agent whose standard output nobody reads.
struct Unread {
    child: Child,
    stdout: Option<PipeReader>,
    log: Receiver<String>,
}

impl Unread {
    fn start(arguments: &[&str]) -> Self {
        let (reader, writer) = pipe().unwrap();
        let mut command = agent_command(&["run", "--output", "json"]);
        let mut child = command.args(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let log = lines_of(child.stderr.take().unwrap());
        Self { child, stdout: Some(reader), log }
    }

    fn wait_for_log(&self, wanted: &str) -> String {
        wait_for(wanted, PROCESS_TIMEOUT, || self.log.try_iter().find(|line| line.contains(wanted)))
    }

    /// Whoever was to read its output is gone.
    fn close_output(&mut self) {
        self.stdout = None;
    }

    /// Ends it in order; the rest of its log.
    fn finish(mut self) -> String {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = wait_for("the agent to end", PROCESS_TIMEOUT, || self.child.try_wait().unwrap());
        let log: Vec<String> = self.log.iter().collect();
        assert_eq!(status.code(), Some(0), "{log:#?}");
        log.join("\n")
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // An error says that it ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines_of(source: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        BufReader::new(source).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
    });
    lines
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"))
}

/// Asks for metrics and health again and again; how often, and whether each answer was good.
fn scraper(address: String, stop: Arc<AtomicBool>) -> JoinHandle<(u32, Vec<String>)> {
    thread::spawn(move || {
        let (mut rounds, mut bad) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            for (page, wanted) in [("metrics", "# EOF"), ("healthz", "")] {
                let reply = get(&format!("http://{address}/{page}"), "application/openmetrics-text; version=1.0.0");
                let good = reply.as_ref().is_some_and(|reply| reply.status == 200 && reply.body.contains(wanted));
                bad.extend((!good).then(|| format!("{page}: {reply:?}")));
            }
            rounds += 1;
            thread::sleep(SCRAPE_EVERY);
        }
        (rounds, bad)
    })
}

/// Everything that the client that is awake heard.
struct Awake {
    lines: Receiver<String>,
    parent: String,
    /// By process id and start time.
    kills: Vec<(u64, u64)>,
    losses: Vec<Value>,
    next_seq: Option<u64>,
}

impl Awake {
    fn new(stream: UnixStream, parent: &Cgroup) -> Self {
        let parent = format!("{}/", parent.path().to_str().unwrap());
        Self { lines: lines_of(stream), parent, kills: Vec::new(), losses: Vec::new(), next_seq: None }
    }

    fn hear(&mut self) {
        for line in self.lines.try_iter() {
            let event = json(&line);
            let seq = event["seq"].as_u64().unwrap_or_else(|| panic!("it lost something itself: {line}"));
            assert!(self.next_seq.is_none_or(|next| next == seq), "a gap before {line}");
            self.next_seq = Some(seq + 1);
            let path = event.pointer("/task_memcg/path").and_then(Value::as_str);
            match event["event"].as_str() {
                Some("oom_kill") if path.is_some_and(|path| path.starts_with(&self.parent)) => {
                    let number = |field| event.pointer(field).and_then(Value::as_u64).unwrap();
                    self.kills.push((number("/victim/pid"), number("/victim/start_boottime_ns")));
                }
                Some("loss") => self.losses.push(event),
                Some("missed") => panic!("nothing is missing: {line}"),
                _ => {}
            }
        }
    }

    fn wait_for_kills(&mut self, count: usize) {
        wait_for("the one awake to hear of all kills", PROCESS_TIMEOUT, || {
            self.hear();
            (self.kills.len() >= count).then_some(())
        });
    }

    /// Events that this output lost.
    fn lost(&mut self, sink: &str) -> u64 {
        self.hear();
        let of_sink = self.losses.iter().filter(|loss| loss["sink"] == sink);
        of_sink.map(|loss| loss["lost"].as_u64().unwrap()).sum()
    }
}

/// Very many kills, one after the other in each cgroup: so the kernel is quick about them.
fn storm(cgroups: &[Cgroup]) {
    let kill = |cgroup: &Cgroup| ["child".into(), cgroup.join_step(), "eat=all".into(), "end".into(), "reap".into()];
    let start = |cgroup| Hog::start((0..KILLS_IN_EACH).flat_map(|_| kill(cgroup)));
    for mut hog in cgroups.iter().map(start).collect::<Vec<_>>() {
        assert!(hog.wait().success());
    }
}

/// Leaves no room; the file that takes it.
fn fill(folder: &Path) -> File {
    let mut file = File::create(folder.join("filler")).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
    file
}

/// Clients are taken in one after the other: one that got an answer is the last.
fn wait_until_all_are_taken_in(socket: &str) {
    let mut client = UnixStream::connect(socket).unwrap();
    client.write_all(b"workloads\n").unwrap();
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).unwrap();
    assert!(json(&answer)["workloads"].is_array(), "{answer}");
}

#[test]
fn in_a_storm_of_two_thousand_kills_each_output_fails_alone_and_is_told() {
    require!(Agent);
    let parent = Cgroup::scratch();
    let cgroups: Vec<Cgroup> =
        (0..CGROUPS).map(|index| parent.child(format!("c{index}")).limited_to_mib(LIMIT_MIB)).collect();
    let (place, disk) = (tempfile::tempdir().unwrap(), Mount::new("tmpfs", c"size=1m,mode=700"));
    let socket = place.path().join("oomwatch.sock").to_str().unwrap().to_owned();
    let state = disk.folder().to_str().unwrap();
    let mut agent = Unread::start(&["--socket", &socket, "--state-dir", state, "--listen-address", "127.0.0.1:0"]);
    let address = agent.wait_for_log("metrics and health are served");
    let address = address.split_once("address=").unwrap().1.trim().to_owned();
    let connect = || wait_for("the socket", PROCESS_TIMEOUT, || UnixStream::connect(&socket).ok());
    let (sleeping, awake) = (connect(), connect());
    wait_until_all_are_taken_in(&socket);
    let mut awake = Awake::new(awake, &parent);
    let stop = Arc::new(AtomicBool::new(false));
    let scraping = scraper(address, Arc::clone(&stop));

    let _filler = fill(disk.folder());
    storm(&cgroups);
    awake.wait_for_kills(CGROUPS * KILLS_IN_EACH);
    stop.store(true, Ordering::Relaxed);
    let (scrapes, bad) = scraping.join().unwrap();
    assert!(scrapes > 10 && bad.is_empty(), "{} of {scrapes} answers were bad: {bad:#?}", bad.len());
    let counted: u64 = cgroups.iter().map(Cgroup::kernel_count_of_kills).sum();
    assert_eq!(counted, (CGROUPS * KILLS_IN_EACH) as u64, "the kernel's own count");
    assert_eq!(awake.kills.len() as u64, counted, "told, and the kernel's own count");
    assert_eq!(awake.kills.iter().collect::<HashSet<_>>().len(), awake.kills.len(), "one is told twice");

    let mut told = 0;
    wait_for("the losses of the journal", EVENT_TIMEOUT, || {
        told = awake.lost("journal");
        (told + 1000 > counted).then_some(())
    });
    assert_eq!(awake.lost("stdout"), 0, "what nobody reads waits, while there is room");
    agent.close_output();
    wait_for("the loss of standard output, all but what the pipe holds", PROCESS_TIMEOUT, || {
        (awake.lost("stdout") + 200 > counted).then_some(())
    });

    let woken = lines_of(sleeping);
    let log = agent.finish();
    let heard: Vec<Value> = woken.iter().map(|line| json(&line)).collect();
    let own = heard.iter().filter(|event| event.get("seq").is_none());
    let lost: u64 = own.map(|event| event["lost"].as_u64().unwrap()).sum();
    assert!(lost > 0, "the one that slept is told what it lost");
    awake.hear();
    let all = heard.iter().filter(|event| event.get("seq").is_some()).count() as u64 + lost;
    let first = heard[0]["seq"].as_u64().unwrap();
    assert_eq!(Some(first + all), awake.next_seq, "nothing that the one that slept lost is untold");
    assert!(awake.losses.len() < 50, "the news of losses does not end: {:#?}", awake.losses);
    assert!(!log.contains("panicked"), "{log}");
}

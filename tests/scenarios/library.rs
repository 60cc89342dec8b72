//! The agent inside another program: the example with the original system's `Watch(onOOM)` and `Stop()`.

use std::{
    env,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use support::{Cgroup, Hog, PROCESS_TIMEOUT, require, wait_for};

#[test]
fn a_program_is_called_for_each_kill_and_stops_in_order() {
    require!(Agent, Examples);
    let program = Path::new(&env::var_os("OOMWATCH_EXAMPLES").unwrap()).join("on_oom");
    let mut watching = Command::new(program)
        .env("OOMWATCH_LOG", "info")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the example");
    let (sender, lines) = channel();
    let output = BufReader::new(watching.stdout.take().unwrap());
    let reader = thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));

    let cgroup = Cgroup::scratch().limited_to_mib(16);
    let mut told = Vec::new();
    let expected = wait_for("a kill to be told", PROCESS_TIMEOUT, || {
        // The example does not say when it watches, so a kill may come too early; the next one does not.
        let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
        hog.go();
        hog.wait_until_killed();
        let expected = format!("OOM: pid={} container=none", hog.pid());
        while let Ok(line) = lines.recv_timeout(Duration::from_millis(1500)) {
            told.push(line);
            if told.last() == Some(&expected) {
                return Some(expected);
            }
        }
        None
    });

    drop(watching.stdin.take());
    let status = wait_for("the example to end", PROCESS_TIMEOUT, || watching.try_wait().unwrap());
    assert!(status.success(), "{status}");
    reader.join().unwrap();
    told.extend(lines.try_iter());
    assert_eq!(told.iter().filter(|line| **line == expected).count(), 1, "once: {told:?}");
}

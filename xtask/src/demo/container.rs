//! Scene: a container of runc whose first process survives the kill of its child. A root file system of busybox only.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Stage, event_line::SURVIVED, explain, in_plain_words};
use crate::{
    cgroup::{Cgroup, Hierarchy, unique_name},
    lines::Lines,
    process::say,
    setup::tool,
};

const LIMIT_BYTES: u64 = 32 << 20;
const TIMEOUT: Duration = Duration::from_secs(15);
/// What the first process does; a shell whose child eats, and which tells how that ended.
const SCRIPT: &str = "echo ready; read go; tail /dev/zero; echo $?; read end";
/// How a shell tells that its child was killed: 128 and the signal's number.
const KILLED: &str = "137";

pub(super) fn play(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let mut container = Container::start(&stage.hierarchy)?;
    container.expect_line(stage, "ready")?;
    container.go_on()?;
    let id = container.id.clone();
    let kill = stage.expect("the kill of the container's child", |event| event.is_kill_in(&id))?;
    ensure!(kill.get("container_id") == Some(&id), "the event does not name container {id}");
    container.expect_line(stage, KILLED)?;
    in_plain_words(&format!("{}; not the container's first process.", explain::kill(&kill)))?;

    let outcome = stage.expect("what became of the container", |event| event.is_outcome_of(&id))?;
    let survivor = container.state()?;
    ensure!(survivor.status == "running", "the container did not survive: it is {}", survivor.status);
    ensure!(outcome.message == SURVIVED, "the container survived, and the event says otherwise");
    in_plain_words(&format!("The container survived: its first process (pid {}) still runs.", survivor.pid))
}

/// A running container. Deleted on drop.
#[derive(Debug)]
struct Container {
    id: String,
    runc: Child,
    output: Lines,
    bundle: TempDir,
    /// Removed after the container.
    _cgroup: Cgroup,
}

/// What runc says of a container.
#[derive(Debug, Deserialize)]
struct State {
    status: String,
    pid: u32,
}

impl Container {
    fn start(hierarchy: &Hierarchy) -> anyhow::Result<Self> {
        let id = unique_name();
        let bundle = tempfile::tempdir().context("make a folder for the container")?;
        fs::set_permissions(bundle.path(), Permissions::from_mode(0o755))?;
        write_rootfs(&bundle.path().join("rootfs")).context("make the container's root file system")?;
        let config = configuration(&id, SCRIPT, LIMIT_BYTES, hierarchy);
        fs::write(bundle.path().join("config.json"), config.to_string()).context("write config.json")?;
        let log = File::create(bundle.path().join("log")).context("make runc's log")?;
        let cgroup = Cgroup::left_by(hierarchy, id.clone());
        let mut runc = Command::new(tool("runc"))
            .args(["run", "--bundle"])
            .arg(bundle.path())
            .arg(&id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("run runc")?;
        let output = Lines::of(runc.stdout.take().context("the container's output")?);
        Ok(Self { id, runc, output, bundle, _cgroup: cgroup })
    }

    /// Ends the first `read` of the script.
    fn go_on(&mut self) -> anyhow::Result<()> {
        use std::io::Write as _;
        self.runc.stdin.as_mut().context("the container's input")?.write_all(b"\n").context("write to the container")
    }

    fn expect_line(&self, stage: &Stage<'_>, wanted: &str) -> anyhow::Result<()> {
        let line = self.output.next(stage.interrupt, &format!("`{wanted}` from the container"), TIMEOUT)?;
        match line {
            Some(line) if line.text == wanted => Ok(()),
            Some(line) => bail!("the container said `{}` instead of `{wanted}`", line.text),
            None => {
                let log = fs::read_to_string(self.bundle.path().join("log")).unwrap_or_default();
                bail!("the container ended too early: {}", log.trim())
            }
        }
    }

    fn state(&self) -> anyhow::Result<State> {
        let output = Command::new(tool("runc")).args(["state", &self.id]).output().context("run runc state")?;
        ensure!(output.status.success(), "runc state: {}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).context("read runc's state")
    }

    /// runc complains where there is no such container, which is as good.
    fn delete(&self) {
        if let Err(error) = Command::new(tool("runc")).args(["delete", "--force", &self.id]).output() {
            say(&format!("cannot delete container {}: {error}", self.id));
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.delete();
        if let Ok(None) = self.runc.try_wait() {
            if let Err(error) = self.runc.kill().and_then(|()| self.runc.wait()) {
                say(&format!("cannot end runc: {error}"));
            }
            // It may just have been about to make the container.
            self.delete();
        }
    }
}

pub(super) fn write_rootfs(rootfs: &Path) -> anyhow::Result<()> {
    for folder in ["bin", "dev", "proc", "tmp"] {
        fs::create_dir_all(rootfs.join(folder))?;
    }
    let busybox = tool("busybox");
    fs::copy(&busybox, rootfs.join("bin/busybox")).with_context(|| format!("copy {}", busybox.display()))?;
    for program in ["dd", "sh", "sleep", "tail"] {
        symlink("busybox", rootfs.join("bin").join(program))?;
    }
    Ok(())
}

pub(super) fn configuration(id: &str, script: &str, limit_bytes: u64, hierarchy: &Hierarchy) -> Value {
    let namespaces: Vec<Value> = ["pid", "mount", "ipc", "uts"].iter().map(|kind| json!({ "type": kind })).collect();
    let memory = if hierarchy.limits_swap() {
        json!({ "limit": limit_bytes, "swap": limit_bytes })
    } else {
        json!({ "limit": limit_bytes })
    };
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": { "uid": 0, "gid": 0 }, "cwd": "/", "noNewPrivileges": true,
            "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"],
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "demo",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"] },
        ],
        "linux": {
            "cgroupsPath": Path::new("/").join(id),
            "namespaces": namespaces,
            "resources": { "memory": memory },
        },
    })
}

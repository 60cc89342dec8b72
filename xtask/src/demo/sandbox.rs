//! Scene: a gVisor sandbox that fills its memory. The agent warns, the kernel kills the sandbox' kernel, and nobody else
//! says that it was for want of memory.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use super::{
    Stage,
    container::{configuration, write_rootfs},
    event_line::{ENDED, KILLED, NEAR},
    explain, in_plain_words,
};
use crate::{
    cgroup::{Cgroup, Hierarchy, unique_name},
    process::say,
    runsc,
};

const LIMIT_BYTES: u64 = 96 << 20;
/// Slow enough that the warning comes before the kill: 2 MiB some twenty times a second.
const SCRIPT: &str = "i=0; while dd if=/dev/zero of=/tmp/$i bs=1M count=2; do i=$((i+1)); sleep 0.05; done";

pub(super) fn play(stage: &mut Stage<'_>) -> anyhow::Result<()> {
    let sandbox = Sandbox::start(&stage.hierarchy)?;
    let of_it = |event: &super::EventLine| event.get("container_id") == Some(&sandbox.id);
    let warning = stage.expect("the warning", |event| event.message == NEAR && of_it(event))?;
    in_plain_words(&explain::sentence(&warning))?;
    let kill = stage.expect("the kill in the sandbox", |event| event.message == KILLED && of_it(event))?;
    ensure!(kill.get("incident_id") == warning.get("incident_id"), "warning and kill are not of one incident");
    in_plain_words(&format!("{}; that is gVisor's own kernel, so all in the sandbox is gone.", explain::kill(&kill)))?;
    let outcome = stage.expect("what became of the sandbox", |event| event.is_outcome_of(&sandbox.id))?;
    ensure!(outcome.message == ENDED, "the sandbox ended, and the event says otherwise");
    in_plain_words(&explain::sentence(&outcome))
}

/// A running sandbox. Deleted on drop.
#[derive(Debug)]
struct Sandbox {
    id: String,
    runsc: Child,
    bundle: TempDir,
    /// Removed after the sandbox.
    _cgroup: Cgroup,
}

impl Sandbox {
    fn start(hierarchy: &Hierarchy) -> anyhow::Result<Self> {
        let id = unique_name();
        let bundle = tempfile::tempdir().context("make a folder for the sandbox")?;
        fs::set_permissions(bundle.path(), Permissions::from_mode(0o755))?;
        write_rootfs(&bundle.path().join("rootfs")).context("make the sandbox' root file system")?;
        let config = configuration(&id, SCRIPT, LIMIT_BYTES, hierarchy);
        fs::write(bundle.path().join("config.json"), config.to_string()).context("write config.json")?;
        let log = File::create(bundle.path().join("log")).context("make runsc's log")?;
        let cgroup = Cgroup::left_by(hierarchy, id.clone());
        let runsc = command(&bundle)
            .args(["run", "--bundle"])
            .arg(bundle.path())
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("run runsc")?;
        Ok(Self { id, runsc, bundle, _cgroup: cgroup })
    }

    /// runsc complains where there is no such sandbox, which is as good.
    fn delete(&self) {
        if let Err(error) = command(&self.bundle).args(["delete", "--force", &self.id]).output() {
            say(&format!("cannot delete sandbox {}: {error}", self.id));
        }
    }
}

/// runsc with a root of its own.
fn command(bundle: &TempDir) -> Command {
    let mut command = Command::new(runsc::newest());
    command.arg("--root").arg(bundle.path().join("root")).args(["--platform=ptrace", "--network=none"]);
    command
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.delete();
        if let Ok(None) = self.runsc.try_wait() {
            if let Err(error) = self.runsc.kill().and_then(|()| self.runsc.wait()) {
                say(&format!("cannot end runsc: {error}"));
            }
            // It may just have been about to make the sandbox.
            self.delete();
        }
    }
}

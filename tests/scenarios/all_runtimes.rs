//! Workloads of docker on runc, docker on gVisor, runc and runsc on one host, in one stream and one table.

use std::{collections::HashSet, process::ExitStatus};

use support::{
    Container, DockerContainer, Dockerd, Event, Events as _, Place, Plan, Runsc, Runtime, Sandbox, Void,
    in_some_attempts, require,
};

const LIMIT_MIB: u64 = 128;

/// One of the four.
struct Workload<'a> {
    id: String,
    runtime: &'static str,
    engine: Option<&'static str>,
    name: Option<String>,
    started: Started<'a>,
}

enum Started<'a> {
    Docker(DockerContainer<'a>),
    Runc(Container),
    Runsc(Sandbox),
}

impl<'a> Workload<'a> {
    fn of_docker(container: DockerContainer<'a>, runtime: &'static str) -> Self {
        let (id, name) = (container.id().to_owned(), Some(container.name().to_owned()));
        Self { id, runtime, engine: Some("docker"), name, started: Started::Docker(container) }
    }

    fn of_runc(container: Container) -> Self {
        let id = container.id().to_owned();
        Self { id, runtime: "runc", engine: None, name: None, started: Started::Runc(container) }
    }

    fn of_runsc(sandbox: Sandbox) -> Self {
        let id = sandbox.id().to_owned();
        Self { id, runtime: "runsc", engine: None, name: None, started: Started::Runsc(sandbox) }
    }

    /// Lets it run into its limit, and waits for its end.
    fn end(&mut self) -> Result<ExitStatus, Void> {
        match &mut self.started {
            Started::Docker(container) => {
                container.go();
                container.end()
            }
            Started::Runc(container) => {
                container.go();
                Ok(container.wait())
            }
            Started::Runsc(sandbox) => {
                sandbox.go();
                sandbox.end()
            }
        }
    }

    fn is_subject_of(&self, event: &Event) -> bool {
        event.text("/workload/container_id") == Some(&*self.id)
    }

    /// What the stream says of it: its kills, as its own, and one outcome.
    fn check(&self, events: &[Event], status: ExitStatus) {
        let of_it = |kind| -> Vec<&Event> {
            events.of_kind(kind).into_iter().filter(|event| self.is_subject_of(event)).collect()
        };
        let (kills, outcomes) = (of_it("oom_kill"), of_it("oom_outcome"));
        // A stub's death frees nothing, for the memory is the sentry's: the kernel may have to kill once more.
        let most = if self.runtime == "runsc" { 2 } else { 1 };
        assert!((1..=most).contains(&kills.len()), "{} on {}: {kills:#?}", self.id, self.runtime);
        let victims: HashSet<_> = kills.iter().map(|kill| kill.number("/victim/pid")).collect();
        assert_eq!(victims.len(), kills.len(), "a victim is told twice: {kills:#?}");
        for event in kills.iter().chain(&outcomes) {
            assert_eq!(event.text("/workload/runtime"), Some(self.runtime), "{event}");
            let engine = event.text("/workload/engine").filter(|engine| *engine != "none");
            assert_eq!(engine, self.engine, "{event}");
            assert_eq!(event.text("/workload/container_name"), self.name.as_deref(), "{event}");
            assert_eq!(event.text("/incident_id"), kills[0].text("/incident_id"), "{event}");
        }
        for kill in &kills {
            assert_eq!(kill.text("/limit_owner"), Some("container"), "{kill}");
            let limit = kill.number("/oom_memcg/limit_bytes");
            assert_eq!(limit, Some(LIMIT_MIB << 20), "{kill}");
        }
        assert_eq!(outcomes.len(), 1, "{} on {}: {outcomes:#?}", self.id, self.runtime);
        assert_eq!(outcomes[0].flag("/container_survived"), Some(false), "{}", outcomes[0]);
        let code = status.code().and_then(|code| u64::try_from(code).ok());
        assert_eq!(outcomes[0].number("/exit_code"), code, "{}", outcomes[0]);
    }
}

#[test]
fn workloads_of_docker_runc_and_runsc_together_are_each_told_and_shown_as_what_they_are() {
    require!(Agent, Runsc, Program("runc"), Program("dockerd"), Program("docker"), Program("tar"));
    in_some_attempts(all_together);
}

fn all_together() -> Result<(), Void> {
    let place = Place::new();
    let daemon = Dockerd::start_with_both(Runsc::SYSTRAP);
    let agent = place.agent(&[]);
    let mut workloads = [
        Workload::of_docker(daemon.start_container(LIMIT_MIB, &["eat=all"]), "runc"),
        Workload::of_docker(daemon.start_sandbox(LIMIT_MIB, &["eat=all"]), "runsc"),
        Workload::of_runc(Container::start(Runtime::Runc, LIMIT_MIB, &["eat=all"])),
        Workload::of_runsc(Plan::hog(Runsc::SYSTRAP, LIMIT_MIB, &["eat=all"]).start()),
    ];
    for workload in &workloads {
        let row = agent.wait_for_workload(&format!("{} on {}", workload.id, workload.runtime), |row| {
            row["workload"]["container_id"] == workload.id
                && row["usage_bytes"].is_u64()
                && row["workload"]["container_name"].as_str() == workload.name.as_deref()
        });
        assert_eq!(row["workload"]["runtime"], workload.runtime, "{row}");
        assert_eq!(row["limit_bytes"], LIMIT_MIB << 20, "{row}");
    }
    let table = place.ask("ps", &[]).stdout;
    assert!(table.lines().all(|line| line.chars().count() <= 80), "more than 80 columns:\n{table}");
    for workload in &workloads {
        let begin = workload.name.as_deref().unwrap_or(&workload.id);
        let is_its = |line: &&str| {
            (line.starts_with(&workload.id[..12]) || line.contains(begin)) && line.contains(workload.runtime)
        };
        assert!(table.lines().any(|line| is_its(&line)), "no line of {begin} on {}:\n{table}", workload.runtime);
    }

    let ends: Vec<ExitStatus> = workloads.iter_mut().map(Workload::end).collect::<Result<_, _>>()?;
    for workload in &workloads {
        agent.wait_for("what became of it", |event| event.kind() == "oom_outcome" && workload.is_subject_of(event));
        agent.wait_for_workload("its end and its kill", |row| {
            row["workload"]["container_id"] == workload.id
                && row["ended"] == true
                && row["kills"].as_u64().is_some_and(|kills| kills > 0)
        });
    }
    let events = agent.stop();
    for (workload, status) in workloads.iter().zip(ends) {
        workload.check(&events, status);
    }
    Ok(())
}

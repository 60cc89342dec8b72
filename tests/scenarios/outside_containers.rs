//! Processes in no container: plain cgroups, and those that look like somebody's.

use support::{Agent, Cgroup, Events as _, ExpectedKill, Hog, Window, require, unique_name};

/// The report of a kill in a cgroup of its own at this path must name this runtime.
fn killed_at(path: &str, runtime: &str) {
    let cgroup = Cgroup::make(path).limited_to_mib(16);
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let expected = ExpectedKill { runtime, ..ExpectedKill::of(hog.pid(), &cgroup, window) };
    expected.check(events.only_kill_below(cgroup.path()));
}

#[test]
fn a_process_in_a_plain_cgroup_is_a_process() {
    require!(Agent);
    killed_at(&format!("/{}/deep/er", unique_name()), "process");
}

#[test]
fn a_process_in_a_service_of_systemd_is_of_systemd() {
    require!(Agent);
    killed_at(&format!("/system.slice/{}.service", unique_name()), "systemd");
}

#[test]
fn a_service_where_systemd_makes_none_is_a_process() {
    require!(Agent);
    killed_at(&format!("/{}/system.slice/foo.service", unique_name()), "process");
}

#[test]
fn an_id_in_a_cgroup_that_no_engine_made_is_no_container() {
    require!(Agent);
    let id = "0123456789abcdef".repeat(4);
    killed_at(&format!("/{}/{id}", unique_name()), "process");
}

#[test]
fn a_name_with_too_few_digits_in_the_place_of_dockers_containers_is_no_container() {
    require!(Agent);
    killed_at(&format!("/docker/{}", unique_name()), "process");
}

#[test]
fn the_name_of_another_container_in_a_path_does_not_make_a_container() {
    require!(Agent, Program("runc"));
    let other = support::Container::start(support::Runtime::Runc, 48, &["wait"]);
    killed_at(&format!("/{}/{}", unique_name(), other.id()), "process");
}

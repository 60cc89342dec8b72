//! Part of a victim's memory was swapped out. In the virtual machine only: it has a disk to spare.

use support::{
    Agent, Cgroup, Events as _, ExpectedKill, Hog, Swap, Window, in_guest, memory_cgroup_version, require, say_skipped,
};

#[test]
fn swapped_memory_of_a_victim_is_told() {
    require!(Agent);
    if !in_guest() {
        return say_skipped("swap on the host would be everybody's; the virtual machine shows it");
    }
    if memory_cgroup_version() == 1 {
        return say_skipped("Debian's kernels count no swap for cgroup v1 unless they are told to at boot");
    }
    let _swap = Swap::on("/dev/nvme0n1");
    let cgroup = Cgroup::scratch().limited_to_mib(16);
    cgroup.write("memory.swap.max", "8388608");
    let agent = Agent::start();
    let mut hog = Hog::ready_in(&cgroup, ["eat=all"]);
    let window = Window::open();
    hog.go();
    hog.wait_until_killed();
    let window = window.close();
    let events = agent.stop();
    let kill = events.only_kill_below(cgroup.path());
    ExpectedKill { anon_mib: 8, ..ExpectedKill::of(hog.pid(), &cgroup, window) }.check(kill);
    let swapped = kill.number("/memory/swap_bytes").unwrap();
    assert!((6 << 20..=8 << 20).contains(&swapped), "8 MiB may be swapped out: {kill}");
}

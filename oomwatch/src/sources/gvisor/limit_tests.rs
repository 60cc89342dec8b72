//! Limits by their order, and those that are none.

use super::*;
use crate::sources::gvisor::argv::Arguments;

const GIB: u64 = 1 << 30;
const HOST: Option<u64> = Some(24 * GIB);

fn args(own: &str) -> SentryArgs {
    let line = format!("runsc-sandbox\0boot\0--bundle=/b\0{own}s\0");
    match Arguments::parse(line.as_bytes()) {
        Ok(Arguments::Sentry(args)) => args,
        other => panic!("{other:?}"),
    }
}

fn state(id: &str, limit: &str) -> State {
    let json = format!(
        r#"{{"id":"{id}","spec":{{"linux":{{"resources":{{"memory":{{"limit":{limit}}}}}}}}},"sandbox":{{"id":"s","pid":7}}}}"#
    );
    State::parse(json.as_bytes()).unwrap()
}

fn own(limit_bytes: Option<u64>, made_by_runsc: bool) -> CgroupReading {
    CgroupReading::Read { limit_bytes, made_by_runsc }
}

/// Everything says something else.
struct Case {
    cgroup: CgroupReading,
    states: Vec<State>,
    bundle_limit: Option<i64>,
    args: SentryArgs,
}

impl Case {
    fn new() -> Self {
        Self {
            cgroup: own(Some(4 * GIB), true),
            states: vec![state("s", "3221225472")],
            bundle_limit: Some(2 << 30),
            args: args("--total-memory=1073741824\0--total-host-memory=25769803776\0"),
        }
    }

    fn effective(&self) -> Option<Limit> {
        let Self { cgroup, states, bundle_limit, args } = self;
        Readings { host_bytes: HOST, cgroup: *cgroup, states, incomplete: false, bundle_limit: *bundle_limit, args }
            .effective()
    }
}

fn limit(bytes: u64, source: LimitSource, enforced: bool) -> Limit {
    Limit { bytes, source, enforced }
}

#[test]
fn the_cgroup_comes_before_state_bundle_and_arguments() {
    let mut case = Case::new();
    assert_eq!(case.effective(), Some(limit(4 * GIB, LimitSource::Cgroup, true)));
    case.cgroup = CgroupReading::NotOwn;
    assert_eq!(case.effective(), Some(limit(3 * GIB, LimitSource::State, false)));
    case.states.clear();
    assert_eq!(case.effective(), Some(limit(2 * GIB, LimitSource::Bundle, false)));
    case.bundle_limit = None;
    assert_eq!(case.effective(), Some(limit(GIB, LimitSource::Argv, false)));
    case.args = args("");
    assert_eq!(case.effective(), None);
}

#[test]
fn a_cgroup_that_cannot_be_read_still_enforces_what_was_asked_for() {
    let case = Case { cgroup: CgroupReading::Unreadable, ..Case::new() };
    assert_eq!(case.effective(), Some(limit(3 * GIB, LimitSource::State, true)));
}

#[test]
fn a_limit_that_runsc_wrote_and_that_is_not_there_any_more_was_lifted() {
    let mut case = Case { cgroup: own(None, true), ..Case::new() };
    assert_eq!(case.effective(), None);
    // A cgroup that was there before: runsc wrote nothing into it.
    case.cgroup = own(None, false);
    assert_eq!(case.effective(), Some(limit(3 * GIB, LimitSource::State, false)));
}

#[test]
fn zero_negative_and_absurd_limits_are_none() {
    for text in ["0", "-1", "-9223372036854775808", "9223372036854771712", "25769803776", "1e30", "\"1\"", "null", "[]"]
    {
        let case = Case {
            cgroup: CgroupReading::NotOwn,
            states: vec![state("s", text)],
            bundle_limit: Some(-1),
            args: args("--total-memory=0\0"),
        };
        assert_eq!(case.effective(), None, "{text}");
    }
    for bytes in [0, 24 * GIB, 25 * GIB, 9_223_372_036_854_771_712, u64::MAX] {
        let case = Case { cgroup: own(Some(bytes), false), states: Vec::new(), bundle_limit: None, args: args("") };
        assert_eq!(case.effective(), None, "{bytes}");
    }
}

#[test]
fn without_the_hosts_memory_only_the_kernels_word_for_no_limit_is_none() {
    let args = args("--total-memory=1000\0");
    let readings = |limit_bytes| Readings {
        host_bytes: None,
        cgroup: own(Some(limit_bytes), false),
        states: &[],
        incomplete: false,
        bundle_limit: None,
        args: &args,
    };
    assert_eq!(readings(9_223_372_036_854_771_712).effective(), None);
    assert_eq!(readings(100 * GIB).effective(), Some(limit(100 * GIB, LimitSource::Cgroup, true)));
}

#[test]
fn memory_in_the_arguments_that_equals_the_hosts_is_no_limit() {
    let mut case = Case { cgroup: CgroupReading::NotOwn, states: Vec::new(), bundle_limit: None, args: args("") };
    case.args = args("--total-memory=1000000\0--total-host-memory=1000000\0");
    assert_eq!(case.effective(), None);
    // 20221219 does not tell the host's.
    case.args = args("--total-memory=25769803776\0");
    assert_eq!(case.effective(), None);
    case.args = args("--total-memory=1073741824\0");
    assert_eq!(case.effective(), Some(limit(GIB, LimitSource::Argv, false)));
}

#[test]
fn what_the_cgroup_said_at_the_start_does_not_outlive_it() {
    let case = Case { cgroup: own(None, false), states: Vec::new(), bundle_limit: None, ..Case::new() };
    assert_eq!(case.effective(), None);
}

#[test]
fn containers_of_a_pod_add_up_where_each_has_a_limit() {
    let pod = |limits: &[&str]| {
        let others = limits.iter().enumerate().map(|(at, limit)| state(&format!("c{at}"), limit));
        let states = std::iter::once(state("s", "0")).chain(others).collect();
        Case { cgroup: own(None, true), states, bundle_limit: None, args: args("") }.effective()
    };
    assert_eq!(pod(&["1073741824", "2147483648"]), Some(limit(3 * GIB, LimitSource::State, false)));
    assert_eq!(pod(&["1073741824", "0"]), None);
    assert_eq!(pod(&["1073741824", "-1"]), None);
    assert_eq!(pod(&["20000000000", "20000000000"]), None, "more than the host has");
    assert_eq!(pod(&[]), None);
    let states = [state("s", "0"), state("c0", "1073741824")];
    let args = args("");
    let readings = |incomplete| Readings {
        host_bytes: HOST,
        cgroup: own(None, true),
        states: &states,
        incomplete,
        bundle_limit: None,
        args: &args,
    };
    assert_eq!(readings(false).effective(), Some(limit(GIB, LimitSource::State, false)));
    assert_eq!(readings(true).effective(), None, "there are more of them");
}

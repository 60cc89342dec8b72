//! `--include` and `--exclude`: whether an event's workload is to be told of. Pure.
//!
//! A pattern is compared with the name of the container and of the pod, the id of the container and of the sandbox (and
//! the first 12 digits of a long one, as engines show it), and the path of the cgroup and of every cgroup above it but
//! the root: a cgroup's pattern holds for what is inside. `*` matches `/` as well.

use std::str::FromStr;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::workload::Workload;

/// Digits of an id as engines show it.
const SHORT_ID: usize = 12;
/// Digits of a long id.
const LONG_ID: usize = 64;

/// One or more patterns, separated by commas; commas inside of `{}` and `[]` belong to the pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Globs(pub Vec<String>);

impl FromStr for Globs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let patterns = split(text);
        if patterns.iter().any(String::is_empty) {
            return Err("it is empty".to_owned());
        }
        set(&patterns).map_err(|error| error.kind().to_string())?;
        Ok(Self(patterns))
    }
}

fn split(text: &str) -> Vec<String> {
    let (mut patterns, mut current, mut depth, mut escaped) = (Vec::new(), String::new(), 0_u32, false);
    for character in text.chars() {
        match character {
            ',' if depth == 0 && !escaped => patterns.push(std::mem::take(&mut current)),
            _ => current.push(character),
        }
        match character {
            '{' | '[' if !escaped => depth += 1,
            '}' | ']' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = character == '\\' && !escaped;
    }
    patterns.push(current);
    patterns.iter().map(|pattern| pattern.trim().to_owned()).collect()
}

/// What is told of.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// `None` where everything is included.
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Filter {
    /// Of these patterns.
    ///
    /// # Errors
    /// One is no pattern; [`Globs`] accepts only those that are.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self, globset::Error> {
        let include = if include.is_empty() { None } else { Some(set(include)?) };
        Ok(Self { include, exclude: set(exclude)? })
    }

    /// Whether a workload is told of. Where nothing is known of it that a pattern could match, it is: it may be one that
    /// is wanted.
    pub(crate) fn admits(&self, workload: &Workload) -> bool {
        let texts = texts(workload);
        let any = |patterns: &GlobSet| texts.iter().any(|text| patterns.is_match(text));
        texts.is_empty() || (self.include.as_ref().is_none_or(any) && !any(&self.exclude))
    }
}

fn set(patterns: &[String]) -> Result<GlobSet, globset::Error> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(Glob::new(pattern)?);
    }
    set.build()
}

/// All that a pattern may match.
fn texts(workload: &Workload) -> Vec<&str> {
    let names = [&workload.container_name, &workload.pod_name].into_iter().flatten();
    let ids = [&workload.container_id, &workload.sandbox_id].into_iter().flatten();
    let short_ids = ids.clone().filter_map(|id| (id.len() == LONG_ID).then(|| id.get(..SHORT_ID))?);
    let mut texts: Vec<&str> = names.chain(ids).map(String::as_str).chain(short_ids).collect();
    let mut path = workload.cgroup_path.as_deref();
    while let Some(cgroup) = path {
        texts.push(cgroup);
        path = cgroup.rsplit_once('/').map(|(above, _)| above).filter(|above| !above.is_empty());
    }
    texts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "ec08435e04266c5ba381fccbb829f626d11d8ddf5f8f547263c7a2d79ab4787a";

    fn patterns(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|pattern| (*pattern).to_owned()).collect()
    }

    fn admits(include: &[&str], exclude: &[&str], workload: &Workload) -> bool {
        Filter::new(&patterns(include), &patterns(exclude)).unwrap().admits(workload)
    }

    fn container() -> Workload {
        Workload {
            container_name: Some("web-1".into()),
            pod_name: Some("shop".into()),
            sandbox_id: Some("sandbox-7".into()),
            container_id: Some(ID.into()),
            ..Workload::from_path(format!("/kubepods/burstable/{ID}/child").as_bytes())
        }
    }

    #[test]
    fn a_workload_is_known_by_its_names_its_ids_and_its_cgroup_or_one_above_it() {
        let cgroup = format!("/kubepods/burstable/{ID}");
        for pattern in [
            "web-*",
            "web-[0-9]",
            "{db,web}-1",
            "shop",
            ID,
            "ec08435e0426",
            "ec08*",
            "sandbox-?",
            "/kubepods/*",
            "/kubepods",
            &cgroup,
            "*/child",
            "*",
        ] {
            assert!(admits(&[pattern], &[], &container()), "{pattern} does not include");
            assert!(!admits(&[], &[pattern], &container()), "{pattern} does not exclude");
        }
        for pattern in ["web", "web-2", "WEB-1", "/", "", "child", "kubepods", "/kube", "ec08435e04266", "burstable"] {
            assert!(!admits(&[pattern], &[], &container()), "{pattern} includes");
            assert!(admits(&[], &[pattern], &container()), "{pattern} excludes");
        }
    }

    #[test]
    fn exclusion_wins_and_without_patterns_all_is_told() {
        assert!(admits(&[], &[], &container()));
        assert!(!admits(&["web-*"], &["shop"], &container()));
        assert!(admits(&["nothing", "web-*"], &["db-*"], &container()));
    }

    #[test]
    fn a_process_of_the_host_is_known_by_its_cgroup_alone() {
        let process = Workload::from_path(b"/");
        assert!(!admits(&["web-*"], &[], &process));
        assert!(admits(&[], &["web-*"], &process));
        assert!(!admits(&[], &["/"], &process));
    }

    #[test]
    fn what_nothing_is_known_of_is_told() {
        assert!(admits(&["web-*"], &["*"], &Workload::default()));
    }

    #[test]
    fn commas_separate_patterns_outside_of_brackets() {
        for (text, expected) in [
            ("a", vec!["a"]),
            ("a,b", vec!["a", "b"]),
            (" a , b ", vec!["a", "b"]),
            ("{a,b}*,c", vec!["{a,b}*", "c"]),
            ("[,]x,y", vec!["[,]x", "y"]),
            (r"a\,b,c", vec![r"a\,b", "c"]),
            (r"a\\,c", vec![r"a\\", "c"]),
        ] {
            assert_eq!(text.parse(), Ok(Globs(patterns(&expected))), "{text}");
        }
        for wrong in ["", ",", "a,", "[", "a,{b", r"a\"] {
            assert!(wrong.parse::<Globs>().is_err(), "{wrong} is accepted");
        }
    }

    proptest! {
        #[test]
        fn patterns_that_are_accepted_make_a_filter(text in ".{0,40}") {
            if let Ok(Globs(globs)) = text.parse() {
                prop_assert!(Filter::new(&globs, &globs).is_ok());
            }
        }
    }
}

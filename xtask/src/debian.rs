//! Files out of packages of Debian's archive, of any release. The system's own package lists and packages are not
//! touched.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::arch::Arch;

/// Beginning and end of a package's name; the newest in between is taken.
pub(crate) type Name = (&'static str, &'static str);

/// Downloads a package of a release and unpacks it below `scratch`; the folder with its files.
pub(crate) fn unpack(sh: &Shell, arch: Arch, suite: &str, name: Name, scratch: &Path) -> anyhow::Result<PathBuf> {
    unpack_all(sh, arch, suite, &[name], scratch)
}

/// The same for several packages, into one folder.
pub(crate) fn unpack_all(
    sh: &Shell,
    arch: Arch,
    suite: &str,
    names: &[Name],
    scratch: &Path,
) -> anyhow::Result<PathBuf> {
    let settings = configure(sh, arch, suite, scratch)?;
    let _config = sh.push_env("APT_CONFIG", settings);
    cmd!(sh, "apt-get -qq update").quiet().run()?;
    let tree = scratch.join("tree");
    for name in names {
        let package = download(sh, suite, *name, scratch)?;
        cmd!(sh, "dpkg -x {package} {tree}").quiet().run()?;
    }
    Ok(tree)
}

/// Puts a file into the cache folder. Renamed at the end, so that a half-written one is never taken for a whole one.
pub(crate) fn keep(sh: &Shell, file: &Path, destination: &Path) -> anyhow::Result<()> {
    let fresh = destination.with_extension("new");
    if let Some(dir) = destination.parent() {
        sh.create_dir(dir)?;
    }
    sh.copy_file(file, &fresh)?;
    fs::rename(&fresh, destination).with_context(|| format!("write {}", destination.display()))
}

/// A configuration of apt of its own, for one release and architecture.
fn configure(sh: &Shell, arch: Arch, suite: &str, scratch: &Path) -> anyhow::Result<PathBuf> {
    let sources = scratch.join("sources.list");
    let signed_by = "/usr/share/keyrings/debian-archive-keyring.gpg";
    sh.write_file(&sources, format!("deb [arch={arch} signed-by={signed_by}] {} {suite} main\n", mirror(sh, suite)?))?;
    let (state, cache) = (scratch.join("state"), scratch.join("cache"));
    sh.create_dir(state.join("lists/partial"))?;
    sh.create_dir(cache.join("archives/partial"))?;
    let settings = scratch.join("apt.conf");
    sh.write_file(
        &settings,
        format!(
            "APT::Architecture \"{arch}\";\n\
             Dir::Etc::SourceList \"{}\";\n\
             Dir::Etc::SourceParts \"-\";\n\
             Dir::State \"{}\";\n\
             Dir::Cache \"{}\";\n\
             Acquire::Languages \"none\";\n\
             // apt's own user may not be able to read this folder.\n\
             APT::Sandbox::User \"\";\n",
            sources.display(),
            state.display(),
            cache.display()
        ),
    )?;
    Ok(settings)
}

/// Downloads the package, by the configuration that is in force.
fn download(sh: &Shell, suite: &str, name: Name, scratch: &Path) -> anyhow::Result<PathBuf> {
    let (begin, end) = name;
    let names = cmd!(sh, "apt-cache pkgnames {begin}").quiet().read()?;
    let name = newest(&names, end).with_context(|| format!("{suite} has no package {begin}*{end}"))?;
    let _dir = sh.push_dir(scratch);
    cmd!(sh, "apt-get -qq download {name}").quiet().run()?;
    find_file(scratch, &format!("{name}_"))
}

/// The last in the order of their numbers of the names that end so.
fn newest<'a>(names: &'a str, end: &str) -> Option<&'a str> {
    let numbers = |name: &str| -> Vec<u32> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
    };
    names.lines().filter(|name| name.ends_with(end)).max_by_key(|name| numbers(name))
}

/// The address of Debian's archive: where this machine takes its packages from. Security updates live at another one,
/// without the other releases.
fn mirror(sh: &Shell, suite: &str) -> anyhow::Result<String> {
    let security = suite.ends_with("-security");
    if let Ok(address) = sh.var("OOMWATCH_DEBIAN_MIRROR") {
        return Ok(if security { beside(&address) } else { address });
    }
    let format = "$(COMPONENT) $(RELEASE) $(REPO_URI) $(ORIGIN)";
    let targets = cmd!(sh, "apt-get indextargets --format {format}").quiet().read()?;
    find_mirror(&targets, security).context(
        "this machine's apt knows no mirror of Debian: set OOMWATCH_DEBIAN_MIRROR to the address \
         of one",
    )
}

fn find_mirror(targets: &str, security: bool) -> Option<String> {
    let of = |wanted: bool| {
        targets.lines().find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
            ["main", release, address, "Debian"] if release.contains("security") == wanted => Some(address.to_owned()),
            _ => None,
        })
    };
    if security { of(true).or_else(|| Some(beside(&of(false)?))) } else { of(false) }
}

/// The address of security updates on a mirror that has both.
fn beside(mirror: &str) -> String {
    format!("{}-security", mirror.trim_end_matches('/'))
}

/// The file of this folder whose name begins so.
pub(crate) fn find_file(dir: &Path, begin: &str) -> anyhow::Result<PathBuf> {
    fs::read_dir(dir)
        .with_context(|| format!("read {}", dir.display()))?
        .filter_map(|entry| entry.ok().map(|it| it.path()))
        .find(|path| {
            let name = path.file_name().and_then(|it| it.to_str());
            name.is_some_and(|name| name.starts_with(begin))
        })
        .with_context(|| format!("{} has no file {begin}*", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_the_names_with_that_end_is_taken() {
        let names = "linux-image-6.12.9+deb12-cloud-amd64\n\
                     linux-image-6.12.111+deb12-cloud-amd64\n\
                     linux-image-6.12.120+deb12-amd64\n\
                     linux-image-6.12.111+deb12-cloud-amd64-unsigned";
        assert_eq!(newest(names, "+deb12-cloud-amd64"), Some("linux-image-6.12.111+deb12-cloud-amd64"));
        assert_eq!(newest(names, "+deb13-cloud-amd64"), None);
    }

    #[test]
    fn the_mirror_is_debians_and_has_all_releases() {
        let targets = "main nodistro https://a/node nodesource\n\
                       main bookworm-security http://b/debian-security Debian\n\
                       main bookworm http://c/debian Debian";
        assert_eq!(find_mirror(targets, false).as_deref(), Some("http://c/debian"));
        assert_eq!(find_mirror("", false), None);
    }

    #[test]
    fn security_updates_have_an_address_of_their_own_or_the_usual_one() {
        let targets = "main bookworm-security http://b/debian-security Debian\n\
                       main bookworm http://c/debian/ Debian";
        assert_eq!(find_mirror(targets, true).as_deref(), Some("http://b/debian-security"));
        let alone = "main bookworm http://c/debian/ Debian";
        assert_eq!(find_mirror(alone, true).as_deref(), Some("http://c/debian-security"));
        assert_eq!(find_mirror("", true), None);
    }
}

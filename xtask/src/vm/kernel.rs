//! Kernels for the virtual machine: which ones, and how they come from Debian's archive into the
//! cache folder. The system's own package lists and packages are not touched.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::{process::say, toolchain::cache_dir};

/// A kernel of Debian's.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What `cargo xtask vm` calls it.
    pub(super) version: &'static str,
    /// The release that has it.
    suite: &'static str,
    /// Beginning and end of the package's name; the newest in between is taken.
    package: (&'static str, &'static str),
    /// The one scenario that is run, unless another is asked for; all of them where there is none.
    pub(super) scenario: Option<&'static str>,
}

/// The matrix. 6.12, which a Debian 12 host with backports runs, sees every scenario; the others one that loads every
/// program, for their verifiers are stricter.
pub(super) const KERNELS: &[Kernel] = &[
    Kernel {
        version: "6.12",
        suite: "bookworm-backports",
        package: ("linux-image-6.12.", "+deb12-cloud-amd64"),
        scenario: None,
    },
    Kernel {
        version: "5.10.218",
        suite: "bullseye",
        package: ("linux-image-5.10.0-30-cloud", "-amd64"),
        scenario: Some(LOADS_EVERYTHING),
    },
    Kernel {
        version: "6.1",
        suite: "bookworm",
        package: ("linux-image-6.1.0-", "-cloud-amd64"),
        scenario: Some(LOADS_EVERYTHING),
    },
];

/// A kill with everything that can be known of it.
const LOADS_EVERYTHING: &str = "a_process_at_its_cgroups_limit_is_reported_once_with_everything_known";

/// Gives the kernel's image; downloads it if the cache folder has none.
pub(super) fn fetch(sh: &Shell, kernel: &Kernel) -> anyhow::Result<PathBuf> {
    let dir = cache_dir().join("kernels").join(kernel.version);
    let image = dir.join("vmlinuz");
    if image.exists() {
        return Ok(image);
    }
    say(&format!("downloading Linux {}", kernel.version));
    let scratch = sh.create_temp_dir()?;
    let package = download(sh, kernel, scratch.path())?;
    let tree = scratch.path().join("tree");
    cmd!(sh, "dpkg -x {package} {tree}").quiet().run()?;
    sh.create_dir(&dir)?;
    // Renamed at the end, so that a half-written image is never taken for a whole one.
    let fresh = dir.join("vmlinuz.new");
    sh.copy_file(find_file(&tree.join("boot"), "vmlinuz")?, &fresh)?;
    fs::rename(&fresh, &image).with_context(|| format!("write {}", image.display()))?;
    Ok(image)
}

/// Downloads the package with an apt configuration of its own below `scratch`.
fn download(sh: &Shell, kernel: &Kernel, scratch: &Path) -> anyhow::Result<PathBuf> {
    let sources = scratch.join("sources.list");
    let suite = kernel.suite;
    let signed_by = "/usr/share/keyrings/debian-archive-keyring.gpg";
    sh.write_file(&sources, format!("deb [arch=amd64 signed-by={signed_by}] {} {suite} main\n", mirror(sh)?))?;
    let (state, cache) = (scratch.join("state"), scratch.join("cache"));
    sh.create_dir(state.join("lists/partial"))?;
    sh.create_dir(cache.join("archives/partial"))?;
    let settings = scratch.join("apt.conf");
    sh.write_file(
        &settings,
        format!(
            "Dir::Etc::SourceList \"{}\";\n\
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
    let _config = sh.push_env("APT_CONFIG", settings);
    cmd!(sh, "apt-get -qq update").quiet().run()?;

    let (begin, end) = kernel.package;
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

/// The address of Debian's archive: where this machine takes its packages from.
fn mirror(sh: &Shell) -> anyhow::Result<String> {
    if let Ok(address) = sh.var("OOMWATCH_DEBIAN_MIRROR") {
        return Ok(address);
    }
    let format = "$(COMPONENT) $(RELEASE) $(REPO_URI) $(ORIGIN)";
    let targets = cmd!(sh, "apt-get indextargets --format {format}").quiet().read()?;
    find_mirror(&targets).context(
        "this machine's apt knows no mirror of Debian: set OOMWATCH_DEBIAN_MIRROR to the address \
         of one",
    )
}

fn find_mirror(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            // Security updates live at another address, without the other releases.
            ["main", release, address, "Debian"] if !release.contains("security") => Some(address.to_owned()),
            _ => None,
        }
    })
}

/// The file of this folder whose name begins so.
fn find_file(dir: &Path, begin: &str) -> anyhow::Result<PathBuf> {
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
        assert_eq!(find_mirror(targets).as_deref(), Some("http://c/debian"));
        assert_eq!(find_mirror(""), None);
    }
}

//! Kernels for the virtual machine: which ones, with which cgroups, and where they are in Debian's packages.

use std::{fmt, path::PathBuf};

use anyhow::ensure;
use xshell::Shell;

use crate::{
    arch::Arch,
    debian::{self, Name},
    process::say,
    toolchain::cache_dir,
};

/// A kernel of Debian's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// What `cargo xtask vm` calls it: the beginning of its version.
    pub(super) version: &'static str,
    pub(super) arch: Arch,
    /// The release that has it.
    suite: &'static str,
    /// The package with its image.
    package: Name,
    /// The folder of the image in the package.
    folder: Folder,
    /// Cgroups that a guest can have, the first one by default.
    hierarchies: &'static [Hierarchy],
    /// Whether it sees every scenario, or those that a kernel can change.
    pub(super) everything: bool,
}

/// Where a package has the image.
#[derive(Debug, PartialEq, Eq)]
enum Folder {
    Boot,
    /// `usr/lib/modules/VERSION`, since Debian split the package.
    Modules,
}

/// The version of the cgroups that control memory in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    V1,
    V2,
}

impl fmt::Display for Hierarchy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// A kernel with cgroups of one version: one boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guest {
    pub(super) kernel: &'static Kernel,
    pub(super) hierarchy: Hierarchy,
}

impl fmt::Display for Guest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.kernel.name(), self.hierarchy)
    }
}

const BOTH: &[Hierarchy] = &[Hierarchy::V2, Hierarchy::V1];
/// Debian builds Linux 6.12 and later without the memory controller of cgroup v1.
const ONLY_V2: &[Hierarchy] = &[Hierarchy::V2];

/// The matrix, the longest run first. 6.12, which a Debian 12 host with backports runs, sees every scenario.
const KERNELS: &[Kernel] = &[
    Kernel {
        version: "6.12",
        arch: Arch::Amd64,
        suite: "bookworm-backports",
        package: ("linux-image-6.12.", "+deb12-cloud-amd64"),
        folder: Folder::Boot,
        hierarchies: ONLY_V2,
        everything: true,
    },
    Kernel {
        version: "6.12",
        arch: Arch::Arm64,
        suite: "bookworm-backports",
        package: ("linux-image-6.12.", "+deb12-cloud-arm64"),
        folder: Folder::Boot,
        hierarchies: ONLY_V2,
        everything: false,
    },
    Kernel {
        version: "7.2",
        arch: Arch::Amd64,
        suite: "sid",
        package: ("linux-binary-7.2.", "-cloud-amd64"),
        folder: Folder::Modules,
        hierarchies: ONLY_V2,
        everything: false,
    },
    Kernel {
        version: "6.1",
        arch: Arch::Amd64,
        suite: "bookworm",
        package: ("linux-image-6.1.0-", "-cloud-amd64"),
        folder: Folder::Boot,
        hierarchies: BOTH,
        everything: false,
    },
    Kernel {
        version: "5.10.218",
        arch: Arch::Amd64,
        suite: "bullseye",
        package: ("linux-image-5.10.0-30-cloud", "-amd64"),
        folder: Folder::Boot,
        hierarchies: BOTH,
        everything: false,
    },
    Kernel {
        version: "5.10.262",
        arch: Arch::Amd64,
        suite: "bullseye-security",
        package: ("linux-image-5.10.0-", "-cloud-amd64"),
        folder: Folder::Boot,
        hierarchies: BOTH,
        everything: false,
    },
];

fn all() -> impl Iterator<Item = Guest> {
    KERNELS.iter().flat_map(|kernel| kernel.hierarchies.iter().map(move |&hierarchy| Guest { kernel, hierarchy }))
}

/// The guests with these names (`5.10.218-v1`) or beginnings of them (`5.10`, `7`); all if there is no name.
pub(super) fn select(names: &[String]) -> anyhow::Result<Vec<Guest>> {
    for name in names {
        ensure!(
            all().any(|guest| is_beginning(name, &guest.to_string())),
            "no kernel {name} here; there are {}",
            known()
        );
    }
    let wanted = |guest: &Guest| names.iter().any(|name| is_beginning(name, &guest.to_string()));
    Ok(all().filter(|guest| names.is_empty() || wanted(guest)).collect())
}

/// Names of all guests.
fn known() -> String {
    all().map(|guest| guest.to_string()).collect::<Vec<_>>().join(" ")
}

/// Number by number: 6.1 is no beginning of 6.12.
fn is_beginning(beginning: &str, whole: &str) -> bool {
    let rest = whole.strip_prefix(beginning);
    !beginning.is_empty() && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
}

impl Kernel {
    /// Its version, after its architecture where that is not this machine's.
    fn name(&self) -> String {
        match self.arch {
            Arch::Amd64 => self.version.to_owned(),
            arch @ Arch::Arm64 => format!("{arch}-{}", self.version),
        }
    }

    /// Whether this is a version of what the table calls by the beginning of it.
    pub(super) fn is_version(&self, version: &str) -> bool {
        is_beginning(self.version, version)
    }
}

/// Where the kernel's image is once it was fetched.
fn image(kernel: &Kernel) -> PathBuf {
    cache_dir().join("kernels").join(kernel.name()).join("vmlinuz")
}

/// Whether the images of all kernels are here.
pub(crate) fn are_there() -> bool {
    KERNELS.iter().all(|kernel| image(kernel).is_file())
}

/// Downloads what is missing of all of them.
pub(crate) fn fetch_all(sh: &Shell) -> anyhow::Result<()> {
    KERNELS.iter().try_for_each(|kernel| fetch(sh, kernel).map(drop))
}

/// Gives the kernel's image; downloads it if the cache folder has none.
pub(super) fn fetch(sh: &Shell, kernel: &Kernel) -> anyhow::Result<PathBuf> {
    let image = image(kernel);
    if image.is_file() {
        return Ok(image);
    }
    say(&format!("downloading Linux {}", kernel.name()));
    let scratch = sh.create_temp_dir()?;
    let tree = debian::unpack(sh, kernel.arch, kernel.suite, kernel.package, scratch.path())?;
    let folder = match kernel.folder {
        Folder::Boot => tree.join("boot"),
        Folder::Modules => debian::find_file(&tree.join("usr/lib/modules"), "")?,
    };
    debian::keep(sh, &debian::find_file(&folder, "vmlinuz")?, &image)?;
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &[&str]) -> Vec<String> {
        let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        select(&names).unwrap().iter().map(Guest::to_string).collect()
    }

    #[test]
    fn a_kernel_goes_by_its_name_or_the_beginning_of_it() {
        assert_eq!(selected(&["6.1"]), ["6.1-v2", "6.1-v1"]);
        assert_eq!(selected(&["6.1-v1"]), ["6.1-v1"]);
        assert_eq!(selected(&["6.12"]), ["6.12-v2"]);
        assert_eq!(selected(&["7"]), ["7.2-v2"]);
        assert_eq!(selected(&["arm64"]), ["arm64-6.12-v2"]);
        assert_eq!(selected(&["5.10"]).len(), 4);
        assert_eq!(selected(&["6", "6.12"]).len(), 3);
        assert_eq!(selected(&[]).len(), 9);
    }

    #[test]
    fn a_name_that_is_none_says_what_there_is() {
        for wrong in ["4", "6.", "", "5.10.2", "v1"] {
            let error = select(&[wrong.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(&format!("no kernel {wrong} here")) && error.contains("5.10.218-v1 5.10.262-v2"));
            assert_eq!(error.lines().count(), 1);
        }
    }
}

//! Kernels for the virtual machine: which ones, and where they are in Debian's packages.

use std::path::PathBuf;

use xshell::Shell;

use crate::{debian, process::say, toolchain::cache_dir};

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
    let image = cache_dir().join("kernels").join(kernel.version).join("vmlinuz");
    if image.exists() {
        return Ok(image);
    }
    say(&format!("downloading Linux {}", kernel.version));
    let scratch = sh.create_temp_dir()?;
    let tree = debian::unpack(sh, kernel.suite, kernel.package, scratch.path())?;
    debian::keep(sh, &debian::find_file(&tree.join("boot"), "vmlinuz")?, &image)?;
    Ok(image)
}

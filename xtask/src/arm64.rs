//! What a guest with an arm64 processor consists of: the agent and the scenarios compiled for it, and Debian's programs.
//!
//! No toolchain comes with a standard library for another processor. rustup has it as `rust-std`; Debian as a package of
//! that architecture, which `rustc` of the same version takes as its sysroot.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use xshell::{Shell, cmd};

use crate::{
    arch::Arch,
    compile::{self, Scenario},
    debian::{self, Name},
    process::say,
    toolchain::{cache_dir, in_path},
};

/// What rustc calls it.
const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
/// A file of the C library to link to, which its package puts here.
const C_LIBRARY: &str = "/usr/aarch64-linux-gnu/lib/libc.a";
/// Debian's package of the compiler.
pub(crate) const LINKER_PACKAGE: (&str, &str) = (LINKER, "gcc-aarch64-linux-gnu");
/// Debian's package of the C library.
pub(crate) const LIBC_PACKAGE: &str = "libc6-dev-arm64-cross";
/// What to type where Debian's standard library is of no use.
pub(crate) const BY_HAND: &str = "rustup target add aarch64-unknown-linux-gnu";
/// The release with the standard library of Debian's newest Rust.
const STD: (&str, Name) = ("bookworm-security", ("libstd-rust-web-dev", "libstd-rust-web-dev"));

/// What else is in the guest, and where it comes from.
struct Programs {
    suite: &'static str,
    packages: &'static [Name],
    /// Files of the packages, and their places in the guest.
    files: &'static [(&'static str, &'static str)],
}

const PROGRAMS: [Programs; 3] = [
    Programs {
        suite: "bookworm",
        packages: &[
            ("busybox-static", "busybox-static"),
            ("runc", "runc"),
            ("libc6", "libc6"),
            ("libseccomp2", "libseccomp2"),
        ],
        files: &[
            ("bin/busybox", "bin/busybox"),
            ("usr/sbin/runc", "usr/sbin/runc"),
            ("lib/aarch64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libc.so.6"),
            ("lib/ld-linux-aarch64.so.1", "lib/ld-linux-aarch64.so.1"),
            ("usr/lib/aarch64-linux-gnu/libseccomp.so.2", "lib/aarch64-linux-gnu/libseccomp.so.2"),
        ],
    },
    Programs {
        suite: "bookworm",
        packages: &[("runsc", "runsc")],
        files: &[("usr/bin/runsc", "usr/lib/runsc/20221219/runsc")],
    },
    Programs {
        suite: "bookworm-backports",
        packages: &[("runsc", "runsc")],
        files: &[("usr/bin/runsc", "usr/lib/runsc/20240729/runsc")],
    },
];

/// Compiler and its standard library.
struct Rust {
    cargo: PathBuf,
    rustc: PathBuf,
    /// With the standard library, where the compiler's own has none.
    sysroot: Option<PathBuf>,
}

impl Rust {
    fn find() -> Option<Self> {
        let own = Self { cargo: env::var_os("CARGO")?.into(), rustc: in_path("rustc")?, sysroot: None };
        if own.has_std() {
            return Some(own);
        }
        let debians = Self { sysroot: Some(sysroot()?), ..Self::debians() };
        debians.has_std().then_some(debians)
    }

    fn debians() -> Self {
        Self { cargo: "/usr/bin/cargo".into(), rustc: "/usr/bin/rustc".into(), sysroot: None }
    }

    /// Whether an empty library compiles: a standard library of another version does not do.
    fn has_std(&self) -> bool {
        let out = folder().join("probe");
        let source = out.join("empty.rs");
        if fs::create_dir_all(&out).and_then(|()| fs::write(&source, "")).is_err() {
            return false;
        }
        let output = Command::new(&self.rustc)
            .args(["--crate-type", "lib", "--emit", "metadata", "--target", TARGET])
            .args(self.sysroot_flag())
            .arg("--out-dir")
            .arg(out)
            .arg(source)
            .env("RUSTUP_AUTO_INSTALL", "0")
            .env_remove("LD_LIBRARY_PATH")
            .output();
        output.is_ok_and(|output| output.status.success())
    }

    fn sysroot_flag(&self) -> Option<String> {
        self.sysroot.as_ref().map(|sysroot| format!("--sysroot={}", sysroot.display()))
    }
}

/// Where Debian's standard library is kept, by the version of the compiler that it is for.
fn sysroot() -> Option<PathBuf> {
    let output = Command::new(Rust::debians().rustc).arg("-V").env_remove("LD_LIBRARY_PATH").output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    Some(folder().join(format!("rust-{}", version.split_whitespace().nth(1)?)))
}

fn folder() -> PathBuf {
    cache_dir().join("arm64")
}

/// Whether there is a C library to link to.
pub(crate) fn has_libc() -> bool {
    Path::new(C_LIBRARY).is_file()
}

/// Whether there is a compiler with a standard library.
pub(crate) fn has_std() -> bool {
    Rust::find().is_some()
}

/// Whether there is a compiler of Debian's, for which a standard library can be fetched.
pub(crate) fn has_debians_rust() -> bool {
    Rust::debians().rustc.is_file()
}

/// Downloads the standard library for Debian's compiler.
pub(crate) fn fetch_std(sh: &Shell) -> anyhow::Result<()> {
    say("setup: downloading Rust's standard library for arm64");
    let scratch = sh.create_temp_dir()?;
    let (suite, name) = STD;
    let tree = debian::unpack(sh, Arch::Arm64, suite, name, scratch.path())?;
    let libraries = Path::new("lib/rustlib").join(TARGET).join("lib");
    let destination = sysroot().context("/usr/bin/rustc does not run")?.join(&libraries);
    for file in sh.read_dir(tree.join("usr").join(libraries))? {
        debian::keep(sh, &file, &destination.join(file.file_name().context("a name")?))?;
    }
    Ok(())
}

/// Debian's programs in the cache folder, and the place of each in the guest.
pub(crate) fn programs() -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let places = PROGRAMS.iter().flat_map(|programs| programs.files).map(|(_, place)| place);
    places.map(|place| (guest().join(place), Path::new("/").join(place)))
}

fn guest() -> PathBuf {
    folder().join("guest")
}

/// Whether Debian's programs are here.
pub(crate) fn programs_are_there() -> bool {
    programs().all(|(file, _)| file.is_file())
}

/// Downloads them.
pub(crate) fn fetch_programs(sh: &Shell) -> anyhow::Result<()> {
    say("setup: downloading busybox, runc and runsc for arm64");
    for Programs { suite, packages, files } in PROGRAMS {
        let scratch = sh.create_temp_dir()?;
        let tree = debian::unpack_all(sh, Arch::Arm64, suite, packages, scratch.path())?;
        for (file, place) in files {
            debian::keep(sh, &tree.join(file), &guest().join(place))?;
        }
    }
    Ok(())
}

/// Compiles the agent and the programs that go with it; the folder with them.
pub(crate) fn compile(sh: &Shell) -> anyhow::Result<PathBuf> {
    let packages = ["--package", "oomwatch", "--package", "oomwatch-tests", "--bins"];
    cargo(sh, "build", |cargo| cargo.args(packages))?;
    Ok(target_dir().join(TARGET).join("debug"))
}

/// Compiles the scenarios of these files.
pub(crate) fn scenarios<'a>(sh: &Shell, names: impl Iterator<Item = &'a str>) -> anyhow::Result<Vec<Scenario>> {
    let tests: Vec<&str> = names.flat_map(|name| ["--test", name]).collect();
    let format = ["--no-run", "--package", "oomwatch-tests", "--message-format", "json-render-diagnostics"];
    compile::test_binaries(&cargo(sh, "test", |cargo| cargo.args(format).args(tests))?)
}

fn target_dir() -> PathBuf {
    compile::target_dir().join("arm64")
}

/// `cargo SUBCOMMAND` for that processor; what it wrote.
fn cargo(
    sh: &Shell,
    subcommand: &str,
    with: impl for<'a> FnOnce(xshell::Cmd<'a>) -> xshell::Cmd<'a>,
) -> anyhow::Result<String> {
    let rust = Rust::find().context("no Rust for arm64: run `cargo xtask setup`")?;
    let flags: Vec<_> = ["-Ctarget-feature=+crt-static".to_owned()].into_iter().chain(rust.sysroot_flag()).collect();
    // A path may have spaces.
    let flags = flags.join("\x1f");
    let Rust { cargo, rustc, .. } = &rust;
    // The scenarios that run beside it wait for events.
    let cargo = cmd!(sh, "nice -n 19 {cargo} {subcommand} --quiet --target {TARGET}")
        .env_remove("LD_LIBRARY_PATH")
        .env("RUSTC", rustc)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", target_dir())
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        // Unoptimized, an emulated guest takes three times as long, and optimized as in a release, the compiler does.
        .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
    with(cargo).read().context("compile for arm64")
}

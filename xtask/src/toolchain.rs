//! Finds what compiles eBPF: a Rust toolchain with the sources of `core`, and `bpf-linker`; gives
//! the command that uses them. Standard library only, because `oomwatch/build.rs` includes this
//! file too. Opens no network and installs nothing: that is `setup.rs`.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

/// The release of bpf-linker that reads the bitcode of LLVM 22 and finds that LLVM by itself.
pub(crate) const LINKER_VERSION: &str = "0.10.3";

/// Beginning of the name of the LLVM that [`LINKER_VERSION`] was made for. A toolchain with
/// another LLVM is not used: an older linker cannot read newer bitcode.
const LLVM_LIBRARY: &str = "libLLVM.so.22";

/// rustup's toolchains that are tried, in order. The LLVM of the second never changes.
const RUSTUP_TOOLCHAINS: [&str; 2] = ["nightly", PINNED_TOOLCHAIN];

/// rustup's toolchain that `setup` installs where the distribution has none.
pub(crate) const PINNED_TOOLCHAIN: &str = "1.95.0";

/// What the eBPF program is compiled for: eBPF of little-endian machines.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// A Rust toolchain that can build `core` for eBPF, and the linker for it.
#[derive(Debug)]
pub(crate) struct Toolchain {
    sysroot: PathBuf,
    llvm: PathBuf,
    linker: PathBuf,
}

impl Toolchain {
    /// Looks where rustup and the distribution put toolchains. The error is one sentence.
    pub(crate) fn find() -> Result<Self, String> {
        let (sysroot, llvm) = find_sysroot().ok_or(
            "no Rust toolchain with `rust-src` and LLVM 22 was found, which the eBPF program needs: run `cargo xtask setup`",
        )?;
        let linker = find_linker()
            .ok_or_else(|| format!("bpf-linker {LINKER_VERSION} was not found: run `cargo xtask setup`"))?;
        Ok(Self { sysroot, llvm, linker })
    }

    /// Whether there is a toolchain, linker or not.
    pub(crate) fn has_sysroot() -> bool {
        find_sysroot().is_some()
    }

    /// Whether there is a toolchain, and it brings clippy.
    pub(crate) fn has_clippy() -> bool {
        find_sysroot().is_some_and(|(sysroot, _)| sysroot.join("bin/cargo-clippy").exists())
    }

    /// Whether there is the linker, toolchain or not.
    pub(crate) fn has_linker() -> bool {
        find_linker().is_some()
    }

    /// `cargo SUBCOMMAND` for the package `oomwatch-ebpf`, release profile, into `target_dir`,
    /// for tracing a kernel of the architecture `arch`.
    ///
    /// The binaries of the sysroot are called, not rustup's proxies, and nothing that an outer
    /// cargo says about its own toolchain, flags or folders is passed on.
    pub(crate) fn cargo(&self, subcommand: &str, arch: &str, target_dir: &Path) -> Result<Command, String> {
        let bin = self.sysroot.join("bin");
        let program = match subcommand {
            "clippy" => bin.join("cargo-clippy"),
            _ => bin.join("cargo"),
        };
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(belongs_to_outer_cargo) {
                command.env_remove(&name);
            }
        }
        let llvm_dir =
            self.llvm_dir(target_dir).map_err(|error| format!("cannot prepare {}: {error}", target_dir.display()))?;
        command
            .args([subcommand, "--package", "oomwatch-ebpf", "--release"])
            .args(["--target", TARGET, "-Zbuild-std=core", "--target-dir"])
            .arg(target_dir)
            .env("CARGO", bin.join("cargo"))
            .env("RUSTC", bin.join("rustc"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(arch))
            .env("LD_LIBRARY_PATH", llvm_dir);
        Ok(command)
    }

    /// A folder with this one LLVM in it. bpf-linker opens the first `libLLVM*` that it meets in
    /// `LD_LIBRARY_PATH`, and a distribution's library folder may hold several.
    fn llvm_dir(&self, target_dir: &Path) -> io::Result<PathBuf> {
        let dir = target_dir.join("llvm");
        let link = dir.join("libLLVM.so");
        if fs::read_link(&link).ok().as_ref() != Some(&self.llvm) {
            fs::create_dir_all(&dir)?;
            // Made beside and renamed: another build may be reading the old one.
            let fresh = dir.join(format!("new.{}", std::process::id()));
            symlink(&self.llvm, &fresh)?;
            fs::rename(&fresh, &link)?;
        }
        Ok(dir)
    }
}

/// Where tools and kernels are kept between builds: `$OOMWATCH_CACHE`, else the user's cache.
pub(crate) fn cache_dir() -> PathBuf {
    let from = |name: &str| env::var_os(name).filter(|it| !it.is_empty());
    match (from("OOMWATCH_CACHE"), from("XDG_CACHE_HOME")) {
        (Some(own), _) => own.into(),
        (None, Some(xdg)) => Path::new(&xdg).join("oomwatch"),
        (None, None) => home().join(".cache/oomwatch"),
    }
}

/// A program that `setup` put into the cache folder.
pub(crate) fn cached_tool(program: &str) -> PathBuf {
    cache_dir().join("tools/bin").join(program)
}

/// The first file of that name in `PATH`.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// bpf-linker's `--btf` and the debug information it is made of; what `aya-build` passes too.
fn rustflags(arch: &str) -> String {
    [&format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f")
}

fn home() -> PathBuf {
    env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// The first sysroot that has all it takes, and its LLVM.
fn find_sysroot() -> Option<(PathBuf, PathBuf)> {
    candidates().into_iter().find_map(|sysroot| llvm_of(&sysroot).map(|llvm| (sysroot, llvm)))
}

/// Sysroots that may hold a toolchain.
fn candidates() -> Vec<PathBuf> {
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| home().join(".rustup"), PathBuf::from);
    let host = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut sysroots: Vec<PathBuf> =
        RUSTUP_TOOLCHAINS.iter().map(|name| rustup.join(format!("toolchains/{name}-{host}"))).collect();
    sysroots.extend(default_sysroot());
    sysroots.push("/usr".into());
    sysroots
}

/// The sysroot of the `rustc` in `PATH`.
fn default_sysroot() -> Option<PathBuf> {
    let output = Command::new("rustc").args(["--print", "sysroot"]).env("RUSTUP_AUTO_INSTALL", "0").output().ok()?;
    let sysroot = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| sysroot.trim_end().into())
}

/// The LLVM of a sysroot that has all it takes, as a file.
fn llvm_of(sysroot: &Path) -> Option<PathBuf> {
    let needed = ["bin/cargo", "bin/rustc", "lib/rustlib/src/rust/library/Cargo.lock"];
    if !needed.iter().all(|file| sysroot.join(file).exists()) {
        return None;
    }
    let multiarch = format!("lib/{}-linux-gnu", env::consts::ARCH);
    ["lib", "lib64", &multiarch]
        .iter()
        .filter_map(|dir| fs::read_dir(sysroot.join(dir)).ok())
        .flatten()
        .filter_map(|entry| entry.ok().map(|it| it.path()))
        .find(|file| file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(LLVM_LIBRARY)))
}

fn find_linker() -> Option<PathBuf> {
    [Some(cached_tool("bpf-linker")), in_path("bpf-linker")]
        .into_iter()
        .flatten()
        .find(|file| linker_version(file).as_deref() == Some(LINKER_VERSION))
}

/// The `0.10.3` of `bpf-linker 0.10.3`.
fn linker_version(file: &Path) -> Option<String> {
    let output = Command::new(file).arg("--version").output().ok()?;
    let words = String::from_utf8(output.stdout).ok()?;
    words.split_whitespace().nth(1).map(str::to_owned)
}

/// Whether a variable is the outer cargo's word about its own build. Where crates come from and
/// how output looks stays the user's choice.
fn belongs_to_outer_cargo(name: &str) -> bool {
    const KEPT: [&str; 8] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY",
        "CARGO_SOURCE_",
        "CARGO_TERM_",
        "CARGO_MAKEFLAGS",
    ];
    let cargos = ["CARGO", "RUSTC", "RUSTFLAGS", "RUSTDOC", "CLIPPY_"];
    cargos.iter().any(|prefix| name.starts_with(prefix)) && !KEPT.iter().any(|prefix| name.starts_with(prefix))
}

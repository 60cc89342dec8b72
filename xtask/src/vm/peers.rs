//! `cargo xtask peers`: oomwatch, bpftrace, libbpf-tools, a reader of the kernel's log and a poller watch the same kills in
//! one guest. Out comes a table in the README.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use xshell::Shell;

use super::{initramfs::libraries_with, kernel, matrix, pack, qemu::Machine, report};
use crate::{
    arch::Arch,
    debian::{self, Name},
    process::{print, say},
    root,
    setup::{self, Part},
    toolchain::cache_dir,
};

/// The guest.
const GUEST: &str = "6.12";
const SUITE: &str = "bookworm";
/// Programs, and the libraries that are not everywhere.
const PACKAGES: [Name; 15] = [
    ("bpftrace", "bpftrace"),
    ("libbpf-tools", "libbpf-tools"),
    ("libbpf1", "libbpf1"),
    ("libbpfcc", "libbpfcc"),
    ("libbsd0", "libbsd0"),
    ("libclang1-14", "libclang1-14"),
    ("libdw1", "libdw1"),
    ("libedit2", "libedit2"),
    ("libelf1", "libelf1"),
    ("libffi8", "libffi8"),
    ("libicu72", "libicu72"),
    ("libllvm14", "libllvm14"),
    ("libmd0", "libmd0"),
    ("libxml2", "libxml2"),
    ("libz3-4", "libz3-4"),
];
/// What is kept of them, beside libraries.
const FILES: [&str; 3] = ["usr/bin/bpftrace", "usr/sbin/oomkill", "usr/sbin/oomkill.bt"];

const BEGIN: &str = "<!-- peers: made by `cargo xtask peers` -->\n";
const END: &str = "<!-- /peers -->";

fn folder() -> PathBuf {
    cache_dir().join("peers")
}

/// Whether they are here.
pub(crate) fn are_there() -> bool {
    FILES.iter().filter_map(|file| Path::new(file).file_name()).all(|name| folder().join(name).is_file())
}

/// Downloads them with their libraries.
pub(crate) fn fetch(sh: &Shell) -> anyhow::Result<()> {
    say("setup: downloading bpftrace and libbpf-tools");
    let scratch = sh.create_temp_dir()?;
    let tree = debian::unpack_all(sh, Arch::Amd64, SUITE, &PACKAGES, scratch.path())?;
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    for file in FILES.iter().rev().map(|file| tree.join(file)) {
        let name = file.file_name().context("a name")?;
        if file.extension().is_none() {
            for library in libraries_with(&file, Some(&libraries))?.iter().filter(|it| it.starts_with(&tree)) {
                debian::keep(sh, library, &folder().join(library.file_name().context("a name")?))?;
            }
        }
        // The programs last: where they are, all is.
        debian::keep(sh, &file, &folder().join(name))?;
    }
    Ok(())
}

/// Lets them watch, prints the table and writes it into the README.
pub(crate) fn peers(sh: &Shell) -> anyhow::Result<()> {
    ensure!(cfg!(target_arch = "x86_64"), "the table of kernels is for x86_64 only");
    setup::setup(sh, Part::Peers)?;
    let guest = *kernel::select(&[GUEST.to_owned()])?.first().context("no kernel")?;
    let image = kernel::fetch(sh, guest.kernel)?;
    let files = sh.create_temp_dir()?;
    let archive = files.path().join("initramfs.cpio");
    pack::pack_with_peers(sh, &folder(), files.path(), &archive)?;
    let (console, log) = (matrix::log_file("peers", "console")?, matrix::log_file("peers", "log")?);
    let arguments = format!("cgroup={} all", guest.hierarchy);
    let machine = Machine {
        arch: Arch::Amd64,
        image: &image,
        archive: &archive,
        console: &console,
        log: &log,
        arguments: &arguments,
        name: "peers",
    };
    let ended = machine.run()?;
    if let Some(complaint) = report::complaint(&guest, &ended, &console) {
        bail!("{complaint}");
    }
    let table = table(&ended.lines)?;
    print(table.trim_end())?;
    let readme = root().join("README.md");
    let text = fs::read_to_string(&readme).context("read the README")?;
    fs::write(&readme, with_table(&text, &table)?).context("write the README")
}

/// The lines of the scenario `peers` in Markdown.
fn table(lines: &[String]) -> anyhow::Result<String> {
    let mut scenes: Vec<&str> = Vec::new();
    let mut told = Vec::new();
    let mut rows = Vec::new();
    for line in lines {
        if let Some(line) = line.strip_prefix("scene|") {
            let [name, scene, seen, made] = line.split('|').collect::<Vec<_>>()[..] else { continue };
            if !scenes.contains(&scene) {
                scenes.push(scene);
            }
            told.push((name, scene, format!("{seen}/{made}")));
        } else if let Some((_, line)) = line.split_once("peers|") {
            let [name, seen, made, container, limit, extra, p50, p99, same] = line.split('|').collect::<Vec<_>>()[..]
            else {
                bail!("not a score: {line}");
            };
            rows.push((
                name,
                [format!("{seen}/{made}"), container.into(), limit.into(), extra.into()],
                [p50, p99, same],
            ));
        }
    }
    ensure!(!rows.is_empty(), "the guest said nothing of the peers");
    let mut text = "| | kills seen | container right | limit right | told that was none |".to_owned();
    for scene in &scenes {
        text.push_str(&[" ", scene, " |"].concat());
    }
    text.push_str(" p50 ms | p99 ms | oomwatch's p50 ms for the same kills |\n|---|---:|---:|---:|---:|");
    text.push_str(&"---:|".repeat(scenes.len() + 3));
    for (name, counts, latencies) in rows {
        let of_scene = |scene: &&str| told.iter().find(|(it, of, _)| *it == name && of == scene);
        let by_scene = scenes.iter().map(|scene| of_scene(scene).map_or("", |(_, _, told)| told));
        let cells: Vec<&str> =
            std::iter::once(name).chain(counts.iter().map(String::as_str)).chain(by_scene).chain(latencies).collect();
        text.push_str(&["\n| ", &cells.join(" | "), " |"].concat());
    }
    text.push('\n');
    Ok(text)
}

/// The text with the table between the marks.
fn with_table(text: &str, table: &str) -> anyhow::Result<String> {
    let (before, rest) = text.split_once(BEGIN).context("the README has no mark for the table of peers")?;
    let (_, after) = rest.split_once(END).context("the README has no end mark for the table of peers")?;
    Ok(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_for_each_that_watched() {
        let lines = [
            "test it ... peers|a|2|3|2|0|1|1.5|2.5|1.5",
            "scene|a|storm|2|3",
            "peers|b|3|3|0|0|0|–|–|–",
            "scene|b|storm|3|3",
        ];
        let text = table(&lines.map(str::to_owned)).unwrap();
        assert_eq!(
            text,
            "| | kills seen | container right | limit right | told that was none | storm | p50 ms | p99 ms | oomwatch's p50 ms for the same \
             kills |\n\
             |---|---:|---:|---:|---:|---:|---:|---:|---:|\n\
             | a | 2/3 | 2 | 0 | 1 | 2/3 | 1.5 | 2.5 | 1.5 |\n\
             | b | 3/3 | 0 | 0 | 0 | 3/3 | – | – | – |\n"
        );
    }

    #[test]
    fn the_table_goes_between_the_marks() {
        let text = format!("a\n{BEGIN}old\n{END}\nb\n");
        let new = with_table(&text, "new\n").unwrap();
        assert_eq!(new, format!("a\n{BEGIN}\nnew\n\n{END}\nb\n"));
        assert_eq!(with_table(&new, "new\n").unwrap(), new);
        assert!(with_table("a", "new").is_err());
    }
}

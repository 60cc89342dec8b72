//! The guest's files as the archive that the kernel unpacks into memory: in go files of this
//! machine, with the libraries they are linked to; out comes an uncompressed `newc` cpio.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use cpio::newc::{Builder, ModeFileType, trailer};

/// Files of the guest by their path there; the parents of each come along.
#[derive(Debug, Default)]
pub(super) struct Initramfs {
    files: BTreeMap<PathBuf, PathBuf>,
}

impl Initramfs {
    /// Adds the file `source` of this machine as `destination`, executable.
    pub(super) fn add_file(&mut self, source: &Path, destination: &Path) {
        self.files.insert(destination.to_owned(), source.to_owned());
    }

    /// Adds a program and, at their own paths, the libraries it is linked to.
    pub(super) fn add_program(&mut self, source: &Path, destination: &Path) -> anyhow::Result<()> {
        self.add_file(source, destination);
        for library in libraries(source)? {
            self.add_file(&library, &library);
        }
        Ok(())
    }

    /// Writes the archive.
    pub(super) fn write(&self, archive: &Path) -> anyhow::Result<()> {
        let out = File::create(archive).with_context(|| format!("create {}", archive.display()))?;
        let mut out = BufWriter::new(out);
        // The kernel keeps the mode of the root folder; runtimes refuse one that others cannot read.
        out = write_entry(out, Path::new("."), ModeFileType::Directory, &[])?;
        let mut written = vec![PathBuf::from("/")];
        for (destination, source) in &self.files {
            let mut parents: Vec<_> = destination.ancestors().skip(1).collect();
            parents.reverse();
            for parent in parents {
                if !written.iter().any(|it| it == parent) {
                    out = write_entry(out, parent, ModeFileType::Directory, &[])?;
                    written.push(parent.to_owned());
                }
            }
            let bytes = fs::read(source).with_context(|| format!("read {}", source.display()))?;
            out = write_entry(out, destination, ModeFileType::Regular, &bytes)?;
        }
        trailer(out)?.flush().context("finish the archive")
    }
}

fn write_entry<W: Write>(out: W, path: &Path, file_type: ModeFileType, bytes: &[u8]) -> anyhow::Result<W> {
    let name = path.strip_prefix("/").unwrap_or(path);
    let name = name.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too big"))?;
    let mut entry = Builder::new(name).mode(0o755).set_mode_file_type(file_type).write(out, size);
    entry.write_all(bytes)?;
    entry.finish().with_context(|| format!("write {name}"))
}

/// The shared libraries of a program with those they need themselves, and the loader; none for a
/// static program. Asks `ldd`, which knows this machine's search path.
pub(crate) fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    libraries_with(program, None)
}

/// The same, with libraries of a folder before those of this machine.
pub(super) fn libraries_with(program: &Path, folder: Option<&Path>) -> anyhow::Result<Vec<PathBuf>> {
    let folder = folder.map(|folder| ("LD_LIBRARY_PATH", folder));
    let output = Command::new("ldd").arg(program).envs(folder).output().context("run ldd")?;
    if output.status.success() {
        return parse_ldd(&String::from_utf8_lossy(&output.stdout))
            .with_context(|| format!("libraries of {}", program.display()));
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    bail!("ldd {}: {}", program.display(), complaint.trim())
}

/// Takes the paths out of `libc.so.6 => /lib/libc.so.6 (0x7f..)` and `/lib64/ld.so (0x7f..)`.
fn parse_ldd(text: &str) -> io::Result<Vec<PathBuf>> {
    if let Some(line) = text.lines().find(|line| line.ends_with("not found")) {
        return Err(io::Error::new(io::ErrorKind::NotFound, line.trim().to_owned()));
    }
    let path = |line: &str| {
        let (before, _address) = line.trim().rsplit_once(" (")?;
        let path = before.rsplit_once("=> ").map_or(before, |(_, path)| path);
        path.starts_with('/').then(|| path.into())
    };
    Ok(text.lines().filter_map(path).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_gives_libraries_and_the_loader_but_not_the_vdso() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f65)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f66)\n";
        let found = parse_ldd(text).unwrap();
        assert_eq!(
            found,
            [PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"), PathBuf::from("/lib64/ld-linux-x86-64.so.2")]
        );
    }

    #[test]
    fn a_library_that_is_not_there_is_an_error() {
        assert!(parse_ldd("\tlibx.so.1 => not found\n").is_err());
    }

    #[test]
    fn the_archive_holds_each_folder_once_and_before_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::write(&source, "text").unwrap();
        let mut guest = Initramfs::default();
        guest.add_file(&source, Path::new("/usr/bin/a"));
        guest.add_file(&source, Path::new("/usr/bin/b"));
        let archive = dir.path().join("archive");
        guest.write(&archive).unwrap();

        let mut names = Vec::new();
        let mut file = File::open(archive).unwrap();
        loop {
            let reader = cpio::newc::Reader::new(file).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            names.push(reader.entry().name().to_owned());
            file = reader.finish().unwrap();
        }
        assert_eq!(names, [".", "usr", "usr/bin", "usr/bin/a", "usr/bin/b"]);
    }
}

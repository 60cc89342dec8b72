//! The socket's file: made for root only, in place of one that nobody listens at, removed at the end.

use std::{
    fs::DirBuilder,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
            net,
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use rustix::{
    fs::Mode,
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::UnixListener;

/// Connections that wait to be taken in.
const WAITING: i32 = 64;

/// A socket with a file.
#[derive(Debug)]
pub(super) struct Listener {
    socket: net::UnixListener,
    path: PathBuf,
    /// Device and inode of the file.
    file: (u64, u64),
}

impl Listener {
    pub(super) fn bind(path: &Path) -> anyhow::Result<Self> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
            made.with_context(|| format!("make the folder {}", parent.display()))?;
        }
        make_way(path)?;
        let socket = listen(path).with_context(|| format!("make the socket {}", path.display()))?;
        let file = identity(path).with_context(|| format!("look at the socket {}", path.display()))?;
        Ok(Self { socket: socket.into(), path: path.to_owned(), file })
    }

    /// The listener for the runtime that this is called in.
    pub(super) fn listener(&self) -> std::io::Result<UnixListener> {
        UnixListener::from_std(self.socket.try_clone()?)
    }
}

/// Takes the file away, unless another agent put its own there.
impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Removes the socket of an agent that is gone. Nothing else is removed.
fn make_way(path: &Path) -> anyhow::Result<()> {
    let Ok(file) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !file.file_type().is_socket() {
        bail!("{} is there already and is no socket", path.display());
    }
    match rustix::net::connect(&unbound()?, &SocketAddrUnix::new(path)?) {
        Err(Errno::CONNREFUSED) => {
            std::fs::remove_file(path).with_context(|| format!("remove the old socket {}", path.display()))
        }
        // Nobody took it out of a full queue.
        Ok(()) | Err(Errno::AGAIN) => bail!("another agent listens at {}", path.display()),
        Err(error) => Err(error).with_context(|| format!("look who listens at {}", path.display())),
    }
}

fn unbound() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// The file has its mode from the beginning: `bind` gives it that of the socket's own inode.
fn listen(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = unbound()?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, WAITING)?;
    Ok(socket)
}

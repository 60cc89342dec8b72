//! Descriptors of the kernel's that become readable, registered with the runtime.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// A descriptor that is owned, always the same one, and neither closed nor replaced by whoever has it.
pub(crate) trait Owned: AsRawFd {}

impl Owned for Hint {}
impl Owned for crate::host::kmsg::KernelLog {}

/// A second descriptor of something that others read; it only says when.
#[derive(Debug)]
pub(crate) struct Hint(OwnedFd);

impl Hint {
    /// Of this one.
    pub(crate) fn of(descriptor: impl std::os::fd::AsFd) -> io::Result<Self> {
        descriptor.as_fd().try_clone_to_owned().map(Self)
    }
}

impl AsRawFd for Hint {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Registers a descriptor.
pub(crate) fn watch<T: Owned>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: an `Owned` owns its descriptor, always gives the same one, and does not replace it behind the `AsyncFd`.
    unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }.map_err(|error| error.into_parts().1)
}

//! Processors that a guest of the virtual machine can have.

use std::fmt;

use crate::setup::Part;

/// As Debian calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arch {
    /// This machine's.
    Amd64,
    /// Emulated from another, and compiled for by `arm64.rs`.
    Arm64,
}

impl Arch {
    /// What guests with it need.
    pub(crate) fn part(self) -> Part {
        match self {
            Self::Amd64 => Part::Vm,
            Self::Arm64 => Part::VmArm64,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        })
    }
}

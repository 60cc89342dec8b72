//! Path of a cgroup from the root of its hierarchy: bytes, for the kernel allows any but `/` and NUL in a name.

use std::fmt;

/// Absolute path of a cgroup: `/` for the root, else `/a/b` without a slash at the end.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupPath(Vec<u8>);

impl CgroupPath {
    /// The root of the hierarchy.
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// From names, outermost first.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut bytes = Vec::new();
        for name in names {
            bytes.push(b'/');
            bytes.extend_from_slice(name);
        }
        if bytes.is_empty() { Self::root() } else { Self(bytes) }
    }

    /// From a path as the kernel writes it; repeated and closing slashes are dropped.
    pub fn from_bytes(path: &[u8]) -> Self {
        Self::from_names(path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()))
    }

    /// The path as the kernel writes it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Names, outermost first; none for the root.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// Number of names: the level of the cgroup below its root.
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// The ancestor at `depth`, or `None` where this path is not so deep.
    pub fn ancestor(&self, depth: usize) -> Option<Self> {
        (depth <= self.depth()).then(|| Self::from_names(self.names().take(depth)))
    }

    /// Whether this is `other` or lies below it.
    pub fn is_within(&self, other: &Self) -> bool {
        let mut names = self.names();
        other.names().all(|name| names.next() == Some(name))
    }
}

impl fmt::Debug for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CgroupPath({})", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_no_names() {
        assert_eq!(CgroupPath::from_bytes(b"/"), CgroupPath::root());
        assert_eq!(CgroupPath::from_bytes(b""), CgroupPath::root());
        assert_eq!(CgroupPath::root().depth(), 0);
    }

    #[test]
    fn an_ancestor_keeps_the_outer_names() {
        let path = CgroupPath::from_bytes(b"/kubepods/pod1/c");
        assert_eq!(path.ancestor(2), Some(CgroupPath::from_bytes(b"/kubepods/pod1")));
        assert_eq!(path.ancestor(0), Some(CgroupPath::root()));
        assert_eq!(path.ancestor(4), None);
    }

    #[test]
    fn a_sibling_with_the_same_beginning_is_not_within() {
        let a = CgroupPath::from_bytes(b"/a");
        assert!(CgroupPath::from_bytes(b"/a/b").is_within(&a));
        assert!(a.is_within(&a));
        assert!(!CgroupPath::from_bytes(b"/ab").is_within(&a));
        assert!(a.is_within(&CgroupPath::root()));
    }
}

//! Full path of a cgroup, read from kernfs while the cgroup is certain to exist.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use oomwatch_common::{Field, MAX_NAME, MAX_PATH, PathBytes};

use crate::kernel::{Object, read};

/// Deepest cgroup whose path is read whole. Bounds the verifier's work.
const MAX_DEPTH: u32 = 64;

/// Writes the names from `cgroup` upward into `path`, each with its NUL, without the root's empty one.
#[inline(always)]
pub(crate) fn write(path: &mut PathBytes, cgroup: Object) {
    path.len = 0;
    let mut node = Object(cgroup.get(Field::CgroupKn));
    let mut depth = 0;
    path.truncated = 1;
    while depth < MAX_DEPTH {
        let parent = node.get::<u64>(Field::KernfsParent);
        if parent == 0 {
            path.truncated = 0;
            break;
        }
        let name: u64 = match node.address_of(Field::KernfsName) {
            Some(address) => read(address),
            None => break,
        };
        // Volatile, and after every other call, so that the bound is checked on the very register that the helper gets:
        // verifiers before Linux 6.8 or so forget the bound of a value that was kept on the stack meanwhile.
        // SAFETY: a reference is valid for reading.
        let used = unsafe { core::ptr::read_volatile(&raw const path.len) } as usize;
        if used >= MAX_PATH {
            break;
        }
        // SAFETY: `used < MAX_PATH` leaves MAX_NAME bytes behind it in `bytes` (PATH_CAPACITY); the helper
        // writes no more and checks the address itself.
        let written = unsafe {
            bpf_probe_read_kernel_str(
                path.bytes.as_mut_ptr().add(used).cast(),
                MAX_NAME as u32,
                name as *const core::ffi::c_void,
            )
        };
        if written <= 0 {
            break;
        }
        path.len += written.unsigned_abs() as u32;
        node = Object(parent);
        depth += 1;
    }
}

/// Marks a path as one that could not be read.
#[inline(always)]
pub(crate) fn unknown(path: &mut PathBytes) {
    path.len = 0;
    path.truncated = 1;
}

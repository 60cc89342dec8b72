//! Reads BTF, the kernel's description of its own types: the bytes of `/sys/kernel/btf/vmlinux` enter; byte offsets
//! of members, sizes, enum values and function arguments leave. No IO, and no bytes make it panic or run on.
//!
//! The format: Linux `Documentation/bpf/btf.rst`.

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const VERSION: u8 = 1;
/// Size of the header, bytes; later versions of it have more.
const HEADER: u32 = 24;
/// Bytes of a type before what its kind adds.
const TYPE_HEADER: usize = 12;
/// Position of every so-many-th type kept; the others are reached by walking at most this many headers.
const STRIDE: u32 = 64;
/// Longest chain of typedefs, qualifiers or nested arrays followed; the kernel's own limit is 32 (`MAX_RESOLVE_DEPTH`).
const MAX_CHAIN: u32 = 32;
/// Deepest nesting of anonymous structs and unions searched.
const MAX_NESTING: u32 = 16;
/// Members looked at in one search: `task_struct` has about 300, so only crafted bytes reach this.
const MAX_MEMBERS: u32 = 1 << 12;
/// Size of a pointer of the kernel, bytes: the agent runs on 64-bit kernels only.
const POINTER_SIZE: u32 = 8;

/// Why bytes are not BTF of this machine.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum BtfError {
    /// Shorter than its header says.
    #[error("BTF is cut off: {0}")]
    CutOff(&'static str),
    /// Does not start with BTF's magic number in this machine's byte order.
    #[error("not BTF of this machine: magic {0:#06x}")]
    Magic(u16),
    /// A version of the format from after this program.
    #[error("BTF version {0} is not known")]
    Version(u8),
    /// A kind of type from after this program, of which the bytes do not tell the size.
    #[error("BTF type {id} is of unknown kind {kind}")]
    Kind {
        /// Type id.
        id: u32,
        /// `BTF_KIND_*`.
        kind: u32,
    },
}

/// Names a type within one [`Btf`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TypeId(u32);

/// BTF with these functions under their ids, and forward declarations under all others. aya looks functions up in BTF of
/// which it keeps every type, and that of a kernel has 126,000, with their members.
pub(crate) fn of_functions(functions: &[(&str, TypeId)]) -> Vec<u8> {
    const FORWARD: [u32; 3] = [0, 7 << 24, 0];
    const FUNCTION: u32 = 12 << 24;
    let count = functions.iter().map(|(_, id)| id.0).max().unwrap_or(0);
    let mut types = vec![FORWARD; count as usize];
    let mut strings = vec![0];
    for (name, TypeId(id)) in functions {
        if let Some(function) = types.get_mut(id.saturating_sub(1) as usize) {
            *function = [length(&strings), FUNCTION, 0];
            strings.extend(name.bytes().chain([0]));
        }
    }
    let types = types.as_flattened();
    let types_len = 4 * length(types);
    let words = [HEADER, 0, types_len, types_len, length(&strings)];
    let words = words.iter().chain(types).flat_map(|word| word.to_ne_bytes());
    MAGIC.to_ne_bytes().into_iter().chain([VERSION, 0]).chain(words).chain(strings.iter().copied()).collect()
}

/// What a type is, as far as this reader cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An integer, `bool` and `char` included.
    Integer,
    /// A pointer.
    Pointer,
    /// An array.
    Array,
    /// A `struct` with its members.
    Struct,
    /// A `union` with its members.
    Union,
    /// An `enum` of 32-bit or 64-bit values.
    Enum,
    /// A `struct` or `union` without its members.
    Forward,
    /// A `typedef`.
    Typedef,
    /// `const`, `volatile`, `restrict`, or a tag such as `__rcu`.
    Qualifier,
    /// A function.
    Function,
    /// Arguments of a function.
    Prototype,
    /// Anything else.
    Other,
}

/// A member found by [`Btf::member`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Bytes from the start of the type searched.
    pub(crate) offset: u32,
    /// Its type.
    pub(crate) type_id: TypeId,
}

/// A type and the bytes that its kind adds: a fixed part, then entries of equal size.
#[derive(Clone, Copy)]
struct TypeRecord<'a> {
    kind: Kind,
    flag: bool,
    name: u32,
    /// Size in bytes or a type id, by kind.
    size_or_type: u32,
    fixed: &'a [u8],
    entries: &'a [u8],
    entry_size: usize,
}

/// BTF whose every type was found to lie within the bytes.
///
/// Why not a crate: measured on Linux 6.18 (126 610 types; 2-core VM, release build, best of 3), from opening the file
/// (5.4 MB; reading it takes 4.6 ms) to the answer, with the growth of peak memory. btf-rs is LGPL.
///
/// | reader | asked for | time | memory |
/// |---|---|---|---|
/// | `btf` 0.5.1 (MIT) | one member | 212 ms | 83 MB |
/// | `btfdump` 0.0.5 (BSD-2-Clause; slices unchecked, so crafted bytes panic) | one member | 22 ms | 20 MB |
/// | this | the whole table | 7.6 ms | 5.5 MB, given back |
#[derive(Debug)]
pub(crate) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Sizes of the kinds, where the kernel tells them (`struct btf_layout`): to step over kinds from after this program.
    layout: &'a [u8],
    /// Positions of the types 1, 1 + STRIDE, ...
    marks: Vec<usize>,
    count: u32,
}

impl<'a> Btf<'a> {
    /// Checks the header and the extent of every type.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let head = bytes.first_chunk::<4>().ok_or(BtfError::CutOff("header"))?;
        let magic = u16::from_ne_bytes([head[0], head[1]]);
        if magic != MAGIC {
            return Err(BtfError::Magic(magic));
        }
        if head[2] != VERSION {
            return Err(BtfError::Version(head[2]));
        }
        let header_len = word(bytes, 1).ok_or(BtfError::CutOff("header"))?;
        let section = |nth: usize, name: &'static str| {
            let from_to = word(bytes, nth).zip(word(bytes, nth + 1)).and_then(|(offset, len)| {
                let start = header_len.checked_add(offset)?;
                Some((start as usize, start.checked_add(len)? as usize))
            });
            from_to.and_then(|(start, end)| bytes.get(start..end)).ok_or(BtfError::CutOff(name))
        };
        // A header of 32 bytes or more also places the layout; without one, only kinds known here can be read.
        let layout = if header_len >= 32 { section(6, "layout").unwrap_or_default() } else { &[] };
        let mut btf =
            Self { types: section(2, "types")?, strings: section(4, "strings")?, layout, marks: Vec::new(), count: 0 };
        btf.mark_types()?;
        Ok(btf)
    }

    fn mark_types(&mut self) -> Result<(), BtfError> {
        let mut at = 0;
        while at < self.types.len() {
            if self.count.is_multiple_of(STRIDE) {
                self.marks.push(at);
            }
            self.count += 1;
            (_, at) = self.decode(at, self.count)?;
        }
        Ok(())
    }

    /// The type at a position, and the position behind it.
    #[inline]
    fn decode(&self, at: usize, id: u32) -> Result<(TypeRecord<'a>, usize), BtfError> {
        let cut_off = BtfError::CutOff("types");
        let Some(header) = self.types.get(at..).and_then(<[u8]>::first_chunk::<TYPE_HEADER>) else {
            return Err(cut_off);
        };
        let [n0, n1, n2, n3, i0, i1, i2, i3, s0, s1, s2, s3] = *header;
        let info = u32::from_ne_bytes([i0, i1, i2, i3]);
        let raw_kind = (info >> 24) & 0x1f;
        let Some((kind, fixed, entry_size)) = kind_of(raw_kind).or_else(|| self.layout_of(raw_kind)) else {
            return Err(BtfError::Kind { id, kind: raw_kind });
        };
        let entries = if entry_size == 0 { 0 } else { (info & 0xffff) as usize };
        let fixed_at = at + TYPE_HEADER;
        let end = fixed_at + fixed + entries * entry_size;
        let Some((fixed, entries)) = self.types.get(fixed_at..end).and_then(|extra| extra.split_at_checked(fixed))
        else {
            return Err(cut_off);
        };
        let found = TypeRecord {
            kind,
            flag: info >> 31 == 1,
            name: u32::from_ne_bytes([n0, n1, n2, n3]),
            size_or_type: u32::from_ne_bytes([s0, s1, s2, s3]),
            fixed,
            entries,
            entry_size,
        };
        Ok((found, end))
    }

    fn layout_of(&self, raw_kind: u32) -> Option<(Kind, usize, usize)> {
        let entry = self.layout.get(raw_kind as usize * 4..)?.first_chunk::<4>()?;
        Some((Kind::Other, usize::from(entry[0]), usize::from(entry[1])))
    }

    /// `None` for `void` and for ids that no type has.
    fn type_of(&self, id: TypeId) -> Option<TypeRecord<'a>> {
        let nth = id.0.checked_sub(1).filter(|nth| *nth < self.count)?;
        let mut at = *self.marks.get((nth / STRIDE) as usize)?;
        for _ in 0..nth % STRIDE {
            (_, at) = self.decode(at, id.0).ok()?;
        }
        Some(self.decode(at, id.0).ok()?.0)
    }

    fn name_is(&self, offset: u32, name: &str) -> bool {
        let rest = self.strings.get(offset as usize..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// Every type with one of the names and its kind, in one pass; the same name may occur more than once.
    pub(crate) fn find<'n>(&self, wanted: &[(Kind, &'n str)]) -> Vec<(&'n str, TypeId)> {
        let kinds = wanted.iter().fold(0_u32, |kinds, (kind, _)| kinds | 1 << *kind as u32);
        let mut found = Vec::new();
        let mut at = 0;
        for id in 1..=self.count {
            let Ok((candidate, next)) = self.decode(at, id) else { break };
            at = next;
            if kinds & 1 << candidate.kind as u32 == 0 {
                continue;
            }
            let named = |(kind, name): &&(Kind, &str)| *kind == candidate.kind && self.name_is(candidate.name, name);
            if let Some((_, name)) = wanted.iter().find(named) {
                found.push((*name, TypeId(id)));
            }
        }
        found
    }

    /// Follows typedefs and qualifiers.
    fn strip(&self, id: TypeId) -> Option<TypeRecord<'a>> {
        let mut id = id;
        for _ in 0..MAX_CHAIN {
            let found = self.type_of(id)?;
            match found.kind {
                Kind::Typedef | Kind::Qualifier => id = TypeId(found.size_or_type),
                _ => return Some(found),
            }
        }
        None
    }

    /// Kind of a type without its typedefs and qualifiers; `None` for `void`.
    pub(crate) fn kind(&self, id: TypeId) -> Option<Kind> {
        Some(self.strip(id)?.kind)
    }

    /// Whether a type, without its typedefs and qualifiers, is the struct of this name, with or without members.
    pub(crate) fn is_struct(&self, id: TypeId, name: &str) -> bool {
        self.strip(id).is_some_and(|found| {
            let is_struct = found.kind == Kind::Struct || (found.kind == Kind::Forward && !found.flag);
            is_struct && self.name_is(found.name, name)
        })
    }

    /// What a pointer points to.
    pub(crate) fn pointee(&self, id: TypeId) -> Option<TypeId> {
        let found = self.strip(id)?;
        (found.kind == Kind::Pointer).then_some(TypeId(found.size_or_type))
    }

    /// Element of an array and the number of elements.
    pub(crate) fn array(&self, id: TypeId) -> Option<(TypeId, u32)> {
        let found = self.strip(id)?;
        if found.kind != Kind::Array {
            return None;
        }
        Some((TypeId(word(found.fixed, 0)?), word(found.fixed, 2)?))
    }

    /// Size of a type, bytes.
    pub(crate) fn size(&self, id: TypeId) -> Option<u32> {
        let mut id = id;
        let mut times: u32 = 1;
        for _ in 0..MAX_CHAIN {
            let found = self.strip(id)?;
            let one = match found.kind {
                Kind::Integer | Kind::Struct | Kind::Union | Kind::Enum => found.size_or_type,
                Kind::Pointer => POINTER_SIZE,
                Kind::Array => {
                    times = times.checked_mul(word(found.fixed, 2)?)?;
                    id = TypeId(word(found.fixed, 0)?);
                    continue;
                }
                _ => return None,
            };
            return one.checked_mul(times);
        }
        None
    }

    /// A member of a struct or union by its path; members of anonymous structs and unions count as the type's own.
    /// `None` where there is none, or where it is a bit-field.
    pub(crate) fn member(&self, of: TypeId, path: &[&str]) -> Option<Member> {
        let mut budget = MAX_MEMBERS;
        path.iter().try_fold(Member { offset: 0, type_id: of }, |outer, name| {
            let inner = self.member_named(outer.type_id, name, MAX_NESTING, &mut budget)?;
            Some(Member { offset: outer.offset.checked_add(inner.offset)?, ..inner })
        })
    }

    fn member_named(&self, of: TypeId, name: &str, nesting: u32, budget: &mut u32) -> Option<Member> {
        let outer = self.strip(of).filter(|outer| matches!(outer.kind, Kind::Struct | Kind::Union))?;
        for entry in outer.entries() {
            *budget = budget.checked_sub(1)?;
            let (entry_name, type_id) = (word(entry, 0)?, TypeId(word(entry, 1)?));
            if self.name_is(entry_name, name) {
                return Some(Member { offset: self.byte_offset(outer.flag, entry)?, type_id });
            }
            if nesting == 0 || !self.name_is(entry_name, "") {
                continue;
            }
            if let Some(inner) = self.member_named(type_id, name, nesting - 1, budget) {
                let offset = self.byte_offset(outer.flag, entry)?.checked_add(inner.offset)?;
                return Some(Member { offset, ..inner });
            }
        }
        None
    }

    /// Where a member starts, unless it is a bit-field.
    fn byte_offset(&self, flag: bool, entry: &[u8]) -> Option<u32> {
        let encoded = word(entry, 2)?;
        // With the flag, the top byte is the width of a bit-field; without, only the integer's own encoding tells.
        let (bits, width) = if flag { (encoded & 0x00ff_ffff, encoded >> 24) } else { (encoded, 0) };
        let narrow = self.strip(TypeId(word(entry, 1)?)).is_some_and(|member| {
            let whole = member.size_or_type.checked_mul(8);
            member.kind == Kind::Integer && word(member.fixed, 0).is_some_and(|info| whole != Some(info & 0x00ff_00ff))
        });
        (width == 0 && !narrow && bits.is_multiple_of(8)).then_some(bits / 8)
    }

    /// Value of an enumerator; `None` where there is none, or where it is negative or above 32 bits.
    pub(crate) fn enumerator(&self, of: TypeId, name: &str) -> Option<u32> {
        let found = self.strip(of).filter(|found| found.kind == Kind::Enum)?;
        let entry = found.entries().find(|entry| word(entry, 0).is_some_and(|offset| self.name_is(offset, name)))?;
        let value = word(entry, 1)?;
        let fits = match word(entry, 2) {
            Some(high) => high == 0,
            None => !found.flag || i32::try_from(value).is_ok(),
        };
        fits.then_some(value)
    }

    /// Types of the arguments of a function, of a prototype, or of what a pointer to a function points to.
    pub(crate) fn arguments(&self, id: TypeId) -> Option<Vec<TypeId>> {
        let mut found = self.strip(id)?;
        if matches!(found.kind, Kind::Pointer | Kind::Function) {
            found = self.strip(TypeId(found.size_or_type))?;
        }
        if found.kind != Kind::Prototype {
            return None;
        }
        found.entries().map(|entry| word(entry, 1).map(TypeId)).collect()
    }
}

impl<'a> TypeRecord<'a> {
    fn entries(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.entries.chunks_exact(self.entry_size.max(1))
    }
}

/// Kind, size of the fixed part and size of an entry of a `BTF_KIND_*`.
#[inline]
fn kind_of(raw_kind: u32) -> Option<(Kind, usize, usize)> {
    Some(match raw_kind {
        1 => (Kind::Integer, 4, 0),
        2 => (Kind::Pointer, 0, 0),
        3 => (Kind::Array, 12, 0),
        4 => (Kind::Struct, 0, 12),
        5 => (Kind::Union, 0, 12),
        6 => (Kind::Enum, 0, 8),
        7 => (Kind::Forward, 0, 0),
        8 => (Kind::Typedef, 0, 0),
        9..=11 | 18 => (Kind::Qualifier, 0, 0),
        12 => (Kind::Function, 0, 0),
        13 => (Kind::Prototype, 0, 8),
        // Variables and declaration tags; sections; floating point.
        14 | 17 => (Kind::Other, 4, 0),
        15 => (Kind::Other, 0, 12),
        16 => (Kind::Other, 0, 0),
        19 => (Kind::Enum, 0, 12),
        _ => return None,
    })
}

/// Length of what is short.
fn length<T>(of: &[T]) -> u32 {
    u32::try_from(of.len()).unwrap_or(u32::MAX)
}

#[inline]
fn word(bytes: &[u8], nth: usize) -> Option<u32> {
    bytes.get(nth * 4..)?.first_chunk::<4>().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
#[path = "btf_tests.rs"]
mod tests;

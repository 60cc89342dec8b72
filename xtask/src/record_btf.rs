//! `record-btf`: cuts the BTF of a kernel down to what the agent looks up, as a test fixture.
//!
//! In: the bytes of `/sys/kernel/btf/vmlinux`, or of the section `.BTF` of an unpacked kernel. Out: valid BTF of the
//! wanted types and everything they hold by value; what they only point to becomes a forward declaration.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Largest fixture that is written, bytes.
const MAX_FIXTURE: usize = 64 * 1024;
const HEADER_WORDS: usize = 6;

const PTR: u32 = 2;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FWD: u32 = 7;
const TYPEDEF: u32 = 8;
const FUNC: u32 = 12;

/// What the agent looks up (`oomwatch/src/sources/kernel/offsets.rs`).
const WANTED: [(u32, &str); 24] = [
    (STRUCT, "task_struct"),
    (STRUCT, "pid"),
    (STRUCT, "upid"),
    (STRUCT, "css_set"),
    (STRUCT, "cgroup_subsys_state"),
    (STRUCT, "cgroup"),
    (STRUCT, "cgroup_root"),
    (STRUCT, "kernfs_node"),
    (STRUCT, "signal_struct"),
    (STRUCT, "cred"),
    (STRUCT, "mm_struct"),
    (STRUCT, "oom_control"),
    (STRUCT, "mem_cgroup"),
    (STRUCT, "page_counter"),
    (ENUM, "cgroup_subsys_id"),
    (ENUM, "memcg_memory_event"),
    (TYPEDEF, "btf_trace_mark_victim"),
    (TYPEDEF, "btf_trace_mm_vmscan_memcg_reclaim_end"),
    (FUNC, "oom_kill_process"),
    (FUNC, "__oom_kill_process"),
    (FUNC, "mem_cgroup_out_of_memory"),
    (FUNC, "mark_oom_victim"),
    (FUNC, "out_of_memory"),
    (FUNC, "oom_kill_memcg_member"),
];

/// Writes the fixture `out` from the BTF in `vmlinux_btf`.
pub(crate) fn run(vmlinux_btf: &Path, out: &Path) -> Result<()> {
    let bytes = fs::read(vmlinux_btf).with_context(|| format!("read {}", vmlinux_btf.display()))?;
    let fixture = Blob::parse(&bytes).and_then(|blob| blob.trimmed()).context("trim BTF")?;
    ensure!(fixture.len() < MAX_FIXTURE, "the fixture would take {} bytes of {MAX_FIXTURE}", fixture.len());
    fs::write(out, fixture).with_context(|| format!("write {}", out.display()))
}

/// One word of what a kind adds to a type.
#[derive(Clone, Copy, PartialEq)]
enum Word {
    Name,
    Type,
    Plain,
}

/// What a kind adds to the three words of every type.
struct Shape {
    /// The third word is a type, not a size.
    refers: bool,
    fixed: &'static [Word],
    entry: &'static [Word],
}

/// Layout of a kind (Linux `Documentation/bpf/btf.rst`).
fn shape(kind: u32) -> Result<Shape> {
    use Word::{Name, Plain, Type};
    let (refers, fixed, entry): (bool, &[Word], &[Word]) = match kind {
        1 => (false, &[Plain], &[]),
        3 => (false, &[Type, Type, Plain], &[]),
        STRUCT | UNION => (false, &[], &[Name, Type, Plain]),
        ENUM => (false, &[], &[Name, Plain]),
        FWD | 16 => (false, &[], &[]),
        PTR | TYPEDEF | 9..=FUNC | 18 => (true, &[], &[]),
        13 => (true, &[], &[Name, Type]),
        14 | 17 => (true, &[Plain], &[]),
        15 => (false, &[], &[Type, Plain, Plain]),
        19 => (false, &[], &[Name, Plain, Plain]),
        _ => bail!("BTF kind {kind} is not known"),
    };
    Ok(Shape { refers, fixed, entry })
}

struct TypeRecord {
    name: u32,
    info: u32,
    size_or_type: u32,
    /// What the kind adds, and what each word of it is.
    extra: Vec<(Word, u32)>,
    refers: bool,
}

impl TypeRecord {
    fn kind(&self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    /// Types that this one names, the target of a pointer included.
    fn references(&self) -> impl Iterator<Item = u32> {
        let own = self.refers.then_some(self.size_or_type);
        own.into_iter().chain(self.extra.iter().filter(|(word, _)| *word == Word::Type).map(|(_, id)| *id))
    }
}

struct Blob<'a> {
    /// Type 1 is the first; 0 is `void`.
    types: Vec<TypeRecord>,
    strings: &'a [u8],
}

impl<'a> Blob<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let header: Vec<u32> = words(bytes).take(HEADER_WORDS).collect();
        let &[magic, header_len, type_offset, type_len, string_offset, string_len] = header.as_slice() else {
            bail!("no BTF header");
        };
        ensure!(magic & 0xffff == 0xeb9f, "not BTF of this machine's byte order");
        let section = |offset: u32, len: u32| {
            let start = header_len as usize + offset as usize;
            bytes.get(start..start + len as usize).context("BTF is cut off")
        };
        let mut rest = words(section(type_offset, type_len)?);
        let mut types = Vec::new();
        while let Some(name) = rest.next() {
            types.push(parse_type(name, &mut rest)?);
        }
        Ok(Self { types, strings: section(string_offset, string_len)? })
    }

    fn get(&self, id: u32) -> Option<&TypeRecord> {
        self.types.get((id as usize).checked_sub(1)?)
    }

    fn string(&self, offset: u32) -> Result<&'a [u8]> {
        let rest = self.strings.get(offset as usize..).context("a name lies outside of the strings")?;
        rest.split(|byte| *byte == 0).next().context("a name does not end")
    }

    /// The struct or union behind qualifiers and typedefs.
    fn composite(&self, id: u32) -> Option<u32> {
        let mut id = id;
        for _ in 0..32 {
            let found = self.get(id)?;
            match found.kind() {
                STRUCT | UNION | FWD => return Some(id),
                TYPEDEF | 9..=11 | 18 => id = found.size_or_type,
                _ => return None,
            }
        }
        None
    }

    /// Ids of the wanted types and of what they hold by value.
    fn kept(&self) -> Result<BTreeSet<u32>> {
        let mut kept = BTreeSet::new();
        let mut open = Vec::new();
        for (id, found) in (1_u32..).zip(&self.types) {
            let name = self.string(found.name)?;
            if !WANTED.iter().any(|(kind, wanted)| *kind == found.kind() && wanted.as_bytes() == name) {
                continue;
            }
            open.push(id);
            if found.kind() == TYPEDEF {
                // `btf_trace_*` is a typedef of a pointer to the prototype: the prototype is what is wanted.
                open.extend(self.get(found.size_or_type).map(|pointer| pointer.size_or_type));
            }
        }
        while let Some(id) = open.pop() {
            if let Some(found) = self.get(id)
                && kept.insert(id)
                && found.kind() != PTR
            {
                open.extend(found.references());
            }
        }
        Ok(kept)
    }

    fn trimmed(&self) -> Result<Vec<u8>> {
        let kept = self.kept()?;
        let new_ids: BTreeMap<u32, u32> = kept.iter().copied().zip(1..).collect();
        let mut writer = Writer { next_id: u32::try_from(kept.len())? + 1, ..Writer::default() };
        writer.string(b"");
        for found in kept.iter().filter_map(|id| self.get(*id)) {
            let renamed = |id: u32| new_ids.get(&id).copied();
            let size_or_type = match found.kind() {
                PTR => match renamed(found.size_or_type) {
                    Some(id) => id,
                    None => self.target(found.size_or_type, &new_ids, &mut writer)?,
                },
                _ if found.refers => renamed(found.size_or_type).unwrap_or(0),
                _ => found.size_or_type,
            };
            let name = writer.string(self.string(found.name)?);
            writer.types.extend([name, found.info, size_or_type]);
            for (word, value) in &found.extra {
                let value = match word {
                    Word::Name => writer.string(self.string(*value)?),
                    Word::Type => renamed(*value).unwrap_or(0),
                    Word::Plain => *value,
                };
                writer.types.push(value);
            }
        }
        writer.finish()
    }

    /// Stand-in for the target of a pointer: a kept type, a forward declaration, or `void`.
    fn target(&self, id: u32, new_ids: &BTreeMap<u32, u32>, writer: &mut Writer) -> Result<u32> {
        let Some(composite) = self.composite(id) else { return Ok(0) };
        if let Some(kept) = new_ids.get(&composite) {
            return Ok(*kept);
        }
        let Some(found) = self.get(composite).filter(|found| found.name != 0) else { return Ok(0) };
        let is_union = found.kind() == UNION || (found.kind() == FWD && found.info >> 31 == 1);
        Ok(writer.forward(self.string(found.name)?, is_union))
    }
}

fn parse_type(name: u32, rest: &mut impl Iterator<Item = u32>) -> Result<TypeRecord> {
    let mut next = || rest.next().context("BTF types are cut off");
    let (info, size_or_type) = (next()?, next()?);
    let shape = shape((info >> 24) & 0x1f)?;
    let entries = shape.entry.iter().cycle().take(shape.entry.len() * (info & 0xffff) as usize);
    let layout = shape.fixed.iter().chain(entries);
    let extra = layout.map(|word| Ok((*word, next()?))).collect::<Result<_>>()?;
    Ok(TypeRecord { name, info, size_or_type, extra, refers: shape.refers })
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_ne_bytes(*word))
}

/// The BTF being written.
#[derive(Default)]
struct Writer {
    types: Vec<u32>,
    forwards: Vec<u32>,
    forward_ids: BTreeMap<(Vec<u8>, bool), u32>,
    next_id: u32,
    strings: Vec<u8>,
    offsets: BTreeMap<Vec<u8>, u32>,
}

impl Writer {
    fn string(&mut self, string: &[u8]) -> u32 {
        if let Some(offset) = self.offsets.get(string) {
            return *offset;
        }
        // The whole fixture is below 64 KiB, or it is refused.
        let offset = u32::try_from(self.strings.len()).unwrap_or(u32::MAX);
        self.strings.extend_from_slice(string);
        self.strings.push(0);
        self.offsets.insert(string.to_vec(), offset);
        offset
    }

    fn forward(&mut self, name: &[u8], is_union: bool) -> u32 {
        let key = (name.to_vec(), is_union);
        if let Some(id) = self.forward_ids.get(&key) {
            return *id;
        }
        let id = self.next_id;
        self.next_id += 1;
        let name = self.string(name);
        self.forwards.extend([name, u32::from(is_union) << 31 | FWD << 24, 0]);
        self.forward_ids.insert(key, id);
        id
    }

    fn finish(self) -> Result<Vec<u8>> {
        let types: Vec<u32> = self.types.into_iter().chain(self.forwards).collect();
        let type_len = u32::try_from(types.len() * 4)?;
        let string_len = u32::try_from(self.strings.len())?;
        let header = [0x0001_eb9f, 24, 0, type_len, type_len, string_len];
        let mut bytes: Vec<u8> = header.into_iter().chain(types).flat_map(u32::to_ne_bytes).collect();
        bytes.extend(self.strings);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::Blob;

    const RECORDED: &[u8] = include_bytes!("../../tests/fixtures/btf/7.2.13.btf");

    #[test]
    fn what_was_cut_down_stays_as_it_is_when_cut_again() {
        let blob = Blob::parse(RECORDED).expect("a recorded fixture is BTF");
        assert_eq!(blob.trimmed().expect("it can be written"), RECORDED);
    }

    #[test]
    fn only_the_wanted_types_are_kept() {
        let blob = Blob::parse(RECORDED).expect("a recorded fixture is BTF");
        let named = |name: &str| {
            let id =
                (1_u32..).zip(&blob.types).find(|(_, found)| blob.string(found.name).ok() == Some(name.as_bytes()));
            id.map(|(id, found)| (id, found.kind()))
        };
        let kept = blob.kept().expect("names are in range");
        assert!(named("task_struct").is_some_and(|(id, kind)| kind == super::STRUCT && kept.contains(&id)));
        assert!(named("css_set").is_some_and(|(id, kind)| kind == super::STRUCT && kept.contains(&id)));
        assert!(named("files_struct").is_some_and(|(id, kind)| kind == super::FWD && !kept.contains(&id)));
    }

    #[test]
    fn bytes_that_are_cut_off_are_refused() {
        for len in (0..RECORDED.len()).step_by(97) {
            assert!(Blob::parse(&RECORDED[..len]).is_err(), "{len} of {} bytes", RECORDED.len());
        }
    }
}

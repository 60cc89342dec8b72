//! BTF written by hand, one oddity a test, and a recorded blob cut off at every byte.

use super::{Btf, BtfError, Kind, TypeId};

const RECORDED: &[u8] = include_bytes!("../../../../tests/fixtures/btf/6.18.44.btf");

const INT: u32 = 1;
const PTR: u32 = 2;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const CONST: u32 = 10;
const FUNC: u32 = 12;
const PROTO: u32 = 13;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;
const FLAG: u32 = 1 << 31;

/// BTF being written: type ids count from 1.
struct Writer {
    types: Vec<u32>,
    strings: Vec<u8>,
    count: u32,
}

impl Writer {
    fn new() -> Self {
        Self { types: Vec::new(), strings: vec![0], count: 0 }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(name.bytes().chain([0]));
        offset
    }

    /// Adds a type: `info` is the kind with its flag; an entry is a name and what follows it.
    fn add(&mut self, info: u32, name: &str, size_or_type: u32, entries: &[(&str, &[u32])]) -> u32 {
        let name = self.name(name);
        let kind = info & !FLAG;
        let vlen = u32::try_from(entries.len()).unwrap();
        self.types.extend([name, info & FLAG | kind << 24 | vlen, size_or_type]);
        for (name, words) in entries {
            let name = self.name(name);
            self.types.push(name);
            self.types.extend_from_slice(words);
        }
        self.count += 1;
        self.count
    }

    fn int(&mut self, name: &str, size: u32, bits: u32) -> u32 {
        let id = self.add(INT, name, size, &[]);
        self.types.push(bits);
        id
    }

    fn array(&mut self, element: u32, count: u32) -> u32 {
        let id = self.add(ARRAY, "", 0, &[]);
        self.types.extend([element, element, count]);
        id
    }

    fn bytes(&self) -> Vec<u8> {
        self.bytes_with_layout(&[])
    }

    fn bytes_with_layout(&self, layout: &[u8]) -> Vec<u8> {
        let types = u32::try_from(self.types.len() * 4).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        let layout_len = u32::try_from(layout.len()).unwrap();
        let head = if layout.is_empty() { 24 } else { 32 };
        let mut words = vec![0x0001_eb9f, head, 0, types, types, strings];
        if !layout.is_empty() {
            words.extend([types + strings, layout_len]);
        }
        let mut bytes: Vec<u8> = words.iter().chain(&self.types).flat_map(|word| word.to_ne_bytes()).collect();
        bytes.extend_from_slice(&self.strings);
        bytes.extend_from_slice(layout);
        bytes
    }
}

fn offset(btf: &Btf<'_>, of: u32, path: &[&str]) -> Option<u32> {
    btf.member(TypeId(of), path).map(|member| member.offset)
}

#[test]
fn members_of_anonymous_structs_and_unions_are_the_types_own() {
    let mut writer = Writer::new();
    let int = writer.int("int", 4, 32);
    let inner = writer.add(STRUCT, "", 8, &[("a", &[int, 0]), ("b", &[int, 32])]);
    let either = writer.add(UNION, "", 8, &[("", &[inner, 0]), ("c", &[int, 0])]);
    let named = writer.add(STRUCT, "named", 8, &[("x", &[int, 32])]);
    let outer = writer.add(STRUCT, "outer", 24, &[("first", &[int, 0]), ("", &[either, 64]), ("n", &[named, 128])]);
    let bytes = writer.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(offset(&btf, outer, &["b"]), Some(12));
    assert_eq!(offset(&btf, outer, &["c"]), Some(8));
    assert_eq!(offset(&btf, outer, &["n", "x"]), Some(20));
    assert_eq!(offset(&btf, outer, &["x"]), None, "a named member's own members are not the type's");
    assert_eq!(btf.size(TypeId(outer)), Some(24));
}

#[test]
fn bit_fields_are_refused() {
    let mut writer = Writer::new();
    let int = writer.int("int", 4, 32);
    let narrow = writer.int("int", 4, 3);
    let shifted = writer.int("int", 4, 32 | 8 << 16);
    let flagged =
        writer.add(STRUCT | FLAG, "f", 8, &[("whole", &[int, 0]), ("bit", &[int, 1 << 24 | 32]), ("u", &[int, 33])]);
    let plain =
        writer.add(STRUCT, "p", 8, &[("whole", &[int, 32]), ("bits", &[narrow, 0]), ("shifted", &[shifted, 0])]);
    let bytes = writer.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(offset(&btf, flagged, &["whole"]), Some(0));
    assert_eq!(offset(&btf, flagged, &["bit"]), None);
    assert_eq!(offset(&btf, flagged, &["u"]), None, "not at a whole byte");
    assert_eq!(offset(&btf, plain, &["whole"]), Some(4));
    assert_eq!(offset(&btf, plain, &["bits"]), None);
    assert_eq!(offset(&btf, plain, &["shifted"]), None);
}

#[test]
fn typedefs_qualifiers_and_tags_are_seen_through() {
    let mut writer = Writer::new();
    let task = writer.add(STRUCT, "task_struct", 8, &[]);
    let tagged = writer.add(TYPE_TAG, "rcu", task, &[]);
    let constant = writer.add(CONST, "", tagged, &[]);
    let pointer = writer.add(PTR, "", constant, &[]);
    let alias = writer.add(TYPEDEF, "task_ptr", pointer, &[]);
    let pointers = writer.array(alias, 3);
    let grid = writer.array(pointers, 2);
    let bytes = writer.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.kind(TypeId(alias)), Some(Kind::Pointer));
    assert!(btf.pointee(TypeId(alias)).is_some_and(|target| btf.is_struct(target, "task_struct")));
    assert!(!btf.is_struct(TypeId(task), "task_struc"), "a prefix is another name");
    assert_eq!(btf.array(TypeId(pointers)), Some((TypeId(alias), 3)));
    assert_eq!(btf.size(TypeId(grid)), Some(48));
}

#[test]
fn enumerators_are_read_unless_they_do_not_fit() {
    let mut writer = Writer::new();
    let small = writer.add(ENUM | FLAG, "small", 4, &[("FOUR", &[4]), ("NEGATIVE", &[u32::MAX])]);
    let wide = writer.add(ENUM64, "wide", 8, &[("FIVE", &[5, 0]), ("HUGE", &[5, 1])]);
    let bytes = writer.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.enumerator(TypeId(small), "FOUR"), Some(4));
    assert_eq!(btf.enumerator(TypeId(small), "NEGATIVE"), None);
    assert_eq!(btf.enumerator(TypeId(wide), "FIVE"), Some(5));
    assert_eq!(btf.enumerator(TypeId(wide), "HUGE"), None);
    assert_eq!(btf.enumerator(TypeId(wide), "FOUR"), None);
    let found = btf.find(&[(Kind::Enum, "small"), (Kind::Enum, "wide"), (Kind::Struct, "wide")]);
    assert_eq!(found, [("small", TypeId(small)), ("wide", TypeId(wide))]);
}

#[test]
fn arguments_are_those_of_the_function_or_of_what_is_pointed_to() {
    let mut writer = Writer::new();
    let int = writer.int("int", 4, 32);
    let proto = writer.add(PROTO, "", 0, &[("", &[int]), ("", &[0])]);
    let pointer = writer.add(PTR, "", proto, &[]);
    let trace = writer.add(TYPEDEF, "btf_trace_x", pointer, &[]);
    let function = writer.add(FUNC, "x", proto, &[]);
    let bytes = writer.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    for id in [proto, trace, function] {
        assert_eq!(btf.arguments(TypeId(id)), Some(vec![TypeId(int), TypeId(0)]));
    }
    assert_eq!(btf.arguments(TypeId(int)), None);
}

#[test]
fn types_that_hold_themselves_end() {
    let mut writer = Writer::new();
    let alias = writer.add(TYPEDEF, "t", 2, &[]);
    writer.add(TYPEDEF, "u", 1, &[]);
    let array = writer.array(3, 1);
    // Each member leads back to the struct: without a budget, 100 to the power of the nesting.
    let members: Vec<(&str, &[u32])> = vec![("", &[4, 0]); 100];
    let nested = writer.add(STRUCT, "nested", 8, &members);
    let bytes = writer.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.kind(TypeId(alias)), None);
    assert_eq!(btf.size(TypeId(array)), None);
    assert_eq!(offset(&btf, nested, &["x"]), None);
}

#[test]
fn ids_names_and_sizes_out_of_range_are_absent() {
    let mut writer = Writer::new();
    let int = writer.int("int", 4, 32);
    let huge = writer.array(int, u32::MAX);
    let stray = writer.add(STRUCT, "stray", 8, &[("a", &[99, 0]), ("", &[u32::MAX, 0])]);
    // The last type's name lies outside of the strings.
    writer.add(STRUCT, "", 8, &[]);
    let name_at = writer.types.len() - 3;
    writer.types[name_at] = u32::MAX;
    let bytes = writer.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.size(TypeId(huge)), None);
    assert_eq!(offset(&btf, stray, &["a", "b"]), None);
    assert_eq!(offset(&btf, stray, &["b"]), None);
    assert_eq!(btf.kind(TypeId(0)), None);
    assert_eq!(btf.kind(TypeId(u32::MAX)), None);
    assert_eq!(btf.find(&[(Kind::Struct, "x")]), []);
}

#[test]
fn unknown_kinds_are_stepped_over_where_the_kernel_tells_their_size() {
    let mut writer = Writer::new();
    writer.add(27, "new", 0, &[("", &[]), ("", &[])]);
    writer.types.push(7);
    let after = writer.int("int", 4, 32);
    assert_eq!(Btf::parse(&writer.bytes()).unwrap_err(), BtfError::Kind { id: 1, kind: 27 });
    let mut layout = vec![0; 27 * 4];
    layout.extend([4, 4, 0, 0]);
    let bytes = writer.bytes_with_layout(&layout);
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.size(TypeId(after)), Some(4));
}

#[test]
fn types_beyond_the_first_mark_are_found() {
    let mut writer = Writer::new();
    for size in 1..=300 {
        writer.int("int", size, 8);
    }
    let bytes = writer.bytes();
    let btf = Btf::parse(&bytes).unwrap();
    assert!((1..=300).all(|id| btf.size(TypeId(id)) == Some(id)));
    assert_eq!(btf.size(TypeId(301)), None);
}

#[test]
fn bytes_that_are_not_btf_of_this_machine_are_refused() {
    let mut swapped = RECORDED.to_vec();
    swapped.swap(0, 1);
    assert_eq!(Btf::parse(&swapped).unwrap_err(), BtfError::Magic(0x9feb));
    let mut newer = RECORDED.to_vec();
    newer[2] = 2;
    assert_eq!(Btf::parse(&newer).unwrap_err(), BtfError::Version(2));
    for len in 0..RECORDED.len() {
        let error = Btf::parse(&RECORDED[..len]).unwrap_err();
        assert!(matches!(error, BtfError::CutOff(_)), "{error} at {len} bytes");
    }
}

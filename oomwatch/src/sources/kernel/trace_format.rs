//! The tracepoint's own record, read by its format file: all there is of a victim on a kernel without BTF.
//!
//! `events/oom/mark_victim/format` of tracefs. Before Linux 6.9 (and the stable kernels that took the change) the
//! record has only the thread id. Its sizes are kB.

use std::collections::HashMap;

use oomwatch_common::TraceRecord;

use super::decode::until_nul;
use crate::observation::{Victim, VictimMemory};

/// Where the fields of `oom:mark_victim` lie.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TraceFormat {
    fields: HashMap<String, Field>,
}

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    offset: usize,
    size: usize,
}

impl TraceFormat {
    /// Reads a format file; `None` where it has no `pid`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let fields: HashMap<String, Field> = text.lines().filter_map(field).collect();
        fields.contains_key("pid").then_some(Self { fields })
    }

    /// A victim, as far as the record tells.
    pub(super) fn victim(&self, trace: &TraceRecord) -> Victim {
        let unsigned = |name: &str| self.unsigned(trace, name);
        let kib = |name: &str| unsigned(name).map(|kib| kib.saturating_mul(1024));
        let narrow = |name: &str| unsigned(name).and_then(|value| u32::try_from(value).ok());
        Victim {
            boot_ns: trace.header.boot_ns,
            start_ns: None,
            pid: None,
            tid: narrow("pid").unwrap_or_default(),
            ns_pid: None,
            comm: self.comm(trace),
            uid: narrow("uid"),
            oom_score_adj: unsigned("oom_score_adj").and_then(|value| i32::try_from(value.cast_signed()).ok()),
            memory: kib("anon_rss").map(|anon_rss_bytes| VictimMemory {
                total_vm_bytes: kib("total_vm").unwrap_or_default(),
                anon_rss_bytes,
                file_rss_bytes: kib("file_rss").unwrap_or_default(),
                shmem_rss_bytes: kib("shmem_rss").unwrap_or_default(),
                swap_bytes: None,
                pgtables_bytes: kib("pgtables").unwrap_or_default(),
            }),
            trigger_pid: trace.trigger_tgid,
            trigger_tid: trace.trigger_tid,
            trigger_comm: until_nul(&trace.trigger_comm).to_vec(),
            memcg: None,
            path: None,
            levels: Vec::new(),
            reclaimed: None,
            local_oom_kill: None,
            run: None,
        }
    }

    /// An integer of 2, 4 or 8 bytes, sign-extended from 2.
    fn unsigned(&self, trace: &TraceRecord, name: &str) -> Option<u64> {
        let field = self.fields.get(name)?;
        let bytes = trace.bytes.get(field.offset..field.offset.checked_add(field.size)?)?;
        match bytes {
            [a, b] => Some(i64::from(i16::from_ne_bytes([*a, *b])).cast_unsigned()),
            [a, b, c, d] => Some(u64::from(u32::from_ne_bytes([*a, *b, *c, *d]))),
            _ => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
        }
    }

    /// `__data_loc`: the low half is the offset, the high half the length.
    fn comm(&self, trace: &TraceRecord) -> Option<Vec<u8>> {
        let place = self.unsigned(trace, "comm")?;
        let (offset, length) = (place & 0xffff, place >> 16);
        let offset = usize::try_from(offset).ok()?;
        let bytes = trace.bytes.get(offset..offset.checked_add(usize::try_from(length).ok()?)?)?;
        Some(until_nul(bytes).to_vec())
    }
}

/// `field:unsigned long total_vm; offset:16; size:8; signed:0;`
fn field(line: &str) -> Option<(String, Field)> {
    let (declaration, rest) = line.trim().strip_prefix("field:")?.split_once(';')?;
    let name = declaration.rsplit([' ', '*']).next()?;
    let number = |key: &str| rest.split(';').find_map(|part| part.trim().strip_prefix(key)?.parse().ok());
    Some((name.to_owned(), Field { offset: number("offset:")?, size: number("size:")? }))
}

#[cfg(test)]
mod tests {
    use oomwatch_common::{RecordHeader, TRACE_BYTES};

    use super::*;

    /// Linux 6.18; the same on 5.10.262, 6.1, 6.12 and 7.2.
    const NINE_FIELDS: &str = include_str!("../../../../tests/fixtures/tracefs/mark_victim-6.18.format");
    /// Linux 5.10.218.
    const PID_ONLY: &str = "name: mark_victim\nID: 350\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int pid;\toffset:8;\tsize:4;\tsigned:1;\n";

    fn trace(bytes: &[u8]) -> TraceRecord {
        let mut record = TraceRecord {
            header: RecordHeader { kind: 6, cpu: 0, boot_ns: 5 },
            trigger_tgid: 7,
            trigger_tid: 8,
            trigger_comm: *b"eater\0\0\0\0\0\0\0\0\0\0\0",
            bytes: [0; TRACE_BYTES],
        };
        record.bytes[..bytes.len()].copy_from_slice(bytes);
        record
    }

    #[test]
    fn nine_fields_give_memory_in_bytes() {
        let format = TraceFormat::parse(NINE_FIELDS).unwrap();
        let mut bytes = vec![0; 80];
        bytes[8..12].copy_from_slice(&4242_u32.to_ne_bytes());
        bytes[12..16].copy_from_slice(&(0x48_u32 | 4 << 16).to_ne_bytes());
        bytes[24..32].copy_from_slice(&20_u64.to_ne_bytes());
        bytes[64..66].copy_from_slice(&(-500_i16).to_ne_bytes());
        bytes[72..76].copy_from_slice(b"hog\0");
        let victim = format.victim(&trace(&bytes));
        assert_eq!(victim.tid, 4242);
        assert_eq!(victim.comm.as_deref(), Some(&b"hog"[..]));
        assert_eq!(victim.memory.unwrap().anon_rss_bytes, 20 * 1024);
        assert_eq!(victim.oom_score_adj, Some(-500));
    }

    #[test]
    fn the_old_record_has_only_a_thread() {
        let format = TraceFormat::parse(PID_ONLY).unwrap();
        let mut bytes = vec![0; 12];
        bytes[8..12].copy_from_slice(&99_u32.to_ne_bytes());
        let victim = format.victim(&trace(&bytes));
        assert_eq!((victim.tid, victim.memory, victim.comm, victim.uid), (99, None, None, None));
    }

    #[test]
    fn fields_outside_the_record_are_absent() {
        let text = "field:int pid;\toffset:8;\tsize:4;\n field:unsigned long anon_rss;\toffset:4000;\tsize:8;\n";
        let format = TraceFormat::parse(text).unwrap();
        assert_eq!(format.victim(&trace(&[])).memory, None);
        assert_eq!(TraceFormat::parse("garbage"), None);
    }
}

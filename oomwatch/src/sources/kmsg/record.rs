//! One record of `/dev/kmsg`: `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`, then lines of properties that begin with a
//! space (Documentation/ABI/testing/dev-kmsg, Linux 5.10 to 7.2). Bytes that are not plain are escaped as `\xNN`.

/// Who wrote it.
const FACILITY_SHIFT: u32 = 3;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The kernel wrote it. What a program writes to `/dev/kmsg` is never of this facility, whatever it asks for
    /// (`devkmsg_write`).
    pub(super) of_kernel: bool,
    /// Its number since boot.
    pub(super) seq: u64,
    /// By the kernel's own clock, microseconds since boot.
    pub(super) micros: u64,
    /// It goes on where an earlier record was cut.
    pub(super) is_fragment: bool,
    /// What it says, escapes undone.
    pub(super) text: Vec<u8>,
}

impl Record {
    /// Reads what one `read` gave; `None` where it is no record.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let line = bytes.get(..end)?;
        let semicolon = line.iter().position(|byte| *byte == b';')?;
        let head = str::from_utf8(line.get(..semicolon)?).ok()?;
        let mut fields = head.split(',');
        let priority: u32 = fields.next()?.parse().ok()?;
        let (seq, micros) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let is_fragment = fields.next()? == "c";
        let text = unescaped(line.get(semicolon + 1..)?);
        Some(Self { of_kernel: priority >> FACILITY_SHIFT == 0, seq, micros, is_fragment, text })
    }
}

/// The kernel escapes a backslash too, so nothing that was not escaped looks like it.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let escaped = escaped(rest);
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { rest.get(4..).unwrap_or_default() } else { after };
    }
    bytes
}

fn escaped(text: &[u8]) -> Option<u8> {
    let digits = str::from_utf8(text.strip_prefix(b"\\x")?.get(..2)?).ok()?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_the_kernel() {
        let record = Record::parse(b"6,422,388681413,-;oom-kill:constraint=C\n SUBSYSTEM=x\n").unwrap();
        let expected = Record {
            of_kernel: true,
            seq: 422,
            micros: 388_681_413,
            is_fragment: false,
            text: b"oom-kill:constraint=C".to_vec(),
        };
        assert_eq!(record, expected);
        assert!(Record::parse(b"4,5,6,c;rest").unwrap().is_fragment);
        assert_eq!(Record::parse(b"4,5,6,-,caller=T1;x").unwrap().text, b"x");
    }

    #[test]
    fn what_a_program_wrote_is_not_the_kernels() {
        assert!(!Record::parse(b"9,1354,389291162,-;oom-kill:constraint=C").unwrap().of_kernel);
        assert!(!Record::parse(b"30,1,2,-;x").unwrap().of_kernel);
    }

    #[test]
    fn escapes_are_undone_once() {
        assert_eq!(Record::parse(b"4,5,6,-;a\\x0ab\\x5cx41\\xff;").unwrap().text, b"a\nb\\x41\xff;");
        assert_eq!(Record::parse(b"4,5,6,-;\\x4 \\xzz \\").unwrap().text, b"\\x4 \\xzz \\");
    }

    #[test]
    fn garbage_is_no_record() {
        for bytes in [&b""[..], b"\n", b";", b"x,1,2,-;t", b"1,2;t", b"1,2,3,-", b"\xff,1,2,-;t", b"-1,1,2,-;t"] {
            assert_eq!(Record::parse(bytes), None);
        }
    }
}

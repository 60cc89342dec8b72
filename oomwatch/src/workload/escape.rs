//! How foreign bytes become text: cgroup paths made visible without loss, and the two escapings
//! systemd applies to names in the cgroup tree. Pure.

use std::fmt::Write as _;

/// The longest unit name systemd allows (`UNIT_NAME_MAX`, with the terminating NUL).
const UNIT_NAME_MAX: usize = 256;

/// Suffixes of the unit types that systemd gives a cgroup of their own.
const UNIT_SUFFIXES: [&[u8]; 6] = [b".service", b".scope", b".slice", b".socket", b".mount", b".swap"];

/// Makes `raw` text: printable ASCII but the backslash stands for itself, every other byte is
/// `\xNN` (two lower-case hex digits). Lossless: see [`unescape`].
pub fn escape(raw: &[u8]) -> String {
    let mut text = String::with_capacity(raw.len());
    for &byte in raw {
        if (b' '..=b'~').contains(&byte) && byte != b'\\' {
            text.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Takes `\xNN` back to bytes, as systemd writes it into unit names and [`escape`] into paths.
/// `None` when a backslash is not followed by `x` and two hex digits.
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut raw = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        if byte != b'\\' {
            raw.push(byte);
            rest = tail;
            continue;
        }
        let (&[b'x', high, low], tail) = tail.split_first_chunk::<3>()? else {
            return None;
        };
        raw.push(hex_digit(high)? << 4 | hex_digit(low)?);
        rest = tail;
    }
    Some(raw)
}

/// The systemd unit a cgroup's name stands for, `None` when it cannot be one.
///
/// systemd puts `_` before names that would clash with the kernel's own files (`_cpu.service`);
/// that is taken off. Escapes inside the name (`dev-disk\x2dby.mount`) are part of it and stay.
pub fn unit_name(component: &[u8]) -> Option<&str> {
    let name = component.strip_prefix(b"_").unwrap_or(component);
    let stem = UNIT_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(*suffix))?;
    let clean = |byte: &u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(byte);
    let valid = !stem.is_empty() && name.len() < UNIT_NAME_MAX && stem.iter().all(clean) && unescape(stem).is_some();
    if valid { std::str::from_utf8(name).ok() } else { None }
}

/// Whether the unit groups others rather than holding processes.
pub fn is_slice(unit: &str) -> bool {
    unit.as_bytes().ends_with(b".slice")
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_way_to_text_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text = escape(&all);
        assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        assert_eq!(unescape(text.as_bytes()), Some(all));
    }

    #[test]
    fn text_is_readable() {
        assert_eq!(escape(b"/docker/abc def"), "/docker/abc def");
        assert_eq!(escape(b"/a\nb\x1b[31m\\\xff\xc3\xa9"), r"/a\x0ab\x1b[31m\x5c\xff\xc3\xa9");
    }

    #[test]
    fn broken_escapes_are_refused() {
        for broken in [&br"a\"[..], br"a\x", br"a\x2", br"a\xzz", br"a\n", br"\\"] {
            assert_eq!(unescape(broken), None, "{}", escape(broken));
        }
        assert_eq!(unescape(br"a\x2db").as_deref(), Some(&b"a-b"[..]));
    }

    #[test]
    fn unit_names() {
        let long = [vec![b'a'; 248], b".service".to_vec()].concat();
        let cases: [(&[u8], Option<&str>); 14] = [
            (b"foo.service", Some("foo.service")),
            (b"getty@tty1.service", Some("getty@tty1.service")),
            (br"dev-disk\x2dby\x2dlabel.mount", Some(r"dev-disk\x2dby\x2dlabel.mount")),
            (b"_cpu.service", Some("cpu.service")),
            (b"-.slice", Some("-.slice")),
            (b"init.scope", Some("init.scope")),
            (b".service", None),
            (b"_.service", None),
            (b"foo", None),
            (b"foo.timer", None),
            (b"foo bar.service", None),
            (br"foo\bar.service", None),
            (b"f\xff.service", None),
            (&long, None),
        ];
        for (component, expected) in cases {
            assert_eq!(unit_name(component), expected, "{}", escape(component));
        }
    }
}

//! Figures and names as people read them. Pure.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Bytes in the largest unit that is not above them, with three digits or so.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..MIB => format!("{} KiB", bytes / KIB),
        MIB..GIB => scaled(bytes, MIB, "MiB"),
        GIB..TIB => scaled(bytes, GIB, "GiB"),
        TIB.. => scaled(bytes, TIB, "TiB"),
    }
}

fn scaled(bytes: u64, unit: u64, name: &str) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = bytes as f64 / unit as f64;
    match value {
        ..9.95 => format!("{value:.2} {name}"),
        ..99.5 => format!("{value:.1} {name}"),
        _ => format!("{value:.0} {name}"),
    }
}

/// Growth with its sign.
pub(super) fn speed(bytes_per_second: i64) -> String {
    match bytes_per_second {
        0 => "0".to_owned(),
        1.. => format!("+{}/s", size(bytes_per_second.unsigned_abs())),
        ..0 => format!("-{}/s", size(bytes_per_second.unsigned_abs())),
    }
}

/// Seconds in two units at most.
pub(crate) fn time(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX).as_secs();
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{minutes}m{:02}s", whole % 60),
        3600..86_400 => format!("{hours}h{:02}m", minutes % 60),
        86_400..8_640_000 => format!("{days}d{:02}h", hours % 24),
        8_640_000.. => ">99d".to_owned(),
    }
}

/// A text of the agent's, which may come from a container's owner: nothing in it steers a terminal.
pub(crate) fn shown(text: &str) -> String {
    let steers = |c: char| {
        c.is_control()
            || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// At most so many columns of a name, of which some characters take two; of a path its end, which tells more.
pub(super) fn shortened(name: &str, most: usize) -> String {
    if name.width() <= most {
        return name.to_owned();
    }
    let mut room = most.saturating_sub(1);
    let fits = |c: &char| {
        let width = c.width().unwrap_or_default();
        let fits = width <= room;
        room = if fits { room - width } else { 0 };
        fits
    };
    if name.starts_with('/') {
        let end: Vec<char> = name.chars().rev().take_while(fits).collect();
        format!("…{}", end.into_iter().rev().collect::<String>())
    } else {
        format!("{}…", name.chars().take_while(fits).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_or_so() {
        for (bytes, text) in [
            (0, "0 KiB"),
            (1023 * KIB, "1023 KiB"),
            (MIB, "1.00 MiB"),
            (10 * MIB, "10.0 MiB"),
            (128 * MIB, "128 MiB"),
            (GIB - 1, "1024 MiB"),
            (3 * GIB / 2, "1.50 GiB"),
            (64 * GIB, "64.0 GiB"),
            (2 * TIB, "2.00 TiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn growth_has_its_sign() {
        assert_eq!(speed(0), "0");
        assert_eq!(speed(3 * 1_048_576), "+3.00 MiB/s");
        assert_eq!(speed(-1), "-0 KiB/s");
        assert_eq!(speed(i64::MIN), "-8388608 TiB/s");
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, text) in [
            (0.4, "0s"),
            (59.9, "59s"),
            (61.0, "1m01s"),
            (3600.0, "1h00m"),
            (90_000.0, "1d01h"),
            (1e9, ">99d"),
            (f64::INFINITY, ">99d"),
            (f64::NAN, ">99d"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn what_steers_a_terminal_is_shown_instead() {
        assert_eq!(shown("web-1 ü 中"), "web-1 ü 中");
        assert_eq!(shown("a\u{1b}[2J\nb"), "a\\u{1b}[2J\\u{a}b");
        assert_eq!(shown("\u{202e}gpj\u{200b}"), "\\u{202e}gpj\\u{200b}");
        assert_eq!(shown("\u{9b}31m"), "\\u{9b}31m");
    }

    #[test]
    fn names_keep_their_beginning_and_paths_their_end() {
        assert_eq!(shortened("checkout", 8), "checkout");
        assert_eq!(shortened("checkout-7d9", 8), "checkou…");
        assert_eq!(shortened("/system.slice/cron.service", 13), "…cron.service");
        assert_eq!(shortened("äöü", 2), "ä…");
        assert_eq!(shortened("abc", 0), "…");
    }
}

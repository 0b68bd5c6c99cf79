//! Times as JSON writes them (RFC 3339) and as protobuf does (seconds and nanoseconds since 1970).

use std::io::Write as _;

/// Seconds since 1970 and the nanoseconds after them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Instant {
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

/// The years RFC 3339 can write.
const SECONDS: std::ops::Range<i64> = -62_167_219_200..253_402_300_800;

/// Appends `2024-01-02T03:04:05Z`, with six more digits if `micros`; false if the year is not one of four digits.
pub(super) fn write(instant: Instant, micros: bool, out: &mut Vec<u8>) -> bool {
    if !SECONDS.contains(&instant.seconds) {
        return false;
    }
    let (year, month, day) = civil(instant.seconds.div_euclid(86_400));
    let second = instant.seconds.rem_euclid(86_400);
    let mut text = *b"0000-00-00T00:00:00";
    for (at, digits, value) in [
        (0, 4, year),
        (5, 2, month),
        (8, 2, day),
        (11, 2, second / 3600),
        (14, 2, second / 60 % 60),
        (17, 2, second % 60),
    ] {
        let mut value = value;
        for digit in text[at..at + digits].iter_mut().rev() {
            *digit = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    out.extend_from_slice(&text);
    if micros {
        // Writing into a Vec cannot fail.
        let _ = write!(out, ".{:06}", instant.nanos.min(999_999_999) / 1000);
    }
    out.push(b'Z');
    true
}

/// Reads RFC 3339 as strictly as Go: `T` and `Z` in upper case, an offset with a colon, any number of fraction digits.
pub(super) fn parse(text: &str) -> Option<Instant> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| {
        bytes.get(from..to)?.iter().try_fold(0i64, |sum, byte| {
            byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0'))
        })
    };
    let mark = |at: usize, mark: u8| (bytes.get(at) == Some(&mark)).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (at, byte) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        mark(at, byte)?;
    }
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (mut at, mut nanos) = (19, 0);
    if mark(at, b'.').is_some() {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let read = number(at + 1, at + 1 + digits.min(9))?;
        nanos = read * 10i64.pow(9 - digits.min(9) as u32);
        at += 1 + digits;
        if digits == 0 {
            return None;
        }
    }
    let offset = match bytes.get(at)? {
        b'Z' if bytes.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == at + 6 => {
            mark(at + 3, b':')?;
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if hours > 24 || minutes > 59 {
                return None;
            }
            let offset = hours * 3600 + minutes * 60;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    SECONDS.contains(&seconds).then_some(Instant {
        seconds,
        nanos: nanos as u32,
    })
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date; years begin in March here, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The reverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_go_reads() {
        let table = [
            ("1970-01-01T00:00:00Z", Some((0, 0))),
            ("2024-02-29T12:30:45Z", Some((1_709_209_845, 0))),
            ("2024-02-29T12:30:45.123456Z", Some((1_709_209_845, 123_456_000))),
            ("2024-02-29T14:30:45+02:00", Some((1_709_209_845, 0))),
            ("2023-02-29T12:30:45Z", None),
            ("2024-02-29 12:30:45Z", None),
            ("2024-02-29T12:30:45", None),
            ("2024-02-29T12:30:45.Z", None),
            ("2024-02-29T24:00:00Z", None),
            ("2024-02-29T12:30:45Zx", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(
                parse(text).map(|instant| (instant.seconds, instant.nanos)),
                expected,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(seconds in SECONDS.start + 366 * 86_400..SECONDS.end, micros in 0u32..1_000_000) {
            let mut out = vec![];
            let written = write(Instant { seconds, nanos: micros * 1000 }, true, &mut out);
            prop_assert!(written);
            let text = String::from_utf8(out).unwrap();
            // jiff's range ends some hours before the year 9999 does.
            if let Ok(read) = text.parse::<jiff::Timestamp>() {
                prop_assert_eq!(read.as_nanosecond(), i128::from(seconds) * 1_000_000_000 + i128::from(micros) * 1000);
            }
            prop_assert_eq!(parse(&text), Some(Instant { seconds, nanos: micros * 1000 }));
        }
    }
}

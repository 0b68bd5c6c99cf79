//! Timestamps and durations: conversions, getters, arithmetic.

use std::str::FromStr;

use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Cost, Function, ONE, f};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::Value;

type Result<'a> = std::result::Result<Value<'a>, Error>;

const DATE: &str = "timestamp.()int|timestamp.(string)int";
const CLOCK: &str = "timestamp.()int|timestamp.(string)int|duration.()int";

pub(super) const FUNCTIONS: &[Function] = &[
    f(
        "timestamp",
        to_timestamp,
        ONE,
        "(timestamp)timestamp|(string)timestamp|(int)timestamp",
    ),
    f(
        "duration",
        to_duration,
        ONE,
        "(duration)duration|(string)duration|(int)duration",
    ),
    f("getFullYear", |a, _| part(a, |t| i64::from(t.year())), ONE, DATE),
    f("getMonth", |a, _| part(a, |t| i64::from(t.month()) - 1), ONE, DATE),
    f("getDate", |a, _| part(a, |t| i64::from(t.day())), ONE, DATE),
    f("getDayOfMonth", |a, _| part(a, |t| i64::from(t.day()) - 1), ONE, DATE),
    f(
        "getDayOfYear",
        |a, _| part(a, |t| i64::from(t.day_of_year()) - 1),
        ONE,
        DATE,
    ),
    f(
        "getDayOfWeek",
        |a, _| part(a, |t| i64::from(t.weekday().to_sunday_zero_offset())),
        ONE,
        DATE,
    ),
    f(
        "getHours",
        |a, _| clock(a, 3_600_000_000_000, |t| i64::from(t.hour())),
        ONE,
        CLOCK,
    ),
    f(
        "getMinutes",
        |a, _| clock(a, 60_000_000_000, |t| i64::from(t.minute())),
        ONE,
        CLOCK,
    ),
    f(
        "getSeconds",
        |a, _| clock(a, 1_000_000_000, |t| i64::from(t.second())),
        ONE,
        CLOCK,
    ),
    f("getMilliseconds", milliseconds, Cost::Fixed(1), CLOCK),
];

fn bad<'a>() -> Result<'a> {
    Err(Error::no_such_overload())
}

fn to_timestamp<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [same @ Value::Timestamp(_)] => Ok(same.clone()),
        [Value::Int(seconds)] => Timestamp::from_second(*seconds)
            .map(Value::Timestamp)
            .map_err(|_| Error::value("timestamp overflow")),
        [Value::String(text)] => {
            fuel.work(text.len() as u64 / 8)?;
            parse_timestamp(text).map(Value::Timestamp)
        }
        _ => bad(),
    }
}

/// RFC 3339.
pub(crate) fn parse_timestamp(text: &str) -> std::result::Result<Timestamp, Error> {
    let zoned = text.ends_with(['Z', 'z']) || text.len() > 19 && text[text.len().min(19)..].contains(['+', '-']);
    let parsed = if text.len() <= 64
        && text.is_ascii()
        && zoned
        && text.as_bytes().get(10).is_some_and(|c| matches!(c, b'T' | b't'))
    {
        Timestamp::from_str(text).ok()
    } else {
        None
    };
    parsed.ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        Error::value(format!(
            "parsing time {shown:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {shown:?} as \"2006\""
        ))
    })
}

fn to_duration<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [same @ Value::Duration(_)] => Ok(same.clone()),
        [Value::Int(nanos)] => Ok(Value::Duration(*nanos)),
        [Value::String(text)] => {
            fuel.work(text.len() as u64 / 8)?;
            parse_duration(text).map(Value::Duration)
        }
        _ => bad(),
    }
}

/// Go's syntax, `1h2m3.5s`, in nanoseconds.
pub(crate) fn parse_duration(text: &str) -> std::result::Result<i64, Error> {
    let shown = || text.chars().take(64).collect::<String>();
    let invalid = || Error::value(format!("time: invalid duration {:?}", shown()));
    let (negative, mut rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (text.starts_with('-'), rest),
        None => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (digits, after) = rest.split_at(number);
        let unit_end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => return Err(Error::value(format!("time: missing unit in duration {:?}", shown()))),
            other => {
                let other: String = other.chars().take(16).collect();
                return Err(Error::value(format!(
                    "time: unknown unit {other:?} in duration {:?}",
                    shown()
                )));
            }
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 20 {
            return Err(invalid());
        }
        let whole: i128 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| invalid())?
        };
        total += whole * scale;
        let (mut part, mut weight): (i128, i128) = (0, scale);
        for digit in fraction.bytes().take(18) {
            weight /= 10;
            part += i128::from(digit - b'0') * weight;
        }
        total += part;
        if total > i128::from(i64::MAX) + 1 {
            return Err(invalid());
        }
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// RFC 3339 with as many digits as needed.
pub(crate) fn format_timestamp(t: &Timestamp) -> String {
    t.to_string()
}

/// Seconds as a decimal with an `s`.
pub(crate) fn format_seconds(nanos: i64) -> String {
    let (sign, n) = (if nanos < 0 { "-" } else { "" }, nanos.unsigned_abs());
    let (seconds, fraction) = (n / 1_000_000_000, n % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{fraction:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}

fn zoned(args: &[Value<'_>]) -> std::result::Result<Option<Zoned>, Error> {
    Ok(match args {
        [Value::Timestamp(t)] => Some(t.to_zoned(TimeZone::UTC)),
        [Value::Timestamp(t), Value::String(zone)] => Some(t.to_zoned(time_zone(zone)?)),
        _ => None,
    })
}

/// A name of the database, or an offset such as `-08:00` and `02:30`.
fn time_zone(text: &str) -> std::result::Result<TimeZone, Error> {
    let unknown = || {
        Error::value(format!(
            "unknown time zone {}",
            text.chars().take(64).collect::<String>()
        ))
    };
    let Some((hours, minutes)) = text.split_once(':') else {
        if text.len() > 64 {
            return Err(unknown());
        }
        return TimeZone::get(if text.is_empty() { "UTC" } else { text }).map_err(|_| unknown());
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['-', '+']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    if !(0..=24).contains(&hours) || !(0..60).contains(&minutes) {
        return Err(unknown());
    }
    let seconds = (hours * 60 + minutes) * 60 * if negative { -1 } else { 1 };
    Offset::from_seconds(seconds)
        .map(TimeZone::fixed)
        .map_err(|_| unknown())
}

fn part<'a>(args: &[Value<'a>], get: fn(&Zoned) -> i64) -> Result<'a> {
    match zoned(args)? {
        Some(time) => Ok(Value::Int(get(&time))),
        None => bad(),
    }
}

fn clock<'a>(args: &[Value<'a>], unit: i64, get: fn(&Zoned) -> i64) -> Result<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / unit)),
        _ => part(args, get),
    }
}

fn milliseconds<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / 1_000_000)),
        _ => part(args, |t| i64::from(t.millisecond())),
    }
}

fn shift(t: Timestamp, nanos: i64, back: bool) -> std::result::Result<Timestamp, Error> {
    let by = SignedDuration::from_nanos(nanos);
    let moved = if back { t.checked_sub(by) } else { t.checked_add(by) };
    let first = Timestamp::from_second(-62_135_596_800).unwrap_or(Timestamp::MIN);
    moved
        .ok()
        .filter(|t| *t >= first)
        .ok_or_else(|| Error::value("timestamp overflow"))
}

pub(super) fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<'a> {
    Ok(match (a, b) {
        (Value::Duration(a), Value::Duration(b)) => {
            Value::Duration(a.checked_add(*b).ok_or_else(|| Error::value("duration overflow"))?)
        }
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            Value::Timestamp(shift(*t, *d, false)?)
        }
        _ => return bad(),
    })
}

pub(super) fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<'a> {
    let overflow = || Error::value("duration overflow");
    Ok(match (a, b) {
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_sub(*b).ok_or_else(overflow)?),
        (Value::Timestamp(t), Value::Duration(d)) => Value::Timestamp(shift(*t, *d, true)?),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let nanos = a.duration_since(*b).as_nanos();
            Value::Duration(i64::try_from(nanos).map_err(|_| overflow())?)
        }
        _ => return bad(),
    })
}

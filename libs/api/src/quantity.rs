//! [`Quantity`]: amounts of resources with upstream's suffixes, arithmetic and canonical text.

use crate::meta;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};
use std::str::FromStr;

const NANO: i128 = 1_000_000_000;
/// Upstream caps amounts at the largest `int64`.
const MAX_NANO: i128 = i64::MAX as i128 * NANO;

/// An amount, exact to a billionth. Two are equal if their amounts are, however they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// How the amount was written, which decides how it is written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    /// `12e6`.
    Exponent,
    /// `12Mi`.
    Binary,
    /// `12M`.
    #[default]
    Decimal,
}

/// Why a text is not a quantity; worded as upstream words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number has no digit or two points.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is none of the known ones.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity {
        nano: 0,
        format: Format::Decimal,
    };

    /// Whole units, as of pods or CPUs.
    pub fn units(units: i64) -> Self {
        Quantity {
            nano: i128::from(units) * NANO,
            format: Format::Decimal,
        }
    }

    /// Thousandths, as of CPUs.
    pub fn milli(thousandths: i64) -> Self {
        Quantity {
            nano: i128::from(thousandths) * (NANO / 1000),
            format: Format::Decimal,
        }
    }

    /// Bytes, written with binary suffixes.
    pub fn bytes(bytes: u64) -> Self {
        Quantity {
            nano: (i128::from(bytes) * NANO).min(MAX_NANO),
            format: Format::Binary,
        }
    }

    /// Reads upstream's syntax: a decimal number with one of the suffixes `n u m k M G T P E`, `Ki Mi Gi Ti Pi Ei`, or an exponent.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        if number.is_empty() || suffix.chars().any(|c| !"eEinumkKMGTP+-0123456789".contains(c)) {
            return Err(ParseError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || number == "." {
            return Err(ParseError::Number);
        }
        let (scale, format) = parse_suffix(suffix)?;
        let magnitude = match scale {
            Scale::Ten(exponent) => decimal_nano(whole, fraction, exponent),
            Scale::Two(factor) => binary_nano(whole, fraction, factor),
        };
        // A fraction of a byte is shown in thousandths rather than rounded.
        let format = if format == Format::Binary && magnitude < NANO {
            Format::Decimal
        } else {
            format
        };
        let nano = if text.starts_with('-') { -magnitude } else { magnitude };
        Ok(Quantity { nano, format })
    }

    /// In thousandths, rounded up.
    pub fn as_milli(&self) -> i64 {
        saturated(ceil_div(self.nano, NANO / 1000))
    }

    /// In whole units, rounded up.
    pub fn as_i64(&self) -> i64 {
        saturated(ceil_div(self.nano, NANO))
    }

    /// In whole units as a float, for ratios.
    pub fn as_f64(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Whether the amount is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether the amount is below nothing.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// As the object types hold it.
    pub fn to_meta(&self) -> meta::Quantity {
        meta::Quantity(self.to_string())
    }

    /// The format of a sum: an empty amount takes over the other's.
    fn joined(self, other: Self, nano: i128) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nano, format }
    }
}

enum Scale {
    Ten(i64),
    Two(i128),
}

fn parse_suffix(suffix: &str) -> Result<(Scale, Format), ParseError> {
    let decimal = |exponent| Ok((Scale::Ten(exponent), Format::Decimal));
    let binary = |power: u32| Ok((Scale::Two(1i128 << (10 * power)), Format::Binary));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseError::Suffix)?;
            let exponent = exponent.parse().map_err(|_| ParseError::Suffix)?;
            Ok((Scale::Ten(exponent), Format::Exponent))
        }
    }
}

/// Digits as a number; capped.
fn number(digits: &[u8]) -> i128 {
    let digits = digits.iter().map(|digit| i128::from(digit - b'0'));
    digits.fold(0, |sum, digit| (sum * 10 + digit).min(MAX_NANO))
}

/// `whole.fraction` times a power of ten in billionths, rounded up and capped.
fn decimal_nano(whole: &str, fraction: &str, exponent: i64) -> i128 {
    let digits = [whole.as_bytes(), fraction.as_bytes()].concat();
    if digits.iter().all(|digit| *digit == b'0') {
        return 0;
    }
    let point = (whole.len() as i64).saturating_add(exponent).saturating_add(9);
    let kept = point.clamp(0, digits.len() as i64) as usize;
    let (kept, rest) = digits.split_at(kept);
    let mut nano = number(kept);
    // Past 38 places any digit but zero is over the cap.
    for _ in 0..(point - digits.len() as i64).clamp(0, 38) {
        nano = (nano * 10).min(MAX_NANO);
    }
    if rest.iter().any(|digit| *digit != b'0') {
        nano += 1;
    }
    nano.min(MAX_NANO)
}

/// `whole.fraction` times a power of two in billionths, rounded up and capped.
fn binary_nano(whole: &str, fraction: &str, factor: i128) -> i128 {
    let whole = number(whole.as_bytes())
        .checked_mul(factor)
        .and_then(|units| units.checked_mul(NANO));
    let (read, rest) = fraction.split_at(fraction.len().min(18));
    let mut part = number(read.as_bytes()) * factor;
    let dropped = rest.bytes().any(|digit| digit != b'0');
    match read.len() {
        places @ 0..=9 => part *= 10i128.pow(9 - places as u32),
        places => part = ceil_div(part, 10i128.pow(places as u32 - 9)),
    }
    whole
        .unwrap_or(MAX_NANO)
        .saturating_add(part + i128::from(dropped))
        .min(MAX_NANO)
}

fn ceil_div(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

fn saturated(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::Binary && !small && self.nano % NANO == 0 {
            let (mut number, mut power) = (self.nano / NANO, 0);
            while number % 1024 == 0 && power < 6 {
                number /= 1024;
                power += 1;
            }
            return write!(f, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut number, mut exponent) = (self.nano, -9);
        while number != 0 && number % 1000 == 0 && exponent < 18 {
            number /= 1000;
            exponent += 3;
        }
        match (self.nano, self.format) {
            (0, _) => f.write_str("0"),
            (_, Format::Exponent) if exponent != 0 => write!(f, "{number}e{exponent}"),
            _ => {
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((exponent + 9) / 3) as usize];
                write!(f, "{number}{suffix}")
            }
        }
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Quantity::parse(text)
    }
}

impl TryFrom<&meta::Quantity> for Quantity {
    type Error = ParseError;

    fn try_from(quantity: &meta::Quantity) -> Result<Self, ParseError> {
        Quantity::parse(&quantity.0)
    }
}

impl From<Quantity> for meta::Quantity {
    fn from(quantity: Quantity) -> Self {
        quantity.to_meta()
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Self) -> Self {
        self.joined(other, self.nano.saturating_add(other.nano))
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Self) -> Self {
        self.joined(other, self.nano.saturating_sub(other.nano))
    }
}

impl Neg for Quantity {
    type Output = Quantity;

    fn neg(self) -> Self {
        Quantity {
            nano: -self.nano,
            ..self
        }
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_texts() {
        let table = [
            ("0", "0"),
            ("0Ki", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1000Ki", "1000Ki"),
            ("1023", "1023"),
            ("0.5Ki", "512"),
            ("0.1Mi", "104857600m"),
            ("1000000k", "1G"),
            ("123456", "123456"),
            ("1e3", "1e3"),
            ("12E2", "1200"),
            ("100e-3", "100e-3"),
            ("1E", "1E"),
            ("0.0000000001", "1n"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            (".5", "500m"),
            ("5.", "5"),
            ("9223372036854775808", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("1e1000000000", "9223372036854775807"),
            ("1e-1000000000", "1e-9"),
            ("8Ei", "9223372036854775807"),
            ("1.0000000000000000000001Ki", "1024000000001n"),
        ];
        for (text, canonical) in table {
            assert_eq!(
                Quantity::parse(text).map(|quantity| quantity.to_string()).as_deref(),
                Ok(canonical),
                "{text}"
            );
        }
    }

    #[test]
    fn malformed_texts() {
        let table = [
            ("", ParseError::Format),
            ("abc", ParseError::Format),
            ("1 ", ParseError::Format),
            ("1Kb", ParseError::Format),
            ("1.2.3", ParseError::Number),
            (".", ParseError::Number),
            ("1KM", ParseError::Suffix),
            ("1i", ParseError::Suffix),
            ("1e", ParseError::Suffix),
            ("1e1.5", ParseError::Format),
        ];
        for (text, error) in table {
            assert_eq!(Quantity::parse(text).unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn scaled_values_round_up() {
        let half: Quantity = "1500m".parse().unwrap();
        assert_eq!((half.as_i64(), half.as_milli()), (2, 1500));
        assert_eq!(Quantity::parse("1u").unwrap().as_milli(), 1);
        assert_eq!(Quantity::bytes(64 << 20).to_string(), "64Mi");
        assert_eq!((Quantity::ZERO + Quantity::bytes(2048)).to_string(), "2Ki");
        assert_eq!((Quantity::milli(1500) - Quantity::units(2)).to_string(), "-500m");
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back(nano in -(1i128 << 90)..(1i128 << 90), format in 0..3) {
            let format = [Format::Exponent, Format::Binary, Format::Decimal][format as usize];
            let quantity = Quantity { nano: nano.clamp(-MAX_NANO, MAX_NANO), format };
            let text = quantity.to_string();
            let read = Quantity::parse(&text).unwrap();
            prop_assert_eq!(read, quantity);
            prop_assert_eq!(read.to_string(), text);
        }

        #[test]
        fn any_text_is_answered(text in "[+-]?[0-9.]{0,30}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,12}") {
            if let Ok(quantity) = Quantity::parse(&text) {
                prop_assert_eq!(Quantity::parse(&quantity.to_string()), Ok(quantity));
            }
        }
    }
}

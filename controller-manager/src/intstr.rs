//! Counts given as a number or as a percentage of a total.

use api::meta::IntOrString;

/// Which way a percentage that gives no whole number goes.
#[derive(Clone, Copy, Debug)]
pub enum Round {
    /// To the next whole number.
    Up,
    /// To the last one.
    Down,
}

/// The count that `value` means for `total`; nothing if it is text that is no percentage.
pub fn scaled(value: &IntOrString, total: i32, round: Round) -> Option<i32> {
    let text = match value {
        IntOrString::Int(count) => return Some(*count),
        IntOrString::String(text) => text,
    };
    let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
    let product = percent.checked_mul(total.into())?;
    let count = match round {
        Round::Up => product.checked_add(99)?.div_euclid(100),
        Round::Down => product.div_euclid(100),
    };
    i32::try_from(count).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_percentages_are_rounded() {
        let text = |text: &str| IntOrString::String(text.into());
        let cases = [
            (IntOrString::Int(3), 10, Round::Up, Some(3)),
            (text("25%"), 10, Round::Up, Some(3)),
            (text("25%"), 10, Round::Down, Some(2)),
            (text("0%"), 10, Round::Up, Some(0)),
            (text("100%"), 7, Round::Down, Some(7)),
            (text("25"), 10, Round::Up, None),
            (text("x%"), 10, Round::Up, None),
            (text("9223372036854775807%"), 10, Round::Up, None),
        ];
        for (value, total, round, expected) in cases {
            assert_eq!(
                scaled(&value, total, round),
                expected,
                "{value:?} of {total}, {round:?}"
            );
        }
    }
}

//! Sets of indexes as Jobs write them: `1,3-5`.

/// Reads the intervals of a set, each below `completions` and after the one before.
///
/// # Errors
/// Upstream's words for what is wrong.
pub fn parse(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut out: Vec<(i64, i64)> = Vec::new();
    for fragment in text.split(',').filter(|_| !text.is_empty()) {
        let interval = interval(fragment, completions)?;
        if let Some((_, last)) = out.last().filter(|(_, last)| *last >= interval.0) {
            return Err(not_increasing(*last, interval.0));
        }
        out.push(interval);
    }
    Ok(out)
}

/// How many indexes there are in intervals.
pub fn count(intervals: &[(i64, i64)]) -> i64 {
    intervals.iter().map(|(first, last)| last - first + 1).sum()
}

/// The first index that two sets have in common; fragments that cannot be read are left out.
pub fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let read =
        |text: &str| -> Vec<(i64, i64)> { text.split(',').filter_map(|f| interval(f, completions).ok()).collect() };
    let others = read(other);
    let common = |(a, b): (i64, i64)| others.iter().find(|(c, d)| a <= *d && *c <= b).map(|(c, _)| a.max(*c));
    read(one).into_iter().find_map(common)
}

fn not_increasing(previous: i64, current: i64) -> String {
    format!("non-increasing order, previous: {previous}, current: {current}")
}

fn interval(fragment: &str, completions: i64) -> Result<(i64, i64), String> {
    let index = |text: &str| {
        let number = text
            .parse::<i64>()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if number >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(number)
    };
    match fragment.split('-').collect::<Vec<_>>().as_slice() {
        [one] => index(one).map(|n| (n, n)),
        [first, last] => {
            let (first, last) = (index(first)?, index(last)?);
            if first >= last {
                return Err(not_increasing(first, last));
            }
            Ok((first, last))
        }
        _ => Err(format!(
            "the fragment {fragment:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        assert_eq!(parse("", 5), Ok(vec![]));
        assert_eq!(parse("1,3-4", 5).map(|set| count(&set)), Ok(3));
        for (text, why) in [
            ("5", "too large index: \"5\""),
            ("3,1", "non-increasing order, previous: 3, current: 1"),
            ("a", "cannot convert string to integer for index: \"a\""),
            (
                "1-2-3",
                "the fragment \"1-2-3\" violates the requirement that an index interval can have at most two parts separated by '-'",
            ),
        ] {
            assert_eq!(parse(text, 5), Err(why.to_owned()));
        }
        assert_eq!(overlap("1,3-4", "2,4", 5), Some(4));
        assert_eq!(overlap("1", "2", 5), None);
    }
}

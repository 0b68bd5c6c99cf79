//! CRI's log line: `2026-11-20T16:00:00.123456789Z stdout F text`. A line that was too long for one is several with `P` and a last with `F`.

use jiff::Timestamp;

/// Which of a container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As it is written.
    pub stamp: &'a str,
    /// The same as a time.
    pub time: Timestamp,
    /// Which output.
    pub stream: Stream,
    /// Whether the text goes on in the next record.
    pub partial: bool,
    /// The text, without a line's end.
    pub text: &'a [u8],
}

/// A record that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// Fewer than four fields.
    #[error("a log record has four fields")]
    Fields,
    /// The first field is no time.
    #[error("a log record begins with a time")]
    Time,
    /// The second field is neither stdout nor stderr.
    #[error("a log record's stream is stdout or stderr")]
    Stream,
}

/// Reads one record; `bytes` may end with a line feed.
pub fn parse(bytes: &[u8]) -> Result<Line<'_>, LineError> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut fields = bytes.splitn(4, |byte| *byte == b' ');
    let (Some(stamp), Some(stream), Some(tags)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(LineError::Fields);
    };
    let text = fields.next().unwrap_or_default();
    let stamp = std::str::from_utf8(stamp).map_err(|_| LineError::Time)?;
    let time = stamp.parse().map_err(|_| LineError::Time)?;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return Err(LineError::Stream),
    };
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    Ok(Line {
        stamp,
        time,
        stream,
        partial,
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_are_read() -> Result<(), LineError> {
        let line = parse(b"2026-11-20T16:00:00.123456789Z stdout F hello world\n")?;
        assert_eq!(
            (line.text, line.partial, line.stream),
            (b"hello world".as_slice(), false, Stream::Stdout)
        );
        let line = parse(b"2026-11-20T16:00:00+01:00 stderr P:x a  b ")?;
        assert_eq!(
            (line.text, line.partial, line.stream),
            (b"a  b ".as_slice(), true, Stream::Stderr)
        );
        assert_eq!(parse(b"2026-11-20T16:00:00Z stdout F")?.text, b"");
        assert_eq!(parse(b"2026-11-20T16:00:00Z stdout"), Err(LineError::Fields));
        assert_eq!(parse(b"yesterday stdout F x"), Err(LineError::Time));
        assert_eq!(parse(b"2026-11-20T16:00:00Z stdin F x"), Err(LineError::Stream));
        Ok(())
    }

    proptest! {
        #[test]
        fn any_text_survives(text in proptest::collection::vec(any::<u8>().prop_filter("line feed", |b| *b != b'\n'), 0..200), partial: bool) {
            let mut record = format!("2026-11-20T16:00:00.5Z stderr {} ", if partial { "P" } else { "F" }).into_bytes();
            record.extend(&text);
            record.push(b'\n');
            let line = parse(&record).map_err(|error| TestCaseError::fail(error.to_string()))?;
            prop_assert_eq!(line.text, text.as_slice());
            prop_assert_eq!(line.partial, partial);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}

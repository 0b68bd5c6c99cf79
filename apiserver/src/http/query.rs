//! Percent-encoding and query strings.

use std::borrow::Cow;

use api::Error;

/// Decodes `%41` in a path. Bad escapes stay as they are; bytes that are no UTF-8 become replacement characters.
pub fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    Cow::Owned(decode_bytes(text.as_bytes()))
}

fn decode_bytes(text: &[u8]) -> String {
    let digit = |index: usize| text.get(index).and_then(|b| (*b as char).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut index = 0;
    while let Some(&byte) = text.get(index) {
        match (byte, digit(index + 1), digit(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                index += 3;
            }
            _ => {
                out.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A parsed query string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c`.
    pub fn parse(query: &str) -> Self {
        let part = |text: &str| decode(&text.replace('+', " ")).into_owned();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(key, value)| (part(key), part(value)))
                .collect(),
        )
    }

    /// The first value of a parameter, empty if it is not there.
    pub fn get(&self, name: &str) -> &str {
        self.first(name).unwrap_or("")
    }

    fn first(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// All values of a parameter.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// A boolean as upstream reads it: there, and neither `false` in any case (the Python client writes `False`) nor `0`.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.first(name)
            .map(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A number, if it is one.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.get(name).parse().ok()
    }

    /// A number that has to be one if it is there.
    ///
    /// # Errors
    /// 400 with upstream's text.
    pub fn integer(&self, name: &str) -> Result<Option<i64>, Error> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| Error::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("labelSelector=app%3Dweb%2Ca+in+%28b%29&watch&limit=5&watch=false");
        assert_eq!(query.get("labelSelector"), "app=web,a in (b)");
        assert_eq!(query.flag("watch"), Some(true));
        assert_eq!(Query::parse("tty=False&stdin=0").flag("tty"), Some(false));
        assert_eq!(query.number("limit"), Some(5));
        assert_eq!(query.get("none"), "");
        assert_eq!(decode("a%zz%41"), "a%zzA");
    }
}

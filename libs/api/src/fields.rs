//! Field selectors: `metadata.name=web,spec.nodeName!=`. Which fields a kind has is the registry's business.

use std::fmt;
use std::str::FromStr;

/// A conjunction of comparisons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// As `spec.nodeName`.
    pub field: String,
    /// Compared with this value.
    pub value: String,
    /// Whether the field must have the value or must not.
    pub equal: bool,
}

/// Why a text is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A term without operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The term.
        term: String,
    },
    /// A value with a backslash before nothing, or before a character that needs none.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A comma or an equals sign that is not escaped.
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(char),
}

impl Selector {
    /// Reads terms with `=`, `==` or `!=`, separated by commas; in values a backslash stands before `,`, `=` and itself.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut requirements = Vec::new();
        for term in terms(text).filter(|term| !term.is_empty()) {
            let unreadable = || ParseError::Term {
                selector: text.to_string(),
                term: term.to_string(),
            };
            let (field, value, equal) = split(term).ok_or_else(unreadable)?;
            requirements.push(Requirement {
                field: field.to_string(),
                value: unescape(value)?,
                equal,
            });
        }
        Ok(Selector { requirements })
    }

    /// Whether an object is selected; `field` gives the values of its fields, `None` for one it does not have, which equals nothing
    /// but the empty value.
    pub fn matches<'a>(&self, field: impl Fn(&str) -> Option<&'a str>) -> bool {
        let holds = |requirement: &Requirement| {
            (field(&requirement.field).unwrap_or_default() == requirement.value) == requirement.equal
        };
        self.requirements.iter().all(holds)
    }

    /// The comparisons, for those who answer some of them from an index.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The value that the field must have, if there is one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        let mut exact = self
            .requirements
            .iter()
            .filter(|requirement| requirement.equal && requirement.field == field);
        exact.next().map(|requirement| &*requirement.value)
    }
}

/// Splits at the commas that no backslash stands before.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    text.split(move |c| {
        let separates = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    })
}

/// Field, value and whether they are to be equal, at the first operator.
fn split(term: &str) -> Option<(&str, &str, bool)> {
    let at = term.find(['=', '!'])?;
    let (field, rest) = term.split_at(at);
    let operators = [("!=", false), ("==", true), ("=", true)];
    operators
        .into_iter()
        .find_map(|(operator, equal)| Some((field, rest.strip_prefix(operator)?, equal)))
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    return Err(ParseError::Escape(format!(
                        "\\{}",
                        other.map(String::from).unwrap_or_default()
                    )));
                }
            },
            ',' | '=' => return Err(ParseError::Unescaped(c)),
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let Requirement { field, value, equal } = requirement;
            let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            let (comma, operator) = (if index == 0 { "" } else { "," }, if *equal { "=" } else { "!=" });
            write!(f, "{comma}{field}{operator}{value}")?;
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Selector::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn selects() {
        let field = |name: &str| match name {
            "metadata.name" => Some("web"),
            "status.phase" => Some("Running"),
            "odd" => Some("a,b=c\\"),
            _ => None,
        };
        let table = [
            ("", true),
            ("metadata.name=web", true),
            ("metadata.name==web,status.phase!=Failed", true),
            ("metadata.name!=web", false),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
            ("odd=a\\,b\\=c\\\\", true),
        ];
        for (text, selected) in table {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.matches(field), selected, "{text}");
            assert_eq!(selector.to_string().parse(), Ok(selector), "{text}");
        }
        assert_eq!(Selector::parse("a=b,c!=d").unwrap().exact("a"), Some("b"));
    }

    #[test]
    fn malformed_texts() {
        let error = Selector::parse("a=b,name").unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid selector: 'a=b,name'; can't understand 'name'"
        );
        for text in ["a=b\\x", "a=b\\", "a=b=c", "a!b"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[ab.=!,\\\\]{0,20}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}

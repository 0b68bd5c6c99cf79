//! Label selectors: the text syntax of the API's `labelSelector` parameter and the structured one of workloads.

use crate::meta::LabelSelector;
use crate::names;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// A conjunction of requirements on labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Sorted by key, as upstream prints them.
    requirements: Vec<Requirement>,
    /// Selects no object at all, as an absent selector of a workload does.
    nothing: bool,
}

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Requirement {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// Why a text or a structure is not a selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

impl Selector {
    /// Selects every object.
    pub fn everything() -> Self {
        Selector::default()
    }

    /// Selects no object.
    pub fn nothing() -> Self {
        Selector {
            nothing: true,
            ..Self::default()
        }
    }

    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`; the empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parser = Parser {
            tokens: tokens(text),
            at: 0,
        };
        parser.selector()
    }

    /// From the structure that workloads carry; an empty one selects everything.
    pub fn from_label_selector(selector: &LabelSelector) -> Result<Self, ParseError> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::new(key, Operator::Equals, [value.clone()])?);
        }
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match &*expression.operator {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(ParseError(format!("{other:?} is not a valid label selector operator"))),
            };
            let values = expression.values.iter().flatten().cloned();
            requirements.push(Requirement::new(&expression.key, operator, values)?);
        }
        Ok(Self::sorted(requirements))
    }

    /// All of the pairs; no check, as upstream's `SelectorFromSet`.
    pub fn from_map(pairs: &BTreeMap<String, String>) -> Self {
        let requirement = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: [value.clone()].into(),
        };
        Self::sorted(pairs.iter().map(requirement).collect())
    }

    fn sorted(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Selector {
            requirements,
            nothing: false,
        }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing && self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl Requirement {
    fn new(key: &str, operator: Operator, values: impl IntoIterator<Item = String>) -> Result<Self, ParseError> {
        let values: BTreeSet<String> = values.into_iter().collect();
        let fail = |text: String| Err(ParseError(text));
        if let [first, ..] = &*names::qualified_name(key) {
            return fail(format!("key: Invalid value: {key:?}: {first}"));
        }
        let shown = || {
            values
                .iter()
                .map(|value| format!("{value:?}"))
                .collect::<Vec<_>>()
                .join(",")
        };
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return fail(
                    "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".into(),
                );
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let shown = shown();
                return fail(format!(
                    "values: Invalid value: [{shown}]: values set must be empty for exists and does not exist"
                ));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if let Some(value) = values.iter().find(|value| value.parse::<i64>().is_err()) {
                    return fail(format!(
                        "values[0]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
                    ));
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            if let [first, ..] = &*names::label_value(value) {
                return fail(format!("values[{index}][{key}]: Invalid value: {value:?}: {first}"));
            }
        }
        Ok(Requirement {
            key: key.to_string(),
            operator,
            values,
        })
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let compares = |order: std::cmp::Ordering| {
            let number = |text: &String| text.parse::<i64>().ok();
            let (found, bound) = (value.and_then(number), self.values.first().and_then(number));
            found.is_some_and(|found| bound.is_some_and(|bound| found.cmp(&bound) == order))
        };
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => {
                value.is_some_and(|value| self.values.contains(value))
            }
            Operator::NotEquals | Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => compares(std::cmp::Ordering::Greater),
            Operator::LessThan => compares(std::cmp::Ordering::Less),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let key = &self.key;
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            write!(f, "{}{requirement}", if index == 0 { "" } else { "," })?;
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

/// A token's text; the empty one is the end.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '(' | ')' | ',' => 1,
            '=' | '!' | '<' | '>' => rest.find(|c| !"=!<>".contains(c)).unwrap_or(rest.len()),
            _ => rest
                .find(|c: char| c.is_whitespace() || "=!<>(),".contains(c))
                .unwrap_or(rest.len()),
        };
        // `!key` is a negation and a key; `!=` is one operator.
        let length = if first == '!' && !rest.starts_with("!=") {
            1
        } else {
            length
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<&'a str>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> &'a str {
        self.tokens.get(self.at).copied().unwrap_or_default()
    }

    fn take(&mut self) -> &'a str {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn selector(&mut self) -> Result<Selector, ParseError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                "" => return Ok(Selector::sorted(requirements)),
                token if token == "!" || is_identifier(token) => {}
                token => return Err(found(token, "expected: !, identifier, or 'end of string'")),
            }
            let requirement = self.requirement();
            requirements
                .push(requirement.map_err(|error| ParseError(format!("unable to parse requirement: {error}")))?);
            match self.take() {
                "" => return Ok(Selector::sorted(requirements)),
                "," if self.peek() == "!" || is_identifier(self.peek()) => {}
                "," => return Err(found(self.peek(), "expected: identifier after ','")),
                token => return Err(found(token, "expected: ',' or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, ParseError> {
        let negated = self.peek() == "!";
        if negated {
            self.take();
        }
        let key = self.take();
        if !is_identifier(key) {
            return Err(found(key, "expected: identifier"));
        }
        if negated || self.peek().is_empty() || self.peek() == "," {
            let operator = if negated {
                Operator::DoesNotExist
            } else {
                Operator::Exists
            };
            return Requirement::new(key, operator, []);
        }
        let operator = match self.take() {
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            token => return Err(found(token, "expected: in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    /// The value after an operator; none stands for the empty one.
    fn exact_value(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            "" | "," => Ok(String::new()),
            token if is_identifier(token) => Ok(self.take().to_string()),
            token => Err(found(token, "expected: identifier")),
        }
    }

    /// `(a,b)`; between commas nothing stands for the empty value.
    fn values(&mut self) -> Result<Vec<String>, ParseError> {
        let open = self.take();
        if open != "(" {
            return Err(ParseError(format!("found '{open}' expected: '('")));
        }
        let mut values = Vec::new();
        loop {
            let value = if is_identifier(self.peek()) { self.take() } else { "" };
            values.push(value.to_string());
            match self.take() {
                "," => {}
                ")" => return Ok(values),
                token => return Err(found(token, "expected: ',' or ')'")),
            }
        }
    }
}

fn found(token: &str, expected: &str) -> ParseError {
    ParseError(format!("found '{token}', {expected}"))
}

fn is_identifier(token: &str) -> bool {
    token.chars().next().is_some_and(|c| !"=!<>(),".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::LabelSelectorRequirement;
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn selects() {
        let web = labels(&[("app", "web"), ("tier", "front"), ("n", "5"), ("empty", "")]);
        let table = [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app = web , tier", true),
            ("app=db", false),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (db, web)", true),
            ("app notin (db,web)", false),
            ("other notin (db)", true),
            ("!app", false),
            ("! other", true),
            ("n>4,n<6", true),
            ("n>5", false),
            ("empty=", true),
            ("empty in (,x)", true),
            ("in in (x)", false),
        ];
        for (text, selected) in table {
            let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(selector.matches(&web), selected, "{text}");
            assert_eq!(selector.to_string().parse(), Ok(selector), "{text}");
        }
        assert!(!Selector::nothing().matches(&web) && !Selector::nothing().is_empty());
    }

    #[test]
    fn malformed_texts() {
        let table = [
            ("a=b,", "found '', expected: identifier after ','"),
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            (
                "a b",
                "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ];
        for (text, message) in table {
            assert_eq!(Selector::parse(text).unwrap_err().to_string(), message, "{text}");
        }
        for text in ["a/b/c=d", "-a", "a=-b", "a===b", "a=(", "!"] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn structured_selectors() {
        let expression = |operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: "tier".into(),
            operator: operator.into(),
            values: Some(values.iter().map(|value| value.to_string()).collect()),
        };
        let selector = LabelSelector {
            match_labels: Some(labels(&[("app", "web")])),
            match_expressions: Some(vec![expression("In", &["front"]), expression("Exists", &[])]),
        };
        let selector = Selector::from_label_selector(&selector).unwrap();
        assert!(selector.matches(&labels(&[("app", "web"), ("tier", "front")])));
        assert!(!selector.matches(&labels(&[("app", "web"), ("tier", "back")])));
        for broken in [
            expression("in", &["x"]),
            expression("In", &[]),
            expression("Exists", &["x"]),
        ] {
            let selector = LabelSelector {
                match_expressions: Some(vec![broken]),
                ..Default::default()
            };
            assert!(Selector::from_label_selector(&selector).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[a-c=!<>(), int/-]{0,30}") {
            if let Ok(selector) = Selector::parse(&text) {
                prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
            }
        }
    }
}

//! The JSONPath of printer columns: fields, indexes, slices, unions, wildcards, recursive descent and filters, as kubectl knows them.

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Field(String),
    /// Names or indexes side by side.
    Union(Vec<Step>),
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    Wildcard,
    /// Everything below.
    Descent,
    Filter(Filter),
}

#[derive(Clone, Debug, PartialEq)]
struct Filter {
    left: Operand,
    /// Nothing: the left side exists.
    test: Option<(Comparison, Operand)>,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The most steps of a path.
const MOST_STEPS: usize = 64;
/// The most values that a path may lead to at any step.
const MOST_VALUES: usize = 10_000;

impl JsonPath {
    /// Parses `.spec.x`, with or without braces.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner
            .strip_prefix('{')
            .and_then(|inner| inner.strip_suffix('}'))
            .unwrap_or(inner);
        let mut parser = Parser {
            rest: inner.strip_prefix('$').unwrap_or(inner),
        };
        let steps = parser.steps()?;
        match parser.rest.trim() {
            "" => Ok(Self { steps }),
            rest => Err(format!("unexpected {rest:?}")),
        }
    }

    /// Everything the path leads to.
    pub fn find<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![root];
        for step in &self.steps {
            let mut next = Vec::new();
            for value in found {
                if next.len() > MOST_VALUES {
                    break;
                }
                step.follow(value, &mut next);
            }
            found = next;
        }
        found
    }
}

impl Step {
    fn follow<'a>(&self, value: &'a Value, found: &mut Vec<&'a Value>) {
        match self {
            Self::Field(name) => found.extend(value.get(name)),
            Self::Union(steps) => steps.iter().for_each(|step| step.follow(value, found)),
            Self::Index(index) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                found.extend(place(*index, list.len()).and_then(|index| list.get(index)));
            }
            Self::Slice(start, end, step) => {
                let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let bound = |at: i64| usize::try_from(if at < 0 { at + list.len() as i64 } else { at }).unwrap_or(0);
                let (start, end) = (start.map_or(0, bound), end.map_or(list.len(), bound).min(list.len()));
                if start < end {
                    let step = usize::try_from(*step).unwrap_or(1).max(1);
                    found.extend(list[start..end].iter().step_by(step));
                }
            }
            Self::Wildcard => found.extend(children(value)),
            Self::Descent => descend(value, found),
            Self::Filter(filter) => found.extend(children(value).filter(|child| filter.holds(child))),
        }
    }
}

fn place(index: i64, length: usize) -> Option<usize> {
    usize::try_from(if index < 0 { index + length as i64 } else { index }).ok()
}

fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(members) => Box::new(members.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn descend<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    if found.len() > MOST_VALUES {
        return;
    }
    found.push(value);
    children(value).for_each(|child| descend(child, found));
}

impl Filter {
    fn holds(&self, value: &Value) -> bool {
        let Some((comparison, right)) = &self.test else {
            return self.left.value(value).is_some();
        };
        let (Some(left), Some(right)) = (self.left.value(value), right.value(value)) else {
            return false;
        };
        comparison.holds(left, right)
    }
}

impl Operand {
    fn value<'a>(&'a self, value: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Literal(literal) => Some(literal),
            Self::Path(path) => path.find(value).first().copied(),
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value, right: &Value) -> bool {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let order = match (left, right) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b)),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) if a == b => Some(Equal),
            _ => None,
        };
        match self {
            Self::Equal => order == Some(Equal),
            Self::NotEqual => order != Some(Equal),
            Self::Less => order == Some(Less),
            Self::LessOrEqual => matches!(order, Some(Less | Equal)),
            Self::Greater => order == Some(Greater),
            Self::GreaterOrEqual => matches!(order, Some(Greater | Equal)),
        }
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        loop {
            if steps.len() > MOST_STEPS {
                return Err("too many steps".into());
            }
            if let Some(rest) = self.rest.strip_prefix("..") {
                self.rest = rest;
                steps.push(Step::Descent);
                if !self.rest.starts_with('[') {
                    steps.extend(self.name()?);
                }
            } else if let Some(rest) = self.rest.strip_prefix('.') {
                self.rest = rest;
                if !self.rest.starts_with('[') {
                    steps.extend(self.name()?);
                }
            } else if let Some(rest) = self.rest.strip_prefix('[') {
                self.rest = rest;
                steps.push(self.bracket()?);
            } else {
                return Ok(steps);
            }
        }
    }

    /// The name after a dot; nothing for the root itself.
    fn name(&mut self) -> Result<Option<Step>, String> {
        let mut name = String::new();
        let mut chars = self.rest.char_indices();
        let mut end = self.rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => name.extend(chars.next().map(|(_, c)| c)),
                c if c.is_alphanumeric() || matches!(c, '_' | '-' | '*' | '/' | '$') => name.push(c),
                _ => {
                    end = at;
                    break;
                }
            }
        }
        self.rest = &self.rest[end..];
        Ok(match name.as_str() {
            "" => None,
            "*" => Some(Step::Wildcard),
            _ => Some(Step::Field(name)),
        })
    }

    fn bracket(&mut self) -> Result<Step, String> {
        let end = self.closing()?;
        let (inner, rest) = (&self.rest[..end], &self.rest[end + 1..]);
        self.rest = rest;
        let inner = inner.trim();
        if let Some(filter) = inner.strip_prefix("?(").and_then(|filter| filter.strip_suffix(')')) {
            return parse_filter(filter.trim()).map(Step::Filter);
        }
        if inner == "*" {
            return Ok(Step::Wildcard);
        }
        if inner.contains(':') && !inner.starts_with(['\'', '"']) {
            return slice(inner);
        }
        let mut parts = split_union(inner).into_iter().map(|part| element(part.trim()));
        match (parts.next(), parts.next()) {
            (Some(one), None) => one,
            (Some(one), Some(two)) => Ok(Step::Union(
                [one, two].into_iter().chain(parts).collect::<Result<_, _>>()?,
            )),
            _ => Err("empty brackets".into()),
        }
    }

    /// Where the bracket that is open closes.
    fn closing(&self) -> Result<usize, String> {
        let (mut depth, mut quote) = (0usize, None);
        for (at, c) in self.rest.char_indices() {
            match (c, quote) {
                (c, Some(open)) if c == open => quote = None,
                (_, Some(_)) => {}
                ('\'' | '"', None) => quote = Some(c),
                ('[' | '(', None) => depth += 1,
                (')', None) => depth = depth.saturating_sub(1),
                (']', None) if depth == 0 => return Ok(at),
                (']', None) => depth -= 1,
                _ => {}
            }
        }
        Err("unterminated array".into())
    }
}

fn split_union(text: &str) -> Vec<&str> {
    let mut quote = None;
    text.split(move |c| {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('\'' | '"', None) => quote = Some(c),
            _ => {}
        }
        c == ',' && quote.is_none()
    })
    .collect()
}

fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace(&format!("\\{quote}"), &quote.to_string()))
}

fn element(text: &str) -> Result<Step, String> {
    if let Some(name) = unquoted(text) {
        return Ok(Step::Field(name));
    }
    text.parse()
        .map(Step::Index)
        .map_err(|_| format!("invalid array index {text}"))
}

fn slice(text: &str) -> Result<Step, String> {
    let number = |part: &str| match part.trim() {
        "" => Ok(None),
        part => part
            .parse()
            .map(Some)
            .map_err(|_| format!("invalid array index {text}")),
    };
    let parts: Vec<Option<i64>> = text.split(':').map(number).collect::<Result<_, _>>()?;
    match parts[..] {
        [start, end] => Ok(Step::Slice(start, end, 1)),
        [start, end, step] => Ok(Step::Slice(start, end, step.unwrap_or(1))),
        _ => Err(format!("invalid array index {text}")),
    }
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    const COMPARISONS: &[(&str, Comparison)] = &[
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (_, Some(_)) => continue,
            ('\'' | '"', None) => quote = Some(c),
            _ => {}
        }
        let found = COMPARISONS.iter().find(|(sign, _)| text[at..].starts_with(sign));
        if let (None, Some((sign, comparison))) = (quote, found) {
            return Ok(Filter {
                left: operand(text[..at].trim())?,
                test: Some((*comparison, operand(text[at + sign.len()..].trim())?)),
            });
        }
    }
    Ok(Filter {
        left: operand(text)?,
        test: None,
    })
}

fn operand(text: &str) -> Result<Operand, String> {
    if let Some(literal) = unquoted(text) {
        return Ok(Operand::Literal(literal.into()));
    }
    if let Some(path) = text.strip_prefix(['@', '$']) {
        return JsonPath::parse(path).map(Operand::Path);
    }
    serde_json::from_str(text)
        .map(Operand::Literal)
        .map_err(|_| format!("unrecognized operand {text:?}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_where_kubectl_finds_them() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "dotted"}},
            "spec": {"replicas": 3, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}, {"n": "z", "v": 3}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        for (path, expected) in [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            (".spec['replicas']", json!([3])),
            (".spec.list[0].n", json!(["x"])),
            (".spec.list[-1].n", json!(["z"])),
            (".spec.list[*].v", json!([1, 2, 3])),
            (".spec.list[0:2].v", json!([1, 2])),
            (".spec.list[0,2].v", json!([1, 3])),
            (".spec.list[?(@.v>1)].n", json!(["y", "z"])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type=='Other')].status", json!(["False"])),
            (".metadata.annotations.a\\.b/c", json!(["dotted"])),
            (".metadata.annotations['a.b/c']", json!(["dotted"])),
            ("..replicas", json!([3])),
            (".spec.nothing.here", json!([])),
        ] {
            let found: Vec<Value> = JsonPath::parse(path)
                .unwrap()
                .find(&object)
                .into_iter()
                .cloned()
                .collect();
            assert_eq!(Value::from(found), expected, "{path}");
        }
        for bad in [".a[", ".a[x]", ".a b", ".a[?(@.b==)]"] {
            assert!(JsonPath::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "[.a\\[\\]?()@='\"*0-9:,<>! {}$\\\\-]{0,24}") {
            if let Ok(path) = JsonPath::parse(&text) {
                let _ = path.find(&json!({"a": [1, {"a": "b"}]}));
            }
        }
    }
}

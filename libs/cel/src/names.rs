//! Names of fields that are no identifiers of the language, and how they are written in it: `__dot__`, `__namespace__`, ...

/// Words of the language that no field may be called; they are written between two pairs of underscores.
const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

const ESCAPES: &[(&str, &str)] = &[
    ("__", "__underscores__"),
    (".", "__dot__"),
    ("-", "__dash__"),
    ("/", "__slash__"),
];

/// The field as an expression names it; `None` if no expression can.
pub fn escape(field: &str) -> Option<String> {
    if field.is_empty() {
        return None;
    }
    if RESERVED.contains(&field) {
        return Some(format!("__{field}__"));
    }
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(c) = rest.chars().next() {
        if let Some((plain, escaped)) = ESCAPES.iter().find(|(plain, _)| rest.starts_with(plain)) {
            out.push_str(escaped);
            rest = &rest[plain.len()..];
            continue;
        }
        let first = out.is_empty();
        if !(c == '_' || c.is_ascii_alphabetic() || (c.is_ascii_digit() && !first)) {
            return None;
        }
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

/// The field that an expression names so.
pub fn unescape(name: &str) -> Option<String> {
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return Some(word.to_owned());
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while !rest.is_empty() {
        if rest.starts_with("__") {
            let (plain, escaped) = ESCAPES.iter().find(|(_, escaped)| rest.starts_with(escaped))?;
            out.push_str(plain);
            rest = &rest[escaped.len()..];
            continue;
        }
        let c = rest.chars().next()?;
        out.push(c);
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_names_in_expressions() {
        for (field, name) in [
            ("namespace", "__namespace__"),
            ("x-prop", "x__dash__prop"),
            ("redact__d", "redact__underscores__d"),
            ("a.b/c", "a__dot__b__slash__c"),
            ("if", "__if__"),
            ("plain_1", "plain_1"),
        ] {
            assert_eq!(escape(field).as_deref(), Some(name));
            assert_eq!(unescape(name).as_deref(), Some(field));
        }
        assert_eq!(escape("$ref"), None);
        assert_eq!(escape("1a"), None);
        assert_eq!(escape(""), None);
        assert_eq!(unescape("a__b"), None);
    }
}

//! The syntax of names. Each check returns upstream's messages, none if the name is fine.

use std::net::IpAddr;

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
const QUALIFIED: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED_RULE: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// A label of a domain name: `my-name`.
pub fn dns1123_label(name: &str) -> Vec<String> {
    let rule = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
                end with an alphanumeric character";
    let broken = (!is_label(name)).then(|| match is_subdomain(name) {
        true => "must not contain dots".to_owned(),
        false => regex_error(rule, LABEL, &["my-name", "123-abc"]),
    });
    limited(name, LABEL_MAX).chain(broken).collect()
}

/// A domain name: `example.com`.
pub fn dns1123_subdomain(name: &str) -> Vec<String> {
    let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
                start and end with an alphanumeric character";
    let broken = (!is_subdomain(name)).then(|| regex_error(rule, &subdomain_regex(), &["example.com"]));
    limited(name, SUBDOMAIN_MAX).chain(broken).collect()
}

/// A domain name whose labels may have underscores, as resolvers search.
pub fn dns1123_subdomain_with_underscore(name: &str) -> Vec<String> {
    let rule = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must \
                start and end with an alphanumeric character";
    let label = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    let fine = name.split('.').all(|part| {
        let part = part.strip_prefix('_').unwrap_or(part);
        !part.starts_with('_') && is_label(&part.replace('_', "-"))
    });
    let broken = (!fine).then(|| regex_error(rule, &format!("{label}(\\.{label})*"), &["example.com"]));
    limited(name, SUBDOMAIN_MAX).chain(broken).collect()
}

/// A label of a domain name that starts with a letter, as Services have.
pub fn dns1035_label(name: &str) -> Vec<String> {
    let rule = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                character, and end with an alphanumeric character";
    let fine = is_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
    let broken = (!fine).then(|| regex_error(rule, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    limited(name, LABEL_MAX).chain(broken).collect()
}

/// A domain name after `*.`.
pub fn wildcard_dns1123_subdomain(name: &str) -> Vec<String> {
    let rule = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist \
                of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
    let fine = name.strip_prefix("*.").is_some_and(is_subdomain);
    let regex = format!("\\*\\.{}", subdomain_regex());
    let broken = (!fine).then(|| regex_error(rule, &regex, &["*.example.com"]));
    limited(name, SUBDOMAIN_MAX).chain(broken).collect()
}

/// The key of a label or annotation: an optional domain name and a slash, then a name.
pub fn qualified_name(name: &str) -> Vec<String> {
    let examples = &["MyName", "my.name", "123-abc"];
    let (prefix, name) = match name.split_once('/') {
        None => (None, name),
        Some((_, rest)) if rest.contains('/') => {
            let text = regex_error(QUALIFIED_RULE, QUALIFIED, examples);
            return vec![format!(
                "a qualified name {text} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
        Some((prefix, name)) => (Some(prefix), name),
    };
    let mut errors = Vec::new();
    match prefix {
        Some("") => errors.push("prefix part must be non-empty".to_string()),
        Some(prefix) => errors.extend(
            dns1123_subdomain(prefix)
                .iter()
                .map(|text| format!("prefix part {text}")),
        ),
        None => {}
    }
    if name.is_empty() {
        errors.push("name part must be non-empty".to_string());
    }
    errors.extend(limited(name, LABEL_MAX).map(|text| format!("name part {text}")));
    if !is_qualified(name) {
        errors.push(format!(
            "name part {}",
            regex_error(QUALIFIED_RULE, QUALIFIED, examples)
        ));
    }
    errors
}

/// The value of a label; may be empty.
pub fn label_value(value: &str) -> Vec<String> {
    let rule = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
                start and end with an alphanumeric character";
    let fine = value.is_empty() || is_qualified(value);
    let regex = format!("({QUALIFIED})?");
    let broken = (!fine).then(|| regex_error(rule, &regex, &["MyValue", "my_value", "12345"]));
    limited(value, LABEL_MAX).chain(broken).collect()
}

/// The name of a container's port (an IANA service name).
pub fn port_name(name: &str) -> Vec<String> {
    let mut errors: Vec<String> = limited(name, 15).collect();
    if name.is_empty()
        || !name
            .bytes()
            .all(|b| b == b'-' || b.is_ascii_lowercase() || b.is_ascii_digit())
    {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// A port's number.
pub fn port_number(port: i32) -> Vec<String> {
    in_range(port.into(), 1, 65535)
}

/// A number between two others, inclusive.
pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    let broken = !(low..=high).contains(&value);
    broken
        .then(|| format!("must be between {low} and {high}, inclusive"))
        .into_iter()
        .collect()
}

/// An IPv4 or IPv6 address without leading zeros, zone or prefix.
pub fn ip(text: &str) -> Vec<String> {
    let broken = text.parse::<IpAddr>().is_err();
    broken
        .then(|| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_string())
        .into_iter()
        .collect()
}

/// A network: an address, a slash and the length of its prefix.
pub fn cidr(text: &str) -> Vec<String> {
    let fine = text.split_once('/').is_some_and(|(address, length)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        let plain = length.bytes().all(|b| b.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        plain && length.parse::<u8>().is_ok_and(|length| length <= most)
    });
    let message = || "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_string();
    (!fine).then(message).into_iter().collect()
}

/// The name of an environment variable.
pub fn env_var(name: &str) -> Vec<String> {
    let fine = !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    let message = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    (!fine).then(|| message.to_string()).into_iter().collect()
}

/// The key of a ConfigMap or Secret.
pub fn config_map_key(key: &str) -> Vec<String> {
    let rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
    let fine = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let broken = (!fine).then(|| regex_error(rule, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    let parent = match key {
        "." => Some("must not be '.'"),
        ".." => Some("must not be '..'"),
        _ if key.starts_with("..") => Some("must not start with '..'"),
        _ => None,
    };
    limited(key, SUBDOMAIN_MAX)
        .chain(broken)
        .chain(parent.map(str::to_string))
        .collect()
}

/// The name of an HTTP header.
pub fn http_header(name: &str) -> Vec<String> {
    let rule = "a valid HTTP header must consist of alphanumeric characters or '-'";
    let fine = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    (!fine)
        .then(|| regex_error(rule, "[-A-Za-z0-9]+", &["X-Header-Name"]))
        .into_iter()
        .collect()
}

/// A percentage: `93%`.
pub fn percent(text: &str) -> Vec<String> {
    let rule = "a valid percent string must be a numeric string followed by an ending '%'";
    let fine = text
        .strip_suffix('%')
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    (!fine)
        .then(|| regex_error(rule, "[0-9]+%", &["1%", "93%"]))
        .into_iter()
        .collect()
}

/// A name that may stand as one segment of a path, which is all that RBAC's names must be.
pub fn path_segment(name: &str) -> Vec<String> {
    match name {
        "." | ".." => vec![format!("may not be '{name}'")],
        _ => {
            let found = ["/", "%"].into_iter().filter(|part| name.contains(part));
            found.map(|part| format!("may not contain '{part}'")).collect()
        }
    }
}

/// Letters that make no words and are not mistaken for one another.
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// What `generateName` appends: a letter for each random byte. Upstream takes five.
pub fn generate_suffix(random: &[u8]) -> String {
    random
        .iter()
        .map(|byte| char::from(SUFFIX_LETTERS[usize::from(*byte) % SUFFIX_LETTERS.len()]))
        .collect()
}

fn limited(name: &str, most: usize) -> impl Iterator<Item = String> {
    (name.len() > most)
        .then(|| format!("must be no more than {most} bytes"))
        .into_iter()
}

fn regex_error(rule: &str, regex: &str, examples: &[&str]) -> String {
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!(
        "{rule} (e.g. {}regex used for validation is '{regex}')",
        examples.join(" or ")
    )
}

fn subdomain_regex() -> String {
    format!("{LABEL}(\\.{LABEL})*")
}

fn is_label(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.iter().all(|b| letter(*b) || *b == b'-')
        && bytes.first().is_some_and(|b| letter(*b))
        && bytes.last().is_some_and(|b| letter(*b))
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(is_label)
}

fn is_qualified(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fine_and_broken_names() {
        let table: &[(fn(&str) -> Vec<String>, &[&str], &[&str])] = &[
            (
                dns1123_label,
                &["a", "1", "a-b", "123-abc"],
                &["", "-a", "a-", "A", "a.b", "a_b", "é"],
            ),
            (
                dns1123_subdomain,
                &["a", "a.b-c.d1"],
                &["", ".a", "a.", "a..b", "a.-b", "A.b"],
            ),
            (
                dns1123_subdomain_with_underscore,
                &["a", "_tcp.a_b.c", "a.b"],
                &["", "a_", "__a", "a..b"],
            ),
            (dns1035_label, &["a", "a-1"], &["1a", "", "a-", "a.b"]),
            (
                qualified_name,
                &["a", "A_b.c-1", "example.com/a"],
                &["", "/a", "a/", "a/b/c", "-a", "A.com/a"],
            ),
            (label_value, &["", "a", "A_b.c"], &["-a", "a b", "é"]),
            (
                port_name,
                &["http", "a-1"],
                &["", "80", "a--b", "-a", "HTTP", "longer-than-fifteen"],
            ),
            (
                ip,
                &["10.0.0.1", "::1", "2001:db8::ffff"],
                &["", "10.0.0", "010.0.0.1", "1.2.3.4/24", "a"],
            ),
            (
                cidr,
                &["10.0.0.0/8", "::/0"],
                &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/-1", "a/1"],
            ),
            (env_var, &["A", "a.b-c", "1A", "a b"], &["", "a=b", "é"]),
            (
                config_map_key,
                &["a.b", "_x", ".dockerconfigjson"],
                &["", ".", "..", "..a", "a/b"],
            ),
            (percent, &["0%", "93%"], &["", "%", "-1%", "1"]),
            (path_segment, &["system:admin", "a b"], &[".", "..", "a/b", "a%b"]),
        ];
        for (index, (check, fine, broken)) in table.iter().enumerate() {
            for name in *fine {
                assert_eq!(check(name), Vec::<String>::new(), "{index} {name:?}");
            }
            for name in *broken {
                assert_ne!(check(name), Vec::<String>::new(), "{index} {name:?}");
            }
        }
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_label(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn messages_name_the_rule() {
        assert_eq!(
            dns1123_label("A"),
            [
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
              with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
              '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
            ]
        );
    }

    #[test]
    fn suffixes_use_upstreams_letters() {
        assert_eq!(generate_suffix(&[0, 26, 27, 255, 20]), "b9bq2");
    }
}

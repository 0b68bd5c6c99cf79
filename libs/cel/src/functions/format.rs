//! Kubernetes' named formats.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Cost, Function, ONE, f, no_overload, time};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::{Opaque, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

/// A check with the messages of what is wrong.
type Check = fn(&str) -> Vec<String>;

const FORMATS: &[(&str, Check)] = &[
    ("dns1123Label", api::names::dns1123_label),
    ("dns1123Subdomain", api::names::dns1123_subdomain),
    ("dns1035Label", api::names::dns1035_label),
    ("qualifiedName", api::names::qualified_name),
    ("labelValue", api::names::label_value),
    ("dns1123LabelPrefix", |text| api::names::dns1123_label(&prefix(text))),
    ("dns1123SubdomainPrefix", |text| {
        api::names::dns1123_subdomain(&prefix(text))
    }),
    ("dns1035LabelPrefix", |text| api::names::dns1035_label(&prefix(text))),
    ("uri", |text| match text.split_once(':') {
        Some((scheme, _)) if !scheme.is_empty() => Vec::new(),
        _ if text.starts_with('/') => Vec::new(),
        _ => vec!["invalid URI for request".into()],
    }),
    ("uuid", uuid),
    ("byte", |text| match STANDARD.decode(text) {
        Ok(_) => Vec::new(),
        Err(_) => vec!["illegal base64 data".into()],
    }),
    ("date", |text| {
        match time::parse_timestamp(&format!("{text}T00:00:00Z")) {
            Ok(_) if text.len() == 10 => Vec::new(),
            _ => vec!["invalid date".into()],
        }
    }),
    ("datetime", |text| match time::parse_timestamp(text) {
        Ok(_) => Vec::new(),
        Err(_) => vec!["invalid datetime".into()],
    }),
];

pub(super) const FUNCTIONS: &[Function] = &[
    f("format.named", named, ONE, "(string)optional(NamedFormat)"),
    f(
        "validate",
        validate,
        Cost::Scan,
        "NamedFormat.(string)optional(list(string))",
    ),
    f(
        "format.dns1123Label",
        |_, _| format("dns1123Label"),
        ONE,
        "()NamedFormat",
    ),
    f(
        "format.dns1123Subdomain",
        |_, _| format("dns1123Subdomain"),
        ONE,
        "()NamedFormat",
    ),
    f(
        "format.dns1035Label",
        |_, _| format("dns1035Label"),
        ONE,
        "()NamedFormat",
    ),
    f(
        "format.qualifiedName",
        |_, _| format("qualifiedName"),
        ONE,
        "()NamedFormat",
    ),
    f("format.labelValue", |_, _| format("labelValue"), ONE, "()NamedFormat"),
    f(
        "format.dns1123LabelPrefix",
        |_, _| format("dns1123LabelPrefix"),
        ONE,
        "()NamedFormat",
    ),
    f(
        "format.dns1123SubdomainPrefix",
        |_, _| format("dns1123SubdomainPrefix"),
        ONE,
        "()NamedFormat",
    ),
    f(
        "format.dns1035LabelPrefix",
        |_, _| format("dns1035LabelPrefix"),
        ONE,
        "()NamedFormat",
    ),
    f("format.uri", |_, _| format("uri"), ONE, "()NamedFormat"),
    f("format.uuid", |_, _| format("uuid"), ONE, "()NamedFormat"),
    f("format.byte", |_, _| format("byte"), ONE, "()NamedFormat"),
    f("format.date", |_, _| format("date"), ONE, "()NamedFormat"),
    f("format.datetime", |_, _| format("datetime"), ONE, "()NamedFormat"),
];

/// A prefix is fine if a letter makes it a name.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(_) => format!("{text}a"),
        None => text.to_owned(),
    }
}

fn uuid(text: &str) -> Vec<String> {
    let plain: String = text.chars().filter(|c| *c != '-').collect();
    if plain.len() == 32 && plain.bytes().all(|b| b.is_ascii_hexdigit()) {
        Vec::new()
    } else {
        vec!["does not match the UUID format".into()]
    }
}

fn format<'a>(name: &str) -> Result<'a> {
    match FORMATS.iter().find(|(known, _)| *known == name) {
        Some((name, _)) => Ok(Value::Opaque(Opaque::Format(name).into())),
        None => Err(Error::no_such_overload()),
    }
}

fn named<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(name)] => match format(name) {
            Ok(found) => Value::some(found),
            Err(_) => Ok(Value::Optional(None)),
        },
        _ => Err(no_overload("format.named", args)),
    }
}

fn validate<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    if let [Value::Opaque(opaque), Value::String(text)] = args
        && let Opaque::Format(name) = **opaque
        && let Some((_, check)) = FORMATS.iter().find(|(known, _)| *known == name)
    {
        fuel.allocate(text.len() * 2)?;
        let faults = check(text);
        if faults.is_empty() {
            return Ok(Value::Optional(None));
        }
        let faults = faults.into_iter().map(Value::string).collect();
        return Value::some(Value::list(faults, fuel)?);
    }
    Err(Error::no_such_overload())
}

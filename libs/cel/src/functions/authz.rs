//! The authorizer: builders of checks, and the check.

use super::{Cost, Function, ONE, f};
use crate::authorizer::{Answer, Check};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::value::{Opaque, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

const SELECTOR: &str = "ResourceCheck.(string)ResourceCheck";

pub(super) const FUNCTIONS: &[Function] = &[
    f("path", path, ONE, "Authorizer.(string)PathCheck"),
    f("group", group, ONE, "Authorizer.(string)GroupCheck"),
    f(
        "serviceAccount",
        service_account,
        ONE,
        "Authorizer.(string,string)Authorizer",
    ),
    f("resource", resource, ONE, "GroupCheck.(string)ResourceCheck"),
    f(
        "subresource",
        |a, _| set(a, |c, text| c.subresource = text),
        ONE,
        SELECTOR,
    ),
    f("namespace", |a, _| set(a, |c, text| c.namespace = text), ONE, SELECTOR),
    f("name", |a, _| set(a, |c, text| c.name = text), ONE, SELECTOR),
    f(
        "fieldSelector",
        |a, _| set(a, |c, text| c.field_selector = text),
        ONE,
        SELECTOR,
    ),
    f(
        "labelSelector",
        |a, _| set(a, |c, text| c.label_selector = text),
        ONE,
        SELECTOR,
    ),
    f(
        "check",
        check,
        Cost::Fixed(350_000),
        "PathCheck.(string)Decision|ResourceCheck.(string)Decision",
    ),
    f(
        "allowed",
        |a, _| answer(a).map(|d| Value::Bool(d.allowed)),
        ONE,
        "Decision.()bool",
    ),
    f(
        "reason",
        |a, _| answer(a).map(|d| Value::string(d.reason.clone())),
        ONE,
        "Decision.()string",
    ),
    f(
        "errored",
        |a, _| answer(a).map(|d| Value::Bool(!d.error.is_empty())),
        ONE,
        "Decision.()bool",
    ),
    f(
        "error",
        |a, _| answer(a).map(|d| Value::string(d.error.clone())),
        ONE,
        "Decision.()string",
    ),
];

fn opaque<'v>(args: &'v [Value<'_>]) -> std::result::Result<&'v Opaque, Error> {
    match args.first() {
        Some(Value::Opaque(opaque)) => Ok(opaque),
        _ => Err(Error::no_such_overload()),
    }
}

fn string(args: &[Value<'_>], at: usize) -> std::result::Result<String, Error> {
    match args.get(at) {
        Some(Value::String(text)) => Ok(text.to_string()),
        _ => Err(Error::no_such_overload()),
    }
}

fn made<'a>(opaque: Opaque) -> Result<'a> {
    Ok(Value::Opaque(opaque.into()))
}

fn path<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let Opaque::Authorizer(base) = opaque(args)? else {
        return Err(Error::no_such_overload());
    };
    made(Opaque::PathCheck(Check {
        path: Some(string(args, 1)?),
        ..base.clone()
    }))
}

fn group<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let Opaque::Authorizer(base) = opaque(args)? else {
        return Err(Error::no_such_overload());
    };
    made(Opaque::GroupCheck(Check {
        group: string(args, 1)?,
        ..base.clone()
    }))
}

fn service_account<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let Opaque::Authorizer(base) = opaque(args)? else {
        return Err(Error::no_such_overload());
    };
    let (namespace, name) = (string(args, 1)?, string(args, 2)?);
    if !api::names::dns1123_label(&namespace).is_empty() {
        return Err(Error::value("Invalid service account namespace"));
    }
    if !api::names::dns1123_subdomain(&name).is_empty() {
        return Err(Error::value("Invalid service account name"));
    }
    made(Opaque::Authorizer(Check {
        service_account: Some((namespace, name)),
        ..base.clone()
    }))
}

fn resource<'a>(args: &[Value<'a>], _: &mut Fuel<'_>) -> Result<'a> {
    let Opaque::GroupCheck(base) = opaque(args)? else {
        return Err(Error::no_such_overload());
    };
    made(Opaque::ResourceCheck(Check {
        resource: string(args, 1)?,
        ..base.clone()
    }))
}

fn set<'a>(args: &[Value<'a>], put: fn(&mut Check, String)) -> Result<'a> {
    let Opaque::ResourceCheck(base) = opaque(args)? else {
        return Err(Error::no_such_overload());
    };
    let mut next = base.clone();
    put(&mut next, string(args, 1)?);
    made(Opaque::ResourceCheck(next))
}

fn check<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let (Opaque::PathCheck(base) | Opaque::ResourceCheck(base)) = opaque(args)? else {
        return Err(Error::no_such_overload());
    };
    let check = Check {
        verb: string(args, 1)?,
        ..base.clone()
    };
    match fuel.decisions.and_then(|decisions| decisions.get(&check)) {
        Some(answer) => made(Opaque::Decision(answer.clone())),
        None => Err(Error::Undecided(Box::new(check))),
    }
}

fn answer<'v>(args: &'v [Value<'_>]) -> std::result::Result<&'v Answer, Error> {
    match opaque(args)? {
        Opaque::Decision(answer) => Ok(answer),
        _ => Err(Error::no_such_overload()),
    }
}

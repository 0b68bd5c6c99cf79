//! base64, and the escaping of names in JSON pointers.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::{Cost, Function, f};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::json::text;
use crate::value::Value;

type Result<'a> = std::result::Result<Value<'a>, Error>;

pub(super) const FUNCTIONS: &[Function] = &[
    f("base64.encode", encode, Cost::Scan, "(bytes)string"),
    f("base64.decode", decode, Cost::Scan, "(string)bytes"),
    f("jsonpatch.escapeKey", escape_key, Cost::Scan, "(string)string"),
];

fn encode<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::Bytes(bytes)] => {
            fuel.allocate(bytes.len() * 2)?;
            text(STANDARD.encode(bytes), fuel)
        }
        _ => Err(Error::no_such_overload()),
    }
}

fn decode<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(text)] => {
            fuel.allocate(text.len())?;
            let bytes = STANDARD.decode(&**text).or_else(|_| STANDARD_NO_PAD.decode(&**text));
            bytes
                .map(|bytes| Value::Bytes(bytes.into()))
                .map_err(|_| Error::value("illegal base64 data"))
        }
        _ => Err(Error::no_such_overload()),
    }
}

fn escape_key<'a>(args: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    match args {
        [Value::String(key)] => {
            fuel.allocate(key.len() * 2)?;
            text(key.replace('~', "~0").replace('/', "~1"), fuel)
        }
        _ => Err(Error::no_such_overload()),
    }
}

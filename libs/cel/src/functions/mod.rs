//! The functions of the language and of Kubernetes' libraries: one table with names, declarations, costs and implementations.

mod authz;
mod encoders;
mod format;
mod lists;
mod math;
mod net;
mod optional;
mod quantity;
mod regex;
pub(crate) mod semver;
mod sets;
mod standard;
mod strings;
pub(crate) mod time;
pub(crate) mod url;

pub(crate) use regex::compile as compile_pattern;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::error::Error;
use crate::fuel::Fuel;
use crate::types::{OPAQUE, Type};
use crate::value::Value;

/// An implementation; a member function's target is the first argument.
pub(crate) type Run = for<'a> fn(&[Value<'a>], &mut Fuel<'_>) -> Result<Value<'a>, Error>;

/// How upstream's model prices a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cost {
    Fixed(u64),
    /// A traversal of the first argument.
    Scan,
    /// A traversal of the first argument and the making of a result.
    Rewrite,
    /// A traversal of the result, twice.
    Join,
    /// Text times pattern.
    Match,
    /// Text times text.
    Contains,
    /// The shorter of both.
    Compare,
    /// Both, for text and bytes.
    Concat,
    /// The items of the second argument, if it is a list.
    Member,
    /// All items of the first argument.
    Items,
    /// Comparison of addresses, so many passes over their bytes and a constant.
    Address(u64, u64),
}

/// One name of the table.
pub(crate) struct Function {
    pub name: &'static str,
    pub run: Run,
    pub cost: Cost,
    /// Declarations, separated by `|`: `string.(int)bool` is a member of strings, `(A,A)bool` a global function over one type.
    pub overloads: &'static str,
}

/// A declaration.
#[derive(Debug)]
pub(crate) struct Overload {
    pub member: bool,
    /// With the target.
    pub params: Vec<Type>,
    pub result: Type,
}

/// A function with its declarations.
pub(crate) struct Declared {
    pub function: &'static Function,
    pub overloads: Vec<Overload>,
}

const fn f(name: &'static str, run: Run, cost: Cost, overloads: &'static str) -> Function {
    Function {
        name,
        run,
        cost,
        overloads,
    }
}

const ONE: Cost = Cost::Fixed(1);

struct Table {
    functions: Vec<Declared>,
    by_name: HashMap<&'static str, usize>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let all = [
            standard::FUNCTIONS,
            time::FUNCTIONS,
            strings::FUNCTIONS,
            lists::FUNCTIONS,
            sets::FUNCTIONS,
            optional::FUNCTIONS,
            regex::FUNCTIONS,
            url::FUNCTIONS,
            net::FUNCTIONS,
            quantity::FUNCTIONS,
            semver::FUNCTIONS,
            format::FUNCTIONS,
            encoders::FUNCTIONS,
            math::FUNCTIONS,
            authz::FUNCTIONS,
        ];
        let functions: Vec<Declared> = all
            .into_iter()
            .flatten()
            .map(|function| Declared {
                function,
                overloads: function.overloads.split('|').map(overload).collect(),
            })
            .collect();
        let by_name = functions
            .iter()
            .enumerate()
            .map(|(index, declared)| (declared.function.name, index))
            .collect();
        Table { functions, by_name }
    })
}

/// A function's place in the table.
pub(crate) fn find(name: &str) -> Option<usize> {
    table().by_name.get(name).copied()
}

/// The function at a place.
pub(crate) fn get(index: usize) -> &'static Declared {
    &table().functions[index]
}

/// Reads `string.(int,list(A))bool`.
fn overload(text: &'static str) -> Overload {
    let open = match text.find(".(") {
        Some(dot) if !text.starts_with('(') => dot,
        _ => 0,
    };
    let mut reader = Reader {
        rest: &text[if open > 0 { open + 1 } else { 0 }..],
    };
    let mut params = Vec::new();
    if open > 0 {
        params.push(Reader { rest: &text[..open] }.ty());
    }
    reader.eat('(');
    while !reader.eat(')') {
        params.push(reader.ty());
        reader.eat(',');
    }
    Overload {
        member: open > 0,
        params,
        result: reader.ty(),
    }
}

struct Reader {
    rest: &'static str,
}

impl Reader {
    fn eat(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn ty(&mut self) -> Type {
        let end = self.rest.find(['(', ')', ',']).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        let mut args = Vec::new();
        if matches!(name, "list" | "map" | "optional" | "type") && self.eat('(') {
            while !self.eat(')') {
                args.push(self.ty());
                self.eat(',');
            }
        }
        let mut args = args.into_iter();
        let mut next = || args.next().unwrap_or_default();
        match name {
            "dyn" => Type::Dyn,
            "null" => Type::Null,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::STRING,
            "bytes" => Type::BYTES,
            "timestamp" => Type::Timestamp,
            "duration" => Type::Duration,
            "list" => Type::list(next()),
            "map" => Type::map(next(), next()),
            "optional" => Type::optional(next()),
            "type" => Type::TypeOf(Arc::new(next())),
            "A" => Type::Param(0),
            "B" => Type::Param(1),
            _ => OPAQUE
                .iter()
                .find(|opaque| opaque.rsplit('.').next() == Some(name))
                .map_or(Type::Dyn, |opaque| Type::Opaque(opaque)),
        }
    }
}

/// A tenth of a size, rounded up: the price of looking at text.
fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

/// What a call costs, when the result is known.
pub(crate) fn price(cost: Cost, args: &[Value<'_>], result: &Value<'_>, fuel: &mut Fuel<'_>) -> Result<u64, Error> {
    let mut size = |index: usize| match args.get(index) {
        Some(value) => value.cost_size(fuel),
        None => Ok(1),
    };
    Ok(match cost {
        Cost::Fixed(cost) => cost,
        Cost::Scan => tenth(size(0)?),
        Cost::Rewrite => tenth(size(0)?.saturating_mul(2)),
        Cost::Join => tenth(result.cost_size(fuel)?.saturating_mul(2)),
        Cost::Match => tenth(size(0)? + 1).saturating_mul(size(1)?.div_ceil(4)),
        Cost::Contains => tenth(size(0)?).saturating_mul(tenth(size(1)?)),
        Cost::Compare => match args {
            [Value::Int(_) | Value::Double(_) | Value::Uint(_) | Value::Bool(_), _] => 1,
            _ => tenth(size(0)?.min(size(1)?)),
        },
        Cost::Concat => match args {
            [Value::String(_) | Value::Bytes(_), _] => tenth(size(0)? + size(1)?),
            _ => 1,
        },
        Cost::Member => match args {
            [_, Value::List(_)] => size(1)?,
            _ => 1,
        },
        Cost::Items => match args.first() {
            Some(value) => traversal(value, fuel)?,
            None => 1,
        },
        Cost::Address(passes, extra) => {
            let text = matches!(args.get(1), Some(Value::String(_)));
            tenth(size(0)? * passes) + extra + if text { tenth(size(1)?) } else { 0 }
        }
    })
}

/// What it costs to look at everything in a value.
fn traversal(value: &Value<'_>, fuel: &mut Fuel<'_>) -> Result<u64, Error> {
    let mut sum: u64 = 0;
    let mut open = vec![value.clone()];
    while let Some(value) = open.pop() {
        fuel.work(1)?;
        match value {
            Value::String(_) | Value::Bytes(_) => sum += value.cost_size(fuel)? / 10,
            Value::List(list) => {
                fuel.work(list.len() as u64)?;
                for item in list.iter() {
                    open.push(item?);
                }
            }
            Value::Map(map) => {
                fuel.work(map.len() as u64)?;
                for (key, item) in map.iter() {
                    open.push(key.value());
                    open.push(item?);
                }
            }
            _ => sum += 1,
        }
    }
    Ok(sum)
}

/// `no such overload: name(types)`.
pub(crate) fn no_overload(name: &str, args: &[Value<'_>]) -> Error {
    let types: Vec<String> = args.iter().map(|arg| arg.type_name().to_string()).collect();
    Error::value(format!("no such overload: {name}({})", types.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_read() {
        let Overload { member, params, result } = overload("list(string).(string,map(A,B))optional(A)");
        assert!(member);
        assert_eq!(params[0], Type::list(Type::STRING));
        assert_eq!(params[2], Type::map(Type::Param(0), Type::Param(1)));
        assert_eq!(result, Type::optional(Type::Param(0)));
        let global = overload("(CIDR,IP)bool");
        assert!(!global.member);
        assert_eq!(global.params[0], Type::Opaque("net.CIDR"));
    }

    #[test]
    fn names_are_unique() {
        let table = table();
        assert_eq!(table.functions.len(), table.by_name.len());
    }
}

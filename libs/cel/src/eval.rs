//! The evaluator. It follows the tree, whose height is bounded; every node charges the fuel.

use std::sync::Arc;

use crate::ast::{Entry, Fold, FoldKind, Id, Literal, Node, Slot, StructField};
use crate::error::Error;
use crate::fuel::Fuel;
use crate::functions::{self, no_overload};
use crate::program::Program;
use crate::value::{Entries, Key, Map, Text, Value};

type Result<'a> = std::result::Result<Value<'a>, Error>;

/// Upstream's prices.
const IDENT: u64 = 1;
const LIST: u64 = 10;
const MAP: u64 = 30;
const MESSAGE: u64 = 40;

pub(crate) fn run<'a>(program: &'a Program, roots: &[Value<'a>], fuel: &mut Fuel<'_>) -> Result<'a> {
    let mut machine = Machine {
        program,
        roots,
        fuel,
        locals: Vec::new(),
    };
    machine.eval(program.ast.root)
}

struct Machine<'a, 'r, 'f, 'd> {
    program: &'a Program,
    roots: &'r [Value<'a>],
    fuel: &'f mut Fuel<'d>,
    locals: Vec<Value<'a>>,
}

impl<'a> Machine<'a, '_, '_, '_> {
    // Small, because it is on the stack once for every level of the tree.
    fn eval(&mut self, id: Id) -> Result<'a> {
        let program = self.program;
        match program.ast.node(id) {
            Node::Literal(literal) => self.literal(literal),
            Node::TypeName(name) => self.type_name(name),
            Node::Ident { name, slot } => self.ident(name, *slot),
            Node::Select { operand, field, test } => self.select(*operand, field, *test),
            Node::OptSelect { operand, field } => self.opt_select(*operand, field),
            Node::Call {
                function,
                target,
                args,
                builtin,
            } => self.call(function, *target, args, *builtin),
            Node::And(ids) => self.logical(ids, false),
            Node::Or(ids) => self.logical(ids, true),
            Node::Conditional { test, yes, no } => self.conditional(*test, *yes, *no),
            Node::List { items, optional } => self.list(items, optional),
            Node::Map(entries) => self.map(entries),
            Node::Struct { name, fields } => self.message(name, fields),
            Node::Fold(fold) => self.fold(fold),
            Node::Bind { init, body, .. } => self.bind(*init, *body),
            Node::OptMap { target, body, flat, .. } => self.opt_map(*target, *body, *flat),
        }
    }

    #[inline(never)]
    fn literal(&mut self, literal: &'a Literal) -> Result<'a> {
        match literal {
            Literal::Bytes(bytes) => self.fuel.allocate(bytes.len())?,
            _ => self.fuel.work(1)?,
        }
        Ok(constant(literal))
    }

    #[inline(never)]
    fn type_name(&mut self, name: &'a str) -> Result<'a> {
        self.fuel.charge(IDENT)?;
        Ok(Value::Type(Text::Borrowed(name)))
    }

    #[inline(never)]
    fn ident(&mut self, name: &str, slot: Slot) -> Result<'a> {
        self.fuel.charge(IDENT)?;
        let found = match slot {
            Slot::Root(at) => self.roots.get(at),
            Slot::Local(at) => self.locals.get(at),
            Slot::Unknown => None,
        };
        found
            .cloned()
            .ok_or_else(|| Error::value(format!("no such attribute(s): {name}")))
    }

    #[inline(never)]
    fn select(&mut self, operand: Id, field: &'a str, test: bool) -> Result<'a> {
        let value = self.eval(operand)?;
        if !test {
            self.fuel.charge(IDENT)?;
            return match value {
                Value::Optional(None) => Ok(Value::Optional(None)),
                Value::Optional(Some(inner)) => self.member_optional(&inner, field),
                value => self.member(&value, field)?.ok_or_else(|| Error::no_such_key(field)),
            };
        }
        let found = match value {
            Value::Optional(None) => None,
            Value::Optional(Some(inner)) => self.member(&inner, field)?,
            value => self.member(&value, field)?,
        };
        // A null is there in a map; a field of a message that is null is not set.
        Ok(Value::Bool(found.is_some()))
    }

    fn member(&mut self, value: &Value<'a>, field: &'a str) -> std::result::Result<Option<Value<'a>>, Error> {
        self.fuel.work(1)?;
        match value {
            Value::Map(Map::Json { entries, shape }) => Map::Json { entries, shape: *shape }.field(field).transpose(),
            Value::Map(map) => map.get(&Key::String(Text::Borrowed(field))).transpose(),
            Value::Lazy(lazy) => lazy.field(field, self.fuel),
            _ => Err(Error::no_such_overload()),
        }
    }

    fn member_optional(&mut self, value: &Value<'a>, field: &'a str) -> Result<'a> {
        match self.member(value, field)? {
            Some(found) => Value::some(found),
            None => Ok(Value::Optional(None)),
        }
    }

    #[inline(never)]
    fn opt_select(&mut self, operand: Id, field: &'a str) -> Result<'a> {
        let value = self.eval(operand)?;
        self.fuel.charge(IDENT)?;
        match value {
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => self.member_optional(&inner, field),
            value => self.member_optional(&value, field),
        }
    }

    #[inline(never)]
    fn call(&mut self, name: &str, target: Option<Id>, args: &[Id], builtin: Option<usize>) -> Result<'a> {
        let mut values = Vec::with_capacity(args.len() + 1);
        for id in target.iter().chain(args) {
            values.push(self.eval(*id)?);
        }
        self.invoke(name, &values, builtin)
    }

    #[inline(never)]
    fn invoke(&mut self, name: &str, values: &[Value<'a>], builtin: Option<usize>) -> Result<'a> {
        let Some(builtin) = builtin else {
            return Err(no_overload(name, values));
        };
        let function = functions::get(builtin).function;
        let result = match self.constant_pattern(name, values) {
            Some(result) => result,
            None => (function.run)(values, self.fuel),
        };
        // A call that fails has worked too; its arguments are its price.
        let priced = result.as_ref().unwrap_or(&Value::Null);
        let price = functions::price(function.cost, values, priced, self.fuel)?;
        self.fuel.charge(price)?;
        match result {
            Err(Error::Value(text)) if text == "no such overload" && !is_operator(name) => {
                Err(no_overload(name, values))
            }
            result => result,
        }
    }

    /// `matches` with a pattern that was compiled with the expression.
    fn constant_pattern(&mut self, name: &str, values: &[Value<'a>]) -> Option<Result<'a>> {
        let [Value::String(text), Value::String(pattern)] = values else {
            return None;
        };
        if name != "matches" {
            return None;
        }
        let regex = self.program.patterns.get(&**pattern)?;
        if let Err(error) = self.fuel.work(text.len() as u64 / 4) {
            return Some(Err(error));
        }
        Some(Ok(Value::Bool(regex.is_match(text))))
    }

    /// `&&` and `||` over any number of operands: an error counts only if no other operand decides.
    #[inline(never)]
    fn logical(&mut self, ids: &[Id], decisive: bool) -> Result<'a> {
        let mut error = None;
        for id in ids {
            match self.eval(*id) {
                Ok(Value::Bool(b)) if b == decisive => return Ok(Value::Bool(decisive)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => error = error.or(Some(Error::no_such_overload())),
                Err(found) if found.is_absorbable() => error = error.or(Some(found)),
                Err(found) => return Err(found),
            }
        }
        match error {
            Some(error) => Err(error),
            None => Ok(Value::Bool(!decisive)),
        }
    }

    #[inline(never)]
    fn conditional(&mut self, test: Id, yes: Id, no: Id) -> Result<'a> {
        self.fuel.work(1)?;
        match self.eval(test)? {
            Value::Bool(true) => self.eval(yes),
            Value::Bool(false) => self.eval(no),
            _ => Err(Error::no_such_overload()),
        }
    }

    #[inline(never)]
    fn list(&mut self, items: &[Id], optional: &[bool]) -> Result<'a> {
        let mut out = Vec::with_capacity(items.len());
        for (id, optional) in items.iter().zip(optional) {
            let value = self.eval(*id)?;
            out.extend(present(value, *optional)?);
        }
        self.fuel.charge(LIST)?;
        Value::list(out, self.fuel)
    }

    #[inline(never)]
    fn map(&mut self, literal: &[Entry]) -> Result<'a> {
        let mut entries = Entries::new();
        for entry in literal {
            let key = self.eval(entry.key)?;
            let value = self.eval(entry.value)?;
            if let Some(value) = present(value, entry.optional)? {
                insert(&mut entries, &key, value)?;
            }
        }
        self.fuel.charge(MAP)?;
        Value::map(entries, self.fuel)
    }

    #[inline(never)]
    fn message(&mut self, name: &str, literal: &'a [StructField]) -> Result<'a> {
        let mut fields = Entries::new();
        for field in literal {
            let value = self.eval(field.value)?;
            if let Some(value) = present(value, field.optional)? {
                let name = crate::names::unescape(&field.name).unwrap_or_else(|| field.name.to_string());
                fields.insert(Key::String(name.into()), value);
            }
        }
        self.fuel.charge(MESSAGE)?;
        Value::message(name, fields, self.fuel)
    }

    #[inline(never)]
    fn bind(&mut self, init: Id, body: Id) -> Result<'a> {
        let value = self.eval(init)?;
        self.fuel.charge(LIST)?;
        self.locals.push(value);
        let result = self.eval(body);
        self.locals.pop();
        result
    }

    #[inline(never)]
    fn opt_map(&mut self, target: Id, body: Id, flat: bool) -> Result<'a> {
        let inner = match self.eval(target)? {
            Value::Optional(Some(inner)) => inner,
            Value::Optional(None) => return Ok(Value::Optional(None)),
            _ => return Err(Error::no_such_overload()),
        };
        self.fuel.charge(LIST)?;
        self.locals.push((**inner).clone());
        let result = self.eval(body);
        self.locals.pop();
        match (result?, flat) {
            (made @ Value::Optional(_), true) => Ok(made),
            (_, true) => Err(Error::no_such_overload()),
            (made, false) => Value::some(made),
        }
    }

    #[inline(never)]
    fn fold(&mut self, fold: &'a Fold) -> Result<'a> {
        let range = self.eval(fold.range)?;
        let mut state = State::new(fold.kind);
        self.fuel.charge(state.initial_cost())?;
        let depth = self.locals.len();
        let result = self.iterate(fold, &range, &mut state);
        self.locals.truncate(depth);
        result?;
        self.fuel.charge(state.final_cost())?;
        state.finish(self.fuel)
    }

    fn iterate(&mut self, fold: &'a Fold, range: &Value<'a>, state: &mut State<'a>) -> std::result::Result<(), Error> {
        match range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(item) = list.get(index) else { break };
                    let key = Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
                    if self.step(fold, key, item?, true, state)? {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for (key, item) in map.iter() {
                    if self.step(fold, key.value(), item?, false, state)? {
                        break;
                    }
                }
                Ok(())
            }
            _ => Err(Error::no_such_overload()),
        }
    }

    /// One element; true when the rest does not matter.
    fn step(
        &mut self,
        fold: &'a Fold,
        key: Value<'a>,
        item: Value<'a>,
        is_list: bool,
        state: &mut State<'a>,
    ) -> std::result::Result<bool, Error> {
        self.fuel.charge(state.step_cost())?;
        let depth = self.locals.len();
        let kept = key.clone();
        let single = match &fold.key {
            Some(_) => {
                self.locals.push(key);
                self.locals.push(item);
                None
            }
            None => {
                let one = if is_list { item } else { key };
                self.locals.push(one.clone());
                Some(one)
            }
        };
        let outcome = self.decide(fold, state, kept, single);
        self.locals.truncate(depth);
        outcome
    }

    fn decide(
        &mut self,
        fold: &'a Fold,
        state: &mut State<'a>,
        key: Value<'a>,
        single: Option<Value<'a>>,
    ) -> std::result::Result<bool, Error> {
        if let Some(filter) = fold.filter {
            match self.eval(filter)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return Ok(false),
                _ => return Err(Error::no_such_overload()),
            }
        }
        let body = match (self.eval(fold.body), fold.kind) {
            (Err(error), FoldKind::All | FoldKind::Exists) if error.is_absorbable() => {
                state.error.get_or_insert(error);
                return Ok(false);
            }
            (body, _) => body?,
        };
        self.fuel.work(1)?;
        state.take(key, single, body, self.fuel)
    }
}

/// What a comprehension has collected.
struct State<'a> {
    kind: FoldKind,
    found: u64,
    error: Option<Error>,
    items: Vec<Value<'a>>,
    entries: Entries<'a>,
}

impl<'a> State<'a> {
    fn new(kind: FoldKind) -> Self {
        State {
            kind,
            found: 0,
            error: None,
            items: Vec::new(),
            entries: Entries::new(),
        }
    }

    /// The accumulator's first value.
    fn initial_cost(&self) -> u64 {
        match self.kind {
            FoldKind::Map | FoldKind::Filter | FoldKind::TransformList => LIST,
            FoldKind::TransformMap | FoldKind::TransformMapEntry => MAP,
            _ => 0,
        }
    }

    /// Upstream's price of the loop's condition and of what surrounds the body.
    fn step_cost(&self) -> u64 {
        match self.kind {
            FoldKind::All => 3,
            FoldKind::Exists => 4,
            FoldKind::ExistsOne => 1,
            FoldKind::Map | FoldKind::TransformList => IDENT + LIST + 1,
            FoldKind::Filter => IDENT,
            FoldKind::TransformMap | FoldKind::TransformMapEntry => 2,
        }
    }

    fn final_cost(&self) -> u64 {
        match self.kind {
            FoldKind::ExistsOne => 2,
            _ => 1,
        }
    }

    /// Takes the body's value; true when the rest does not matter.
    fn take(
        &mut self,
        key: Value<'a>,
        single: Option<Value<'a>>,
        body: Value<'a>,
        fuel: &mut Fuel<'_>,
    ) -> std::result::Result<bool, Error> {
        match (self.kind, body) {
            (FoldKind::All, Value::Bool(b)) => {
                self.found += u64::from(!b);
                return Ok(!b);
            }
            (FoldKind::Exists, Value::Bool(b)) => {
                self.found += u64::from(b);
                return Ok(b);
            }
            (FoldKind::ExistsOne, Value::Bool(b)) => {
                self.found += u64::from(b);
                fuel.charge(u64::from(b))?;
            }
            (FoldKind::Filter, Value::Bool(true)) => {
                fuel.charge(LIST + 2)?;
                fuel.allocate(size_of::<Value<'a>>())?;
                self.items.extend(single);
            }
            (FoldKind::Filter, Value::Bool(false)) => {}
            (FoldKind::Map | FoldKind::TransformList, made) => {
                fuel.allocate(size_of::<Value<'a>>())?;
                self.items.push(made);
            }
            (FoldKind::TransformMap, made) => {
                fuel.allocate(128)?;
                insert(&mut self.entries, &key, made)?;
            }
            (FoldKind::TransformMapEntry, Value::Map(made)) => {
                for (key, value) in made.iter() {
                    fuel.allocate(128)?;
                    insert(&mut self.entries, &key.value(), value?)?;
                }
            }
            (FoldKind::All | FoldKind::Exists, _) => {
                self.error.get_or_insert_with(Error::no_such_overload);
            }
            _ => return Err(Error::no_such_overload()),
        }
        Ok(false)
    }

    fn finish(self, fuel: &mut Fuel<'_>) -> Result<'a> {
        match self.kind {
            FoldKind::All | FoldKind::Exists => match (self.found > 0, self.error) {
                (true, _) => Ok(Value::Bool(self.kind == FoldKind::Exists)),
                (false, Some(error)) => Err(error),
                (false, None) => Ok(Value::Bool(self.kind == FoldKind::All)),
            },
            FoldKind::ExistsOne => Ok(Value::Bool(self.found == 1)),
            FoldKind::Map | FoldKind::Filter | FoldKind::TransformList => Value::list(self.items, fuel),
            FoldKind::TransformMap | FoldKind::TransformMapEntry => Value::map(self.entries, fuel),
        }
    }
}

fn constant(literal: &Literal) -> Value<'_> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(n) => Value::Int(*n),
        Literal::Uint(n) => Value::Uint(*n),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(text) => Value::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(Arc::as_ref(bytes).into()),
    }
}

/// The value of an entry of a literal, unless it is an optional that is empty.
fn present(value: Value<'_>, optional: bool) -> std::result::Result<Option<Value<'_>>, Error> {
    match (value, optional) {
        (Value::Optional(inner), true) => Ok(inner.map(|inner| (**inner).clone())),
        (_, true) => Err(Error::no_such_overload()),
        (value, false) => Ok(Some(value)),
    }
}

fn insert<'a>(entries: &mut Entries<'a>, key: &Value<'a>, value: Value<'a>) -> std::result::Result<(), Error> {
    let found = match key {
        Value::Double(_) => None,
        key => Key::of(key),
    };
    let Some(found) = found else {
        let name = key.type_name();
        return Err(Error::value(format!("unsupported key type: {}", &*name)));
    };
    match entries.entry(found) {
        std::collections::btree_map::Entry::Occupied(taken) => Err(Error::value(format!(
            "insert failed: key {} already exists",
            taken.key()
        ))),
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert(value);
            Ok(())
        }
    }
}

fn is_operator(name: &str) -> bool {
    name.contains(['_', '@'])
}

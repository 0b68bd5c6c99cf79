//! The type checker: gives every node a type, every identifier its slot and every call its function, and says what does not fit in cel-go's
//! words. The recursion follows the tree, whose height is bounded.

use std::sync::Arc;

use crate::ast::{Ast, Fold, FoldKind, Id, Literal, Node, Slot};
use crate::error::Issue;
use crate::functions::{self, Overload, compile_pattern};
use crate::program::Env;
use crate::types::{ListKind, ObjectType, Type, UNBOUNDED};

/// What the checker found out.
pub(crate) struct Checked {
    /// The type of every node.
    pub types: Vec<Type>,
    pub issues: Vec<Issue>,
}

/// Checks a tree and resolves its names in place.
pub(crate) fn check(ast: &mut Ast, env: &Env) -> Checked {
    let mut checker = Checker {
        env,
        types: vec![Type::Dyn; ast.len()],
        issues: Vec::new(),
        locals: Vec::new(),
        bindings: Vec::new(),
        bound: Vec::new(),
        mixed: None,
    };
    checker.visit(ast, ast.root);
    let Checker {
        mut types,
        issues,
        bindings,
        ..
    } = checker;
    for ty in &mut types {
        *ty = substitute(&bindings, ty);
    }
    Checked { types, issues }
}

struct Checker<'e> {
    env: &'e Env,
    types: Vec<Type>,
    issues: Vec<Issue>,
    locals: Vec<(Arc<str>, Type)>,
    /// What type variables stand for.
    bindings: Vec<Option<Type>>,
    /// Which of them were bound, in order, so that an attempt can be undone.
    bound: Vec<u32>,
    /// The list literal that may mix types: what `format` writes.
    mixed: Option<Id>,
}

/// The type with all variables that are bound replaced.
fn substitute(bindings: &[Option<Type>], ty: &Type) -> Type {
    match ty {
        Type::Param(n) => match bindings.get(*n as usize) {
            Some(Some(bound)) => substitute(bindings, bound),
            _ => Type::Dyn,
        },
        Type::List(item, max, kind) => Type::List(Arc::new(substitute(bindings, item)), *max, kind.clone()),
        Type::Map(key, value, max) => Type::Map(
            Arc::new(substitute(bindings, key)),
            Arc::new(substitute(bindings, value)),
            *max,
        ),
        Type::Optional(inner) => Type::optional(substitute(bindings, inner)),
        Type::TypeOf(inner) => Type::TypeOf(Arc::new(substitute(bindings, inner))),
        other => other.clone(),
    }
}

impl Checker<'_> {
    fn fail(&mut self, at: u32, message: impl Into<String>) {
        // More than upstream shows would only cost memory.
        if self.issues.len() < 100 {
            self.issues.push(Issue {
                at,
                message: message.into(),
            });
        }
    }

    fn fresh(&mut self) -> Type {
        self.bindings.push(None);
        Type::Param(u32::try_from(self.bindings.len() - 1).unwrap_or(u32::MAX))
    }

    /// What a type variable stands for, one step at a time.
    fn resolve(&self, ty: &Type) -> Type {
        let mut ty = ty.clone();
        while let Type::Param(n) = ty {
            match self.bindings.get(n as usize) {
                Some(Some(bound)) => ty = bound.clone(),
                _ => return Type::Param(n),
            }
        }
        ty
    }

    fn shown(&self, ty: &Type) -> String {
        substitute(&self.bindings, ty).to_string()
    }

    fn occurs(&self, variable: u32, ty: &Type) -> bool {
        match self.resolve(ty) {
            Type::Param(n) => n == variable,
            Type::List(item, ..) => self.occurs(variable, &item),
            Type::Map(key, value, _) => self.occurs(variable, &key) || self.occurs(variable, &value),
            Type::Optional(inner) | Type::TypeOf(inner) => self.occurs(variable, &inner),
            _ => false,
        }
    }

    /// Whether a value of the second type can be where the first is wanted; binds variables.
    fn assignable(&mut self, wanted: &Type, found: &Type) -> bool {
        let (wanted, found) = (self.resolve(wanted), self.resolve(found));
        match (&wanted, &found) {
            (Type::Param(a), Type::Param(b)) if a == b => true,
            (Type::Param(n), other) | (other, Type::Param(n)) => {
                if self.occurs(*n, other) {
                    return false;
                }
                self.bindings[*n as usize] = Some(other.clone());
                self.bound.push(*n);
                true
            }
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::Object(_) | Type::Timestamp | Type::Duration | Type::Opaque(_) | Type::Optional(_), Type::Null)
            | (Type::Null, Type::Object(_) | Type::Timestamp | Type::Duration | Type::Opaque(_) | Type::Optional(_)) => {
                true
            }
            (Type::List(a, ..), Type::List(b, ..)) => self.assignable(a, b),
            (Type::Map(ak, av, _), Type::Map(bk, bv, _)) => self.assignable(ak, bk) && self.assignable(av, bv),
            (Type::Optional(a), Type::Optional(b)) => self.assignable(a, b),
            (Type::TypeOf(_), Type::TypeOf(_)) => true,
            (a, b) => a == b,
        }
    }

    /// Visits a node and remembers its type.
    fn visit(&mut self, ast: &mut Ast, id: Id) -> Type {
        let ty = match ast.node(id) {
            Node::Literal(literal) => literal_type(literal),
            Node::TypeName(_) => Type::Dyn,
            Node::Ident { .. } => self.ident(ast, id),
            Node::Select { .. } => self.select(ast, id),
            Node::OptSelect { .. } => self.opt_select(ast, id),
            Node::Call { .. } => self.call(ast, id),
            Node::And(_) | Node::Or(_) => self.logical(ast, id),
            Node::Conditional { .. } => self.conditional(ast, id),
            Node::List { .. } => self.list(ast, id),
            Node::Map(_) => self.map(ast, id),
            Node::Struct { .. } => self.message(ast, id),
            Node::Fold(_) => self.fold(ast, id),
            Node::Bind { .. } => self.bind(ast, id),
            Node::OptMap { .. } => self.opt_map(ast, id),
        };
        self.types[id as usize] = ty.clone();
        ty
    }

    fn ident(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::Ident { name, .. } = ast.node(id).clone() else {
            return Type::Dyn;
        };
        if let Some(at) = self.locals.iter().rposition(|(local, _)| *local == name) {
            let ty = self.locals[at].1.clone();
            ast.set(
                id,
                Node::Ident {
                    name,
                    slot: Slot::Local(at),
                },
            );
            return ty;
        }
        if let Some(ty) = self.global(ast, id, &name) {
            return ty;
        }
        self.fail(
            ast.place(id),
            format!("undeclared reference to '{name}' (in container '')"),
        );
        Type::Dyn
    }

    /// A declared variable or a type, by its whole name.
    fn global(&mut self, ast: &mut Ast, id: Id, name: &str) -> Option<Type> {
        if let Some((at, ty)) = self.env.variable(name) {
            ast.set(
                id,
                Node::Ident {
                    name: name.into(),
                    slot: Slot::Root(at),
                },
            );
            return Some(ty.clone());
        }
        let ty = Type::named(name)?;
        ast.set(id, Node::TypeName(name.into()));
        Some(Type::TypeOf(Arc::new(ty)))
    }

    /// `a.b.c`, unless `a` is a local variable.
    fn qualified(&self, ast: &Ast, id: Id) -> Option<String> {
        let mut names = Vec::new();
        let mut at = id;
        loop {
            match ast.node(at) {
                Node::Ident { name, .. } => {
                    if self.locals.iter().any(|(local, _)| local == name) {
                        return None;
                    }
                    names.push(&**name);
                    names.reverse();
                    return Some(names.join("."));
                }
                Node::Select {
                    operand,
                    field,
                    test: false,
                } => {
                    names.push(field);
                    at = *operand;
                }
                _ => return None,
            }
        }
    }

    fn select(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::Select { operand, field, test } = ast.node(id).clone() else {
            return Type::Dyn;
        };
        if !test
            && let Some(name) = self.qualified(ast, id)
            && let Some(ty) = self.global(ast, id, &name)
        {
            return ty;
        }
        let ty = self.visit(ast, operand);
        let selected = self.field(&ty, &field, ast.place(id));
        if test { Type::Bool } else { selected }
    }

    fn field(&mut self, ty: &Type, field: &str, at: u32) -> Type {
        match self.resolve(ty) {
            Type::Dyn | Type::Param(_) => Type::Dyn,
            Type::Map(_, value, _) => (*value).clone(),
            Type::Optional(inner) => match self.field(&inner, field, at) {
                inner @ Type::Optional(_) => inner,
                inner => Type::optional(inner),
            },
            Type::Object(object) => match object.field(field) {
                Some(field) => field.ty,
                None => {
                    self.fail(at, format!("undefined field '{field}'"));
                    Type::Dyn
                }
            },
            other => {
                let shown = self.shown(&other);
                self.fail(at, format!("type '{shown}' does not support field selection"));
                Type::Dyn
            }
        }
    }

    fn opt_select(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::OptSelect { operand, field } = ast.node(id).clone() else {
            return Type::Dyn;
        };
        let ty = self.visit(ast, operand);
        match self.field(&ty, &field, ast.place(id)) {
            inner @ Type::Optional(_) => inner,
            inner => Type::optional(inner),
        }
    }

    fn call(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::Call {
            function, target, args, ..
        } = ast.node(id).clone()
        else {
            return Type::Dyn;
        };
        // `sets.contains(a, b)` looks like a member function and is none.
        if let Some(target) = target
            && let Some(prefix) = self.qualified(ast, target)
        {
            let name = format!("{prefix}.{function}");
            if let Some(found) = functions::find(&name).filter(|_| self.env.has(&name)) {
                return self.resolve_call(ast, id, &name, found, None, args);
            }
        }
        match functions::find(&function).filter(|_| self.env.has(&function)) {
            Some(found) => self.resolve_call(ast, id, &function, found, target, args),
            None => {
                for child in target.into_iter().chain(args) {
                    self.visit(ast, child);
                }
                self.fail(
                    ast.place(id),
                    format!("undeclared reference to '{function}' (in container '')"),
                );
                Type::Dyn
            }
        }
    }

    fn resolve_call(
        &mut self,
        ast: &mut Ast,
        id: Id,
        name: &str,
        found: usize,
        target: Option<Id>,
        args: Vec<Id>,
    ) -> Type {
        if name == "format" {
            self.mixed = args.first().copied();
        }
        let all: Vec<Id> = target.iter().copied().chain(args.iter().copied()).collect();
        let types: Vec<Type> = all.iter().map(|child| self.visit(ast, *child)).collect();
        ast.set(
            id,
            Node::Call {
                function: name.into(),
                target,
                args,
                builtin: Some(found),
            },
        );
        self.literals(ast, name, &all, target.is_some());
        let mut result: Option<Type> = None;
        let member = target.is_some();
        for overload in &functions::get(found).overloads {
            let fits = overload.member == member && overload.params.len() == types.len();
            let Some(ty) = fits.then(|| self.apply(overload, &types)).flatten() else {
                continue;
            };
            result = Some(match result {
                None => ty,
                Some(previous) if substitute(&self.bindings, &previous) == substitute(&self.bindings, &ty) => previous,
                Some(_) => Type::Dyn,
            });
        }
        result.unwrap_or_else(|| {
            self.no_overload(ast.place(id), name, member, &types);
            Type::Dyn
        })
    }

    fn no_overload(&mut self, at: u32, name: &str, member: bool, types: &[Type]) {
        let shown: Vec<String> = types.iter().map(|ty| self.shown(ty)).collect();
        let applied = match (member, shown.split_first()) {
            (true, Some((target, args))) => format!("{target}.({})", args.join(", ")),
            _ => format!("({})", shown.join(", ")),
        };
        self.fail(
            at,
            format!("found no matching overload for '{name}' applied to '{applied}'"),
        );
    }

    /// The result's type if the arguments fit; leaves no bindings behind otherwise.
    fn apply(&mut self, overload: &Overload, types: &[Type]) -> Option<Type> {
        let (fresh, bound) = (self.bindings.len(), self.bound.len());
        let (a, b) = (self.fresh(), self.fresh());
        let instance = [Some(a), Some(b)];
        let named = |ty: &Type| instantiate(&instance, ty);
        for (param, ty) in overload.params.iter().zip(types) {
            if !self.assignable(&named(param), ty) {
                for n in self.bound.drain(bound..) {
                    self.bindings[n as usize] = None;
                }
                self.bindings.truncate(fresh);
                return None;
            }
        }
        Some(named(&overload.result))
    }

    /// Constants that can be found wrong before any evaluation.
    fn literals(&mut self, ast: &Ast, name: &str, args: &[Id], member: bool) {
        let text = |id: Option<&Id>| match id.map(|id| ast.node(*id)) {
            Some(Node::Literal(Literal::String(text))) => Some(text.clone()),
            _ => None,
        };
        let (at, wrong) = match name {
            "matches" if member || args.len() == 2 => {
                (1, text(args.get(1)).is_some_and(|t| compile_pattern(&t).is_err()))
            }
            "timestamp" => (
                0,
                text(args.first()).is_some_and(|t| functions::time::parse_timestamp(&t).is_err()),
            ),
            "duration" => (
                0,
                text(args.first()).is_some_and(|t| functions::time::parse_duration(&t).is_err()),
            ),
            _ => return,
        };
        if wrong && let Some(id) = args.get(at) {
            self.fail(ast.place(*id), format!("invalid {name} argument"));
        }
    }

    fn logical(&mut self, ast: &mut Ast, id: Id) -> Type {
        let (ids, name) = match ast.node(id).clone() {
            Node::And(ids) => (ids, "_&&_"),
            Node::Or(ids) => (ids, "_||_"),
            _ => return Type::Dyn,
        };
        let types: Vec<Type> = ids.iter().map(|child| self.visit(ast, *child)).collect();
        if let Some(wrong) = types.iter().position(|ty| !self.assignable(&Type::Bool, ty)) {
            let pair = match wrong {
                0 => [types[0].clone(), types[1].clone()],
                n => [Type::Bool, types[n].clone()],
            };
            self.no_overload(ast.place(id), name, false, &pair);
        }
        Type::Bool
    }

    fn conditional(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::Conditional { test, yes, no } = *ast.node(id) else {
            return Type::Dyn;
        };
        let types = [self.visit(ast, test), self.visit(ast, yes), self.visit(ast, no)];
        if !self.assignable(&Type::Bool, &types[0]) || !self.assignable(&types[1], &types[2]) {
            self.no_overload(ast.place(id), "_?_:_", false, &types);
            return Type::Dyn;
        }
        if types[1].is_dyn() || types[2].is_dyn() {
            return Type::Dyn;
        }
        join_sizes(&types[1], &types[2])
    }

    /// The type of the items of a literal so far and of the next.
    fn join(&mut self, so_far: Option<Type>, next: Type, at: u32) -> Type {
        let Some(so_far) = so_far else { return next };
        if self.assignable(&so_far, &next) {
            return if self.resolve(&next).is_dyn() {
                Type::Dyn
            } else {
                join_sizes(&so_far, &next)
            };
        }
        let (a, b) = (self.shown(&so_far), self.shown(&next));
        self.fail(at, format!("expected type '{a}' but found '{b}'"));
        so_far
    }

    fn list(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::List { items, optional } = ast.node(id).clone() else {
            return Type::Dyn;
        };
        let count = items.len() as u64;
        let mixed = self.mixed == Some(id);
        let mut of = None;
        for (item, optional) in items.into_iter().zip(optional) {
            let ty = self.visit(ast, item);
            let ty = self.unwrapped(ty, optional, ast.place(item));
            of = Some(if mixed {
                Type::Dyn
            } else {
                self.join(of, ty, ast.place(item))
            });
        }
        let of = of.unwrap_or_else(|| self.fresh());
        Type::List(Arc::new(of), count, ListKind::Atomic)
    }

    /// The type inside of an optional entry of a literal.
    fn unwrapped(&mut self, ty: Type, optional: bool, at: u32) -> Type {
        if !optional {
            return ty;
        }
        match self.resolve(&ty) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn | Type::Param(_) => Type::Dyn,
            other => {
                let shown = self.shown(&other);
                self.fail(
                    at,
                    format!("expected type 'optional_type({shown})' but found '{shown}'"),
                );
                Type::Dyn
            }
        }
    }

    fn map(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::Map(entries) = ast.node(id).clone() else {
            return Type::Dyn;
        };
        let count = entries.len() as u64;
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let key = self.visit(ast, entry.key);
            let key = match self.resolve(&key) {
                scalar @ (Type::Bool | Type::Int | Type::Uint | Type::String(_)) => scalar,
                _ => Type::Dyn,
            };
            keys = Some(self.join(keys, key, ast.place(entry.key)));
            let value = self.visit(ast, entry.value);
            let value = self.unwrapped(value, entry.optional, ast.place(entry.value));
            values = Some(self.join(values, value, ast.place(entry.value)));
        }
        let key = keys.unwrap_or_else(|| self.fresh());
        let value = values.unwrap_or_else(|| self.fresh());
        Type::Map(Arc::new(key), Arc::new(value), count)
    }

    fn message(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::Struct { name, fields } = ast.node(id).clone() else {
            return Type::Dyn;
        };
        let known = self.env.message(&name);
        if known.is_none() {
            self.fail(
                ast.place(id),
                format!("undeclared reference to '{name}' (in container '')"),
            );
        }
        for field in fields {
            let ty = self.visit(ast, field.value);
            let ty = self.unwrapped(ty, field.optional, ast.place(field.value));
            let Some(known) = known else { continue };
            let Some(wanted) = known.field(&field.name) else {
                self.fail(field.at, format!("undefined field '{}'", field.name));
                continue;
            };
            if !self.assignable(&wanted, &ty) {
                let (name, wanted, found) = (&field.name, self.shown(&wanted), self.shown(&ty));
                self.fail(
                    field.at,
                    format!("expected type of field '{name}' is '{wanted}' but provided type is '{found}'"),
                );
            }
        }
        Type::object(ObjectType::open(&name))
    }

    fn with_local(&mut self, ast: &mut Ast, locals: &[(Arc<str>, Type)], bodies: &[Id]) -> Vec<Type> {
        let depth = self.locals.len();
        self.locals.extend_from_slice(locals);
        let types = bodies.iter().map(|body| self.visit(ast, *body)).collect();
        self.locals.truncate(depth);
        types
    }

    fn fold(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::Fold(fold) = ast.node(id).clone() else {
            return Type::Dyn;
        };
        let range = self.visit(ast, fold.range);
        let (key, value, is_list) = match self.resolve(&range) {
            Type::List(item, ..) => (Type::Int, (*item).clone(), true),
            Type::Map(key, value, _) => ((*key).clone(), (*value).clone(), false),
            Type::Dyn | Type::Param(_) => (Type::Dyn, Type::Dyn, true),
            other => {
                let shown = self.shown(&other);
                self.fail(
                    ast.place(fold.range),
                    format!("expression of type '{shown}' cannot be range of a comprehension (must be list, map, or dynamic)"),
                );
                (Type::Dyn, Type::Dyn, true)
            }
        };
        let locals = match &fold.key {
            Some(name) => vec![(name.clone(), key.clone()), (fold.item.clone(), value)],
            None => vec![(fold.item.clone(), if is_list { value } else { key.clone() })],
        };
        let bodies: Vec<Id> = fold.filter.iter().copied().chain([fold.body]).collect();
        let mut types = self.with_local(ast, &locals, &bodies);
        let body = types.pop().unwrap_or_default();
        if let Some(filter) = types.pop() {
            self.must_be_bool(
                &filter,
                ast.place(id),
                "_?_:_",
                &[filter.clone(), body.clone(), body.clone()],
            );
        }
        self.fold_result(ast, id, &fold, &range, key, locals, body)
    }

    #[allow(clippy::too_many_arguments)]
    fn fold_result(
        &mut self,
        ast: &Ast,
        id: Id,
        fold: &Fold,
        range: &Type,
        key: Type,
        locals: Vec<(Arc<str>, Type)>,
        body: Type,
    ) -> Type {
        let at = ast.place(id);
        let size = match self.resolve(range) {
            Type::List(_, max, _) | Type::Map(_, _, max) => max,
            _ => UNBOUNDED,
        };
        let list = |item| Type::List(Arc::new(item), size, ListKind::Atomic);
        match fold.kind {
            FoldKind::All | FoldKind::Exists => {
                let name = if fold.kind == FoldKind::All { "_&&_" } else { "_||_" };
                self.must_be_bool(&body, at, name, &[Type::Bool, body.clone()]);
                Type::Bool
            }
            FoldKind::ExistsOne => {
                self.must_be_bool(&body, at, "_?_:_", &[body.clone(), Type::Int, Type::Int]);
                Type::Bool
            }
            FoldKind::Map | FoldKind::TransformList => list(body),
            FoldKind::Filter => {
                let item = locals.last().map(|(_, ty)| ty.clone()).unwrap_or_default();
                let made = list(item);
                self.must_be_bool(&body, at, "_?_:_", &[body.clone(), made.clone(), made.clone()]);
                made
            }
            FoldKind::TransformMap => Type::Map(Arc::new(key), Arc::new(body), size),
            FoldKind::TransformMapEntry => match self.resolve(&body) {
                made @ Type::Map(..) => made,
                _ => Type::map(Type::Dyn, Type::Dyn),
            },
        }
    }

    fn must_be_bool(&mut self, ty: &Type, at: u32, name: &str, applied: &[Type]) {
        if !self.assignable(&Type::Bool, ty) {
            self.no_overload(at, name, false, applied);
        }
    }

    fn bind(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::Bind { name, init, body } = ast.node(id).clone() else {
            return Type::Dyn;
        };
        let ty = self.visit(ast, init);
        self.with_local(ast, &[(name, ty)], &[body]).pop().unwrap_or_default()
    }

    fn opt_map(&mut self, ast: &mut Ast, id: Id) -> Type {
        let Node::OptMap {
            target,
            name,
            body,
            flat,
        } = ast.node(id).clone()
        else {
            return Type::Dyn;
        };
        let ty = self.visit(ast, target);
        let inner = match self.resolve(&ty) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn | Type::Param(_) => Type::Dyn,
            other => {
                self.no_overload(ast.place(id), "hasValue", true, &[other]);
                Type::Dyn
            }
        };
        let made = self
            .with_local(ast, &[(name, inner)], &[body])
            .pop()
            .unwrap_or_default();
        if !flat {
            return Type::optional(made);
        }
        match self.resolve(&made) {
            made @ (Type::Optional(_) | Type::Dyn) => made,
            other => {
                let applied = [Type::Bool, other, Type::optional(Type::Dyn)];
                self.no_overload(ast.place(id), "_?_:_", false, &applied);
                Type::Dyn
            }
        }
    }
}

/// A declaration's type with this call's variables.
fn instantiate(instance: &[Option<Type>; 2], ty: &Type) -> Type {
    match ty {
        Type::Param(n) => instance.get(*n as usize).cloned().flatten().unwrap_or_default(),
        Type::List(item, max, kind) => Type::List(Arc::new(instantiate(instance, item)), *max, kind.clone()),
        Type::Map(key, value, max) => Type::Map(
            Arc::new(instantiate(instance, key)),
            Arc::new(instantiate(instance, value)),
            *max,
        ),
        Type::Optional(inner) => Type::optional(instantiate(instance, inner)),
        Type::TypeOf(inner) => Type::TypeOf(Arc::new(instantiate(instance, inner))),
        other => other.clone(),
    }
}

/// The same type with the larger of both sizes.
fn join_sizes(a: &Type, b: &Type) -> Type {
    match (a, b) {
        (Type::String(x), Type::String(y)) => Type::String(*x.max(y)),
        (Type::Bytes(x), Type::Bytes(y)) => Type::Bytes(*x.max(y)),
        (Type::List(x, m, kind), Type::List(y, n, _)) => {
            Type::List(Arc::new(join_sizes(x, y)), *m.max(n), kind.clone())
        }
        (Type::Map(k, v, m), Type::Map(l, w, n)) => {
            Type::Map(Arc::new(join_sizes(k, l)), Arc::new(join_sizes(v, w)), *m.max(n))
        }
        (Type::Null | Type::Param(_), other) => other.clone(),
        _ => a.clone(),
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(text) => Type::String(text.chars().count() as u64),
        Literal::Bytes(bytes) => Type::Bytes(bytes.len() as u64),
    }
}

//! Tokens to the tree, macros included. Operators of one kind in a row and postfix chains are loops; what nests is counted.

use std::sync::Arc;

use crate::ast::{Ast, Entry, Fold, FoldKind, Id, Literal, Node, Slot, StructField};
use crate::error::Issue;
use crate::lexer::{Spanned, Token, tokens};

/// Upstream's limit, in characters.
const MAX_LENGTH: usize = 100_000;
/// Upstream's limit of nesting.
const MAX_NESTING: usize = 250;

const EXPRESSION: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

const RESERVED: &[&str] = &[
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

/// Binary operators with their functions and how tightly they bind.
const BINARY: &[(&str, &str, u8)] = &[
    ("*", "_*_", 3),
    ("/", "_/_", 3),
    ("%", "_%_", 3),
    ("+", "_+_", 2),
    ("-", "_-_", 2),
    ("<", "_<_", 1),
    ("<=", "_<=_", 1),
    (">", "_>_", 1),
    (">=", "_>=_", 1),
    ("==", "_==_", 1),
    ("!=", "_!=_", 1),
    ("in", "@in", 1),
];

/// The tree of a text.
pub(crate) fn parse(source: &str) -> Result<Ast, Issue> {
    let length = source.chars().count();
    if length > MAX_LENGTH {
        return Err(Issue {
            at: 0,
            message: format!("expression code point size exceeds limit: size: {length}, limit {MAX_LENGTH}"),
        });
    }
    let mut parser = Parser {
        source,
        tokens: tokens(source)?,
        at: 0,
        nesting: 0,
        ast: Ast::default(),
    };
    let root = parser.expression()?;
    if *parser.peek() != Token::End {
        return Err(parser.unexpected("<EOF>", true));
    }
    parser.ast.root = root;
    Ok(parser.ast)
}

struct Parser<'a> {
    source: &'a str,
    tokens: Vec<Spanned>,
    at: usize,
    nesting: usize,
    ast: Ast,
}

type Parsed = Result<Id, Issue>;

impl Parser<'_> {
    fn current(&self) -> &Spanned {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Token {
        &self.current().token
    }

    fn place(&self) -> u32 {
        self.current().at
    }

    fn advance(&mut self) {
        self.at = (self.at + 1).min(self.tokens.len() - 1);
    }

    fn accept(&mut self, op: &str) -> bool {
        let yes = matches!(self.peek(), Token::Op(found) if *found == op);
        if yes {
            self.advance();
        }
        yes
    }

    fn expect(&mut self, op: &str) -> Result<(), Issue> {
        if self.accept(op) {
            return Ok(());
        }
        Err(self.unexpected(&format!("'{op}'"), false))
    }

    fn unexpected(&self, expected: &str, extra: bool) -> Issue {
        let found = self.current();
        let text = match found.token {
            Token::End => "<EOF>",
            _ => &self.source[found.at as usize..found.end as usize],
        };
        let what = if extra { "extraneous" } else { "mismatched" };
        Issue {
            at: found.at,
            message: format!("Syntax error: {what} input '{text}' expecting {expected}"),
        }
    }

    fn add(&mut self, node: Node, at: u32) -> Parsed {
        self.ast.add(node, at).ok_or_else(|| too_deep(at))
    }

    fn call(&mut self, function: &str, args: Vec<Id>, at: u32) -> Parsed {
        self.add(
            Node::Call {
                function: function.into(),
                target: None,
                args,
                builtin: None,
            },
            at,
        )
    }

    fn expression(&mut self) -> Parsed {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(too_deep(self.place()));
        }
        let test = self.logical("||")?;
        let at = self.place();
        let id = if self.accept("?") {
            let yes = self.logical("||")?;
            self.expect(":")?;
            let no = self.expression()?;
            self.add(Node::Conditional { test, yes, no }, at)?
        } else {
            test
        };
        self.nesting -= 1;
        Ok(id)
    }

    /// `||` over `&&` over the binary operators.
    fn logical(&mut self, op: &str) -> Parsed {
        let below = |this: &mut Self| match op {
            "||" => this.logical("&&"),
            _ => this.binary(1),
        };
        let first = below(self)?;
        let at = self.place();
        let mut ids = vec![first];
        while self.accept(op) {
            ids.push(below(self)?);
        }
        if ids.len() == 1 {
            return Ok(first);
        }
        let node = if op == "||" { Node::Or(ids) } else { Node::And(ids) };
        self.add(node, at)
    }

    /// Operators that bind at least as tightly as `least`.
    fn binary(&mut self, least: u8) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let Token::Op(found) = *self.peek() else {
                return Ok(left);
            };
            let Some((_, function, level)) = BINARY.iter().find(|(op, _, level)| *op == found && *level >= least)
            else {
                return Ok(left);
            };
            let at = self.place();
            self.advance();
            let right = self.binary(level + 1)?;
            left = self.call(function, vec![left, right], at)?;
        }
    }

    /// `!` and `-`, of which an even number is none.
    fn unary(&mut self) -> Parsed {
        let at = self.place();
        for (op, function) in [("!", "!_"), ("-", "-_")] {
            let mut count = 0;
            let sign_of_number =
                |this: &Self| op == "-" && this.is_number(this.at + 1) && matches!(this.peek(), Token::Op("-"));
            while !sign_of_number(self) && self.accept(op) {
                count += 1;
            }
            if count > 0 {
                let operand = self.member()?;
                return match count % 2 {
                    0 => Ok(operand),
                    _ => self.call(function, vec![operand], at),
                };
            }
        }
        self.member()
    }

    fn is_number(&self, at: usize) -> bool {
        matches!(
            self.tokens.get(at).map(|t| &t.token),
            Some(Token::Int(_) | Token::Literal(Literal::Double(_)))
        )
    }

    /// Selections, calls and indices after a primary expression.
    fn member(&mut self) -> Parsed {
        let mut operand = self.primary()?;
        loop {
            let at = self.place();
            if self.accept(".") {
                operand = self.selection(operand, at)?;
            } else if self.accept("[") {
                let function = if self.accept("?") { "_[?_]" } else { "_[_]" };
                let index = self.expression()?;
                self.expect("]")?;
                operand = self.call(function, vec![operand, index], at)?;
            } else {
                return Ok(operand);
            }
        }
    }

    fn selection(&mut self, operand: Id, at: u32) -> Parsed {
        let optional = self.accept("?");
        let Token::Ident(field) = self.peek().clone() else {
            return Err(self.unexpected("IDENTIFIER", false));
        };
        let name_at = self.place();
        self.advance();
        if optional {
            return self.add(Node::OptSelect { operand, field }, at);
        }
        if *self.peek() != Token::Op("(") {
            if let Token::Op("{") = self.peek()
                && let Some(name) = self.qualified(operand, &field)
            {
                return self.message(&name, name_at);
            }
            return self.add(
                Node::Select {
                    operand,
                    field,
                    test: false,
                },
                at,
            );
        }
        let open = self.place();
        self.advance();
        let args = self.arguments(")")?;
        if let Some(id) = self.member_macro(operand, &field, &args, open)? {
            return Ok(id);
        }
        self.add(
            Node::Call {
                function: field,
                target: Some(operand),
                args,
                builtin: None,
            },
            open,
        )
    }

    /// `a.b.c` of identifiers and selections only.
    fn qualified(&self, operand: Id, field: &str) -> Option<String> {
        let mut names = vec![field.to_owned()];
        let mut id = operand;
        loop {
            match self.ast.node(id) {
                Node::Ident { name, .. } => {
                    names.push(name.to_string());
                    names.reverse();
                    return Some(names.join("."));
                }
                Node::Select { operand, field, .. } => {
                    names.push(field.to_string());
                    id = *operand;
                }
                _ => return None,
            }
        }
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Id>, Issue> {
        let mut args = Vec::new();
        if self.accept(close) {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            if self.accept(close) {
                return Ok(args);
            }
            if !self.accept(",") {
                return Err(self.unexpected(&format!("{{'{close}', ','}}"), false));
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        let at = self.place();
        match self.peek().clone() {
            Token::Literal(literal) => {
                self.advance();
                self.add(Node::Literal(literal), at)
            }
            Token::Int(n) => {
                self.advance();
                self.int(n, false, at)
            }
            Token::Op("-") if self.is_number(self.at + 1) => {
                self.advance();
                let number = self.peek().clone();
                self.advance();
                match number {
                    Token::Int(n) => self.int(n, true, at),
                    Token::Literal(Literal::Double(d)) => self.add(Node::Literal(Literal::Double(-d)), at),
                    _ => Err(self.unexpected(EXPRESSION, false)),
                }
            }
            Token::Op("(") => {
                self.advance();
                let id = self.expression()?;
                self.expect(")")?;
                Ok(id)
            }
            Token::Op("[") => {
                self.advance();
                self.list(at)
            }
            Token::Op("{") => {
                self.advance();
                self.map(at)
            }
            Token::Op(".") => {
                self.advance();
                self.identifier()
            }
            Token::Ident(_) => self.identifier(),
            _ => Err(self.unexpected(EXPRESSION, false)),
        }
    }

    fn int(&mut self, magnitude: u64, negative: bool, at: u32) -> Parsed {
        let number = if negative {
            0_i64.checked_sub_unsigned(magnitude)
        } else {
            i64::try_from(magnitude).ok()
        };
        match number {
            Some(n) => self.add(Node::Literal(Literal::Int(n)), at),
            None => Err(Issue {
                at,
                message: "invalid int literal".into(),
            }),
        }
    }

    fn identifier(&mut self) -> Parsed {
        let at = self.place();
        let Token::Ident(name) = self.peek().clone() else {
            return Err(self.unexpected("IDENTIFIER", false));
        };
        if RESERVED.contains(&&*name) {
            return Err(Issue {
                at,
                message: format!("reserved identifier: {name}"),
            });
        }
        self.advance();
        let open = self.place();
        if self.accept("(") {
            let args = self.arguments(")")?;
            if &*name == "has" && args.len() == 1 {
                return self.has(args[0], open);
            }
            return self.call(&name, args, open);
        }
        if *self.peek() == Token::Op("{") {
            return self.message(&name, at);
        }
        self.add(
            Node::Ident {
                name,
                slot: Slot::Unknown,
            },
            at,
        )
    }

    fn list(&mut self, at: u32) -> Parsed {
        let (mut items, mut optional) = (Vec::new(), Vec::new());
        while !self.accept("]") {
            optional.push(self.accept("?"));
            items.push(self.expression()?);
            if !self.accept(",") {
                self.expect("]")?;
                break;
            }
        }
        self.add(Node::List { items, optional }, at)
    }

    fn map(&mut self, at: u32) -> Parsed {
        let mut entries = Vec::new();
        while !self.accept("}") {
            let optional = self.accept("?");
            let key = self.expression()?;
            self.expect(":")?;
            let value = self.expression()?;
            entries.push(Entry { key, value, optional });
            if !self.accept(",") {
                self.expect("}")?;
                break;
            }
        }
        self.add(Node::Map(entries), at)
    }

    fn message(&mut self, name: &str, at: u32) -> Parsed {
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.accept("}") {
            let optional = self.accept("?");
            let Token::Ident(field) = self.peek().clone() else {
                return Err(self.unexpected("{'}', '?', IDENTIFIER}", false));
            };
            self.advance();
            let at = self.place();
            self.expect(":")?;
            let value = self.expression()?;
            fields.push(StructField {
                name: field,
                value,
                optional,
                at,
            });
            if !self.accept(",") {
                self.expect("}")?;
                break;
            }
        }
        self.add(
            Node::Struct {
                name: name.into(),
                fields,
            },
            at,
        )
    }

    fn has(&mut self, arg: Id, at: u32) -> Parsed {
        match self.ast.node(arg).clone() {
            Node::Select {
                operand,
                field,
                test: false,
            } => self.add(
                Node::Select {
                    operand,
                    field,
                    test: true,
                },
                at,
            ),
            _ => Err(Issue {
                at: self.ast.place(arg),
                message: "invalid argument to has() macro".into(),
            }),
        }
    }

    /// The name of a variable that a macro declares.
    fn variable(&self, id: Id) -> Result<Arc<str>, Issue> {
        match self.ast.node(id) {
            Node::Ident { name, .. } => Ok(name.clone()),
            _ => Err(Issue {
                at: self.ast.place(id),
                message: "argument must be a simple name".into(),
            }),
        }
    }

    fn member_macro(&mut self, target: Id, name: &str, args: &[Id], at: u32) -> Result<Option<Id>, Issue> {
        use FoldKind::*;
        let qualifier = match self.ast.node(target) {
            Node::Ident { name, .. } => &**name,
            _ => "",
        };
        if (qualifier, name, args.len()) == ("cel", "bind", 3) {
            let (name, init, body) = (self.variable(args[0])?, args[1], args[2]);
            return self.add(Node::Bind { name, init, body }, at).map(Some);
        }
        if matches!(name, "optMap" | "optFlatMap") && args.len() == 2 {
            let (name, body, flat) = (self.variable(args[0])?, args[1], name == "optFlatMap");
            return self
                .add(
                    Node::OptMap {
                        target,
                        name,
                        body,
                        flat,
                    },
                    at,
                )
                .map(Some);
        }
        // The kind, whether there are two variables, and whether there is a filter before the body.
        let (kind, pair, filtered) = match (name, args.len()) {
            ("all", 2) => (All, false, false),
            ("all", 3) => (All, true, false),
            ("exists", 2) => (Exists, false, false),
            ("exists", 3) => (Exists, true, false),
            ("exists_one" | "existsOne", 2) => (ExistsOne, false, false),
            ("exists_one" | "existsOne", 3) => (ExistsOne, true, false),
            ("map", 2) => (Map, false, false),
            ("map", 3) => (Map, false, true),
            ("filter", 2) => (Filter, false, false),
            ("transformList", 3) => (TransformList, true, false),
            ("transformList", 4) => (TransformList, true, true),
            ("transformMap", 3) => (TransformMap, true, false),
            ("transformMap", 4) => (TransformMap, true, true),
            ("transformMapEntry", 3) => (TransformMapEntry, true, false),
            ("transformMapEntry", 4) => (TransformMapEntry, true, true),
            _ => return Ok(None),
        };
        let mut args = args.iter().copied();
        let mut next = || args.next().unwrap_or(target);
        let key = pair.then(&mut next).map(|id| self.variable(id)).transpose()?;
        let item = self.variable(next())?;
        let filter = filtered.then(&mut next);
        let fold = Fold {
            kind,
            range: target,
            key,
            item,
            filter,
            body: next(),
        };
        self.add(Node::Fold(Box::new(fold)), at).map(Some)
    }
}

fn too_deep(at: u32) -> Issue {
    Issue {
        at,
        message: format!("expression recursion limit exceeded: {MAX_NESTING}"),
    }
}

//! The tree of an expression: an arena, so that neither building, walking nor dropping it needs a deep stack. Every node knows its place in the
//! text and its height.

use std::sync::Arc;

/// A node's index.
pub(crate) type Id = u32;

/// No tree is higher than this; every recursion over trees relies on it.
pub(crate) const MAX_HEIGHT: u16 = 256;

/// A constant of the text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

/// Where the value of an identifier is found; decided by the type checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Not resolved yet.
    Unknown,
    /// The n-th declared variable.
    Root(usize),
    /// The n-th local variable from the outside.
    Local(usize),
}

/// What a comprehension makes of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FoldKind {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
    TransformList,
    TransformMap,
    TransformMapEntry,
}

/// A macro over a list or a map.
#[derive(Debug, Clone)]
pub(crate) struct Fold {
    pub kind: FoldKind,
    pub range: Id,
    /// The index or key, in the form with two variables.
    pub key: Option<Arc<str>>,
    /// The element; with one variable over a map, its key.
    pub item: Arc<str>,
    pub filter: Option<Id>,
    pub body: Id,
}

/// An entry of a map literal.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: Id,
    pub value: Id,
    pub optional: bool,
}

/// A field of a message literal.
#[derive(Debug, Clone)]
pub(crate) struct StructField {
    pub name: Arc<str>,
    pub value: Id,
    pub optional: bool,
    pub at: u32,
}

/// One node.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Literal(Literal),
    Ident {
        name: Arc<str>,
        slot: Slot,
    },
    /// A type's name used as a value.
    TypeName(Arc<str>),
    Select {
        operand: Id,
        field: Arc<str>,
        test: bool,
    },
    /// `a.?b`.
    OptSelect {
        operand: Id,
        field: Arc<str>,
    },
    Call {
        function: Arc<str>,
        target: Option<Id>,
        args: Vec<Id>,
        builtin: Option<usize>,
    },
    And(Vec<Id>),
    Or(Vec<Id>),
    Conditional {
        test: Id,
        yes: Id,
        no: Id,
    },
    List {
        items: Vec<Id>,
        optional: Vec<bool>,
    },
    Map(Vec<Entry>),
    Struct {
        name: Arc<str>,
        fields: Vec<StructField>,
    },
    Fold(Box<Fold>),
    Bind {
        name: Arc<str>,
        init: Id,
        body: Id,
    },
    OptMap {
        target: Id,
        name: Arc<str>,
        body: Id,
        flat: bool,
    },
}

impl Node {
    /// The nodes directly below.
    pub fn children(&self, mut see: impl FnMut(Id)) {
        match self {
            Node::Literal(_) | Node::Ident { .. } | Node::TypeName(_) => {}
            Node::Select { operand, .. } | Node::OptSelect { operand, .. } => see(*operand),
            Node::Call { target, args, .. } => target.iter().chain(args).for_each(|id| see(*id)),
            Node::And(ids) | Node::Or(ids) | Node::List { items: ids, .. } => ids.iter().for_each(|id| see(*id)),
            Node::Conditional { test, yes, no } => [test, yes, no].into_iter().for_each(|id| see(*id)),
            Node::Map(entries) => entries.iter().for_each(|e| {
                see(e.key);
                see(e.value);
            }),
            Node::Struct { fields, .. } => fields.iter().for_each(|f| see(f.value)),
            Node::Fold(fold) => {
                see(fold.range);
                fold.filter.iter().for_each(|id| see(*id));
                see(fold.body);
            }
            Node::Bind { init, body, .. } => {
                see(*init);
                see(*body);
            }
            Node::OptMap { target, body, .. } => {
                see(*target);
                see(*body);
            }
        }
    }
}

/// An expression.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ast {
    nodes: Vec<Node>,
    /// Byte offsets in the text.
    places: Vec<u32>,
    heights: Vec<u16>,
    pub root: Id,
}

impl Ast {
    /// The node.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[id as usize]
    }

    /// Replaces a node by another over the same children.
    pub fn set(&mut self, id: Id, node: Node) {
        self.nodes[id as usize] = node;
    }

    /// The byte offset to which messages about the node point.
    pub fn place(&self, id: Id) -> u32 {
        self.places[id as usize]
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Of the whole tree.
    pub fn height(&self) -> u16 {
        self.heights[self.root as usize]
    }

    /// Adds a node; `None` if the tree becomes too high.
    pub fn add(&mut self, node: Node, place: u32) -> Option<Id> {
        let mut height = 0;
        node.children(|child| height = height.max(self.heights[child as usize]));
        if height >= MAX_HEIGHT {
            return None;
        }
        let id = u32::try_from(self.nodes.len()).ok()?;
        self.nodes.push(node);
        self.places.push(place);
        self.heights.push(height + 1);
        Some(id)
    }
}

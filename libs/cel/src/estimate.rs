//! What an expression may cost, from the declared sizes of what it reads. The prices are upstream's.

use crate::ast::{Fold, FoldKind, Id, Literal, Node};
use crate::functions::{self, Cost};
use crate::program::Program;
use crate::types::{Type, UNBOUNDED};

/// A range of costs or sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    /// At least.
    pub min: u64,
    /// At most.
    pub max: u64,
}

const fn exactly(n: u64) -> Estimate {
    Estimate { min: n, max: n }
}

const UNKNOWN: Estimate = Estimate { min: 0, max: UNBOUNDED };

/// The most that a value of a request may have of anything.
const LARGEST: u64 = (3 << 20) - 2;

impl Estimate {
    fn add(self, other: Estimate) -> Estimate {
        Estimate {
            min: self.min.saturating_add(other.min),
            max: self.max.saturating_add(other.max),
        }
    }

    fn times(self, other: Estimate) -> Estimate {
        Estimate {
            min: self.min.saturating_mul(other.min),
            max: self.max.saturating_mul(other.max),
        }
    }

    fn either(self, other: Estimate) -> Estimate {
        Estimate {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    fn each(self, price: fn(u64) -> u64) -> Estimate {
        let priced = |n: u64| if n == UNBOUNDED { UNBOUNDED } else { price(n) };
        Estimate {
            min: priced(self.min),
            max: priced(self.max),
        }
    }

    /// The price of a traversal.
    fn tenth(self) -> Estimate {
        self.each(|n| n.div_ceil(10))
    }
}

/// The cost of a program's expression.
pub(crate) fn estimate(program: &Program) -> Estimate {
    let mut estimator = Estimator {
        program,
        sizes: vec![None; program.ast.len()],
    };
    estimator.cost(program.ast.root)
}

struct Estimator<'p> {
    program: &'p Program,
    /// What is known of a node's value beyond its type.
    sizes: Vec<Option<Estimate>>,
}

impl Estimator<'_> {
    fn ty(&self, id: Id) -> &Type {
        &self.program.types[id as usize]
    }

    fn size(&self, id: Id) -> Estimate {
        if let Some(size) = self.sizes[id as usize] {
            return size;
        }
        match self.program.ast.node(id) {
            Node::Literal(Literal::String(text)) => exactly(text.chars().count() as u64),
            Node::Literal(Literal::Bytes(bytes)) => exactly(bytes.len() as u64),
            Node::List { items, .. } => exactly(items.len() as u64),
            Node::Map(entries) => exactly(entries.len() as u64),
            _ => type_size(self.ty(id)),
        }
    }

    fn cost(&mut self, id: Id) -> Estimate {
        let program = self.program;
        match program.ast.node(id) {
            Node::Literal(_) => exactly(0),
            Node::Ident { .. } | Node::TypeName(_) => exactly(1),
            Node::Select { operand, test, .. } => {
                let below = self.cost(*operand);
                match self.ty(*operand) {
                    Type::Map(..) | Type::Object(_) | Type::Param(_) if !test => below.add(exactly(1)),
                    _ => below,
                }
            }
            Node::OptSelect { operand, .. } => self.cost(*operand).add(exactly(1)),
            Node::And(ids) | Node::Or(ids) => self.logical(ids),
            Node::Conditional { test, yes, no } => {
                let branches = self.cost(*yes).either(self.cost(*no));
                let size = self.size(*yes).either(self.size(*no));
                self.sizes[id as usize] = Some(size);
                self.cost(*test).add(branches)
            }
            Node::List { items, .. } => self.sum(items).add(exactly(10)),
            Node::Map(entries) => {
                let mut sum = exactly(30);
                for entry in entries {
                    sum = sum.add(self.cost(entry.key)).add(self.cost(entry.value));
                }
                sum
            }
            Node::Struct { fields, .. } => {
                let values: Vec<Id> = fields.iter().map(|field| field.value).collect();
                self.sum(&values).add(exactly(40))
            }
            Node::Fold(fold) => self.fold(id, fold),
            Node::Bind { init, body, .. } => {
                let cost = self.cost(*init).add(self.cost(*body)).add(exactly(10));
                self.sizes[id as usize] = Some(self.size(*body));
                cost
            }
            Node::OptMap { target, body, .. } => {
                let target = self.cost(*target);
                target.add(target).add(self.cost(*body)).add(exactly(14))
            }
            Node::Call { target, args, .. } => {
                let all: Vec<Id> = target.iter().chain(args).copied().collect();
                let below = self.sum(&all);
                below.add(self.call(id, &all))
            }
        }
    }

    fn sum(&mut self, ids: &[Id]) -> Estimate {
        ids.iter().fold(exactly(0), |sum, id| sum.add(self.cost(*id)))
    }

    /// The first operand may be all that is evaluated.
    fn logical(&mut self, ids: &[Id]) -> Estimate {
        let costs: Vec<Estimate> = ids.iter().map(|id| self.cost(*id)).collect();
        Estimate {
            min: costs.first().map_or(0, |first| first.min),
            max: costs.iter().fold(0, |sum, cost| sum.saturating_add(cost.max)),
        }
    }

    fn fold(&mut self, id: Id, fold: &Fold) -> Estimate {
        let range = self.cost(fold.range);
        let body = self.cost(fold.body);
        let count = self.size(fold.range);
        let from = |max: u64, min: u64| Estimate { min, max };
        let append = body.add(exactly(12));
        // The accumulator's first value, a step with the loop's condition, and the result.
        let (init, step, result) = match fold.kind {
            FoldKind::All => (0, from(body.max.saturating_add(3), 3), 1),
            FoldKind::Exists => (0, from(body.max.saturating_add(4), 4), 1),
            FoldKind::ExistsOne => (0, body.add(from(2, 1)), 2),
            FoldKind::Filter => (10, body.add(from(13, 1)), 1),
            FoldKind::Map | FoldKind::TransformList => (10, append, 1),
            FoldKind::TransformMap | FoldKind::TransformMapEntry => (30, body.add(exactly(2)), 1),
        };
        let step = match fold.filter {
            Some(filter) => self.cost(filter).add(step.either(exactly(1))),
            None => step,
        };
        if !matches!(fold.kind, FoldKind::All | FoldKind::Exists | FoldKind::ExistsOne) {
            self.sizes[id as usize] = Some(count);
        }
        range.add(exactly(init + result)).add(count.times(step))
    }

    fn call(&mut self, id: Id, args: &[Id]) -> Estimate {
        let Node::Call {
            function,
            builtin: Some(builtin),
            ..
        } = self.program.ast.node(id)
        else {
            return exactly(1);
        };
        let size = |at: usize| args.get(at).map_or(exactly(1), |id| self.size(*id));
        let result = self.result_size(function, args);
        let cost = match functions::get(*builtin).function.cost {
            Cost::Fixed(cost) => exactly(cost),
            // Upstream counts the affix here and the text when it runs.
            Cost::Scan if matches!(&**function, "startsWith" | "endsWith") => size(1).tenth(),
            Cost::Scan => size(0).tenth(),
            Cost::Rewrite => size(0).times(exactly(2)).tenth(),
            Cost::Join => result.unwrap_or(UNKNOWN).tenth(),
            Cost::Match => {
                let pattern = size(1).each(|n| n.div_ceil(4));
                size(0).add(exactly(1)).tenth().times(pattern)
            }
            Cost::Contains => size(0).tenth().times(size(1).tenth()),
            Cost::Compare => {
                let least = size(0).max.min(size(1).max);
                Estimate {
                    min: u64::from(least > 0),
                    max: least,
                }
                .tenth()
            }
            Cost::Concat => match args.first().map(|id| self.ty(*id)) {
                Some(Type::String(_) | Type::Bytes(_) | Type::Dyn) => size(0).add(size(1)).tenth(),
                _ => exactly(1),
            },
            Cost::Member => match args.get(1).map(|id| self.ty(*id)) {
                Some(Type::Map(..)) => exactly(1),
                _ => size(1),
            },
            Cost::Items => match args.first().map(|id| self.ty(*id)) {
                Some(Type::List(item, ..)) => {
                    let each = match &**item {
                        Type::String(_) | Type::Bytes(_) => exactly(1).add(type_size(item).tenth()),
                        _ => exactly(1),
                    };
                    size(0).times(each)
                }
                _ => size(0).tenth(),
            },
            Cost::Address(passes, extra) => {
                let bytes = Estimate { min: 4, max: 16 };
                bytes.times(exactly(passes)).tenth().add(exactly(extra))
            }
        };
        let cost = match &**function {
            "sets.contains" | "sets.equivalent" | "sets.intersects" => cost.add(size(0).times(size(1))),
            _ => cost,
        };
        self.sizes[id as usize] = result;
        cost
    }

    /// What is known of the size of a call's result.
    fn result_size(&self, function: &str, args: &[Id]) -> Option<Estimate> {
        let size = |at: usize| args.get(at).map_or(exactly(0), |id| self.size(*id));
        Some(match function {
            "_+_" => size(0).add(size(1)),
            "dyn" | "lowerAscii" | "upperAscii" | "trim" | "reverse" => size(0),
            "substring" | "split" | "find" | "findAll" => Estimate {
                min: 0,
                max: size(0).max,
            },
            "replace" => {
                let (text, from, to) = (size(0), size(1), size(2));
                let max = match from.min {
                    0 => text
                        .max
                        .saturating_add(1)
                        .saturating_mul(to.max)
                        .saturating_add(text.max),
                    least if to.max <= least => text.max,
                    least => text.max.div_ceil(least).saturating_mul(to.max),
                };
                Estimate { min: 0, max }
            }
            "join" => {
                let item = match args.first().map(|id| self.ty(*id)) {
                    Some(Type::List(item, ..)) => type_size(item),
                    _ => UNKNOWN,
                };
                let count = size(0);
                let gaps = Estimate {
                    min: count.min.saturating_sub(1),
                    max: count.max.saturating_sub(1),
                };
                count.times(item).add(size(1).times(gaps))
            }
            "bytes" => Estimate {
                min: size(0).min,
                max: size(0).max.saturating_mul(4),
            },
            _ => return None,
        })
    }
}

fn type_size(ty: &Type) -> Estimate {
    let up_to = |max| Estimate { min: 0, max };
    match ty {
        Type::String(max) | Type::Bytes(max) | Type::List(_, max, _) | Type::Map(_, _, max) => up_to(*max),
        // A message has no size of its own; what is known at run time only is part of a request.
        Type::Object(_) => exactly(0),
        Type::Dyn => up_to(LARGEST),
        Type::Param(_) | Type::Optional(_) => UNKNOWN,
        _ => exactly(1),
    }
}

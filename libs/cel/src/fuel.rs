//! What an evaluation may use: upstream's cost, and our own counters of work and memory.

use crate::authorizer::Decisions;
use crate::error::Error;

/// Upstream's limit of the cost of one expression.
pub const PER_CALL_LIMIT: u64 = 1_000_000;

/// Steps of work for a unit of cost: far above what any expression needs whose cost is counted where its work is.
const WORK_PER_COST: u64 = 16;
/// Bytes that one evaluation may allocate, freed or not.
const MEMORY: u64 = 48 << 20;
/// Work that even the cheapest expression may do.
const LEAST_WORK: u64 = 100_000;

/// One expression's budget.
pub struct Fuel<'d> {
    cost: u64,
    limit: u64,
    work: u64,
    memory: u64,
    pub(crate) decisions: Option<&'d Decisions>,
}

impl<'d> Fuel<'d> {
    /// A budget of so much cost, without an authorizer.
    pub fn new(limit: u64) -> Self {
        Fuel {
            cost: 0,
            limit,
            work: 0,
            memory: 0,
            decisions: None,
        }
    }

    /// The same with an authorizer's answers so far.
    pub fn with_decisions(limit: u64, decisions: &'d Decisions) -> Self {
        Fuel {
            decisions: Some(decisions),
            ..Fuel::new(limit)
        }
    }

    /// The cost so far.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// Counts cost.
    pub(crate) fn charge(&mut self, cost: u64) -> Result<(), Error> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit {
            return Err(Error::Cost);
        }
        self.work(1)
    }

    /// Counts steps of real work.
    pub(crate) fn work(&mut self, steps: u64) -> Result<(), Error> {
        self.work = self.work.saturating_add(steps);
        if self.work > self.limit.saturating_mul(WORK_PER_COST).max(LEAST_WORK) {
            return Err(Error::Resources);
        }
        Ok(())
    }

    /// Counts bytes before they are allocated, and the work of filling them.
    pub(crate) fn allocate(&mut self, bytes: usize) -> Result<(), Error> {
        self.memory = self.memory.saturating_add(bytes as u64);
        if self.memory > MEMORY {
            return Err(Error::Resources);
        }
        self.work(bytes as u64 / 16)
    }
}

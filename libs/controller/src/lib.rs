//! The frame of a reconciler: a work queue, a runner and a memory of our own writes.
//!
//! It owns *when* a key is reconciled: deduplication, never the same key twice at once, timers, back-off, metrics. It never knows a
//! kind, reads no cache and writes nothing; a controller gives it keys and one function. Keys are names: what woke a key is not
//! handed to the function, so the first reconcile after a restart takes the same path as any other.

mod metrics;
mod queue;
mod runner;
mod slow_start;
mod writes;

pub use metrics::Metrics;
pub use queue::Queue;
pub use runner::{Action, Error, run};
pub use slow_start::slow_start;
pub use writes::Writes;

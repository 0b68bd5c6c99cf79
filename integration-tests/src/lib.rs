//! What tests and benchmarks of the whole suite share: clusters on this machine, kubectl, waiting.
//!
//! Everything runs as programs, started as an operator would start them; nothing reaches into a daemon.

mod cluster;
mod kubectl;
mod tools;
mod wait;

pub use cluster::{Cluster, is_built, program};
pub use kubectl::{Answer, Kubectl};
pub use tools::Tools;
pub use wait::{eventually, poll};

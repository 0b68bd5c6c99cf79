//! DNS of the cluster domain, answered on every node from the node's own view of Services and EndpointSlices.
//!
//! [`Zone`] answers questions (pure, Kubernetes DNS specification 1.1.0), [`respond`] turns packets into packets (pure),
//! [`Server`] owns the sockets, and [`Forwarder`] asks the resolvers of the machine what the cluster domain does
//! not contain. Nothing is cached but what the informers hold, so an answer is never older than they are.

mod forward;
mod message;
mod server;
mod zone;

pub use forward::{Forwarder, resolvers};
pub use message::{Outcome, Transport, respond};
pub use server::{Bound, Metrics, Server};
pub use zone::{Answer, Directory, Zone};

/// Seconds for which clients may keep an answer.
pub const TTL: u32 = 5;

#[cfg(test)]
mod tests;

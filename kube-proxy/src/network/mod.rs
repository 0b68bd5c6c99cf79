//! The node's addresses and its routes to the pods of other nodes.
//!
//! [`plan`] decides (pure), [`Kernel`] reads and writes through netlink. Routes of ours carry a protocol number of our own, so
//! that nobody else's are touched and ours are found again after a restart.

mod kernel;
mod routes;

pub(crate) use kernel::TUNNEL_OVERHEAD;
pub use kernel::{Kernel, NetworkError};
pub use routes::{Hop, Link, Peer, Vxlan, plan};

#[cfg(test)]
mod tests;

//! Clusters of real machines: systemd units, credentials in `/etc/kubernetes`, the machine's own containerd.
//!
//! The first machine keeps the authority and the list of machines. Each further machine gets a bundle from it: one file with this machine's
//! credentials and what it must know, carried by whatever means the operator trusts. Nothing listens for newcomers, and no secret opens
//! the cluster to whoever knows it.

mod bundle;
mod command;
mod install;
mod register;

pub use command::{InitArguments, JoinArguments, NodeCommand, init, join, node};

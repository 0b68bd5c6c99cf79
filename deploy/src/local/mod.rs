//! Whole clusters on one machine.
//!
//! A cluster lives in one folder, and every node has a folder in it that looks like a machine's root. A node is a network namespace, a mount
//! namespace in which a few of the host's folders are replaced by the node's own, and a cgroup that holds every process of the node, its
//! containers included: what is in that cgroup is what `down` ends. Nothing is left to a process that stays: a daemon is started once,
//! by whoever finds it missing.

mod cgroup;
mod cluster;
mod command;
mod daemons;
mod down;
mod enter;
mod network;
mod process;
mod ready;
mod status;
mod up;

pub use command::{Command, run};

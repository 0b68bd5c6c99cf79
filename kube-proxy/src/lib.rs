//! tmp
pub mod cni;
pub mod config;
pub mod conntrack;
pub mod dns;
pub mod network;
pub mod rules;
pub mod sysctl;

//! tmp
pub mod cni;
pub mod config;
pub mod dns;
pub mod rules;
pub mod sysctl;

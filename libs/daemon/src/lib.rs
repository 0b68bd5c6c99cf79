//! What every daemon of the suite does alike: flags and configuration file, log, TLS with reload, health and metrics endpoints, systemd
//! notification, signals and drain.
//!
//! It knows no Kubernetes object and opens no connection to another daemon.

pub mod cli;
pub mod config;
mod gather;
pub mod health;
pub mod http;
pub mod metrics;
pub mod notify;
mod shutdown;
pub mod tls;

pub use shutdown::Shutdown;

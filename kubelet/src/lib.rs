//! kubelet: runs the pods of one node on a CRI container runtime and reports how they are.
//!
//! Speaks gRPC to kube-apiserver (`client`), CRI v1 to containerd, and serves the Node service to kube-apiserver. Never touches the network of pods: that is
//! kube-proxy's and the CNI plugins'.

mod api_client;
pub mod backoff;
pub mod cluster;
pub mod config;
pub mod env;
pub mod files;
pub mod gc;
pub mod logs;
pub mod metrics;
pub mod node;
pub mod pause;
pub mod pods;
mod run;
pub mod runtime;
pub mod server;
pub mod streams;
pub mod volumes;

pub use run::{listen, run};

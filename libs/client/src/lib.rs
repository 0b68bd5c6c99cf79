//! The suite's client of kube-apiserver: typed calls over gRPC, list-and-watch caches, events and leader election.
//!
//! It speaks only `proto::cluster`; everybody outside the suite speaks REST.

mod connection;
mod dynamic;
mod error;
pub mod events;
mod informer;
pub mod kubeconfig;
pub mod leader;
mod store;
mod typed;
mod watch;

pub use connection::{Client, Config};
pub use dynamic::{Dynamic, PartialObject};
pub use error::{Error, Result};
pub use events::{EventRecorder, EventType};
pub use informer::Informer;
pub use store::{Cache, Event};
pub use typed::{Api, Binding, DeleteParams, List, ListParams, Patch, Propagation};

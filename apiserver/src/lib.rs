//! kube-apiserver: the API, over REST and gRPC, and the store behind it.

pub mod kinds;
pub mod registry;
pub mod store;

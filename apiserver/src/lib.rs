//! kube-apiserver: REST and gRPC in front of the replicated store.

pub mod admission;
pub mod allocators;
pub mod authn;
pub mod authz;
pub mod kinds;
pub mod registry;
pub mod store;

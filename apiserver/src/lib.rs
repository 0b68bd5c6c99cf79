//! kube-apiserver: REST and gRPC in front of the replicated store.

pub mod store;

//! The contract between the daemons: generated code of the `.proto` files in `protos/`.
//!
//! `cargo test -p proto` fails when the generated code is stale or when a released field changed its number or type;
//! `KEELSON_REGENERATE=1 cargo test -p proto` writes the code anew and adds new fields to `released.txt`.

#![allow(missing_docs, clippy::all, rustdoc::all)]

/// kube-apiserver's service for the other daemons.
pub mod cluster {
    include!("generated/keelson.cluster.v1.rs");
}

/// kubelet's service for kube-apiserver.
pub mod node {
    include!("generated/keelson.node.v1.rs");
}

/// Raft between kube-apiservers.
pub mod raft {
    include!("generated/keelson.raft.v1.rs");
}

/// KMS plugins of encryption at rest, version 2.
pub mod kms {
    include!("generated/v2.rs");
}

/// Container Runtime Interface v1, served by containerd.
pub mod cri {
    include!("generated/runtime.v1.rs");
}

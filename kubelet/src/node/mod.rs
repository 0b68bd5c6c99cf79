//! The node's own objects: its registration, its status and its Lease.
//!
//! Owns what the kubelet writes about its node, nothing about pods.

pub mod facts;
pub mod lease;
pub mod report;

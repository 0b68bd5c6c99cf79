//! What reaches the kernel, seen from real connections between network namespaces. Needs root.

mod cni;
mod dns;
mod network;
mod policy;
mod rules;
mod support;

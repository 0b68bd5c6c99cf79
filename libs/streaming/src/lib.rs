//! The streams behind `kubectl exec`, `attach`, `port-forward` and `cp`: SPDY/3.1, WebSocket channels and the protocols on top.
//!
//! kube-apiserver serves them, kubelet calls containerd's streaming server with them. Nothing here knows a pod: what goes in and out are
//! bytes, terminal sizes and a final status.

pub mod port_forward;
pub mod remote;
pub mod spdy;
mod tunnel;
pub mod upgrade;
pub mod websocket;

pub use tunnel::Tunnel;

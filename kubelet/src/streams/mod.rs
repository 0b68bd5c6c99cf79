//! Exec, attach and port-forward into pods. Not served yet: each call answers `Unimplemented`.

use crate::pods::{Context, Pods};
use futures_util::stream::BoxStream;
use proto::node;
use std::sync::Arc;
use tonic::{Status, Streaming};

/// Runs a command in a container.
pub async fn exec(
    _pods: &Arc<Pods>,
    _context: &Arc<Context>,
    _input: Streaming<node::ExecInput>,
) -> Result<BoxStream<'static, Result<node::ExecOutput, Status>>, Status> {
    Err(Status::unimplemented("exec is not served yet"))
}

/// Joins a container's first process.
pub async fn attach(
    _pods: &Arc<Pods>,
    _context: &Arc<Context>,
    _input: Streaming<node::ExecInput>,
) -> Result<BoxStream<'static, Result<node::ExecOutput, Status>>, Status> {
    Err(Status::unimplemented("attach is not served yet"))
}

/// Carries one connection to a port of a pod.
pub async fn port_forward(
    _pods: &Arc<Pods>,
    _context: &Arc<Context>,
    _input: Streaming<node::PortForwardInput>,
) -> Result<BoxStream<'static, Result<node::PortForwardOutput, Status>>, Status> {
    Err(Status::unimplemented("port-forward is not served yet"))
}

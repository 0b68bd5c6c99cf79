//! Authorization: superusers, then the Node authorizer, then RBAC; the escalation checks; the access reviews. Owns the indexes these
//! answer from. Never changes a request.

pub mod bootstrap;
pub mod escalation;
mod feed;
pub mod node;
pub mod rbac;
pub mod review;
pub mod rules;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use daemon::Shutdown;

use crate::registry::access::{Attributes, Authorizer, Decision, UserInfo};
use crate::store::{Store, StoreError};
use node::Node;
use rbac::Rbac;

/// The group whose members may do everything, roles or not.
pub const SUPERUSERS: &str = "system:masters";
/// How long a kubelet's request that the graph refuses waits for the graph to catch up with the store.
const CATCH_UP: Duration = Duration::from_millis(20);

/// The chain of authorizers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Authorizers {
    /// Roles and bindings.
    pub rbac: Arc<Rbac>,
    node: Arc<Node>,
}

impl Authorizers {
    /// Fills the indexes from the store and follows it until shutdown.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn start(&self, store: Arc<dyn Store>, shutdown: Shutdown) -> Result<(), StoreError> {
        feed::start(store, self.rbac.clone(), self.node.clone(), shutdown).await
    }
}

#[async_trait]
impl Authorizer for Authorizers {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.in_group(SUPERUSERS) {
            return Decision::Allow(String::new());
        }
        let mut first = self.node.decide(user, attributes);
        if matches!(&first, Decision::NoOpinion(reason) if !reason.is_empty()) {
            // The kubelet may have heard of its pod before this index did.
            tokio::time::sleep(CATCH_UP).await;
            first = self.node.decide(user, attributes);
        }
        match (first, self.rbac.decide(user, attributes)) {
            (Decision::NoOpinion(a), Decision::NoOpinion(b)) => Decision::NoOpinion(
                [a, b]
                    .into_iter()
                    .filter(|r| !r.is_empty())
                    .collect::<Vec<_>>()
                    .join(", "),
            ),
            (Decision::NoOpinion(_), decision) | (decision, _) => decision,
        }
    }
}

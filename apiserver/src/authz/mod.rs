//! Authorization: superusers, then the configured authorizers (the Node authorizer and RBAC, if nothing else is said); the escalation
//! checks; the access reviews. Owns the indexes these answer from. Never changes a request.

pub mod bootstrap;
pub mod config;
pub mod escalation;
mod feed;
pub mod node;
pub mod rbac;
pub mod review;
pub mod rules;
mod selectors;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use daemon::Shutdown;

use crate::registry::access::{Attributes, Authorizer, Decision, UserInfo};
use crate::store::{Store, StoreError};
use node::Node;
use rbac::Rbac;
use webhook::Webhook;

/// The group whose members may do everything, roles or not.
pub const SUPERUSERS: &str = "system:masters";
/// How long a kubelet's request that the graph refuses waits for the graph to catch up with the store.
const CATCH_UP: Duration = Duration::from_millis(20);

/// One authorizer of the chain.
#[derive(Clone)]
enum Link {
    Node,
    Rbac,
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Arc<Webhook>),
}

/// The chain of authorizers. Cheap to clone.
#[derive(Clone)]
pub struct Authorizers {
    /// Roles and bindings.
    pub rbac: Arc<Rbac>,
    node: Arc<Node>,
    links: Arc<ArcSwap<Vec<Link>>>,
}

impl Default for Authorizers {
    fn default() -> Self {
        Self {
            rbac: Arc::default(),
            node: Arc::default(),
            links: Arc::new(ArcSwap::from_pointee(vec![Link::Node, Link::Rbac])),
        }
    }
}

impl Authorizers {
    fn set(&self, links: Vec<Link>) {
        self.links.store(Arc::new(links));
    }

    async fn ask(&self, link: &Link, user: &UserInfo, attributes: &Attributes) -> Decision {
        match link {
            Link::Rbac => self.rbac.decide(user, attributes),
            Link::AlwaysAllow => Decision::Allow(String::new()),
            Link::AlwaysDeny => Decision::NoOpinion("Everything is forbidden.".into()),
            Link::Webhook(webhook) => webhook.decide(user, attributes).await,
            Link::Node => {
                let first = self.node.decide(user, attributes);
                if !matches!(&first, Decision::NoOpinion(reason) if !reason.is_empty()) {
                    return first;
                }
                // The kubelet may have heard of its pod before this index did.
                tokio::time::sleep(CATCH_UP).await;
                self.node.decide(user, attributes)
            }
        }
    }

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
        let links = self.links.load_full();
        let mut reasons = Vec::new();
        for link in links.iter() {
            match self.ask(link, user, attributes).await {
                Decision::NoOpinion(reason) if reason.is_empty() => {}
                Decision::NoOpinion(reason) => reasons.push(reason),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }
}

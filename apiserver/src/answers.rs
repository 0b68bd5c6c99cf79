//! The questions that are asked by creating an object: hands them to authentication and authorization.

use std::sync::Arc;

use api::Error;
use api::resources::ResourceInfo;
use async_trait::async_trait;
use serde_json::Value;

use crate::authn::review as identity;
use crate::authn::service_account::Tokens;
use crate::authn::tokens::TokenChain;
use crate::authz::{Authorizers, review as power};
use crate::registry::access::{Reviewer, UserInfo};

/// Who knows the answers.
pub struct Answers {
    /// Service-account tokens.
    pub tokens: Arc<Tokens>,
    /// Every token that somebody knows.
    pub chain: Arc<TokenChain>,
    /// Roles and bindings.
    pub authorizers: Authorizers,
}

#[async_trait]
impl Reviewer for Answers {
    async fn review(
        &self,
        user: &UserInfo,
        resource: &ResourceInfo,
        namespace: &str,
        object: Value,
    ) -> Result<Value, Error> {
        match &*resource.resource {
            "tokenreviews" => identity::token(&self.chain, object).await,
            "selfsubjectreviews" => Ok(identity::self_subject(user, object)),
            other => {
                power::answer(
                    &self.authorizers,
                    &self.authorizers.rbac,
                    other,
                    namespace,
                    user,
                    object,
                )
                .await
            }
        }
    }

    async fn token(&self, namespace: &str, account: &str, request: Value) -> Result<Value, Error> {
        self.tokens.request(namespace, account, request).await
    }
}

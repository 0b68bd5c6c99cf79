//! Bearer tokens: the authenticators that know them, in upstream's order, behind one question. Requests and TokenReviews ask the same.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::bootstrap::BootstrapTokens;
use super::oidc::Issuers;
use super::service_account::Tokens;
use super::static_tokens::StaticTokens;
use super::webhook::Webhook;
use crate::registry::access::UserInfo;

/// What an accepted token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Whose it is, with `system:authenticated` among the groups.
    pub user: UserInfo,
    /// Those of the wanted audiences that the token is for.
    pub audiences: Vec<String>,
}

/// Everything that knows tokens.
pub struct TokenChain {
    /// The token file.
    pub static_tokens: StaticTokens,
    /// Service accounts.
    pub accounts: Arc<Tokens>,
    /// Tokens with which nodes join.
    pub bootstrap: Option<BootstrapTokens>,
    /// OIDC issuers; the configuration may be read again.
    pub issuers: Arc<ArcSwap<Issuers>>,
    /// A remote authenticator.
    pub webhook: Option<Webhook>,
}

impl TokenChain {
    /// Asks one after another, for these audiences (none: the API's own).
    ///
    /// # Errors
    /// Why nobody believes it.
    pub async fn authenticate(&self, token: &str, wanted: &[String]) -> Result<Accepted, String> {
        let audiences = if wanted.is_empty() {
            self.accounts.audiences()
        } else {
            wanted
        };
        let local = |user: UserInfo| Accepted {
            user: authenticated(user),
            // These know of no audiences and are for all of them.
            audiences: audiences.to_vec(),
        };
        if let Some(user) = self.static_tokens.find(token) {
            return Ok(local(user));
        }
        let mut faults = vec!["invalid bearer token".to_owned()];
        if self.accounts.is_ours(token) {
            match self.accounts.authenticate(token, audiences).await {
                Ok(accepted) => return Ok(accepted),
                Err(why) => faults.push(why),
            }
        }
        if let Some(bootstrap) = &self.bootstrap
            && let Some(user) = bootstrap.find(token).await
        {
            return Ok(local(user));
        }
        let issuers = self.issuers.load_full();
        match issuers.authenticate(token).await {
            Some(Ok(user)) => return Ok(local(user)),
            Some(Err(why)) => faults.push(why),
            None => {}
        }
        if let Some(webhook) = &self.webhook {
            match webhook.authenticate(token, audiences).await {
                Ok(Some(accepted)) => {
                    return Ok(Accepted {
                        user: authenticated(accepted.user),
                        ..accepted
                    });
                }
                Ok(None) => {}
                Err(why) => faults.push(why),
            }
        }
        Err(match faults.as_slice() {
            [only] => only.clone(),
            many => format!("[{}]", many.join(", ")),
        })
    }
}

/// The user with the group of all whose credentials were good.
pub fn authenticated(mut user: UserInfo) -> UserInfo {
    const ALL: &str = "system:authenticated";
    if user.name != "system:anonymous" && !user.in_group(ALL) {
        user.groups.push(ALL.to_owned());
    }
    user
}

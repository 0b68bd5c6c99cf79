//! Authentication: who is asking. Client certificates, static tokens, service-account tokens; impersonation; the reviews that tell callers
//! who they are. Owns keys and token tables; decides nothing about what a user may do.

pub mod impersonate;
pub mod jwt;
pub mod review;
pub mod service_account;
pub mod static_tokens;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Error;
use async_trait::async_trait;
use daemon::tls::ServerTls;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::registry::access::{Authenticator, Credentials, UserInfo};
use service_account::Tokens;
use static_tokens::StaticTokens;

/// How long a verified certificate is believed without verifying it again. A certificate that expires or a client CA that changes shows
/// after at most this long on a connection that stays open.
const CERTIFICATE_TTL: Duration = Duration::from_secs(10);
/// Certificates remembered at most.
const CERTIFICATES: usize = 1024;

/// The chain of authenticators.
pub struct Authenticators {
    tls: Arc<ServerTls>,
    tokens: Arc<Tokens>,
    static_tokens: StaticTokens,
    verified: Mutex<HashMap<[u8; 32], (Instant, UserInfo)>>,
}

impl Authenticators {
    /// `tls` judges client certificates.
    pub fn new(tls: Arc<ServerTls>, tokens: Arc<Tokens>, static_tokens: StaticTokens) -> Authenticators {
        Authenticators {
            tls,
            tokens,
            static_tokens,
            verified: Mutex::default(),
        }
    }

    fn certificate(&self, chain: &[CertificateDer<'static>]) -> Result<UserInfo, Error> {
        let mut hash = Sha256::new();
        chain.iter().for_each(|certificate| hash.update(certificate));
        let key: [u8; 32] = hash.finalize().into();
        let now = Instant::now();
        if let Some((until, user)) = self.verified.lock().get(&key)
            && now < *until
        {
            return Ok(user.clone());
        }
        let identity = self.tls.authenticate(chain).map_err(|error| {
            tracing::info!(%error, "refused a client certificate");
            unauthorized()
        })?;
        let mut user = UserInfo {
            name: identity.user,
            groups: identity.groups,
            ..UserInfo::default()
        };
        user.groups.push("system:authenticated".to_owned());
        let mut verified = self.verified.lock();
        if verified.len() >= CERTIFICATES {
            verified.retain(|_, (until, _)| now < *until);
        }
        if verified.len() < CERTIFICATES {
            verified.insert(key, (now + CERTIFICATE_TTL, user.clone()));
        }
        Ok(user)
    }

    async fn bearer(&self, token: &str) -> Result<UserInfo, Error> {
        if let Some(user) = self.static_tokens.find(token) {
            return Ok(user);
        }
        if !self.tokens.is_ours(token) {
            return Err(unauthorized());
        }
        match self.tokens.authenticate(token, &[]).await {
            Ok(accepted) => Ok(accepted.user),
            Err(why) => {
                tracing::info!(why, "refused a service-account token");
                Err(unauthorized())
            }
        }
    }
}

fn unauthorized() -> Error {
    Error::unauthorized("Unauthorized")
}

/// The token of an `Authorization: Bearer` header.
fn bearer_token(headers: &http::HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

#[async_trait]
impl Authenticator for Authenticators {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, Error> {
        let token = bearer_token(credentials.headers);
        if !credentials.certificates.is_empty() {
            match (self.certificate(credentials.certificates), token) {
                (Ok(user), _) => return Ok(Some(user)),
                (Err(error), None) => return Err(error),
                (Err(_), Some(_)) => {}
            }
        }
        match token {
            Some(token) => self.bearer(token).await.map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_headers() {
        let token = |value: &str| {
            let mut headers = http::HeaderMap::new();
            if let Ok(value) = value.parse() {
                headers.insert(http::header::AUTHORIZATION, value);
            }
            bearer_token(&headers).map(str::to_owned)
        };
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(token("Basic abc"), None);
        assert_eq!(token("Bearer "), None);
    }
}

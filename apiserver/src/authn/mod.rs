//! Authentication: who is asking. The front proxy, client certificates, tokens of every kind; impersonation; the reviews that tell callers
//! who they are. Owns keys and token tables; decides nothing about what a user may do.

pub mod bootstrap;
pub mod config;
pub mod expressions;
mod front_proxy;
pub mod impersonate;
pub mod jwt;
pub mod oidc;
pub mod reload;
pub mod review;
pub mod service_account;
pub mod static_tokens;
pub mod tokens;
pub mod webhook;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Error;
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use daemon::config::ConfigError;
use daemon::tls::ServerTls;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use crate::aggregation::config::RequestHeader;
use crate::registry::access::{Authenticator, Credentials, UserInfo};
use front_proxy::FrontProxy;
use tokens::{TokenChain, authenticated};

/// How long a verified certificate is believed without verifying it again. A certificate that expires or a client CA that changes shows
/// after at most this long on a connection that stays open.
const CERTIFICATE_TTL: Duration = Duration::from_secs(10);
/// What a WebSocket subprotocol that is a token begins with.
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";
/// Certificates remembered at most.
const CERTIFICATES: usize = 1024;

/// The chain of authenticators.
pub struct Authenticators {
    tls: Arc<ServerTls>,
    front_proxy: Option<FrontProxy>,
    tokens: Arc<TokenChain>,
    verified: Mutex<HashMap<[u8; 32], (Instant, UserInfo)>>,
}

impl Authenticators {
    /// `tls` judges client certificates.
    ///
    /// # Errors
    /// When the front proxies' authority cannot be used.
    pub fn new(
        tls: Arc<ServerTls>,
        tokens: Arc<TokenChain>,
        front_proxies: Option<&RequestHeader>,
    ) -> Result<Authenticators, ConfigError> {
        Ok(Authenticators {
            tls,
            front_proxy: front_proxies.map(FrontProxy::new).transpose()?,
            tokens,
            verified: Mutex::default(),
        })
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
        match self.tokens.authenticate(token, &[]).await {
            Ok(accepted) => Ok(accepted.user),
            Err(why) => {
                tracing::info!(why, "refused a bearer token");
                Err(unauthorized())
            }
        }
    }
}

fn unauthorized() -> Error {
    Error::unauthorized("Unauthorized")
}

/// The token of an `Authorization: Bearer` header, or of a WebSocket's subprotocols, where browsers can put one.
fn bearer_token(headers: &http::HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let (scheme, token) = value.split_once(' ')?;
        let token = token.trim();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL).iter();
    let encoded = protocols
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(WEBSOCKET_TOKEN))?;
    let token = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok()?;
    String::from_utf8(token).ok().filter(|token| !token.is_empty())
}

#[async_trait]
impl Authenticator for Authenticators {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, Error> {
        if let Some(proxy) = &self.front_proxy
            && let Some(user) = proxy.authenticate(credentials.certificates, credentials.headers)
        {
            return Ok(Some(authenticated(user)));
        }
        let token = bearer_token(credentials.headers);
        if !credentials.certificates.is_empty() {
            match (self.certificate(credentials.certificates), &token) {
                (Ok(user), _) => return Ok(Some(user)),
                (Err(error), None) => return Err(error),
                (Err(_), Some(_)) => {}
            }
        }
        match token {
            Some(token) => self.bearer(&token).await.map(Some),
            None if self.tokens.issuers.load().anonymous.allows(credentials.path) => Ok(None),
            None => Err(unauthorized()),
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
            bearer_token(&headers)
        };
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("bearer  abc").as_deref(), Some("abc"));
        assert_eq!(token("Basic abc"), None);
        assert_eq!(token("Bearer "), None);
        let mut headers = http::HeaderMap::new();
        let protocols = "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj";
        headers.insert("sec-websocket-protocol", http::HeaderValue::from_static(protocols));
        assert_eq!(bearer_token(&headers).as_deref(), Some("abc"));
    }
}

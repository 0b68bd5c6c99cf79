//! Service account tokens bound to pods: asked for once, renewed when four fifths of their life (or a day) are over.

use super::VolumeError;
use crate::cluster::Cluster;
use api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus};
use api::core::v1::{Pod, ServiceAccountTokenProjection};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::collections::HashMap;

const DEFAULT_LIFE: i64 = 3600;
const LONGEST_USE: SignedDuration = SignedDuration::from_hours(24);

/// Pod, audience and life of a token.
type Key = (String, String, i64);

struct Token {
    text: String,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// The tokens of this node's pods. Kept in memory only.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<Key, Token>>);

impl Tokens {
    /// A token that is good for a while. An old one stands in while the API server does not answer.
    pub async fn get(
        &self,
        cluster: &dyn Cluster,
        pod: &Pod,
        source: &ServiceAccountTokenProjection,
    ) -> Result<String, VolumeError> {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let audience = source.audience.clone().unwrap_or_default();
        let life = source.expiration_seconds.unwrap_or(DEFAULT_LIFE);
        let key = (uid.clone(), audience.clone(), life);
        let now = Timestamp::now();
        if let Some(token) = self.0.lock().get(&key).filter(|token| token.renew_at > now) {
            return Ok(token.text.clone());
        }
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: if audience.is_empty() {
                    Vec::new()
                } else {
                    vec![audience]
                },
                expiration_seconds: Some(life),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: pod.metadata.name.clone(),
                    uid: Some(uid),
                }),
            },
            ..Default::default()
        };
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref())
            .unwrap_or("default");
        match cluster.token(namespace, account, &request).await {
            Ok(TokenRequest {
                status: Some(status), ..
            }) => Ok(self.keep(key, status, now)),
            Ok(_) => Err(VolumeError::Token {
                account: account.to_owned(),
                source: crate::cluster::ClusterError::Failed("the answer has no token".into()),
            }),
            Err(error) => match self.0.lock().get(&key).filter(|token| token.expires_at > now) {
                Some(token) => Ok(token.text.clone()),
                None => Err(VolumeError::Token {
                    account: account.to_owned(),
                    source: error,
                }),
            },
        }
    }

    fn keep(&self, key: Key, status: TokenRequestStatus, now: Timestamp) -> String {
        let expires_at = status.expiration_timestamp.0;
        let life = expires_at.duration_since(now);
        let use_for = (life * 4 / 5).min(LONGEST_USE);
        let renew_at = now.checked_add(use_for).unwrap_or(now);
        let text = status.token;
        self.0.lock().insert(
            key,
            Token {
                text: text.clone(),
                renew_at,
                expires_at,
            },
        );
        text
    }

    /// When the first token of a pod is due.
    pub fn next_renewal(&self, pod_uid: &str) -> Option<Timestamp> {
        let all = self.0.lock();
        all.iter()
            .filter(|((uid, ..), _)| uid == pod_uid)
            .map(|(_, token)| token.renew_at)
            .min()
    }

    /// Forgets a pod's tokens.
    pub fn forget(&self, pod_uid: &str) {
        self.0.lock().retain(|(uid, ..), _| uid != pod_uid);
    }
}

//! EventRateLimit: a component in a loop does not fill the store with events. Token buckets for the whole server, a namespace, a user, or a
//! source and the object it speaks of.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use api::Error;
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Context, Plugin, writes};
use crate::kinds::field::{list, number, text};
use crate::registry::access::AdmissionRequest;

/// How many buckets a limit keeps if it does not say.
const CACHE: usize = 4096;
/// The most it may ask for.
const MOST: i64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

struct Limit {
    scope: Scope,
    name: String,
    qps: f64,
    burst: f64,
    most: usize,
    buckets: Mutex<(HashMap<String, Bucket>, VecDeque<String>)>,
}

impl Limit {
    /// Whether there is a token left for the key.
    fn take(&self, key: &str, now: Instant) -> bool {
        let mut guard = self.buckets.lock();
        let (buckets, order) = &mut *guard;
        if !buckets.contains_key(key) {
            order.push_back(key.to_owned());
            let full = Bucket {
                tokens: self.burst,
                filled: now,
            };
            buckets.insert(key.to_owned(), full);
            if let (true, Some(oldest)) = (buckets.len() > self.most, order.front().cloned()) {
                order.pop_front();
                buckets.remove(&oldest);
            }
        }
        let Some(bucket) = buckets.get_mut(key) else {
            return true;
        };
        let elapsed = now.saturating_duration_since(bucket.filled).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * self.qps).min(self.burst);
        bucket.filled = now;
        let left = bucket.tokens >= 1.0;
        if left {
            bucket.tokens -= 1.0;
        }
        left
    }
}

pub(super) struct EventRateLimit {
    limits: Vec<Limit>,
}

impl EventRateLimit {
    pub(super) fn new(config: &Value) -> Result<Self, String> {
        let mut limits = Vec::new();
        for (i, item) in list(config, "/limits").iter().enumerate() {
            let name = text(item, "/type");
            let scope = match name {
                "Server" => Scope::Server,
                "Namespace" => Scope::Namespace,
                "User" => Scope::User,
                "SourceAndObject" => Scope::SourceAndObject,
                other => {
                    return Err(format!(
                        "limits[{i}].type: expected Server, Namespace, User or SourceAndObject, found {other:?}"
                    ));
                }
            };
            let (qps, burst, cache) = (number(item, "/qps"), number(item, "/burst"), number(item, "/cacheSize"));
            if qps <= 0 || burst <= 0 || !(0..=MOST).contains(&cache) {
                return Err(format!(
                    "limits[{i}]: expected qps and burst above 0 and cacheSize up to {MOST}"
                ));
            }
            limits.push(Limit {
                scope,
                name: name.to_owned(),
                qps: qps as f64,
                burst: burst as f64,
                most: usize::try_from(cache).ok().filter(|n| *n > 0).unwrap_or(CACHE),
                buckets: Mutex::default(),
            });
        }
        match limits.is_empty() {
            true => Err("limits: expected at least one".to_owned()),
            false => Ok(Self { limits }),
        }
    }
}

fn key(scope: Scope, request: &AdmissionRequest<'_>, event: &Value) -> String {
    match scope {
        Scope::Server => String::new(),
        Scope::Namespace => request.attributes.namespace.clone(),
        Scope::User => request.user.name.clone(),
        Scope::SourceAndObject => [
            "/source/component",
            "/source/host",
            "/involvedObject/kind",
            "/involvedObject/namespace",
            "/involvedObject/name",
            "/involvedObject/uid",
            "/involvedObject/apiVersion",
        ]
        .map(|path| text(event, path))
        .concat(),
    }
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        // Nothing is lost by a dry run.
        writes(request) && request.resource.resource == "events" && !request.dry_run()
    }

    async fn validate(&self, _cx: &Context, request: &AdmissionRequest<'_>, event: &Value) -> Result<(), Error> {
        let now = Instant::now();
        let mut refused = None;
        for limit in &self.limits {
            let key = key(limit.scope, request, event);
            // Every limit is charged, whatever the others say.
            if !limit.take(&key, now) {
                refused = Some(format!("limit reached on type {} for key {key}", limit.name));
            }
        }
        match refused {
            Some(why) => Err(Error::too_many_requests(why, 0)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Fixture;
    use crate::registry::access::Operation;

    #[tokio::test]
    async fn a_burst_and_no_more() {
        let plugin = EventRateLimit::new(&json!({"limits": [{"type": "Namespace", "qps": 1, "burst": 2}]})).unwrap();
        let fixture = Fixture::default();
        let mut codes = Vec::new();
        for _ in 0..3 {
            let outcome = fixture
                .validate(&plugin, Operation::Create, "", "events", &json!({}), None)
                .await;
            codes.push(outcome.err().map_or(201, |e| e.code));
        }
        assert_eq!(codes, [201, 201, 429]);
        assert!(EventRateLimit::new(&json!({"limits": [{"type": "Other", "qps": 1, "burst": 2}]})).is_err());
    }

    #[test]
    fn tokens_come_back_and_old_keys_go() {
        let plugin =
            EventRateLimit::new(&json!({"limits": [{"type": "User", "qps": 10, "burst": 1, "cacheSize": 2}]})).unwrap();
        let (limit, start) = (&plugin.limits[0], Instant::now());
        let later = start + std::time::Duration::from_millis(100);
        assert!(limit.take("a", start) && !limit.take("a", start) && limit.take("a", later));
        for key in ["b", "c", "d"] {
            assert!(limit.take(key, later));
        }
        assert_eq!(limit.buckets.lock().0.len(), 2);
    }
}

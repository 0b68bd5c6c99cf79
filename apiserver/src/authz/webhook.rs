//! The webhook authorizer: asks a remote server with a SubjectAccessReview and remembers the answer for a while. Conditions in CEL decide
//! which requests it is asked about.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::selectors;
use crate::authn::expressions::Expression;
use crate::outgoing::Limits;
use crate::outgoing::kubeconfig::Remote;
use crate::registry::access::{Attributes, Decision, UserInfo};

/// Answers remembered at most, and the size of a question that is remembered.
const ANSWERS: usize = 8192;
const LARGEST: usize = 10_000;
/// Attempts for a question that the server could not answer, and the pause before the second.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);

/// How the server is asked.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// For the log.
    pub name: String,
    /// Version of the reviews sent, `v1` or `v1beta1`.
    pub version: String,
    /// How long a yes is believed.
    pub authorized: Duration,
    /// How long anything else is believed.
    pub unauthorized: Duration,
    /// Time for one question.
    pub timeout: Duration,
    /// Whether a server that cannot be asked means no, instead of no opinion.
    pub deny_on_failure: bool,
    /// All of these over `request` must hold for the server to be asked.
    pub conditions: Vec<Expression>,
}

/// One remote authorizer.
pub struct Webhook {
    remote: Remote,
    config: WebhookConfig,
    answers: Mutex<HashMap<[u8; 32], (Instant, Decision)>>,
}

impl Webhook {
    /// Asks `remote`.
    pub fn new(remote: Remote, config: WebhookConfig) -> Webhook {
        Webhook {
            remote,
            config,
            answers: Mutex::default(),
        }
    }

    /// What the server says.
    pub async fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        let spec = spec(user, attributes);
        match self.applies(&spec) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(why) => return self.failed(&why),
        }
        let text = spec.to_string();
        let key: [u8; 32] = Sha256::digest(&text).into();
        let now = Instant::now();
        if let Some((until, decision)) = self.answers.lock().get(&key)
            && now < *until
        {
            return decision.clone();
        }
        let decision = match self.ask(&spec).await {
            Ok(decision) => decision,
            Err(why) => return self.failed(&why),
        };
        let ttl = if decision.is_allowed() {
            self.config.authorized
        } else {
            self.config.unauthorized
        };
        if text.len() <= LARGEST && !ttl.is_zero() {
            let mut answers = self.answers.lock();
            if answers.len() >= ANSWERS {
                answers.retain(|_, (until, _)| now < *until);
            }
            if answers.len() < ANSWERS {
                answers.insert(key, (now + ttl, decision.clone()));
            }
        }
        decision
    }

    fn applies(&self, spec: &Value) -> Result<bool, String> {
        let mut fault = None;
        for condition in &self.config.conditions {
            match condition.holds(spec) {
                Ok(true) => {}
                // One that does not hold decides, whatever is wrong with others.
                Ok(false) => return Ok(false),
                Err(why) => fault = Some(why),
            }
        }
        fault.map_or(Ok(true), Err)
    }

    fn failed(&self, why: &str) -> Decision {
        tracing::warn!(
            authorizer = self.config.name,
            why,
            "the webhook authorizer cannot be asked"
        );
        match self.config.deny_on_failure {
            true => Decision::Deny(why.to_owned()),
            false => Decision::NoOpinion(String::new()),
        }
    }

    async fn ask(&self, spec: &Value) -> Result<Decision, String> {
        let mut spec = spec.clone();
        if self.config.version == "v1beta1"
            && let Some(map) = spec.as_object_mut()
            && let Some(groups) = map.remove("groups")
        {
            map.insert("group".into(), groups);
        }
        let api_version = format!("authorization.k8s.io/{}", self.config.version);
        let review = json!({"apiVersion": api_version, "kind": "SubjectAccessReview", "metadata": {}, "spec": spec, "status": {"allowed": false}});
        let body = bytes::Bytes::from(review.to_string());
        let mut attempt = 0;
        let answer = loop {
            attempt += 1;
            let limits = Limits::within(self.config.timeout);
            match self.remote.post(HeaderMap::new(), body.clone(), limits).await {
                Ok(answer) => break answer,
                Err(error) if error.is_temporary() && attempt < ATTEMPTS => tokio::time::sleep(PAUSE * attempt).await,
                Err(error) => return Err(error.to_string()),
            }
        };
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        read(&answer["status"])
    }
}

fn read(status: &Value) -> Result<Decision, String> {
    let reason = status["reason"].as_str().unwrap_or_default().to_owned();
    match (status["allowed"] == true, status["denied"] == true) {
        (true, true) => Err("webhook subject access review returned both allow and deny response".into()),
        (true, false) => Ok(Decision::Allow(reason)),
        (false, true) => Ok(Decision::Deny(reason)),
        (false, false) => Ok(Decision::NoOpinion(reason)),
    }
}

/// The question as `SubjectAccessReviewSpec`.
pub fn spec(user: &UserInfo, a: &Attributes) -> Value {
    let mut spec = json!({"user": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        spec["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        spec["extra"] = json!(user.extra);
    }
    if !a.is_resource {
        spec["nonResourceAttributes"] = json!({"path": a.path, "verb": a.verb});
        return spec;
    }
    let mut resource = serde_json::Map::new();
    for (field, value) in [
        ("namespace", &a.namespace),
        ("verb", &a.verb),
        ("group", &a.group),
        ("version", &a.version),
        ("resource", &a.resource),
        ("subresource", &a.subresource),
        ("name", &a.name),
    ] {
        if !value.is_empty() {
            resource.insert(field.into(), json!(value));
        }
    }
    for (field, requirements) in [
        ("fieldSelector", selectors::of_fields(&a.field_selector)),
        ("labelSelector", selectors::of_labels(&a.label_selector)),
    ] {
        if !requirements.is_empty() {
            resource.insert(field.into(), json!({"requirements": requirements}));
        }
    }
    spec["resourceAttributes"] = Value::Object(resource);
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers() {
        let user = UserInfo {
            name: "amy".into(),
            groups: vec!["g".into()],
            ..UserInfo::default()
        };
        let a = Attributes {
            verb: "list".into(),
            is_resource: true,
            version: "v1".into(),
            resource: "pods".into(),
            field_selector: "spec.nodeName=n,metadata.name!=x".into(),
            label_selector: "a in (b,c),!d".into(),
            ..Attributes::default()
        };
        assert_eq!(
            spec(&user, &a),
            json!({"user": "amy", "groups": ["g"], "resourceAttributes": {"verb": "list", "version": "v1", "resource": "pods",
                "fieldSelector": {"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]}, {"key": "metadata.name", "operator": "NotIn", "values": ["x"]}]},
                "labelSelector": {"requirements": [{"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "d", "operator": "DoesNotExist"}]}}})
        );
        assert_eq!(
            read(&json!({"allowed": true, "reason": "r"})),
            Ok(Decision::Allow("r".into()))
        );
        assert_eq!(read(&json!({"denied": true})), Ok(Decision::Deny(String::new())));
        assert!(read(&json!({"allowed": true, "denied": true})).is_err());
    }
}

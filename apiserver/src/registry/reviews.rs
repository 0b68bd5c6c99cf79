//! The questions that are asked by creating an object that is never stored: token reviews and access reviews.

use api::{Error, FieldError};
use http::{HeaderMap, HeaderValue, header};
use serde_json::{Value, json};

use super::access::{Attributes, Credentials, Decision, UserInfo};
use super::{Access, Kind, Registry, meta};

/// True for kinds that only answer.
pub fn is_review(kind: &Kind) -> bool {
    matches!(kind.info.group, "authentication.k8s.io" | "authorization.k8s.io")
}

impl Registry {
    /// Establishes who brings these credentials.
    ///
    /// # Errors
    /// 401 for bad ones.
    pub async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, Error> {
        self.authenticator.authenticate(credentials).await
    }

    /// Answers a review: the object with its status filled in.
    ///
    /// # Errors
    /// 422 for a question without its subject.
    pub async fn review(&self, access: &Access, mut object: Value) -> Result<Value, Error> {
        let status = match access.kind.info.kind {
            "TokenReview" => self.review_token(&object).await,
            "SelfSubjectReview" => json!({"userInfo": user_info(&access.user)}),
            "SelfSubjectRulesReview" => self.list_rules(access, &object).await,
            "SelfSubjectAccessReview" => self.review_access(access, &object, &access.user).await?,
            _ => {
                let subject = subject(&object);
                self.review_access(access, &object, &subject).await?
            }
        };
        meta::map(&mut object).insert("status".into(), status);
        Ok(object)
    }

    async fn review_token(&self, object: &Value) -> Value {
        let token = object.pointer("/spec/token").and_then(Value::as_str).unwrap_or("");
        let mut headers = HeaderMap::new();
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {token}")) {
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let outcome = self.authenticator.authenticate(Credentials { certificates: &[], headers: &headers }).await;
        match outcome {
            Ok(Some(user)) => json!({"authenticated": true, "user": user_info(&user)}),
            Ok(None) => json!({"user": {}}),
            Err(error) => json!({"user": {}, "error": error.message}),
        }
    }

    async fn list_rules(&self, access: &Access, object: &Value) -> Value {
        let namespace = object.pointer("/spec/namespace").and_then(Value::as_str).unwrap_or("");
        let rules = self.authorizer.rules(&access.user, namespace).await;
        let mut status = json!({"resourceRules": rules.resource, "nonResourceRules": rules.non_resource, "incomplete": rules.incomplete});
        if !rules.error.is_empty() {
            status["evaluationError"] = rules.error.into();
        }
        status
    }

    async fn review_access(&self, access: &Access, object: &Value, user: &UserInfo) -> Result<Value, Error> {
        let attributes = question(access, object, user)?;
        Ok(match self.authorizer.authorize(user, &attributes).await {
            Decision::Allow => json!({"allowed": true}),
            Decision::Deny(reason) => json!({"allowed": false, "denied": true, "reason": reason}),
            Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
        })
    }
}

fn question(access: &Access, object: &Value, user: &UserInfo) -> Result<Attributes, Error> {
    let spec = object.get("spec");
    let (resource, path) = (spec.and_then(|s| s.get("resourceAttributes")), spec.and_then(|s| s.get("nonResourceAttributes")));
    let invalid = |fault| Err(Error::invalid(&access.kind.group_kind(), "", vec![fault]));
    if user.name.is_empty() && user.groups.is_empty() {
        return invalid(FieldError::invalid("spec.user", "", "at least one of user or group must be specified"));
    }
    let text = |from: &Value, field: &str| from.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    match (resource, path) {
        (Some(r), None) => {
            let namespace = text(r, "namespace");
            if access.kind.info.namespaced && namespace != access.attributes.namespace {
                return invalid(FieldError::invalid("spec.resourceAttributes.namespace", namespace, "must match metadata.namespace"));
            }
            Ok(Attributes {
                verb: text(r, "verb"),
                is_resource: true,
                path: String::new(),
                group: text(r, "group"),
                version: text(r, "version"),
                resource: text(r, "resource"),
                subresource: text(r, "subresource"),
                namespace,
                name: text(r, "name"),
            })
        }
        (None, Some(p)) => Ok(Attributes { verb: text(p, "verb"), path: text(p, "path"), ..Attributes::default() }),
        _ => {
            let value = spec.and_then(|s| s.get("nonResourceAttributes")).cloned().unwrap_or_default();
            invalid(FieldError::invalid("spec.resourceAttributes", value, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
        }
    }
}

/// The user a SubjectAccessReview is about.
fn subject(object: &Value) -> UserInfo {
    let spec = object.get("spec").cloned().unwrap_or_default();
    let texts = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    let extra = spec.get("extra").and_then(Value::as_object);
    UserInfo {
        name: text("user"),
        uid: text("uid"),
        groups: texts(spec.get("groups")),
        extra: extra.into_iter().flatten().map(|(key, value)| (key.clone(), texts(Some(value)))).collect(),
    }
}

fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    if !user.extra.is_empty() {
        info["extra"] = json!(user.extra);
    }
    info
}

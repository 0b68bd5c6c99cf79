//! SubjectAccessReview and its relatives: questions to the authorizer, answered in `status`.

use api::{Error, FieldError, GroupKind};
use serde_json::{Map, Value, json};

use super::rbac::Rbac;
use super::rules::Rule;
use super::selectors;
use crate::kinds::field::{list, text};
use crate::registry::access::{Attributes, Authorizer, Decision, UserInfo};

/// Answers a review of `authorization.k8s.io`. `review` is the posted object; the answer is the same object with its status.
///
/// # Errors
/// 422 for a review that asks for nothing or for too much, 400 for a namespace that does not fit.
pub async fn answer(
    authorizer: &dyn Authorizer,
    rbac: &Rbac,
    resource: &str,
    namespace: &str,
    user: &UserInfo,
    mut review: Value,
) -> Result<Value, Error> {
    let status = match resource {
        "selfsubjectaccessreviews" => decide(authorizer, user, &attributes("SelfSubjectAccessReview", &review)?).await,
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let kind = if resource == "subjectaccessreviews" {
                "SubjectAccessReview"
            } else {
                "LocalSubjectAccessReview"
            };
            check_subject(kind, namespace, &review)?;
            decide(authorizer, &subject(&review), &attributes(kind, &review)?).await
        }
        "selfsubjectrulesreviews" => rules(rbac, user, text(&review, "/spec/namespace"))?,
        _ => return Err(Error::no_such_path()),
    };
    review["status"] = status;
    Ok(review)
}

async fn decide(authorizer: &dyn Authorizer, user: &UserInfo, attributes: &Attributes) -> Value {
    let mut status = Map::new();
    let (allowed, denied, reason) = match authorizer.authorize(user, attributes).await {
        Decision::Allow(reason) => (true, false, reason),
        Decision::Deny(reason) => (false, true, reason),
        Decision::NoOpinion(reason) => (false, false, reason),
    };
    status.insert("allowed".into(), json!(allowed));
    if denied {
        status.insert("denied".into(), json!(true));
    }
    if !reason.is_empty() {
        status.insert("reason".into(), json!(reason));
    }
    Value::Object(status)
}

fn invalid(kind: &str, fault: FieldError) -> Error {
    Error::invalid(&GroupKind::new("authorization.k8s.io", kind), "", vec![fault])
}

fn attributes(kind: &str, review: &Value) -> Result<Attributes, Error> {
    let spec = &review["spec"];
    let (resource, other) = (
        spec.get("resourceAttributes").filter(|v| v.is_object()),
        spec.get("nonResourceAttributes").filter(|v| v.is_object()),
    );
    let field = |value: &Value, name: &str| text(value, &format!("/{name}")).to_owned();
    match (resource, other) {
        (Some(_), Some(_)) => Err(invalid(
            kind,
            FieldError::invalid(
                "spec.nonResourceAttributes",
                other.cloned().unwrap_or_default(),
                "cannot be specified in combination with resourceAttributes",
            ),
        )),
        (None, None) => Err(invalid(
            kind,
            FieldError::invalid(
                "spec.resourceAttributes",
                Value::Null,
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ),
        )),
        (Some(r), None) => {
            check_selector(kind, "fieldSelector", r)?;
            check_selector(kind, "labelSelector", r)?;
            Ok(Attributes {
                field_selector: r.get("fieldSelector").map(selectors::field_text).unwrap_or_default(),
                label_selector: r.get("labelSelector").map(selectors::label_text).unwrap_or_default(),
                is_resource: true,
                verb: field(r, "verb"),
                group: field(r, "group"),
                version: field(r, "version"),
                resource: field(r, "resource"),
                subresource: field(r, "subresource"),
                namespace: field(r, "namespace"),
                name: field(r, "name"),
                ..Attributes::default()
            })
        }
        (None, Some(o)) => Ok(Attributes {
            verb: field(o, "verb"),
            path: field(o, "path"),
            ..Attributes::default()
        }),
    }
}

/// A selector is given as text or as requirements.
fn check_selector(kind: &str, field: &str, resource: &Value) -> Result<(), Error> {
    let Some(selector) = resource.get(field).filter(|s| s.is_object()) else {
        return Ok(());
    };
    let raw = text(selector, "/rawSelector");
    let requirements = list(selector, "/requirements");
    let path = format!("spec.resourceAttributes.{field}");
    match (raw.is_empty(), requirements.is_empty()) {
        (false, false) => Err(invalid(
            kind,
            FieldError::invalid(
                format!("{path}.rawSelector"),
                raw,
                "may not specified at the same time as requirements",
            ),
        )),
        (true, true) => Err(invalid(
            kind,
            FieldError::required(
                format!("{path}.requirements"),
                format!("when {path} is specified, requirements or rawSelector is required"),
            ),
        )),
        _ => Ok(()),
    }
}

fn check_subject(kind: &str, namespace: &str, review: &Value) -> Result<(), Error> {
    let spec = &review["spec"];
    if text(spec, "/user").is_empty() && list(spec, "/groups").is_empty() {
        return Err(invalid(
            kind,
            FieldError::invalid("spec.user", "", "at least one of user or group must be specified"),
        ));
    }
    if kind == "LocalSubjectAccessReview" && text(spec, "/resourceAttributes/namespace") != namespace {
        let path = "spec.resourceAttributes.namespace";
        return Err(invalid(
            kind,
            FieldError::invalid(
                path,
                text(spec, "/resourceAttributes/namespace"),
                "must match metadata.namespace",
            ),
        ));
    }
    Ok(())
}

fn subject(review: &Value) -> UserInfo {
    let spec = &review["spec"];
    let strings = |value: &[Value]| {
        value
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let extra = spec.get("extra").and_then(Value::as_object);
    UserInfo {
        name: text(spec, "/user").to_owned(),
        uid: text(spec, "/uid").to_owned(),
        groups: strings(list(spec, "/groups")),
        extra: extra
            .into_iter()
            .flatten()
            .map(|(k, v)| {
                (
                    k.to_lowercase(),
                    strings(v.as_array().map(Vec::as_slice).unwrap_or_default()),
                )
            })
            .collect(),
    }
}

fn rules(rbac: &Rbac, user: &UserInfo, namespace: &str) -> Result<Value, Error> {
    if namespace.is_empty() {
        return Err(Error::bad_request("no namespace on request"));
    }
    let (rules, missing) = if user.in_group(super::SUPERUSERS) {
        let all = vec!["*".to_owned()];
        let everything = Rule {
            verbs: all.clone(),
            groups: all.clone(),
            resources: all.clone(),
            ..Rule::default()
        };
        (
            vec![
                everything,
                Rule {
                    verbs: all.clone(),
                    urls: all,
                    ..Rule::default()
                },
            ],
            Vec::new(),
        )
    } else {
        rbac.rules_for(user, namespace)
    };
    let (urls, resources): (Vec<&Rule>, Vec<&Rule>) = rules.iter().partition(|r| !r.urls.is_empty());
    let shown = |list: Vec<&Rule>| list.into_iter().map(Rule::to_value).collect::<Vec<_>>();
    let mut status =
        json!({"resourceRules": shown(resources), "nonResourceRules": shown(urls), "incomplete": !missing.is_empty()});
    if !missing.is_empty() {
        status["evaluationError"] = json!(missing.join(", "));
    }
    Ok(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers() {
        let rbac = Rbac::default();
        rbac.apply(
            "clusterroles",
            "",
            "pods",
            Some(&json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})),
        );
        rbac.apply("clusterrolebindings", "", "b", Some(&json!({"roleRef": {"kind": "ClusterRole", "name": "pods"}, "subjects": [{"kind": "User", "name": "amy"}]})));
        let amy = UserInfo {
            name: "amy".into(),
            ..UserInfo::default()
        };
        let ask = |verb: &str| json!({"spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "dev"}}});
        let status = |answer: Result<Value, Error>| answer.map(|a| a["status"].clone()).unwrap_or_default();
        assert_eq!(
            status(answer(&rbac, &rbac, "selfsubjectaccessreviews", "", &amy, ask("get")).await),
            json!({"allowed": true, "reason": "RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"pods\" to User \"amy\""})
        );
        assert_eq!(
            status(answer(&rbac, &rbac, "selfsubjectaccessreviews", "", &amy, ask("delete")).await),
            json!({"allowed": false})
        );
        assert!(
            answer(&rbac, &rbac, "subjectaccessreviews", "", &amy, ask("get"))
                .await
                .is_err_and(|e| e.is_invalid())
        );
        let rules = status(
            answer(
                &rbac,
                &rbac,
                "selfsubjectrulesreviews",
                "",
                &amy,
                json!({"spec": {"namespace": "dev"}}),
            )
            .await,
        );
        assert_eq!(
            rules["resourceRules"],
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])
        );
    }
}

//! Conversion between the versions of a custom kind by its owner's webhook: `ConversionReview` out, converted objects back, checked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Error;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::custom::Custom;
use super::definition::{Conversion, Definition};
use super::schema::metadata;
use crate::outgoing::{Caller, Limits, Outgoing, Target};
use crate::registry::meta;

/// For a whole call, as upstream.
const TIME: Duration = Duration::from_secs(30);
/// The largest answer, bytes: a page of objects.
const ANSWER: usize = 64 << 20;
/// The most objects of one review.
pub const BATCH: usize = 500;
/// So many webhooks are kept connected.
const CALLERS: usize = 256;

/// The webhooks of all definitions, each with its connections.
pub struct Webhooks {
    outgoing: Outgoing,
    callers: Mutex<HashMap<String, (Value, Caller)>>,
}

impl Webhooks {
    /// Without connections yet.
    pub fn new(outgoing: Outgoing) -> Self {
        Self {
            outgoing,
            callers: Mutex::default(),
        }
    }

    /// The caller of a definition's webhook, made anew when its configuration has changed.
    fn caller(&self, definition: &Definition, client: &Value) -> Result<Caller, String> {
        if let Some((made_for, caller)) = self.callers.lock().get(&definition.name)
            && made_for == client
        {
            return Ok(caller.clone());
        }
        let target = Target::from_client_config(client).map_err(|error| error.to_string())?;
        let caller = self.outgoing.caller(&target).map_err(|error| error.to_string())?;
        let mut callers = self.callers.lock();
        if callers.len() >= CALLERS {
            callers.clear();
        }
        callers.insert(definition.name.clone(), (client.clone(), caller.clone()));
        Ok(caller)
    }

    /// Objects of one kind, each in any version, in the version that is named, in their order.
    ///
    /// # Errors
    /// 500 in upstream's words when the webhook does not do its part.
    pub async fn convert(&self, custom: &Custom, to: &str, objects: Vec<Value>) -> Result<Vec<Value>, Error> {
        let definition = &custom.definition;
        let from = objects
            .first()
            .and_then(|object| object.get("apiVersion")?.as_str())
            .unwrap_or("")
            .to_owned();
        let fail = |why: String| {
            Error::internal(format!(
                "conversion webhook for {from}, Kind={} failed: {why}",
                definition.kind
            ))
        };
        let Conversion::Webhook {
            client,
            review_versions,
        } = &definition.conversion
        else {
            return Ok(objects);
        };
        let known = review_versions
            .iter()
            .find(|version| matches!(version.as_str(), "v1" | "v1beta1"));
        let review_version = known.ok_or_else(|| fail("no supported conversion review versions".into()))?;
        let uid = uuid::Uuid::new_v4().to_string();
        let desired = definition.api_version(to);
        let review = json!({
            "kind": "ConversionReview", "apiVersion": format!("apiextensions.k8s.io/{review_version}"),
            "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
        });
        let caller = self.caller(definition, client).map_err(fail)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let limits = Limits {
            time: TIME,
            answer: ANSWER,
        };
        let answer = caller
            .post("timeout=30s", headers, Bytes::from(review.to_string()), limits)
            .await;
        let answer = answer.map_err(|error| fail(error.to_string()))?;
        let answer = api::codec::parse_json(&answer).map_err(|error| fail(error.to_string()))?;
        let strict = review_version == "v1";
        let converted = converted(&answer, strict.then_some(&*uid)).map_err(fail)?;
        check(&objects, converted, &desired, definition)
    }
}

/// The objects of an answer.
fn converted(answer: &Value, uid: Option<&str>) -> Result<Vec<Value>, String> {
    let text = |pointer: &str| answer.pointer(pointer).and_then(Value::as_str).unwrap_or("");
    if uid.is_some() && (text("/apiVersion"), text("/kind")) != ("apiextensions.k8s.io/v1", "ConversionReview") {
        return Err(format!(
            "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {}, Kind={}",
            text("/apiVersion"),
            text("/kind")
        ));
    }
    if !answer.get("response").is_some_and(Value::is_object) {
        return Err("no response provided".into());
    }
    let got = text("/response/uid");
    if let Some(uid) = uid.filter(|uid| *uid != got) {
        return Err(format!("expected response.uid={uid:?}, got {got:?}"));
    }
    match (text("/response/result/status"), text("/response/result/message")) {
        ("Success", _) => {}
        (status, "") => return Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => return Err(message.to_owned()),
    }
    Ok(super::definition::list(answer, "/response/convertedObjects").to_vec())
}

/// What a webhook may not change is as it was; of the metadata labels and annotations may differ.
fn check(before: &[Value], after: Vec<Value>, desired: &str, definition: &Definition) -> Result<Vec<Value>, Error> {
    let from = before
        .first()
        .and_then(|object| object.get("apiVersion")?.as_str())
        .unwrap_or("");
    let name = format!("conversion webhook for {from}, Kind={}", definition.kind);
    if after.len() != before.len() {
        let why = format!("{name} returned {} objects, expected {}", after.len(), before.len());
        return Err(Error::internal(why));
    }
    let mut checked = Vec::with_capacity(after.len());
    for (index, (old, mut new)) in before.iter().zip(after).enumerate() {
        let fail = |why: String| {
            Error::internal(format!(
                "{name} returned invalid converted object at index {index}: {why}"
            ))
        };
        let text = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
        if text(&new, "apiVersion") != desired {
            let got = text(&new, "apiVersion");
            return Err(fail(format!(
                "invalid groupVersion (expected {desired}, received {got})"
            )));
        }
        if text(&new, "kind") != definition.kind {
            let got = text(&new, "kind");
            return Err(fail(format!(
                "invalid kind (expected {}, received {got})",
                definition.kind
            )));
        }
        for field in ["name", "namespace", "uid"] {
            let (was, is) = (meta::text(old, field), meta::text(&new, field));
            if was != is {
                return Err(fail(format!("must have the same {field}: {was} != {is}")));
            }
        }
        restore(old, &mut new).map_err(|error| fail(error.to_string()))?;
        checked.push(new);
    }
    Ok(checked)
}

/// The metadata as it was, with the labels and annotations that the webhook gave.
fn restore(old: &Value, new: &mut Value) -> Result<(), api::codec::Error> {
    let mut metadata = old.get("metadata").cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        let map = meta::map(&mut metadata);
        map.remove(field);
        let given = new
            .pointer(&format!("/metadata/{field}"))
            .filter(|given| !given.is_null());
        map.extend(given.map(|given| (field.to_owned(), given.clone())));
    }
    metadata::normalize(&mut metadata)?;
    new["metadata"] = metadata;
    Ok(())
}

/// The webhooks as everybody holds them.
pub type Shared = Arc<Webhooks>;

#[cfg(test)]
mod tests {
    use super::*;

    fn definition() -> Definition {
        let crd = json!({"metadata": {"name": "ks.a.example"}, "spec": {"group": "a.example", "names": {"plural": "ks", "kind": "K"},
            "versions": [{"name": "v1", "served": true, "storage": true}]}});
        Definition::read(&crd).unwrap()
    }

    #[test]
    fn an_answer_is_believed_only_if_it_is_ours() {
        let answer = |uid: &str, result: Value| {
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": uid, "result": result, "convertedObjects": [{}]}})
        };
        assert_eq!(
            converted(&answer("u", json!({"status": "Success"})), Some("u"))
                .unwrap()
                .len(),
            1
        );
        for (answer, why) in [
            (
                answer("x", json!({"status": "Success"})),
                "expected response.uid=\"u\", got \"x\"",
            ),
            (answer("u", json!({"status": "Failed", "message": "no way"})), "no way"),
            (
                answer("u", json!({"status": "Failed"})),
                "response.result.status was 'Failed', not 'Success'",
            ),
            (
                json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"}),
                "no response provided",
            ),
        ] {
            assert_eq!(converted(&answer, Some("u")).unwrap_err(), why);
        }
    }

    #[test]
    fn a_webhook_changes_no_metadata_but_labels_and_annotations() {
        let old = json!({"apiVersion": "a.example/v1", "kind": "K", "metadata": {"name": "x", "uid": "u", "finalizers": ["a/b"], "labels": {"a": "b"}}});
        let mut new = json!({"apiVersion": "a.example/v2", "kind": "K", "metadata": {"name": "x", "uid": "u", "labels": {"c": "d"}}, "spec": {}});
        let good = check(
            std::slice::from_ref(&old),
            vec![new.clone()],
            "a.example/v2",
            &definition(),
        )
        .unwrap();
        assert_eq!(
            good[0]["metadata"],
            json!({"name": "x", "uid": "u", "finalizers": ["a/b"], "labels": {"c": "d"}})
        );
        new["metadata"]["uid"] = "other".into();
        let error = check(std::slice::from_ref(&old), vec![new], "a.example/v2", &definition()).unwrap_err();
        assert!(
            error.message.contains("must have the same uid: u != other"),
            "{}",
            error.message
        );
        assert!(check(&[old], vec![], "a.example/v2", &definition()).is_err());
    }
}

//! `serviceaccounts/token`: checks what a token would be bound to and has it signed.

use api::{Error, FieldError};
use serde_json::Value;

use super::{Access, Registry, find, meta, store_error};
use crate::store::ReadAt;

/// Upstream's shortest and longest life of a token, seconds.
const LIFE: std::ops::RangeInclusive<i64> = 600..=1 << 32;

impl Registry {
    /// Answers a `TokenRequest` for the service account that the request names.
    ///
    /// # Errors
    /// 404 without the account; 422 for a bad life or a bound object of another kind; 409 for a bound object with another uid.
    pub async fn issue_token(&self, access: &Access, mut request: Value) -> Result<Value, Error> {
        let entry = self.store.get(&access.key(), ReadAt::Latest).await.map_err(store_error)?.ok_or_else(|| access.not_found())?;
        let account = access.kind.stored_value(&entry)?;
        self.check_request(access, &request).await?;
        let spec = meta::map(meta::map(&mut request).entry("spec").or_default());
        spec.entry("expirationSeconds").or_insert(3600.into());
        let status = self.tokens.issue(&account, &request).await?;
        let metadata = meta::of(&mut request);
        metadata.insert("name".into(), access.attributes.name.as_str().into());
        metadata.insert("namespace".into(), access.attributes.namespace.as_str().into());
        metadata.insert("creationTimestamp".into(), meta::time(jiff::Timestamp::now()).into());
        meta::map(&mut request).insert("status".into(), status);
        Ok(request)
    }

    async fn check_request(&self, access: &Access, request: &Value) -> Result<(), Error> {
        let invalid = |fault| Err(Error::invalid(&api::GroupKind::new("authentication.k8s.io", "TokenRequest"), &access.attributes.name, vec![fault]));
        if let Some(life) = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64) {
            if life < *LIFE.start() {
                return invalid(FieldError::invalid("spec.expirationSeconds", life, "may not specify a duration less than 10 minutes"));
            }
            if life > *LIFE.end() {
                return invalid(FieldError::invalid("spec.expirationSeconds", life, "may not specify a duration larger than 2^32 seconds"));
            }
        }
        let Some(bound) = request.pointer("/spec/boundObjectRef").filter(|r| r.is_object()) else { return Ok(()) };
        let text = |field: &str| bound.get(field).and_then(Value::as_str).unwrap_or("");
        let resource = match (text("apiVersion"), text("kind")) {
            ("v1", "Pod") => "pods",
            ("v1", "Secret") => "secrets",
            ("v1", "Node") => "nodes",
            (version, kind) => {
                let what = format!("cannot bind token for serviceaccount {:?} to object of kind {version}, Kind={kind}", access.attributes.name);
                return Err(Error::bad_request(what));
            }
        };
        let kind = find("", "v1", resource).ok_or_else(Error::no_such_path)?;
        let namespace = if kind.info.namespaced { access.namespace() } else { "" };
        let name = text("name");
        let entry = self.store.get(&kind.key(namespace, name), ReadAt::Latest).await.map_err(store_error)?;
        let entry = entry.ok_or_else(|| Error::not_found(&kind.group_resource(), name))?;
        let object = kind.stored_value(&entry)?;
        let (uid, wanted) = (meta::text(&object, "uid"), text("uid"));
        if !wanted.is_empty() && uid != wanted {
            let why = format!("the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated");
            return Err(Error::conflict(&kind.group_resource(), name, why));
        }
        let account = object.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("");
        if resource == "pods" && account != access.attributes.name {
            let why = format!("cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.", access.attributes.name);
            return Err(Error::bad_request(why));
        }
        Ok(())
    }
}

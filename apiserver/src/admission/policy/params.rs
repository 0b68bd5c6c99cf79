//! The parameters that a binding names.

use std::sync::Arc;

use api::Error;
use serde_json::Value;

use super::compiled::{Binding, Common};
use crate::admission::Context;
use crate::admission::scope::{namespace, selector};
use crate::kinds::field::text;
use crate::registry::access::AdmissionRequest;
use crate::registry::{Kind, kinds, meta, store_error};
use crate::store::{ListQuery, ReadAt};

/// All parameters; one null if the policy has none.
///
/// # Errors
/// In upstream's words; the failure policy decides what follows.
pub(super) async fn collect(
    cx: &Context,
    request: &AdmissionRequest<'_>,
    policy: &Common,
    binding: &Binding,
) -> Result<Vec<Value>, String> {
    let (Some((api_version, kind_name)), true) = (&policy.param_kind, binding.param_ref.is_object()) else {
        return Ok(vec![Value::Null]);
    };
    let Some(kind) = find(cx, api_version, kind_name) else {
        return Err(format!(
            "paramKind kind `&ParamKind{{APIVersion:{api_version},Kind:{kind_name},}}` not known"
        ));
    };
    let wanted = text(&binding.param_ref, "/namespace");
    let namespace = match (kind.info.namespaced, wanted, namespace(request)) {
        (false, "", _) => "",
        (false, ..) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        (true, "", "") => {
            return Err(
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into(),
            );
        }
        (true, "", own) => own,
        (true, wanted, _) => wanted,
    };
    let found = match text(&binding.param_ref, "/name") {
        "" => select(cx, &kind, namespace, &binding.param_ref).await,
        name => get(cx, &kind, namespace, name).await,
    };
    let found = found.map_err(|error| error.message)?;
    if found.is_empty() && text(&binding.param_ref, "/parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found)
}

/// The kind that a policy names, built in or custom.
fn find(cx: &Context, api_version: &str, kind: &str) -> Option<Arc<Kind>> {
    let (group, version) = api::split_api_version(api_version);
    let is = |found: &&Arc<Kind>| found.info.group == group && found.info.version == version && found.info.kind == kind;
    let custom = cx.catalog.load();
    kinds().iter().chain(custom.kinds()).find(is).cloned()
}

async fn get(cx: &Context, kind: &Kind, namespace: &str, name: &str) -> Result<Vec<Value>, Error> {
    let key = kind.key(namespace, name);
    let mut entry = cx.read(&key, ReadAt::Any).await?;
    if entry.is_none() {
        entry = cx.read(&key, ReadAt::Latest).await?;
    }
    entry.iter().map(|entry| kind.value(entry)).collect()
}

async fn select(cx: &Context, kind: &Kind, namespace: &str, param_ref: &Value) -> Result<Vec<Value>, Error> {
    let selector = selector(param_ref.get("selector")).map_err(Error::internal)?;
    let prefix = match namespace {
        "" => kind.prefix.clone(),
        namespace => format!("{}{namespace}/", kind.prefix),
    };
    let query = ListQuery {
        prefix: &prefix,
        start_after: None,
        limit: 0,
        at: ReadAt::Any,
    };
    let listed = cx.store.list(query).await.map_err(store_error)?;
    let mut found = Vec::new();
    for entry in &listed.entries {
        let object = kind.value(entry)?;
        if selector.matches(&meta::labels(&object)) {
            found.push(object);
        }
    }
    Ok(found)
}

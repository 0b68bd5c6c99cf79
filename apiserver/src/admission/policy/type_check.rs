//! Type checking of ValidatingAdmissionPolicies, told in their status: the expressions again, with the types of the kinds that the policy names.
//! What is found are warnings; evaluation does not know the types.

use std::sync::Arc;

use api::Error;
use cel::{Type, message_type};
use daemon::Shutdown;
use serde_json::{Value, json};

use super::GROUP;
use super::compiled::{declare, for_messages};
use super::expressions::{Expression, Uses};
use crate::apiextensions::catalog::Catalog;
use crate::apiextensions::expressions::declare;
use crate::kinds::field::{list, text};
use crate::registry::access::{Attributes, UserInfo};
use crate::registry::options::WriteOptions;
use crate::registry::{Kind, Registry, find, kinds, meta, store_error};
use crate::store::{Change, Entry, ListQuery, ReadAt, Revision};

const RESOURCE: &str = "validatingadmissionpolicies";
/// Kinds that one policy is checked against.
const MAX_KINDS: usize = 10;
/// Pause after something went wrong.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);

/// The warnings about a policy, as its status has them.
pub fn warnings(catalog: &Catalog, policy: &Value) -> Vec<Value> {
    let found = matched(catalog, policy);
    let params = params(catalog, policy);
    let mut out = Vec::new();
    for (index, validation) in list(policy, "/spec/validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, &format!("/{field}"));
            if source.trim().is_empty() {
                continue;
            }
            let faults: Vec<String> = found
                .iter()
                .filter_map(|kind| {
                    let fault = fault(policy, source, field == "messageExpression", kind, params.clone())?;
                    let info = &kind.info;
                    Some(format!(
                        "{}/{}, Kind={}: {fault}\n",
                        info.group, info.version, info.kind
                    ))
                })
                .collect();
            if !faults.is_empty() {
                let place = format!("spec.validations[{index}].{field}");
                out.push(json!({"fieldRef": place, "warning": faults.join("\n")}));
            }
        }
    }
    out
}

/// What is wrong with an expression over objects of a kind.
fn fault(policy: &Value, source: &str, message: bool, kind: &Kind, params: Option<Type>) -> Option<String> {
    let mut uses = Uses {
        params: params.is_some(),
        authorizer: true,
        variables: Some(Vec::new()),
        types: Some((type_of(kind), params.unwrap_or_default())),
        ..Uses::default()
    };
    for variable in list(policy, "/spec/variables") {
        let expression = Expression::new(text(variable, "/expression"), &uses, &[]);
        declare(&mut uses, text(variable, "/name"), &expression);
    }
    let uses = if message { for_messages(&uses) } else { uses };
    let expression = Expression::new(source, &uses, &[]);
    let why = expression.fault()?;
    Some(why.strip_prefix("compilation failed: ").unwrap_or(why).to_owned())
}

fn type_of(kind: &Kind) -> Type {
    match kind.strategy.document() {
        Some(document) => declare::declare(&document, true).map_or(Type::Dyn, |declared| declared.ty),
        None => message_type(kind.info.message),
    }
}

/// The kinds that the policy's rules name without wildcards.
fn matched(catalog: &Catalog, policy: &Value) -> Vec<Arc<Kind>> {
    let mut out: Vec<Arc<Kind>> = Vec::new();
    let texts = |rule: &Value, pointer: &str| -> Vec<String> {
        let items = list(rule, pointer).iter().filter_map(Value::as_str);
        items.filter(|item| !item.contains('*')).map(str::to_owned).collect()
    };
    for rule in list(policy, "/spec/matchConstraints/resourceRules") {
        for group in texts(rule, "/apiGroups") {
            for version in texts(rule, "/apiVersions") {
                for resource in texts(rule, "/resources") {
                    let kind = match find(&group, &version, &resource) {
                        Some(kind) => Some(kind.clone()),
                        None => catalog.find(&group, &version, &resource),
                    };
                    out.extend(kind.filter(|kind| !out.iter().any(|known| Arc::ptr_eq(known, kind))));
                }
            }
        }
    }
    out.truncate(MAX_KINDS);
    out
}

/// The type of `params`, if the policy has some.
fn params(catalog: &Catalog, policy: &Value) -> Option<Type> {
    let kind = policy.pointer("/spec/paramKind").filter(|kind| kind.is_object())?;
    let (group, version) = api::split_api_version(text(kind, "/apiVersion"));
    let name = text(kind, "/kind");
    let custom = catalog.load();
    let found = kinds()
        .iter()
        .chain(custom.kinds())
        .find(|found| found.info.group == group && found.info.version == version && found.info.kind == name);
    Some(found.map_or(Type::Dyn, |found| type_of(found)))
}

/// Keeps the status of all policies until shutdown.
pub async fn keep(registry: Arc<Registry>, shutdown: Shutdown) {
    while !shutdown.token().is_cancelled() {
        if let Err(error) = follow(&registry, &shutdown).await {
            tracing::warn!(%error, "type checking of admission policies");
            shutdown.run_until(tokio::time::sleep(PAUSE)).await;
        }
    }
}

async fn follow(registry: &Registry, shutdown: &Shutdown) -> Result<(), Error> {
    let Some(kind) = find(GROUP, "v1", RESOURCE) else {
        return Ok(());
    };
    let query = ListQuery {
        prefix: &kind.prefix,
        start_after: None,
        limit: 0,
        at: ReadAt::Any,
    };
    let listed = registry.store().list(query).await.map_err(store_error)?;
    for entry in &listed.entries {
        settle(registry, kind, entry).await;
    }
    let after: Revision = listed.revision;
    let mut watcher = registry.store().watch(&kind.prefix, after).map_err(store_error)?;
    while let Some(batch) = shutdown.run_until(watcher.next()).await {
        let Some(batch) = batch else { return Ok(()) };
        for event in batch.map_err(store_error)? {
            if let Change::Put { entry, .. } = &event.change {
                settle(registry, kind, entry).await;
            }
        }
    }
    Ok(())
}

/// Checks a policy that was not checked in its present state. A lost race comes back as another event.
async fn settle(registry: &Registry, kind: &Kind, entry: &Entry) {
    let checked = async {
        let mut policy = kind.stored_value(entry)?;
        let generation = meta::generation(&policy);
        let observed = policy.pointer("/status/observedGeneration").and_then(Value::as_i64);
        if observed == Some(generation) || meta::is_deleting(&policy) {
            return Ok(());
        }
        let found = warnings(registry.catalog(), &policy);
        let mut checking = json!({});
        if !found.is_empty() {
            checking["expressionWarnings"] = found.into();
        }
        let mut status = policy
            .get("status")
            .filter(|status| status.is_object())
            .cloned()
            .unwrap_or_else(|| json!({}));
        status["observedGeneration"] = generation.into();
        status["typeChecking"] = checking;
        policy["status"] = status;
        let attributes = Attributes {
            verb: "update".into(),
            is_resource: true,
            group: GROUP.into(),
            version: "v1".into(),
            resource: RESOURCE.into(),
            subresource: "status".into(),
            name: meta::text(&policy, "name").to_owned(),
            ..Attributes::default()
        };
        let access = registry.authorize(Arc::new(UserInfo::apiserver()), attributes).await?;
        registry
            .update(&access, policy, &WriteOptions::default())
            .await
            .map(drop)
    };
    let outcome: Result<(), Error> = checked.await;
    if let Err(error) = outcome
        && !error.is_conflict()
        && !error.is_not_found()
    {
        tracing::warn!(%error, "type checking of an admission policy");
    }
}

//! Admission: the built-in plugins in upstream's order. A plugin is one file and one line here. Owns the order; reads what it must know
//! of other objects from the store.

mod certificates;
mod default_tolerations;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod priority;
mod rbac_escalation;
mod service_account;
mod storage_class;
mod taint_nodes;

use std::sync::Arc;

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use crate::authz::Authorizers;
use crate::registry::access::{Admission, AdmissionRequest, Operation};
use crate::store::{ListQuery, ReadAt, Store};

/// One plugin. Both methods do nothing unless they are overridden.
#[async_trait]
trait Plugin: Send + Sync {
    /// May change the object.
    async fn mutate(&self, _cx: &Context, _request: &AdmissionRequest<'_>, _object: &mut Value) -> Result<(), Error> {
        Ok(())
    }

    /// May refuse the request.
    async fn validate(&self, _cx: &Context, _request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Error> {
        Ok(())
    }
}

/// What plugins look things up in.
struct Context {
    store: Arc<dyn Store>,
    authorizers: Authorizers,
}

impl Context {
    /// An object as this server has it, and again from the leader when it is not here.
    async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Value>, Error> {
        let key = format!(
            "{}/{resource}/{namespace}/{name}",
            if group.is_empty() { "core" } else { group }
        );
        let mut entry = self.store.get(&key, ReadAt::Any).await.map_err(Error::internal)?;
        if entry.is_none() {
            entry = self.store.get(&key, ReadAt::Latest).await.map_err(Error::internal)?;
        }
        entry.map(|entry| decode(group, resource, &entry.value)).transpose()
    }

    /// All objects of a resource, or those of one namespace.
    async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Value>, Error> {
        let group_key = if group.is_empty() { "core" } else { group };
        let prefix = if namespace.is_empty() {
            format!("{group_key}/{resource}/")
        } else {
            format!("{group_key}/{resource}/{namespace}/")
        };
        let query = ListQuery {
            prefix: &prefix,
            start_after: None,
            limit: 0,
            at: ReadAt::Any,
        };
        let found = self.store.list(query).await.map_err(Error::internal)?;
        found
            .entries
            .iter()
            .map(|entry| decode(group, resource, &entry.value))
            .collect()
    }
}

fn decode(group: &str, resource: &str, bytes: &[u8]) -> Result<Value, Error> {
    let info = api::resources::find(group, "v1", resource)
        .ok_or_else(|| Error::internal(format!("no resource {resource}.{group}")))?;
    api::codec::proto_to_value(info.message, bytes).map_err(Error::internal)
}

/// True for a request on the resource itself, not on a subresource.
fn is(request: &AdmissionRequest<'_>, group: &str, resource: &str) -> bool {
    let a = request.attributes;
    a.subresource.is_empty() && request.resource.group == group && request.resource.resource == resource
}

fn creates(request: &AdmissionRequest<'_>, group: &str, resource: &str) -> bool {
    request.operation == Operation::Create && is(request, group, resource)
}

/// 403 in the words of the plugin.
fn forbidden(request: &AdmissionRequest<'_>, why: impl std::fmt::Display) -> Error {
    Error::forbidden(&request.attributes.group_resource(), &request.attributes.name, why)
}

/// All plugins.
pub struct Chain {
    context: Context,
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    /// The default plugins, in the order in which upstream runs them.
    pub fn new(store: Arc<dyn Store>, authorizers: Authorizers) -> Chain {
        let plugins: Vec<Box<dyn Plugin>> = vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(limit_ranger::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(node_restriction::NodeRestriction),
            Box::new(taint_nodes::TaintNodesByCondition),
            Box::new(priority::Priority),
            Box::new(default_tolerations::DefaultTolerationSeconds),
            Box::new(storage_class::DefaultStorageClass),
            Box::new(storage_class::StorageObjectInUseProtection),
            Box::new(certificates::Certificates),
            Box::new(storage_class::DefaultIngressClass),
            Box::new(rbac_escalation::RbacEscalation),
        ];
        Chain {
            context: Context { store, authorizers },
            plugins,
        }
    }
}

#[async_trait]
impl Admission for Chain {
    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        for plugin in &self.plugins {
            plugin.mutate(&self.context, request, object).await?;
        }
        Ok(())
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        for plugin in &self.plugins {
            plugin.validate(&self.context, request, object).await?;
        }
        Ok(())
    }
}

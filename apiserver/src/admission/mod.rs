//! Admission: the plugins of upstream's API server in upstream's order ([`plugins::ALL`]), switched by its flags and configured by its file.
//! A plugin is one file here and one line there. Owns the order and the reading of other objects that plugins need; knows no plugin's rule.
//!
//! A write meets the plugins three times: *mutate*, after the kind's defaults; *validate*, after the kind's validation; *reserve*, with the
//! object as it is about to be written, for what must hold or change in the same transaction (quota, the namespace's life).

mod always;
mod always_pull_images;
mod anti_affinity;
mod certificates;
mod claim_resize;
pub mod config;
mod default_tolerations;
mod event_rate_limit;
mod extended_resources;
mod external_ips;
mod limit_ranger;
mod namespace_exists;
mod namespace_lifecycle;
mod node_restriction;
mod owner_references;
mod plugins;
mod pod_node_selector;
mod pod_security;
pub mod policy;
mod priority;
mod rbac_escalation;
mod resource_quota;
mod runtime_class;
mod scope;
mod service_account;
mod storage_class;
mod taint_nodes;
#[cfg(test)]
pub(crate) mod testing;
mod toleration_restriction;
mod tolerations;
mod topology_labels;
pub mod webhook;

use std::sync::Arc;

use api::Error;
use async_trait::async_trait;
use daemon::config::ConfigError;
use serde_json::Value;

use crate::apiextensions::catalog::Catalog;
use crate::authz::Authorizers;
use crate::registry::access::{Admission, AdmissionRequest, Operation, Reservation};
use crate::store::{Entry, ListQuery, ReadAt, Store};
use config::AdmissionConfig;
use webhook::Webhooks;

/// One plugin.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Whether the other methods have anything to say about the request: cheap, so that most plugins cost a write nothing.
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool;

    /// May change the object.
    async fn mutate(&self, _cx: &Context, _request: &AdmissionRequest<'_>, _object: &mut Value) -> Result<(), Error> {
        Ok(())
    }

    /// May refuse the request.
    async fn validate(&self, _cx: &Context, _request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Error> {
        Ok(())
    }

    /// May refuse, and adds conditions and changes to the transaction; see [`Admission::reserve`].
    async fn reserve(
        &self,
        _cx: &Context,
        _request: &AdmissionRequest<'_>,
        _object: &Value,
        _again: bool,
        _reservation: &mut Reservation,
    ) -> Result<(), Error> {
        Ok(())
    }
}

/// What plugins look things up in.
pub struct Context {
    /// All objects.
    pub store: Arc<dyn Store>,
    /// Who may do what.
    pub authorizers: Authorizers,
    /// The custom kinds.
    pub catalog: Arc<Catalog>,
    /// Those that call out.
    pub webhooks: Webhooks,
}

impl Context {
    /// An object as this server has it, and again from the leader when it is not here.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Result<Option<Value>, Error> {
        let key = key(group, resource, namespace, name);
        let mut entry = self.read(&key, ReadAt::Any).await?;
        if entry.is_none() {
            entry = self.read(&key, ReadAt::Latest).await?;
        }
        entry.map(|entry| decode(group, resource, &entry.value)).transpose()
    }

    /// An entry by its key.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn read(&self, key: &str, at: ReadAt) -> Result<Option<Arc<Entry>>, Error> {
        self.store.get(key, at).await.map_err(Error::internal)
    }

    /// All objects of a resource, or those of one namespace, as this server has them.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list(&self, group: &str, resource: &str, namespace: &str) -> Result<Vec<Value>, Error> {
        let found = self.entries(group, resource, namespace, ReadAt::Any).await?;
        found
            .iter()
            .map(|entry| decode(group, resource, &entry.value))
            .collect()
    }

    /// The same, undecoded.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn entries(
        &self,
        group: &str,
        resource: &str,
        namespace: &str,
        at: ReadAt,
    ) -> Result<Vec<Arc<Entry>>, Error> {
        let mut prefix = key(group, resource, namespace, "");
        if namespace.is_empty() {
            prefix.pop();
        }
        let query = ListQuery {
            prefix: &prefix,
            start_after: None,
            limit: 0,
            at,
        };
        Ok(self.store.list(query).await.map_err(Error::internal)?.entries)
    }
}

/// The store key of an object.
fn key(group: &str, resource: &str, namespace: &str, name: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("{group}/{resource}/{namespace}/{name}")
}

/// A stored object of a built-in resource.
fn decode(group: &str, resource: &str, bytes: &[u8]) -> Result<Value, Error> {
    let info = api::resources::find(group, "v1", resource)
        .ok_or_else(|| Error::internal(format!("no resource {resource}.{group}")))?;
    api::codec::proto_to_value(info.message, bytes).map_err(Error::internal)
}

/// True for a request on the resource itself, not on a subresource.
fn is(request: &AdmissionRequest<'_>, group: &str, resource: &str) -> bool {
    request.attributes.subresource.is_empty()
        && request.resource.resource == resource
        && request.resource.group == group
}

fn creates(request: &AdmissionRequest<'_>, group: &str, resource: &str) -> bool {
    request.operation == Operation::Create && is(request, group, resource)
}

/// Create or update.
fn writes(request: &AdmissionRequest<'_>) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update)
}

/// 403 in the words of the plugin.
fn forbidden(request: &AdmissionRequest<'_>, why: impl std::fmt::Display) -> Error {
    Error::forbidden(&request.attributes.group_resource(), &request.attributes.name, why)
}

/// The plugins that are switched on.
pub struct Chain {
    context: Context,
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    /// The plugins that the configuration switches on, in upstream's order.
    ///
    /// # Errors
    /// One line naming the plugin whose configuration cannot be used.
    pub fn new(context: Context, config: &AdmissionConfig) -> Result<Self, ConfigError> {
        let mut plugins = plugins::enabled(config)?;
        // Not a plugin upstream, but part of its storage of roles: it cannot be switched off.
        plugins.push(Box::new(rbac_escalation::RbacEscalation));
        Ok(Self { context, plugins })
    }

    async fn mutate_once(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        for plugin in self.plugins.iter().filter(|plugin| plugin.applies(request)) {
            plugin.mutate(&self.context, request, object).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for Chain {
    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        let mut outcome = self.mutate_once(request, object).await;
        if outcome.is_ok() && request.reinvoke() {
            outcome = self.mutate_once(request, object).await;
        }
        request.refused_unless(outcome)
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let mut outcome = Ok(());
        for plugin in self.plugins.iter().filter(|plugin| plugin.applies(request)) {
            outcome = plugin.validate(&self.context, request, object).await;
            if outcome.is_err() {
                break;
            }
        }
        request.refused_unless(outcome)
    }

    async fn reserve(&self, request: &AdmissionRequest<'_>, object: &Value, again: bool) -> Result<Reservation, Error> {
        let mut reservation = Reservation::default();
        for plugin in self.plugins.iter().filter(|plugin| plugin.applies(request)) {
            plugin
                .reserve(&self.context, request, object, again, &mut reservation)
                .await?;
        }
        Ok(reservation)
    }
}

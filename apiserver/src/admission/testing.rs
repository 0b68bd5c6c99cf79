//! What the tests of plugins share: a store in memory, and requests on an object called `x` in the namespace `dev`.

use std::sync::Arc;

use api::Error;
use serde_json::Value;

use super::{Context, Plugin, key};
use crate::apiextensions::catalog::Catalog;
use crate::authz::Authorizers;
use crate::registry::access::{AdmissionRequest, Attributes, Operation, Options, UserInfo};
use crate::registry::options::WriteOptions;
use crate::store::{MemoryStore, Store, Txn};

pub(crate) struct Fixture {
    pub cx: Context,
    pub user: UserInfo,
    pub subresource: &'static str,
    pub warnings: parking_lot::Mutex<Vec<String>>,
}

impl Default for Fixture {
    fn default() -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(api::codec::set_resource_version));
        let outgoing = crate::outgoing::Outgoing::new(store.clone());
        Self {
            cx: Context {
                catalog: Arc::new(Catalog::new(outgoing.clone())),
                webhooks: super::webhook::Webhooks::new(outgoing, &prometheus::Registry::new()).unwrap(),
                store,
                authorizers: Authorizers::default(),
            },
            user: UserInfo::apiserver(),
            subresource: "",
            warnings: Default::default(),
        }
    }
}

impl Fixture {
    /// Stores an object.
    pub async fn put(&self, group: &str, resource: &str, object: Value) {
        let info = api::resources::find(group, "v1", resource).unwrap();
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let key = key(group, resource, text("namespace"), text("name"));
        let value = api::codec::value_to_proto(info.message, &object).unwrap();
        self.cx.store.transact(Txn::create(key, value.into())).await.unwrap();
    }

    async fn ask<T>(
        &self,
        operation: Operation,
        (group, resource): (&str, &str),
        old: Option<&Value>,
        ask: impl AsyncFnOnce(&AdmissionRequest<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let info = api::resources::find(group, "v1", resource).unwrap();
        let attributes = Attributes {
            is_resource: true,
            group: group.into(),
            version: "v1".into(),
            resource: resource.into(),
            subresource: self.subresource.into(),
            namespace: if info.namespaced { "dev".into() } else { String::new() },
            name: "x".into(),
            ..Attributes::default()
        };
        let options = WriteOptions::default();
        let request = AdmissionRequest::new(&self.user, &attributes, info, operation, old, Options::Write(&options));
        let outcome = ask(&request).await;
        self.warnings.lock().extend(request.take_warnings());
        outcome
    }

    /// What the plugin makes of the object; the object as it is if the plugin does not look at such requests.
    pub async fn mutate(
        &self,
        plugin: &dyn Plugin,
        operation: Operation,
        group: &str,
        resource: &str,
        mut object: Value,
        old: Option<&Value>,
    ) -> Result<Value, Error> {
        self.ask(operation, (group, resource), old, async |request| {
            if plugin.applies(request) {
                plugin.mutate(&self.cx, request, &mut object).await?;
            }
            Ok(object)
        })
        .await
    }

    /// Whether the plugin lets the object pass.
    pub async fn validate(
        &self,
        plugin: &dyn Plugin,
        operation: Operation,
        group: &str,
        resource: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), Error> {
        self.ask(operation, (group, resource), old, async |request| {
            match plugin.applies(request) {
                true => plugin.validate(&self.cx, request, object).await,
                false => Ok(()),
            }
        })
        .await
    }
}

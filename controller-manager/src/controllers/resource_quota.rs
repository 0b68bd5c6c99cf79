//! Counts what namespaces use of their quotas. Admission only ever raises the usage; what is deleted, ends or shrinks is given back here.
//!
//! A count replaces the usage only if nobody has changed the quota since it was read, and it is taken after that reading: so what admission
//! has charged is in the count, and no limit is passed because of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::apiextensions::v1::CustomResourceDefinition;
use api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use api::quota::{self, Amounts, Counted};
use api::resource::v1::ResourceClaim;
use api::{GroupVersionResource, Object, ObjectKey};
use client::{Cache, Client, Event, Informer, ListParams, PartialObject};
use controller::{Action, Error, Queue};
use daemon::Shutdown;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use crate::setup::{Late, NAMESPACE, Setup};

/// How often everything is counted again although nothing was heard; upstream's `--resource-quota-sync-period`.
const RESYNC: Duration = Duration::from_secs(300);
const PODS: Counted<'static> = core("pods");
const SERVICES: Counted<'static> = core("services");
const CLAIMS: Counted<'static> = core("persistentvolumeclaims");
const DEVICES: Counted<'static> = Counted {
    group: "resource.k8s.io",
    resource: "resourceclaims",
};

const fn core(resource: &'static str) -> Counted<'static> {
    Counted { group: "", resource }
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue: Queue<ObjectKey> = setup.queue("resourcequota_primary");
    let late = setup.informers.resource_quotas.late();
    let primary = queue.clone();
    setup.informers.resource_quotas.on_event(move |event| {
        let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|spec| spec.hard.clone());
        // Usage that admission raises is no reason to count.
        if event.previous().is_none_or(|old| hard(old) != hard(event.object())) {
            primary.add(event.object().key());
        }
    });
    let wake = move |queue: &Queue<ObjectKey>, late: &Late<ResourceQuota>, namespace: &str| {
        let quotas = late.by_index(NAMESPACE, namespace);
        quotas.iter().for_each(|quota| queue.add(quota.key()));
    };
    let (pods, claims, services) = (queue.clone(), queue.clone(), queue.clone());
    let (late_pods, late_claims, late_services) = (late.clone(), late.clone(), late.clone());
    setup.informers.pods.on_event(move |event| {
        if gives_back(event, crate::pods::is_terminated) {
            wake(&pods, &late_pods, event.object().namespace());
        }
    });
    setup.informers.persistent_volume_claims.on_event(move |event| {
        let size = |claim: &PersistentVolumeClaim| claim.status.as_ref().and_then(|s| s.allocated_resources.clone());
        if gives_back(event, |_| false) || event.previous().is_some_and(|old| size(old) != size(event.object())) {
            wake(&claims, &late_claims, event.object().namespace());
        }
    });
    setup.informers.services.on_event(move |event| {
        let spec = |service: &Service| {
            service
                .spec
                .as_ref()
                .map(|s| (s.type_.clone(), s.ports.as_ref().map(Vec::len)))
        };
        if gives_back(event, |_| false) || event.previous().is_some_and(|old| spec(old) != spec(event.object())) {
            wake(&services, &late_services, event.object().namespace());
        }
    });
    let (client, shutdown, workers) = (setup.client.clone(), setup.shutdown.clone(), queue.clone());
    setup.run("resourcequota_primary", queue, 5, move |caches| {
        let counter = Arc::new(Counter {
            client,
            quotas: caches.resource_quotas,
            queue: workers,
            watched: Mutex::default(),
            shutdown,
        });
        move |key| {
            let counter = counter.clone();
            async move { counter.reconcile(key).await }
        }
    });
}

/// Whether an object is gone, or has just ended.
fn gives_back<K>(event: &Event<K>, ended: impl Fn(&K) -> bool) -> bool {
    match event {
        Event::Added(_) => false,
        Event::Deleted(_) => true,
        Event::Updated { old, new } => ended(new) && !ended(old),
    }
}

/// The status that the quota should have, if that is another one than it has. `used` are the amounts in its namespace.
pub fn plan(quota: &ResourceQuota, used: &Amounts) -> Option<ResourceQuota> {
    let hard = quota
        .spec
        .as_ref()
        .and_then(|spec| spec.hard.clone())
        .unwrap_or_default();
    let counted = hard.keys().map(|name| {
        let amount = used.get(name).copied().unwrap_or_default();
        (name.clone(), amount.to_meta())
    });
    let mut new = quota.clone();
    let status = new.status.get_or_insert_default();
    (status.used, status.hard) = (Some(counted.collect()), Some(hard));
    (new.status != quota.status).then_some(new)
}

struct Counter {
    client: Client,
    quotas: Cache<ResourceQuota>,
    queue: Queue<ObjectKey>,
    /// Resources besides the ones above whose deletions are heard of.
    watched: Mutex<HashSet<String>>,
    shutdown: Shutdown,
}

impl Counter {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        if self.quotas.get(&key).is_none() {
            return Ok(Action::Done);
        }
        // From the server, not from the cache: the count must not be older than this.
        let quotas = self.client.api::<ResourceQuota>();
        let quota = match quotas.get(&key.namespace, &key.name).await {
            Err(error) if error.is_not_found() => return Ok(Action::Done),
            outcome => outcome.map_err(Error::client(format!("read ResourceQuota {key}")))?,
        };
        let used = self.count(&quota).await?;
        if let Some(written) = plan(&quota, &used) {
            let doing = format!("write the usage of ResourceQuota {key}");
            quotas.update_status(&written).await.map_err(Error::client(doing))?;
        }
        Ok(Action::RequeueAfter(RESYNC))
    }

    async fn count(&self, quota: &ResourceQuota) -> Result<Amounts, Error> {
        let value = quota.to_value();
        let (hard, scopes) = (quota::amounts(value.pointer("/spec/hard")), quota::scopes(&value));
        let (namespace, now) = (quota.namespace(), Timestamp::now());
        let mut used = Amounts::new();
        let mut sum = |counted: Counted<'_>, objects: Vec<Value>| {
            for object in objects.iter().filter(|object| counted.covered(object, &hard, &scopes)) {
                quota::add(&mut used, &counted.usage(object, now));
            }
        };
        let names = |counted: Counted<'_>| hard.keys().any(|name| counted.matches_name(name));
        if names(PODS) {
            sum(PODS, self.list::<Pod>(namespace).await?);
        }
        if names(SERVICES) {
            sum(SERVICES, self.list::<Service>(namespace).await?);
        }
        if names(CLAIMS) {
            sum(CLAIMS, self.list::<PersistentVolumeClaim>(namespace).await?);
        }
        if names(DEVICES) {
            sum(DEVICES, self.list::<ResourceClaim>(namespace).await?);
        }
        for (name, resource) in hard.keys().filter_map(|name| Some((name, other(name)?))) {
            let count = if scopes.is_empty() {
                self.number(&resource, namespace).await?
            } else {
                0
            };
            used.insert(name.clone(), api::quantity::Quantity::units(count));
        }
        Ok(used)
    }

    async fn list<K: Object>(&self, namespace: &str) -> Result<Vec<Value>, Error> {
        let listed = self.client.api::<K>().list(&ListParams::namespace(namespace)).await;
        let listed = listed.map_err(Error::client(format!("list {} in {namespace}", K::URL_PATH_SEGMENT)))?;
        Ok(listed.items.iter().map(Object::to_value).collect())
    }

    /// How many objects of a resource there are, of which only their number counts.
    async fn number(&self, (group, resource): &(String, String), namespace: &str) -> Result<i64, Error> {
        let Some(version) = self.version(group, resource).await? else {
            return Ok(0);
        };
        let dynamic = self.client.dynamic(&GroupVersionResource::new(
            group.as_str(),
            version.as_str(),
            resource.as_str(),
        ));
        if self.watched.lock().insert(format!("{resource}.{group}")) {
            let (queue, quotas) = (self.queue.clone(), self.quotas.clone());
            Informer::partial(&dynamic, &ListParams::default())
                .on_event(move |event: &Event<PartialObject>| {
                    if gives_back(event, |_| false) {
                        let namespace = event.object().metadata.namespace.as_deref().unwrap_or_default();
                        let concerned = quotas.by_index(NAMESPACE, namespace);
                        concerned.iter().for_each(|quota| queue.add(quota.key()));
                    }
                })
                .start(&self.shutdown);
        }
        let listed = dynamic.list(&ListParams::namespace(namespace)).await;
        let listed = listed.map_err(Error::client(format!("list {resource} in {namespace}")))?;
        Ok(i64::try_from(listed.items.len()).unwrap_or(i64::MAX))
    }

    /// The version in which a resource is stored; nothing if there is no such resource.
    async fn version(&self, group: &str, resource: &str) -> Result<Option<String>, Error> {
        let builtin = api::resources::all()
            .iter()
            .find(|info| info.group == group && info.resource == resource && info.version == info.storage_version);
        if let Some(info) = builtin {
            return Ok(Some(info.version.to_string()));
        }
        let name = format!("{resource}.{group}");
        match self.client.api::<CustomResourceDefinition>().get("", &name).await {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(Error::client(format!("read CustomResourceDefinition {name}"))(error)),
            Ok(definition) => Ok(definition.spec.versions.into_iter().find(|v| v.storage).map(|v| v.name)),
        }
    }
}

/// Group and resource of a name that only counts objects, if it is about none of the kinds with amounts of their own.
fn other(name: &str) -> Option<(String, String)> {
    if [PODS, SERVICES, CLAIMS, DEVICES]
        .iter()
        .any(|counted| counted.matches_name(name))
    {
        return None;
    }
    let plain = ["configmaps", "replicationcontrollers", "resourcequotas", "secrets"];
    let counted = match name.strip_prefix("count/") {
        Some(counted) => counted,
        None => plain.iter().find(|plain| **plain == name)?,
    };
    let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
    Some((group.to_owned(), resource.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_status_follows_the_count() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "2", "cpu": "1"}},
            "status": {"hard": {"pods": "1"}, "used": {"pods": "1", "memory": "1"}}});
        let quota = ResourceQuota::from_value(quota).unwrap();
        let used = quota::amounts(Some(&json!({"pods": "2", "memory": "5"})));
        let written = plan(&quota, &used).unwrap();
        let status = json!({"hard": {"pods": "2", "cpu": "1"}, "used": {"pods": "2", "cpu": "0"}});
        assert_eq!(written.to_value()["status"], status);
        assert_eq!(plan(&written, &used), None);
    }

    #[test]
    fn names_of_other_kinds() {
        let pair = |group: &str, resource: &str| Some((group.to_owned(), resource.to_owned()));
        for (name, want) in [
            ("count/deployments.apps", pair("apps", "deployments")),
            ("count/configmaps", pair("", "configmaps")),
            ("secrets", pair("", "secrets")),
            ("count/pods", None),
            ("requests.cpu", None),
            ("services.nodeports", None),
            ("gold.storageclass.storage.k8s.io/requests.storage", None),
        ] {
            assert_eq!(other(name), want, "{name}");
        }
    }
}

//! Keeps the table of extension API servers, their conditions, the APIServices of this server's own groups, and the ConfigMap from which
//! extension API servers learn whom to believe.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Error;
use daemon::Shutdown;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::available::{Verdict, check, with_condition};
use super::local::{Step, plan, wanted};
use super::{Aggregator, Remote, Table};
use crate::kinds::field::text;
use crate::registry::access::{Attributes, UserInfo};
use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::registry::{Access, Registry, meta, store_error};
use crate::store::{ListQuery, ReadAt};

/// How often the objects are looked at: a list of a few dozen objects in memory.
const LOOK: Duration = Duration::from_millis(250);
/// When a server that answered, and one that did not, is asked again.
const GOOD: Duration = Duration::from_secs(5);
const BAD: Duration = Duration::from_secs(1);
/// How often the ConfigMap is compared with the files.
const PUBLISH: Duration = Duration::from_secs(60);

type Gvr = (&'static str, &'static str);
const SERVICES: Gvr = ("apiregistration.k8s.io", "apiservices");
const MAPS: Gvr = ("", "configmaps");
const MAP: (&str, &str) = ("kube-system", "extension-apiserver-authentication");

impl Aggregator {
    /// Works until shutdown.
    pub async fn keep(self: Arc<Self>, registry: Arc<Registry>, client_ca: std::path::PathBuf, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut published: Option<Instant> = None;
        while shutdown.run_until(ticks.tick()).await.is_some() {
            if let Err(error) = self.round(&registry, &shutdown).await {
                tracing::warn!(%error, "APIServices are not up to date");
            }
            if published.is_none_or(|at| at.elapsed() > PUBLISH) {
                match self.publish(&registry, &client_ca).await {
                    Ok(()) => published = Some(Instant::now()),
                    Err(error) => tracing::warn!(%error, "{}/{} is not up to date", MAP.0, MAP.1),
                }
            }
        }
    }

    async fn round(self: &Arc<Self>, registry: &Arc<Registry>, shutdown: &Shutdown) -> Result<(), Error> {
        let objects = list(registry).await?;
        self.replace(&objects);
        for step in plan(&wanted(registry.kinds().iter().map(|kind| &**kind)), &objects) {
            apply(registry, step).await?;
        }
        let local = |object: &&Value| !object.pointer("/spec/service").is_some_and(Value::is_object);
        for object in objects.iter().filter(local) {
            write_condition(
                registry,
                text(object, "/metadata/name"),
                Some(object),
                &Verdict::local(),
            )
            .await?;
        }
        let now = Instant::now();
        for remote in &self.table.load().remotes {
            let due = remote.health.lock().next.take_if(|next| *next <= now).is_some();
            if due {
                let (this, registry, remote) = (self.clone(), registry.clone(), remote.clone());
                let shutdown = shutdown.clone();
                tokio::spawn(async move { shutdown.run_until(this.examine(&registry, &remote)).await });
            }
        }
        Ok(())
    }

    /// The table for these objects; a server whose spec is the same is kept with all that is known of it.
    fn replace(&self, objects: &[Value]) {
        let before = self.table.load();
        let of_object = |object: &Value| {
            let name = text(object, "/metadata/name");
            let same = |remote: &&Arc<Remote>| remote.name == name && object.get("spec") == Some(&remote.spec);
            match before.remotes.iter().find(same) {
                Some(remote) => Some(remote.clone()),
                None => Remote::new(name, object, &self.outgoing, self.identity.clone()).map(Arc::new),
            }
        };
        let remotes: Vec<Arc<Remote>> = objects.iter().filter_map(of_object).collect();
        let same = remotes.len() == before.remotes.len()
            && remotes
                .iter()
                .zip(&before.remotes)
                .all(|(new, old)| Arc::ptr_eq(new, old));
        if !same {
            self.table.store(Arc::new(Table { remotes }));
        }
    }

    async fn examine(&self, registry: &Registry, remote: &Remote) {
        let (verdict, found) = check(remote, self.outgoing.resolver()).await;
        let available = verdict.available;
        {
            let mut health = remote.health.lock();
            health.available = available;
            health.found = found.map(Arc::new);
        }
        if let Err(error) = write_condition(registry, &remote.name, None, &verdict).await {
            tracing::warn!(%error, name = remote.name, "condition of an APIService not written");
        }
        let pause = if available { GOOD } else { BAD };
        remote.health.lock().next = Some(Instant::now() + pause);
    }

    /// Writes the ConfigMap if it says something else than the files.
    async fn publish(&self, registry: &Registry, client_ca: &Path) -> Result<(), Error> {
        let data = self.config.published(client_ca).map_err(Error::internal)?;
        let wanted = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": MAP.0, "name": MAP.1}, "data": data});
        let read = access(registry, "get", MAPS, MAP.0, MAP.1, "").await?;
        match registry.get(&read, "").await {
            Ok(entry) => {
                let mut object = read.kind.value(&entry)?;
                if object.get("data") == wanted.get("data") {
                    return Ok(());
                }
                object["data"] = wanted["data"].clone();
                let write = access(registry, "update", MAPS, MAP.0, MAP.1, "").await?;
                registry.update(&write, object, &options()).await.map(drop)
            }
            Err(error) if error.is_not_found() => {
                let write = access(registry, "create", MAPS, MAP.0, "", "").await?;
                unless_raced(registry.create(&write, wanted, &options()).await.map(drop))
            }
            Err(error) => Err(error),
        }
    }
}

fn options() -> WriteOptions {
    WriteOptions {
        field_manager: "kube-apiserver".into(),
        ..WriteOptions::default()
    }
}

/// Another server does the same work.
fn unless_raced(outcome: Result<(), Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if error.is_conflict() || error.is_already_exists() || error.is_not_found() => Ok(()),
        outcome => outcome,
    }
}

async fn access(
    registry: &Registry,
    verb: &str,
    (group, resource): Gvr,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Result<Access, Error> {
    let attributes = Attributes {
        verb: verb.into(),
        is_resource: true,
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        subresource: subresource.into(),
        ..Attributes::default()
    };
    registry.authorize(Arc::new(UserInfo::apiserver()), attributes).await
}

/// The APIServices as this server has them.
async fn list(registry: &Registry) -> Result<Vec<Value>, Error> {
    let kind = registry
        .find(SERVICES.0, "v1", SERVICES.1)
        .ok_or_else(Error::no_such_path)?;
    let query = ListQuery {
        prefix: &kind.prefix,
        start_after: None,
        limit: 0,
        at: ReadAt::Any,
    };
    let listed = registry.store().list(query).await.map_err(store_error)?;
    listed.entries.iter().map(|entry| kind.stored_value(entry)).collect()
}

async fn apply(registry: &Registry, step: Step) -> Result<(), Error> {
    let outcome = match step {
        Step::Create(object) => {
            let write = access(registry, "create", SERVICES, "", "", "").await?;
            registry.create(&write, object, &options()).await.map(drop)
        }
        Step::Update(object) => {
            let write = access(registry, "update", SERVICES, "", meta::text(&object, "name"), "").await?;
            registry.update(&write, object, &options()).await.map(drop)
        }
        Step::Delete(name) => {
            let write = access(registry, "delete", SERVICES, "", &name, "").await?;
            registry.delete(&write, &DeleteOptions::default()).await.map(drop)
        }
    };
    unless_raced(outcome)
}

/// Writes the condition if it changed; reads the object first if it is not given.
async fn write_condition(
    registry: &Registry,
    name: &str,
    object: Option<&Value>,
    verdict: &Verdict,
) -> Result<(), Error> {
    let now = meta::time(Timestamp::now());
    let new = match object {
        Some(object) => with_condition(object, verdict, &now),
        None => {
            let read = access(registry, "get", SERVICES, "", name, "").await?;
            match registry.get(&read, "0").await {
                Ok(entry) => with_condition(&read.kind.value(&entry)?, verdict, &now),
                Err(error) => return unless_raced(Err(error)),
            }
        }
    };
    let Some(new) = new else { return Ok(()) };
    let write = access(registry, "update", SERVICES, "", name, "status").await?;
    unless_raced(registry.update(&write, new, &options()).await.map(drop))
}

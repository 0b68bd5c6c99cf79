//! Keeps the configuration equal to its objects: the default ones in place, the status of FlowSchemas right, the seats divided.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::Error;
use daemon::Shutdown;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::schema::{FlowSchema, LevelConfig};
use super::{FlowControl, defaults, level};
use crate::bootstrap;
use crate::config::Config;
use crate::registry::access::{Attributes, UserInfo};
use crate::registry::options::{ListOptions, WriteOptions};
use crate::registry::{Access, Registry};
use crate::store::Watcher;

/// Store keys of both kinds.
const PREFIX: &str = "flowcontrol.apiserver.k8s.io/";
const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Pause before a round that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(50);

/// Runs until shutdown.
pub async fn run(control: Arc<FlowControl>, registry: Arc<Registry>, config: Config, shutdown: Shutdown) {
    let keeper = Keeper {
        control,
        registry,
        config,
    };
    let mut periods = tokio::time::interval(level::PERIOD);
    let mut watcher = None;
    loop {
        if watcher.is_none() {
            match keeper.round().await {
                Ok(found) => watcher = Some(found),
                Err(error) => tracing::warn!(%error, "priority and fairness keeps its last configuration"),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = periods.tick() => keeper.control.adjust(),
            () = changed(watcher.as_mut()) => {
                watcher = None;
                tokio::time::sleep(GATHER).await;
            }
        }
    }
}

/// Waits for a change of an object; without a watcher, for the time of another try.
async fn changed(watcher: Option<&mut Watcher>) {
    match watcher {
        // The end of a watch is as good a reason to look again.
        Some(watcher) => drop(watcher.next().await),
        None => tokio::time::sleep(RETRY).await,
    }
}

struct Keeper {
    control: Arc<FlowControl>,
    registry: Arc<Registry>,
    config: Config,
}

impl Keeper {
    /// Puts the defaults in place, reads everything, and answers a watcher of what comes after.
    async fn round(&self) -> Result<Watcher, Error> {
        bootstrap::flow_control(&self.registry, &self.config).await?;
        let revision = self.registry.store().revision();
        let schemas = self.read("flowschemas").await?;
        let levels = self.read("prioritylevelconfigurations").await?;
        let names: HashSet<&str> = levels.iter().filter_map(name).collect();
        for schema in &schemas {
            let status = dangling(schema, &names);
            if let Some(new) = status {
                self.write_status(new).await?;
            }
        }
        let schemas = schemas.iter().map(FlowSchema::read).collect();
        self.control
            .configure(schemas, levels.iter().map(LevelConfig::read).collect());
        let watcher = self.registry.store().watch(PREFIX, revision);
        watcher.map_err(|error| Error::internal(error.to_string()))
    }

    async fn access(&self, verb: &str, resource: &str, name: &str, subresource: &str) -> Result<Access, Error> {
        let attributes = Attributes {
            verb: verb.into(),
            is_resource: true,
            group: GROUP.into(),
            version: "v1".into(),
            resource: resource.into(),
            name: name.into(),
            subresource: subresource.into(),
            ..Attributes::default()
        };
        self.registry
            .authorize(Arc::new(UserInfo::apiserver()), attributes)
            .await
    }

    async fn read(&self, resource: &str) -> Result<Vec<Value>, Error> {
        let access = self.access("list", resource, "", "").await?;
        let page = self.registry.list(&access, &ListOptions::default()).await?;
        page.entries.iter().map(|entry| access.kind.value(entry)).collect()
    }

    async fn write_status(&self, schema: Value) -> Result<(), Error> {
        let name = name(&schema).unwrap_or_default().to_owned();
        let access = self.access("update", "flowschemas", &name, "status").await?;
        let options = WriteOptions {
            field_manager: "api-priority-and-fairness-config-consumer-v1".into(),
            ..WriteOptions::default()
        };
        match self.registry.update(&access, schema, &options).await {
            // Somebody was faster: the change wakes us again.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

fn name(object: &Value) -> Option<&str> {
    object.pointer("/metadata/name").and_then(Value::as_str)
}

/// The FlowSchema with the right condition `Dangling`; `None` if it has it.
fn dangling(schema: &Value, levels: &HashSet<&str>) -> Option<Value> {
    let level = schema
        .pointer("/spec/priorityLevelConfiguration/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let text = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = if levels.contains(level) {
        ("False", "Found", format!("{text} and it exists"))
    } else {
        ("True", "NotFound", format!("{text} but there is no such object"))
    };
    let mut conditions = schema
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let place = conditions.iter().position(|condition| condition["type"] == "Dangling");
    let old = place.and_then(|place| conditions.get(place));
    if old.is_some_and(|old| old["status"] == status && old["reason"] == reason && old["message"] == message.as_str()) {
        return None;
    }
    let since = match old.filter(|old| old["status"] == status) {
        Some(old) => old["lastTransitionTime"].clone(),
        None => Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into(),
    };
    let condition = json!({"type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
    match place {
        Some(place) => conditions[place] = condition,
        None => conditions.push(condition),
    }
    let mut new = schema.clone();
    new["status"] = json!({"conditions": conditions});
    Some(new)
}

/// A default object as it is to be after a start: `None` if the existing one follows it or belongs to its owner by now.
pub fn restored(existing: &Value, wanted: &Value) -> Option<Value> {
    let annotation = existing
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(defaults::AUTOUPDATE));
    let follows = annotation.is_none_or(|value| value == "true");
    let mandatory = name(wanted).is_some_and(defaults::is_mandatory);
    if !(follows || mandatory) || covers(&existing["spec"], &wanted["spec"]) {
        return None;
    }
    let mut new = existing.clone();
    new["spec"] = wanted["spec"].clone();
    new["metadata"]["annotations"][defaults::AUTOUPDATE] = "true".into();
    Some(new)
}

/// Whether an object with its defaults says everything that another says.
fn covers(existing: &Value, wanted: &Value) -> bool {
    match (existing, wanted) {
        (Value::Object(existing), Value::Object(wanted)) => wanted
            .iter()
            .all(|(field, value)| covers(existing.get(field).unwrap_or(&Value::Null), value)),
        (Value::Array(existing), Value::Array(wanted)) => {
            existing.len() == wanted.len() && existing.iter().zip(wanted).all(|(a, b)| covers(a, b))
        }
        (Value::Null, Value::Number(number)) => number.as_i64() == Some(0),
        _ => existing == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_without_its_level_dangles() {
        let schema = json!({"metadata": {"name": "s"}, "spec": {"priorityLevelConfiguration": {"name": "gone"}}});
        let new = dangling(&schema, &HashSet::new()).unwrap();
        let condition = &new["status"]["conditions"][0];
        assert_eq!(
            (&condition["status"], &condition["reason"]),
            (&json!("True"), &json!("NotFound"))
        );
        assert_eq!(
            condition["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"gone\" but there is no such object"
        );
        assert_eq!(dangling(&new, &HashSet::new()), None);
        let found = dangling(&new, &HashSet::from(["gone"])).unwrap();
        assert_eq!(found["status"]["conditions"][0]["status"], "False");
        assert_eq!(found["status"]["conditions"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn defaults_are_restored_unless_somebody_took_them_over() {
        let wanted = &defaults::levels()[2];
        let mut changed = wanted.clone();
        changed["spec"]["limited"]["nominalConcurrencyShares"] = 1.into();
        assert_eq!(restored(wanted, wanted), None);
        assert_eq!(restored(&changed, wanted).unwrap()["spec"], wanted["spec"]);
        changed["metadata"]["annotations"][defaults::AUTOUPDATE] = "false".into();
        assert_eq!(restored(&changed, wanted), None);
        // The two mandatory ones belong to nobody else.
        let wanted = &defaults::levels()[1];
        let mut changed = wanted.clone();
        changed["metadata"]["annotations"][defaults::AUTOUPDATE] = "false".into();
        changed["spec"]["limited"]["nominalConcurrencyShares"] = 1.into();
        assert_eq!(restored(&changed, wanted).unwrap()["spec"], wanted["spec"]);
    }
}

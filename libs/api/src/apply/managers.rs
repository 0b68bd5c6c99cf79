//! `metadata.managedFields`: an entry for each manager, operation and subresource.

use super::{Set, Writer};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// So many managers that update are kept apart; older ones are joined.
const MOST_UPDATERS: usize = 10;
/// The manager that the older ones are joined into.
const ANCIENT: &str = "ancient-changes";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: Option<String>,
    fields: Set,
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managers {
    entries: Vec<Entry>,
}

/// The entries of an object; `None` if there are none or one cannot be read.
pub(super) fn read(object: &Value) -> Option<Managers> {
    let list = object.pointer("/metadata/managedFields")?.as_array()?;
    let entries = list.iter().map(Entry::read).collect::<Option<Vec<_>>>()?;
    Some(Managers { entries })
}

/// Whether the object asks to forget its managers: a list of nothing, or of one empty entry.
pub(super) fn is_reset(object: &Value) -> bool {
    let list = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let is_empty_entry = |entry: &Value| entry.as_object().is_some_and(|entry| entry.is_empty());
    list.is_some_and(|list| list.is_empty() || (list.len() == 1 && is_empty_entry(&list[0])))
}

/// Takes the entries out of an object.
pub(super) fn strip(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
}

impl Entry {
    fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        let operation = match &*text("operation") {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        let fields = match value.get("fieldsV1") {
            None | Some(Value::Null) => Set::default(),
            Some(fields) => Set::from_value(fields)?,
        };
        let time = Some(text("time")).filter(|time| !time.is_empty());
        let (manager, api_version, subresource) = (text("manager"), text("apiVersion"), text("subresource"));
        Some(Entry {
            manager,
            operation,
            api_version,
            subresource,
            time,
            fields,
        })
    }

    fn to_value(&self) -> Value {
        let mut value = json!({
            "manager": self.manager, "operation": self.operation.name(), "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_value(),
        });
        if let Some(time) = &self.time {
            value["time"] = time.as_str().into();
        }
        if !self.subresource.is_empty() {
            value["subresource"] = self.subresource.as_str().into();
        }
        value
    }

    /// Whether this is the entry of a writer. An applier has one for all versions, an updater one each.
    fn is_of(&self, operation: Operation, writer: Writer<'_>) -> bool {
        self.operation == operation
            && self.manager == writer.manager
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == writer.api_version)
    }

    /// As a conflict names it.
    fn described(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

impl Managers {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The versions in which fields are managed.
    pub(super) fn versions(&self) -> BTreeSet<&str> {
        self.entries.iter().map(|entry| &*entry.api_version).collect()
    }

    /// What all of them manage in a version.
    pub(super) fn all(&self, api_version: &str) -> Set {
        let own = self.entries.iter().filter(|entry| entry.api_version == api_version);
        own.fold(Set::default(), |all, entry| all.union(&entry.fields))
    }

    /// Forgets who manages fields in a version that is not served any more.
    pub(super) fn retain_versions(&mut self, served: impl Fn(&str) -> bool) {
        self.entries.retain(|entry| served(&entry.api_version));
    }

    /// Adds fields to a writer's entry, which is new if there is none.
    pub(super) fn add(&mut self, operation: Operation, writer: Writer<'_>, fields: Set) {
        if fields.is_empty() {
            return;
        }
        let fields = match self.entries.iter_mut().position(|entry| entry.is_of(operation, writer)) {
            Some(index) => self.entries.remove(index).fields.union(&fields),
            None => fields,
        };
        self.entries.push(Entry {
            manager: writer.manager.to_string(),
            operation,
            api_version: writer.api_version.to_string(),
            subresource: writer.subresource.to_string(),
            time: Some(writer.now.to_string()),
            fields,
        });
    }

    /// Gives an applier other fields and returns those it had.
    pub(super) fn replace_applied(&mut self, writer: Writer<'_>, fields: Set) -> Set {
        let found = self
            .entries
            .iter()
            .position(|entry| entry.is_of(Operation::Apply, writer));
        let last = found.map(|index| self.entries.remove(index));
        self.add(Operation::Apply, writer, fields);
        if let (Some(entry), Some(last)) = (self.entries.last_mut(), &last)
            && entry.is_of(Operation::Apply, writer)
        {
            entry.time.clone_from(&last.time);
        }
        last.map(|entry| entry.fields).unwrap_or_default()
    }

    /// Notes that an applier changed the object now.
    pub(super) fn touch_applied(&mut self, writer: Writer<'_>) {
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.is_of(Operation::Apply, writer))
        {
            entry.time = Some(writer.now.to_string());
        }
    }

    /// The fields among these (by version) that others than this applier manage, with what a message calls those; sorted.
    pub(super) fn conflicts(&self, fields: &BTreeMap<String, Set>, applier: Writer<'_>) -> Vec<(String, Set)> {
        let others = self
            .entries
            .iter()
            .filter(|entry| !entry.is_of(Operation::Apply, applier));
        let conflicts = others.filter_map(|entry| {
            let fields = entry.fields.clone().intersection(fields.get(&entry.api_version)?);
            (!fields.is_empty()).then(|| (entry.described(), fields))
        });
        let mut conflicts: Vec<_> = conflicts.collect();
        conflicts.sort_by(|(a, _), (b, _)| a.cmp(b));
        conflicts
    }

    /// Takes these fields (by version) from all but one applier; who is left without any is forgotten.
    pub(super) fn give_up(&mut self, fields: &BTreeMap<String, Set>, but: Option<Writer<'_>>) {
        for entry in &mut self.entries {
            let Some(fields) = fields.get(&entry.api_version) else {
                continue;
            };
            if !but.is_some_and(|applier| entry.is_of(Operation::Apply, applier)) {
                entry.fields = std::mem::take(&mut entry.fields).difference(fields);
            }
        }
        self.entries.retain(|entry| !entry.fields.is_empty());
    }

    /// Joins the oldest updaters of this version if there are too many of them.
    pub(super) fn cap(&mut self, api_version: &str) {
        let updaters = self
            .entries
            .iter()
            .filter(|entry| entry.operation == Operation::Update)
            .count();
        if updaters <= MOST_UPDATERS {
            return;
        }
        self.sort();
        let is_old = |entry: &Entry| entry.operation == Operation::Update && entry.api_version == api_version;
        let mut left = updaters - MOST_UPDATERS + 1;
        let (old, mut kept): (Vec<_>, Vec<_>) = self.entries.drain(..).partition(|entry| {
            let joins = left > 0 && is_old(entry);
            left -= usize::from(joins);
            joins
        });
        let joined = old.into_iter().reduce(|a, b| Entry {
            fields: a.fields.union(&b.fields),
            ..b
        });
        kept.extend(joined.map(|joined| Entry {
            manager: ANCIENT.into(),
            subresource: String::new(),
            ..joined
        }));
        self.entries = kept;
    }

    /// Appliers first, then by time and name, as upstream lists them.
    fn sort(&mut self) {
        let rank = |entry: &Entry| {
            (
                entry.operation == Operation::Update,
                entry.time.clone(),
                entry.manager.clone(),
            )
        };
        self.entries
            .sort_by_key(|entry| (rank(entry), entry.api_version.clone(), entry.subresource.clone()));
    }

    /// Puts the entries into an object.
    pub(super) fn write(mut self, object: &mut Value) {
        self.sort();
        if !self.entries.is_empty() {
            object["metadata"]["managedFields"] = self.entries.iter().map(Entry::to_value).collect();
        }
    }
}

//! Server-side apply: who set which field of an object (`metadata.managedFields`), what an applied configuration changes, and when that is a
//! conflict. Works on values and the schema; knows neither store nor clock.

mod last_applied;
mod managers;
mod set;
mod shape;
mod tree;

pub use set::Set;
pub use shape::{Schema, Shape, Versions};

use crate::codec;
use crate::meta::StatusCause;
use managers::{Managers, Operation};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use tree::Node;

/// The manager that gets the fields of an object whose managers were not tracked before its first apply.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// What nobody manages.
static UNMANAGED: LazyLock<Set> = LazyLock::new(|| {
    Set::of_fields(&[
        "apiVersion",
        "kind",
        "metadata",
        "metadata.name",
        "metadata.namespace",
        "metadata.creationTimestamp",
        "metadata.selfLink",
        "metadata.uid",
        "metadata.generation",
        "metadata.managedFields",
        "metadata.resourceVersion",
    ])
});

/// Why a configuration cannot be applied.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// It is malformed: answered with 400.
    #[error("{0}")]
    Malformed(String),
    /// Others manage fields that it changes: answered with 409, see [`crate::Error::apply_conflict`].
    #[error("{message}")]
    Conflict {
        /// Upstream's message.
        message: String,
        /// One a field.
        causes: Vec<StatusCause>,
    },
}

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The field manager.
    pub manager: &'a str,
    /// The version in which the object is written, as `apps/v1`.
    pub api_version: &'a str,
    /// Empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 to the second.
    pub now: &'a str,
    /// Fields that this endpoint does not write, as `status`; dotted paths.
    pub ignored: &'a [&'a str],
}

/// Notes in `new.metadata.managedFields` what a create (`old` is none) or update changed. Both objects are in any one version.
pub fn update(versions: &dyn Versions, old: Option<&Value>, new: &mut Value, writer: Writer<'_>) -> Result<(), Error> {
    // An update may hand in managed fields: an empty list resets them, an unreadable one counts as not given.
    let given = managers::read(new);
    let kept = old.map(managers::read).unwrap_or_default();
    let mut managers = if given.as_ref().is_some_and(|given| !given.is_empty()) {
        given
    } else {
        kept
    }
    .unwrap_or_default();
    let was_reset = managers::is_reset(new);
    let untracked = old.is_some() && managers.is_empty();
    managers::strip(new);
    if was_reset || untracked {
        return Ok(());
    }
    let live = old.map(stripped);
    let found = changes(versions, live.as_ref(), new, &managers, writer)?;
    managers.retain_versions(|version| found.contains_key(version));
    managers.give_up(&by_version(&found, tree::Comparison::all), None);
    let taken = found.get(writer.api_version).map(tree::Comparison::taken);
    let taken = taken.unwrap_or_default().difference(&UNMANAGED);
    managers.add(Operation::Update, writer, taken);
    managers.cap(writer.api_version);
    managers.write(new);
    Ok(())
}

/// The live object after a configuration was applied by `writer`: its fields set, fields that it set before and no longer names removed
/// unless others have them, `managedFields` brought up to date. For a create, `live` is none. The configuration and the answer are in the
/// writer's version, the live object may be in another.
pub fn apply(
    versions: &dyn Versions,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, Error> {
    check_config(config, writer)?;
    let mut managers = live.and_then(managers::read).unwrap_or_default();
    let schema = versions.schema(writer.api_version).ok_or_else(|| unserved(writer))?;
    let live = match live {
        Some(live) => {
            let live = stripped(live);
            let live = versions
                .convert(&live, writer.api_version)
                .ok_or_else(|| unserved(writer))?;
            Some(live.into_owned())
        }
        None => None,
    };
    let attempt = Attempt {
        versions,
        node: Node::of_schema(schema),
        schema,
        writer,
        live: live.as_ref(),
    };
    attempt.adopt(&mut managers)?;
    let outcome = match attempt.run(&managers, config, force)? {
        Err(conflicts) if writer.manager == last_applied::MANAGER => {
            let allowed = attempt.allowed().unwrap_or_default();
            let left = last_applied::left(conflicts, &allowed);
            if left.is_empty() {
                attempt.run(&managers, config, true)?
            } else {
                Err(left)
            }
        }
        outcome => outcome,
    };
    let mut merged = outcome.map_err(|conflicts| conflict(&conflicts))?;
    if writer.manager == last_applied::MANAGER {
        last_applied::keep(&mut merged, config);
    }
    Ok(merged)
}

/// The live object with a configuration laid over it as `apply` would, whoever manages its fields. Lists, maps and structs that are one value
/// cannot be set so: nobody would know what was in them before.
pub fn merge(schema: Schema<'_>, live: &Value, config: &Value) -> Result<Value, Error> {
    let node = Node::of_schema(schema);
    let mut atomics = Vec::new();
    tree::atomics(node, config, "", &mut atomics)?;
    if !atomics.is_empty() {
        let paths = atomics.join(", ");
        return Err(Error::Malformed(format!(
            "may not mutate atomic arrays, maps or structs: {paths}"
        )));
    }
    Ok(tree::merge(node, Some(live), Some(config))?.unwrap_or_else(|| Value::Object(Map::new())))
}

/// A configuration being applied.
struct Attempt<'a> {
    versions: &'a dyn Versions,
    schema: Schema<'a>,
    node: Node<'a>,
    writer: Writer<'a>,
    /// In the writer's version, without managed fields.
    live: Option<&'a Value>,
}

impl Attempt<'_> {
    /// An object whose managers nobody tracked belongs to somebody from now on.
    fn adopt(&self, managers: &mut Managers) -> Result<(), Error> {
        let Some(live) = self.live.filter(|_| managers.is_empty()) else {
            return Ok(());
        };
        let all = tree::compare(self.node, &empty(self.schema), live)?;
        let before = Writer {
            manager: BEFORE_FIRST_APPLY,
            subresource: "",
            ..self.writer
        };
        let fields = all.taken().outside(&Set::of_fields(self.writer.ignored));
        managers.add(Operation::Update, before, fields.difference(&UNMANAGED));
        Ok(())
    }

    /// The merged object, or the conflicts that stand in the way.
    fn run(&self, managers: &Managers, config: &Value, force: bool) -> Result<Result<Value, Conflicts>, Error> {
        let (node, writer) = (self.node, self.writer);
        let mut managers = managers.clone();
        let nothing = empty(self.schema);
        let live = self.live.unwrap_or(&nothing);
        let ignored = Set::of_fields(writer.ignored);
        let set = tree::field_set(node, config)?.outside(&ignored).difference(&UNMANAGED);
        let last = managers.replace_applied(writer, set);
        let config = tree::remove(node, config, &ignored)?.unwrap_or_default();
        let merged = tree::merge(node, Some(live), Some(&config))?.unwrap_or_default();
        let mut merged = self.prune(merged, &managers, &last)?;

        let found = changes(self.versions, self.live, &merged, &managers, writer)?;
        managers.retain_versions(|version| found.contains_key(version));
        let conflicts = managers.conflicts(&by_version(&found, tree::Comparison::taken), writer);
        if !force && !conflicts.is_empty() {
            return Ok(Err(conflicts));
        }
        managers.give_up(&by_version(&found, tree::Comparison::all), Some(writer));
        if merged != *live {
            managers.touch_applied(writer);
        }
        managers.write(&mut merged);
        Ok(Ok(merged))
    }

    /// Takes out what the applier set last time and does not set now, unless somebody else has it.
    fn prune(&self, merged: Value, managers: &Managers, last: &Set) -> Result<Value, Error> {
        if last.is_empty() {
            return Ok(merged);
        }
        let node = self.node;
        let fields = |value: &Option<Value>| match value {
            Some(value) => tree::field_set(node, value).map(|set| set.with_parents()),
            None => Ok(Set::default()),
        };
        let last = last.with_parents();
        let all = tree::field_set(node, &merged)?.with_parents();
        let pruned = tree::remove(node, &merged, &last)?;
        // What others (or this configuration) have comes back ...
        let own = managers.all(self.writer.api_version).with_parents();
        let mut kept = fields(&pruned)?.union(&own);
        for version in managers
            .versions()
            .into_iter()
            .filter(|v| *v != self.writer.api_version)
        {
            kept = kept.union(&self.kept_elsewhere(&merged, &pruned, managers, version)?);
        }
        let pruned = tree::remove(node, &merged, &all.clone().difference(&kept))?;
        // ... and what the applier never had.
        let gone = all.difference(&fields(&pruned)?).intersection(&last);
        Ok(tree::remove(node, &merged, &gone)?.unwrap_or_else(|| Value::Object(Map::new())))
    }

    /// What is managed in another version, as fields of the writer's.
    fn kept_elsewhere(
        &self,
        merged: &Value,
        pruned: &Option<Value>,
        managers: &Managers,
        version: &str,
    ) -> Result<Set, Error> {
        let (Some(schema), Some(merged), Some(pruned)) = (
            self.versions.schema(version),
            self.versions.convert(merged, version),
            pruned
                .as_ref()
                .and_then(|pruned| self.versions.convert(pruned, version)),
        ) else {
            return Ok(Set::default());
        };
        let node = Node::of_schema(schema);
        let all = tree::field_set(node, &merged)?.with_parents();
        let kept = tree::field_set(node, &pruned)?.with_parents();
        let gone = all.difference(&kept.union(&managers.all(version).with_parents()));
        let kept = tree::remove(node, &merged, &gone)?;
        match kept
            .as_ref()
            .and_then(|kept| self.versions.convert(kept, self.writer.api_version))
        {
            Some(kept) => Ok(tree::field_set(self.node, &kept)?.with_parents()),
            None => Ok(Set::default()),
        }
    }

    /// The fields that client-side apply has left as they are since: those may be taken over.
    fn allowed(&self) -> Option<Set> {
        let live = self.live?;
        let last = last_applied::read(live)?;
        if last.get("apiVersion")?.as_str()? != self.writer.api_version {
            return None;
        }
        let fields = tree::field_set(self.node, &last).ok()?;
        let changed = tree::compare(self.node, &last, live).ok()?;
        Some(fields.difference(&changed.all()))
    }
}

/// Managers and what they have of the fields that a configuration changes.
type Conflicts = Vec<(String, Set)>;

fn unserved(writer: Writer<'_>) -> Error {
    Error::Malformed(format!("{} is not served", writer.api_version))
}

fn stripped(object: &Value) -> Value {
    let mut object = object.clone();
    managers::strip(&mut object);
    object
}

/// The object that Go has before anything is set: structs held by value are there.
fn empty(schema: Schema<'_>) -> Value {
    match schema {
        // An empty message always reads.
        Schema::Message(message) => codec::proto_to_value(message, &[]).unwrap_or_else(|_| json!({})),
        Schema::Shape(_) => json!({}),
    }
}

/// What differs between two objects in the writer's version and in those in which somebody manages fields, as far as they are served.
fn changes(
    versions: &dyn Versions,
    live: Option<&Value>,
    new: &Value,
    managers: &Managers,
    writer: Writer<'_>,
) -> Result<BTreeMap<String, tree::Comparison>, Error> {
    let ignored = Set::of_fields(writer.ignored);
    let mut found = BTreeMap::new();
    let mut wanted = managers.versions();
    wanted.insert(writer.api_version);
    for version in wanted {
        let (Some(schema), Some(new)) = (versions.schema(version), versions.convert(new, version)) else {
            continue;
        };
        let live = match live {
            Some(live) => versions.convert(live, version),
            None => Some(Cow::Owned(empty(schema))),
        };
        let Some(live) = live else { continue };
        let one = tree::compare(Node::of_schema(schema), &live, &new)?;
        let one = tree::Comparison {
            added: one.added.outside(&ignored),
            modified: one.modified.outside(&ignored),
            removed: one.removed.outside(&ignored),
        };
        found.insert(version.to_string(), one);
    }
    Ok(found)
}

fn by_version(
    found: &BTreeMap<String, tree::Comparison>,
    fields: impl Fn(&tree::Comparison) -> Set,
) -> BTreeMap<String, Set> {
    found
        .iter()
        .map(|(version, one)| (version.clone(), fields(one)))
        .collect()
}

/// Faults of a configuration that keep it from being applied, each with its path.
pub fn undeclared(schema: Schema<'_>, config: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    tree::undeclared(Node::of_schema(schema), config, "", &mut faults);
    faults
}

fn check_config(config: &Value, writer: Writer<'_>) -> Result<(), Error> {
    let malformed = |text: String| Err(Error::Malformed(text));
    if !config.is_object() {
        return malformed("an applied configuration must be an object".into());
    }
    let version = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version != writer.api_version {
        return malformed(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            writer.api_version
        ));
    }
    let managed = config.pointer("/metadata/managedFields");
    if managed.is_some_and(|managed| !managed.is_null() && managed.as_array().is_none_or(|list| !list.is_empty())) {
        return malformed("metadata.managedFields must be nil".into());
    }
    Ok(())
}

/// The conflicts worded as upstream words them, grouped by managers in order.
fn conflict(conflicts: &[(String, Set)]) -> Error {
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    for (manager, set) in conflicts {
        lines.push(format!("conflicts with {manager}:"));
        for path in set.paths() {
            lines.push(format!("- {path}"));
            causes.push(StatusCause {
                reason: Some("FieldManagerConflict".into()),
                message: Some(format!("conflict with {manager}")),
                field: Some(path),
            });
        }
    }
    let message = match &*causes {
        [
            StatusCause {
                message: Some(message),
                field: Some(path),
                ..
            },
        ] => {
            format!("Apply failed with 1 conflict: {message}: {path}")
        }
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    Error::Conflict { message, causes }
}

#[cfg(test)]
mod tests;

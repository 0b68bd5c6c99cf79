//! Server-side apply: who set which field of an object (`metadata.managedFields`), what an applied configuration changes, and when that is a
//! conflict. Works on values and the schema; knows neither store nor clock.

mod managers;
mod set;
mod tree;

pub use set::Set;

use crate::codec;
use crate::meta::StatusCause;
use crate::schema::Message;
use managers::{Managers, Operation};
use serde_json::{Map, Value, json};
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

/// Notes in `new.metadata.managedFields` what a create (`old` is none) or update changed. `new` is the object as it will be stored.
pub fn update(
    message: &'static Message,
    old: Option<&Value>,
    new: &mut Value,
    writer: Writer<'_>,
) -> Result<(), Error> {
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
    let mut live = match old {
        Some(old) => old.clone(),
        None => empty(message),
    };
    managers::strip(&mut live);
    let changes = changes(message, &live, new, writer)?;
    let taken = changes.added.union(&changes.modified);
    managers.give_up(&taken, None);
    managers.give_up(&changes.removed, None);
    managers.add(Operation::Update, writer, taken.difference(&UNMANAGED));
    managers.cap(writer.api_version);
    managers.write(new);
    Ok(())
}

/// The live object after a configuration was applied by `writer`: its fields set, fields that it set before and no longer names removed
/// unless others have them, `managedFields` brought up to date. For a create, `live` is none.
pub fn apply(
    message: &'static Message,
    live: Option<&Value>,
    config: &Value,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, Error> {
    check_config(config, writer)?;
    let node = Node::Struct(message);
    let mut managers = live.and_then(managers::read).unwrap_or_default();
    let created = live.is_none();
    let mut live = live.cloned().unwrap_or_else(|| empty(message));
    managers::strip(&mut live);
    if !created && managers.is_empty() {
        let all = changes(message, &empty(message), &live, writer)?;
        let before = Writer {
            manager: BEFORE_FIRST_APPLY,
            subresource: "",
            ..writer
        };
        managers.add(
            Operation::Update,
            before,
            all.added.union(&all.modified).difference(&UNMANAGED),
        );
    }

    let ignored = Set::of_fields(writer.ignored);
    let set = tree::field_set(node, config)?.outside(&ignored).difference(&UNMANAGED);
    let last = managers.replace_applied(writer, set);
    let config = tree::remove(node, config, &ignored)?.unwrap_or_default();
    let merged = tree::merge(node, Some(&live), Some(&config))?.unwrap_or_default();
    let mut merged = prune(node, merged, &managers, &last)?;

    let changes = changes(message, &live, &merged, writer)?;
    let taken = changes.added.union(&changes.modified);
    let conflicts = managers.conflicts(&taken, writer);
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    managers.give_up(&taken, Some(writer));
    managers.give_up(&changes.removed, Some(writer));
    if merged != live {
        managers.touch_applied(writer);
    }
    managers.write(&mut merged);
    Ok(merged)
}

/// Faults of a configuration that keep it from being applied, each with its path.
pub fn undeclared(message: &'static Message, config: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    tree::undeclared(Node::Struct(message), config, "", &mut faults);
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

/// The object that Go has before anything is set: structs held by value are there.
fn empty(message: &'static Message) -> Value {
    // An empty message always reads.
    codec::proto_to_value(message, &[]).unwrap_or_else(|_| json!({}))
}

fn changes(
    message: &'static Message,
    live: &Value,
    new: &Value,
    writer: Writer<'_>,
) -> Result<tree::Comparison, Error> {
    let found = tree::compare(Node::Struct(message), live, new)?;
    let ignored = Set::of_fields(writer.ignored);
    Ok(tree::Comparison {
        added: found.added.outside(&ignored),
        modified: found.modified.outside(&ignored),
        removed: found.removed.outside(&ignored),
    })
}

/// Takes out what the applier set last time and does not set now, unless somebody else has it.
fn prune(node: Node, merged: Value, managers: &Managers, last: &Set) -> Result<Value, Error> {
    if last.is_empty() {
        return Ok(merged);
    }
    let fields = |value: &Option<Value>| match value {
        Some(value) => tree::field_set(node, value).map(|set| set.with_parents()),
        None => Ok(Set::default()),
    };
    let last = last.with_parents();
    let all = tree::field_set(node, &merged)?.with_parents();
    let pruned = tree::remove(node, &merged, &last)?;
    // What others (or this configuration) have comes back ...
    let kept = fields(&pruned)?.union(&managers.all().with_parents());
    let pruned = tree::remove(node, &merged, &all.clone().difference(&kept))?;
    // ... and what the applier never had.
    let gone = all.difference(&fields(&pruned)?).intersection(&last);
    Ok(tree::remove(node, &merged, &gone)?.unwrap_or_else(|| Value::Object(Map::new())))
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

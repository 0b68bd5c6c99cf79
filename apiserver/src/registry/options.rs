//! What a caller may ask of each operation, already parsed; the front ends fill these in.

use api::FieldError;
use serde_json::{Value, json};

/// A list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// As on the wire, for example `app=web,tier in (a, b)`.
    pub label_selector: String,
    /// As on the wire, for example `spec.nodeName=n1`.
    pub field_selector: String,
    /// Empty is the latest state.
    pub resource_version: String,
    /// Empty, `Exact` or `NotOlderThan`.
    pub resource_version_match: String,
    /// 0 is no limit.
    pub limit: usize,
    /// Token of an earlier page.
    pub continue_: String,
    /// Only a watch may ask for it.
    pub send_initial_events: Option<bool>,
}

/// A watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// As on the wire.
    pub label_selector: String,
    /// As on the wire.
    pub field_selector: String,
    /// Empty: the state now as ADDED events, then changes. `0`: the same from this replica. Otherwise changes after it.
    pub resource_version: String,
    /// Empty or `NotOlderThan`, the latter only with `send_initial_events`.
    pub resource_version_match: String,
    /// Only a list may go on with one.
    pub continue_: String,
    /// Progress notifications are wanted.
    pub allow_bookmarks: bool,
    /// The state as ADDED events, closed by an annotated bookmark, whatever `resource_version` says.
    pub send_initial_events: Option<bool>,
}

/// How unknown and duplicate fields in a body are treated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped with a warning.
    #[default]
    Warn,
    /// Refused.
    Strict,
}

impl FieldValidation {
    /// Parses the query parameter; `None` for a value that does not exist.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// Common to create, update and patch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// Do everything but persist.
    pub dry_run: bool,
    /// Who manages the fields that are written.
    pub field_manager: String,
    /// See there.
    pub field_validation: FieldValidation,
    /// `metadata.managedFields` is final already: server-side apply has written it.
    pub applied: bool,
}

impl WriteOptions {
    /// The `meta.k8s.io/v1` options of that kind (`CreateOptions`, `UpdateOptions`) that say the same.
    pub fn to_value(&self, kind: &str) -> Value {
        let mut out = json!({"apiVersion": "meta.k8s.io/v1", "kind": kind});
        if self.dry_run {
            out["dryRun"] = json!(["All"]);
        }
        if !self.field_manager.is_empty() {
            out["fieldManager"] = json!(self.field_manager);
        }
        out["fieldValidation"] = json!(format!("{:?}", self.field_validation));
        out
    }
}

/// What happens to objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They stay.
    Orphan,
    /// The garbage collector deletes them afterwards.
    Background,
    /// The garbage collector deletes them first.
    Foreground,
}

/// A deletion.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds; 0 is at once.
    pub grace_period_seconds: Option<i64>,
    /// `None` leaves it to the kind and the finalizers that are there.
    pub propagation: Option<Propagation>,
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only the object at this resourceVersion.
    pub resource_version: Option<String>,
    /// Do everything but persist.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Reads a `DeleteOptions` object; faults are those that upstream reports.
    pub fn from_value(value: &Value) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let text = |pointer: &str| {
            value
                .pointer(pointer)
                .and_then(Value::as_str)
                .filter(|t| !t.is_empty())
                .map(str::to_owned)
        };
        let orphan = value.get("orphanDependents").and_then(Value::as_bool);
        let policy = value.get("propagationPolicy").and_then(Value::as_str);
        if let (Some(_), Some(policy)) = (orphan, policy) {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid("propagationPolicy", policy, why));
        }
        let propagation = match policy {
            None => orphan.map(|orphan| match orphan {
                true => Propagation::Orphan,
                false => Propagation::Background,
            }),
            Some(policy) => Self::propagation(policy),
        };
        if let (Some(policy), None) = (policy, propagation) {
            let known = ["Foreground", "Background", "Orphan", "nil"];
            errors.push(FieldError::not_supported("propagationPolicy", policy, &known));
        }
        let all: Vec<&str> = value
            .get("dryRun")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let dry_run = dry_run(&all).unwrap_or_else(|fault| {
            errors.push(fault);
            false
        });
        errors.extend(force_faults(value));
        if errors.is_empty() {
            Ok(Self {
                grace_period_seconds: value.get("gracePeriodSeconds").and_then(Value::as_i64),
                propagation,
                uid: text("/preconditions/uid"),
                resource_version: text("/preconditions/resourceVersion"),
                dry_run,
            })
        } else {
            Err(errors)
        }
    }

    /// The `meta.k8s.io/v1 DeleteOptions` that say the same.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"apiVersion": "meta.k8s.io/v1", "kind": "DeleteOptions"});
        if let Some(seconds) = self.grace_period_seconds {
            out["gracePeriodSeconds"] = json!(seconds);
        }
        if let Some(policy) = self.propagation {
            out["propagationPolicy"] = json!(format!("{policy:?}"));
        }
        for (field, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(value) = value {
                out["preconditions"][field] = json!(value);
            }
        }
        if self.dry_run {
            out["dryRun"] = json!(["All"]);
        }
        out
    }

    /// Parses a propagation policy.
    pub fn propagation(text: &str) -> Option<Propagation> {
        match text {
            "Orphan" => Some(Propagation::Orphan),
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            _ => None,
        }
    }
}

/// Reads the values of `dryRun`.
///
/// # Errors
/// Anything but `All`.
pub fn dry_run(values: &[&str]) -> Result<bool, FieldError> {
    if values.iter().all(|value| *value == "All") {
        return Ok(!values.is_empty());
    }
    let found: Value = values.iter().copied().map(Value::from).collect();
    Err(FieldError::not_supported("dryRun", found, &["All"]))
}

/// Whoever deletes an object that cannot be read may ask for nothing else.
fn force_faults(value: &Value) -> Vec<FieldError> {
    const FIELD: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";
    if value.get(FIELD).and_then(Value::as_bool) != Some(true) {
        return Vec::new();
    }
    let others = [
        "dryRun",
        "propagationPolicy",
        "orphanDependents",
        "gracePeriodSeconds",
        "preconditions",
    ];
    let is_set = |field: &&&str| {
        value
            .get(**field)
            .is_some_and(|v| v.as_array().is_none_or(|list| !list.is_empty()))
    };
    let fault = |field: &&str| FieldError::invalid(FIELD, true, format!("cannot be set together with .{field}"));
    others.iter().filter(is_set).map(fault).collect()
}

/// Upstream's limit on a field manager, bytes.
const MANAGER_LIMIT: usize = 128;

/// Faults of a field manager's name.
pub fn manager_faults(manager: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > MANAGER_LIMIT {
        errors.push(FieldError::too_long("fieldManager", MANAGER_LIMIT));
    }
    let strange = manager.char_indices().filter(|(_, c)| !is_printable(*c));
    errors.extend(strange.map(|(at, c)| {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
        FieldError::invalid("fieldManager", manager, why)
    }));
    errors
}

/// The manager of a client that names none: the first word of what it calls itself.
pub fn manager_of_agent(agent: &str) -> String {
    let mut manager = String::new();
    for c in agent
        .split('/')
        .next()
        .unwrap_or("")
        .chars()
        .filter(|c| is_printable(*c))
    {
        if manager.len() + c.len_utf8() > MANAGER_LIMIT {
            break;
        }
        manager.push(c);
    }
    if manager.is_empty() { "unknown".into() } else { manager }
}

/// As Go has it: of all blanks only the space.
fn is_printable(c: char) -> bool {
    c == ' '
        || !(c.is_control()
            || c.is_whitespace()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn contradictions_of_a_deletion_are_named() {
        for (options, faults) in [
            (
                json!({"orphanDependents": true, "propagationPolicy": "Orphan"}),
                &[
                    "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set",
                ][..],
            ),
            (
                json!({"propagationPolicy": "Later", "dryRun": ["Some"]}),
                &[
                    "propagationPolicy: Unsupported value: \"Later\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"",
                    "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
                ],
            ),
            (
                json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true, "gracePeriodSeconds": 0, "dryRun": []}),
                &[
                    "ignoreStoreReadErrorWithClusterBreakingPotential: Invalid value: true: cannot be set together with .gracePeriodSeconds",
                ],
            ),
            (
                json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true, "dryRun": []}),
                &[],
            ),
            (json!({"dryRun": ["All"], "gracePeriodSeconds": 3}), &[]),
        ] {
            let found = DeleteOptions::from_value(&options).err().unwrap_or_default();
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert_eq!(found, faults, "{options}");
        }
    }

    #[test]
    fn managers_are_named_in_print() {
        assert_eq!(manager_of_agent("kubectl/v1.32 (linux)"), "kubectl");
        assert_eq!(manager_of_agent(""), "unknown");
        assert_eq!(manager_of_agent(&"x".repeat(200)).len(), 128);
        assert!(manager_faults("a b").is_empty());
        assert_eq!(
            manager_faults("a\nb")[0].to_string(),
            "fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)"
        );
        assert_eq!(
            manager_faults(&"x".repeat(129))[0].to_string(),
            "fieldManager: Too long: may not be more than 128 bytes"
        );
    }
}

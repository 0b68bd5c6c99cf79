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
        let policy = text("/propagationPolicy");
        if orphan.is_some() && policy.is_some() {
            errors.push(FieldError::invalid(
                "propagationPolicy",
                policy.clone().unwrap_or_default(),
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        let propagation = match policy.as_deref() {
            None => orphan.map(|orphan| {
                if orphan {
                    Propagation::Orphan
                } else {
                    Propagation::Background
                }
            }),
            Some(text) => match Self::propagation(text) {
                Some(propagation) => Some(propagation),
                None => {
                    errors.push(FieldError::not_supported(
                        "propagationPolicy",
                        text,
                        &["Foreground", "Background", "Orphan", "nil"],
                    ));
                    None
                }
            },
        };
        let dry_run = value.get("dryRun").and_then(Value::as_array);
        if let Some(wrong) = dry_run.and_then(|all| all.iter().find(|v| v.as_str() != Some("All"))) {
            errors.push(FieldError::not_supported("dryRun", wrong.clone(), &["All"]));
        }
        let grace_period_seconds = value.get("gracePeriodSeconds").and_then(Value::as_i64);
        if errors.is_empty() {
            Ok(Self {
                grace_period_seconds,
                propagation,
                uid: text("/preconditions/uid"),
                resource_version: text("/preconditions/resourceVersion"),
                dry_run: dry_run.is_some_and(|all| !all.is_empty()),
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

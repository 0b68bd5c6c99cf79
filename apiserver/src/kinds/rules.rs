//! [`Rules`]: the strategy of a kind whose rules are a handful of plain functions. Kinds that allocate or keep state implement
//! [`Strategy`] themselves.

use api::FieldError;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::field::{Errors, Field, set};
use crate::registry::strategy::{Strategy, WriteContext, has_status, remove};
use crate::registry::table::{self, Column};

/// The status of a new object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum NewStatus {
    /// None: it is written through its own subresource.
    Cleared,
    /// What the creator sent, as a kubelet does for its node.
    Kept,
    /// This phase.
    Phase(&'static str),
}

/// What is special to a simple kind; start from [`Rules::NONE`].
#[derive(Clone, Copy)]
pub struct Rules {
    /// See [`Strategy::generation`].
    pub generation: bool,
    /// Fills in defaults; idempotent.
    pub default: fn(&mut Value),
    /// Faults of an object, whenever it is written.
    pub validate: fn(&Field<'_>, &mut Errors),
    /// Faults of a change against the old object, besides those of `validate`.
    pub validate_update: fn(&Field<'_>, &Value, &mut Errors),
    /// Faults of a change of the status against the old object.
    pub validate_status: fn(&Field<'_>, &Value, &mut Errors),
    /// What is worth a warning in a new object, or in a changed one.
    pub warnings: fn(&Field<'_>, Option<&Value>) -> Vec<String>,
    /// Columns of a table.
    pub columns: &'static [Column],
    /// One cell a column.
    pub row: fn(&Value, Timestamp) -> Vec<Value>,
    /// See [`Strategy::selectable_fields`].
    pub fields: &'static [&'static str],
    /// What is wrong with a name.
    pub name: fn(&str) -> Vec<String>,
    /// See [`Strategy::create_on_update`].
    pub create_on_update: bool,
    /// See [`Strategy::unconditional_update`].
    pub unconditional_update: bool,
    /// What becomes of the status that a creator sends.
    pub new_status: NewStatus,
    /// See [`Strategy::orphans_by_default`].
    pub orphans: bool,
}

fn default_row(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![table::name(object), table::age(object, now)]
}

impl Rules {
    /// A kind with nothing special.
    pub const NONE: Rules = Rules {
        generation: false,
        default: |_| {},
        validate: |_, _| {},
        validate_update: |_, _, _| {},
        validate_status: |_, _, _| {},
        warnings: |_, _| Vec::new(),
        columns: table::DEFAULT_COLUMNS,
        row: default_row,
        fields: &[],
        name: api::names::dns1123_subdomain,
        create_on_update: false,
        unconditional_update: true,
        new_status: NewStatus::Cleared,
        orphans: false,
    };
}

impl Strategy for Rules {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn generation(&self) -> bool {
        self.generation
    }

    fn prepare_create(&self, cx: &WriteContext<'_>, object: &mut Value) {
        match self.new_status {
            NewStatus::Cleared if has_status(cx.resource) => remove(object, "status"),
            NewStatus::Cleared | NewStatus::Kept => {}
            NewStatus::Phase(phase) => set(object, "status", json!({"phase": phase})),
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, object: &Value) -> Vec<FieldError> {
        let mut errors = Errors::new();
        (self.validate)(&Field::root("", object), &mut errors);
        errors
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let root = Field::root("", new);
        if cx.subresource == "status" {
            let mut errors = Errors::new();
            (self.validate_status)(&root, old, &mut errors);
            return errors;
        }
        let mut errors = self.validate(cx, new);
        (self.validate_update)(&root, old, &mut errors);
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        (self.warnings)(&Field::root("", new), old)
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        if prefix {
            (self.name)(&format!("{}a", name.trim_end_matches('-')))
        } else {
            (self.name)(name)
        }
    }

    fn columns(&self) -> &'static [Column] {
        self.columns
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.row)(object, now)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        self.fields
    }

    fn create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn orphans_by_default(&self) -> bool {
        self.orphans
    }
}

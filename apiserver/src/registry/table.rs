//! Server-side tables: `meta.k8s.io/v1` Table from rows that the kinds make. Owns the helpers for common cells (name, age).

use jiff::Timestamp;
use serde_json::{Value, json};

/// One column of a table.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading; kubectl shows it in capitals.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: &'static str,
    /// OpenAPI format; `name` marks the name column.
    pub format: &'static str,
    /// For people.
    pub description: &'static str,
    /// 0 is always shown; 1 only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// The first column of every table.
    pub const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        description: "Name must be unique within a namespace.",
        priority: 0,
    };
    /// The time since creation.
    pub const AGE: Self = Self::text("Age");

    /// A text column.
    pub const fn text(name: &'static str) -> Self {
        Self {
            name,
            kind: "string",
            format: "",
            description: "",
            priority: 0,
        }
    }

    /// A column of whole numbers.
    pub const fn integer(name: &'static str) -> Self {
        Self {
            name,
            kind: "integer",
            format: "",
            description: "",
            priority: 0,
        }
    }

    /// Shows the column only with `-o wide`.
    pub const fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }
}

/// For kinds without columns of their own.
pub const DEFAULT_COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// Cell with the object's name.
pub fn name(object: &Value) -> Value {
    object.pointer("/metadata/name").cloned().unwrap_or_else(|| json!(""))
}

/// Cell with the time since the object's creation.
pub fn age(object: &Value, now: Timestamp) -> Value {
    since(object.pointer("/metadata/creationTimestamp"), now)
}

/// Cell with the time since an RFC 3339 time; `<unknown>` if there is none.
pub fn since(time: Option<&Value>, now: Timestamp) -> Value {
    match time.and_then(Value::as_str).and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(then) => json!(human_duration(now.as_second() - then.as_second())),
        None => json!("<unknown>"),
    }
}

/// A duration in seconds as kubectl prints ages: two units while they matter, then one.
pub fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |n: i64, unit: &str, rest: i64, sub: &str| {
        if rest == 0 {
            format!("{n}{unit}")
        } else {
            format!("{n}{unit}{rest}{sub}")
        }
    };
    match seconds {
        i64::MIN..=-2 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

/// How much of the objects a table carries beside the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`, the default.
    Metadata,
    /// The whole object.
    Object,
}

/// The `columnDefinitions` of a table.
pub fn column_definitions(columns: &[Column]) -> Value {
    columns
        .iter()
        .map(|c| json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority}))
        .collect()
}

/// One entry of `rows`. `object` is in the requested version.
pub fn row(cells: Vec<Value>, object: &Value, include: IncludeObject) -> Value {
    match include {
        IncludeObject::None => json!({"cells": cells}),
        IncludeObject::Metadata => json!({"cells": cells, "object": partial_metadata(object)}),
        IncludeObject::Object => json!({"cells": cells, "object": object}),
    }
}

/// The object as `meta.k8s.io/v1 PartialObjectMetadata`.
pub fn partial_metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({}))})
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn ages_are_printed_as_kubectl_does() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (47 * 3600, "47h"),
            (49 * 3600, "2d1h"),
            (9 * 86400, "9d"),
            (800 * 86400, "2y70d"),
            (9 * 365 * 86400, "9y"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }
}

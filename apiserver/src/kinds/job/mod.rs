//! Jobs. Their validation has files of its own.

pub mod indexes;
mod status;
mod validate;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::common::{condition, containers_and_images, format_selector};
use super::field::{Errors, Field, default, ensure, number, set, text};
use super::pod::defaults;
use super::rules::Rules;
use super::workload;
use crate::registry::strategy::{Strategy, WriteContext};
use crate::registry::table::{self, Column};

/// The rules of jobs that are plain functions.
const RULES: Rules = Rules {
    generation: true,
    default: |object| {
        if let Some(spec) = ensure(object, "spec") {
            fill_spec(spec);
        }
    },
    validate: |root, errors| validate::spec(&root.get("spec"), errors),
    validate_update: validate::update,
    validate_status: status::update,
    columns: &[
        Column::NAME,
        Column::text("Status"),
        Column::text("Completions"),
        Column::text("Duration"),
        Column::AGE,
        Column::text("Containers").wide(),
        Column::text("Images").wide(),
        Column::text("Selector").wide(),
    ],
    row: job_row,
    fields: &["status.successful"],
    ..Rules::NONE
};

/// Rules of `jobs.batch`: on creation a Job makes up the selector that ties its pods to its uid.
pub struct Job;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        RULES.default(object);
    }

    fn generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        crate::registry::strategy::remove(object, "status");
        let manual = object.pointer("/spec/manualSelector").and_then(Value::as_bool) == Some(true);
        let (name, uid) = (
            text(object, "/metadata/name").to_owned(),
            text(object, "/metadata/uid").to_owned(),
        );
        if !manual && let Some(spec) = ensure(object, "spec") {
            generate_selector(spec, &name, &uid);
        }
    }

    fn validate(&self, _cx: &WriteContext<'_>, object: &Value) -> Vec<api::FieldError> {
        let mut errors = Errors::new();
        validate::create(&Field::root("", object), &mut errors);
        errors
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<api::FieldError> {
        RULES.validate_update(cx, new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let root = Field::root("", new);
        let mut warnings = Vec::new();
        if old.is_none() {
            workload::warn_name(&root, &mut warnings);
        }
        warnings.extend(spec_warnings(&root.get("spec"), old));
        warnings
    }

    fn columns(&self) -> &'static [Column] {
        RULES.columns
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        job_row(object, now)
    }

    fn selectable_fields(&self) -> &'static [&'static str] {
        RULES.fields
    }

    fn field(&self, object: &Value, field: &str) -> Option<String> {
        (field == "status.successful").then(|| number(object, "/status/succeeded").to_string())
    }

    fn orphans_by_default(&self) -> bool {
        true
    }
}

fn generate_selector(spec: &mut Value, name: &str, uid: &str) {
    if let Some(labels) = ensure(spec, "template")
        .and_then(|t| ensure(t, "metadata"))
        .and_then(|m| ensure(m, "labels"))
    {
        for prefix in ["", "batch.kubernetes.io/"] {
            default(labels, &format!("{prefix}job-name"), name);
            default(labels, &format!("{prefix}controller-uid"), uid);
        }
    }
    if let Some(labels) = ensure(spec, "selector").and_then(|s| ensure(s, "matchLabels")) {
        default(labels, "batch.kubernetes.io/controller-uid", uid);
    }
}

/// Defaults of a job's spec.
fn fill_spec(spec: &mut Value) {
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        set(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    let per_index = spec.get("backoffLimitPerIndex").is_some();
    default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let replacement = if spec.get("podFailurePolicy").is_some() {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    default(spec, "podReplacementPolicy", replacement);
    if let Some(pod) = spec.pointer_mut("/template/spec") {
        defaults::pod_spec(pod);
    }
}

/// What is doubtful in the spec of a job or of a cron job's template.
pub fn spec_warnings(spec: &Field<'_>, old: Option<&Value>) -> Vec<String> {
    const COMPLETIONS: i64 = 100_000;
    const PARALLELISM: i64 = 10_000;
    let mut warnings = Vec::new();
    let indexed = spec.get("completionMode").str() == "Indexed";
    if indexed && spec.get("completions").number() > COMPLETIONS && spec.get("parallelism").number() > PARALLELISM {
        warnings.push(format!(
            "{spec}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    warnings.extend(workload::warn(&spec.get("template"), old));
    warnings
}

/// The spec of a job that a cron job makes.
pub fn template_spec(spec: &Field<'_>, errors: &mut Errors) {
    validate::any_spec(spec, errors);
}

fn job_row(object: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers_and_images(object.pointer("/spec/template/spec"));
    let done = number(object, "/status/succeeded");
    let completions = match (
        object.pointer("/spec/completions").and_then(Value::as_i64),
        number(object, "/spec/parallelism"),
    ) {
        (Some(n), _) => format!("{done}/{n}"),
        (None, p) if p > 1 => format!("{done}/1 of {p}"),
        (None, _) => format!("{done}/1"),
    };
    vec![
        table::name(object),
        json!(job_status(object)),
        json!(completions),
        json!(duration(object, now)),
        table::age(object, now),
        names,
        images,
        json!(format_selector(object.pointer("/spec/selector"))),
    ]
}

fn job_status(object: &Value) -> &'static str {
    let is = |kind: &str| condition(object, kind).is_some_and(|c| text(c, "/status") == "True");
    let states = [("Complete", "Complete"), ("Failed", "Failed")];
    if let Some((_, shown)) = states.iter().find(|(kind, _)| is(kind)) {
        return shown;
    }
    if object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(Value::is_string)
    {
        return "Terminating";
    }
    let later = [
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ];
    later
        .iter()
        .find(|(kind, _)| is(kind))
        .map_or("Running", |(_, shown)| shown)
}

fn duration(object: &Value, now: Timestamp) -> String {
    let time = |pointer: &str| text(object, pointer).parse::<Timestamp>().ok();
    match (time("/status/startTime"), time("/status/completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => table::human_duration(end.unwrap_or(now).as_second() - start.as_second()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small job with a part of its spec replaced.
    fn created(field: &str, value: Value) -> Vec<String> {
        let mut job = json!({"metadata": {"name": "pi", "uid": "u1"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}}}});
        if field == "spec" {
            for (name, value) in value.as_object().cloned().unwrap_or_default() {
                job["spec"][name] = value;
            }
        } else {
            job["spec"][field] = value;
        }
        Job.default(&mut job);
        generate_selector(&mut job["spec"], "pi", "u1");
        let mut errors = Errors::new();
        validate::create(&Field::root("", &job), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn faults() {
        let cases: [(&str, Value, &[&str]); 8] = [
            ("parallelism", json!(2), &[]),
            (
                "parallelism",
                json!(-1),
                &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"],
            ),
            ("completionMode", json!("Indexed"), &[]),
            (
                "spec",
                json!({"completionMode": "Indexed", "parallelism": 1}),
                &["spec.completions: Required value: when completion mode is Indexed"],
            ),
            (
                "template",
                json!({"spec": {"containers": [{"name": "a", "image": "b"}]}}),
                &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
            ),
            (
                "managedBy",
                json!("x"),
                &["spec.managedBy: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")"],
            ),
            (
                "podFailurePolicy",
                json!({"rules": [{"action": "Explode", "onExitCodes": {"operator": "In", "values": [3, 0]}}]}),
                &[
                    "spec.podFailurePolicy.rules[0].action: Unsupported value: \"Explode\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0]: must be ordered",
                ],
            ),
            (
                "successPolicy",
                json!({"rules": [{"succeededCount": 1}]}),
                &[
                    "spec.successPolicy: Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires indexed completion mode",
                ],
            ),
        ];
        for (field, value, want) in cases {
            assert_eq!(created(field, value.clone()), want, "{value}");
        }
    }

    #[test]
    fn a_template_changes_only_while_the_job_has_not_begun() {
        let old =
            json!({"spec": {"suspend": true, "template": {"spec": {"nodeSelector": {"a": "1"}, "containers": []}}}});
        let changed = |old: &Value, pointer: &str, value: Value| {
            let mut new = old.clone();
            new["spec"]["template"]["spec"][pointer] = value;
            let mut errors = Errors::new();
            validate::template_update(&Field::root("spec", &new["spec"]), old, &mut errors);
            errors.len()
        };
        assert_eq!(changed(&old, "nodeSelector", json!({"b": "2"})), 0);
        assert_eq!(changed(&old, "schedulerName", json!("mine")), 1);
        let mut begun = old.clone();
        begun["status"] = json!({"startTime": "2026-01-01T00:00:00Z"});
        assert_eq!(changed(&begun, "nodeSelector", json!({"b": "2"})), 1);
    }

    #[test]
    fn a_status_goes_forward() {
        let job = |status: Value| json!({"spec": {"parallelism": 1}, "status": status});
        let change = |old: Value, new: Value| {
            let mut errors = Errors::new();
            status::update(&Field::root("", &job(new)), &job(old), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            change(json!({"failed": 2}), json!({"failed": 1})),
            ["status.failed: Invalid value: 1: cannot decrease the failed counter"]
        );
        assert_eq!(
            change(
                json!({}),
                json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [{"type": "Failed", "status": "True"}]})
            ),
            [
                "status.conditions: Invalid value: cannot set Failed=True condition without the FailureTarget=true condition"
            ]
        );
        assert_eq!(
            change(json!({}), json!({"active": 0, "ready": 1})),
            ["status.ready: Invalid value: 1: cannot set more ready pods than active"]
        );
    }

    #[test]
    fn selector_follows_the_uid() {
        let mut spec = json!({"template": {"spec": {}}});
        generate_selector(&mut spec, "pi", "u1");
        assert_eq!(
            spec["selector"]["matchLabels"],
            json!({"batch.kubernetes.io/controller-uid": "u1"})
        );
        assert_eq!(spec["template"]["metadata"]["labels"]["job-name"], "pi");
    }
}

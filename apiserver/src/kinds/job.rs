//! Jobs and CronJobs.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::common::{condition, containers_and_images, format_selector, label_selector};
use super::field::{Errors, Field, default, default_zero, ensure, number, set, text};
use super::pod::{defaults, validate};
use super::rules::Rules;
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
    validate: |root, errors| {
        let spec = root.get("spec");
        validate_spec(&spec, errors);
        if !spec.get("selector").exists() {
            spec.get("selector").required(errors, "");
        }
    },
    validate_update: update,
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

    fn validate(&self, cx: &WriteContext<'_>, object: &Value) -> Vec<api::FieldError> {
        RULES.validate(cx, object)
    }

    fn validate_update(&self, cx: &WriteContext<'_>, new: &Value, old: &Value) -> Vec<api::FieldError> {
        RULES.validate_update(cx, new, old)
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

/// Rules of `cronjobs.batch`.
pub static CRON_JOB: Rules = Rules {
    generation: true,
    default: |object| {
        let Some(spec) = ensure(object, "spec") else { return };
        default_zero(spec, "concurrencyPolicy", "Allow");
        default(spec, "suspend", false);
        default(spec, "successfulJobsHistoryLimit", 3);
        default(spec, "failedJobsHistoryLimit", 1);
        if let Some(pod) = spec.pointer_mut("/jobTemplate/spec/template/spec") {
            defaults::pod_spec(pod);
        }
    },
    validate: validate_cron,
    name: |name| {
        let mut messages = api::names::dns1123_subdomain(name);
        if name.len() > 52 {
            messages.push("must be no more than 52 characters".to_owned());
        }
        messages
    },
    columns: &[
        Column::NAME,
        Column::text("Schedule"),
        Column::text("Timezone"),
        Column::text("Suspend"),
        Column::integer("Active"),
        Column::text("Last Schedule"),
        Column::AGE,
        Column::text("Containers").wide(),
        Column::text("Images").wide(),
        Column::text("Selector").wide(),
    ],
    row: |object, now| {
        let [names, images] = containers_and_images(object.pointer("/spec/jobTemplate/spec/template/spec"));
        let last = object.pointer("/status/lastScheduleTime").filter(|t| t.is_string());
        let suspend = object
            .pointer("/spec/suspend")
            .and_then(Value::as_bool)
            .unwrap_or(false);
        vec![
            table::name(object),
            json!(text(object, "/spec/schedule")),
            json!(super::common::or_none(text(object, "/spec/timeZone"))),
            json!(if suspend { "True" } else { "False" }),
            json!(super::field::list(object, "/status/active").len()),
            last.map_or_else(|| json!("<none>"), |t| table::since(Some(t), now)),
            table::age(object, now),
            names,
            images,
            json!(format_selector(object.pointer("/spec/jobTemplate/spec/selector"))),
        ]
    },
    ..Rules::NONE
};

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

fn validate_spec(spec: &Field<'_>, errors: &mut Errors) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        spec.get(name).non_negative(errors);
    }
    let mode = spec.get("completionMode");
    if mode.exists() {
        mode.one_of(errors, &["Indexed", "NonIndexed"]);
    }
    if mode.str() == "Indexed" && !spec.get("completions").exists() {
        spec.get("completions")
            .required(errors, "when completion mode is Indexed");
    }
    label_selector(&spec.get("selector"), errors);
    let template = spec.get("template");
    validate::template(&template, errors);
    let pod = template.get("spec");
    let restart = pod.get("restartPolicy");
    match restart.str() {
        "OnFailure" | "Never" | "" => {}
        "Always" => restart.required(errors, "valid values: \"OnFailure\", \"Never\""),
        _ => restart.not_supported(errors, &["OnFailure", "Never"]),
    }
}

fn update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let spec = root.get("spec");
    for name in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "manualSelector",
    ] {
        spec.get(name).immutable(errors, &old["spec"][name]);
    }
    if old["spec"]["completionMode"] != "Indexed" {
        spec.get("completions").immutable(errors, &old["spec"]["completions"]);
    }
    let suspended = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
    if !suspended {
        spec.get("template").immutable(errors, &old["spec"]["template"]);
    }
}

fn validate_cron(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let schedule = spec.get("schedule");
    if schedule.is_empty() {
        schedule.required(errors, "");
    } else if schedule.str().contains("TZ") {
        schedule.invalid(
            errors,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
    } else if let Some(fault) = schedule_fault(schedule.str()) {
        schedule.invalid(errors, fault);
    }
    let zone = spec.get("timeZone");
    if zone.exists() && (zone.is_empty() || zone.str() == "Local") {
        zone.invalid(
            errors,
            if zone.is_empty() {
                "timeZone must be nil or non-empty string"
            } else {
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"
            },
        );
    }
    spec.get("startingDeadlineSeconds").non_negative(errors);
    spec.get("concurrencyPolicy")
        .required_one_of(errors, &["Allow", "Forbid", "Replace"]);
    spec.get("successfulJobsHistoryLimit").non_negative(errors);
    spec.get("failedJobsHistoryLimit").non_negative(errors);
    let template = spec.get("jobTemplate");
    let job = template.get("spec");
    validate_spec(&job, errors);
    if job.get("manualSelector").bool() {
        job.get("manualSelector").not_supported(errors, &["nil", "false"]);
    }
}

/// What is wrong with a cron schedule of five fields or an `@` name; the controller has the full parser.
fn schedule_fault(schedule: &str) -> Option<String> {
    const NAMES: [&str; 7] = [
        "@yearly",
        "@annually",
        "@monthly",
        "@weekly",
        "@daily",
        "@midnight",
        "@hourly",
    ];
    if schedule.starts_with('@') {
        let known = NAMES.contains(&schedule) || schedule.starts_with("@every ");
        return (!known).then(|| format!("unrecognized descriptor: {schedule}"));
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Some(format!(
            "expected exactly 5 fields, found {}: [{}]",
            fields.len(),
            fields.join(" ")
        ));
    }
    let ranges = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)];
    fields
        .iter()
        .zip(ranges)
        .find_map(|(field, range)| field.split(',').find_map(|part| part_fault(part, range)))
}

fn part_fault(part: &str, (low, high): (u32, u32)) -> Option<String> {
    let (span, step) = part.split_once('/').map_or((part, None), |(s, n)| (s, Some(n)));
    if step.is_some_and(|n| n.parse::<u32>().map_or(true, |n| n == 0)) {
        return Some(format!("step of range should be a positive number: {part}"));
    }
    if matches!(span, "*" | "?") {
        return None;
    }
    for end in span.splitn(2, '-') {
        match end.parse::<u32>() {
            Ok(n) if n < low => return Some(format!("beginning of range ({n}) below minimum ({low}): {part}")),
            Ok(n) if n > high => return Some(format!("end of range ({n}) above maximum ({high}): {part}")),
            Ok(_) => {}
            Err(_) if end.len() == 3 && end.bytes().all(|b| b.is_ascii_alphabetic()) => {}
            Err(_) => {
                return Some(format!(
                    "failed to parse int from {end}: strconv.Atoi: parsing {end:?}: invalid syntax"
                ));
            }
        }
    }
    None
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

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 0 1,15 * MON-FRI", "@hourly", "0 0 * jan 7"] {
            assert_eq!(schedule_fault(good), None, "{good}");
        }
        for bad in ["* * * *", "60 * * * *", "a * * * *", "*/0 * * * *", "@often"] {
            assert!(schedule_fault(bad).is_some(), "{bad}");
        }
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

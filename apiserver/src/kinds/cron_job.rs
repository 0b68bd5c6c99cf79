//! CronJobs.

use serde_json::{Value, json};

use super::common::{containers_and_images, format_selector};
use super::cron;
use super::field::{Errors, Field, default, default_zero, ensure, text};
use super::pod::defaults;
use super::rules::Rules;
use super::{job, workload};
use crate::registry::table::{self, Column};

/// A job's name is the cron job's and eleven bytes more.
const NAME_LIMIT: usize = 52;
const ZONE_IN_SCHEDULE: &str = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
const ZONE_TWICE: &str = "cannot use both timeZone field and TZ or CRON_TZ in schedule";

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
    validate,
    validate_update: update,
    warnings: |root, old| {
        let mut warnings = Vec::new();
        if old.is_none() {
            workload::warn_name(root, &mut warnings);
        }
        let spec = root.get("spec");
        let template = spec.get("jobTemplate");
        warnings.extend(job::spec_warnings(&template.get("spec"), old));
        if spec.get("schedule").str().contains("TZ") {
            warnings.push(
                "CRON_TZ or TZ used in spec.spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
                    .to_owned(),
            );
        }
        warnings
    },
    columns: &[
        Column::NAME,
        Column::text("Schedule"),
        Column::text("Timezone"),
        Column {
            kind: "boolean",
            ..Column::text("Suspend")
        },
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

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    schedule(&spec, errors);
    spec.get("startingDeadlineSeconds").non_negative(errors);
    time_zone(&spec.get("timeZone"), errors);
    spec.get("concurrencyPolicy")
        .required_one_of(errors, &["Allow", "Forbid", "Replace"]);
    let template = spec.get("jobTemplate");
    let own = template.get("spec");
    job::template_spec(&own, errors);
    if own.get("selector").exists() {
        own.get("selector").invalid(errors, "`selector` will be auto-generated");
    }
    if own.get("manualSelector").bool() {
        own.get("manualSelector").not_supported(errors, &["nil", "false"]);
    }
    spec.get("successfulJobsHistoryLimit").non_negative(errors);
    spec.get("failedJobsHistoryLimit").non_negative(errors);
    let metadata = root.get("metadata");
    let name = metadata.get("name");
    // Only of new ones: what exists may be changed and deleted.
    let is_new = metadata.get("resourceVersion").is_empty();
    if is_new && name.str().len() > NAME_LIMIT {
        name.invalid(errors, format!("must be no more than {NAME_LIMIT} characters"));
    }
}

fn schedule(spec: &Field<'_>, errors: &mut Errors) {
    let schedule = spec.get("schedule");
    if schedule.is_empty() {
        return schedule.required(errors, "");
    }
    if let Some(fault) = cron::fault(schedule.str()) {
        schedule.invalid(errors, fault);
    }
    if schedule.str().contains("TZ") {
        schedule.invalid(errors, ZONE_IN_SCHEDULE);
    }
}

/// A schedule that had a time zone before the field existed may keep it.
fn update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let spec = root.get("spec");
    let had = text(old, "/spec/schedule").contains("TZ");
    if had {
        errors.retain(|e| !(e.field == "spec.schedule" && e.detail == ZONE_IN_SCHEDULE));
        if spec.get("timeZone").exists() && spec.get("schedule").str().contains("TZ") {
            spec.get("schedule").invalid(errors, ZONE_TWICE);
        }
    }
    if spec.get("timeZone").value == &old["spec"]["timeZone"] {
        errors.retain(|e| e.field != "spec.timeZone");
    }
}

fn time_zone(zone: &Field<'_>, errors: &mut Errors) {
    const PART_LIMIT: usize = 14;
    if !zone.exists() {
        return;
    }
    let name = zone.str();
    if name.is_empty() {
        return zone.invalid(errors, "timeZone must be nil or non-empty string");
    }
    let unknown = format!("unknown time zone {name}");
    let letter = |b: u8| b.is_ascii_alphanumeric() || b".-_+".contains(&b);
    let fine = |part: &str| {
        (1..=PART_LIMIT).contains(&part.len())
            && part.bytes().all(letter)
            && !part.starts_with('-')
            && part != "."
            && part != ".."
    };
    if !name.split('/').all(fine) {
        return zone.invalid(errors, unknown);
    }
    if name.eq_ignore_ascii_case("local") {
        zone.invalid(
            errors,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    }
    let known = jiff::tz::TimeZone::get(name).is_ok_and(|zone| zone.iana_name().is_none_or(|iana| iana == name));
    if !known && name != "Local" {
        zone.invalid(errors, unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults() {
        let created = |field: &str, value: Value| {
            let mut object = json!({"metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {
                "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}}}}}});
            object["spec"][field] = value;
            (CRON_JOB.default)(&mut object);
            let mut errors = Errors::new();
            validate(&Field::root("", &object), &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let none = Vec::<String>::new();
        assert_eq!(created("suspend", json!(true)), none);
        assert_eq!(created("timeZone", json!("Europe/Paris")), none);
        assert_eq!(created("schedule", json!("")), ["spec.schedule: Required value"]);
        assert_eq!(
            created("schedule", json!("* * * *")),
            ["spec.schedule: Invalid value: \"* * * *\": expected exactly 5 fields, found 4: [* * * *]"]
        );
        assert_eq!(
            created("schedule", json!("TZ=UTC * * * * *")),
            [
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
            ]
        );
        assert_eq!(
            created("timeZone", json!("Mars/Base")),
            ["spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base"]
        );
        assert_eq!(
            created("concurrencyPolicy", json!("Maybe")),
            [
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\""
            ]
        );
    }
}

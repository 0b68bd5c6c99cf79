//! What may be said of a job's status. Only what a write changes is checked where upstream does so.

use std::collections::HashSet;

use api::{FieldError, FieldErrorKind};
use serde_json::Value;

use super::indexes;
use crate::kinds::field::{Errors, Field, list, same, text};

/// The status before and after.
struct Change<'a> {
    new: &'a Value,
    old: &'a Value,
}

impl Change<'_> {
    fn is(&self, condition: &str) -> bool {
        holds(self.new, condition)
    }

    fn was(&self, condition: &str) -> bool {
        holds(self.old, condition)
    }

    fn became(&self, condition: &str) -> bool {
        self.is(condition) != self.was(condition)
    }

    fn changed(&self, field: &str) -> bool {
        !same(&self.new["status"][field], &self.old["status"][field])
    }

    fn finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    /// The job ended, or ended no more, or the field is another.
    fn ended_or(&self, field: &str) -> bool {
        self.finished() != (self.was("Complete") || self.was("Failed")) || self.changed(field)
    }
}

fn holds(job: &Value, condition: &str) -> bool {
    list(job, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == condition && text(c, "/status") == "True")
}

/// A write of `status`.
pub fn update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let change = Change { new: root.value, old };
    let (spec, status) = (root.get("spec"), root.get("status"));
    for name in ["active", "succeeded", "failed", "ready", "terminating"] {
        status.get(name).non_negative(errors);
    }
    uncounted(&status.get("uncountedTerminatedPods"), errors);
    conditions(&change, &status, &spec, errors);
    times(&change, &status, &spec, errors);
    ended(&change, &status, errors);
    sets(&change, &status, &spec, errors);
    if (change.changed("ready") || change.changed("active"))
        && status.get("ready").number() > status.get("active").number()
    {
        status
            .get("ready")
            .invalid(errors, "cannot set more ready pods than active");
    }
    counters(&change, &status, &spec, errors);
}

fn uncounted(pods: &Field<'_>, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for name in ["succeeded", "failed"] {
        for uid in pods.get(name).items() {
            if uid.is_empty() {
                uid.invalid(errors, "must not be empty");
            } else if !seen.insert(uid.str().to_owned()) {
                uid.duplicate(errors);
            }
        }
    }
}

fn conditions(change: &Change<'_>, status: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let place = status.get("conditions").to_string();
    let (complete, failed) = (change.is("Complete"), change.is("Failed"));
    let (met, target) = (change.is("SuccessCriteriaMet"), change.is("FailureTarget"));
    let completed = change.became("Complete");
    let faults = [
        (
            complete && failed && (completed || change.became("Failed")),
            "cannot set Complete=True and Failed=true conditions",
        ),
        (
            complete && target && (completed || change.became("FailureTarget")),
            "cannot set Complete=True and FailureTarget=true conditions",
        ),
        (
            failed && !target && (change.became("Failed") || change.became("FailureTarget")),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !met && (completed || change.became("SuccessCriteriaMet")),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (
            met && failed,
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            met && target,
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            spec.get("successPolicy").exists() && !met && complete,
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
        (
            change.was("Failed") && !failed,
            "cannot disable the terminal Failed=True condition",
        ),
        (
            change.was("Complete") && !complete,
            "cannot disable the terminal Complete=True condition",
        ),
        (
            change.was("FailureTarget") && !target,
            "cannot disable the terminal FailureTarget=True condition",
        ),
        (
            change.was("SuccessCriteriaMet") && !met,
            "cannot disable the SuccessCriteriaMet=True condition",
        ),
        (
            change.was("Complete") && !change.was("SuccessCriteriaMet") && met,
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
        ),
    ];
    for (_, detail) in faults.iter().filter(|(broken, _)| *broken) {
        errors.push(FieldError {
            kind: FieldErrorKind::Invalid,
            field: place.clone(),
            bad_value: None,
            detail: (*detail).to_owned(),
        });
    }
}

fn times(change: &Change<'_>, status: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let (start, end) = (status.get("startTime"), status.get("completionTime"));
    let complete = change.is("Complete");
    if change.became("Complete") || change.changed("completionTime") {
        if end.exists() && !complete {
            end.invalid(
                errors,
                "cannot set completionTime when there is no Complete=True condition",
            );
        }
        if !end.exists() && complete {
            end.required(errors, "completionTime is required for Complete jobs");
        }
    }
    let moved = change.changed("startTime") || change.changed("completionTime");
    if moved && start.exists() && end.exists() && end.str() < start.str() {
        end.invalid(errors, "completionTime cannot be set before startTime");
    }
    let before = &change.old["status"];
    if end.exists() && !before["completionTime"].is_null() && change.changed("completionTime") {
        end.invalid(errors, "completionTime cannot be mutated");
    }
    if !before["startTime"].is_null() && change.changed("startTime") && !spec.get("suspend").bool() {
        start.required(errors, "startTime cannot be removed for unsuspended job");
    }
}

fn ended(change: &Change<'_>, status: &Field<'_>, errors: &mut Errors) {
    if !change.finished() {
        return;
    }
    let (active, start, terminating) = (status.get("active"), status.get("startTime"), status.get("terminating"));
    if change.ended_or("active") && active.number() > 0 {
        active.invalid(errors, "active>0 is invalid for finished job");
    }
    if change.ended_or("startTime") && !start.exists() {
        start.required(errors, "startTime is required for finished job");
    }
    let pods = status.get("uncountedTerminatedPods");
    let some = !pods.get("succeeded").is_empty() || !pods.get("failed").is_empty();
    if change.ended_or("uncountedTerminatedPods") && some {
        pods.invalid(errors, "uncountedTerminatedPods needs to be empty for finished job");
    }
    if change.ended_or("terminating") && terminating.number() > 0 {
        terminating.invalid(errors, "terminating>0 is invalid for finished job");
    }
}

/// The indexes that are done and those that failed.
fn sets(change: &Change<'_>, status: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let (done, failed) = (status.get("completedIndexes"), status.get("failedIndexes"));
    let (new_done, new_failed) = (change.changed("completedIndexes"), change.changed("failedIndexes"));
    let (completions, per_index) = (spec.get("completions"), spec.get("backoffLimitPerIndex").exists());
    let read = |set: &Field<'_>, name: &str, errors: &mut Errors| {
        if let Err(why) = indexes::parse(set.str(), completions.number()) {
            set.invalid(errors, format!("error parsing {name}: {why}"));
        }
    };
    if new_done && completions.exists() {
        read(&done, "completedIndexes", errors);
    }
    if new_failed && completions.exists() && per_index && failed.exists() {
        read(&failed, "failedIndexes", errors);
    }
    if new_done && !done.is_empty() && spec.get("completionMode").str() != "Indexed" {
        done.invalid(
            errors,
            "cannot set non-empty completedIndexes when non-indexed completion mode",
        );
    }
    if new_failed && failed.exists() && !per_index {
        failed.invalid(
            errors,
            "cannot set non-null failedIndexes when backoffLimitPerIndex is null",
        );
    }
    let overlap = indexes::overlap(done.str(), failed.str(), completions.number());
    if let Some(index) = overlap.filter(|_| new_done || new_failed) {
        failed.invalid(
            errors,
            format!("failedIndexes and completedIndexes overlap at index: {index}"),
        );
    }
}

/// Counts go up; that of an indexed job whose size follows its parallelism may go down with it.
fn counters(change: &Change<'_>, status: &Field<'_>, spec: &Field<'_>, errors: &mut Errors) {
    let before = |name: &str| change.old["status"][name].as_i64().unwrap_or(0);
    let (failed, succeeded) = (status.get("failed"), status.get("succeeded"));
    if failed.number() < before("failed") {
        failed.invalid_as(errors, failed.number(), "cannot decrease the failed counter");
    }
    let elastic =
        spec.get("completionMode").str() == "Indexed" && spec.get("completions").value == spec.get("parallelism").value;
    if !elastic && succeeded.number() < before("succeeded") {
        succeeded.invalid_as(errors, succeeded.number(), "cannot decrease the succeeded counter");
    }
}

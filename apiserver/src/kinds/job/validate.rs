//! Validation of jobs. Source: `pkg/apis/batch/validation/validation.go`.

use std::collections::HashSet;

use api::{FieldError, names};
use serde_json::{Value, json};

use super::indexes;
use crate::kinds::common::{domain_prefixed_path, label_selector, selector_matches};
use crate::kinds::field::{Errors, Field, list, same, text};
use crate::kinds::pod::validate as pod;
use crate::kinds::workload;
use crate::registry::strategy::restore;

const RULES: usize = 20;
const EXIT_CODES: usize = 255;
const CONDITIONS: usize = 20;
const MANAGER_LIMIT: usize = 63;
const INDEXES_LIMIT: usize = 64 << 10;
/// The most pods at once, and failed indexes, of an indexed job.
const INDEXED_LIMIT: i64 = 100_000;
/// The same, of one with more completions than that.
const LARGE_LIMIT: i64 = 10_000;
const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: &[&str] = &["In", "NotIn"];
const STATUSES: &[&str] = &["False", "True", "Unknown"];
const BY_INDEX_ONLY: &str = "requires indexed completion mode";

/// A new job.
pub fn create(root: &Field<'_>, errors: &mut Errors) {
    generated_selector(root, errors);
    let (metadata, own) = (root.get("metadata"), root.get("spec"));
    spec(&own, errors);
    let (name, completions) = (metadata.get("name"), own.get("completions").number());
    if own.get("completionMode").str() == "Indexed" && completions > 0 {
        let host = format!("{}-{}", name.str(), completions - 1);
        if !names::dns1123_label(&host).is_empty() {
            name.invalid(
                errors,
                format!("will not able to create pod with invalid DNS label: {host}"),
            );
        }
    }
}

/// What was generated is still as it was generated.
fn generated_selector(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let selector = spec.get("selector");
    if spec.get("manualSelector").bool() || !selector.exists() {
        return;
    }
    let (uid, name) = (text(root.value, "/metadata/uid"), text(root.value, "/metadata/name"));
    let template = spec.get("template");
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    let mut expected = json!({});
    for (key, value) in [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ] {
        expected[key] = value.into();
        let label = labels.key(key);
        if !label.exists() {
            label.required(errors, &format!("must be '{value}'"));
        } else if label.str() != value {
            label.invalid_as(errors, labels.value.clone(), format!("must be '{value}'"));
        }
    }
    if !selector_matches(selector.value, &expected) {
        selector.invalid(errors, "`selector` not auto-generated");
    }
}

/// The spec of a job, with its selector.
pub fn spec(spec: &Field<'_>, errors: &mut Errors) {
    any_spec(spec, errors);
    let selector = spec.get("selector");
    if selector.exists() {
        label_selector(&selector, errors);
    } else {
        selector.required(errors, "");
    }
    workload::selected(&spec.get("template"), selector.value, errors);
}

/// The spec of a job or of a cron job's template.
pub fn any_spec(spec: &Field<'_>, errors: &mut Errors) {
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
    if spec.get("maxFailedIndexes").exists() && !spec.get("backoffLimitPerIndex").exists() {
        spec.get("backoffLimitPerIndex")
            .required(errors, "when maxFailedIndexes is specified");
    }
    let manager = spec.get("managedBy");
    if manager.exists() {
        domain_prefixed_path(&manager, errors);
        if manager.str().len() > MANAGER_LIMIT {
            manager.too_long(errors, MANAGER_LIMIT);
        }
    }
    completion_mode(spec, errors);
    failure_policy(spec, errors);
    success_policy(spec, errors);
    let replacement = spec.get("podReplacementPolicy");
    if spec.get("podFailurePolicy").exists() {
        replacement.one_of_if_set(errors, &["Failed"]);
    } else {
        replacement.one_of_if_set(errors, &["Failed", "TerminatingOrFailed"]);
    }
    let template = spec.get("template");
    pod::template(&template, errors);
    let own = template.get("spec");
    let restart = own.get("restartPolicy");
    match restart.str() {
        "Always" | "" => restart.required(errors, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.get("podFailurePolicy").exists() => {
            restart.invalid(errors, "only \"Never\" is supported when podFailurePolicy is specified")
        }
        _ => restart.one_of(errors, &["OnFailure", "Never"]),
    }
}

fn completion_mode(spec: &Field<'_>, errors: &mut Errors) {
    let (mode, most_failed) = (spec.get("completionMode"), spec.get("maxFailedIndexes"));
    mode.one_of_if_set(errors, &["NonIndexed", "Indexed"]);
    if mode.str() == "Indexed" {
        return indexed(spec, errors);
    }
    if mode.exists() && mode.str() != "NonIndexed" {
        return;
    }
    for field in [spec.get("backoffLimitPerIndex"), most_failed] {
        if field.exists() {
            field.invalid(errors, BY_INDEX_ONLY);
        }
    }
}

fn indexed(spec: &Field<'_>, errors: &mut Errors) {
    let (completions, parallelism, failed) = (
        spec.get("completions"),
        spec.get("parallelism"),
        spec.get("maxFailedIndexes"),
    );
    if !completions.exists() {
        completions.required(errors, "when completion mode is Indexed");
    }
    if parallelism.number() > INDEXED_LIMIT {
        let detail = format!("must be less than or equal to {INDEXED_LIMIT} when completion mode is Indexed");
        parallelism.invalid(errors, detail);
    }
    if completions.exists() && failed.number() > completions.number() {
        failed.invalid(errors, "must be less than or equal to completions");
    }
    if failed.number() > INDEXED_LIMIT {
        failed.invalid(errors, format!("must be less than or equal to {INDEXED_LIMIT}"));
    }
    if completions.number() <= INDEXED_LIMIT || !spec.get("backoffLimitPerIndex").exists() {
        return;
    }
    if !failed.exists() {
        let detail = format!("must be specified when completions is above {INDEXED_LIMIT}");
        failed.required(errors, &detail);
    }
    for field in [parallelism, failed].into_iter().filter(|f| f.number() > LARGE_LIMIT) {
        field.invalid(
            errors,
            format!("must be less than or equal to {LARGE_LIMIT} when completions are above {INDEXED_LIMIT} and used with backoff limit per index"),
        );
    }
}

/// Text that is missing is required with what it may be; other text is one of that.
fn required_of(field: &Field<'_>, values: &[&str], errors: &mut Errors) {
    if field.is_empty() {
        let shown: Vec<String> = values.iter().map(|v| format!("{v:?}")).collect();
        field.required(errors, &format!("valid values: [{}]", shown.join(" ")));
    } else {
        field.one_of(errors, values);
    }
}

/// `Invalid value: detail`, without the value.
fn fault(field: &Field<'_>, detail: &str, errors: &mut Errors) {
    errors.push(FieldError {
        kind: api::FieldErrorKind::Invalid,
        field: field.to_string(),
        bad_value: None,
        detail: detail.to_owned(),
    });
}

fn failure_policy(spec: &Field<'_>, errors: &mut Errors) {
    let policy = spec.get("podFailurePolicy");
    let rules = policy.get("rules");
    rules.too_many(errors, RULES);
    let pod = &spec.value["template"]["spec"];
    let containers: HashSet<&str> = ["/containers", "/initContainers"]
        .iter()
        .flat_map(|pointer| list(pod, pointer))
        .map(|c| text(c, "/name"))
        .collect();
    for rule in rules.items() {
        let (action, codes, conditions) = (rule.get("action"), rule.get("onExitCodes"), rule.get("onPodConditions"));
        if action.str() == "FailIndex" {
            if !spec.get("backoffLimitPerIndex").exists() {
                action.invalid(errors, "requires the backoffLimitPerIndex to be set");
            }
        } else {
            required_of(&action, ACTIONS, errors);
        }
        if codes.exists() {
            exit_codes(&codes, &containers, errors);
        }
        conditions.too_many(errors, CONDITIONS);
        for pattern in conditions.items() {
            pattern.get("type").check(errors, names::qualified_name);
            required_of(&pattern.get("status"), STATUSES, errors);
        }
        match (codes.exists(), conditions.is_empty()) {
            (true, false) => fault(
                &rule,
                "specifying both OnExitCodes and OnPodConditions is not supported",
                errors,
            ),
            (false, true) => fault(
                &rule,
                "specifying one of OnExitCodes and OnPodConditions is required",
                errors,
            ),
            _ => {}
        }
    }
}

fn exit_codes(codes: &Field<'_>, containers: &HashSet<&str>, errors: &mut Errors) {
    let (operator, container, values) = (codes.get("operator"), codes.get("containerName"), codes.get("values"));
    required_of(&operator, OPERATORS, errors);
    if container.exists() && !containers.contains(container.str()) {
        container.invalid(
            errors,
            "must be one of the container or initContainer names in the pod template",
        );
    }
    if values.is_empty() {
        values.invalid_as(errors, values.value.clone(), "at least one value is required");
    }
    values.too_many(errors, EXIT_CODES);
    let mut seen = HashSet::new();
    for value in values.items() {
        if operator.str() == "In" && value.number() == 0 {
            value.invalid(errors, "must not be 0 for the In operator");
        }
        if !seen.insert(value.number()) {
            value.duplicate(errors);
        }
    }
    let all: Vec<i64> = values.items().map(|v| v.number()).collect();
    if !all.is_sorted() {
        values.invalid(errors, "must be ordered");
    }
}

fn success_policy(spec: &Field<'_>, errors: &mut Errors) {
    let policy = spec.get("successPolicy");
    if !policy.exists() {
        return;
    }
    if spec.get("completionMode").str() != "Indexed" {
        return policy.invalid(errors, BY_INDEX_ONLY);
    }
    let rules = policy.get("rules");
    if rules.is_empty() {
        rules.required(
            errors,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    rules.too_many(errors, RULES);
    for rule in rules.items() {
        success_rule(&rule, spec.get("completions").number(), errors);
    }
}

fn success_rule(rule: &Field<'_>, completions: i64, errors: &mut Errors) {
    let (number, set) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
    if !number.exists() && !set.exists() {
        rule.required(
            errors,
            "at least one of succeededCount or succeededIndexes must be specified",
        );
    }
    if set.str().len() > INDEXES_LIMIT {
        set.too_long(errors, INDEXES_LIMIT);
    }
    let total = indexes::parse(set.str(), completions).map(|all| indexes::count(&all));
    if let Err(why) = &total {
        set.invalid(errors, format!("error parsing succeededIndexes: {why}"));
    }
    number.non_negative(errors);
    if number.number() > completions {
        let detail = format!("must be less than or equal to {completions} (the number of specified completions)");
        number.invalid(errors, detail);
    }
    let total = total.unwrap_or(0);
    if set.exists() && number.number() > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        number.invalid(errors, detail);
    }
}

/// What may change of a job; its spec as such is checked before.
pub fn update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let (spec, before) = (root.get("spec"), &old["spec"]);
    let completions = spec.get("completions");
    if spec.get("completionMode").str() != "Indexed" {
        completions.immutable(errors, &before["completions"]);
    } else if completions.exists()
        && completions.value != &before["completions"]
        && completions.number() != spec.get("parallelism").number()
    {
        completions.invalid(errors, "can only be modified in tandem with spec.parallelism");
    }
    spec.get("selector").immutable(errors, &before["selector"]);
    template_update(&spec, old, errors);
    for name in [
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        spec.get(name).immutable(errors, &before[name]);
    }
}

/// A suspended job that has not begun may be sent elsewhere; otherwise its template stays.
pub fn template_update(spec: &Field<'_>, old: &Value, errors: &mut Errors) {
    let template = spec.get("template");
    let mut before = old["spec"]["template"].clone();
    if old["spec"]["suspend"] == true && old["status"]["startTime"].is_null() {
        let new = template.value;
        if let Some(pod) = before.get_mut("spec") {
            for field in ["nodeSelector", "tolerations", "schedulingGates"] {
                restore(pod, &new["spec"], field);
            }
            let node = new["spec"]["affinity"]["nodeAffinity"].clone();
            if pod["affinity"].is_object() || !node.is_null() {
                pod["affinity"]["nodeAffinity"] = node;
            }
        }
        for field in ["annotations", "labels"] {
            if new["metadata"].is_object() || before["metadata"].is_object() {
                before["metadata"][field] = new["metadata"][field].clone();
            }
        }
    }
    if !same(template.value, &before) {
        template.immutable(errors, &before);
    }
}

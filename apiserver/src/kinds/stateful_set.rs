//! StatefulSets and the ControllerRevisions they and DaemonSets keep.

use serde_json::{Value, json};

use super::claim::{self, fill_template};
use super::common::containers_and_images;
use super::field::{Errors, Field, default, default_zero, each, ensure, int_or_percent, number, same, text};
use super::pod::{annotations, defaults};
use super::rules::Rules;
use super::workload::{self, MORE_THAN_REPLICAS};
use crate::registry::strategy::restore;
use crate::registry::table::{self, Column};

/// Rules of `statefulsets.apps`.
pub static STATEFUL_SET: Rules = Rules {
    generation: true,
    default: fill,
    validate,
    validate_update,
    validate_status: status,
    warnings: |root, old| {
        let mut warnings = workload::template_warnings(root, old);
        let spec = root.get("spec");
        for claim in spec.get("volumeClaimTemplates").items() {
            claim::warn_spec(&claim.get("spec"), &mut warnings);
        }
        warnings
    },
    name: api::names::dns1123_label,
    columns: &[
        Column::NAME,
        Column::text("Ready"),
        Column::AGE,
        Column::text("Containers").wide(),
        Column::text("Images").wide(),
    ],
    row: |object, now| {
        let [names, images] = containers_and_images(object.pointer("/spec/template/spec"));
        let ready = format!(
            "{}/{}",
            number(object, "/status/readyReplicas"),
            number(object, "/spec/replicas")
        );
        vec![
            table::name(object),
            json!(ready),
            table::age(object, now),
            names,
            images,
        ]
    },
    ..Rules::NONE
};

/// Rules of `controllerrevisions.apps`.
pub static CONTROLLER_REVISION: Rules = Rules {
    validate: |root, errors| {
        let revision = root.get("revision");
        revision.non_negative(errors);
        let data = root.get("data");
        if !data.exists() {
            data.required(errors, "data is mandatory");
        }
    },
    validate_update: |root, old, errors| root.get("data").immutable(errors, &old["data"]),
    columns: &[
        Column::NAME,
        Column::text("Controller"),
        Column::text("Revision"),
        Column::AGE,
    ],
    row: |object, now| {
        let owners = super::field::list(object, "/metadata/ownerReferences");
        let owner = owners
            .iter()
            .find(|o| o.get("controller").and_then(Value::as_bool) == Some(true));
        let shown = owner.map_or_else(|| "<none>".to_owned(), controller_name);
        vec![
            table::name(object),
            json!(shown),
            json!(number(object, "/revision")),
            table::age(object, now),
        ]
    },
    unconditional_update: false,
    ..Rules::NONE
};

/// `statefulset.apps/web`
fn controller_name(owner: &Value) -> String {
    let kind = text(owner, "/kind").to_lowercase();
    match text(owner, "/apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", text(owner, "/name")),
        None => format!("{kind}/{}", text(owner, "/name")),
    }
}

fn fill(object: &mut Value) {
    let Some(spec) = ensure(object, "spec") else { return };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default_zero(spec, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = ensure(spec, "updateStrategy") {
        default_zero(strategy, "type", "RollingUpdate");
        if text(strategy, "/type") == "RollingUpdate"
            && let Some(rolling) = ensure(strategy, "rollingUpdate")
        {
            default(rolling, "partition", 0);
            default(rolling, "maxUnavailable", 1);
        }
    }
    if let Some(policy) = ensure(spec, "persistentVolumeClaimRetentionPolicy") {
        default_zero(policy, "whenDeleted", "Retain");
        default_zero(policy, "whenScaled", "Retain");
    }
    if let Some(pod) = spec.pointer_mut("/template/spec") {
        defaults::pod_spec(pod);
    }
    for claim in each(spec, "volumeClaimTemplates") {
        default_zero(claim, "apiVersion", "v1");
        default_zero(claim, "kind", "PersistentVolumeClaim");
        fill_template(claim);
    }
}

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    let (policy, strategy) = (spec.get("podManagementPolicy"), spec.get("updateStrategy"));
    match policy.str() {
        "" => policy.required(errors, ""),
        "OrderedReady" | "Parallel" => {}
        _ => policy.invalid(errors, "must be 'OrderedReady' or 'Parallel'"),
    }
    update_strategy(&strategy, errors);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        retention.get(name).one_of_if_set(errors, &["Retain", "Delete"]);
    }
    let ordinals = spec.get("ordinals");
    spec.get("replicas").non_negative(errors);
    spec.get("minReadySeconds").non_negative(errors);
    ordinals.get("start").non_negative(errors);
    spec.get("revisionHistoryLimit").non_negative(errors);
    workload::selector(&spec, "statefulset", errors);
    let template = spec.get("template");
    workload::selected(&template, spec.get("selector").value, errors);
    metadata(&template, errors);
    workload::runs_forever(&template, "StatefulSet", errors);
}

/// The pods' spec is checked when they are made: their volumes are those of the template and the claims together.
fn metadata(template: &Field<'_>, errors: &mut Errors) {
    let metadata = template.get("metadata");
    let (labels, notes) = (format!("{template}.labels"), format!("{template}.annotations"));
    super::common::labels(&Field::root(&labels, metadata.get("labels").value), errors);
    let notes = Field::root(&notes, metadata.get("annotations").value);
    annotations::keys(&notes, errors);
    annotations::pod(&notes, &template.get("spec"), errors);
}

fn update_strategy(strategy: &Field<'_>, errors: &mut Errors) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "" => strategy.required(errors, ""),
        "OnDelete" if rolling.exists() => rolling.invalid(errors, "only allowed for updateStrategy 'RollingUpdate'"),
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").non_negative(errors);
            let unavailable = rolling.get("maxUnavailable");
            if unavailable.exists() {
                int_or_percent(&unavailable, errors);
                if !workload::is_some(&unavailable) {
                    unavailable.invalid(errors, "cannot be 0");
                }
                workload::at_most_all(&unavailable, errors);
            }
        }
        other => strategy.invalid_as(
            errors,
            json!({"Type": other, "RollingUpdate": null}),
            "must be 'RollingUpdate' or 'OnDelete'",
        ),
    }
}

fn status(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let status = root.get("status");
    workload::counts(
        &status,
        &[
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ],
        &[
            ("readyReplicas", "replicas", MORE_THAN_REPLICAS),
            ("currentReplicas", "replicas", MORE_THAN_REPLICAS),
            ("updatedReplicas", "replicas", MORE_THAN_REPLICAS),
            ("availableReplicas", "replicas", MORE_THAN_REPLICAS),
            (
                "availableReplicas",
                "readyReplicas",
                "cannot be greater than status.readyReplicas",
            ),
        ],
        errors,
    );
    workload::collisions(&status, old, errors);
}

const UPDATE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', \
'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

fn validate_update(root: &Field<'_>, old: &Value, errors: &mut Errors) {
    let spec = root.get("spec");
    let mut kept = spec.value.clone();
    for field in [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ] {
        restore(&mut kept, &old["spec"], field);
    }
    if !same(&kept, &old["spec"]) {
        spec.forbidden(errors, UPDATE);
    }
}

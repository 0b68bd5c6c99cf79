//! StatefulSets and the ControllerRevisions they and DaemonSets keep.

use serde_json::{Value, json};

use super::common::containers_and_images;
use super::field::{Errors, Field, default, default_zero, each, ensure, int_or_percent, number, text};
use super::pod::{defaults, workload};
use super::rules::Rules;
use super::volume::fill_claim;
use crate::registry::strategy::restore;
use crate::registry::table::{self, Column};

/// Rules of `statefulsets.apps`.
pub static STATEFUL_SET: Rules = Rules {
    generation: true,
    default: fill,
    validate,
    validate_update,
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
        Column::integer("Revision"),
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
        fill_claim(claim);
    }
}

fn validate(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.get("spec");
    spec.get("podManagementPolicy")
        .required_one_of(errors, &["OrderedReady", "Parallel"]);
    for name in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        spec.get(name).non_negative(errors);
    }
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "" => strategy.get("type").required(errors, ""),
        "OnDelete" if rolling.exists() => rolling.invalid(errors, "only allowed for updateStrategy 'RollingUpdate'"),
        "OnDelete" => {}
        "RollingUpdate" => {
            rolling.get("partition").non_negative(errors);
            int_or_percent(&rolling.get("maxUnavailable"), errors);
        }
        _ => strategy
            .get("type")
            .invalid(errors, "must be 'RollingUpdate' or 'OnDelete'"),
    }
    workload(&spec, "statefulset", errors);
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
    if kept != old["spec"] {
        spec.forbidden(errors, UPDATE);
    }
}

//! A pod's priority is the number of its PriorityClass. At most one class is the default.

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, forbidden, is, writes};
use crate::kinds::field::{number, set, text};
use crate::registry::access::{AdmissionRequest, Operation};

const GROUP: &str = "scheduling.k8s.io";
const DEFAULT_PREEMPTION: &str = "PreemptLowerPriority";

pub(super) struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && (is(request, "", "pods") || is(request, GROUP, "priorityclasses"))
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Error> {
        match request.operation {
            Operation::Create if is(request, "", "pods") => admit_pod(cx, request, object).await,
            Operation::Update if is(request, "", "pods") => {
                keep(request, object);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        if !is(request, GROUP, "priorityclasses") || object.get("globalDefault") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        let name = text(object, "/metadata/name");
        match default_class(cx).await? {
            Some(other) if text(&other, "/metadata/name") != name => {
                let why = format!(
                    "PriorityClass {} is already marked as default. Only one default can exist",
                    text(&other, "/metadata/name")
                );
                Err(forbidden(request, why))
            }
            _ => Ok(()),
        }
    }
}

/// A caller that leaves out what this plugin filled in keeps it.
fn keep(request: &AdmissionRequest<'_>, pod: &mut Value) {
    let (Some(old), Some(spec)) = (request.old, pod.get_mut("spec")) else {
        return;
    };
    for field in ["priority", "preemptionPolicy"] {
        if let (None, Some(value)) = (spec.get(field), old["spec"].get(field)) {
            set(spec, field, value.clone());
        }
    }
}

async fn default_class(cx: &Context) -> Result<Option<Value>, Error> {
    let classes = cx.list(GROUP, "priorityclasses", "").await?;
    let defaults = classes
        .into_iter()
        .filter(|c| c.get("globalDefault") == Some(&Value::Bool(true)));
    Ok(defaults.min_by_key(|c| number(c, "/value")))
}

async fn admit_pod(cx: &Context, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Error> {
    let name = text(pod, "/spec/priorityClassName").to_owned();
    let class = if name.is_empty() {
        default_class(cx).await?
    } else {
        let found = cx.get(GROUP, "priorityclasses", "", &name).await?;
        Some(found.ok_or_else(|| forbidden(request, format!("no PriorityClass with name {name} was found")))?)
    };
    let (value, policy) = match &class {
        Some(class) => (number(class, "/value"), text(class, "/preemptionPolicy")),
        None => (0, DEFAULT_PREEMPTION),
    };
    let policy = if policy.is_empty() { DEFAULT_PREEMPTION } else { policy }.to_owned();
    if pod
        .pointer("/spec/priority")
        .and_then(Value::as_i64)
        .is_some_and(|own| own != value)
    {
        let own = number(pod, "/spec/priority");
        return Err(forbidden(
            request,
            format!(
                "the integer value of priority ({own}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            ),
        ));
    }
    let given = text(pod, "/spec/preemptionPolicy");
    if !given.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(forbidden(request, why));
    }
    let Some(spec) = pod.get_mut("spec") else { return Ok(()) };
    if let (true, Some(class)) = (name.is_empty(), &class) {
        set(spec, "priorityClassName", text(class, "/metadata/name"));
    }
    set(spec, "priority", json!(value));
    set(spec, "preemptionPolicy", policy);
    Ok(())
}

//! Facts about a pod that several controllers ask for.

use std::time::Duration;

use api::Object;
use api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use api::meta::{ObjectMeta, OwnerReference};
use jiff::Timestamp;

/// `status.phase`, empty when the pod has none yet.
pub fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("")
}

/// Whether all containers have ended for good.
pub fn is_terminated(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod runs or will: neither ended nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminated(pod) && !pod.is_deleting()
}

/// The condition of this type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Whether condition `Ready` is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// The node the pod is bound to, empty if none.
pub fn node(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or("")
}

/// Whether a pod has been ready long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// It is not ready.
    Unready,
    /// It is ready and becomes available after this time, if it stays so.
    After(Duration),
    /// It has been ready for the minimum.
    Available,
}

/// Availability after `min_ready_seconds` of readiness.
pub fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(ready) = condition(pod, "Ready").filter(|ready| ready.status == "True") else {
        return Availability::Unready;
    };
    if min_ready_seconds <= 0 {
        return Availability::Available;
    }
    let Some(since) = &ready.last_transition_time else {
        return Availability::Unready;
    };
    let minimum = Duration::from_secs(min_ready_seconds.unsigned_abs().into());
    match minimum.checked_sub(elapsed(since.0, now)) {
        Some(left) if !left.is_zero() => Availability::After(left),
        _ => Availability::Available,
    }
}

/// The time from `since` to `now`, zero when the clocks disagree.
pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// The greatest restart count of the pod's containers.
pub fn max_restarts(pod: &Pod) -> i32 {
    let containers = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).max().unwrap_or(0)
}

/// A pod made from a template for its controller: the template's labels, annotations and finalizers, a generated name.
pub fn from_template(template: &PodTemplateSpec, namespace: &str, owner: &str, reference: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(owner)),
            namespace: Some(namespace.to_owned()),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![reference]),
            ..Default::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// `<owner>-`, shortened so that the five random characters fit into a name.
fn generate_name(owner: &str) -> String {
    const LONGEST: usize = 253 - 1 - 5;
    format!("{}-", owner.get(..LONGEST).unwrap_or(owner))
}

#[cfg(test)]
pub mod testing {
    //! Pods for table tests.

    use api::core::v1::{PodSpec, PodStatus};
    use api::meta::Time;

    use super::*;

    /// The instant the tests call now.
    pub fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    /// `seconds` before now.
    pub fn ago(seconds: i64) -> Time {
        Time(Timestamp::from_second(1_700_000_000 - seconds).unwrap())
    }

    /// A pod `default/<name>`, labelled `app=web`, in this phase.
    pub fn pod(name: &str, phase: &str) -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("default".into()),
                uid: Some(format!("{name}-uid")),
                labels: Some([("app".to_owned(), "web".to_owned())].into()),
                creation_timestamp: Some(ago(1000)),
                ..Default::default()
            },
            spec: Some(PodSpec::default()),
            status: Some(PodStatus {
                phase: Some(phase.into()),
                ..Default::default()
            }),
        }
    }

    /// The pod on a node.
    pub fn on_node(mut pod: Pod, node: &str) -> Pod {
        pod.spec.get_or_insert_default().node_name = Some(node.into());
        pod
    }

    /// The pod with its Ready condition, as of `seconds` before now.
    pub fn with_ready(mut pod: Pod, ready: bool, seconds: i64) -> Pod {
        let status = if ready { "True" } else { "False" };
        pod.status.get_or_insert_default().conditions = Some(vec![PodCondition {
            type_: "Ready".into(),
            status: status.into(),
            last_transition_time: Some(ago(seconds)),
            ..Default::default()
        }]);
        pod
    }

    /// The pod under a controller.
    pub fn owned_by(mut pod: Pod, kind: &str, uid: &str) -> Pod {
        pod.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "apps/v1".into(),
            kind: kind.into(),
            name: "web".into(),
            uid: uid.into(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]);
        pod
    }

    /// The pod, marked for deletion.
    pub fn deleting(mut pod: Pod) -> Pod {
        pod.metadata.deletion_timestamp = Some(ago(1));
        pod
    }

    #[test]
    fn availability_counts_from_readiness() {
        let cases = [
            (pod("a", "Running"), 0, Availability::Unready),
            (with_ready(pod("a", "Running"), false, 100), 0, Availability::Unready),
            (with_ready(pod("a", "Running"), true, 0), 0, Availability::Available),
            (
                with_ready(pod("a", "Running"), true, 4),
                10,
                Availability::After(Duration::from_secs(6)),
            ),
            (with_ready(pod("a", "Running"), true, 10), 10, Availability::Available),
        ];
        for (pod, min_ready, expected) in cases {
            assert_eq!(availability(&pod, min_ready, now()), expected, "{min_ready} {pod:?}");
        }
    }

    #[test]
    fn a_long_owner_leaves_room_for_the_suffix() {
        assert_eq!(generate_name("web-5d8"), "web-5d8-");
        assert_eq!(generate_name(&"a".repeat(253)).len() + 5, 253);
    }
}

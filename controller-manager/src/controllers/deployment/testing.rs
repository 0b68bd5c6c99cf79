//! Deployments and ReplicaSets for table tests.

use api::Object;
use api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetStatus, RollingUpdateDeployment,
};
use api::core::v1::{Container, PodSpec, PodTemplateSpec};
use api::meta::{IntOrString, LabelSelector, ObjectMeta};

use super::revision::new_replica_set;
use crate::pods::testing::ago;

/// `default/web` with image `web:1`, surge 1 and no unavailable pod.
pub fn deployment(replicas: i32) -> Deployment {
    let labels = Some([("app".to_owned(), "web".to_owned())].into());
    Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("web-uid".into()),
            generation: Some(1),
            ..Default::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: LabelSelector {
                match_labels: labels.clone(),
                ..Default::default()
            },
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(10),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels,
                    ..Default::default()
                }),
                spec: Some(PodSpec {
                    containers: vec![Container {
                        name: "web".into(),
                        image: Some("web:1".into()),
                        ..Default::default()
                    }],
                    ..Default::default()
                }),
            },
            ..Default::default()
        }),
        status: None,
    }
}

/// The Deployment with another image.
pub fn with_image(mut deployment: Deployment, image: &str) -> Deployment {
    deployment
        .spec
        .as_mut()
        .unwrap()
        .template
        .spec
        .as_mut()
        .unwrap()
        .containers[0]
        .image = Some(image.into());
    deployment
}

/// The ReplicaSet of the Deployment's template with this size, all of its pods there and `available` of them available.
pub fn replica_set(deployment: &Deployment, size: i32, available: i32, revision: i64) -> ReplicaSet {
    let desired = deployment.spec.as_ref().unwrap().replicas.unwrap();
    let surge = super::plan::Fences::of(deployment).surge;
    let mut set = new_replica_set(deployment, size, desired + surge, revision);
    set.metadata.uid = Some(format!("{}-uid", set.name()));
    set.metadata.generation = Some(1);
    set.metadata.creation_timestamp = Some(ago(1000 - revision));
    set.status = Some(ReplicaSetStatus {
        replicas: size,
        ready_replicas: Some(available),
        available_replicas: Some(available),
        observed_generation: Some(1),
        ..Default::default()
    });
    set
}

//! Writes the descriptions of every built-in kind and its parts, from the schemas that k8s-openapi carries, compressed, into `OUT_DIR`.
//!
//! Types, list keys and merge rules are in `api::schema`; only what nobody needs before a document is asked for comes from here.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as apiregistration;
use k8s_openapi::schemars::SchemaGenerator;
use serde_json::{Map, Value};

/// Registers types and everything they refer to.
macro_rules! register {
    ($generator:ident, $($module:path { $($kind:ident)+ })+) => {
        $({ use $module as module; $( let _ = $generator.subschema_for::<module::$kind>(); )+ })+
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    let mut generator = SchemaGenerator::default();
    register(&mut generator);
    let definitions = generator.take_definitions(false);
    let described: BTreeMap<&str, Value> = definitions
        .iter()
        .map(|(name, schema)| (name.as_str(), texts(schema)))
        .collect();
    let out = std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?;
    let file = std::fs::File::create(Path::new(&out).join("descriptions.json.z"))?;
    let mut compressed = flate2::write::ZlibEncoder::new(file, flate2::Compression::best());
    serde_json::to_writer(&mut compressed, &described)?;
    compressed.finish()?.flush()?;
    Ok(())
}

/// `[description, {property: description}]`.
fn texts(schema: &Value) -> Value {
    let text = |schema: &Value| schema.get("description").cloned().unwrap_or_else(|| "".into());
    let properties: Map<String, Value> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, property)| (name.clone(), text(property)))
        .collect();
    Value::Array(vec![text(schema), properties.into()])
}

fn register(generator: &mut SchemaGenerator) {
    register!(generator,
        k8s_openapi::api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolumeClaim PersistentVolume Pod PodTemplate
            ReplicationController ResourceQuota Secret ServiceAccount Service
        }
        k8s_openapi::api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        k8s_openapi::api::events::v1 { Event }
        k8s_openapi::api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        k8s_openapi::api::authorization::v1 { LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview }
        k8s_openapi::api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        k8s_openapi::api::autoscaling::v2 { HorizontalPodAutoscaler }
        k8s_openapi::api::batch::v1 { CronJob Job }
        k8s_openapi::api::certificates::v1 { CertificateSigningRequest }
        k8s_openapi::api::networking::v1 { IngressClass Ingress IPAddress NetworkPolicy ServiceCIDR }
        k8s_openapi::api::policy::v1 { Eviction PodDisruptionBudget }
        k8s_openapi::api::rbac::v1 { ClusterRoleBinding ClusterRole RoleBinding Role }
        k8s_openapi::api::storage::v1 { CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass }
        k8s_openapi::api::admissionregistration::v1 {
            MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
        }
        k8s_openapi::api::admissionregistration::v1beta1 { MutatingAdmissionPolicy MutatingAdmissionPolicyBinding }
        k8s_openapi::api::scheduling::v1 { PriorityClass }
        k8s_openapi::api::coordination::v1 { Lease }
        k8s_openapi::api::node::v1 { RuntimeClass }
        k8s_openapi::api::discovery::v1 { EndpointSlice }
        k8s_openapi::api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        k8s_openapi::api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        apiextensions { CustomResourceDefinition }
        apiregistration { APIService }
        meta { APIGroup APIGroupList APIResourceList APIVersions DeleteOptions ListMeta Patch Status MicroTime }
    );
    let _ = generator.subschema_for::<meta::WatchEvent<k8s_openapi::apimachinery::pkg::runtime::RawExtension>>();
}

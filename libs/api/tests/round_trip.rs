//! Every kind goes through every encoding and comes back the same, with `k8s-pb` as the other side: encoded here, decoded and encoded
//! again there, decoded here.

use api::Object;
use api::codec::{proto_to_json, proto_to_value, value_to_proto};
use api::schema::{Field, FieldType, Message};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRng, TestRunner};
use serde_json::{Map, Value, json};

/// Objects a kind.
const CASES: u32 = 24;

/// Makes values that the schema allows, with scalars that JSON shows.
struct Maker {
    rng: TestRng,
}

impl Maker {
    fn below(&mut self, limit: u32) -> u32 {
        self.rng.next_u32() % limit
    }

    fn text(&mut self) -> String {
        let letters = ['a', 'Z', '0', '-', '"', '\\', '\n', 'é', '漢', '\u{1}', '😀'];
        (0..1 + self.below(12))
            .map(|_| letters[self.below(letters.len() as u32) as usize])
            .collect()
    }

    fn members(&mut self, message: &Message, depth: u32) -> Map<String, Value> {
        let mut members = Map::new();
        for field in message.fields {
            match field.ty {
                FieldType::Message(inner) if field.inlined => members.extend(self.members(inner, depth)),
                _ => {
                    let deep = matches!(field.ty, FieldType::Message(_) | FieldType::Map(_)) || is_schema(field.ty);
                    if field.required || (!deep && self.below(3) == 0) || (deep && self.below(3 + 2 * depth) == 0) {
                        members.insert(field.json.to_string(), self.field(field, depth + 1));
                    }
                }
            }
        }
        members
    }

    fn field(&mut self, field: &Field, depth: u32) -> Value {
        match field.ty {
            FieldType::Map(ty) => (0..1 + self.below(3))
                .map(|_| (self.text(), self.value(*ty, depth, true)))
                .collect(),
            _ if field.repeated => (0..1 + self.below(2))
                .map(|_| self.value(field.ty, depth, true))
                .collect(),
            ty => self.value(ty, depth, field.keeps_zero),
        }
    }

    fn value(&mut self, ty: FieldType, depth: u32, zero: bool) -> Value {
        let zero = zero && self.below(4) == 0;
        let number = if zero { 0 } else { self.rng.next_u32() as i32 | 1 };
        match ty {
            FieldType::Bool => (!zero).into(),
            FieldType::Int32 => number.into(),
            FieldType::Int64 => (i64::from(number) << 20).into(),
            FieldType::Double => (f64::from(number) / 8.0).into(),
            FieldType::String => if zero { String::new() } else { self.text() }.into(),
            FieldType::Bytes => ["AA==", "aGVsbG8=", "/+8="][self.below(3) as usize].into(),
            FieldType::Quantity => ["1500m", "64Mi", "0", "3", "1e3", "-2G"][self.below(6) as usize].into(),
            FieldType::IntOrString if number % 4 == 1 => self.text().into(),
            FieldType::IntOrString => number.into(),
            FieldType::Time => ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59Z"][self.below(2) as usize].into(),
            FieldType::MicroTime => {
                ["2024-02-29T23:59:59.123456Z", "1969-12-31T23:59:59.000001Z"][self.below(2) as usize].into()
            }
            FieldType::RawJson => json!({ "f:x": [self.text(), number, null, {}] }),
            FieldType::StringList => (0..1 + self.below(3)).map(|_| Value::from(self.text())).collect(),
            FieldType::SchemaOrBool(_) if zero => false.into(),
            FieldType::SchemaOrArray(schema) if zero => json!([self.members(schema, depth + 3)]),
            FieldType::SchemaOrStrings(_) if zero => json!([self.text()]),
            FieldType::Message(message)
            | FieldType::SchemaOrBool(message)
            | FieldType::SchemaOrArray(message)
            | FieldType::SchemaOrStrings(message) => self.members(message, depth).into(),
            FieldType::Map(_) => unreachable!("no map holds maps"),
        }
    }
}

fn is_schema(ty: FieldType) -> bool {
    matches!(
        ty,
        FieldType::SchemaOrBool(_) | FieldType::SchemaOrArray(_) | FieldType::SchemaOrStrings(_)
    )
}

/// Whether everything in `part` is in `whole`, which may have more members.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        _ => whole == part,
    }
}

fn check<K: Object, Pb: prost::Message + Default>() {
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let objects = Just(()).prop_perturb(|(), rng| Value::Object(Maker { rng }.members(K::schema(), 0)));
    let result = TestRunner::new(config).run(&objects, |object| {
        check_one::<K, Pb>(&object);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{}: {error}", K::KIND));
}

fn check_one<K: Object, Pb: prost::Message + Default>(object: &Value) {
    let schema = K::schema();
    let proto = value_to_proto(schema, object).unwrap();
    let shown = proto_to_value(schema, &proto).unwrap();
    assert!(contains(&shown, object), "lost something:\n{shown}\n{object}");

    let other_side = Pb::decode(&*proto).unwrap().encode_to_vec();
    assert_eq!(proto_to_value(schema, &other_side).unwrap(), shown, "through k8s-pb");
    assert_eq!(
        proto_to_value(schema, &value_to_proto(schema, &shown).unwrap()).unwrap(),
        shown,
        "through a value"
    );

    let typed = K::decode(&proto).unwrap();
    assert_eq!(
        proto_to_value(schema, &typed.encode()).unwrap(),
        shown,
        "through the type"
    );
    assert_eq!(K::decode(&other_side).unwrap(), typed);
    K::from_value(typed.to_value()).unwrap();
    Pb::decode(&*typed.encode()).unwrap();

    let mut json = vec![];
    proto_to_json(schema, K::API_VERSION, K::KIND, &proto, &mut json).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&json).unwrap(),
        typed.to_value(),
        "as JSON text"
    );
}

macro_rules! kinds {
    ($($name:ident: $kind:ty = $pb:ty,)*) => {
        $(#[test]
        fn $name() {
            check::<$kind, $pb>();
        })*
    };
}

kinds! {
    admissionregistration_v1_mutating_webhook_configuration: api::admissionregistration::v1::MutatingWebhookConfiguration = k8s_pb::api::admissionregistration::v1::MutatingWebhookConfiguration,
    admissionregistration_v1_validating_admission_policy: api::admissionregistration::v1::ValidatingAdmissionPolicy = k8s_pb::api::admissionregistration::v1::ValidatingAdmissionPolicy,
    admissionregistration_v1_validating_admission_policy_binding: api::admissionregistration::v1::ValidatingAdmissionPolicyBinding = k8s_pb::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    admissionregistration_v1_validating_webhook_configuration: api::admissionregistration::v1::ValidatingWebhookConfiguration = k8s_pb::api::admissionregistration::v1::ValidatingWebhookConfiguration,
    admissionregistration_v1alpha1_mutating_admission_policy: api::admissionregistration::v1alpha1::MutatingAdmissionPolicy = k8s_pb::api::admissionregistration::v1alpha1::MutatingAdmissionPolicy,
    admissionregistration_v1alpha1_mutating_admission_policy_binding: api::admissionregistration::v1alpha1::MutatingAdmissionPolicyBinding = k8s_pb::api::admissionregistration::v1alpha1::MutatingAdmissionPolicyBinding,
    admissionregistration_v1beta1_mutating_admission_policy: api::admissionregistration::v1beta1::MutatingAdmissionPolicy = k8s_pb::api::admissionregistration::v1beta1::MutatingAdmissionPolicy,
    admissionregistration_v1beta1_mutating_admission_policy_binding: api::admissionregistration::v1beta1::MutatingAdmissionPolicyBinding = k8s_pb::api::admissionregistration::v1beta1::MutatingAdmissionPolicyBinding,
    apiextensions_v1_custom_resource_definition: api::apiextensions::v1::CustomResourceDefinition = k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apiregistration_v1_api_service: api::apiregistration::v1::APIService = k8s_pb::kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    apiserverinternal_v1alpha1_storage_version: api::apiserverinternal::v1alpha1::StorageVersion = k8s_pb::api::apiserverinternal::v1alpha1::StorageVersion,
    apps_v1_controller_revision: api::apps::v1::ControllerRevision = k8s_pb::api::apps::v1::ControllerRevision,
    apps_v1_daemon_set: api::apps::v1::DaemonSet = k8s_pb::api::apps::v1::DaemonSet,
    apps_v1_deployment: api::apps::v1::Deployment = k8s_pb::api::apps::v1::Deployment,
    apps_v1_replica_set: api::apps::v1::ReplicaSet = k8s_pb::api::apps::v1::ReplicaSet,
    apps_v1_stateful_set: api::apps::v1::StatefulSet = k8s_pb::api::apps::v1::StatefulSet,
    authentication_v1_self_subject_review: api::authentication::v1::SelfSubjectReview = k8s_pb::api::authentication::v1::SelfSubjectReview,
    authentication_v1_token_request: api::authentication::v1::TokenRequest = k8s_pb::api::authentication::v1::TokenRequest,
    authentication_v1_token_review: api::authentication::v1::TokenReview = k8s_pb::api::authentication::v1::TokenReview,
    authorization_v1_local_subject_access_review: api::authorization::v1::LocalSubjectAccessReview = k8s_pb::api::authorization::v1::LocalSubjectAccessReview,
    authorization_v1_self_subject_access_review: api::authorization::v1::SelfSubjectAccessReview = k8s_pb::api::authorization::v1::SelfSubjectAccessReview,
    authorization_v1_self_subject_rules_review: api::authorization::v1::SelfSubjectRulesReview = k8s_pb::api::authorization::v1::SelfSubjectRulesReview,
    authorization_v1_subject_access_review: api::authorization::v1::SubjectAccessReview = k8s_pb::api::authorization::v1::SubjectAccessReview,
    autoscaling_v1_horizontal_pod_autoscaler: api::autoscaling::v1::HorizontalPodAutoscaler = k8s_pb::api::autoscaling::v1::HorizontalPodAutoscaler,
    autoscaling_v1_scale: api::autoscaling::v1::Scale = k8s_pb::api::autoscaling::v1::Scale,
    autoscaling_v2_horizontal_pod_autoscaler: api::autoscaling::v2::HorizontalPodAutoscaler = k8s_pb::api::autoscaling::v2::HorizontalPodAutoscaler,
    batch_v1_cron_job: api::batch::v1::CronJob = k8s_pb::api::batch::v1::CronJob,
    batch_v1_job: api::batch::v1::Job = k8s_pb::api::batch::v1::Job,
    certificates_v1_certificate_signing_request: api::certificates::v1::CertificateSigningRequest = k8s_pb::api::certificates::v1::CertificateSigningRequest,
    certificates_v1alpha1_cluster_trust_bundle: api::certificates::v1alpha1::ClusterTrustBundle = k8s_pb::api::certificates::v1alpha1::ClusterTrustBundle,
    certificates_v1beta1_cluster_trust_bundle: api::certificates::v1beta1::ClusterTrustBundle = k8s_pb::api::certificates::v1beta1::ClusterTrustBundle,
    certificates_v1beta1_pod_certificate_request: api::certificates::v1beta1::PodCertificateRequest = k8s_pb::api::certificates::v1beta1::PodCertificateRequest,
    coordination_v1_lease: api::coordination::v1::Lease = k8s_pb::api::coordination::v1::Lease,
    coordination_v1alpha2_lease_candidate: api::coordination::v1alpha2::LeaseCandidate = k8s_pb::api::coordination::v1alpha2::LeaseCandidate,
    coordination_v1beta1_lease_candidate: api::coordination::v1beta1::LeaseCandidate = k8s_pb::api::coordination::v1beta1::LeaseCandidate,
    core_v1_binding: api::core::v1::Binding = k8s_pb::api::core::v1::Binding,
    core_v1_component_status: api::core::v1::ComponentStatus = k8s_pb::api::core::v1::ComponentStatus,
    core_v1_config_map: api::core::v1::ConfigMap = k8s_pb::api::core::v1::ConfigMap,
    core_v1_endpoints: api::core::v1::Endpoints = k8s_pb::api::core::v1::Endpoints,
    core_v1_event: api::core::v1::Event = k8s_pb::api::core::v1::Event,
    core_v1_limit_range: api::core::v1::LimitRange = k8s_pb::api::core::v1::LimitRange,
    core_v1_namespace: api::core::v1::Namespace = k8s_pb::api::core::v1::Namespace,
    core_v1_node: api::core::v1::Node = k8s_pb::api::core::v1::Node,
    core_v1_persistent_volume: api::core::v1::PersistentVolume = k8s_pb::api::core::v1::PersistentVolume,
    core_v1_persistent_volume_claim: api::core::v1::PersistentVolumeClaim = k8s_pb::api::core::v1::PersistentVolumeClaim,
    core_v1_pod: api::core::v1::Pod = k8s_pb::api::core::v1::Pod,
    core_v1_pod_template: api::core::v1::PodTemplate = k8s_pb::api::core::v1::PodTemplate,
    core_v1_replication_controller: api::core::v1::ReplicationController = k8s_pb::api::core::v1::ReplicationController,
    core_v1_resource_quota: api::core::v1::ResourceQuota = k8s_pb::api::core::v1::ResourceQuota,
    core_v1_secret: api::core::v1::Secret = k8s_pb::api::core::v1::Secret,
    core_v1_service: api::core::v1::Service = k8s_pb::api::core::v1::Service,
    core_v1_service_account: api::core::v1::ServiceAccount = k8s_pb::api::core::v1::ServiceAccount,
    discovery_v1_endpoint_slice: api::discovery::v1::EndpointSlice = k8s_pb::api::discovery::v1::EndpointSlice,
    events_v1_event: api::events::v1::Event = k8s_pb::api::events::v1::Event,
    flowcontrol_v1_flow_schema: api::flowcontrol::v1::FlowSchema = k8s_pb::api::flowcontrol::v1::FlowSchema,
    flowcontrol_v1_priority_level_configuration: api::flowcontrol::v1::PriorityLevelConfiguration = k8s_pb::api::flowcontrol::v1::PriorityLevelConfiguration,
    networking_v1_ip_address: api::networking::v1::IPAddress = k8s_pb::api::networking::v1::IPAddress,
    networking_v1_ingress: api::networking::v1::Ingress = k8s_pb::api::networking::v1::Ingress,
    networking_v1_ingress_class: api::networking::v1::IngressClass = k8s_pb::api::networking::v1::IngressClass,
    networking_v1_network_policy: api::networking::v1::NetworkPolicy = k8s_pb::api::networking::v1::NetworkPolicy,
    networking_v1_service_cidr: api::networking::v1::ServiceCIDR = k8s_pb::api::networking::v1::ServiceCIDR,
    networking_v1beta1_ip_address: api::networking::v1beta1::IPAddress = k8s_pb::api::networking::v1beta1::IPAddress,
    networking_v1beta1_service_cidr: api::networking::v1beta1::ServiceCIDR = k8s_pb::api::networking::v1beta1::ServiceCIDR,
    node_v1_runtime_class: api::node::v1::RuntimeClass = k8s_pb::api::node::v1::RuntimeClass,
    policy_v1_eviction: api::policy::v1::Eviction = k8s_pb::api::policy::v1::Eviction,
    policy_v1_pod_disruption_budget: api::policy::v1::PodDisruptionBudget = k8s_pb::api::policy::v1::PodDisruptionBudget,
    rbac_v1_cluster_role: api::rbac::v1::ClusterRole = k8s_pb::api::rbac::v1::ClusterRole,
    rbac_v1_cluster_role_binding: api::rbac::v1::ClusterRoleBinding = k8s_pb::api::rbac::v1::ClusterRoleBinding,
    rbac_v1_role: api::rbac::v1::Role = k8s_pb::api::rbac::v1::Role,
    rbac_v1_role_binding: api::rbac::v1::RoleBinding = k8s_pb::api::rbac::v1::RoleBinding,
    resource_v1_device_class: api::resource::v1::DeviceClass = k8s_pb::api::resource::v1::DeviceClass,
    resource_v1_resource_claim: api::resource::v1::ResourceClaim = k8s_pb::api::resource::v1::ResourceClaim,
    resource_v1_resource_claim_template: api::resource::v1::ResourceClaimTemplate = k8s_pb::api::resource::v1::ResourceClaimTemplate,
    resource_v1_resource_slice: api::resource::v1::ResourceSlice = k8s_pb::api::resource::v1::ResourceSlice,
    resource_v1alpha3_device_taint_rule: api::resource::v1alpha3::DeviceTaintRule = k8s_pb::api::resource::v1alpha3::DeviceTaintRule,
    resource_v1beta1_device_class: api::resource::v1beta1::DeviceClass = k8s_pb::api::resource::v1beta1::DeviceClass,
    resource_v1beta1_resource_claim: api::resource::v1beta1::ResourceClaim = k8s_pb::api::resource::v1beta1::ResourceClaim,
    resource_v1beta1_resource_claim_template: api::resource::v1beta1::ResourceClaimTemplate = k8s_pb::api::resource::v1beta1::ResourceClaimTemplate,
    resource_v1beta1_resource_slice: api::resource::v1beta1::ResourceSlice = k8s_pb::api::resource::v1beta1::ResourceSlice,
    resource_v1beta2_device_class: api::resource::v1beta2::DeviceClass = k8s_pb::api::resource::v1beta2::DeviceClass,
    resource_v1beta2_resource_claim: api::resource::v1beta2::ResourceClaim = k8s_pb::api::resource::v1beta2::ResourceClaim,
    resource_v1beta2_resource_claim_template: api::resource::v1beta2::ResourceClaimTemplate = k8s_pb::api::resource::v1beta2::ResourceClaimTemplate,
    resource_v1beta2_resource_slice: api::resource::v1beta2::ResourceSlice = k8s_pb::api::resource::v1beta2::ResourceSlice,
    scheduling_v1_priority_class: api::scheduling::v1::PriorityClass = k8s_pb::api::scheduling::v1::PriorityClass,
    scheduling_v1alpha1_workload: api::scheduling::v1alpha1::Workload = k8s_pb::api::scheduling::v1alpha1::Workload,
    storage_v1_csi_driver: api::storage::v1::CSIDriver = k8s_pb::api::storage::v1::CSIDriver,
    storage_v1_csi_node: api::storage::v1::CSINode = k8s_pb::api::storage::v1::CSINode,
    storage_v1_csi_storage_capacity: api::storage::v1::CSIStorageCapacity = k8s_pb::api::storage::v1::CSIStorageCapacity,
    storage_v1_storage_class: api::storage::v1::StorageClass = k8s_pb::api::storage::v1::StorageClass,
    storage_v1_volume_attachment: api::storage::v1::VolumeAttachment = k8s_pb::api::storage::v1::VolumeAttachment,
    storage_v1_volume_attributes_class: api::storage::v1::VolumeAttributesClass = k8s_pb::api::storage::v1::VolumeAttributesClass,
    storage_v1beta1_volume_attributes_class: api::storage::v1beta1::VolumeAttributesClass = k8s_pb::api::storage::v1beta1::VolumeAttributesClass,
    storagemigration_v1beta1_storage_version_migration: api::storagemigration::v1beta1::StorageVersionMigration = k8s_pb::api::storagemigration::v1beta1::StorageVersionMigration,
}

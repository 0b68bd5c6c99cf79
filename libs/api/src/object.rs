//! [`Object`]: what every kind with metadata has in common, and [`ObjectKey`], its name.

use crate::codec::{self, typed_de, typed_ser};
use crate::meta::{ObjectMeta, OwnerReference};
use crate::schema::{self, Message};
use k8s_openapi::{Metadata, Resource};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::{fmt, str::FromStr};

static NO_PAIRS: BTreeMap<String, String> = BTreeMap::new();

/// A built-in kind with `metadata`. Implemented here for all of them; the conversions are compiled once, in this crate.
pub trait Object:
    Resource + Metadata<Ty = ObjectMeta> + Clone + Default + PartialEq + fmt::Debug + Send + Sync + 'static
{
    /// Whether objects of this kind live in a namespace.
    const NAMESPACED: bool;

    /// The schema of this kind.
    fn schema() -> &'static Message;

    /// Reads a Kubernetes protobuf message, without envelope.
    fn decode(message: &[u8]) -> Result<Self, codec::Error>;

    /// The Kubernetes protobuf message, without envelope.
    fn encode(&self) -> Vec<u8>;

    /// Reads the JSON form; `apiVersion` and `kind` do not matter, unknown fields are left out.
    fn from_value(value: Value) -> Result<Self, codec::Error> {
        Self::decode(&codec::value_to_proto(Self::schema(), &value)?)
    }

    /// The JSON form, with `apiVersion` and `kind`.
    fn to_value(&self) -> Value {
        // What was encoded a moment ago decodes.
        let mut value = codec::proto_to_value(Self::schema(), &self.encode()).unwrap_or_default();
        value["apiVersion"] = Self::API_VERSION.into();
        value["kind"] = Self::KIND.into();
        value
    }

    /// `metadata.name`, or empty.
    fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// `metadata.namespace`, or empty.
    fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }

    /// `metadata.uid`, or empty.
    fn uid(&self) -> &str {
        self.metadata().uid.as_deref().unwrap_or_default()
    }

    /// `metadata.resourceVersion`, or empty.
    fn resource_version(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or_default()
    }

    /// Namespace and name.
    fn key(&self) -> ObjectKey {
        ObjectKey {
            namespace: self.namespace().to_string(),
            name: self.name().to_string(),
        }
    }

    /// `metadata.labels`, or none.
    fn labels(&self) -> &BTreeMap<String, String> {
        self.metadata().labels.as_ref().unwrap_or(&NO_PAIRS)
    }

    /// `metadata.annotations`, or none.
    fn annotations(&self) -> &BTreeMap<String, String> {
        self.metadata().annotations.as_ref().unwrap_or(&NO_PAIRS)
    }

    /// Whether deletion was asked for.
    fn is_deleting(&self) -> bool {
        self.metadata().deletion_timestamp.is_some()
    }

    /// A reference to this object for a dependant's `ownerReferences`; a controlling one also blocks foreground deletion.
    fn owner_reference(&self, controller: bool) -> OwnerReference {
        OwnerReference {
            api_version: Self::API_VERSION.to_string(),
            kind: Self::KIND.to_string(),
            name: self.name().to_string(),
            uid: self.uid().to_string(),
            controller: controller.then_some(true),
            block_owner_deletion: controller.then_some(true),
        }
    }

    /// The owner that controls this object, if any.
    fn controller(&self) -> Option<&OwnerReference> {
        self.metadata()
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
    }
}

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        ObjectKey {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl FromStr for ObjectKey {
    type Err = std::convert::Infallible;

    fn from_str(key: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        Ok(ObjectKey::new(namespace, name))
    }
}

trait Scope {
    const NAMESPACED: bool;
}

impl Scope for k8s_openapi::NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl Scope for k8s_openapi::ClusterResourceScope {
    const NAMESPACED: bool = false;
}

/// A subresource's kind (`Scale`, `Eviction`, `TokenRequest`) is as namespaced as its parents, which all are.
impl Scope for k8s_openapi::SubResourceScope {
    const NAMESPACED: bool = true;
}

/// The schema of a kind; `every_kind_has_a_schema` below checks that there is one.
fn schema_of<K: Resource>() -> &'static Message {
    static NONE: Message = Message {
        name: "",
        fields: &[],
        atomic: false,
    };
    schema::for_kind(K::GROUP, K::VERSION, K::KIND).unwrap_or(&NONE)
}

/// Every value that the types can hold has an encoding, save times outside the years 0 to 9999.
fn encoded(result: Result<Vec<u8>, codec::Error>) -> Vec<u8> {
    debug_assert!(result.is_ok(), "{result:?}");
    result.unwrap_or_default()
}

macro_rules! objects {
    ($($kind:ty,)*) => {
        $(impl Object for $kind {
            const NAMESPACED: bool = <<$kind as Resource>::Scope as Scope>::NAMESPACED;

            fn schema() -> &'static Message {
                static SCHEMA: OnceLock<&'static Message> = OnceLock::new();
                SCHEMA.get_or_init(|| schema_of::<Self>())
            }

            fn decode(message: &[u8]) -> Result<Self, codec::Error> {
                typed_de::read(Self::schema(), message)
            }

            fn encode(&self) -> Vec<u8> {
                encoded(typed_ser::write(Self::schema(), self))
            }
        })*

        #[cfg(test)]
        fn schemas() -> Vec<&'static Message> {
            vec![$(<$kind>::schema()),*]
        }
    };
}

objects! {
    crate::admissionregistration::v1::MutatingWebhookConfiguration,
    crate::admissionregistration::v1::ValidatingAdmissionPolicy,
    crate::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
    crate::admissionregistration::v1::ValidatingWebhookConfiguration,
    crate::admissionregistration::v1alpha1::MutatingAdmissionPolicy,
    crate::admissionregistration::v1alpha1::MutatingAdmissionPolicyBinding,
    crate::admissionregistration::v1beta1::MutatingAdmissionPolicy,
    crate::admissionregistration::v1beta1::MutatingAdmissionPolicyBinding,
    crate::apiextensions::v1::CustomResourceDefinition,
    crate::apiregistration::v1::APIService,
    crate::apiserverinternal::v1alpha1::StorageVersion,
    crate::apps::v1::ControllerRevision,
    crate::apps::v1::DaemonSet,
    crate::apps::v1::Deployment,
    crate::apps::v1::ReplicaSet,
    crate::apps::v1::StatefulSet,
    crate::authentication::v1::SelfSubjectReview,
    crate::authentication::v1::TokenRequest,
    crate::authentication::v1::TokenReview,
    crate::authorization::v1::LocalSubjectAccessReview,
    crate::authorization::v1::SelfSubjectAccessReview,
    crate::authorization::v1::SelfSubjectRulesReview,
    crate::authorization::v1::SubjectAccessReview,
    crate::autoscaling::v1::HorizontalPodAutoscaler,
    crate::autoscaling::v1::Scale,
    crate::autoscaling::v2::HorizontalPodAutoscaler,
    crate::batch::v1::CronJob,
    crate::batch::v1::Job,
    crate::certificates::v1::CertificateSigningRequest,
    crate::certificates::v1alpha1::ClusterTrustBundle,
    crate::certificates::v1beta1::ClusterTrustBundle,
    crate::certificates::v1beta1::PodCertificateRequest,
    crate::coordination::v1::Lease,
    crate::coordination::v1alpha2::LeaseCandidate,
    crate::coordination::v1beta1::LeaseCandidate,
    crate::core::v1::Binding,
    crate::core::v1::ComponentStatus,
    crate::core::v1::ConfigMap,
    crate::core::v1::Endpoints,
    crate::core::v1::Event,
    crate::core::v1::LimitRange,
    crate::core::v1::Namespace,
    crate::core::v1::Node,
    crate::core::v1::PersistentVolume,
    crate::core::v1::PersistentVolumeClaim,
    crate::core::v1::Pod,
    crate::core::v1::PodTemplate,
    crate::core::v1::ReplicationController,
    crate::core::v1::ResourceQuota,
    crate::core::v1::Secret,
    crate::core::v1::Service,
    crate::core::v1::ServiceAccount,
    crate::discovery::v1::EndpointSlice,
    crate::events::v1::Event,
    crate::flowcontrol::v1::FlowSchema,
    crate::flowcontrol::v1::PriorityLevelConfiguration,
    crate::networking::v1::IPAddress,
    crate::networking::v1::Ingress,
    crate::networking::v1::IngressClass,
    crate::networking::v1::NetworkPolicy,
    crate::networking::v1::ServiceCIDR,
    crate::networking::v1beta1::IPAddress,
    crate::networking::v1beta1::ServiceCIDR,
    crate::node::v1::RuntimeClass,
    crate::policy::v1::Eviction,
    crate::policy::v1::PodDisruptionBudget,
    crate::rbac::v1::ClusterRole,
    crate::rbac::v1::ClusterRoleBinding,
    crate::rbac::v1::Role,
    crate::rbac::v1::RoleBinding,
    crate::resource::v1::DeviceClass,
    crate::resource::v1::ResourceClaim,
    crate::resource::v1::ResourceClaimTemplate,
    crate::resource::v1::ResourceSlice,
    crate::resource::v1alpha3::DeviceTaintRule,
    crate::resource::v1beta1::DeviceClass,
    crate::resource::v1beta1::ResourceClaim,
    crate::resource::v1beta1::ResourceClaimTemplate,
    crate::resource::v1beta1::ResourceSlice,
    crate::resource::v1beta2::DeviceClass,
    crate::resource::v1beta2::ResourceClaim,
    crate::resource::v1beta2::ResourceClaimTemplate,
    crate::resource::v1beta2::ResourceSlice,
    crate::scheduling::v1::PriorityClass,
    crate::scheduling::v1alpha1::Workload,
    crate::storage::v1::CSIDriver,
    crate::storage::v1::CSINode,
    crate::storage::v1::CSIStorageCapacity,
    crate::storage::v1::StorageClass,
    crate::storage::v1::VolumeAttachment,
    crate::storage::v1::VolumeAttributesClass,
    crate::storage::v1beta1::VolumeAttributesClass,
    crate::storagemigration::v1beta1::StorageVersionMigration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{apps::v1::Deployment, core::v1::Node};

    #[test]
    fn every_kind_has_a_schema() {
        for schema in schemas() {
            assert_ne!(schema.name, "");
        }
    }

    #[test]
    fn keys_print_and_parse() {
        for (text, key) in [
            ("ns/name", ObjectKey::new("ns", "name")),
            ("name", ObjectKey::new("", "name")),
        ] {
            assert_eq!(key.to_string(), text);
            assert_eq!(text.parse(), Ok(key));
        }
    }

    #[test]
    fn owner_references_name_the_kind() {
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some("web".into());
        deployment.metadata.uid = Some("1".into());
        let reference = deployment.owner_reference(true);
        assert_eq!(
            (&*reference.api_version, &*reference.kind, &*reference.name),
            ("apps/v1", "Deployment", "web")
        );
        assert_eq!(
            (reference.controller, reference.block_owner_deletion),
            (Some(true), Some(true))
        );
        deployment.metadata.owner_references = Some(vec![reference.clone()]);
        assert_eq!(deployment.controller(), Some(&reference));
        assert_eq!((Deployment::NAMESPACED, Node::NAMESPACED), (true, false));
    }
}

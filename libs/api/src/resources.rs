//! The one table of every built-in resource that Kubernetes 1.35 serves by default: names, verbs, subresources, schema. Beta and
//! alpha versions are off by default upstream and are not here.

use crate::schema::{self, Message};
use std::borrow::Cow;
use std::sync::OnceLock;

/// A name: of a built-in resource or of one that comes and goes with its definition.
pub type Text = Cow<'static, str>;

/// One resource at one version, built in or custom.
#[derive(Clone, Debug)]
pub struct ResourceInfo {
    /// Empty for the core group.
    pub group: Text,
    /// As `v1`.
    pub version: Text,
    /// Lower case plural, as `pods`.
    pub resource: Text,
    /// As `pod`.
    pub singular: Text,
    /// As `Pod`.
    pub kind: Text,
    /// As `PodList`.
    pub list_kind: Text,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// As `po`.
    pub short_names: Vec<Text>,
    /// As `all`.
    pub categories: Vec<Text>,
    /// Sorted.
    pub verbs: &'static [&'static str],
    /// Sorted by name.
    pub subresources: Vec<Subresource>,
    /// The group whose kind is stored; differs for `events.k8s.io` only, whose events are the core group's.
    pub storage_group: Text,
    /// The version that is stored; a served one.
    pub storage_version: Text,
    /// The schema of the kind; that of the metadata alone for a custom one, see [`ResourceInfo::is_custom`].
    pub message: &'static Message,
}

/// A part of a resource with a path of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// As `status`.
    pub name: &'static str,
    /// Of its kind; that of the resource unless it says otherwise.
    pub group: Text,
    /// Of its kind.
    pub version: Text,
    /// As `Scale`; `status` has the kind of its resource.
    pub kind: Text,
    /// Sorted.
    pub verbs: &'static [&'static str],
}

impl ResourceInfo {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        crate::gvk::join_api_version(&self.group, &self.version)
    }

    /// Whether its schema is a CustomResourceDefinition's.
    pub fn is_custom(&self) -> bool {
        self.message.name == PARTIAL_OBJECT
    }

    /// The subresource of this name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|subresource| subresource.name == name)
    }

    /// Whether the resource has this verb.
    pub fn allows(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

/// Every resource, group by group, in the order of upstream's discovery.
pub fn all() -> &'static [ResourceInfo] {
    static ALL: OnceLock<Vec<ResourceInfo>> = OnceLock::new();
    ALL.get_or_init(|| ROWS.iter().filter_map(Row::info).collect())
}

/// The resource of this group (empty for the core group), version and plural name.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static ResourceInfo> {
    all()
        .iter()
        .find(|info| info.resource == resource && info.group == group && info.version == version)
}

/// The resource whose objects have this kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static ResourceInfo> {
    all()
        .iter()
        .find(|info| info.kind == kind && info.group == group && info.version == version)
}

/// The message that has metadata and nothing else.
const PARTIAL_OBJECT: &str = "k8s.io.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata";

/// The message of every custom resource: what all objects have in common.
pub fn custom_message() -> Option<&'static Message> {
    schema::message(PARTIAL_OBJECT)
}

/// What can be done with most resources; sorted.
pub const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];
const NO_COLLECTION: &[&str] = &["create", "delete", "get", "list", "patch", "update", "watch"];
const CREATE: &[&str] = &["create"];
const CONNECT: &[&str] = &["create", "get"];
/// What can be done with a subresource that is a view on the object; sorted.
pub const CHANGE: &[&str] = &["get", "patch", "update"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

struct Row {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    kind: &'static str,
    namespaced: bool,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: &'static [&'static str],
    subresources: &'static [Sub],
    storage: (&'static str, &'static str),
}

/// A [`Subresource`] as a row writes it.
struct Sub {
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
}

impl Sub {
    fn info(&self) -> Subresource {
        Subresource {
            name: self.name,
            group: self.group.into(),
            version: self.version.into(),
            kind: self.kind.into(),
            verbs: self.verbs,
        }
    }
}

impl Row {
    const fn new(group: &'static str, version: &'static str, resource: &'static str, kind: &'static str) -> Row {
        Row {
            group,
            version,
            resource,
            kind,
            namespaced: true,
            short_names: &[],
            categories: &[],
            verbs: ALL_VERBS,
            subresources: &[],
            storage: (group, version),
        }
    }

    const fn cluster(self) -> Row {
        Row {
            namespaced: false,
            ..self
        }
    }

    const fn short(self, short_names: &'static [&'static str]) -> Row {
        Row { short_names, ..self }
    }

    const fn categories(self, categories: &'static [&'static str]) -> Row {
        Row { categories, ..self }
    }

    const fn verbs(self, verbs: &'static [&'static str]) -> Row {
        Row { verbs, ..self }
    }

    const fn with(self, subresources: &'static [Sub]) -> Row {
        Row { subresources, ..self }
    }

    const fn stored_as(self, group: &'static str, version: &'static str) -> Row {
        Row {
            storage: (group, version),
            ..self
        }
    }

    fn info(&self) -> Option<ResourceInfo> {
        Some(ResourceInfo {
            group: self.group.into(),
            version: self.version.into(),
            resource: self.resource.into(),
            singular: self.kind.to_lowercase().into(),
            kind: self.kind.into(),
            list_kind: format!("{}List", self.kind).into(),
            namespaced: self.namespaced,
            short_names: texts(self.short_names),
            categories: texts(self.categories),
            verbs: self.verbs,
            subresources: self.subresources.iter().map(Sub::info).collect(),
            storage_group: self.storage.0.into(),
            storage_version: self.storage.1.into(),
            message: schema::for_kind(self.group, self.version, self.kind)?,
        })
    }
}

fn texts(list: &[&'static str]) -> Vec<Text> {
    list.iter().map(|text| (*text).into()).collect()
}

const fn sub(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Sub {
    Sub {
        name,
        group,
        version,
        kind,
        verbs,
    }
}

/// `[status]` with the resource's own kind.
macro_rules! status {
    ($group:literal, $version:literal, $kind:literal) => {
        &[sub("status", $group, $version, $kind, CHANGE)]
    };
}

/// `[scale, status]`.
macro_rules! scaled {
    ($group:literal, $version:literal, $kind:literal) => {
        &[
            sub("scale", "autoscaling", "v1", "Scale", CHANGE),
            sub("status", $group, $version, $kind, CHANGE),
        ]
    };
}

const POD_SUBRESOURCES: &[Sub] = &[
    sub("attach", "", "v1", "PodAttachOptions", CONNECT),
    sub("binding", "", "v1", "Binding", CREATE),
    sub("ephemeralcontainers", "", "v1", "Pod", CHANGE),
    sub("eviction", "policy", "v1", "Eviction", CREATE),
    sub("exec", "", "v1", "PodExecOptions", CONNECT),
    sub("log", "", "v1", "Pod", &["get"]),
    sub("portforward", "", "v1", "PodPortForwardOptions", CONNECT),
    sub("proxy", "", "v1", "PodProxyOptions", PROXY),
    sub("resize", "", "v1", "Pod", CHANGE),
    sub("status", "", "v1", "Pod", CHANGE),
];

const RBAC: &str = "rbac.authorization.k8s.io";
const EXTENSIONS: &[&str] = &["api-extensions"];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row::new("", "v1", "bindings", "Binding").verbs(CREATE),
    Row::new("", "v1", "componentstatuses", "ComponentStatus").cluster().short(&["cs"]).verbs(&["get", "list"]),
    Row::new("", "v1", "configmaps", "ConfigMap").short(&["cm"]),
    Row::new("", "v1", "endpoints", "Endpoints").short(&["ep"]),
    Row::new("", "v1", "events", "Event").short(&["ev"]),
    Row::new("", "v1", "limitranges", "LimitRange").short(&["limits"]),
    Row::new("", "v1", "namespaces", "Namespace").cluster().short(&["ns"]).verbs(NO_COLLECTION).with(&[
        sub("finalize", "", "v1", "Namespace", &["update"]),
        sub("status", "", "v1", "Namespace", CHANGE),
    ]),
    Row::new("", "v1", "nodes", "Node").cluster().short(&["no"]).with(&[
        sub("proxy", "", "v1", "NodeProxyOptions", PROXY),
        sub("status", "", "v1", "Node", CHANGE),
    ]),
    Row::new("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim").short(&["pvc"])
        .with(status!("", "v1", "PersistentVolumeClaim")),
    Row::new("", "v1", "persistentvolumes", "PersistentVolume").cluster().short(&["pv"])
        .with(status!("", "v1", "PersistentVolume")),
    Row::new("", "v1", "pods", "Pod").short(&["po"]).categories(&["all"]).with(POD_SUBRESOURCES),
    Row::new("", "v1", "podtemplates", "PodTemplate"),
    Row::new("", "v1", "replicationcontrollers", "ReplicationController").short(&["rc"]).categories(&["all"])
        .with(scaled!("", "v1", "ReplicationController")),
    Row::new("", "v1", "resourcequotas", "ResourceQuota").short(&["quota"]).with(status!("", "v1", "ResourceQuota")),
    Row::new("", "v1", "secrets", "Secret"),
    Row::new("", "v1", "serviceaccounts", "ServiceAccount").short(&["sa"]).with(&[
        sub("token", "authentication.k8s.io", "v1", "TokenRequest", CREATE),
    ]),
    Row::new("", "v1", "services", "Service").short(&["svc"]).categories(&["all"]).with(&[
        sub("proxy", "", "v1", "ServiceProxyOptions", PROXY),
        sub("status", "", "v1", "Service", CHANGE),
    ]),

    Row::new("apiregistration.k8s.io", "v1", "apiservices", "APIService").cluster().categories(EXTENSIONS)
        .with(status!("apiregistration.k8s.io", "v1", "APIService")),

    Row::new("apps", "v1", "controllerrevisions", "ControllerRevision"),
    Row::new("apps", "v1", "daemonsets", "DaemonSet").short(&["ds"]).categories(&["all"])
        .with(status!("apps", "v1", "DaemonSet")),
    Row::new("apps", "v1", "deployments", "Deployment").short(&["deploy"]).categories(&["all"])
        .with(scaled!("apps", "v1", "Deployment")),
    Row::new("apps", "v1", "replicasets", "ReplicaSet").short(&["rs"]).categories(&["all"])
        .with(scaled!("apps", "v1", "ReplicaSet")),
    Row::new("apps", "v1", "statefulsets", "StatefulSet").short(&["sts"]).categories(&["all"])
        .with(scaled!("apps", "v1", "StatefulSet")),

    Row::new("events.k8s.io", "v1", "events", "Event").short(&["ev"]).stored_as("", "v1"),

    Row::new("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview").cluster().verbs(CREATE),
    Row::new("authentication.k8s.io", "v1", "tokenreviews", "TokenReview").cluster().verbs(CREATE),

    Row::new("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview").verbs(CREATE),
    Row::new("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview").cluster().verbs(CREATE),
    Row::new("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview").cluster().verbs(CREATE),
    Row::new("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview").cluster().verbs(CREATE),

    Row::new("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler").short(&["hpa"])
        .categories(&["all"]).with(status!("autoscaling", "v2", "HorizontalPodAutoscaler")),
    Row::new("autoscaling", "v1", "horizontalpodautoscalers", "HorizontalPodAutoscaler").short(&["hpa"])
        .categories(&["all"]).with(status!("autoscaling", "v1", "HorizontalPodAutoscaler"))
        .stored_as("autoscaling", "v2"),

    Row::new("batch", "v1", "cronjobs", "CronJob").short(&["cj"]).categories(&["all"]).with(status!("batch", "v1", "CronJob")),
    Row::new("batch", "v1", "jobs", "Job").categories(&["all"]).with(status!("batch", "v1", "Job")),

    Row::new("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest").cluster()
        .short(&["csr"]).with(&[
            sub("approval", "certificates.k8s.io", "v1", "CertificateSigningRequest", CHANGE),
            sub("status", "certificates.k8s.io", "v1", "CertificateSigningRequest", CHANGE),
        ]),

    Row::new("networking.k8s.io", "v1", "ingressclasses", "IngressClass").cluster(),
    Row::new("networking.k8s.io", "v1", "ingresses", "Ingress").short(&["ing"])
        .with(status!("networking.k8s.io", "v1", "Ingress")),
    Row::new("networking.k8s.io", "v1", "ipaddresses", "IPAddress").cluster().short(&["ip"]),
    Row::new("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy").short(&["netpol"]),
    Row::new("networking.k8s.io", "v1", "servicecidrs", "ServiceCIDR").cluster()
        .with(status!("networking.k8s.io", "v1", "ServiceCIDR")),

    Row::new("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget").short(&["pdb"])
        .with(status!("policy", "v1", "PodDisruptionBudget")),

    Row::new(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding").cluster(),
    Row::new(RBAC, "v1", "clusterroles", "ClusterRole").cluster(),
    Row::new(RBAC, "v1", "rolebindings", "RoleBinding"),
    Row::new(RBAC, "v1", "roles", "Role"),

    Row::new("storage.k8s.io", "v1", "csidrivers", "CSIDriver").cluster(),
    Row::new("storage.k8s.io", "v1", "csinodes", "CSINode").cluster(),
    Row::new("storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity"),
    Row::new("storage.k8s.io", "v1", "storageclasses", "StorageClass").cluster().short(&["sc"]),
    Row::new("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment").cluster()
        .with(status!("storage.k8s.io", "v1", "VolumeAttachment")),
    Row::new("storage.k8s.io", "v1", "volumeattributesclasses", "VolumeAttributesClass").cluster().short(&["vac"]),

    Row::new("admissionregistration.k8s.io", "v1beta1", "mutatingadmissionpolicies", "MutatingAdmissionPolicy")
        .cluster().categories(EXTENSIONS),
    Row::new("admissionregistration.k8s.io", "v1beta1", "mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding")
        .cluster().categories(EXTENSIONS),
    Row::new("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", "MutatingWebhookConfiguration")
        .cluster().categories(EXTENSIONS),
    Row::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy")
        .cluster().categories(EXTENSIONS)
        .with(status!("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy")),
    Row::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding")
        .cluster().categories(EXTENSIONS),
    Row::new("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", "ValidatingWebhookConfiguration")
        .cluster().categories(EXTENSIONS),

    Row::new("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition").cluster()
        .short(&["crd", "crds"]).categories(EXTENSIONS)
        .with(status!("apiextensions.k8s.io", "v1", "CustomResourceDefinition")),

    Row::new("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass").cluster().short(&["pc"]),
    Row::new("coordination.k8s.io", "v1", "leases", "Lease"),
    Row::new("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass").cluster(),
    Row::new("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),

    Row::new("resource.k8s.io", "v1", "deviceclasses", "DeviceClass").cluster(),
    Row::new("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim")
        .with(status!("resource.k8s.io", "v1", "ResourceClaim")),
    Row::new("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate"),
    Row::new("resource.k8s.io", "v1", "resourceslices", "ResourceSlice").cluster(),

    Row::new("flowcontrol.apiserver.k8s.io", "v1", "flowschemas", "FlowSchema").cluster()
        .with(status!("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema")),
    Row::new("flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations", "PriorityLevelConfiguration").cluster()
        .with(status!("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_schemas() {
        assert_eq!(all().len(), ROWS.len());
        for info in all() {
            assert!(
                schema::for_kind(&info.storage_group, &info.storage_version, &info.kind).is_some(),
                "{info:?}"
            );
            for subresource in &info.subresources {
                let schema = schema::for_kind(&subresource.group, &subresource.version, &subresource.kind);
                assert!(schema.is_some(), "{subresource:?}");
                assert!(subresource.verbs.is_sorted());
            }
            assert!(info.verbs.is_sorted() && info.subresources.is_sorted_by_key(|subresource| subresource.name));
        }
    }

    #[test]
    fn every_stable_kind_is_served() {
        let elsewhere = ["Eviction", "Scale", "TokenRequest"];
        for (group, version, kind, message) in schema::kinds() {
            let is_object = message.field("metadata").is_some() && !kind.ends_with("List");
            let stable = !version.contains("alpha") && !version.contains("beta");
            let internal = ["PartialObjectMetadata", "RangeAllocation", "PodStatusResult", "Status"].contains(kind);
            if is_object && stable && !internal && !elsewhere.contains(kind) {
                assert!(find_kind(group, version, kind).is_some(), "{group}/{version} {kind}");
            }
        }
    }

    #[test]
    fn scope_agrees_with_the_types() {
        use crate::Object;
        assert_eq!(
            find("apps", "v1", "deployments").map(|info| info.namespaced),
            Some(crate::apps::v1::Deployment::NAMESPACED)
        );
        assert_eq!(
            find("", "v1", "nodes").map(|info| info.namespaced),
            Some(crate::core::v1::Node::NAMESPACED)
        );
        assert_eq!(find("", "v1", "nodes").map(|info| &*info.singular), Some("node"));
    }
}

//! The rules of the kinds that have some of their own: one file a kind (or family), one line each in [`STRATEGIES`].

pub mod api_service;
pub mod autoscaling;
pub mod certificates;
pub mod claim;
pub mod common;
pub mod config;
pub mod cron;
pub mod cron_job;
pub mod custom_resource_definition;
pub mod daemon_set;
pub mod deployment;
pub mod endpoints;
pub mod event;
pub mod extension;
pub mod field;
pub mod flow;
pub mod ingress;
pub mod ip;
pub mod job;
pub mod namespace;
pub mod networking;
pub mod node;
pub mod pod;
pub mod policy;
pub mod quota;
pub mod rbac;
pub mod replica_set;
pub mod resource;
pub mod resource_names;
pub mod resource_slice;
pub mod rules;
pub mod service;
pub mod stateful_set;
pub mod storage;
pub mod volume;
pub mod volume_source;
pub mod webhooks;
pub mod workload;

use crate::registry::strategy::Strategy;

const ADMISSION: &str = "admissionregistration.k8s.io";
const FLOW: &str = "flowcontrol.apiserver.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io";

/// Group, resource and rules. A resource that is not here has nothing special.
pub static STRATEGIES: &[(&str, &str, &dyn Strategy)] = &[
    ("", "configmaps", &config::CONFIG_MAP),
    ("", "endpoints", &endpoints::ENDPOINTS),
    ("", "events", &event::Event),
    ("", "limitranges", &quota::LIMIT_RANGE),
    ("", "namespaces", &namespace::Namespace),
    ("", "nodes", &node::NODE),
    ("", "persistentvolumeclaims", &claim::CLAIM),
    ("", "persistentvolumes", &volume::VOLUME),
    ("", "pods", &pod::Pod),
    ("", "podtemplates", &policy::POD_TEMPLATE),
    ("", "replicationcontrollers", &replica_set::REPLICATION_CONTROLLER),
    ("", "resourcequotas", &quota::RESOURCE_QUOTA),
    ("", "secrets", &config::SECRET),
    ("", "serviceaccounts", &config::SERVICE_ACCOUNT),
    ("", "services", &service::Service),
    (ADMISSION, "mutatingadmissionpolicies", &extension::MUTATING_POLICY),
    (
        ADMISSION,
        "mutatingadmissionpolicybindings",
        &extension::MUTATING_BINDING,
    ),
    (ADMISSION, "mutatingwebhookconfigurations", &webhooks::MUTATING),
    (ADMISSION, "validatingadmissionpolicies", &extension::VALIDATING_POLICY),
    (
        ADMISSION,
        "validatingadmissionpolicybindings",
        &extension::POLICY_BINDING,
    ),
    (ADMISSION, "validatingwebhookconfigurations", &webhooks::VALIDATING),
    (
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        &custom_resource_definition::CustomResourceDefinition,
    ),
    ("apiregistration.k8s.io", "apiservices", &api_service::ApiService),
    ("apps", "controllerrevisions", &stateful_set::CONTROLLER_REVISION),
    ("apps", "daemonsets", &daemon_set::DAEMON_SET),
    ("apps", "deployments", &deployment::DEPLOYMENT),
    ("apps", "replicasets", &replica_set::REPLICA_SET),
    ("apps", "statefulsets", &stateful_set::STATEFUL_SET),
    ("autoscaling", "horizontalpodautoscalers", &autoscaling::AUTOSCALER),
    ("batch", "cronjobs", &cron_job::CRON_JOB),
    ("batch", "jobs", &job::Job),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        &certificates::SigningRequest,
    ),
    ("coordination.k8s.io", "leases", &policy::LEASE),
    ("discovery.k8s.io", "endpointslices", &endpoints::ENDPOINT_SLICE),
    ("certificates.k8s.io", "clustertrustbundles", &resource::TRUST_BUNDLE),
    (FLOW, "flowschemas", &flow::FLOW_SCHEMA),
    (FLOW, "prioritylevelconfigurations", &flow::PRIORITY_LEVEL),
    ("networking.k8s.io", "ingressclasses", &ingress::INGRESS_CLASS),
    ("networking.k8s.io", "ingresses", &ingress::INGRESS),
    ("networking.k8s.io", "ipaddresses", &networking::IP_ADDRESS),
    ("networking.k8s.io", "networkpolicies", &networking::NETWORK_POLICY),
    ("networking.k8s.io", "servicecidrs", &networking::SERVICE_CIDR),
    ("node.k8s.io", "runtimeclasses", &policy::RUNTIME_CLASS),
    ("policy", "poddisruptionbudgets", &policy::DISRUPTION_BUDGET),
    (RBAC, "clusterrolebindings", &rbac::CLUSTER_ROLE_BINDING),
    (RBAC, "clusterroles", &rbac::CLUSTER_ROLE),
    (RBAC, "rolebindings", &rbac::ROLE_BINDING),
    (RBAC, "roles", &rbac::ROLE),
    ("resource.k8s.io", "deviceclasses", &resource::DEVICE_CLASS),
    ("resource.k8s.io", "resourceclaims", &resource::CLAIM),
    ("resource.k8s.io", "resourceclaimtemplates", &resource::CLAIM_TEMPLATE),
    ("resource.k8s.io", "resourceslices", &resource_slice::SLICE),
    ("scheduling.k8s.io", "priorityclasses", &policy::PRIORITY_CLASS),
    ("storage.k8s.io", "csidrivers", &storage::CSI_DRIVER),
    ("storage.k8s.io", "csistoragecapacities", &storage::CAPACITY),
    ("storage.k8s.io", "csinodes", &storage::CSI_NODE),
    ("storage.k8s.io", "storageclasses", &storage::STORAGE_CLASS),
    ("storage.k8s.io", "volumeattachments", &storage::ATTACHMENT),
    ("storage.k8s.io", "volumeattributesclasses", &storage::ATTRIBUTES_CLASS),
];

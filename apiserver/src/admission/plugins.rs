//! The table of all plugins, in the order in which they run. Source: `pkg/kubeapiserver/options/plugins.go`.

use daemon::config::ConfigError;
use serde_json::Value;

use super::config::AdmissionConfig;
use super::{
    Plugin, always, always_pull_images, anti_affinity, certificates, claim_resize, default_tolerations,
    event_rate_limit, extended_resources, external_ips, limit_ranger, namespace_exists, namespace_lifecycle,
    node_restriction, owner_references, pod_node_selector, pod_security, policy, priority, resource_quota,
    runtime_class, service_account, storage_class, taint_nodes, toleration_restriction, topology_labels, webhook,
};

/// One line of the table.
pub(super) struct Entry {
    /// As flags and files name it.
    pub name: &'static str,
    /// Runs unless it is disabled.
    default: bool,
    /// Makes it from its configuration, which is null if there is none; the error says what is wrong with that.
    make: Make,
}

type Make = fn(&Value) -> Result<Box<dyn Plugin>, String>;

const fn on(name: &'static str, make: Make) -> Entry {
    Entry {
        name,
        default: true,
        make,
    }
}

const fn off(name: &'static str, make: Make) -> Entry {
    Entry {
        name,
        default: false,
        make,
    }
}

/// Those that call out come after those that do not, quota last.
#[rustfmt::skip]
pub(super) static ALL: &[Entry] = &[
    off("AlwaysAdmit", |_| Ok(Box::new(always::AlwaysAdmit))),
    off("NamespaceAutoProvision", |_| Ok(Box::new(namespace_exists::NamespaceAutoProvision))),
    on("NamespaceLifecycle", |_| Ok(Box::new(namespace_lifecycle::NamespaceLifecycle))),
    off("NamespaceExists", |_| Ok(Box::new(namespace_exists::NamespaceExists))),
    off("LimitPodHardAntiAffinityTopology", |_| Ok(Box::new(anti_affinity::LimitPodHardAntiAffinityTopology))),
    on("LimitRanger", |_| Ok(Box::new(limit_ranger::LimitRanger))),
    on("ServiceAccount", |_| Ok(Box::new(service_account::ServiceAccount))),
    // Off by default upstream, where every installer switches it on.
    on("NodeRestriction", |_| Ok(Box::new(node_restriction::NodeRestriction))),
    on("TaintNodesByCondition", |_| Ok(Box::new(taint_nodes::TaintNodesByCondition))),
    off("AlwaysPullImages", |_| Ok(Box::new(always_pull_images::AlwaysPullImages))),
    on("PodSecurity", |config| Ok(Box::new(pod_security::PodSecurity::new(config)?))),
    off("PodNodeSelector", |config| Ok(Box::new(pod_node_selector::PodNodeSelector::new(config)?))),
    on("Priority", |_| Ok(Box::new(priority::Priority))),
    on("DefaultTolerationSeconds", |_| Ok(Box::new(default_tolerations::DefaultTolerationSeconds))),
    off("PodTolerationRestriction", |config| Ok(Box::new(toleration_restriction::PodTolerationRestriction::new(config)?))),
    off("EventRateLimit", |config| Ok(Box::new(event_rate_limit::EventRateLimit::new(config)?))),
    off("ExtendedResourceToleration", |_| Ok(Box::new(extended_resources::ExtendedResourceToleration))),
    on("DefaultStorageClass", |_| Ok(Box::new(storage_class::DefaultStorageClass))),
    on("StorageObjectInUseProtection", |_| Ok(Box::new(storage_class::StorageObjectInUseProtection))),
    off("OwnerReferencesPermissionEnforcement", |_| Ok(Box::new(owner_references::OwnerReferencesPermissionEnforcement))),
    on("PersistentVolumeClaimResize", |_| Ok(Box::new(claim_resize::PersistentVolumeClaimResize))),
    on("RuntimeClass", |_| Ok(Box::new(runtime_class::RuntimeClass))),
    on("CertificateApproval", |_| Ok(Box::new(certificates::Approval))),
    on("CertificateSigning", |_| Ok(Box::new(certificates::Signing))),
    on("ClusterTrustBundleAttest", |_| Ok(Box::new(certificates::BundleAttest))),
    on("CertificateSubjectRestriction", |_| Ok(Box::new(certificates::SubjectRestriction))),
    on("DefaultIngressClass", |_| Ok(Box::new(storage_class::DefaultIngressClass))),
    off("DenyServiceExternalIPs", |_| Ok(Box::new(external_ips::DenyServiceExternalIPs))),
    on("PodTopologyLabels", |_| Ok(Box::new(topology_labels::PodTopologyLabels))),
    on("MutatingAdmissionPolicy", |_| Ok(Box::new(policy::MutatingAdmissionPolicies::new()))),
    on("MutatingAdmissionWebhook", |_| Ok(Box::new(webhook::MutatingAdmissionWebhook))),
    on("ValidatingAdmissionPolicy", |_| Ok(Box::new(policy::ValidatingAdmissionPolicies::new()))),
    on("ValidatingAdmissionWebhook", |_| Ok(Box::new(webhook::ValidatingAdmissionWebhook))),
    on("ResourceQuota", |config| Ok(Box::new(resource_quota::ResourceQuota::new(config)?))),
    off("AlwaysDeny", |_| Ok(Box::new(always::AlwaysDeny))),
];

/// The plugins that the configuration leaves on.
pub(super) fn enabled(config: &AdmissionConfig) -> Result<Vec<Box<dyn Plugin>>, ConfigError> {
    let wanted =
        |entry: &&Entry| config.enable.contains(entry.name) || entry.default && !config.disable.contains(entry.name);
    ALL.iter()
        .filter(wanted)
        .map(|entry| {
            let settings = config.plugins.get(entry.name).unwrap_or(&Value::Null);
            (entry.make)(settings)
                .map_err(|what| ConfigError::Usage(format!("--admission-control-config-file: {}: {what}", entry.name)))
        })
        .collect()
}

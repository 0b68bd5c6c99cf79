//! The table of all plugins, in the order in which they run. Source: `pkg/kubeapiserver/options/plugins.go`.

use daemon::config::ConfigError;
use serde_json::Value;

use super::config::AdmissionConfig;
use super::{
    Plugin, certificates, default_tolerations, limit_ranger, namespace_lifecycle, node_restriction, policy, priority,
    service_account, storage_class, taint_nodes, webhook,
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

/// Mutating plugins come before validating ones, those that call out after those that do not, quota last.
pub(super) static ALL: &[Entry] = &[
    on("NamespaceLifecycle", |_| {
        Ok(Box::new(namespace_lifecycle::NamespaceLifecycle))
    }),
    on("LimitRanger", |_| Ok(Box::new(limit_ranger::LimitRanger))),
    on("ServiceAccount", |_| Ok(Box::new(service_account::ServiceAccount))),
    on("NodeRestriction", |_| Ok(Box::new(node_restriction::NodeRestriction))),
    on("TaintNodesByCondition", |_| {
        Ok(Box::new(taint_nodes::TaintNodesByCondition))
    }),
    on("Priority", |_| Ok(Box::new(priority::Priority))),
    on("DefaultTolerationSeconds", |_| {
        Ok(Box::new(default_tolerations::DefaultTolerationSeconds))
    }),
    on("DefaultStorageClass", |_| {
        Ok(Box::new(storage_class::DefaultStorageClass))
    }),
    on("StorageObjectInUseProtection", |_| {
        Ok(Box::new(storage_class::StorageObjectInUseProtection))
    }),
    on("CertificateApproval", |_| Ok(Box::new(certificates::Approval))),
    on("CertificateSigning", |_| Ok(Box::new(certificates::Signing))),
    on("ClusterTrustBundleAttest", |_| Ok(Box::new(certificates::BundleAttest))),
    on("CertificateSubjectRestriction", |_| {
        Ok(Box::new(certificates::SubjectRestriction))
    }),
    on("DefaultIngressClass", |_| {
        Ok(Box::new(storage_class::DefaultIngressClass))
    }),
    on("MutatingAdmissionWebhook", |_| {
        Ok(Box::new(webhook::MutatingAdmissionWebhook))
    }),
    on("ValidatingAdmissionPolicy", |_| {
        Ok(Box::new(policy::ValidatingAdmissionPolicies::new()))
    }),
    on("ValidatingAdmissionWebhook", |_| {
        Ok(Box::new(webhook::ValidatingAdmissionWebhook))
    }),
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

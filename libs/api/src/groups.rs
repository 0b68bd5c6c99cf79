//! The object types by API group, so that no other crate names `k8s_openapi`.

macro_rules! groups {
    ($($(#[$doc:meta])* $name:ident { $($version:ident),* })*) => {
        $($(#[$doc])* pub mod $name { $(pub use k8s_openapi::api::$name::$version;)* })*
    };
}

groups! {
    /// `admissionregistration.k8s.io`.
    admissionregistration { v1, v1alpha1, v1beta1 }
    /// `internal.apiserver.k8s.io`.
    apiserverinternal { v1alpha1 }
    /// `apps`.
    apps { v1 }
    /// `authentication.k8s.io`.
    authentication { v1 }
    /// `authorization.k8s.io`.
    authorization { v1 }
    /// `autoscaling`.
    autoscaling { v1, v2 }
    /// `batch`.
    batch { v1 }
    /// `certificates.k8s.io`.
    certificates { v1, v1alpha1, v1beta1 }
    /// `coordination.k8s.io`.
    coordination { v1, v1alpha2, v1beta1 }
    /// The core group, whose name is empty.
    core { v1 }
    /// `discovery.k8s.io`.
    discovery { v1 }
    /// `events.k8s.io`.
    events { v1 }
    /// `flowcontrol.apiserver.k8s.io`.
    flowcontrol { v1 }
    /// `networking.k8s.io`.
    networking { v1, v1beta1 }
    /// `node.k8s.io`.
    node { v1 }
    /// `policy`.
    policy { v1 }
    /// `rbac.authorization.k8s.io`.
    rbac { v1 }
    /// `resource.k8s.io`.
    resource { v1, v1alpha3, v1beta1, v1beta2 }
    /// `scheduling.k8s.io`.
    scheduling { v1, v1alpha1 }
    /// `storage.k8s.io`.
    storage { v1, v1beta1 }
    /// `storagemigration.k8s.io`.
    storagemigration { v1beta1 }
}

/// `apiextensions.k8s.io`.
pub mod apiextensions {
    pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1;
}

/// `apiregistration.k8s.io`.
pub mod apiregistration {
    pub use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1;
}

/// `meta/v1` and the value types every group uses.
pub mod meta {
    pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::*;
    pub use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
    pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    pub use k8s_openapi::apimachinery::pkg::version::Info as VersionInfo;
}

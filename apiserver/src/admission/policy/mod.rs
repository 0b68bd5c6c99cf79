//! Admission by expressions: ValidatingAdmissionPolicy and MutatingAdmissionPolicy with their bindings and parameters, and the match
//! conditions that webhooks share with them. Owns what the objects mean; the language is crate `cel`'s.

pub mod compiled;
pub mod conditions;
pub mod expressions;
mod mutating;
mod params;
pub mod type_check;
mod validating;
pub mod validation;
mod watched;

pub(super) use mutating::MutatingAdmissionPolicies;
pub(super) use validating::ValidatingAdmissionPolicies;

/// The API group of policies and bindings.
const GROUP: &str = "admissionregistration.k8s.io";

/// Policies are not asked about each other, or a broken one could never be removed.
const EXEMPT: &[&str] = &[
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

//! The rules of the kinds that have some of their own: one file a kind (or family), one line each in [`STRATEGIES`].

use crate::registry::strategy::{Generic, Strategy};

static GENERATION: Generic = Generic { generation: true };

/// Group, resource and rules. A resource that is not here has nothing special.
pub static STRATEGIES: &[(&str, &str, &dyn Strategy)] = &[("networking.k8s.io", "networkpolicies", &GENERATION)];

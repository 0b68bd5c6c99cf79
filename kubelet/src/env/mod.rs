//! A container's environment, resolved: service variables, `envFrom`, `env` with references, in the order that later ones see earlier ones.

pub mod expand;
pub mod field;
pub mod services;

use crate::cluster::{Cluster, ClusterError};
use api::core::v1::{Container, EnvVar, EnvVarSource, Pod};
use field::PodFacts;
use std::collections::BTreeMap;

/// A variable that cannot be resolved: the container waits with `CreateContainerConfigError` and this text.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// The ConfigMap or Secret is not there.
    #[error("{kind} \"{name}\" not found")]
    Missing {
        /// `configmap` or `secret`.
        kind: &'static str,
        /// The object's name.
        name: String,
    },
    /// The object lacks the key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    Key {
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The object's namespace.
        namespace: String,
        /// The object's name.
        name: String,
        /// The missing key.
        key: String,
    },
    /// A value that is no text.
    #[error("value of key {key} in {name} is not valid UTF-8")]
    NotText {
        /// The object's name.
        name: String,
        /// The key.
        key: String,
    },
    /// A field that cannot be referred to.
    #[error(transparent)]
    Field(#[from] field::FieldError),
    /// The API server did not answer.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

/// Resolves the environment of `container`.
pub async fn resolve(
    cluster: &dyn Cluster,
    pod: &Pod,
    container: &Container,
    facts: &PodFacts,
) -> Result<Vec<(String, String)>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(false);
    let services = cluster.services();
    let service_variables = services::variables(services.iter().map(AsRef::as_ref), namespace, links);

    let mut result = Ordered::default();
    for (name, value) in from_sources(cluster, namespace, container).await? {
        result.set(name, value);
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => value_from(cluster, pod, container, facts, source).await?,
            None => Some(literal(variable, &result, &service_variables)),
        };
        if let Some(value) = value {
            result.set(variable.name.clone(), value);
        }
    }
    for (name, value) in service_variables {
        if !result.index.contains_key(&name) {
            result.set(name, value);
        }
    }
    Ok(result.list)
}

#[derive(Default)]
struct Ordered {
    list: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Ordered {
    fn set(&mut self, name: String, value: String) {
        match self.index.get(&name).and_then(|at| self.list.get_mut(*at)) {
            Some(entry) => entry.1 = value,
            None => {
                self.index.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.index
            .get(name)
            .and_then(|at| self.list.get(*at))
            .map(|entry| entry.1.as_str())
    }
}

fn literal(variable: &EnvVar, so_far: &Ordered, services: &BTreeMap<String, String>) -> String {
    let text = variable.value.as_deref().unwrap_or_default();
    expand::expand(text, |name| {
        so_far
            .get(name)
            .or_else(|| services.get(name).map(String::as_str))
            .map(str::to_owned)
    })
}

async fn from_sources(
    cluster: &dyn Cluster,
    namespace: &str,
    container: &Container,
) -> Result<Vec<(String, String)>, EnvError> {
    let mut found = Vec::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref {
            match cluster.config_map(namespace, &reference.name).await? {
                Some(map) => {
                    let data = map.data.iter().flatten();
                    found.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
                }
                None if reference.optional == Some(true) => {}
                None => {
                    return Err(EnvError::Missing {
                        kind: "configmap",
                        name: reference.name.clone(),
                    });
                }
            }
        }
        if let Some(reference) = &source.secret_ref {
            match cluster.secret(namespace, &reference.name).await? {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        found.push((format!("{prefix}{key}"), text(&reference.name, key, &value.0)?));
                    }
                }
                None if reference.optional == Some(true) => {}
                None => {
                    return Err(EnvError::Missing {
                        kind: "secret",
                        name: reference.name.clone(),
                    });
                }
            }
        }
    }
    // Names that no shell could set are left out, as upstream does for sources.
    found.retain(|(name, _)| is_variable_name(name));
    Ok(found)
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('=') && name.chars().all(|c| c.is_ascii() && !c.is_ascii_control())
}

async fn value_from(
    cluster: &dyn Cluster,
    pod: &Pod,
    container: &Container,
    facts: &PodFacts,
    source: &EnvVarSource,
) -> Result<Option<String>, EnvError> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(reference) = &source.field_ref {
        return Ok(Some(field::field(pod, facts, &reference.field_path)?));
    }
    if let Some(selector) = &source.resource_field_ref {
        return Ok(Some(field::resource(pod, Some(container), facts, selector)?));
    }
    if let Some(selector) = &source.config_map_key_ref {
        let optional = selector.optional == Some(true);
        let map = cluster.config_map(namespace, &selector.name).await?;
        let value = map
            .as_ref()
            .map(|map| map.data.as_ref().and_then(|data| data.get(&selector.key)).cloned());
        return found(value, optional, "ConfigMap", namespace, &selector.name, &selector.key);
    }
    if let Some(selector) = &source.secret_key_ref {
        let optional = selector.optional == Some(true);
        let secret = cluster.secret(namespace, &selector.name).await?;
        let bytes = secret
            .as_ref()
            .map(|secret| secret.data.as_ref().and_then(|data| data.get(&selector.key)));
        let value = match bytes {
            Some(Some(bytes)) => Some(Some(text(&selector.name, &selector.key, &bytes.0)?)),
            Some(None) => Some(None),
            None => None,
        };
        return found(value, optional, "Secret", namespace, &selector.name, &selector.key);
    }
    Ok(None)
}

fn found(
    value: Option<Option<String>>,
    optional: bool,
    kind: &'static str,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, EnvError> {
    match value {
        Some(Some(value)) => Ok(Some(value)),
        _ if optional => Ok(None),
        None => Err(EnvError::Missing {
            kind: if kind == "Secret" { "secret" } else { "configmap" },
            name: name.to_owned(),
        }),
        Some(None) => {
            let (namespace, name, key) = (namespace.to_owned(), name.to_owned(), key.to_owned());
            Err(EnvError::Key {
                kind,
                namespace,
                name,
                key,
            })
        }
    }
}

fn text(name: &str, key: &str, bytes: &[u8]) -> Result<String, EnvError> {
    let not_text = |_| EnvError::NotText {
        name: name.to_owned(),
        key: key.to_owned(),
    };
    String::from_utf8(bytes.to_vec()).map_err(not_text)
}

//! Publishes the CA of the API server to every namespace, for pods to verify it with: ConfigMap `kube-root-ca.crt`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::core::v1::{ConfigMap, Namespace};
use api::meta::ObjectMeta;
use api::{Object, ObjectKey};
use client::{Cache, Client};
use controller::{Action, Error};

use crate::setup::{Setup, enqueue};

const NAME: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as \
    the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create it.
    Create(Box<ConfigMap>),
    /// Write it.
    Update(Box<ConfigMap>),
}

/// What makes the namespace have the bundle `ca`.
pub fn plan(namespace: &Namespace, published: Option<&ConfigMap>, ca: &str) -> Option<Change> {
    if namespace.is_deleting() {
        return None;
    }
    let data = BTreeMap::from([(KEY.to_owned(), ca.to_owned())]);
    let Some(published) = published else {
        return Some(Change::Create(Box::new(ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(namespace.name().to_owned()),
                annotations: Some([(DESCRIPTION.to_owned(), DESCRIPTION_TEXT.to_owned())].into()),
                ..Default::default()
            },
            data: Some(data),
            ..Default::default()
        })));
    };
    let described = published
        .annotations()
        .get(DESCRIPTION)
        .is_some_and(|text| text == DESCRIPTION_TEXT);
    if published.data.as_ref() == Some(&data) && described {
        return None;
    }
    let mut written = ConfigMap {
        data: Some(data),
        ..published.clone()
    };
    written
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(DESCRIPTION.into(), DESCRIPTION_TEXT.into());
    Some(Change::Update(Box::new(written)))
}

/// Adds the controller, if there is a bundle to publish.
pub fn start(setup: &mut Setup) {
    let Some(ca) = setup.config.root_ca.clone() else { return };
    let queue = setup.queue("root_ca_cert_publisher");
    setup.informers.namespaces.on_event(enqueue(&queue));
    let waking = queue.clone();
    setup
        .informers
        .root_cas
        .on_event(move |event| waking.add(ObjectKey::new("", event.object().namespace())));
    let client = setup.client.clone();
    setup.run("root_ca_cert_publisher", queue, 1, move |caches| {
        let publisher = Arc::new(Publisher {
            client,
            ca,
            namespaces: caches.namespaces,
            published: caches.root_cas,
        });
        move |key| {
            let publisher = publisher.clone();
            async move { publisher.reconcile(key).await }
        }
    });
}

struct Publisher {
    client: Client,
    ca: String,
    namespaces: Cache<Namespace>,
    published: Cache<ConfigMap>,
}

impl Publisher {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(namespace) = self.namespaces.get(&key) else {
            return Ok(Action::Done);
        };
        let published = self.published.get(&ObjectKey::new(&*key.name, NAME));
        let api = self.client.api::<ConfigMap>();
        let outcome = match plan(&namespace, published.as_deref(), &self.ca) {
            None => return Ok(Action::Done),
            Some(Change::Create(map)) => api.create(&map).await,
            Some(Change::Update(map)) => api.update(&map).await,
        };
        match outcome {
            Ok(_) => Ok(Action::Done),
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(Action::Done),
            Err(error) => Err(Error::client(format!("publish the CA to namespace {key}"))(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_the_bundle_as_it_is() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("team".into());
        let Some(Change::Create(published)) = plan(&namespace, None, "PEM") else {
            panic!("nothing created")
        };
        assert_eq!(published.data.as_ref().unwrap()[KEY], "PEM");
        assert_eq!(plan(&namespace, Some(&published), "PEM"), None);
        let Some(Change::Update(renewed)) = plan(&namespace, Some(&published), "NEW") else {
            panic!("nothing written")
        };
        assert_eq!(renewed.data.unwrap()[KEY], "NEW");
        namespace.metadata.deletion_timestamp = Some(crate::pods::testing::ago(1));
        assert_eq!(plan(&namespace, None, "PEM"), None);
    }
}

//! Service accounts: account `default` in every namespace that is not on its way out.

use std::sync::Arc;

use api::core::v1::{Namespace, ServiceAccount};
use api::meta::ObjectMeta;
use api::{Object, ObjectKey};
use client::{Cache, Client};
use controller::{Action, Error};

use crate::setup::{Setup, enqueue};

const DEFAULT: &str = "default";

/// The account to create, if the namespace lacks it.
pub fn plan(namespace: &Namespace, account: Option<&ServiceAccount>) -> Option<ServiceAccount> {
    let missing = account.is_none() && !namespace.is_deleting();
    missing.then(|| ServiceAccount {
        metadata: ObjectMeta {
            name: Some(DEFAULT.into()),
            namespace: Some(namespace.name().to_owned()),
            ..Default::default()
        },
        ..Default::default()
    })
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("serviceaccount");
    setup.informers.namespaces.on_event(enqueue(&queue));
    let waking = queue.clone();
    setup.informers.service_accounts.on_event(move |event| {
        let account = event.object();
        if account.name() == DEFAULT {
            waking.add(ObjectKey::new("", account.namespace()));
        }
    });
    let client = setup.client.clone();
    setup.run("serviceaccount", queue, 1, move |caches| {
        let controller = Arc::new(Controller {
            client,
            namespaces: caches.namespaces,
            accounts: caches.service_accounts,
        });
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(key).await }
        }
    });
}

struct Controller {
    client: Client,
    namespaces: Cache<Namespace>,
    accounts: Cache<ServiceAccount>,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(namespace) = self.namespaces.get(&key) else {
            return Ok(Action::Done);
        };
        let account = self.accounts.get(&ObjectKey::new(&*key.name, DEFAULT));
        let Some(account) = plan(&namespace, account.as_deref()) else {
            return Ok(Action::Done);
        };
        match self.client.api::<ServiceAccount>().create(&account).await {
            Ok(_) => Ok(Action::Done),
            Err(error) if error.is_already_exists() || error.is_namespace_terminating() => Ok(Action::Done),
            Err(error) => Err(Error::client(format!("create ServiceAccount {}", account.key()))(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_gets_the_account_it_lacks_unless_it_is_leaving() {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some("team".into());
        let account = plan(&namespace, None).unwrap();
        assert_eq!(account.key(), ObjectKey::new("team", "default"));
        assert_eq!(plan(&namespace, Some(&account)), None);
        namespace.metadata.deletion_timestamp = Some(crate::pods::testing::ago(1));
        assert_eq!(plan(&namespace, None), None);
    }
}

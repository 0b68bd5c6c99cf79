//! Where custom objects meet the pipeline: between the version that is stored and the one that is asked for, which may need a webhook, and the
//! end of all objects of a definition. For built-in kinds everything here is a look at one pointer.

use std::sync::Arc;
use std::time::Duration;

use api::Error;
use bytes::Bytes;
use serde_json::Value;

use super::access::{Attributes, UserInfo};
use super::options::DeleteOptions;
use super::{Access, Kind, Registry, store_error};
use crate::apiextensions::convert::{BATCH, Shared};
use crate::apiextensions::definition::{condition, list};
use crate::store::{Entry, ListQuery, ReadAt};

/// How long a request waits for a kind that is established and not yet known here.
const LATE: Duration = Duration::from_secs(1);

/// Entries in the version of the kind.
///
/// # Errors
/// 500 when a webhook does not do its part.
pub(super) async fn present(
    webhooks: &Shared,
    kind: &Kind,
    mut entries: Vec<Arc<Entry>>,
) -> Result<Vec<Arc<Entry>>, Error> {
    let Some(custom) = kind.strategy.custom() else {
        return Ok(entries);
    };
    let foreign: Vec<usize> = (0..entries.len())
        .filter(|index| custom.needs_webhook(&entries[*index].value))
        .collect();
    for part in foreign.chunks(BATCH) {
        let objects = part.iter().map(|index| custom.as_written(&entries[*index].value));
        let objects = objects.collect::<Result<Vec<Value>, Error>>()?;
        let converted = webhooks.convert(custom, &custom.version().name, objects).await?;
        for (index, mut object) in part.iter().zip(converted) {
            let old = &entries[*index];
            custom.normalize(&mut object).map_err(Error::internal)?;
            let value = api::codec::set_resource_version(&custom.encode(&object)?, old.revision);
            entries[*index] = Arc::new(Entry::new(
                old.key.clone(),
                old.create_revision,
                old.revision,
                value.into(),
                old.expires_at,
            ));
        }
    }
    Ok(entries)
}

impl Registry {
    /// Entries in the version of the kind.
    ///
    /// # Errors
    /// 500 when a webhook does not do its part.
    pub(super) async fn present(&self, kind: &Kind, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>, Error> {
        present(self.catalog.webhooks(), kind, entries).await
    }

    /// The same for one.
    ///
    /// # Errors
    /// 500 when a webhook does not do its part.
    pub(super) async fn present_one(&self, kind: &Kind, entry: Arc<Entry>) -> Result<Arc<Entry>, Error> {
        if kind.strategy.custom().is_none() {
            return Ok(entry);
        }
        let shown = self.present(kind, vec![entry]).await?.pop();
        shown.ok_or_else(|| Error::internal("conversion lost an object"))
    }

    /// What is stored of an object of the kind's version, unstamped.
    ///
    /// # Errors
    /// 400 for an object that does not fit; 500 when a webhook does not do its part.
    pub(super) async fn stored_form(&self, kind: &Kind, object: &Value) -> Result<Bytes, Error> {
        let Some(custom) = kind.strategy.custom() else {
            return kind.encode(object);
        };
        let storage = custom.definition.storage();
        if !custom.converts_to(&storage.name) {
            return custom.encode_for_storage(&mut object.clone());
        }
        let webhooks = self.catalog.webhooks();
        let converted = webhooks.convert(custom, &storage.name, vec![object.clone()]).await?;
        let converted = converted.into_iter().next();
        custom.encode_for_storage(&mut converted.ok_or_else(|| Error::internal("conversion lost an object"))?)
    }

    /// A kind that was established a moment ago, perhaps by another server: its definition is in the store and on its way into the catalog.
    pub(super) async fn find_late(&self, attributes: &Attributes) -> Option<Arc<Kind>> {
        let (group, version, resource) = (&attributes.group, &attributes.version, &attributes.resource);
        let definitions = super::find("apiextensions.k8s.io", "v1", "customresourcedefinitions")?;
        let key = definitions.key("", &format!("{resource}.{group}"));
        let entry = self.store.get(&key, ReadAt::Latest).await.ok()??;
        let crd = definitions.stored_value(&entry).ok()?;
        let served = list(&crd, "/spec/versions").iter().any(|served| {
            served.get("name").and_then(Value::as_str) == Some(version)
                && served.get("served") == Some(&Value::Bool(true))
        });
        if condition(&crd, "Established") != Some("True") || !served {
            return None;
        }
        let found = self.catalog.wait(group, version, resource);
        tokio::time::timeout(LATE, found).await.ok()
    }

    /// Removes every object of a kind whose definition goes. Returns how many finalizers still keep.
    ///
    /// # Errors
    /// What the store says.
    pub(crate) async fn purge(&self, kind: &Arc<Kind>) -> Result<usize, Error> {
        let query = ListQuery {
            prefix: &kind.prefix,
            start_after: None,
            limit: 0,
            at: ReadAt::Latest,
        };
        let entries = self.store.list(query).await.map_err(store_error)?.entries;
        let user = Arc::new(UserInfo::apiserver());
        let mut left = 0;
        for entry in entries {
            let mut parts = entry.key.rsplit('/');
            let name = parts.next().unwrap_or_default().to_owned();
            let namespace = parts.next().unwrap_or_default().to_owned();
            let attributes = Attributes {
                verb: "delete".into(),
                is_resource: true,
                group: kind.info.group.to_string(),
                version: kind.info.version.to_string(),
                resource: kind.info.resource.to_string(),
                namespace,
                name,
                ..Attributes::default()
            };
            let access = Access {
                user: user.clone(),
                attributes,
                kind: kind.clone(),
                _sealed: super::Sealed,
            };
            match self.remove(&access, &DeleteOptions::default(), true).await {
                Ok(removed) => left += usize::from(!removed.gone),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }
}

//! Create.

use std::sync::Arc;

use api::Error;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use super::access::{AdmissionRequest, Operation, Options};
use super::decode::Expected;
use super::options::WriteOptions;
use super::strategy::{Extra, WriteContext};
use super::{Access, Kind, Registry, apply, convert, meta, store_error};
use crate::store::{Condition, Entry, Expect, Op, Txn, TxnOutcome};

/// How often a generated name that is taken is drawn anew.
const NAME_ATTEMPTS: usize = 8;
/// How often a write starts again because somebody else was faster.
pub(super) const ATTEMPTS: usize = 16;

/// What a write left behind.
#[derive(Debug)]
pub struct Written {
    /// The object as it is stored now; with dry-run, as it would be.
    pub entry: Arc<Entry>,
    /// It did not exist before.
    pub created: bool,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
}

impl Kind {
    /// What a body for this resource must be.
    pub fn expected<'a>(&'a self, api_version: &'a str) -> Expected<'a> {
        Expected {
            api_version,
            kind: &self.info.kind,
            message: self.info.message,
            custom: self.strategy.custom(),
        }
    }

    /// The stored form of an object, unstamped.
    pub(crate) fn encode(&self, object: &Value) -> Result<Bytes, Error> {
        api::codec::value_to_proto(self.message(), object)
            .map(Bytes::from)
            .map_err(|error| Error::bad_request(error.to_string()))
    }

    /// When an object written now disappears by itself.
    pub(super) fn expiry(&self, now: Timestamp) -> Option<i64> {
        self.strategy.ttl().map(|ttl| now.as_second().saturating_add(ttl))
    }
}

/// The entry that a dry run answers with.
pub(super) fn imagined(key: String, value: Bytes, current: Option<&Entry>) -> Arc<Entry> {
    let (created, revision) = current.map_or((0, 0), |c| (c.create_revision, c.revision));
    Arc::new(Entry::new(key.into(), created, revision, value, None))
}

impl Registry {
    /// A new object. `object` is in the requested version, as `decode` returns it.
    ///
    /// # Errors
    /// 409 if it exists, 422 with all faults, 403 from admission, 400 where request and object disagree.
    pub async fn create(&self, access: &Access, object: Value, options: &WriteOptions) -> Result<Written, Error> {
        let mut access = access.clone();
        let mut object = convert::to_storage(&access.kind, object);
        place(&mut access, &mut object)?;
        if !meta::text(&object, "name").is_empty() || meta::text(&object, "generateName").is_empty() {
            access.attributes.name = meta::text(&object, "name").to_owned();
            return self.create_named(&access, object, options).await;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut object = object.clone();
            let name = meta::generate_name(meta::text(&object, "generateName"));
            access.attributes.name.clone_from(&name);
            meta::of(&mut object).insert("name".into(), name.into());
            match self.create_named(&access, object, options).await {
                Err(error) if error.is_already_exists() && attempt < NAME_ATTEMPTS => continue,
                outcome => return outcome,
            }
        }
    }

    async fn create_named(&self, access: &Access, mut object: Value, options: &WriteOptions) -> Result<Written, Error> {
        let kind = &access.kind;
        let now = Timestamp::now();
        let cx = WriteContext {
            store: &*self.store,
            resource: &kind.storage,
            requested: &kind.info,
            user: &access.user,
            subresource: "",
            dry_run: options.dry_run,
        };
        let request = access.admission(Operation::Create, None, Options::Write(options));
        meta::begin(&mut object, kind.strategy.generation(), now);
        let duplicates = meta::deduplicate_owners(&mut object);
        kind.strategy.default(&mut object);
        self.admission.mutate(&request, &mut object).await?;
        let renamed = renamed(access, &object)?;
        let access = renamed.as_ref().unwrap_or(access);
        kind.strategy.prepare_create(&cx, &mut object);
        let mut faults = meta::validate(&object, kind.info.namespaced, &*kind.strategy);
        faults.extend(meta::unqualified_finalizers(&object, &kind.info));
        faults.extend(kind.strategy.validate(&cx, &object));
        if !faults.is_empty() {
            return Err(Error::invalid(&kind.group_kind(), &access.attributes.name, faults));
        }
        self.admission.validate(&request, &object).await?;
        // Components name no manager: their objects cost nothing more, until somebody applies one.
        if !options.applied && !options.field_manager.is_empty() {
            apply::track(access, None, &mut object, options, now);
        }
        let mut warnings: Vec<String> = duplicates.into_iter().collect();
        warnings.extend(kind.strategy.warnings(&object, None));
        let entry = self.insert(access, &cx, &request, object, now).await?;
        warnings.extend(request.take_warnings());
        let written = Written {
            entry,
            created: true,
            warnings,
        };
        self.shown(kind, written).await
    }

    /// The write itself, again as long as an allocator's condition fails.
    async fn insert(
        &self,
        access: &Access,
        cx: &WriteContext<'_>,
        request: &AdmissionRequest<'_>,
        object: Value,
        now: Timestamp,
    ) -> Result<Arc<Entry>, Error> {
        let (kind, key) = (&access.kind, access.key());
        for attempt in 0..ATTEMPTS {
            let mut object = object.clone();
            let Extra { conditions, ops } = kind.strategy.before_create(cx, &mut object).await?;
            let reserved = self.admission.reserve(request, &object, attempt > 0).await?;
            let value = self.stored_form(kind, &object).await?;
            if cx.dry_run {
                return match self
                    .store
                    .get(&key, crate::store::ReadAt::Latest)
                    .await
                    .map_err(store_error)?
                {
                    Some(_) => Err(Error::already_exists(&kind.group_resource(), &access.attributes.name)),
                    None => Ok(imagined(key, value, None)),
                };
            }
            let put = Op::Put {
                key: key.clone(),
                value,
                expires_at: kind.expiry(now),
            };
            let txn = Txn {
                conditions: [Condition {
                    key: key.clone(),
                    expect: Expect::Absent,
                }]
                .into_iter()
                .chain(conditions)
                .chain(reserved.extra.conditions)
                .collect(),
                ops: [put].into_iter().chain(ops).chain(reserved.extra.ops).collect(),
            };
            match self.store.transact(txn).await.map_err(store_error)? {
                TxnOutcome::Committed { entries, .. } => return committed(entries),
                TxnOutcome::Conflict { condition: 0, current } => return Err(self.taken(access, current.as_deref())),
                TxnOutcome::Conflict { .. } => {}
            }
        }
        Err(Error::server_timeout(&kind.group_resource(), "create", 1))
    }

    /// 409, and a hint if the object in the way is on its way out.
    fn taken(&self, access: &Access, current: Option<&Entry>) -> Error {
        let mut error = Error::already_exists(&access.kind.group_resource(), &access.attributes.name);
        let deleting = current
            .and_then(|entry| access.kind.stored_value(entry).ok())
            .is_some_and(|object| meta::is_deleting(&object));
        if deleting {
            error.message = format!("object is being deleted: {}", error.message);
        }
        error
    }
}

/// The entry of a transaction's first op.
pub(super) fn committed(entries: Vec<Option<Arc<Entry>>>) -> Result<Arc<Entry>, Error> {
    entries
        .into_iter()
        .next()
        .flatten()
        .ok_or_else(|| Error::internal("store: committed without an entry"))
}

/// The access to an object that admission has given another name; its namespace is not admission's to choose.
fn renamed(access: &Access, object: &Value) -> Result<Option<Access>, Error> {
    check_namespace(access.namespace(), meta::text(object, "namespace"))?;
    let name = meta::text(object, "name");
    if name == access.attributes.name {
        return Ok(None);
    }
    let mut renamed = access.clone();
    renamed.attributes.name = name.to_owned();
    Ok(Some(renamed))
}

/// Brings the namespace and name of request and object together.
fn place(access: &mut Access, object: &mut Value) -> Result<(), Error> {
    if !meta::text(object, "resourceVersion").is_empty() {
        return Err(Error::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if !access.kind.info.namespaced {
        if !meta::text(object, "namespace").is_empty() && access.kind.info.resource != "namespaces" {
            return Err(Error::bad_request("namespace may not be set on cluster-scoped objects"));
        }
        return Ok(());
    }
    let wanted = access.attributes.namespace.clone();
    check_namespace(&wanted, meta::text(object, "namespace"))?;
    meta::of(object).insert("namespace".into(), wanted.into());
    Ok(())
}

/// The namespace of the body, if it has one, is that of the request.
fn check_namespace(request: &str, object: &str) -> Result<(), Error> {
    if object.is_empty() || object == request {
        return Ok(());
    }
    Err(Error::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    ))
}

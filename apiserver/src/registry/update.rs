//! Update and what all changes of an existing object share.

use std::sync::Arc;

use api::{Error, FieldError};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use super::access::{Operation, Options, Reservation};
use super::create::{ATTEMPTS, Written, committed, imagined};
use super::options::WriteOptions;
use super::strategy::{Extra, WriteContext};
use super::{Access, Registry, apply, convert, meta, store_error};
use crate::store::{Condition, Entry, Expect, Op, ReadAt, TxnOutcome};

/// Upstream's advice after a lost race.
const STALE: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// How a change is made from the object as it is. Returns the new object in the storage version.
pub(super) type Change<'a> = dyn Fn(&Value) -> Result<Value, Error> + Send + Sync + 'a;

/// What a change needs besides its function.
pub(super) struct Rules {
    /// Start again after a lost race, instead of a conflict: the change does not name a resourceVersion.
    pub retry: bool,
    /// A write without a resourceVersion is fine.
    pub unconditional: bool,
    /// The server's own edit of a part that the kind's rules protect from callers (a binding): neither those rules nor admission are asked.
    pub trusted: bool,
}

impl Registry {
    /// Replaces an object, its status or another part of it. `object` is in the requested version.
    ///
    /// # Errors
    /// 404, 409 for a stale resourceVersion or a foreign uid, 422 with all faults, 403 from admission.
    pub async fn update(&self, access: &Access, object: Value, options: &WriteOptions) -> Result<Written, Error> {
        let kind = &access.kind;
        let object = convert::to_storage(kind, object);
        check_identity(access, &object)?;
        let creates = access.attributes.subresource.is_empty() && kind.strategy.create_on_update();
        let rules = Rules {
            retry: meta::text(&object, "resourceVersion").is_empty(),
            unconditional: kind.strategy.unconditional_update(),
            trusted: false,
        };
        let outcome = self.change(access, &|_| Ok(object.clone()), rules, options).await;
        match outcome {
            Err(error) if error.is_not_found() && creates && self.is_missing(access).await? => {
                let uid = meta::text(&object, "uid");
                if !uid.is_empty() {
                    return Err(wrong_uid(access, uid, ""));
                }
                if !meta::text(&object, "resourceVersion").is_empty() {
                    return Err(error);
                }
                self.create_instead(access, object, options).await
            }
            outcome => outcome,
        }
    }

    /// Whether the object that the request names is not there: a 404 may speak of another one.
    pub(super) async fn is_missing(&self, access: &Access) -> Result<bool, Error> {
        let current = self
            .store
            .get(&access.key(), ReadAt::Latest)
            .await
            .map_err(store_error)?;
        Ok(current.is_none())
    }

    /// Creates what a PUT or apply did not find, if the user may create. `object` is in the storage version.
    pub(super) async fn create_instead(
        &self,
        access: &Access,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let mut creation = access.attributes.clone();
        creation.verb = "create".into();
        let creator = self.authorize(access.user.clone(), creation).await?;
        let object = convert::from_storage(&access.kind, object);
        self.create(&creator, object, options).await
    }

    /// Reads, changes, checks and writes, until nobody was faster.
    pub(super) async fn change(
        &self,
        access: &Access,
        change: &Change<'_>,
        rules: Rules,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let key = access.key();
        // What this replica has is good enough to begin with: the write is conditional on it, and every refusal is checked against the
        // latest state.
        let mut current = self.store.get(&key, ReadAt::Any).await.map_err(store_error)?;
        let mut latest = false;
        for _ in 0..ATTEMPTS {
            if current.is_none() && !latest {
                current = self.store.get(&key, ReadAt::Latest).await.map_err(store_error)?;
                latest = true;
            }
            let Some(entry) = current else {
                return Err(access.not_found());
            };
            match self
                .change_once(access, &entry, change, &rules, options, latest)
                .await?
            {
                Step::Done(written) => return self.shown(&access.kind, *written).await,
                Step::Refused(error) if latest => return Err(error),
                Step::Refused(_) => {
                    current = self.store.get(&key, ReadAt::Latest).await.map_err(store_error)?;
                    latest = true;
                }
                Step::Lost(newer) if rules.retry || !latest => {
                    current = newer;
                    latest = true;
                }
                Step::Lost(_) => return Err(stale(access)),
                Step::Again => {
                    current = self.store.get(&key, ReadAt::Latest).await.map_err(store_error)?;
                    latest = true;
                }
            }
        }
        Err(stale(access))
    }

    /// What a write left behind, in the version of the kind.
    pub(super) async fn shown(&self, kind: &super::Kind, mut written: Written) -> Result<Written, Error> {
        written.entry = self.present_one(kind, written.entry).await?;
        Ok(written)
    }

    async fn change_once(
        &self,
        access: &Access,
        current: &Arc<Entry>,
        change: &Change<'_>,
        rules: &Rules,
        options: &WriteOptions,
        latest: bool,
    ) -> Result<Step, Error> {
        let kind = &access.kind;
        let now = Timestamp::now();
        let shown = self.present_one(kind, current.clone()).await?;
        let old = kind.stored_value(&shown)?;
        let mut new = match change(&old) {
            Ok(new) => new,
            Err(error) => return Ok(Step::Refused(error)),
        };
        if let Err(error) = check_preconditions(access, &new, &old, rules) {
            return Ok(Step::Refused(error));
        }
        let cx = WriteContext {
            store: &*self.store,
            resource: &kind.storage,
            requested: &kind.info,
            user: &access.user,
            subresource: &access.attributes.subresource,
            dry_run: options.dry_run,
        };
        let request = access.admission(Operation::Update, Some(&old), Options::Write(options));
        meta::carry_over(&mut new, &old);
        let duplicates = meta::deduplicate_owners(&mut new);
        if !rules.trusted {
            kind.strategy.default(&mut new);
            kind.strategy.prepare_update(&cx, &mut new, &old);
            self.admission.mutate(&request, &mut new).await?;
            // Once more: admission may not write what the caller may not.
            kind.strategy.prepare_update(&cx, &mut new, &old);
            let mut faults = meta::validate_update(&new, &old);
            faults.extend(meta::unqualified_finalizers(&new, &kind.info));
            faults.extend(kind.strategy.validate_update(&cx, &new, &old));
            if !faults.is_empty() {
                return Ok(Step::Refused(Error::invalid(
                    &kind.group_kind(),
                    &access.attributes.name,
                    faults,
                )));
            }
        }
        if kind.strategy.generation() {
            meta::count_generation(&mut new, &old, &|field| kind.strategy.is_desired(field));
        }
        let mut warnings: Vec<String> = duplicates.into_iter().collect();
        if !rules.trusted {
            self.admission.validate(&request, &new).await?;
            warnings.extend(kind.strategy.warnings(&new, Some(&old)));
            warnings.extend(request.take_warnings());
        }
        if meta::is_deleting(&new) && self.may_go(access, &new) {
            let last = kind.encode(&new)?;
            if options.dry_run {
                return Ok(Step::done(imagined(access.key(), last, Some(current)), warnings));
            }
            let step = self.finish_deletion(access, &cx, current, &new, warnings).await?;
            return Ok(step.showing(last));
        }
        if !options.applied && !same(&new, &old) {
            apply::track(access, Some(&old), &mut new, options, now);
        }
        let Extra { conditions, ops } = kind.strategy.before_update(&cx, &mut new, &old).await?;
        let value = self.stored_form(kind, &new).await?;
        // Nothing changed: nothing is written, unless writing keeps the object alive.
        let stamped = api::codec::set_resource_version(&value, current.revision);
        if kind.strategy.ttl().is_none() && stamped == *current.value {
            return Ok(Step::done(current.clone(), warnings));
        }
        let key = access.key();
        let reserved = match rules.trusted {
            true => Reservation::default(),
            false => self.admission.reserve(&request, &new, latest).await?,
        };
        if options.dry_run {
            return Ok(Step::done(imagined(key, stamped.into(), Some(current)), warnings));
        }
        let expect = Condition {
            key: key.clone(),
            expect: Expect::Revision(current.revision),
        };
        let put = Op::Put {
            key,
            value,
            expires_at: kind.expiry(now),
        };
        let conditions = conditions.into_iter().chain(reserved.extra.conditions).collect();
        let ops = ops.into_iter().chain(reserved.extra.ops).collect();
        self.commit(expect, put, conditions, ops, warnings).await
    }

    /// Commits a change with what its hook added.
    pub(super) async fn commit(
        &self,
        expect: Condition,
        op: Op,
        conditions: Vec<Condition>,
        ops: Vec<Op>,
        warnings: Vec<String>,
    ) -> Result<Step, Error> {
        let txn = crate::store::Txn {
            conditions: [expect].into_iter().chain(conditions).collect(),
            ops: [op].into_iter().chain(ops).collect(),
        };
        Ok(match self.store.transact(txn).await.map_err(store_error)? {
            TxnOutcome::Committed { entries, .. } => Step::done(committed(entries)?, warnings),
            TxnOutcome::Conflict { condition: 0, current } => Step::Lost(current),
            TxnOutcome::Conflict { .. } => Step::Again,
        })
    }
}

/// How one attempt at a change ended.
pub(super) enum Step {
    /// Written, or nothing to write.
    Done(Box<Written>),
    /// Somebody else wrote first; this is what they left.
    Lost(Option<Arc<Entry>>),
    /// A condition of the hook failed.
    Again,
    /// Not acceptable, given the object as this replica has it.
    Refused(Error),
}

impl Step {
    /// The answer to a write after which nothing kept the object: it as it was written, with the revision at which it went.
    fn showing(self, value: Bytes) -> Self {
        match self {
            Self::Done(mut written) => {
                let gone = &written.entry;
                let value = api::codec::set_resource_version(&value, gone.revision).into();
                written.entry = imagined(gone.key.to_string(), value, Some(gone));
                Self::Done(written)
            }
            other => other,
        }
    }

    fn done(entry: Arc<Entry>, warnings: Vec<String>) -> Self {
        Self::Done(Box::new(Written {
            entry,
            created: false,
            warnings,
        }))
    }
}

/// True if nothing but the revision can differ.
fn same(new: &Value, old: &Value) -> bool {
    new.pointer("/metadata/managedFields") == old.pointer("/metadata/managedFields")
        && fields(Some(new), &["metadata"]).eq(fields(Some(old), &["metadata"]))
        && fields(new.get("metadata"), &["resourceVersion"]).eq(fields(old.get("metadata"), &["resourceVersion"]))
}

/// The fields of an object in their order, save some.
fn fields<'a>(object: Option<&'a Value>, skipped: &'a [&'a str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let all = object.and_then(Value::as_object).into_iter().flatten();
    all.filter(move |(field, _)| !skipped.contains(&field.as_str()))
}

/// 409 after a lost race.
pub(super) fn stale(access: &Access) -> Error {
    Error::conflict(&access.kind.group_resource(), &access.attributes.name, STALE)
}

/// The body names the same object as the request.
///
/// # Errors
/// 400 with upstream's text.
pub(super) fn check_identity(access: &Access, object: &Value) -> Result<(), Error> {
    let (wanted, name) = (&access.attributes.name, meta::text(object, "name"));
    if name.is_empty() {
        return Err(Error::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != wanted {
        return Err(Error::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    let (wanted, namespace) = (access.namespace(), meta::text(object, "namespace"));
    if !wanted.is_empty() && !namespace.is_empty() && namespace != wanted {
        return Err(Error::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({wanted})"
        )));
    }
    Ok(())
}

/// 409 for an object that is not the one that the writer means.
pub(super) fn wrong_uid(access: &Access, uid: &str, is: &str) -> Error {
    let why = format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, UID in object meta: {is}",
        registry_path(access)
    );
    Error::conflict(&access.kind.group_resource(), &access.attributes.name, why)
}

/// The object's key as upstream's messages show it.
fn registry_path(access: &Access) -> String {
    let (resource, namespace, name) = (&access.kind.info.resource, access.namespace(), &access.attributes.name);
    match namespace {
        "" => format!("/registry/{resource}/{name}"),
        namespace => format!("/registry/{resource}/{namespace}/{name}"),
    }
}

fn check_preconditions(access: &Access, new: &Value, old: &Value, rules: &Rules) -> Result<(), Error> {
    let name = &access.attributes.name;
    let (uid, is) = (meta::text(new, "uid"), meta::text(old, "uid"));
    if !uid.is_empty() && uid != is {
        return Err(wrong_uid(access, uid, is));
    }
    match meta::text(new, "resourceVersion") {
        "" if rules.unconditional => Ok(()),
        "" => {
            let fault = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
            Err(Error::invalid(&access.kind.group_kind(), name, vec![fault]))
        }
        version if version == meta::text(old, "resourceVersion") => Ok(()),
        _ => Err(stale(access)),
    }
}

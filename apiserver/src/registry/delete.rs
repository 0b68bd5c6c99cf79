//! Deletion: grace, finalizers, preconditions, collections.

use std::sync::Arc;

use api::Error;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::access::{Operation, Options};
use super::create::{ATTEMPTS, Written, imagined};
use super::options::{DeleteOptions, ListOptions, Propagation};
use super::strategy::{Extra, Strategy, WriteContext};
use super::update::{Step, stale};
use super::{Access, Registry, meta, store_error};
use crate::store::{Condition, Entry, Expect, Op, ReadAt};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// How a deletion ended.
#[derive(Debug)]
pub struct Removed {
    /// The object as it was, or as it is marked.
    pub entry: Arc<Entry>,
    /// False while finalizers or a grace period keep it.
    pub gone: bool,
    /// For `Warning` headers.
    pub warnings: Vec<String>,
}

/// What is to be done with an object whose deletion is asked for.
#[derive(Debug, PartialEq)]
enum Plan {
    /// It goes.
    Remove,
    /// It stays, changed.
    Mark(Value),
    /// It is marked already.
    Wait,
}

/// Decides what a deletion means for an object.
fn plan(strategy: &dyn Strategy, object: &Value, options: &DeleteOptions, now: Timestamp) -> Plan {
    let mut new = object.clone();
    set_finalizers(
        &mut new,
        options
            .propagation
            .or(strategy.orphans_by_default().then_some(Propagation::Orphan)),
    );
    let grace = strategy
        .grace_period(object, options.grace_period_seconds)
        .unwrap_or(0)
        .max(0);
    let left = if meta::is_deleting(object) {
        let left = object
            .pointer("/metadata/deletionGracePeriodSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        // A second deletion may hurry, never delay.
        if grace < left {
            let asked = meta::text(object, "deletionTimestamp")
                .parse::<Timestamp>()
                .unwrap_or(now)
                - SignedDuration::from_secs(left);
            set_deletion(&mut new, asked, grace);
        }
        grace.min(left)
    } else {
        set_deletion(&mut new, now, grace);
        if meta::generation(object) > 0 {
            let next = meta::generation(object) + 1;
            meta::of(&mut new).insert("generation".into(), next.into());
        }
        strategy.prepare_delete(&mut new, grace);
        grace
    };
    if left == 0 && meta::finalizers(&new).is_empty() && !strategy.held(&new) {
        Plan::Remove
    } else if new == *object {
        Plan::Wait
    } else {
        Plan::Mark(new)
    }
}

fn set_deletion(object: &mut Value, asked: Timestamp, grace: i64) {
    let at = asked
        .checked_add(SignedDuration::from_secs(grace))
        .unwrap_or(Timestamp::MAX);
    let metadata = meta::of(object);
    metadata.insert("deletionTimestamp".into(), meta::time(at).into());
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
}

fn set_finalizers(object: &mut Value, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers: Vec<String> = meta::finalizers(object)
        .into_iter()
        .filter(|f| *f != ORPHAN && *f != FOREGROUND)
        .map(str::to_owned)
        .collect();
    match propagation {
        Propagation::Orphan => finalizers.push(ORPHAN.into()),
        Propagation::Foreground => finalizers.push(FOREGROUND.into()),
        Propagation::Background => {}
    }
    let metadata = meta::of(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
}

impl Registry {
    /// Deletes an object, or marks it when something keeps it.
    ///
    /// # Errors
    /// 404, 409 for a precondition, 403 from admission.
    pub async fn delete(&self, access: &Access, options: &DeleteOptions) -> Result<Removed, Error> {
        let mut removed = self.remove(access, options, false).await?;
        removed.entry = self.present_one(&access.kind, removed.entry).await?;
        Ok(removed)
    }

    /// The same; `admitted` when admission has agreed to what led here, and is not asked about the deletion itself.
    pub(super) async fn remove(
        &self,
        access: &Access,
        options: &DeleteOptions,
        admitted: bool,
    ) -> Result<Removed, Error> {
        let kind = &access.kind;
        let key = access.key();
        let cx = WriteContext {
            store: &*self.store,
            resource: &kind.storage,
            requested: &kind.info,
            user: &access.user,
            subresource: "",
            dry_run: options.dry_run,
        };
        let mut current = self.store.get(&key, ReadAt::Latest).await.map_err(store_error)?;
        for _ in 0..ATTEMPTS {
            let Some(entry) = current else {
                return Err(access.not_found());
            };
            let object = kind.stored_value(&*self.present_one(kind, entry.clone()).await?)?;
            check_preconditions(access, options, &object)?;
            let request = access.admission(Operation::Delete, Some(&object), Options::Delete(options));
            if !admitted {
                self.admission.mutate(&request, &mut Value::Null).await?;
                self.admission.validate(&request, &Value::Null).await?;
            }
            let warnings = request.take_warnings();
            let (step, gone) = match plan(&*kind.strategy, &object, options, Timestamp::now()) {
                Plan::Wait => {
                    return Ok(Removed {
                        entry,
                        gone: false,
                        warnings,
                    });
                }
                Plan::Remove if options.dry_run => {
                    return Ok(Removed {
                        entry,
                        gone: true,
                        warnings,
                    });
                }
                Plan::Remove => (
                    self.finish_deletion(access, &cx, &entry, &object, warnings).await?,
                    true,
                ),
                Plan::Mark(new) => {
                    let value = self.stored_form(kind, &new).await?;
                    if options.dry_run {
                        return Ok(Removed {
                            entry: imagined(key, value, Some(&entry)),
                            gone: false,
                            warnings,
                        });
                    }
                    let expect = Condition {
                        key: key.clone(),
                        expect: Expect::Revision(entry.revision),
                    };
                    let put = Op::Put {
                        key: key.clone(),
                        value,
                        expires_at: entry.expires_at,
                    };
                    (self.commit(expect, put, Vec::new(), Vec::new(), warnings).await?, false)
                }
            };
            match step {
                Step::Done(written) => {
                    let Written { entry, warnings, .. } = *written;
                    return Ok(Removed { entry, gone, warnings });
                }
                Step::Lost(newer) => current = newer,
                Step::Again => current = self.store.get(&key, ReadAt::Latest).await.map_err(store_error)?,
                Step::Refused(error) => return Err(error),
            }
        }
        Err(stale(access))
    }

    /// Deletes every object of a collection that the selectors name; those that vanish meanwhile are no fault.
    ///
    /// # Errors
    /// As [`Registry::list`] and [`Registry::delete`].
    pub async fn delete_collection(
        &self,
        access: &Access,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Vec<Arc<Entry>>, Error> {
        let page = self.list(access, list).await?;
        let mut removed = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            let mut one = access.clone();
            let mut parts = entry.key.rsplit('/');
            one.attributes.name = parts.next().unwrap_or_default().to_owned();
            one.attributes.namespace = parts.next().unwrap_or_default().to_owned();
            match self.delete(&one, options).await {
                Ok(outcome) => removed.push(outcome.entry),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Whether nothing keeps an object whose deletion was asked for.
    pub(super) fn may_go(&self, access: &Access, object: &Value) -> bool {
        let grace = object
            .pointer("/metadata/deletionGracePeriodSeconds")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        grace == 0 && meta::finalizers(object).is_empty() && !access.kind.strategy.held(object)
    }

    /// Removes an object for good, with what its kind frees.
    pub(super) async fn finish_deletion(
        &self,
        access: &Access,
        cx: &WriteContext<'_>,
        current: &Entry,
        object: &Value,
        warnings: Vec<String>,
    ) -> Result<Step, Error> {
        let Extra { conditions, ops } = access.kind.strategy.before_remove(cx, object).await?;
        let key = access.key();
        let expect = Condition {
            key: key.clone(),
            expect: Expect::Revision(current.revision),
        };
        self.commit(expect, Op::Delete { key }, conditions, ops, warnings).await
    }
}

fn check_preconditions(access: &Access, options: &DeleteOptions, object: &Value) -> Result<(), Error> {
    for (what, field, wanted, guess) in [
        (
            "UID",
            "uid",
            &options.uid,
            "The object might have been deleted and then recreated",
        ),
        (
            "ResourceVersion",
            "resourceVersion",
            &options.resource_version,
            "The object might have been modified",
        ),
    ] {
        let is = meta::text(object, field);
        if let Some(wanted) = wanted
            && wanted != is
        {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({is}). {guess}"
            );
            // Upstream puts the kind where the resource should stand.
            let kind = access.kind.group_kind();
            let resource = api::GroupResource::new(&kind.group, &kind.kind);
            return Err(Error::conflict(&resource, &access.attributes.name, why));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Graceful;
    impl Strategy for Graceful {
        fn grace_period(&self, _: &Value, requested: Option<i64>) -> Option<i64> {
            Some(requested.unwrap_or(30))
        }
    }
    static PLAIN: super::super::strategy::Generic = super::super::strategy::Generic { generation: true };

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn nothing_keeps_a_plain_object() {
        let object = json!({"metadata": {"name": "a"}});
        assert_eq!(plan(&PLAIN, &object, &DeleteOptions::default(), now()), Plan::Remove);
    }

    #[test]
    fn a_finalizer_keeps_an_object_marked() {
        let object = json!({"metadata": {"name": "a", "generation": 1, "finalizers": ["x/y"]}});
        let Plan::Mark(marked) = plan(&PLAIN, &object, &DeleteOptions::default(), now()) else {
            panic!("not marked")
        };
        assert_eq!(meta::text(&marked, "deletionTimestamp"), "2026-01-01T00:00:00Z");
        assert_eq!(meta::generation(&marked), 2);
        assert_eq!(plan(&PLAIN, &marked, &DeleteOptions::default(), now()), Plan::Wait);
    }

    #[test]
    fn propagation_becomes_a_finalizer() {
        let object = json!({"metadata": {"name": "a"}});
        for (propagation, finalizer) in [(Propagation::Orphan, ORPHAN), (Propagation::Foreground, FOREGROUND)] {
            let options = DeleteOptions {
                propagation: Some(propagation),
                ..DeleteOptions::default()
            };
            let Plan::Mark(marked) = plan(&PLAIN, &object, &options, now()) else {
                panic!("not marked")
            };
            assert_eq!(meta::finalizers(&marked), [finalizer]);
            let background = DeleteOptions {
                propagation: Some(Propagation::Background),
                ..DeleteOptions::default()
            };
            assert_eq!(plan(&PLAIN, &marked, &background, now()), Plan::Remove);
        }
    }

    #[test]
    fn a_second_deletion_may_hurry_but_not_delay() {
        let object = json!({"metadata": {"name": "a"}});
        let with = |grace| DeleteOptions {
            grace_period_seconds: Some(grace),
            ..DeleteOptions::default()
        };
        let Plan::Mark(marked) = plan(&Graceful, &object, &with(30), now()) else {
            panic!("not marked")
        };
        assert_eq!(meta::text(&marked, "deletionTimestamp"), "2026-01-01T00:00:30Z");
        assert_eq!(plan(&Graceful, &marked, &with(60), now()), Plan::Wait);
        let Plan::Mark(sooner) = plan(&Graceful, &marked, &with(5), now()) else {
            panic!("not marked")
        };
        assert_eq!(meta::text(&sooner, "deletionTimestamp"), "2026-01-01T00:00:05Z");
        assert_eq!(plan(&Graceful, &sooner, &with(0), now()), Plan::Remove);
    }
}

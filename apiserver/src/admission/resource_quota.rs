//! ResourceQuota: what a namespace may hold and ask for. The usage in the quota's status is raised in the transaction that writes the
//! object, on the condition that nobody else has changed the quota: so no number of API servers lets the limit be passed. It is lowered by
//! the controller, which counts anew.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::Error;
use api::quota::{self, Amounts, Counted, Scope};
use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Mutex;

use super::{Context, Plugin, decode, forbidden, writes};
use crate::kinds::field::{ensure, list, set, text};
use crate::registry::access::{AdmissionRequest, Operation, Reservation};
use crate::store::{Condition, Entry, Expect, Op, ReadAt};

/// Namespaces take turns on this many locks.
const TURNS: usize = 64;

/// A resource that may only be used where a quota covers the use (`limitedResources`).
struct Limited {
    group: String,
    resource: String,
    match_contains: Vec<String>,
    match_scopes: Vec<Scope>,
}

pub(super) struct ResourceQuota {
    limited: Vec<Limited>,
    /// Two writes at once that this server charges to one quota would fail each other's condition.
    turns: Vec<Arc<Mutex<()>>>,
}

impl ResourceQuota {
    pub(super) fn new(config: &Value) -> Result<Self, String> {
        let mut limited = Vec::new();
        for (i, item) in list(config, "/limitedResources").iter().enumerate() {
            let resource = text(item, "/resource");
            if resource.is_empty() {
                return Err(format!(
                    "limitedResources[{i}].resource: expected the name of a resource"
                ));
            }
            let contains = list(item, "/matchContains").iter().filter_map(Value::as_str);
            limited.push(Limited {
                group: text(item, "/apiGroup").to_owned(),
                resource: resource.to_owned(),
                match_contains: contains.map(str::to_owned).collect(),
                match_scopes: list(item, "/matchScopes").iter().map(quota::scope).collect(),
            });
        }
        Ok(Self {
            limited,
            turns: (0..TURNS).map(|_| Arc::default()).collect(),
        })
    }

    fn turn(&self, namespace: &str) -> Option<Arc<Mutex<()>>> {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % TURNS as u64).unwrap_or(0);
        self.turns.get(index).cloned()
    }
}

/// A quota as it is stored.
struct Quota {
    entry: Arc<Entry>,
    object: Value,
}

/// What a request uses.
struct Use<'a> {
    counted: Counted<'a>,
    object: &'a Value,
    /// The object before an update.
    old: Option<&'a Value>,
    /// Of the new object.
    total: Amounts,
    /// That of the new object more than of the old one.
    growth: Amounts,
    /// A status never is refused, only counted.
    counts_only: bool,
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        let (r, a) = (request.resource, request.attributes);
        let handled = match (&*r.group, &*r.resource, a.subresource.as_str()) {
            ("", "pods", "resize") => request.operation == Operation::Update,
            ("", "services", "") => writes(request),
            ("", "persistentvolumeclaims", "" | "status") => writes(request),
            ("", "events", _) => false,
            (_, _, "") => request.operation == Operation::Create || r.group == "resource.k8s.io" && writes(request),
            _ => false,
        };
        r.namespaced && handled
    }

    async fn reserve(
        &self,
        cx: &Context,
        request: &AdmissionRequest<'_>,
        object: &Value,
        again: bool,
        reservation: &mut Reservation,
    ) -> Result<(), Error> {
        let namespace = &request.attributes.namespace;
        if self.limited.is_empty() && quotas(cx, namespace, ReadAt::Any).await?.is_empty() {
            return Ok(());
        }
        if let (false, Some(turn)) = (request.dry_run(), self.turn(namespace)) {
            reservation.turns.push(turn.lock_owned().await);
        }
        let counted = Counted {
            group: &request.resource.group,
            resource: &request.resource.resource,
        };
        let now = Timestamp::now();
        let total = counted.usage(object, now);
        let growth = match request.old {
            Some(old) => quota::growth(&total, &counted.usage(old, now)),
            None => total.clone(),
        };
        let wanted = Use {
            counted,
            object,
            old: request.old,
            total,
            growth,
            counts_only: request.attributes.subresource == "status",
        };
        let mut charged = Err(String::new());
        // A refusal by what this replica has is checked against the latest state.
        for at in [ReadAt::Any, ReadAt::Latest].into_iter().skip(usize::from(again)) {
            charged = charge(&self.limited, quotas(cx, namespace, at).await?, &wanted);
            if charged.is_ok() {
                break;
            }
        }
        for quota in charged.map_err(|why| forbidden(request, why))? {
            reservation.extra.conditions.push(Condition {
                key: quota.entry.key.to_string(),
                expect: Expect::Revision(quota.entry.revision),
            });
            reservation.extra.ops.push(Op::Put {
                key: quota.entry.key.to_string(),
                value: encode(&quota.object)?,
                expires_at: None,
            });
        }
        Ok(())
    }
}

async fn quotas(cx: &Context, namespace: &str, at: ReadAt) -> Result<Vec<Quota>, Error> {
    let entries = cx.entries("", "resourcequotas", namespace, at).await?;
    let read = |entry: Arc<Entry>| {
        let object = decode("", "resourcequotas", &entry.value)?;
        Ok(Quota { entry, object })
    };
    entries.into_iter().map(read).collect()
}

fn encode(quota: &Value) -> Result<bytes::Bytes, Error> {
    let info = api::resources::find("", "v1", "resourcequotas").ok_or_else(|| Error::internal("no resource"))?;
    api::codec::value_to_proto(info.message, quota)
        .map(Into::into)
        .map_err(Error::internal)
}

/// The quotas that change, as they are to be written; or why the use is refused.
fn charge(limited: &[Limited], quotas: Vec<Quota>, wanted: &Use<'_>) -> Result<Vec<Quota>, String> {
    let (mut changed, mut limited_names, mut covered_scopes) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for mut quota in quotas {
        let (hard, used) = (status(&quota.object, "hard"), status(&quota.object, "used"));
        let scopes = quota::scopes(&quota.object);
        let in_scope = scopes
            .iter()
            .filter(|scope| wanted.counted.in_scope(wanted.object, scope));
        covered_scopes.extend(in_scope.map(|scope| scope.name.clone()));
        if !wanted.counted.covered(wanted.object, &hard, &scopes) {
            continue;
        }
        let name = text(&quota.object, "/metadata/name").to_owned();
        let limits: Amounts = hard
            .into_iter()
            .filter(|(name, _)| wanted.counted.matches_name(name))
            .collect();
        wanted
            .counted
            .constraints(wanted.object, &limits)
            .map_err(|why| format!("failed quota: {name}: {why}"))?;
        if limits.keys().any(|name| !used.contains_key(name)) {
            let names: Vec<&str> = limits.keys().map(String::as_str).collect();
            return Err(format!(
                "status unknown for quota: {name}, resources: {}",
                names.join(",")
            ));
        }
        limited_names.extend(limits.keys().cloned());
        // An object that comes under the quota by this change is charged in full.
        let was_covered = wanted
            .old
            .is_some_and(|old| wanted.counted.covered(old, &limits, &scopes));
        let growth = if was_covered { &wanted.growth } else { &wanted.total };
        let growth: Amounts = growth
            .iter()
            .filter(|(name, amount)| limits.contains_key(*name) && !amount.is_zero())
            .map(|(name, amount)| (name.clone(), *amount))
            .collect();
        if growth.is_empty() {
            continue;
        }
        let mut after = used.clone();
        quota::add(&mut after, &growth);
        if !wanted.counts_only {
            check(&name, &growth, &used, &after, &limits)?;
        }
        if let Some(status) = ensure(&mut quota.object, "status") {
            set(status, "used", quota::to_value(&after));
        }
        changed.push(quota);
    }
    uncovered(limited, wanted, &limited_names, &covered_scopes)?;
    Ok(changed)
}

fn status(quota: &Value, field: &str) -> Amounts {
    quota::amounts(quota.pointer("/status").and_then(|status| status.get(field)))
}

fn check(name: &str, growth: &Amounts, used: &Amounts, after: &Amounts, limits: &Amounts) -> Result<(), String> {
    let exceeded = |name: &String| match (after.get(name), limits.get(name)) {
        (Some(after), Some(limit)) => growth.contains_key(name) && after > limit,
        _ => false,
    };
    let only = |amounts: &Amounts| {
        let amounts = amounts.iter().filter(|(name, _)| exceeded(name));
        quota::describe(&amounts.map(|(name, amount)| (name.clone(), *amount)).collect())
    };
    match only(growth) {
        none if none.is_empty() => Ok(()),
        requested => Err(format!(
            "exceeded quota: {name}, requested: {requested}, used: {}, limited: {}",
            only(used),
            only(limits)
        )),
    }
}

/// Refuses the use of a limited resource that no quota covers.
fn uncovered(
    limited: &[Limited],
    wanted: &Use<'_>,
    covered_names: &BTreeSet<String>,
    covered_scopes: &BTreeSet<String>,
) -> Result<(), String> {
    if wanted.growth.values().all(|amount| amount.is_zero()) {
        return Ok(());
    }
    let ours = |l: &&Limited| l.group == wanted.counted.group && l.resource == wanted.counted.resource;
    let (mut names, mut scopes) = (BTreeSet::new(), Vec::new());
    for limited in limited.iter().filter(ours) {
        let contains = |name: &&String| limited.match_contains.iter().any(|part| name.contains(part.as_str()));
        let used = wanted
            .total
            .iter()
            .filter(|(_, amount)| !amount.is_zero())
            .map(|(name, _)| name);
        names.extend(used.filter(contains).filter(|name| !covered_names.contains(*name)));
        let open = limited
            .match_scopes
            .iter()
            .filter(|scope| wanted.counted.in_scope(wanted.object, scope) && !covered_scopes.contains(&scope.name));
        scopes.extend(open.map(|s| format!("{{{} {} [{}]}}", s.name, s.operator, s.values.join(" "))));
    }
    if !names.is_empty() {
        let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
        return Err(format!("insufficient quota to consume: {}", names.join(",")));
    }
    if !scopes.is_empty() {
        return Err(format!(
            "insufficient quota to match these scopes: [{}]",
            scopes.join(" ")
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(hard: Value, used: Value) -> Quota {
        let object = json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": used}});
        let entry = Arc::new(Entry::new(
            "core/resourcequotas/dev/q".into(),
            1,
            1,
            bytes::Bytes::new(),
            None,
        ));
        Quota { entry, object }
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn run(limited: &[Limited], quotas: Vec<Quota>, object: &Value, old: Option<&Value>) -> Result<Value, String> {
        let counted = Counted {
            group: "",
            resource: "pods",
        };
        let total = counted.usage(object, Timestamp::now());
        let growth = match old {
            Some(old) => quota::growth(&total, &counted.usage(old, Timestamp::now())),
            None => total.clone(),
        };
        let wanted = Use {
            counted,
            object,
            old,
            total,
            growth,
            counts_only: false,
        };
        let changed = charge(limited, quotas, &wanted)?;
        Ok(changed
            .first()
            .map_or(Value::Null, |q| q.object["status"]["used"].clone()))
    }

    #[test]
    fn usage_grows_to_the_limit_and_no_further() {
        let some = |used: &str| {
            vec![quota(
                json!({"pods": "2", "cpu": "1"}),
                json!({"pods": used, "cpu": "500m"}),
            )]
        };
        let after = run(&[], some("1"), &pod("100m"), None).unwrap();
        assert_eq!(after, json!({"pods": "2", "cpu": "600m"}));
        for (used, cpu, want) in [
            (
                "2",
                "100m",
                "exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2",
            ),
            (
                "1",
                "600m",
                "exceeded quota: q, requested: cpu=600m, used: cpu=500m, limited: cpu=1",
            ),
            (
                "2",
                "600m",
                "exceeded quota: q, requested: cpu=600m,pods=1, used: cpu=500m,pods=2, limited: cpu=1,pods=2",
            ),
        ] {
            assert_eq!(run(&[], some(used), &pod(cpu), None).unwrap_err(), want);
        }
        let nothing = json!({"spec": {"containers": [{"name": "c"}]}});
        assert_eq!(
            run(&[], some("0"), &nothing, None).unwrap_err(),
            "failed quota: q: must specify cpu for: c"
        );
        let unknown = vec![quota(json!({"pods": "2"}), json!({}))];
        let why = run(&[], unknown, &nothing, None).unwrap_err();
        assert_eq!(why, "status unknown for quota: q, resources: pods");
    }

    #[test]
    fn a_resize_is_charged_with_the_difference() {
        let full = || {
            vec![quota(
                json!({"pods": "1", "cpu": "1"}),
                json!({"pods": "1", "cpu": "500m"}),
            )]
        };
        let after = run(&[], full(), &pod("800m"), Some(&pod("500m"))).unwrap();
        assert_eq!(after, json!({"pods": "1", "cpu": "800m"}));
        assert_eq!(run(&[], full(), &pod("100m"), Some(&pod("500m"))).unwrap(), Value::Null);
    }

    #[test]
    fn limited_resources_need_a_quota() {
        let config = json!({"limitedResources": [{"resource": "pods", "matchContains": ["pods"],
            "matchScopes": [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}]});
        let plugin = ResourceQuota::new(&config).unwrap();
        let why = run(&plugin.limited, Vec::new(), &pod("1"), None).unwrap_err();
        assert_eq!(why, "insufficient quota to consume: count/pods,pods");
        let mut high = pod("1");
        high["spec"]["priorityClassName"] = json!("high");
        let covering = || {
            vec![quota(
                json!({"pods": "5", "count/pods": "5"}),
                json!({"pods": "0", "count/pods": "0"}),
            )]
        };
        let why = run(&plugin.limited, covering(), &high, None).unwrap_err();
        assert_eq!(
            why,
            "insufficient quota to match these scopes: [{PriorityClass In [high]}]"
        );
        assert!(run(&plugin.limited, covering(), &pod("1"), None).is_ok());
    }
}

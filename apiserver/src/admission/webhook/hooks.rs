//! The webhooks that are configured, parsed once for each state of their configuration objects, in the order in which they are called.

use std::sync::Arc;
use std::time::Duration;

use api::Error;
use parking_lot::Mutex;
use serde_json::Value;

use crate::admission::policy::conditions::Conditions;
use crate::admission::scope::Scope;
use crate::kinds::field::{list, text};
use crate::outgoing::{Caller, Outgoing, Target};
use crate::registry::{find, store_error};
use crate::store::{ListQuery, ReadAt, Revision, Store};

const GROUP: &str = "admissionregistration.k8s.io";
/// Seconds, where a configuration of an old version says nothing.
const TIMEOUT: u64 = 10;

/// The two kinds of webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// May change the object; called one after the other.
    Mutating,
    /// May only refuse; called all at once.
    Validating,
}

impl Phase {
    fn resource(self) -> &'static str {
        match self {
            Self::Mutating => "mutatingwebhookconfigurations",
            Self::Validating => "validatingwebhookconfigurations",
        }
    }

    /// As metrics call it.
    pub(super) fn step(self) -> &'static str {
        match self {
            Self::Mutating => "admit",
            Self::Validating => "validating",
        }
    }
}

/// One webhook.
pub(super) struct Hook {
    /// The object that it is in.
    pub(super) configuration: String,
    /// Its own name.
    pub(super) name: String,
    pub(super) scope: Scope,
    pub(super) conditions: Conditions,
    /// `failurePolicy: Ignore`.
    pub(super) ignores_failure: bool,
    /// `sideEffects` of None or NoneOnDryRun.
    pub(super) dry_runs: bool,
    /// `reinvocationPolicy: IfNeeded`.
    pub(super) if_needed: bool,
    pub(super) time: Duration,
    /// Of AdmissionReview, in the order of preference.
    pub(super) versions: Vec<String>,
    pub(super) caller: Result<Caller, String>,
    client: Value,
}

impl Hook {
    fn parse(configuration: &str, hook: &Value, outgoing: &Outgoing, before: &[Arc<Hook>]) -> Self {
        let client = hook.get("clientConfig").cloned().unwrap_or_default();
        // Connections outlive changes of everything but the target.
        let known = before.iter().find(|hook| hook.client == client && hook.caller.is_ok());
        let caller = match known.map(|hook| &hook.caller) {
            Some(Ok(caller)) => Ok(caller.clone()),
            _ => Target::from_client_config(&client)
                .and_then(|target| outgoing.caller(&target))
                .map_err(|error| error.to_string()),
        };
        let versions = list(hook, "/admissionReviewVersions").iter().filter_map(Value::as_str);
        Self {
            configuration: configuration.to_owned(),
            name: text(hook, "/name").to_owned(),
            scope: Scope::of_webhook(hook),
            conditions: Conditions::new(list(hook, "/matchConditions"), false),
            ignores_failure: text(hook, "/failurePolicy") == "Ignore",
            dry_runs: matches!(text(hook, "/sideEffects"), "None" | "NoneOnDryRun"),
            if_needed: text(hook, "/reinvocationPolicy") == "IfNeeded",
            time: Duration::from_secs(hook.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(TIMEOUT)),
            versions: versions.map(str::to_owned).collect(),
            caller,
            client,
        }
    }

    /// What tells it from all others.
    pub(super) fn id(&self) -> (&str, &str) {
        (&self.configuration, &self.name)
    }
}

/// The hooks of one phase at one state of the store.
#[derive(Default)]
struct Snapshot {
    objects: Vec<(Arc<str>, Revision)>,
    hooks: Arc<[Arc<Hook>]>,
}

/// The hooks of one phase.
pub(super) struct Hooks {
    phase: Phase,
    prefix: String,
    current: Mutex<Snapshot>,
}

impl Hooks {
    pub(super) fn new(phase: Phase) -> Self {
        let prefix = find(GROUP, "v1", phase.resource()).map(|kind| kind.prefix.clone());
        Self {
            phase,
            prefix: prefix.unwrap_or_default(),
            current: Mutex::default(),
        }
    }

    /// The hooks as this server's store has them now: a look at a list that is nearly always empty or unchanged.
    pub(super) async fn load(&self, store: &dyn Store, outgoing: &Outgoing) -> Result<Arc<[Arc<Hook>]>, Error> {
        let query = ListQuery {
            prefix: &self.prefix,
            start_after: None,
            limit: 0,
            at: ReadAt::Any,
        };
        let listed = store.list(query).await.map_err(store_error)?;
        let mut current = self.current.lock();
        let seen = current.objects.iter().map(|(key, revision)| (&**key, *revision));
        if seen.eq(listed.entries.iter().map(|entry| (&*entry.key, entry.revision))) {
            return Ok(current.hooks.clone());
        }
        let mut hooks = Vec::new();
        for entry in &listed.entries {
            let Some(kind) = find(GROUP, "v1", self.phase.resource()) else {
                break;
            };
            let object = kind.stored_value(entry)?;
            let name = text(&object, "/metadata/name");
            let parse = |hook: &Value| Arc::new(Hook::parse(name, hook, outgoing, &current.hooks));
            hooks.extend(list(&object, "/webhooks").iter().map(parse));
        }
        let objects = listed.entries.iter().map(|entry| (entry.key.clone(), entry.revision));
        *current = Snapshot {
            objects: objects.collect(),
            hooks: hooks.into(),
        };
        Ok(current.hooks.clone())
    }
}

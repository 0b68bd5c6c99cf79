//! Who asks, for what, and who decides: the types that pass between the front ends (REST and gRPC), the authenticators, the authorizers,
//! admission and the registry. Implementations live in `authn`, `authz` and `admission`; nothing here decides anything.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use api::resources::ResourceInfo;

use super::Kind;
use super::options::{DeleteOptions, WriteOptions};
use super::strategy::Extra;

/// The user a request acts as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// For example `kubernetes-admin` or `system:serviceaccount:default:web`.
    pub name: String,
    /// Unique over time where the authenticator knows one, otherwise empty.
    pub uid: String,
    /// With `system:authenticated` or `system:unauthenticated` already added.
    pub groups: Vec<String>,
    /// Further attributes, such as `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// The user of a request without credentials.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".into(),
            groups: vec!["system:unauthenticated".into()],
            ..Self::default()
        }
    }

    /// The server acting for itself at start (default roles, namespaces): all powers, and still a named user.
    pub fn apiserver() -> Self {
        Self {
            name: "system:apiserver".into(),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
            ..Self::default()
        }
    }

    /// True when the user is in the group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// What a connection and a request bring to prove an identity.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The client's chain, end entity first, empty if it sent none. The handshake proved possession of the key and nothing else: the
    /// authenticator verifies the chain.
    pub certificates: &'a [CertificateDer<'static>],
    /// The request's headers (`Authorization`, impersonation).
    pub headers: &'a http::HeaderMap,
    /// The request's path.
    pub path: &'a str,
}

/// Establishes identities.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// `Ok(None)` when there are no credentials this authenticator knows; an error (401) when there are some and they are bad.
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, api::Error>;
}

/// What a request wants to do, as authorizers and admission see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get list watch create update patch delete deletecollection` for resources, the lower-case HTTP method otherwise.
    pub verb: String,
    /// False for a path outside of `/api/*` and `/apis/*/*`, such as `/healthz`.
    pub is_resource: bool,
    /// The request path; empty for a gRPC call on a resource.
    pub path: String,
    /// API group, empty for the core group.
    pub group: String,
    /// API version.
    pub version: String,
    /// Lower-case plural.
    pub resource: String,
    /// Empty, `status`, `scale`, `log`, ...
    pub subresource: String,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Empty for collections and for creates without a known name.
    pub name: String,
    /// The field selector of a list, watch or deletecollection, as it was sent; authorizers may allow by it.
    pub field_selector: String,
    /// The label selector of such a request, as it was sent.
    pub label_selector: String,
}

impl Attributes {
    /// True for requests that may last as long as they like.
    pub fn is_long_running(&self) -> bool {
        let lasting = ["log", "exec", "attach", "portforward", "proxy"];
        self.is_resource && (self.verb == "watch" || lasting.contains(&self.subresource.as_str()))
    }

    /// The group and resource as messages name them.
    pub fn group_resource(&self) -> api::GroupResource {
        api::GroupResource {
            group: self.group.clone(),
            resource: self.resource.clone(),
        }
    }
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go ahead; no other authorizer is asked. The reason is for the audit log and for access reviews.
    Allow(String),
    /// Forbidden, whatever the others would say; the reason is shown to the user.
    Deny(String),
    /// Not for this authorizer to say; the reason is shown if nobody allows.
    NoOpinion(String),
}

impl Decision {
    /// True for [`Decision::Allow`].
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
}

/// Decides whether a user may do something.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Never fails: an authorizer that cannot decide answers `NoOpinion` with the reason.
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;
}

/// The operation that admission is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a subresource that is created (binding, eviction, token).
    Create,
    /// A change of an existing object.
    Update,
    /// A removal; `object` is the object as it is.
    Delete,
    /// A stream or proxy to a pod, node or service.
    Connect,
}

impl Operation {
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The options of the request that admission is asked about.
#[derive(Debug, Clone, Copy)]
pub enum Options<'a> {
    /// Of a create or update.
    Write(&'a WriteOptions),
    /// Of a deletion.
    Delete(&'a DeleteOptions),
    /// A connection has none.
    None,
}

/// One request as admission sees it. Objects are in the storage version of their kind.
pub struct AdmissionRequest<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// For what; `name` is filled in once it is known.
    pub attributes: &'a Attributes,
    /// The table row of the resource.
    pub resource: &'a ResourceInfo,
    /// The operation, which for an update that creates is `Create`.
    pub operation: Operation,
    /// The object before an update or delete.
    pub old: Option<&'a Value>,
    /// How it is asked for.
    pub options: Options<'a>,
    /// The resource as it was asked for.
    pub kind: Option<Arc<Kind>>,
    warnings: Mutex<Vec<String>>,
    reinvocation: Mutex<Reinvocation>,
}

/// A second pass of the mutating plugins over what later ones changed.
#[derive(Default)]
struct Reinvocation {
    wanted: bool,
    running: bool,
    notes: BTreeMap<&'static str, Box<dyn Any + Send>>,
}

impl<'a> AdmissionRequest<'a> {
    /// A request without warnings yet.
    pub fn new(
        user: &'a UserInfo,
        attributes: &'a Attributes,
        resource: &'a ResourceInfo,
        operation: Operation,
        old: Option<&'a Value>,
        options: Options<'a>,
    ) -> Self {
        Self {
            user,
            attributes,
            resource,
            operation,
            old,
            options,
            kind: None,
            warnings: Mutex::default(),
            reinvocation: Mutex::default(),
        }
    }

    /// Nothing may be persisted.
    pub fn dry_run(&self) -> bool {
        match self.options {
            Options::Write(options) => options.dry_run,
            Options::Delete(options) => options.dry_run,
            Options::None => false,
        }
    }

    /// The options as an object of `meta.k8s.io/v1`; null for a connection.
    pub fn options_value(&self) -> Value {
        match (self.options, self.operation) {
            (Options::Write(options), Operation::Create) => options.to_value("CreateOptions"),
            (Options::Write(options), _) => options.to_value("UpdateOptions"),
            (Options::Delete(options), _) => options.to_value(),
            (Options::None, _) => Value::Null,
        }
    }

    /// Tells the audit log; the first value of a key stays.
    pub fn annotate(&self, key: impl AsRef<str>, value: impl Into<String>) {
        crate::audit::annotate(key.as_ref(), value);
    }

    /// Adds a `Warning` header to the answer.
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().push(text.into());
    }

    /// Leaves the warnings with the request that is being answered if it is refused: there will be no object for them to go with.
    pub fn refused_unless(&self, outcome: Result<(), api::Error>) -> Result<(), api::Error> {
        if outcome.is_err() {
            // Outside of REST nobody asks for them.
            let _ = LEFT.try_with(|left| left.lock().append(&mut self.take_warnings()));
        }
        outcome
    }

    /// Hands over the warnings that were added.
    pub fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    /// Asks for one more pass of all mutating plugins: what this plugin changed may concern those before it.
    pub fn want_reinvocation(&self) {
        self.reinvocation.lock().wanted = true;
    }

    /// True in that second pass.
    pub fn is_reinvocation(&self) -> bool {
        self.reinvocation.lock().running
    }

    /// Begins the second pass if a plugin asked for it; there is no third.
    pub fn reinvoke(&self) -> bool {
        let mut state = self.reinvocation.lock();
        let begins = state.wanted && !state.running;
        state.running |= begins;
        begins
    }

    /// Keeps something of a plugin from the first pass to the second.
    pub fn keep(&self, plugin: &'static str, note: impl Any + Send) {
        self.reinvocation.lock().notes.insert(plugin, Box::new(note));
    }

    /// Hands over what the plugin kept.
    pub fn take_kept<T: Any>(&self, plugin: &'static str) -> Option<T> {
        let note = self.reinvocation.lock().notes.remove(plugin)?;
        note.downcast().ok().map(|note| *note)
    }
}

tokio::task_local! {
    /// Warnings of a request that was refused.
    static LEFT: Mutex<Vec<String>>;
}

/// Answers a request, and hands over the warnings that admission gave before it refused.
pub async fn collecting_warnings<T>(answer: impl Future<Output = T>) -> (T, Vec<String>) {
    LEFT.scope(Mutex::default(), async {
        let outcome = answer.await;
        (outcome, LEFT.with(|left| std::mem::take(&mut *left.lock())))
    })
    .await
}

/// What admission wants in the transaction of the write, and what must not happen before it is over.
#[derive(Default)]
pub struct Reservation {
    /// Conditions and further changes. If a condition fails, the reservation is made again.
    pub extra: Extra,
    /// Held until the transaction ended: what this server admits in the meantime would run into the same condition.
    pub turns: Vec<OwnedMutexGuard<()>>,
}

/// Admission: the last word on a write before validation (mutate), after it (validate), and in its transaction (reserve).
#[async_trait]
pub trait Admission: Send + Sync + 'static {
    /// May change the object. Runs after the kind's defaults and before its validation. For `Delete` the object is null, for `Connect` it
    /// is the options of the connection; changes to either are ignored.
    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), api::Error>;
    /// May only refuse.
    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), api::Error>;
    /// What must hold and change together with the write of this object; `again` when a condition has failed before, so that what this
    /// replica has cannot be trusted.
    async fn reserve(
        &self,
        request: &AdmissionRequest<'_>,
        object: &Value,
        again: bool,
    ) -> Result<Reservation, api::Error>;
}

/// Answers what is asked by creating an object that is never stored.
#[async_trait]
pub trait Reviewer: Send + Sync + 'static {
    /// The token and access reviews: the posted object with its status filled in.
    async fn review(
        &self,
        user: &UserInfo,
        resource: &ResourceInfo,
        namespace: &str,
        object: Value,
    ) -> Result<Value, api::Error>;
    /// A `TokenRequest` for a service account: the posted object with its defaults and its status.
    async fn token(&self, namespace: &str, account: &str, request: Value) -> Result<Value, api::Error>;
}

//! The generic registry: one pipeline for every resource, behind REST and gRPC alike: authorize, admit, validate, store.
//!
//! What is special to a kind is in its [`strategy::Strategy`]. Nothing here knows of HTTP or gRPC.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use api::Error;
use api::resources::{self, ResourceInfo};
use api::schema::Message;
use bytes::Bytes;
use serde_json::Value;

pub mod access;
pub mod apply;
pub(crate) mod convert;
mod create;
mod custom;
pub mod decode;
mod delete;
pub mod meta;
pub mod options;
pub mod patch;
pub mod pods;
mod read;
pub mod scale;
mod select;
pub mod strategy;
pub mod table;
mod update;
pub mod watch;
pub mod wire;

pub use create::Written;
pub use delete::Removed;
pub use read::Page;

use crate::apiextensions::catalog::Catalog;
use crate::audit;
use crate::store::{Entry, Store, StoreError};
use access::{Admission, AdmissionRequest, Attributes, Authorizer, Decision, Operation, Options, Reviewer, UserInfo};
use options::WriteOptions;
use strategy::{Generic, Strategy};

/// The pipeline with everything it needs.
pub struct Registry {
    store: Arc<dyn Store>,
    authorizer: Arc<dyn Authorizer>,
    admission: Arc<dyn Admission>,
    reviewer: Arc<dyn Reviewer>,
    catalog: Arc<Catalog>,
}

/// Proof that the authorizer allowed one request on one resource. Only [`Registry::authorize`] makes it and every operation wants it.
#[derive(Clone)]
pub struct Access {
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// For what.
    pub attributes: Attributes,
    /// The resource.
    pub kind: Arc<Kind>,
    _sealed: Sealed,
}

/// Cannot be made outside of the registry.
#[derive(Clone)]
struct Sealed;

impl Access {
    /// The namespace in the store's keys: empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        if self.kind.info.namespaced {
            &self.attributes.namespace
        } else {
            ""
        }
    }

    /// The store key of the object that the request names.
    pub fn key(&self) -> String {
        self.kind.key(self.namespace(), &self.attributes.name)
    }

    /// Start of the keys of the collection that the request names.
    pub fn prefix(&self) -> String {
        match self.namespace() {
            "" => self.kind.prefix.clone(),
            namespace => format!("{}{namespace}/", self.kind.prefix),
        }
    }

    /// The request as admission sees it.
    pub(crate) fn admission<'a>(
        &'a self,
        operation: Operation,
        old: Option<&'a Value>,
        options: Options<'a>,
    ) -> AdmissionRequest<'a> {
        let mut request = AdmissionRequest::new(
            &self.user,
            &self.attributes,
            &self.kind.storage,
            operation,
            old,
            options,
        );
        request.kind = Some(self.kind.clone());
        request
    }

    /// 404 for the object that the request names.
    pub fn not_found(&self) -> Error {
        Error::not_found(&self.kind.group_resource(), &self.attributes.name)
    }
}

impl Registry {
    /// A pipeline over a store.
    pub fn new(
        store: Arc<dyn Store>,
        authorizer: Arc<dyn Authorizer>,
        admission: Arc<dyn Admission>,
        reviewer: Arc<dyn Reviewer>,
        catalog: Arc<Catalog>,
    ) -> Self {
        Self {
            store,
            authorizer,
            admission,
            reviewer,
            catalog,
        }
    }

    /// The custom kinds.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// A served resource, built in or custom, by group, version and plural.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Arc<Kind>> {
        match find(group, version, resource) {
            Some(kind) => Some(kind.clone()),
            None => self.catalog.find(group, version, resource),
        }
    }

    /// Every served resource: the built-in ones in the order of `api::resources::all`, then the custom ones.
    pub fn kinds(&self) -> Vec<Arc<Kind>> {
        let custom = self.catalog.load();
        kinds().iter().chain(custom.kinds()).cloned().collect()
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Asks the authorizer about a request on a resource.
    ///
    /// # Errors
    /// 403 with the authorizer's reason; 404 for a resource that is not served, after the authorizer agreed.
    pub async fn authorize(&self, user: Arc<UserInfo>, attributes: Attributes) -> Result<Access, Error> {
        self.permit(&user, &attributes).await?;
        let found = self.find(&attributes.group, &attributes.version, &attributes.resource);
        let kind = match found {
            Some(kind) => kind,
            None => self.find_late(&attributes).await.ok_or_else(Error::no_such_path)?,
        };
        if !attributes.subresource.is_empty()
            && !kind.info.subresources.iter().any(|s| s.name == attributes.subresource)
        {
            return Err(Error::no_such_path());
        }
        Ok(Access {
            user,
            attributes,
            kind,
            _sealed: Sealed,
        })
    }

    /// The authorizer, for questions besides requests.
    pub fn authorizer(&self) -> &dyn Authorizer {
        &*self.authorizer
    }

    /// Answers a review: the object with its status.
    ///
    /// # Errors
    /// What is wrong with the question.
    pub async fn review(&self, access: &Access, mut object: Value) -> Result<Value, Error> {
        let options = WriteOptions::default();
        self.admit(access, Operation::Create, Options::Write(&options), &mut object)
            .await?;
        self.reviewer
            .review(&access.user, &access.kind.info, access.namespace(), object)
            .await
    }

    /// Answers a `TokenRequest` for the service account that the request names.
    ///
    /// # Errors
    /// 404 without the account; what is wrong with the request.
    pub async fn issue_token(&self, access: &Access, mut request: Value) -> Result<Value, Error> {
        let options = WriteOptions::default();
        self.admit(access, Operation::Create, Options::Write(&options), &mut request)
            .await?;
        self.reviewer
            .token(access.namespace(), &access.attributes.name, request)
            .await
    }

    /// Asks admission about a write that stores no object of the request's own (`Create` of a binding, eviction or token, `Connect`).
    /// `object` is the body, or the options of the connection.
    ///
    /// # Errors
    /// 403 from admission.
    pub async fn admit(
        &self,
        access: &Access,
        operation: Operation,
        options: Options<'_>,
        object: &mut Value,
    ) -> Result<Vec<String>, Error> {
        let request = access.admission(operation, None, options);
        self.admission.mutate(&request, object).await?;
        self.admission.validate(&request, object).await?;
        Ok(request.take_warnings())
    }

    /// Asks the authorizer about any request.
    ///
    /// # Errors
    /// 403 with the authorizer's reason.
    pub async fn permit(&self, user: &UserInfo, attributes: &Attributes) -> Result<(), Error> {
        let reason = match self.authorizer.authorize(user, attributes).await {
            Decision::Allow(reason) => {
                audit::annotate("authorization.k8s.io/decision", "allow");
                audit::annotate("authorization.k8s.io/reason", reason);
                return Ok(());
            }
            Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        };
        audit::annotate("authorization.k8s.io/decision", "forbid");
        audit::annotate("authorization.k8s.io/reason", reason.as_str());
        Err(forbidden(user, attributes, &reason))
    }
}

/// The message that upstream gives to a refused request.
fn forbidden(user: &UserInfo, attributes: &Attributes, reason: &str) -> Error {
    let name = &user.name;
    let mut why = if attributes.is_resource {
        let mut resource = attributes.resource.clone();
        if !attributes.subresource.is_empty() {
            resource = format!("{resource}/{}", attributes.subresource);
        }
        let scope = match attributes.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!(
            "User {name:?} cannot {} resource {resource:?} in API group {:?} {scope}",
            attributes.verb, attributes.group
        )
    } else {
        format!("User {name:?} cannot {} path {:?}", attributes.verb, attributes.path)
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    Error::forbidden(&attributes.group_resource(), &attributes.name, why)
}

/// The store's refusals as the API's.
pub fn store_error(error: StoreError) -> Error {
    match error {
        StoreError::Compacted { oldest } => Error::expired(format!(
            "The resourceVersion for the provided watch is too old. (oldest kept: {oldest})"
        )),
        StoreError::FutureRevision { requested, current } => {
            let mut error = Error::timeout(
                format!("Too large resource version: {requested}, current: {current}"),
                1,
            );
            if let Some(details) = &mut error.details {
                details.causes = Some(vec![api::meta::StatusCause {
                    reason: Some("ResourceVersionTooLarge".into()),
                    message: Some("Too large resource version".into()),
                    ..Default::default()
                }]);
            }
            error
        }
        StoreError::WatchLagged => Error::expired("too old resource version"),
        StoreError::TooLarge { size } => Error::too_large(format!(
            "limit is {}, request has {size} bytes",
            crate::store::MAX_VALUE
        )),
        StoreError::Unavailable(why) => Error::service_unavailable(format!("store: {why}")),
        StoreError::Full => Error::service_unavailable("store: no space left"),
        StoreError::Corrupt(why) => Error::internal(why),
    }
}

/// One served resource in one version.
pub struct Kind {
    /// The resource as it is asked for.
    pub info: Arc<ResourceInfo>,
    /// The resource in the group and version it is stored in; for a custom kind, whose objects carry their own version, the same as `info`.
    pub storage: Arc<ResourceInfo>,
    /// The kind's rules.
    pub strategy: Rules,
    /// Start of the store keys of all its objects: `core/pods/`.
    pub prefix: String,
}

/// 406 for custom objects in protobuf.
pub fn no_protobuf() -> Error {
    let mut error = Error::not_acceptable(&[]);
    error.message = "object *unstructured.Unstructured does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message".into();
    error
}

/// Where a kind's rules come from.
pub enum Rules {
    /// The table in `kinds`.
    BuiltIn(&'static dyn Strategy),
    /// A definition.
    Custom(Arc<dyn Strategy>),
}

impl Deref for Rules {
    type Target = dyn Strategy;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::BuiltIn(strategy) => *strategy,
            Self::Custom(strategy) => &**strategy,
        }
    }
}

impl Kind {
    /// The store key of an object; `namespace` is empty for cluster-scoped kinds.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        format!("{}{namespace}/{name}", self.prefix)
    }

    /// `v1` or `apps/v1` as asked for.
    pub fn api_version(&self) -> String {
        api::join_api_version(&self.info.group, &self.info.version)
    }

    /// `v1` or `apps/v1` as stored.
    pub fn storage_api_version(&self) -> String {
        api::join_api_version(&self.storage.group, &self.storage.version)
    }

    /// True when stored objects are served as they are.
    pub fn is_storage_version(&self) -> bool {
        Arc::ptr_eq(&self.info, &self.storage)
    }

    /// The schema of the stored form.
    pub fn message(&self) -> &'static Message {
        self.storage.message
    }

    /// True for kinds that only answer: they are created, never stored.
    pub fn is_review(&self) -> bool {
        matches!(&*self.info.group, "authentication.k8s.io" | "authorization.k8s.io")
    }

    /// A stored object in the requested version, as JSON text made once for all readers.
    ///
    /// # Errors
    /// When the stored bytes are not the kind's message.
    pub fn json(&self, entry: &Entry) -> Result<Bytes, Error> {
        if let Some(custom) = self.strategy.custom() {
            return custom.text(&entry.value);
        }
        let json = self.json_once(entry)?;
        Ok(if self.is_storage_version() {
            // It stays as long as the entry, so without the spare room.
            entry.json(|| Vec::from(json).into_boxed_slice().into()).clone()
        } else {
            json
        })
    }

    /// The same for the answer to a write: whether anybody else will read it is not known, so it is not kept.
    ///
    /// # Errors
    /// When the stored bytes are not the kind's message.
    pub fn json_once(&self, entry: &Entry) -> Result<Bytes, Error> {
        if let Some(custom) = self.strategy.custom() {
            return custom.text(&entry.value);
        }
        if !self.is_storage_version() {
            let value = convert::from_storage(self, self.stored_value(entry)?);
            return serde_json::to_vec(&value).map(Bytes::from).map_err(Error::internal);
        }
        match entry.cached_json() {
            Some(json) => Ok(json.clone()),
            None => self.text(&entry.value),
        }
    }

    /// A message in the storage version as JSON text.
    fn text(&self, message: &[u8]) -> Result<Bytes, Error> {
        let mut out = Vec::with_capacity(message.len() * 2 + 64);
        api::codec::proto_to_json(
            self.message(),
            &self.storage_api_version(),
            &self.storage.kind,
            message,
            &mut out,
        )
        .map_err(Error::internal)?;
        Ok(out.into())
    }

    /// A stored object in the requested version, as its protobuf message.
    ///
    /// # Errors
    /// When the stored bytes are not the kind's message.
    pub fn proto(&self, entry: &Entry) -> Result<Bytes, Error> {
        if self.is_storage_version() {
            return Ok(entry.value.clone());
        }
        let value = self.value(entry)?;
        api::codec::value_to_proto(self.info.message, &value)
            .map(Bytes::from)
            .map_err(Error::internal)
    }

    /// A stored object in the requested version.
    ///
    /// # Errors
    /// When the stored bytes are not the kind's message.
    pub fn value(&self, entry: &Entry) -> Result<Value, Error> {
        Ok(convert::from_storage(self, self.stored_value(entry)?))
    }

    /// A stored object in the storage version.
    ///
    /// # Errors
    /// When the stored bytes are not the kind's message.
    pub fn stored_value(&self, entry: &Entry) -> Result<Value, Error> {
        self.decode_stored(&entry.value)
    }

    fn decode_stored(&self, message: &[u8]) -> Result<Value, Error> {
        if let Some(custom) = self.strategy.custom() {
            return custom.value(message);
        }
        let mut value = api::codec::proto_to_value(self.message(), message).map_err(Error::internal)?;
        if let Some(map) = value.as_object_mut() {
            map.insert("apiVersion".into(), self.storage_api_version().into());
            map.insert("kind".into(), (*self.storage.kind).into());
        }
        Ok(value)
    }

    /// The object as a whole in protobuf, for clients that want it so.
    ///
    /// # Errors
    /// 406 for custom objects, which have no protobuf; when the stored bytes are not the kind's message.
    pub fn envelope(&self, entry: &Entry) -> Result<Vec<u8>, Error> {
        if self.strategy.custom().is_some() {
            return Err(no_protobuf());
        }
        Ok(api::codec::wrap(
            &self.api_version(),
            &self.info.kind,
            &self.proto(entry)?,
        ))
    }

    /// The `columnDefinitions` of its tables.
    pub fn column_definitions(&self) -> Value {
        match self.strategy.custom() {
            Some(custom) => custom.columns(),
            None => table::column_definitions(self.strategy.columns()),
        }
    }

    /// The resource as error messages name it.
    pub fn group_resource(&self) -> api::GroupResource {
        api::GroupResource {
            group: self.info.group.clone().into_owned(),
            resource: self.info.resource.clone().into_owned(),
        }
    }

    /// The kind as validation errors name it.
    pub fn group_kind(&self) -> api::GroupKind {
        api::GroupKind {
            group: self.info.group.clone().into_owned(),
            kind: self.info.kind.clone().into_owned(),
        }
    }
}

/// Every built-in resource, in the order of `api::resources::all`.
pub fn kinds() -> &'static [Arc<Kind>] {
    static KINDS: OnceLock<Vec<Arc<Kind>>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let infos: Vec<Arc<ResourceInfo>> = resources::all().iter().cloned().map(Arc::new).collect();
        infos.iter().map(|info| Arc::new(register(info, &infos))).collect()
    })
}

/// A built-in resource by group, version and plural.
pub fn find(group: &str, version: &str, resource: &str) -> Option<&'static Arc<Kind>> {
    static INDEX: OnceLock<HashMap<(&str, &str), Vec<&'static Arc<Kind>>>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut index: HashMap<_, Vec<_>> = HashMap::new();
        for kind in kinds() {
            index
                .entry((&*kind.info.group, &*kind.info.resource))
                .or_default()
                .push(kind);
        }
        index
    });
    index
        .get(&(group, resource))?
        .iter()
        .copied()
        .find(|k| k.info.version == version)
}

fn register(info: &Arc<ResourceInfo>, all: &[Arc<ResourceInfo>]) -> Kind {
    static PLAIN: Generic = Generic { generation: false };
    // Events are one object under two groups.
    let (group, version) = match (&*info.group, &*info.resource) {
        ("events.k8s.io", "events") => ("", "v1"),
        (group, _) => (group, &*info.storage_version),
    };
    let storage = all
        .iter()
        .find(|i| i.group == group && i.version == version && i.resource == info.resource)
        .unwrap_or(info)
        .clone();
    let strategy = crate::kinds::STRATEGIES
        .iter()
        .find(|(g, r, _)| *g == storage.group && *r == storage.resource)
        .map_or(&PLAIN as &dyn Strategy, |(_, _, strategy)| *strategy);
    let group = if storage.group.is_empty() {
        "core"
    } else {
        &storage.group
    };
    Kind {
        prefix: format!("{group}/{}/", storage.resource),
        info: info.clone(),
        storage,
        strategy: Rules::BuiltIn(strategy),
    }
}

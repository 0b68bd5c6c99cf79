//! gRPC: `keelson.cluster.v1.Cluster` over the same registry as REST. Messages of the wire stop here.

use std::sync::Arc;

use api::Error;
use api::schema::{self, Message};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use proto::cluster::cluster_server::{Cluster, ClusterServer};
use proto::cluster::*;
use serde_json::{Value, json};
use tonic::{Code, Request, Response, Status};

mod watch;

use crate::audit::{self, policy::Level};
use crate::flowcontrol;
use crate::http::body;
use crate::registry::access::{Attributes, UserInfo};
use crate::registry::decode::{self, Expected};
use crate::registry::options::{DeleteOptions, FieldValidation, ListOptions, WatchOptions, WriteOptions};
use crate::registry::patch::{Patch, PatchType};
use crate::registry::pods::Target;
use crate::registry::{Access, Registry, Written, scale};

/// Objects of one `ListReply`, bytes; well below tonic's limit of 4 MiB for a message.
const LIST_CHUNK: usize = 1 << 20;
/// The largest request, bytes: a batch of statuses.
const REQUEST_LIMIT: usize = 16 << 20;
/// How many parts of a batch call are worked on at once. They meet in one entry of the log.
const BATCH: usize = 512;

/// The service.
pub struct ClusterService {
    registry: Arc<Registry>,
    shutdown: daemon::Shutdown,
}

/// The service, ready to be mounted.
pub fn service(registry: Arc<Registry>, shutdown: daemon::Shutdown) -> ClusterServer<ClusterService> {
    ClusterServer::new(ClusterService { registry, shutdown })
        .max_decoding_message_size(REQUEST_LIMIT)
        .max_encoding_message_size(REQUEST_LIMIT)
}

/// An error of the API as a gRPC status: the code that comes nearest, and the `Status` in its details.
pub fn status(error: &Error) -> Status {
    let code = match error.code {
        400 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 if error.is_already_exists() => Code::AlreadyExists,
        409 => Code::Aborted,
        410 => Code::OutOfRange,
        413 | 429 => Code::ResourceExhausted,
        405 | 406 | 415 => Code::Unimplemented,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    Status::with_details(code, error.message.clone(), encode_status(error))
}

/// A refusal by a layer of the HTTP stack.
pub fn refusal(error: &Error) -> body::Response {
    status(error)
        .into_http::<tonic::body::Body>()
        .map(|b| b.map_err(body::BodyError::from).boxed_unsync())
}

fn encode_status(error: &Error) -> Bytes {
    Bytes::from(error.encode())
}

fn user<T>(request: &Request<T>) -> Arc<UserInfo> {
    request
        .extensions()
        .get::<Arc<UserInfo>>()
        .cloned()
        .unwrap_or_else(|| Arc::new(UserInfo::anonymous()))
}

/// What a call is about, in the words of the authorizer.
fn attributes(
    verb: &str,
    resource: Option<&Resource>,
    namespace: &str,
    name: &str,
    subresource: &str,
) -> Result<Attributes, Error> {
    let resource = resource.ok_or_else(|| Error::bad_request("resource must be given"))?;
    Ok(Attributes {
        verb: verb.to_owned(),
        is_resource: true,
        group: resource.group.clone(),
        version: resource.version.clone(),
        resource: resource.resource.clone(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    })
}

/// A request on those objects of a collection that selectors choose.
fn selecting(attributes: Attributes, fields: &str, labels: &str) -> Attributes {
    Attributes {
        field_selector: fields.to_owned(),
        label_selector: labels.to_owned(),
        ..attributes
    }
}

impl ClusterService {
    async fn access(&self, user: Arc<UserInfo>, attributes: Attributes) -> Result<Access, Error> {
        audit::describe(&attributes);
        flowcontrol::call::enter(&user, &attributes).await?;
        let access = self.registry.authorize(user, attributes).await?;
        let a = &access.attributes;
        if access.kind.info.namespaced && a.namespace.is_empty() && !matches!(a.verb.as_str(), "list" | "watch") {
            return Err(Error::bad_request("namespace must be given"));
        }
        if a.name.is_empty() && matches!(a.verb.as_str(), "get" | "update" | "patch" | "delete") {
            return Err(Error::bad_request("name must be given"));
        }
        Ok(access)
    }

    /// The object of a written entry as the client's version has it.
    fn reply(&self, access: &Access, written: Written) -> Result<ObjectReply, Error> {
        Ok(ObjectReply {
            object: access.kind.proto(&written.entry)?,
            warnings: written.warnings,
        })
    }

    async fn do_create(&self, user: Arc<UserInfo>, r: CreateRequest) -> Result<ObjectReply, Error> {
        let access = self
            .access(
                user,
                attributes("create", r.resource.as_ref(), &r.namespace, &r.name, &r.subresource)?,
            )
            .await?;
        let options = WriteOptions {
            dry_run: r.dry_run,
            field_manager: r.field_manager,
            field_validation: FieldValidation::Ignore,
            applied: false,
        };
        if !r.subresource.is_empty() {
            return self.create_subresource(&access, &r.object, &options).await;
        }
        let api_version = access.kind.api_version();
        let object = decode::from_message(access.kind.expected(&api_version), &r.object)?;
        note_object(&object);
        if access.kind.is_review() {
            let answer = self.registry.review(&access, object).await?;
            return encode(access.kind.info.message, &answer);
        }
        let written = self.registry.create(&access, object, &options).await?;
        self.reply(&access, written)
    }

    async fn create_subresource(
        &self,
        access: &Access,
        body: &[u8],
        options: &WriteOptions,
    ) -> Result<ObjectReply, Error> {
        let empty = ObjectReply {
            object: Vec::new().into(),
            warnings: Vec::new(),
        };
        match access.attributes.subresource.as_str() {
            "binding" => {
                let binding = decode::from_message(expected("", "v1", "Binding")?, body)?;
                self.registry
                    .bind(access, &Target::from_binding(&binding)?, options.dry_run)
                    .await?;
                Ok(empty)
            }
            "eviction" => {
                let eviction = decode::from_message(expected("policy", "v1", "Eviction")?, body)?;
                let wish = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
                let mut wish = DeleteOptions::from_value(&wish).map_err(|faults| {
                    Error::invalid(
                        &api::GroupKind::new("policy", "Eviction"),
                        &access.attributes.name,
                        faults,
                    )
                })?;
                wish.dry_run |= options.dry_run;
                self.registry.evict(access, &wish).await?;
                Ok(empty)
            }
            "token" => {
                let expected = expected("authentication.k8s.io", "v1", "TokenRequest")?;
                let token = self
                    .registry
                    .issue_token(access, decode::from_message(expected, body)?)
                    .await?;
                encode(expected.message, &token)
            }
            _ => Err(Error::method_not_allowed(&access.kind.group_resource(), "create")),
        }
    }

    async fn do_update(&self, user: Arc<UserInfo>, r: UpdateRequest) -> Result<ObjectReply, Error> {
        let access = self
            .access(
                user,
                attributes("update", r.resource.as_ref(), &r.namespace, &r.name, &r.subresource)?,
            )
            .await?;
        let options = WriteOptions {
            dry_run: r.dry_run,
            field_manager: r.field_manager,
            field_validation: FieldValidation::Ignore,
            applied: false,
        };
        if r.subresource == "scale" {
            let expected = scale::expected()?;
            let wanted = decode::from_message(expected, &r.object)?;
            let (view, _) = self
                .registry
                .change_scale(&access, |_| Ok(wanted.clone()), &options)
                .await?;
            return encode(expected.message, &view);
        }
        let api_version = access.kind.api_version();
        let object = decode::from_message(access.kind.expected(&api_version), &r.object)?;
        note_object(&object);
        let written = self.registry.update(&access, object, &options).await?;
        self.reply(&access, written)
    }

    async fn do_patch(&self, user: Arc<UserInfo>, r: PatchRequest) -> Result<ObjectReply, Error> {
        let access = self
            .access(
                user,
                attributes("patch", r.resource.as_ref(), &r.namespace, &r.name, &r.subresource)?,
            )
            .await?;
        let options = WriteOptions {
            dry_run: r.dry_run,
            field_manager: r.field_manager.clone(),
            field_validation: FieldValidation::Ignore,
            applied: false,
        };
        let kind = match r.r#type() {
            proto::cluster::PatchType::Json => PatchType::Json,
            proto::cluster::PatchType::Merge => PatchType::Merge,
            proto::cluster::PatchType::StrategicMerge => PatchType::Strategic,
            proto::cluster::PatchType::Apply => {
                let written = self.registry.apply(&access, &r.patch, r.force, &options).await?;
                return self.reply(&access, written);
            }
            proto::cluster::PatchType::Unspecified => {
                return Err(Error::bad_request("the type of the patch must be given"));
            }
        };
        let patch = Patch::parse(kind, &r.patch)?;
        if r.subresource == "scale" {
            let expected = scale::expected()?;
            let change = |old: Value| Ok(patch.apply_checked(expected, &old, FieldValidation::Ignore)?.0);
            let (view, _) = self.registry.change_scale(&access, change, &options).await?;
            return encode(expected.message, &view);
        }
        let written = self.registry.patch(&access, &patch, &options).await?;
        self.reply(&access, written)
    }

    async fn do_delete(&self, user: Arc<UserInfo>, r: DeleteRequest) -> Result<DeleteReply, Error> {
        let access = self
            .access(
                user,
                attributes("delete", r.resource.as_ref(), &r.namespace, &r.name, "")?,
            )
            .await?;
        let preconditions = r.preconditions.unwrap_or_default();
        let options = DeleteOptions {
            grace_period_seconds: r.grace_period_seconds,
            propagation: propagation(&r.propagation_policy)?,
            uid: Some(preconditions.uid).filter(|u| !u.is_empty()),
            resource_version: Some(preconditions.resource_version).filter(|v| !v.is_empty()),
            dry_run: r.dry_run,
        };
        let removed = self.registry.delete(&access, &options).await?;
        Ok(DeleteReply {
            object: access.kind.proto(&removed.entry)?,
            gone: removed.gone,
        })
    }

    async fn do_delete_collection(
        &self,
        user: Arc<UserInfo>,
        r: DeleteCollectionRequest,
    ) -> Result<DeleteCollectionReply, Error> {
        let access = self
            .access(
                user,
                selecting(
                    attributes("deletecollection", r.resource.as_ref(), &r.namespace, "", "")?,
                    &r.field_selector,
                    &r.label_selector,
                ),
            )
            .await?;
        let options = DeleteOptions {
            grace_period_seconds: r.grace_period_seconds,
            propagation: propagation(&r.propagation_policy)?,
            ..DeleteOptions::default()
        };
        let list = ListOptions {
            label_selector: r.label_selector,
            field_selector: r.field_selector,
            ..ListOptions::default()
        };
        let removed = self.registry.delete_collection(&access, &list, &options).await?;
        Ok(DeleteCollectionReply {
            matched: removed.len() as i64,
        })
    }

    async fn do_list(
        &self,
        user: Arc<UserInfo>,
        r: ListRequest,
    ) -> Result<BoxStream<'static, Result<ListReply, Status>>, Error> {
        let access = self
            .access(
                user,
                selecting(
                    attributes("list", r.resource.as_ref(), &r.namespace, "", "")?,
                    &r.field_selector,
                    &r.label_selector,
                ),
            )
            .await?;
        let options = ListOptions {
            label_selector: r.label_selector,
            field_selector: r.field_selector,
            resource_version: r.resource_version,
            resource_version_match: r.resource_version_match,
            limit: usize::try_from(r.limit).map_err(|_| Error::bad_request("limit must not be negative"))?,
            continue_: r.r#continue,
            send_initial_events: None,
        };
        let page = self.registry.list(&access, &options).await?;
        let kind = access.kind;
        let mut entries = page.entries.into_iter();
        let mut last = Some((
            page.revision.to_string(),
            page.continue_,
            page.remaining.unwrap_or(0) as i64,
        ));
        // Made while it is sent: a reply at a time is in memory.
        let replies = std::iter::from_fn(move || {
            last.as_ref()?;
            let mut reply = ListReply::default();
            let mut size = 0;
            while size < LIST_CHUNK {
                let Some(entry) = entries.next() else {
                    if let Some((revision, token, remaining)) = last.take() {
                        (reply.resource_version, reply.r#continue, reply.remaining_item_count) =
                            (revision, token, remaining);
                    }
                    return Some(Ok(reply));
                };
                match kind.proto(&entry) {
                    Ok(object) => {
                        size += object.len();
                        reply.objects.push(object);
                    }
                    Err(error) => {
                        last = None;
                        return Some(Err(status(&error)));
                    }
                }
            }
            Some(Ok(reply))
        });
        Ok(stream::iter(replies).boxed())
    }

    async fn bind_one(&self, user: Arc<UserInfo>, binding: Binding) -> Result<(), Error> {
        let pods = Resource {
            group: String::new(),
            version: "v1".into(),
            resource: "pods".into(),
        };
        let access = self
            .access(
                user,
                attributes("create", Some(&pods), &binding.namespace, &binding.name, "binding")?,
            )
            .await?;
        if binding.name.is_empty() || binding.node.is_empty() {
            return Err(Error::bad_request("name and node must be given"));
        }
        let target = Target {
            node: binding.node,
            uid: binding.uid,
            ..Target::default()
        };
        self.registry.bind(&access, &target, false).await
    }

    async fn update_one_status(
        &self,
        user: Arc<UserInfo>,
        resource: Resource,
        object: Vec<u8>,
        options: &WriteOptions,
    ) -> Result<(), Error> {
        use crate::registry::wire;
        let metadata = wire::bytes(&object, wire::METADATA).unwrap_or_default();
        let (namespace, name) = (wire::text(metadata, wire::NAMESPACE), wire::text(metadata, wire::NAME));
        let access = self
            .access(user, attributes("update", Some(&resource), namespace, name, "status")?)
            .await?;
        let api_version = access.kind.api_version();
        let value = decode::from_message(access.kind.expected(&api_version), &object)?;
        self.registry.update(&access, value, options).await.map(drop)
    }
}

fn expected(group: &str, version: &str, kind: &'static str) -> Result<Expected<'static>, Error> {
    let api_version = match group {
        "policy" => "policy/v1",
        "authentication.k8s.io" => "authentication.k8s.io/v1",
        _ => "v1",
    };
    let message =
        schema::for_kind(group, version, kind).ok_or_else(|| Error::internal(format!("no schema for {kind}")))?;
    Ok(Expected {
        api_version,
        kind,
        message,
        custom: None,
    })
}

fn encode(message: &'static Message, value: &Value) -> Result<ObjectReply, Error> {
    let object = api::codec::value_to_proto(message, value).map_err(Error::internal)?;
    Ok(ObjectReply {
        object: object.into(),
        warnings: Vec::new(),
    })
}

/// Hands the object of a request to the audit log.
fn note_object(object: &Value) {
    if audit::level() > Level::None {
        audit::request_object(object.clone());
    }
}

fn propagation(policy: &str) -> Result<Option<crate::registry::options::Propagation>, Error> {
    if policy.is_empty() {
        return Ok(None);
    }
    DeleteOptions::propagation(policy)
        .map(Some)
        .ok_or_else(|| Error::bad_request(format!("propagation policy {policy:?} does not exist")))
}

fn outcome(result: Result<(), Error>) -> Outcome {
    Outcome {
        status: result.err().map(|error| encode_status(&error)).unwrap_or_default(),
    }
}

fn answer<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| {
        audit::failed(&error);
        status(&error)
    })
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type ListStream = BoxStream<'static, Result<ListReply, Status>>;
    type WatchStream = BoxStream<'static, Result<WatchReply, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<ObjectReply>, Status> {
        let (user, r) = (user(&request), request.into_inner());
        let get = async {
            let access = self
                .access(
                    user,
                    attributes("get", r.resource.as_ref(), &r.namespace, &r.name, &r.subresource)?,
                )
                .await?;
            if r.subresource == "scale" {
                return encode(
                    scale::expected()?.message,
                    &self.registry.get_scale(&access, &r.resource_version).await?,
                );
            }
            let entry = self.registry.get(&access, &r.resource_version).await?;
            Ok(ObjectReply {
                object: access.kind.proto(&entry)?,
                warnings: Vec::new(),
            })
        };
        answer(get.await)
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let user = user(&request);
        answer(self.do_list(user, request.into_inner()).await)
    }

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (user, r) = (user(&request), request.into_inner());
        let start = async {
            let access = self
                .access(
                    user,
                    selecting(
                        attributes("watch", r.resource.as_ref(), &r.namespace, "", "")?,
                        &r.field_selector,
                        &r.label_selector,
                    ),
                )
                .await?;
            let options = WatchOptions {
                label_selector: r.label_selector,
                field_selector: r.field_selector,
                resource_version: r.resource_version,
                resource_version_match: if r.send_initial_events {
                    "NotOlderThan".into()
                } else {
                    String::new()
                },
                continue_: String::new(),
                allow_bookmarks: r.allow_bookmarks,
                send_initial_events: r.send_initial_events.then_some(true),
            };
            Ok(watch::replies(
                self.registry.watch(&access, &options).await?,
                r.timeout_seconds,
                self.shutdown.clone(),
            )
            .boxed())
        };
        answer(start.await)
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<ObjectReply>, Status> {
        let user = user(&request);
        answer(self.do_create(user, request.into_inner()).await)
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<ObjectReply>, Status> {
        let user = user(&request);
        answer(self.do_update(user, request.into_inner()).await)
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Result<Response<ObjectReply>, Status> {
        let user = user(&request);
        answer(self.do_patch(user, request.into_inner()).await)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<DeleteReply>, Status> {
        let user = user(&request);
        answer(self.do_delete(user, request.into_inner()).await)
    }

    async fn delete_collection(
        &self,
        request: Request<DeleteCollectionRequest>,
    ) -> Result<Response<DeleteCollectionReply>, Status> {
        let user = user(&request);
        answer(self.do_delete_collection(user, request.into_inner()).await)
    }

    async fn bind(&self, request: Request<BindRequest>) -> Result<Response<BindReply>, Status> {
        let user = user(&request);
        let parts = request
            .into_inner()
            .bindings
            .into_iter()
            .map(|binding| audit::part(self.bind_one(user.clone(), binding)));
        let outcomes = stream::iter(parts).buffered(BATCH).map(outcome).collect().await;
        Ok(Response::new(BindReply { outcomes }))
    }

    async fn update_statuses(
        &self,
        request: Request<UpdateStatusesRequest>,
    ) -> Result<Response<UpdateStatusesReply>, Status> {
        let (user, r) = (user(&request), request.into_inner());
        let resource = r.resource.unwrap_or_default();
        let options = WriteOptions {
            dry_run: false,
            field_manager: r.field_manager,
            field_validation: FieldValidation::Ignore,
            applied: false,
        };
        let parts = r
            .objects
            .into_iter()
            .map(|object| audit::part(self.update_one_status(user.clone(), resource.clone(), object.into(), &options)));
        let outcomes = stream::iter(parts).buffered(BATCH).map(outcome).collect().await;
        Ok(Response::new(UpdateStatusesReply { outcomes }))
    }
}

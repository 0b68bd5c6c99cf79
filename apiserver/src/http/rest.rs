//! REST requests on resources: from HTTP to the registry and back.

use std::sync::Arc;

use api::codec::{self, Encoding};
use api::resources::ResourceInfo;
use api::{Error, FieldError, GroupKind, schema};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::body::{Request, Response, read};
use super::negotiate::{self, Format};
use super::query::Query;
use super::request_info::RequestInfo;
use super::router::info;
use super::{State, list, logs, render, watch};
use crate::audit::{self, policy::Level};
use crate::discovery::returns_deleted;
use crate::proxy::targets;
use crate::registry::decode::{self, Expected};
use crate::registry::options::{self, DeleteOptions, FieldValidation, ListOptions, WatchOptions, WriteOptions};
use crate::registry::patch::{Patch, PatchType};
use crate::registry::pods::Target;
use crate::registry::table::IncludeObject;
use crate::registry::{Access, Kind, Registry, Removed, Written, meta, scale};
use crate::streams;

/// The media type of server-side apply.
const APPLY: &str = "application/apply-patch+yaml";
/// All patches, in the order in which upstream names them.
const PATCHES: &[&str] = &[
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    APPLY,
];

/// A request taken apart.
struct Call {
    access: Access,
    info: Arc<RequestInfo>,
    headers: HeaderMap,
    format: Format,
    body: Bytes,
}

/// Answers a request that the authorizer allowed.
///
/// # Errors
/// Everything that goes wrong, as the API tells it.
pub async fn handle(state: Arc<State>, access: Access, request: Request) -> Result<Response, Error> {
    let info = info(&request);
    let proxy = access.attributes.subresource == "proxy";
    // OPTIONS is no verb of the API, and still for the target to answer.
    if !(proxy && request.method() == http::Method::OPTIONS) {
        check_served(&access)?;
    }
    if request.method() == http::Method::HEAD
        && !streams::serves(&access.attributes.subresource)
        && access.attributes.subresource != "proxy"
    {
        return Err(no_such_method());
    }
    if let ("get", "log") = (access.attributes.verb.as_str(), access.attributes.subresource.as_str()) {
        return logs::logs(&state, &access, &info).await;
    }
    if proxy {
        return targets::handle(state, access, info, request).await;
    }
    if streams::serves(&access.attributes.subresource) {
        return streams::handle(state, access, info, request).await;
    }
    if !info.rest.is_empty() {
        return Err(Error::no_such_path());
    }
    let format = Format::asked(request.headers(), info.query.get("pretty"))?;
    let (mut parts, body) = request.into_parts();
    let reads = matches!(access.attributes.verb.as_str(), "get" | "list" | "watch");
    let body = if reads { Bytes::new() } else { read(body).await? };
    if !body.is_empty()
        && audit::level() >= Level::Metadata
        && let Some(object) = super::audit::object(negotiate::media_type(&parts.headers), &body)
    {
        audit::request_object(object);
    }
    if audit::level() == Level::RequestResponse {
        parts.headers.remove(header::ACCEPT_ENCODING);
    }
    let call = Call {
        access,
        info,
        headers: parts.headers,
        format,
        body,
    };
    let deprecated = deprecation(&call.access.kind.info).map(str::to_owned);
    let custom = call.access.kind.strategy.custom();
    let warning = deprecated.or_else(|| custom.and_then(|custom| custom.version().warning.clone()));
    let response = call.run(&state).await?;
    Ok(with_warnings(response, warning.as_slice()))
}

/// What to tell everyone who still uses a resource.
fn deprecation(resource: &ResourceInfo) -> Option<&'static str> {
    match (&*resource.group, &*resource.version, &*resource.resource) {
        ("", "v1", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        ("", "v1", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        _ => None,
    }
}

/// The resource offers the verb, at this scope.
fn check_served(access: &Access) -> Result<(), Error> {
    let (a, resource) = (&access.attributes, &*access.kind.info);
    let verbs = if a.subresource.is_empty() {
        resource.verbs
    } else {
        resource
            .subresources
            .iter()
            .find(|s| s.name == a.subresource)
            .map_or(&[][..], |s| s.verbs)
    };
    let nameless = a.name.is_empty() && matches!(a.verb.as_str(), "get" | "update" | "patch" | "delete");
    if nameless || !verbs.contains(&a.verb.as_str()) {
        return Err(no_such_method());
    }
    let custom = access.kind.strategy.custom();
    if a.verb == "create" && custom.is_some_and(|custom| custom.definition.terminating) {
        let mut error = no_such_method();
        error.message = "create not allowed while custom resource definition is terminating".into();
        return Err(error);
    }
    if !resource.namespaced && !a.namespace.is_empty() && resource.resource != "namespaces" {
        return Err(Error::no_such_path());
    }
    let whole = matches!(a.verb.as_str(), "list" | "watch");
    if resource.namespaced && a.namespace.is_empty() && !whole {
        return Err(no_such_method());
    }
    Ok(())
}

/// 405 for a method that the path does not have.
fn no_such_method() -> Error {
    Error {
        code: 405,
        reason: "MethodNotAllowed".into(),
        message: "the server does not allow this method on the requested resource".into(),
        details: Some(Box::default()),
    }
}

impl Call {
    async fn run(self, state: &State) -> Result<Response, Error> {
        let a = &self.access.attributes;
        match (a.verb.as_str(), a.subresource.as_str()) {
            ("get" | "update" | "patch", "scale") => self.scale(state).await,
            ("create", "binding") => self.bind(state, self.access.attributes.name.clone()).await,
            ("create", "eviction") => self.evict(state).await,
            ("create", "token") => self.token(state).await,
            ("create", "") if self.access.kind.is_review() => self.review(state).await,
            ("create", "") if self.access.kind.info.resource == "bindings" => self.bind(state, String::new()).await,
            ("create", "") => self.create(state).await,
            ("get", _) => self.get(state).await,
            ("list", _) => self.list(state).await,
            ("watch", _) => self.watch(state).await,
            ("update", _) => self.update(state).await,
            ("patch", _) => self.patch(state).await,
            ("delete", _) => self.delete(state).await,
            ("deletecollection", _) => self.delete_collection(state).await,
            _ => Err(Error::no_such_path()),
        }
    }

    fn query(&self) -> &Query {
        &self.info.query
    }

    fn kind(&self) -> &Arc<Kind> {
        &self.access.kind
    }

    fn include(&self) -> Result<IncludeObject, Error> {
        negotiate::include_object(self.format.form, self.query().get("includeObject"))
    }

    fn gzip(&self) -> bool {
        negotiate::accepts_gzip(&self.headers)
    }

    async fn get(&self, state: &State) -> Result<Response, Error> {
        self.format.check(false)?;
        let entry = state
            .registry
            .get(&self.access, self.query().get("resourceVersion"))
            .await?;
        render::object(self.kind(), &entry, self.format, self.include()?, self.gzip())
    }

    async fn list(&self, state: &State) -> Result<Response, Error> {
        self.format.check(true)?;
        let include = self.include()?;
        let options = list_options(self.query())?;
        match state.registry.list(&self.access, &options).await {
            Ok(page) => list::list(self.kind().clone(), page, self.format, include, self.gzip()),
            Err(error) => match Registry::inconsistent_token(&error, &options) {
                Some(token) => Ok(list::expired(&error, &token, self.format)),
                None => Err(error),
            },
        }
    }

    async fn watch(&self, state: &State) -> Result<Response, Error> {
        self.format.check_stream()?;
        self.format.check(false)?;
        let query = self.query();
        let include = self.include()?;
        let options = WatchOptions {
            label_selector: query.get("labelSelector").to_owned(),
            field_selector: query.get("fieldSelector").to_owned(),
            resource_version: query.get("resourceVersion").to_owned(),
            resource_version_match: query.get("resourceVersionMatch").to_owned(),
            continue_: query.get("continue").to_owned(),
            allow_bookmarks: query.flag("allowWatchBookmarks") == Some(true),
            send_initial_events: query.flag("sendInitialEvents"),
        };
        query.integer("limit")?;
        let timeout = query.integer("timeoutSeconds")?;
        let gauge = state.metrics.long_running(&state.registry, &self.info);
        let running = match state.registry.watch(&self.access, &options).await {
            Ok(running) => running,
            // What is wrong with the revision is told in the stream.
            Err(error) if matches!(error.code, 410 | 504) => return Ok(watch::answer_error(&error, self.format)),
            Err(error) => return Err(error),
        };
        Ok(watch::answer_watch(
            running,
            self.format,
            include,
            timeout,
            state.shutdown.clone(),
            gauge,
        ))
    }

    /// Options of a write, as `kind` (`CreateOptions`) carries them.
    fn write_options(&self, kind: &str) -> Result<WriteOptions, Error> {
        let query = self.query();
        let mut faults = Vec::new();
        if kind == "PatchOptions" {
            faults.extend(self.patch_faults());
        }
        faults.extend(options::manager_faults(query.get("fieldManager")));
        let dry_run = dry_run(query).unwrap_or_else(|fault| {
            faults.push(fault);
            false
        });
        let validation = query.get("fieldValidation");
        let field_validation = FieldValidation::parse(validation).unwrap_or_else(|| {
            faults.push(FieldError::not_supported(
                "fieldValidation",
                validation,
                &["Ignore", "Strict", "Warn"],
            ));
            FieldValidation::Strict
        });
        if !faults.is_empty() {
            return Err(Error::invalid(&GroupKind::new("meta.k8s.io", kind), "", faults));
        }
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        Ok(WriteOptions {
            dry_run,
            field_manager: match query.get("fieldManager") {
                "" => options::manager_of_agent(agent.unwrap_or("")),
                manager => manager.to_owned(),
            },
            field_validation,
            applied: false,
        })
    }

    fn is_apply(&self) -> bool {
        negotiate::media_type(&self.headers) == APPLY
    }

    /// What only some patches may, and must, say.
    fn patch_faults(&self) -> Option<FieldError> {
        let query = self.query();
        match self.is_apply() {
            true if query.get("fieldManager").is_empty() => {
                Some(FieldError::required("fieldManager", "is required for apply patch"))
            }
            false if query.flag("force").is_some() => Some(FieldError::forbidden(
                "force",
                "may not be specified for non-apply patch",
            )),
            _ => None,
        }
    }

    /// The body as this resource's object.
    fn object(&self, options: &WriteOptions) -> Result<(Value, Vec<String>), Error> {
        let api_version = self.kind().api_version();
        self.body_as(self.kind().expected(&api_version), options)
    }

    fn body_as(&self, expected: Expected<'_>, options: &WriteOptions) -> Result<(Value, Vec<String>), Error> {
        decode::decode(
            expected,
            negotiate::body_encoding(&self.headers)?,
            &self.body,
            options.field_validation,
        )
    }

    async fn create(&self, state: &State) -> Result<Response, Error> {
        let options = self.write_options("CreateOptions")?;
        let (object, unknown) = self.object(&options)?;
        let written = state.registry.create(&self.access, object, &options).await?;
        self.written(written, unknown)
    }

    async fn update(&self, state: &State) -> Result<Response, Error> {
        let options = self.write_options("UpdateOptions")?;
        let (object, unknown) = self.object(&options)?;
        let written = state.registry.update(&self.access, object, &options).await?;
        self.written(written, unknown)
    }

    async fn patch(&self, state: &State) -> Result<Response, Error> {
        let kind = self.patch_type()?;
        let options = self.write_options("PatchOptions")?;
        let written = match kind {
            None => {
                let force = self.query().flag("force") == Some(true);
                state.registry.apply(&self.access, &self.body, force, &options).await?
            }
            Some(kind) => {
                let patch = Patch::parse(kind, &self.body)?;
                state.registry.patch(&self.access, &patch, &options).await?
            }
        };
        self.written(written, Vec::new())
    }

    /// How the body is to be read; none for an apply.
    fn patch_type(&self) -> Result<Option<PatchType>, Error> {
        let custom = self.kind().info.is_custom();
        match negotiate::media_type(&self.headers) {
            "application/json-patch+json" => Ok(Some(PatchType::Json)),
            "application/merge-patch+json" => Ok(Some(PatchType::Merge)),
            "application/strategic-merge-patch+json" if !custom => Ok(Some(PatchType::Strategic)),
            APPLY => Ok(None),
            _ => {
                let accepted = PATCHES.iter().filter(|name| !(custom && name.contains("strategic")));
                Err(Error::unsupported_media_type(&accepted.copied().collect::<Vec<_>>()))
            }
        }
    }

    fn written(&self, written: Written, mut warnings: Vec<String>) -> Result<Response, Error> {
        let status = if written.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        self.format.check(false)?;
        warnings.extend(written.warnings);
        let response = render::written(self.kind(), &written.entry, self.format, self.include()?, status)?;
        Ok(with_warnings(response, &warnings))
    }

    async fn delete(&self, state: &State) -> Result<Response, Error> {
        let wish = self.delete_wish()?;
        let options = self.delete_options(&wish)?;
        let Removed { entry, gone, warnings } = state.registry.delete(&self.access, &options).await?;
        let response = if gone && !returns_deleted(&self.kind().info) {
            let object = self.kind().stored_value(&entry)?;
            let mut details = json!({"name": meta::text(&object, "name"), "kind": self.kind().info.resource, "uid": meta::text(&object, "uid")});
            if !self.kind().info.group.is_empty() {
                details["group"] = self.kind().info.group.to_string().into();
            }
            render::success(details, self.format, StatusCode::OK)?
        } else {
            // Those who ask in the old way that dependents go too are told when that takes its time.
            let status = if !gone && wish.get("orphanDependents") == Some(&Value::Bool(false)) {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            };
            render::written(self.kind(), &entry, self.format, self.include()?, status)?
        };
        Ok(with_warnings(response, &warnings))
    }

    async fn delete_collection(&self, state: &State) -> Result<Response, Error> {
        let options = self.delete_options(&self.delete_wish()?)?;
        let entries = state
            .registry
            .delete_collection(&self.access, &list_options(self.query())?, &options)
            .await?;
        let page = crate::registry::Page {
            entries,
            revision: state.registry.store().revision(),
            continue_: String::new(),
            remaining: None,
        };
        list::list(self.kind().clone(), page, self.format, self.include()?, self.gzip())
    }

    /// The options of a deletion as the client wrote them: in the body, or in the query if there is none.
    fn delete_wish(&self) -> Result<Value, Error> {
        if self.body.is_empty() {
            options_from_query(self.query())
        } else {
            self.options_from_body()
        }
    }

    fn delete_options(&self, wish: &Value) -> Result<DeleteOptions, Error> {
        let mut options = DeleteOptions::from_value(wish)
            .map_err(|faults| Error::invalid(&GroupKind::new("meta.k8s.io", "DeleteOptions"), "", faults))?;
        // With a body the query does not count upstream; still, nobody who says dry-run means to delete.
        options.dry_run |= self.query().get("dryRun") == "All";
        Ok(options)
    }

    fn options_from_body(&self) -> Result<Value, Error> {
        let message = schema::for_kind("", "v1", "DeleteOptions")
            .ok_or_else(|| Error::internal("no schema for DeleteOptions"))?;
        let encoding = negotiate::body_encoding(&self.headers)?;
        // DeleteOptions are accepted under any group's version.
        let api_version = match encoding {
            Encoding::Protobuf => codec::unwrap(&self.body)
                .map(|(v, ..)| v.to_string())
                .map_err(|error| Error::bad_request(error.to_string()))?,
            _ => String::new(),
        };
        if encoding == Encoding::Protobuf {
            let expected = Expected {
                api_version: &api_version,
                kind: "DeleteOptions",
                message,
                custom: None,
            };
            return Ok(decode::decode(expected, encoding, &self.body, FieldValidation::Ignore)?.0);
        }
        let mut value = match encoding {
            Encoding::Yaml => codec::parse_yaml(&self.body),
            _ => codec::parse_json(&self.body),
        }
        .map_err(|error| Error::bad_request(error.to_string()))?;
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("");
        if !matches!(text("kind"), "" | "DeleteOptions") {
            return Err(Error::bad_request(format!(
                "no kind {:?} is registered for version {:?} in scheme \"pkg/apis/meta/internalversion/scheme/register.go\"",
                text("kind"),
                text("apiVersion")
            )));
        }
        meta::map(&mut value).remove("apiVersion");
        decode::normalize(
            Expected {
                api_version: "v1",
                kind: "DeleteOptions",
                message,
                custom: None,
            },
            &value,
        )
    }

    async fn scale(&self, state: &State) -> Result<Response, Error> {
        let expected = scale::expected()?;
        if self.access.attributes.verb == "get" {
            let view = state
                .registry
                .get_scale(&self.access, self.query().get("resourceVersion"))
                .await?;
            return render::value(&view, Some(expected.message), self.format, StatusCode::OK);
        }
        let (view, written) = if self.access.attributes.verb == "update" {
            let options = self.write_options("UpdateOptions")?;
            let (wanted, _) = self.body_as(expected, &options)?;
            state
                .registry
                .change_scale(&self.access, |_| Ok(wanted.clone()), &options)
                .await?
        } else {
            let kind = self.patch_type()?;
            let options = self.write_options("PatchOptions")?;
            match kind {
                None => {
                    let force = self.query().flag("force") == Some(true);
                    state
                        .registry
                        .apply_scale(&self.access, &self.body, force, &options)
                        .await?
                }
                Some(kind) => {
                    let patch = Patch::parse(kind, &self.body)?;
                    let change = |old: Value| Ok(patch.apply_checked(expected, &old, options.field_validation)?.0);
                    state.registry.change_scale(&self.access, change, &options).await?
                }
            }
        };
        let response = render::value(&view, Some(expected.message), self.format, StatusCode::OK)?;
        Ok(with_warnings(response, &written.warnings))
    }

    async fn bind(&self, state: &State, name: String) -> Result<Response, Error> {
        let message = schema::for_kind("", "v1", "Binding").ok_or_else(|| Error::internal("no schema for Binding"))?;
        let options = self.write_options("CreateOptions")?;
        let (binding, _) = self.body_as(
            Expected {
                api_version: "v1",
                kind: "Binding",
                message,
                custom: None,
            },
            &options,
        )?;
        let target = Target::from_binding(&binding)?;
        let mut attributes = self.access.attributes.clone();
        attributes.name = if name.is_empty() {
            meta::text(&binding, "name").to_owned()
        } else {
            name
        };
        (attributes.resource, attributes.subresource) = ("pods".into(), "binding".into());
        let access = state.registry.authorize(self.access.user.clone(), attributes).await?;
        state.registry.bind(&access, &target, options.dry_run).await?;
        render::success(Value::Null, self.format, StatusCode::CREATED)
    }

    async fn evict(&self, state: &State) -> Result<Response, Error> {
        let message =
            schema::for_kind("policy", "v1", "Eviction").ok_or_else(|| Error::internal("no schema for Eviction"))?;
        let options = self.write_options("CreateOptions")?;
        let (eviction, _) = self.body_as(
            Expected {
                api_version: "policy/v1",
                kind: "Eviction",
                message,
                custom: None,
            },
            &options,
        )?;
        let name = meta::text(&eviction, "name");
        if !name.is_empty() && name != self.access.attributes.name {
            return Err(Error::bad_request("name in URL does not match name in Eviction object"));
        }
        let wish = eviction.get("deleteOptions").cloned().unwrap_or_else(|| json!({}));
        let mut wish = DeleteOptions::from_value(&wish)
            .map_err(|faults| Error::invalid(&GroupKind::new("policy", "Eviction"), name, faults))?;
        wish.dry_run |= options.dry_run;
        state.registry.evict(&self.access, &wish).await?;
        render::success(Value::Null, self.format, StatusCode::CREATED)
    }

    async fn token(&self, state: &State) -> Result<Response, Error> {
        let message = schema::for_kind("authentication.k8s.io", "v1", "TokenRequest")
            .ok_or_else(|| Error::internal("no schema for TokenRequest"))?;
        let expected = Expected {
            api_version: "authentication.k8s.io/v1",
            kind: "TokenRequest",
            message,
            custom: None,
        };
        let (request, _) = self.body_as(expected, &self.write_options("CreateOptions")?)?;
        let token = state.registry.issue_token(&self.access, request).await?;
        render::value(&token, Some(message), self.format, StatusCode::CREATED)
    }

    async fn review(&self, state: &State) -> Result<Response, Error> {
        let options = self.write_options("CreateOptions")?;
        let (object, unknown) = self.object(&options)?;
        let answer = state.registry.review(&self.access, object).await?;
        let response = render::value(
            &answer,
            Some(self.kind().info.message),
            self.format,
            StatusCode::CREATED,
        )?;
        Ok(with_warnings(response, &unknown))
    }
}

fn list_options(query: &Query) -> Result<ListOptions, Error> {
    query.integer("timeoutSeconds")?;
    Ok(ListOptions {
        label_selector: query.get("labelSelector").to_owned(),
        field_selector: query.get("fieldSelector").to_owned(),
        resource_version: query.get("resourceVersion").to_owned(),
        resource_version_match: query.get("resourceVersionMatch").to_owned(),
        // Less than nothing is no limit either.
        limit: usize::try_from(query.integer("limit")?.unwrap_or(0)).unwrap_or(0),
        continue_: query.get("continue").to_owned(),
        send_initial_events: query.flag("sendInitialEvents"),
    })
}

fn options_from_query(query: &Query) -> Result<Value, Error> {
    let mut value = json!({});
    if let Some(grace) = query.integer("gracePeriodSeconds")? {
        value["gracePeriodSeconds"] = grace.into();
    }
    for field in ["orphanDependents", "ignoreStoreReadErrorWithClusterBreakingPotential"] {
        if let Some(flag) = query.flag(field) {
            value[field] = flag.into();
        }
    }
    if !query.get("propagationPolicy").is_empty() {
        value["propagationPolicy"] = query.get("propagationPolicy").into();
    }
    let dry_run: Vec<&str> = query.all("dryRun").collect();
    if !dry_run.is_empty() {
        value["dryRun"] = dry_run.into();
    }
    Ok(value)
}

fn dry_run(query: &Query) -> Result<bool, FieldError> {
    options::dry_run(&query.all("dryRun").collect::<Vec<_>>())
}

/// `Warning: 299 - "text"` for each, once. Long ones are cut when all of them are long, and those beyond a bound left out, as upstream.
pub(super) fn with_warnings(mut response: Response, warnings: &[String]) -> Response {
    const ALL: usize = 4 << 10;
    const EACH: usize = 256;
    let cut = warnings.iter().map(|text| text.chars().count()).sum::<usize>() > ALL;
    let mut written = 0;
    for (index, warning) in warnings.iter().enumerate() {
        if warnings[..index].contains(warning) {
            continue;
        }
        let bound = if cut { EACH } else { usize::MAX };
        let text: String = warning
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(bound)
            .collect();
        written += text.chars().count();
        if written > ALL {
            break;
        }
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

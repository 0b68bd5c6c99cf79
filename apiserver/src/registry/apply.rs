//! Server-side apply, and the record of who manages which field of every object.

use std::borrow::Cow;

use api::apply::{self, Schema, Versions, Writer};
use api::{Error, codec};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::create::Written;
use super::decode::{self, Expected};
use super::options::{FieldValidation, WriteOptions};
use super::update::{Rules, check_identity};
use super::{Access, Kind, Registry, convert, meta, scale};

/// Notes in `new` what a create or update changed. An object whose managers nobody tracked stays so until its first apply.
pub(super) fn track(access: &Access, old: Option<&Value>, new: &mut Value, options: &WriteOptions, now: Timestamp) {
    let (api_version, now) = (access.kind.api_version(), meta::time(now));
    let manager = if options.field_manager.is_empty() {
        &access.user.name
    } else {
        &options.field_manager
    };
    let writer = writer(access, manager, &api_version, &now);
    if let Err(error) = apply::update(&Served(&access.kind), old, new, writer) {
        // The write itself is sound: it has been validated. As upstream, a record that cannot be kept does not stop it.
        tracing::warn!(key = %access.key(), %error, "managed fields are not up to date");
    }
}

fn writer<'a>(access: &'a Access, manager: &'a str, api_version: &'a str, now: &'a str) -> Writer<'a> {
    let subresource = access.attributes.subresource.as_str();
    let ignored: &[&str] = match subresource {
        "" => &["status"],
        "status" => &["spec"],
        _ => &[],
    };
    Writer {
        manager,
        api_version,
        subresource,
        now,
        ignored,
    }
}

/// The versions of a kind.
struct Served<'k>(&'k Kind);

impl Served<'_> {
    fn kind(&self, api_version: &str) -> Option<&Kind> {
        if self.0.api_version() == api_version {
            return Some(self.0);
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        super::find(group, version, &self.0.info.resource).map(|kind| &**kind)
    }
}

impl Versions for Served<'_> {
    fn schema(&self, api_version: &str) -> Option<Schema<'_>> {
        if let Some(custom) = self.0.strategy.custom() {
            return custom
                .version_of(api_version)
                .map(|version| Schema::Shape(&version.shape));
        }
        Some(Schema::Message(self.kind(api_version)?.info.message))
    }

    fn convert<'v>(&self, object: &'v Value, api_version: &str) -> Option<Cow<'v, Value>> {
        let from = object.get("apiVersion").and_then(Value::as_str).unwrap_or("");
        if from == api_version {
            return Some(Cow::Borrowed(object));
        }
        if let Some(custom) = self.0.strategy.custom() {
            return custom.renamed(object, api_version).map(Cow::Owned);
        }
        let stored = convert::to_storage(self.kind(from)?, object.clone());
        Some(Cow::Owned(convert::from_storage(self.kind(api_version)?, stored)))
    }
}

fn refused(error: apply::Error) -> Error {
    match error {
        apply::Error::Malformed(why) => Error::bad_request(why),
        apply::Error::Conflict { message, causes } => Error::apply_conflict(causes, message),
    }
}

impl Registry {
    /// Applies a configuration (YAML or JSON), creating the object if it is not there.
    ///
    /// # Errors
    /// 409 naming the fields that others manage, unless forced; otherwise as [`Registry::update`] and [`Registry::create`].
    pub async fn apply(
        &self,
        access: &Access,
        body: &[u8],
        force: bool,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let (config, warnings) = configuration(body, options.field_validation)?;
        let config = object(access, config)?;
        let mut written = self.apply_object(access, &config, force, options).await?;
        written.warnings.extend(warnings);
        Ok(written)
    }

    /// Applies a `Scale` to the object that the request names: a configuration of its replicas and nothing else.
    ///
    /// # Errors
    /// As [`Registry::apply`].
    pub async fn apply_scale(
        &self,
        access: &Access,
        body: &[u8],
        force: bool,
        options: &WriteOptions,
    ) -> Result<(Value, Written), Error> {
        let kind = &access.kind;
        let (wanted, warnings) = configuration(body, options.field_validation)?;
        let expected = scale::expected()?;
        check_type(&wanted, expected.api_version, expected.kind)?;
        declared(access, expected, &wanted)?;
        decode::normalize(expected, &wanted)?;
        let mut config = json!({"apiVersion": kind.api_version(), "kind": kind.info.kind});
        if let Some(metadata) = wanted.get("metadata") {
            config["metadata"] = metadata.clone();
        }
        identify(access, &mut config)?;
        if let Some(replicas) = wanted.pointer("/spec/replicas") {
            scale::set(&mut config, kind.strategy.scale().spec_replicas, replicas.clone());
        }
        let mut written = self.apply_object(access, &config, force, options).await?;
        written.warnings.extend(warnings);
        Ok((scale::view(kind, &kind.stored_value(&written.entry)?), written))
    }

    /// Applies an object in the requested version.
    async fn apply_object(
        &self,
        access: &Access,
        config: &Value,
        force: bool,
        options: &WriteOptions,
    ) -> Result<Written, Error> {
        let kind = &access.kind;
        let (api_version, now) = (kind.api_version(), meta::time(Timestamp::now()));
        let writer = writer(access, &options.field_manager, &api_version, &now);
        let merge = |live: Option<&Value>| {
            let merged = apply::apply(&Served(kind), live, config, writer, force).map_err(refused)?;
            Ok(convert::to_storage(kind, merged))
        };
        let options = WriteOptions {
            applied: true,
            ..options.clone()
        };
        let rules = Rules {
            retry: true,
            unconditional: true,
            trusted: false,
        };
        let outcome = self.change(access, &|old| merge(Some(old)), rules, &options).await;
        match outcome {
            Err(error) if error.is_not_found() && access.attributes.subresource.is_empty() => {
                if !self.is_missing(access).await? {
                    return Err(error);
                }
                let uid = meta::text(config, "uid");
                if !uid.is_empty() {
                    let why = format!(
                        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                    );
                    let resource = kind.group_resource();
                    return Err(Error::conflict(&resource, &access.attributes.name, why));
                }
                self.create_instead(access, merge(None)?, &options).await
            }
            outcome => outcome,
        }
    }
}

/// The body, and warnings about keys that come twice.
fn configuration(body: &[u8], validation: FieldValidation) -> Result<(Value, Vec<String>), Error> {
    let config = codec::parse_yaml(body).map_err(|error| {
        let why = format!("error decoding YAML: error converting YAML to JSON: {error}");
        Error::bad_request(why)
    })?;
    let duplicate = match validation {
        FieldValidation::Ignore => None,
        _ => codec::yaml_duplicate(body),
    };
    match duplicate {
        Some(line) if validation == FieldValidation::Strict => Err(Error::bad_request(format!(
            "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {line}"
        ))),
        duplicate => Ok((config, duplicate.into_iter().collect())),
    }
}

/// The body as an object of the request's kind.
fn object(access: &Access, mut config: Value) -> Result<Value, Error> {
    let kind = &access.kind;
    let api_version = kind.api_version();
    let expected = kind.expected(&api_version);
    check_type(&config, &api_version, &kind.info.kind)?;
    declared(access, expected, &config)?;
    // Only for its errors: what comes back has fields that the caller did not name.
    decode::normalize(expected, &config)?;
    identify(access, &mut config)?;
    Ok(config)
}

/// The configuration says of what type it is, and rightly.
fn check_type(config: &Value, api_version: &str, kind: &str) -> Result<(), Error> {
    let text = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or("");
    if text("apiVersion") != api_version {
        return Err(Error::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {}, expected: {api_version}",
            text("apiVersion")
        )));
    }
    if text("kind") != kind {
        return Err(Error::bad_request(format!(
            "the kind in the data ({}) does not match the expected kind ({kind})",
            text("kind")
        )));
    }
    Ok(())
}

/// An apply names no field that the schema does not know, however fields are validated: it could not be said who manages it. As upstream,
/// that is an error of the server.
fn declared(access: &Access, expected: Expected<'_>, config: &Value) -> Result<(), Error> {
    let schema = match expected.custom {
        Some(custom) => Schema::Shape(&custom.version().shape),
        None => Schema::Message(expected.message),
    };
    let faults = apply::undeclared(schema, config);
    let why = match faults.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let (namespace, name) = (access.namespace(), &access.attributes.name);
    let version = expected.api_version;
    Err(Error {
        code: 500,
        reason: String::new(),
        message: format!(
            "failed to create typed patch object ({namespace}/{name}; {version}, Kind={}): {why}",
            expected.kind
        ),
        details: None,
    })
}

/// Brings the names of request and configuration together.
fn identify(access: &Access, config: &mut Value) -> Result<(), Error> {
    let metadata = meta::of(config);
    let is_empty = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("").is_empty();
    if is_empty(metadata.get("name")) {
        metadata.insert("name".into(), access.attributes.name.clone().into());
    }
    if access.kind.info.namespaced && is_empty(metadata.get("namespace")) {
        metadata.insert("namespace".into(), access.namespace().into());
    }
    check_identity(access, config)
}

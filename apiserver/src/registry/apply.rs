//! Server-side apply, and the record of who manages which field of every object.

use api::apply::{self, Writer};
use api::{Error, codec};
use jiff::Timestamp;
use serde_json::Value;

use super::create::Written;
use super::options::WriteOptions;
use super::update::Rules;
use super::{Access, Registry, convert, decode, meta};

/// Notes in `new` what a create or update changed. An object whose managers nobody tracked stays so until its first apply.
pub(super) fn track(access: &Access, old: Option<&Value>, new: &mut Value, options: &WriteOptions, now: Timestamp) {
    let (api_version, now) = (access.kind.storage_api_version(), meta::time(now));
    let manager = if options.field_manager.is_empty() {
        &access.user.name
    } else {
        &options.field_manager
    };
    let writer = writer(access, manager, &api_version, &now);
    if let Err(error) = apply::update(access.kind.message(), old, new, writer) {
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
        let kind = &access.kind;
        let (config, unknown) = self.configuration(access, body, options)?;
        let (api_version, now) = (kind.storage_api_version(), meta::time(Timestamp::now()));
        let writer = writer(access, &options.field_manager, &api_version, &now);
        let merge = |live: Option<&Value>| apply::apply(kind.message(), live, &config, writer, force).map_err(refused);
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
        let creates = access.attributes.subresource.is_empty() && kind.strategy.create_on_update();
        let mut written = match outcome {
            Err(error) if error.is_not_found() && creates => {
                let mut creation = access.attributes.clone();
                creation.verb = "create".into();
                let creator = self.authorize(access.user.clone(), creation).await?;
                self.create(&creator, convert::from_storage(kind, merge(None)?), &options)
                    .await?
            }
            outcome => outcome?,
        };
        written.warnings.extend(unknown);
        Ok(written)
    }

    /// The body as an object in the storage version, with its name and namespace, and warnings about unknown fields.
    fn configuration(
        &self,
        access: &Access,
        body: &[u8],
        options: &WriteOptions,
    ) -> Result<(Value, Vec<String>), Error> {
        let kind = &access.kind;
        let mut config =
            codec::parse_yaml(body).map_err(|error| Error::bad_request(format!("error decoding YAML: {error}")))?;
        let api_version = kind.api_version();
        let expected = kind.expected(&api_version);
        let text = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or("");
        if text("apiVersion") != api_version || text("kind") != kind.info.kind {
            let why = format!(
                "expected {api_version}, Kind={}, found {}, Kind={}",
                kind.info.kind,
                text("apiVersion"),
                text("kind")
            );
            return Err(Error::bad_request(why));
        }
        let unknown = decode::unknown(expected, &config, options.field_validation, Vec::new())?;
        // Only for its errors: what comes back has fields that the caller did not name.
        decode::normalize(expected, &config)?;
        let (name, wanted) = (meta::text(&config, "name"), &access.attributes.name);
        if !name.is_empty() && name != wanted {
            let why = format!("the name of the object ({name}) does not match the name on the URL ({wanted})");
            return Err(Error::bad_request(why));
        }
        codec::prune_unknown(expected.message, &mut config);
        let wanted = wanted.clone();
        let metadata = meta::of(&mut config);
        metadata.insert("name".into(), wanted.into());
        if kind.info.namespaced {
            metadata.insert("namespace".into(), access.namespace().into());
        }
        Ok((convert::to_storage(kind, config), unknown))
    }
}

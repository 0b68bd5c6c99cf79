//! The `scale` subresource: `autoscaling/v1 Scale` as a view on the kinds that have replicas.

use api::{Error, FieldError, GroupKind};
use serde_json::{Value, json};

use super::create::Written;
use super::decode::Expected;
use super::options::WriteOptions;
use super::update::Rules;
use super::{Access, Kind, Registry, meta};
use crate::store::Entry;

/// What a body for `scale` must be.
///
/// # Errors
/// When the schema table has no Scale, which its own tests exclude.
pub fn expected() -> Result<Expected<'static>, Error> {
    let message = api::schema::for_kind("autoscaling", "v1", "Scale")
        .ok_or_else(|| Error::internal("no schema for autoscaling/v1 Scale"))?;
    Ok(Expected {
        api_version: "autoscaling/v1",
        kind: "Scale",
        message,
        custom: None,
    })
}

/// The view on an object in its storage version.
pub fn view(kind: &Kind, object: &Value) -> Value {
    let paths = kind.strategy.scale();
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let metadata = |field: &str| object.pointer(&format!("/metadata/{field}")).cloned();
    let mut view = json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {},
        "spec": {}, "status": {"replicas": number(paths.status_replicas)},
    });
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = metadata(field) {
            view["metadata"][field] = value;
        }
    }
    let replicas = number(paths.spec_replicas);
    if replicas != 0 {
        view["spec"]["replicas"] = replicas.into();
    }
    let selector = paths
        .selector
        .and_then(|path| object.pointer(path))
        .map(selector_text)
        .unwrap_or_default();
    if !selector.is_empty() {
        view["status"]["selector"] = selector.into();
    }
    view
}

/// A label selector object, or a plain map of labels, as text.
fn selector_text(selector: &Value) -> String {
    if let Value::String(text) = selector {
        return text.clone();
    }
    let is_selector = selector.get("matchLabels").is_some_and(Value::is_object)
        || selector.get("matchExpressions").is_some_and(Value::is_array);
    let typed = if is_selector {
        selector.clone()
    } else {
        json!({"matchLabels": selector})
    };
    serde_json::from_value::<api::meta::LabelSelector>(typed)
        .ok()
        .and_then(|typed| api::labels::Selector::from_label_selector(&typed).ok())
        .map(|selector| selector.to_string())
        .unwrap_or_default()
}

impl Registry {
    /// Reads the view.
    ///
    /// # Errors
    /// As [`Registry::get`].
    pub async fn get_scale(&self, access: &Access, resource_version: &str) -> Result<Value, Error> {
        scale_of(&access.kind, &*self.get(access, resource_version).await?)
    }

    /// Changes the replicas: `change` turns the view into the wanted one.
    ///
    /// # Errors
    /// As [`Registry::update`].
    pub async fn change_scale(
        &self,
        access: &Access,
        change: impl Fn(Value) -> Result<Value, Error> + Send + Sync,
        options: &WriteOptions,
    ) -> Result<(Value, Written), Error> {
        let kind = &access.kind;
        let apply = |old: &Value| {
            let wanted = change(view(kind, old))?;
            if meta::text(&wanted, "name") != access.attributes.name {
                let name = meta::text(&wanted, "name");
                return Err(Error::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    access.attributes.name
                )));
            }
            let replicas = wanted.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
            if replicas < 0 {
                let fault = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
                return Err(Error::invalid(
                    &GroupKind::new("autoscaling", "Scale"),
                    &access.attributes.name,
                    vec![fault],
                ));
            }
            let mut new = old.clone();
            set(&mut new, kind.strategy.scale().spec_replicas, replicas.into());
            // Preconditions the caller put into the view.
            for field in ["uid", "resourceVersion"] {
                meta::of(&mut new).insert(field.into(), meta::text(&wanted, field).into());
            }
            Ok(new)
        };
        let written = self
            .change(
                access,
                &apply,
                Rules {
                    retry: true,
                    unconditional: true,
                    trusted: false,
                },
                options,
            )
            .await?;
        Ok((scale_of(kind, &written.entry)?, written))
    }
}

fn scale_of(kind: &Kind, entry: &Entry) -> Result<Value, Error> {
    Ok(view(kind, &kind.stored_value(entry)?))
}

/// Sets the value at a JSON pointer of field names, making the maps on the way.
pub(crate) fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut current = object;
    for part in pointer.split('/').skip(1) {
        current = meta::map(current).entry(part).or_insert(Value::Null);
    }
    *current = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_made_on_the_way() {
        let mut object = json!({});
        set(&mut object, "/spec/replicas", 3.into());
        assert_eq!(object, json!({"spec": {"replicas": 3}}));
    }
}

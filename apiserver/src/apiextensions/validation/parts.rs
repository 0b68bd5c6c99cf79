//! The parts of a definition besides its schemas: subresources, columns, selectable fields, conversion, deprecation.

use std::collections::HashSet;

use api::{FieldError, names};

use super::super::schema::{Schema, Type};
use crate::kinds::field::{Errors, Field};

const COLUMN_TYPES: &str = "boolean,date,integer,number,string";
const COLUMN_FORMATS: &str = "byte,date,date-time,double,float,int32,int64,password";
/// As upstream.
const MOST_SELECTABLE: usize = 8;

fn is_one_of(list: &str, text: &str) -> bool {
    list.split(',').any(|item| item == text)
}

/// `subresources` of a version.
pub fn subresources(field: &Field<'_>, errors: &mut Errors) {
    let scale = field.get("scale");
    if !scale.exists() {
        return;
    }
    for (name, under) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let path = scale.get(name);
        if path.is_empty() {
            path.required(errors, "");
        } else if !path.str().starts_with('.') {
            path.invalid(errors, "must be a simple json path starting with .");
        } else if !path.str().starts_with(under) {
            path.invalid(
                errors,
                format!("should be a json path under {}", under.trim_end_matches('.')),
            );
        }
    }
    let path = scale.get("labelSelectorPath");
    if path.is_empty() {
        return;
    }
    if !path.str().starts_with('.') {
        path.invalid(errors, "must be a simple json path starting with .");
    } else if !path.str().starts_with(".spec.") && !path.str().starts_with(".status.") {
        path.invalid(errors, "should be a json path under either .spec or .status");
    }
}

/// One of `additionalPrinterColumns`.
pub fn column(field: &Field<'_>, errors: &mut Errors) {
    let (name, ty, format) = (field.get("name"), field.get("type"), field.get("format"));
    if name.is_empty() {
        name.required(errors, "");
    }
    if ty.is_empty() {
        ty.required(errors, &format!("must be one of {COLUMN_TYPES}"));
    } else if !is_one_of(COLUMN_TYPES, ty.str()) {
        ty.invalid(errors, format!("must be one of {COLUMN_TYPES}"));
    }
    if !format.is_empty() && !is_one_of(COLUMN_FORMATS, format.str()) {
        format.invalid(errors, format!("must be one of {COLUMN_FORMATS}"));
    }
    let path = field.get("jsonPath");
    let at = format!("{field}.JSONPath");
    if path.is_empty() {
        errors.push(FieldError::required(at, ""));
    } else if !path.str().starts_with('.') {
        errors.push(FieldError::invalid(
            at,
            path.str(),
            "must be a simple json path starting with .",
        ));
    }
}

/// `selectableFields` of a version with this schema.
pub fn selectable_fields(fields: &Field<'_>, schema: &Schema, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for field in fields.items() {
        let path = field.get("jsonPath");
        if path.is_empty() {
            path.required(errors, "");
            continue;
        }
        let steps = path.str().strip_prefix('.').unwrap_or("").split('.');
        let found = steps.clone().try_fold(schema, |schema, step| schema.member(step));
        let Some(found) = found.filter(|_| path.str().starts_with('.')) else {
            path.invalid(errors, "is an invalid path: does not refer to a valid field");
            continue;
        };
        if steps.clone().next() == Some("metadata") {
            path.invalid(errors, "must not point to fields in metadata");
        }
        if !matches!(found.ty, Some(Type::String | Type::Boolean | Type::Integer)) {
            path.invalid(errors, "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.");
        }
        if !seen.insert(path.str().to_owned()) {
            path.duplicate(errors);
        }
    }
    if seen.len() > MOST_SELECTABLE {
        errors.push(FieldError::too_many(fields.to_string(), seen.len(), MOST_SELECTABLE));
    }
}

/// `conversion`.
pub fn conversion(field: &Field<'_>, errors: &mut Errors) {
    if !field.exists() {
        return;
    }
    field.get("strategy").required_one_of(errors, &["None", "Webhook"]);
    let webhook = field.get("webhook");
    let (client, versions) = (webhook.get("clientConfig"), webhook.get("conversionReviewVersions"));
    // Where upstream keeps them.
    let client = Field::root("spec.conversion.webhookClientConfig", client.value);
    let versions = Field::root("spec.conversion.conversionReviewVersions", versions.value);
    if field.get("strategy").str() != "Webhook" {
        for part in [client, versions].iter().filter(|part| !part.is_empty()) {
            part.forbidden(errors, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    if client.exists() {
        client_config(&client, errors);
    } else {
        client.required(errors, "required when strategy is set to Webhook");
    }
    if versions.is_empty() {
        return versions.required(errors, "");
    }
    let mut seen = HashSet::new();
    for version in versions.items() {
        if !seen.insert(version.str()) {
            version.invalid(errors, "duplicate version");
            continue;
        }
        version.invalid_all(errors, names::dns1035_label(version.str()));
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        versions.invalid(errors, "must include at least one of v1, v1beta1");
    }
}

fn client_config(client: &Field<'_>, errors: &mut Errors) {
    let (url, service) = (client.get("url"), client.get("service"));
    if url.exists() == service.exists() {
        return client.required(errors, "exactly one of url or service is required");
    }
    if url.exists() {
        return web_url(&url, errors);
    }
    for name in ["name", "namespace"] {
        if service.get(name).is_empty() {
            service
                .get(name)
                .required(errors, &format!("service {name} is required"));
        }
    }
    let port = service.get("port");
    if port.int().is_some_and(|port| !(1..=65535).contains(&port)) {
        port.invalid(errors, "port is not valid: must be between 1 and 65535, inclusive");
    }
    let path = service.get("path");
    if !path.is_empty() && !path.str().starts_with('/') {
        path.invalid(errors, "must start with a '/'");
    }
}

fn web_url(url: &Field<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let Ok(parsed) = url.str().parse::<http::Uri>() else {
        return url.required(errors, &format!("url must be a valid URL{FORM}"));
    };
    if parsed.scheme_str() != Some("https") {
        url.invalid(errors, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if parsed.host().unwrap_or("").is_empty() {
        url.invalid(errors, format!("host must be specified{FORM}"));
    }
    if parsed
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        url.invalid(errors, "user information is not permitted in the URL");
    }
    if url.str().contains('#') {
        url.invalid(errors, "fragments are not permitted in the URL");
    }
    if parsed.query().is_some() {
        url.invalid(errors, "query parameters are not permitted in the URL");
    }
}

/// `deprecated` and `deprecationWarning` of a version.
pub fn deprecation(version: &Field<'_>, errors: &mut Errors) {
    let warning = version.get("deprecationWarning");
    if !warning.exists() {
        return;
    }
    if !version.get("deprecated").bool() {
        return warning.invalid(errors, "can only be set for deprecated versions");
    }
    if warning.str().len() > 256 {
        warning.invalid(errors, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        warning.invalid(errors, "must not be an empty string");
    }
    if let Some((index, _)) = warning.str().char_indices().find(|(_, c)| c.is_control()) {
        warning.invalid(
            errors,
            format!("must only contain printable UTF-8 characters; non-printable character found at index {index}"),
        );
    }
}

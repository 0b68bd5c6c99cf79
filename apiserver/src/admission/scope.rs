//! Which requests a webhook or an admission policy is for: rules, excluding rules, selectors of namespaces and objects, and whether an
//! equivalent form of the request counts. Owns the decision and the form in which the request is shown; knows nothing of what follows.

use api::Error;
use api::labels::Selector;
use serde_json::Value;

use super::Context;
use super::webhook::form::Form;
use super::webhook::rules::Rule;
use crate::kinds::field::{list, text};
use crate::registry::access::{AdmissionRequest, Operation};
use crate::registry::meta;

/// A rule that may name objects.
struct Named {
    rule: Rule,
    /// None: all.
    names: Vec<String>,
}

impl Named {
    fn parse(rule: &Value) -> Self {
        let names = list(rule, "/resourceNames").iter().filter_map(Value::as_str);
        Self {
            rule: Rule::from_value(rule),
            names: names.map(str::to_owned).collect(),
        }
    }
}

/// The requests that something is for.
pub(super) struct Scope {
    rules: Vec<Named>,
    excluded: Vec<Named>,
    /// Without rules it is for every request, not for none.
    open: bool,
    /// `matchPolicy: Exact`.
    exact: bool,
    namespaces: Result<Selector, String>,
    objects: Result<Selector, String>,
}

impl Scope {
    /// Of a webhook.
    pub(super) fn of_webhook(hook: &Value) -> Self {
        Self::parse(hook, "/rules", false)
    }

    /// Of a policy's `matchConstraints`.
    pub(super) fn of_constraints(constraints: &Value) -> Self {
        Self::parse(constraints, "/resourceRules", false)
    }

    /// Of a binding's `matchResources`, which may be missing.
    pub(super) fn of_binding(resources: &Value) -> Self {
        Self::parse(resources, "/resourceRules", true)
    }

    fn parse(value: &Value, rules: &str, open: bool) -> Self {
        let named = |pointer| list(value, pointer).iter().map(Named::parse).collect();
        Self {
            rules: named(rules),
            excluded: named("/excludeResourceRules"),
            open,
            exact: text(value, "/matchPolicy") == "Exact",
            namespaces: selector(value.get("namespaceSelector")),
            objects: selector(value.get("objectSelector")),
        }
    }

    /// The form in which the request is shown, if this is for it.
    ///
    /// # Errors
    /// When a selector is none or the namespace cannot be read, for a request that the rules name.
    pub(super) async fn form(
        &self,
        cx: &Context,
        request: &AdmissionRequest<'_>,
        asked: &Form,
        object: &Value,
    ) -> Result<Option<Form>, Error> {
        let in_namespace = self.namespace_matches(cx, request, object).await;
        if let Ok(false) = in_namespace {
            return Ok(None);
        }
        let of_object = self.object_matches(request, asked, object);
        if let Ok(false) = of_object {
            return Ok(None);
        }
        if self.named(&self.excluded, request, asked).is_some() {
            return Ok(None);
        }
        let form = match self.rules.is_empty() && self.open {
            true => Some(asked.clone()),
            false => self.named(&self.rules, request, asked),
        };
        if form.is_some() {
            in_namespace?;
            of_object?;
        }
        Ok(form)
    }

    /// The form that the rules name: the request's own, or an equivalent one if those count.
    fn named(&self, rules: &[Named], request: &AdmissionRequest<'_>, asked: &Form) -> Option<Form> {
        let (operation, namespace) = (request.operation.name(), namespace(request));
        let name = &request.attributes.name;
        let matches = |named: &Named, form: &Form| {
            (named.names.is_empty() || named.names.contains(name))
                && named.rule.matches(&form.asked(operation, namespace))
        };
        if rules.iter().any(|rule| matches(rule, asked)) {
            return Some(asked.clone());
        }
        if self.exact {
            return None;
        }
        // The first rule that names one of them decides.
        rules
            .iter()
            .find_map(|rule| asked.equivalents().find(|form| matches(rule, form)))
    }

    async fn namespace_matches(
        &self,
        cx: &Context,
        request: &AdmissionRequest<'_>,
        object: &Value,
    ) -> Result<bool, Error> {
        let name = namespace(request);
        let a = request.attributes;
        let is_namespace = (a.group.as_str(), a.resource.as_str()) == ("", "namespaces");
        if name.is_empty() && !is_namespace {
            return Ok(true);
        }
        let selector = usable(&self.namespaces)?;
        if selector.is_empty() {
            return Ok(true);
        }
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if is_namespace && a.subresource.is_empty() && writes {
            return Ok(selector.matches(&meta::labels(object)));
        }
        let missing = || Error::not_found(&api::GroupResource::new("", "namespaces"), name);
        let found = cx.get("", "namespaces", "", name).await?.ok_or_else(missing)?;
        Ok(selector.matches(&meta::labels(&found)))
    }

    /// The object or the one before it has the labels; what has no labels matches only a selector without terms.
    fn object_matches(&self, request: &AdmissionRequest<'_>, asked: &Form, object: &Value) -> Result<bool, Error> {
        let selector = usable(&self.objects)?;
        if selector.is_empty() {
            return Ok(true);
        }
        let matches = |object: &Value| {
            let shown = asked.show(object);
            shown.get("metadata").is_some() && selector.matches(&meta::labels(&shown))
        };
        Ok(matches(object) || request.old.is_some_and(matches))
    }
}

/// The namespace that admission sees: for a namespace it is its own name.
pub(super) fn namespace<'a>(request: &'a AdmissionRequest<'_>) -> &'a str {
    let a = request.attributes;
    match (a.group.as_str(), a.resource.as_str()) {
        ("", "namespaces") => &a.name,
        _ => &a.namespace,
    }
}

/// A label selector; none selects everything.
pub(super) fn selector(value: Option<&Value>) -> Result<Selector, String> {
    let Some(value) = value.filter(|value| !value.is_null()) else {
        return Ok(Selector::everything());
    };
    let parsed: api::meta::LabelSelector = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    Selector::from_label_selector(&parsed).map_err(|error| error.to_string())
}

/// A selector, or why it is none.
fn usable(selector: &Result<Selector, String>) -> Result<&Selector, Error> {
    selector.as_ref().map_err(Error::internal)
}

//! Whether an extension API server can be reached: its Service, the Service's endpoints, and its own word. Conditions have upstream's reasons.

use std::time::Duration;

use http::HeaderMap;
use serde_json::{Value, json};

use super::Remote;
use crate::kinds::field::{list, text};
use crate::outgoing::{CallError, Limits, ResolveError, Resolver, ServiceReference};

/// For one question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Status, reason and message of the condition `Available`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether requests are passed on.
    pub available: bool,
    /// In a word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

impl Verdict {
    fn not(reason: &'static str, message: String) -> Self {
        Self {
            available: false,
            reason,
            message,
        }
    }

    /// For what this server serves itself.
    pub fn local() -> Self {
        Self {
            available: true,
            reason: "Local",
            message: "Local APIServices are always available".into(),
        }
    }
}

/// What an extension API server says of itself.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Its `APIResourceList`.
    pub resources: Value,
    /// Its line of `/openapi/v3`, if it has one.
    pub openapi: Value,
}

/// Looks at the Service, then asks the server.
pub async fn check(remote: &Remote, resolver: &Resolver) -> (Verdict, Option<Found>) {
    if let Err(verdict) = service(&remote.service, resolver).await {
        return (verdict, None);
    }
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let caller = match &remote.caller {
        Ok(caller) => caller,
        Err(why) => return (Verdict::not("FailedDiscoveryCheck", why.clone()), None),
    };
    let url = caller.at(&path).map(|url| url.to_string()).unwrap_or_default();
    let failed = |why: String| {
        let message = format!("failing or missing response from {url}: {why}");
        (Verdict::not("FailedDiscoveryCheck", message), None)
    };
    let resources = match caller.get(&path, HeaderMap::new(), Limits::within(PATIENCE)).await {
        Ok(body) => serde_json::from_slice(&body).unwrap_or(Value::Null),
        Err(CallError::Status { code, .. }) => return failed(format!("bad status from {url}: {code}")),
        Err(error) => return failed(error.to_string()),
    };
    let openapi = openapi(remote, caller).await;
    let verdict = Verdict {
        available: true,
        reason: "Passed",
        message: "all checks passed".into(),
    };
    (verdict, Some(Found { resources, openapi }))
}

async fn openapi(remote: &Remote, caller: &crate::outgoing::Caller) -> Value {
    let Ok(body) = caller
        .get("/openapi/v3", HeaderMap::new(), Limits::within(PATIENCE))
        .await
    else {
        return Value::Null;
    };
    let root: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let path = format!("apis/{}/{}", remote.group, remote.version);
    root.get("paths")
        .and_then(|paths| paths.get(path))
        .cloned()
        .unwrap_or(Value::Null)
}

/// The Service is there, has the port, and somebody stands behind it.
async fn service(wanted: &ServiceReference, resolver: &Resolver) -> Result<(), Verdict> {
    let ServiceReference { namespace, name, port } = wanted;
    let service = match resolver.get_service(namespace, name).await {
        Ok(service) => service,
        Err(ResolveError::NoService(_)) => {
            let message = format!("service/{name} in {namespace:?} is not present");
            return Err(Verdict::not("ServiceNotFound", message));
        }
        Err(error) => {
            let message = format!("service/{name} in {namespace:?} cannot be checked due to: {error}");
            return Err(Verdict::not("ServiceAccessError", message));
        }
    };
    if text(&service, "/spec/type") == "ExternalName" {
        return Ok(());
    }
    let ports = list(&service, "/spec/ports").iter();
    let mut found = ports.filter(|p| p.get("port").and_then(Value::as_u64) == Some((*port).into()));
    let Some(found) = found.next() else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Err(Verdict::not("ServicePortError", message));
    };
    match resolver.service(wanted).await {
        Ok(_) => Ok(()),
        Err(ResolveError::NoEndpoints(_)) => {
            let port = text(found, "/name");
            let message =
                format!("endpoints for service/{name} in {namespace:?} have no addresses with port name {port:?}");
            Err(Verdict::not("MissingEndpoints", message))
        }
        Err(error) => {
            let message = format!("service/{name} in {namespace:?} cannot be checked due to: {error}");
            Err(Verdict::not("EndpointsAccessError", message))
        }
    }
}

/// The object with its condition, if that says something else now.
pub fn with_condition(object: &Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let status = if verdict.available { "True" } else { "False" };
    let mut conditions: Vec<Value> = list(object, "/status/conditions").to_vec();
    let current = conditions.iter().position(|c| text(c, "/type") == "Available");
    let before = current.map(|at| conditions.remove(at));
    let same = |field: &str, value: &str| before.as_ref().is_some_and(|c| text(c, field) == value);
    if same("/status", status) && same("/reason", verdict.reason) && same("/message", &verdict.message) {
        return None;
    }
    let since = match (&before, same("/status", status)) {
        (Some(before), true) => text(before, "/lastTransitionTime").to_owned(),
        _ => now.to_owned(),
    };
    conditions.push(
        json!({"type": "Available", "status": status, "reason": verdict.reason, "message": verdict.message,
        "lastTransitionTime": since}),
    );
    let mut new = object.clone();
    new["status"] = json!({"conditions": conditions});
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_changes_only_when_it_says_something_else() {
        let object = json!({"metadata": {"name": "v1.x"}});
        let bad = Verdict::not("ServiceNotFound", "m".into());
        let first = with_condition(&object, &bad, "t1").unwrap();
        assert_eq!(first["status"]["conditions"][0]["status"], "False");
        assert_eq!(with_condition(&first, &bad, "t2"), None);
        let other = Verdict::not("MissingEndpoints", "m".into());
        let second = with_condition(&first, &other, "t2").unwrap();
        assert_eq!(second["status"]["conditions"][0]["lastTransitionTime"], "t1");
        let third = with_condition(&second, &Verdict::local(), "t3").unwrap();
        assert_eq!(third["status"]["conditions"][0]["lastTransitionTime"], "t3");
    }
}

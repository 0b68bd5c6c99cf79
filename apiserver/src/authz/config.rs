//! Which authorizers are asked, in which order: `--authorization-mode`, or an `AuthorizationConfiguration`, which is followed while the server runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cel::Type;
use daemon::Shutdown;
use daemon::config::ConfigError;
use serde::Deserialize;

use super::webhook::{Webhook, WebhookConfig};
use super::{Authorizers, Link};
use crate::authn::expressions::{Expression, Output};
use crate::config::security::{AuthorizationSettings, duration, load_any, parse_duration};
use crate::outgoing::Outgoing;
use crate::outgoing::kubeconfig::Remote;

const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];
/// How often the file is looked at.
const PERIOD: Duration = Duration::from_secs(2);

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    authorizers: Vec<AuthorizerFile>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthorizerFile {
    r#type: String,
    name: String,
    webhook: Option<WebhookFile>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WebhookFile {
    #[serde(rename = "authorizedTTL")]
    authorized: Option<String>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized: Option<String>,
    cache_authorized_requests: Option<bool>,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionFile,
    match_conditions: Vec<ConditionFile>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ConnectionFile {
    r#type: String,
    kube_config_file: PathBuf,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ConditionFile {
    expression: String,
}

/// Sets the authorizers up, and follows the file until shutdown. A file that cannot be used is told in the log; the last good one stays.
///
/// # Errors
/// When flags or file cannot be used now.
pub fn start(
    settings: &AuthorizationSettings,
    authorizers: &Authorizers,
    outgoing: &Outgoing,
    shutdown: &Shutdown,
) -> Result<(), ConfigError> {
    let Some(path) = settings.authorization_config.clone() else {
        authorizers.set(of_modes(settings, outgoing)?);
        return Ok(());
    };
    if !settings.authorization_mode.is_empty() {
        let why = "--authorization-config and --authorization-mode cannot be given together";
        return Err(ConfigError::Usage(why.into()));
    }
    authorizers.set(load(&path, outgoing)?);
    let (authorizers, outgoing, shutdown) = (authorizers.clone(), outgoing.clone(), shutdown.clone());
    tokio::spawn(async move {
        let mut seen = fingerprint(&path);
        while shutdown.run_until(tokio::time::sleep(PERIOD)).await.is_some() {
            let now = fingerprint(&path);
            if now == seen {
                continue;
            }
            seen = now;
            match load(&path, &outgoing) {
                Ok(links) => {
                    authorizers.set(links);
                    tracing::info!(path = %path.display(), "authorization configuration reloaded");
                }
                Err(error) => tracing::error!(%error, "authorization configuration not reloaded"),
            }
        }
    });
    Ok(())
}

fn fingerprint(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn of_modes(s: &AuthorizationSettings, outgoing: &Outgoing) -> Result<Vec<Link>, ConfigError> {
    if s.authorization_mode.is_empty() {
        return Ok(vec![Link::Node, Link::Rbac]);
    }
    let mut links = Vec::new();
    for mode in &s.authorization_mode {
        links.push(match mode.as_str() {
            "Node" => Link::Node,
            "RBAC" => Link::Rbac,
            "AlwaysAllow" => Link::AlwaysAllow,
            "AlwaysDeny" => Link::AlwaysDeny,
            "Webhook" => Link::Webhook(Arc::new(of_flags(s, outgoing)?)),
            other => {
                return Err(ConfigError::Usage(format!(
                    "--authorization-mode: expected AlwaysAllow, AlwaysDeny, Node, RBAC or Webhook, found {other:?}"
                )));
            }
        });
    }
    Ok(links)
}

fn of_flags(s: &AuthorizationSettings, outgoing: &Outgoing) -> Result<Webhook, ConfigError> {
    let path = s.authorization_webhook_config_file.as_deref().ok_or_else(|| {
        ConfigError::Usage("--authorization-webhook-config-file is required for the mode Webhook".into())
    })?;
    let ttl = |flag: &str, given: &Option<String>, usual: &str| duration(flag, given.as_deref().unwrap_or(usual));
    let version = s.authorization_webhook_version.as_deref().unwrap_or("v1beta1");
    if !matches!(version, "v1" | "v1beta1") {
        let why = format!("--authorization-webhook-version: expected v1 or v1beta1, found {version:?}");
        return Err(ConfigError::Usage(why));
    }
    let config = WebhookConfig {
        name: "webhook".into(),
        version: version.into(),
        authorized: ttl(
            "authorization-webhook-cache-authorized-ttl",
            &s.authorization_webhook_cache_authorized_ttl,
            "5m",
        )?,
        unauthorized: ttl(
            "authorization-webhook-cache-unauthorized-ttl",
            &s.authorization_webhook_cache_unauthorized_ttl,
            "30s",
        )?,
        timeout: Duration::from_secs(30),
        deny_on_failure: false,
        conditions: Vec::new(),
    };
    Ok(Webhook::new(Remote::load(path, outgoing)?, config))
}

/// Reads and checks a file.
fn load(path: &Path, outgoing: &Outgoing) -> Result<Vec<Link>, ConfigError> {
    let file: File = load_any(path, &VERSIONS, "AuthorizationConfiguration")?;
    let bad = |what: String| ConfigError::Content {
        path: path.to_owned(),
        what,
    };
    if file.authorizers.is_empty() {
        return Err(bad(
            "authorizers: at least one authorization mode must be defined".into()
        ));
    }
    let mut links = Vec::new();
    for (i, authorizer) in file.authorizers.iter().enumerate() {
        let at = format!("authorizers[{i}]");
        if authorizer.name.is_empty() || file.authorizers[..i].iter().any(|other| other.name == authorizer.name) {
            return Err(bad(format!("{at}.name: expected a name that no other authorizer has")));
        }
        links.push(match (authorizer.r#type.as_str(), &authorizer.webhook) {
            ("Webhook", Some(webhook)) => {
                let config = webhook
                    .check(&authorizer.name)
                    .map_err(|what| bad(format!("{at}.webhook.{what}")))?;
                let base = path.parent().unwrap_or(Path::new("."));
                let remote = Remote::load(&base.join(&webhook.connection_info.kube_config_file), outgoing)?;
                Link::Webhook(Arc::new(Webhook::new(remote, config)))
            }
            ("Webhook", None) => return Err(bad(format!("{at}.webhook: required when type=Webhook"))),
            (_, Some(_)) => return Err(bad(format!("{at}.webhook: may only be specified when type=Webhook"))),
            ("Node", None) => Link::Node,
            ("RBAC", None) => Link::Rbac,
            ("AlwaysAllow", None) => Link::AlwaysAllow,
            ("AlwaysDeny", None) => Link::AlwaysDeny,
            (other, None) => {
                return Err(bad(format!(
                    "{at}.type: expected AlwaysAllow, AlwaysDeny, Node, RBAC or Webhook, found {other:?}"
                )));
            }
        });
    }
    Ok(links)
}

impl WebhookFile {
    fn check(&self, name: &str) -> Result<WebhookConfig, String> {
        let time = |field: &str, text: &str| {
            parse_duration(text)
                .filter(|d| !d.is_zero())
                .ok_or_else(|| format!("{field}: expected a duration such as 30s, found {text:?}"))
        };
        let ttl = |field: &str, given: &Option<String>, caches: Option<bool>, usual: u64| match (given, caches) {
            (_, Some(false)) => Ok(Duration::ZERO),
            (Some(text), _) => time(field, text),
            (None, _) => Ok(Duration::from_secs(usual)),
        };
        let timeout = time("timeout", &self.timeout)?;
        if timeout > Duration::from_secs(30) {
            return Err("timeout: must be <= 30s".into());
        }
        if !matches!(self.subject_access_review_version.as_str(), "v1" | "v1beta1") {
            let found = &self.subject_access_review_version;
            return Err(format!(
                "subjectAccessReviewVersion: expected v1 or v1beta1, found {found:?}"
            ));
        }
        if !self.match_conditions.is_empty() && self.match_condition_subject_access_review_version != "v1" {
            return Err("matchConditionSubjectAccessReviewVersion: expected v1".into());
        }
        if self.connection_info.r#type != "KubeConfigFile" {
            let found = &self.connection_info.r#type;
            return Err(format!("connectionInfo.type: expected KubeConfigFile, found {found:?}"));
        }
        let mut conditions = Vec::new();
        for (i, condition) in self.match_conditions.iter().enumerate() {
            let compiled = Expression::new(&condition.expression, "request", Type::Dyn, Output::Bool);
            conditions.push(compiled.map_err(|what| format!("matchConditions[{i}].expression: {what}"))?);
        }
        Ok(WebhookConfig {
            name: name.to_owned(),
            version: self.subject_access_review_version.clone(),
            authorized: ttl("authorizedTTL", &self.authorized, self.cache_authorized_requests, 300)?,
            unauthorized: ttl(
                "unauthorizedTTL",
                &self.unauthorized,
                self.cache_unauthorized_requests,
                30,
            )?,
            timeout,
            deny_on_failure: match self.failure_policy.as_str() {
                "NoOpinion" => false,
                "Deny" => true,
                other => return Err(format!("failurePolicy: expected NoOpinion or Deny, found {other:?}")),
            },
            conditions,
        })
    }
}

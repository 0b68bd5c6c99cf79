//! Settings of audit, authentication, authorization and encryption, under upstream's flag names. In the configuration file each is a section.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use daemon::config::ConfigError;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Every field of the first that says something.
macro_rules! over {
    ($first:ident, $second:ident: $($field:ident),+ $(; lists: $($list:ident),+)?) => {
        Self {
            $($field: $first.$field.or($second.$field),)+
            $($($list: if $first.$list.is_empty() { $second.$list } else { $first.$list },)+)?
        }
    };
}

/// Section `audit`.
#[derive(Args, Deserialize, Debug, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditSettings {
    /// Policy that says which requests are recorded, and how much of them [default: none, nothing is recorded].
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that the audit log is written to, `-` for standard output [default: none].
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that old audit log files are kept [default: 0, for ever].
    #[arg(long, value_name = "DAYS")]
    pub audit_log_maxage: Option<u64>,
    /// Old audit log files that are kept [default: 0, all].
    #[arg(long, value_name = "N")]
    pub audit_log_maxbackup: Option<usize>,
    /// Size of an audit log file at which a new one is begun, MiB [default: 100].
    #[arg(long, value_name = "MIB")]
    pub audit_log_maxsize: Option<u64>,
    /// Kubeconfig file of the server that audit events are sent to [default: none].
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Audit events sent at once [default: 400].
    #[arg(long, value_name = "N")]
    pub audit_webhook_batch_max_size: Option<usize>,
    /// How long an audit event waits for others to be sent with, such as `30s` [default: 30s].
    #[arg(long, value_name = "DURATION")]
    pub audit_webhook_batch_max_wait: Option<String>,
    /// Audit events that wait to be sent; more are lost [default: 10000].
    #[arg(long, value_name = "N")]
    pub audit_webhook_batch_buffer_size: Option<usize>,
}

impl AuditSettings {
    /// These over those of the file.
    pub fn over(self, file: Self) -> Self {
        over!(self, file: audit_policy_file, audit_log_path, audit_log_maxage, audit_log_maxbackup, audit_log_maxsize,
            audit_webhook_config_file, audit_webhook_batch_max_size, audit_webhook_batch_max_wait, audit_webhook_batch_buffer_size)
    }
}

/// Section `authentication`.
#[derive(Args, Deserialize, Debug, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthenticationSettings {
    /// AuthenticationConfiguration: OIDC issuers, and where anonymous requests are allowed; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// Whether requests without credentials go on as system:anonymous [default: true].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub anonymous_auth: Option<bool>,
    /// Whether Secrets of type bootstrap.kubernetes.io/token in kube-system are bearer tokens [default: true].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub enable_bootstrap_token_auth: Option<bool>,
    /// Issuer of OIDC tokens.
    #[arg(long, value_name = "URL")]
    pub oidc_issuer_url: Option<String>,
    /// Audience of OIDC tokens.
    #[arg(long, value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// Authority of the issuer's server, PEM [default: the machine's].
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that is the user's name [default: sub].
    #[arg(long, value_name = "CLAIM")]
    pub oidc_username_claim: Option<String>,
    /// What is put before the name; `-` for nothing [default: the issuer and `#`, nothing for the claim email].
    #[arg(long, value_name = "PREFIX")]
    pub oidc_username_prefix: Option<String>,
    /// Claim that holds the user's groups.
    #[arg(long, value_name = "CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// What is put before groups.
    #[arg(long, value_name = "PREFIX")]
    pub oidc_groups_prefix: Option<String>,
    /// Claim that a token must have, as `claim=value`; may be given more than once.
    #[arg(long, value_name = "CLAIM=VALUE", value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// Signatures that are believed, comma-separated [default: RS256].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub oidc_signing_algs: Vec<String>,
    /// Kubeconfig of a server that is asked about bearer tokens.
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers are believed [default: 2m].
    #[arg(long, value_name = "DURATION")]
    pub authentication_token_webhook_cache_ttl: Option<String>,
    /// Version of the TokenReviews sent to it, v1 or v1beta1 [default: v1beta1].
    #[arg(long, value_name = "VERSION")]
    pub authentication_token_webhook_version: Option<String>,
    /// Authority of front proxies, PEM; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of front proxies, comma-separated [default: any that the authority signed].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub requestheader_allowed_names: Vec<String>,
    /// Headers with the user's name [default: X-Remote-User].
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    pub requestheader_username_headers: Vec<String>,
    /// Headers with the user's uid [default: X-Remote-Uid].
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers with the user's groups [default: X-Remote-Group].
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    pub requestheader_group_headers: Vec<String>,
    /// Beginnings of headers with further attributes [default: X-Remote-Extra-].
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// Audiences of the API, comma-separated [default: the service-account issuer].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Where others find the keys of service-account tokens [default: /openid/v1/jwks of the advertised address].
    #[arg(long, value_name = "URL")]
    pub service_account_jwks_uri: Option<String>,
    /// How long a service-account token lives at most.
    #[arg(long, value_name = "DURATION")]
    pub service_account_max_token_expiration: Option<String>,
    /// Whether tokens of pods' own volumes live a year, for programs that never read them again [default: true].
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub service_account_extend_token_expiration: Option<bool>,
}

impl AuthenticationSettings {
    /// These over those of the file.
    pub fn over(self, file: Self) -> Self {
        over!(self, file: authentication_config, anonymous_auth, enable_bootstrap_token_auth, oidc_issuer_url, oidc_client_id, oidc_ca_file,
            oidc_username_claim, oidc_username_prefix, oidc_groups_claim, oidc_groups_prefix, authentication_token_webhook_config_file,
            authentication_token_webhook_cache_ttl, authentication_token_webhook_version, requestheader_client_ca_file,
            service_account_jwks_uri, service_account_max_token_expiration, service_account_extend_token_expiration;
            lists: oidc_required_claim, oidc_signing_algs, requestheader_allowed_names, requestheader_username_headers,
            requestheader_uid_headers, requestheader_group_headers, requestheader_extra_headers_prefix, api_audiences)
    }
}

/// Section `authorization`.
#[derive(Args, Deserialize, Debug, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthorizationSettings {
    /// Authorizers in the order in which they are asked, comma-separated: AlwaysAllow, AlwaysDeny, Node, RBAC, Webhook [default: Node,RBAC].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// AuthorizationConfiguration: authorizers with their settings, instead of the other flags; read again when it changes.
    #[arg(long, value_name = "FILE")]
    pub authorization_config: Option<PathBuf>,
    /// Kubeconfig of the server that the mode Webhook asks.
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReviews sent to it, v1 or v1beta1 [default: v1beta1].
    #[arg(long, value_name = "VERSION")]
    pub authorization_webhook_version: Option<String>,
    /// How long its yes is believed [default: 5m].
    #[arg(long, value_name = "DURATION")]
    pub authorization_webhook_cache_authorized_ttl: Option<String>,
    /// How long its no is believed [default: 30s].
    #[arg(long, value_name = "DURATION")]
    pub authorization_webhook_cache_unauthorized_ttl: Option<String>,
}

impl AuthorizationSettings {
    /// These over those of the file.
    pub fn over(self, file: Self) -> Self {
        over!(self, file: authorization_config, authorization_webhook_config_file, authorization_webhook_version,
            authorization_webhook_cache_authorized_ttl, authorization_webhook_cache_unauthorized_ttl; lists: authorization_mode)
    }
}

/// Section `encryption`.
#[derive(Args, Deserialize, Debug, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
pub struct EncryptionSettings {
    /// EncryptionConfiguration: which objects are encrypted on disk, and with what [default: Secrets, with the key of --encryption-key-file].
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read that file again when it changes.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub encryption_provider_config_automatic_reload: Option<bool>,
    /// Key that Secrets are encrypted with when no configuration says otherwise; made if it is missing [default: encryption.key beside the
    /// service-account signing key].
    #[arg(long, value_name = "FILE")]
    pub encryption_key_file: Option<PathBuf>,
}

impl EncryptionSettings {
    /// These over those of the file.
    pub fn over(self, file: Self) -> Self {
        over!(self, file: encryption_provider_config, encryption_provider_config_automatic_reload, encryption_key_file)
    }
}

/// Reads a configuration file of one of several versions with the same fields.
///
/// # Errors
/// As [`daemon::config::load`], about the first version, unless the file is of another one.
pub fn load_any<T: DeserializeOwned>(path: &Path, versions: &[&str], kind: &str) -> Result<T, ConfigError> {
    let mut first = None;
    for version in versions {
        match daemon::config::load(path, version, kind) {
            Ok(read) => return Ok(read),
            Err(ConfigError::Content { path, what }) if what.starts_with("apiVersion:") => {
                first.get_or_insert(ConfigError::Content { path, what });
            }
            Err(error) => return Err(error),
        }
    }
    Err(first.unwrap_or_else(|| ConfigError::Usage(format!("{kind}: no version is known"))))
}

/// Reads a duration as Go writes it: `300ms`, `1h30m`.
///
/// # Errors
/// A line that names the flag.
pub fn duration(flag: &str, text: &str) -> Result<Duration, ConfigError> {
    parse_duration(text).ok_or_else(|| {
        ConfigError::Usage(format!(
            "--{flag}: expected a duration such as 30s or 1h30m, found {text:?}"
        ))
    })
}

/// A duration as Go writes it.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, Duration::ZERO);
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        rest = &rest[unit..];
        total = total.checked_add(Duration::try_from_secs_f64(value * seconds).ok()?)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in [
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1500)),
            ("0", Some(0)),
            ("300ms", Some(300)),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), millis, "{text}");
        }
        for text in ["", "5", "s", "5 s", "1d", "-1s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}

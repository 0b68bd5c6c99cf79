//! Flags of aggregation, under upstream's names; and what is published of the front proxy's, which are authentication's.

use std::path::{Path, PathBuf};

use daemon::config::ConfigError;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::security::AuthenticationSettings;

/// What flags and file say.
#[derive(clap::Args, Deserialize, Debug, Default, Clone)]
#[serde(rename_all = "camelCase", default)]
pub struct AggregationSettings {
    /// Client certificate with which this server calls extension API servers: a PEM file, read again when it changes [default: none].
    #[arg(long, value_name = "FILE")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Private key of that certificate.
    #[arg(long, value_name = "FILE")]
    pub proxy_client_key_file: Option<PathBuf>,
}

impl AggregationSettings {
    /// These, or those of the file where these say nothing.
    pub fn over(self, file: Self) -> Self {
        Self {
            proxy_client_cert_file: self.proxy_client_cert_file.or(file.proxy_client_cert_file),
            proxy_client_key_file: self.proxy_client_key_file.or(file.proxy_client_key_file),
        }
    }
}

/// Which front proxies may name a user, and in which headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// PEM.
    pub client_ca_file: PathBuf,
    /// Common names; empty is any.
    pub allowed_names: Vec<String>,
    /// Of headers, the first that is there counts; here and below.
    pub username_headers: Vec<String>,
    /// See there.
    pub uid_headers: Vec<String>,
    /// Values of all of them count.
    pub group_headers: Vec<String>,
    /// What follows the prefix is the key, percent-encoded.
    pub extra_prefixes: Vec<String>,
}

/// Everything about aggregation.
#[derive(Debug, Clone, Default)]
pub struct AggregationConfig {
    /// Certificate and key.
    pub proxy_client: Option<(PathBuf, PathBuf)>,
    /// Front proxies.
    pub request_header: Option<RequestHeader>,
}

impl AggregationConfig {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// When only one of certificate and key is given.
    pub fn new(settings: &AggregationSettings, authentication: &AuthenticationSettings) -> Result<Self, ConfigError> {
        let (s, a) = (settings.clone(), authentication);
        let proxy_client = match (s.proxy_client_cert_file, s.proxy_client_key_file) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                let why = "--proxy-client-cert-file, --proxy-client-key-file: expected both or neither";
                return Err(ConfigError::Usage(why.into()));
            }
        };
        let names = |given: &[String], default: &str| -> Vec<String> {
            let given = given
                .iter()
                .flat_map(|names| names.split(','))
                .filter(|name| !name.is_empty());
            let given: Vec<String> = given.map(str::to_owned).collect();
            match given.is_empty() && !default.is_empty() {
                true => vec![default.to_owned()],
                false => given,
            }
        };
        let request_header = a
            .requestheader_client_ca_file
            .clone()
            .map(|client_ca_file| RequestHeader {
                client_ca_file,
                allowed_names: names(&a.requestheader_allowed_names, ""),
                username_headers: names(&a.requestheader_username_headers, "X-Remote-User"),
                uid_headers: names(&a.requestheader_uid_headers, "X-Remote-Uid"),
                group_headers: names(&a.requestheader_group_headers, "X-Remote-Group"),
                extra_prefixes: names(&a.requestheader_extra_headers_prefix, "X-Remote-Extra-"),
            });
        Ok(Self {
            proxy_client,
            request_header,
        })
    }

    /// The data of `kube-system/extension-apiserver-authentication`, from which extension API servers learn whom to believe.
    ///
    /// # Errors
    /// When a CA file cannot be read.
    pub fn published(&self, client_ca: &Path) -> std::io::Result<Value> {
        let mut data = json!({"client-ca-file": std::fs::read_to_string(client_ca)?});
        if let Some(header) = &self.request_header {
            data["requestheader-client-ca-file"] = json!(std::fs::read_to_string(&header.client_ca_file)?);
            for (key, names) in [
                ("requestheader-allowed-names", &header.allowed_names),
                ("requestheader-username-headers", &header.username_headers),
                ("requestheader-uid-headers", &header.uid_headers),
                ("requestheader-group-headers", &header.group_headers),
                ("requestheader-extra-headers-prefix", &header.extra_prefixes),
            ] {
                data[key] = json!(json!(names).to_string());
            }
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_published_as_lists() {
        let dir = tempfile::tempdir().unwrap();
        let (client, front) = (dir.path().join("ca.crt"), dir.path().join("front.crt"));
        std::fs::write(&client, "A").unwrap();
        std::fs::write(&front, "B").unwrap();
        let authentication = AuthenticationSettings {
            requestheader_client_ca_file: Some(front),
            requestheader_allowed_names: vec!["front-proxy-client".into(), "x".into()],
            ..AuthenticationSettings::default()
        };
        let config = AggregationConfig::new(&AggregationSettings::default(), &authentication).unwrap();
        let data = config.published(&client).unwrap();
        assert_eq!(data["client-ca-file"], "A");
        assert_eq!(data["requestheader-client-ca-file"], "B");
        assert_eq!(data["requestheader-allowed-names"], "[\"front-proxy-client\",\"x\"]");
        assert_eq!(data["requestheader-extra-headers-prefix"], "[\"X-Remote-Extra-\"]");
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let settings = AggregationSettings {
            proxy_client_cert_file: Some("c".into()),
            ..AggregationSettings::default()
        };
        assert!(AggregationConfig::new(&settings, &AuthenticationSettings::default()).is_err());
    }
}

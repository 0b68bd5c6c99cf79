//! `apiserver.config.k8s.io/v1 EncryptionConfiguration`, and what holds without one: Secrets, with a key that is generated once.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use daemon::config::ConfigError;
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use serde_json::Value;

use super::Provider;
use super::kms::Kms;
use super::providers::{AesGcm, SecretBox};
use crate::config::security::parse_duration;

/// The name of the generated key.
const GENERATED: &str = "generated";

/// Resources that a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// `None` for every resource.
    resource: Option<String>,
    /// `None` for every group.
    group: Option<String>,
}

impl Pattern {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group) or `*.*`.
    fn parse(text: &str) -> Option<Pattern> {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        let any = |part: &str| (part != "*").then(|| part.to_owned());
        (!resource.is_empty() && text != "*" && (group != "*" || resource == "*")).then(|| Pattern {
            resource: any(resource),
            group: any(group),
        })
    }

    /// Whether it names the resource; the core group is empty text.
    pub fn matches(&self, group: &str, resource: &str) -> bool {
        self.resource.as_deref().is_none_or(|r| r == resource) && self.group.as_deref().is_none_or(|g| g == group)
    }
}

/// Resources and their providers: the first one writes, each of them reads. `None` stands for `identity`.
#[derive(Clone, Debug)]
pub struct RuleConfig {
    /// Which resources.
    pub patterns: Vec<Pattern>,
    /// In the order of the file.
    pub providers: Vec<Option<Arc<dyn Provider>>>,
}

impl RuleConfig {
    /// The provider that writes.
    pub fn writer(&self) -> Option<&Arc<dyn Provider>> {
        self.providers.first().and_then(Option::as_ref)
    }
}

/// All rules.
#[derive(Clone, Debug, Default)]
pub struct EncryptionConfig {
    /// The first that names a resource decides about it.
    pub rules: Vec<RuleConfig>,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; without one Secrets are encrypted with the generated key.
    pub file: Option<PathBuf>,
    /// Whether changes of the file take effect while the server runs.
    pub automatic: bool,
    /// The generated key.
    pub key_file: PathBuf,
    /// What was read.
    pub config: Arc<EncryptionConfig>,
}

impl Source {
    /// Reads the file, or makes the key if there is no file and no key. A generated key that exists keeps opening what it sealed.
    ///
    /// # Errors
    /// When a file cannot be used; the text names it.
    pub fn read(file: Option<PathBuf>, automatic: bool, key_file: PathBuf) -> Result<Source, ConfigError> {
        let empty = Source {
            file,
            automatic,
            key_file,
            config: Arc::default(),
        };
        empty.read_again()
    }

    /// The same, now.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn read_again(&self) -> Result<Source, ConfigError> {
        let mut config = match &self.file {
            Some(path) => load(path)?,
            None => EncryptionConfig::default(),
        };
        if self.file.is_none() || self.key_file.exists() {
            config.rules.push(RuleConfig {
                patterns: Pattern::parse("secrets").into_iter().collect(),
                providers: vec![Some(generated(&self.key_file)?)],
            });
        }
        Ok(Source {
            config: Arc::new(config),
            ..self.clone()
        })
    }
}

/// The generated key, made now if it is not there.
fn generated(path: &Path) -> Result<Arc<dyn Provider>, ConfigError> {
    let failed = |source: std::io::Error| ConfigError::Read {
        path: path.to_owned(),
        source,
    };
    if !path.exists() {
        let mut secret = [0; 32];
        let random = SystemRandom::new().fill(&mut secret);
        random.map_err(|_| failed(std::io::Error::other("no randomness")))?;
        create(path, &STANDARD.encode(secret)).map_err(failed)?;
        tracing::info!(path = %path.display(), "made the key that Secrets are encrypted with: keep a copy, without it they are lost");
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let secret = STANDARD.decode(text.trim()).ok();
    let provider = secret.and_then(|secret| SecretBox::new(GENERATED, &secret));
    let provider = provider.ok_or_else(|| ConfigError::Content {
        path: path.to_owned(),
        what: "expected 32 bytes in base64".into(),
    })?;
    Ok(Arc::new(provider))
}

/// Whole or not at all, and durable before anything depends on it.
fn create(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    resources: Vec<Resource>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Resource {
    resources: Vec<String>,
    providers: Vec<ProviderFile>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ProviderFile {
    aesgcm: Option<KeysFile>,
    aescbc: Option<Value>,
    secretbox: Option<KeysFile>,
    identity: Option<Value>,
    kms: Option<KmsFile>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct KeysFile {
    keys: Vec<KeyFile>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct KeyFile {
    name: String,
    secret: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct KmsFile {
    api_version: String,
    name: String,
    endpoint: String,
    timeout: Option<String>,
    #[serde(rename = "cachesize")]
    _cache_size: Option<i64>,
}

/// Reads the file.
///
/// # Errors
/// One line that names the file, the key and what was expected there; never a secret.
pub fn load(path: &Path) -> Result<EncryptionConfig, ConfigError> {
    let file: File = daemon::config::load(path, "apiserver.config.k8s.io/v1", "EncryptionConfiguration")?;
    file.check().map_err(|what| ConfigError::Content {
        path: path.to_owned(),
        what,
    })
}

impl File {
    fn check(&self) -> Result<EncryptionConfig, String> {
        if self.resources.is_empty() {
            return Err("resources: expected at least one entry".into());
        }
        let mut rules = Vec::new();
        for (i, resource) in self.resources.iter().enumerate() {
            rules.push(resource.check().map_err(|what| format!("resources[{i}].{what}"))?);
        }
        Ok(EncryptionConfig { rules })
    }
}

impl Resource {
    fn check(&self) -> Result<RuleConfig, String> {
        if self.resources.is_empty() || self.providers.is_empty() {
            return Err("resources, providers: expected at least one entry each".into());
        }
        let mut patterns = Vec::new();
        for text in &self.resources {
            let pattern = Pattern::parse(text).ok_or_else(|| {
                format!("resources: expected <resource>, <resource>.<group>, *.<group> or *.*, found {text:?}")
            })?;
            patterns.push(pattern);
        }
        let mut providers = Vec::new();
        for (i, provider) in self.providers.iter().enumerate() {
            let read = provider.check().map_err(|what| format!("providers[{i}].{what}"))?;
            providers.extend(read);
        }
        Ok(RuleConfig { patterns, providers })
    }
}

impl ProviderFile {
    fn check(&self) -> Result<Vec<Option<Arc<dyn Provider>>>, String> {
        let given = [
            self.aesgcm.is_some(),
            self.aescbc.is_some(),
            self.secretbox.is_some(),
            self.identity.is_some(),
            self.kms.is_some(),
        ];
        if given.iter().filter(|g| **g).count() != 1 {
            return Err("expected exactly one of aesgcm, secretbox, kms and identity".into());
        }
        if self.aescbc.is_some() {
            return Err("aescbc: this provider does not authenticate what it encrypts and is not offered; use secretbox or aesgcm".into());
        }
        if let Some(keys) = &self.aesgcm {
            let new = |name: &str, secret: &[u8]| AesGcm::new(name, secret).map(|p| Arc::new(p) as Arc<dyn Provider>);
            return keys.read("16 or 32", new).map_err(|what| format!("aesgcm.{what}"));
        }
        if let Some(keys) = &self.secretbox {
            let new =
                |name: &str, secret: &[u8]| SecretBox::new(name, secret).map(|p| Arc::new(p) as Arc<dyn Provider>);
            return keys.read("32", new).map_err(|what| format!("secretbox.{what}"));
        }
        match &self.kms {
            Some(kms) => Ok(vec![Some(kms.read().map_err(|what| format!("kms.{what}"))?)]),
            None => Ok(vec![None]),
        }
    }
}

impl KeysFile {
    fn read(
        &self,
        lengths: &str,
        new: impl Fn(&str, &[u8]) -> Option<Arc<dyn Provider>>,
    ) -> Result<Vec<Option<Arc<dyn Provider>>>, String> {
        if self.keys.is_empty() {
            return Err("keys: expected at least one".into());
        }
        let mut out = Vec::new();
        for (i, key) in self.keys.iter().enumerate() {
            if key.name.is_empty() || self.keys[..i].iter().any(|other| other.name == key.name) {
                return Err(format!("keys[{i}].name: expected a name that no other key has"));
            }
            let provider = STANDARD
                .decode(&key.secret)
                .ok()
                .and_then(|secret| new(&key.name, &secret));
            let provider = provider.ok_or_else(|| format!("keys[{i}].secret: expected {lengths} bytes in base64"))?;
            out.push(Some(provider));
        }
        Ok(out)
    }
}

impl KmsFile {
    fn read(&self) -> Result<Arc<dyn Provider>, String> {
        if self.api_version != "v2" {
            return Err(format!("apiVersion: expected v2, found {:?}", self.api_version));
        }
        if self.name.is_empty() || self.name.contains(':') {
            return Err("name: expected a name without ':'".into());
        }
        let path = self.endpoint.strip_prefix("unix://").filter(|p| !p.is_empty());
        let path = path.ok_or_else(|| format!("endpoint: expected unix://<path>, found {:?}", self.endpoint))?;
        let timeout = match &self.timeout {
            None => Duration::from_secs(3),
            Some(text) => parse_duration(text)
                .filter(|t| !t.is_zero())
                .ok_or_else(|| format!("timeout: expected a duration such as 3s, found {text:?}"))?,
        };
        Ok(Arc::new(Kms::new(&self.name, path, timeout)?))
    }
}

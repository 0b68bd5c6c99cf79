//! Encryption at rest: which objects are encrypted on disk and with which keys. Owns the keys; the store calls it where data meets the disk
//! ([`crate::store::vault`]). Nothing here knows of requests.
//!
//! Data is encrypted with a data key (AES-256-GCM) that lives as long as the process; beside the data stands the data key, wrapped by the
//! provider that the configuration names first for the resource. So a provider's own key protects a handful of wrapped keys and not an
//! unbounded number of records, a KMS plugin is asked once a start and not once a write, and every record can be read alone.

pub mod config;
pub mod kms;
mod providers;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use daemon::Shutdown;
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts};
use prost::Message;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::store::vault::{OVERHEAD, Vault};
use config::{EncryptionConfig, Pattern};

/// How often the configuration file and the KMS plugins are looked at.
const RELOAD: Duration = Duration::from_secs(5);
const STATUS: Duration = Duration::from_secs(60);
/// Data keys that were unwrapped and are remembered.
const OPENED: usize = 4096;
const NONCE: usize = 12;

/// Why encryption cannot be set up. No key is in the text.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] daemon::config::ConfigError),
    /// A provider that does not work.
    #[error("encryption provider {provider}: {why}")]
    Provider {
        /// Kind and name.
        provider: String,
        /// Why.
        why: String,
    },
}

/// A data key as it stands beside what it encrypts.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Wrapped {
    /// `aesgcm`, `secretbox` or `kms`.
    #[prost(string, tag = "1")]
    pub provider: String,
    /// The name of the provider's key, or of the KMS provider.
    #[prost(string, tag = "2")]
    pub name: String,
    /// What a KMS plugin calls its key.
    #[prost(string, tag = "3")]
    pub key_id: String,
    /// The encrypted data key.
    #[prost(bytes = "vec", tag = "4")]
    pub key: Vec<u8>,
    /// What a KMS plugin wants to see again.
    #[prost(btree_map = "string, bytes", tag = "5")]
    pub annotations: std::collections::BTreeMap<String, Vec<u8>>,
}

/// Wraps data keys. Calls may block; they are made at the start, at reloads and for data keys that are not known yet.
pub trait Provider: std::fmt::Debug + Send + Sync {
    /// `aesgcm`, `secretbox` or `kms`.
    fn kind(&self) -> &'static str;
    /// The key's or provider's name.
    fn name(&self) -> &str;
    /// Encrypts a data key.
    ///
    /// # Errors
    /// Why that does not work.
    fn wrap(&self, key: &[u8]) -> Result<Wrapped, String>;
    /// Decrypts a data key that this provider wrapped.
    ///
    /// # Errors
    /// Why that does not work.
    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String>;
    /// Whether the provider works, and if its own key has changed since `wrapped`.
    ///
    /// # Errors
    /// Why it does not work.
    fn check(&self, _wrapped: &Wrapped) -> Result<bool, String> {
        Ok(false)
    }
}

/// A data key in use.
struct DataKey {
    provider: Arc<dyn Provider>,
    wrapped: Wrapped,
    header: Vec<u8>,
    key: LessSafeKey,
    /// Nonces are counted: the key is this process's own, so none comes twice.
    count: AtomicU64,
}

impl DataKey {
    fn new(provider: &Arc<dyn Provider>) -> Result<Arc<DataKey>, EncryptionError> {
        let failed = |why: String| EncryptionError::Provider {
            provider: format!("{} {:?}", provider.kind(), provider.name()),
            why,
        };
        let mut secret = [0; 32];
        let random = SystemRandom::new().fill(&mut secret);
        random.map_err(|_| failed("no randomness".into()))?;
        let wrapped = provider.wrap(&secret).map_err(failed)?;
        let header = wrapped.encode_to_vec();
        if header.len() + 2 + NONCE + AES_256_GCM.tag_len() > OVERHEAD {
            return Err(failed("the wrapped key is too large".into()));
        }
        // A key that cannot be unwrapped must not protect anything.
        let again = provider.unwrap(&wrapped).map_err(failed)?;
        if again != secret {
            return Err(failed("it does not decrypt what it encrypted".into()));
        }
        Ok(Arc::new(DataKey {
            provider: provider.clone(),
            header,
            wrapped,
            key: aead(&secret).map_err(failed)?,
            count: AtomicU64::new(0),
        }))
    }

    /// Length of the header, header, nonce, ciphertext.
    fn seal(&self, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE];
        nonce[4..].copy_from_slice(&self.count.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut out = Vec::with_capacity(plain.len() + self.header.len() + 32);
        out.extend_from_slice(&u16::try_from(self.header.len()).ok()?.to_le_bytes());
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&nonce);
        let mut body = plain.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(nonce, Aad::from(context), &mut body)
            .ok()?;
        out.extend_from_slice(&body);
        Some(out)
    }
}

fn aead(secret: &[u8]) -> Result<LessSafeKey, String> {
    UnboundKey::new(&AES_256_GCM, secret)
        .map(LessSafeKey::new)
        .map_err(|_| "the data key does not have 32 bytes".to_owned())
}

/// Resources and the data key that protects them; without one they are written as they are.
struct Rule {
    patterns: Vec<Pattern>,
    key: Option<Arc<DataKey>>,
}

struct State {
    rules: Vec<Rule>,
    providers: Vec<Arc<dyn Provider>>,
}

impl State {
    fn new(config: &EncryptionConfig) -> Result<State, EncryptionError> {
        let mut rules = Vec::new();
        for rule in &config.rules {
            let key = rule.writer().map(DataKey::new).transpose()?;
            rules.push(Rule {
                patterns: rule.patterns.clone(),
                key,
            });
        }
        let providers = config.rules.iter().flat_map(|r| r.providers.iter().flatten().cloned());
        Ok(State {
            rules,
            providers: providers.collect(),
        })
    }

    /// The first rule that names the resource decides.
    fn key(&self, key: &str) -> Option<&Arc<DataKey>> {
        let mut parts = key.splitn(3, '/');
        let (group, resource) = (parts.next()?, parts.next()?);
        let group = if group == "core" { "" } else { group };
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.patterns.iter().any(|p| p.matches(group, resource)))?;
        rule.key.as_ref()
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String> {
        let named = format!("{} {:?}", wrapped.provider, wrapped.name);
        let mut fault = format!("it was encrypted by {named}, which is not among the configured providers");
        for provider in &self.providers {
            if provider.kind() != wrapped.provider || provider.name() != wrapped.name {
                continue;
            }
            match provider.unwrap(wrapped) {
                Ok(key) => return Ok(key),
                Err(why) => fault = format!("{named}: {why}"),
            }
        }
        Err(fault)
    }
}

/// The keys of this server, as the store's vault.
pub struct Keys {
    state: ArcSwap<State>,
    opened: Mutex<HashMap<Vec<u8>, Arc<LessSafeKey>>>,
    stale: AtomicBool,
    operations: IntCounterVec,
    reloads: IntCounterVec,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    /// Makes a data key for each rule. Blocks where a KMS plugin is asked.
    ///
    /// # Errors
    /// When a provider does not work, or the metrics are in the registry already.
    pub fn new(config: &EncryptionConfig, metrics: &prometheus::Registry) -> anyhow::Result<Arc<Keys>> {
        let keys = Keys {
            state: ArcSwap::from_pointee(State::new(config)?),
            opened: Mutex::default(),
            stale: AtomicBool::default(),
            operations: IntCounterVec::new(
                Opts::new(
                    "apiserver_storage_transformation_operations_total",
                    "Encryptions and decryptions of stored data.",
                ),
                &["status", "transformation_type", "transformer_prefix"],
            )?,
            reloads: IntCounterVec::new(
                Opts::new(
                    "apiserver_encryption_config_controller_automatic_reloads_total",
                    "Reloads of the encryption configuration.",
                ),
                &["status"],
            )?,
        };
        metrics.register(Box::new(keys.operations.clone()))?;
        metrics.register(Box::new(keys.reloads.clone()))?;
        Ok(Arc::new(keys))
    }

    /// Puts another configuration in place. What is on disk is stale from now on.
    ///
    /// # Errors
    /// When a provider does not work; the old configuration stays.
    pub fn replace(&self, config: &EncryptionConfig) -> Result<(), EncryptionError> {
        let state = State::new(config);
        let status = if state.is_ok() { "success" } else { "failure" };
        self.reloads.with_label_values(&[status]).inc();
        self.state.store(Arc::new(state?));
        // Keys that were taken away must not live on here.
        self.opened.lock().clear();
        self.note_stale();
        Ok(())
    }

    /// Whether something on disk should be written anew; asked once.
    pub fn take_stale(&self) -> bool {
        self.stale.swap(false, Ordering::AcqRel)
    }

    /// Why the providers do not work, if so. Blocks where a KMS plugin is asked; a plugin that has a new key gets new data keys.
    ///
    /// # Errors
    /// The first provider that does not work.
    pub fn check(&self, config: &EncryptionConfig) -> Result<(), String> {
        let state = self.state.load_full();
        let mut changed = false;
        for key in state.rules.iter().filter_map(|r| r.key.as_ref()) {
            changed |= key.provider.check(&key.wrapped)?;
        }
        if changed {
            tracing::info!("a KMS plugin has a new key, making new data keys");
            self.replace(config).map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    fn count(&self, status: &str, kind: &str, wrapped: &Wrapped) {
        let prefix = format!("{}:{}", wrapped.provider, wrapped.name);
        self.operations
            .with_label_values(&[status, kind, prefix.as_str()])
            .inc();
    }

    fn opener(&self, header: &[u8], wrapped: &Wrapped) -> Result<Arc<LessSafeKey>, String> {
        if let Some(key) = self.opened.lock().get(header) {
            return Ok(key.clone());
        }
        let state = self.state.load_full();
        let key = Arc::new(aead(&state.unwrap(wrapped)?)?);
        let current = |rule: &Rule| {
            rule.key.as_ref().is_some_and(|k| {
                (&k.wrapped.provider, &k.wrapped.name, &k.wrapped.key_id)
                    == (&wrapped.provider, &wrapped.name, &wrapped.key_id)
            })
        };
        if !state.rules.iter().any(current) {
            self.note_stale();
        }
        let mut opened = self.opened.lock();
        if opened.len() >= OPENED {
            opened.clear();
        }
        opened.insert(header.to_vec(), key.clone());
        Ok(key)
    }

    fn open_with(&self, header: &[u8], wrapped: &Wrapped, context: &[u8], body: &[u8]) -> Result<Vec<u8>, String> {
        let key = self.opener(header, wrapped)?;
        let (nonce, body) = body.split_first_chunk::<NONCE>().ok_or("it is cut off")?;
        let mut body = body.to_vec();
        let plain = key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(context), &mut body)
            .map_err(|_| "it is not what was written")?;
        let len = plain.len();
        body.truncate(len);
        Ok(body)
    }
}

impl Vault for Keys {
    fn protects(&self, key: &str) -> bool {
        self.state.load().key(key).is_some()
    }

    fn seal(&self, key: &str, context: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let state = self.state.load();
        let key = state.key(key)?;
        let sealed = key.seal(context, plain);
        self.count("OK", "to_storage", &key.wrapped);
        sealed
    }

    fn open(&self, context: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        let cut = "it is cut off";
        let (length, rest) = sealed.split_first_chunk::<2>().ok_or(cut)?;
        let (header, body) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or(cut)?;
        let wrapped = Wrapped::decode(header).map_err(|_| "its header is malformed")?;
        let opened = self.open_with(header, &wrapped, context, body);
        let status = if opened.is_ok() { "OK" } else { "Internal" };
        self.count(status, "from_storage", &wrapped);
        opened.map_err(|why| format!("cannot decrypt stored data: {why}"))
    }

    fn note_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }
}

/// Looks after keys until shutdown: the file, if it is to be followed, the KMS plugins, and data that should be written anew, for which
/// `rewrite` is called. `health` is told what the providers say.
pub async fn follow<F: Future<Output = Result<(), String>>>(
    keys: Arc<Keys>,
    mut source: config::Source,
    health: Arc<Mutex<Result<(), String>>>,
    shutdown: Shutdown,
    rewrite: impl Fn() -> F,
) {
    let mut seen = source.file.as_deref().map(fingerprint);
    let mut checked = tokio::time::Instant::now();
    loop {
        if keys.take_stale()
            && let Err(why) = rewrite().await
        {
            tracing::warn!(why, "cannot write stored data with the current keys, trying again");
            keys.note_stale();
        }
        if shutdown.run_until(tokio::time::sleep(RELOAD)).await.is_none() {
            return;
        }
        let now = source.file.as_deref().map(fingerprint);
        if source.automatic && now != seen {
            let keys = keys.clone();
            let reading = source.clone();
            let reloaded = tokio::task::spawn_blocking(move || reload(&keys, reading)).await;
            match reloaded.map_err(|e| e.to_string()).and_then(|r| r) {
                Ok(fresh) => {
                    source = fresh;
                    tracing::info!("encryption configuration reloaded");
                }
                Err(why) => tracing::error!(why, "encryption configuration not reloaded"),
            }
            seen = now;
        }
        if checked.elapsed() >= STATUS {
            checked = tokio::time::Instant::now();
            let (keys, config) = (keys.clone(), source.config.clone());
            let outcome = tokio::task::spawn_blocking(move || keys.check(&config)).await;
            *health.lock() = outcome.map_err(|e| e.to_string()).and_then(|r| r);
        }
    }
}

fn reload(keys: &Keys, source: config::Source) -> Result<config::Source, String> {
    let fresh = source.read_again().map_err(|e| e.to_string())?;
    keys.replace(&fresh.config).map_err(|e| e.to_string())?;
    Ok(fresh)
}

fn fingerprint(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

#[cfg(test)]
mod tests;

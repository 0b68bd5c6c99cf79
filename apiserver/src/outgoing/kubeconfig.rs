//! A remote server that a kubeconfig file names: for the webhooks of audit, authentication and authorization.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use daemon::config::ConfigError;
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;

use super::tls::{Identity, Roots};
use super::{CallError, Caller, Limits, Outgoing, Place, Target};

/// The server, and what we show it.
#[derive(Clone)]
pub struct Remote {
    caller: Caller,
    token: Token,
}

#[derive(Clone)]
enum Token {
    None,
    Fixed(HeaderValue),
    /// Read for each call: whoever keeps the file may change it.
    File(PathBuf),
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    clusters: Vec<Named>,
    users: Vec<Named>,
    contexts: Vec<Named>,
    current_context: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Cluster,
    user: User,
    context: Context,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize, Default, Clone)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

impl Remote {
    /// Reads a kubeconfig file.
    ///
    /// # Errors
    /// One line that names the file and what is wrong with it.
    pub fn load(path: &Path, outgoing: &Outgoing) -> Result<Remote, ConfigError> {
        let bad = |what: String| ConfigError::Content {
            path: path.to_owned(),
            what,
        };
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let value = api::codec::parse_yaml(&bytes).map_err(|error| bad(error.to_string()))?;
        let file: File = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        let (cluster, user) = file.current().map_err(bad)?;
        let base = path.parent().unwrap_or(Path::new("."));
        let target = Target {
            roots: cluster.roots(base).map_err(bad)?,
            identity: user.identity(base).map_err(bad)?,
            place: Place::Url(cluster.server),
        };
        Ok(Remote {
            caller: outgoing.caller(&target).map_err(|error| bad(error.to_string()))?,
            token: user.token(base).map_err(bad)?,
        })
    }

    /// Posts JSON to the server's URL and reads the answer.
    ///
    /// # Errors
    /// What went wrong on the way, and any status but 2xx.
    pub async fn post(&self, mut headers: HeaderMap, body: Bytes, limits: Limits) -> Result<Bytes, CallError> {
        let token = match &self.token {
            Token::None => None,
            Token::Fixed(value) => Some(value.clone()),
            Token::File(path) => Some(read_token(path).await?),
        };
        if let Some(token) = token {
            headers.insert(header::AUTHORIZATION, token);
        }
        self.caller.post("", headers, body, limits).await
    }
}

async fn read_token(path: &Path) -> Result<HeaderValue, CallError> {
    let refused = |why: &dyn std::fmt::Display| CallError::Request(format!("{}: {why}", path.display()));
    let text = tokio::fs::read_to_string(path).await.map_err(|e| refused(&e))?;
    bearer(text.trim()).map_err(|e| refused(&e))
}

fn bearer(token: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl File {
    fn current(&self) -> Result<(Cluster, User), String> {
        let find = |list: &'_ [Named], name: &str| list.iter().position(|n| n.name == name);
        let context = match self.current_context.as_str() {
            "" => self.contexts.first(),
            name => self.contexts.iter().find(|c| c.name == name),
        };
        let Some(context) = context.map(|c| &c.context) else {
            return Err("current-context: names no context".to_owned());
        };
        let cluster = find(&self.clusters, &context.cluster).map(|i| self.clusters[i].cluster.clone());
        let cluster = cluster.ok_or_else(|| format!("clusters: no cluster is named {:?}", context.cluster))?;
        let user = match context.user.as_str() {
            "" => User::default(),
            name => find(&self.users, name)
                .map(|i| self.users[i].user.clone())
                .ok_or_else(|| format!("users: no user is named {name:?}"))?,
        };
        Ok((cluster, user))
    }
}

/// What a file or the data beside it holds; `None` when neither is given.
fn content(base: &Path, file: &str, data: &str) -> Result<Option<Vec<u8>>, String> {
    if !data.is_empty() {
        return STANDARD.decode(data).map(Some).map_err(|error| error.to_string());
    }
    if file.is_empty() {
        return Ok(None);
    }
    let path = base.join(file);
    std::fs::read(&path)
        .map(Some)
        .map_err(|error| format!("{}: {error}", path.display()))
}

impl Cluster {
    fn roots(&self, base: &Path) -> Result<Roots, String> {
        if self.insecure_skip_tls_verify {
            return Ok(Roots::Unchecked);
        }
        let bundle = content(base, &self.certificate_authority, &self.certificate_authority_data)?;
        Ok(bundle.map_or(Roots::System, Roots::Bundle))
    }
}

impl User {
    fn identity(&self, base: &Path) -> Result<Option<Arc<Identity>>, String> {
        if !self.client_certificate.is_empty() && !self.client_key.is_empty() {
            let (certificate, key) = (base.join(&self.client_certificate), base.join(&self.client_key));
            return Identity::from_files(&certificate, &key)
                .map(Some)
                .map_err(|error| error.to_string());
        }
        let certificate = content(base, &self.client_certificate, &self.client_certificate_data)?;
        let key = content(base, &self.client_key, &self.client_key_data)?;
        match (certificate, key) {
            (Some(certificate), Some(key)) => Identity::from_pem(&certificate, &key)
                .map(Some)
                .map_err(|error| error.to_string()),
            _ => Ok(None),
        }
    }

    fn token(&self, base: &Path) -> Result<Token, String> {
        let mut fixed = if !self.token_file.is_empty() {
            return Ok(Token::File(base.join(&self.token_file)));
        } else if !self.token.is_empty() {
            bearer(&self.token)
        } else if !self.username.is_empty() {
            let pair = STANDARD.encode(format!("{}:{}", self.username, self.password));
            HeaderValue::from_str(&format!("Basic {pair}"))
        } else {
            return Ok(Token::None);
        }
        .map_err(|error| error.to_string())?;
        fixed.set_sensitive(true);
        Ok(Token::Fixed(fixed))
    }
}

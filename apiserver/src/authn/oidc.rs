//! OIDC: tokens of other issuers. Owns their key sets, found by discovery and fetched again when a token names a key that is not among them.
//! Source: `k8s.io/apiserver/plugin/pkg/authenticator/token/oidc`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::HeaderMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::config::{Anonymous, AuthenticationConfig, ClaimRule, IssuerConfig, Mapping};
use super::jwt::{self, JwtError, PublicKey};
use super::review::user_value;
use crate::outgoing::tls::Roots;
use crate::outgoing::{Limits, Outgoing, Place, Target, TargetError};
use crate::registry::access::UserInfo;

/// Time for one document.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Documents are not fetched more often.
const PAUSE: Duration = Duration::from_secs(1);
/// Seconds that clocks may differ for `nbf`.
const LEEWAY: i64 = 300;

/// All issuers, and what holds for those without credentials.
pub struct Issuers {
    issuers: Vec<Issuer>,
    /// From the same configuration.
    pub anonymous: Anonymous,
}

impl Issuers {
    /// With key sets that are fetched when they are first needed.
    ///
    /// # Errors
    /// When an issuer's authority holds no certificate.
    pub fn new(config: &AuthenticationConfig, outgoing: &Outgoing) -> Result<Issuers, TargetError> {
        let issuers = config
            .issuers
            .iter()
            .map(|issuer| Issuer::new(issuer.clone(), outgoing));
        Ok(Issuers {
            issuers: issuers.collect::<Result<_, _>>()?,
            anonymous: config.anonymous.clone(),
        })
    }

    /// Whose the token is; `None` when it is of none of the issuers.
    pub async fn authenticate(&self, token: &str) -> Option<Result<UserInfo, String>> {
        if self.issuers.is_empty() {
            return None;
        }
        let claims = jwt::claims(token).ok()?;
        let url = claims["iss"].as_str()?;
        let issuer = self.issuers.iter().find(|issuer| issuer.config.url == url)?;
        Some(issuer.authenticate(token).await.map_err(|why| format!("oidc: {why}")))
    }
}

struct Issuer {
    config: IssuerConfig,
    outgoing: Outgoing,
    roots: Roots,
    keys: tokio::sync::Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    set: Vec<PublicKey>,
    tried: Option<Instant>,
}

impl Issuer {
    fn new(config: IssuerConfig, outgoing: &Outgoing) -> Result<Issuer, TargetError> {
        let roots = match &config.authority {
            Some(pem) => Roots::Bundle(pem.clone().into_bytes()),
            None => Roots::System,
        };
        // A bundle without certificates is told at the start.
        crate::outgoing::tls::config(&roots, None)?;
        Ok(Issuer {
            config,
            outgoing: outgoing.clone(),
            roots,
            keys: tokio::sync::Mutex::default(),
        })
    }

    async fn authenticate(&self, token: &str) -> Result<UserInfo, String> {
        self.check_algorithm(token)?;
        let claims = self.verify(token).await.map_err(|why| format!("verify token: {why}"))?;
        check_claims(&self.config, &claims, Timestamp::now().as_second())?;
        identify(&self.config, &claims)
    }

    fn check_algorithm(&self, token: &str) -> Result<(), String> {
        let header = token.split('.').next().unwrap_or_default();
        let allowed = &self.config.algorithms;
        match jwt::claims(&format!(".{header}.")).ok().as_ref().map(|h| &h["alg"]) {
            Some(Value::String(algorithm)) if allowed.is_empty() || allowed.contains(algorithm) => Ok(()),
            Some(algorithm) => Err(format!(
                "signed with unsupported algorithm, expected {allowed:?} got {algorithm}"
            )),
            None => Err("malformed jwt".into()),
        }
    }

    async fn verify(&self, token: &str) -> Result<Value, String> {
        // Held while keys are fetched: those who wait want the same keys.
        let mut keys = self.keys.lock().await;
        match jwt::verify(token, &keys.set) {
            Err(JwtError::Signature) => {}
            outcome => return outcome.map_err(|error| error.to_string()),
        }
        if keys.tried.is_none_or(|tried| tried.elapsed() >= PAUSE) {
            keys.tried = Some(Instant::now());
            keys.set = self.fetch().await?;
        }
        jwt::verify(token, &keys.set).map_err(|error| error.to_string())
    }

    async fn fetch(&self) -> Result<Vec<PublicKey>, String> {
        let base = self.config.discovery_url.clone().unwrap_or_else(|| {
            format!(
                "{}/.well-known/openid-configuration",
                self.config.url.trim_end_matches('/')
            )
        });
        let document = self.get(&base).await?;
        if document["issuer"] != self.config.url.as_str() {
            return Err(format!(
                "issuer did not match the issuer returned by provider, expected {:?} got {}",
                self.config.url, document["issuer"]
            ));
        }
        let uri = document["jwks_uri"]
            .as_str()
            .ok_or("the discovery document has no jwks_uri")?;
        let set = self.get(uri).await?;
        let keys = set["keys"].as_array().ok_or("the key set has no keys")?;
        Ok(keys.iter().filter_map(PublicKey::from_jwk).collect())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let target = Target {
            place: Place::Url(url.to_owned()),
            roots: self.roots.clone(),
            identity: None,
        };
        let caller = self.outgoing.caller(&target).map_err(|error| error.to_string())?;
        let path: http::Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
        let path = path.path_and_query().map_or("/", |p| p.as_str());
        let answer = caller.get(path, HeaderMap::new(), Limits::within(TIMEOUT)).await;
        serde_json::from_slice(&answer.map_err(|error| error.to_string())?).map_err(|error| error.to_string())
    }
}

/// Times, audience and the configured demands.
fn check_claims(config: &IssuerConfig, claims: &Value, now: i64) -> Result<(), String> {
    let time = |claim: &str| claims[claim].as_f64().map(|seconds| seconds as i64);
    match time("exp") {
        None => return Err("parse claim exp".into()),
        Some(exp) if now >= exp => return Err("token is expired".into()),
        Some(_) => {}
    }
    if time("nbf").is_some_and(|nbf| now + LEEWAY < nbf) {
        return Err("current time is before the nbf (not before) time".into());
    }
    let audiences = strings(&claims["aud"]).unwrap_or_default();
    if !audiences.iter().any(|audience| config.audiences.contains(audience)) {
        return Err(format!("expected audience in {:?} got {audiences:?}", config.audiences));
    }
    for rule in &config.rules {
        match rule {
            ClaimRule::Value { claim, value } => match &claims[claim] {
                Value::String(found) if found == value => {}
                Value::Null => return Err(format!("required claim {claim} not present in ID token")),
                found => {
                    return Err(format!(
                        "required claim {claim} value does not match. Got = {found}, want = {value}"
                    ));
                }
            },
            ClaimRule::Holds(expression, message) => {
                if !expression.holds(claims)? {
                    return Err(match message.as_str() {
                        "" => format!("validation expression '{}' failed", expression.text()),
                        message => message.to_owned(),
                    });
                }
            }
        }
    }
    Ok(())
}

/// The user that the claims make.
fn identify(config: &IssuerConfig, claims: &Value) -> Result<UserInfo, String> {
    let mut user = UserInfo {
        name: name(&config.username, claims)?,
        ..UserInfo::default()
    };
    match &config.groups {
        None => {}
        Some(Mapping::Claim { claim, prefix }) => match &claims[claim] {
            Value::Null => {}
            value => {
                let groups = strings(value).ok_or_else(|| format!("parse groups claim {claim:?}"))?;
                user.groups = groups.into_iter().map(|group| format!("{prefix}{group}")).collect();
            }
        },
        Some(Mapping::Expression(expression)) => user.groups = texts(&expression.run(claims)?)?,
    }
    user.uid = match &config.uid {
        None => String::new(),
        Some(Mapping::Claim { claim, .. }) => match &claims[claim] {
            Value::String(uid) => uid.clone(),
            _ => return Err(format!("claim not present: {claim}")),
        },
        Some(Mapping::Expression(expression)) => text(&expression.run(claims)?)?,
    };
    let mut extra = BTreeMap::new();
    for (key, expression) in &config.extra {
        let values = texts(&expression.run(claims)?)?;
        if !values.is_empty() {
            extra.insert(key.clone(), values);
        }
    }
    user.extra = extra;
    if !config.user_rules.is_empty() {
        let mut value = user_value(&user);
        // All fields are there for the expressions, empty ones too.
        for (field, empty) in [("uid", json!("")), ("extra", json!({}))] {
            if value.get(field).is_none() {
                value[field] = empty;
            }
        }
        for (expression, message) in &config.user_rules {
            if !expression.holds(&value)? {
                return Err(match message.as_str() {
                    "" => format!(
                        "error evaluating user info validation rule: validation expression '{}' failed",
                        expression.text()
                    ),
                    message => format!("error evaluating user info validation rule: {message}"),
                });
            }
        }
    }
    Ok(user)
}

fn name(mapping: &Mapping, claims: &Value) -> Result<String, String> {
    let (claim, prefix) = match mapping {
        Mapping::Expression(expression) => {
            let name = text(&expression.run(claims)?)?;
            return match name.is_empty() {
                true => Err("error evaluating username claim expression: the username is empty".into()),
                false => Ok(name),
            };
        }
        Mapping::Claim { claim, prefix } => (claim, prefix),
    };
    let Value::String(found) = &claims[claim] else {
        return Err(format!("parse username claims {claim:?}: claim not present"));
    };
    // An address that the issuer does not vouch for is nobody's name.
    if claim == "email" && claims.get("email_verified").is_some_and(|verified| verified != true) {
        return Err("email not verified".into());
    }
    Ok(format!("{prefix}{found}"))
}

fn text(value: &Value) -> Result<String, String> {
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("an expression gave {value} instead of a string"))
}

/// A text is a list of one; an empty text and null are empty lists.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(empty) if empty.is_empty() => Ok(Vec::new()),
        value => {
            strings(value).ok_or_else(|| format!("an expression gave {value} instead of a string or a list of strings"))
        }
    }
}

fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(many) => many.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::config::AuthenticationConfig;

    fn config(jwt: &str) -> Result<AuthenticationConfig, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("authn.yaml");
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- ";
        std::fs::write(&path, format!("{head}{}\n", jwt.trim().replace('\n', "\n  "))).unwrap();
        AuthenticationConfig::load(&path).map_err(|e| e.to_string().replace(&path.display().to_string(), "F"))
    }

    const FULL: &str = r#"
issuer: {url: "https://idp", audiences: [a, b], audienceMatchPolicy: MatchAny}
claimValidationRules:
- {claim: hd, requiredValue: example.com}
- {expression: "claims.exp - claims.nbf <= 86400", message: too long}
claimMappings:
  username: {expression: "claims.email_verified ? 'idp:' + claims.email : ''"}
  groups: {expression: "claims.roles.map(r, 'role:' + r)"}
  uid: {claim: sub}
  extra: [{key: example.com/tenant, valueExpression: claims.tenant}]
userValidationRules:
- {expression: "!user.username.startsWith('system:')", message: reserved}
- {expression: "user.groups.size() < 3"}
"#;

    fn claims() -> Value {
        json!({"aud": "b", "exp": 2000, "nbf": 1000, "hd": "example.com", "email": "amy@x", "email_verified": true,
            "roles": ["dev"], "sub": "1", "tenant": "t"})
    }

    #[test]
    fn claims_become_a_user() {
        let config = config(FULL).unwrap_or_else(|e| panic!("{e}"));
        let issuer = &config.issuers[0];
        let judge = |change: &[(&str, Value)]| {
            let mut claims = claims();
            change.iter().for_each(|(key, value)| claims[*key] = value.clone());
            check_claims(issuer, &claims, 1500).and_then(|()| identify(issuer, &claims))
        };
        let user = judge(&[]).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("idp:amy@x", "1"));
        assert_eq!(
            (user.groups, &user.extra["example.com/tenant"]),
            (vec!["role:dev".to_owned()], &vec!["t".to_owned()])
        );
        for (change, why) in [
            (("aud", json!(["c"])), "expected audience in [\"a\", \"b\"] got [\"c\"]"),
            (("exp", json!(1400)), "token is expired"),
            (("nbf", json!(1900)), "current time is before the nbf (not before) time"),
            (
                ("hd", json!("other")),
                "required claim hd value does not match. Got = \"other\", want = example.com",
            ),
            (("exp", json!(90_000)), "too long"),
            (
                ("email_verified", json!(false)),
                "error evaluating username claim expression: the username is empty",
            ),
            (
                ("roles", json!(["a", "b", "c"])),
                "error evaluating user info validation rule: validation expression 'user.groups.size() < 3' failed",
            ),
        ] {
            assert_eq!(
                judge(std::slice::from_ref(&change)).err().as_deref(),
                Some(why),
                "{change:?}"
            );
        }
    }

    #[test]
    fn a_wrong_configuration_is_refused() {
        let with =
            |mapping: &str| format!("issuer: {{url: \"https://idp\", audiences: [a]}}\nclaimMappings: {{{mapping}}}");
        for (text, why) in [
            (
                with("username: {claim: sub}"),
                "F: jwt[0].claimMappings.username.prefix: prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            ),
            (
                with("username: {expression: 'claims.email'}"),
                "F: jwt[0].claimMappings.username.expression: claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            ),
            (
                with("username: {expression: '1'}"),
                "F: jwt[0].claimMappings.username.expression: must evaluate to string",
            ),
            (
                with("groups: {claim: g, prefix: ''}"),
                "F: jwt[0].claimMappings.username: claim or expression is required",
            ),
            (
                "issuer: {url: \"http://idp\", audiences: [a]}".into(),
                "F: jwt[0].issuer.url: URL scheme must be https, found \"http://idp\"",
            ),
            (
                "issuer: {url: \"https://idp\", audiences: [a, b]}".into(),
                "F: jwt[0].issuer.audienceMatchPolicy: must be MatchAny for multiple audiences",
            ),
        ] {
            assert_eq!(config(&text).err().as_deref(), Some(why));
        }
    }
}

//! Service-account tokens: issuing them (TokenRequest), and believing them only while the objects they are bound to exist.

use std::sync::Arc;

use api::{Error, FieldError, GroupKind, GroupResource};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::jwt::{self, PublicKey, Signer};
use super::tokens::Accepted;
use crate::kinds::field::{list, text};
use crate::registry::access::UserInfo;
use crate::store::{ReadAt, Store};

/// What the user name of every service account starts with.
pub const USER_PREFIX: &str = "system:serviceaccount:";
const PRIVATE: &str = "kubernetes.io";
/// Seconds a token lives when the request does not say.
const DEFAULT_LIFETIME: i64 = 3600;
const MIN_LIFETIME: i64 = 600;
const MAX_LIFETIME: i64 = 1 << 32;
/// The lifetime that kubelets ask for with a pod's own volume. Such a token is good for [`EXTENDED`] instead, since programs exist that never
/// read it again; it says when it should have been.
const EXTENDABLE: i64 = 3607;
const EXTENDED: i64 = 365 * 24 * 3600;
/// Seconds after its deletion time during which an account that is still there keeps its power, as upstream allows.
const DELETION_LEEWAY: i64 = 60;

/// Issues and checks tokens.
pub struct Tokens {
    issuer: String,
    audiences: Vec<String>,
    signer: Signer,
    keys: Vec<PublicKey>,
    jwks_uri: String,
    /// Seconds that a token lives at most, if that is bounded.
    longest: Option<i64>,
    extend: bool,
    store: Arc<dyn Store>,
}

/// How tokens are issued.
#[derive(Clone, Debug, Default)]
pub struct TokenOptions {
    /// The claim `iss`, a URL.
    pub issuer: String,
    /// The audiences of the API itself; the issuer if empty.
    pub audiences: Vec<String>,
    /// Where others find the keys.
    pub jwks_uri: String,
    /// Seconds that a token lives at most.
    pub longest: Option<i64>,
    /// Whether the tokens of pods' own volumes live longer than asked for.
    pub extend: bool,
}

impl Tokens {
    /// `keys` verify besides the signer's own.
    pub fn new(options: TokenOptions, signer: Signer, mut keys: Vec<PublicKey>, store: Arc<dyn Store>) -> Tokens {
        let audiences = match options.audiences.is_empty() {
            true => vec![options.issuer.clone()],
            false => options.audiences,
        };
        keys.retain(|key| key != signer.public());
        keys.insert(0, signer.public().clone());
        Tokens {
            issuer: options.issuer,
            audiences,
            signer,
            keys,
            jwks_uri: options.jwks_uri,
            longest: options.longest,
            extend: options.extend,
            store,
        }
    }

    /// Audiences that the API accepts.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// `/.well-known/openid-configuration`
    pub fn discovery_document(&self) -> Value {
        let mut algorithms: Vec<&str> = self.keys.iter().map(PublicKey::algorithm).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        json!({
            "issuer": self.issuer,
            "jwks_uri": self.jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// `/openid/v1/jwks`
    pub fn key_set(&self) -> Value {
        json!({"keys": self.keys.iter().map(PublicKey::jwk).collect::<Vec<_>>()})
    }

    /// Whether a bearer token claims to be one of ours; others are for other authenticators.
    pub fn is_ours(&self, token: &str) -> bool {
        jwt::claims(token).is_ok_and(|claims| claims["iss"] == self.issuer.as_str())
    }

    /// Checks a token for the wanted audiences (empty: the API's).
    ///
    /// # Errors
    /// Why it is not believed, for the log and for TokenReview.
    pub async fn authenticate(&self, token: &str, wanted: &[String]) -> Result<Accepted, String> {
        let claims = jwt::verify(token, &self.keys).map_err(|error| error.to_string())?;
        let wanted = if wanted.is_empty() { &self.audiences } else { wanted };
        let audiences = check_claims(&claims, &self.issuer, wanted, Timestamp::now().as_second())?;
        let user = self.user(&claims).await?;
        Ok(Accepted { user, audiences })
    }

    async fn object(&self, group_resource: &str, namespace: &str, name: &str) -> Result<Option<Value>, String> {
        let key = format!("core/{group_resource}/{namespace}/{name}");
        // Freshness: a token of an object that was just made must work on every server; one that is missing here is looked up again.
        let mut entry = self.store.get(&key, ReadAt::Any).await.map_err(|e| e.to_string())?;
        if entry.is_none() {
            entry = self.store.get(&key, ReadAt::Latest).await.map_err(|e| e.to_string())?;
        }
        let Some(entry) = entry else { return Ok(None) };
        let info = api::resources::find("", "v1", group_resource).ok_or("unknown resource")?;
        api::codec::proto_to_value(info.message, &entry.value)
            .map(Some)
            .map_err(|e| e.to_string())
    }

    async fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let private = &claims[PRIVATE];
        let (namespace, account) = (text(private, "/namespace"), &private["serviceaccount"]);
        let (name, uid) = (text(account, "/name"), text(account, "/uid"));
        let object = self
            .object("serviceaccounts", namespace, name)
            .await?
            .ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        if text(&object, "/metadata/uid") != uid {
            return Err(format!(
                "service account UID ({}) does not match claim ({uid})",
                text(&object, "/metadata/uid")
            ));
        }
        check_alive(&object)?;
        let mut extra = std::collections::BTreeMap::new();
        for (field, resource) in [("pod", "pods"), ("secret", "secrets"), ("node", "nodes")] {
            let Some(bound) = private.get(field) else { continue };
            self.check_bound(
                resource,
                if resource == "nodes" { "" } else { namespace },
                bound,
                private,
            )
            .await?;
            if field != "secret" {
                extra.insert(
                    format!("authentication.kubernetes.io/{field}-name"),
                    vec![text(bound, "/name").to_owned()],
                );
                extra.insert(
                    format!("authentication.kubernetes.io/{field}-uid"),
                    vec![text(bound, "/uid").to_owned()],
                );
            }
        }
        if let Some(id) = claims["jti"].as_str() {
            extra.insert(
                "authentication.kubernetes.io/credential-id".to_owned(),
                vec![format!("JTI={id}")],
            );
        }
        Ok(UserInfo {
            name: format!("{USER_PREFIX}{namespace}:{name}"),
            uid: uid.to_owned(),
            groups: groups(namespace),
            extra,
        })
    }

    /// A bound object must still be the same one. A pod's token names its node for information only: the pod is what counts.
    async fn check_bound(&self, resource: &str, namespace: &str, bound: &Value, private: &Value) -> Result<(), String> {
        if resource == "nodes" && private.get("pod").is_some() {
            return Ok(());
        }
        let (name, uid) = (text(bound, "/name"), text(bound, "/uid"));
        let object = self
            .object(resource, namespace, name)
            .await?
            .ok_or_else(|| format!("{resource} {name:?} not found"))?;
        if text(&object, "/metadata/uid") != uid {
            return Err(format!(
                "{resource} UID ({}) does not match claim ({uid})",
                text(&object, "/metadata/uid")
            ));
        }
        check_alive(&object)
    }

    /// Answers a TokenRequest for an account: the posted object with its defaults and its status.
    ///
    /// # Errors
    /// 422 for a bad lifetime, 404 and 409 for a bound object that is not (that) one, 400 for a bound object that does not fit.
    pub async fn request(&self, namespace: &str, name: &str, mut request: Value) -> Result<Value, Error> {
        let account = self
            .object("serviceaccounts", namespace, name)
            .await
            .map_err(Error::internal)?;
        let account = account.ok_or_else(|| Error::not_found(&GroupResource::new("", "serviceaccounts"), name))?;
        let asked = lifetime(&request)?;
        let lifetime = self.longest.map_or(asked, |longest| asked.min(longest));
        let spec = &request["spec"];
        let audiences: Vec<String> = list(spec, "/audiences")
            .iter()
            .filter_map(|a| a.as_str().map(str::to_owned))
            .collect();
        let audiences = if audiences.is_empty() {
            self.audiences.clone()
        } else {
            audiences
        };
        let mut private = Map::new();
        private.insert("namespace".into(), json!(namespace));
        private.insert(
            "serviceaccount".into(),
            json!({"name": name, "uid": text(&account, "/metadata/uid")}),
        );
        if let Some(bound) = spec.get("boundObjectRef").filter(|b| b.is_object()) {
            self.bind(namespace, name, bound, &mut private).await?;
        }
        let now = Timestamp::now().as_second();
        let own = private.contains_key("pod") && audiences.iter().any(|a| self.audiences.contains(a));
        let mut good_for = lifetime;
        if self.extend && own && lifetime == EXTENDABLE {
            good_for = EXTENDED;
            private.insert("warnafter".into(), json!(now + lifetime));
        }
        let id = uuid::Uuid::new_v4().to_string();
        crate::audit::annotate("authentication.kubernetes.io/issued-credential-id", format!("JTI={id}"));
        let claims = json!({
            "iss": self.issuer, "sub": format!("{USER_PREFIX}{namespace}:{name}"), "aud": audiences, "exp": now + good_for, "iat": now, "nbf": now,
            "jti": id, PRIVATE: private,
        });
        let token = self.signer.sign(&claims).map_err(Error::internal)?;
        let expires = Timestamp::from_second(now + lifetime).map_err(Error::internal)?;
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = json!(lifetime);
        request["status"] =
            json!({"token": token, "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
        request["metadata"] = json!({"name": name, "namespace": namespace, "creationTimestamp": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
        Ok(request)
    }

    async fn bind(
        &self,
        namespace: &str,
        account: &str,
        bound: &Value,
        private: &mut Map<String, Value>,
    ) -> Result<(), Error> {
        let (kind, name, uid) = (text(bound, "/kind"), text(bound, "/name"), text(bound, "/uid"));
        let (field, resource) = match kind {
            "Pod" => ("pod", "pods"),
            "Secret" => ("secret", "secrets"),
            "Node" => ("node", "nodes"),
            _ => {
                return Err(Error::bad_request(format!(
                    "cannot bind token to object of type {}, Kind={kind}",
                    text(bound, "/apiVersion")
                )));
            }
        };
        let place = if resource == "nodes" { "" } else { namespace };
        let object = self.object(resource, place, name).await.map_err(Error::internal)?;
        let object = object.ok_or_else(|| Error::not_found(&GroupResource::new("", resource), name))?;
        let real = text(&object, "/metadata/uid");
        if !uid.is_empty() && uid != real {
            let why = format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(Error::conflict(&GroupResource::new("", kind), name, why));
        }
        private.insert(field.into(), json!({"name": name, "uid": real}));
        if resource == "pods" {
            if text(&object, "/spec/serviceAccountName") != account {
                return Err(Error::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = text(&object, "/spec/nodeName");
            if !node.is_empty()
                && let Some(found) = self.object("nodes", "", node).await.map_err(Error::internal)?
            {
                private.insert(
                    "node".into(),
                    json!({"name": node, "uid": text(&found, "/metadata/uid")}),
                );
            }
        }
        Ok(())
    }
}

/// The groups of an account of the namespace.
pub fn groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".into(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".into(),
    ]
}

fn lifetime(request: &Value) -> Result<i64, Error> {
    let seconds = request
        .pointer("/spec/expirationSeconds")
        .and_then(Value::as_i64)
        .filter(|n| *n != 0)
        .unwrap_or(DEFAULT_LIFETIME);
    let why = match seconds {
        n if n < MIN_LIFETIME => "may not specify a duration less than 10 minutes",
        n if n > MAX_LIFETIME => "may not specify a duration larger than 2^32 seconds",
        n => return Ok(n),
    };
    let fault = FieldError::invalid("spec.expirationSeconds", seconds, why);
    Err(Error::invalid(
        &GroupKind::new("authentication.k8s.io", "TokenRequest"),
        "",
        vec![fault],
    ))
}

fn check_alive(object: &Value) -> Result<(), String> {
    let deleted = text(object, "/metadata/deletionTimestamp").parse::<Timestamp>().ok();
    match deleted {
        Some(at) if at.as_second() + DELETION_LEEWAY < Timestamp::now().as_second() => {
            Err(format!("{} has been deleted", text(object, "/metadata/name")))
        }
        _ => Ok(()),
    }
}

/// Issuer, times, subject and audience; answers the audiences in common.
fn check_claims(claims: &Value, issuer: &str, wanted: &[String], now: i64) -> Result<Vec<String>, String> {
    if claims["iss"] != issuer {
        return Err("unexpected issuer".to_owned());
    }
    if claims["exp"].as_i64().is_none_or(|exp| now >= exp) {
        return Err("service account token has expired".to_owned());
    }
    if claims["nbf"].as_i64().is_some_and(|nbf| now < nbf) {
        return Err("service account token is not valid yet".to_owned());
    }
    let private = &claims[PRIVATE];
    let subject = format!(
        "{USER_PREFIX}{}:{}",
        text(private, "/namespace"),
        text(private, "/serviceaccount/name")
    );
    if claims["sub"] != subject.as_str() {
        return Err("token claims disagree about the service account".to_owned());
    }
    let given: Vec<&str> = match &claims["aud"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let common: Vec<String> = wanted.iter().filter(|w| given.contains(&w.as_str())).cloned().collect();
    if common.is_empty() {
        Err(format!(
            "token audiences {given:?} is invalid for the target audiences {wanted:?}"
        ))
    } else {
        Ok(common)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_judged() {
        let good = json!({"iss": "https://k", "sub": "system:serviceaccount:dev:web", "aud": ["https://k", "x"], "exp": 100, "nbf": 10,
            PRIVATE: {"namespace": "dev", "serviceaccount": {"name": "web", "uid": "u"}}});
        let wanted = ["https://k".to_owned()];
        assert_eq!(
            check_claims(&good, "https://k", &wanted, 50),
            Ok(vec!["https://k".to_owned()])
        );
        assert!(check_claims(&good, "https://k", &wanted, 100).is_err(), "expired");
        assert!(check_claims(&good, "https://k", &wanted, 9).is_err(), "not yet");
        assert!(
            check_claims(&good, "https://k", &["y".to_owned()], 50).is_err(),
            "audience"
        );
        assert!(check_claims(&good, "https://other", &wanted, 50).is_err(), "issuer");
        let mut forged = good.clone();
        forged["sub"] = json!("system:serviceaccount:kube-system:web");
        assert!(check_claims(&forged, "https://k", &wanted, 50).is_err(), "subject");
    }

    #[test]
    fn lifetimes() {
        assert_eq!(lifetime(&json!({})).ok(), Some(3600));
        assert_eq!(lifetime(&json!({"spec": {"expirationSeconds": 600}})).ok(), Some(600));
        assert!(lifetime(&json!({"spec": {"expirationSeconds": 599}})).is_err_and(|e| e.is_invalid()));
    }
}

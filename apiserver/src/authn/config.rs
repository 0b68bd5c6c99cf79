//! `apiserver.config.k8s.io AuthenticationConfiguration`: OIDC issuers and where anonymous requests are allowed. Also the single issuer that the
//! `--oidc-*` flags describe. Read, checked and compiled here; nothing of it is asked here.

use std::path::Path;

use cel::Type;
use daemon::config::ConfigError;
use serde::Deserialize;

use super::expressions::{Expression, Output};
use crate::config::security::AuthenticationSettings;

const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];

/// Where requests without credentials are let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anonymous {
    enabled: bool,
    /// Only these paths, if there are any.
    paths: Vec<String>,
}

impl Default for Anonymous {
    fn default() -> Self {
        Self {
            enabled: true,
            paths: Vec::new(),
        }
    }
}

impl Anonymous {
    /// Whether a request of this path may go on without credentials.
    pub fn allows(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|p| p == path))
    }
}

/// Where a part of the identity comes from.
#[derive(Clone, Debug)]
pub enum Mapping {
    /// A claim and what is put before it.
    Claim {
        /// Its name.
        claim: String,
        /// May be empty.
        prefix: String,
    },
    /// An expression over `claims`.
    Expression(Expression),
}

/// A demand on the claims.
#[derive(Clone, Debug)]
pub enum ClaimRule {
    /// A claim has this value.
    Value {
        /// Its name.
        claim: String,
        /// Its value.
        value: String,
    },
    /// An expression holds; otherwise this is what is wrong.
    Holds(Expression, String),
}

/// One issuer.
#[derive(Clone, Debug)]
pub struct IssuerConfig {
    /// The claim `iss` of its tokens.
    pub url: String,
    /// Where its discovery document is, if not under `url`.
    pub discovery_url: Option<String>,
    /// Whose certificates its server may show, PEM; none for the machine's authorities.
    pub authority: Option<String>,
    /// The token is for one of these.
    pub audiences: Vec<String>,
    /// Signatures that are believed; none for all we know.
    pub algorithms: Vec<String>,
    /// Demands on the claims.
    pub rules: Vec<ClaimRule>,
    /// The name.
    pub username: Mapping,
    /// The groups.
    pub groups: Option<Mapping>,
    /// The uid.
    pub uid: Option<Mapping>,
    /// Further attributes.
    pub extra: Vec<(String, Expression)>,
    /// Demands on the user that comes out.
    pub user_rules: Vec<(Expression, String)>,
}

/// Everything the file or the flags say.
#[derive(Clone, Debug, Default)]
pub struct AuthenticationConfig {
    /// The issuers, each with another URL.
    pub issuers: Vec<IssuerConfig>,
    /// Requests without credentials.
    pub anonymous: Anonymous,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct File {
    jwt: Vec<Jwt>,
    anonymous: Option<AnonymousFile>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AnonymousFile {
    enabled: bool,
    conditions: Vec<Condition>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Condition {
    path: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Jwt {
    issuer: IssuerFile,
    claim_validation_rules: Vec<ClaimRuleFile>,
    claim_mappings: Mappings,
    user_validation_rules: Vec<UserRuleFile>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct IssuerFile {
    url: String,
    #[serde(rename = "discoveryURL")]
    discovery_url: Option<String>,
    certificate_authority: String,
    audiences: Vec<String>,
    audience_match_policy: String,
    #[serde(rename = "egressSelectorType")]
    _egress: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ClaimRuleFile {
    claim: String,
    required_value: String,
    expression: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UserRuleFile {
    expression: String,
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Mappings {
    username: MappingFile,
    groups: MappingFile,
    uid: MappingFile,
    extra: Vec<ExtraFile>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MappingFile {
    claim: String,
    prefix: Option<String>,
    expression: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ExtraFile {
    key: String,
    value_expression: String,
}

impl AuthenticationConfig {
    /// From the settings.
    ///
    /// # Errors
    /// When flags and file contradict each other, or what [`AuthenticationConfig::load`] finds.
    pub fn new(s: &AuthenticationSettings) -> Result<Self, ConfigError> {
        let issuers = from_flags(s)?;
        let mut config = match &s.authentication_config {
            Some(_) if !issuers.is_empty() => {
                let why = "--authentication-config and --oidc-* cannot be given together";
                return Err(ConfigError::Usage(why.into()));
            }
            Some(path) => Self::load(path)?,
            None => Self {
                issuers,
                ..Self::default()
            },
        };
        if let Some(enabled) = s.anonymous_auth {
            if config.anonymous != Anonymous::default() {
                let why = "--anonymous-auth cannot be given when the file of --authentication-config has `anonymous`";
                return Err(ConfigError::Usage(why.into()));
            }
            config.anonymous.enabled = enabled;
        }
        Ok(config)
    }

    /// Reads and checks a file, and compiles its expressions.
    ///
    /// # Errors
    /// One line that names the file, the key and what is wrong there.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file: File = crate::config::security::load_any(path, &VERSIONS, "AuthenticationConfiguration")?;
        file.check().map_err(|what| ConfigError::Content {
            path: path.to_owned(),
            what,
        })
    }
}

/// The issuer of the `--oidc-*` flags.
fn from_flags(s: &AuthenticationSettings) -> Result<Vec<IssuerConfig>, ConfigError> {
    let (url, client) = match (&s.oidc_issuer_url, &s.oidc_client_id) {
        (None, None) => return Ok(Vec::new()),
        (Some(url), Some(client)) => (url.clone(), client.clone()),
        _ => {
            let why = "--oidc-issuer-url and --oidc-client-id must be given together";
            return Err(ConfigError::Usage(why.into()));
        }
    };
    check_url(&url).map_err(|what| ConfigError::Usage(format!("--oidc-issuer-url: {what}")))?;
    let authority = s.oidc_ca_file.as_ref().map(|path| {
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.clone(),
            source,
        })
    });
    let claim = s.oidc_username_claim.clone().unwrap_or_else(|| "sub".into());
    let prefix = match s.oidc_username_prefix.as_deref() {
        Some("-") => String::new(),
        Some(prefix) => prefix.to_owned(),
        None if claim == "email" => String::new(),
        None => format!("{url}#"),
    };
    let mut rules = Vec::new();
    for pair in &s.oidc_required_claim {
        let (claim, value) = pair.split_once('=').ok_or_else(|| {
            ConfigError::Usage(format!(
                "--oidc-required-claim: expected <claim>=<value>, found {pair:?}"
            ))
        })?;
        rules.push(ClaimRule::Value {
            claim: claim.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(vec![IssuerConfig {
        discovery_url: None,
        authority: authority.transpose()?,
        audiences: vec![client],
        algorithms: match s.oidc_signing_algs.as_slice() {
            [] => vec!["RS256".into()],
            given => given.to_vec(),
        },
        rules,
        username: Mapping::Claim { claim, prefix },
        groups: s.oidc_groups_claim.clone().map(|claim| Mapping::Claim {
            claim,
            prefix: s.oidc_groups_prefix.clone().unwrap_or_default(),
        }),
        uid: None,
        extra: Vec::new(),
        user_rules: Vec::new(),
        url,
    }])
}

fn check_url(url: &str) -> Result<(), String> {
    let parsed = url.parse::<http::Uri>().map_err(|error| error.to_string())?;
    if parsed.scheme_str() != Some("https") {
        return Err(format!("URL scheme must be https, found {url:?}"));
    }
    if parsed.query().is_some() || url.contains('#') || url.contains('@') {
        return Err("URL must not contain a query, a fragment, a username or a password".into());
    }
    Ok(())
}

impl File {
    fn check(&self) -> Result<AuthenticationConfig, String> {
        let mut issuers: Vec<IssuerConfig> = Vec::new();
        for (i, jwt) in self.jwt.iter().enumerate() {
            let issuer = jwt.check().map_err(|what| format!("jwt[{i}].{what}"))?;
            if issuers.iter().any(|other| other.url == issuer.url) {
                return Err(format!("jwt[{i}].issuer.url: Duplicate value: {:?}", issuer.url));
            }
            issuers.push(issuer);
        }
        let anonymous = match &self.anonymous {
            None => Anonymous::default(),
            Some(file) if !file.enabled && !file.conditions.is_empty() => {
                return Err("anonymous.conditions: cannot be set when anonymous.enabled is false".into());
            }
            Some(file) => Anonymous {
                enabled: file.enabled,
                paths: file.conditions.iter().map(|c| c.path.clone()).collect(),
            },
        };
        Ok(AuthenticationConfig { issuers, anonymous })
    }
}

fn claims() -> Type {
    Type::map(Type::STRING, Type::Dyn)
}

impl Jwt {
    fn check(&self) -> Result<IssuerConfig, String> {
        let issuer = &self.issuer;
        check_url(&issuer.url).map_err(|what| format!("issuer.url: {what}"))?;
        if let Some(url) = &issuer.discovery_url {
            check_url(url).map_err(|what| format!("issuer.discoveryURL: {what}"))?;
            if url.trim_end_matches('/') == issuer.url.trim_end_matches('/') {
                return Err("issuer.discoveryURL: discoveryURL must be different from URL".into());
            }
        }
        if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
            return Err("issuer.audiences: expected at least one, none of them empty".into());
        }
        match (issuer.audience_match_policy.as_str(), issuer.audiences.len()) {
            ("MatchAny", _) | ("", 1) => {}
            ("", _) => return Err("issuer.audienceMatchPolicy: must be MatchAny for multiple audiences".into()),
            (other, _) => {
                return Err(format!(
                    "issuer.audienceMatchPolicy: expected MatchAny, found {other:?}"
                ));
            }
        }
        let maps = &self.claim_mappings;
        let username = maps
            .username
            .check(Output::String, true)
            .map_err(|what| format!("claimMappings.username.{what}"))?;
        let username = username.ok_or("claimMappings.username: claim or expression is required")?;
        let groups = maps
            .groups
            .check(Output::Strings, true)
            .map_err(|what| format!("claimMappings.groups.{what}"))?;
        let uid = maps
            .uid
            .check(Output::String, false)
            .map_err(|what| format!("claimMappings.uid.{what}"))?;
        let mut user_rules = Vec::new();
        for (i, rule) in self.user_validation_rules.iter().enumerate() {
            let compiled = Expression::new(&rule.expression, "user", Type::Dyn, Output::Bool);
            let compiled = compiled.map_err(|what| format!("userValidationRules[{i}].expression: {what}"))?;
            user_rules.push((compiled, rule.message.clone()));
        }
        let authority = Some(issuer.certificate_authority.clone()).filter(|pem| !pem.is_empty());
        let config = IssuerConfig {
            url: issuer.url.clone(),
            discovery_url: issuer.discovery_url.clone(),
            authority,
            audiences: issuer.audiences.clone(),
            algorithms: Vec::new(),
            rules: self.rules()?,
            username,
            groups,
            uid,
            extra: self.extra()?,
            user_rules,
        };
        config.check_email()?;
        Ok(config)
    }

    fn rules(&self) -> Result<Vec<ClaimRule>, String> {
        let mut out = Vec::new();
        for (i, rule) in self.claim_validation_rules.iter().enumerate() {
            let at = format!("claimValidationRules[{i}]");
            out.push(match (rule.claim.is_empty(), rule.expression.is_empty()) {
                (false, true) => ClaimRule::Value {
                    claim: rule.claim.clone(),
                    value: rule.required_value.clone(),
                },
                (true, false) => {
                    let compiled = Expression::new(&rule.expression, "claims", claims(), Output::Bool);
                    let compiled = compiled.map_err(|what| format!("{at}.expression: {what}"))?;
                    ClaimRule::Holds(compiled, rule.message.clone())
                }
                (false, false) => return Err(format!("{at}: claim and expression can't both be set")),
                (true, true) => return Err(format!("{at}: claim or expression is required")),
            });
        }
        Ok(out)
    }

    fn extra(&self) -> Result<Vec<(String, Expression)>, String> {
        let mut out: Vec<(String, Expression)> = Vec::new();
        for (i, extra) in self.claim_mappings.extra.iter().enumerate() {
            let at = format!("claimMappings.extra[{i}]");
            let domain = extra
                .key
                .split_once('/')
                .filter(|(domain, path)| domain.contains('.') && !path.is_empty());
            if domain.is_none() || extra.key != extra.key.to_lowercase() {
                return Err(format!(
                    "{at}.key: expected a lowercase domain-prefixed path (such as \"acme.io/foo\"), found {:?}",
                    extra.key
                ));
            }
            if out.iter().any(|(key, _)| *key == extra.key) {
                return Err(format!("{at}.key: Duplicate value: {:?}", extra.key));
            }
            let compiled = Expression::new(&extra.value_expression, "claims", claims(), Output::Strings);
            let compiled = compiled.map_err(|what| format!("{at}.valueExpression: {what}"))?;
            out.push((extra.key.clone(), compiled));
        }
        Ok(out)
    }
}

impl IssuerConfig {
    /// An e-mail address must not become a name without a word about whether it was verified.
    fn check_email(&self) -> Result<(), String> {
        let Mapping::Expression(username) = &self.username else {
            return Ok(());
        };
        let mentions = |text: &str, what: &str| text.contains(what);
        if !mentions(username.text(), "claims.email") || mentions(username.text(), "claims.email_verified") {
            return Ok(());
        }
        let elsewhere = self
            .extra
            .iter()
            .any(|(_, e)| mentions(e.text(), "claims.email_verified"))
            || self
                .rules
                .iter()
                .any(|rule| matches!(rule, ClaimRule::Holds(e, _) if mentions(e.text(), "claims.email_verified")));
        match elsewhere {
            true => Ok(()),
            false => Err("claimMappings.username.expression: claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression".into()),
        }
    }
}

impl MappingFile {
    fn check(&self, output: Output, prefixed: bool) -> Result<Option<Mapping>, String> {
        match (self.claim.is_empty(), self.expression.is_empty()) {
            (true, true) => Ok(None),
            (false, false) => Err("claim: claim and expression can't both be set".into()),
            (true, false) => {
                if self.prefix.is_some() {
                    return Err("prefix: prefix can't be set when expression is set".into());
                }
                let compiled = Expression::new(&self.expression, "claims", claims(), output);
                Ok(Some(Mapping::Expression(
                    compiled.map_err(|what| format!("expression: {what}"))?,
                )))
            }
            (false, true) => {
                if prefixed && self.prefix.is_none() {
                    return Err("prefix: prefix is required when claim is set. It can be set to an empty string to disable prefixing".into());
                }
                Ok(Some(Mapping::Claim {
                    claim: self.claim.clone(),
                    prefix: self.prefix.clone().unwrap_or_default(),
                }))
            }
        }
    }
}

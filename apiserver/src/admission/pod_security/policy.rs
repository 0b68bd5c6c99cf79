//! Levels, versions, and what a namespace's labels say of them.

use std::fmt;

use api::FieldError;
use serde_json::Value;

const LABEL: &str = "pod-security.kubernetes.io/";
const MODES: [&str; 3] = ["enforce", "audit", "warn"];

/// Of the Pod Security Standards; later ones refuse more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// `restricted:latest`, `baseline:v1.24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub level: Level,
    /// Minor version; none is the latest.
    pub version: Option<u32>,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

/// What happens with pods that a level refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    pub(super) fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn]
            .iter()
            .all(|mode| mode.level == Level::Privileged)
    }

    /// The configuration's `defaults`.
    pub(super) fn from_config(config: &Value) -> Result<Self, String> {
        let mode = |mode: &str| {
            let value = |field: &str, default: &str| {
                let value = config.get(field).and_then(Value::as_str).filter(|v| !v.is_empty());
                value.unwrap_or(default).to_owned()
            };
            let (level, version) = (value(mode, "privileged"), value(&format!("{mode}-version"), "latest"));
            Ok::<_, String>(LevelVersion {
                level: parse_level(&level).map_err(|why| format!("defaults.{mode}: {why}, found {level:?}"))?,
                version: parse_version(&version)
                    .map_err(|why| format!("defaults.{mode}-version: {why}, found {version:?}"))?,
            })
        };
        Ok(Self {
            enforce: mode("enforce")?,
            audit: mode("audit")?,
            warn: mode("warn")?,
        })
    }

    /// What the labels of a namespace make of the defaults, and what is wrong with them. What cannot be read is enforced strictly, but not
    /// audited or warned about.
    pub(super) fn of_labels(labels: Option<&Value>, defaults: Policy) -> (Self, Vec<FieldError>) {
        let mut faults = Vec::new();
        let mut out = defaults;
        let label = |name: String| {
            labels
                .and_then(|l| l.get(&name))
                .and_then(Value::as_str)
                .map(|v| (name, v))
        };
        let has = |suffix: &str| label(format!("{LABEL}{suffix}")).is_some();
        for (mode, slot) in MODES.into_iter().zip([&mut out.enforce, &mut out.audit, &mut out.warn]) {
            let mut report = |(name, value): (String, &str), why: &str| {
                faults.push(FieldError::invalid(format!("metadata.labels[{name}]"), value, why));
            };
            if let Some(given) = label(format!("{LABEL}{mode}")) {
                slot.level = parse_level(given.1).unwrap_or_else(|why| {
                    report(given, why);
                    if mode == "enforce" {
                        Level::Restricted
                    } else {
                        Level::Privileged
                    }
                });
            }
            if let Some(given) = label(format!("{LABEL}{mode}-version")) {
                slot.version = parse_version(given.1).unwrap_or_else(|why| {
                    report(given, why);
                    None
                });
            }
        }
        // Who tightens what is enforced wants to hear of workloads that will not run.
        if has("enforce") && !has("warn") && out.enforce.level > out.warn.level {
            out.warn.level = out.enforce.level;
            if has("enforce-version") && !has("warn-version") {
                out.warn.version = out.enforce.version;
            }
        }
        (out, faults)
    }

    /// The modes that labels set to more than privileged, as `enforce=baseline:latest, warn=restricted:v1.30`.
    pub(super) fn labelled(&self, labels: Option<&Value>) -> String {
        let given = |mode: &str| {
            let has = |name: String| labels.is_some_and(|l| l.get(&name).is_some());
            has(format!("{LABEL}{mode}")) || has(format!("{LABEL}{mode}-version"))
        };
        let modes = MODES.into_iter().zip([self.enforce, self.audit, self.warn]);
        let parts: Vec<String> = modes
            .filter(|(mode, standard)| standard.level != Level::Privileged && given(mode))
            .map(|(mode, standard)| format!("{mode}={standard}"))
            .collect();
        parts.join(", ")
    }
}

fn parse_level(text: &str) -> Result<Level, &'static str> {
    match text {
        "privileged" => Ok(Level::Privileged),
        "baseline" => Ok(Level::Baseline),
        "restricted" => Ok(Level::Restricted),
        _ => Err("must be one of privileged, baseline, restricted"),
    }
}

fn parse_version(text: &str) -> Result<Option<u32>, &'static str> {
    if text == "latest" {
        return Ok(None);
    }
    let minor = text.strip_prefix("v1.").filter(|minor| {
        let digits = !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit());
        digits && (minor.len() == 1 || !minor.starts_with('0'))
    });
    match minor.map(str::parse) {
        Some(Ok(minor)) => Ok(Some(minor)),
        _ => Err("must be \"latest\" or \"v1.x\""),
    }
}

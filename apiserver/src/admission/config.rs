//! Which plugins run and how: `--enable-admission-plugins`, `--disable-admission-plugins` and the `AdmissionConfiguration` file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use daemon::config::ConfigError;
use serde_json::Value;

use super::plugins;
use crate::kinds::field::{list, text};

const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "AdmissionConfiguration";

/// What the flags say.
#[derive(Debug, Clone, Default)]
pub struct AdmissionConfig {
    /// Names of plugins to run besides the default ones.
    pub enable: BTreeSet<String>,
    /// Names of default plugins not to run.
    pub disable: BTreeSet<String>,
    /// The configuration object of a plugin, by the plugin's name.
    pub plugins: BTreeMap<String, Value>,
}

impl AdmissionConfig {
    /// Checks the names and reads the file.
    ///
    /// # Errors
    /// One line naming the flag, or the file and key.
    pub fn new(enable: &[String], disable: &[String], file: Option<&Path>) -> Result<Self, ConfigError> {
        let out = Self {
            enable: names("enable-admission-plugins", enable)?,
            disable: names("disable-admission-plugins", disable)?,
            plugins: file.map(read).transpose()?.unwrap_or_default(),
        };
        let both: Vec<&str> = out.enable.intersection(&out.disable).map(String::as_str).collect();
        if !both.is_empty() {
            return Err(ConfigError::Usage(format!(
                "{both:?} in enable-admission-plugins and disable-admission-plugins overlapped"
            )));
        }
        Ok(out)
    }
}

fn names(flag: &str, given: &[String]) -> Result<BTreeSet<String>, ConfigError> {
    let given = given
        .iter()
        .flat_map(|names| names.split(','))
        .filter(|n| !n.is_empty());
    given
        .map(|name| match plugins::ALL.iter().any(|entry| entry.name == name) {
            true => Ok(name.to_owned()),
            false => Err(ConfigError::Usage(format!(
                "--{flag}: {flag} plugin {name:?} is unknown"
            ))),
        })
        .collect()
}

fn read(path: &Path) -> Result<BTreeMap<String, Value>, ConfigError> {
    let bad = |what: String| ConfigError::Content {
        path: path.to_owned(),
        what,
    };
    let file = load(path)?;
    if text(&file, "/apiVersion") != API_VERSION || text(&file, "/kind") != KIND {
        return Err(bad(format!("apiVersion, kind: expected {API_VERSION}, {KIND}")));
    }
    let mut out = BTreeMap::new();
    for (i, plugin) in list(&file, "/plugins").iter().enumerate() {
        let name = text(plugin, "/name");
        if !plugins::ALL.iter().any(|entry| entry.name == name) {
            return Err(bad(format!("plugins[{i}].name: no admission plugin {name:?}")));
        }
        let config = match (plugin.get("configuration"), text(plugin, "/path")) {
            (Some(config), "") if !config.is_null() => config.clone(),
            (None | Some(Value::Null), "") => Value::Null,
            // As upstream: relative to the file that names it.
            (None | Some(Value::Null), other) => load(&path.parent().unwrap_or(Path::new(".")).join(other))?,
            _ => return Err(bad(format!("plugins[{i}]: expected either path or configuration"))),
        };
        if out.insert(name.to_owned(), config).is_some() {
            return Err(bad(format!("plugins[{i}].name: {name:?} is there twice")));
        }
    }
    Ok(out)
}

fn load(path: &Path) -> Result<Value, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    api::codec::parse_yaml(&bytes).map_err(|error| ConfigError::Content {
        path: path.to_owned(),
        what: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let flag = |name: &str| vec![name.to_owned()];
        let config = AdmissionConfig::new(&flag("AlwaysPullImages,NamespaceExists"), &flag("Priority"), None).unwrap();
        assert_eq!((config.enable.len(), config.disable.len()), (2, 1));
        let unknown = AdmissionConfig::new(&flag("Nothing"), &[], None)
            .unwrap_err()
            .to_string();
        assert_eq!(
            unknown,
            "--enable-admission-plugins: enable-admission-plugins plugin \"Nothing\" is unknown"
        );
        assert!(AdmissionConfig::new(&flag("Priority"), &flag("Priority"), None).is_err());
    }

    #[test]
    fn a_file_configures_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admission.yaml");
        std::fs::write(dir.path().join("quota.yaml"), "limitedResources: []\n").unwrap();
        let file = format!(
            "apiVersion: {API_VERSION}\nkind: {KIND}\nplugins:\n- name: ResourceQuota\n  path: quota.yaml\n- name: PodSecurity\n  configuration: {{defaults: {{enforce: baseline}}}}\n"
        );
        std::fs::write(&path, file).unwrap();
        let config = AdmissionConfig::new(&[], &[], Some(&path)).unwrap();
        assert_eq!(config.plugins["PodSecurity"]["defaults"]["enforce"], "baseline");
        assert!(config.plugins["ResourceQuota"].is_object());
        std::fs::write(
            &path,
            format!("apiVersion: {API_VERSION}\nkind: {KIND}\nplugins: [{{name: X}}]\n"),
        )
        .unwrap();
        let error = AdmissionConfig::new(&[], &[], Some(&path)).unwrap_err().to_string();
        assert!(error.contains("plugins[0].name: no admission plugin \"X\""), "{error}");
    }
}

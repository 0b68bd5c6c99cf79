//! Rules about the workspace that no compiler keeps: who may depend on whom, and what the suite may be built from.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Packages that are a daemon or the operator's command. None depends on another.
const PROGRAMS: [&str; 6] = [
    "kube-apiserver",
    "kube-scheduler",
    "kube-controller-manager",
    "kubelet",
    "kube-proxy",
    "keelson",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root())
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

/// Packages of the workspace have no registry.
fn is_ours(package: &Value) -> bool {
    package["source"].is_null()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a name")
}

/// Every string in the list `key` of deny.toml: its items, or the items' `name`.
fn configured(key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let start = text
        .find(&format!("\n{key} = ["))
        .unwrap_or_else(|| panic!("deny.toml: {key} is missing"));
    let list = text[start..]
        .split_once('[')
        .expect("a list")
        .1
        .split_once("\n]")
        .expect("the list's end")
        .0;
    let items = list.lines().filter(|line| !line.trim_start().starts_with('#'));
    items
        .filter_map(|line| line.split('"').nth(1).map(str::to_owned))
        .collect()
}

#[test]
fn no_program_depends_on_another() {
    for package in packages().iter().filter(|package| is_ours(package)) {
        let is_program = PROGRAMS.contains(&name(package));
        let is_library =
            package["manifest_path"].as_str().expect("path").contains("/libs/") || name(package) == "proto";
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on_program = PROGRAMS.contains(&name(dependency));
            assert!(
                !(on_program && (is_program || is_library)),
                "{} depends on {}",
                name(package),
                name(dependency)
            );
        }
    }
}

#[test]
fn every_package_takes_the_workspaces_lints() {
    for package in packages().iter().filter(|package| is_ours(package)) {
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().expect("path")).expect("manifest");
        let lints = manifest
            .split_once("[lints]")
            .unwrap_or_else(|| panic!("{}: no [lints]", name(package)))
            .1;
        assert!(
            lints.trim_start().starts_with("workspace = true"),
            "{}: lints of its own",
            name(package)
        );
    }
}

#[test]
fn nothing_banned_is_built_in() {
    let banned = configured("deny");
    assert!(banned.contains(&"openssl".to_owned()));
    let found: Vec<String> = packages()
        .iter()
        .map(|package| name(package).to_owned())
        .filter(|name| banned.contains(name))
        .collect();
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let foreign = packages().into_iter().filter(|package| !is_ours(package));
    let elsewhere: Vec<Value> = foreign
        .filter(|package| {
            !package["source"]
                .as_str()
                .is_some_and(|source| source.starts_with("registry+"))
        })
        .collect();
    assert_eq!(elsewhere, Vec::<Value>::new());
}

#[test]
fn every_licence_is_allowed() {
    let allowed = configured("allow");
    let licence = |package: &Value| package["license"].as_str().unwrap_or("none").to_owned();
    let refused: Vec<String> = packages()
        .iter()
        .filter(|package| !is_allowed(&licence(package), &allowed))
        .map(|package| format!("{} {}: {}", name(package), package["version"], licence(package)))
        .collect();
    assert_eq!(refused, Vec::<String>::new());
}

/// Whether an SPDX expression can be met with allowed licences alone.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&tokens, &mut at, allowed);
    met && at == tokens.len() && !tokens.is_empty()
}

fn any(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = all(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(tokens, at, allowed);
    }
    met
}

fn all(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at, allowed);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if *token == "(" {
        let met = any(tokens, at, allowed);
        *at += 1;
        return met;
    }
    // An exception only permits more.
    if tokens.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    // A plus permits later versions of it.
    allowed.iter().any(|licence| licence == token.trim_end_matches('+'))
}

#[test]
fn reads_licence_expressions() {
    let allowed = ["MIT".to_owned(), "Apache-2.0".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0-or-later", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT/Apache-2.0", true),
        ("(GPL-3.0 OR MIT) AND Apache-2.0", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("Apache-2.0+", true),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}

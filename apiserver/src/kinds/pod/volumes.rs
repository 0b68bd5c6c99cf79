//! Validation of a pod's volumes.

use std::collections::{BTreeMap, HashSet};

use api::names;
use serde_json::Value;

use super::containers::pull_policy;
use super::env::{field_ref, resource_ref};
use super::validate::Owner;
use crate::kinds::certificates::{signer_name, trust_bundle_name};
use crate::kinds::claim;
use crate::kinds::common::{label_selector, parse_quantity};
use crate::kinds::field::{Errors, Field, text};
use crate::kinds::volume_source::{self, Holder, present};

const FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// In the order in which upstream looks for them.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];
const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const CONFLICT: &str = "conflicting duplicate paths";
const TOKEN_SECONDS: std::ops::RangeInclusive<i64> = 600..=1 << 32;

/// Checks the volumes and answers the valid ones by name, for the mounts.
pub fn volumes<'a>(list: &Field<'a>, owner: Owner<'_>, errors: &mut Errors) -> BTreeMap<&'a str, &'a Value> {
    let all = list.value.as_array().map(Vec::as_slice).unwrap_or_default();
    let own_claims: HashSet<String> = all
        .iter()
        .filter(|v| !owner.name.is_empty() && v.get("ephemeral").is_some())
        .map(|v| format!("{}-{}", owner.name, text(v, "/name")))
        .collect();
    let mut known = BTreeMap::new();
    for (volume, value) in list.items().zip(all) {
        let mut faults = Errors::new();
        source(&volume, owner, &mut faults);
        let name = volume.get("name");
        name.required_check(&mut faults, names::dns1123_label);
        if known.contains_key(name.str()) {
            name.duplicate(&mut faults);
        }
        if faults.is_empty() {
            known.insert(text(value, "/name"), value);
        }
        errors.extend(faults);
        let claim = text(value, "/persistentVolumeClaim/claimName");
        if own_claims.contains(claim) {
            errors.push(api::FieldError::invalid(
                format!("{volume}.persistentVolumeClaim.claimName"),
                claim,
                "must not reference a PVC that gets created for an ephemeral volume",
            ));
        }
    }
    known
}

fn source(volume: &Field<'_>, owner: Owner<'_>, errors: &mut Errors) {
    let mut found = false;
    for kind in present(volume.value, SOURCES) {
        let source = volume.get(kind);
        if found {
            let shown = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                _ => kind,
            };
            volume
                .get(shown)
                .forbidden(errors, "may not specify more than 1 volume type");
        } else {
            found = true;
            one_source(volume, kind, &source, owner, errors);
        }
        if kind == "iscsi" {
            volume_source::iscsi_portal(volume, errors);
        }
    }
    if !found {
        volume.required(errors, "must specify a volume type");
    }
}

fn one_source(volume: &Field<'_>, kind: &str, source: &Field<'_>, owner: Owner<'_>, errors: &mut Errors) {
    match kind {
        "emptyDir" => {
            let limit = source.get("sizeLimit");
            if parse_quantity(limit.value).is_some_and(|q| q.is_negative()) {
                limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
            }
        }
        "secret" => keyed(source, "secretName", errors),
        "configMap" => keyed(source, "name", errors),
        "downwardAPI" => {
            mode(&source.get("defaultMode"), errors);
            let items = source.get("items");
            items.items().for_each(|item| downward_file(source, &item, errors));
        }
        "projected" => projected(source, errors),
        "persistentVolumeClaim" => source.require(errors, &["claimName"]),
        "ephemeral" => ephemeral(volume, source, owner, errors),
        "image" => {
            if owner.is_pod {
                source.require(errors, &["reference"]);
            }
            pull_policy(&source.get("pullPolicy"), errors);
        }
        "gcePersistentDisk" => {
            let shown = volume.get("persistentDisk");
            volume_source::validate(kind, &shown.showing(source.value), Holder::Pod, errors);
        }
        _ => volume_source::validate(kind, source, Holder::Pod, errors),
    }
}

fn ephemeral(volume: &Field<'_>, source: &Field<'_>, owner: Owner<'_>, errors: &mut Errors) {
    let template = source.get("volumeClaimTemplate");
    if template.exists() {
        claim::template(&template, errors);
    } else {
        template.required(errors, "");
    }
    let name = volume.get("name");
    if owner.name.is_empty() || name.is_empty() {
        return;
    }
    let claim = format!("{}-{}", owner.name, name.str());
    for detail in names::dns1123_subdomain(&claim) {
        name.invalid(errors, format!("PVC name {claim:?}: {detail}"));
    }
}

fn mode(field: &Field<'_>, errors: &mut Errors) {
    if field.int().is_some_and(|n| !(0..=0o777).contains(&n)) {
        field.invalid(errors, MODE);
    }
}

fn keys(source: &Field<'_>, errors: &mut Errors) {
    let items = source.get("items");
    for item in items.items() {
        item.require(errors, &["key", "path"]);
        local(&item.get("path"), errors);
        mode(&item.get("mode"), errors);
    }
}

fn keyed(source: &Field<'_>, name: &str, errors: &mut Errors) {
    source.require(errors, &[name]);
    mode(&source.get("defaultMode"), errors);
    keys(source, errors);
}

/// One file of the downward API. Upstream's paths are those of the source.
fn downward_file(source: &Field<'_>, item: &Field<'_>, errors: &mut Errors) {
    let at = source.showing(item.value);
    at.require(errors, &["path"]);
    local(&at.get("path"), errors);
    let (by_field, by_resource) = (at.get("fieldRef"), at.get("resourceFieldRef"));
    if by_field.exists() {
        field_ref(&by_field, FIELDS, errors);
        if by_resource.exists() {
            at.invalid_as(
                errors,
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            );
        }
    } else if by_resource.exists() {
        resource_ref(&by_resource, true, errors);
    } else {
        at.required(errors, "one of fieldRef and resourceFieldRef is required");
    }
    mode(&at.get("mode"), errors);
}

fn projected(volume: &Field<'_>, errors: &mut Errors) {
    const PARTS: [&str; 6] = [
        "secret",
        "configMap",
        "downwardAPI",
        "serviceAccountToken",
        "clusterTrustBundle",
        "podCertificate",
    ];
    mode(&volume.get("defaultMode"), errors);
    let mut paths = HashSet::new();
    for source in volume.get("sources").items() {
        for kind in ["secret", "configMap"] {
            let part = source.get(kind);
            if part.exists() {
                part.require(errors, &["name"]);
                keys(&part, errors);
                let items = part.get("items");
                for item in items.items() {
                    distinct(
                        volume,
                        item.get("path").str(),
                        part.get("name").str(),
                        &mut paths,
                        errors,
                    );
                }
            }
        }
        let part = source.get("downwardAPI");
        let items = part.get("items");
        for item in items.items() {
            downward_file(&part, &item, errors);
            let path = item.get("path");
            distinct(volume, path.str(), path.str(), &mut paths, errors);
        }
        token(volume, &source.get("serviceAccountToken"), errors);
        let bundle = source.get("clusterTrustBundle");
        if bundle.exists() {
            trust_bundle(&bundle, errors);
            let path = bundle.get("path");
            distinct(volume, path.str(), path.str(), &mut paths, errors);
        }
        if PARTS.iter().filter(|part| source.get(part).exists()).count() > 1 {
            source.forbidden(errors, "may not specify more than 1 volume type per source");
        }
    }
}

fn distinct(volume: &Field<'_>, path: &str, shown: &str, seen: &mut HashSet<String>, errors: &mut Errors) {
    if !path.is_empty() && !seen.insert(path.to_owned()) {
        volume.invalid_as(errors, shown, CONFLICT);
    }
}

fn token(volume: &Field<'_>, token: &Field<'_>, errors: &mut Errors) {
    if !token.exists() {
        return;
    }
    let (seconds, path) = (token.get("expirationSeconds"), token.get("path"));
    if seconds.number() < *TOKEN_SECONDS.start() {
        seconds.invalid_as(
            errors,
            seconds.number(),
            "may not specify a duration less than 10 minutes",
        );
    } else if seconds.number() > *TOKEN_SECONDS.end() {
        seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
    }
    let shown = volume.get("path").showing(path.value);
    if path.is_empty() {
        shown.required(errors, "");
    } else {
        local(&shown, errors);
    }
}

fn trust_bundle(bundle: &Field<'_>, errors: &mut Errors) {
    let (name, signer, selector) = (
        bundle.get("name"),
        bundle.get("signerName"),
        bundle.get("labelSelector"),
    );
    match (name.exists(), signer.exists()) {
        (true, true) => bundle.invalid(errors, "only one of name and signerName may be used"),
        (true, false) => {
            if name.is_empty() {
                name.required(errors, "must be a valid object name");
            }
            for detail in trust_bundle_name(name.str(), None) {
                name.invalid_as(
                    errors,
                    name.str(),
                    format!("not a valid clustertrustbundlename: {detail}"),
                );
            }
            if selector.exists() {
                selector.invalid(errors, "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.is_empty() {
                signer.required(errors, "must be a valid signer name");
            }
            signer_name(&signer, errors);
            label_selector(&selector, errors);
        }
        (false, false) => bundle.required(errors, "either name or signerName must be specified"),
    }
    bundle.require(errors, &["path"]);
    local(&bundle.get("path"), errors);
}

/// Whether a path has a part that leads upwards.
pub fn climbs(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// A relative path that never leads upwards.
pub fn descending(path: &Field<'_>, errors: &mut Errors) {
    if path.str().starts_with('/') {
        path.invalid(errors, "must be a relative path");
    }
    if climbs(path.str()) {
        path.invalid(errors, "must not contain '..'");
    }
}

/// The same, and its first part is no name that the kubelet keeps for itself.
pub fn local(path: &Field<'_>, errors: &mut Errors) {
    descending(path, errors);
    if path.str().starts_with("..") && !path.str().starts_with("../") {
        path.invalid(errors, "must not start with '..'");
    }
}

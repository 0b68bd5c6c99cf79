//! The kinds of storage that pods and PersistentVolumes name alike.

use api::names;
use serde_json::Value;

use super::field::{Errors, Field};
use super::pod::volumes::{climbs, descending};

const HOST_PATH_TYPES: &[&str] = &[
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
const PORTAL_LIMIT: usize = 64;
/// Why a volume's name and its portal together are too long.
const PORTAL: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
const DRIVER_LIMIT: usize = 63;

/// Who names the storage.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Holder<'a> {
    /// A pod, whose references are to its own namespace.
    Pod,
    /// The PersistentVolume of that name.
    Volume(&'a str),
}

/// Checks a source of storage of that kind (its JSON name).
pub fn validate(kind: &str, source: &Field<'_>, holder: Holder<'_>, errors: &mut Errors) {
    let in_volume = holder != Holder::Pod;
    match kind {
        "hostPath" | "local" => host_path(source, errors),
        "gitRepo" => {
            source.require(errors, &["repository"]);
            descending(&source.get("directory"), errors);
        }
        "gcePersistentDisk" => disk(source, "pdName", errors),
        "awsElasticBlockStore" => disk(source, "volumeID", errors),
        "nfs" => {
            source.require(errors, &["server", "path"]);
            if !source.get("path").str().starts_with('/') {
                source
                    .get("path")
                    .invalid_as(errors, source.get("path").str(), "must be an absolute path");
            }
        }
        "iscsi" => iscsi(source, holder, errors),
        "glusterfs" => glusterfs(source, in_volume, errors),
        "flocker" => flocker(source, errors),
        "rbd" => source.require(errors, &["monitors", "image"]),
        "cinder" => {
            source.require(errors, &["volumeID"]);
            secret(&source.get("secretRef"), in_volume, errors);
        }
        "cephfs" => source.require(errors, &["monitors"]),
        "quobyte" => quobyte(source, errors),
        "fc" => fibre_channel(source, errors),
        "flexVolume" => flex(source, errors),
        "azureFile" => {
            source.require(errors, &["secretName", "shareName"]);
            let namespace = source.get("secretNamespace");
            if namespace.exists() && namespace.is_empty() {
                namespace.required(errors, "");
            }
        }
        "azureDisk" => azure_disk(source, errors),
        "vsphereVolume" => source.require(errors, &["volumePath"]),
        "photonPersistentDisk" => source.require(errors, &["pdID"]),
        "portworxVolume" => source.require(errors, &["volumeID"]),
        "scaleIO" => source.require(errors, &["gateway", "system", "volumeName"]),
        "storageos" => {
            source.get("volumeName").required_check(errors, names::dns1123_label);
            source.get("volumeNamespace").check_if_set(errors, names::dns1123_label);
            secret(&source.get("secretRef"), in_volume, errors);
        }
        "csi" if in_volume => csi(source, errors),
        "csi" => {
            driver_name(&source.get("driver"), errors);
            let reference = source.get("nodePublishSecretRef");
            if reference.exists() {
                reference.get("name").required_check(errors, names::dns1123_subdomain);
            }
        }
        _ => {}
    }
}

fn host_path(source: &Field<'_>, errors: &mut Errors) {
    let path = source.get("path");
    if path.is_empty() {
        return path.required(errors, "");
    }
    if climbs(path.str()) {
        path.invalid(errors, "must not contain '..'");
    }
    source.get("type").one_of_if_set(errors, HOST_PATH_TYPES);
}

fn disk(source: &Field<'_>, id: &str, errors: &mut Errors) {
    source.require(errors, &[id]);
    let partition = source.get("partition");
    if !(0..=255).contains(&partition.number()) {
        partition.invalid(errors, "must be between 1 and 255, inclusive");
    }
}

fn secret(reference: &Field<'_>, with_namespace: bool, errors: &mut Errors) {
    if reference.exists() {
        reference.require(
            errors,
            if with_namespace {
                &["name", "namespace"]
            } else {
                &["name"]
            },
        );
    }
}

fn iscsi(source: &Field<'_>, holder: Holder<'_>, errors: &mut Errors) {
    let (portal, name, lun) = (source.get("targetPortal"), source.get("iqn"), source.get("lun"));
    let (initiator, reference) = (source.get("initiatorName"), source.get("secretRef"));
    source.require(errors, &["targetPortal"]);
    if let Holder::Volume(volume) = holder
        && initiator.exists()
        && volume.len() + 1 + portal.str().len() > PORTAL_LIMIT
    {
        source.get("targetportal").invalid_as(errors, portal.str(), PORTAL);
    }
    if name.is_empty() {
        name.required(errors, "");
    } else {
        iscsi_name(&name, errors);
    }
    lun.in_range(errors, 0, 255);
    let secured = source.get("chapAuthDiscovery").bool() || source.get("chapAuthSession").bool();
    if secured && !reference.exists() {
        reference.required(errors, "");
    }
    if holder != Holder::Pod && reference.exists() {
        reference.require(errors, &["name"]);
    }
    if initiator.exists() {
        iscsi_name(&source.get("initiatorname").showing(initiator.value), errors);
    }
}

/// The fault of a pod's volume whose name and portal are too long together.
pub fn iscsi_portal(volume: &Field<'_>, errors: &mut Errors) {
    let source = volume.get("iscsi");
    let (name, portal) = (volume.get("name"), source.get("targetPortal"));
    if source.get("initiatorName").exists() && name.str().len() + 1 + portal.str().len() > PORTAL_LIMIT {
        name.invalid_as(errors, name.str(), PORTAL);
    }
}

fn iscsi_name(field: &Field<'_>, errors: &mut Errors) {
    let text = field.str();
    let id = |prefix: &str, length: usize| {
        text.strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix(|_: char| true))
            .is_some_and(|id| id.len() == length && id.bytes().all(|b| b.is_ascii_alphanumeric()))
    };
    let fine = match text.get(..3) {
        Some("iqn") => is_qualified_name(text),
        Some("eui") => id("eui", 16),
        Some("naa") => id("naa", 32),
        _ => return field.invalid(errors, "must be valid format starting with iqn, eui, or naa"),
    };
    if !fine {
        field.invalid(errors, "must be valid format");
    }
}

/// `iqn.2001-04.com.example:storage`.
fn is_qualified_name(text: &str) -> bool {
    let Some((date, rest)) = text.strip_prefix("iqn.").and_then(|t| t.split_once('.')) else {
        return false;
    };
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    let dated = date.split_once('-').is_some_and(|(y, m)| digits(y, 4) && digits(m, 2));
    let Some((authority, own)) = rest.split_once(':') else {
        return false;
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    let owned =
        !own.is_empty() && !own.contains([',', '^', ';', '*', '&', '$', '|']) && !own.contains(char::is_whitespace);
    dated && !authority.is_empty() && authority.bytes().all(plain) && owned
}

fn glusterfs(source: &Field<'_>, in_volume: bool, errors: &mut Errors) {
    source.require(errors, &["endpoints", "path"]);
    let namespace = source.get("endpointsNamespace");
    if !in_volume || !namespace.exists() {
        return;
    }
    if namespace.is_empty() {
        namespace.invalid(
            errors,
            "if the endpointnamespace is set, it must be a valid namespace name",
        );
    } else {
        namespace.check(errors, names::dns1123_label);
    }
}

fn flocker(source: &Field<'_>, errors: &mut Errors) {
    let (name, id) = (source.get("datasetName"), source.get("datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => source.required(errors, "one of datasetName and datasetUUID is required"),
        (false, false) => source.invalid_as(
            errors,
            "resource",
            "datasetName and datasetUUID can not be specified simultaneously",
        ),
        _ => {}
    }
    if name.str().contains('/') {
        name.invalid(errors, "must not contain '/'");
    }
}

fn quobyte(source: &Field<'_>, errors: &mut Errors) {
    const TENANT_LIMIT: usize = 65;
    let (registry, tenant) = (source.get("registry"), source.get("tenant"));
    if registry.is_empty() {
        registry.required(errors, PAIRS);
    } else if tenant.str().len() >= TENANT_LIMIT {
        tenant.required(errors, "must be a UUID and may not exceed a length of 64 characters");
    } else {
        for _ in registry.str().split(',').filter(|pair| !pair.contains(':')) {
            registry.invalid(errors, PAIRS);
        }
    }
    source.require(errors, &["volume"]);
}

fn fibre_channel(source: &Field<'_>, errors: &mut Errors) {
    let (targets, ids, lun) = (source.get("targetWWNs"), source.get("wwids"), source.get("lun"));
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => targets.required(errors, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => targets.invalid(errors, "targetWWNs and wwids can not be specified simultaneously"),
        _ => {}
    }
    if !targets.is_empty() && !lun.exists() {
        lun.required(errors, "lun is required if targetWWNs is specified");
    } else if !targets.is_empty() {
        lun.in_range(errors, 0, 255);
    }
}

fn flex(source: &Field<'_>, errors: &mut Errors) {
    source.require(errors, &["driver"]);
    let options = source.get("options");
    for (key, entry) in options.entries() {
        let namespace = format!(".{}", key.split_once('/').map_or(key, |(n, _)| n).to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            entry.invalid_as(errors, key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(source: &Field<'_>, errors: &mut Errors) {
    source.require(errors, &["diskName", "diskURI"]);
    source
        .get("cachingMode")
        .one_of_if_set(errors, &["None", "ReadOnly", "ReadWrite"]);
    let (kind, uri) = (source.get("kind"), source.get("diskURI"));
    kind.one_of_if_set(errors, &["Dedicated", "Managed", "Shared"]);
    if !kind.exists() {
        return;
    }
    if kind.str() == "Managed" && !uri.str().starts_with("/subscriptions/") {
        uri.not_supported(
            errors,
            &["/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"],
        );
    } else if kind.str() != "Managed" && !uri.str().starts_with("https://") {
        uri.not_supported(
            errors,
            &["https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"],
        );
    }
}

/// The name of a CSI driver.
pub fn driver_name(name: &Field<'_>, errors: &mut Errors) {
    if name.is_empty() {
        name.required(errors, "");
    }
    if name.str().len() > DRIVER_LIMIT {
        name.too_long(errors, DRIVER_LIMIT);
    }
    for detail in names::dns1123_subdomain(&name.str().to_lowercase()) {
        name.invalid_as(errors, name.str(), detail);
    }
}

fn csi(source: &Field<'_>, errors: &mut Errors) {
    driver_name(&source.get("driver"), errors);
    source.require(errors, &["volumeHandle"]);
    for name in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let reference = source.get(name);
        if reference.exists() {
            reference.get("name").required_check(errors, names::dns1123_subdomain);
            reference.get("namespace").required_check(errors, names::dns1123_label);
        }
    }
}

/// The sources that a value has, in the order of a list.
pub fn present<'a>(value: &Value, kinds: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    kinds
        .iter()
        .copied()
        .filter(move |kind| value.get(kind).is_some_and(|v| !v.is_null()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iscsi_names() {
        for (name, fine) in [
            ("iqn.2001-04.com.example:storage.disk1", true),
            ("eui.0123456789abcdef", true),
            ("naa.62004567ba64678d0123456789abcdef", true),
            ("iqn.2001-04.com.example", false),
            ("eui.0", false),
            ("foo", false),
        ] {
            let value = Value::from(name);
            let mut errors = Errors::new();
            iscsi_name(&Field::root("iqn", &value), &mut errors);
            assert_eq!(errors.is_empty(), fine, "{name}");
        }
    }
}

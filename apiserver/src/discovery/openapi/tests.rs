use std::collections::{BTreeSet, HashSet};
use std::io::Read;

use super::*;
use crate::registry::strategy::Strategy;
use crate::registry::{Rules, kinds};

fn text(document: &Document) -> Vec<u8> {
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&document.packed[..])
        .read_to_end(&mut text)
        .unwrap();
    text
}

fn json(document: &Document) -> Value {
    serde_json::from_slice(&text(document)).unwrap()
}

/// Every document, with where its schemas are.
fn all(documents: &Documents) -> Vec<(String, Value, &'static str)> {
    let roots: BTreeSet<String> = kinds().iter().map(|kind| root(&kind.info)).collect();
    let mut all = vec![(
        "v2".to_owned(),
        json(&documents.swagger(kinds(), Encoding::Json).unwrap()),
        "/definitions",
    )];
    all.extend(roots.into_iter().map(|root| {
        let document = documents.version(kinds(), &root, Encoding::Json).unwrap().unwrap();
        (root, json(&document), "/components/schemas")
    }));
    all
}

/// Calls back with every object of a tree.
fn walk(value: &Value, visit: &mut impl FnMut(&Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            visit(map);
            map.values().for_each(|child| walk(child, visit));
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
        _ => {}
    }
}

#[test]
fn every_kind_is_explained() {
    let mut faults = BTreeSet::new();
    for (_, document, schemas) in all(&Documents::default()) {
        for (definition, schema) in document.pointer(schemas).and_then(Value::as_object).unwrap() {
            if schema.get("description").is_none() {
                faults.insert(format!("{definition} has no description"));
            }
            for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
                if !["type", "$ref", "allOf"].iter().any(|word| schema.get(*word).is_some()) {
                    faults.insert(format!("{definition}.{property} has no type"));
                }
                if schema.get("description").is_none() {
                    faults.insert(format!("{definition}.{property} has no description"));
                }
            }
        }
    }
    // Upstream has no word for these either.
    let silent = [
        ".WatchEvent.",
        ".JSONSchemaProps.",
        ".ExternalDocumentation.",
        ".IngressRule.http ",
        ".CertificateSigningRequest.metadata ",
    ];
    faults.retain(|fault| fault.ends_with("type") || !silent.iter().any(|place| fault.contains(place)));
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_reference_leads_to_a_schema() {
    for (name, document, schemas) in all(&Documents::default()) {
        walk(&document, &mut |map| {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let target = reference
                    .strip_prefix(&format!("#{schemas}/"))
                    .unwrap_or_else(|| panic!("{name}: {reference}"));
                assert!(
                    document.pointer(schemas).unwrap().get(target).is_some(),
                    "{name}: {reference}"
                );
            }
        });
    }
}

#[test]
fn every_served_kind_is_found_by_its_group_version_kind() {
    let documents = all(&Documents::default());
    for info in kinds().iter().map(|kind| &kind.info) {
        let wanted = serde_json::json!({"group": info.group, "version": info.version, "kind": info.kind});
        for (_, document, schemas) in documents
            .iter()
            .filter(|(name, ..)| *name == "v2" || *name == root(info))
        {
            let found = document
                .pointer(schemas)
                .unwrap()
                .as_object()
                .unwrap()
                .values()
                .filter(|schema| {
                    schema["x-kubernetes-group-version-kind"]
                        .as_array()
                        .is_some_and(|list| list.contains(&wanted))
                });
            assert_eq!(found.count(), 1, "{wanted}");
        }
    }
}

#[test]
fn operations_are_complete_and_have_ids_of_their_own() {
    let documents = Documents::default();
    let swagger = json(&documents.swagger(kinds(), Encoding::Json).unwrap());
    let mut ids = HashSet::new();
    for (path, item) in swagger["paths"].as_object().unwrap() {
        for (method, operation) in item
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "parameters")
        {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{method} {path}: {id} is there twice");
            assert!(operation["responses"]["401"].is_object(), "{path}");
        }
        for part in path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        {
            let named = item["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == part && p["in"] == "path" && p["required"] == true);
            assert!(named, "{path}: {part}");
        }
    }
    for id in [
        "listCoreV1NamespacedPod",
        "listCoreV1PodForAllNamespaces",
        "createAppsV1NamespacedDeployment",
        "deleteCoreV1CollectionNamespacedPod",
        "replaceAppsV1NamespacedDeploymentScale",
        "readCoreV1NamespacedPodLog",
        "connectCoreV1GetNamespacedPodExec",
        "connectCoreV1GetNamespacedServiceProxyWithPath",
        "watchCoreV1NamespacedPodList",
        "watchCoreV1PodListForAllNamespaces",
        "createRbacAuthorizationV1ClusterRole",
        "createCoreV1NamespacedServiceAccountToken",
        "patchFlowcontrolApiserverV1FlowSchemaStatus",
        "listStorageV1StorageClass",
        "getAppsV1APIResources",
        "readCoreV1Node",
        "deleteCoreV1Node",
        "createCoreV1NamespacedPodEviction",
    ] {
        assert!(ids.contains(id), "{id}");
    }
}

#[test]
fn properties_carry_what_apply_and_patches_need() {
    let documents = Documents::default();
    let core = json(&documents.version(kinds(), "api/v1", Encoding::Json).unwrap().unwrap());
    let swagger = json(&documents.swagger(kinds(), Encoding::Json).unwrap());
    for schemas in [&core["components"]["schemas"], &swagger["definitions"]] {
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], serde_json::json!(["name"]));
        assert_eq!(
            schemas["io.k8s.api.core.v1.PodSpec"]["required"],
            serde_json::json!(["containers"])
        );
        assert_eq!(schemas["io.k8s.api.core.v1.Pod"].get("required"), None);
        assert_eq!(
            schemas["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"],
            "atomic"
        );
        let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    }
    let v3 = &core["components"]["schemas"];
    let protocol = &v3["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"];
    assert_eq!(protocol["default"], "TCP");
    let spec = &v3["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(
        spec["allOf"][0]["$ref"],
        "#/components/schemas/io.k8s.api.core.v1.PodSpec"
    );
    let patch = &swagger["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == name),
            "{name}"
        );
    }
}

/// Reads a message to its end as protobuf: every length fits, every key is known to the format. Answers its fields.
fn fields(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
    use prost::encoding::{WireType, decode_key, decode_varint};
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (tag, ty) = decode_key(&mut bytes).unwrap();
        let length = match ty {
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut bytes).unwrap()).unwrap(),
            WireType::Varint => {
                decode_varint(&mut bytes).unwrap();
                0
            }
            WireType::SixtyFourBit => 8,
            other => panic!("{other:?}"),
        };
        let (field, rest) = bytes.split_at(length);
        found.push((tag, field));
        bytes = rest;
    }
    found
}

fn the<'a>(fields: &[(u32, &'a [u8])], tag: u32) -> Vec<&'a [u8]> {
    fields
        .iter()
        .filter(|(t, _)| *t == tag)
        .map(|(_, bytes)| *bytes)
        .collect()
}

#[test]
fn protobuf_says_what_the_json_says() {
    let documents = Documents::default();
    let of_json = documents.swagger(kinds(), Encoding::Json).unwrap();
    let packed = documents.swagger(kinds(), Encoding::Protobuf).unwrap();
    assert_eq!(packed.etag, of_json.etag);
    let (of_json, bytes) = (json(&of_json), text(&packed));
    let document = fields(&bytes);
    assert_eq!(the(&document, 1), [b"2.0"]);
    let definitions = fields(the(&document, 9)[0]);
    assert_eq!(definitions.len(), of_json["definitions"].as_object().unwrap().len());
    let (_, pod) = definitions
        .iter()
        .find(|(_, pair)| the(&fields(pair), 1) == [b"io.k8s.api.core.v1.Pod"])
        .unwrap();
    let schema = fields(the(&fields(pod), 2)[0]);
    assert_eq!(the(&fields(the(&schema, 22)[0]), 1), [b"object"]);
    assert_eq!(
        fields(the(&schema, 25)[0]).len(),
        5,
        "apiVersion, kind, metadata, spec, status"
    );
    let extension = fields(the(&schema, 31)[0]);
    assert_eq!(the(&extension, 1), [b"x-kubernetes-group-version-kind"]);
    let yaml = the(&fields(the(&extension, 2)[0]), 2)[0].to_vec();
    let kinds_of: Value = serde_json::from_slice(&yaml).unwrap();
    assert_eq!(kinds_of[0]["kind"], "Pod");
    assert_eq!(
        the(&fields(the(&document, 8)[0]), 2).len(),
        of_json["paths"].as_object().unwrap().len()
    );
}

#[test]
fn protobuf_of_a_version_has_its_schemas_and_paths() {
    let documents = Documents::default();
    let of_json = json(
        &documents
            .version(kinds(), "apis/apps/v1", Encoding::Json)
            .unwrap()
            .unwrap(),
    );
    let bytes = text(
        &documents
            .version(kinds(), "apis/apps/v1", Encoding::Protobuf)
            .unwrap()
            .unwrap(),
    );
    let document = fields(&bytes);
    assert_eq!(the(&document, 1), [b"3.0.0"]);
    assert_eq!(
        the(&fields(the(&document, 4)[0]), 1).len(),
        of_json["paths"].as_object().unwrap().len()
    );
    let schemas = fields(the(&fields(the(&document, 5)[0]), 1)[0]);
    assert_eq!(
        schemas.len(),
        of_json["components"]["schemas"].as_object().unwrap().len()
    );
}

#[test]
fn documents_are_made_once_and_hashes_tell_them_apart() {
    let documents = Documents::default();
    let index = documents.index(kinds()).unwrap();
    let paths = index["paths"].as_object().unwrap();
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = documents
        .version(kinds(), "apis/apps/v1", Encoding::Json)
        .unwrap()
        .unwrap();
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", document.etag));
    assert_eq!(document.etag.len(), 128);
    let hashes: HashSet<_> = paths.values().collect();
    assert_eq!(hashes.len(), paths.len());
    let again = documents
        .version(kinds(), "apis/apps/v1", Encoding::Json)
        .unwrap()
        .unwrap();
    assert_eq!(again.packed.as_ptr(), document.packed.as_ptr());
    assert!(
        documents
            .version(kinds(), "apis/nothing/v1", Encoding::Json)
            .unwrap()
            .is_none()
    );
}

/// A definition's version, as far as documents know it.
struct Version(Value);

impl Strategy for Version {
    fn document(&self) -> Option<Arc<Value>> {
        Some(Arc::new(self.0.clone()))
    }
}

fn custom_kind(schema: Value) -> Arc<Kind> {
    let mut info = api::resources::find("apps", "v1", "deployments").unwrap().clone();
    (info.group, info.resource, info.singular) = ("stable.example.com".into(), "crontabs".into(), "crontab".into());
    (info.kind, info.list_kind) = ("CronTab".into(), "CronTabList".into());
    (info.short_names, info.categories, info.subresources) = Default::default();
    info.message = api::resources::custom_message().unwrap();
    let info = Arc::new(info);
    Arc::new(Kind {
        storage: info.clone(),
        info,
        strategy: Rules::Custom(Arc::new(Version(schema))),
        prefix: "stable.example.com/crontabs/".into(),
    })
}

#[test]
fn a_custom_kind_is_published_and_withdrawn() {
    let documents = Documents::default();
    let before = documents.swagger(kinds(), Encoding::Json).unwrap();
    let custom = custom_kind(
        serde_json::json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "cron": {"type": "string", "default": "* * * * *", "description": "When."}}}}}),
    );
    let with: Vec<_> = kinds().iter().cloned().chain([custom]).collect();
    let swagger = json(&documents.swagger(&with, Encoding::Json).unwrap());
    let definition = &swagger["definitions"]["com.example.stable.v1.CronTab"];
    assert_eq!(
        definition["properties"]["spec"]["properties"]["cron"],
        serde_json::json!({"type": "string", "description": "When."})
    );
    assert_eq!(definition["x-kubernetes-group-version-kind"][0]["kind"], "CronTab");
    assert!(swagger["definitions"]["com.example.stable.v1.CronTabList"].is_object());
    assert!(
        swagger["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]["patch"].is_object()
    );
    let own = documents
        .version(&with, "apis/stable.example.com/v1", Encoding::Json)
        .unwrap()
        .unwrap();
    let cron = json(&own)["components"]["schemas"]["com.example.stable.v1.CronTab"]["properties"]["spec"]["properties"]
        ["cron"]
        .clone();
    assert_eq!(cron["default"], "* * * * *");
    assert!(
        documents.index(&with).unwrap()["paths"]
            .get("apis/stable.example.com/v1")
            .is_some()
    );
    assert!(
        documents.index(kinds()).unwrap()["paths"]
            .get("apis/stable.example.com/v1")
            .is_none()
    );
    assert_eq!(documents.swagger(kinds(), Encoding::Json).unwrap().etag, before.etag);
}

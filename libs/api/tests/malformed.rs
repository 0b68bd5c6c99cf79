//! Input that no one should send: every decoder answers, none panics, and the answers are upstream's.

use api::codec::{self, parse_json, parse_json_strict, parse_yaml, proto_to_json, proto_to_value, value_to_proto};
use api::core::v1::Pod;
use api::{Object, schema};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A pod that uses inlined messages, maps, lists, quantities, times and raw JSON.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "labels": {"a": "b", "c": "d"}, "creationTimestamp": "2024-01-01T00:00:00Z",
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
        "spec": {"volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "1500m"}},
                "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 3}}]},
    })
}

#[test]
fn wrong_types_are_named_as_go_names_them() {
    let deployment = schema::for_kind("apps", "v1", "Deployment").unwrap();
    let table = [
        (
            json!({"spec": {"replicas": "x"}}),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"replicas": 1.5}}),
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"replicas": 3_000_000_000i64}}),
            "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}}}),
            "json: cannot unmarshal number into Go struct field EnvVar.spec.template.spec.containers.env.value of type string",
        ),
        (
            json!({"spec": {"template": {"spec": {"containers": {}}}}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type []v1.Container",
        ),
        (
            json!({"metadata": {"labels": ["a"]}}),
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
        ),
        (
            json!({"spec": 1}),
            "json: cannot unmarshal number into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            json!([]),
            "json: cannot unmarshal array into Go value of type v1.Deployment",
        ),
        (
            json!({"spec": {"template": {"spec": {"overhead": {"cpu": "lots"}}}}}),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"metadata": {"creationTimestamp": "today"}}),
            "parsing time \"today\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"today\" as \"2006\"",
        ),
    ];
    for (value, message) in table {
        assert_eq!(
            value_to_proto(deployment, &value).unwrap_err().to_string(),
            message,
            "{value}"
        );
    }
}

#[test]
fn values_come_back_in_canonical_form() {
    let message = schema::for_kind("", "v1", "Pod").unwrap();
    let value = json!({"metadata": {"name": "a", "deletionTimestamp": "2024-01-01T02:00:00.9+02:00"}, "spec": {
        "hostNetwork": false, "automountServiceAccountToken": false, "nodeSelector": {}, "containers": [
            {"name": "c", "resources": {"requests": {"cpu": "0.5", "memory": 1024}}, "command": []}]}});
    let shown = proto_to_value(message, &value_to_proto(message, &value).unwrap()).unwrap();
    let expected = json!({"metadata": {"name": "a", "deletionTimestamp": "2024-01-01T00:00:00Z"}, "status": {}, "spec": {
        "automountServiceAccountToken": false,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1024"}}}]}});
    assert_eq!(shown, expected);
}

#[test]
fn json_has_upstreams_order_and_zero_values() {
    let shown = |kind, value: Value| {
        let message = schema::for_kind("", "v1", kind).unwrap();
        let mut out = vec![];
        proto_to_json(message, "v1", kind, &value_to_proto(message, &value).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        shown("Pod", json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}})),
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{},"spec":{"volumes":[{"name":"v","emptyDir":{}}],"containers":null},"status":{}}"#
    );
    assert_eq!(
        shown(
            "Pod",
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        ),
        r#"{"kind":"Pod","apiVersion":"v1","metadata":{},"spec":{"containers":null},"status":{"conditions":[{"type":"Ready","status":"True","lastProbeTime":null,"lastTransitionTime":null}]}}"#
    );
    assert_eq!(
        shown("PodList", json!({})),
        r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}"#
    );
    assert_eq!(
        shown("ConfigMap", json!({"data": {"b": "<&>", "a": ""}})),
        r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{},"data":{"a":"","b":"<&>"}}"#
    );
}

/// Takes the fields of the top level apart.
fn fields(message: &[u8]) -> Vec<&[u8]> {
    let mut rest = message;
    let mut fields = vec![];
    while !rest.is_empty() {
        let before = rest;
        let (tag, wire_type) = prost::encoding::decode_key(&mut rest).unwrap();
        prost::encoding::skip_field(wire_type, tag, &mut rest, Default::default()).unwrap();
        fields.push(&before[..before.len() - rest.len()]);
    }
    fields
}

#[test]
fn fields_in_any_order_and_in_parts_read_the_same() {
    let spec = schema::message("k8s.io.api.core.v1.PodSpec").unwrap();
    let value = json!({"volumes": [{"name": "v"}, {"name": "w"}], "nodeSelector": {"b": "1", "a": "2"}, "hostname": "h",
        "containers": [{"name": "c"}, {"name": "d"}], "securityContext": {"runAsUser": 1, "fsGroup": 2}});
    let proto = value_to_proto(spec, &value).unwrap();
    let expected = proto_to_value(spec, &proto).unwrap();
    // First each second field, then the others: lists are interleaved and maps out of order.
    let fields = fields(&proto);
    let interleaved: Vec<&[u8]> = fields
        .iter()
        .step_by(2)
        .chain(fields.iter().skip(1).step_by(2))
        .copied()
        .collect();
    let shuffled = proto_to_value(spec, &interleaved.concat()).unwrap();
    assert_eq!(shuffled["nodeSelector"], expected["nodeSelector"]);
    assert_eq!(shuffled["securityContext"], expected["securityContext"]);
    assert_eq!(shuffled["volumes"].as_array().map(Vec::len), Some(2));

    // A single message in two parts.
    let parts = [
        json!({"securityContext": {"runAsUser": 1}}),
        json!({"securityContext": {"fsGroup": 2}}),
    ];
    let parts = parts.map(|part| value_to_proto(spec, &part).unwrap()).concat();
    assert_eq!(
        proto_to_value(spec, &parts).unwrap()["securityContext"],
        expected["securityContext"]
    );
    let pod = schema::for_kind("", "v1", "Pod").unwrap();
    let mut message = vec![];
    prost::encoding::bytes::encode(2, &parts, &mut message);
    let typed = Pod::decode(&message).unwrap();
    let context = typed.spec.unwrap().security_context.unwrap();
    assert_eq!((context.run_as_user, context.fs_group), (Some(1), Some(2)));
    let mut json = b"kept".to_vec();
    proto_to_json(pod, "v1", "Pod", &message, &mut json).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&json[4..]).unwrap()["spec"]["securityContext"],
        expected["securityContext"]
    );
}

#[test]
fn nesting_is_bounded() {
    let schema = schema::message("k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").unwrap();
    let tag = schema.field("not").unwrap().tag;
    let mut message: Vec<u8> = vec![];
    for _ in 0..2000 {
        let mut outer = vec![];
        prost::encoding::bytes::encode(tag, &message, &mut outer);
        message = outer;
    }
    assert!(proto_to_value(schema, &message).is_err());
    let deep = (0..300).fold(json!({}), |inner, _| json!({ "not": inner }));
    assert!(value_to_proto(schema, &deep).is_err());
}

proptest! {
    #[test]
    fn damaged_messages_are_answered(at in 0usize..200, byte in any::<u8>(), cut in 0usize..200) {
        let message = schema::for_kind("", "v1", "Pod").unwrap();
        let mut proto = value_to_proto(message, &pod()).unwrap();
        let length = proto.len();
        proto[at % length] = byte;
        proto.truncate(length - cut % length / 4);
        let mut out = b"kept".to_vec();
        let json = proto_to_json(message, "v1", "Pod", &proto, &mut out);
        prop_assert_eq!(json.is_ok(), proto_to_value(message, &proto).is_ok());
        if json.is_ok() {
            prop_assert!(serde_json::from_slice::<Value>(&out[4..]).is_ok());
        } else {
            prop_assert_eq!(&*out, b"kept");
        }
        let _ = Pod::decode(&proto);
        let _ = codec::object_meta(&proto);
        let _ = codec::unwrap(&proto);
        let _ = codec::set_resource_version(&proto, 7);
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let message = schema::for_kind("", "v1", "Pod").unwrap();
        let _ = proto_to_value(message, &bytes);
        let _ = Pod::decode(&bytes);
        let _ = parse_json(&bytes);
        let _ = parse_json_strict(&bytes);
        let _ = parse_yaml(&bytes);
    }

    #[test]
    fn any_text_of_json_or_yaml_is_answered(text in "[]{}\\[:,\"a1&*!|> \n-]{0,40}") {
        let strict = parse_json_strict(text.as_bytes()).map(|(value, _)| value);
        prop_assert_eq!(strict, parse_json(text.as_bytes()));
        let _ = parse_yaml(text.as_bytes());
    }

    /// A value of any shape in the place of any field.
    #[test]
    fn any_value_is_answered(path in prop::sample::select(vec!["/metadata", "/metadata/labels", "/spec", "/spec/volumes", "/spec/volumes/0",
        "/spec/containers/0/resources/limits/cpu", "/spec/containers/0/livenessProbe/httpGet/port", "/metadata/creationTimestamp"]),
        value in prop::sample::select(vec![json!(null), json!(true), json!(-1), json!(1e300), json!("x"), json!([]), json!([null]), json!({}), json!({"a": [1]})])) {
        let message = schema::for_kind("", "v1", "Pod").unwrap();
        let mut pod = pod();
        if let Some(place) = pod.pointer_mut(path) {
            *place = value;
        }
        if let Ok(proto) = value_to_proto(message, &pod) {
            prop_assert!(proto_to_value(message, &proto).is_ok());
            prop_assert!(Pod::decode(&proto).is_ok());
        }
        let _ = codec::unknown_fields(message, &pod);
        codec::prune_unknown(message, &mut pod);
    }
}

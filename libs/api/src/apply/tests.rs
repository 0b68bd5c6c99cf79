use super::*;
use crate::schema::{self, Message};

fn deployment() -> &'static Message {
    schema::for_kind("apps", "v1", "Deployment").unwrap()
}

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer {
        manager,
        api_version: "apps/v1",
        subresource: "",
        now,
        ignored: &["status"],
    }
}

const T1: &str = "2024-01-01T00:00:01Z";
const T2: &str = "2024-01-01T00:00:02Z";

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
}

fn containers(list: Value) -> Value {
    config(json!({"template": {"spec": {"containers": list}}}))
}

fn applied(live: Option<&Value>, config: &Value, manager: &str, force: bool) -> Result<Value, Error> {
    apply(&deployment(), live, config, writer(manager, T2), force)
}

fn fields_of(object: &Value, manager: &str, operation: &str) -> Option<Value> {
    let list = object["metadata"]["managedFields"].as_array()?;
    let found = list
        .iter()
        .find(|entry| entry["manager"] == manager && entry["operation"] == operation)?;
    Some(found["fieldsV1"].clone())
}

#[test]
fn creating_tracks_what_was_set() {
    let mut new = config(json!({
        "replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "strategy": {"rollingUpdate": {"maxSurge": 1}, "type": "RollingUpdate"},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": "i", "resources": {}, "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}},
    }));
    new["metadata"]["labels"] = json!({"app": "web"});
    new["status"] = json!({});
    update(&deployment(), None, &mut new, writer("kubectl-create", T1)).unwrap();
    // What a Kubernetes API server writes for the same object.
    let expected = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:replicas": {}, "f:selector": {},
            "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
            "f:template": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                }}},
            },
        },
    });
    assert_eq!(fields_of(&new, "kubectl-create", "Update"), Some(expected));
    assert_eq!(new["metadata"]["managedFields"][0]["time"], T1);
}

#[test]
fn applying_owns_exactly_what_is_named() {
    let first = applied(
        None,
        &containers(json!([{"name": "c", "image": "1", "ports": [{"containerPort": 80}]}])),
        "a",
        false,
    )
    .unwrap();
    let expected = json!({"f:spec": {"f:template": {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
        ".": {}, "f:name": {}, "f:image": {},
        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
    }}}}}});
    assert_eq!(fields_of(&first, "a", "Apply"), Some(expected));
    // The same again changes nothing.
    let again = apply(
        &deployment(),
        Some(&first),
        &containers(json!([{"name": "c", "image": "1", "ports": [{"containerPort": 80}]}])),
        writer("a", "2030-01-01T00:00:00Z"),
        false,
    );
    assert_eq!(again, Ok(first));
}

#[test]
fn what_is_no_longer_applied_is_removed() {
    let first = applied(
        None,
        &containers(json!([{"name": "c", "image": "1", "args": ["x"]}, {"name": "d", "image": "2"}])),
        "a",
        false,
    )
    .unwrap();
    let second = applied(
        Some(&first),
        &containers(json!([{"name": "c", "image": "1"}])),
        "a",
        false,
    )
    .unwrap();
    assert_eq!(
        second["spec"]["template"]["spec"]["containers"],
        json!([{"name": "c", "image": "1"}])
    );
    // Unless another applier has it too.
    let shared = applied(
        Some(&first),
        &containers(json!([{"name": "d", "image": "2"}])),
        "b",
        false,
    )
    .unwrap();
    let third = applied(
        Some(&shared),
        &containers(json!([{"name": "c", "image": "1"}])),
        "a",
        false,
    )
    .unwrap();
    assert_eq!(
        third["spec"]["template"]["spec"]["containers"],
        json!([{"name": "c", "image": "1"}, {"name": "d", "image": "2"}])
    );
    // A struct all of whose fields go goes itself.
    let with = applied(
        None,
        &config(json!({"strategy": {"rollingUpdate": {"maxSurge": 1}}})),
        "a",
        false,
    )
    .unwrap();
    let without = applied(Some(&with), &config(json!({"replicas": 1})), "a", false).unwrap();
    assert_eq!(without["spec"]["strategy"].get("rollingUpdate"), None);
}

#[test]
fn conflicts_name_managers_and_fields() {
    let first = applied(None, &config(json!({"replicas": 1, "paused": true})), "a", false).unwrap();
    let change = config(json!({"replicas": 2}));
    let Err(Error::Conflict { message, causes }) = applied(Some(&first), &change, "b", false) else {
        panic!("no conflict")
    };
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"a\": .spec.replicas"
    );
    assert_eq!(causes[0].field.as_deref(), Some(".spec.replicas"));
    assert_eq!(causes[0].reason.as_deref(), Some("FieldManagerConflict"));

    // The same value is shared, without conflict.
    let shared = applied(Some(&first), &config(json!({"replicas": 1})), "b", false).unwrap();
    assert!(
        fields_of(&shared, "a", "Apply").unwrap()["f:spec"]
            .get("f:replicas")
            .is_some()
    );
    assert!(fields_of(&shared, "b", "Apply").is_some());

    let forced = applied(Some(&first), &change, "b", true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(
        fields_of(&forced, "a", "Apply"),
        Some(json!({"f:spec": {"f:paused": {}}}))
    );

    let both = config(json!({"replicas": 3, "paused": false}));
    let Err(Error::Conflict { message, .. }) = applied(Some(&first), &both, "b", false) else {
        panic!("no conflict")
    };
    assert_eq!(
        message,
        "Apply failed with 2 conflicts: conflicts with \"a\":\n- .spec.paused\n- .spec.replicas"
    );
}

#[test]
fn updates_take_fields_over() {
    let mut old = applied(None, &config(json!({"replicas": 1, "paused": true})), "a", false).unwrap();
    old["status"] = json!({});
    let mut new = old.clone();
    new["spec"]["replicas"] = 5.into();
    update(&deployment(), Some(&old), &mut new, writer("scaler", T2)).unwrap();
    assert_eq!(fields_of(&new, "a", "Apply"), Some(json!({"f:spec": {"f:paused": {}}})));
    assert_eq!(
        fields_of(&new, "scaler", "Update"),
        Some(json!({"f:spec": {"f:replicas": {}}}))
    );
    let Err(Error::Conflict { message, .. }) = applied(Some(&new), &config(json!({"replicas": 1})), "a", false) else {
        panic!("no conflict")
    };
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"scaler\" using apps/v1: .spec.replicas"
    );

    // What an update removes nobody has any more; an applier of nothing else is forgotten.
    let mut gone = new.clone();
    gone["spec"].as_object_mut().unwrap().remove("replicas");
    update(&deployment(), Some(&new), &mut gone, writer("other", T2)).unwrap();
    assert_eq!(fields_of(&gone, "scaler", "Update"), None);
}

#[test]
fn an_untracked_object_gets_a_first_manager() {
    let live = config(json!({"replicas": 1, "paused": true}));
    let applied = applied(Some(&live), &config(json!({"replicas": 1})), "a", false).unwrap();
    let before = fields_of(&applied, BEFORE_FIRST_APPLY, "Update").unwrap();
    assert!(before["f:spec"].get("f:paused").is_some());
    // An update of an untracked object leaves it untracked.
    let mut new = live.clone();
    update(&deployment(), Some(&live), &mut new, writer("x", T1)).unwrap();
    assert_eq!(new["metadata"].get("managedFields"), None);
}

#[test]
fn ignored_fields_are_neither_owned_nor_written() {
    let mut with_status = config(json!({"replicas": 1}));
    with_status["status"] = json!({"replicas": 7});
    let applied = applied(None, &with_status, "a", false).unwrap();
    assert_eq!(
        fields_of(&applied, "a", "Apply"),
        Some(json!({"f:spec": {"f:replicas": {}}}))
    );
    assert_eq!(applied["status"].get("replicas"), None);
}

#[test]
fn sets_and_atomics() {
    let message = schema::for_kind("", "v1", "ServiceAccount").unwrap();
    let writer = |manager| Writer {
        manager,
        api_version: "v1",
        subresource: "",
        now: T1,
        ignored: &[],
    };
    let object = |finalizers: Value| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "x", "finalizers": finalizers}});
    let a = apply(&message, None, &object(json!(["a/1", "a/2"])), writer("a"), false).unwrap();
    assert_eq!(
        fields_of(&a, "a", "Apply"),
        Some(json!({"f:metadata": {"f:finalizers": {"v:\"a/1\"": {}, "v:\"a/2\"": {}}}}))
    );
    let b = apply(&message, Some(&a), &object(json!(["b/1"])), writer("b"), false).unwrap();
    assert_eq!(b["metadata"]["finalizers"], json!(["a/1", "a/2", "b/1"]));
    let c = apply(&message, Some(&b), &object(json!(["a/2"])), writer("a"), false).unwrap();
    assert_eq!(c["metadata"]["finalizers"], json!(["a/2", "b/1"]));
    let duplicate = apply(&message, None, &object(json!(["a", "a"])), writer("a"), false);
    assert_eq!(
        duplicate,
        Err(Error::Malformed("duplicate entries for key [=\"a\"]".into()))
    );
}

#[test]
fn malformed_configurations() {
    let version = json!({"apiVersion": "v1", "kind": "Deployment"});
    let mut managed = config(json!({}));
    managed["metadata"]["managedFields"] = json!([{}]);
    for config in [version, managed, json!([]), containers(json!([{"image": "x"}]))] {
        assert!(
            matches!(applied(None, &config, "a", false), Err(Error::Malformed(_))),
            "{config}"
        );
    }
}

#[test]
fn managers_can_be_reset_and_are_capped() {
    let mut live = config(json!({"replicas": 0}));
    update(&deployment(), None, &mut live, writer("m0", T1)).unwrap();
    for number in 1..15 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{number}")] = "x".into();
        update(&deployment(), Some(&live), &mut new, writer(&format!("m{number}"), T2)).unwrap();
        live = new;
    }
    assert_eq!(live["metadata"]["managedFields"].as_array().map(Vec::len), Some(10));
    assert!(fields_of(&live, "ancient-changes", "Update").is_some());
    let mut reset = live.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    update(&deployment(), Some(&live), &mut reset, writer("m", T2)).unwrap();
    assert_eq!(reset["metadata"].get("managedFields"), None);
}

#[test]
fn what_kubectl_applied_before_is_its_own() {
    const LAST: &str = "kubectl.kubernetes.io/last-applied-configuration";
    let mine = config(json!({"replicas": 2, "paused": false}));
    let mut live = config(json!({"replicas": 2, "paused": true}));
    live["metadata"]["annotations"] = json!({LAST: mine.to_string()});
    update(&deployment(), None, &mut live, writer("kubectl-client-side-apply", T1)).unwrap();
    // What somebody has changed since is a conflict still.
    let change = config(json!({"replicas": 3, "paused": false}));
    let Err(Error::Conflict { message, .. }) = applied(Some(&live), &change, "kubectl", false) else {
        panic!("no conflict");
    };
    assert_eq!(
        message,
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.paused"
    );
    let change = config(json!({"replicas": 3}));
    assert!(matches!(
        applied(Some(&live), &change, "other", false),
        Err(Error::Conflict { .. })
    ));
    let merged = applied(Some(&live), &change, "kubectl", false).unwrap();
    assert_eq!(merged["spec"]["replicas"], 3);
    assert_eq!(merged["metadata"]["annotations"][LAST], format!("{change}\n"));
    assert_eq!(
        fields_of(&merged, "kubectl", "Apply"),
        Some(json!({"f:spec": {"f:replicas": {}}}))
    );
}

/// Two versions that differ in the name of a field.
struct Renamed(Shape);

impl Versions for Renamed {
    fn schema(&self, api_version: &str) -> Option<Schema<'_>> {
        ["x/v1", "x/v2"]
            .contains(&api_version)
            .then_some(Schema::Shape(&self.0))
    }

    fn convert<'v>(&self, object: &'v Value, api_version: &str) -> Option<Cow<'v, Value>> {
        let from = object["apiVersion"].as_str()?;
        if from == api_version {
            return Some(Cow::Borrowed(object));
        }
        let (old, new) = match (from, api_version) {
            ("x/v1", "x/v2") => ("size", "replicas"),
            ("x/v2", "x/v1") => ("replicas", "size"),
            _ => return None,
        };
        let mut object = object.clone();
        object["apiVersion"] = api_version.into();
        if let Some(value) = object["spec"].as_object_mut().and_then(|spec| spec.remove(old)) {
            object["spec"][new] = value;
        }
        Some(Cow::Owned(object))
    }
}

fn renamed() -> Renamed {
    let item = Shape::Fields {
        fields: BTreeMap::from([("id".to_string(), Shape::Atomic), ("tags".to_string(), Shape::Set)]),
        open: false,
    };
    let fields = [
        ("size", Shape::Atomic),
        ("replicas", Shape::Atomic),
        (
            "list",
            Shape::Keyed {
                keys: vec![("id".into(), None)],
                item: Box::new(item),
            },
        ),
        ("any", Shape::Deduced),
        ("map", Shape::Entries(Box::new(Shape::Atomic))),
    ];
    let spec = Shape::Fields {
        fields: fields.map(|(name, shape)| (name.to_string(), shape)).into(),
        open: false,
    };
    let metadata = Shape::Message(schema::message("k8s.io.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap());
    Renamed(Shape::Fields {
        fields: BTreeMap::from([("spec".to_string(), spec), ("metadata".to_string(), metadata)]),
        open: false,
    })
}

fn custom(version: &str, spec: Value) -> Value {
    json!({"apiVersion": version, "kind": "X", "metadata": {"name": "x"}, "spec": spec})
}

fn in_version<'a>(version: &'a str, manager: &'a str) -> Writer<'a> {
    Writer {
        api_version: version,
        ..writer(manager, T1)
    }
}

#[test]
fn fields_are_managed_in_the_version_of_their_writer() {
    let versions = renamed();
    let one = apply(
        &versions,
        None,
        &custom("x/v1", json!({"size": 1})),
        in_version("x/v1", "a"),
        false,
    )
    .unwrap();
    assert_eq!(one["metadata"]["managedFields"][0]["apiVersion"], "x/v1");
    // The same field under its other name.
    let other = custom("x/v2", json!({"replicas": 2}));
    let Err(Error::Conflict { message, .. }) = apply(&versions, Some(&one), &other, in_version("x/v2", "b"), false)
    else {
        panic!("no conflict");
    };
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"a\": .spec.size");
    let two = apply(&versions, Some(&one), &other, in_version("x/v2", "b"), true).unwrap();
    assert_eq!(two["spec"], json!({"replicas": 2}));
    assert_eq!(
        (fields_of(&two, "a", "Apply"), fields_of(&two, "b", "Apply")),
        (None, Some(json!({"f:spec": {"f:replicas": {}}})))
    );
    // Who shares a field keeps it when the other lets go.
    let shared = apply(
        &versions,
        Some(&two),
        &custom("x/v1", json!({"size": 2})),
        in_version("x/v1", "a"),
        false,
    )
    .unwrap();
    let left = apply(
        &versions,
        Some(&shared),
        &custom("x/v2", json!({})),
        in_version("x/v2", "b"),
        false,
    )
    .unwrap();
    assert_eq!(left["spec"], json!({"replicas": 2}));
    let gone = apply(
        &versions,
        Some(&left),
        &custom("x/v1", json!({})),
        in_version("x/v1", "a"),
        false,
    )
    .unwrap();
    assert_eq!(gone.get("spec"), None, "{gone}");
}

#[test]
fn custom_schemas_have_lists_maps_and_unknown_parts() {
    let versions = renamed();
    let spec = json!({"list": [{"id": "a", "tags": ["x"]}], "any": {"deep": {"k": [1, 2]}}, "map": {"m": 1}});
    let one = apply(&versions, None, &custom("x/v1", spec), in_version("x/v1", "a"), false).unwrap();
    let expected = json!({"f:spec": {
        "f:list": {"k:{\"id\":\"a\"}": {".": {}, "f:id": {}, "f:tags": {"v:\"x\"": {}}}},
        "f:any": {"f:deep": {".": {}, "f:k": {}}},
        "f:map": {"f:m": {}},
    }});
    assert_eq!(fields_of(&one, "a", "Apply"), Some(expected));
    let spec = json!({"list": [{"id": "b"}, {"id": "a", "tags": ["y"]}], "any": {"more": 1}, "map": {"n": 2}});
    let two = apply(
        &versions,
        Some(&one),
        &custom("x/v1", spec),
        in_version("x/v1", "b"),
        false,
    )
    .unwrap();
    assert_eq!(
        two["spec"],
        json!({
        "list": [{"id": "a", "tags": ["x", "y"]}, {"id": "b"}], "any": {"deep": {"k": [1, 2]}, "more": 1}, "map": {"m": 1, "n": 2}})
    );
    assert_eq!(
        undeclared(
            versions.schema("x/v1").unwrap(),
            &custom("x/v1", json!({"zz": 1, "list": [{"id": "a", "q": 1}, {"id": "a"}]}))
        ),
        [
            ".spec.list[id=\"a\"].q: field not declared in schema",
            ".spec.list: duplicate entries for key [id=\"a\"]",
            ".spec.zz: field not declared in schema"
        ]
    );
}

mod laws {
    use super::*;
    use proptest::prelude::*;

    type Container = (String, Option<String>, BTreeMap<String, String>);

    /// A configuration of a few labels, replicas and containers with environments.
    fn configuration() -> impl Strategy<Value = Value> {
        let small = || prop::collection::btree_map("[ab]", "[xy]", 0..3);
        let container = (
            "[cd]",
            prop::option::of("[ij]"),
            prop::collection::btree_map("[EF]", "[12]", 0..3),
        );
        (small(), prop::option::of(0..3), prop::collection::vec(container, 0..3)).prop_map(
            |(labels, replicas, all): (BTreeMap<String, String>, Option<i32>, Vec<Container>)| {
                let mut containers = BTreeMap::new();
                for (name, image, env) in all {
                    let mut container = json!({"name": name});
                    if !env.is_empty() {
                        let env = env.iter().map(|(name, value)| json!({"name": name, "value": value}));
                        container["env"] = env.collect();
                    }
                    if let Some(image) = image {
                        container["image"] = image.into();
                    }
                    containers.insert(name, container);
                }
                // Empty lists and maps are left out: whoever names one owns it, though it goes with its last item.
                let mut spec = json!({});
                if !containers.is_empty() {
                    spec["template"]["spec"]["containers"] = containers.into_values().collect();
                }
                if let Some(replicas) = replicas {
                    spec["replicas"] = replicas.into();
                }
                let mut config = without_nothing(config(spec));
                if !labels.is_empty() {
                    config["metadata"]["labels"] = json!(labels);
                }
                config
            },
        )
    }

    fn without_nothing(mut config: Value) -> Value {
        if config["spec"] == json!({}) {
            config.as_object_mut().unwrap().remove("spec");
        }
        config
    }

    fn run(live: Option<&Value>, config: &Value, manager: &str) -> Value {
        applied(live, config, manager, true).unwrap()
    }

    /// Everything but the managers.
    fn content(object: &Value) -> Value {
        let mut object = object.clone();
        object["metadata"].as_object_mut().unwrap().remove("managedFields");
        object
    }

    fn fields(object: &Value) -> Set {
        tree::field_set(Node::Struct(deployment()), object)
            .unwrap()
            .difference(&UNMANAGED)
    }

    fn owned(object: &Value, manager: &str) -> Set {
        let fields = fields_of(object, manager, "Apply");
        fields.and_then(|fields| Set::from_value(&fields)).unwrap_or_default()
    }

    proptest! {
        #[test]
        fn an_apply_twice_is_an_apply(before in configuration(), config in configuration()) {
            let live = run(None, &before, "other");
            let once = run(Some(&live), &config, "me");
            prop_assert_eq!(run(Some(&once), &config, "me"), once);
        }

        #[test]
        fn what_is_applied_is_there_and_owned(before in configuration(), config in configuration()) {
            let live = run(None, &before, "other");
            let merged = run(Some(&live), &config, "me");
            let wanted = fields(&config);
            prop_assert!(wanted.clone().difference(&fields(&merged)).is_empty(), "{:?}", wanted.difference(&fields(&merged)).paths());
            prop_assert_eq!(owned(&merged, "me").paths(), fields(&config).paths());
            prop_assert_eq!(content(&run(Some(&merged), &config, "third"))["spec"].clone(), merged["spec"].clone());
        }

        #[test]
        fn nobody_owns_what_is_not_there(first in configuration(), second in configuration(), third in configuration()) {
            let live = run(Some(&run(None, &first, "a")), &second, "b");
            let live = run(Some(&live), &third, "a");
            for manager in ["a", "b"] {
                let strangers = owned(&live, manager).difference(&fields(&live).with_parents());
                prop_assert!(strangers.is_empty(), "{manager}: {:?}", strangers.paths());
            }
        }

        #[test]
        fn who_lets_go_of_everything_leaves_what_others_have(mine in configuration(), theirs in configuration()) {
            let nothing = without_nothing(config(json!({})));
            let alone = run(None, &theirs, "other");
            let both = run(Some(&alone), &mine, "me");
            let left = run(Some(&both), &nothing, "me");
            let missing = owned(&both, "other").difference(&fields(&left).with_parents());
            prop_assert!(missing.is_empty(), "{:?}", missing.paths());
            let extra = fields(&left).difference(&fields(&alone).with_parents());
            prop_assert!(extra.is_empty(), "{:?}", extra.paths());
        }

        #[test]
        fn without_force_either_all_or_nothing_is_told(before in configuration(), config in configuration()) {
            let live = run(None, &before, "other");
            match applied(Some(&live), &config, "me", false) {
                Ok(merged) => prop_assert_eq!(merged, run(Some(&live), &config, "me")),
                Err(Error::Conflict { causes, .. }) => {
                    let others = owned(&live, "other").paths();
                    prop_assert!(!causes.is_empty());
                    for cause in causes {
                        prop_assert!(others.contains(&cause.field.unwrap_or_default()));
                    }
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}

//! kube-rs: discovery, watcher, reflector, server-side apply, and an operator on a custom resource.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use integration_tests::{Cluster, Tools};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::runtime::controller::Action;
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Client, Config, Discovery, Resource, ResourceExt};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(240);
/// Objects of the operator.
const WIDGETS: usize = 3000;

fn block_on<T>(cluster: &Cluster, work: impl AsyncFnOnce(Client) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let file = kube::config::Kubeconfig::read_from(cluster.dir().join("pki/admin.kubeconfig"));
        let config = Config::from_custom_kubeconfig(file.expect("a kubeconfig"), &Default::default()).await;
        let client = Client::try_from(config.expect("a configuration")).expect("a client");
        work(client).await
    })
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(PATIENCE, work).await;
    done.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

fn config_maps() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ConfigMap"))
}

fn config_map(name: &str, value: &str) -> DynamicObject {
    let mut object = DynamicObject::new(name, &config_maps()).data(json!({"data": {"key": value}}));
    object.metadata.labels = Some([("client".to_owned(), "kube-rs".to_owned())].into());
    object
}

pub fn client(cluster: &Cluster, _: &Tools) {
    block_on(cluster, async |client| {
        let discovery = Discovery::new(client.clone()).run().await.expect("discovery");
        let kinds: BTreeSet<String> = discovery
            .groups()
            .flat_map(|group| group.recommended_resources())
            .map(|(resource, _)| resource.kind)
            .collect();
        for kind in [
            "Pod",
            "Deployment",
            "CustomResourceDefinition",
            "Lease",
            "NetworkPolicy",
        ] {
            assert!(kinds.contains(kind), "{kind} in {kinds:?}");
        }

        let api: Api<DynamicObject> = Api::namespaced_with(client, "default", &config_maps());
        let writer = reflector::store::Writer::new(config_maps());
        let reader = writer.as_reader();
        let selected = watcher::Config::default().labels("client=kube-rs");
        let events = watcher(api.clone(), selected.streaming_lists()).default_backoff();
        let cache = tokio::spawn(
            reflector::reflector(writer, events)
                .touched_objects()
                .for_each(|_| async {}),
        );
        within("the first list", reader.wait_until_ready())
            .await
            .expect("a list");

        let apply = PatchParams::apply("kube-rs");
        for value in ["1", "2"] {
            let applied = api
                .patch("kube-rs", &apply, &Patch::Apply(config_map("kube-rs", value)))
                .await;
            assert_eq!(applied.expect("applied").data["data"]["key"], value);
        }
        let other = PatchParams::apply("other");
        let conflict = api
            .patch("kube-rs", &other, &Patch::Apply(config_map("kube-rs", "3")))
            .await;
        assert!(matches!(conflict, Err(kube::Error::Api(status)) if status.code == 409));
        let metadata = api.get_metadata("kube-rs").await.expect("its metadata");
        assert_eq!(metadata.name_any(), "kube-rs");
        within("the cache follows", async {
            while !reader.state().iter().any(|object| object.data["data"]["key"] == "2") {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        api.delete("kube-rs", &DeleteParams::default()).await.expect("deleted");
        within("the cache forgets", async {
            while !reader.is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
        cache.abort();
    });
}

fn widgets() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("keelson.test", "v1", "Widget"))
}

fn definition() -> DynamicObject {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
    ));
    DynamicObject::new("widgets.keelson.test", &resource).data(json!({"spec": {
        "group": "keelson.test",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
        "versions": [{
            "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["size"], "properties": {
                    "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "grey"}}},
                "status": {"type": "object", "properties": {"ready": {"type": "boolean"}, "color": {"type": "string"}}},
            }}},
        }],
    }}))
}

/// What the operator's work needs.
struct Operator {
    client: Client,
    reconciled: AtomicUsize,
}

/// Makes the ConfigMap of a widget, which it owns, and says so in its status.
async fn reconcile(widget: Arc<DynamicObject>, operator: Arc<Operator>) -> Result<Action, kube::Error> {
    let namespace = widget.namespace().unwrap_or_default();
    let name = widget.name_any();
    let maps: Api<DynamicObject> = Api::namespaced_with(operator.client.clone(), &namespace, &config_maps());
    let mut map = config_map(&name, &widget.data["spec"]["size"].to_string());
    map.metadata.owner_references = Some(widget.controller_owner_ref(&widgets()).into_iter().collect());
    let apply = PatchParams::apply("operator").force();
    maps.patch(&name, &apply, &Patch::Apply(map)).await?;
    let widgets: Api<DynamicObject> = Api::namespaced_with(operator.client.clone(), &namespace, &widgets());
    let status = json!({"status": {"ready": true, "color": widget.data["spec"]["color"]}});
    widgets
        .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    operator.reconciled.fetch_add(1, Ordering::Relaxed);
    Ok(Action::await_change())
}

pub fn operator(cluster: &Cluster, _: &Tools) {
    block_on(cluster, async |client| {
        let definitions: Api<DynamicObject> = Api::all_with(
            client.clone(),
            &ApiResource::from_gvk(&GroupVersionKind::gvk(
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
            )),
        );
        definitions
            .create(&PostParams::default(), &definition())
            .await
            .expect("a definition");
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &widgets());
        within("the kind is served", async {
            while api.list(&ListParams::default()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        let invalid = DynamicObject::new("w", &widgets()).data(json!({"spec": {"size": 0}}));
        let refused = api.create(&PostParams::default(), &invalid).await;
        assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 422));

        let operator = Arc::new(Operator {
            client: client.clone(),
            reconciled: AtomicUsize::new(0),
        });
        let maps: Api<DynamicObject> = Api::namespaced_with(client.clone(), "default", &config_maps());
        let controller = Controller::new_with(api.clone(), watcher::Config::default(), widgets())
            .owns_with(
                maps.clone(),
                config_maps(),
                watcher::Config::default().labels("client=kube-rs"),
            )
            .run(
                reconcile,
                |_, _, _| Action::requeue(Duration::from_millis(200)),
                operator.clone(),
            );
        let running = tokio::spawn(controller.for_each(|_| async {}));

        let created = futures_util::stream::iter(0..WIDGETS).map(|i| {
            let widget = DynamicObject::new(&format!("w{i:04}"), &widgets()).data(json!({"spec": {"size": i + 1}}));
            let api = api.clone();
            async move { api.create(&PostParams::default(), &widget).await }
        });
        created
            .buffer_unordered(32)
            .try_collect::<Vec<_>>()
            .await
            .expect("widgets");
        within("every widget is ready", async {
            loop {
                let list = api.list(&ListParams::default()).await.expect("a list");
                let ready = list
                    .items
                    .iter()
                    .filter(|widget| widget.data["status"]["ready"] == true)
                    .count();
                if ready == WIDGETS {
                    assert!(
                        list.items.iter().all(|widget| widget.data["status"]["color"] == "grey"),
                        "the default"
                    );
                    break;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
        assert!(operator.reconciled.load(Ordering::Relaxed) >= WIDGETS);
        running.abort();

        definitions
            .delete("widgets.keelson.test", &DeleteParams::default())
            .await
            .expect("deleted");
        within("widgets and what they own are gone", async {
            let selected = ListParams::default().labels("client=kube-rs");
            while !maps.list(&selected).await.expect("a list").items.is_empty()
                || api.list(&ListParams::default()).await.is_ok()
            {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await;
    });
}

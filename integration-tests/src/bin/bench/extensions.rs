//! What clients add to the API: applied objects, custom resources with and without rules, webhooks; and collections of a hundred thousand objects.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::connection::Connection;
use crate::load::{Call, Load, Plan, drive};
use crate::process::{self, Certificates, Server};
use crate::report::{self, Figure, Value};
use crate::webhook::Webhook;
use crate::{FILL_LIMIT, LIMIT, requests};

const MAPS: &str = "/api/v1/namespaces/bench/configmaps";
/// Objects of the large collection.
const OBJECTS: usize = 100_000;
/// Values of the label that is selected by.
const SHARDS: usize = 1_000;

/// Prints them.
///
/// # Errors
/// When the server refuses something.
pub async fn measure(server: &Server, connection: &Connection, certificates: &Certificates) -> Result<()> {
    apply(server, connection).await?;
    custom_resources(server, connection).await?;
    webhooks(server, connection, certificates).await?;
    collection(server, connection).await
}

const fn plan(total: usize) -> Plan {
    Plan {
        total,
        in_flight: 64,
        limit: LIMIT,
    }
}

fn print(load: &Load, name: &str, method: &str) {
    let each = load.requests() as f64;
    report::print(&Figure {
        name,
        method: format!("{method}; {each} requests, 64 in flight"),
        values: vec![
            Value::new("requests/s", each / load.elapsed.as_secs_f64(), None),
            Value::new("server CPU, ms/request", load.cpu_each() * 1e3, None),
        ],
    });
}

async fn apply(server: &Server, connection: &Connection) -> Result<()> {
    let load = drive(server, connection, plan(10_000), |i| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"mode": "production", "turn": i.to_string()},
            "metadata": {"name": format!("applied-{}", i % 500), "labels": {"app": "bench"}}});
        let path = format!("{MAPS}/applied-{}?fieldManager=bench", i % 500);
        let mut call = Call::json(Method::PATCH, &path, body.to_string().into());
        call.content_type = "application/apply-patch+yaml";
        call
    });
    let method = "PATCH of one of 500 ConfigMaps with one value that changed";
    print(&load.await?, "server-side apply", method);
    Ok(())
}

async fn custom_resources(server: &Server, connection: &Connection) -> Result<()> {
    for (plural, rules, name) in [
        ("plains", json!([]), "create custom resource"),
        (
            "ruleds",
            json!([
                {"rule": "self.replicas <= self.limit", "message": "too many"},
                {"rule": "self.ports.all(p, p > 0 && p < 65536)"},
                {"rule": "!has(self.name) || self.name.startsWith('shop-')"},
            ]),
            "create custom resource with three CEL rules",
        ),
    ] {
        define(connection, plural, &rules).await?;
        let path = format!("/apis/bench.keelson.dev/v1/namespaces/bench/{plural}");
        let load = drive(server, connection, plan(10_000), |i| {
            let body = json!({"apiVersion": "bench.keelson.dev/v1", "kind": plural, "metadata": {"name": format!("c-{i}")},
                "spec": {"name": format!("shop-{i}"), "replicas": 3, "limit": 10, "ports": [80, 443, 8080]}});
            Call::json(Method::POST, &path, body.to_string().into())
        });
        let method = "POST of a small object with a schema of four fields, JSON";
        print(&load.await?, name, method);
    }
    Ok(())
}

/// Makes a kind and waits until it is served.
async fn define(connection: &Connection, plural: &str, rules: &serde_json::Value) -> Result<()> {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.bench.keelson.dev")},
        "spec": {
            "group": "bench.keelson.dev", "scope": "Namespaced", "names": {"plural": plural, "kind": plural},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "maxLength": 63},
                        "replicas": {"type": "integer"},
                        "limit": {"type": "integer"},
                        "ports": {"type": "array", "maxItems": 16, "items": {"type": "integer"}},
                    },
                    "x-kubernetes-validations": rules,
                }},
            }}}],
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    succeed(
        connection,
        Call::json(Method::POST, path, definition.to_string().into()),
    )
    .await?;
    let list = format!("/apis/bench.keelson.dev/v1/namespaces/bench/{plural}");
    let begun = Instant::now();
    while !connection
        .call(Call::get(&list, "application/json"))
        .await?
        .0
        .is_success()
    {
        ensure!(begun.elapsed() < LIMIT, "{plural} is not served after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let method = "from the answer to its creation until a list of it succeeds; asked every 5 ms".to_owned();
    report::print(&Figure {
        name: "a definition is served",
        method,
        values: vec![Value::new("ms", begun.elapsed().as_secs_f64() * 1e3, None)],
    });
    Ok(())
}

async fn webhooks(server: &Server, connection: &Connection, certificates: &Certificates) -> Result<()> {
    let webhook = Webhook::serve(certificates).await?;
    for (kind, names) in [("Mutating", &["a", "b"][..]), ("Validating", &["c"][..])] {
        let hooks: Vec<_> = names.iter().map(|name| webhook.configuration(name)).collect();
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
            "metadata": {"name": "bench"}, "webhooks": hooks,
        });
        let path = collection_of(kind);
        succeed(
            connection,
            Call::json(Method::POST, &path, configuration.to_string().into()),
        )
        .await?;
    }
    let begun = Instant::now();
    for attempt in 0.. {
        let body = requests::config_map(&format!("probe-{attempt}"));
        succeed(connection, Call::json(Method::POST, MAPS, body)).await?;
        if webhook.calls() >= 3 {
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "webhooks are not called after {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let load = drive(server, connection, plan(3_000), |i| {
        Call::json(Method::POST, MAPS, requests::config_map(&format!("hooked-{i}")))
    });
    let method = "POST of a ConfigMap past two mutating webhooks and a validating one over TLS, which change nothing";
    print(&load.await?, "create ConfigMap, three webhooks", method);
    for kind in ["Mutating", "Validating"] {
        let path = format!("{}/bench", collection_of(kind));
        succeed(connection, Call::json(Method::DELETE, &path, Bytes::new())).await?;
    }
    Ok(())
}

fn collection_of(kind: &str) -> String {
    let kind = kind.to_lowercase();
    format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations")
}

async fn collection(server: &Server, connection: &Connection) -> Result<()> {
    let before = process::resident(server.pid())?;
    let many = Plan {
        total: OBJECTS,
        in_flight: 64,
        limit: FILL_LIMIT,
    };
    let load = drive(server, connection, many, |i| {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("o-{i}"), "labels": {"app": "bench", "shard": format!("s{}", i % SHARDS)}},
            "data": {"settings.yaml": "listen: 0.0.0.0:8080\nworkers: 4\nlog: info\n"}});
        Call::json(Method::POST, MAPS, body.to_string().into())
    })
    .await?;
    let grown = process::resident(server.pid())?.saturating_sub(before);
    report::print(&Figure {
        name: "memory of an object",
        method: format!(
            "growth of VmRSS by the creation of {} small ConfigMaps, divided by them",
            load.requests()
        ),
        values: vec![Value::new("bytes", grown as f64 / load.requests() as f64, None)],
    });
    for (name, query) in [
        ("list with a label selector", "labelSelector=shard%3Ds7"),
        ("list with a set of labels", "labelSelector=shard+in+(s7,s8),app"),
        ("list with a field selector", "fieldSelector=metadata.name%3Do-77"),
    ] {
        let once = Plan {
            total: 20,
            in_flight: 1,
            limit: LIMIT,
        };
        let path = format!("{MAPS}?{query}");
        let load = drive(server, connection, once, |_| Call::get(&path, "application/json")).await?;
        report::print(&Figure {
            name,
            method: format!("GET {path} over {OBJECTS} objects, mean of {}", load.requests()),
            values: vec![
                Value::new(
                    "time, ms",
                    load.elapsed.as_secs_f64() * 1e3 / load.requests() as f64,
                    None,
                ),
                Value::new("server CPU, ms", load.cpu_each() * 1e3, None),
            ],
        });
    }
    Ok(())
}

async fn succeed(connection: &Connection, call: Call) -> Result<()> {
    let what = format!("{} {}", call.method, call.path);
    let (status, answer) = connection.call(call).await.context(what.clone())?;
    ensure!(
        status.is_success(),
        "{what}: {status} {}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

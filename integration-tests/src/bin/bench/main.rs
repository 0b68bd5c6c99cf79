//! `make bench`: the suite's figures, each with its method and with what upstream took for the same.
//!
//! Daemons run as programs of the same build as this one, kube-apiserver on its replicated store in a temporary folder, where every write is
//! fsynced. CPU is what the kernel counted for the server's process (`/proc/<pid>/stat`): on a machine that others use too it is the figure that
//! means something, times are not. Names of figures on the command line choose among them.

mod connection;
mod daemons;
mod extensions;
mod load;
mod process;
mod report;
mod requests;
mod watchers;
mod webhook;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Method;

use connection::Connection;
use load::{Call, Plan, drive};
use process::{Certificates, Server};
use report::{Figure, Value};

/// What a figure may take.
const LIMIT: Duration = Duration::from_secs(20);
/// What filling the server with pods may take.
const FILL_LIMIT: Duration = Duration::from_secs(60);
/// How many pods the large figures have.
const PODS: usize = 10_000;

fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| chosen.is_empty() || chosen.iter().any(|choice| choice == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.context("start the runtime").and_then(|runtime| {
        report::heading();
        if wants("apiserver") {
            runtime.block_on(apiserver())?;
        }
        if wants("extensions") {
            runtime.block_on(extensions())?;
        }
        if wants("daemons") {
            daemons::measure(&runtime)?;
        }
        Ok(())
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that needs one API server and nothing else.
async fn apiserver() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("keelson-bench-").tempdir()?;
    let certificates = Certificates::make(&folder.path().join("pki"))?;
    let credentials = certificates.admin()?;
    let data = folder.path().join("data");

    let (server, started) = Server::start(&certificates, &credentials, &data).await?;
    memory(
        "kube-apiserver idle",
        "VmRSS once /readyz is ok, a new and empty cluster",
        &server,
        None,
    )?;
    let connection = Connection::open(server.address(), &credentials).await?;
    prepare(&connection).await?;

    configmaps(&server, &connection).await?;
    leases(&server, &connection).await?;
    watchers::measure(&server, &connection, &credentials, 10).await?;
    watchers::measure(&server, &connection, &credentials, 100).await?;
    pods(&server, &connection).await?;

    drop(connection);
    server.stop().await?;
    let (server, again) = Server::start(&certificates, &credentials, &data).await?;
    report::print(&Figure {
        name: "start of kube-apiserver",
        method: "from the start of the process until /readyz answers 200; asked every 5 ms over a new TLS connection"
            .into(),
        values: vec![
            Value::new("new cluster, ms", millis(started), None),
            Value::new("with all the objects above, ms", millis(again), None),
        ],
    });
    memory(
        "kube-apiserver after a restart",
        "VmRSS once /readyz is ok, with all the objects above",
        &server,
        None,
    )?;
    server.stop().await
}

/// What clients add to the API, on a server of its own.
async fn extensions() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("keelson-bench-").tempdir()?;
    let certificates = Certificates::make(&folder.path().join("pki"))?;
    let credentials = certificates.admin()?;
    let (server, _) = Server::start(&certificates, &credentials, &folder.path().join("data")).await?;
    let connection = Connection::open(server.address(), &credentials).await?;
    prepare(&connection).await?;
    extensions::measure(&server, &connection, &certificates).await?;
    drop(connection);
    server.stop().await
}

/// The namespace of everything below, and what admission wants there.
async fn prepare(connection: &Connection) -> Result<()> {
    for (path, body) in [
        ("/api/v1/namespaces", requests::namespace()),
        ("/api/v1/namespaces/bench/serviceaccounts", requests::service_account()),
    ] {
        let (status, answer) = connection.call(Call::json(Method::POST, path, body)).await?;
        anyhow::ensure!(
            status.is_success(),
            "POST {path}: {status} {}",
            String::from_utf8_lossy(&answer)
        );
    }
    Ok(())
}

async fn configmaps(server: &Server, connection: &Connection) -> Result<()> {
    const PATH: &str = "/api/v1/namespaces/bench/configmaps";
    for (name, prefix, in_flight, total, rate) in [
        ("create ConfigMap, 1 in flight", "one", 1, 3_000, 899.0),
        ("create ConfigMap, 64 in flight", "many", 64, 10_000, 2_996.0),
    ] {
        let plan = Plan {
            total,
            in_flight,
            limit: LIMIT,
        };
        let load = drive(server, connection, plan, |i| {
            Call::json(Method::POST, PATH, requests::config_map(&format!("{prefix}-{i}")))
        });
        let method = format!(
            "POST of {} bytes of JSON, the answer is JSON",
            requests::config_map("one-1000").len()
        );
        report::print(&load.await?.figure(name, method, rate, 0.59));
    }
    let plan = Plan {
        total: 20_000,
        in_flight: 64,
        limit: LIMIT,
    };
    let load = drive(server, connection, plan, |i| {
        Call::get(&format!("{PATH}/one-{}", i % 1_000), "application/json")
    });
    let method = "GET of one of 1,000 of them, JSON, resourceVersion unset (a consistent read)".into();
    report::print(&load.await?.figure("get ConfigMap, 64 in flight", method, 5_581.0, 0.31));
    Ok(())
}

async fn leases(server: &Server, connection: &Connection) -> Result<()> {
    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/bench/leases";
    const LEASES: usize = 100;
    let plan = Plan {
        total: LEASES,
        in_flight: 16,
        limit: LIMIT,
    };
    drive(server, connection, plan, |i| {
        Call::json(Method::POST, PATH, requests::lease(&format!("node-{i}")))
    })
    .await?;
    let plan = Plan {
        total: 10_000,
        in_flight: 64,
        limit: LIMIT,
    };
    let load = drive(server, connection, plan, |i| {
        let mut call = Call::json(
            Method::PATCH,
            &format!("{PATH}/node-{}", i % LEASES),
            requests::renewal(i),
        );
        call.content_type = "application/strategic-merge-patch+json";
        call
    });
    let method = "strategic merge patch of spec.renewTime of one of 100 leases, JSON".into();
    report::print(&load.await?.figure("patch Lease, 64 in flight", method, 2_627.0, 0.69));
    Ok(())
}

async fn pods(server: &Server, connection: &Connection) -> Result<()> {
    let load = fill(server, connection).await?;
    let method = format!(
        "POST of {} bytes of JSON (two containers, no node), the answer is JSON; {PODS} of them",
        requests::pod("pod-1000", false).len()
    );
    let created = load.requests();
    report::print(&load.figure("create Pod, 64 in flight", method, 1_711.0, 1.07));
    memory(
        "kube-apiserver with the pods",
        &format!("VmRSS after the creation of {created} pods and everything above"),
        server,
        Some(1_000.0),
    )?;
    for (encoding, accept) in [
        ("JSON", "application/json"),
        ("protobuf", "application/vnd.kubernetes.protobuf"),
    ] {
        let plan = Plan {
            total: 5,
            in_flight: 1,
            limit: LIMIT,
        };
        let load = drive(server, connection, plan, |_| Call::get("/api/v1/pods", accept)).await?;
        report::print(&Figure {
            name: &format!("list of {created} pods, {encoding}"),
            method: format!(
                "GET of the whole collection, {:.1} MB, not compressed, until its last byte; mean of {}",
                load.bytes as f64 / load.requests() as f64 / 1e6,
                load.requests()
            ),
            values: vec![
                Value::new(
                    "time, ms",
                    load.elapsed.as_secs_f64() * 1e3 / load.requests() as f64,
                    Some(387.0),
                ),
                Value::new("server CPU, ms", load.cpu_each() * 1e3, Some(542.0)),
            ],
        });
    }
    memory("kube-apiserver after the lists", "VmRSS", server, Some(1_000.0))
}

/// Makes the pods of the large figures, at most for [`FILL_LIMIT`].
async fn fill(server: &Server, connection: &Connection) -> Result<load::Load> {
    let plan = Plan {
        total: PODS,
        in_flight: 64,
        limit: FILL_LIMIT,
    };
    drive(server, connection, plan, |i| {
        Call::json(
            Method::POST,
            "/api/v1/namespaces/bench/pods",
            requests::pod(&format!("pod-{i}"), false),
        )
    })
    .await
}

fn memory(name: &str, method: &str, server: &Server, upstream: Option<f64>) -> Result<()> {
    let resident = process::resident(server.pid())?;
    report::print(&Figure {
        name,
        method: method.to_owned(),
        values: vec![Value::new("MB", resident as f64 / 1e6, upstream)],
    });
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

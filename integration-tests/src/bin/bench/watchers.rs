//! Thousands of watchers of one collection.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value as Json;

use crate::connection::{Connection, Credentials};
use crate::load::{Call, Plan, drive};
use crate::process::{self, Server, all};
use crate::report::{self, Figure, Value};
use crate::{LIMIT, requests};

const STREAMS: usize = 100;
const WRITES: usize = 300;
const PATH: &str = "/api/v1/namespaces/bench/configmaps";

/// Opens the watches, writes, and counts what arrives.
///
/// # Errors
/// When a watch ends or does not get everything in time.
pub async fn measure(
    server: &Server,
    writer: &Connection,
    credentials: &Credentials,
    connections: usize,
) -> Result<()> {
    let watchers = connections * STREAMS;
    let before_memory = process::resident(server.pid())?;
    let (open, bodies) = open(server, writer, credentials, connections).await?;
    let memory = process::resident(server.pid())?.saturating_sub(before_memory);
    let before = process::cpu(server.pid())?;
    let begun = Instant::now();
    let readers: Vec<_> = bodies.into_iter().map(|body| tokio::spawn(read(body))).collect();
    let plan = Plan {
        total: WRITES,
        in_flight: 16,
        limit: LIMIT,
    };
    let write = drive(server, writer, plan, |i| {
        Call::json(
            Method::POST,
            PATH,
            requests::config_map(&format!("watched-{watchers}-{i}")),
        )
    });
    let received = async { all(readers.into_iter().map(async |reader| reader.await?)).await };
    let (_, bytes) = tokio::time::timeout(LIMIT, async { tokio::try_join!(write, received) })
        .await
        .with_context(|| format!("not every watcher got every event in {LIMIT:?}"))??;
    drop(open);
    let (elapsed, cpu) = (begun.elapsed(), process::cpu(server.pid())?.saturating_sub(before));
    let deliveries = (bytes.len() * WRITES) as f64;
    report::print(&Figure {
        name: &format!("watch, {watchers} watchers"),
        method: format!(
            "{connections} HTTP/2 connections with {STREAMS} watches each of a namespace's ConfigMaps, JSON; {WRITES} creations, 16 in flight, {} bytes a \
             delivery; from the first request to the last delivery, the writes' CPU included",
            bytes.iter().sum::<usize>() / bytes.len() / WRITES
        ),
        values: vec![
            Value::new("deliveries/s", deliveries / elapsed.as_secs_f64(), Some(111_000.0)),
            Value::new(
                "server CPU, us/delivery",
                cpu.as_secs_f64() * 1e6 / deliveries,
                Some(18.0),
            ),
            Value::new("memory, kB/watcher", memory as f64 / 1e3 / bytes.len() as f64, None),
        ],
    });
    Ok(())
}

async fn open(
    server: &Server,
    writer: &Connection,
    credentials: &Credentials,
    count: usize,
) -> Result<(Vec<Connection>, Vec<Incoming>)> {
    let (_, list) = writer
        .call(Call::get(&format!("{PATH}?limit=1"), "application/json"))
        .await?;
    let list: Json = serde_json::from_slice(&list)?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .context("a list without resourceVersion")?;
    let path = format!("{PATH}?watch=1&resourceVersion={revision}");
    let mut bodies = Vec::with_capacity(count * STREAMS);
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let connection = Connection::open(server.address(), credentials).await?;
        for _ in 0..STREAMS {
            let (status, body) = connection.stream(Call::get(&path, "application/json")).await?;
            ensure!(status == StatusCode::OK, "watch: {status}");
            bodies.push(body);
        }
        connections.push(connection);
    }
    Ok((connections, bodies))
}

/// Reads until every event is there; answers how many bytes that took.
async fn read(mut body: Incoming) -> Result<usize> {
    let (mut events, mut bytes) = (0, 0);
    while events < WRITES {
        let frame = body.frame().await.context("the watch ended")??;
        if let Some(data) = frame.data_ref() {
            // One line of JSON an event.
            events += data.iter().filter(|byte| **byte == b'\n').count();
            bytes += data.len();
        }
    }
    Ok(bytes)
}

//! Many requests, so many at a time, and what they came to.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;

use crate::connection::Connection;
use crate::process::{self, Server};
use crate::report::{Figure, Value};

/// One request.
pub struct Call {
    pub method: Method,
    pub path: String,
    pub accept: String,
    /// Empty for none.
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Call {
    /// A read.
    pub fn get(path: &str, accept: &str) -> Self {
        Self {
            method: Method::GET,
            path: path.to_owned(),
            accept: accept.to_owned(),
            content_type: "",
            body: Bytes::new(),
        }
    }

    /// A request with a body of JSON.
    pub fn json(method: Method, path: &str, body: Bytes) -> Self {
        Self {
            method,
            body,
            content_type: "application/json",
            ..Self::get(path, "application/json")
        }
    }
}

/// How much of it.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Requests in all.
    pub total: usize,
    /// How many at a time, on one connection.
    pub in_flight: usize,
    /// No request starts after this time.
    pub limit: Duration,
}

/// What it came to.
pub struct Load {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Of the server.
    pub cpu: Duration,
    /// Of all answers' bodies.
    pub bytes: u64,
    /// Of each request, sorted.
    latencies: Vec<Duration>,
}

/// Sends the requests that `make` makes of the numbers from 0.
///
/// # Errors
/// When one of them fails or is refused.
pub async fn drive(
    server: &Server,
    connection: &Connection,
    plan: Plan,
    make: impl Fn(usize) -> Call + Sync,
) -> Result<Load> {
    let (next, bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let before = process::cpu(server.pid())?;
    let begun = Instant::now();
    let worker = async || -> Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(plan.total / plan.in_flight + 1);
        while begun.elapsed() < plan.limit {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= plan.total {
                break;
            }
            let call = make(number);
            let sent = Instant::now();
            let (status, answer) = connection.call(call).await?;
            latencies.push(sent.elapsed());
            bytes.fetch_add(answer.len() as u64, Ordering::Relaxed);
            ensure!(
                status.is_success(),
                "request {number}: {status} {}",
                String::from_utf8_lossy(&answer)
            );
        }
        Ok(latencies)
    };
    let mut latencies = process::all((0..plan.in_flight).map(|_| worker())).await?.concat();
    let elapsed = begun.elapsed();
    let cpu = process::cpu(server.pid())?.saturating_sub(before);
    ensure!(!latencies.is_empty(), "not one request was made in {:?}", plan.limit);
    latencies.sort_unstable();
    Ok(Load {
        elapsed,
        cpu,
        bytes: bytes.into_inner(),
        latencies,
    })
}

impl Load {
    /// How many requests there were.
    pub fn requests(&self) -> usize {
        self.latencies.len()
    }

    /// Server CPU of a request, in seconds.
    pub fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() / self.requests() as f64
    }

    /// As it is printed; upstream's requests/s and server CPU in ms beside it.
    pub fn figure<'a>(&self, name: &'a str, method: String, rate: f64, cpu: f64) -> Figure<'a> {
        let quantile = |of: f64| {
            let index = (self.requests() as f64 * of) as usize;
            self.latencies[index.min(self.requests() - 1)].as_secs_f64() * 1e3
        };
        Figure {
            name,
            method: format!("{method}; {} on one HTTP/2 connection over TLS", self.requests()),
            values: vec![
                Value::new(
                    "requests/s",
                    self.requests() as f64 / self.elapsed.as_secs_f64(),
                    Some(rate),
                ),
                Value::new("p50, ms", quantile(0.50), None),
                Value::new("p99, ms", quantile(0.99), None),
                Value::new("server CPU, ms/request", self.cpu_each() * 1e3, Some(cpu)),
            ],
        }
    }
}

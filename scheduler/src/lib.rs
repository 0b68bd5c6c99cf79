//! kube-scheduler: gives pods without a node the best node that they can run on.
//!
//! It writes only bindings, pod conditions and events. [`scheduler`] holds all state and decides; this file connects it to kube-apiserver.

mod affinity;
mod bind;
mod cluster;
pub mod config;
mod cycle;
mod framework;
mod metrics;
mod model;
mod plugins;
mod profile;
mod queue;
mod scheduler;
#[cfg(test)]
mod testing;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use api::core::v1::{Namespace, Node, Pod};
use client::leader::{self, LeaderConfig};
use client::{Client, Event, EventRecorder, Informer, ListParams};
use daemon::health::{Health, Scope};
use daemon::http::Admin;
use daemon::tls::{ClientAuth, ServerTls, TlsFiles};
use daemon::{Shutdown, notify};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bind::{Binder, Explainer, Order};
use crate::config::Config;
use crate::cycle::Placer;
use crate::metrics::Metrics;
use crate::profile::Profile;
use crate::queue::Queue;
use crate::scheduler::{Decision, Input, Scheduler};

/// Pods waiting to have explained why they wait; more go without, and are explained at their next try.
const EXPLANATIONS: usize = 1024;
/// Cycles between two looks at what happened meanwhile.
const CYCLES: usize = 64;

/// Runs the scheduler until shutdown.
///
/// # Errors
/// When a file or the listener cannot be used, or leadership is lost.
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    let target = client::Config::from_kubeconfig(&config.kubeconfig)?.user_agent("kube-scheduler");
    target.reload_on_change(shutdown.clone());
    let client = Client::new(target)?;
    let registry = daemon::metrics::registry();
    let metrics = Metrics::new(&registry, &config.scheduler_names.join(",")).context("register metrics")?;

    // Informers run before leadership, so that a standby takes over with warm caches.
    let (inputs, mut heard) = mpsc::unbounded_channel();
    let live = ListParams::default().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = Informer::<Pod>::new(&client, &live)
        .on_event(tell(&inputs, Input::Pod))
        .start(&shutdown);
    let everything = ListParams::default();
    let nodes = Informer::<Node>::new(&client, &everything)
        .on_event(tell(&inputs, Input::Node))
        .start(&shutdown);
    let namespaces = Informer::<Namespace>::new(&client, &everything)
        .on_event(tell(&inputs, Input::Namespace))
        .start(&shutdown);

    let mut health = Health::new();
    let caches = (pods.clone(), nodes.clone(), namespaces.clone());
    health.add("informer-sync", Scope::Ready, move || {
        let synced = caches.0.has_synced() && caches.1.has_synced() && caches.2.has_synced();
        synced.then_some(()).ok_or_else(|| "caches have not synced".to_owned())
    });
    let files = TlsFiles {
        certificate: config.serving.tls_cert_file.clone(),
        key: config.serving.tls_private_key_file.clone(),
        ca: config.serving.client_ca_file.clone(),
    };
    let tls = ServerTls::load(files, ClientAuth::Requested)?;
    let admin = tokio::spawn(
        Admin {
            health,
            metrics: registry,
            tls,
        }
        .serve(listener, shutdown.clone()),
    );
    notify::ready(&shutdown);

    let election = config.lease.as_ref().map(|(namespace, name)| {
        let identity = format!("{}_{}", hostname(), std::process::id());
        leader::run(&client, LeaderConfig::new(namespace, name, &identity), shutdown.clone())
    });
    let mut work = Work::start(&client, &config, inputs, metrics, &shutdown);
    let started = async {
        pods.synced().await;
        nodes.synced().await;
        namespaces.synced().await;
    };
    shutdown.run_until(started).await;
    let lost = match election {
        None => {
            work.schedule(&mut heard, &shutdown).await;
            false
        }
        Some(mut election) => {
            let led = shutdown.run_until(election.acquired()).await == Some(true);
            if led {
                tokio::select! {
                    () = work.schedule(&mut heard, &shutdown) => {}
                    () = election.lost() => {}
                }
            }
            let lost = led && !shutdown.is_requested();
            if !lost {
                work.finish().await;
                election.released().await;
            }
            lost
        }
    };
    anyhow::ensure!(!lost, "leadership lost");
    admin.await.context("serve health and metrics")?
}

fn tell<T: Clone + Send + Sync + 'static>(
    inputs: &mpsc::UnboundedSender<Input>,
    wrap: fn(Event<T>) -> Input,
) -> impl Fn(&Event<T>) + Send + Sync + 'static {
    let inputs = inputs.clone();
    move |event| {
        // Only a scheduler that has stopped hears nothing.
        let _ = inputs.send(wrap(event.clone()));
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

/// The scheduler and what carries out its decisions.
struct Work {
    scheduler: Scheduler,
    metrics: Metrics,
    orders: mpsc::UnboundedSender<Order>,
    explanations: mpsc::Sender<(Arc<Pod>, String)>,
    binder: tokio::task::JoinHandle<()>,
}

impl Work {
    fn start(
        client: &Client,
        config: &Config,
        inputs: mpsc::UnboundedSender<Input>,
        metrics: Metrics,
        shutdown: &Shutdown,
    ) -> Self {
        let placer = Placer::new(Profile::default(), config.percentage_of_nodes_to_score);
        tracing::info!(profile = ?placer.profile(), "scheduling");
        let component = config
            .scheduler_names
            .first()
            .map_or("default-scheduler", String::as_str);
        let events = EventRecorder::new(client, component, "");
        let (orders, ordered) = mpsc::unbounded_channel();
        let binder = Binder {
            client: client.clone(),
            events: events.clone(),
            outcomes: inputs,
            metrics: metrics.clone(),
        };
        let binder = tokio::spawn(binder.run(ordered, shutdown.clone()));
        let (explanations, explained) = mpsc::channel(EXPLANATIONS);
        tokio::spawn(
            Explainer {
                client: client.clone(),
                events,
            }
            .run(explained),
        );
        let scheduler = Scheduler::new(config.scheduler_names.clone(), placer, Queue::new(config.backoff));
        Self {
            scheduler,
            metrics,
            orders,
            explanations,
            binder,
        }
    }

    /// Hears and decides until shutdown.
    async fn schedule(&mut self, heard: &mut mpsc::UnboundedReceiver<Input>, shutdown: &Shutdown) {
        loop {
            while let Ok(input) = heard.try_recv() {
                self.scheduler.hear(input, Instant::now());
            }
            let mut cycles = 0;
            while cycles < CYCLES && self.cycle() {
                cycles += 1;
            }
            self.metrics.depth(self.scheduler.depth());
            if cycles == CYCLES {
                tokio::task::yield_now().await;
                if shutdown.is_requested() {
                    return;
                }
                continue;
            }
            let due = self
                .scheduler
                .next_due()
                .unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(due) => {}
                input = heard.recv() => match input {
                    Some(input) => self.scheduler.hear(input, Instant::now()),
                    None => return,
                },
            }
        }
    }

    /// One scheduling cycle; answers whether there was a pod to try.
    fn cycle(&mut self) -> bool {
        let begun = Instant::now();
        let Some(decision) = self.scheduler.decide(begun) else {
            return false;
        };
        self.metrics.attempt(begun.elapsed());
        match decision {
            Decision::Bind { queued, node } => {
                // Only a binder that has stopped, at shutdown, misses it.
                let _ = self.orders.send(Order { queued, node });
            }
            Decision::Explain { queued, why } => {
                self.metrics.unschedulable();
                tracing::debug!(pod = %queued.pod.key, %why, "pod fits nowhere");
                let _ = self.explanations.try_send((queued.pod.pod.clone(), why.to_string()));
            }
        }
        true
    }

    /// Waits until bindings under way are written.
    async fn finish(self) {
        drop(self.orders);
        if let Err(error) = self.binder.await {
            tracing::error!(%error, "binder failed");
        }
    }
}

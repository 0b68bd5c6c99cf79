//! kube-controller-manager: the control loops that move a cluster towards what its objects ask for.
//!
//! It speaks to kube-apiserver only, over gRPC. Nothing is stored here: after a restart every loop reads the world again.

pub mod config;
pub mod controllers;
mod custom_resources;
mod disrupt;
mod history;
mod intstr;
mod node_fit;
pub mod ownership;
mod pod_control;
pub mod pods;
mod semantic;
pub mod setup;

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::Context;
use client::Client;
use client::leader::{self, LeaderConfig, Leadership};
use daemon::Shutdown;
use daemon::health::Health;
use daemon::http::Admin;
use daemon::tls::{ClientAuth, ServerTls, TlsFiles};
use prometheus::{IntGaugeVec, Opts, Registry};

use config::{Config, Election};
use setup::Setup;

const NAME: &str = "kube-controller-manager";

/// Runs until shutdown, or fails when leadership is lost: what the loops hold in memory is of no use to a later term.
pub async fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
    let registry = daemon::metrics::registry();
    let metrics = controller::Metrics::new();
    metrics.register(&registry).context("register metrics")?;
    let admin = tokio::spawn(admin(&config, &registry)?.serve(listener, shutdown.clone()));

    let target = client::Config::from_kubeconfig(&config.kubeconfig)?.user_agent(NAME);
    target.reload_on_change(shutdown.clone());
    let client = Client::new(target)?;
    daemon::notify::ready(&shutdown);

    let config = Arc::new(config);
    let outcome = match config.leader_election {
        Some(election) => lead(client, config, election, metrics, &registry, &shutdown).await,
        None => {
            controllers(client, config, metrics, shutdown.clone()).start().await;
            Ok(())
        }
    };
    if outcome.is_ok() {
        admin.await.context("serve health and metrics")??;
    }
    outcome
}

fn admin(config: &Config, registry: &Registry) -> anyhow::Result<Admin> {
    let serving = &config.serving;
    let files = TlsFiles {
        certificate: serving.tls_cert_file.clone(),
        key: serving.tls_private_key_file.clone(),
        ca: serving.client_ca_file.clone(),
    };
    let tls = ServerTls::load(files, ClientAuth::Requested)?;
    Ok(Admin {
        health: Health::new(),
        metrics: registry.clone(),
        tls,
    })
}

fn controllers(client: Client, config: Arc<Config>, metrics: controller::Metrics, shutdown: Shutdown) -> Setup {
    let names = config.controllers.clone();
    let mut setup = Setup::new(client, config, metrics, shutdown);
    controllers::start(&mut setup, &names);
    setup
}

/// Competes for the Lease, works while it is held and gives it back after the last write.
async fn lead(
    client: Client,
    config: Arc<Config>,
    election: Election,
    metrics: controller::Metrics,
    registry: &Registry,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let opts = Opts::new(
        "leader_election_master_status",
        "Whether this process leads: 1 if it does",
    );
    let status = IntGaugeVec::new(opts, &["name"])?;
    registry.register(Box::new(status.clone()))?;
    let status = status.with_label_values(&[NAME]);

    // The election outlives the work: another manager may start only after our last write.
    let (term, resigning) = (Shutdown::new(), Shutdown::new());
    let periods = LeaderConfig {
        lease_duration: election.lease_duration,
        renew_deadline: election.renew_deadline,
        retry_period: election.retry_period,
        ..LeaderConfig::new("kube-system", NAME, &identity())
    };
    let mut leadership: Leadership = leader::run(&client, periods, resigning.clone());
    let acquired = shutdown.run_until(leadership.acquired()).await == Some(true);
    let mut lost = false;
    if acquired {
        status.set(1);
        tracing::info!("leading");
        let work = controllers(client, config, metrics, term.clone()).start();
        let end = async {
            lost = shutdown.run_until(leadership.lost()).await.is_some();
            term.request();
        };
        tokio::join!(work, end);
        status.set(0);
    }
    resigning.request();
    leadership.released().await;
    anyhow::ensure!(!lost, "leadership was lost");
    Ok(())
}

/// Who we are in the election: the machine, and a part that no other process has.
fn identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{:032x}", host.trim(), rand::random::<u128>())
}

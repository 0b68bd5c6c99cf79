//! Stops containers and sandboxes: preStop hooks, grace periods, containers before the sidecars that serve them.

use super::decide::Kill;
use super::handler::Target;
use super::hooks;
use super::worker::Worker;
use crate::runtime::model::{Container as Seen, State};
use crate::runtime::resources::is_sidecar;
use crate::runtime::sandbox::pod_text;
use api::core::v1::Container;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is left for the signal when the hook used the grace period up.
const MIN_GRACE: i64 = 2;

impl Worker {
    /// Stops all containers within `grace` seconds, then all sandboxes.
    pub(super) async fn stop_everything(&self, grace: i64) {
        let begun = Instant::now();
        let left = || (grace - i64::try_from(begun.elapsed().as_secs()).unwrap_or(grace)).max(0);
        let running: Vec<&Seen> = self
            .observed
            .containers
            .iter()
            .filter(|seen| matches!(seen.state, State::Running | State::Unknown))
            .collect();
        let order = self.sidecar_order();
        let position = |seen: &Seen| order.iter().position(|name| *name == seen.name);
        let mut work = Vec::new();
        for seen in running.iter().filter(|seen| position(seen).is_none()) {
            work.push(
                self.stop_one(seen, grace, format!("Stopping container {}", seen.name))
                    .boxed(),
            );
        }
        join_all(work).await;
        let mut sidecars: Vec<&&Seen> = running.iter().filter(|seen| position(seen).is_some()).collect();
        sidecars.sort_by_key(|seen| std::cmp::Reverse(position(seen)));
        for seen in sidecars {
            self.stop_one(seen, left().max(MIN_GRACE), format!("Stopping container {}", seen.name))
                .await;
        }
        let mut work = Vec::new();
        for sandbox in self.observed.sandboxes.iter().filter(|sandbox| sandbox.ready) {
            work.push(self.stop_sandbox(&sandbox.id).boxed());
        }
        join_all(work).await;
    }

    async fn stop_sandbox(&self, id: &str) {
        if let Err(error) = self.context.runtime.stop_sandbox(id).await {
            tracing::warn!(%error, pod = pod_text(&self.pod), "stop sandbox");
            self.warn("FailedKillPod", &format!("error killing pod: {error}"));
            // The next observation decides to try again; not at once.
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Stops single containers of a pod that goes on.
    pub(super) async fn stop_some(&self, kills: &[Kill]) {
        let mut work = Vec::new();
        for kill in kills {
            if let Some(seen) = self.observed.containers.iter().find(|seen| seen.id == kill.id) {
                work.push(
                    self.stop_one(
                        seen,
                        kill.grace.unwrap_or_else(|| self.spec_grace()),
                        kill.message.clone(),
                    )
                    .boxed(),
                );
            }
        }
        join_all(work).await;
    }

    fn sidecar_order(&self) -> Vec<String> {
        let init = self
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.init_containers.iter().flatten());
        init.filter(|container| is_sidecar(container))
            .map(|container| container.name.clone())
            .collect()
    }

    async fn stop_one(&self, seen: &Seen, grace: i64, message: String) {
        self.tell("Killing", &message);
        let begun = Instant::now();
        let first = self.pre_stopped.lock().insert(seen.id.clone());
        if first && grace > 0 {
            self.pre_stop(seen, grace).await;
        }
        let used = i64::try_from(begun.elapsed().as_secs()).unwrap_or(grace);
        let left = if grace == 0 {
            0
        } else {
            (grace - used).max(MIN_GRACE.min(grace))
        };
        if let Err(error) = self.context.runtime.stop_container(&seen.id, left).await {
            tracing::warn!(%error, pod = pod_text(&self.pod), container = seen.name, "stop container");
            self.warn(
                "FailedKillPod",
                &format!(
                    "error killing pod: failed to \"KillContainer\" for \"{}\": {error}",
                    seen.name
                ),
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn pre_stop(&self, seen: &Seen, grace: i64) {
        let Some(container) = self.container_named(&seen.name) else {
            return;
        };
        let Some(hook) = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref())
        else {
            return;
        };
        let target = self.target(&seen.id, container);
        let limit = Duration::from_secs(grace.max(0) as u64);
        match tokio::time::timeout(limit, hooks::run(&target, hook)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.warn("FailedPreStopHook", &format!("PreStopHook failed: {error}")),
            Err(_) => tracing::info!(
                pod = pod_text(&self.pod),
                container = seen.name,
                "preStop hook outlasted the grace period"
            ),
        }
    }

    fn container_named(&self, name: &str) -> Option<&Container> {
        let spec = self.pod.spec.as_ref()?;
        let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        all.find(|container| container.name == name)
    }

    /// Where a container's handlers act.
    pub(super) fn target(&self, id: &str, container: &Container) -> Target {
        let sandbox_ip = self.observed.sandbox().and_then(|sandbox| sandbox.ips.first());
        let ip = sandbox_ip
            .or(self.context.node.ips.first())
            .and_then(|ip| ip.parse().ok());
        Target {
            runtime: self.context.runtime.clone(),
            id: id.to_owned(),
            ip,
            container: Arc::new(container.clone()),
        }
    }
}

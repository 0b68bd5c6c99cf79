//! Clears away: pods whose object is gone, containers that newer ones replaced, sandboxes that are not used, images that no container uses.

use crate::pods::{Context, Pods};
use crate::runtime::labels;
use crate::runtime::model::State;
use jiff::{SignedDuration, Timestamp};
use proto::cri;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Upstream's periods: a minute for containers, five for images.
const PERIOD: Duration = Duration::from_secs(60);
const IMAGE_ROUNDS: u32 = 5;
/// Dead containers kept of each name of a pod, besides the newest.
const KEEP: usize = 1;
/// A pod with so little of a past is somebody else's still on its way in.
const ORPHAN_GRACE: i64 = 1_000_000_000;

/// When images are removed.
#[derive(Clone, Copy, Debug)]
pub struct ImagePolicy {
    /// Percent of the file system in use.
    pub high: u8,
    /// Down to this.
    pub low: u8,
    /// Unused for this long.
    pub age: Duration,
}

/// Clears away until `stop`; first what was left by pods that went while there was no kubelet. Starts when all pods are known.
pub async fn run(pods: Arc<Pods>, context: Arc<Context>, policy: ImagePolicy, stop: CancellationToken) {
    let mut images = Images {
        policy,
        unused_since: HashMap::new(),
    };
    let mut round = 0_u32;
    loop {
        if let Err(error) = clear_pods(&pods, &context).await {
            tracing::warn!(%error, "clear away pods");
        }
        if round % IMAGE_ROUNDS == IMAGE_ROUNDS - 1
            && let Err(error) = images.clear(&context).await
        {
            tracing::warn!(%error, "clear away images");
        }
        round = round.wrapping_add(1);
        tokio::select! {
            () = tokio::time::sleep(PERIOD) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn clear_pods(pods: &Pods, context: &Context) -> anyhow::Result<()> {
    let (sandboxes, containers) = tokio::try_join!(
        context.runtime.list_sandboxes(None),
        context.runtime.list_containers(None)
    )?;
    let folders = context.volumes.pods();
    let cgroups = context.cgroups.pods();
    // Asked after the listings: a pod that came in between is known then.
    let known = pods.uids();
    for id in surplus_containers(&containers) {
        context.runtime.remove_container(&id).await?;
    }
    for id in surplus_sandboxes(&sandboxes, &containers) {
        context.runtime.remove_sandbox(&id).await?;
    }
    let now = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    for sandbox in &sandboxes {
        let Some(uid) = sandbox.labels.get(labels::POD_UID) else {
            continue;
        };
        if known.contains(uid) || now.saturating_sub(sandbox.created_at) < ORPHAN_GRACE {
            continue;
        }
        tracing::info!(
            uid,
            sandbox = sandbox.id,
            "a pod's object is gone: stopping what is left of it"
        );
        for container in containers
            .iter()
            .filter(|container| container.pod_sandbox_id == sandbox.id)
        {
            if State::from_cri(container.state) == State::Running {
                context.runtime.stop_container(&container.id, 30).await?;
            }
        }
        context.runtime.stop_sandbox(&sandbox.id).await?;
        context.runtime.remove_sandbox(&sandbox.id).await?;
    }
    let in_use: BTreeSet<&String> = sandboxes
        .iter()
        .filter_map(|sandbox| sandbox.labels.get(labels::POD_UID))
        .collect();
    for uid in folders
        .iter()
        .filter(|uid| !known.contains(*uid) && !in_use.contains(uid))
    {
        context.volumes.tear_down(uid).await?;
    }
    for (uid, path) in cgroups
        .iter()
        .filter(|(uid, _)| !known.contains(uid) && !in_use.contains(uid))
    {
        tracing::info!(uid, "removing the cgroup of a pod that is gone");
        context.cgroups.remove(path)?;
    }
    Ok(())
}

/// Dead containers that are too many: of each pod and name the newest and `KEEP` before it stay.
fn surplus_containers(containers: &[cri::Container]) -> Vec<String> {
    let mut by_name: BTreeMap<(String, String), Vec<&cri::Container>> = BTreeMap::new();
    for container in containers {
        let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
        by_name
            .entry((label(labels::POD_UID), label(labels::CONTAINER_NAME)))
            .or_default()
            .push(container);
    }
    let mut surplus = Vec::new();
    for ((uid, _), mut list) in by_name {
        if uid.is_empty() {
            continue;
        }
        list.sort_by_key(|container| std::cmp::Reverse(container.created_at));
        let old = list.into_iter().skip(1 + KEEP);
        surplus.extend(
            old.filter(|c| State::from_cri(c.state) == State::Exited)
                .map(|c| c.id.clone()),
        );
    }
    surplus
}

/// Sandboxes that do not run, have no container and are not their pod's newest.
fn surplus_sandboxes(sandboxes: &[cri::PodSandbox], containers: &[cri::Container]) -> Vec<String> {
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for sandbox in sandboxes {
        let uid = sandbox.labels.get(labels::POD_UID).map_or("", String::as_str);
        let at = newest.entry(uid).or_insert(sandbox.created_at);
        *at = (*at).max(sandbox.created_at);
    }
    let unused = |sandbox: &&cri::PodSandbox| {
        let uid = sandbox.labels.get(labels::POD_UID).map_or("", String::as_str);
        sandbox.state != cri::PodSandboxState::SandboxReady as i32
            && newest.get(uid).is_some_and(|at| *at > sandbox.created_at)
            && !containers
                .iter()
                .any(|container| container.pod_sandbox_id == sandbox.id)
    };
    sandboxes
        .iter()
        .filter(unused)
        .map(|sandbox| sandbox.id.clone())
        .collect()
}

struct Images {
    policy: ImagePolicy,
    unused_since: HashMap<String, Timestamp>,
}

impl Images {
    async fn clear(&mut self, context: &Context) -> anyhow::Result<()> {
        let images = context.runtime.list_images().await?;
        let containers = context.runtime.list_containers(None).await?;
        let used: BTreeSet<&str> = containers
            .iter()
            .map(|container| container.image_ref.as_str())
            .collect();
        let now = Timestamp::now();
        let is_used = |image: &cri::Image| {
            image.pinned
                || image.repo_tags.iter().any(|tag| tag == crate::pause::IMAGE)
                || used.contains(image.id.as_str())
                || image
                    .repo_digests
                    .iter()
                    .chain(&image.repo_tags)
                    .any(|name| used.contains(name.as_str()))
        };
        let unused: Vec<&cri::Image> = images.iter().filter(|image| !is_used(image)).collect();
        self.unused_since
            .retain(|id, _| unused.iter().any(|image| image.id == *id));
        for image in &unused {
            self.unused_since.entry(image.id.clone()).or_insert(now);
        }
        let answer = context.runtime.image_fs().await?;
        let Some(place) = answer.image_filesystems.first().and_then(|fs| fs.fs_id.as_ref()) else {
            return Ok(());
        };
        let disk = crate::node::facts::Disk::read(std::path::Path::new(&place.mountpoint))?;
        let in_use = disk.total.saturating_sub(disk.available);
        let mut excess = excess(in_use, disk.total, self.policy);
        let mut candidates: Vec<(Timestamp, &cri::Image)> = unused
            .iter()
            .filter_map(|image| Some((*self.unused_since.get(&image.id)?, *image)))
            .collect();
        candidates.sort_by_key(|(since, _)| *since);
        let age = SignedDuration::try_from(self.policy.age).unwrap_or(SignedDuration::MAX);
        for (since, image) in candidates {
            if excess == 0 || now.duration_since(since) < age {
                break;
            }
            tracing::info!(image = ?image.repo_tags, bytes = image.size, "removing an unused image");
            context.runtime.remove_image(&image.id).await?;
            excess = excess.saturating_sub(image.size);
        }
        Ok(())
    }
}

/// Bytes to free: none below the high mark, else down to the low one.
fn excess(in_use: u64, total: u64, policy: ImagePolicy) -> u64 {
    let mark = |percent: u8| (u128::from(total) * u128::from(percent) / 100) as u64;
    if in_use < mark(policy.high) {
        0
    } else {
        in_use - mark(policy.low).min(in_use)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, name: &str, created_at: i64, state: cri::ContainerState) -> cri::Container {
        cri::Container {
            id: id.into(),
            created_at,
            state: state as i32,
            pod_sandbox_id: "s1".into(),
            labels: [
                (labels::POD_UID.to_owned(), "u".to_owned()),
                (labels::CONTAINER_NAME.to_owned(), name.to_owned()),
            ]
            .into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_newest_and_the_one_before_stay() {
        use cri::ContainerState::{ContainerExited, ContainerRunning};
        let all = [
            container("1", "a", 1, ContainerExited),
            container("2", "a", 2, ContainerExited),
            container("3", "a", 3, ContainerRunning),
            container("4", "b", 1, ContainerExited),
        ];
        assert_eq!(surplus_containers(&all), ["1"]);
    }

    #[test]
    fn sandboxes_without_use_go() {
        let sandbox = |id: &str, created_at: i64| cri::PodSandbox {
            id: id.into(),
            created_at,
            state: cri::PodSandboxState::SandboxNotready as i32,
            labels: [(labels::POD_UID.to_owned(), "u".to_owned())].into(),
            ..Default::default()
        };
        let all = [sandbox("s0", 0), sandbox("s1", 1), sandbox("s2", 2)];
        let containers = [container("1", "a", 1, cri::ContainerState::ContainerExited)];
        assert_eq!(surplus_sandboxes(&all, &containers), ["s0"]);
    }

    #[test]
    fn images_go_only_above_the_high_mark() {
        let policy = ImagePolicy {
            high: 85,
            low: 80,
            age: Duration::ZERO,
        };
        assert_eq!(excess(84, 100, policy), 0);
        assert_eq!(excess(90, 100, policy), 10);
    }
}

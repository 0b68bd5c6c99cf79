//! Numbers for the kernel from requests and limits: CPU shares and quota, memory, OOM score, and the pod's QoS class.

use api::core::v1::{Container, Pod, ResourceRequirements};
use api::meta::Quantity;
use proto::cri;
use std::collections::BTreeMap;

const SHARES_PER_CPU: i64 = 1024;
const MILLI_PER_CPU: i64 = 1000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const QUOTA_PERIOD_US: i64 = 100_000;
const MIN_QUOTA_US: i64 = 1000;

/// Amounts by resource name, as the API has them.
pub type Amounts = BTreeMap<String, Quantity>;

/// A pod's quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits equal to its requests.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

impl Qos {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// An amount of a resource in thousandths; nothing if it is absent or does not parse.
pub fn milli(amounts: Option<&Amounts>, resource: &str) -> Option<i64> {
    let quantity = amounts?.get(resource)?;
    api::quantity::Quantity::parse(&quantity.0)
        .ok()
        .map(|quantity| quantity.as_milli())
}

/// An amount of a resource in units, rounded up; nothing if it is absent or does not parse.
pub fn units(amounts: Option<&Amounts>, resource: &str) -> Option<i64> {
    let quantity = amounts?.get(resource)?;
    api::quantity::Quantity::parse(&quantity.0)
        .ok()
        .map(|quantity| quantity.as_i64())
}

/// What is requested of a resource; a limit without a request counts as one.
pub fn request_milli(resources: Option<&ResourceRequirements>, resource: &str) -> Option<i64> {
    let resources = resources?;
    milli(resources.requests.as_ref(), resource).or_else(|| milli(resources.limits.as_ref(), resource))
}

/// All containers of a pod that count for its resources.
pub fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    spec.into_iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// The pod's QoS class, from cpu and memory only.
pub fn qos(pod: &Pod) -> Qos {
    if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        match class {
            "Guaranteed" => return Qos::Guaranteed,
            "Burstable" => return Qos::Burstable,
            "BestEffort" => return Qos::BestEffort,
            _ => {}
        }
    }
    let mut any = false;
    let mut guaranteed = true;
    for container in all_containers(pod) {
        for resource in ["cpu", "memory"] {
            let resources = container.resources.as_ref();
            let request = request_milli(resources, resource).filter(|amount| *amount > 0);
            let limit = resources
                .and_then(|r| milli(r.limits.as_ref(), resource))
                .filter(|amount| *amount > 0);
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// CPU shares (cgroup v1 scale) of so many thousandths of a CPU.
pub fn cpu_shares(milli: i64) -> i64 {
    (milli.max(0).saturating_mul(SHARES_PER_CPU) / MILLI_PER_CPU).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds of CPU in each period of 100 ms; nothing is no limit.
pub fn cpu_quota(milli: i64) -> Option<i64> {
    (milli > 0).then(|| (milli.saturating_mul(QUOTA_PERIOD_US) / MILLI_PER_CPU).max(MIN_QUOTA_US))
}

/// The period that quotas are counted in, in microseconds.
pub fn cpu_period() -> i64 {
    QUOTA_PERIOD_US
}

/// `oom_score_adj` of a container: what asks for a larger part of the node's memory is killed later.
pub fn oom_score_adj(qos: Qos, memory_request: i64, node_memory: i64, priority: Option<i32>) -> i64 {
    /// `system-node-critical`.
    const NODE_CRITICAL: i32 = 2_000_001_000;
    if priority.is_some_and(|priority| priority >= NODE_CRITICAL) {
        return -997;
    }
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let part = 1000_i128 * i128::from(memory_request.max(0)) / i128::from(node_memory.max(1));
            let score = 1000 - i64::try_from(part).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

/// What CRI is told of a container's resources.
pub fn container_resources(pod: &Pod, container: &Container, node_memory: i64) -> cri::LinuxContainerResources {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let shares = cpu_shares(request_milli(resources, "cpu").unwrap_or(0));
    let quota = milli(limits, "cpu").and_then(cpu_quota);
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority);
    let memory_request = units(requests, "memory").unwrap_or(0);
    cri::LinuxContainerResources {
        cpu_period: if quota.is_some() { QUOTA_PERIOD_US } else { 0 },
        cpu_quota: quota.unwrap_or(0),
        cpu_shares: shares,
        memory_limit_in_bytes: units(limits, "memory").unwrap_or(0),
        oom_score_adj: oom_score_adj(qos(pod), memory_request, node_memory, priority),
        ..Default::default()
    }
}

/// A pod's totals for its own cgroup and for admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodTotals {
    /// Requested CPU in thousandths.
    pub cpu_milli: i64,
    /// Requested memory in bytes.
    pub memory: i64,
    /// Requested local storage in bytes.
    pub ephemeral_storage: i64,
    /// CPU limit, when every container has one.
    pub cpu_limit_milli: Option<i64>,
    /// Memory limit, when every container has one.
    pub memory_limit: Option<i64>,
}

/// Sums a pod up: containers and sidecars together, or the largest init container with the sidecars started before it, and overhead.
pub fn pod_totals(pod: &Pod) -> PodTotals {
    let spec = pod.spec.as_ref();
    let overhead = spec.and_then(|spec| spec.overhead.as_ref());
    let request = |resource: &str| {
        sum(pod, |container| {
            request_milli(container.resources.as_ref(), resource).unwrap_or(0)
        }) + milli(overhead, resource).unwrap_or(0)
    };
    let limit = |resource: &str| {
        let of = |container: &Container| milli(container.resources.as_ref()?.limits.as_ref(), resource);
        let all = all_containers(pod).all(|container| of(container).is_some_and(|amount| amount > 0));
        all.then(|| sum(pod, |container| of(container).unwrap_or(0)) + milli(overhead, resource).unwrap_or(0))
    };
    let up = |amount: i64| amount.div_euclid(1000) + i64::from(amount.rem_euclid(1000) > 0);
    PodTotals {
        cpu_milli: request("cpu"),
        memory: up(request("memory")),
        ephemeral_storage: up(request("ephemeral-storage")),
        cpu_limit_milli: limit("cpu"),
        memory_limit: limit("memory").map(up),
    }
}

/// Requested amount of any resource, in thousandths.
pub fn pod_request_milli(pod: &Pod, resource: &str) -> i64 {
    let overhead = pod
        .spec
        .as_ref()
        .and_then(|spec| milli(spec.overhead.as_ref(), resource));
    sum(pod, |container| {
        request_milli(container.resources.as_ref(), resource).unwrap_or(0)
    }) + overhead.unwrap_or(0)
}

fn sum(pod: &Pod, of: impl Fn(&Container) -> i64) -> i64 {
    let Some(spec) = pod.spec.as_ref() else { return 0 };
    let mut sidecars = 0_i64;
    let mut peak = 0_i64;
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars = sidecars.saturating_add(of(container));
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars.saturating_add(of(container)));
        }
    }
    let main = spec
        .containers
        .iter()
        .fold(0_i64, |total, container| total.saturating_add(of(container)));
    peak.max(main.saturating_add(sidecars))
}

/// Whether an init container is a restartable one, which runs beside the containers.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Pod {
        let amounts = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(name, text)| ((*name).to_owned(), Quantity((*text).to_owned())))
                .collect::<Amounts>()
        };
        let resources = ResourceRequirements {
            requests: Some(amounts(requests)),
            limits: Some(amounts(limits)),
            ..Default::default()
        };
        let container = Container {
            name: "a".into(),
            resources: Some(resources),
            ..Default::default()
        };
        let spec = api::core::v1::PodSpec {
            containers: vec![container],
            ..Default::default()
        };
        Pod {
            spec: Some(spec),
            ..Default::default()
        }
    }

    #[test]
    fn qos_follows_requests_and_limits() {
        assert_eq!(qos(&pod(&[], &[])), Qos::BestEffort);
        assert_eq!(qos(&pod(&[("cpu", "1")], &[])), Qos::Burstable);
        assert_eq!(qos(&pod(&[], &[("cpu", "1"), ("memory", "1Gi")])), Qos::Guaranteed);
        assert_eq!(
            qos(&pod(&[("cpu", "1")], &[("cpu", "1000m"), ("memory", "1Gi")])),
            Qos::Guaranteed
        );
        assert_eq!(
            qos(&pod(&[("cpu", "500m")], &[("cpu", "1"), ("memory", "1Gi")])),
            Qos::Burstable
        );
        assert_eq!(qos(&pod(&[("example.com/gpu", "1")], &[])), Qos::BestEffort);
    }

    #[test]
    fn shares_and_quota_have_the_kernels_bounds() {
        assert_eq!(cpu_shares(0), 2);
        assert_eq!(cpu_shares(100), 102);
        assert_eq!(cpu_shares(1_000_000_000), 262_144);
        assert_eq!(cpu_quota(0), None);
        assert_eq!(cpu_quota(1), Some(1000));
        assert_eq!(cpu_quota(1500), Some(150_000));
    }

    #[test]
    fn oom_score_follows_the_part_of_memory_requested() {
        let gib = 1_i64 << 30;
        assert_eq!(oom_score_adj(Qos::Guaranteed, gib, 4 * gib, None), -997);
        assert_eq!(oom_score_adj(Qos::BestEffort, 0, 4 * gib, None), 1000);
        assert_eq!(oom_score_adj(Qos::Burstable, gib, 4 * gib, None), 750);
        assert_eq!(oom_score_adj(Qos::Burstable, 4 * gib, 4 * gib, None), 3);
        assert_eq!(oom_score_adj(Qos::Burstable, 0, 4 * gib, None), 999);
        assert_eq!(oom_score_adj(Qos::BestEffort, 0, 4 * gib, Some(2_000_001_000)), -997);
    }

    #[test]
    fn totals_count_the_larger_of_init_and_main() {
        let mut pod = pod(&[("cpu", "100m")], &[]);
        let init = |name: &str, cpu: &str, sidecar: bool| Container {
            name: name.into(),
            restart_policy: sidecar.then(|| "Always".into()),
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_owned(), Quantity(cpu.to_owned()))].into()),
                ..Default::default()
            }),
            ..Default::default()
        };
        if let Some(spec) = pod.spec.as_mut() {
            spec.init_containers = Some(vec![init("side", "50m", true), init("first", "300m", false)]);
        }
        assert_eq!(pod_totals(&pod).cpu_milli, 350);
        if let Some(spec) = pod.spec.as_mut() {
            spec.init_containers = Some(vec![init("side", "50m", true), init("first", "20m", false)]);
        }
        assert_eq!(pod_totals(&pod).cpu_milli, 150);
        assert_eq!(pod_totals(&pod).cpu_limit_milli, None);
    }
}

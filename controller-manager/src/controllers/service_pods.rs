//! What Endpoints and EndpointSlices have in common: which pods stand behind a service, and on which of their ports.

use std::net::IpAddr;
use std::sync::Arc;

use api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use api::labels::Selector;
use api::meta::{IntOrString, Time};
use api::{Object, ObjectKey};
use client::{Cache, Event};
use controller::Queue;

use crate::pods;
use crate::setup::{Informers, Late, NAMESPACE, enqueue};

/// The newest change that an Endpoints or EndpointSlice object reflects, for measuring how fast it travels.
pub const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// The label of objects of a service without a cluster IP.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// The pods a service selects, or nothing if its endpoints are made by somebody else: it has no selector or is a name only.
pub fn selector(service: &Service) -> Option<Selector> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    spec.selector
        .as_ref()
        .filter(|selector| !selector.is_empty())
        .map(Selector::from_map)
}

/// Whether the service has no cluster IP.
pub fn is_headless(service: &Service) -> bool {
    let cluster_ip = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    matches!(cluster_ip, None | Some("" | "None"))
}

/// Whether pods take part before they are ready.
pub fn publishes_not_ready(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.publish_not_ready_addresses)
        .unwrap_or(false)
}

/// The pod's addresses of one family.
pub fn addresses(pod: &Pod, ipv6: bool) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    // A kubelet that sets only the old field still has one address.
    let single = status
        .pod_ips
        .as_ref()
        .is_none_or(Vec::is_empty)
        .then_some(status.pod_ip.as_deref())
        .flatten();
    let of_family = |text: &&str| text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == ipv6);
    all.chain(single).filter(of_family).map(str::to_owned).collect()
}

/// The port number that a service port means on this pod; nothing if the pod has no port of that name.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let spec = pod.spec.as_ref()?;
            // A sidecar is an init container that restarts always; only it still serves when the pod runs.
            let sidecars = spec
                .init_containers
                .iter()
                .flatten()
                .filter(|init| init.restart_policy.as_deref() == Some("Always"));
            let mut ports = spec
                .containers
                .iter()
                .chain(sidecars)
                .flat_map(|container| container.ports.iter().flatten());
            ports
                .find(|candidate| {
                    candidate.name.as_deref() == Some(name)
                        && candidate.protocol.as_deref().unwrap_or("TCP") == protocol
                })
                .map(|found| found.container_port)
        }
    }
}

/// The name under which DNS knows this pod of the service, if it asks for one.
pub fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let named = spec.subdomain.as_deref() == Some(service.name()) && pod.namespace() == service.namespace();
    spec.hostname.clone().filter(|hostname| named && !hostname.is_empty())
}

/// A reference to the pod.
pub fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace().to_owned()),
        name: Some(pod.name().to_owned()),
        uid: Some(pod.uid().to_owned()),
        ..Default::default()
    }
}

/// When the newest of the changes happened that these pods and the service can show: a pod's readiness or the service's creation.
///
/// Upstream remembers what it saw last and takes the oldest change since; with a write for every change the two are the same.
pub fn trigger_time<'a>(service: &Service, pods: impl IntoIterator<Item = &'a Pod>) -> Option<String> {
    let readiness = pods
        .into_iter()
        .filter_map(|pod| pods::condition(pod, "Ready")?.last_transition_time.as_ref());
    let newest = readiness
        .chain(service.metadata.creation_timestamp.as_ref())
        .map(|Time(time)| *time)
        .max()?;
    Some(format!("{newest:.0}"))
}

/// Has services reconciled when they or pods they select change.
pub fn wake(informers: &mut Informers, queue: &Queue<ObjectKey>) {
    informers.services.on_event(enqueue(queue));
    let (queue, services) = (queue.clone(), informers.services.late());
    informers
        .pods
        .on_event(move |event| wake_services(event, &services, &queue));
}

fn wake_services(event: &Event<Pod>, services: &Late<Service>, queue: &Queue<ObjectKey>) {
    if let Event::Updated { old, new } = event
        && !is_relevant_change(old, new)
    {
        return;
    }
    let (pod, previous) = (event.object(), event.previous());
    for service in services.by_index(NAMESPACE, pod.namespace()) {
        let Some(selector) = selector(&service) else { continue };
        if selector.matches(pod.labels()) || previous.is_some_and(|pod| selector.matches(pod.labels())) {
            queue.add(service.key());
        }
    }
}

/// The pods that a service selects.
pub fn selected(pods: &Cache<Pod>, service: &Service) -> Vec<Arc<Pod>> {
    let Some(selector) = selector(service) else {
        return Vec::new();
    };
    let mut selected = pods.by_index(NAMESPACE, service.namespace());
    selected.retain(|pod| selector.matches(pod.labels()));
    selected
}

/// Whether a change of a pod can change endpoints. Most updates of a pod, its container statuses above all, cannot.
pub fn is_relevant_change(old: &Pod, new: &Pod) -> bool {
    let facts = |pod: &Pod| {
        let status = pod.status.as_ref();
        (
            (
                pod.is_deleting(),
                pods::is_terminated(pod),
                pods::is_ready(pod),
                pods::node(pod).to_owned(),
            ),
            (
                addresses(pod, false),
                addresses(pod, true),
                status.and_then(|status| status.host_ip.clone()),
            ),
            pod.spec
                .as_ref()
                .map(|spec| (spec.hostname.clone(), spec.subdomain.clone())),
        )
    };
    old.labels() != new.labels() || facts(old) != facts(new)
}

#[cfg(test)]
pub mod testing {
    //! Services and pods with addresses for table tests.

    use api::core::v1::{ContainerPort, PodIP, ServiceSpec};
    use api::meta::ObjectMeta;

    use super::*;
    use crate::pods::testing::{on_node, pod, with_ready};

    /// `default/web` with selector `app=web` and port 80 to `http`.
    pub fn service() -> Service {
        Service {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("default".into()),
                uid: Some("service-uid".into()),
                labels: Some([("team".to_owned(), "blue".to_owned())].into()),
                ..Default::default()
            },
            spec: Some(ServiceSpec {
                cluster_ip: Some("10.96.0.7".into()),
                ip_families: Some(vec!["IPv4".into()]),
                selector: Some([("app".to_owned(), "web".to_owned())].into()),
                ports: Some(vec![ServicePort {
                    port: 80,
                    protocol: Some("TCP".into()),
                    target_port: Some(IntOrString::String("http".into())),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            status: None,
        }
    }

    /// A running pod on node `n1` that serves `http` on 8080.
    pub fn backend(name: &str, ip: &str, ready: bool) -> Pod {
        let mut pod = on_node(with_ready(pod(name, "Running"), ready, 10), "n1");
        let port = ContainerPort {
            name: Some("http".into()),
            container_port: 8080,
            ..Default::default()
        };
        pod.spec.as_mut().unwrap().containers = vec![api::core::v1::Container {
            ports: Some(vec![port]),
            ..Default::default()
        }];
        pod.status.as_mut().unwrap().pod_ips = Some(vec![PodIP { ip: ip.into() }]);
        pod
    }

    #[test]
    fn target_ports_by_number_name_and_default() {
        let pod = backend("a", "10.244.0.2", true);
        let port = |target| ServicePort {
            port: 80,
            target_port: target,
            ..Default::default()
        };
        let text = |text: &str| Some(IntOrString::String(text.into()));
        let cases = [
            (port(None), Some(80)),
            (port(Some(IntOrString::Int(9000))), Some(9000)),
            (port(text("http")), Some(8080)),
            (port(text("nope")), None),
            (
                ServicePort {
                    protocol: Some("UDP".into()),
                    ..port(text("http"))
                },
                None,
            ),
        ];
        for (port, expected) in cases {
            assert_eq!(target_port(&pod, &port), expected, "{port:?}");
        }
    }

    #[test]
    fn only_what_endpoints_show_wakes_them() {
        let old = backend("a", "10.244.0.2", true);
        let mut restarted = old.clone();
        restarted.status.as_mut().unwrap().message = Some("restarted".into());
        assert!(!is_relevant_change(&old, &restarted));
        assert!(is_relevant_change(&old, &backend("a", "10.244.0.2", false)));
        assert!(is_relevant_change(&old, &backend("a", "10.244.0.3", true)));
    }
}

//! Endpoints: the older form of what [`super::endpointslice`] shows, one object a service.
//!
//! Only the service's first IP family, only pods that are not on their way out, at most 1000 addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use api::meta::ObjectMeta;
use api::{Object, ObjectKey};
use client::{Cache, Client, DeleteParams};
use controller::{Action, Error};

use super::service_pods::{self, HEADLESS, TRIGGER_TIME};
use crate::setup::{Setup, enqueue};
use crate::{pods, semantic};

/// The most addresses in one object.
const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Says that this controller made the object, and may delete it with its service.
pub const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`].
pub const MANAGER: &str = "endpoint-controller";

/// What a pass looks at.
pub struct Observed<'a> {
    /// The service; nothing if it is gone.
    pub service: Option<&'a Service>,
    /// The pods it selects.
    pub pods: &'a [Arc<Pod>],
    /// The object of its name.
    pub endpoints: Option<&'a Endpoints>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create it.
    Create(Box<Endpoints>),
    /// Write it.
    Update(Box<Endpoints>),
    /// Delete it.
    Delete,
}

/// What makes the object show the pods.
pub fn plan(observed: &Observed<'_>) -> Option<Change> {
    let Some(service) = observed.service else {
        let ours = observed
            .endpoints?
            .labels()
            .get(MANAGED_BY)
            .is_some_and(|manager| manager == MANAGER);
        return ours.then_some(Change::Delete);
    };
    service_pods::selector(service)?;
    let before = observed.endpoints.cloned().unwrap_or_default();
    let mut after = before.clone();
    after.metadata = ObjectMeta {
        name: Some(service.name().to_owned()),
        namespace: Some(service.namespace().to_owned()),
        ..after.metadata
    };
    after.metadata.labels = Some(labels(service));
    let (subsets, truncated) = subsets(service, observed.pods);
    after.subsets = Some(subsets);
    let annotations = after.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    if observed.endpoints.is_some() && semantic::equal(&before, &after) {
        return None;
    }
    if let Some(time) = service_pods::trigger_time(service, observed.pods.iter().map(|pod| &**pod)) {
        after
            .metadata
            .annotations
            .get_or_insert_default()
            .insert(TRIGGER_TIME.into(), time);
    }
    let change = if observed.endpoints.is_some() {
        Change::Update
    } else {
        Change::Create
    };
    Some(change(Box::new(after)))
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS);
    if service_pods::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

/// A port in the order upstream sorts subsets by: what is equal is one port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    name: String,
    protocol: String,
    port: i32,
    app_protocol: Option<String>,
}

/// Addresses with the same ports in one subset; a pod stands once in each subset, among the ready or the not ready.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let spec = service.spec.clone().unwrap_or_default();
    let ipv6 = spec
        .ip_families
        .iter()
        .flatten()
        .next()
        .is_some_and(|family| family == "IPv6");
    let early = service_pods::publishes_not_ready(service);
    let mut groups: BTreeMap<BTreeSet<Port>, Vec<(EndpointAddress, bool)>> = BTreeMap::new();
    for pod in pods {
        if pods::is_terminated(pod) || (pod.is_deleting() && !early) {
            continue;
        }
        let Some(ip) = service_pods::addresses(pod, ipv6).into_iter().next() else {
            continue;
        };
        let ports = spec.ports.iter().flatten().filter_map(|port| {
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                port: service_pods::target_port(pod, port)?,
                app_protocol: port.app_protocol.clone(),
            })
        });
        let ports: BTreeSet<_> = ports.collect();
        if ports.is_empty() && !(service_pods::is_headless(service) && spec.ports.iter().flatten().next().is_none()) {
            continue;
        }
        let address = EndpointAddress {
            ip,
            hostname: service_pods::hostname(pod, service),
            node_name: Some(pods::node(pod).to_owned()).filter(|node| !node.is_empty()),
            target_ref: Some(service_pods::reference(pod)),
        };
        groups
            .entry(ports)
            .or_default()
            .push((address, early || pods::is_ready(pod)));
    }
    let total: usize = groups.values().map(Vec::len).sum();
    let mut room = MAX_ADDRESSES;
    let subset = |(ports, mut addresses): (BTreeSet<Port>, Vec<(EndpointAddress, bool)>)| {
        // What does not fit is cut from the not ready first.
        addresses
            .sort_by(|(left, left_ready), (right, right_ready)| (right_ready, &left.ip).cmp(&(left_ready, &right.ip)));
        addresses.truncate(room);
        room -= addresses.len();
        let (ready, not_ready): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|(_, ready)| *ready);
        let list = |addresses: Vec<(EndpointAddress, bool)>| {
            Some(addresses.into_iter().map(|(address, _)| address).collect::<Vec<_>>()).filter(|list| !list.is_empty())
        };
        EndpointSubset {
            addresses: list(ready),
            not_ready_addresses: list(not_ready),
            ports: Some(ports.into_iter().map(endpoint_port).collect()),
        }
    };
    (groups.into_iter().map(subset).collect(), total > MAX_ADDRESSES)
}

fn endpoint_port(port: Port) -> EndpointPort {
    EndpointPort {
        name: Some(port.name).filter(|name| !name.is_empty()),
        port: port.port,
        protocol: Some(port.protocol),
        app_protocol: port.app_protocol,
    }
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("endpoint");
    service_pods::wake(&mut setup.informers, &queue);
    setup.informers.endpoints.on_event(enqueue(&queue));
    let client = setup.client.clone();
    let workers = setup.config.concurrent_endpoint_syncs;
    setup.run("endpoint", queue, workers, move |caches| {
        let controller = Arc::new(Controller {
            client,
            services: caches.services,
            pods: caches.pods,
            endpoints: caches.endpoints,
        });
        move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(key).await }
        }
    });
}

struct Controller {
    client: Client,
    services: Cache<Service>,
    pods: Cache<Pod>,
    endpoints: Cache<Endpoints>,
}

impl Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let service = self.services.get(&key);
        let pods = service
            .as_ref()
            .map(|service| service_pods::selected(&self.pods, service))
            .unwrap_or_default();
        let endpoints = self.endpoints.get(&key);
        let observed = Observed {
            service: service.as_deref(),
            pods: &pods,
            endpoints: endpoints.as_deref(),
        };
        let api = self.client.api::<Endpoints>();
        let outcome = match plan(&observed) {
            None => return Ok(Action::Done),
            Some(Change::Create(object)) => api.create(&object).await.map(drop),
            Some(Change::Update(object)) => api.update(&object).await.map(drop),
            Some(Change::Delete) => api.delete(&key.namespace, &key.name, &DeleteParams::default()).await,
        };
        match outcome {
            Ok(()) => Ok(Action::Done),
            // The name is the service's, so a create that a lagging cache repeats ends here, and the cache's event wakes the key.
            Err(error) if error.is_already_exists() || error.is_not_found() || error.is_namespace_terminating() => {
                Ok(Action::Done)
            }
            Err(error) => Err(Error::client(format!("write Endpoints {key}"))(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::service_pods::testing::{backend, service};
    use super::*;
    use crate::pods::testing::deleting;

    fn planned(service: &Service, pods: &[Pod], endpoints: Option<&Endpoints>) -> Option<Change> {
        let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
        plan(&Observed {
            service: Some(service),
            pods: &pods,
            endpoints,
        })
    }

    fn created(service: &Service, pods: &[Pod]) -> Endpoints {
        match planned(service, pods, None) {
            Some(Change::Create(endpoints)) => *endpoints,
            other => panic!("{other:?}"),
        }
    }

    fn ips(addresses: &Option<Vec<EndpointAddress>>) -> Vec<&str> {
        addresses.iter().flatten().map(|address| address.ip.as_str()).collect()
    }

    #[test]
    fn ready_and_not_ready_pods_stand_apart_in_one_subset() {
        let pods = [
            backend("b", "10.244.0.3", true),
            backend("a", "10.244.0.2", true),
            backend("c", "10.244.0.4", false),
        ];
        let endpoints = created(&service(), &pods);
        assert_eq!(endpoints.labels()[MANAGED_BY], MANAGER);
        let subsets = endpoints.subsets.as_deref().unwrap();
        assert_eq!(subsets.len(), 1);
        assert_eq!(ips(&subsets[0].addresses), ["10.244.0.2", "10.244.0.3"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.244.0.4"]);
        assert_eq!(subsets[0].ports.as_ref().unwrap()[0].port, 8080);
        assert_eq!(
            planned(&service(), &pods, Some(&endpoints)),
            None,
            "a second pass has nothing to do"
        );
    }

    #[test]
    fn a_pod_on_its_way_out_leaves_unless_it_is_published_early() {
        let pods = [deleting(backend("a", "10.244.0.2", true))];
        assert_eq!(created(&service(), &pods).subsets.unwrap(), []);
        let mut early = service();
        early.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
        assert_eq!(
            ips(&created(&early, &pods).subsets.unwrap()[0].addresses),
            ["10.244.0.2"]
        );
    }

    #[test]
    fn too_many_addresses_are_cut_and_said_to_be() {
        let ip = |n: usize| format!("10.244.{}.{}", n / 250, n % 250);
        let mut pods: Vec<_> = (0..1000).map(|n| backend(&format!("p{n}"), &ip(n), true)).collect();
        assert!(!created(&service(), &pods).annotations().contains_key(OVER_CAPACITY));
        pods.insert(0, backend("unready", "10.0.0.1", false));
        let endpoints = created(&service(), &pods);
        assert_eq!(endpoints.annotations()[OVER_CAPACITY], "truncated");
        assert_eq!(endpoints.subsets.unwrap()[0].not_ready_addresses, None);
    }

    #[test]
    fn what_we_made_goes_with_its_service_and_nothing_else() {
        let ours = created(&service(), &[]);
        let manual = Endpoints::default();
        for (endpoints, expected) in [(Some(&ours), Some(Change::Delete)), (Some(&manual), None), (None, None)] {
            assert_eq!(
                plan(&Observed {
                    service: None,
                    pods: &[],
                    endpoints
                }),
                expected
            );
        }
    }

    #[test]
    fn endpoints_of_a_service_without_selector_are_somebody_elses() {
        let mut manual = service();
        manual.spec.as_mut().unwrap().selector = None;
        assert_eq!(planned(&manual, &[backend("a", "10.244.0.2", true)], None), None);
    }
}

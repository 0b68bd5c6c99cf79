//! EndpointSlices: the addresses behind each service that has a selector.
//!
//! Slices of a service hold at most 100 endpoints each and share one list of ports. An endpoint stays in its slice as long as it lives, so that a
//! change of one pod rewrites one slice. Slices of deleted services are left to the garbage collector.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::core::v1::{Node, Pod, Service};
use api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use api::meta::ObjectMeta;
use api::{Object, ObjectKey};
use client::{Cache, Client, DeleteParams, Event};
use controller::{Action, Error, Writes};

use super::service_pods::{self, HEADLESS, TRIGGER_TIME};
use crate::setup::{NODE, OWNER, Setup};
use crate::{pods, semantic};

/// The most endpoints in one slice.
const MAX_ENDPOINTS: usize = 100;
/// The label that ties a slice to its service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";

/// What a pass looks at.
pub struct Observed<'a> {
    /// The service; it has a selector.
    pub service: &'a Service,
    /// The pods it selects.
    pub pods: &'a [Arc<Pod>],
    /// The nodes of those pods, by name.
    pub nodes: &'a HashMap<String, Arc<Node>>,
    /// The slices of the service that this controller manages.
    pub slices: &'a [Arc<EndpointSlice>],
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Create this slice; the server names it.
    Create(Box<EndpointSlice>),
    /// Write this slice.
    Update(Box<EndpointSlice>),
    /// Delete this slice.
    Delete(Arc<EndpointSlice>),
}

/// The smallest set of writes that makes the slices show the pods.
pub fn plan(observed: &Observed<'_>) -> Vec<Change> {
    let families = observed
        .service
        .spec
        .as_ref()
        .and_then(|spec| spec.ip_families.clone())
        .filter(|list| !list.is_empty());
    let families = families.unwrap_or_else(|| vec!["IPv4".into()]);
    let mut changes = Vec::new();
    for slice in observed.slices {
        if !slice.is_deleting() && !families.contains(&slice.address_type) {
            changes.push(Change::Delete(slice.clone()));
        }
    }
    for family in &families {
        changes.extend(plan_family(observed, family));
    }
    changes
}

type Ports = Vec<EndpointPort>;

fn plan_family(observed: &Observed<'_>, family: &str) -> Vec<Change> {
    let mut groups = desired(observed, family);
    let slices = observed
        .slices
        .iter()
        .filter(|slice| slice.address_type == family && !slice.is_deleting());
    let mut existing: Vec<(Ports, Vec<Arc<EndpointSlice>>)> = Vec::new();
    for slice in slices {
        let ports = slice.ports.clone().unwrap_or_default();
        match existing.iter_mut().find(|(other, _)| *other == ports) {
            Some((_, slices)) => slices.push(slice.clone()),
            None => existing.push((ports, vec![slice.clone()])),
        }
    }
    if groups.is_empty() {
        // One empty slice says that the service was seen and has no endpoints.
        let kept = existing.first().map_or_else(Ports::new, |(ports, _)| ports.clone());
        groups.push((kept, BTreeMap::new()));
    }
    let meta = Meta::of(observed);
    let mut changes = Vec::new();
    for (ports, slices) in &existing {
        if !groups.iter().any(|(wanted, _)| wanted == ports) {
            changes.extend(slices.iter().cloned().map(Change::Delete));
        }
    }
    for (ports, endpoints) in groups {
        let slices = existing
            .iter()
            .find(|(other, _)| *other == ports)
            .map_or(&[][..], |(_, slices)| slices);
        changes.extend(plan_group(&meta, family, &ports, endpoints, slices));
    }
    changes
}

/// The endpoints there must be, by port list and then by address: pods whose named port differs stand apart.
fn desired(observed: &Observed<'_>, family: &str) -> Vec<(Ports, BTreeMap<Vec<String>, Endpoint>)> {
    let mut groups: Vec<(Ports, BTreeMap<Vec<String>, Endpoint>)> = Vec::new();
    for pod in observed.pods.iter().filter(|pod| !pods::is_terminated(pod)) {
        let addresses = service_pods::addresses(pod, family == "IPv6");
        let Some(node) = observed.nodes.get(pods::node(pod)) else {
            continue;
        };
        if addresses.is_empty() {
            continue;
        }
        let ports = ports(observed.service, pod);
        let endpoint = endpoint(observed.service, pod, node, addresses.clone());
        match groups.iter_mut().find(|(other, _)| *other == ports) {
            Some((_, endpoints)) => drop(endpoints.insert(addresses, endpoint)),
            None => groups.push((ports, BTreeMap::from([(addresses, endpoint)]))),
        }
    }
    groups
}

fn ports(service: &Service, pod: &Pod) -> Ports {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let resolved = ports.filter_map(|port| {
        Some(EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(service_pods::target_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        })
    });
    resolved.collect()
}

fn endpoint(service: &Service, pod: &Pod, node: &Node, addresses: Vec<String>) -> Endpoint {
    let (serving, terminating) = (pods::is_ready(pod), pod.is_deleting());
    let ready = service_pods::publishes_not_ready(service) || (serving && !terminating);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: service_pods::hostname(pod, service),
        node_name: Some(node.name().to_owned()),
        zone: node.labels().get(ZONE).cloned(),
        target_ref: Some(service_pods::reference(pod)),
        ..Default::default()
    }
}

/// What every slice of a service carries.
struct Meta<'a> {
    service: &'a Service,
    labels: BTreeMap<String, String>,
    trigger_time: Option<String>,
}

impl<'a> Meta<'a> {
    fn of(observed: &Observed<'a>) -> Meta<'a> {
        let service = observed.service;
        let mut labels = service.labels().clone();
        // These labels say something about a slice; on a service they were a mistake or a copy.
        labels.retain(|key, _| key != HEADLESS && key != SERVICE_NAME && key != MANAGED_BY);
        if service_pods::is_headless(service) {
            labels.insert(HEADLESS.into(), String::new());
        }
        labels.insert(SERVICE_NAME.into(), service.name().to_owned());
        labels.insert(MANAGED_BY.into(), MANAGER.into());
        let trigger_time = service_pods::trigger_time(service, observed.pods.iter().map(|pod| &**pod));
        Meta {
            service,
            labels,
            trigger_time,
        }
    }

    fn new_slice(&self, family: &str, ports: &Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", self.service.name())),
                namespace: Some(self.service.namespace().to_owned()),
                labels: Some(self.labels.clone()),
                annotations: self
                    .trigger_time
                    .clone()
                    .map(|time| [(TRIGGER_TIME.to_owned(), time)].into()),
                owner_references: Some(vec![self.service.owner_reference(true)]),
                ..Default::default()
            },
            address_type: family.to_owned(),
            endpoints,
            ports: Some(ports.clone()),
        }
    }

    /// The slice with these endpoints, or nothing if it shows them already.
    fn updated(&self, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> Option<EndpointSlice> {
        let mut updated = slice.clone();
        updated.endpoints = endpoints;
        updated.metadata.labels = Some(self.labels.clone());
        updated.metadata.owner_references = Some(vec![self.service.owner_reference(true)]);
        if semantic::equal(&updated, slice) {
            return None;
        }
        if let Some(time) = &self.trigger_time {
            updated
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(TRIGGER_TIME.into(), time.clone());
        }
        Some(updated)
    }
}

/// Distributes the endpoints of one port list: each stays where it is, the new ones fill slices that change anyway, then a slice with room for
/// all of them, then new slices.
fn plan_group(
    meta: &Meta<'_>,
    family: &str,
    ports: &Ports,
    mut wanted: BTreeMap<Vec<String>, Endpoint>,
    slices: &[Arc<EndpointSlice>],
) -> Vec<Change> {
    let mut contents: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in slices {
        let kept = slice.endpoints.iter().filter_map(|endpoint| {
            let same = wanted.get(&endpoint.addresses)?.target_ref == endpoint.target_ref;
            if same { wanted.remove(&endpoint.addresses) } else { None }
        });
        let kept: Vec<_> = kept.take(MAX_ENDPOINTS).collect();
        contents.push((slice.clone(), kept));
    }
    let mut fresh: Vec<Endpoint> = wanted.into_values().collect();
    for (slice, endpoints) in &mut contents {
        let changes = endpoints.is_empty() || meta.updated(slice, endpoints.clone()).is_some();
        if changes {
            let room = (MAX_ENDPOINTS - endpoints.len()).min(fresh.len());
            endpoints.extend(fresh.drain(..room));
        }
    }
    let with_room = contents
        .iter_mut()
        .filter(|(_, endpoints)| MAX_ENDPOINTS - endpoints.len() >= fresh.len());
    if let Some((_, fullest)) = with_room.max_by_key(|(_, endpoints)| endpoints.len()) {
        fullest.append(&mut fresh);
    }
    let mut changes: Vec<_> = fresh
        .chunks(MAX_ENDPOINTS)
        .map(|chunk| Change::Create(Box::new(meta.new_slice(family, ports, chunk.to_vec()))))
        .collect();
    if contents.is_empty() && changes.is_empty() {
        changes.push(Change::Create(Box::new(meta.new_slice(family, ports, Vec::new()))));
    }
    let mut left = contents.len() + changes.len();
    for (slice, endpoints) in contents {
        if endpoints.is_empty() && left > 1 {
            left -= 1;
            changes.push(Change::Delete(slice));
        } else if let Some(updated) = meta.updated(&slice, endpoints) {
            changes.push(Change::Update(Box::new(updated)));
        }
    }
    changes
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("endpoint_slice");
    service_pods::wake(&mut setup.informers, &queue);
    let waking = queue.clone();
    setup.informers.endpoint_slices.on_event(move |event| {
        let slice = event.object();
        if let Some(service) = slice.labels().get(SERVICE_NAME).filter(|_| is_managed(slice)) {
            waking.add(ObjectKey::new(slice.namespace(), service.clone()));
        }
    });
    let (waking, pods, services) = (
        queue.clone(),
        setup.informers.pods.late(),
        setup.informers.services.late(),
    );
    setup.informers.nodes.on_event(move |event| {
        // A pod may have been seen before its node; a zone may be told late.
        let zone = |node: &Node| node.labels().get(ZONE).cloned();
        if !matches!(event, Event::Updated { old, new } if zone(old) == zone(new)) {
            let namespaces: std::collections::BTreeSet<_> = pods
                .by_index(NODE, event.object().name())
                .iter()
                .map(|pod| pod.namespace().to_owned())
                .collect();
            let concerned = services
                .list()
                .into_iter()
                .filter(|service| namespaces.contains(service.namespace()));
            concerned.for_each(|service| waking.add(service.key()));
        }
    });
    let client = setup.client.clone();
    let workers = setup.config.concurrent_service_endpoint_syncs;
    setup.run("endpoint_slice", queue, workers, move |caches| {
        let slices = Arc::new(Slices {
            client,
            services: caches.services,
            pods: caches.pods,
            nodes: caches.nodes,
            slices: caches.endpoint_slices,
            writes: Writes::new(),
        });
        move |key| {
            let slices = slices.clone();
            async move { slices.reconcile(key).await }
        }
    });
}

fn is_managed(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

struct Slices {
    client: Client,
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
    /// The server names slices, so a repeated create would not be noticed.
    writes: Writes<ObjectKey>,
}

impl Slices {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let service = self
            .services
            .get(&key)
            .filter(|service| service_pods::selector(service).is_some());
        let Some(service) = service.filter(|service| !service.is_deleting()) else {
            self.writes.forget(&key);
            return Ok(Action::Done);
        };
        let revision = self.slices.revision();
        let mut slices = self.slices.by_index(OWNER, service.uid());
        slices.retain(|slice| is_managed(slice));
        if !self
            .writes
            .visible(&key, revision, slices.iter().map(|slice| slice.uid()))
        {
            return Ok(Action::Done);
        }
        let pods = service_pods::selected(&self.pods, &service);
        let names: std::collections::BTreeSet<&str> = pods.iter().map(|pod| pods::node(pod)).collect();
        let node = |name: &str| Some((name.to_owned(), self.nodes.get(&ObjectKey::new("", name))?));
        let nodes: HashMap<_, _> = names.into_iter().filter_map(node).collect();
        let changes = plan(&Observed {
            service: &service,
            pods: &pods,
            nodes: &nodes,
            slices: &slices,
        });
        for change in changes {
            self.apply(&key, change).await?;
        }
        Ok(Action::Done)
    }

    async fn apply(&self, key: &ObjectKey, change: Change) -> Result<(), Error> {
        let api = self.client.api::<EndpointSlice>();
        let doing = |verb: &str| format!("{verb} an EndpointSlice of service {key}");
        match change {
            Change::Create(slice) => match api.create(&slice).await {
                Ok(created) => self.writes.created(key.clone(), created.resource_version()),
                Err(error) if error.is_namespace_terminating() => {}
                Err(error) => return Err(Error::client(doing("create"))(error)),
            },
            Change::Update(slice) => {
                let written = api.update(&slice).await.map_err(Error::client(doing("write")))?;
                self.writes.created(key.clone(), written.resource_version());
            }
            Change::Delete(slice) => {
                match api
                    .delete(
                        slice.namespace(),
                        slice.name(),
                        &DeleteParams::default().uid(slice.uid()),
                    )
                    .await
                {
                    Err(error) if !error.is_not_found() => return Err(Error::client(doing("delete"))(error)),
                    _ => self.writes.removed(key.clone(), slice.uid()),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::service_pods::testing::{backend, service};
    use super::*;
    use crate::pods::testing::deleting;

    fn planned(service: &Service, pods: &[Pod], slices: &[EndpointSlice]) -> Vec<Change> {
        let mut node = Node::default();
        node.metadata.name = Some("n1".into());
        node.metadata.labels = Some([(ZONE.to_owned(), "a".to_owned())].into());
        let nodes = HashMap::from([("n1".to_owned(), Arc::new(node))]);
        let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
        let slices: Vec<_> = slices.iter().cloned().map(Arc::new).collect();
        plan(&Observed {
            service,
            pods: &pods,
            nodes: &nodes,
            slices: &slices,
        })
    }

    /// Plays the API server: applies changes, naming what is created.
    fn apply(slices: &mut Vec<EndpointSlice>, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Create(slice) => {
                    let mut slice = *slice;
                    let taken = |name: &str, slices: &[EndpointSlice]| slices.iter().any(|slice| slice.name() == name);
                    let name = (0..).map(|n| format!("web-{n}")).find(|name| !taken(name, slices));
                    slice.metadata.name = name;
                    slices.push(slice);
                }
                Change::Update(slice) => {
                    let place = slices.iter_mut().find(|other| other.name() == slice.name()).unwrap();
                    *place = *slice;
                }
                Change::Delete(slice) => slices.retain(|other| other.name() != slice.name()),
            }
        }
    }

    fn converge(service: &Service, pods: &[Pod], slices: &mut Vec<EndpointSlice>) -> usize {
        let changes = planned(service, pods, slices);
        let count = changes.len();
        apply(slices, changes);
        assert_eq!(planned(service, pods, slices), [], "a second pass has nothing to do");
        count
    }

    fn many(count: usize) -> Vec<Pod> {
        (0..count)
            .map(|n| backend(&format!("p{n}"), &format!("10.244.{}.{}", n / 250, n % 250), true))
            .collect()
    }

    fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
        slices.iter().map(|slice| slice.endpoints.len()).collect()
    }

    #[test]
    fn a_slice_names_its_service_manager_owner_and_endpoints() {
        let mut slices = Vec::new();
        converge(&service(), &[backend("a", "10.244.0.2", true)], &mut slices);
        let slice = &slices[0];
        let label = |key: &str| slice.labels().get(key).map(String::as_str);
        assert_eq!(label(SERVICE_NAME), Some("web"));
        assert_eq!(label(MANAGED_BY), Some(MANAGER));
        assert_eq!((label("team"), label(HEADLESS)), (Some("blue"), None));
        assert_eq!(slice.controller().unwrap().uid, "service-uid");
        assert_eq!(slice.annotations()[TRIGGER_TIME], "2023-11-14T22:13:10Z");
        let endpoint = &slice.endpoints[0];
        assert_eq!(
            (endpoint.node_name.as_deref(), endpoint.zone.as_deref()),
            (Some("n1"), Some("a"))
        );
        assert_eq!(endpoint.target_ref.as_ref().unwrap().name.as_deref(), Some("a"));
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    }

    #[test]
    fn conditions_follow_readiness_deletion_and_the_wish_to_publish_early() {
        let mut early = service();
        early.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
        let pod = |ready| backend("a", "10.244.0.2", ready);
        let cases = [
            (service(), pod(true), (true, true, false)),
            (service(), pod(false), (false, false, false)),
            (service(), deleting(pod(true)), (false, true, true)),
            (service(), deleting(pod(false)), (false, false, true)),
            (early.clone(), pod(false), (true, false, false)),
            (early, deleting(pod(true)), (true, true, true)),
        ];
        for (service, pod, (ready, serving, terminating)) in cases {
            let mut slices = Vec::new();
            converge(&service, std::slice::from_ref(&pod), &mut slices);
            let expected = EndpointConditions {
                ready: Some(ready),
                serving: Some(serving),
                terminating: Some(terminating),
            };
            assert_eq!(slices[0].endpoints[0].conditions, Some(expected), "{pod:?}");
        }
    }

    #[test]
    fn pods_that_ended_or_have_no_address_are_no_endpoints() {
        let mut ended = backend("a", "10.244.0.2", true);
        ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
        let mut unaddressed = backend("b", "10.244.0.3", true);
        unaddressed.status.as_mut().unwrap().pod_ips = None;
        let mut slices = Vec::new();
        converge(&service(), &[ended, unaddressed], &mut slices);
        assert_eq!(sizes(&slices), [0], "one empty slice remains");
    }

    #[test]
    fn slices_hold_a_hundred_and_change_as_little_as_possible() {
        let (service, mut slices) = (service(), Vec::new());
        converge(&service, &many(250), &mut slices);
        assert_eq!(sizes(&slices), [100, 100, 50]);
        assert_eq!(
            converge(&service, &many(251), &mut slices),
            1,
            "a new endpoint goes where room is"
        );
        assert_eq!(sizes(&slices), [100, 100, 51]);
        let mut fewer = many(251);
        fewer.remove(7);
        assert_eq!(
            converge(&service, &fewer, &mut slices),
            1,
            "one that leaves touches its slice only"
        );
        assert_eq!(converge(&service, &[], &mut slices), 3);
        assert_eq!(sizes(&slices), [0]);
    }

    #[test]
    fn different_ports_need_different_slices() {
        let mut other = backend("b", "10.244.0.3", true);
        other.spec.as_mut().unwrap().containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
        let (service, mut slices) = (service(), Vec::new());
        converge(
            &service,
            &[backend("a", "10.244.0.2", true), other.clone()],
            &mut slices,
        );
        let mut ports: Vec<_> = slices
            .iter()
            .map(|slice| slice.ports.as_ref().unwrap()[0].port)
            .collect();
        ports.sort();
        assert_eq!(ports, [Some(8080), Some(9090)]);
        converge(&service, &[other], &mut slices);
        assert_eq!(slices.len(), 1, "a list of ports that no pod has goes");
    }

    #[test]
    fn a_headless_service_is_labelled_and_may_have_no_port() {
        let mut headless = service();
        let spec = headless.spec.as_mut().unwrap();
        (spec.cluster_ip, spec.ports) = (Some("None".into()), None);
        let mut slices = Vec::new();
        converge(&headless, &[backend("a", "10.244.0.2", true)], &mut slices);
        assert!(slices[0].labels().contains_key(HEADLESS));
        assert_eq!(slices[0].ports.as_deref(), Some(&[][..]));
    }

    #[test]
    fn an_address_that_passed_to_another_pod_is_another_endpoint() {
        let (service, mut slices) = (service(), Vec::new());
        converge(&service, &[backend("a", "10.244.0.2", true)], &mut slices);
        converge(&service, &[backend("b", "10.244.0.2", true)], &mut slices);
        assert_eq!(
            slices[0].endpoints[0].target_ref.as_ref().unwrap().name.as_deref(),
            Some("b")
        );
    }

    #[test]
    fn a_family_the_service_lost_loses_its_slices() {
        let (mut service, mut slices) = (service(), Vec::new());
        converge(&service, &[backend("a", "10.244.0.2", true)], &mut slices);
        service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".into()]);
        converge(&service, &[backend("a", "fd00::2", true)], &mut slices);
        assert_eq!(slices[0].address_type, "IPv6");
        assert_eq!(slices.len(), 1);
    }
}

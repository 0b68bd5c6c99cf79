//! Which records the cluster domain has.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::core::v1::{Service, ServicePort};
use api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::TTL;

const SPECIFICATION: &str = "1.1.0";

/// The objects that answers are made of. All lookups are in memory.
pub trait Directory: Send + Sync {
    /// A service.
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The endpoint slices of a service.
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>>;
    /// Whether any service is in the namespace.
    fn has_namespace(&self, namespace: &str) -> bool;
    /// The service with that cluster IP.
    fn service_with_ip(&self, ip: IpAddr) -> Option<Arc<Service>>;
    /// The slices that contain the address.
    fn slices_with_ip(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>>;
}

/// What the zone says to a question.
#[derive(Debug, PartialEq)]
pub enum Answer {
    /// The name is not in the zone: ask others.
    Foreign,
    /// The name exists; no answers means that it has no record of the type.
    Records {
        /// The records that were asked for.
        answers: Vec<Record>,
        /// The addresses of names in them.
        additionals: Vec<Record>,
    },
    /// The name does not exist.
    NameError,
    /// The name is an alias, to be resolved further.
    Alias {
        /// The CNAME record.
        record: Box<Record>,
        /// Where it leads.
        target: Name,
    },
}

impl Answer {
    fn of(answers: Vec<Record>) -> Self {
        Self::Records {
            answers,
            additionals: Vec::new(),
        }
    }

    fn empty_if(exists: bool) -> Self {
        if exists { Self::of(Vec::new()) } else { Self::NameError }
    }
}

/// The cluster domain.
#[derive(Clone, Debug)]
pub struct Zone {
    apex: Name,
    /// Addresses of the name server itself.
    servers: Vec<IpAddr>,
    /// Of the SOA record; says nothing but that the zone was loaded then.
    serial: u32,
}

/// One question on its way through the zone.
struct Question<'a> {
    zone: &'a Zone,
    directory: &'a dyn Directory,
    /// As the client wrote it, which is how answers must repeat it.
    name: &'a Name,
    kind: RecordType,
}

impl Zone {
    /// The zone `domain` (as `cluster.local`), answered at `servers`.
    pub fn new(domain: &str, servers: Vec<IpAddr>, serial: u32) -> Result<Self, hickory_proto::ProtoError> {
        let mut apex = Name::from_ascii(domain)?.to_lowercase();
        apex.set_fqdn(true);
        Ok(Self { apex, servers, serial })
    }

    /// The answer to one question of class IN.
    pub fn answer(&self, directory: &dyn Directory, name: &Name, kind: RecordType) -> Answer {
        let question = Question {
            zone: self,
            directory,
            name,
            kind,
        };
        if !self.apex.zone_of(name) {
            return if kind == RecordType::PTR {
                question.reverse()
            } else {
                Answer::Foreign
            };
        }
        let lower = name.to_lowercase();
        let own = usize::from(lower.num_labels() - self.apex.num_labels());
        let labels: Option<Vec<&str>> = lower
            .iter()
            .take(own)
            .map(|label| std::str::from_utf8(label).ok())
            .collect();
        labels.map_or(Answer::NameError, |labels| question.forward(&labels))
    }

    /// The zone's SOA record, which accompanies negative answers.
    pub fn soa(&self) -> Record {
        let mname = self.name(&["ns", "dns"]);
        let soa = SOA::new(mname, self.name(&["hostmaster"]), self.serial, 7200, 1800, 86_400, TTL);
        Record::from_rdata(self.apex.clone(), TTL, RData::SOA(soa))
    }

    /// A name below the apex; labels too long to be a name give the apex.
    fn name(&self, labels: &[&str]) -> Name {
        let relative = Name::from_labels(labels.iter().map(|l| l.as_bytes()));
        relative
            .and_then(|name| name.append_name(&self.apex))
            .unwrap_or_else(|_| self.apex.clone())
    }

    fn service_name(&self, service: &Service) -> Name {
        let (namespace, name) = key(service);
        self.name(&[name, namespace, "svc"])
    }
}

impl Question<'_> {
    fn forward(&self, labels: &[&str]) -> Answer {
        match labels {
            [] => self.apex(),
            ["dns-version"] => self.only(RecordType::TXT, || {
                RData::TXT(TXT::new(vec![SPECIFICATION.to_string()]))
            }),
            ["ns", "dns"] => Answer::of(self.addresses(self.name, self.zone.servers.iter().copied())),
            ["dns" | "svc" | "pod"] | [_, "pod"] => Answer::of(Vec::new()),
            [ip, _, "pod"] => self.pod(ip),
            [namespace, "svc"] => Answer::empty_if(self.directory.has_namespace(namespace)),
            [service, namespace, "svc"] => self.with_service(namespace, service, |s| self.service(s)),
            ["_tcp" | "_udp" | "_sctp", service, namespace, "svc"] => {
                self.with_service(namespace, service, |_| Answer::of(Vec::new()))
            }
            [host, service, namespace, "svc"] => self.with_service(namespace, service, |s| self.endpoint(s, host)),
            [port, protocol, service, namespace, "svc"] => match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => {
                    self.with_service(namespace, service, |s| self.ports(s, Some((port, protocol))))
                }
                _ => Answer::NameError,
            },
            _ => Answer::NameError,
        }
    }

    fn apex(&self) -> Answer {
        match self.kind {
            RecordType::SOA => Answer::of(vec![self.zone.soa()]),
            RecordType::NS => self.only(RecordType::NS, || RData::NS(NS(self.zone.name(&["ns", "dns"])))),
            _ => Answer::of(Vec::new()),
        }
    }

    fn only(&self, kind: RecordType, data: impl FnOnce() -> RData) -> Answer {
        Answer::of(if self.kind == kind {
            vec![self.record(self.name, data())]
        } else {
            Vec::new()
        })
    }

    fn record(&self, owner: &Name, data: RData) -> Record {
        Record::from_rdata(owner.clone(), TTL, data)
    }

    fn addresses(&self, owner: &Name, ips: impl Iterator<Item = IpAddr>) -> Vec<Record> {
        let of_kind = |ip| match (ip, self.kind) {
            (IpAddr::V4(ip), RecordType::A) => Some(RData::A(A(ip))),
            (IpAddr::V6(ip), RecordType::AAAA) => Some(RData::AAAA(AAAA(ip))),
            _ => None,
        };
        ips.filter_map(of_kind).map(|data| self.record(owner, data)).collect()
    }

    /// `1-2-3-4.ns.pod`: any address, as the name says it itself.
    fn pod(&self, ip: &str) -> Answer {
        let parsed = ip.replace('-', ".").parse().map(IpAddr::V4);
        match parsed.or_else(|_| ip.replace('-', ":").parse().map(IpAddr::V6)) {
            Ok(ip) => Answer::of(self.addresses(self.name, std::iter::once(ip))),
            Err(_) => Answer::NameError,
        }
    }

    fn with_service(&self, namespace: &str, name: &str, answer: impl FnOnce(&Service) -> Answer) -> Answer {
        self.directory
            .service(namespace, name)
            .map_or(Answer::NameError, |service| answer(&service))
    }

    fn service(&self, service: &Service) -> Answer {
        if let Some(alias) = self.external_name(service) {
            return alias;
        }
        if self.kind == RecordType::SRV {
            return self.ports(service, None);
        }
        if !is_headless(service) {
            return Answer::of(self.addresses(self.name, cluster_ips(service).into_iter()));
        }
        self.endpoint_addresses(service, |_| true)
    }

    fn external_name(&self, service: &Service) -> Option<Answer> {
        let spec = service.spec.as_ref()?;
        if spec.type_.as_deref() != Some("ExternalName") {
            return None;
        }
        let target = spec
            .external_name
            .as_deref()
            .and_then(|name| Name::from_ascii(name).ok());
        Some(target.map_or(Answer::NameError, |mut target| {
            target.set_fqdn(true);
            Answer::Alias {
                record: Box::new(self.record(self.name, RData::CNAME(CNAME(target.clone())))),
                target,
            }
        }))
    }

    /// A named endpoint of a headless service.
    fn endpoint(&self, service: &Service, host: &str) -> Answer {
        if !is_headless(service) {
            return Answer::NameError;
        }
        self.endpoint_addresses(service, |endpoint| hostname(endpoint).is_some_and(|name| name == host))
    }

    /// The addresses of the ready endpoints that `admit`; without any of whatever family the name does not exist.
    fn endpoint_addresses(&self, service: &Service, admit: impl Fn(&Endpoint) -> bool) -> Answer {
        let mut ips = BTreeSet::new();
        self.each_endpoint(service, |endpoint, _| {
            if admit(endpoint) {
                ips.extend(addresses_of(endpoint));
            }
        });
        if ips.is_empty() {
            return Answer::NameError;
        }
        Answer::of(self.addresses(self.name, ips.into_iter()))
    }

    /// Calls `f` with every ready endpoint and the ports of its slice.
    fn each_endpoint(&self, service: &Service, mut f: impl FnMut(&Endpoint, &[EndpointPort])) {
        let (namespace, name) = key(service);
        for slice in self.directory.slices(namespace, name) {
            let ports = slice.ports.as_deref().unwrap_or_default();
            let ready = |e: &&Endpoint| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            slice
                .endpoints
                .iter()
                .filter(ready)
                .for_each(|endpoint| f(endpoint, ports));
        }
    }

    /// SRV records of the ports that match `(name, protocol)`, or of all ports.
    fn ports(&self, service: &Service, wanted: Option<(&str, &str)>) -> Answer {
        let matches = |name: Option<&str>, protocol: Option<&str>| {
            let protocol = protocol.unwrap_or("TCP");
            wanted.is_none_or(|(n, p)| name == Some(n) && protocol.eq_ignore_ascii_case(p))
        };
        let mut found: Vec<(u16, Name, Vec<IpAddr>)> = Vec::new();
        if is_headless(service) {
            self.each_endpoint(service, |endpoint, ports| {
                let Some(host) = hostname(endpoint) else { return };
                let (namespace, name) = key(service);
                let target = self.zone.name(&[&host, name, namespace, "svc"]);
                for port in ports
                    .iter()
                    .filter(|p| matches(p.name.as_deref(), p.protocol.as_deref()))
                {
                    let Some(number) = port.port.and_then(|p| u16::try_from(p).ok()) else {
                        continue;
                    };
                    found.push((number, target.clone(), addresses_of(endpoint)));
                }
            });
        } else {
            let of_service = |p: &&ServicePort| matches(p.name.as_deref(), p.protocol.as_deref());
            for port in service
                .spec
                .iter()
                .flat_map(|s| s.ports.iter().flatten())
                .filter(of_service)
            {
                let Ok(number) = u16::try_from(port.port) else { continue };
                found.push((number, self.zone.service_name(service), cluster_ips(service)));
            }
        }
        if found.is_empty() {
            return Answer::NameError;
        }
        if self.kind == RecordType::SRV {
            self.srv(found)
        } else {
            Answer::of(Vec::new())
        }
    }

    fn srv(&self, found: Vec<(u16, Name, Vec<IpAddr>)>) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        // Equal shares of 100, as resolvers weigh them.
        let weight = u16::try_from(100 / found.len().max(1)).unwrap_or(0).max(1);
        for (port, target, ips) in found {
            answers.push(self.record(self.name, RData::SRV(SRV::new(0, weight, port, target.clone()))));
            for ip in ips {
                let data = match ip {
                    IpAddr::V4(ip) => RData::A(A(ip)),
                    IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
                };
                let record = self.record(&target, data);
                if !additionals.contains(&record) {
                    additionals.push(record);
                }
            }
        }
        Answer::Records { answers, additionals }
    }

    /// The service of a cluster IP, or the endpoint of a headless service; other addresses are not ours.
    fn reverse(&self) -> Answer {
        let whole = self
            .name
            .parse_arpa_name()
            .ok()
            .filter(|net| net.prefix_len() == net.max_prefix_len());
        let Some(ip) = whole.map(|net| net.addr()) else {
            return Answer::Foreign;
        };
        let ptr = |target: Name| self.only(RecordType::PTR, || RData::PTR(PTR(target)));
        if let Some(service) = self.directory.service_with_ip(ip) {
            return ptr(self.zone.service_name(&service));
        }
        let named = self
            .directory
            .slices_with_ip(ip)
            .into_iter()
            .find_map(|slice| self.endpoint_name(&slice, ip));
        named.map_or(Answer::Foreign, ptr)
    }

    fn endpoint_name(&self, slice: &EndpointSlice, ip: IpAddr) -> Option<Name> {
        let namespace = slice.metadata.namespace.as_deref()?;
        let name = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
        let service = self.directory.service(namespace, name)?;
        let endpoint = slice.endpoints.iter().find(|e| addresses_of(e).contains(&ip))?;
        let host = hostname(endpoint).filter(|_| is_headless(&service))?;
        Some(self.zone.name(&[&host, name, namespace, "svc"]))
    }
}

fn key(service: &Service) -> (&str, &str) {
    (
        service.metadata.namespace.as_deref().unwrap_or_default(),
        service.metadata.name.as_deref().unwrap_or_default(),
    )
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

fn cluster_ips(service: &Service) -> Vec<IpAddr> {
    let Some(spec) = service.spec.as_ref() else {
        return Vec::new();
    };
    let ips: BTreeSet<IpAddr> = spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten())
        .filter_map(|ip| ip.parse().ok())
        .collect();
    ips.into_iter().collect()
}

fn addresses_of(endpoint: &Endpoint) -> Vec<IpAddr> {
    endpoint.addresses.iter().filter_map(|a| a.parse().ok()).collect()
}

/// The endpoint's own name, or its address with dashes.
fn hostname(endpoint: &Endpoint) -> Option<String> {
    match endpoint.hostname.as_deref() {
        Some(name) if !name.is_empty() => Some(name.to_ascii_lowercase()),
        _ => endpoint
            .addresses
            .first()
            .map(|address| address.replace(['.', ':'], "-")),
    }
}

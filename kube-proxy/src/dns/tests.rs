//! The zone's answers name by name, and packets that nobody should send.

use std::net::IpAddr;
use std::sync::Arc;

use api::core::v1::Service;
use api::discovery::v1::EndpointSlice;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[derive(Default)]
struct Objects {
    services: Vec<Arc<Service>>,
    slices: Vec<Arc<EndpointSlice>>,
}

impl Directory for Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let wanted = |s: &&Arc<Service>| {
            s.metadata.namespace.as_deref() == Some(namespace) && s.metadata.name.as_deref() == Some(name)
        };
        self.services.iter().find(wanted).cloned()
    }
    fn slices(&self, namespace: &str, service: &str) -> Vec<Arc<EndpointSlice>> {
        let label = |s: &EndpointSlice| s.metadata.labels.as_ref().unwrap()["kubernetes.io/service-name"].clone();
        let of = |s: &&Arc<EndpointSlice>| s.metadata.namespace.as_deref() == Some(namespace) && label(s) == service;
        self.slices.iter().filter(of).cloned().collect()
    }
    fn has_namespace(&self, namespace: &str) -> bool {
        self.services
            .iter()
            .any(|s| s.metadata.namespace.as_deref() == Some(namespace))
    }
    fn service_with_ip(&self, ip: IpAddr) -> Option<Arc<Service>> {
        let has = |s: &&Arc<Service>| s.spec.as_ref().unwrap().cluster_ip.as_deref() == Some(&ip.to_string());
        self.services.iter().find(has).cloned()
    }
    fn slices_with_ip(&self, ip: IpAddr) -> Vec<Arc<EndpointSlice>> {
        let has = |s: &&Arc<EndpointSlice>| s.endpoints.iter().any(|e| e.addresses.contains(&ip.to_string()));
        self.slices.iter().filter(has).cloned().collect()
    }
}

fn objects() -> Objects {
    let service = |name: &str, spec: Value| {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})).unwrap(),
        )
    };
    let slice = json!({
        "metadata": {"namespace": "default", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.244.1.2"], "hostname": "db-0", "conditions": {"ready": true}},
            {"addresses": ["10.244.1.3"], "conditions": {}},
            {"addresses": ["10.244.1.4"], "hostname": "db-2", "conditions": {"ready": false}},
        ]
    });
    Objects {
        services: vec![
            service(
                "web",
                json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
            ),
            service(
                "db",
                json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}),
            ),
            service("empty", json!({"clusterIP": "None"})),
            service(
                "outside",
                json!({"type": "ExternalName", "externalName": "www.example.com"}),
            ),
            service(
                "inside",
                json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}),
            ),
            service(
                "loop",
                json!({"type": "ExternalName", "externalName": "loop.default.svc.cluster.local"}),
            ),
            service(
                "dangling",
                json!({"type": "ExternalName", "externalName": "no.default.svc.cluster.local"}),
            ),
        ],
        slices: vec![Arc::new(serde_json::from_value(slice).unwrap())],
    }
}

fn zone() -> Zone {
    Zone::new("cluster.local", vec!["10.96.0.10".parse().unwrap()], 1).unwrap()
}

fn packet(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// None if the question goes to a resolver.
fn ask(name: &str, kind: RecordType) -> Option<Message> {
    match respond(&packet(name, kind), Transport::Udp, &zone(), &objects()) {
        Outcome::Reply(reply) => Some(Message::from_vec(&reply).unwrap()),
        Outcome::Forward => None,
        other => panic!("{name}: {other:?}"),
    }
}

/// The answers as text, sorted.
fn data(name: &str, kind: RecordType) -> Vec<String> {
    let reply = ask(name, kind).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{name}");
    assert_eq!(reply.metadata.id, 7);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert!(reply.answers.iter().all(|record| record.ttl == TTL));
    assert_eq!(
        reply.authorities.is_empty(),
        !reply.answers.is_empty(),
        "no data comes with the SOA"
    );
    let mut data: Vec<_> = reply.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

fn code(name: &str, kind: RecordType) -> ResponseCode {
    ask(name, kind).unwrap().metadata.response_code
}

#[test]
fn records_follow_the_specification() {
    use RecordType::{A, AAAA, MX, NS, SOA, SRV, TXT};
    let none: &[&str] = &[];
    for (name, kind, expected) in [
        ("web.default.svc.cluster.local.", A, &["10.96.0.7"][..]),
        ("WEB.Default.svc.cluster.LOCAL.", A, &["10.96.0.7"]),
        ("web.default.svc.cluster.local.", AAAA, &["fd00::7"]),
        ("web.default.svc.cluster.local.", MX, none),
        ("db.default.svc.cluster.local.", A, &["10.244.1.2", "10.244.1.3"]),
        ("db.default.svc.cluster.local.", AAAA, none),
        ("db-0.db.default.svc.cluster.local.", A, &["10.244.1.2"]),
        ("10-244-1-3.db.default.svc.cluster.local.", A, &["10.244.1.3"]),
        (
            "_http._tcp.web.default.svc.cluster.local.",
            SRV,
            &["0 100 80 web.default.svc.cluster.local."],
        ),
        (
            "_sql._tcp.db.default.svc.cluster.local.",
            SRV,
            &[
                "0 50 5432 10-244-1-3.db.default.svc.cluster.local.",
                "0 50 5432 db-0.db.default.svc.cluster.local.",
            ],
        ),
        ("_http._tcp.web.default.svc.cluster.local.", A, none),
        ("_tcp.web.default.svc.cluster.local.", SRV, none),
        ("1-2-3-4.default.pod.cluster.local.", A, &["1.2.3.4"]),
        ("fd00--1.default.pod.cluster.local.", AAAA, &["fd00::1"]),
        ("dns-version.cluster.local.", TXT, &["1.1.0"]),
        ("ns.dns.cluster.local.", A, &["10.96.0.10"]),
        ("cluster.local.", NS, &["ns.dns.cluster.local."]),
        ("cluster.local.", A, none),
        ("default.svc.cluster.local.", A, none),
        ("svc.cluster.local.", A, none),
    ] {
        assert_eq!(data(name, kind), expected, "{name} {kind}");
    }
    assert_eq!(data("cluster.local.", SOA).len(), 1);
}

#[test]
fn names_that_do_not_exist_say_so_at_once() {
    for name in [
        "no.default.svc.cluster.local.",
        "web.other.svc.cluster.local.",
        "other.svc.cluster.local.",
        "www.example.com.default.svc.cluster.local.",
        "www.example.com.svc.cluster.local.",
        "www.example.com.cluster.local.",
        "db-2.db.default.svc.cluster.local.",
        "empty.default.svc.cluster.local.",
        "x.web.default.svc.cluster.local.",
        "_no._tcp.web.default.svc.cluster.local.",
        "_http._udp.web.default.svc.cluster.local.",
        "http.tcp.web.default.svc.cluster.local.",
        "word.default.pod.cluster.local.",
        "nothing.cluster.local.",
    ] {
        let reply = ask(name, RecordType::A).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert_eq!(reply.authorities.len(), 1, "{name}");
    }
}

#[test]
fn addresses_of_services_and_headless_endpoints_have_names() {
    let name = |ip: &str| Name::from(ip.parse::<IpAddr>().unwrap()).to_string();
    assert_eq!(
        data(&name("10.96.0.7"), RecordType::PTR),
        ["web.default.svc.cluster.local."]
    );
    assert_eq!(
        data(&name("10.244.1.2"), RecordType::PTR),
        ["db-0.db.default.svc.cluster.local."]
    );
    for other in ["192.0.2.1", "fd00::9"] {
        assert!(ask(&name(other), RecordType::PTR).is_none(), "others may know {other}");
    }
    assert!(ask("96.10.in-addr.arpa.", RecordType::PTR).is_none());
}

#[test]
fn aliases_are_followed() {
    let reply = ask("inside.default.svc.cluster.local.", RecordType::A).unwrap();
    let data: Vec<_> = reply
        .answers
        .iter()
        .map(|r| (r.name.to_string(), r.data.to_string()))
        .collect();
    let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
    assert_eq!(
        data,
        [
            pair("inside.default.svc.cluster.local.", "web.default.svc.cluster.local."),
            pair("web.default.svc.cluster.local.", "10.96.0.7")
        ]
    );
    assert_eq!(
        code("loop.default.svc.cluster.local.", RecordType::A),
        ResponseCode::ServFail
    );
    assert_eq!(
        code("dangling.default.svc.cluster.local.", RecordType::A),
        ResponseCode::NXDomain
    );
    assert_eq!(
        ask("outside.default.svc.cluster.local.", RecordType::CNAME)
            .unwrap()
            .answers
            .len(),
        1
    );

    let request = packet("outside.default.svc.cluster.local.", RecordType::A);
    let Outcome::Resolve(alias) = respond(&request, Transport::Udp, &zone(), &objects()) else {
        panic!()
    };
    assert_eq!(alias.target.name().to_string(), "www.example.com.");
    let Outcome::Reply(reply) = alias.finish(None) else {
        panic!()
    };
    assert_eq!(
        Message::from_vec(&reply).unwrap().metadata.response_code,
        ResponseCode::ServFail
    );
}

#[test]
fn other_names_and_classes_go_to_a_resolver() {
    assert!(ask("www.example.com.", RecordType::A).is_none());
    assert!(ask("local.", RecordType::A).is_none());
    let mut chaos = Message::from_vec(&packet("version.bind.", RecordType::TXT)).unwrap();
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert!(matches!(
        respond(&chaos.to_vec().unwrap(), Transport::Udp, &zone(), &objects()),
        Outcome::Forward
    ));
}

#[test]
fn answers_fit_what_the_client_can_take() {
    let many: Vec<_> = (0..100)
        .map(|i| json!({"addresses": [format!("10.244.2.{i}")]}))
        .collect();
    let slice = json!({"metadata": {"namespace": "default", "name": "db-2",
        "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4", "endpoints": many});
    let mut objects = objects();
    objects.slices.push(Arc::new(serde_json::from_value(slice).unwrap()));
    let request = packet("db.default.svc.cluster.local.", RecordType::A);
    let reply = |request: &[u8], transport| match respond(request, transport, &zone(), &objects) {
        Outcome::Reply(reply) => (reply.len(), Message::from_vec(&reply).unwrap()),
        other => panic!("{other:?}"),
    };
    let (size, cut) = reply(&request, Transport::Udp);
    assert!(size <= 512 && cut.metadata.truncation && cut.answers.is_empty());
    let (_, whole) = reply(&request, Transport::Tcp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 102);
    let mut wide = Message::from_vec(&request).unwrap();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    wide.set_edns(edns);
    let (_, whole) = reply(&wide.to_vec().unwrap(), Transport::Udp);
    assert_eq!(whole.answers.len(), 102);
    assert!(whole.edns.is_some(), "EDNS is answered with EDNS");
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let request = packet("web.default.svc.cluster.local.", RecordType::A);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = request.clone();
        change(&mut packet);
        respond(&packet, Transport::Udp, &zone(), &objects())
    };
    let code = |outcome| match outcome {
        Outcome::Reply(reply) => Message::from_vec(&reply).unwrap().metadata.response_code,
        other => panic!("{other:?}"),
    };
    assert!(matches!(changed(&|p| p[2] |= 0x80), Outcome::Ignore), "a response");
    assert!(matches!(changed(&|p| p.truncate(11)), Outcome::Ignore));
    assert_eq!(code(changed(&|p| p.truncate(20))), ResponseCode::FormErr);
    assert_eq!(code(changed(&|p| p[2] |= 4 << 3)), ResponseCode::NotImp, "NOTIFY");
    assert_eq!(
        code(changed(&|p| {
            p[5] = 0;
            p.truncate(12)
        })),
        ResponseCode::FormErr,
        "no question"
    );
}

#[test]
fn resolv_conf_is_read_as_libc_reads_it() {
    let text = "# c\nsearch a b\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 # x\nnameserver nonsense\n;nameserver 1.1.1.1\n";
    let expected: Vec<IpAddr> = vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
    assert_eq!(resolvers(text), expected);
}

proptest! {
    #[test]
    fn no_packet_panics(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = respond(&packet, Transport::Udp, &zone(), &objects());
    }

    #[test]
    fn no_damaged_question_panics(at in 0_usize..60, value: u8, cut in 0_usize..80) {
        let mut packet = packet("_sql._tcp.db.default.svc.cluster.local.", RecordType::SRV);
        let at = at % packet.len();
        packet[at] = value;
        packet.truncate(packet.len() - cut % packet.len());
        if let Outcome::Reply(reply) = respond(&packet, Transport::Udp, &zone(), &objects()) {
            prop_assert!(reply.len() <= 512 && reply[2] & 0x80 != 0);
        }
    }

    #[test]
    fn no_name_panics(labels in proptest::collection::vec("[_a-z0-9-]{1,63}", 1..5), suffix in 0_usize..4) {
        let suffix = ["svc.cluster.local.", "pod.cluster.local.", "cluster.local.", "in-addr.arpa."][suffix];
        if let Ok(name) = Name::from_ascii(format!("{}.{suffix}", labels.join("."))) {
            for kind in [RecordType::A, RecordType::SRV, RecordType::PTR, RecordType::ANY] {
                let _ = zone().answer(&objects(), &name, kind);
            }
        }
    }
}

//! The DNS server on real sockets, with a resolver behind it in another namespace.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::core::v1::Service;
use api::discovery::v1::EndpointSlice;
use daemon::Shutdown;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use kube_proxy::dns::{Bound, Directory, Forwarder, Metrics, Server, Zone};
use serde_json::json;

use crate::support::Host;

const DNS: &str = "10.96.0.10:53";

/// Two services: one with an address, one that is an alias for a name elsewhere.
struct Objects;

impl Directory for Objects {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        let spec = match (namespace, name) {
            ("default", "web") => json!({"clusterIP": "10.96.0.7"}),
            ("default", "alias") => json!({"type": "ExternalName", "externalName": "big.example"}),
            _ => return None,
        };
        let service = json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec});
        Some(Arc::new(serde_json::from_value(service).unwrap()))
    }
    fn slices(&self, _: &str, _: &str) -> Vec<Arc<EndpointSlice>> {
        Vec::new()
    }
    fn has_namespace(&self, namespace: &str) -> bool {
        namespace == "default"
    }
    fn service_with_ip(&self, _: IpAddr) -> Option<Arc<Service>> {
        None
    }
    fn slices_with_ip(&self, _: IpAddr) -> Vec<Arc<EndpointSlice>> {
        Vec::new()
    }
}

/// What the resolver knows: `big.example` has 60 addresses, more than fit into 512 bytes.
fn resolve(packet: &[u8], udp: bool) -> Vec<u8> {
    let request = Message::from_vec(packet).unwrap();
    let mut reply = Message::response(request.metadata.id, OpCode::Query);
    reply.queries.clone_from(&request.queries);
    let name = request.queries[0].name().clone();
    match (name.to_string().as_str(), udp) {
        ("small.example.", _) => {
            _ = reply.add_answer(Record::from_rdata(name, 60, RData::A(A([192, 0, 2, 77].into()))))
        }
        ("big.example.", true) => reply.metadata.truncation = true,
        ("big.example.", false) => {
            let record = |i| Record::from_rdata(name.clone(), 60, RData::A(A([192, 0, 2, i].into())));
            reply.answers.extend((0..60).map(record));
        }
        _ => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    reply.to_vec().unwrap()
}

fn serve_resolver(host: &Host) {
    host.run(|| {
        let (udp, tcp) = (
            UdpSocket::bind("0.0.0.0:53").unwrap(),
            TcpListener::bind("0.0.0.0:53").unwrap(),
        );
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((size, peer)) = udp.recv_from(&mut buffer) {
                // A forged answer first: whoever takes it has not looked at the id.
                let mut forged = resolve(&buffer[..size], true);
                forged[0] ^= 0xff;
                _ = udp.send_to(&forged, peer);
                _ = udp.send_to(&resolve(&buffer[..size], true), peer);
            }
        });
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().flatten() {
                let packet = read_packet(&mut stream);
                write_packet(&mut stream, &resolve(&packet, false));
            }
        });
    });
}

fn read_packet(stream: &mut TcpStream) -> Vec<u8> {
    let mut size = [0; 2];
    stream.read_exact(&mut size).unwrap();
    let mut packet = vec![0; usize::from(u16::from_be_bytes(size))];
    stream.read_exact(&mut packet).unwrap();
    packet
}

fn write_packet(stream: &mut TcpStream, packet: &[u8]) {
    let size = u16::try_from(packet.len()).unwrap().to_be_bytes();
    stream.write_all(&[&size, packet].concat()).unwrap();
}

/// A node that serves DNS at 10.96.0.10, and a pod and a resolver that it leads to.
struct Net {
    _node: Host,
    pod: Host,
    resolver: Host,
    shutdown: Shutdown,
    _files: tempfile::TempDir,
}

impl Net {
    fn new() -> Self {
        let (node, pod, resolver) = (Host::new(), Host::new(), Host::new());
        node.link("veth-pod", &pod, "eth0");
        node.link("wan", &resolver, "eth0");
        node.sh("ip addr add 10.244.1.1/24 dev veth-pod; ip addr add 192.0.2.1/24 dev wan; ip addr add 10.96.0.10/32 dev lo");
        pod.sh("ip addr add 10.244.1.2/24 dev eth0; ip route add default via 10.244.1.1");
        resolver.sh("ip addr add 192.0.2.53/24 dev eth0");
        let files = tempfile::tempdir().unwrap();
        let path = files.path().join("resolv.conf");
        // The second is the server itself; asking it would go round in a circle.
        std::fs::write(&path, "nameserver 192.0.2.53\nnameserver 10.96.0.10\n").unwrap();
        let shutdown = Shutdown::new();
        serve(&node, path, shutdown.clone());
        Self {
            _node: node,
            pod,
            resolver,
            shutdown,
            _files: files,
        }
    }

    fn ask_udp(&self, name: &'static str) -> Message {
        self.pod.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            socket.connect(DNS).unwrap();
            socket.send(&question(name)).unwrap();
            let mut buffer = [0; 4096];
            let size = socket.recv(&mut buffer).unwrap();
            Message::from_vec(&buffer[..size]).unwrap()
        })
    }

    fn ask_tcp(&self, names: &'static [&'static str]) -> Vec<Message> {
        self.pod.run(move || {
            let mut stream = TcpStream::connect(DNS).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            names.iter().for_each(|name| write_packet(&mut stream, &question(name)));
            names
                .iter()
                .map(|_| Message::from_vec(&read_packet(&mut stream)).unwrap())
                .collect()
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.shutdown.request();
    }
}

fn serve(node: &Host, resolv_conf: PathBuf, shutdown: Shutdown) {
    node.run(move || {
        let own: Vec<IpAddr> = vec!["10.96.0.10".parse().unwrap()];
        let bound = Bound::bind(&own, 53).unwrap();
        let server = Server {
            zone: Zone::new("cluster.local", own.clone(), 1).unwrap(),
            directory: Arc::new(Objects),
            forwarder: Forwarder::new(resolv_conf, 53, own),
            metrics: Metrics::new(&prometheus::Registry::new()).unwrap(),
        };
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(server.run(bound, shutdown)).unwrap();
        });
    });
}

fn question(name: &str) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn addresses(message: &Message) -> Vec<String> {
    assert_eq!(
        (message.metadata.id, message.metadata.response_code),
        (7, ResponseCode::NoError)
    );
    message
        .answers
        .iter()
        .filter(|r| r.record_type() == RecordType::A)
        .map(|r| r.data.to_string())
        .collect()
}

#[test]
fn names_are_answered_here_or_by_the_resolver() {
    let net = Net::new();
    assert_eq!(addresses(&net.ask_udp("web.default.svc.cluster.local.")), ["10.96.0.7"]);
    let absent = net.ask_udp("small.example.default.svc.cluster.local.");
    assert_eq!(
        absent.metadata.response_code,
        ResponseCode::NXDomain,
        "the search path needs no resolver"
    );

    // The resolver does not listen yet: its machine refuses, and the client hears of it.
    assert_eq!(
        net.ask_udp("small.example.").metadata.response_code,
        ResponseCode::ServFail
    );
    serve_resolver(&net.resolver);
    assert_eq!(addresses(&net.ask_udp("small.example.")), ["192.0.2.77"]);
    assert_eq!(
        net.ask_udp("none.example.").metadata.response_code,
        ResponseCode::NXDomain
    );

    assert!(
        net.ask_udp("big.example.").metadata.truncation,
        "the client is to come back over TCP"
    );
    let both = net.ask_tcp(&["big.example.", "web.default.svc.cluster.local."]);
    assert_eq!(
        (addresses(&both[0]).len(), addresses(&both[1])),
        (60, vec!["10.96.0.7".to_string()])
    );

    let alias = &net.ask_tcp(&["alias.default.svc.cluster.local."])[0];
    assert_eq!(alias.answers[0].data.to_string(), "big.example.");
    assert_eq!(addresses(alias).len(), 60, "libc does not follow an alias itself");
}

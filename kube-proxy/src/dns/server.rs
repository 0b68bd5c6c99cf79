//! The sockets: one task for each UDP socket, one for each TCP connection, one for each question under way.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use daemon::Shutdown;
use prometheus::{IntCounterVec, Opts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::message::{Outcome, Transport, failure, respond};
use super::{Directory, Forwarder, Zone};

const MAX_CONNECTIONS: usize = 256;
/// For a client to send its next question, or to take its answer.
const IDLE: Duration = Duration::from_secs(10);

/// Sockets that are bound and not yet served.
#[derive(Debug)]
pub struct Bound {
    udp: Vec<std::net::UdpSocket>,
    tcp: Vec<std::net::TcpListener>,
}

impl Bound {
    /// Binds UDP and TCP on every address.
    pub fn bind(addresses: &[IpAddr], port: u16) -> std::io::Result<Self> {
        let mut bound = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
        };
        for address in addresses {
            let tcp = std::net::TcpListener::bind((*address, port))?;
            // With port 0, which tests use, UDP takes the port that TCP got.
            let udp = std::net::UdpSocket::bind((*address, tcp.local_addr()?.port()))?;
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            bound.udp.push(udp);
            bound.tcp.push(tcp);
        }
        Ok(bound)
    }

    /// Where clients can ask.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.tcp
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }
}

/// Counters under the names that CoreDNS gave them, for existing dashboards.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &prometheus::Registry) -> prometheus::Result<Self> {
        let counter = |name, help, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            requests: counter("coredns_dns_requests_total", "DNS requests received.", "proto")?,
            responses: counter("coredns_dns_responses_total", "DNS responses sent.", "rcode")?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.responses.clone()))?;
        Ok(metrics)
    }

    fn received(&self, transport: Transport) {
        let label = if transport == Transport::Udp { "udp" } else { "tcp" };
        self.requests.with_label_values(&[label]).inc();
    }

    fn sent(&self, packet: &[u8]) {
        let label = match packet.get(3).map(|flags| flags & 15) {
            Some(0) => "NOERROR",
            Some(1) => "FORMERR",
            Some(2) => "SERVFAIL",
            Some(3) => "NXDOMAIN",
            Some(4) => "NOTIMP",
            Some(5) => "REFUSED",
            _ => "other",
        };
        self.responses.with_label_values(&[label]).inc();
    }
}

/// Answers questions until told to stop.
pub struct Server {
    /// The cluster domain.
    pub zone: Zone,
    /// What its answers are made of.
    pub directory: Arc<dyn Directory>,
    /// For everything else.
    pub forwarder: Forwarder,
    /// Counters.
    pub metrics: Metrics,
}

impl Server {
    /// Serves all sockets; returns when `shutdown` is requested.
    pub async fn run(self, bound: Bound, shutdown: Shutdown) -> std::io::Result<()> {
        let server = Arc::new(self);
        let mut tasks = tokio::task::JoinSet::new();
        for socket in bound.udp {
            tasks.spawn(Arc::clone(&server).serve_udp(Arc::new(UdpSocket::from_std(socket)?)));
        }
        for listener in bound.tcp {
            tasks.spawn(Arc::clone(&server).serve_tcp(TcpListener::from_std(listener)?));
        }
        // Dropping the tasks closes the sockets; clients ask again after a restart.
        shutdown.cancelled().await;
        Ok(())
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 4096];
        loop {
            let (size, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // An ICMP error of an earlier answer; the socket is fine.
                Err(error) => {
                    tracing::debug!(%error, "DNS socket");
                    continue;
                }
            };
            self.metrics.received(Transport::Udp);
            let packet = &buffer[..size];
            match respond(packet, Transport::Udp, &self.zone, self.directory.as_ref()) {
                Outcome::Reply(answer) => self.send_udp(&socket, &answer, peer).await,
                Outcome::Ignore => (),
                outcome => {
                    let (server, socket, packet) = (Arc::clone(&self), Arc::clone(&socket), packet.to_vec());
                    tokio::spawn(async move {
                        if let Some(answer) = server.resolve(outcome, &packet, Transport::Udp).await {
                            server.send_udp(&socket, &answer, peer).await;
                        }
                    });
                }
            }
        }
    }

    async fn send_udp(&self, socket: &UdpSocket, answer: &[u8], peer: SocketAddr) {
        match socket.send_to(answer, peer).await {
            Ok(_) => self.metrics.sent(answer),
            Err(error) => tracing::debug!(%error, %peer, "send a DNS answer"),
        }
    }

    /// Carries out an outcome that needs a resolver.
    async fn resolve(&self, outcome: Outcome, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let permit = self.forwarder.permit();
        let done = match (outcome, &permit) {
            (Outcome::Forward, Some(_)) => match self.forwarder.ask(packet, transport).await {
                Some(answer) => Outcome::Reply(answer),
                None => failure(packet),
            },
            (Outcome::Resolve(alias), Some(_)) => {
                // Over TCP if it was cut, so that the part to be merged is complete.
                let answer = match alias.query(rand::random()) {
                    Some(query) => match self.forwarder.ask(&query, Transport::Udp).await {
                        Some(cut) if cut.get(2).is_some_and(|flags| flags & 2 != 0) => {
                            self.forwarder.ask(&query, Transport::Tcp).await
                        }
                        answer => answer,
                    },
                    None => None,
                };
                alias.finish(answer.as_deref())
            }
            (Outcome::Forward, None) => failure(packet),
            (Outcome::Resolve(alias), None) => alias.finish(None),
            (done, _) => done,
        };
        match done {
            Outcome::Reply(answer) => Some(answer),
            _ => None,
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // Further clients wait in the kernel's queue.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        if let Err(error) = server.serve_connection(stream).await {
                            tracing::debug!(%error, "DNS connection");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: try again when there may be some.
                    tracing::warn!(%error, "accept a DNS connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let Ok(size) = timeout(IDLE, stream.read_u16()).await else {
                return Ok(());
            };
            let Ok(size) = size else { return Ok(()) };
            let mut packet = vec![0; usize::from(size)];
            timeout(IDLE, stream.read_exact(&mut packet)).await??;
            self.metrics.received(Transport::Tcp);
            let answer = match respond(&packet, Transport::Tcp, &self.zone, self.directory.as_ref()) {
                Outcome::Reply(answer) => Some(answer),
                Outcome::Ignore => None,
                outcome => self.resolve(outcome, &packet, Transport::Tcp).await,
            };
            let Some(answer) = answer else { return Ok(()) };
            let size = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
            timeout(
                IDLE,
                stream.write_all(&[&size.to_be_bytes(), answer.as_slice()].concat()),
            )
            .await??;
            self.metrics.sent(&answer);
        }
    }
}

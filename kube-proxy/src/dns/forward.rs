//! Questions to the machine's own resolvers: raw packets there, raw packets back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::Transport;

/// For one resolver to answer one packet.
const PATIENCE: Duration = Duration::from_secs(2);
/// Rounds over all resolvers.
const ROUNDS: usize = 2;
/// glibc uses as many and no more.
const MAX_RESOLVERS: usize = 3;
/// Questions under way; further ones are refused, so that a dead resolver does not fill the memory.
const MAX_UNDER_WAY: usize = 1000;
/// systemd-resolved's stub answers on loopback only; this file names the resolvers behind it.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Asks resolvers in the order of the file, trying the next when one is silent.
#[derive(Debug)]
pub struct Forwarder {
    path: PathBuf,
    port: u16,
    /// Our own addresses: a file that names them would send questions in a circle.
    own: Vec<IpAddr>,
    loaded: Mutex<(Option<SystemTime>, Vec<IpAddr>)>,
    permits: Semaphore,
}

impl Forwarder {
    /// Resolvers are named by the resolv.conf file at `path` and answer on `port` (53); `own` are never asked.
    pub fn new(path: PathBuf, port: u16, own: Vec<IpAddr>) -> Self {
        Self {
            path,
            port,
            own,
            loaded: Mutex::new((None, Vec::new())),
            permits: Semaphore::new(MAX_UNDER_WAY),
        }
    }

    /// A place among the questions under way; None if there are too many.
    pub(super) fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.permits.try_acquire().ok()
    }

    /// The first resolver's answer to `packet`, with the packet's own id; None if all stay silent.
    pub async fn ask(&self, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let resolvers = self.resolvers();
        for _ in 0..ROUNDS {
            for resolver in &resolvers {
                let address = SocketAddr::new(*resolver, self.port);
                let answer = async {
                    match transport {
                        Transport::Udp => exchange_udp(address, packet).await,
                        Transport::Tcp => exchange_tcp(address, packet).await,
                    }
                };
                match timeout(PATIENCE, answer).await {
                    Ok(Ok(answer)) => return Some(answer),
                    Ok(Err(error)) => tracing::debug!(%address, %error, "resolver"),
                    Err(_) => tracing::debug!(%address, "resolver is silent"),
                }
            }
        }
        None
    }

    /// Read again whenever the file changed: a stat a question is cheap beside the question.
    fn resolvers(&self) -> Vec<IpAddr> {
        let modified = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
        let mut loaded = self.loaded.lock();
        if modified.is_none() || loaded.0 != modified {
            let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
            let mut found = resolvers(&read(&self.path));
            if found.contains(&IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53))) {
                found = resolvers(&read(RESOLVED.as_ref()));
            }
            found.retain(|ip| !self.own.contains(ip));
            found.truncate(MAX_RESOLVERS);
            *loaded = (modified, found);
        }
        loaded.1.clone()
    }
}

/// The resolvers that a resolv.conf text names.
pub fn resolvers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()?.parse().ok())?
    };
    text.lines().filter_map(server).collect()
}

async fn exchange_udp(resolver: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if resolver.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // A port and an id that nobody can guess: that is what DNS has against forged answers.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let id: [u8; 2] = rand::random();
    let mut sent = packet.to_vec();
    sent[..2].copy_from_slice(&id);
    socket.send(&sent).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let size = socket.recv(&mut buffer).await?;
        let answer = &buffer[..size];
        if size >= 12 && answer[..2] == id && answer[2] & 0x80 != 0 && question(answer) == question(packet) {
            buffer.truncate(size);
            buffer[..2].copy_from_slice(&packet[..2]);
            return Ok(buffer);
        }
    }
}

async fn exchange_tcp(resolver: SocketAddr, packet: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let size = u16::try_from(packet.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&size.to_be_bytes(), packet].concat()).await?;
    let size = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(size)];
    stream.read_exact(&mut answer).await?;
    if answer.len() < 12 || answer[..2] != packet[..2] {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    Ok(answer)
}

/// The bytes of the first question; None if there is none.
fn question(packet: &[u8]) -> Option<&[u8]> {
    let mut end = 12;
    loop {
        match *packet.get(end)? {
            0 => break,
            // The first name of a packet has nothing to point to.
            label @ 1..=63 => end += usize::from(label) + 1,
            _ => return None,
        }
    }
    packet.get(12..end + 5)
}

//! kube-apiserver as a process, and what the kernel says of processes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_tests::program;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::LIMIT;
use crate::connection::{Connection, Credentials};
use crate::load::Call;

/// How often a starting server is asked whether it is ready.
const PAUSE: Duration = Duration::from_millis(5);
/// The machine's name in the certificates.
const NODE: &str = "bench";

/// The certificates of a control plane on loopback, as `keelson pki init` makes them.
pub struct Certificates(PathBuf);

impl Certificates {
    /// Makes them.
    ///
    /// # Errors
    /// With what `keelson` said.
    pub fn make(folder: &Path) -> Result<Self> {
        let output = Command::new(program("keelson"))
            .args(["pki", "init", "--control-plane", "bench=127.0.0.1", "--dir"])
            .arg(folder)
            .output()
            .context("run keelson")?;
        ensure!(
            output.status.success(),
            "keelson pki init: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self(folder.to_owned()))
    }

    /// The administrator's.
    ///
    /// # Errors
    /// When they are not there.
    pub fn admin(&self) -> Result<Credentials> {
        let file = |name| self.0.join(name);
        Credentials::load(&file("ca.crt"), &file("admin.crt"), &file("admin.key"))
    }
}

impl Certificates {
    /// The authority's certificate, PEM.
    ///
    /// # Errors
    /// When it is not there.
    pub fn authority(&self) -> Result<Vec<u8>> {
        fs::read(self.0.join("ca.crt")).context("read the authority")
    }

    /// To serve on loopback with.
    ///
    /// # Errors
    /// When a file is not there or does not fit.
    pub fn server(&self) -> Result<rustls::ServerConfig> {
        let own = |file: &str| self.0.join(NODE).join(file);
        let certificate = CertificateDer::from_pem_file(own("kube-apiserver.crt")).context("read a certificate")?;
        let key = PrivateKeyDer::from_pem_file(own("kube-apiserver.key")).context("read a key")?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// A running kube-apiserver; killed with the value.
pub struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts one on loopback and waits until it is ready; says how long that took.
    ///
    /// # Errors
    /// When it ends or does not become ready in time.
    pub async fn start(certificates: &Certificates, client: &Credentials, data: &Path) -> Result<(Self, Duration)> {
        // Free a moment ago; nothing else takes ports of this kind by number.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let own = |file: &str| certificates.0.join(NODE).join(file);
        let begun = Instant::now();
        let child = Command::new(program("kube-apiserver"))
            .args(["--bind-address=127.0.0.1", &format!("--secure-port={port}")])
            .args([
                flag("tls-cert-file", &own("kube-apiserver.crt")),
                flag("tls-private-key-file", &own("kube-apiserver.key")),
            ])
            .args([
                flag("client-ca-file", &own("ca.crt")),
                flag("service-account-key-file", &own("sa.pub")),
            ])
            .args([
                flag("service-account-signing-key-file", &own("sa.key")),
                flag("data-dir", data),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start kube-apiserver")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server = Self { child, address };
        while !server.is_ready(client).await {
            if let Some(status) = server.child.try_wait()? {
                bail!("kube-apiserver ended: {status}");
            }
            ensure!(begun.elapsed() < LIMIT, "kube-apiserver is not ready after {LIMIT:?}");
            tokio::time::sleep(PAUSE).await;
        }
        Ok((server, begun.elapsed()))
    }

    async fn is_ready(&self, client: &Credentials) -> bool {
        let ask = async {
            let connection = Connection::open(self.address, client).await?;
            connection.call(Call::get("/readyz", "*/*")).await
        };
        ask.await.is_ok_and(|(status, _)| status.is_success())
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as systemd would.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().try_into()?), Signal::SIGTERM)?;
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(begun.elapsed() < LIMIT, "kube-apiserver does not end");
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only for a process that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// CPU time that a process has used so far, in user and kernel mode; the kernel counts in hundredths of a second.
///
/// # Errors
/// When there is no such process.
pub fn cpu(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the server's CPU time")?;
    // The name in it may hold anything, so fields count from its end.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = fields
        .split_whitespace()
        .skip(11)
        .map_while(|field| field.parse::<u64>().ok());
    let (Some(user), Some(system)) = (ticks.next(), ticks.next()) else {
        bail!("/proc/{pid}/stat: expected CPU times, found {stat:?}");
    };
    Ok(Duration::from_millis((user + system) * 10))
}

/// Resident memory of a process, bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("{path}: no VmRSS"))? * 1024)
}

/// Runs futures side by side in this task; the first error ends them all.
///
/// # Errors
/// That of the first that failed.
pub async fn all<T>(futures: impl Iterator<Item = impl Future<Output = Result<T>>>) -> Result<Vec<T>> {
    futures_util::future::try_join_all(futures).await
}

//! A containerd of the test's own, and an API server in memory.

use anyhow::{Context as _, bail};
use api::authentication::v1::{TokenRequest, TokenRequestStatus};
use api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service};
use async_trait::async_trait;
use kubelet::cluster::{Cluster, ClusterError, EventKind};
use kubelet::metrics::Metrics;
use kubelet::pods::{Context, NodeFacts, Pods, statuses::StatusWriter};
use kubelet::runtime::cgroups::Cgroups;
use kubelet::runtime::images::Images;
use kubelet::runtime::{Runtime, events, relist::Relist};
use kubelet::volumes::Volumes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Why the test cannot run here, if it cannot.
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    let found = |name: &str| {
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).exists()))
    };
    for (name, text) in [("containerd", "no containerd"), ("runc", "no runc"), ("ctr", "no ctr")] {
        if !found(name) {
            return Some(text);
        }
    }
    (!Path::new("/bin/busybox").exists()).then_some("no /bin/busybox")
}

/// A containerd with folders of its own.
pub struct Containerd {
    pub folder: tempfile::TempDir,
    child: Child,
}

impl Containerd {
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        // A network without links: pods get an address, and nothing leaves them.
        std::fs::create_dir_all(path.join("net.d"))?;
        let octet = std::process::id() % 250;
        std::fs::write(
            path.join("net.d/10-test.conflist"),
            serde_json::json!({"cniVersion": "0.4.0", "name": "test", "plugins": [{"type": "ptp",
                "ipam": {"type": "host-local", "subnet": format!("10.213.{octet}.0/24"), "dataDir": path.join("ipam")}}]})
            .to_string(),
        )?;
        std::fs::write(path.join("config.toml"), config(path))?;
        let log = std::fs::File::create(path.join("containerd.log"))?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(path.join("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start containerd")?;
        let this = Self { folder, child };
        let deadline = Instant::now() + Duration::from_secs(30);
        while !this.ctr(&["version"]).is_ok_and(|output| output.contains("Server")) {
            if Instant::now() > deadline {
                bail!(
                    "containerd does not answer: {}",
                    std::fs::read_to_string(this.folder.path().join("containerd.log"))?
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(this)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    pub fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(["-n", "k8s.io"])
            .args(arguments)
            .output()?;
        if !output.status.success() {
            bail!("ctr {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Imports an image of nothing but busybox.
    pub fn import_busybox(&self, name: &str) -> anyhow::Result<()> {
        use sha2::Digest as _;
        let hex = |data: &[u8]| {
            sha2::Sha256::digest(data)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let append = |archive: &mut tar::Builder<Vec<u8>>, path: &str, data: &[u8], mode: u32| {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(mode);
            archive.append_data(&mut header, path, data)
        };
        let mut layer = tar::Builder::new(Vec::new());
        append(&mut layer, "bin/busybox", &std::fs::read("/bin/busybox")?, 0o755)?;
        for applet in [
            "sh", "sleep", "cat", "echo", "env", "kill", "true", "false", "ls", "httpd", "hostname", "id", "stat",
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            layer.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
        }
        let layer = layer.into_inner()?;
        let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]}})
        .to_string();
        let config_name = format!("{}.json", hex(config.as_bytes()));
        let manifest = serde_json::json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]);
        let mut archive = tar::Builder::new(Vec::new());
        append(&mut archive, &config_name, config.as_bytes(), 0o644)?;
        append(&mut archive, "layer.tar", &layer, 0o644)?;
        append(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644)?;
        let file = self.folder.path().join("busybox.tar");
        std::fs::write(&file, archive.into_inner()?)?;
        self.ctr(&["images", "import", &file.to_string_lossy()])?;
        Ok(())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // What a failed test left behind: its shims are children of init and known by the socket they were given.
        for pid in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = pid.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let ours = String::from_utf8_lossy(&command).contains(&*self.socket().to_string_lossy());
            if ours && pid != self.child.id() as i32 {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM);
            }
        }
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.child.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.child.wait();
        for point in std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap_or_default()
            .lines()
            .rev()
        {
            if let Some(point) = point
                .split(' ')
                .nth(4)
                .filter(|point| Path::new(point).starts_with(self.folder.path()))
            {
                let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

/// Without CAP_SYS_RESOURCE no process may lower its OOM score, so containerd must not try.
fn may_lower_oom_score() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:\t"));
    effective
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .is_some_and(|bits| bits & 1 << 24 != 0)
}

fn config(path: &Path) -> String {
    let path = path.display();
    let restrict = !may_lower_oom_score();
    format!(
        r#"version = 2
root = "{path}/root"
state = "{path}/state"
oom_score = 0
[grpc]
  address = "{path}/containerd.sock"
[ttrpc]
  address = "{path}/containerd.sock.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "keelson.dev/pause:1"
  restrict_oom_score_adj = {restrict}
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{path}/net.d"
"#
    )
}

/// An API server that keeps everything in memory.
#[derive(Default)]
pub struct Memory {
    pub pods: Mutex<HashMap<String, Pod>>,
    pub config_maps: Mutex<HashMap<String, ConfigMap>>,
    pub secrets: Mutex<HashMap<String, Secret>>,
    pub deleted: Mutex<Vec<String>>,
    pub events: Mutex<Vec<(String, String)>>,
    pub changed: watch::Sender<()>,
}

impl Memory {
    pub fn pod(&self, uid: &str) -> Pod {
        self.pods.lock().get(uid).cloned().unwrap_or_default()
    }
}

#[async_trait]
impl Cluster for Memory {
    async fn config_map(&self, _: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, ClusterError> {
        Ok(self.config_maps.lock().get(name).cloned().map(Arc::new))
    }

    async fn secret(&self, _: &str, name: &str) -> Result<Option<Arc<Secret>>, ClusterError> {
        Ok(self.secrets.lock().get(name).cloned().map(Arc::new))
    }

    async fn token(&self, _: &str, account: &str, _: &TokenRequest) -> Result<TokenRequest, ClusterError> {
        let expiration_timestamp = api::meta::Time(jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1));
        let status = TokenRequestStatus {
            token: format!("token-of-{account}"),
            expiration_timestamp,
        };
        Ok(TokenRequest {
            status: Some(status),
            ..Default::default()
        })
    }

    async fn claim(
        &self,
        _: &str,
        _: &str,
    ) -> Result<Option<(PersistentVolumeClaim, Option<PersistentVolume>)>, ClusterError> {
        Ok(None)
    }

    async fn runtime_handler(&self, _: &str) -> Result<Option<String>, ClusterError> {
        Ok(None)
    }

    async fn update_statuses(&self, pods: Vec<Pod>) -> Vec<Result<(), ClusterError>> {
        let count = pods.len();
        for pod in pods {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            if let Some(kept) = self.pods.lock().get_mut(&uid) {
                kept.status = pod.status;
            }
        }
        self.changed.send_replace(());
        (0..count).map(|_| Ok(())).collect()
    }

    async fn delete_pod(&self, _: &str, _: &str, uid: &str) -> Result<(), ClusterError> {
        self.deleted.lock().push(uid.to_owned());
        self.changed.send_replace(());
        Ok(())
    }

    fn services(&self) -> Vec<Arc<Service>> {
        Vec::new()
    }

    fn event(&self, pod: &Pod, _: EventKind, reason: &str, message: &str) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        self.events
            .lock()
            .push((reason.to_owned(), format!("{name}: {message}")));
    }
}

/// A kubelet's pod machinery over a real runtime and the API in memory.
pub struct Node {
    pub context: Arc<Context>,
    pub pods: Arc<Pods>,
    pub memory: Arc<Memory>,
    stop: CancellationToken,
}

impl Node {
    pub async fn start(containerd: &Containerd, memory: Arc<Memory>, root: &Path) -> anyhow::Result<Self> {
        Self::over(&containerd.socket().to_string_lossy(), memory, root).await
    }

    pub async fn over(socket: &str, memory: Arc<Memory>, root: &Path) -> anyhow::Result<Self> {
        let metrics = Metrics::new(&prometheus::Registry::new())?;
        let runtime = Runtime::new(socket, metrics.clone())?;
        std::fs::create_dir_all(root)?;
        kubelet::pause::ensure(&runtime, root).await?;
        let cgroup_root = format!("/keelson-test-{}", std::process::id());
        let cgroups = Cgroups::detect(Path::new(&cgroup_root))?;
        cgroups.prepare_node(8 << 30, 2000)?;
        let cluster: Arc<dyn Cluster> = memory.clone();
        let statuses = Arc::new(StatusWriter::default());
        let stop = CancellationToken::new();
        let amount = |text: &str| api::meta::Quantity(text.to_owned());
        let allocatable = [
            ("cpu", "2"),
            ("memory", "8Gi"),
            ("pods", "110"),
            ("ephemeral-storage", "10Gi"),
        ];
        let node = NodeFacts {
            name: "node-1".into(),
            ips: vec!["192.0.2.1".into()],
            memory: 8 << 30,
            allocatable: allocatable
                .iter()
                .map(|(name, text)| ((*name).to_owned(), amount(text)))
                .collect(),
            root: root.to_path_buf(),
            log_root: root.join("logs"),
            ..Default::default()
        };
        let (_, network_ready) = watch::channel(true);
        let context = Arc::new(Context {
            images: Images::new(runtime.clone(), 2),
            volumes: Volumes::new(root, cluster.clone()),
            cgroups,
            cluster: cluster.clone(),
            statuses: statuses.clone(),
            metrics: metrics.clone(),
            node,
            network_ready,
            admitted: Mutex::default(),
            stop: stop.clone(),
            runtime: runtime.clone(),
        });
        let pods = Pods::new(context.clone());
        let relist = Relist::default();
        tokio::spawn(events::follow(runtime.clone(), relist.wake(), stop.clone()));
        let (woken, stopped) = (pods.clone(), stop.clone());
        tokio::spawn(async move { relist.run(runtime, metrics, move |uid| woken.wake(uid), stopped).await });
        let stopped = stop.clone();
        tokio::spawn(async move { statuses.run(cluster, stopped).await });
        Ok(Self {
            context,
            pods,
            memory,
            stop,
        })
    }

    /// Ends the kubelet, not its pods.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Gives a pod to the kubelet as an informer would.
    pub fn apply(&self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.memory.pods.lock().insert(uid, pod.clone());
        self.pods.update(Arc::new(pod));
    }

    /// Waits until a pod's status pleases.
    pub async fn until(&self, uid: &str, what: &str, pleases: impl Fn(&Pod) -> bool) -> anyhow::Result<Pod> {
        let mut changed = self.memory.changed.subscribe();
        let wait = async {
            loop {
                let pod = self.memory.pod(uid);
                if pleases(&pod) {
                    return pod;
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), wait).await {
            Ok(pod) => Ok(pod),
            Err(_) => bail!(
                "no {what} in 60 s: {:#?} {:#?}",
                self.memory.pod(uid).status,
                self.memory.events.lock()
            ),
        }
    }

    /// Deletes a pod and waits until the kubelet has nothing of it left.
    pub async fn delete(&self, uid: &str, grace: i64) -> anyhow::Result<()> {
        let mut pod = self.memory.pod(uid);
        pod.metadata.deletion_timestamp = Some(api::meta::Time(jiff::Timestamp::now()));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.apply(pod.clone());
        let mut changed = self.memory.changed.subscribe();
        let deleted = async {
            while !self.memory.deleted.lock().iter().any(|deleted| deleted == uid) {
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let limit = Duration::from_secs(60);
        if tokio::time::timeout(limit, deleted).await.is_err() {
            bail!(
                "not deleted: {:#?} {:#?}",
                self.memory.pod(uid).status,
                self.memory.events.lock()
            );
        }
        self.pods.gone(&pod);
        let deadline = Instant::now() + limit;
        while self.pods.uids().contains(uid) {
            if Instant::now() > deadline {
                bail!("the worker did not end");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.cancel();
        let root = self.context.cgroups.kubepods();
        let parent = root.parent().unwrap_or(&root).to_path_buf();
        let _ = self.context.cgroups.remove(&parent);
    }
}

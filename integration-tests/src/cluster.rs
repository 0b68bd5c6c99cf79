//! A cluster of its own for a test: made with `keelson local up`, gone with the value.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{Kubectl, eventually};

/// A program of the suite, as built beside the test that runs.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let path = path_of(name);
    assert!(
        is_built(name),
        "{} is not built: cargo build --workspace",
        path.display()
    );
    path
}

/// Whether there is such a program.
///
/// # Panics
/// When this program does not know where it lies.
pub fn is_built(name: &str) -> bool {
    path_of(name).exists()
}

fn path_of(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("the path of this program");
    let mut folder = this.parent().expect("its folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("the folder of the build");
    }
    folder.join(name)
}

/// See the module.
pub struct Cluster {
    folder: tempfile::TempDir,
    kubectl: PathBuf,
}

impl Cluster {
    /// Makes a cluster, and puts the sample's image on every node.
    ///
    /// # Panics
    /// When that fails, with what `keelson` said.
    pub fn start(nodes: u8, control_planes: u8) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("keelson-test-")
            .tempdir()
            .expect("a temporary folder");
        let cluster = Self {
            folder,
            kubectl: "kubectl".into(),
        };
        cluster.keelson(&[
            "up",
            "--nodes",
            &nodes.to_string(),
            "--control-planes",
            &control_planes.to_string(),
        ]);
        let archive = cluster.dir().join("web.tar");
        let built = Command::new(program("keelson"))
            .args(["image", "build-web", "--output"])
            .arg(&archive)
            .output();
        demand("keelson image build-web", &built.expect("run keelson"));
        cluster.keelson(&["import", archive.to_str().expect("a path in UTF-8")]);
        cluster
    }

    /// The same cluster, spoken to with another kubectl.
    #[must_use]
    pub fn with_kubectl(mut self, program: PathBuf) -> Self {
        self.kubectl = program;
        self
    }

    /// Its folder.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// Runs `keelson local`, and answers what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn keelson(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        demand(&format!("keelson local {}", arguments.join(" ")), &output);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let (command, rest) = arguments.split_first().expect("a command");
        let mut keelson = Command::new(program("keelson"));
        keelson.args(["local", command, "--dir"]).arg(self.dir()).args(rest);
        keelson.output().expect("run keelson")
    }

    /// Runs a program as a process of a node, and answers what it prints; `None` when it fails.
    pub fn on_node(&self, node: &str, arguments: &[&str]) -> Option<String> {
        let output = self.run(&[&["exec", node, "--"], arguments].concat());
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// kubectl as the cluster's administrator.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(self.kubectl.clone(), self.dir().join("pki/admin.kubeconfig"))
    }

    /// The process of a daemon: `kubelet` of `node-1`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self, node: &str, daemon: &str) -> u32 {
        let file = self
            .dir()
            .join("nodes")
            .join(node)
            .join("run")
            .join(format!("{daemon}.pid"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let first = text.split_whitespace().next().and_then(|pid| pid.parse().ok());
        first.unwrap_or_else(|| panic!("{}: no pid in {text:?}", file.display()))
    }
}

impl Cluster {
    /// Ends a daemon without a chance to say goodbye, and waits until it is gone.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&self, node: &str, daemon: &str) {
        let pid = self.pid(node, daemon).to_string();
        let killed = Command::new("kill").args(["-9", &pid]).status().expect("run kill");
        assert!(killed.success(), "kill {daemon} of {node}");
        eventually("it is gone", || !Path::new("/proc").join(&pid).join("exe").exists());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let output = self.run(&["down"]);
        if !output.status.success() && !std::thread::panicking() {
            demand("keelson local down", &output);
        }
    }
}

impl Cluster {
    /// The ends of the daemons' logs, for a test that failed.
    fn show_logs(&self) {
        let Ok(nodes) = std::fs::read_dir(self.dir().join("nodes")) else {
            return;
        };
        let files = nodes.flatten().flat_map(|node| find_logs(&node.path()));
        for file in files {
            let text = std::fs::read(&file).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<&str> = text.lines().collect();
            let end = &lines[lines.len().saturating_sub(25)..];
            eprintln!("--- {}\n{}", file.display(), end.join("\n"));
        }
    }
}

/// The `*.log` files up to two folders down, but for those of containers.
fn find_logs(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => std::fs::read_dir(&path)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect(),
            false => vec![path],
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect()
}

fn demand(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

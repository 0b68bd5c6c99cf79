//! Debian's Prometheus with the configuration that ships: its certificate, its role, its rules.
//!
//! Debian builds it without Kubernetes' discovery, so machines come from files, as `deploy/prometheus` has it.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use integration_tests::{Cluster, Tools, poll};

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already when the test failed because of that.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn scrapes(cluster: &Cluster, tools: &Tools) {
    let programs = tools.debian("prometheus").join("usr/bin");
    let kubectl = cluster.kubectl();
    let address = kubectl.run("get node node-1 -o jsonpath={.status.addresses[0].address}");
    let folder = tempfile::tempdir().expect("a folder");
    configure(folder.path(), &cluster.dir().join("pki"), &address);
    let checked = Command::new(programs.join("promtool"))
        .args(["check", "config"])
        .arg(folder.path().join("prometheus.yaml"))
        .output()
        .expect("run promtool");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    kubectl.run_with("apply -f -", &shipped("rbac.yaml"));
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port")
        .port();
    let server = Command::new(programs.join("prometheus"))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .arg(format!(
            "--config.file={}",
            folder.path().join("prometheus.yaml").display()
        ))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start Prometheus");
    let _server = Server(server);
    for job in [
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubelet",
        "kube-proxy",
    ] {
        poll(&format!("{job} is scraped"), || {
            let answer = query(port, &format!("up{{job=\"{job}\"}}"));
            answer
                .contains(",\"1\"]")
                .then_some(())
                .ok_or_else(|| query(port, "up"))
        });
    }
    poll("requests are counted", || {
        let answer = query(port, "sum(apiserver_request_total{verb=\"LIST\"})>0");
        answer.contains("\"value\"").then_some(()).ok_or(answer)
    });
}

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/prometheus")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The shipped files with this cluster's addresses and certificates.
fn configure(folder: &Path, pki: &Path, address: &str) {
    for name in ["alerts.yaml", "control-planes.yaml", "nodes.yaml", "prometheus.yaml"] {
        let text = shipped(name)
            .replace("/etc/prometheus/keelson", &pki.display().to_string())
            .replace("192.0.2.11", address)
            .replace("scrape_interval: 15s", "scrape_interval: 1s");
        fs::write(folder.join(name), text).expect("write a file");
    }
}

fn query(port: u16, expression: &str) -> String {
    let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        write!(stream, "GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    ask().unwrap_or_else(|error: std::io::Error| error.to_string())
}

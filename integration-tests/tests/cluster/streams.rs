//! Logs and streams into pods.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use integration_tests::{Cluster, poll};

use crate::{has, namespace};

/// Logs of a container that ran before.
pub fn previous(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "previous");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: 'keelson.dev/web:1', command: [sh, -c, 'echo run of $(date +%s%N); sleep 1; exit 1']}\n";
    kubectl.run_with(&format!("apply -n {n} -f -"), pod);
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    poll("a restart", || {
        let count = kubectl.run(&format!("get pod p -n {n} -o {restarts}"));
        if count.parse().unwrap_or(0) > 0 {
            Ok(())
        } else {
            Err(count)
        }
    });
    let before = kubectl.run(&format!("logs p -n {n} --previous"));
    let now = kubectl.run(&format!("logs p -n {n}"));
    assert!(
        before.starts_with("run of ") && now.starts_with("run of "),
        "{before}{now}"
    );
    assert_ne!(before, now, "each run has its own log");
    kubectl.run(&format!("delete pod p -n {n} --now"));
}

pub fn streams(cluster: &Cluster) {
    let kubectl = cluster.kubectl();
    let n = namespace(cluster, "streams");
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {name: web, image: 'keelson.dev/web:1'}\n  - {name: talk, image: 'keelson.dev/web:1', command: [sh, -c, 'i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done']}\n";
    kubectl.run_with(&format!("apply -n {n} -f -"), pod);
    kubectl.run(&format!("wait --for=condition=Ready pod/p -n {n} --timeout=90s"));
    logs(cluster, &n);

    let answer = kubectl.call(&format!(
        "exec p -n {n} -c web -- sh -c 'echo out; echo err >&2; exit 3'"
    ));
    assert_eq!((answer.out.as_str(), answer.code), ("out\n", 3), "{}", answer.err);
    has(&answer.err, &["err\n", "exit code 3"]);
    let echoed = kubectl.run_with(&format!("exec -i p -n {n} -c web -- cat"), "through standard input");
    assert_eq!(echoed, "through standard input", "half-closing standard input ends cat");
    // kubectl asks for a terminal only when it has one. containerd may lose the output of a command that ends at once in a terminal.
    let in_terminal = shell(&kubectl.command(&format!(
        "exec -it p -n {n} -c web -- sh -c 'test -t 0 && echo terminal'"
    )));
    poll("output of a terminal", || {
        let output = std::process::Command::new("script")
            .args(["-qec", &in_terminal, "/dev/null"])
            .output();
        let output = String::from_utf8_lossy(&output.expect("run script").stdout).into_owned();
        output.contains("terminal").then_some(()).ok_or(output)
    });
    has(
        &kubectl.fail(&format!("exec p -n {n} -c none -- true")),
        &["container none is not valid for pod p"],
    );

    let folder = tempfile::tempdir().expect("a folder");
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    let content = "0123456789abcdef".repeat(20_000);
    std::fs::write(&there, &content).expect("write a file");
    kubectl.run(&format!("cp {} {n}/p:/tmp/copy -c web", there.display()));
    kubectl.run(&format!("cp {n}/p:/tmp/copy {} -c web", back.display()));
    assert!(
        std::fs::read_to_string(&back).expect("read the copy") == content,
        "the copy is the same"
    );

    for websockets in ["true", "false"] {
        port_forward(cluster, &n, websockets);
    }
    spdy(cluster, &n);
}

/// What kubectl before 1.31 and most client libraries in Go speak.
fn spdy(cluster: &Cluster, n: &str) {
    let mut command = cluster
        .kubectl()
        .command(&format!("exec -i p -n {n} -c web -- sh -c 'cat; echo err >&2; exit 3'"));
    command
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false")
        .stdin(Stdio::piped());
    let mut child = command.spawn().expect("start kubectl");
    child
        .stdin
        .take()
        .expect("its input")
        .write_all(b"over SPDY")
        .expect("write");
    let output = child.wait_with_output().expect("wait for kubectl");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "over SPDY");
    assert_eq!(output.status.code(), Some(3));
    has(&String::from_utf8_lossy(&output.stderr), &["err\n"]);
}

fn shell(command: &std::process::Command) -> String {
    let quote = |part: &std::ffi::OsStr| format!("'{}'", part.to_string_lossy().replace('\'', "'\\''"));
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(quote)
        .collect::<Vec<_>>()
        .join(" ")
}

fn logs(cluster: &Cluster, n: &str) {
    let kubectl = cluster.kubectl();
    let logs = |rest: &str| kubectl.run(&format!("logs p -n {n} -c talk {rest}"));
    poll("some lines", || {
        let count = logs("").lines().count();
        (count > 5).then_some(()).ok_or(count.to_string())
    });
    assert!(logs("").starts_with("line 1\nline 2\n"));
    assert_eq!(logs("--tail=2").lines().count(), 2);
    assert!(logs("--since=1s").lines().count() < logs("").lines().count() + 1);
    assert_eq!(logs("--limit-bytes=6"), "line 1");
    assert!(logs("--tail=1 --timestamps").starts_with("20"), "a time comes first");
    let mut follow = kubectl.start(&format!("logs -f p -n {n} -c talk --tail=1"));
    let lines = BufReader::new(follow.stdout.take().expect("its output")).lines();
    assert_eq!(lines.take(5).map_while(Result::ok).count(), 5, "it follows");
    follow.kill().expect("end kubectl");
    follow.wait().expect("wait for kubectl");
    has(
        &kubectl.fail(&format!("logs p -n {n} -c talk --previous")),
        &["previous terminated container", "not found"],
    );
}

fn port_forward(cluster: &Cluster, n: &str, websockets: &str) {
    let mut command = cluster.kubectl().command(&format!("port-forward pod/p -n {n} :8080"));
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets);
    let mut forward = command.spawn().expect("start kubectl");
    let mut line = String::new();
    let mut output = BufReader::new(forward.stdout.take().expect("its output"));
    output.read_line(&mut line).expect("a line");
    // Forwarding from 127.0.0.1:40123 -> 8080
    let port = line
        .split_whitespace()
        .find_map(|word| word.strip_prefix("127.0.0.1:")?.parse::<u16>().ok());
    let port = port.unwrap_or_else(|| panic!("no port in {line:?}"));
    for _ in 0..3 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("read");
        assert!(answer.starts_with("HTTP/1") && answer.contains("200 OK"), "{answer}");
    }
    forward.kill().expect("end kubectl");
    forward.wait().expect("wait for kubectl");
}

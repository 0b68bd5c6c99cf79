//! The columns of pods, above all STATUS. Source: `pkg/printers/internalversion/printers.go`.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::field::{list, number, text};
use crate::registry::table::{self, Column};

/// As `kubectl get pods -o wide` shows them.
pub const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::text("Ready"),
    Column::text("Status"),
    Column::text("Restarts"),
    Column::AGE,
    Column::text("IP").wide(),
    Column::text("Node").wide(),
    Column::text("Nominated Node").wide(),
    Column::text("Readiness Gates").wide(),
];

/// The cells of a pod.
pub fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod, now);
    let none = |pointer: &str| json!(crate::kinds::common::or_none(text(pod, pointer)));
    let ip = list(pod, "/status/podIPs")
        .first()
        .map(|ip| text(ip, "/ip"))
        .unwrap_or_else(|| text(pod, "/status/podIP"));
    vec![
        table::name(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.status),
        json!(summary.restarts),
        table::age(pod, now),
        json!(crate::kinds::common::or_none(ip)),
        none("/spec/nodeName"),
        none("/status/nominatedNodeName"),
        json!(readiness_gates(pod)),
    ]
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates
        .iter()
        .filter(|gate| condition_is_true(pod, text(gate, "/conditionType")))
        .count();
    format!("{met}/{}", gates.len())
}

fn condition_is_true(pod: &Value, kind: &str) -> bool {
    crate::kinds::common::condition(pod, kind).is_some_and(|c| text(c, "/status") == "True")
}

struct Summary {
    ready: usize,
    total: usize,
    status: String,
    restarts: String,
}

/// Restart counts and the time of the last one, as they are summed up over containers.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += number(status, "/restartCount");
        let finished = text(status, "/lastState/terminated/finishedAt")
            .parse::<Timestamp>()
            .ok();
        self.last = self.last.max(finished);
    }

    fn show(&self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!(
                "{} ({} ago)",
                self.count,
                table::human_duration(now.as_second() - last.as_second())
            ),
            _ => self.count.to_string(),
        }
    }
}

fn restartable(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

impl Summary {
    fn of(pod: &Value, now: Timestamp) -> Summary {
        let sidecars = list(pod, "/spec/initContainers")
            .iter()
            .filter(|c| restartable(c))
            .count();
        let total = list(pod, "/spec/containers").len() + sidecars;
        let phase = text(pod, "/status/phase");
        let mut status = match text(pod, "/status/reason") {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        };
        for c in list(pod, "/status/conditions") {
            if text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated" {
                status = "SchedulingGated".to_owned();
            }
        }
        let mut all = Restarts::default();
        let mut restartable_init = Restarts::default();
        let mut ready = 0;
        let initializing = init_status(pod, &mut all, &mut restartable_init, &mut ready);
        if let Some(text) = &initializing {
            status.clone_from(text);
        }
        if initializing.is_none() || condition_is_true(pod, "Initialized") {
            all = restartable_init;
            status = container_status(pod, status, &mut all, &mut ready);
        }
        if pod.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string) {
            if text(pod, "/status/reason") == "NodeLost" {
                status = "Unknown".to_owned();
            } else if phase != "Failed" && phase != "Succeeded" {
                status = "Terminating".to_owned();
            }
        }
        Summary {
            ready,
            total,
            status,
            restarts: all.show(now),
        }
    }
}

/// `Init:...` while init containers have not finished; counts their restarts on the way.
fn init_status(pod: &Value, all: &mut Restarts, sidecar: &mut Restarts, ready: &mut usize) -> Option<String> {
    let specs = list(pod, "/spec/initContainers");
    for (i, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let is_sidecar = specs
            .iter()
            .any(|c| text(c, "/name") == text(status, "/name") && restartable(c));
        all.add(status);
        if is_sidecar {
            sidecar.add(status);
        }
        let terminated = status.pointer("/state/terminated").filter(|t| t.is_object());
        if terminated.is_some_and(|t| number(t, "/exitCode") == 0) {
            continue;
        }
        if is_sidecar && status.get("started").and_then(Value::as_bool) == Some(true) {
            *ready += usize::from(status.get("ready").and_then(Value::as_bool) == Some(true));
            continue;
        }
        if let Some(t) = terminated {
            return Some(format!("Init:{}", exit_text(t)));
        }
        let waiting = text(status, "/state/waiting/reason");
        return Some(match waiting {
            "" | "PodInitializing" => format!("Init:{i}/{}", specs.len()),
            reason => format!("Init:{reason}"),
        });
    }
    None
}

fn exit_text(terminated: &Value) -> String {
    match text(terminated, "/reason") {
        "" if number(terminated, "/signal") != 0 => format!("Signal:{}", number(terminated, "/signal")),
        "" => format!("ExitCode:{}", number(terminated, "/exitCode")),
        reason => reason.to_owned(),
    }
}

/// The reason of the first container that has one to give (the last word goes to the first container, so they are read backwards).
fn container_status(pod: &Value, mut status: String, all: &mut Restarts, ready: &mut usize) -> String {
    let mut running = false;
    for s in list(pod, "/status/containerStatuses").iter().rev() {
        all.add(s);
        let waiting = text(s, "/state/waiting/reason");
        let terminated = s.pointer("/state/terminated").filter(|t| t.is_object());
        if !waiting.is_empty() {
            status = waiting.to_owned();
        } else if let Some(t) = terminated {
            status = exit_text(t);
        } else if s.get("ready").and_then(Value::as_bool) == Some(true)
            && s.pointer("/state/running").is_some_and(Value::is_object)
        {
            running = true;
            *ready += 1;
        }
    }
    if status == "Completed" && running {
        return if condition_is_true(pod, "Ready") {
            "Running"
        } else {
            "NotReady"
        }
        .to_owned();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(status: Value, meta: Value, init: usize) -> Vec<String> {
        let pod = json!({"metadata": meta, "spec": {"containers": [{"name": "a"}, {"name": "b"}],
            "initContainers": (0..init).map(|i| json!({"name": format!("i{i}")})).collect::<Vec<_>>()}, "status": status});
        let now: Timestamp = "2025-01-01T01:00:00Z".parse().unwrap_or_default();
        row(&pod, now)
            .iter()
            .take(5)
            .map(|c| c.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn status_column() {
        let meta = json!({"name": "p", "creationTimestamp": "2025-01-01T00:00:00Z"});
        let running = json!({"running": {"startedAt": "2025-01-01T00:00:00Z"}});
        let cases = [
            (json!({"phase": "Pending"}), 0, ["0/2", "Pending", "0"]),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": true, "state": running}, {"name": "b", "ready": true, "state": running, "restartCount": 3,
                "lastState": {"terminated": {"finishedAt": "2025-01-01T00:55:00Z"}}}]}),
                0,
                ["2/2", "Running", "3 (5m ago)"],
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"name": "a", "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                0,
                ["0/2", "CrashLoopBackOff", "0"],
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": {"exitCode": 3}}}]}),
                0,
                ["0/2", "ExitCode:3", "0"],
            ),
            (
                json!({"phase": "Failed", "reason": "Evicted"}),
                0,
                ["0/2", "Evicted", "0"],
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i0", "state": {"terminated": {"exitCode": 0}}}, {"name": "i1", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                2,
                ["0/2", "Init:1/2", "0"],
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i0", "restartCount": 1, "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
                2,
                ["0/2", "Init:Error", "1"],
            ),
        ];
        for (status, init, want) in cases {
            assert_eq!(cells(status.clone(), meta.clone(), init)[1..4], want, "{status}");
        }
        let deleted = json!({"name": "p", "deletionTimestamp": "2025-01-01T00:00:00Z"});
        assert_eq!(cells(json!({"phase": "Running"}), deleted, 0)[2], "Terminating");
    }
}

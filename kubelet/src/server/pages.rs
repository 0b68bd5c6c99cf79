//! Figures of node, pods and containers as Prometheus reads them: `/metrics/resource` and `/metrics/cadvisor`, under upstream's names. Made from the
//! summary; measures nothing itself.

use std::fmt::Write as _;

use serde_json::Value;

/// One family of samples.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: String,
}

impl Family {
    fn new(name: &'static str, kind: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind,
            help,
            samples: String::new(),
        }
    }

    fn add(&mut self, labels: &[(&str, &str)], value: Option<f64>) {
        let Some(value) = value else { return };
        let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, text)| format!("{key}=\"{}\"", escaped(text)))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        // Writing into a String cannot fail.
        let _ = writeln!(self.samples, "{}{labels} {value}", self.name);
    }

    fn text(&self) -> String {
        let Self {
            name,
            kind,
            help,
            samples,
        } = self;
        match samples.is_empty() {
            true => String::new(),
            false => format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{samples}"),
        }
    }
}

fn number(value: &Value, pointer: &str) -> Option<f64> {
    value.pointer(pointer).and_then(Value::as_f64)
}

fn seconds(value: &Value, pointer: &str) -> Option<f64> {
    number(value, pointer).map(|nanoseconds| nanoseconds / 1e9)
}

fn start(value: &Value) -> Option<f64> {
    let time: jiff::Timestamp = value.get("startTime")?.as_str()?.parse().ok()?;
    Some(time.as_millisecond() as f64 / 1e3)
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// CPU and memory only, as metrics servers scrape them.
pub fn resource(summary: &Value) -> String {
    let mut families = [
        Family::new(
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
        ),
        Family::new(
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
        ),
        Family::new(
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds",
        ),
        Family::new(
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
        ),
        Family::new(
            "node_memory_working_set_bytes",
            "gauge",
            "Current working set of the node in bytes",
        ),
        Family::new(
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
        ),
        Family::new(
            "pod_memory_working_set_bytes",
            "gauge",
            "Current working set of the pod in bytes",
        ),
        Family::new(
            "resource_scrape_error",
            "gauge",
            "1 if there was an error while getting container metrics, 0 otherwise",
        ),
    ];
    let [cpu, memory, started, node_cpu, node_memory, pod_cpu, pod_memory, error] = &mut families;
    node_cpu.add(&[], seconds(summary, "/node/cpu/usageCoreNanoSeconds"));
    node_memory.add(&[], number(summary, "/node/memory/workingSetBytes"));
    error.add(&[], Some(0.0));
    for pod in list(summary, "/pods") {
        let (namespace, name) = (text(pod, "/podRef/namespace"), text(pod, "/podRef/name"));
        let labels = [("namespace", namespace), ("pod", name)];
        pod_cpu.add(&labels, seconds(pod, "/cpu/usageCoreNanoSeconds"));
        pod_memory.add(&labels, number(pod, "/memory/workingSetBytes"));
        for container in list(pod, "/containers") {
            let labels = [
                ("container", text(container, "/name")),
                ("namespace", namespace),
                ("pod", name),
            ];
            cpu.add(&labels, seconds(container, "/cpu/usageCoreNanoSeconds"));
            memory.add(&labels, number(container, "/memory/workingSetBytes"));
            started.add(&labels, start(container));
        }
    }
    families.iter().map(Family::text).collect()
}

/// What dashboards for cAdvisor ask for, as far as the runtime and the kernel tell.
pub fn cadvisor(summary: &Value) -> String {
    let mut families = [
        Family::new(
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
        ),
        Family::new(
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
        ),
        Family::new(
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set in bytes.",
        ),
        Family::new("container_memory_rss", "gauge", "Size of RSS in bytes."),
        Family::new(
            "container_fs_usage_bytes",
            "gauge",
            "Number of bytes that are consumed by the container on this filesystem.",
        ),
        Family::new(
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds.",
        ),
        Family::new(
            "container_network_receive_bytes_total",
            "counter",
            "Cumulative count of bytes received",
        ),
        Family::new(
            "container_network_transmit_bytes_total",
            "counter",
            "Cumulative count of bytes transmitted",
        ),
        Family::new(
            "container_network_receive_errors_total",
            "counter",
            "Cumulative count of errors encountered while receiving",
        ),
        Family::new(
            "container_network_transmit_errors_total",
            "counter",
            "Cumulative count of errors encountered while transmitting",
        ),
        Family::new("machine_cpu_cores", "gauge", "Number of logical CPU cores."),
        Family::new(
            "machine_memory_bytes",
            "gauge",
            "Amount of memory installed on the machine.",
        ),
    ];
    let [
        cpu,
        usage,
        working,
        rss,
        disk,
        started,
        received,
        sent,
        receive_errors,
        send_errors,
        cores,
        memory,
    ] = &mut families;
    let parallelism = std::thread::available_parallelism().map(|n| n.get() as f64);
    cores.add(&[], parallelism.ok());
    let total = number(summary, "/node/memory/availableBytes").zip(number(summary, "/node/memory/workingSetBytes"));
    memory.add(&[], total.map(|(available, used)| available + used));
    let root = [
        ("container", ""),
        ("cpu", "total"),
        ("id", "/"),
        ("namespace", ""),
        ("pod", ""),
    ];
    cpu.add(&root, seconds(summary, "/node/cpu/usageCoreNanoSeconds"));
    working.add(
        &[("container", ""), ("id", "/"), ("namespace", ""), ("pod", "")],
        number(summary, "/node/memory/workingSetBytes"),
    );
    for pod in list(summary, "/pods") {
        let (namespace, name) = (text(pod, "/podRef/namespace"), text(pod, "/podRef/name"));
        let id = format!("/kubepods/pod{}", text(pod, "/podRef/uid"));
        let interface = text(pod, "/network/name");
        let of_network = [
            ("id", id.as_str()),
            ("interface", interface),
            ("namespace", namespace),
            ("pod", name),
        ];
        received.add(&of_network, number(pod, "/network/rxBytes"));
        sent.add(&of_network, number(pod, "/network/txBytes"));
        receive_errors.add(&of_network, number(pod, "/network/rxErrors"));
        send_errors.add(&of_network, number(pod, "/network/txErrors"));
        let whole = (pod, "", id.clone());
        let containers = list(pod, "/containers").iter().map(|container| {
            let name = text(container, "/name");
            (container, name, format!("{id}/{name}"))
        });
        for (figures, container, id) in std::iter::once(whole).chain(containers) {
            let labels = [
                ("container", container),
                ("id", id.as_str()),
                ("namespace", namespace),
                ("pod", name),
            ];
            let [first, rest @ ..] = labels;
            let [id, namespace, pod] = rest;
            cpu.add(
                &[first, ("cpu", "total"), id, namespace, pod],
                seconds(figures, "/cpu/usageCoreNanoSeconds"),
            );
            usage.add(&labels, number(figures, "/memory/usageBytes"));
            working.add(&labels, number(figures, "/memory/workingSetBytes"));
            rss.add(&labels, number(figures, "/memory/rssBytes"));
            disk.add(&labels, number(figures, "/rootfs/usedBytes"));
            started.add(&labels, start(figures));
        }
    }
    families.iter().map(Family::text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn summary() -> Value {
        json!({"node": {"cpu": {"usageCoreNanoSeconds": 2_500_000_000u64}, "memory": {"workingSetBytes": 10, "availableBytes": 20}},
            "pods": [{"podRef": {"name": "p", "namespace": "n", "uid": "u"}, "cpu": {"usageCoreNanoSeconds": 1_000_000_000},
                "memory": {"workingSetBytes": 5}, "network": {"name": "eth0", "rxBytes": 7, "txBytes": 8, "rxErrors": 0, "txErrors": 0},
                "containers": [{"name": "c", "startTime": "1970-01-01T00:00:02Z", "cpu": {"usageCoreNanoSeconds": 500_000_000}, "memory": {"workingSetBytes": 4}}]}]})
    }

    #[test]
    fn resources_have_upstreams_names() {
        let text = resource(&summary());
        for line in [
            "node_cpu_usage_seconds_total 2.5",
            "# TYPE node_cpu_usage_seconds_total counter",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 5",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 0.5",
            "container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 2",
            "resource_scrape_error 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn dashboards_find_their_containers() {
        let text = cadvisor(&summary());
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",cpu=\"total\",id=\"/kubepods/podu/c\",namespace=\"n\",pod=\"p\"} 0.5",
            "container_network_receive_bytes_total{id=\"/kubepods/podu\",interface=\"eth0\",namespace=\"n\",pod=\"p\"} 7",
            "machine_memory_bytes 30",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(
            !text.contains("container_memory_rss"),
            "a family without samples is left out"
        );
    }
}

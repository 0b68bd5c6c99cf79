//! The Summary API (stats/v1alpha1): what node, pods and containers use, from the runtime and from cgroups.

use crate::node::facts::{Disk, meminfo_bytes};
use crate::pods::Context;
use crate::runtime::RuntimeError;
use crate::runtime::cgroups::Version;
use crate::runtime::labels;
use jiff::Timestamp;
use proto::cri;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// The node's summary.
pub async fn summary(context: &Context, only_cpu_and_memory: bool) -> Result<Value, RuntimeError> {
    let containers = context.runtime.container_stats().await?;
    // Not every runtime serves figures of sandboxes.
    let sandboxes = context.runtime.sandbox_stats().await.unwrap_or_default();
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    for stats in &containers {
        let Some(attributes) = stats.attributes.as_ref() else {
            continue;
        };
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let uid = label(labels::POD_UID);
        let pod = pods.entry(uid.clone()).or_insert_with(|| {
            json!({"podRef": {"name": label(labels::POD_NAME), "namespace": label(labels::POD_NAMESPACE), "uid": uid},
                "startTime": Timestamp::now().to_string(), "containers": []})
        });
        if let Some(list) = pod.get_mut("containers").and_then(Value::as_array_mut) {
            list.push(container(stats, &label(labels::CONTAINER_NAME), only_cpu_and_memory));
        }
    }
    for pod in context.admitted.lock().values() {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let Some(entry) = pods.get_mut(uid) else { continue };
        if let Some(started) = pod.status.as_ref().and_then(|status| status.start_time.as_ref()) {
            entry["startTime"] = json!(started.0.to_string());
        }
        let (cpu, memory) = cgroup(context, &context.cgroups.pod_path(pod));
        entry["cpu"] = cpu;
        entry["memory"] = memory;
    }
    if !only_cpu_and_memory {
        add_networks(&mut pods, &sandboxes);
    }
    Ok(json!({"node": node(context, only_cpu_and_memory), "pods": pods.into_values().collect::<Vec<_>>()}))
}

fn container(stats: &cri::ContainerStats, name: &str, only_cpu_and_memory: bool) -> Value {
    let mut out = Map::new();
    out.insert("name".into(), json!(name));
    // CRI's figures do not say when the container began; the first reading is what upstream shows, too, then.
    let first = stats.cpu.as_ref().map_or(0, |cpu| cpu.timestamp);
    out.insert("startTime".into(), json!(time(first)));
    if let Some(cpu) = &stats.cpu {
        let total = cpu.usage_core_nano_seconds.as_ref().map_or(0, |value| value.value);
        out.insert(
            "cpu".into(),
            cpu_value(
                cpu.timestamp,
                total,
                cpu.usage_nano_cores.as_ref().map(|value| value.value),
            ),
        );
    }
    if let Some(memory) = &stats.memory {
        let working_set = memory.working_set_bytes.as_ref().map_or(0, |value| value.value);
        out.insert(
            "memory".into(),
            json!({"time": time(memory.timestamp), "workingSetBytes": working_set,
            "usageBytes": memory.usage_bytes.as_ref().map(|value| value.value),
            "rssBytes": memory.rss_bytes.as_ref().map(|value| value.value)}),
        );
    }
    if let Some(layer) = stats.writable_layer.as_ref().filter(|_| !only_cpu_and_memory) {
        out.insert(
            "rootfs".into(),
            json!({"time": time(layer.timestamp),
            "usedBytes": layer.used_bytes.as_ref().map(|value| value.value),
            "inodesUsed": layer.inodes_used.as_ref().map(|value| value.value)}),
        );
    }
    Value::Object(out)
}

fn cpu_value(timestamp: i64, total: u64, rate: Option<u64>) -> Value {
    let mut value = json!({"time": time(timestamp), "usageCoreNanoSeconds": total});
    if let Some(rate) = rate {
        value["usageNanoCores"] = json!(rate);
    }
    value
}

fn time(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds))
        .unwrap_or_default()
        .to_string()
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// CPU and memory of a cgroup, `null` for what cannot be read.
fn cgroup(context: &Context, path: &Path) -> (Value, Value) {
    let cgroups = &context.cgroups;
    let read = |controller: &str, file: &str| -> Option<String> {
        std::fs::read_to_string(cgroups.folder(controller, path)?.join(file)).ok()
    };
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse::<u64>().ok());
    let field = |text: &Option<String>, key: &str| -> Option<u64> {
        text.as_ref()?
            .lines()
            .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
    };
    let (cpu, usage, stat, inactive) = match cgroups.version() {
        Version::V1 => (
            number(read("cpuacct", "cpuacct.usage")),
            number(read("memory", "memory.usage_in_bytes")),
            read("memory", "memory.stat"),
            "total_inactive_file ",
        ),
        Version::V2 => (
            field(&read("", "cpu.stat"), "usage_usec ").map(|micros| micros * 1000),
            number(read("", "memory.current")),
            read("", "memory.stat"),
            "inactive_file ",
        ),
    };
    let cpu = cpu.map_or(Value::Null, |total| cpu_value(now(), total, None));
    let memory = usage.map_or(Value::Null, |usage| {
        let cached = field(&stat, inactive).unwrap_or(0);
        json!({"time": time(now()), "usageBytes": usage, "workingSetBytes": usage.saturating_sub(cached)})
    });
    (cpu, memory)
}

fn node(context: &Context, only_cpu_and_memory: bool) -> Value {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0);
    let available = meminfo_bytes(&meminfo, "MemAvailable").unwrap_or(0);
    let (pods_cpu, pods_memory) = cgroup(context, &context.cgroups.kubepods());
    let mut node = json!({
        "nodeName": context.node.name,
        "startTime": boot_time(),
        "cpu": cpu_value(now(), machine_cpu_nanoseconds(), None),
        "memory": {"time": time(now()), "availableBytes": available, "workingSetBytes": total.saturating_sub(available)},
        "systemContainers": [{"name": "pods", "startTime": boot_time(), "cpu": pods_cpu, "memory": pods_memory}],
    });
    if !only_cpu_and_memory && let Ok(disk) = Disk::read(&context.node.root) {
        node["fs"] = json!({"time": time(now()), "availableBytes": disk.available, "capacityBytes": disk.total,
                "usedBytes": disk.total.saturating_sub(disk.available), "inodes": disk.inodes, "inodesFree": disk.inodes_free});
    }
    node
}

/// Time that all processors were not idle.
fn machine_cpu_nanoseconds() -> u64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let Some(line) = stat.lines().next() else { return 0 };
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    // Fields 4 and 5 are idle and waiting for disks; guest time is counted in user time already.
    let busy: u64 = ticks
        .iter()
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4))
        .map(|(_, t)| t)
        .sum();
    // USER_HZ is 100 on every Linux that matters to user space.
    busy * 10_000_000
}

fn boot_time() -> String {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<i64>().ok())
        .unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

fn add_networks(pods: &mut BTreeMap<String, Value>, sandboxes: &[cri::PodSandboxStats]) {
    for stats in sandboxes {
        let uid = stats
            .attributes
            .as_ref()
            .and_then(|attributes| attributes.labels.get(labels::POD_UID));
        let network = stats.linux.as_ref().and_then(|linux| linux.network.as_ref());
        let (Some(pod), Some(network)) = (uid.and_then(|uid| pods.get_mut(uid)), network) else {
            continue;
        };
        let Some(interface) = &network.default_interface else {
            continue;
        };
        let number = |value: &Option<cri::UInt64Value>| value.as_ref().map_or(0, |value| value.value);
        pod["network"] = json!({"time": time(network.timestamp), "name": interface.name,
            "rxBytes": number(&interface.rx_bytes), "rxErrors": number(&interface.rx_errors),
            "txBytes": number(&interface.tx_bytes), "txErrors": number(&interface.tx_errors)});
    }
}

//! The Prometheus registry of a process, with the `process_*` metrics that client libraries agree on.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Encoder, Gauge, IntGauge, Opts, Registry, TextEncoder};

/// The content type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A registry with `process_*` and `kubernetes_build_info`.
pub fn registry() -> Registry {
    let registry = Registry::new();
    let build = Opts::new(
        "kubernetes_build_info",
        "A metric with a constant '1' value labeled by the version of this binary.",
    )
    .const_label("git_version", concat!("v1.35.0+keelson-", env!("CARGO_PKG_VERSION")))
    .const_label("major", "1")
    .const_label("minor", "35")
    .const_label("platform", "linux/amd64");
    if let Ok(gauge) = IntGauge::with_opts(build) {
        gauge.set(1);
        register(&registry, gauge);
    }
    if let Ok(process) = Process::new() {
        register(&registry, process);
    }
    registry
}

/// Registers a collector; a duplicate name is a programming error that the log tells and that costs only that metric.
pub fn register<C: Collector + 'static>(registry: &Registry, collector: C) {
    if let Err(error) = registry.register(Box::new(collector)) {
        tracing::error!(%error, "metric not registered");
    }
}

/// The text exposition of all metrics.
pub fn render(registry: &Registry) -> Vec<u8> {
    let mut text = Vec::with_capacity(16 << 10);
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
        tracing::error!(%error, "metrics could not be encoded");
    }
    text
}

/// `process_*`, read from /proc when asked.
struct Process {
    cpu: Counter,
    resident: IntGauge,
    virtual_: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    start: Gauge,
    ticks_per_second: f64,
    page_size: i64,
}

impl Process {
    fn new() -> prometheus::Result<Self> {
        // SAFETY: sysconf takes an integer and touches no memory of ours.
        let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
        Ok(Self {
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
            )?,
            resident: IntGauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            virtual_: IntGauge::new("process_virtual_memory_bytes", "Virtual memory size in bytes.")?,
            open_fds: IntGauge::new("process_open_fds", "Number of open file descriptors.")?,
            max_fds: IntGauge::new("process_max_fds", "Maximum number of open file descriptors.")?,
            threads: IntGauge::new("process_threads", "Number of OS threads in the process.")?,
            start: Gauge::new(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            )?,
            ticks_per_second: ticks as f64,
            page_size: page,
        })
    }

    /// Takes the figures of proc(5); a figure that cannot be read keeps its last value.
    fn refresh(&self) {
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
            // The command name in parentheses may hold spaces; fields count from behind it, state being field 3.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
            let field = |number: usize| {
                fields
                    .get(number - 3)
                    .and_then(|text| text.parse::<i64>().ok())
                    .unwrap_or(0)
            };
            let cpu = (field(14) + field(15)) as f64 / self.ticks_per_second;
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
            self.threads.set(field(20));
            self.virtual_.set(field(23));
            self.resident.set(field(24) * self.page_size);
            self.start.set(boot_time() + field(22) as f64 / self.ticks_per_second);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.open_fds.set(entries.count() as i64);
        }
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: the pointer is to a live rlimit of ours.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
            self.max_fds.set(i64::try_from(limit.rlim_cur).unwrap_or(i64::MAX));
        }
    }

    fn parts(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu,
            &self.resident,
            &self.virtual_,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
            &self.start,
        ]
    }
}

fn boot_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0.0)
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.refresh();
        self.parts().into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_metrics_are_of_this_process() {
        let text = String::from_utf8(render(&registry())).unwrap();
        let value = |name: &str| -> f64 {
            let line = text
                .lines()
                .find(|line| line.starts_with(&format!("{name} ")))
                .expect(name);
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_start_time_seconds") > 1.6e9);
        assert!(text.contains("kubernetes_build_info{"));
    }
}

//! What the machine is and has: capacity, allocatable, system information. Read from /proc and the file systems.

use crate::config::KubeletConfiguration;
use crate::runtime::resources::Amounts;
use api::core::v1::NodeSystemInfo;
use api::meta::Quantity;
use std::collections::BTreeMap;
use std::path::Path;

/// The machine's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of the file system of the kubelet's folder.
    pub storage: u64,
}

impl Machine {
    /// Reads them. `root` is the kubelet's folder.
    pub fn read(root: &Path) -> std::io::Result<Self> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let cpus = std::thread::available_parallelism()?.get() as u64;
        Ok(Self {
            cpus,
            memory: meminfo_bytes(&meminfo, "MemTotal").unwrap_or(0),
            storage: Disk::read(root)?.total,
        })
    }

    /// Capacity as the node's status shows it.
    pub fn capacity(&self, max_pods: u32) -> Amounts {
        amounts([
            ("cpu", self.cpus.to_string()),
            ("memory", format!("{}Ki", self.memory / 1024)),
            ("ephemeral-storage", format!("{}Ki", self.storage / 1024)),
            ("hugepages-1Gi", "0".into()),
            ("hugepages-2Mi", "0".into()),
            ("pods", max_pods.to_string()),
        ])
    }

    /// What is left for pods after reservations and hard eviction floors.
    pub fn allocatable(&self, config: &KubeletConfiguration) -> Amounts {
        let reserved = |resource: &str| {
            let of = |map: &BTreeMap<String, String>| {
                let quantity = map
                    .get(resource)
                    .and_then(|text| api::quantity::Quantity::parse(text).ok());
                quantity.map_or(0, |quantity| quantity.as_milli())
            };
            of(&config.system_reserved) + of(&config.kube_reserved)
        };
        let floor = |signal: &str, total: u64| {
            config
                .eviction_hard
                .get(signal)
                .map_or(0, |text| threshold(text, total))
        };
        let cpu_milli = (self.cpus as i64) * 1000 - reserved("cpu");
        let cpu = if cpu_milli % 1000 == 0 {
            (cpu_milli / 1000).to_string()
        } else {
            format!("{cpu_milli}m")
        };
        let left = |total: u64, reserved_milli: i64, floor: u64| {
            total
                .saturating_sub(u64::try_from(reserved_milli / 1000).unwrap_or(0))
                .saturating_sub(floor)
        };
        let memory = left(self.memory, reserved("memory"), floor("memory.available", self.memory));
        let storage = left(
            self.storage,
            reserved("ephemeral-storage"),
            floor("nodefs.available", self.storage),
        );
        amounts([
            ("cpu", cpu),
            ("memory", format!("{}Ki", memory / 1024)),
            ("ephemeral-storage", storage.to_string()),
            ("hugepages-1Gi", "0".into()),
            ("hugepages-2Mi", "0".into()),
            ("pods", config.max_pods.to_string()),
        ])
    }
}

fn amounts<const N: usize>(list: [(&str, String); N]) -> Amounts {
    list.into_iter()
        .map(|(name, text)| (name.to_owned(), Quantity(text)))
        .collect()
}

/// A floor in bytes: a quantity, or a percentage of `total`.
pub fn threshold(text: &str, total: u64) -> u64 {
    match text.strip_suffix('%') {
        Some(percent) => percent
            .parse::<f64>()
            .map_or(0, |percent| (total as f64 * percent / 100.0) as u64),
        None => {
            let quantity = api::quantity::Quantity::parse(text).ok();
            quantity
                .and_then(|quantity| u64::try_from(quantity.as_i64()).ok())
                .unwrap_or(0)
        }
    }
}

/// One figure of /proc/meminfo in bytes.
pub fn meminfo_bytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.split(':').next() == Some(key))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

/// A file system's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub total: u64,
    /// Bytes free for others than root.
    pub available: u64,
    /// Inodes.
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
}

impl Disk {
    /// The file system that holds `path`.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let text = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
        let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
        // SAFETY: the path is a valid C string and the buffer is as large as the call writes.
        let outcome = unsafe { libc::statvfs(text.as_ptr(), stat.as_mut_ptr()) };
        if outcome != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so it filled the buffer.
        let stat = unsafe { stat.assume_init() };
        Ok(Self {
            total: stat.f_blocks * stat.f_frsize,
            available: stat.f_bavail * stat.f_frsize,
            inodes: stat.f_files,
            inodes_free: stat.f_ffree,
        })
    }
}

/// Names and versions for `status.nodeInfo`.
pub fn system_info(runtime_name: &str, runtime_version: &str) -> NodeSystemInfo {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let uname = nix::sys::utsname::uname().ok();
    let release = uname
        .as_ref()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let first = |paths: [&str; 3]| {
        paths
            .into_iter()
            .map(read)
            .find(|text| !text.is_empty())
            .unwrap_or_default()
    };
    let machine_id = first([
        "/etc/machine-id",
        "/var/lib/dbus/machine-id",
        "/proc/sys/kernel/random/boot_id",
    ]);
    NodeSystemInfo {
        architecture: architecture().into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("{runtime_name}://{runtime_version}"),
        kernel_version: release,
        kube_proxy_version: String::new(),
        kubelet_version: version(),
        system_uuid: first([
            "/sys/class/dmi/id/product_uuid",
            "/etc/machine-id",
            "/proc/sys/kernel/random/boot_id",
        ]),
        machine_id,
        operating_system: "linux".into(),
        os_image: os_image(&read("/etc/os-release")),
        ..Default::default()
    }
}

/// Go's name of this machine's architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The API level that this kubelet is of, and the project's own version.
pub fn version() -> String {
    format!("v1.35.0+keelson-{}", env!("CARGO_PKG_VERSION"))
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Unknown".to_owned(), |text| text.trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocatable_is_capacity_less_what_is_kept_back() {
        let machine = Machine {
            cpus: 4,
            memory: 8 << 30,
            storage: 1000,
        };
        let config = KubeletConfiguration {
            system_reserved: [("cpu".into(), "500m".into()), ("memory".into(), "1Gi".into())].into(),
            ..Default::default()
        };
        let allocatable = machine.allocatable(&config);
        let text = |name: &str| {
            allocatable
                .get(name)
                .map(|quantity| quantity.0.clone())
                .unwrap_or_default()
        };
        assert_eq!(text("cpu"), "3500m");
        assert_eq!(text("memory"), format!("{}Ki", (7 << 20) - 100 * 1024));
        assert_eq!(text("ephemeral-storage"), "900");
        assert_eq!(machine.capacity(110).get("cpu").map(|q| q.0.as_str()), Some("4"));
    }

    #[test]
    fn figures_are_read() {
        assert_eq!(
            meminfo_bytes("MemTotal:  100 kB\nMemFree: 7 kB\n", "MemFree"),
            Some(7168)
        );
        assert_eq!(threshold("10%", 1000), 100);
        assert_eq!(threshold("1Ki", 1000), 1024);
        assert_eq!(
            os_image("ID=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
        assert!(Disk::read(Path::new("/")).is_ok_and(|disk| disk.total > 0));
    }
}

//! Security context of sandboxes and containers in CRI's terms.

use api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};
use proto::cri;
use proto::cri::security_profile::ProfileType;

/// Paths that `procMount: Default` hides, as every runtime does by default.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Why a security context cannot be met.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    /// `runAsNonRoot` with an image that says nothing or root.
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageRunsAsRoot {
        /// `name_namespace(uid)`.
        pod: String,
        /// The container.
        container: String,
    },
    /// `runAsNonRoot` with `runAsUser: 0`.
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    UserIsRoot {
        /// `name_namespace(uid)`.
        pod: String,
        /// The container.
        container: String,
    },
    /// `runAsNonRoot` with an image whose user is a name.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    UserIsName {
        /// The image's user.
        user: String,
        /// `name_namespace(uid)`.
        pod: String,
        /// The container.
        container: String,
    },
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// Which namespaces the pod shares with the host or among its containers.
pub fn namespaces(pod: &Pod) -> cri::NamespaceOption {
    let spec = pod.spec.as_ref();
    let host = |flag: Option<bool>, otherwise: cri::NamespaceMode| {
        if flag == Some(true) {
            cri::NamespaceMode::Node as i32
        } else {
            otherwise as i32
        }
    };
    let share_pid = spec.and_then(|spec| spec.share_process_namespace) == Some(true);
    let pid = if share_pid {
        cri::NamespaceMode::Pod
    } else {
        cri::NamespaceMode::Container
    };
    cri::NamespaceOption {
        network: host(spec.and_then(|spec| spec.host_network), cri::NamespaceMode::Pod),
        pid: host(spec.and_then(|spec| spec.host_pid), pid),
        ipc: host(spec.and_then(|spec| spec.host_ipc), cri::NamespaceMode::Pod),
        target_id: String::new(),
        userns_options: None,
    }
}

/// The sandbox's security context.
pub fn sandbox(pod: &Pod) -> cri::LinuxSandboxSecurityContext {
    let context = pod_context(pod);
    let privileged = super::resources::all_containers(pod).any(is_privileged);
    cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: context
            .and_then(|context| context.se_linux_options.as_ref())
            .map(selinux),
        run_as_user: context
            .and_then(|context| context.run_as_user)
            .map(|value| cri::Int64Value { value }),
        run_as_group: context
            .and_then(|context| context.run_as_group)
            .map(|value| cri::Int64Value { value }),
        supplemental_groups: supplemental_groups(pod),
        privileged,
        seccomp: Some(profile(ProfileType::RuntimeDefault, "")),
        ..Default::default()
    }
}

/// Whether a container asks for every right.
pub fn is_privileged(container: &Container) -> bool {
    container
        .security_context
        .as_ref()
        .and_then(|context| context.privileged)
        == Some(true)
}

/// The numeric user that a container runs as, if the pod says.
pub fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    own.or_else(|| pod_context(pod).and_then(|context| context.run_as_user))
}

/// A container's security context. `image` answers which user the image names.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &cri::Image,
) -> Result<cri::LinuxContainerSecurityContext, SecurityError> {
    let own = container.security_context.as_ref();
    let of_pod = pod_context(pod);
    check_non_root(pod, container, image)?;
    let privileged = is_privileged(container);
    let user = run_as_user(pod, container);
    let group = own
        .and_then(|c| c.run_as_group)
        .or_else(|| of_pod.and_then(|c| c.run_as_group));
    let mut context = cri::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(pod)),
        privileged,
        capabilities: own
            .and_then(|context| context.capabilities.as_ref())
            .map(|capabilities| cri::Capability {
                add_capabilities: capabilities.add.clone().unwrap_or_default(),
                drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
                ..Default::default()
            }),
        readonly_rootfs: own.and_then(|context| context.read_only_root_filesystem) == Some(true),
        supplemental_groups: supplemental_groups(pod),
        no_new_privs: own.is_some_and(no_new_privs),
        seccomp: Some(seccomp(pod, own, privileged)),
        apparmor: apparmor(pod, own),
        selinux_options: own
            .and_then(|context| context.se_linux_options.as_ref())
            .or_else(|| of_pod.and_then(|context| context.se_linux_options.as_ref()))
            .map(selinux),
        run_as_group: group.map(|value| cri::Int64Value { value }),
        ..Default::default()
    };
    match user {
        Some(value) => context.run_as_user = Some(cri::Int64Value { value }),
        None => match &image.uid {
            Some(uid) => context.run_as_user = Some(*uid),
            None => context.run_as_username = image.username.clone(),
        },
    }
    let unmasked = own.and_then(|context| context.proc_mount.as_deref()) == Some("Unmasked");
    if !privileged && !unmasked {
        context.masked_paths = MASKED.iter().map(|path| (*path).to_owned()).collect();
        context.readonly_paths = READ_ONLY.iter().map(|path| (*path).to_owned()).collect();
    }
    Ok(context)
}

fn check_non_root(pod: &Pod, container: &Container, image: &cri::Image) -> Result<(), SecurityError> {
    let own = container
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_non_root);
    let demanded = own.or_else(|| pod_context(pod).and_then(|context| context.run_as_non_root));
    if demanded != Some(true) {
        return Ok(());
    }
    let (pod_text, name) = (super::sandbox::pod_text(pod), container.name.clone());
    match (run_as_user(pod, container), &image.uid) {
        (Some(0), _) => Err(SecurityError::UserIsRoot {
            pod: pod_text,
            container: name,
        }),
        (Some(_), _) => Ok(()),
        (None, Some(uid)) if uid.value == 0 => Err(SecurityError::ImageRunsAsRoot {
            pod: pod_text,
            container: name,
        }),
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => Err(SecurityError::UserIsName {
            user: image.username.clone(),
            pod: pod_text,
            container: name,
        }),
        (None, None) => Err(SecurityError::ImageRunsAsRoot {
            pod: pod_text,
            container: name,
        }),
    }
}

/// Escalation is allowed unless it is denied; a privileged container cannot deny it.
fn no_new_privs(context: &SecurityContext) -> bool {
    context.allow_privilege_escalation == Some(false)
}

fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let Some(context) = pod_context(pod) else {
        return Vec::new();
    };
    let groups = context.supplemental_groups.iter().flatten().copied();
    groups.chain(context.fs_group).collect()
}

fn profile(kind: ProfileType, localhost: &str) -> cri::SecurityProfile {
    cri::SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: localhost.to_owned(),
    }
}

/// Where `Localhost` seccomp profiles live under the root folder.
pub const SECCOMP_FOLDER: &str = "seccomp";

fn seccomp(pod: &Pod, own: Option<&SecurityContext>, privileged: bool) -> cri::SecurityProfile {
    let chosen = own
        .and_then(|context| context.seccomp_profile.as_ref())
        .or_else(|| pod_context(pod).and_then(|context| context.seccomp_profile.as_ref()));
    match chosen.map(|chosen| (chosen.type_.as_str(), chosen.localhost_profile.as_deref())) {
        Some(("RuntimeDefault", _)) if !privileged => profile(ProfileType::RuntimeDefault, ""),
        Some(("Localhost", Some(file))) if !privileged => profile(ProfileType::Localhost, file),
        _ => profile(ProfileType::Unconfined, ""),
    }
}

fn apparmor(pod: &Pod, own: Option<&SecurityContext>) -> Option<cri::SecurityProfile> {
    let chosen = own
        .and_then(|context| context.app_armor_profile.as_ref())
        .or_else(|| pod_context(pod).and_then(|context| context.app_armor_profile.as_ref()))?;
    Some(match (chosen.type_.as_str(), chosen.localhost_profile.as_deref()) {
        ("Localhost", Some(name)) => profile(ProfileType::Localhost, name),
        ("Unconfined", _) => profile(ProfileType::Unconfined, ""),
        _ => profile(ProfileType::RuntimeDefault, ""),
    })
}

fn selinux(options: &api::core::v1::SELinuxOptions) -> cri::SeLinuxOption {
    cri::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

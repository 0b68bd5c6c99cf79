//! The checks of the Pod Security Standards: which pods the baseline and restricted levels refuse, in each of their versions.
//! Source: `k8s.io/pod-security-admission/policy`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::policy::{Level, LevelVersion};
use crate::kinds::field::{list, text};

/// What a check found: a short reason and what exactly.
pub(super) struct Violation {
    pub reason: String,
    pub detail: String,
}

type Found = Option<Violation>;

/// A pod or a pod template.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
    /// Minor version of the standard.
    minor: u32,
}

struct Check {
    level: Level,
    /// First minor version it belongs to.
    since: u32,
    /// First minor version in which another check of the restricted level says the same and more.
    overridden: u32,
    run: fn(Pod<'_>) -> Found,
}

const NEVER: u32 = u32::MAX;

const fn baseline(since: u32, overridden: u32, run: fn(Pod<'_>) -> Found) -> Check {
    Check {
        level: Level::Baseline,
        since,
        overridden,
        run,
    }
}

const fn restricted(since: u32, run: fn(Pod<'_>) -> Found) -> Check {
    Check {
        level: Level::Restricted,
        since,
        overridden: NEVER,
        run,
    }
}

/// In the order in which upstream reports: by name, baseline first.
static CHECKS: &[Check] = &[
    baseline(0, NEVER, app_armor),
    baseline(0, 22, capabilities_baseline),
    baseline(0, NEVER, host_namespaces),
    baseline(0, 0, host_path),
    baseline(0, NEVER, host_ports),
    baseline(34, NEVER, host_probes),
    baseline(0, NEVER, privileged),
    baseline(0, 35, proc_mount_baseline),
    baseline(0, NEVER, se_linux),
    baseline(0, 19, seccomp_baseline),
    baseline(0, NEVER, sysctls),
    baseline(0, NEVER, host_process),
    restricted(8, privilege_escalation),
    restricted(22, capabilities_restricted),
    restricted(35, proc_mount),
    restricted(0, volumes),
    restricted(0, non_root),
    restricted(23, user),
    restricted(19, seccomp_restricted),
];

/// What the level refuses about a pod; nothing if it may run.
pub(super) fn evaluate(standard: LevelVersion, metadata: &Value, spec: &Value) -> Vec<Violation> {
    let minor = standard.version.unwrap_or(NEVER - 1);
    let applies = |check: &&Check| match (standard.level, check.level) {
        (Level::Privileged, _) | (Level::Baseline, Level::Restricted) => false,
        (Level::Restricted, Level::Baseline) => check.since <= minor && minor < check.overridden,
        _ => check.since <= minor,
    };
    let pod = Pod { metadata, spec, minor };
    CHECKS
        .iter()
        .filter(applies)
        .filter_map(|check| (check.run)(pod))
        .collect()
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn quoted<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("{:?}", name.as_ref())).collect();
    names.join(", ")
}

fn found(reason: &str, detail: String) -> Found {
    Some(Violation {
        reason: reason.to_owned(),
        detail,
    })
}

/// `container "a"`, `containers "a", "b"`.
fn containers_named(names: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", names.len()), quoted(names))
}

impl<'a> Pod<'a> {
    fn containers(self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["/initContainers", "/containers", "/ephemeralContainers"]
            .into_iter()
            .flat_map(move |path| list(spec, path))
    }

    /// Names of the containers that fail.
    fn failing(self, fails: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers()
            .filter(|c| fails(c))
            .map(|c| text(c, "/name"))
            .collect()
    }

    fn annotations(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let map = self.metadata.get("annotations").and_then(Value::as_object);
        map.into_iter()
            .flatten()
            .map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()))
    }

    /// Since 1.25 a Windows pod is not asked for what only Linux has.
    fn is_windows(self) -> bool {
        self.minor >= 25 && text(self.spec, "/os/name") == "windows"
    }

    /// Root in a user namespace is nobody outside of it.
    fn in_user_namespace(self) -> bool {
        self.minor >= 35 && self.spec.get("hostUsers") == Some(&Value::Bool(false))
    }
}

/// The pod and the containers whose security context fails, as `pod and container "a"`; empty if none does.
fn setters(pod: Pod<'_>, fails: &mut dyn FnMut(&Value) -> bool) -> Vec<String> {
    let mut out = Vec::new();
    if pod.spec.get("securityContext").is_some_and(&mut *fails) {
        out.push("pod".to_owned());
    }
    let mut bad = Vec::new();
    for container in pod.containers() {
        if container.get("securityContext").is_some_and(&mut *fails) {
            bad.push(text(container, "/name"));
        }
    }
    if !bad.is_empty() {
        out.push(containers_named(&bad));
    }
    out
}

fn app_armor(pod: Pod<'_>) -> Found {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let mut values = BTreeSet::new();
    let mut bad = setters(pod, &mut |context| {
        let Some(profile) = context.get("appArmorProfile").filter(|p| !p.is_null()) else {
            return false;
        };
        let kind = text(profile, "/type");
        let fails = !matches!(kind, "RuntimeDefault" | "Localhost");
        if fails {
            values.insert(kind.to_owned());
        }
        fails
    });
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations: BTreeSet<String> = pod
        .annotations()
        .filter(|(k, v)| k.starts_with(PREFIX) && !allowed(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    if !annotations.is_empty() {
        bad.push(plural("annotation", "annotations", annotations.len()).to_owned());
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    if bad.is_empty() {
        return None;
    }
    found(
        plural(
            "forbidden AppArmor profile",
            "forbidden AppArmor profiles",
            values.len(),
        ),
        format!(
            "{} must not set AppArmor profile type to {}",
            bad.join(" and "),
            quoted(values)
        ),
    )
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    list(container, "/securityContext/capabilities/add")
        .iter()
        .filter_map(Value::as_str)
}

fn capabilities_baseline(pod: Pod<'_>) -> Found {
    const ALLOWED: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    let bad = pod.failing(|c| added(c).any(|name| !ALLOWED.contains(&name)));
    let names: BTreeSet<&str> = pod
        .containers()
        .flat_map(added)
        .filter(|name| !ALLOWED.contains(name))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not include {} in securityContext.capabilities.add",
        containers_named(&bad),
        quoted(names)
    );
    found("non-default capabilities", detail)
}

fn capabilities_restricted(pod: Pod<'_>) -> Found {
    if pod.is_windows() {
        return None;
    }
    let drops_all = |c: &Value| {
        list(c, "/securityContext/capabilities/drop")
            .iter()
            .any(|name| name == "ALL")
    };
    let other = |name: &&str| *name != "NET_BIND_SERVICE";
    let (keeping, adding) = (
        pod.failing(|c| !drops_all(c)),
        pod.failing(|c| added(c).any(|name| other(&name))),
    );
    let names: BTreeSet<&str> = pod.containers().flat_map(added).filter(other).collect();
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!(
            "{} must set securityContext.capabilities.drop=[\"ALL\"]",
            containers_named(&keeping)
        ));
    }
    if !adding.is_empty() {
        details.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            containers_named(&adding),
            quoted(names)
        ));
    }
    if details.is_empty() {
        return None;
    }
    found("unrestricted capabilities", details.join("; "))
}

fn host_namespaces(pod: Pod<'_>) -> Found {
    let shared = ["hostNetwork", "hostPID", "hostIPC"]
        .into_iter()
        .filter(|field| pod.spec.get(*field) == Some(&Value::Bool(true)));
    let shared: Vec<&str> = shared.collect();
    if shared.is_empty() {
        return None;
    }
    found(
        "host namespaces",
        shared
            .iter()
            .map(|name| format!("{name}=true"))
            .collect::<Vec<_>>()
            .join(", "),
    )
}

fn host_path(pod: Pod<'_>) -> Found {
    let volumes = list(pod.spec, "/volumes")
        .iter()
        .filter(|v| v.get("hostPath").is_some());
    let names: Vec<&str> = volumes.map(|v| text(v, "/name")).collect();
    if names.is_empty() {
        return None;
    }
    let detail = format!("{} {}", plural("volume", "volumes", names.len()), quoted(&names));
    found("hostPath volumes", detail)
}

fn host_ports(pod: Pod<'_>) -> Found {
    fn ports(container: &Value) -> impl Iterator<Item = i64> {
        let ports = list(container, "/ports").iter();
        ports
            .filter_map(|p| p.get("hostPort").and_then(Value::as_i64))
            .filter(|port| *port != 0)
    }
    let bad = pod.failing(|c| ports(c).next().is_some());
    let numbers: BTreeSet<String> = pod.containers().flat_map(ports).map(|port| port.to_string()).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        containers_named(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", numbers.len()),
        numbers.into_iter().collect::<Vec<_>>().join(", ")
    );
    found("hostPort", detail)
}

fn host_probes(pod: Pod<'_>) -> Found {
    const HANDLERS: [&str; 5] = [
        "/livenessProbe",
        "/readinessProbe",
        "/startupProbe",
        "/lifecycle/postStart",
        "/lifecycle/preStop",
    ];
    fn hosts(container: &Value) -> impl Iterator<Item = &str> {
        let handlers = HANDLERS.into_iter().filter_map(|path| container.pointer(path));
        handlers
            .flat_map(|handler| ["/httpGet/host", "/tcpSocket/host"].map(|path| text(handler, path)))
            .filter(|host| !host.is_empty())
    }
    let mut bad = pod.failing(|c| hosts(c).next().is_some());
    bad.sort_unstable();
    bad.dedup();
    let names: BTreeSet<&str> = pod.containers().flat_map(hosts).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        containers_named(&bad),
        plural("uses", "use", bad.len()),
        plural("probe or lifecycle host", "probe or lifecycle hosts", names.len()),
        quoted(names)
    );
    found("probe or lifecycle host", detail)
}

fn is_true(object: &Value, path: &str) -> bool {
    object.pointer(path) == Some(&Value::Bool(true))
}

fn privileged(pod: Pod<'_>) -> Found {
    let bad = pod.failing(|c| is_true(c, "/securityContext/privileged"));
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.privileged=true",
        containers_named(&bad)
    );
    found("privileged", detail)
}

fn proc_mount_baseline(pod: Pod<'_>) -> Found {
    if pod.in_user_namespace() { None } else { proc_mount(pod) }
}

fn proc_mount(pod: Pod<'_>) -> Found {
    fn kind(container: &Value) -> Option<&str> {
        let kind = text(container, "/securityContext/procMount");
        (!matches!(kind, "" | "Default")).then_some(kind)
    }
    let bad = pod.failing(|c| kind(c).is_some());
    let kinds: BTreeSet<&str> = pod.containers().filter_map(kind).collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.procMount to {}",
        containers_named(&bad),
        quoted(kinds)
    );
    found("procMount", detail)
}

fn se_linux(pod: Pod<'_>) -> Found {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let allowed = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || pod.minor >= 31 && kind == "container_engine_t"
    };
    let bad = setters(pod, &mut |context| {
        let options = &context["seLinuxOptions"];
        let kind = text(options, "/type");
        let [has_user, has_role] = ["/user", "/role"].map(|path| !text(options, path).is_empty());
        if !allowed(kind) {
            types.insert(kind.to_owned());
        }
        user |= has_user;
        role |= has_role;
        !allowed(kind) || has_user || has_role
    });
    if bad.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    let detail = format!(
        "{} set forbidden securityContext.seLinuxOptions: {}",
        bad.join(" and "),
        data.join("; ")
    );
    found("seLinuxOptions", detail)
}

fn valid_seccomp(kind: &str) -> bool {
    matches!(kind, "Localhost" | "RuntimeDefault")
}

/// The pod and containers that ask for another profile than the runtime's or one of the node's.
fn seccomp_explicit(pod: Pod<'_>) -> Found {
    let mut values = BTreeSet::new();
    let bad = setters(pod, &mut |context| {
        let Some(profile) = context.get("seccompProfile").filter(|p| !p.is_null()) else {
            return false;
        };
        let kind = text(profile, "/type");
        if !valid_seccomp(kind) {
            values.insert(kind.to_owned());
        }
        !valid_seccomp(kind)
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.seccompProfile.type to {}",
        bad.join(" and "),
        quoted(values)
    );
    found("seccompProfile", detail)
}

/// Before 1.19 the profile was an annotation.
fn seccomp_annotations(pod: Pod<'_>) -> Found {
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let names: Vec<&str> = pod.containers().map(|c| text(c, "/name")).collect();
    let ours = |key: &str| key == POD || key.strip_prefix(CONTAINER).is_some_and(|name| names.contains(&name));
    let valid = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let bad: BTreeSet<String> = pod
        .annotations()
        .filter(|(k, v)| ours(k) && !valid(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "forbidden {} {}",
        plural("annotation", "annotations", bad.len()),
        bad.into_iter().collect::<Vec<_>>().join(", ")
    );
    found("seccompProfile", detail)
}

fn seccomp_baseline(pod: Pod<'_>) -> Found {
    if pod.minor < 19 {
        seccomp_annotations(pod)
    } else {
        seccomp_explicit(pod)
    }
}

fn seccomp_restricted(pod: Pod<'_>) -> Found {
    if pod.is_windows() {
        return None;
    }
    if let Some(violation) = seccomp_explicit(pod) {
        return Some(violation);
    }
    let pod_has = valid_seccomp(text(pod.spec, "/securityContext/seccompProfile/type"));
    let bad = pod.failing(|c| !pod_has && c.pointer("/securityContext/seccompProfile").is_none_or(Value::is_null));
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
        containers_named(&bad)
    );
    found("seccompProfile", detail)
}

/// Safe sysctls and the minor version since which they are.
const SYSCTLS: [(&str, u32); 12] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
    ("net.ipv4.tcp_rmem", 32),
    ("net.ipv4.tcp_wmem", 32),
];

fn sysctls(pod: Pod<'_>) -> Found {
    let allowed = |name: &str| {
        SYSCTLS
            .iter()
            .any(|(known, since)| *known == name && *since <= pod.minor)
    };
    let names = list(pod.spec, "/securityContext/sysctls")
        .iter()
        .map(|s| text(s, "/name"));
    let bad: Vec<&str> = names.filter(|name| !allowed(name)).collect();
    if bad.is_empty() {
        return None;
    }
    found("forbidden sysctls", bad.join(", "))
}

fn host_process(pod: Pod<'_>) -> Found {
    let bad = setters(pod, &mut |context| is_true(context, "/windowsOptions/hostProcess"));
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must not set securityContext.windowsOptions.hostProcess=true",
        bad.join(" and ")
    );
    found("hostProcess", detail)
}

fn privilege_escalation(pod: Pod<'_>) -> Found {
    let allows = |c: &Value| c.pointer("/securityContext/allowPrivilegeEscalation") != Some(&Value::Bool(false));
    let bad = pod.failing(allows);
    if pod.is_windows() || bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} must set securityContext.allowPrivilegeEscalation=false",
        containers_named(&bad)
    );
    found("allowPrivilegeEscalation != false", detail)
}

fn volumes(pod: Pod<'_>) -> Found {
    const ALLOWED: [&str; 8] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let (mut bad, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in list(pod.spec, "/volumes") {
        let mut sources = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(field, _)| field.as_str());
        let source = sources.find(|field| *field != "name").unwrap_or("unknown");
        if !ALLOWED.contains(&source) {
            bad.push(text(volume, "/name"));
            kinds.insert(source);
        }
    }
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", bad.len()),
        quoted(&bad),
        plural("uses", "use", bad.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(kinds)
    );
    found("restricted volume types", detail)
}

fn non_root(pod: Pod<'_>) -> Found {
    const PATH: &str = "/securityContext/runAsNonRoot";
    if pod.in_user_namespace() {
        return None;
    }
    let bad = setters(pod, &mut |context| {
        context.get("runAsNonRoot") == Some(&Value::Bool(false))
    });
    if !bad.is_empty() {
        let detail = format!("{} must not set securityContext.runAsNonRoot=false", bad.join(" and "));
        return found("runAsNonRoot != true", detail);
    }
    let bad = pod.failing(|c| !is_true(pod.spec, PATH) && !is_true(c, PATH));
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "pod or {} must set securityContext.runAsNonRoot=true",
        containers_named(&bad)
    );
    found("runAsNonRoot != true", detail)
}

fn user(pod: Pod<'_>) -> Found {
    if pod.in_user_namespace() {
        return None;
    }
    let bad = setters(pod, &mut |context| {
        context.get("runAsUser").and_then(Value::as_i64) == Some(0)
    });
    if bad.is_empty() {
        return None;
    }
    found("runAsUser=0", format!("{} must not set runAsUser=0", bad.join(" and ")))
}

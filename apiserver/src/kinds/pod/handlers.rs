//! Validation of probes and lifecycle hooks.

use api::names;

use crate::kinds::field::{Errors, Field, port_number, port_number_or_name};

const PROBE: &[&str] = &["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK: &[&str] = &["exec", "httpGet", "tcpSocket", "sleep"];
/// The signals of a Linux container, without the real-time ones between the first and the last.
const SIGNALS: [&str; 31] = [
    "SIGABRT",
    "SIGALRM",
    "SIGBUS",
    "SIGCHLD",
    "SIGCLD",
    "SIGCONT",
    "SIGFPE",
    "SIGHUP",
    "SIGILL",
    "SIGINT",
    "SIGIO",
    "SIGIOT",
    "SIGKILL",
    "SIGPIPE",
    "SIGPOLL",
    "SIGPROF",
    "SIGPWR",
    "SIGQUIT",
    "SIGSEGV",
    "SIGSTKFLT",
    "SIGSTOP",
    "SIGSYS",
    "SIGTERM",
    "SIGTRAP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGUSR1",
    "SIGUSR2",
    "SIGVTALRM",
];

/// The hooks of a container; missing is fine.
pub fn lifecycle(lifecycle: &Field<'_>, grace: Option<i64>, errors: &mut Errors) {
    for name in ["postStart", "preStop"] {
        let hook = lifecycle.get(name);
        if hook.exists() {
            handler(&hook, HOOK, grace, errors);
        }
    }
    let signal = lifecycle.get("stopSignal");
    let known = |s: &str| SIGNALS.contains(&s) || is_other_signal(s);
    if signal.exists() && !known(signal.str()) {
        signal.not_supported(errors, &SIGNALS);
    }
}

fn is_other_signal(signal: &str) -> bool {
    matches!(signal, "SIGWINCH" | "SIGXCPU" | "SIGXFSZ")
        || signal.starts_with("SIGRTMIN")
        || signal.starts_with("SIGRTMAX")
}

/// All three probes of a container.
pub fn probes(container: &Field<'_>, grace: Option<i64>, errors: &mut Errors) {
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let probe = container.get(name);
        if !probe.exists() {
            continue;
        }
        timing(&probe, grace, errors);
        let (period, success) = (
            probe.get("terminationGracePeriodSeconds"),
            probe.get("successThreshold"),
        );
        if name == "readinessProbe" {
            if period.exists() {
                period.invalid(errors, "must not be set for readinessProbes");
            }
        } else if success.number() != 1 {
            success.invalid_as(errors, success.number(), "must be 1");
        }
    }
}

fn timing(probe: &Field<'_>, grace: Option<i64>, errors: &mut Errors) {
    handler(probe, PROBE, grace, errors);
    for name in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        probe.get(name).non_negative(errors);
    }
    let period = probe.get("terminationGracePeriodSeconds");
    if period.int().is_some_and(|n| n <= 0) {
        period.invalid(errors, "must be greater than 0");
    }
}

fn handler(handler: &Field<'_>, kinds: &[&str], grace: Option<i64>, errors: &mut Errors) {
    let mut found = false;
    for kind in kinds {
        let action = handler.get(kind);
        if !action.exists() {
            continue;
        }
        if found {
            action.forbidden(errors, "may not specify more than 1 handler type");
            continue;
        }
        found = true;
        match *kind {
            "exec" => action.require(errors, &["command"]),
            "httpGet" => http_get(&action, errors),
            "tcpSocket" => port_number_or_name(&action.get("port"), errors),
            "grpc" => port_number(&action.get("port"), errors),
            _ => sleep(&action, grace, errors),
        }
    }
    if !found {
        handler.required(errors, "must specify a handler type");
    }
}

fn http_get(action: &Field<'_>, errors: &mut Errors) {
    action.require(errors, &["path"]);
    port_number_or_name(&action.get("port"), errors);
    action.get("scheme").one_of(errors, &["HTTP", "HTTPS"]);
    let headers = action.get("httpHeaders");
    for header in headers.items() {
        let name = header.get("name");
        for detail in names::http_header(name.str()) {
            headers.invalid_as(errors, name.str(), detail);
        }
    }
}

fn sleep(action: &Field<'_>, grace: Option<i64>, errors: &mut Errors) {
    let seconds = action.get("seconds").number();
    if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
        action.invalid_as(
            errors,
            seconds,
            format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})"),
        );
    }
}

//! What to do next for a pod: a pure function of its object, of what the runtime shows and of what the probes say.
//!
//! A plan is one step. After it was carried out the pod is observed and decided anew, until nothing is left to do. Ending a pod (deletion, deadline,
//! all containers done) is `ending`, not this.

use crate::backoff::Backoff;
use crate::runtime::labels;
use crate::runtime::model::{Container as Seen, Observed, State};
use crate::runtime::resources::is_sidecar;
use crate::runtime::sandbox::pod_text;
use api::core::v1::{Container, Pod, PodSpec};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// Which of a pod's lists a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Before all others, once.
    Init,
    /// Started among the init containers, then kept running.
    Sidecar,
    /// A container proper.
    Main,
    /// Added later, for debugging.
    Ephemeral,
}

/// Start this container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its list.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// How many of this name there were before.
    pub attempt: u32,
}

/// Stop this container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// For the event.
    pub message: String,
    /// A failed probe's own grace period in seconds.
    pub grace: Option<i64>,
}

/// One step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stop all containers and sandboxes that are left of the pod first.
    pub stop_all: bool,
    /// Then make a sandbox: its attempt.
    pub create_sandbox: Option<u32>,
    /// Stop these.
    pub kill: Vec<Kill>,
    /// Start these, in order.
    pub start: Vec<Start>,
    /// Containers held back after a failure, with the message of `CrashLoopBackOff`.
    pub held: Vec<(String, String)>,
    /// When to decide again even if nothing happens.
    pub wake_at: Option<Timestamp>,
}

impl Plan {
    /// Whether there is nothing to do now.
    pub fn is_idle(&self) -> bool {
        !self.stop_all && self.create_sandbox.is_none() && self.kill.is_empty() && self.start.is_empty()
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |before| before.min(at)));
    }
}

/// What probes say, by the runtime's container id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Liveness failed for good.
    pub dead: BTreeSet<String>,
    /// Startup failed for good.
    pub unstartable: BTreeSet<String>,
    /// The startup probe has not succeeded yet.
    pub starting: BTreeSet<String>,
}

/// Everything that a decision rests on.
pub struct Situation<'a> {
    /// The pod's object.
    pub pod: &'a Pod,
    /// What the runtime shows.
    pub observed: &'a Observed,
    /// What probes say.
    pub health: &'a Health,
    /// Back-offs by container name.
    pub backoffs: &'a BTreeMap<String, Backoff>,
    /// Containers that could not be made or pulled: not before this time again.
    pub retry_at: &'a BTreeMap<String, Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// Decides the next step.
pub fn decide(situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    let Some(spec) = situation.pod.spec.as_ref() else {
        return plan;
    };
    let Some(sandbox) = usable_sandbox(spec, situation.observed) else {
        if wants_sandbox(spec, situation.observed) {
            plan.stop_all = !situation.observed.sandboxes.is_empty() || situation.observed.running().next().is_some();
            plan.create_sandbox = Some(situation.observed.sandboxes.first().map_or(0, |last| last.attempt + 1));
        } else {
            plan.stop_all = !situation.observed.is_stopped();
        }
        return plan;
    };
    let step = Step {
        situation,
        spec,
        sandbox,
    };
    step.ephemeral(&mut plan);
    if step.init(&mut plan) {
        step.main(&mut plan);
    }
    plan
}

/// The newest sandbox if containers can run in it. Two running ones are a mistake that only a new one mends.
fn usable_sandbox<'a>(spec: &PodSpec, observed: &'a Observed) -> Option<&'a str> {
    let sandbox = observed.sandbox()?;
    let addressed = spec.host_network == Some(true) || !sandbox.ips.is_empty();
    let alone = observed.sandboxes.iter().filter(|sandbox| sandbox.ready).count() == 1;
    (addressed && alone).then_some(sandbox.id.as_str())
}

/// Whether a pod without a usable sandbox has anything left to run.
fn wants_sandbox(spec: &PodSpec, observed: &Observed) -> bool {
    let first = observed.sandboxes.is_empty() || observed.containers.is_empty();
    match spec.restart_policy.as_deref() {
        _ if first => true,
        Some("Never") => false,
        Some("OnFailure") => {
            let done = |container: &Container| {
                observed
                    .container(&container.name)
                    .is_some_and(|seen| seen.state == State::Exited && seen.exit_code == 0)
            };
            !spec.containers.iter().all(done)
        }
        _ => true,
    }
}

struct Step<'a> {
    situation: &'a Situation<'a>,
    spec: &'a PodSpec,
    sandbox: &'a str,
}

impl Step<'_> {
    /// The newest container of that name in the present sandbox.
    fn seen(&self, name: &str) -> Option<&Seen> {
        self.situation
            .observed
            .container(name)
            .filter(|seen| seen.sandbox_id == self.sandbox)
    }

    fn restarts_on_failure(&self) -> bool {
        self.spec.restart_policy.as_deref() != Some("Never")
    }

    /// Ephemeral containers start once, never again.
    fn ephemeral(&self, plan: &mut Plan) {
        for container in self.spec.ephemeral_containers.iter().flatten() {
            if self.situation.observed.container(&container.name).is_none() {
                self.try_start(plan, Role::Ephemeral, &container.name);
            }
        }
    }

    /// Goes through the init containers in order; true when the containers proper may run.
    fn init(&self, plan: &mut Plan) -> bool {
        let begun = self
            .spec
            .containers
            .iter()
            .any(|container| self.seen(&container.name).is_some());
        for container in self.spec.init_containers.iter().flatten() {
            let passed = match is_sidecar(container) {
                true => self.sidecar(plan, container, begun),
                false => begun || self.init_once(plan, container),
            };
            if !passed && !begun {
                return false;
            }
        }
        true
    }

    fn init_once(&self, plan: &mut Plan, container: &Container) -> bool {
        match self.seen(&container.name) {
            Some(seen) if seen.state == State::Running => false,
            Some(seen) if seen.state == State::Exited && seen.exit_code == 0 => true,
            Some(_) if !self.restarts_on_failure() => false,
            _ => {
                self.try_start(plan, Role::Init, &container.name);
                false
            }
        }
    }

    /// True once the sidecar has started, so that what stands behind it may.
    fn sidecar(&self, plan: &mut Plan, container: &Container, begun: bool) -> bool {
        let Some(seen) = self.seen(&container.name).filter(|seen| seen.state == State::Running) else {
            let over = begun && self.all_main_done();
            if !over {
                self.try_start(plan, Role::Sidecar, &container.name);
            }
            return false;
        };
        if let Some(kill) = self.unhealthy(container, seen) {
            plan.kill.push(kill);
            return false;
        }
        !self.situation.health.starting.contains(&seen.id)
    }

    fn all_main_done(&self) -> bool {
        self.spec.containers.iter().all(|container| !self.is_wanted(container))
    }

    fn main(&self, plan: &mut Plan) {
        for container in &self.spec.containers {
            match self.seen(&container.name) {
                Some(seen) if seen.state == State::Running => plan.kill.extend(self.unhealthy(container, seen)),
                _ if self.is_wanted(container) => self.try_start(plan, Role::Main, &container.name),
                _ => {}
            }
        }
    }

    /// Whether a container proper runs or should.
    fn is_wanted(&self, container: &Container) -> bool {
        let Some(seen) = self.situation.observed.container(&container.name) else {
            return true;
        };
        match (
            seen.state,
            container
                .restart_policy
                .as_deref()
                .or(self.spec.restart_policy.as_deref()),
        ) {
            (State::Running | State::Created, _) => true,
            (State::Exited, Some("Never")) => false,
            (State::Exited, Some("OnFailure")) => seen.exit_code != 0,
            (State::Unknown, Some("Never")) => false,
            _ => true,
        }
    }

    /// A running container that has to go: its definition changed or a probe gave up.
    fn unhealthy(&self, container: &Container, seen: &Seen) -> Option<Kill> {
        let health = self.situation.health;
        let name = &container.name;
        let own_grace = |probe: &Option<api::core::v1::Probe>| probe.as_ref()?.termination_grace_period_seconds;
        let (mut message, grace, changed) = if seen.hash.is_some_and(|hash| hash != labels::hash(container)) {
            (format!("Container {name} definition changed"), None, true)
        } else if health.dead.contains(&seen.id) {
            (
                format!("Container {name} failed liveness probe"),
                own_grace(&container.liveness_probe),
                false,
            )
        } else if health.unstartable.contains(&seen.id) {
            (
                format!("Container {name} failed startup probe"),
                own_grace(&container.startup_probe),
                false,
            )
        } else {
            return None;
        };
        if changed || self.restarts_on_failure() || is_sidecar(container) {
            message.push_str(", will be restarted");
        }
        Some(Kill {
            id: seen.id.clone(),
            name: name.clone(),
            message,
            grace,
        })
    }

    /// Starts a container unless it is held back after a failure.
    fn try_start(&self, plan: &mut Plan, role: Role, name: &str) {
        let now = self.situation.now;
        if let Some(at) = self.situation.retry_at.get(name).filter(|at| **at > now) {
            return plan.wake(*at);
        }
        let last = self.situation.observed.container(name);
        let ended = last
            .filter(|seen| seen.state == State::Exited)
            .and_then(|seen| time_of(seen.finished_at));
        if let (Some(ended), Some(backoff)) = (ended, self.situation.backoffs.get(name))
            && let Some(until) = backoff.until_after(ended).filter(|until| *until > now)
        {
            let wait = backoff.wait().map(go_duration).unwrap_or_default();
            let pod = pod_text(self.situation.pod);
            plan.held.push((
                name.to_owned(),
                format!("back-off {wait} restarting failed container={name} pod={pod}"),
            ));
            return plan.wake(until);
        }
        let attempt = last.map_or(0, |seen| seen.attempt + 1);
        plan.start.push(Start {
            role,
            name: name.to_owned(),
            attempt,
        });
    }
}

/// A runtime's nanoseconds as a time; nothing for 0.
pub fn time_of(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0)
        .then(|| Timestamp::from_nanosecond(i128::from(nanoseconds)).ok())
        .flatten()
}

/// Go's short form of a duration: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(duration: SignedDuration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;

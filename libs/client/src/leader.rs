//! Leader election on a Lease, with client-go's rules: a lease is taken when nobody holds it or when its holder has not renewed it for its
//! duration, as measured by our own clock from when we saw it change.

use std::time::Duration;

use api::coordination::v1::{Lease, LeaseSpec};
use api::meta::{MicroTime, ObjectMeta};
use daemon::Shutdown;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::{Api, Client, Result};

/// What to compete for, and how.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are; unique among competitors.
    pub identity: String,
    /// How long others wait for a silent leader.
    pub lease_duration: Duration,
    /// How long a leader that cannot renew goes on.
    pub renew_deadline: Duration,
    /// How often to try.
    pub retry_period: Duration,
}

impl LeaderConfig {
    /// Upstream's periods: 15 s, 10 s and 2 s.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// Our part in an election.
#[derive(Debug)]
pub struct Leadership {
    leading: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Leadership {
    /// Completes when we lead; `false` when we were told to stop before that.
    pub async fn acquired(&mut self) -> bool {
        self.leading.wait_for(|leading| *leading).await.is_ok()
    }

    /// Completes when we no longer lead.
    pub async fn lost(&mut self) {
        // An error means that the election ended, which ends leadership too.
        let _ = self.leading.wait_for(|leading| !*leading).await;
    }

    /// Completes when the lease was given back after shutdown.
    pub async fn released(self) {
        if let Err(error) = self.task.await {
            tracing::error!(%error, "leader election failed");
        }
    }
}

/// Competes until shutdown, then gives the lease back. The caller stops its work when it no longer leads.
pub fn run(client: &Client, config: LeaderConfig, shutdown: Shutdown) -> Leadership {
    let (leading, receiver) = watch::channel(false);
    let elector = Elector {
        api: client.api(),
        config,
        leading,
        seen: None,
    };
    Leadership {
        leading: receiver,
        task: tokio::spawn(elector.run(shutdown)),
    }
}

/// The last state of the lease, and since when we have seen it unchanged.
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

struct Elector {
    api: Api<Lease>,
    config: LeaderConfig,
    leading: watch::Sender<bool>,
    seen: Option<Seen>,
}

/// What to do about the lease.
#[derive(Debug, PartialEq)]
enum Step {
    /// Write this.
    Take(Box<LeaseSpec>),
    /// Somebody else leads.
    Wait,
}

/// Decides what to do about a lease that has been unchanged for `unchanged`.
fn decide(config: &LeaderConfig, spec: Option<&LeaseSpec>, unchanged: Duration, now: Timestamp) -> Step {
    let holder = spec
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default();
    let ours = holder == config.identity;
    let duration = spec
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|s| u64::try_from(s).ok())
        .unwrap_or(0);
    if !holder.is_empty() && !ours && unchanged < Duration::from_secs(duration) {
        return Step::Wait;
    }
    let previous = spec.cloned().unwrap_or_default();
    let transitions = previous.lease_transitions.unwrap_or(0);
    Step::Take(Box::new(LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: i32::try_from(config.lease_duration.as_secs()).ok(),
        acquire_time: if ours {
            previous.acquire_time.clone()
        } else {
            Some(MicroTime(now))
        },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(if ours || spec.is_none() {
            transitions
        } else {
            transitions + 1
        }),
        ..previous
    }))
}

impl Elector {
    async fn run(mut self, shutdown: Shutdown) {
        let mut renewed = Instant::now();
        loop {
            let deadline = self.config.renew_deadline;
            let outcome = shutdown.run_until(tokio::time::timeout(deadline, self.step())).await;
            match outcome {
                None => break,
                Some(Ok(Ok(leads))) => {
                    if leads {
                        renewed = Instant::now();
                    }
                    self.tell(leads);
                }
                Some(Ok(Err(error))) => tracing::debug!(lease = %self.config.name, %error, "lease not renewed"),
                Some(Err(_)) => tracing::debug!(lease = %self.config.name, "lease not renewed in time"),
            }
            if renewed.elapsed() >= deadline {
                self.tell(false);
            }
            // Before we ever reached the API server there is nobody to be polite to.
            let wait = if self.seen.is_none() {
                Duration::from_millis(100)
            } else {
                self.config.retry_period
            };
            if shutdown.run_until(tokio::time::sleep(wait)).await.is_none() {
                break;
            }
        }
        if *self.leading.borrow() {
            self.tell(false);
            self.release().await;
        }
    }

    fn tell(&self, leads: bool) {
        let changed = self
            .leading
            .send_if_modified(|leading| std::mem::replace(leading, leads) != leads);
        if changed {
            tracing::info!(lease = %self.config.name, identity = %self.config.identity, leading = leads, "leadership changed");
        }
    }

    /// One try to take or renew; answers whether we lead.
    async fn step(&mut self) -> Result<bool> {
        let now = Timestamp::now();
        let current = match self.api.get(&self.config.namespace, &self.config.name).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let spec = current.as_ref().map(|lease| lease.spec.clone().unwrap_or_default());
        let unchanged = match (&self.seen, &spec) {
            (Some(seen), Some(spec)) if seen.spec == *spec => seen.since.elapsed(),
            _ => Duration::ZERO,
        };
        let Step::Take(next) = decide(&self.config, spec.as_ref(), unchanged, now) else {
            if unchanged.is_zero() {
                self.seen = spec.map(|spec| Seen {
                    spec,
                    since: Instant::now(),
                });
            }
            return Ok(false);
        };
        let written = match current {
            Some(mut lease) => {
                lease.spec = Some(*next);
                self.api.update(&lease).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.config.name.clone()),
                    namespace: Some(self.config.namespace.clone()),
                    ..ObjectMeta::default()
                };
                self.api
                    .create(&Lease {
                        metadata,
                        spec: Some(*next),
                    })
                    .await
            }
        };
        match written {
            Ok(lease) => {
                self.seen = Some(Seen {
                    spec: lease.spec.unwrap_or_default(),
                    since: Instant::now(),
                });
                Ok(true)
            }
            // Another one was quicker.
            Err(error) if error.is_conflict() || error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back, so that the next leader need not wait.
    async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(&self.config.namespace, &self.config.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.config.identity) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.api.update(&lease).await.map(drop)
        };
        match tokio::time::timeout(self.config.retry_period, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(lease = %self.config.name, %error, "lease not given back"),
            Err(_) => tracing::info!(lease = %self.config.name, "lease not given back in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: (!holder.is_empty()).then(|| holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(4),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn takes_a_lease_only_when_it_is_free_ours_or_silent() {
        let config = LeaderConfig::new("kube-system", "kube-scheduler", "me");
        let now = Timestamp::from_second(100).unwrap();
        for (spec, unchanged, transitions) in [
            (None, 0, Some(0)),
            (Some(held_by("me")), 0, Some(4)),
            (Some(held_by("")), 0, Some(5)),
            (Some(held_by("other")), 14, None),
            (Some(held_by("other")), 15, Some(5)),
        ] {
            let step = decide(&config, spec.as_ref(), Duration::from_secs(unchanged), now);
            let taken = match &step {
                Step::Take(next) => {
                    assert_eq!(next.holder_identity.as_deref(), Some("me"));
                    assert_eq!(next.renew_time, Some(MicroTime(now)));
                    let kept = spec
                        .as_ref()
                        .is_some_and(|spec| spec.holder_identity.as_deref() == Some("me"));
                    assert_eq!(next.acquire_time == Some(MicroTime(now)), !kept);
                    next.lease_transitions
                }
                Step::Wait => None,
            };
            assert_eq!(taken, transitions, "{spec:?} unchanged for {unchanged} s");
        }
    }
}

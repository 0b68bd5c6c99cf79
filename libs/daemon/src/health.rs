//! Named health checks behind `/healthz`, `/livez` and `/readyz`, answered as Kubernetes components answer them.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Which question a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Alive and ready: a failure calls for a restart.
    Live,
    /// Ready only: a failure calls for patience.
    Ready,
}

/// The checks of a process. Cloning shares them; add all checks before sharing.
#[derive(Clone, Default)]
pub struct Health {
    checks: Vec<(String, Scope, Check)>,
    draining: Arc<AtomicBool>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.checks.iter().map(|(name, ..)| name))
            .finish()
    }
}

impl Health {
    /// Checks that the process answers at all; add more with [`Health::add`].
    pub fn new() -> Self {
        let mut health = Self::default();
        health.add("ping", Scope::Live, || Ok(()));
        let draining = health.draining.clone();
        health.add("shutdown", Scope::Ready, move || {
            match draining.load(Ordering::Relaxed) {
                true => Err("process is shutting down".into()),
                false => Ok(()),
            }
        });
        health
    }

    /// Adds a named check. It must be quick and must not block; the error text is shown only to `?verbose`.
    pub fn add(&mut self, name: &str, scope: Scope, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.checks.push((name.to_owned(), scope, Arc::new(check)));
    }

    /// Every path that [`Health::answer`] knows.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        for endpoint in ["/healthz", "/livez", "/readyz"] {
            paths.push(endpoint.to_owned());
            let offered = self
                .checks
                .iter()
                .filter(|(_, scope, _)| endpoint == "/readyz" || *scope == Scope::Live);
            paths.extend(offered.map(|(name, ..)| format!("{endpoint}/{name}")));
        }
        paths
    }

    /// From now on `/readyz` fails, so that load balancers look elsewhere while requests drain.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether all checks pass.
    pub fn is_ready(&self) -> bool {
        self.checks.iter().all(|(_, _, check)| check().is_ok())
    }

    /// Answers a health path (`/healthz`, `/livez`, `/readyz`, or one of them and `/<check>`) with a status code and a text; `None` for
    /// any other path.
    pub fn answer(&self, path: &str, query: &str) -> Option<(u16, String)> {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let endpoint = parts.next()?;
        let ready = match endpoint {
            "readyz" => true,
            "livez" | "healthz" => false,
            _ => return None,
        };
        let single = parts.next().filter(|name| !name.is_empty());
        let excluded: Vec<&str> = query
            .split('&')
            .filter_map(|pair| pair.strip_prefix("exclude="))
            .collect();
        let verbose = query
            .split('&')
            .any(|pair| pair == "verbose" || pair.starts_with("verbose="));
        let mut text = String::new();
        let mut failed = false;
        let mut found = false;
        let unknown: Vec<String> = excluded
            .iter()
            .filter(|name| !self.checks.iter().any(|(check, ..)| check == *name))
            .map(|name| format!("{name:?}"))
            .collect();
        if !unknown.is_empty() && single.is_none() {
            let list = unknown.join(",");
            let _ = writeln!(
                text,
                "warn: some health checks cannot be excluded: no matches for {list}"
            );
        }
        for (name, scope, check) in &self.checks {
            if single.is_some_and(|wanted| wanted != name) || (!ready && *scope == Scope::Ready) {
                continue;
            }
            found = true;
            if excluded.contains(&name.as_str()) {
                let _ = writeln!(text, "[+]{name} excluded: ok");
                continue;
            }
            match check() {
                Ok(()) => {
                    let _ = writeln!(text, "[+]{name} ok");
                }
                Err(reason) => {
                    failed = true;
                    tracing::debug!(check = %name, %reason, "health check failed");
                    let _ = writeln!(text, "[-]{name} failed: reason withheld");
                }
            }
        }
        Some(match (found, failed) {
            (false, _) => (404, "404 page not found\n".into()),
            (true, true) => (500, format!("{text}{endpoint} check failed\n")),
            (true, false) if verbose && single.is_none() => (200, format!("{text}{endpoint} check passed\n")),
            (true, false) => (200, "ok".into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_kubernetes_components_do() {
        let mut health = Health::new();
        health.add("informers", Scope::Ready, || Err("pods not synced".into()));
        let answer = |path, query| health.answer(path, query).map(|(code, _)| code);
        assert_eq!(answer("/livez", ""), Some(200));
        assert_eq!(answer("/readyz", ""), Some(500));
        assert_eq!(answer("/readyz", "exclude=informers"), Some(200));
        assert_eq!(answer("/readyz/ping", ""), Some(200));
        assert_eq!(answer("/readyz/nothing", ""), Some(404));
        assert_eq!(answer("/metrics", ""), None);
        assert_eq!(
            health.answer("/readyz", "").map(|(_, text)| text).as_deref(),
            Some("[+]ping ok\n[+]shutdown ok\n[-]informers failed: reason withheld\nreadyz check failed\n")
        );
        assert_eq!(
            health.answer("/livez", "verbose").unwrap().1,
            "[+]ping ok\nlivez check passed\n"
        );
    }

    #[test]
    fn an_exclusion_of_nothing_is_told() {
        let health = Health::new();
        let (code, text) = health.answer("/livez", "verbose&exclude=nothing").unwrap();
        assert_eq!(code, 200);
        assert_eq!(
            text,
            "warn: some health checks cannot be excluded: no matches for \"nothing\"\n[+]ping ok\nlivez check passed\n"
        );
        assert!(
            health.paths().contains(&"/readyz/shutdown".to_owned())
                && !health.paths().contains(&"/livez/shutdown".to_owned())
        );
    }

    #[test]
    fn draining_makes_it_unready_but_not_dead() {
        let health = Health::new();
        health.drain();
        assert!(!health.is_ready());
        assert_eq!(health.answer("/readyz", "").unwrap().0, 500);
        assert_eq!(health.answer("/livez", "").unwrap().0, 200);
    }
}

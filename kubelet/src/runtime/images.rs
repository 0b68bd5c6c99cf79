//! Makes sure that a container's image is here: pull policies, back-off between failed pulls, upstream's reasons and messages.

use super::{Runtime, RuntimeError};
use crate::backoff::Backoff;
use jiff::Timestamp;
use parking_lot::Mutex;
use proto::cri;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// What happens on the way, for the pod's events.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The image was here already.
    Present,
    /// A pull starts.
    Pulling,
    /// A pull ended well: after how long, with how many bytes.
    Pulled {
        /// From the start of the pull.
        took: Duration,
        /// Since the image was asked for, waiting included.
        waited: Duration,
        /// The image's size in bytes.
        size: u64,
    },
}

/// Why an image is not here: `reason` is the container's waiting reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    /// `ErrImageNeverPull`, `ErrImagePull`, `ImagePullBackOff`, `InvalidImageName`, `ImageInspectError`.
    pub reason: &'static str,
    /// What to tell the user.
    pub message: String,
}

/// Pulls images, a bounded number at a time.
pub struct Images {
    runtime: Runtime,
    slots: Semaphore,
    backoff: Mutex<HashMap<String, (Backoff, String)>>,
}

impl Images {
    /// `parallel` is how many pulls may run at once.
    pub fn new(runtime: Runtime, parallel: usize) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            slots: Semaphore::new(parallel.max(1)),
            backoff: Mutex::default(),
        })
    }

    /// The image, pulled if `policy` and its absence ask for it. `key` tells back-offs apart (pod and image).
    pub async fn ensure(
        &self,
        key: &str,
        image: &str,
        policy: &str,
        credentials: &[cri::AuthConfig],
        sandbox: &cri::PodSandboxConfig,
        mut report: impl FnMut(Progress) + Send,
    ) -> Result<cri::Image, ImageError> {
        let name = with_tag(image);
        if !is_reference(&name) {
            let message = format!(
                "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
            );
            return Err(ImageError {
                reason: "InvalidImageName",
                message,
            });
        }
        let present = self
            .runtime
            .image(&name)
            .await
            .map_err(|error| inspect_error(image, &error))?;
        match (policy, present) {
            ("Never", None) => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                return Err(ImageError {
                    reason: "ErrImageNeverPull",
                    message,
                });
            }
            ("Never" | "IfNotPresent", Some(present)) => {
                report(Progress::Present);
                return Ok(present);
            }
            _ => {}
        }
        let key = format!("{key}_{image}");
        self.check_backoff(&key, image)?;
        let asked = Instant::now();
        let Ok(_slot) = self.slots.acquire().await else {
            return Err(ImageError {
                reason: "ErrImagePull",
                message: "the kubelet is stopping".into(),
            });
        };
        report(Progress::Pulling);
        let started = Instant::now();
        match self.pull(&name, credentials, sandbox).await {
            Ok(pulled) => {
                self.backoff.lock().remove(&key);
                report(Progress::Pulled {
                    took: started.elapsed(),
                    waited: asked.elapsed(),
                    size: pulled.size,
                });
                Ok(pulled)
            }
            Err(error) => {
                let message = error.to_string();
                let mut all = self.backoff.lock();
                all.retain(|_, (backoff, _)| !backoff.is_expired(Timestamp::now()));
                let entry = all.entry(key).or_default();
                entry.0.failed(Timestamp::now());
                entry.1 = message.clone();
                Err(ImageError {
                    reason: "ErrImagePull",
                    message,
                })
            }
        }
    }

    fn check_backoff(&self, key: &str, image: &str) -> Result<(), ImageError> {
        let all = self.backoff.lock();
        match all.get(key) {
            Some((backoff, cause)) if backoff.until().is_some_and(|until| until > Timestamp::now()) => {
                let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {cause}");
                Err(ImageError {
                    reason: "ImagePullBackOff",
                    message,
                })
            }
            _ => Ok(()),
        }
    }

    async fn pull(
        &self,
        name: &str,
        credentials: &[cri::AuthConfig],
        sandbox: &cri::PodSandboxConfig,
    ) -> Result<cri::Image, RuntimeError> {
        let mut outcome = Err(RuntimeError::Incomplete {
            operation: "pull_image",
            field: "image",
        });
        let attempts = credentials
            .iter()
            .cloned()
            .map(Some)
            .chain(credentials.is_empty().then_some(None));
        for auth in attempts {
            outcome = self.runtime.pull_image(name, auth, sandbox.clone()).await;
            if outcome.is_ok() {
                break;
            }
        }
        let reference = outcome?;
        let image = match self.runtime.image(&reference).await? {
            Some(image) => Some(image),
            None => self.runtime.image(name).await?,
        };
        image.ok_or(RuntimeError::Incomplete {
            operation: "image_status",
            field: "image",
        })
    }
}

fn inspect_error(image: &str, error: &RuntimeError) -> ImageError {
    ImageError {
        reason: "ImageInspectError",
        message: format!("Failed to inspect image \"{image}\": {error}"),
    }
}

/// `latest` for a name without tag or digest.
pub fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// The registry that an image comes from, as credentials name it.
pub fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// Whether the text has the form of an image reference (lower case path, tag, digest).
fn is_reference(image: &str) -> bool {
    let (name, digest) = image
        .split_once('@')
        .map_or((image, None), |(name, digest)| (name, Some(digest)));
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match name.get(slash..).and_then(|last| last.find(':')) {
        Some(at) => (name.get(..slash + at).unwrap_or_default(), name.get(slash + at + 1..)),
        None => (name, None),
    };
    let tag_ok = tag.is_none_or(|tag| {
        !tag.is_empty() && tag.len() <= 128 && tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
    });
    let digest_ok = digest.is_none_or(|digest| {
        digest.split_once(':').is_some_and(|(kind, hex)| {
            !kind.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
        })
    });
    let host_end = path.find('/').unwrap_or(0);
    let component_ok = |(index, part): (usize, &str)| {
        let host = index == 0 && host_end > 0;
        !part.is_empty()
            && part.chars().all(|c| {
                c.is_ascii_lowercase()
                    || c.is_ascii_digit()
                    || "_.-".contains(c)
                    || (host && (c.is_ascii_uppercase() || c == ':'))
            })
    };
    !path.is_empty() && path.len() <= 255 && tag_ok && digest_ok && path.split('/').enumerate().all(component_ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_checked_and_tagged() {
        for good in [
            "busybox",
            "a/b:1.2",
            "localhost:5000/x/y:v1",
            "reg.io/a@sha256:0123456789abcdef0123456789abcdef",
        ] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["", "UPPER/case/Name", "a//b", "a:b:c", "a@sha256", "-:", "a b"] {
            assert!(!is_reference(bad), "{bad}");
        }
        assert_eq!(with_tag("localhost:5000/x"), "localhost:5000/x:latest");
        assert_eq!(with_tag("x:1"), "x:1");
        assert_eq!(registry("busybox"), "docker.io");
        assert_eq!(registry("reg.io/a/b"), "reg.io");
    }
}

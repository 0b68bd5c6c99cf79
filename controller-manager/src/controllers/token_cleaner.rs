//! Bootstrap tokens go when their time is over.

use std::sync::Arc;
use std::time::Duration;

use api::core::v1::Secret;
use api::{Object, ObjectKey};
use client::{Cache, Client, DeleteParams};
use controller::{Action, Error};
use jiff::Timestamp;

use crate::setup::{Setup, enqueue};

const EXPIRATION: &str = "expiration";

/// How long the token has left; nothing if it never ends. A time that cannot be read is over.
pub fn plan(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let text = secret.data.as_ref()?.get(EXPIRATION)?;
    let end = std::str::from_utf8(&text.0)
        .ok()
        .and_then(|text| text.parse::<Timestamp>().ok());
    Some(match end {
        Some(end) if end > now => crate::pods::elapsed(now, end),
        _ => Duration::ZERO,
    })
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("token_cleaner");
    setup.informers.bootstrap_tokens.on_event(enqueue(&queue));
    let client = setup.client.clone();
    setup.run("token_cleaner", queue, 1, move |caches| {
        let secrets: Cache<Secret> = caches.bootstrap_tokens;
        let client = Arc::new(client);
        move |key| {
            let (client, secrets) = (client.clone(), secrets.clone());
            async move { reconcile(&client, &secrets, key).await }
        }
    });
}

async fn reconcile(client: &Client, secrets: &Cache<Secret>, key: ObjectKey) -> Result<Action, Error> {
    let Some(secret) = secrets.get(&key) else {
        return Ok(Action::Done);
    };
    match plan(&secret, Timestamp::now()) {
        None => Ok(Action::Done),
        Some(left) if !left.is_zero() => Ok(Action::RequeueAfter(left)),
        Some(_) => {
            let how = DeleteParams::default().uid(secret.uid());
            match client.api::<Secret>().delete(&key.namespace, &key.name, &how).await {
                Err(error) if !error.is_not_found() => Err(Error::client(format!("delete Secret {key}"))(error)),
                _ => Ok(Action::Done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::ByteString;

    use super::*;
    use crate::pods::testing::now;

    #[test]
    fn a_token_lives_until_its_end() {
        let token = |end: Option<&str>| Secret {
            data: end.map(|end| [(EXPIRATION.to_owned(), ByteString(end.into()))].into()),
            ..Default::default()
        };
        let soon = now() + jiff::SignedDuration::from_secs(60);
        assert_eq!(plan(&token(None), now()), None);
        assert_eq!(
            plan(&token(Some(&soon.to_string())), now()),
            Some(Duration::from_secs(60))
        );
        assert_eq!(plan(&token(Some("2000-01-01T00:00:00Z")), now()), Some(Duration::ZERO));
        assert_eq!(plan(&token(Some("tomorrow")), now()), Some(Duration::ZERO));
    }
}

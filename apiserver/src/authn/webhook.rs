//! The webhook authenticator: asks a remote server with a TokenReview, and remembers the answer for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::review::user_of;
use super::tokens::Accepted;
use crate::outgoing::Limits;
use crate::outgoing::kubeconfig::Remote;

/// Time for one question.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts for a question that the server could not answer, and the pause before the second.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(200);
/// Answers remembered at most.
const ANSWERS: usize = 4096;

type Key = [u8; 32];

/// One remote authenticator.
pub struct Webhook {
    remote: Remote,
    version: String,
    ttl: Duration,
    answers: Mutex<HashMap<Key, (Instant, Option<Accepted>)>>,
}

impl Webhook {
    /// `version` is that of the reviews, `v1` or `v1beta1`; answers are believed for `ttl`.
    pub fn new(remote: Remote, version: &str, ttl: Duration) -> Self {
        Self {
            remote,
            version: version.to_owned(),
            ttl,
            answers: Mutex::default(),
        }
    }

    /// Whose the token is; `None` when the server does not know it.
    ///
    /// # Errors
    /// When the server does not answer, or says what is wrong with the token.
    pub async fn authenticate(&self, token: &str, audiences: &[String]) -> Result<Option<Accepted>, String> {
        let mut hash = Sha256::new();
        hash.update(token);
        for audience in audiences {
            hash.update([0]);
            hash.update(audience);
        }
        let key: Key = hash.finalize().into();
        let now = Instant::now();
        if let Some((until, answer)) = self.answers.lock().get(&key)
            && now < *until
        {
            return Ok(answer.clone());
        }
        let answer = self.ask(token, audiences).await?;
        let mut answers = self.answers.lock();
        if answers.len() >= ANSWERS {
            answers.retain(|_, (until, _)| now < *until);
        }
        if answers.len() < ANSWERS {
            answers.insert(key, (now + self.ttl, answer.clone()));
        }
        Ok(answer)
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Result<Option<Accepted>, String> {
        let mut spec = json!({"token": token});
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        let api_version = format!("authentication.k8s.io/{}", self.version);
        let review = json!({"apiVersion": api_version, "kind": "TokenReview", "metadata": {}, "spec": spec, "status": {"user": {}}});
        let body = bytes::Bytes::from(review.to_string());
        let mut attempt = 0;
        let answer = loop {
            attempt += 1;
            let asked = self
                .remote
                .post(HeaderMap::new(), body.clone(), Limits::within(TIMEOUT));
            match asked.await {
                Ok(answer) => break answer,
                Err(error) if error.is_temporary() && attempt < ATTEMPTS => tokio::time::sleep(PAUSE * attempt).await,
                Err(error) => return Err(error.to_string()),
            }
        };
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        read(&answer["status"], audiences)
    }
}

fn read(status: &Value, audiences: &[String]) -> Result<Option<Accepted>, String> {
    if status["authenticated"] != true {
        return match status["error"].as_str().unwrap_or_default() {
            "" => Ok(None),
            why => Err(why.to_owned()),
        };
    }
    let strings = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let given = strings(&status["audiences"]);
    // A server that names no audiences knows of none: the token is for the API alone, for which the caller asked.
    let common: Vec<String> = match given.is_empty() {
        true => audiences.to_vec(),
        false => audiences.iter().filter(|a| given.contains(a)).cloned().collect(),
    };
    if common.is_empty() && !audiences.is_empty() {
        return Ok(None);
    }
    Ok(Some(Accepted {
        user: user_of(&status["user"]),
        audiences: common,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let wanted = ["a".to_owned(), "b".to_owned()];
        let good = json!({"authenticated": true, "audiences": ["b", "c"], "user": {"username": "amy", "groups": ["g"], "extra": {"k": ["v"]}}});
        let accepted = read(&good, &wanted).ok().flatten().unwrap_or_default();
        assert_eq!(
            (accepted.user.name.as_str(), accepted.audiences),
            ("amy", vec!["b".to_owned()])
        );
        assert_eq!(accepted.user.extra["k"], ["v"]);
        let elsewhere = json!({"authenticated": true, "audiences": ["c"], "user": {"username": "amy"}});
        assert_eq!(read(&elsewhere, &wanted), Ok(None));
        assert_eq!(read(&json!({"authenticated": false}), &wanted), Ok(None));
        assert_eq!(read(&json!({"error": "expired"}), &wanted), Err("expired".to_owned()));
    }
}

//! Exponential back-off between attempts of one thing: 10 s, doubling to 5 min, forgotten after 10 min of peace. Pure: time comes in by argument.

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(10);
const MAX: SignedDuration = SignedDuration::from_secs(300);

/// The back-off of one container or image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    state: Option<(SignedDuration, Timestamp)>,
}

impl Backoff {
    /// Records a failure at `at`: the wait from then is doubled.
    pub fn failed(&mut self, at: Timestamp) {
        let wait = match self.state {
            Some((wait, _)) if !self.is_expired(at) => (wait * 2).min(MAX),
            _ => FIRST,
        };
        self.state = Some((wait, at));
    }

    /// How long to wait after a failure, now.
    pub fn wait(&self) -> Option<SignedDuration> {
        self.state.map(|(wait, _)| wait)
    }

    /// Until when to wait after the last recorded failure.
    pub fn until(&self) -> Option<Timestamp> {
        self.state.and_then(|(wait, at)| at.checked_add(wait).ok())
    }

    /// Until when to wait when the thing ended at `ended` and nothing was recorded since.
    pub fn until_after(&self, ended: Timestamp) -> Option<Timestamp> {
        self.state
            .filter(|_| !self.is_expired(ended))
            .and_then(|(wait, _)| ended.checked_add(wait).ok())
    }

    /// Whether there was peace for so long that the next failure counts as the first.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.state.is_none_or(|(_, at)| now.duration_since(at) > MAX * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_five_minutes_and_forgets() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..7 {
            backoff.failed(now);
            waits.push(backoff.wait().map_or(0, |wait| wait.as_secs()));
            now = backoff.until().unwrap_or(now);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
        assert!(!backoff.is_expired(now));
        backoff.failed(now + SignedDuration::from_secs(601));
        assert_eq!(backoff.wait(), Some(FIRST));
    }
}

//! A deduplicating work queue.
//!
//! Three sets carry the rules. A key is *dirty* from `add` until a worker takes it; it is *running* from then until `done`. A key that
//! becomes dirty while running waits for `done` before it is ready again, so two workers never hold the same key. Beside them stand
//! the keys that wait for a time, each with its earliest one, and the count of failures in a row that sets the back-off.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::{Metrics, QueueMetrics, Unfinished};

/// The first wait after a failure; it doubles with each further one.
const BACK_OFF_BASE: Duration = Duration::from_millis(5);
/// The longest wait between two tries.
const BACK_OFF_LIMIT: Duration = Duration::from_secs(1000);

/// A handle on the queue; clones share it.
pub struct Queue<K>(Arc<Shared<K>>);

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Queue(self.0.clone())
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    wake: Notify,
    metrics: QueueMetrics,
}

impl<K: Clone + Eq + Hash + Ord + Send + Sync + 'static> Queue<K> {
    /// An empty queue whose metrics carry `name`.
    pub fn new(name: &str, metrics: &Metrics) -> Queue<K> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            wake: Notify::new(),
            metrics: metrics.queue(name),
        });
        metrics.watch(name, Arc::downgrade(&(shared.clone() as Arc<dyn Unfinished>)));
        Queue(shared)
    }

    /// Marks a key for work as soon as a worker is free.
    pub fn add(&self, key: K) {
        let ready = {
            let mut state = self.0.state.lock();
            let added = state.add(key, Instant::now());
            self.0.metrics.depth.set(state.ready.len() as i64);
            added
        };
        if ready {
            self.0.metrics.adds.inc();
            self.0.wake.notify_one();
        }
    }

    /// Marks a key for work after `delay`. An earlier time already set for the key stays.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let now = Instant::now();
        // A delay beyond a year is "never" for a process, and must not overflow the clock.
        let at = now + delay.min(Duration::from_secs(365 * 24 * 3600));
        self.0.state.lock().add_at(key, at);
        self.0.wake.notify_one();
    }

    /// Marks a key for another try after a failure: 5 ms, then twice as long each time, up to 1000 s.
    pub fn retry(&self, key: K) {
        let delay = self.0.state.lock().fail(&key);
        self.0.metrics.retries.inc();
        self.add_after(key, delay);
    }

    /// Forgets a key's failures: the next one waits the shortest time again.
    pub fn forget(&self, key: &K) {
        self.0.state.lock().failures.remove(key);
    }

    /// Takes the next key; the caller owes a `done` for it.
    pub async fn get(&self) -> K {
        loop {
            let now = Instant::now();
            let (taken, next) = {
                let mut state = self.0.state.lock();
                let adds = state.promote(now);
                self.0.metrics.adds.inc_by(adds);
                let taken = state.take(now);
                self.0.metrics.depth.set(state.ready.len() as i64);
                if taken.is_some() && !state.ready.is_empty() {
                    // A notification wakes one worker only; pass it on while there is work.
                    self.0.wake.notify_one();
                }
                (taken, state.next_timer())
            };
            if let Some((key, waited)) = taken {
                self.0.metrics.queue_duration.observe(waited.as_secs_f64());
                return key;
            }
            let timer = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.0.wake.notified() => {}
                () = timer => {}
            }
        }
    }

    /// Ends the work on a key that `get` gave.
    pub fn done(&self, key: &K) {
        let (ran, again) = {
            let mut state = self.0.state.lock();
            let outcome = state.done(key, Instant::now());
            self.0.metrics.depth.set(state.ready.len() as i64);
            outcome
        };
        self.0.metrics.work_duration.observe(ran.as_secs_f64());
        if again {
            self.0.wake.notify_one();
        }
    }

    /// How many keys are ready for a worker.
    pub fn len(&self) -> usize {
        self.0.state.lock().ready.len()
    }

    /// Whether no key is ready.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Send + Sync + Eq + Hash> Unfinished for Shared<K> {
    fn ages(&self) -> Vec<Duration> {
        let now = Instant::now();
        self.state
            .lock()
            .running
            .values()
            .map(|since| now.saturating_duration_since(*since))
            .collect()
    }
}

/// The queue without waiting: every rule, no clock.
struct State<K> {
    ready: VecDeque<K>,
    dirty: HashMap<K, Instant>,
    running: HashMap<K, Instant>,
    timers: BinaryHeap<Reverse<(Instant, K)>>,
    timed: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
}

impl<K: Ord> Default for State<K> {
    fn default() -> Self {
        State {
            ready: VecDeque::new(),
            dirty: HashMap::new(),
            running: HashMap::new(),
            timers: BinaryHeap::new(),
            timed: HashMap::new(),
            failures: HashMap::new(),
        }
    }
}

impl<K: Clone + Eq + Hash + Ord> State<K> {
    /// Returns whether the key became dirty by this call.
    fn add(&mut self, key: K, now: Instant) -> bool {
        if self.dirty.contains_key(&key) {
            return false;
        }
        self.dirty.insert(key.clone(), now);
        if !self.running.contains_key(&key) {
            self.ready.push_back(key);
        }
        true
    }

    fn add_at(&mut self, key: K, at: Instant) {
        if self.timed.get(&key).is_some_and(|earlier| *earlier <= at) {
            return;
        }
        self.timed.insert(key.clone(), at);
        self.timers.push(Reverse((at, key)));
    }

    fn fail(&mut self, key: &K) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let delay = 2u32
            .checked_pow(*failures)
            .and_then(|factor| BACK_OFF_BASE.checked_mul(factor));
        *failures = failures.saturating_add(1);
        delay.unwrap_or(BACK_OFF_LIMIT).min(BACK_OFF_LIMIT)
    }

    /// Moves the keys whose time has come; returns how many became dirty.
    fn promote(&mut self, now: Instant) -> u64 {
        let mut added = 0;
        while self.timers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((at, key))) = self.timers.pop() else {
                break;
            };
            // A timer that was set to an earlier time leaves its first entry behind.
            if self.timed.get(&key) == Some(&at) {
                self.timed.remove(&key);
                added += u64::from(self.add(key, now));
            }
        }
        added
    }

    fn take(&mut self, now: Instant) -> Option<(K, Duration)> {
        let key = self.ready.pop_front()?;
        let since = self.dirty.remove(&key).unwrap_or(now);
        self.running.insert(key.clone(), now);
        Some((key, now.saturating_duration_since(since)))
    }

    /// Returns how long the work took and whether the key is ready again.
    fn done(&mut self, key: &K, now: Instant) -> (Duration, bool) {
        let ran = self
            .running
            .remove(key)
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let again = self.dirty.contains_key(key);
        if again {
            self.ready.push_back(key.clone());
        }
        (ran, again)
    }

    fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(state: &mut State<&'static str>, now: Instant) -> Option<&'static str> {
        state.take(now).map(|(key, _)| key)
    }

    #[test]
    fn adding_a_key_twice_runs_it_once() {
        let (mut state, now) = (State::default(), Instant::now());
        assert!(state.add("a", now));
        assert!(!state.add("a", now));
        assert_eq!(taken(&mut state, now), Some("a"));
        assert_eq!(taken(&mut state, now), None);
    }

    #[test]
    fn a_key_made_dirty_while_it_runs_waits_for_done() {
        let (mut state, now) = (State::default(), Instant::now());
        state.add("a", now);
        assert_eq!(taken(&mut state, now), Some("a"));
        assert!(state.add("a", now));
        assert_eq!(taken(&mut state, now), None, "never twice at once");
        assert_eq!(state.done(&"a", now), (Duration::ZERO, true));
        assert_eq!(taken(&mut state, now), Some("a"));
        assert_eq!(state.done(&"a", now), (Duration::ZERO, false));
    }

    #[test]
    fn keys_leave_in_the_order_they_came() {
        let (mut state, now) = (State::default(), Instant::now());
        for key in ["c", "a", "b"] {
            state.add(key, now);
        }
        assert_eq!(
            [(); 3].map(|()| taken(&mut state, now)),
            [Some("c"), Some("a"), Some("b")]
        );
    }

    #[test]
    fn the_earliest_of_several_times_counts_and_counts_once() {
        let (mut state, now) = (State::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        state.add_at("a", at(10));
        state.add_at("a", at(5));
        state.add_at("a", at(20));
        assert_eq!(state.promote(at(4)), 0);
        assert_eq!(state.promote(at(5)), 1);
        assert_eq!(taken(&mut state, at(5)), Some("a"));
        state.done(&"a", at(5));
        assert_eq!(state.promote(at(60)), 0, "the later time was replaced");
    }

    #[test]
    fn back_off_doubles_from_5_ms_to_1000_s() {
        let mut state = State::default();
        let waits: Vec<_> = (0..40).map(|_| state.fail(&"a")).collect();
        assert_eq!(waits[..3], [5, 10, 20].map(Duration::from_millis));
        assert_eq!(waits[17], Duration::from_millis(5 << 17));
        assert_eq!(waits[18..], [BACK_OFF_LIMIT; 22]);
        assert_eq!(state.fail(&"b"), BACK_OFF_BASE, "each key has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_key_comes_after_its_delay() {
        let queue = Queue::new("test", &Metrics::new());
        let start = Instant::now();
        queue.add_after("late", Duration::from_secs(30));
        queue.add("now");
        assert_eq!(queue.get().await, "now");
        assert_eq!(queue.get().await, "late");
        assert!(start.elapsed() >= Duration::from_secs(30));
    }
}

//! A priority level with a clock: requests wait here for their seats.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dispatch::{Dispatcher, Id, Policy, Refusal};
use super::shares::{Bounds, Demand};

/// How long a request waits at most: a quarter of the time that it has.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often seats are divided anew.
pub const PERIOD: Duration = Duration::from_secs(10);

/// See the module's documentation.
pub struct Level {
    state: Mutex<State>,
    beginning: Instant,
    patience: Duration,
}

struct State {
    dispatcher: Dispatcher,
    waiting: HashMap<Id, oneshot::Sender<()>>,
    bounds: Bounds,
    demand: Demand,
}

impl Default for Level {
    fn default() -> Self {
        let state = State {
            dispatcher: Dispatcher::default(),
            waiting: HashMap::new(),
            bounds: Bounds {
                nominal: 0,
                lower: 0,
                upper: 0,
            },
            demand: Demand::default(),
        };
        Self {
            state: Mutex::new(state),
            beginning: Instant::now(),
            patience: PATIENCE,
        }
    }
}

impl State {
    fn wake(&mut self, begun: Vec<Id>) {
        for id in begun {
            if let Some(sender) = self.waiting.remove(&id) {
                // One that has just given up ends it by itself.
                let _ = sender.send(());
            }
        }
    }
}

/// A request that runs, or is about to know that it does; dropping it ends the request.
pub struct Seat {
    level: Arc<Level>,
    id: Id,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let now = self.level.now();
        let mut state = self.level.state.lock();
        state.waiting.remove(&self.id);
        let begun = match state.dispatcher.cancel(self.id, now) {
            Some(begun) => begun,
            None => state.dispatcher.finish(self.id, now),
        };
        state.wake(begun);
    }
}

impl Level {
    fn now(&self) -> f64 {
        self.beginning.elapsed().as_secs_f64()
    }

    /// Other rules from now on. The seats stay as they are, within the bounds; a new level begins with its nominal ones.
    pub fn configure(&self, policy: Policy, bounds: Bounds) {
        let now = self.now();
        let mut state = self.state.lock();
        let limit = match state.bounds.nominal {
            0 => bounds.nominal,
            _ => state.dispatcher.limit().clamp(bounds.lower, bounds.upper),
        };
        state.bounds = bounds;
        let begun = state.dispatcher.configure(policy, limit.max(1), now);
        state.wake(begun);
    }

    /// Another number of seats; never none, or nobody would notice that some are wanted.
    pub fn set_limit(&self, limit: u32) {
        let now = self.now();
        let mut state = self.state.lock();
        let begun = state.dispatcher.set_limit(limit.max(1), now);
        state.wake(begun);
    }

    /// Seats that it has.
    pub fn limit(&self) -> u32 {
        self.state.lock().dispatcher.limit()
    }

    /// Seats while nobody lends or borrows.
    pub fn nominal(&self) -> u32 {
        self.state.lock().bounds.nominal
    }

    /// The bounds, and what was wanted of late. Ends a period.
    pub fn wanted(&self) -> (Bounds, f64) {
        let mut state = self.state.lock();
        let most = state.dispatcher.take_demand();
        (state.bounds, state.demand.observe(most))
    }

    /// Waits for seats.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn seat(self: &Arc<Self>, flow: u64, width: u32) -> Result<Seat, Refusal> {
        let (seat, begins) = {
            let now = self.now();
            let mut state = self.state.lock();
            let (id, begun) = state.dispatcher.arrive(flow, width, now)?;
            let (sender, receiver) = oneshot::channel();
            if !begun {
                state.waiting.insert(id, sender);
            }
            let begins = (!begun).then_some(receiver);
            (
                Seat {
                    level: self.clone(),
                    id,
                },
                begins,
            )
        };
        let Some(begins) = begins else {
            return Ok(seat);
        };
        match tokio::time::timeout(self.patience, begins).await {
            Ok(Ok(())) => Ok(seat),
            _ => Err(Refusal::TimeOut),
        }
    }

    /// A seat, or none.
    ///
    /// # Errors
    /// When all are taken.
    pub fn seat_now(self: &Arc<Self>) -> Result<Seat, Refusal> {
        let now = self.now();
        let (id, _) = self.state.lock().dispatcher.arrive(0, 1, now)?;
        Ok(Seat {
            level: self.clone(),
            id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seats(number: u32) -> Bounds {
        Bounds {
            nominal: number,
            lower: number,
            upper: number,
        }
    }

    #[tokio::test]
    async fn who_waits_too_long_is_refused() {
        let level = Arc::new(Level {
            patience: Duration::from_millis(1),
            ..Level::default()
        });
        level.configure(
            Policy::Queue {
                queues: 1,
                hand: 1,
                length: 5,
            },
            seats(1),
        );
        let seat = level.seat(0, 1).await.unwrap();
        assert_eq!(level.seat(0, 1).await.err(), Some(Refusal::TimeOut));
        drop(seat);
        assert!(level.seat(0, 1).await.is_ok());
    }

    #[tokio::test]
    async fn a_seat_that_is_given_back_goes_to_the_next() {
        let level = Arc::new(Level::default());
        level.configure(
            Policy::Queue {
                queues: 4,
                hand: 2,
                length: 5,
            },
            seats(1),
        );
        let seat = level.seat(0, 1).await.unwrap();
        let (next, ()) = tokio::join!(level.seat(1, 1), async { drop(seat) });
        assert!(next.is_ok());
    }
}

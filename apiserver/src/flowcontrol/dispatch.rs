//! Who is next: the queues of one priority level. Synchronous and without a clock; times are seconds since any beginning.
//!
//! Queues share the seats by fair queueing: each has a virtual time at which its next request would begin if all queues were served at once,
//! and the earliest begins first. A request is charged with a guess when it begins and with what it took when it ends.

use std::collections::{HashMap, VecDeque};

use super::shuffle;

/// Seconds that a request is thought to take until it has ended.
const GUESS: f64 = 0.003;

/// What a level does with a request that finds no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is refused.
    Reject,
    /// It waits.
    Queue {
        /// Number of queues.
        queues: usize,
        /// Queues that a flow may use.
        hand: usize,
        /// Requests that may wait in one queue.
        length: usize,
    },
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// All seats are taken and the level does not queue.
    ConcurrencyLimit,
    /// Its queue is full.
    QueueFull,
    /// It has waited too long.
    TimeOut,
}

impl Refusal {
    /// As metrics call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::QueueFull => "queue-full",
            Self::TimeOut => "time-out",
        }
    }
}

/// A request, for as long as it waits or runs.
pub type Id = u64;

/// The queues of a level.
#[derive(Debug)]
pub struct Dispatcher {
    policy: Policy,
    limit: u32,
    in_use: u32,
    /// The most that was wanted since [`Dispatcher::take_demand`].
    demand: u32,
    waiting_seats: u32,
    queues: Vec<Queue>,
    running: HashMap<Id, Running>,
    next_id: Id,
    virtual_time: f64,
    looked: f64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Id, u32)>,
    /// Requests of it that run.
    running: usize,
    /// When its next request would begin.
    next: f64,
}

#[derive(Debug)]
struct Running {
    queue: Option<usize>,
    width: u32,
    since: f64,
}

impl Default for Dispatcher {
    /// Without seats until [`Dispatcher::configure`] gives it some.
    fn default() -> Self {
        Self {
            policy: Policy::Reject,
            limit: 0,
            in_use: 0,
            demand: 0,
            waiting_seats: 0,
            queues: Vec::new(),
            running: HashMap::new(),
            next_id: 0,
            virtual_time: 0.0,
            looked: 0.0,
        }
    }
}

impl Dispatcher {
    /// Other rules from now on. Answers who begins.
    pub fn configure(&mut self, policy: Policy, limit: u32, now: f64) -> Vec<Id> {
        self.policy = policy;
        if let Policy::Queue { queues, .. } = policy {
            // Queues that are not dealt any more stay until they are empty.
            let used = self
                .queues
                .iter()
                .rposition(|queue| queue.is_active())
                .map_or(0, |last| last + 1);
            self.queues.resize_with(queues.max(used), Queue::default);
        }
        self.set_limit(limit, now)
    }

    /// Another number of seats. Answers who begins.
    pub fn set_limit(&mut self, limit: u32, now: f64) -> Vec<Id> {
        self.advance(now);
        self.limit = limit;
        self.dispatch(now)
    }

    /// A request that needs `width` seats. Its id, and whether it begins at once; it waits otherwise.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn arrive(&mut self, flow: u64, width: u32, now: f64) -> Result<(Id, bool), Refusal> {
        self.advance(now);
        self.demand = self.demand.max(self.in_use + self.waiting_seats + width);
        self.next_id += 1;
        let id = self.next_id;
        let Policy::Queue { queues, hand, length } = self.policy else {
            if !self.fits(width) {
                return Err(Refusal::ConcurrencyLimit);
            }
            self.begin(id, None, width, now);
            return Ok((id, true));
        };
        let chosen = shuffle::deal(flow, queues, hand)
            .into_iter()
            .min_by_key(|queue| self.queues[*queue].burden())
            .unwrap_or(0);
        let queue = &mut self.queues[chosen];
        if queue.waiting.len() >= length && self.in_use >= self.limit {
            return Err(Refusal::QueueFull);
        }
        if !queue.is_active() {
            queue.next = self.virtual_time;
        }
        queue.waiting.push_back((id, width));
        self.waiting_seats += width;
        // Whoever else could begin has begun already.
        let begun = self.dispatch(now);
        Ok((id, begun.contains(&id)))
    }

    /// A running request has ended. Answers who begins.
    pub fn finish(&mut self, id: Id, now: f64) -> Vec<Id> {
        self.advance(now);
        let Some(running) = self.running.remove(&id) else {
            return Vec::new();
        };
        self.in_use -= running.width;
        if let Some(queue) = running.queue.and_then(|queue| self.queues.get_mut(queue)) {
            queue.running -= 1;
            // Charged with what it took instead of the guess.
            queue.next += (now - running.since - GUESS) * f64::from(running.width);
        }
        self.dispatch(now)
    }

    /// Gives up a request that waits, and answers who begins in its place; `None` if it runs already.
    pub fn cancel(&mut self, id: Id, now: f64) -> Option<Vec<Id>> {
        self.advance(now);
        let (queue, place) = self.queues.iter_mut().find_map(|queue| {
            let place = queue.waiting.iter().position(|(waiting, _)| *waiting == id)?;
            Some((queue, place))
        })?;
        let (_, width) = queue.waiting.remove(place)?;
        self.waiting_seats -= width;
        Some(self.dispatch(now))
    }

    /// Seats that there are.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Seats that are taken.
    pub fn in_use(&self) -> u32 {
        self.in_use
    }

    /// The most seats that were taken or waited for since the last call.
    pub fn take_demand(&mut self) -> u32 {
        std::mem::replace(&mut self.demand, self.in_use + self.waiting_seats)
    }

    /// A request wider than the level gets all of it.
    fn fits(&self, width: u32) -> bool {
        self.in_use + width <= self.limit || (self.in_use == 0 && self.limit > 0)
    }

    fn advance(&mut self, now: f64) {
        let active = self.queues.iter().filter(|queue| queue.is_active()).count();
        if active > 0 {
            let served = f64::from(self.limit.min(self.in_use + self.waiting_seats));
            self.virtual_time += (now - self.looked).max(0.0) * served / active as f64;
        }
        self.looked = now;
    }

    fn begin(&mut self, id: Id, queue: Option<usize>, width: u32, now: f64) {
        self.in_use += width;
        self.running.insert(
            id,
            Running {
                queue,
                width,
                since: now,
            },
        );
    }

    fn dispatch(&mut self, now: f64) -> Vec<Id> {
        let mut begun = Vec::new();
        while let Some((chosen, queue)) = self
            .queues
            .iter()
            .enumerate()
            .filter(|(_, queue)| !queue.waiting.is_empty())
            .min_by(|(_, a), (_, b)| a.next.total_cmp(&b.next))
        {
            let Some((_, width)) = queue.waiting.front().copied() else {
                break;
            };
            // A wide request waits for its seats; narrow ones behind it do not overtake for ever.
            if !self.fits(width) {
                break;
            }
            let queue = &mut self.queues[chosen];
            let Some((id, _)) = queue.waiting.pop_front() else {
                break;
            };
            queue.running += 1;
            queue.next += GUESS * f64::from(width);
            self.waiting_seats -= width;
            self.begin(id, Some(chosen), width, now);
            begun.push(id);
        }
        begun
    }
}

impl Queue {
    fn is_active(&self) -> bool {
        !self.waiting.is_empty() || self.running > 0
    }

    /// How long a request would wait in it, roughly.
    fn burden(&self) -> u32 {
        let waiting: u32 = self.waiting.iter().map(|(_, width)| width).sum();
        waiting + u32::try_from(self.running).unwrap_or(u32::MAX / 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUEUES: Policy = Policy::Queue {
        queues: 64,
        hand: 6,
        length: 50,
    };

    fn level(policy: Policy, limit: u32) -> Dispatcher {
        let mut level = Dispatcher::default();
        assert!(level.configure(policy, limit, 0.0).is_empty());
        level
    }

    #[test]
    fn a_level_that_does_not_queue_refuses() {
        let mut level = level(Policy::Reject, 2);
        let (first, begun) = level.arrive(1, 1, 0.0).unwrap();
        assert!(begun);
        assert!(level.arrive(1, 1, 0.0).unwrap().1);
        assert_eq!(level.arrive(1, 1, 0.0), Err(Refusal::ConcurrencyLimit));
        assert!(level.finish(first, 1.0).is_empty());
        assert!(level.arrive(1, 1, 1.0).unwrap().1);
    }

    #[test]
    fn a_wide_request_gets_the_whole_level_and_no_more() {
        let mut level = level(QUEUES, 4);
        let (wide, begun) = level.arrive(1, 10, 0.0).unwrap();
        assert!(begun);
        let (next, begun) = level.arrive(2, 1, 0.0).unwrap();
        assert!(!begun);
        assert_eq!(level.finish(wide, 1.0), [next]);
        assert_eq!(level.in_use(), 1);
    }

    #[test]
    fn a_queue_has_an_end() {
        let mut level = level(
            Policy::Queue {
                queues: 1,
                hand: 1,
                length: 3,
            },
            1,
        );
        for _ in 0..4 {
            level.arrive(7, 1, 0.0).unwrap();
        }
        assert_eq!(level.arrive(7, 1, 0.0), Err(Refusal::QueueFull));
    }

    #[test]
    fn a_flood_does_not_delay_another_flow() {
        let mut level = level(QUEUES, 4);
        let flood = shuffle::hash("s", "flood");
        let mut running: VecDeque<Id> = VecDeque::new();
        for _ in 0..200 {
            if let Ok((id, true)) = level.arrive(flood, 1, 0.0) {
                running.push_back(id);
            }
        }
        assert_eq!(running.len(), 4);
        // The other's request is among the next few to begin, though a hundred of the flood came before.
        let (calm, begun) = level.arrive(shuffle::hash("s", "calm"), 1, 0.1).unwrap();
        assert!(!begun);
        let mut now = 0.1;
        let mut ended = 0;
        loop {
            now += 0.01;
            let begun = level.finish(running.pop_front().unwrap(), now);
            ended += 1;
            if begun.contains(&calm) {
                break;
            }
            running.extend(begun);
            assert!(ended < 20, "the calm flow waits behind the flood");
        }
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let mut level = level(QUEUES, 1);
        let (first, _) = level.arrive(1, 1, 0.0).unwrap();
        let (second, begun) = level.arrive(1, 2, 0.0).unwrap();
        assert!(!begun);
        assert_eq!(level.cancel(second, 0.0), Some(Vec::new()));
        assert_eq!((level.cancel(second, 0.0), level.cancel(first, 0.0)), (None, None));
        assert!(level.finish(first, 1.0).is_empty());
        assert_eq!((level.in_use(), level.take_demand(), level.take_demand()), (0, 3, 0));
    }

    #[test]
    fn fewer_queues_lose_nobody() {
        let mut level = level(QUEUES, 1);
        let ids: Vec<Id> = (0..20)
            .map(|flow| level.arrive(flow * 7919, 1, 0.0).unwrap().0)
            .collect();
        let mut ended = 1;
        level.configure(
            Policy::Queue {
                queues: 2,
                hand: 1,
                length: 50,
            },
            1,
            0.0,
        );
        let mut next = level.finish(ids[0], 0.1);
        while let Some(id) = next.pop() {
            ended += 1;
            next.extend(level.finish(id, 0.2));
        }
        assert_eq!(ended, ids.len());
    }

    proptest! {
        #[test]
        fn seats_are_never_overdrawn_and_all_come_to_their_turn(
            steps in proptest::collection::vec((0u64..5, 1u32..4, 0u8..4), 1..200), limit in 1u32..8,
        ) {
            let mut level = level(Policy::Queue { queues: 8, hand: 2, length: 10 }, limit);
            let (mut running, mut waiting) = (Vec::new(), Vec::new());
            let mut now = 0.0;
            for (flow, width, what) in steps {
                now += 0.001;
                match what {
                    0 if !running.is_empty() => {
                        let id: Id = running.remove(0);
                        let begun = level.finish(id, now);
                        waiting.retain(|id| !begun.contains(id));
                        running.extend(begun);
                    }
                    1 if !waiting.is_empty() => {
                        let begun = level.cancel(waiting.remove(0), now).unwrap();
                        waiting.retain(|id| !begun.contains(id));
                        running.extend(begun);
                    }
                    _ => match level.arrive(shuffle::hash("s", &flow.to_string()), width, now) {
                        Ok((id, true)) => running.push(id),
                        Ok((id, false)) => waiting.push(id),
                        Err(refusal) => prop_assert_eq!(refusal, Refusal::QueueFull),
                    },
                }
                prop_assert!(level.in_use() <= limit || running.len() == 1);
            }
            while let Some(id) = running.pop() {
                now += 0.001;
                let begun = level.finish(id, now);
                waiting.retain(|id| !begun.contains(id));
                running.extend(begun);
            }
            prop_assert!(waiting.is_empty());
            prop_assert_eq!(level.in_use(), 0);
        }
    }
}

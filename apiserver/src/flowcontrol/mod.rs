//! Priority and fairness: a request is put under a FlowSchema, waits in a queue of its priority level until there is a seat, and gives the seat
//! back when it has been answered. [`dispatch`], [`shares`], [`schema`] and [`shuffle`] decide and know no clock; this file and [`level`] wait.

pub mod call;
pub mod controller;
pub mod defaults;
pub mod dispatch;
mod estimate;
mod level;
mod metrics;
pub mod schema;
pub mod shares;
pub mod shuffle;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::registry::access::{Attributes, UserInfo};
use dispatch::Policy;
use level::{Level, Seat};
use metrics::{Flow, Metrics};
use schema::{FlowSchema, LevelConfig};
use shares::{Bounds, Share};

pub use estimate::width;

/// The group whose requests never wait.
const MASTERS: &str = "system:masters";

/// The text of a refusal.
pub const TOO_MANY: &str = "Too many requests, please try again later.";

/// What the flags say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Reads at once; together with the writes the seats of all levels.
    pub reads: u32,
    /// Writes at once.
    pub writes: u32,
    /// Whether levels and queues are used; otherwise the two numbers bound by themselves.
    pub fair: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reads: 400,
            writes: 200,
            fair: true,
        }
    }
}

/// Who comes to which turn.
pub struct FlowControl {
    limits: Limits,
    table: ArcSwap<Table>,
    levels: Mutex<HashMap<String, Arc<Level>>>,
    metrics: Metrics,
}

/// The configuration of one moment.
#[derive(Default)]
struct Table {
    /// In the order in which they are asked.
    entries: Vec<Entry>,
}

struct Entry {
    schema: FlowSchema,
    config: Arc<LevelConfig>,
    level: Arc<Level>,
    flow: Flow,
}

/// A place among those that are being answered; dropping it gives it back.
pub struct Permit {
    /// Ends before it is counted as ended.
    seat: Option<Seat>,
    flow: Option<(Flow, u32, Instant)>,
    /// Of the FlowSchema and the PriorityLevelConfiguration.
    pub uids: Uids,
    /// How long it was waited for.
    pub waited: Duration,
}

/// For the headers of answers; empty without priority and fairness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uids {
    /// Of the FlowSchema.
    pub schema: String,
    /// Of the PriorityLevelConfiguration.
    pub level: String,
}

impl Drop for Permit {
    fn drop(&mut self) {
        drop(self.seat.take());
        if let Some((flow, width, since)) = self.flow.take() {
            flow.ended(width, since.elapsed());
        }
    }
}

/// A request that came to no turn: too many others, or it waited too long.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany(pub Uids);

impl FlowControl {
    /// With the default configuration until objects are read.
    ///
    /// # Errors
    /// When a metric is registered twice.
    pub fn new(limits: Limits, registry: &prometheus::Registry) -> Result<Self, prometheus::Error> {
        let control = Self {
            limits,
            table: ArcSwap::default(),
            levels: Mutex::default(),
            metrics: Metrics::new(registry)?,
        };
        if limits.fair {
            let read = |objects: Vec<serde_json::Value>| objects.iter().map(LevelConfig::read).collect::<Vec<_>>();
            let schemas = defaults::flow_schemas().iter().map(FlowSchema::read).collect();
            control.configure(schemas, read(defaults::levels()));
        } else {
            control.bound(&[("reads", limits.reads), ("writes", limits.writes)]);
        }
        Ok(control)
    }

    /// Whether levels and queues are used.
    pub fn is_fair(&self) -> bool {
        self.limits.fair
    }

    /// Two levels without queues.
    fn bound(&self, bounds: &[(&str, u32)]) {
        for (name, limit) in bounds {
            // No limit if the flag says 0, as upstream.
            let limit = if *limit == 0 { u32::MAX } else { *limit };
            let level = Arc::new(Level::default());
            level.configure(
                Policy::Reject,
                Bounds {
                    nominal: limit,
                    lower: limit,
                    upper: limit,
                },
            );
            self.levels.lock().insert((*name).to_owned(), level);
        }
    }

    /// Puts a configuration in force. Requests that wait keep their places.
    pub fn configure(&self, mut schemas: Vec<FlowSchema>, levels: Vec<LevelConfig>) {
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let total = self.limits.reads.saturating_add(self.limits.writes);
        let shares: Vec<Share> = levels.iter().map(|level| level.share).collect();
        let mut kept = self.levels.lock();
        let mut by_name = HashMap::new();
        for (config, bounds) in levels.into_iter().zip(shares::bounds(&shares, total)) {
            let level = kept.entry(config.name.clone()).or_default().clone();
            level.configure(config.policy, bounds);
            self.metrics.bounds(&config.name, &bounds);
            self.metrics.current(&config.name, level.limit());
            by_name.insert(config.name.clone(), (Arc::new(config), level));
        }
        kept.retain(|name, _| by_name.contains_key(name));
        let entries = schemas.into_iter().filter_map(|schema| {
            let (config, level) = by_name.get(&schema.level)?.clone();
            let flow = self.metrics.flow(&schema.name, &config.name);
            Some(Entry {
                schema,
                config,
                level,
                flow,
            })
        });
        self.table.store(Arc::new(Table {
            entries: entries.collect(),
        }));
    }

    /// Divides the seats anew, by what was wanted of late. To be called every [`level::PERIOD`].
    pub fn adjust(&self) {
        let levels: Vec<(String, Arc<Level>)> = self
            .levels
            .lock()
            .iter()
            .map(|(name, level)| (name.clone(), level.clone()))
            .collect();
        let wanted: Vec<_> = levels.iter().map(|(_, level)| level.wanted()).collect();
        let total = self.limits.reads.saturating_add(self.limits.writes);
        for ((name, level), seats) in levels.iter().zip(shares::fair(&wanted, total)) {
            level.set_limit(seats);
            self.metrics.current(name, seats);
        }
    }

    /// Waits for the turn of a request that needs `width` seats of a level that has this many.
    ///
    /// # Errors
    /// When there are too many before it.
    pub async fn admit(
        &self,
        user: &UserInfo,
        attributes: &Attributes,
        width: impl Fn(u32) -> u32,
    ) -> Result<Permit, TooMany> {
        if !self.limits.fair {
            return self.admit_bounded(user, attributes);
        }
        let table = self.table.load_full();
        let Some(entry) = table
            .entries
            .iter()
            .find(|entry| entry.schema.matches(user, attributes))
        else {
            // Nobody has taken away the schemas for everybody yet: the controller puts them back.
            return Ok(Permit {
                seat: None,
                flow: None,
                uids: Uids::default(),
                waited: Duration::ZERO,
            });
        };
        let uids = Uids {
            schema: entry.schema.uid.clone(),
            level: entry.config.uid.clone(),
        };
        let arrived = Instant::now();
        let (width, seat) = if entry.config.exempt {
            (1, None)
        } else {
            let width = width(entry.level.nominal());
            let hash = shuffle::hash(&entry.schema.name, entry.schema.distinguisher(user, attributes));
            let queued = entry.flow.queued();
            let seat = entry.level.seat(hash, width).await;
            drop(queued);
            match seat {
                Ok(seat) => (width, Some(seat)),
                Err(refusal) => {
                    entry.flow.refused(refusal, arrived.elapsed());
                    return Err(TooMany(uids));
                }
            }
        };
        let waited = arrived.elapsed();
        entry.flow.begun(width, waited);
        Ok(Permit {
            seat,
            flow: Some((entry.flow.clone(), width, Instant::now())),
            uids,
            waited,
        })
    }

    fn admit_bounded(&self, user: &UserInfo, attributes: &Attributes) -> Result<Permit, TooMany> {
        let permit = |seat| Permit {
            seat,
            flow: None,
            uids: Uids::default(),
            waited: Duration::ZERO,
        };
        if user.in_group(MASTERS) {
            return Ok(permit(None));
        }
        let name = if is_read(&attributes.verb) { "reads" } else { "writes" };
        let level = self.levels.lock().get(name).cloned();
        match level.map(|level| level.seat_now()) {
            Some(Ok(seat)) => Ok(permit(Some(seat))),
            Some(Err(_)) => Err(TooMany(Uids::default())),
            None => Ok(permit(None)),
        }
    }
}

/// True for verbs that change nothing.
fn is_read(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch" | "head")
}

#[cfg(test)]
mod tests;

//! How many seats each level has: its share of the server's, what it lends, what it borrows.

/// What a level's configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Relative to those of the other levels.
    pub shares: u32,
    /// Percent of its seats that others may use while it does not.
    pub lendable: u32,
    /// Percent of its seats that it may borrow beyond them; no bound if absent.
    pub borrowing: Option<u32>,
}

/// The bounds of a level's seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// What it has while nobody lends or borrows.
    pub nominal: u32,
    /// What it always has.
    pub lower: u32,
    /// What it may have at most.
    pub upper: u32,
}

/// Divides the seats of the server by shares.
pub fn bounds(shares: &[Share], total: u32) -> Vec<Bounds> {
    let sum: u64 = shares.iter().map(|share| u64::from(share.shares)).sum::<u64>().max(1);
    let percent = |of: u32, percent: u32| ((u64::from(of) * u64::from(percent) + 50) / 100) as u32;
    shares
        .iter()
        .map(|share| {
            let nominal = (u64::from(total) * u64::from(share.shares)).div_ceil(sum) as u32;
            let lower = nominal - percent(nominal, share.lendable.min(100));
            let upper = share.borrowing.map_or(total.max(nominal), |borrowing| {
                nominal.saturating_add(percent(nominal, borrowing))
            });
            Bounds { nominal, lower, upper }
        })
        .collect()
}

/// Divides the seats by what was wanted: everybody gets the same fraction of it, within its bounds. `wanted` is never below what a level always
/// has.
pub fn fair(levels: &[(Bounds, f64)], total: u32) -> Vec<u32> {
    let seats = |fraction: f64| -> Vec<f64> {
        let share = |(bounds, wanted): &(Bounds, f64)| {
            (fraction * wanted.max(f64::from(bounds.lower))).clamp(f64::from(bounds.lower), f64::from(bounds.upper))
        };
        levels.iter().map(share).collect()
    };
    let (mut low, mut high) = (0.0, f64::from(total).max(1.0));
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if seats(middle).iter().sum::<f64>() > f64::from(total) {
            high = middle;
        } else {
            low = middle;
        }
    }
    seats(low).into_iter().map(|seats| seats.round() as u32).collect()
}

/// What a level wants over time: rises at once, falls slowly.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand(f64);

impl Demand {
    /// How much of the old survives a period.
    const KEPT: f64 = 0.977;

    /// Takes in the most that was wanted in the last period.
    pub fn observe(&mut self, most: u32) -> f64 {
        let most = f64::from(most);
        self.0 = most.max(Self::KEPT * self.0 + (1.0 - Self::KEPT) * most);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn share(shares: u32, lendable: u32) -> Share {
        Share {
            shares,
            lendable,
            borrowing: None,
        }
    }

    #[test]
    fn the_default_levels_get_what_upstream_gives_them() {
        // system, node-high, leader-election, workload-high, workload-low, global-default, catch-all
        let levels = [
            share(30, 33),
            share(40, 25),
            share(10, 0),
            share(40, 50),
            share(100, 90),
            share(20, 50),
            share(5, 0),
        ];
        let bounds = bounds(&levels, 600);
        assert_eq!(
            bounds.iter().map(|b| b.nominal).collect::<Vec<_>>(),
            [74, 98, 25, 98, 245, 49, 13]
        );
        assert_eq!(
            bounds.iter().map(|b| b.lower).collect::<Vec<_>>(),
            [50, 73, 25, 49, 24, 24, 13]
        );
        assert!(bounds.iter().all(|b| b.upper == 600));
        let limited = super::bounds(
            &[Share {
                borrowing: Some(10),
                ..share(1, 0)
            }],
            100,
        );
        assert_eq!(limited[0].upper, 110);
    }

    #[test]
    fn who_wants_more_gets_what_others_do_not_use() {
        let levels = bounds(&[share(50, 80), share(50, 80)], 100);
        assert_eq!(fair(&[(levels[0], 0.0), (levels[1], 200.0)], 100), [10, 90]);
        assert_eq!(fair(&[(levels[0], 70.0), (levels[1], 70.0)], 100), [50, 50]);
        let bound = Bounds { upper: 60, ..levels[1] };
        assert_eq!(fair(&[(levels[0], 0.0), (bound, 200.0)], 100)[1], 60);
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let mut demand = Demand::default();
        assert_eq!(demand.observe(100), 100.0);
        let after = demand.observe(0);
        assert!(after > 95.0 && after < 100.0);
    }

    proptest! {
        #[test]
        fn nobody_leaves_its_bounds_and_the_server_is_not_overdrawn(
            levels in proptest::collection::vec((1u32..100, 0u32..=100, 0u32..1000), 1..10), total in 10u32..1000,
        ) {
            let shares: Vec<Share> = levels.iter().map(|(shares, lendable, _)| share(*shares, *lendable)).collect();
            let bounds = bounds(&shares, total);
            let wanted: Vec<(Bounds, f64)> = bounds.iter().zip(&levels).map(|(b, (.., wanted))| (*b, f64::from(*wanted))).collect();
            let seats = fair(&wanted, total);
            for (seats, bounds) in seats.iter().zip(&bounds) {
                prop_assert!(*seats >= bounds.lower && *seats <= bounds.upper);
            }
            // Shares and results are rounded, each by less than a seat.
            prop_assert!(seats.iter().sum::<u32>() <= total + 2 * levels.len() as u32);
        }
    }
}

//! The default profile: every plugin, with upstream's weights, from top to bottom.

use crate::framework::{Filter, Scorer};
use crate::plugins::{
    BalancedAllocation, ImageLocality, InterPodAffinity, NodeAffinity, NodeName, NodePorts, NodeUnschedulable,
    ResourcesFit, TaintToleration, TopologySpread,
};

/// Which plugins decide, and how much they weigh.
pub struct Profile {
    /// In the order they are asked; the cheap ones first.
    pub filters: Vec<Box<dyn Filter>>,
    /// With their weights.
    pub scorers: Vec<(Box<dyn Scorer>, i64)>,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            filters: vec![
                Box::new(NodeUnschedulable),
                Box::new(NodeName),
                Box::new(TaintToleration),
                Box::new(NodeAffinity),
                Box::new(NodePorts),
                Box::new(ResourcesFit),
                Box::new(TopologySpread),
                Box::new(InterPodAffinity),
            ],
            scorers: vec![
                (Box::new(TaintToleration), 3),
                (Box::new(NodeAffinity), 2),
                (Box::new(ResourcesFit), 1),
                (Box::new(BalancedAllocation), 1),
                (Box::new(ImageLocality), 1),
                (Box::new(TopologySpread), 2),
                (Box::new(InterPodAffinity), 2),
            ],
        }
    }
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile")
            .field(
                "filters",
                &self.filters.iter().map(|filter| filter.name()).collect::<Vec<_>>(),
            )
            .field(
                "scorers",
                &self
                    .scorers
                    .iter()
                    .map(|(scorer, weight)| (scorer.name(), weight))
                    .collect::<Vec<_>>(),
            )
            .finish()
    }
}

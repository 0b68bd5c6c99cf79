//! Prefers nodes that have a pod's large images already, unless so few nodes have them that all pods would crowd there.

use crate::cluster::Cluster;
use crate::framework::{MAX_SCORE, NodeScore, Scorer};
use crate::model::{NodeInfo, PodInfo};

/// Images below this many bytes do not matter (upstream's value).
const MIN_BYTES: i64 = 23 << 20;
/// Nothing is gained above this many bytes a container (upstream's value).
const MAX_BYTES_PER_CONTAINER: i64 = 1000 << 20;

/// See the module.
#[derive(Debug)]
pub struct ImageLocality;

struct Images {
    /// Name as nodes report it, and the share of nodes that have it.
    images: Vec<(String, f64)>,
    containers: i64,
}

/// `web` is `docker.io/library/web:latest` in a node's list; nodes report what they were asked to pull, with a tag.
fn normalized(image: &str) -> String {
    let tagged = image.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if tagged {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

impl Scorer for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        cluster: &'a Cluster,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn NodeScore + 'a>> {
        let spec = pod.spec();
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let names: Vec<String> = containers.filter_map(|c| c.image.as_deref()).map(normalized).collect();
        let total = cluster.nodes().len().max(1) as f64;
        let count = names.len() as i64;
        let images: Vec<_> = names
            .into_iter()
            .map(|name| {
                let share = cluster.nodes_with_image(&name) as f64 / total;
                (name, share)
            })
            .filter(|(_, share)| *share > 0.0)
            .collect();
        (!images.is_empty()).then(|| {
            Box::new(Images {
                images,
                containers: count,
            }) as Box<dyn NodeScore>
        })
    }
}

impl NodeScore for Images {
    fn score(&self, node: &NodeInfo) -> i64 {
        let present = self
            .images
            .iter()
            .filter_map(|(name, share)| Some((node.images.get(name)?, share)));
        let bytes: i64 = present.map(|(size, share)| (*size as f64 * share) as i64).sum();
        let most = MAX_BYTES_PER_CONTAINER * self.containers;
        MAX_SCORE * (bytes.clamp(MIN_BYTES, most) - MIN_BYTES) / (most - MIN_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn prefers_nodes_with_the_image() {
        let mut cluster = Cluster::default();
        cluster.put_node(node("has").image("web:latest", 1000 << 20).build());
        cluster.put_node(node("lacks").build());
        let pod = pod("p").image("web").info();
        let scorer = ImageLocality.prepare(&pod, &cluster, &[]).unwrap();
        assert_eq!(scorer.score(cluster.node("has").unwrap()), 48);
        assert_eq!(scorer.score(cluster.node("lacks").unwrap()), 0);
    }
}

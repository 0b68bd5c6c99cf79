//! Aggregated ClusterRoles: gives a role with an aggregation rule the rules of all roles that its selectors match.

use std::sync::Arc;

use api::labels::Selector;
use api::rbac::v1::{ClusterRole, PolicyRule};
use api::{Object, ObjectKey};
use client::{Cache, Client};
use controller::{Action, Error};

use crate::semantic;
use crate::setup::{Setup, enqueue};

/// The role as it must be, or nothing if it is so or is not aggregated.
pub fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<ClusterRole> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let selectors: Vec<_> = selectors
        .iter()
        .filter_map(|it| Selector::from_label_selector(it).ok())
        .collect();
    let selected = |other: &&Arc<ClusterRole>| {
        other.name() != role.name() && selectors.iter().any(|selector| selector.matches(other.labels()))
    };
    let mut sources: Vec<_> = all.iter().filter(selected).collect();
    sources.sort_by(|left, right| left.name().cmp(right.name()));
    let mut rules: Vec<PolicyRule> = Vec::new();
    for rule in sources.iter().flat_map(|source| source.rules.iter().flatten()) {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    let written = ClusterRole {
        rules: Some(rules),
        ..role.clone()
    };
    (!semantic::equal(role, &written)).then_some(written)
}

/// Adds the controller.
pub fn start(setup: &mut Setup) {
    let queue = setup.queue("cluster_role_aggregation");
    setup.informers.cluster_roles.on_event(enqueue(&queue));
    let (waking, roles) = (queue.clone(), setup.informers.cluster_roles.late());
    setup.informers.cluster_roles.on_event(move |_| {
        let roles = roles.list();
        let aggregated = roles.iter().filter(|role| role.aggregation_rule.is_some());
        aggregated.for_each(|role| waking.add(role.key()));
    });
    let client = setup.client.clone();
    setup.run("cluster_role_aggregation", queue, 1, move |caches| {
        let roles = Arc::new(Roles {
            client,
            roles: caches.cluster_roles,
        });
        move |key| {
            let roles = roles.clone();
            async move { roles.reconcile(key).await }
        }
    });
}

struct Roles {
    client: Client,
    roles: Cache<ClusterRole>,
}

impl Roles {
    async fn reconcile(&self, key: ObjectKey) -> Result<Action, Error> {
        let Some(role) = self.roles.get(&key) else {
            return Ok(Action::Done);
        };
        if let Some(written) = plan(&role, &self.roles.list()) {
            let doing = format!("aggregate ClusterRole {key}");
            self.client
                .api::<ClusterRole>()
                .update(&written)
                .await
                .map_err(Error::client(doing))?;
        }
        Ok(Action::Done)
    }
}

#[cfg(test)]
mod tests {
    use api::meta::LabelSelector;
    use api::rbac::v1::AggregationRule;

    use super::*;

    fn role(name: &str, label: &str, resources: &[&str]) -> ClusterRole {
        let mut role = ClusterRole::default();
        role.metadata.name = Some(name.into());
        role.metadata.labels = Some([(label.to_owned(), "true".to_owned())].into());
        let rule = |resource: &&str| PolicyRule {
            resources: Some(vec![(*resource).into()]),
            ..Default::default()
        };
        role.rules = Some(resources.iter().map(rule).collect());
        role
    }

    #[test]
    fn collects_each_rule_once_in_the_order_of_names_and_none_of_its_own() {
        let mut view = role("view", "to-view", &["stale"]);
        let labels = Some([("to-view".to_owned(), "true".to_owned())].into());
        let selector = LabelSelector {
            match_labels: labels,
            ..Default::default()
        };
        view.aggregation_rule = Some(AggregationRule {
            cluster_role_selectors: Some(vec![selector]),
        });
        let all = [
            role("b", "to-view", &["pods", "nodes"]),
            role("a", "to-view", &["nodes"]),
            role("c", "to-edit", &["secrets"]),
            view.clone(),
        ];
        let all: Vec<_> = all.into_iter().map(Arc::new).collect();
        let written = plan(&view, &all).unwrap();
        let resources = written
            .rules
            .as_ref()
            .unwrap()
            .iter()
            .flat_map(|rule| rule.resources.clone().unwrap());
        assert_eq!(resources.collect::<Vec<_>>(), ["nodes", "pods"]);
        assert_eq!(plan(&written, &all), None, "a second pass has nothing to do");
        assert_eq!(plan(&all[0], &all), None, "a plain role stays as it is");
    }
}

//! PodNodeSelector: the pods of a namespace go only to the nodes that its annotation, or the configuration, names.

use std::collections::BTreeMap;

use api::Error;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Context, Plugin, creates, forbidden};
use crate::kinds::field::{ensure, set};
use crate::registry::access::AdmissionRequest;

const ANNOTATION: &str = "/metadata/annotations/scheduler.alpha.kubernetes.io~1node-selector";
const DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

pub(super) struct PodNodeSelector {
    /// By namespace what its pods may ask for, and under [`DEFAULT`] what pods get where the namespace says nothing.
    selectors: BTreeMap<String, Labels>,
}

impl PodNodeSelector {
    pub(super) fn new(config: &Value) -> Result<Self, String> {
        let given = config.get("podNodeSelectorPluginConfig").and_then(Value::as_object);
        let read = |(name, selector): (&String, &Value)| {
            let labels = parse(selector.as_str().unwrap_or_default())
                .map_err(|why| format!("podNodeSelectorPluginConfig.{name}: {why}"))?;
            Ok((name.clone(), labels))
        };
        let selectors = given.into_iter().flatten().map(read).collect::<Result<_, String>>()?;
        Ok(Self { selectors })
    }

    async fn of_namespace(&self, cx: &Context, name: &str) -> Result<Labels, Error> {
        let namespace = cx.get("", "namespaces", "", name).await?.unwrap_or_default();
        match namespace.pointer(ANNOTATION).and_then(Value::as_str) {
            Some(selector) => parse(selector).map_err(Error::internal),
            None => Ok(self.selectors.get(DEFAULT).cloned().unwrap_or_default()),
        }
    }
}

/// `a=b,c=d`.
fn parse(selector: &str) -> Result<Labels, String> {
    let parts = selector.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.split_once('=') {
            Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
            None => Err(format!("invalid selector: [{part}]")),
        })
        .collect()
}

fn own(pod: &Value) -> Labels {
    let selector = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| (key.clone(), value.as_str().unwrap_or_default().to_owned());
    selector.into_iter().flatten().map(text).collect()
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        creates(request, "", "pods")
    }

    async fn mutate(&self, cx: &Context, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Error> {
        let mut selector = self.of_namespace(cx, &request.attributes.namespace).await?;
        let pods = own(pod);
        if pods
            .iter()
            .any(|(key, value)| selector.get(key).is_some_and(|other| other != value))
        {
            return Err(forbidden(
                request,
                "pod node label selector conflicts with its namespace node label selector",
            ));
        }
        selector.extend(pods);
        if let (false, Some(spec)) = (selector.is_empty(), ensure(pod, "spec")) {
            set(spec, "nodeSelector", json!(selector));
        }
        Ok(())
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
        let namespace = &request.attributes.namespace;
        let (pods, wanted) = (own(pod), self.of_namespace(cx, namespace).await?);
        if wanted
            .iter()
            .any(|(key, value)| pods.get(key).is_some_and(|own| own != value))
        {
            return Err(forbidden(
                request,
                "pod node label selector conflicts with its namespace node label selector",
            ));
        }
        match self.selectors.get(namespace.as_str()) {
            Some(allowed) if !allowed.is_empty() && pods.iter().any(|(key, value)| allowed.get(key) != Some(value)) => {
                let why = "pod node label selector labels conflict with its namespace whitelist";
                Err(forbidden(request, why))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Fixture;
    use crate::registry::access::Operation;

    #[tokio::test]
    async fn a_namespace_names_its_nodes() {
        let fixture = Fixture::default();
        let namespace = json!({"metadata": {"name": "dev", "annotations": {"scheduler.alpha.kubernetes.io/node-selector": "env=dev"}}});
        fixture.put("", "namespaces", namespace).await;
        let plugin =
            PodNodeSelector::new(&json!({"podNodeSelectorPluginConfig": {"dev": "env=dev,disk=ssd"}})).unwrap();
        let run = async |selector: Value| {
            let pod = json!({"spec": {"nodeSelector": selector}});
            let pod = fixture
                .mutate(&plugin, Operation::Create, "", "pods", pod, None)
                .await?;
            fixture
                .validate(&plugin, Operation::Create, "", "pods", &pod, None)
                .await?;
            Ok::<_, Error>(pod["spec"]["nodeSelector"].clone())
        };
        assert_eq!(
            run(json!({"disk": "ssd"})).await.unwrap(),
            json!({"disk": "ssd", "env": "dev"})
        );
        for (selector, want) in [
            (
                json!({"env": "prod"}),
                "pod node label selector conflicts with its namespace node label selector",
            ),
            (
                json!({"disk": "hdd"}),
                "pod node label selector labels conflict with its namespace whitelist",
            ),
        ] {
            assert!(run(selector).await.unwrap_err().message.ends_with(want));
        }
    }
}

//! AlwaysPullImages: no pod runs an image only because somebody else has pulled it, with credentials of their own.

use api::{Error, FieldError};
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden, is, writes};
use crate::kinds::field::{each, list, set, text};
use crate::registry::access::AdmissionRequest;

const KINDS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub(super) struct AlwaysPullImages;

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        let adds = request.attributes.subresource == "ephemeralcontainers" && request.attributes.resource == "pods";
        writes(request) && (is(request, "", "pods") || adds)
    }

    async fn mutate(&self, _cx: &Context, request: &AdmissionRequest<'_>, pod: &mut Value) -> Result<(), Error> {
        if !has_new_image(request, pod) {
            return Ok(());
        }
        let Some(spec) = pod.get_mut("spec") else { return Ok(()) };
        for kind in KINDS {
            each(spec, kind).for_each(|container| set(container, "imagePullPolicy", "Always"));
        }
        let images = each(spec, "volumes").filter_map(|volume| volume.get_mut("image"));
        images.for_each(|image| set(image, "pullPolicy", "Always"));
        Ok(())
    }

    async fn validate(&self, _cx: &Context, request: &AdmissionRequest<'_>, pod: &Value) -> Result<(), Error> {
        let mut faults = Vec::new();
        if !has_new_image(request, pod) {
            return Ok(());
        }
        for kind in KINDS {
            for (i, container) in list(pod, &format!("/spec/{kind}")).iter().enumerate() {
                let policy = text(container, "/imagePullPolicy");
                if policy != "Always" {
                    let path = format!("spec.{kind}[{i}].imagePullPolicy");
                    faults.push(FieldError::not_supported(path, policy, &["Always"]).to_string());
                }
            }
        }
        match faults.as_slice() {
            [] => Ok(()),
            [one] => Err(forbidden(request, one)),
            many => Err(forbidden(request, format!("[{}]", many.join(", ")))),
        }
    }
}

/// Whether the pod names an image that it did not name before; the policies of an update without one stay as they are.
fn has_new_image(request: &AdmissionRequest<'_>, pod: &Value) -> bool {
    fn images(pod: &Value) -> impl Iterator<Item = &str> {
        let kinds = ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"];
        kinds
            .into_iter()
            .flat_map(|path| list(pod, path))
            .map(|c| text(c, "/image"))
    }
    match request.old {
        Some(old) => images(pod).any(|image| !images(old).any(|known| known == image)),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Fixture;
    use crate::registry::access::Operation;

    #[tokio::test]
    async fn every_image_is_pulled() {
        let fixture = Fixture::default();
        let pod = json!({"spec": {"containers": [{"name": "a", "imagePullPolicy": "Never"}], "volumes": [{"name": "v", "image": {}}]}});
        let pod = fixture
            .mutate(&AlwaysPullImages, Operation::Create, "", "pods", pod, None)
            .await
            .unwrap();
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(pod["spec"]["volumes"][0]["image"]["pullPolicy"], "Always");
        let never = json!({"spec": {"containers": [{"imagePullPolicy": "Never"}]}});
        let refused = fixture
            .validate(&AlwaysPullImages, Operation::Create, "", "pods", &never, None)
            .await;
        assert_eq!(
            refused.unwrap_err().message,
            "pods \"x\" is forbidden: spec.containers[0].imagePullPolicy: Unsupported value: \"Never\": supported values: \"Always\""
        );
    }
}

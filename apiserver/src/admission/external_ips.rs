//! DenyServiceExternalIPs: nobody draws the traffic of an address to their Service by claiming the address.

use api::Error;
use async_trait::async_trait;
use serde_json::Value;

use super::{Context, Plugin, forbidden, is, writes};
use crate::kinds::field::list;
use crate::registry::access::AdmissionRequest;

pub(super) struct DenyServiceExternalIPs;

#[async_trait]
impl Plugin for DenyServiceExternalIPs {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && is(request, "", "services")
    }

    async fn validate(&self, _cx: &Context, request: &AdmissionRequest<'_>, service: &Value) -> Result<(), Error> {
        let before = request.old.map_or(&[][..], |old| list(old, "/spec/externalIPs"));
        match list(service, "/spec/externalIPs").iter().all(|ip| before.contains(ip)) {
            true => Ok(()),
            false => Err(forbidden(request, "Use of external IPs is denied by admission control")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::testing::Fixture;
    use crate::registry::access::Operation;

    #[tokio::test]
    async fn none_may_be_added() {
        let with = |ips: Value| json!({"spec": {"externalIPs": ips}});
        let (fixture, plugin) = (Fixture::default(), &DenyServiceExternalIPs);
        let one = with(json!(["1.2.3.4"]));
        let two = with(json!(["1.2.3.4", "5.6.7.8"]));
        assert!(
            fixture
                .validate(plugin, Operation::Create, "", "services", &one, None)
                .await
                .is_err()
        );
        assert!(
            fixture
                .validate(plugin, Operation::Update, "", "services", &one, Some(&two))
                .await
                .is_ok()
        );
        assert!(
            fixture
                .validate(plugin, Operation::Update, "", "services", &two, Some(&one))
                .await
                .is_err()
        );
    }
}

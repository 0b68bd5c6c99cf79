//! Who may approve and sign for a signer, and that nobody asks to be a superuser.

use api::Error;
use async_trait::async_trait;
use base64::Engine as _;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{Context, Plugin, creates, forbidden, is, writes};
use crate::authz::SUPERUSERS;
use crate::kinds::field::text;
use crate::registry::access::{AdmissionRequest, Attributes, Authorizer, Operation};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const BUNDLES: &str = "clustertrustbundles";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Only who may `approve` for the signer touches the approval.
pub(super) struct Approval;
/// Only who may `sign` for the signer sets the certificate or says that signing failed.
pub(super) struct Signing;
/// No client certificate makes a superuser.
pub(super) struct SubjectRestriction;
/// Only who may `attest` for the signer writes a trust bundle in its name.
pub(super) struct BundleAttest;

fn updates(request: &AdmissionRequest<'_>, subresource: &str) -> bool {
    let a = request.attributes;
    request.operation == Operation::Update && a.subresource == subresource && a.resource == REQUESTS && a.group == GROUP
}

#[async_trait]
impl Plugin for Approval {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        updates(request, "approval")
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        // Of the object as it was: the caller cannot bring a signer of its own.
        let signer = text(request.old.unwrap_or(object), "/spec/signerName");
        match may(cx, request, "approve", signer).await {
            true => Ok(()),
            false => Err(forbidden(
                request,
                format!("user not permitted to approve requests with signerName {signer:?}"),
            )),
        }
    }
}

#[async_trait]
impl Plugin for Signing {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        updates(request, "status")
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let old = request.old.unwrap_or(&Value::Null);
        let same = |path: &str| old.pointer(path) == object.pointer(path);
        if same("/status/certificate") && same("/status/conditions") {
            return Ok(());
        }
        let signer = text(old, "/spec/signerName");
        match may(cx, request, "sign", signer).await {
            true => Ok(()),
            false => Err(forbidden(
                request,
                format!("user not permitted to sign requests with signerName {signer:?}"),
            )),
        }
    }
}

#[async_trait]
impl Plugin for SubjectRestriction {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        creates(request, GROUP, REQUESTS)
    }

    async fn validate(&self, _cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        if text(object, "/spec/signerName") == CLIENT_SIGNER && organizations(object).iter().any(|o| o == SUPERUSERS) {
            return Err(forbidden(
                request,
                format!("use of {CLIENT_SIGNER} signer with {SUPERUSERS} group is not allowed"),
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for BundleAttest {
    fn applies(&self, request: &AdmissionRequest<'_>) -> bool {
        writes(request) && is(request, GROUP, BUNDLES)
    }

    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let signer = text(object, "/spec/signerName");
        // Without a signer, RBAC on the bundle is all there is; so for a change that changes nothing, such as that of the garbage collector.
        let unchanged = request.old.is_some_and(|old| old.get("spec") == object.get("spec"));
        if signer.is_empty() || unchanged || may(cx, request, "attest", signer).await {
            return Ok(());
        }
        Err(forbidden(
            request,
            format!("user not permitted to attest for signerName {signer:?}"),
        ))
    }
}

/// Whether the user may `verb` for the signer, or for all signers of its domain.
async fn may(cx: &Context, request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer
        .split_once('/')
        .map_or_else(String::new, |(domain, _)| format!("{domain}/*"));
    for name in [signer.to_owned(), domain] {
        let wanted = Attributes {
            verb: verb.to_owned(),
            is_resource: true,
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        if cx.authorizers.authorize(request.user, &wanted).await.is_allowed() {
            return true;
        }
    }
    false
}

/// The organizations in the subject of the request; none if it cannot be read, which the signer refuses anyway.
fn organizations(object: &Value) -> Vec<String> {
    let Ok(pem) = base64::engine::general_purpose::STANDARD.decode(text(object, "/spec/request")) else {
        return Vec::new();
    };
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else {
        return Vec::new();
    };
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else {
        return Vec::new();
    };
    let subject = &request.certification_request_info.subject;
    subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok().map(str::to_owned))
        .collect()
}

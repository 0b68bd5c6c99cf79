//! Who may approve and sign certificate requests of a signer, and that nobody asks to be a superuser.

use api::Error;
use async_trait::async_trait;
use base64::Engine as _;
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::{Context, Plugin, creates, forbidden};
use crate::authz::SUPERUSERS;
use crate::kinds::field::text;
use crate::registry::access::{AdmissionRequest, Attributes, Authorizer, Decision, Operation};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

pub(super) struct Certificates;

#[async_trait]
impl Plugin for Certificates {
    async fn validate(&self, cx: &Context, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Error> {
        let a = request.attributes;
        let signer = text(object, "/spec/signerName");
        if creates(request, GROUP, REQUESTS)
            && signer == CLIENT_SIGNER
            && organizations(object).iter().any(|o| o == SUPERUSERS)
        {
            return Err(forbidden(
                request,
                format!("use of {CLIENT_SIGNER} signer with {SUPERUSERS} group is not allowed"),
            ));
        }
        if a.group != GROUP || a.resource != REQUESTS || request.operation != Operation::Update {
            return Ok(());
        }
        let old = request.old.unwrap_or(&Value::Null);
        let signs =
            a.subresource == "status" && old.pointer("/status/certificate") != object.pointer("/status/certificate");
        let verb = match a.subresource.as_str() {
            "approval" => "approve",
            "status" if signs => "sign",
            _ => return Ok(()),
        };
        if may(cx, request, verb, signer).await {
            return Ok(());
        }
        Err(forbidden(
            request,
            format!("user not permitted to {verb} requests with signerName {signer:?}"),
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
        if cx.authorizers.authorize(request.user, &wanted).await == Decision::Allow {
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

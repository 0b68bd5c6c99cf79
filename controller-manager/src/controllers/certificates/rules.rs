//! What each of Kubernetes' signers demands of a request, and which requests it may sign without asking anybody.
//! Source: `pkg/apis/certificates` and `pkg/controller/certificates/signer`.

use std::collections::BTreeSet;

use api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use super::issue::{Error, pem};

/// For clients of the API.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// For kubelets as clients of the API.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// For kubelets as servers.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Without any guarantee, for old clusters.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";
/// The extension with the alternative names.
const ALTERNATIVE_NAMES: &str = "2.5.29.17";

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// DER `Name`.
    pub subject: Vec<u8>,
    /// DER `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
    /// The value of the extension.
    pub alternative_names: Option<Vec<u8>>,
    common_name: String,
    organizations: Vec<String>,
    dns_names: usize,
    ip_addresses: usize,
    other_names: usize,
}

impl Wanted {
    /// Reads the request's PEM and checks that it is signed with the key it is for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let der = pem(text, "CERTIFICATE REQUEST")?;
        let (_, request) = X509CertificationRequest::from_der(&der).map_err(|error| Error::Der(error.to_string()))?;
        request
            .verify_signature()
            .map_err(|error| Error::Der(error.to_string()))?;
        let info = &request.certification_request_info;
        let text = |names: Vec<Result<&str, _>>| -> Vec<String> {
            names
                .into_iter()
                .filter_map(|name: Result<&str, x509_parser::error::X509Error>| name.ok().map(str::to_owned))
                .collect()
        };
        let mut out = Self {
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            common_name: text(info.subject.iter_common_name().map(|name| name.as_str()).collect()).concat(),
            organizations: text(info.subject.iter_organization().map(|name| name.as_str()).collect()),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else {
                continue;
            };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(_) => out.dns_names += 1,
                    GeneralName::IPAddress(_) => out.ip_addresses += 1,
                    _ => out.other_names += 1,
                }
            }
        }
        out.alternative_names = alternative_names(&request);
        Ok(out)
    }

    fn has_names(&self) -> bool {
        self.dns_names + self.ip_addresses + self.other_names > 0
    }
}

/// The bytes of the extension in the request.
fn alternative_names(request: &X509CertificationRequest<'_>) -> Option<Vec<u8>> {
    let attributes = request.certification_request_info.iter_attributes();
    attributes
        .filter_map(|attribute| match attribute.parsed_attribute() {
            x509_parser::cri_attributes::ParsedCriAttribute::ExtensionRequest(wanted) => Some(wanted),
            _ => None,
        })
        .flat_map(|wanted| &wanted.extensions)
        .find(|extension| extension.oid.to_id_string() == ALTERNATIVE_NAMES)
        .map(|extension| extension.value.to_vec())
}

fn usages(request: &CertificateSigningRequest) -> BTreeSet<&str> {
    request.spec.usages.iter().flatten().map(String::as_str).collect()
}

fn is(usages: &BTreeSet<&str>, auth: &'static str) -> bool {
    let plain = BTreeSet::from(["digital signature", auth]);
    *usages == plain || *usages == &plain | &BTreeSet::from(["key encipherment"])
}

/// Why the signer does not sign the request; nothing if it does.
pub fn refusal(request: &CertificateSigningRequest, wanted: &Wanted) -> Option<String> {
    let usages = usages(request);
    let why = match request.spec.signer_name.as_str() {
        CLIENT => {
            let allowed = ["digital signature", "key encipherment", "client auth"];
            if let Some(usage) = usages.iter().find(|usage| !allowed.contains(usage)) {
                format!("invalid usage for client certificate: {usage}")
            } else if !usages.contains("client auth") {
                "missing required usage for client certificate: client auth".to_owned()
            } else {
                return None;
            }
        }
        KUBELET_CLIENT => kubelet_client(&usages, wanted)?.to_owned(),
        KUBELET_SERVING => {
            let groups = request
                .spec
                .groups
                .iter()
                .flatten()
                .any(|group| group == "system:nodes");
            let same = request.spec.username.as_deref() == Some(wanted.common_name.as_str());
            kubelet_serving(&usages, wanted, groups && same)?.to_owned()
        }
        _ => return None,
    };
    Some(why)
}

fn is_node(wanted: &Wanted) -> Option<&'static str> {
    if wanted.organizations != ["system:nodes"] {
        return Some("subject organization is not system:nodes");
    }
    (!wanted.common_name.starts_with("system:node:")).then_some("subject common name does not begin with system:node:")
}

/// What a kubelet's client request must be.
pub fn kubelet_client(usages: &BTreeSet<&str>, wanted: &Wanted) -> Option<&'static str> {
    if let Some(why) = is_node(wanted) {
        return Some(why);
    }
    if wanted.has_names() {
        return Some("DNS, IP, email and URI subjectAltNames are not allowed");
    }
    (!is(usages, "client auth")).then_some(
        "usages did not match [digital signature, client auth] or [digital signature, key encipherment, client auth]",
    )
}

fn kubelet_serving(usages: &BTreeSet<&str>, wanted: &Wanted, from_itself: bool) -> Option<&'static str> {
    if let Some(why) = is_node(wanted) {
        return Some(why);
    }
    if wanted.dns_names + wanted.ip_addresses == 0 {
        return Some("at least one DNS or IP subjectAltName is required");
    }
    if wanted.other_names > 0 {
        return Some("email and URI subjectAltNames are not allowed");
    }
    if !is(usages, "server auth") {
        return Some(
            "usages did not match [digital signature, server auth] or [digital signature, key encipherment, server auth]",
        );
    }
    (!from_itself).then_some("requested by another user than the node it is for")
}

/// Which permission lets a kubelet's client request be approved by itself: that of a new node, or of a node that renews its own.
pub fn approval(request: &CertificateSigningRequest, wanted: &Wanted) -> Vec<&'static str> {
    if request.spec.signer_name != KUBELET_CLIENT || kubelet_client(&usages(request), wanted).is_some() {
        return Vec::new();
    }
    match request.spec.username.as_deref() == Some(wanted.common_name.as_str()) {
        true => vec!["selfnodeclient", "nodeclient"],
        false => vec!["nodeclient"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(signer: &str, usages: &[&str]) -> CertificateSigningRequest {
        let mut request = CertificateSigningRequest::default();
        request.spec.signer_name = signer.into();
        request.spec.usages = Some(usages.iter().map(|u| (*u).to_owned()).collect());
        request.spec.username = Some("system:node:n".into());
        request.spec.groups = Some(vec!["system:nodes".into()]);
        request
    }

    fn node() -> Wanted {
        Wanted {
            common_name: "system:node:n".into(),
            organizations: vec!["system:nodes".into()],
            ..Wanted::default()
        }
    }

    #[test]
    fn each_signer_has_its_rules() {
        let (client, serving) = (
            ["digital signature", "client auth"],
            ["digital signature", "server auth"],
        );
        let user = Wanted {
            common_name: "jane".into(),
            ..Wanted::default()
        };
        let named = Wanted { dns_names: 1, ..node() };
        for (signer, usages, wanted, signed) in [
            (CLIENT, &client, &user, true),
            (CLIENT, &serving, &user, false),
            (KUBELET_CLIENT, &client, &node(), true),
            (KUBELET_CLIENT, &client, &user, false),
            (KUBELET_CLIENT, &client, &named, false),
            (KUBELET_SERVING, &serving, &named, true),
            (KUBELET_SERVING, &serving, &node(), false),
            (LEGACY, &serving, &user, true),
        ] {
            assert_eq!(
                refusal(&request(signer, usages), wanted).is_none(),
                signed,
                "{signer} {usages:?} {wanted:?}"
            );
        }
    }

    #[test]
    fn only_kubelets_are_approved_unasked() {
        let client = ["digital signature", "client auth"];
        let mut renewal = request(KUBELET_CLIENT, &client);
        assert_eq!(approval(&renewal, &node()), ["selfnodeclient", "nodeclient"]);
        renewal.spec.username = Some("system:bootstrap:abc".into());
        assert_eq!(approval(&renewal, &node()), ["nodeclient"]);
        assert!(approval(&request(CLIENT, &client), &node()).is_empty());
    }
}

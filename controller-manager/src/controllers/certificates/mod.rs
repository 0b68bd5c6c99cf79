//! Certificate requests: kubelets' own are approved, what is approved is signed, and what is over is removed.

mod issue;
mod rules;

use std::sync::Arc;
use std::time::Duration;

use api::authorization::v1::{ResourceAttributes, SubjectAccessReview};
use api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use api::meta::Time;
use api::{ByteString, Object, ObjectKey};
use client::{Cache, Client, DeleteParams};
use controller::{Action, Error};
use jiff::{SignedDuration, Timestamp};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pods::elapsed;
use crate::setup::{Setup, enqueue};
pub use issue::{Authority, Leaf};
use rules::Wanted;

/// Clocks may differ by so much.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
/// How long a request stays after it was answered, and how long when nobody answers.
const ANSWERED: Duration = Duration::from_secs(3600);
const PENDING: Duration = Duration::from_secs(24 * 3600);

/// What signs, and for how long at most.
pub struct Signing {
    /// The CA.
    pub authority: Authority,
    /// The longest life of a certificate.
    pub duration: Duration,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the key.
        f.debug_struct("Signing")
            .field("duration", &self.duration)
            .finish_non_exhaustive()
    }
}

fn condition<'a>(request: &'a CertificateSigningRequest, kind: &str) -> Option<&'a CertificateSigningRequestCondition> {
    let conditions = request
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().find(|condition| condition.type_ == kind)
}

fn certificate(request: &CertificateSigningRequest) -> Option<&ByteString> {
    let status = request.status.as_ref()?;
    status
        .certificate
        .as_ref()
        .filter(|certificate| !certificate.0.is_empty())
}

fn add_condition(request: &mut CertificateSigningRequest, kind: &str, reason: &str, message: String, now: Timestamp) {
    let conditions = &mut request.status.get_or_insert_default().conditions;
    conditions
        .get_or_insert_default()
        .push(CertificateSigningRequestCondition {
            type_: kind.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(Time(now)),
            last_transition_time: Some(Time(now)),
        });
}

/// Adds the controller that approves.
pub fn start_approving(setup: &mut Setup) {
    let queue = setup.queue("certificate_approving");
    setup.informers.signing_requests.on_event(enqueue(&queue));
    let client = setup.client.clone();
    setup.run("certificate_approving", queue, 1, move |caches| {
        let requests = caches.signing_requests;
        move |key| {
            let (client, requests) = (client.clone(), requests.clone());
            async move { approve(&client, &requests, key).await }
        }
    });
}

async fn approve(
    client: &Client,
    requests: &Cache<CertificateSigningRequest>,
    key: ObjectKey,
) -> Result<Action, Error> {
    let Some(request) = requests.get(&key) else {
        return Ok(Action::Done);
    };
    let decided = condition(&request, "Approved").or(condition(&request, "Denied"));
    // A request that cannot be read is for people to look at.
    let Ok(wanted) = Wanted::parse(&request.spec.request.0) else {
        return Ok(Action::Done);
    };
    if certificate(&request).is_some() || decided.is_some() {
        return Ok(Action::Done);
    }
    for permission in rules::approval(&request, &wanted) {
        if !may(client, &request, permission).await? {
            continue;
        }
        let mut written = CertificateSigningRequest::clone(&request);
        let message = match permission {
            "selfnodeclient" => "Auto approving self kubelet client certificate after SubjectAccessReview.",
            _ => "Auto approving kubelet client certificate after SubjectAccessReview.",
        };
        add_condition(
            &mut written,
            "Approved",
            "AutoApproved",
            message.into(),
            Timestamp::now(),
        );
        let api = client.api::<CertificateSigningRequest>();
        let doing = format!("approve CertificateSigningRequest {key}");
        api.update_under(&written, "approval")
            .await
            .map_err(Error::client(doing))?;
        return Ok(Action::Done);
    }
    Ok(Action::Done)
}

/// Whether who asks may have the request approved unasked.
async fn may(client: &Client, request: &CertificateSigningRequest, permission: &str) -> Result<bool, Error> {
    let spec = &request.spec;
    let mut review = SubjectAccessReview::default();
    review.spec.user = spec.username.clone();
    review.spec.uid = spec.uid.clone();
    review.spec.groups = spec.groups.clone();
    review.spec.extra = spec.extra.clone();
    review.spec.resource_attributes = Some(ResourceAttributes {
        group: Some("certificates.k8s.io".into()),
        resource: Some("certificatesigningrequests".into()),
        verb: Some("create".into()),
        subresource: Some(permission.into()),
        version: Some("*".into()),
        ..Default::default()
    });
    let answer = client.api::<SubjectAccessReview>().create(&review).await;
    let answer = answer.map_err(Error::client("review access"))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// The request with its certificate, or with the reason why there is none; nothing if there is nothing to do.
pub fn sign(
    request: &CertificateSigningRequest,
    signing: &Signing,
    now: Timestamp,
) -> Option<CertificateSigningRequest> {
    let signers = [
        rules::CLIENT,
        rules::KUBELET_CLIENT,
        rules::KUBELET_SERVING,
        rules::LEGACY,
    ];
    let approved = condition(request, "Approved").is_some() && condition(request, "Denied").is_none();
    let open = certificate(request).is_none() && condition(request, "Failed").is_none();
    if !signers.contains(&request.spec.signer_name.as_str()) || !approved || !open {
        return None;
    }
    let mut written = request.clone();
    let made = Wanted::parse(&request.spec.request.0)
        .map_err(|error| format!("unable to parse csr {:?}: {error}", request.name()))
        .and_then(|wanted| match rules::refusal(request, &wanted) {
            Some(why) => Err(why),
            None => issue(request, &wanted, signing, now).map_err(|error| error.to_string()),
        });
    match made {
        Ok(pem) => written.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes())),
        Err(why) => add_condition(&mut written, "Failed", "SignerValidationFailure", why, now),
    }
    Some(written)
}

fn issue(
    request: &CertificateSigningRequest,
    wanted: &Wanted,
    signing: &Signing,
    now: Timestamp,
) -> Result<String, issue::Error> {
    let asked = request
        .spec
        .expiration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok());
    let least = Duration::from_secs(600);
    let life = asked.map_or(signing.duration, |seconds| {
        Duration::from_secs(seconds).clamp(least, signing.duration.max(least))
    });
    let life = SignedDuration::try_from(life).unwrap_or(SignedDuration::MAX);
    signing.authority.sign(&Leaf {
        subject: &wanted.subject,
        public_key: &wanted.public_key,
        alternative_names: wanted.alternative_names.as_deref(),
        usages: request.spec.usages.as_deref().unwrap_or_default(),
        not_before: now.checked_sub(BACKDATE).unwrap_or(now),
        not_after: now.checked_add(life - BACKDATE).unwrap_or(Timestamp::MAX),
    })
}

/// Adds the controller that signs, if there is a CA to sign with.
pub fn start_signing(setup: &mut Setup) {
    let Some(signing) = setup.config.signing.clone() else {
        return;
    };
    let queue = setup.queue("certificate_signing");
    setup.informers.signing_requests.on_event(enqueue(&queue));
    let client = setup.client.clone();
    setup.run("certificate_signing", queue, 1, move |caches| {
        let requests = caches.signing_requests;
        move |key| {
            let (client, requests, signing) = (client.clone(), requests.clone(), signing.clone());
            async move { sign_one(&client, &requests, &signing, key).await }
        }
    });
}

async fn sign_one(
    client: &Client,
    requests: &Cache<CertificateSigningRequest>,
    signing: &Arc<Signing>,
    key: ObjectKey,
) -> Result<Action, Error> {
    if let Some(written) = requests
        .get(&key)
        .and_then(|request| sign(&request, signing, Timestamp::now()))
    {
        let doing = format!("sign CertificateSigningRequest {key}");
        let api = client.api::<CertificateSigningRequest>();
        api.update_status(&written).await.map_err(Error::client(doing))?;
    }
    Ok(Action::Done)
}

/// How long the request still stays.
pub fn left(request: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let since = |time: Option<&Time>| time.map_or(Duration::ZERO, |time| elapsed(time.0, now));
    let answered = ["Denied", "Failed"]
        .iter()
        .find_map(|kind| condition(request, kind))
        .or_else(|| condition(request, "Approved").filter(|_| certificate(request).is_some()));
    let over = certificate(request).is_some_and(|certificate| {
        issue::pem(&certificate.0, "CERTIFICATE")
            .ok()
            .and_then(|der| {
                X509Certificate::from_der(&der)
                    .ok()
                    .map(|(_, c)| c.validity().not_after.timestamp())
            })
            .is_some_and(|end| end < now.as_second())
    });
    match answered {
        _ if over => Duration::ZERO,
        Some(condition) => ANSWERED.saturating_sub(since(condition.last_update_time.as_ref())),
        None => PENDING.saturating_sub(since(request.metadata.creation_timestamp.as_ref())),
    }
}

/// Adds the controller that removes.
pub fn start_cleaning(setup: &mut Setup) {
    let queue = setup.queue("certificate_cleaner");
    setup.informers.signing_requests.on_event(enqueue(&queue));
    let client = setup.client.clone();
    setup.run("certificate_cleaner", queue, 1, move |caches| {
        let requests = caches.signing_requests;
        move |key| {
            let (client, requests) = (client.clone(), requests.clone());
            async move { clean(&client, &requests, key).await }
        }
    });
}

async fn clean(client: &Client, requests: &Cache<CertificateSigningRequest>, key: ObjectKey) -> Result<Action, Error> {
    let Some(request) = requests.get(&key) else {
        return Ok(Action::Done);
    };
    let left = left(&request, Timestamp::now());
    if !left.is_zero() {
        return Ok(Action::RequeueAfter(left));
    }
    let how = DeleteParams::default().uid(request.uid());
    match client
        .api::<CertificateSigningRequest>()
        .delete("", &key.name, &how)
        .await
    {
        Err(error) if !error.is_not_found() => {
            Err(Error::client(format!("delete CertificateSigningRequest {key}"))(error))
        }
        _ => Ok(Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

    use super::*;
    use crate::pods::testing::now;

    fn authority() -> (Signing, String) {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let authority = Authority::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap();
        let duration = Duration::from_secs(3600);
        (Signing { authority, duration }, certificate)
    }

    fn request(signer: &str, usages: &[&str]) -> CertificateSigningRequest {
        let mut params = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.distinguished_name.push(DnType::OrganizationName, "team");
        let csr = params
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
            .unwrap();
        let mut request = CertificateSigningRequest::default();
        request.spec.request = ByteString(csr.into_bytes());
        request.spec.signer_name = signer.into();
        request.spec.usages = Some(usages.iter().map(|u| (*u).to_owned()).collect());
        request
    }

    #[test]
    fn an_approved_request_is_signed_by_the_authority() {
        let (signing, ca) = authority();
        let mut asked = request(rules::CLIENT, &["digital signature", "key encipherment", "client auth"]);
        asked.spec.expiration_seconds = Some(1200);
        assert_eq!(sign(&asked, &signing, now()), None);
        add_condition(&mut asked, "Approved", "r", "m".into(), now());
        let signed = sign(&asked, &signing, now()).unwrap();
        let der = issue::pem(&certificate(&signed).unwrap().0, "CERTIFICATE").unwrap();
        let (_, leaf) = X509Certificate::from_der(&der).unwrap();
        let ca = issue::pem(ca.as_bytes(), "CERTIFICATE").unwrap();
        let (_, ca) = X509Certificate::from_der(&ca).unwrap();
        leaf.verify_signature(Some(ca.public_key())).unwrap();
        assert_eq!(leaf.subject().to_string(), "CN=jane, O=team");
        assert_eq!(leaf.issuer(), ca.subject());
        let life = leaf.validity().not_after.timestamp() - now().as_second();
        assert_eq!(life, 900);
        let usage = leaf.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        assert!(leaf.extended_key_usage().unwrap().unwrap().value.client_auth && !leaf.is_ca());
        assert_eq!(
            leaf.subject_alternative_name()
                .unwrap()
                .unwrap()
                .value
                .general_names
                .len(),
            1
        );
        assert_eq!(sign(&signed, &signing, now()), None);
    }

    #[test]
    fn a_request_against_the_rules_fails() {
        let (signing, _) = authority();
        let mut asked = request(rules::CLIENT, &["server auth"]);
        add_condition(&mut asked, "Approved", "r", "m".into(), now());
        let failed = sign(&asked, &signing, now()).unwrap();
        let reason = condition(&failed, "Failed").unwrap().reason.clone();
        assert_eq!(reason.as_deref(), Some("SignerValidationFailure"));
        assert!(certificate(&failed).is_none());
    }

    #[test]
    fn answered_requests_go_after_an_hour() {
        let ago = |seconds| now() - SignedDuration::from_secs(seconds);
        let mut pending = CertificateSigningRequest::default();
        pending.metadata.creation_timestamp = Some(Time(ago(3600)));
        assert_eq!(left(&pending, now()), Duration::from_secs(23 * 3600));
        let mut denied = pending.clone();
        add_condition(&mut denied, "Denied", "r", "m".into(), ago(600));
        assert_eq!(left(&denied, now()), Duration::from_secs(3000));
        let mut approved = pending.clone();
        add_condition(&mut approved, "Approved", "r", "m".into(), ago(7200));
        assert_eq!(left(&approved, now()), Duration::from_secs(23 * 3600));
        approved.status.get_or_insert_default().certificate = Some(ByteString(b"x".to_vec()));
        assert_eq!(left(&approved, now()), Duration::ZERO);
    }
}

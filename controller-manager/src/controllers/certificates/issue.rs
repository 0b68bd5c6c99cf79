//! Making a certificate out of a request: a small DER writer over ring's signatures.
//!
//! The subject and the alternative names are copied byte by byte from the request: nothing of them is lost on the way, a second organization
//! least of all. Knows nothing of signers and their rules.

use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use x509_parser::prelude::{FromDer, X509Certificate};

/// What is wrong with a CA or a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not PEM, or not of this label.
    #[error("expected a PEM block {0}")]
    Pem(&'static str),
    /// Not the DER that was expected.
    #[error("{0}")]
    Der(String),
    /// A key of a kind that is not supported.
    #[error("expected an ECDSA P-256 or RSA key in PKCS #8")]
    Key,
    /// The signature could not be made.
    #[error("the key cannot sign")]
    Sign,
}

enum Key {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A certificate authority that can sign.
pub struct Authority {
    key: Key,
    /// Its subject, which is the issuer of what it signs: a DER `Name`.
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: Timestamp,
}

/// What goes into a certificate.
pub struct Leaf<'a> {
    /// DER `Name`.
    pub subject: &'a [u8],
    /// DER `SubjectPublicKeyInfo`.
    pub public_key: &'a [u8],
    /// The value of the extension, DER `GeneralNames`.
    pub alternative_names: Option<&'a [u8]>,
    /// As Kubernetes names them: `digital signature`, `client auth`.
    pub usages: &'a [String],
    /// First second of its life.
    pub not_before: Timestamp,
    /// Last second of its life.
    pub not_after: Timestamp,
}

impl Authority {
    /// Reads certificate and key from PEM.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let certificate = pem(certificate, "CERTIFICATE")?;
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|error| Error::Der(error.to_string()))?;
        let key_id = parsed
            .iter_extensions()
            .find_map(|extension| match extension.parsed_extension() {
                x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
        let key = pem(key, "PRIVATE KEY")?;
        let rng = SystemRandom::new();
        let key = match EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key, &rng) {
            Ok(key) => Key::Ecdsa(key),
            Err(_) => Key::Rsa(RsaKeyPair::from_pkcs8(&key).map_err(|_| Error::Key)?),
        };
        Ok(Self {
            key,
            subject: parsed.subject().as_raw().to_vec(),
            key_id,
            not_after: second(parsed.validity().not_after.timestamp()),
        })
    }

    /// Signs a certificate, which does not outlive the authority; the answer is PEM.
    ///
    /// # Errors
    /// When the key fails.
    pub fn sign(&self, leaf: &Leaf<'_>) -> Result<String, Error> {
        let algorithm = match &self.key {
            Key::Ecdsa(_) => sequence(&[&oid(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02])]),
            Key::Rsa(_) => sequence(&[
                &oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b]),
                &[0x05, 0x00],
            ]),
        };
        let not_after = leaf.not_after.min(self.not_after);
        let body = sequence(&[
            &tlv(0xa0, &tlv(0x02, &[2])),
            &tlv(0x02, &serial()),
            &algorithm,
            &self.subject,
            &sequence(&[&time(leaf.not_before), &time(not_after)]),
            leaf.subject,
            leaf.public_key,
            &tlv(0xa3, &self.extensions(leaf)),
        ]);
        let signature = self.signature(&body)?;
        let bits = tlv(0x03, &[&[0], signature.as_slice()].concat());
        Ok(to_pem("CERTIFICATE", &sequence(&[&body, &algorithm, &bits])))
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let rng = SystemRandom::new();
        match &self.key {
            Key::Ecdsa(key) => key.sign(&rng, message).map(|s| s.as_ref().to_vec()),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &rng, message, &mut signature)
                    .map(|()| signature)
            }
        }
        .map_err(|_| Error::Sign)
    }

    fn extensions(&self, leaf: &Leaf<'_>) -> Vec<u8> {
        let mut all = Vec::new();
        if let Some(bits) = key_usage(leaf.usages) {
            all.push(extension(&[0x55, 0x1d, 0x0f], true, &bits));
        }
        let purposes: Vec<Vec<u8>> = leaf.usages.iter().filter_map(|usage| purpose(usage)).collect();
        if !purposes.is_empty() {
            all.push(extension(&[0x55, 0x1d, 0x25], false, &sequence(&slices(&purposes))));
        }
        // Not an authority.
        all.push(extension(&[0x55, 0x1d, 0x13], true, &sequence(&[])));
        if let Some(id) = &self.key_id {
            all.push(extension(&[0x55, 0x1d, 0x23], false, &sequence(&[&tlv(0x80, id)])));
        }
        if let Some(names) = leaf.alternative_names {
            all.push(extension(&[0x55, 0x1d, 0x11], false, names));
        }
        sequence(&slices(&all))
    }
}

fn slices(parts: &[Vec<u8>]) -> Vec<&[u8]> {
    parts.iter().map(Vec::as_slice).collect()
}

fn second(unix: i64) -> Timestamp {
    Timestamp::from_second(unix).unwrap_or(Timestamp::MAX)
}

/// The contents of the first PEM block with that label.
pub fn pem(text: &[u8], label: &'static str) -> Result<Vec<u8>, Error> {
    x509_parser::pem::Pem::iter_from_buffer(text)
        .filter_map(Result::ok)
        .find(|block| block.label == label)
        .map(|block| block.contents)
        .ok_or(Error::Pem(label))
}

fn to_pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out + &format!("-----END {label}-----\n")
}

/// Tag, length, value.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(value.len()) {
        Ok(short @ 0..=127) => out.push(short),
        _ => {
            let bytes = value.len().to_be_bytes();
            let bytes: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | u8::try_from(bytes.len()).unwrap_or(8));
            out.extend(bytes);
        }
    }
    out.extend_from_slice(value);
    out
}

fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

fn oid(encoded: &[u8]) -> Vec<u8> {
    tlv(0x06, encoded)
}

fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    sequence(&[&oid(id), critical, &tlv(0x04, value)])
}

/// Sixteen random bytes, positive and not zero.
fn serial() -> [u8; 16] {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x3f | 0x40;
    bytes
}

/// Two digits for the year until 2049, then four.
fn time(at: Timestamp) -> Vec<u8> {
    let text = at.strftime("%Y%m%d%H%M%SZ").to_string();
    match text.strip_prefix("20") {
        Some(short) if text.as_str() < "2050" => tlv(0x17, short.as_bytes()),
        _ => tlv(0x18, text.as_bytes()),
    }
}

/// The bits of the usages that are bits, as a BIT STRING.
fn key_usage(usages: &[String]) -> Option<Vec<u8>> {
    const BITS: [&str; 9] = [
        "digital signature",
        "content commitment",
        "key encipherment",
        "data encipherment",
        "key agreement",
        "cert sign",
        "crl sign",
        "encipher only",
        "decipher only",
    ];
    let usages = usages.iter().map(|usage| match usage.as_str() {
        "signing" => "digital signature",
        other => other,
    });
    let bits = usages
        .filter_map(|usage| BITS.iter().position(|bit| *bit == usage))
        .fold(0u16, |bits, position| bits | 0x8000 >> position);
    if bits == 0 {
        return None;
    }
    let bytes = bits.to_be_bytes();
    let used = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
    let last = used.last().copied().unwrap_or(0);
    let unused = u8::try_from(last.trailing_zeros()).unwrap_or(0);
    Some(tlv(0x03, &[&[unused], used].concat()))
}

/// The object identifier of a usage that is a purpose.
fn purpose(usage: &str) -> Option<Vec<u8>> {
    let purpose: u8 = match usage {
        "any" => return Some(oid(&[0x55, 0x1d, 0x25, 0x00])),
        "server auth" => 1,
        "client auth" => 2,
        "code signing" => 3,
        "email protection" | "s/mime" => 4,
        "ipsec end system" => 5,
        "ipsec tunnel" => 6,
        "ipsec user" => 7,
        "timestamping" => 8,
        "ocsp signing" => 9,
        _ => return None,
    };
    Some(oid(&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, purpose]))
}

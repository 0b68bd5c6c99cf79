//! JSON Web Tokens: signing (ES256, RS256), verifying (also RS384, RS512, PS256, PS384, PS512, ES384) and key sets. Knows nothing of
//! Kubernetes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED, EcdsaKeyPair,
    EcdsaVerificationAlgorithm, KeyPair, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaKeyPair, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

/// DER of a P-256 SubjectPublicKeyInfo up to the point.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The same for an RSA key, up to the lengths: `SEQUENCE { OID rsaEncryption, NULL }`.
const RSA_ALGORITHM: [u8; 15] = [
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
/// Bytes of an uncompressed point on P-256 and on P-384.
const POINTS: [usize; 2] = [65, 97];
/// Longer tokens are refused unread.
const MAX_TOKEN: usize = 16 << 10;

/// Why a key or a token is no good. A token itself is never in the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwtError {
    /// The file holds no key of a kind that signs or verifies.
    #[error("not a P-256 or RSA key in PEM (private key or public key)")]
    Key,
    /// The token is not of the form `header.claims.signature`.
    #[error("malformed token")]
    Malformed,
    /// The token's algorithm is none that its key could have made.
    #[error("unexpected signature algorithm")]
    Algorithm,
    /// No key made the signature.
    #[error("invalid signature")]
    Signature,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Material {
    /// An uncompressed point.
    Ec(Vec<u8>),
    /// Modulus and exponent.
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// A public key with its name in the key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    material: Material,
    id: String,
    /// What a key set says the key is for, if it does.
    algorithm: Option<String>,
}

/// The name that upstream gives to a key: the hash of its SubjectPublicKeyInfo.
fn id_of(info: &[u8]) -> String {
    BASE64.encode(Sha256::digest(info))
}

impl PublicKey {
    fn of_point(point: &[u8]) -> Option<PublicKey> {
        if point.len() != POINTS[0] || point[0] != 4 {
            return None;
        }
        Some(PublicKey {
            material: Material::Ec(point.to_vec()),
            id: id_of(&[&SPKI_PREFIX, point].concat()),
            algorithm: None,
        })
    }

    /// Of an `RSAPublicKey`.
    fn of_rsa(key: &[u8]) -> Option<PublicKey> {
        let bits = [&[0][..], key].concat();
        let inner = [&RSA_ALGORITHM, &der(0x03, &bits)[..]].concat();
        Self::of_info(&der(0x30, &inner))
    }

    fn of_info(info: &[u8]) -> Option<PublicKey> {
        let (_, parsed) = SubjectPublicKeyInfo::from_der(info).ok()?;
        let material = match parsed.parsed().ok()? {
            Parsed::EC(point) => return PublicKey::of_point(point.data()),
            Parsed::RSA(rsa) => Material::Rsa {
                n: unsigned(rsa.modulus),
                e: unsigned(rsa.exponent),
            },
            _ => return None,
        };
        Some(PublicKey {
            material,
            id: id_of(info),
            algorithm: None,
        })
    }

    /// Reads a public key, or the public half of a private one, from PEM.
    ///
    /// # Errors
    /// [`JwtError::Key`].
    pub fn from_pem(pem: &[u8]) -> Result<PublicKey, JwtError> {
        if let Ok(signer) = Signer::from_pem(pem) {
            return Ok(signer.public);
        }
        let info = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| JwtError::Key)?;
        PublicKey::of_info(&info).ok_or(JwtError::Key)
    }

    /// Reads a key of a JWK set; `None` for one that does not verify signatures that we know.
    pub fn from_jwk(jwk: &Value) -> Option<PublicKey> {
        if jwk["use"].as_str().is_some_and(|used| used != "sig") {
            return None;
        }
        let bytes = |field: &str| jwk[field].as_str().and_then(|text| BASE64.decode(text).ok());
        let material = match jwk["kty"].as_str()? {
            "EC" => {
                let point = [&[4][..], &bytes("x")?, &bytes("y")?].concat();
                POINTS.contains(&point.len()).then_some(Material::Ec(point))?
            }
            "RSA" => Material::Rsa {
                n: unsigned(&bytes("n")?),
                e: unsigned(&bytes("e")?),
            },
            _ => return None,
        };
        Some(PublicKey {
            material,
            id: jwk["kid"].as_str().unwrap_or_default().to_owned(),
            algorithm: jwk["alg"].as_str().map(str::to_owned),
        })
    }

    /// The algorithm of our own tokens with this key.
    pub fn algorithm(&self) -> &'static str {
        match self.material {
            Material::Ec(_) => "ES256",
            Material::Rsa { .. } => "RS256",
        }
    }

    /// The key as a JWK.
    pub fn jwk(&self) -> Value {
        let mut jwk = json!({"use": "sig", "kid": self.id, "alg": self.algorithm()});
        match &self.material {
            Material::Ec(point) => {
                let (x, y) = point[1..].split_at(point.len() / 2);
                (jwk["kty"], jwk["crv"]) = ("EC".into(), "P-256".into());
                (jwk["x"], jwk["y"]) = (BASE64.encode(x).into(), BASE64.encode(y).into());
            }
            Material::Rsa { n, e } => {
                jwk["kty"] = "RSA".into();
                (jwk["n"], jwk["e"]) = (BASE64.encode(n).into(), BASE64.encode(e).into());
            }
        }
        jwk
    }

    fn made(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|own| own != algorithm) {
            return false;
        }
        match &self.material {
            Material::Ec(point) => {
                let known: &'static EcdsaVerificationAlgorithm = match (algorithm, point.len()) {
                    ("ES256", 65) => &ECDSA_P256_SHA256_FIXED,
                    ("ES384", 97) => &ECDSA_P384_SHA384_FIXED,
                    _ => return false,
                };
                UnparsedPublicKey::new(known, point).verify(message, signature).is_ok()
            }
            Material::Rsa { n, e } => {
                let known: &'static RsaParameters = match algorithm {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &RSA_PSS_2048_8192_SHA256,
                    "PS384" => &RSA_PSS_2048_8192_SHA384,
                    "PS512" => &RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }
                    .verify(known, message, signature)
                    .is_ok()
            }
        }
    }
}

/// One DER value; lengths below 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..=127 => out.push(len as u8),
        128..=255 => out.extend([0x81, len as u8]),
        _ => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
    out
}

/// A number without the zeros that its sign needs.
fn unsigned(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    number[zeros..].to_vec()
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

/// A private key that signs.
pub struct Signer {
    pair: Pair,
    random: SystemRandom,
    public: PublicKey,
}

impl Signer {
    /// Reads a key from PEM: PKCS#8, or PKCS#1 for RSA.
    ///
    /// # Errors
    /// [`JwtError::Key`].
    pub fn from_pem(pem: &[u8]) -> Result<Signer, JwtError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| JwtError::Key)?;
        let random = SystemRandom::new();
        let bytes = der.secret_der();
        let pair = match &der {
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(bytes).ok().map(Pair::Rsa),
            _ => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &random)
                .ok()
                .map(Pair::Ec)
                .or_else(|| RsaKeyPair::from_pkcs8(bytes).ok().map(Pair::Rsa)),
        };
        let pair = pair.ok_or(JwtError::Key)?;
        let public = match &pair {
            Pair::Ec(pair) => PublicKey::of_point(pair.public_key().as_ref()),
            Pair::Rsa(pair) => PublicKey::of_rsa(pair.public().as_ref()),
        };
        Ok(Signer {
            public: public.ok_or(JwtError::Key)?,
            pair,
            random,
        })
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A token with these claims.
    ///
    /// # Errors
    /// [`JwtError::Signature`] when the system gives no randomness.
    pub fn sign(&self, claims: &Value) -> Result<String, JwtError> {
        let header = json!({"alg": self.public.algorithm(), "kid": self.public.id});
        let message = format!(
            "{}.{}",
            BASE64.encode(header.to_string()),
            BASE64.encode(claims.to_string())
        );
        let signature = match &self.pair {
            Pair::Ec(pair) => pair
                .sign(&self.random, message.as_bytes())
                .map(|signature| signature.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &self.random, message.as_bytes(), &mut signature)
                    .map(|()| signature)
            }
        };
        let signature = signature.map_err(|_| JwtError::Signature)?;
        Ok(format!("{message}.{}", BASE64.encode(signature)))
    }
}

/// The claims of a token, unverified: to see whose it claims to be.
///
/// # Errors
/// [`JwtError::Malformed`].
pub fn claims(token: &str) -> Result<Value, JwtError> {
    if token.len() > MAX_TOKEN {
        return Err(JwtError::Malformed);
    }
    part(token.split('.').nth(1))
}

/// The claims of a token that one of the keys signed. Times and audience are the caller's to judge.
///
/// # Errors
/// What is wrong with the token.
pub fn verify(token: &str, keys: &[PublicKey]) -> Result<Value, JwtError> {
    if token.len() > MAX_TOKEN {
        return Err(JwtError::Malformed);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
    let (header, body) = message
        .split_once('.')
        .filter(|(_, body)| !body.contains('.'))
        .ok_or(JwtError::Malformed)?;
    let header = part(Some(header))?;
    const ALGORITHMS: [&str; 8] = ["ES256", "ES384", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let algorithm = header["alg"].as_str().unwrap_or_default();
    if !ALGORITHMS.contains(&algorithm) {
        return Err(JwtError::Algorithm);
    }
    let signature = BASE64.decode(signature).map_err(|_| JwtError::Malformed)?;
    let wanted = header["kid"].as_str();
    let mut candidates = keys
        .iter()
        .filter(|key| wanted.is_none_or(|id| id == key.id || key.id.is_empty()));
    if candidates.any(|key| key.made(algorithm, message.as_bytes(), &signature)) {
        part(Some(body))
    } else {
        Err(JwtError::Signature)
    }
}

fn part(text: Option<&str>) -> Result<Value, JwtError> {
    let bytes = text.and_then(|t| BASE64.decode(t).ok()).ok_or(JwtError::Malformed)?;
    serde_json::from_slice(&bytes)
        .ok()
        .filter(Value::is_object)
        .ok_or(JwtError::Malformed)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::authn) fn signer() -> Signer {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let bytes = document.map(|d| d.as_ref().to_vec()).unwrap_or_default();
        let body = base64::engine::general_purpose::STANDARD.encode(bytes);
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        Signer::from_pem(pem.as_bytes()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn rsa() -> Signer {
        Signer::from_pem(include_bytes!("testdata/rsa.pem")).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn signed_tokens_verify_and_changed_ones_do_not() {
        for (one, algorithm) in [(signer(), "ES256"), (rsa(), "RS256")] {
            let other = signer();
            let claims_in = json!({"sub": "x", "exp": 5});
            let token = one.sign(&claims_in).unwrap_or_default();
            let set = [other.public().clone(), one.public().clone()];
            assert_eq!(verify(&token, &set), Ok(claims_in.clone()));
            assert_eq!(claims(&token), Ok(claims_in.clone()));
            assert_eq!(verify(&token, &[other.public().clone()]), Err(JwtError::Signature));
            let jwk = one.public().jwk();
            assert_eq!(jwk["alg"], algorithm);
            let published = PublicKey::from_jwk(&jwk).unwrap_or_else(|| panic!("{jwk}"));
            assert_eq!(verify(&token, &[published]), Ok(claims_in));
            let parts: Vec<&str> = token.split('.').collect();
            let forged = format!("{}.{}.{}", parts[0], BASE64.encode("{\"sub\":\"y\"}"), parts[2]);
            assert_eq!(verify(&forged, &[one.public().clone()]), Err(JwtError::Signature));
            let none = format!("{}.{}.", BASE64.encode("{\"alg\":\"none\"}"), parts[1]);
            assert_eq!(verify(&none, &[one.public().clone()]), Err(JwtError::Algorithm));
        }
        for garbage in ["", "a", "a.b", "a.b.c", "a.b.c.d", "...."] {
            assert_eq!(verify(garbage, &[]), Err(JwtError::Malformed), "{garbage}");
        }
    }

    #[test]
    fn a_public_rsa_key_has_the_id_of_its_private_half() {
        let public = PublicKey::from_pem(include_bytes!("testdata/rsa.pub")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(&public, rsa().public());
    }
}

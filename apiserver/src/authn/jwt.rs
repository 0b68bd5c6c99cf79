//! JSON Web Tokens with ES256, as service accounts carry them: signing, verifying, and the key set document. Knows nothing of Kubernetes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// DER of a P-256 SubjectPublicKeyInfo up to the point.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Bytes of an uncompressed point.
const POINT: usize = 65;
/// Longer tokens are refused unread.
const MAX_TOKEN: usize = 16 << 10;

/// Why a key or a token is no good. A token itself is never in the text.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JwtError {
    /// The file holds no P-256 key.
    #[error("not a P-256 key in PEM (PKCS#8 private key or public key)")]
    Key,
    /// The token is not of the form `header.claims.signature`.
    #[error("malformed token")]
    Malformed,
    /// The token's algorithm is not ES256.
    #[error("unexpected signature algorithm")]
    Algorithm,
    /// No key made the signature.
    #[error("invalid signature")]
    Signature,
}

/// A public key with its name in the key set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    point: Vec<u8>,
    id: String,
}

impl PublicKey {
    fn of_point(point: &[u8]) -> Option<PublicKey> {
        if point.len() != POINT || point[0] != 4 {
            return None;
        }
        let mut hash = Sha256::new();
        hash.update(SPKI_PREFIX);
        hash.update(point);
        Some(PublicKey {
            point: point.to_vec(),
            id: BASE64.encode(hash.finalize()),
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
        let point = info.strip_prefix(&SPKI_PREFIX[..]).ok_or(JwtError::Key)?;
        PublicKey::of_point(point).ok_or(JwtError::Key)
    }

    /// The key as a JWK.
    pub fn jwk(&self) -> Value {
        let (x, y) = (&self.point[1..33], &self.point[33..]);
        json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256", "x": BASE64.encode(x), "y": BASE64.encode(y)})
    }
}

/// A private key that signs.
pub struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    public: PublicKey,
}

impl Signer {
    /// Reads a PKCS#8 key from PEM.
    ///
    /// # Errors
    /// [`JwtError::Key`].
    pub fn from_pem(pem: &[u8]) -> Result<Signer, JwtError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).map_err(|_| JwtError::Key)?;
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
            .map_err(|_| JwtError::Key)?;
        let public = PublicKey::of_point(pair.public_key().as_ref()).ok_or(JwtError::Key)?;
        Ok(Signer { pair, random, public })
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
        let header = json!({"alg": "ES256", "kid": self.public.id});
        let message = format!(
            "{}.{}",
            BASE64.encode(header.to_string()),
            BASE64.encode(claims.to_string())
        );
        let signature = self
            .pair
            .sign(&self.random, message.as_bytes())
            .map_err(|_| JwtError::Signature)?;
        Ok(format!("{message}.{}", BASE64.encode(signature.as_ref())))
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
    if header["alg"] != "ES256" {
        return Err(JwtError::Algorithm);
    }
    let signature = BASE64.decode(signature).map_err(|_| JwtError::Malformed)?;
    let wanted = header["kid"].as_str();
    let candidates = keys.iter().filter(|key| wanted.is_none_or(|id| id == key.id));
    let good = |key: &PublicKey| {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &key.point)
            .verify(message.as_bytes(), &signature)
            .is_ok()
    };
    if candidates.into_iter().any(good) {
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

    #[test]
    fn signed_tokens_verify_and_changed_ones_do_not() {
        let (one, other) = (signer(), signer());
        let claims_in = json!({"sub": "x", "exp": 5});
        let token = one.sign(&claims_in).unwrap_or_default();
        assert_eq!(
            verify(&token, &[other.public().clone(), one.public().clone()]),
            Ok(claims_in.clone())
        );
        assert_eq!(claims(&token), Ok(claims_in));
        assert_eq!(verify(&token, &[other.public().clone()]), Err(JwtError::Signature));
        let parts: Vec<&str> = token.split('.').collect();
        let forged = format!("{}.{}.{}", parts[0], BASE64.encode("{\"sub\":\"y\"}"), parts[2]);
        assert_eq!(verify(&forged, &[one.public().clone()]), Err(JwtError::Signature));
        let none = format!("{}.{}.", BASE64.encode("{\"alg\":\"none\"}"), parts[1]);
        assert_eq!(verify(&none, &[one.public().clone()]), Err(JwtError::Algorithm));
        for garbage in ["", "a", "a.b", "a.b.c", "a.b.c.d", "...."] {
            assert_eq!(verify(garbage, &[]), Err(JwtError::Malformed), "{garbage}");
        }
        assert_eq!(one.public().jwk()["crv"], "P-256");
    }
}

//! Providers whose keys stand in the configuration: AES-GCM and NaCl's secretbox.

use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Key, Nonce as BoxNonce, XSalsa20Poly1305};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::{Provider, Wrapped};

const GCM_NONCE: usize = 12;
const BOX_NONCE: usize = 24;
const REFUSED: &str = "the key does not fit";

fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "no randomness")?;
    Ok(bytes)
}

fn wrapped(provider: &dyn Provider, key: Vec<u8>) -> Wrapped {
    Wrapped {
        provider: provider.kind().to_owned(),
        name: provider.name().to_owned(),
        key,
        ..Wrapped::default()
    }
}

/// AES-GCM with 16 or 32 bytes.
pub(super) struct AesGcm {
    name: String,
    key: LessSafeKey,
}

impl AesGcm {
    /// `None` for a key of another length.
    pub(super) fn new(name: &str, secret: &[u8]) -> Option<Self> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            32 => &AES_256_GCM,
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            key: LessSafeKey::new(UnboundKey::new(algorithm, secret).ok()?),
        })
    }
}

impl std::fmt::Debug for AesGcm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "aesgcm {:?}", self.name)
    }
}

impl Provider for AesGcm {
    fn kind(&self) -> &'static str {
        "aesgcm"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn wrap(&self, key: &[u8]) -> Result<Wrapped, String> {
        let nonce: [u8; GCM_NONCE] = random()?;
        let mut body = key.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body)
            .map_err(|_| REFUSED)?;
        Ok(wrapped(self, [&nonce[..], &body].concat()))
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String> {
        let (nonce, body) = wrapped.key.split_first_chunk::<GCM_NONCE>().ok_or(REFUSED)?;
        let mut body = body.to_vec();
        let plain = self
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut body)
            .map_err(|_| REFUSED)?;
        Ok(plain.to_vec())
    }
}

/// XSalsa20 and Poly1305 with 32 bytes.
pub(super) struct SecretBox {
    name: String,
    cipher: XSalsa20Poly1305,
}

impl SecretBox {
    /// `None` for a key of another length.
    pub(super) fn new(name: &str, secret: &[u8]) -> Option<Self> {
        let secret: [u8; 32] = secret.try_into().ok()?;
        Some(Self {
            name: name.to_owned(),
            cipher: XSalsa20Poly1305::new(&Key::from(secret)),
        })
    }
}

impl std::fmt::Debug for SecretBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "secretbox {:?}", self.name)
    }
}

impl Provider for SecretBox {
    fn kind(&self) -> &'static str {
        "secretbox"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn wrap(&self, key: &[u8]) -> Result<Wrapped, String> {
        let nonce: [u8; BOX_NONCE] = random()?;
        let body = self.cipher.encrypt(&BoxNonce::from(nonce), key).map_err(|_| REFUSED)?;
        Ok(wrapped(self, [&nonce[..], &body].concat()))
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String> {
        let (nonce, body) = wrapped.key.split_first_chunk::<BOX_NONCE>().ok_or(REFUSED)?;
        self.cipher
            .decrypt(&BoxNonce::from(*nonce), body)
            .map_err(|_| REFUSED.to_owned())
    }
}

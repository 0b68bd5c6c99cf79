//! KMS plugins: a gRPC service (version 2) behind a Unix socket on this machine that wraps data keys. Owns the channel, which connects when it
//! is needed.

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::kms::key_management_service_client::KeyManagementServiceClient;
use proto::kms::{DecryptRequest, EncryptRequest, StatusRequest, StatusResponse};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{Provider, Wrapped};

/// Bounds on what a plugin may answer, bytes; upstream's.
const KEY_ID: usize = 1 << 10;
const CIPHERTEXT: usize = 1 << 10;

/// One plugin.
pub struct Kms {
    name: String,
    client: KeyManagementServiceClient<Channel>,
    timeout: Duration,
    runtime: Handle,
}

impl std::fmt::Debug for Kms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kms {:?}", self.name)
    }
}

impl Kms {
    /// A plugin behind the socket at `path`. Must be called inside of a runtime, which then makes the calls.
    ///
    /// # Errors
    /// When there is no runtime.
    pub fn new(name: &str, path: &str, timeout: Duration) -> Result<Kms, String> {
        let runtime = Handle::try_current().map_err(|error| error.to_string())?;
        let path = PathBuf::from(path);
        let connect = move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        // The address is never looked up: the connector goes to the socket.
        let endpoint = Endpoint::from_static("http://localhost").connect_timeout(timeout);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(connect));
        Ok(Kms {
            name: name.to_owned(),
            client: KeyManagementServiceClient::new(channel),
            timeout,
            runtime,
        })
    }

    /// Waits for a call on this thread, while the runtime's threads make it.
    fn wait<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>> + Send + 'static,
    ) -> Result<T, String> {
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        let limited = tokio::time::timeout(self.timeout, call);
        self.runtime.spawn(async move {
            // Nobody waits any more when the other end is gone.
            let _ = answer.send(limited.await);
        });
        match answered.recv_timeout(self.timeout + Duration::from_secs(1)) {
            Ok(Ok(Ok(response))) => Ok(response.into_inner()),
            Ok(Ok(Err(status))) => Err(format!("{:?}: {}", status.code(), status.message())),
            Ok(Err(_)) | Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    fn status(&self) -> Result<StatusResponse, String> {
        let mut client = self.client.clone();
        let status = self.wait(async move { client.status(StatusRequest {}).await })?;
        if status.healthz != "ok" {
            return Err(format!("unexpected healthz status: {}", status.healthz));
        }
        if status.version != "v2" && status.version != "v2beta1" {
            return Err(format!("expected version v2, found {:?}", status.version));
        }
        check_key_id(&status.key_id)?;
        Ok(status)
    }
}

fn check_key_id(id: &str) -> Result<(), String> {
    match id.len() {
        0 => Err("keyID is empty".into()),
        n if n > KEY_ID => Err(format!("keyID is {n} bytes, at most {KEY_ID} are allowed")),
        _ => Ok(()),
    }
}

impl Provider for Kms {
    fn kind(&self) -> &'static str {
        "kms"
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn wrap(&self, key: &[u8]) -> Result<Wrapped, String> {
        self.status()?;
        let request = EncryptRequest {
            plaintext: key.to_vec(),
            uid: uuid::Uuid::new_v4().to_string(),
        };
        let mut client = self.client.clone();
        let answer = self.wait(async move { client.encrypt(request).await })?;
        check_key_id(&answer.key_id)?;
        if answer.ciphertext.is_empty() || answer.ciphertext.len() > CIPHERTEXT {
            return Err(format!(
                "the ciphertext is {} bytes, expected 1 to {CIPHERTEXT}",
                answer.ciphertext.len()
            ));
        }
        Ok(Wrapped {
            provider: self.kind().to_owned(),
            name: self.name.clone(),
            key_id: answer.key_id,
            key: answer.ciphertext,
            annotations: answer.annotations.into_iter().collect(),
        })
    }

    fn unwrap(&self, wrapped: &Wrapped) -> Result<Vec<u8>, String> {
        let request = DecryptRequest {
            ciphertext: wrapped.key.clone(),
            uid: uuid::Uuid::new_v4().to_string(),
            key_id: wrapped.key_id.clone(),
            annotations: wrapped.annotations.clone().into_iter().collect::<HashMap<_, _>>(),
        };
        let mut client = self.client.clone();
        self.wait(async move { client.decrypt(request).await })
            .map(|answer| answer.plaintext)
    }

    fn check(&self, wrapped: &Wrapped) -> Result<bool, String> {
        Ok(self.status()?.key_id != wrapped.key_id)
    }
}

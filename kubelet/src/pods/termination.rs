//! The termination message of a container that ended: its file, or the end of its log.

use crate::runtime::model::Container;
use tokio::io::AsyncReadExt as _;

/// Upstream's limit of one container's message in bytes.
const MAX_MESSAGE: u64 = 4096;
/// Upstream's limits of a message taken from the log.
const MAX_LOG_BYTES: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// Adds what the container left behind to its message.
pub async fn read_message(container: &mut Container) {
    let mut text = match &container.termination_file {
        Some(path) => read_file(path).await,
        None => String::new(),
    };
    if text.is_empty() && container.fallback_to_logs && container.exit_code != 0 && !container.log_path.is_empty() {
        text = crate::logs::tail_text(&container.log_path, MAX_LOG_LINES, MAX_LOG_BYTES).await;
    }
    if text.is_empty() {
        return;
    }
    if !container.message.is_empty() {
        container.message.push_str(": ");
    }
    container.message.push_str(&text);
}

async fn read_file(path: &str) -> String {
    let mut bytes = Vec::new();
    match tokio::fs::File::open(path).await {
        Ok(file) => match file.take(MAX_MESSAGE).read_to_end(&mut bytes).await {
            Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("Error on reading termination message from logs: {error}"),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => format!("Error on reading termination log {path}: {error}"),
    }
}

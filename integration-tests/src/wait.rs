//! Waiting for a state, never for a time.

use std::time::{Duration, Instant};

/// How long a state may take to come on a slow machine.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(100);

/// Asks again and again until there is an answer.
///
/// # Panics
/// With the last reason, when patience ends.
pub fn poll<T>(what: &str, ask: impl Fn() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(reason) if begun.elapsed() > PATIENCE => panic!("{what}: still not so after {PATIENCE:?}: {reason}"),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// When patience ends.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    poll(what, || holds().then_some(()).ok_or_else(String::new));
}

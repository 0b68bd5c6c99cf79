//! What the operator reads: plain lines on standard output.

use std::fmt::Display;
use std::io::Write;
use std::time::Instant;

/// Writes one line. A reader that went away is no reason to stop working.
pub fn line(text: impl Display) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// Lines that say how long a task has been going.
pub struct Progress {
    start: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Says what has just been reached.
    pub fn step(&self, text: impl Display) {
        line(format_args!("{:>7.2}s  {text}", self.start.elapsed().as_secs_f64()));
    }
}

//! Container logs: CRI's line format, reading with all of `kubectl logs`' options, following across rotation, and rotating.

pub mod line;
pub mod read;
pub mod rotate;

pub use read::tail_text;

//! SPDY/3.1, as far as Kubernetes uses it (draft-mbelshe-httpbis-spdy-00): streams with headers, half-close, ping.
//!
//! Kubernetes' implementation sends no WINDOW_UPDATE and minds none, so flow control is TCP's: a reader that does not read holds back the
//! whole session.

mod frame;
mod headers;
mod session;

pub use frame::{Frame, FrameError};
pub use headers::Headers;
pub use session::{Incoming, Reader, Role, Session, Stream, Writer};

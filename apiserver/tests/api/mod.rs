//! What clients see, subject by subject.

mod audit;
mod authn;
mod http;

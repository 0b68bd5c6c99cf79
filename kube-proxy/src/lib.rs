//! tmp
pub mod dns;
pub mod rules;

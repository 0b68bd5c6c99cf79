//! tmp
pub mod rules;

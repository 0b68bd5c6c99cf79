//! Custom resources: kinds that come and go at run time with their CustomResourceDefinitions.
//!
//! Owns everything that follows from a definition: its own validation and status, the kinds it makes ([`catalog`]), the form in which their
//! objects are stored, and their removal. It never serves a request: that is the registry's.

pub mod catalog;
pub mod convert;
pub mod custom;
pub mod definition;
pub mod expressions;
pub mod feed;
pub mod jsonpath;
pub mod schema;
pub mod shape;
pub mod status;
pub mod validation;

pub mod value;

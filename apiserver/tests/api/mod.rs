//! What clients see, subject by subject.

mod admission;
mod aggregation;
mod apply;
mod audit;
mod authn;
mod custom;
mod discovery;
mod flow;
mod http;
mod kinds;
mod policies;
mod proxies;
mod reads;
mod remote;
mod tables;
mod tls_server;
mod webhooks;
mod writes;

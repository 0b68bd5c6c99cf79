//! The store through its public interface: both implementations, the fault cases of the replicated one.

#[path = "store/conformance.rs"]
mod conformance;
#[path = "store/fixture.rs"]
mod fixture;

//! The store through its public interface: both implementations, the fault cases of the replicated one.

#[path = "store/cluster.rs"]
mod cluster;
#[path = "store/conformance.rs"]
mod conformance;
#[path = "store/disk_full.rs"]
mod disk_full;
#[path = "store/encryption.rs"]
mod encryption;
#[path = "store/faults.rs"]
mod faults;
#[path = "store/figures.rs"]
mod figures;
#[path = "store/fixture.rs"]
mod fixture;
#[path = "store/kill.rs"]
mod kill;

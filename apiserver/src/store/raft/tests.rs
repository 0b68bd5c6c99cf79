//! openraft's own suite on the log and the state machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use openraft::StorageIOError;
use openraft::testing::{StoreBuilder, Suite};

use super::log::LogStore;
use super::state_machine::StateMachine;
use super::types::{Member, StorageError, TypeConfig};
use super::{Opened, RaftConfig, open};

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, (tempfile::TempDir, Arc<super::Metrics>)> for Builder {
    async fn build(&self) -> Result<((tempfile::TempDir, Arc<super::Metrics>), LogStore, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        // Small segments, so that the suite crosses their borders.
        config.segment_bytes = 128 << 10;
        let Opened {
            log,
            state_machine,
            metrics,
            ..
        } = open(&config).map_err(|e| StorageIOError::read(&std::io::Error::other(e.to_string())))?;
        Ok(((dir, metrics), log, state_machine))
    }
}

fn config(dir: &std::path::Path) -> RaftConfig {
    let connect: super::Connect = Arc::new(|address| Ok(super::endpoint(address)?.connect_lazy()));
    RaftConfig {
        members: BTreeMap::new(),
        ..RaftConfig::single(dir, Member::default(), connect, |value, _| value.to_vec())
    }
}

#[test]
fn openrafts_suite_passes() {
    Suite::test_all(Builder).unwrap();
}

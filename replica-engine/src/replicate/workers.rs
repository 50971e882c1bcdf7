//! Bounds how much is done at the same time for many databases.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many of the databases that share it are worked at at the same time: each replication waits
/// for its turn, and gets it in the order in which they asked.
///
/// That bounds the memory, the threads and the requests to stores of a process with thousands of
/// databases. Those whose store fails share a quarter of the turns, so that they don't hold up
/// others; as many jobs of the upkeep go on besides.
#[derive(Clone)]
pub struct Workers(Arc<Turns>);

struct Turns {
    count: NonZeroUsize,
    all: Arc<Semaphore>,
    failing: Arc<Semaphore>,
    upkeep: Arc<Semaphore>,
    failing_upkeep: Arc<Semaphore>,
}

/// The right to do something now, for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Turn {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Workers {
    /// So many workers.
    pub fn new(count: NonZeroUsize) -> Workers {
        let turns = |turns: usize| Arc::new(Semaphore::new(turns.min(Semaphore::MAX_PERMITS)));
        let quarter = count.get().div_ceil(4);
        Workers(Arc::new(Turns {
            count,
            all: turns(count.get()),
            failing: turns(quarter),
            upkeep: turns(quarter),
            failing_upkeep: turns(quarter.div_ceil(4)),
        }))
    }

    /// Waits for a turn to replicate, which has failed the last time or not.
    pub(crate) async fn turn(&self, is_failing: bool) -> Turn {
        let failing = match is_failing {
            true => permit(&self.0.failing).await,
            false => None,
        };
        Turn {
            _permits: [failing, permit(&self.0.all).await],
        }
    }

    /// Waits for a turn to do a job of the upkeep, which has failed the last time or not.
    pub(crate) async fn upkeep_turn(&self, is_failing: bool) -> Turn {
        let failing = match is_failing {
            true => permit(&self.0.failing_upkeep).await,
            false => None,
        };
        Turn {
            _permits: [failing, permit(&self.0.upkeep).await],
        }
    }
}

/// One of `turns`, which never end.
async fn permit(turns: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(turns).acquire_owned().await.ok()
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Workers").field(&self.0.count).finish()
    }
}

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
/// others; as many jobs of the upkeep go on besides. One that gets nothing stored for ten seconds
/// counts as one of those, and where there are enough of them and others wait it is given up, and
/// tried again in their turn.
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
    failing: Option<OwnedSemaphorePermit>,
    _one: Option<OwnedSemaphorePermit>,
    turns: [Arc<Semaphore>; 2],
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
        turn(&self.0.all, &self.0.failing, is_failing).await
    }

    /// Waits for a turn to do a job of the upkeep, which has failed the last time or not.
    pub(crate) async fn upkeep_turn(&self, is_failing: bool) -> Turn {
        turn(&self.0.upkeep, &self.0.failing_upkeep, is_failing).await
    }
}

impl Turn {
    /// Counts it as one of those that fail from now on, where there may be one more.
    pub(crate) fn fails(&mut self) -> bool {
        let [_, failing] = &self.turns;
        if self.failing.is_none() {
            self.failing = Arc::clone(failing).try_acquire_owned().ok();
        }
        self.failing.is_some()
    }

    /// Whether there is none left for others.
    pub(crate) fn is_last(&self) -> bool {
        let [all, _] = &self.turns;
        all.available_permits() == 0
    }
}

async fn turn(all: &Arc<Semaphore>, failing: &Arc<Semaphore>, is_failing: bool) -> Turn {
    Turn {
        failing: match is_failing {
            true => permit(failing).await,
            false => None,
        },
        _one: permit(all).await,
        turns: [Arc::clone(all), Arc::clone(failing)],
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

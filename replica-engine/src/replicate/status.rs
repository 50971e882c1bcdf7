//! What a running replication is at, and what happens to it.

use std::sync::Arc;
use std::time::Duration;

use replica_core::{FileInfo, Timestamp, Txid};

use super::checkpoint::Checkpointed;
use super::decide::SnapshotReason;
use super::error::ReplicateError;
use crate::upkeep::{UpkeepError, UpkeepJob, UpkeepTrouble};

/// What a running replication is at.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Status {
    /// The last transaction in the replica, if there is one.
    pub txid: Option<Txid>,
    /// When the replica was last known to have everything that was committed.
    pub complete_at: Option<Timestamp>,
    /// How many files were stored since it was started.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many bytes the database's log takes on the disk.
    pub wal_bytes: u64,
    /// Whether the log has been begun anew without this replica, which was too far behind, since it
    /// had everything: see [`Event::LeftBehind`].
    pub left_behind: bool,
    /// What is wrong at present.
    pub trouble: Option<Trouble>,
    /// Why the log is not checkpointed, so that it grows, though what is committed is stored.
    pub checkpoint_trouble: Option<Trouble>,
    /// Which jobs of the replica's upkeep fail at present. Replication goes on.
    pub upkeep: Vec<UpkeepTrouble>,
    /// Whether the upkeep has ended while replication goes on: see [`Event::UpkeepEnded`].
    pub upkeep_ended: bool,
    /// Whether it has ended: nothing is replicated any more.
    pub ended: bool,
}

/// What keeps a replication from going on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Trouble {
    /// What happened last.
    pub error: Arc<ReplicateError>,
    /// Since when nothing has succeeded.
    pub since: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
}

/// What happens to a running replication.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Files were stored.
    Stored {
        /// The last transaction of them.
        txid: Txid,
        /// How many there are.
        files: u64,
        /// How many bytes they have.
        bytes: u64,
        /// Why one of them is the whole database, where one is.
        snapshot: Option<SnapshotReason>,
    },
    /// The clock says a much earlier time than it did when the file before was made. Either was
    /// wrong, so states from the time in between can't be restored by their time.
    ClockBack {
        /// By how much.
        by: Duration,
    },
    /// The log was checkpointed.
    Checkpointed(Checkpointed),
    /// It could not be checkpointed, which is tried again; what is committed is stored all the same.
    /// It is not told again until it has succeeded.
    CheckpointFailed(Arc<ReplicateError>),
    /// Something failed, and is tried again until it succeeds, which is told by one
    /// [`Resumed`](Event::Resumed) and nothing in between.
    Interrupted(Arc<ReplicateError>),
    /// What was interrupted goes on.
    Resumed {
        /// How often it was tried in vain.
        attempts: u32,
        /// How long it was interrupted.
        after: Duration,
    },
    /// The log is begun anew without this replica, which lacks too much of it: for other replicas of
    /// the same database, or because its store has taken nothing for so long that the disk would
    /// fill (see [`wal_max`](crate::ReplicateOptions::wal_max)). Nothing that it has is lost by that:
    /// once its store can be written again it gets what it lacks if the log still has that, and
    /// otherwise the whole database. It is not told again until it has everything.
    LeftBehind,
    /// Files of the replica were put together to one, which may be a snapshot.
    Compacted {
        /// The file that they are now.
        file: FileInfo,
        /// How many they were.
        inputs: usize,
    },
    /// Files of the replica were deleted, since nothing needs them any more.
    Deleted {
        /// How many.
        files: u64,
        /// How many bytes they had.
        bytes: u64,
    },
    /// A job of the replica's upkeep failed, and is tried again until it succeeds, which is told by
    /// one [`UpkeepResumed`](Event::UpkeepResumed) and nothing in between. Replication goes on.
    UpkeepInterrupted {
        /// The job.
        job: UpkeepJob,
        /// What happened.
        error: Arc<UpkeepError>,
    },
    /// The job goes on.
    UpkeepResumed(UpkeepJob),
    /// The replica's upkeep has panicked, and is done no more. Replication goes on until it is shut
    /// down, and passes the panic on then.
    UpkeepEnded,
    /// So many events were not taken in time, and are lost.
    Missed(u64),
    /// Nothing is replicated any more: it was shut down, or there is an error that lasts.
    Ended(Option<Arc<ReplicateError>>),
}

/// How a replication has ended that was shut down.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ended {
    /// Whether everything is stored that was committed before it was shut down, and was still there
    /// as it was stored at a last look. Where not, the trouble of the status says why, and without
    /// one there was not enough time.
    pub complete: bool,
    /// Whether the store has acknowledged all of that. Where only this is true, it is that last look
    /// which has failed, or has found files of somebody else.
    pub acknowledged: bool,
    /// What it was at in the end.
    pub status: Status,
}

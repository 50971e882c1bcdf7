//! Copies SQLite databases into the LTX files of a replica, and brings them back from those.
//!
//! A restore is planned, and then carried out: [`RestorePlan`] chooses the files, without any
//! I/O, as Litestream does; [`restore`] reads and verifies them and writes the database, and plans
//! again where one of them is damaged. [`check`] reads a whole replica and judges it; [`verify`]
//! restores it and compares the result with the live database. A [`Follower`] keeps a restored
//! database up to date.
//!
//! A [`Replicator`] copies what is committed to a live database, of which it reads the write-ahead
//! log; [`wal`] tells what is in one. It does so once for each call, or, as a [`Replication`], for
//! as long as it is wanted.

#[cfg(not(unix))]
compile_error!("replica-engine needs the file system of a Unix");

mod apply;
mod check;
mod damage;
mod database;
mod drill;
mod error;
mod fetch;
mod follow;
mod integrity;
mod listing;
mod occupied;
mod plan;
mod progress;
mod replicate;
mod restore;
mod staged;
mod survey;
mod upkeep;
mod verify;
pub mod wal;

pub use check::{CheckProgress, Checked, Finding, RestorePoint, check};
pub use damage::{Damage, Fault};
pub use drill::{
    Compared, Differences, Doubt, Flaw, Verdict, VerifyError, VerifyOptions, VerifyProgress, verify,
};
pub use error::RestoreError;
pub use follow::{FollowError, FollowOptions, Followed, Follower};
pub use integrity::Integrity;
pub use plan::{PlanError, RestorePlan, Target};
pub use progress::Progress;
pub use replicate::{
    Checkpoint, Checkpointed, DISABLE_AUTOCHECKPOINT_PRAGMA, Ended, Event, ReplicateError,
    ReplicateOptions, Replication, Replicator, SnapshotReason, Status, Synced, Trouble, Workers,
};
pub use restore::{RestoreOptions, Restored, plan, restore};
pub use staged::Existing;
pub use survey::{LevelSurvey, Standing, Survey};
pub use upkeep::{
    Levels, Retention, UpkeepError, UpkeepJob, UpkeepOptions, UpkeepTrouble, compact, compact_to,
    snapshot,
};
pub use verify::{Sound, check_file};

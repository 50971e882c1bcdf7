//! SQLite replication for applications: keep a replica of a live database, and bring it back.
//!
//! # Replicate
//!
//! A [`Replicator`] knows one database and its replica. Once it is started it is a [`Replication`],
//! which runs in the background until it is shut down: there is no side process.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let database = folder.path().join("app.db");
//! # rusqlite::Connection::open(&database)?.execute_batch("CREATE TABLE t(a)")?;
//! # let url = &format!("file://{}", folder.path().join("replica").display());
//! use std::time::Duration;
//!
//! use futures::StreamExt;
//! use replica::{Event, ReplicateOptions, Replicator};
//!
//! // Open: the URL first, such as file:///backups/app, and then the database, such as app.db.
//! let client = replica::open_to_replicate(url)?;
//! let options = ReplicateOptions::new(&database, replica::now);
//! let replicator = Replicator::open(client, options).await?;
//!
//! // Start. From here on what is committed is stored within milliseconds.
//! let replication = replicator.start();
//!
//! // Sync and wait, before a deploy or in a test: everything committed until now is stored.
//! let txid = replication.sync_within(Duration::from_secs(30)).await?;
//!
//! // What it is at, for a health check. An outage of the store is in here while it lasts.
//! let status = replication.status();
//! assert_eq!(status.txid, Some(txid));
//! assert!(status.trouble.is_none());
//!
//! // What happens, for a log.
//! let mut events = replication.events();
//! # let logged =
//! tokio::spawn(async move {
//!     while let Some(event) = events.next().await {
//!         match event {
//!             Event::Interrupted(error) => eprintln!("replication is interrupted: {error}"),
//!             Event::Resumed { after, .. } => eprintln!("replication goes on, {after:?} later"),
//!             Event::Ended(Some(error)) => eprintln!("replication has ended: {error}"),
//!             _ => {}
//!         }
//!     }
//! });
//!
//! // Shut down: what is committed is stored first, if that takes no longer than this.
//! let ended = replication.shut_down(Duration::from_secs(30)).await;
//! assert!(ended.complete);
//! # logged.await?;
//! # Ok(())
//! # }
//! ```
//!
//! An application writes to its database as ever, through connections of its own, and leaves the
//! checkpoints to replication: [`DISABLE_AUTOCHECKPOINT_PRAGMA`] spares its writers the attempts. It
//! should set a `busy_timeout`. There must be one replication to a replica, and a database must be
//! replicated by one process: for several replicas of it that opens a [`Replicator`] for each, with
//! the same options, and each goes on at its own pace. A store that is slow or away holds up no other.
//!
//! A store that gives no answer is an error of [`Replicator::open`], which takes two seconds to tell
//! so, or some more where it hangs. It is a [`ReplicateError::Store`] then whose
//! [`is_transient`](Error::is_transient) says that it may pass: whoever wants a service to start
//! without its store opens again until it does, and nothing is lost meanwhile. A wrong key, bucket or
//! host key is none that may pass. Once it is started, what fails
//! is tried again for as long as it takes ([`Event::Interrupted`], and then [`Event::Resumed`]),
//! unless it lasts: [`ReplicateError::is_lasting`]. What the application does about that is its own
//! policy: go on and report itself as degraded, or end. The example `service` has both.
//!
//! Those who ask, such as the handlers of a server, need `&Replication`, and so does
//! [`Replication::stop`]: an [`Arc`](std::sync::Arc) or a [`OnceLock`](std::sync::OnceLock) that they
//! share is a place for it.
//!
//! # Restore
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use replica::{RestoreOptions, restore};
//!
//! let client = replica::open("file:///var/backups/app")?;
//! let restored = restore(client, &RestoreOptions::new("/var/lib/app.db"), |_| ()).await?;
//! println!("restored to transaction {}", restored.txid);
//! # Ok(())
//! # }
//! ```
//!
//! # Verify
//!
//! A replica is worth what a restore of it gives. [`verify`] restores it and compares the result
//! with the live database, while that is in use:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use replica::{Verdict, VerifyOptions, verify};
//!
//! let client = replica::open("file:///var/backups/app")?;
//! let options = VerifyOptions::new("/var/lib/app.db", std::env::temp_dir());
//! match verify(client, &options, |_| ()).await? {
//!     Verdict::Good(compared) => println!("good at transaction {}", compared.txid),
//!     Verdict::Bad(flaw) => eprintln!("bad: {flaw}"),
//!     Verdict::Unknown(doubt) => eprintln!("unknown: {doubt}; {}", doubt.advice()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`open`] takes what a person writes, [`Location`] is what it means, and [`Config`] finds the
//! location of a database's replica in Litestream's configuration file. What they give is a
//! [`ReplicaClient`] with the [canonical layers](stack()) around it, for [`restore`], [`plan`],
//! [`check`], [`verify`], or your own use. A client of your own works as well.

mod clock;
mod config;
mod location;
mod nearest;
mod open;
mod stack;

pub use ltx;

pub use clock::now;
pub use config::{Config, ConfigError, Expand, PassedOver, Replicated};
pub use location::{Location, LocationError, Missing, S3Location, SftpLocation};
pub use open::{OpenError, open, open_to_replicate};
pub use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, ReplicaClient, Result, Timestamp, Timestamps, Txid, TxidRange,
};
pub use replica_engine::{
    CheckProgress, Checked, Checkpoint, Checkpointed, Compared, DISABLE_AUTOCHECKPOINT_PRAGMA,
    Damage, Differences, Doubt, Ended, Event, Existing, Fault, Finding, Flaw, FollowError,
    FollowOptions, Followed, Follower, Integrity, LevelSurvey, Levels, PlanError, Progress,
    ReplicateError, ReplicateOptions, Replication, Replicator, RestoreError, RestoreOptions,
    RestorePlan, RestorePoint, Restored, Retention, SnapshotReason, Standing, Status, Survey,
    Synced, Target, Trouble, UpkeepError, UpkeepJob, UpkeepOptions, UpkeepTrouble, Verdict,
    VerifyError, VerifyOptions, VerifyProgress, Workers, check, compact, compact_to, plan, restore,
    snapshot, verify,
};
pub use stack::{stack, stack_to_replicate};

/// The README's examples are compiled, and those that can be are run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

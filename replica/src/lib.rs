//! SQLite replication for applications: open a replica by its URL, restore databases from it.
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
//! [`open`] takes what a person writes, [`Location`] is what it means, and [`Config`] finds the
//! location of a database's replica in Litestream's configuration file. What they give is a
//! [`ReplicaClient`] with the [canonical layers](stack()) around it, for [`restore`], [`plan`],
//! [`check`], or your own use. A client of your own works as well.

mod config;
mod location;
mod open;
mod stack;

pub use ltx;

pub use config::{Config, ConfigError, Expand};
pub use location::{Location, LocationError, Missing, S3Location, SftpLocation};
pub use open::{OpenError, open};
pub use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, ReplicaClient, Result, Timestamp, Timestamps, Txid, TxidRange,
};
pub use replica_engine::{
    CheckProgress, Checked, Damage, Existing, Fault, Finding, Integrity, PlanError, Progress,
    RestoreError, RestoreOptions, RestorePlan, RestorePoint, Restored, Target, check, plan,
    restore,
};
pub use stack::stack;

/// The README's examples are compiled, and those that can be are run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

//! A replica store in memory, with faults on demand, for unit tests.
//!
//! [`MockClient`] keeps every promise of the contract until a test asks it for trouble, by
//! operation, by file and by count:
//!
//! ```
//! use replica_core::{ErrorKind, Op, ReplicaClient, ReplicaClientExt, Timestamp};
//! use replica_mock::{MockClient, file};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> replica_core::Result<()> {
//! let mock = MockClient::new();
//! let first = file(0, 1..=1);
//!
//! mock.fail_next(Op::Write, ErrorKind::Unavailable);
//! let error = mock.write(first, Timestamp::EPOCH, vec![7; 100].into()).await.unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::Unavailable);
//! assert!(mock.files().is_empty());
//!
//! mock.write(first, Timestamp::EPOCH, vec![7; 100].into()).await?;
//! mock.on(Op::Open).of(first).times(2).at_byte(50).fail(ErrorKind::Unavailable);
//! assert!(mock.read(first, (..).into()).await.is_err());
//! assert!(mock.read(first, (..).into()).await.is_err());
//! assert_eq!(mock.read(first, (..).into()).await?, vec![7; 100]);
//!
//! mock.assert_faults_used();
//! # Ok(())
//! # }
//! ```
//!
//! Clones are handles to one client: they share its files, its faults and its log, so a test
//! keeps one and gives another away. A second client of the same files, with faults and a log
//! of its own, comes from the [`MockStore`] behind it; so do clients of other roots.
//!
//! Nothing is random and no clock is read: with Tokio's clock paused, delays, stalls and lagging
//! listings take no real time. Every call yields to the scheduler at least once, and a body once
//! a chunk, so that concurrent tests interleave.

mod client;
mod fault;
mod log;
mod store;

pub use client::MockClient;
pub use fault::Trouble;
pub use log::{Call, Outcome, Request};
pub use store::{MockStore, Snapshot};

use std::ops::RangeInclusive;

use replica_core::{FileId, Level, Txid, TxidRange};

/// The file of `level` that holds `txids`: `file(0, 7..=7)`, `file(9, 1..=500)`.
///
/// # Panics
///
/// Where no file can be called that: a level above 9, transaction 0, or an empty range.
pub fn file(level: u8, txids: RangeInclusive<u64>) -> FileId {
    let name = Level::new(level).zip(
        Txid::new(*txids.start())
            .zip(Txid::new(*txids.end()))
            .and_then(|(min, max)| TxidRange::new(min, max)),
    );
    match name {
        Some((level, txids)) => FileId { level, txids },
        None => panic!("no file holds transactions {txids:?} at level {level}"),
    }
}

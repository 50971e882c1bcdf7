//! What a restore tells while it goes on.

use replica_core::Txid;

use crate::Damage;

/// A step of a restore. The numbers of [`Read`](Progress::Read) and
/// [`Written`](Progress::Written) add up, from zero again after each
/// [`Planned`](Progress::Planned).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Progress {
    /// The files are chosen; once more whenever a damaged one had to be replaced.
    Planned {
        /// The transaction whose state will be restored.
        txid: Txid,
        /// How many files will be read.
        files: usize,
        /// How many bytes they have.
        bytes: u64,
    },
    /// More of the files was read.
    Read {
        /// How many bytes.
        bytes: u64,
    },
    /// More of the database was written.
    Written {
        /// How many bytes.
        bytes: u64,
    },
    /// A file can't be used, and another one is looked for.
    Damaged(Damage),
    /// All is written, and is being made to survive a crash.
    Syncing,
    /// SQLite is checking the database.
    Checking,
}

/// Whoever is told.
pub(crate) type Listener = std::sync::Arc<dyn Fn(Progress) + Send + Sync>;

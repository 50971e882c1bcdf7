//! Why replication failed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ltx::{PageSize, Txid};
use replica_core::FileId;
use rusqlite::ErrorCode;

use crate::wal::{Break, HeaderFault};

/// Why a database could not be replicated. What was stored before stays as good as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicateError {
    /// There is no database.
    #[error("there is no database at {}", path.display())]
    NotFound {
        /// Where it should be.
        path: PathBuf,
    },
    /// It is not a database of SQLite, or it is encrypted.
    #[error("{} is not a SQLite database, or it is encrypted", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// It can't be put into WAL mode, as on many network file systems.
    #[error("{} can't be put into WAL mode: its journal mode is {mode}", path.display())]
    NotWal {
        /// The database.
        path: PathBuf,
        /// The journal mode that it is in.
        mode: String,
    },
    /// SQLite refuses.
    #[error("can't {action} {}", path.display())]
    Sqlite {
        /// What was being done, as in "can't open".
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// A file of the database can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The log does not hold what SQLite has committed to it.
    #[error("{} is damaged at byte {offset}: {found}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is there.
        found: Break,
    },
    /// The log has no header, though SQLite has committed something to it.
    #[error("{} is damaged: {fault}", path.display())]
    LogHeader {
        /// The log.
        path: PathBuf,
        /// What is wrong with it.
        fault: HeaderFault,
    },
    /// The log was begun anew each time that it was looked at: somebody else must be at work on it
    /// without regard to SQLite's locks.
    #[error("{} changes while it is being read", path.display())]
    Unsteady {
        /// The log.
        path: PathBuf,
    },
    /// The database, or one of the two files beside it, was renamed, deleted or replaced while it
    /// was open, or a link on the way to it leads to another one. Once that was put right it can be
    /// opened anew.
    #[error("{} is no longer the file that was opened", path.display())]
    Replaced {
        /// Where the file was.
        path: PathBuf,
    },
    /// Another process replicates the database, to whichever replica, or one that it was forked from
    /// did. Two would each begin the log anew before the other's replica has it. It is noticed where
    /// the file system has locks on whole files, as local ones have.
    #[error("{} is being replicated by another process: end that one first", path.display())]
    Replicated {
        /// The database.
        path: PathBuf,
    },
    /// The database's pages have another size than those in the replica, which can't be mixed.
    #[error(
        "the database has pages of {database} bytes, and its replica pages of {replica}: \
         replicate to another place"
    )]
    PageSize {
        /// The database's.
        database: PageSize,
        /// The replica's.
        replica: PageSize,
    },
    /// Somebody else writes to the replica too, or has deleted from it.
    #[error(
        "{file} was written or deleted, and not by this replication: only one may replicate to one \
         place, and nobody else may delete files there"
    )]
    Conflict {
        /// The file.
        file: FileId,
    },
    /// There are no more transaction ids.
    #[error("the replica is at transaction {txid}, the last one that there can be")]
    Exhausted {
        /// The last one.
        txid: Txid,
    },
    /// There was not enough time.
    #[error("not everything could be stored within {within:?}")]
    Late {
        /// How much there was.
        within: Duration,
    },
    /// The replication was shut down, or its runtime was.
    #[error("the replication has ended")]
    Ended,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] replica_core::Error),
}

impl ReplicateError {
    /// Whether the same will happen again until somebody does something about it, so that there is
    /// no use in trying. All others may pass, a lack of permission too.
    pub fn is_lasting(&self) -> bool {
        matches!(
            self,
            ReplicateError::NotADatabase { .. }
                | ReplicateError::NotWal { .. }
                | ReplicateError::Replaced { .. }
                | ReplicateError::PageSize { .. }
                | ReplicateError::Conflict { .. }
                | ReplicateError::Exhausted { .. }
                | ReplicateError::Ended
        )
    }

    /// Whether somebody else has the database locked: another process that replicates it, or whoever
    /// reads or writes one that is not in WAL mode.
    pub fn is_locked(&self) -> bool {
        match self {
            ReplicateError::Replicated { .. } => true,
            ReplicateError::Sqlite { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
            ),
            _ => false,
        }
    }

    /// Tells the few failures of SQLite that have a name from the others.
    pub(crate) fn sqlite(
        action: &'static str,
        path: &Path,
        source: rusqlite::Error,
    ) -> ReplicateError {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => ReplicateError::NotADatabase { path },
            Some(ErrorCode::CannotOpen) if !path.exists() => ReplicateError::NotFound { path },
            _ => ReplicateError::Sqlite {
                action,
                path,
                source,
            },
        }
    }
}

//! Why a restore failed.

use std::io;
use std::path::PathBuf;

use replica_core::{Timestamp, Txid};

use crate::{Damage, PlanError};

/// Why a restore failed. There is no new file at the target then, and an old one is untouched; with
/// one exception: where an old one was replaced and the folder can't be synced afterwards, the new
/// one is in place, and a crash may undo that. What was beside the old one is kept under the name
/// of a temporary file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// No files of the replica give what was asked for.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] replica_core::Error),
    /// Files are damaged, and no others hold the same transactions.
    #[error("transaction {txid} can't be restored: {}", list(damaged))]
    Damaged {
        /// The transaction whose state was wanted.
        txid: Txid,
        /// The files that can't be used. Never empty.
        damaged: Vec<Damage>,
        /// The last transaction before it whose state the other files give, by their names.
        before: Option<Txid>,
    },
    /// Files that tell which state was the last one from before a time, or hold it, are damaged.
    #[error(
        "the last state from before {time} can't be restored for certain: {}; transaction {txid} is \
         older than that, so ask for it by its number if it will do",
        list(damaged)
    )]
    InDoubt {
        /// The time.
        time: Timestamp,
        /// The last transaction from before it that the other files give.
        txid: Txid,
        /// The files that can't be used. Never empty.
        damaged: Vec<Damage>,
    },
    /// There is something at the target already.
    #[error("{} exists already: restore to another path, or ask for it to be replaced", path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// A file that SQLite would take for a part of the restored database.
    #[error(
        "{} is left over from another database, and SQLite would apply it to the restored one: \
         move it away, or ask for it to be replaced",
        path.display()
    )]
    LeftOver {
        /// The write-ahead log, shared-memory file or journal.
        path: PathBuf,
    },
    /// Somebody has the database open that was to be replaced, and would go on with the old one.
    #[error("{} is open in an application: end that first, or restore to another path", path.display())]
    Occupied {
        /// The target.
        path: PathBuf,
    },
    /// The target is a folder or a device, or no path of a file.
    #[error("{} is no path of a file: say where the database is to be written", path.display())]
    NotAFile {
        /// The target.
        path: PathBuf,
    },
    /// No file can be made in the target's folder.
    #[error("can't write in {}: {}", folder.display(), folder_advice(source))]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database doesn't fit on the target's disk.
    #[error(
        "not enough space for {}: the database has {needed} bytes, and {available} are free",
        path.display()
    )]
    DiskFull {
        /// The target.
        path: PathBuf,
        /// The size of the database.
        needed: u64,
        /// What is free for this user.
        available: u64,
    },
    /// The database could not be written.
    #[error("could not {action} {}", path.display())]
    Write {
        /// What was being done, as in "could not sync".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// SQLite finds fault with the restored database, though every byte is as it was stored.
    #[error("the restored database fails SQLite's check: {}", findings.join("; "))]
    Integrity {
        /// What SQLite says.
        findings: Vec<String>,
    },
    /// SQLite could not check the restored database.
    #[error("SQLite can't check the restored database")]
    Unchecked(#[source] rusqlite::Error),
}

fn list(damaged: &[Damage]) -> String {
    let shown: Vec<String> = damaged.iter().take(3).map(Damage::to_string).collect();
    let more = match damaged.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    shown.join("; ") + &more
}

fn folder_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "it does not exist, so make it first",
        io::ErrorKind::Unsupported => "no files can be made there",
        io::ErrorKind::NotADirectory => "it is not a folder",
        io::ErrorKind::PermissionDenied => "permission denied",
        io::ErrorKind::ReadOnlyFilesystem => "it is on a read-only file system",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full",
        _ => "the system refuses",
    }
}

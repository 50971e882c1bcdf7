//! What a restore drill finds.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ltx::Pgno;
use replica_core::{Timestamp, Txid};

use crate::{Damage, PlanError, ReplicateError, RestoreError};

/// What is to be said of a replica, after it was restored and compared with its live database.
#[derive(Clone, Debug)]
#[must_use]
pub enum Verdict {
    /// It gives the live database, byte for byte.
    Good(Compared),
    /// It does not.
    Bad(Flaw),
    /// Nothing says which state of the live database it should give.
    Unknown(Doubt),
}

/// A restored database that was compared with the live one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Compared {
    /// The transaction whose state it is.
    pub txid: Txid,
    /// When that was copied, by the header of the last file.
    pub created_at: Timestamp,
    /// The size of its pages in bytes.
    pub page_size: u32,
    /// How many it has.
    pub pages: u32,
    /// How many bytes of the log were committed after that before the verification began, and were
    /// not in the replica for as long as it was waited for. The live database was compared as it
    /// was before them.
    pub behind: u64,
    /// Files that could not be used, where others held the same transactions.
    pub damaged: Vec<Damage>,
}

/// What is wrong with a replica.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Flaw {
    /// Files are damaged, and no others hold the same transactions.
    Damaged {
        /// The transaction that can't be restored.
        txid: Txid,
        /// The files. Never empty.
        damaged: Vec<Damage>,
    },
    /// No files give its newest state.
    Unrestorable(PlanError),
    /// It gives another database than the live one was at the same place.
    Differs {
        /// What it gives.
        compared: Compared,
        /// Where that differs.
        differences: Differences,
    },
}

/// Where two databases differ.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differences {
    /// The first pages that are not the same.
    pub pages: Vec<Pgno>,
    /// How many there are in all.
    pub count: u64,
    /// How many pages the live database has, and how many bytes each of them.
    pub live: (u32, u32),
    /// The same of the restored one.
    pub restored: (u32, u32),
}

/// Why nothing can be said of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Doubt {
    /// The replica's newest file does not say which part of a log it was made of.
    NoPlace {
        /// Its last transaction.
        txid: Txid,
    },
    /// The log was begun anew since the replica's newest file was made of it.
    NewLog {
        /// The last transaction of that.
        txid: Txid,
    },
    /// What was committed after the replica's newest file is in the database file already.
    Checkpointed {
        /// The last transaction of that.
        txid: Txid,
    },
    /// The log ends before the place that the replica's newest file goes up to.
    ShorterLog {
        /// The last transaction of that.
        txid: Txid,
    },
    /// The log has something else at the place that the replica's newest file was made of.
    OtherLog {
        /// The last transaction of that.
        txid: Txid,
    },
    /// The log or the replica has changed in each attempt so that all had to begin again.
    Moving,
    /// It took longer than it may.
    TooLong {
        /// How long it may take.
        hold_max: Duration,
    },
}

impl Doubt {
    /// What to do, to know.
    pub fn advice(&self) -> &'static str {
        match self {
            Doubt::NoPlace { .. } | Doubt::NewLog { .. } | Doubt::Checkpointed { .. } => {
                "verify while the database is being replicated, once something was written to it"
            }
            Doubt::ShorterLog { .. } | Doubt::OtherLog { .. } => {
                "check that this is the replica of this database; where it is, replicate, which \
                 stores the whole database, and verify then"
            }
            Doubt::Moving => "try again when less is being written",
            Doubt::TooLong { .. } => "allow more time, in which the log will grow further",
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::NoPlace { txid } => write!(
                f,
                "the replica's latest state, transaction {txid}, is not what the database is now, \
                 and nothing says which one of its earlier states that should be"
            ),
            Doubt::NewLog { txid } => write!(
                f,
                "the replica's latest state, transaction {txid}, is not what the database is now, \
                 and the write-ahead log was begun anew since"
            ),
            Doubt::Checkpointed { txid } => write!(
                f,
                "the replica lags behind at transaction {txid}, and what was committed since was \
                 copied from the log to the database file"
            ),
            Doubt::ShorterLog { txid } => write!(
                f,
                "the database is older than its replica, which is at transaction {txid}"
            ),
            Doubt::OtherLog { txid } => write!(
                f,
                "the database has another history than its replica, which is at transaction {txid}"
            ),
            Doubt::Moving => f.write_str(
                "the database or its replica has moved on in each attempt to compare them",
            ),
            Doubt::TooLong { hold_max } => write!(
                f,
                "it took more than {} s, for which the log may be kept from being begun anew",
                hold_max.as_secs_f64()
            ),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Damaged { txid, damaged } => {
                write!(f, "transaction {txid} can't be restored")?;
                for (index, damage) in damaged.iter().enumerate() {
                    write!(f, "{} {damage}", if index == 0 { ":" } else { ";" })?;
                }
                Ok(())
            }
            Flaw::Unrestorable(error) => error.fmt(f),
            Flaw::Differs {
                compared,
                differences,
            } => write!(
                f,
                "transaction {} is not what the database was: {differences}",
                compared.txid
            ),
        }
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((live, live_size), (restored, restored_size)) = (self.live, self.restored);
        if live_size != restored_size {
            return write!(
                f,
                "its pages have {live_size} bytes, and the replica's {restored_size}"
            );
        }
        if live != restored {
            write!(f, "it has {live} pages, and the replica {restored}; ")?;
        }
        match self.count {
            1 => f.write_str("1 page differs: ")?,
            count => write!(f, "{count} pages differ: ")?,
        }
        for (index, page) in self.pages.iter().enumerate() {
            write!(f, "{}{page}", if index == 0 { "" } else { ", " })?;
        }
        match self.count > self.pages.len() as u64 {
            true => f.write_str(" and others"),
            false => Ok(()),
        }
    }
}

/// Why a replica could not be verified, so that nothing can be said of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The live database is not in WAL mode, in which alone it can be read for long.
    #[error(
        "{} is not in WAL mode but in {mode}, where whoever reads it keeps others from writing",
        path.display()
    )]
    NotWal {
        /// The database.
        path: PathBuf,
        /// The journal mode that it is in.
        mode: String,
    },
    /// The live database can't be read.
    #[error(transparent)]
    Database(#[from] ReplicateError),
    /// There is no replica, or it can't be restored for a reason that is not in its files.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] replica_core::Error),
}

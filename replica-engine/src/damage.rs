//! Files that can't be used, and why.

use ltx::{Checksum, Header, PageSize, Pgno};
use replica_core::{Error, ErrorKind, FileId, Timestamp, TxidRange};

/// A file of the replica that can't be used, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {fault}")]
pub struct Damage {
    /// The file.
    pub file: FileId,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What can be wrong with a file of a replica.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It was listed, and is not there.
    #[error("it is listed, but it is not there")]
    Missing,
    /// Its bytes are not a valid LTX file.
    #[error(transparent)]
    Format(#[from] ltx::Error),
    /// It is whole, and shorter than it was listed: it was replaced meanwhile.
    #[error("it is shorter than it was listed")]
    Shorter,
    /// Its header is not the one that was read before.
    #[error("it was replaced while it was being read")]
    Replaced,
    /// The store knows that the bytes are not those that were written.
    #[error("the store says that it is damaged: {0}")]
    Store(String),
    /// It holds other transactions than its name says.
    #[error("its header says that it is {header}")]
    Name {
        /// The name that its header gives it.
        header: TxidRange,
    },
    /// It is of a database with pages of another size.
    #[error(
        "its database has pages of {found} bytes, where the file before it, {before}, has {expected}"
    )]
    PageSize {
        /// Its page size.
        found: PageSize,
        /// The page size of the file before it.
        expected: PageSize,
        /// The file before it.
        before: FileId,
    },
    /// It makes the database larger, and neither it nor a later file has all the new pages.
    #[error("it makes the database larger, but page {pgno} is in no file")]
    MissingPage {
        /// The first page missing.
        pgno: Pgno,
    },
    /// It starts from another database than the file before it leaves.
    #[error(
        "it starts from database checksum {pre_apply}, where the file before it ends with {post_apply}"
    )]
    Chain {
        /// The checksum it starts from.
        pre_apply: Checksum,
        /// The checksum that the file before it ends with.
        post_apply: Checksum,
    },
    /// The database it leaves is not the one that it says.
    #[error("it ends with database checksum {stored}, where the pages have {computed}")]
    DatabaseChecksum {
        /// The checksum in the file.
        stored: Checksum,
        /// The checksum of the pages.
        computed: Checksum,
    },
    /// It was listed with an earlier time than its header has.
    #[error("its header is of {header}, and not from before the time that was asked for")]
    Time {
        /// The header's time.
        header: Timestamp,
    },
}

impl Damage {
    pub(crate) fn new(file: FileId, fault: impl Into<Fault>) -> Damage {
        Damage {
            file,
            fault: fault.into(),
        }
    }
}

/// Whether `header` is that of the file's name.
pub(crate) fn check_name(file: FileId, header: &Header) -> Result<(), Damage> {
    if header.txids() == file.txids {
        return Ok(());
    }
    let header = header.txids();
    Err(Damage::new(file, Fault::Name { header }))
}

/// Why a file could not be read.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    /// That is about this file, so another one may help.
    Damaged(Damage),
    Store(Error),
}

impl ReadFailure {
    /// Tells which errors of a store are about the one file that was read.
    pub(crate) fn new(file: FileId, error: Error) -> ReadFailure {
        let fault = match error.kind() {
            ErrorKind::NotFound => Fault::Missing,
            ErrorKind::Corrupt => Fault::Store(error.message().to_owned()),
            _ => return ReadFailure::Store(error),
        };
        Damage::new(file, fault).into()
    }
}

impl From<Damage> for ReadFailure {
    fn from(damage: Damage) -> ReadFailure {
        ReadFailure::Damaged(damage)
    }
}

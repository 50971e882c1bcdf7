//! CRC-64/GO-ISO checksums of files, pages and databases.

use std::fmt;
use std::num::NonZeroU64;

use crc_fast::{CrcAlgorithm, Digest};

use crate::error::Error;
use crate::page::Pgno;

/// The bit that every stored checksum has, which tells one from the zero that means "none".
const FLAG: u64 = 1 << 63;

/// A checksum as LTX files store it: a CRC-64/GO-ISO, or an XOR of such, with bit 63 set.
///
/// Its text form is 16 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(NonZeroU64);

impl Checksum {
    /// The checksum of a database without pages: bit 63 alone.
    pub const EMPTY: Checksum = Checksum::flagged(0);

    /// The checksum stored as `value`, or `None` where bit 63 is missing.
    pub const fn new(value: u64) -> Option<Checksum> {
        if value & FLAG == 0 {
            None
        } else {
            Some(Checksum::flagged(value))
        }
    }

    /// The stored value.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The checksum of one page of a database: its number, then its content.
    pub fn of_page(pgno: Pgno, page: &[u8]) -> Checksum {
        let mut crc = Crc::new();
        crc.update(&pgno.get().to_be_bytes());
        crc.update(page);
        crc.checksum()
    }

    const fn flagged(value: u64) -> Checksum {
        match NonZeroU64::new(value | FLAG) {
            Some(value) => Checksum(value),
            None => unreachable!(),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checksum(value) = self;
        write!(f, "{value:016x}")
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({self})")
    }
}

/// The checksum of a whole database, kept while its pages come and go.
///
/// It is the XOR of the pages' checksums, so the order of changes does not matter, and replacing
/// a page costs two of its checksums, whatever the size of the database. The lock page is no part
/// of it: leave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseChecksum(Checksum);

impl DatabaseChecksum {
    /// Goes on from the checksum of a database, such as a file's
    /// [`post_apply`](crate::Trailer::post_apply).
    pub const fn of(database: Checksum) -> DatabaseChecksum {
        DatabaseChecksum(database)
    }

    /// Takes a page in that was not part of the database.
    pub fn add(&mut self, page: Checksum) {
        self.0 = Checksum::flagged(self.0.get() ^ page.get());
    }

    /// Takes a page out that was part of the database.
    pub fn remove(&mut self, page: Checksum) {
        self.add(page);
    }

    /// The checksum of the database as it is now.
    pub const fn get(self) -> Checksum {
        self.0
    }

    /// Whether `stored` is the checksum of the database as it is now.
    pub(crate) fn check(self, stored: Checksum) -> Result<(), Error> {
        if self.0 == stored {
            Ok(())
        } else {
            Err(Error::DatabaseChecksum {
                stored,
                computed: self.0,
            })
        }
    }
}

impl Default for DatabaseChecksum {
    /// Begins with a database without pages.
    fn default() -> DatabaseChecksum {
        DatabaseChecksum(Checksum::EMPTY)
    }
}

/// A running CRC-64/GO-ISO.
#[derive(Clone, Debug)]
pub(crate) struct Crc(Digest);

impl Crc {
    pub(crate) fn new() -> Crc {
        Crc(Digest::new(CrcAlgorithm::Crc64GoIso))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn checksum(&self) -> Checksum {
        Checksum::flagged(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_crc_is_the_one_of_gos_standard_library() {
        let mut crc = Crc::new();

        crc.update(b"12345");
        crc.update(b"6789");

        assert_eq!(crc.checksum().get(), 0xb909_56c7_75a4_1001);
    }

    #[test]
    fn a_checksum_needs_its_bit() {
        assert_eq!(Checksum::new(0), None);
        assert_eq!(Checksum::new(FLAG - 1), None);
        assert_eq!(Checksum::new(FLAG), Some(Checksum::EMPTY));
        assert_eq!(Checksum::EMPTY.to_string(), "8000000000000000");
    }

    #[test]
    fn the_order_of_changes_does_not_matter_to_a_database() {
        let [one, two] =
            [1, 2].map(|pgno| Checksum::of_page(Pgno::new(pgno).unwrap(), &[7u8; 512]));
        let mut database = DatabaseChecksum::default();

        database.add(one);
        database.add(two);
        database.remove(one);
        let mut other = DatabaseChecksum::default();
        other.add(two);

        assert_eq!(database.get(), other.get());
        assert_ne!(one, two, "a page's number is part of its checksum");
    }
}

//! Pages of a database: their size, their numbers, and which of them a file may hold.

use std::fmt;
use std::num::NonZeroU32;

use crate::error::Error;
use crate::header::Header;

/// The byte whose page SQLite uses for its locks, and never for content.
const LOCK_BYTE: u32 = 0x4000_0000;

/// The size of a database's pages: a power of two from 512 to 65536 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(NonZeroU32);

impl PageSize {
    /// The smallest size, 512 bytes.
    pub const MIN: PageSize = PageSize::of(512);
    /// The largest size, 64 KiB.
    pub const MAX: PageSize = PageSize::of(65_536);

    /// The size `bytes`, or `None` where pages can't have it.
    pub const fn new(bytes: u32) -> Option<PageSize> {
        if bytes.is_power_of_two() && 512 <= bytes && bytes <= 65_536 {
            Some(PageSize::of(bytes))
        } else {
            None
        }
    }

    const fn of(bytes: u32) -> PageSize {
        match NonZeroU32::new(bytes) {
            Some(bytes) => PageSize(bytes),
            None => unreachable!(),
        }
    }

    /// The size in bytes.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// The size in bytes, as the length of a buffer.
    pub const fn bytes(self) -> usize {
        self.0.get() as usize
    }

    /// The page that holds byte `0x4000_0000`, which SQLite locks and which is never stored.
    pub const fn lock_page(self) -> Pgno {
        match NonZeroU32::new(LOCK_BYTE / self.get() + 1) {
            Some(pgno) => Pgno(pgno),
            None => unreachable!(),
        }
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of a page of a database: from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pgno(NonZeroU32);

impl Pgno {
    /// The first page, 1.
    pub const FIRST: Pgno = Pgno(NonZeroU32::MIN);

    /// The page numbered `pgno`, or `None` for 0, which numbers no page.
    pub const fn new(pgno: u32) -> Option<Pgno> {
        match NonZeroU32::new(pgno) {
            Some(pgno) => Some(Pgno(pgno)),
            None => None,
        }
    }

    /// The number itself.
    pub const fn get(self) -> u32 {
        self.0.get()
    }

    /// Where the page begins in a database file.
    pub const fn offset(self, page_size: PageSize) -> u64 {
        (self.get() as u64 - 1) * page_size.get() as u64
    }
}

impl fmt::Display for Pgno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The rules about which pages a file holds, checked page after page by decoder and encoder alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageOrder {
    commit: u32,
    lock_page: Pgno,
    snapshot: bool,
    /// The last page taken, or 0.
    last: u32,
}

impl PageOrder {
    pub(crate) fn new(header: &Header) -> PageOrder {
        PageOrder {
            commit: header.commit(),
            lock_page: header.page_size().lock_page(),
            snapshot: header.is_snapshot(),
            last: 0,
        }
    }

    /// Takes the next page, whose record begins at byte `offset` of the file.
    pub(crate) fn take(&mut self, pgno: Pgno, offset: u64) -> Result<(), Error> {
        if pgno == self.lock_page {
            return Err(Error::LockPage { pgno, offset });
        }
        if pgno.get() > self.commit {
            return Err(Error::PageBeyondCommit {
                pgno,
                commit: self.commit,
                offset,
            });
        }
        if pgno.get() <= self.last {
            return Err(Error::PageOrder {
                pgno,
                last: self.last,
                offset,
            });
        }
        if let Some(expected) = self.missing_before(pgno.get()) {
            return Err(Error::MissingPage { expected, offset });
        }
        self.last = pgno.get();
        Ok(())
    }

    /// The end of the pages, at byte `offset` of the file.
    pub(crate) fn end(&self, offset: u64) -> Result<(), Error> {
        match self.missing_before(u64::from(self.commit) + 1) {
            Some(expected) => Err(Error::MissingPage { expected, offset }),
            None => Ok(()),
        }
    }

    /// The page that a snapshot must hold between the last one and `next`, if there is one.
    fn missing_before(&self, next: impl Into<u64>) -> Option<Pgno> {
        if !self.snapshot {
            return None;
        }
        let mut expected = u64::from(self.last) + 1;
        if expected == u64::from(self.lock_page.get()) {
            expected += 1;
        }
        if expected < next.into() {
            u32::try_from(expected).ok().and_then(Pgno::new)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::Timestamp;
    use crate::txid::{Txid, TxidRange};

    #[test]
    fn only_sqlites_sizes_are_page_sizes() {
        let sizes: Vec<u32> = (0..=70_000)
            .chain([1 << 17, 1 << 31, u32::MAX])
            .filter(|&bytes| PageSize::new(bytes).is_some())
            .collect();

        assert_eq!(sizes, [512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_536]);
    }

    #[test]
    fn a_snapshot_goes_on_after_the_lock_page() {
        let page_size = PageSize::MAX;
        let lock = page_size.lock_page().get();
        let txids = TxidRange::single(Txid::FIRST);
        for commit in [lock - 1, lock, lock + 1] {
            let header = Header::new(page_size, commit, txids, Timestamp::EPOCH);
            let mut order = PageOrder::new(&header);
            for number in (1..=commit).filter(|&number| number != lock) {
                let pgno = Pgno::new(number).unwrap();
                assert!(order.end(0).is_err(), "page {number} is still missing");
                order.take(pgno, 0).unwrap();
            }

            assert_eq!(order.end(0), Ok(()), "all {commit} pages are there");
        }
    }

    #[test]
    fn the_lock_page_holds_its_byte() {
        for bytes in [512u32, 4096, 65_536] {
            let page_size = PageSize::new(bytes).unwrap();

            let begins = page_size.lock_page().offset(page_size);

            assert_eq!(begins, u64::from(LOCK_BYTE));
        }
    }
}

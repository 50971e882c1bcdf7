//! What the committed transactions of a WAL have left of a database's pages.

use std::mem::size_of;
use std::num::NonZeroU32;

use ltx::{PageSize, Pgno};

use super::chain::{Break, Chain, Frame};
use super::checksum::WalChecksum;

/// Collects which pages the frames after some place in a WAL change, as far as they are committed.
///
/// It takes 16 bytes a frame and holds no page. Whoever wants to bound that stops at a
/// [`Taken::Commit`], and goes on from there another time.
#[derive(Clone, Debug)]
pub struct Changes {
    next: Chain,
    end: Chain,
    commit: Option<NonZeroU32>,
    /// One for each frame, in their order.
    frames: Vec<ChangedPage>,
    /// How many of them are committed.
    committed: usize,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Its transaction goes on.
    Frame,
    /// It ended a transaction, which is committed with it.
    Commit,
}

impl Changes {
    /// Begins with the frame after `start`, before which there was a whole transaction, or none.
    pub fn since(start: Chain) -> Changes {
        Changes {
            next: start,
            end: start,
            commit: None,
            frames: Vec::new(),
            committed: 0,
        }
    }

    /// Takes the next frame, with which `bytes` begin.
    ///
    /// # Errors
    ///
    /// A [`Break`] where the log ends. Nothing is lost by that: where SQLite has gone on since, so
    /// can this.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Taken, Break> {
        let before = self.next.checksum();
        let Frame { pgno, commit } = self.next.link(bytes)?;
        let commit = NonZeroU32::new(commit);
        self.frames.push(ChangedPage {
            pgno,
            frame: self.next.frames(),
            before,
        });
        let Some(commit) = commit else {
            return Ok(Taken::Frame);
        };
        self.commit = Some(commit);
        self.end = self.next;
        self.committed = self.frames.len();
        Ok(Taken::Commit)
    }

    /// The place after the last frame that was taken.
    pub fn next(&self) -> &Chain {
        &self.next
    }

    /// The place after the last transaction that is committed.
    pub fn end(&self) -> &Chain {
        &self.end
    }

    /// How much memory this takes.
    pub fn memory(&self) -> usize {
        self.frames.capacity() * size_of::<ChangedPage>()
    }

    /// Ends the collection, and leaves out what is not committed.
    pub fn finish(self) -> Changed {
        let Changes {
            end,
            commit,
            mut frames,
            committed,
            ..
        } = self;
        let pages_after = commit.map_or(0, NonZeroU32::get);
        let lock_page = end.header().page_size().lock_page();
        frames.truncate(committed);
        frames.retain(|page| page.pgno.get() <= pages_after && page.pgno != lock_page);
        // The last frame of a page is the one that counts, so it must come first to stay.
        frames.sort_unstable_by_key(|page| (page.pgno, u32::MAX - page.frame));
        frames.dedup_by_key(|page| page.pgno);
        frames.shrink_to_fit();
        Changed {
            end,
            commit,
            pages: frames,
        }
    }
}

/// What committed transactions have left of a database's pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    end: Chain,
    commit: Option<NonZeroU32>,
    pages: Vec<ChangedPage>,
}

impl Changed {
    /// The place after the last of the transactions, from which the next collection goes on.
    pub fn end(&self) -> &Chain {
        &self.end
    }

    /// How many pages the database has after them, the lock page included; `None` where there was
    /// no transaction.
    pub fn commit(&self) -> Option<NonZeroU32> {
        self.commit
    }

    /// The pages that were written and are still part of the database, in ascending order, each
    /// once and without the lock page.
    pub fn pages(&self) -> &[ChangedPage] {
        &self.pages
    }
}

/// A page that was written, and the frame that holds what was last written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangedPage {
    pgno: Pgno,
    /// From 1.
    frame: u32,
    /// The checksum of the WAL before the frame.
    before: WalChecksum,
}

impl ChangedPage {
    /// The page's number.
    pub const fn pgno(&self) -> Pgno {
        self.pgno
    }

    /// The number of the frame, from 1.
    pub const fn frame(&self) -> u32 {
        self.frame
    }

    /// The byte of the WAL at which the frame begins.
    pub const fn offset(&self, page_size: PageSize) -> u64 {
        let before = self.frame as u64 - 1;
        super::HEADER_SIZE as u64
            + before * (super::FRAME_HEADER_SIZE as u64 + page_size.get() as u64)
    }

    /// The page in `frame`, which was read from the WAL once more, at
    /// [`offset`](ChangedPage::offset), where `of` is any place in that WAL.
    ///
    /// # Errors
    ///
    /// A [`Break`] where that is not the frame that was taken.
    pub fn verify<'a>(&self, of: &Chain, frame: &'a [u8]) -> Result<&'a [u8], Break> {
        let mut chain = Chain::at(*of.header(), self.frame - 1, self.before);
        if chain.link(frame)?.pgno != self.pgno {
            return Err(Break::Pgno);
        }
        Ok(self.content(of, frame))
    }

    /// The page in `frame`, which was verified.
    pub(crate) fn content<'a>(&self, of: &Chain, frame: &'a [u8]) -> &'a [u8] {
        let rest = frame.get(super::FRAME_HEADER_SIZE..).unwrap_or_default();
        rest.get(..of.header().page_size().bytes())
            .unwrap_or_default()
    }
}

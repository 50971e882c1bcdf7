//! Appends the pages of a replica's files to a database's log, as one transaction.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ltx::{Checksum, Header, PageSize, Pgno, Trailer};

use super::{FollowError, Locked};
use crate::apply::Assembly;
use crate::replicate::lock;
use crate::verify::Visit;
use crate::wal::{Chain, Frame};
use crate::{Damage, Fault};

/// How many bytes are written at a time, about.
const BUFFER: usize = 1024 * 1024;

/// What is appended to a log. Nothing of it counts before [`commit`](Ready::commit).
pub(super) struct Append {
    tail: Tail,
    /// The page that came last. It ends the transaction, unless another one follows.
    last: Option<(Pgno, Vec<u8>)>,
    first_page: Option<Checksum>,
    assembly: Assembly,
    page_size: PageSize,
    /// How many pages the database has in the end.
    commit: u32,
    pub(super) failure: Option<FollowError>,
}

impl Append {
    /// Begins at `end` of the log of the database that is `locked`, with what `assembly` applies,
    /// which leaves `commit` pages.
    pub(super) fn new(
        locked: Locked,
        (log, end): (File, Chain),
        assembly: Assembly,
        commit: u32,
    ) -> Append {
        Append {
            tail: Tail {
                locked,
                log,
                written: end,
                end,
                buffer: Vec::new(),
                pages: Vec::new(),
            },
            last: None,
            first_page: None,
            assembly,
            page_size: end.header().page_size(),
            commit,
            failure: None,
        }
    }

    /// Ends with what the last file has brought, all of which is verified now. The database's first
    /// page will have the checksum that this returns, where it was changed.
    pub(super) fn finish(self) -> Result<(Ready, Option<Checksum>), Damage> {
        let (_, end) = self.assembly.finish()?;
        let ready = Ready {
            tail: self.tail,
            last: self.last,
            commit: end.commit,
        };
        Ok((ready, self.first_page))
    }

    fn append(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), FollowError> {
        if self.failure.is_some() {
            return Ok(());
        }
        if let Some((before, content)) = &self.last {
            self.tail.frame((*before, 0), content);
        }
        let (last, content) = self.last.get_or_insert_with(|| (pgno, Vec::new()));
        *last = pgno;
        content.clear();
        content.extend_from_slice(page);
        match self.tail.buffer.len() {
            0..BUFFER => Ok(()),
            _ => self.tail.write(),
        }
    }
}

impl Visit for Append {
    fn begin(&mut self, header: Header) -> Result<(), Damage> {
        self.assembly.begin(header)?;
        if header.page_size() != self.page_size {
            return Err(self.assembly.fault(Fault::Replaced));
        }
        Ok(())
    }

    fn page(&mut self, pgno: Pgno, page: &[u8]) -> Result<(), Damage> {
        self.assembly.page(pgno)?;
        if pgno.get() == 1 {
            self.first_page = Some(Checksum::of_page(pgno, page));
        }
        if pgno.get() <= self.commit
            && let Err(error) = self.append(pgno, page)
        {
            self.failure = Some(error);
        }
        Ok(())
    }

    fn end(&mut self, trailer: Trailer) {
        self.assembly.end(trailer);
    }
}

/// A transaction that lacks nothing but its end.
pub(super) struct Ready {
    tail: Tail,
    last: Option<(Pgno, Vec<u8>)>,
    commit: u32,
}

impl Ready {
    /// How many pages the database has then.
    pub(super) fn pages(&self) -> u32 {
        self.commit
    }

    /// Writes the end, and sees to it that all of it is on the disk. Returns the end of the log, or
    /// `None` where there is nothing to commit; and what keeps the database locked.
    pub(super) fn commit(self) -> Result<(Locked, Option<Chain>), FollowError> {
        let mut tail = self.tail;
        let Some((pgno, page)) = self.last else {
            return Ok((tail.locked, None));
        };
        tail.frame((pgno, self.commit), &page);
        tail.write()?;
        let synced = tail.log.sync_all();
        synced.map_err(|source| tail.failed(source))?;
        Ok((tail.locked, Some(tail.end)))
    }
}

/// The end of a log that nobody else writes to.
struct Tail {
    locked: Locked,
    log: File,
    /// Up to where it is written.
    written: Chain,
    /// The end after what is in the buffer.
    end: Chain,
    buffer: Vec<u8>,
    /// The pages of the frames in the buffer.
    pages: Vec<Pgno>,
}

impl Tail {
    /// Adds a frame to the buffer.
    fn frame(&mut self, (pgno, commit): (Pgno, u32), page: &[u8]) {
        let bytes = self.end.encode(Frame { pgno, commit }, page);
        let linked = self.end.link(&bytes);
        linked.expect("a frame goes on from the end for which it was made");
        self.buffer.extend(bytes);
        self.pages.push(pgno);
    }

    fn write(&mut self) -> Result<(), FollowError> {
        let written = self.log.write_all_at(&self.buffer, self.written.offset());
        written.map_err(|source| self.failed(source))?;
        lock(&self.locked.database).index(self.written.frames(), &self.pages)?;
        self.buffer.clear();
        self.pages.clear();
        self.written = self.end;
        Ok(())
    }

    fn failed(&self, source: io::Error) -> FollowError {
        let path = self.locked.path.clone();
        FollowError::Write { path, source }
    }
}

//! Appends the pages of a replica's files to a database's log, as one transaction.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ltx::{Checksum, Header, PageSize, Pgno, Trailer};

use crate::apply::Assembly;
use crate::verify::Visit;
use crate::wal::{Chain, Frame};
use crate::{Damage, Fault};

/// How many bytes are written at a time, about.
const BUFFER: usize = 1024 * 1024;

/// What is appended to a log. Nothing of it counts before [`commit`](Append::commit).
pub(super) struct Append {
    log: File,
    end: Chain,
    buffer: Vec<u8>,
    /// Where the buffer goes.
    offset: u64,
    /// The page that came last. It ends the transaction, unless another one follows.
    last: Option<(Pgno, Vec<u8>)>,
    first_page: Option<Checksum>,
    assembly: Assembly,
    page_size: PageSize,
    /// How many pages the database has in the end.
    commit: u32,
    pub(super) failure: Option<io::Error>,
}

impl Append {
    /// Begins at `end` of the log, with what `assembly` applies, which leaves `commit` pages.
    pub(super) fn new((log, end): (File, Chain), assembly: Assembly, commit: u32) -> Append {
        Append {
            log,
            end,
            buffer: Vec::new(),
            offset: end.offset(),
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
            log: self.log,
            end: self.end,
            buffer: self.buffer,
            offset: self.offset,
            last: self.last,
            commit: end.commit,
        };
        Ok((ready, self.first_page))
    }

    fn append(&mut self, pgno: Pgno, page: &[u8]) -> io::Result<()> {
        if self.failure.is_some() {
            return Ok(());
        }
        if let Some((before, content)) = self.last.take() {
            self.end = frame(&mut self.buffer, self.end, (before, 0), &content);
            self.last = Some((pgno, content));
        }
        let (last, content) = self.last.get_or_insert_with(|| (pgno, Vec::new()));
        *last = pgno;
        content.clear();
        content.extend_from_slice(page);
        if self.buffer.len() >= BUFFER {
            self.log.write_all_at(&self.buffer, self.offset)?;
            self.offset += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
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
    log: File,
    end: Chain,
    buffer: Vec<u8>,
    offset: u64,
    last: Option<(Pgno, Vec<u8>)>,
    commit: u32,
}

impl Ready {
    /// How many pages the database has then.
    pub(super) fn pages(&self) -> u32 {
        self.commit
    }

    /// Writes the end, and sees to it that all of it is on the disk. Returns the end of the log, or
    /// `None` where there is nothing to commit.
    pub(super) fn commit(mut self) -> io::Result<Option<Chain>> {
        let Some((pgno, page)) = self.last else {
            return Ok(None);
        };
        let end = frame(&mut self.buffer, self.end, (pgno, self.commit), &page);
        self.log.write_all_at(&self.buffer, self.offset)?;
        self.log.sync_all()?;
        Ok(Some(end))
    }
}

/// Adds a frame to `buffer`, and returns the end of the log after it.
fn frame(buffer: &mut Vec<u8>, mut end: Chain, (pgno, commit): (Pgno, u32), page: &[u8]) -> Chain {
    let bytes = end.encode(Frame { pgno, commit }, page);
    end.link(&bytes)
        .expect("a frame goes on from the end for which it was made");
    buffer.extend(bytes);
    end
}

//! Writes a file page by page.

use std::fmt;

use crate::checksum::{Checksum, Crc, DatabaseChecksum};
use crate::error::Error;
use crate::header::{HEADER_SIZE, Header, Trailer};
use crate::index::put_varint;
use crate::lz4::{Compressor, block_max};
use crate::page::{PageOrder, PageSize, Pgno};
use crate::record::{BLOCK_SIZE_SIZE, FLAG_BLOCK, FLAG_FRAME, PAGE_HEADER_SIZE};

/// How pages are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// One LZ4 block a page: what Litestream writes from 0.5.16 on, and older ones refuse.
    #[default]
    Blocks,
    /// One LZ4 frame a page: what Litestream up to 0.5.15 writes. Newer ones read it too.
    Frames,
}

/// Encodes one file, and does no I/O itself: each call appends what it adds to the file to a
/// buffer of the caller's, who writes it out and clears it as he likes.
///
/// Every rule of the format is checked before anything is appended, so what an encoder finishes
/// is a valid file. Memory besides the caller's is one page and the page index, which takes as
/// much as it will in the file: 7 to 12 bytes a page.
pub struct Encoder {
    header: Header,
    compression: Compression,
    order: PageOrder,
    compressor: Compressor,
    crc: Crc,
    /// The checksum of the pages so far, where it is what the file ends with.
    database: Option<DatabaseChecksum>,
    /// The length of the file so far.
    len: u64,
    /// The page index so far, as it will be stored.
    index: Vec<u8>,
}

impl Encoder {
    /// Begins a file with `header`, which is appended to `out`.
    pub fn new(header: Header, compression: Compression, out: &mut Vec<u8>) -> Encoder {
        let bytes = header.encode();
        out.extend(bytes);
        let mut crc = Crc::new();
        crc.update(&bytes);
        Encoder {
            compression,
            order: PageOrder::new(&header),
            compressor: Compressor::new(header.page_size()),
            crc,
            database: (header.has_checksums() && header.is_snapshot())
                .then(DatabaseChecksum::default),
            len: HEADER_SIZE as u64,
            index: Vec::new(),
            header,
        }
    }

    /// The file's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Appends a page to `out`. Pages come in ascending order; a snapshot takes every page of the
    /// database but the lock page. After an error the file can go on as if nothing had happened.
    pub fn page(&mut self, pgno: Pgno, page: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.page_from(pgno, page, &[], out)
    }

    /// Appends `pages` to `out`, as [`page`](Encoder::page) does one after another, but for the
    /// lock page, which is left out. After an error those before the one that it names are in the
    /// file.
    ///
    /// Whatever comes of it, `pages` are none afterwards. Where `out` is empty, nothing is copied:
    /// the two swap their buffers.
    pub fn pages(&mut self, pages: &mut CompressedPages, out: &mut Vec<u8>) -> Result<(), Error> {
        let lock_page = self.header.page_size().lock_page();
        let are_as_stored = self.compression == Compression::Blocks
            && self.header.page_size() == pages.page_size
            && pages.iter().all(|(pgno, ..)| pgno != lock_page);
        let added = if out.is_empty() && are_as_stored {
            let (len, added) = self.take(pages);
            std::mem::swap(out, &mut pages.records);
            out.truncate(len);
            added
        } else {
            (pages.iter())
                .filter(|(pgno, ..)| *pgno != lock_page)
                .try_for_each(|(pgno, page, record)| {
                    let block = record.get(BLOCK_HEADER_SIZE..).unwrap_or_default();
                    self.page_from(pgno, page, block, out)
                })
        };
        pages.clear();
        added
    }

    /// Takes `pages` whose records are in the file as they are, up to one that may not be. Says how
    /// many bytes they take.
    fn take(&mut self, pages: &CompressedPages) -> (usize, Result<(), Error>) {
        let mut len = 0;
        for (pgno, page, record) in pages.iter() {
            if let Err(error) = self.order.take(pgno, self.len) {
                return (len, Err(error));
            }
            self.count(pgno, page, record, BLOCK_HEADER_SIZE);
            len += record.len();
        }
        (len, Ok(()))
    }

    /// Appends a page of which `block`, unless it is empty, is the compressed form.
    pub(crate) fn page_from(
        &mut self,
        pgno: Pgno,
        page: &[u8],
        block: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let page_size = self.header.page_size();
        if page.len() != page_size.bytes() {
            return Err(Error::PageLength {
                pgno,
                len: page.len(),
                page_size,
            });
        }
        self.order.take(pgno, self.len)?;

        let start = out.len();
        let header_len = match self.compression {
            Compression::Blocks => {
                let block = match block {
                    [] => self.compressor.block(page),
                    block => block,
                };
                put_block(pgno, block, out);
                BLOCK_HEADER_SIZE
            }
            Compression::Frames => {
                out.extend(pgno.get().to_be_bytes());
                out.extend(FLAG_FRAME.to_be_bytes());
                self.compressor.frame(page, out);
                PAGE_HEADER_SIZE
            }
        };
        self.count(pgno, page, out.get(start..).unwrap_or_default(), header_len);
        Ok(())
    }

    /// Counts in what the file has of a page: `record`, the first `header_len` bytes of which are
    /// not compressed.
    fn count(&mut self, pgno: Pgno, page: &[u8], record: &[u8], header_len: usize) {
        self.crc
            .update(record.get(..header_len).unwrap_or_default());
        self.crc.update(page);
        if let Some(database) = &mut self.database {
            database.add(Checksum::of_page(pgno, page));
        }
        let len = record.len() as u64;
        put_varint(u64::from(pgno.get()), &mut self.index);
        put_varint(self.len, &mut self.index);
        put_varint(len, &mut self.index);
        self.len += len;
    }

    /// Ends the file, and appends the page index and the trailer to `out`.
    ///
    /// `post_apply` is the checksum of the database after these transactions. A file without
    /// checksums has none; a snapshot with checksums knows its own, which a given one must equal;
    /// any other file with checksums needs it.
    pub fn finish(
        mut self,
        post_apply: Option<Checksum>,
        out: &mut Vec<u8>,
    ) -> Result<Trailer, Error> {
        self.order.end(self.len)?;
        let post_apply = post_apply.or(self.database.map(DatabaseChecksum::get));
        let stored = post_apply.map_or(0, Checksum::get);
        self.header.check_post_apply(stored)?;
        if let (Some(stored), Some(database)) = (post_apply, self.database) {
            database.check(stored)?;
        }

        put_varint(0, &mut self.index);
        let start = out.len();
        out.extend([0; PAGE_HEADER_SIZE]);
        out.extend_from_slice(&self.index);
        out.extend((self.index.len() as u64).to_be_bytes());
        out.extend(stored.to_be_bytes());
        self.crc.update(out.get(start..).unwrap_or_default());
        let file = self.crc.checksum();
        out.extend(file.get().to_be_bytes());
        Ok(Trailer { post_apply, file })
    }
}

/// What a record has before a block.
const BLOCK_HEADER_SIZE: usize = PAGE_HEADER_SIZE + BLOCK_SIZE_SIZE;

/// Appends the record of a page that is one block.
fn put_block(pgno: Pgno, block: &[u8], out: &mut Vec<u8>) {
    let size = u32::try_from(block.len()).expect("a block is about a page long");
    out.extend(pgno.get().to_be_bytes());
    out.extend(FLAG_BLOCK.to_be_bytes());
    out.extend(size.to_be_bytes());
    out.extend_from_slice(block);
}

/// Pages that follow each other in a database, compressed apart from the file that they go into.
///
/// Most of the time in which a file is made goes into this, so several threads may do it at once,
/// each for a part of the pages. Memory is what the pages take, and up to as much again, which is
/// there for the next ones.
pub struct CompressedPages {
    page_size: PageSize,
    first: Pgno,
    pages: Vec<u8>,
    /// All of them as a file has them, one behind the other.
    records: Vec<u8>,
    /// Where each of these ends.
    ends: Vec<usize>,
    compressor: Compressor,
}

impl CompressedPages {
    /// No pages, of `page_size`.
    pub fn new(page_size: PageSize) -> CompressedPages {
        CompressedPages {
            page_size,
            first: Pgno::FIRST,
            pages: Vec::new(),
            records: Vec::new(),
            ends: Vec::new(),
            compressor: Compressor::new(page_size),
        }
    }

    /// Compresses `count` pages, the first of which has the number `first`, in place of those that
    /// were there. `fill` puts them into the bytes that it is given, which can be anything before.
    ///
    /// Where it fails, there are none.
    pub fn compress<E>(
        &mut self,
        first: Pgno,
        count: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.clear();
        self.first = first;
        self.pages.resize(count * self.page_size.bytes(), 0);
        fill(&mut self.pages)?;
        self.records
            .reserve(count * (BLOCK_HEADER_SIZE + block_max(self.page_size)));
        for (pgno, page) in pgnos(first).zip(self.pages.chunks(self.page_size.bytes())) {
            put_block(pgno, self.compressor.block(page), &mut self.records);
            self.ends.push(self.records.len());
        }
        Ok(())
    }

    fn clear(&mut self) {
        self.records.clear();
        self.ends.clear();
    }

    /// Each page with its number and its record.
    fn iter(&self) -> impl Iterator<Item = (Pgno, &[u8], &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let records = starts
            .zip(&self.ends)
            .map(|(start, &end)| self.records.get(start..end).unwrap_or_default());
        pgnos(self.first)
            .zip(self.pages.chunks(self.page_size.bytes()))
            .zip(records)
            .map(|((pgno, page), record)| (pgno, page, record))
    }
}

fn pgnos(first: Pgno) -> impl Iterator<Item = Pgno> {
    (first.get()..=u32::MAX).filter_map(Pgno::new)
}

impl fmt::Debug for CompressedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompressedPages")
            .field("first", &self.first)
            .field("pages", &self.ends.len())
            .field("bytes", &self.records.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("header", &self.header)
            .field("compression", &self.compression)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

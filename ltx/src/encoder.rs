//! Writes a file page by page.

use std::fmt;

use crate::checksum::{Checksum, Crc, DatabaseChecksum};
use crate::error::Error;
use crate::header::{HEADER_SIZE, Header, Trailer};
use crate::index::put_varint;
use crate::lz4::Compressor;
use crate::page::{PageOrder, PageSize, Pgno};
use crate::record::{FLAG_BLOCK, FLAG_FRAME, PAGE_HEADER_SIZE};

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
    pub fn pages(&mut self, pages: &CompressedPages, out: &mut Vec<u8>) -> Result<(), Error> {
        for (pgno, page, block) in pages.iter() {
            if pgno != self.header.page_size().lock_page() {
                self.page_from(pgno, page, block, out)?;
            }
        }
        Ok(())
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
        out.extend(pgno.get().to_be_bytes());
        match self.compression {
            Compression::Blocks => {
                out.extend(FLAG_BLOCK.to_be_bytes());
                let block = match block {
                    [] => self.compressor.block(page),
                    block => block,
                };
                let size = u32::try_from(block.len()).expect("a block is about a page long");
                out.extend(size.to_be_bytes());
                self.crc.update(out.get(start..).unwrap_or_default());
                out.extend_from_slice(block);
            }
            Compression::Frames => {
                out.extend(FLAG_FRAME.to_be_bytes());
                self.crc.update(out.get(start..).unwrap_or_default());
                self.compressor.frame(page, out);
            }
        }
        self.crc.update(page);
        if let Some(database) = &mut self.database {
            database.add(Checksum::of_page(pgno, page));
        }

        let len = (out.len() - start) as u64;
        put_varint(u64::from(pgno.get()), &mut self.index);
        put_varint(self.len, &mut self.index);
        put_varint(len, &mut self.index);
        self.len += len;
        Ok(())
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

/// Pages that follow each other in a database, compressed apart from the file that they go into.
///
/// Most of the time in which a file is made goes into this, so several threads may do it at once,
/// each for a part of the pages. Memory is what the pages take, and up to as much again.
pub struct CompressedPages {
    page_size: PageSize,
    first: Pgno,
    pages: Vec<u8>,
    /// All of them as blocks, one behind the other.
    blocks: Vec<u8>,
    /// Where each block ends.
    ends: Vec<usize>,
}

impl CompressedPages {
    /// Compresses `pages`, the first of which has the number `first`. That the last one is whole,
    /// and that the file may have them, is looked at when they go into it.
    pub fn new(page_size: PageSize, first: Pgno, pages: Vec<u8>) -> CompressedPages {
        let mut compressor = Compressor::new(page_size);
        let (mut blocks, mut ends) = (Vec::with_capacity(pages.len()), Vec::new());
        for page in pages.chunks(page_size.bytes()) {
            blocks.extend_from_slice(compressor.block(page));
            ends.push(blocks.len());
        }
        CompressedPages {
            page_size,
            first,
            pages,
            blocks,
            ends,
        }
    }

    /// Each page with its number and its block.
    fn iter(&self) -> impl Iterator<Item = (Pgno, &[u8], &[u8])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let blocks = starts
            .zip(&self.ends)
            .map(|(start, &end)| self.blocks.get(start..end).unwrap_or_default());
        let pgnos = (self.first.get()..=u32::MAX).filter_map(Pgno::new);
        pgnos
            .zip(self.pages.chunks(self.page_size.bytes()))
            .zip(blocks)
            .map(|((pgno, page), block)| (pgno, page, block))
    }
}

impl fmt::Debug for CompressedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompressedPages")
            .field("first", &self.first)
            .field("pages", &self.ends.len())
            .field("bytes", &self.blocks.len())
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

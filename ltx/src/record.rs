//! One page as a file stores it: a page header, and compressed bytes.

use crate::error::{Error, IndexFault, Part};
use crate::header::Header;
use crate::lz4::{self, FrameEnd, FrameWalk};
use crate::page::{PageSize, Pgno};

/// A page's number and flags.
pub(crate) const PAGE_HEADER_SIZE: usize = 6;
/// A block's size.
pub(crate) const BLOCK_SIZE_SIZE: usize = 4;
/// The flags of a page that is one LZ4 frame.
pub(crate) const FLAG_FRAME: u16 = 0;
/// The flags of a page that is one LZ4 block with its size before it.
pub(crate) const FLAG_BLOCK: u16 = 1;

/// The shortest record: a block of one byte, which no page has.
pub(crate) const RECORD_MIN: u64 = (PAGE_HEADER_SIZE + BLOCK_SIZE_SIZE + 1) as u64;

/// The longest record of a page: a frame may take more than a block with its size.
pub(crate) const fn record_max(page_size: PageSize) -> u64 {
    (PAGE_HEADER_SIZE + lz4::frame_max(page_size)) as u64
}

/// What a page's header begins.
pub(crate) enum PageHeader {
    Block(Pgno),
    Frame(Pgno),
    End,
}

impl PageHeader {
    /// Parses a page's header, which is at byte `offset` of the file.
    pub(crate) fn parse(bytes: [u8; PAGE_HEADER_SIZE], offset: u64) -> Result<PageHeader, Error> {
        let [a, b, c, d, flags @ ..] = bytes;
        let pgno = u32::from_be_bytes([a, b, c, d]);
        let flags = u16::from_be_bytes(flags);
        match (Pgno::new(pgno), flags) {
            (Some(pgno), FLAG_BLOCK) => Ok(PageHeader::Block(pgno)),
            (Some(pgno), FLAG_FRAME) => Ok(PageHeader::Frame(pgno)),
            (None, 0) => Ok(PageHeader::End),
            _ => Err(Error::PageFlags {
                pgno,
                flags,
                offset,
            }),
        }
    }
}

/// Parses a block's size, which is at byte `offset` of the file, and bounds it before anything is
/// allocated for the block.
pub(crate) fn block_size(
    bytes: [u8; BLOCK_SIZE_SIZE],
    page_size: PageSize,
    pgno: Pgno,
    offset: u64,
) -> Result<usize, Error> {
    let size = u32::from_be_bytes(bytes);
    let max = lz4::block_max(page_size);
    match usize::try_from(size) {
        Ok(len) if len <= max => Ok(len),
        _ => Err(Error::BlockSize {
            pgno,
            size,
            max,
            offset,
        }),
    }
}

/// Decodes `record`, which the index says is `pgno`'s and begins at byte `start` of the file, into
/// `page`, which is exactly one page long.
pub(crate) fn decode(
    header: &Header,
    pgno: Pgno,
    record: &[u8],
    start: u64,
    page: &mut [u8],
) -> Result<(), Error> {
    let page_size = header.page_size();
    let cut = || Error::Truncated {
        len: start + record.len() as u64,
        part: Part::Page(pgno),
    };
    let disagrees = || Error::Index {
        offset: start,
        fault: IndexFault::Disagrees,
    };

    let (bytes, rest) = record.split_first_chunk().ok_or_else(cut)?;
    let begun = PageHeader::parse(*bytes, start)?;
    match begun {
        PageHeader::Block(found) if found == pgno => {
            let offset = start + PAGE_HEADER_SIZE as u64;
            let (size, block) = rest.split_first_chunk().ok_or_else(cut)?;
            let len = block_size(*size, page_size, pgno, offset)?;
            if len != block.len() {
                return Err(disagrees());
            }
            lz4::decompress_block(block, page).map_err(|fault| Error::Compression {
                pgno,
                offset: offset + BLOCK_SIZE_SIZE as u64,
                fault,
            })
        }
        PageHeader::Frame(found) if found == pgno => {
            let refused = |fault| Error::Compression {
                pgno,
                offset: start + PAGE_HEADER_SIZE as u64,
                fault,
            };
            let end = FrameWalk::new(page_size).walk(rest).map_err(refused)?;
            if end != FrameEnd::At(rest.len()) {
                return Err(disagrees());
            }
            lz4::decompress_frame(rest, page, page_size).map_err(refused)
        }
        PageHeader::Block(_) | PageHeader::Frame(_) | PageHeader::End => Err(disagrees()),
    }
}

//! The two ways in which a page is compressed: a raw LZ4 block, or an LZ4 frame of its own.

use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, decompress_into_with_dict,
    get_maximum_output_size,
};
use twox_hash::XxHash32;

use crate::error::CompressionFault;
use crate::page::PageSize;

const FRAME_MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();
/// Magic, flags, block size and header checksum.
const DESCRIPTOR_MIN: usize = 7;

const VERSION_MASK: u8 = 0b1100_0000;
const VERSION: u8 = 0b0100_0000;
const INDEPENDENT_BLOCKS: u8 = 0b0010_0000;
const BLOCK_CHECKSUMS: u8 = 0b0001_0000;
const CONTENT_SIZE: u8 = 0b0000_1000;
const CONTENT_CHECKSUM: u8 = 0b0000_0100;
const RESERVED: u8 = 0b0000_0010;
const DICTIONARY: u8 = 0b0000_0001;
/// Blocks of at most 64 KiB, which holds any page.
const BLOCKS_OF_64_KIB: u8 = 4 << 4;
const UNCOMPRESSED: u32 = 1 << 31;

/// What a page may take at most as an LZ4 block, whoever compresses it.
pub(crate) const fn block_max(page_size: PageSize) -> usize {
    page_size.bytes() + page_size.bytes() / 255 + 16
}

/// What a page may take at most as an LZ4 frame: one block, or a few smaller ones.
pub(crate) const fn frame_max(page_size: PageSize) -> usize {
    2 * page_size.bytes() + 64
}

/// Compresses pages one after another, in memory of its own.
pub(crate) struct Compressor {
    table: CompressTable,
    block: Vec<u8>,
}

impl Compressor {
    pub(crate) fn new(page_size: PageSize) -> Compressor {
        Compressor {
            table: CompressTable::default(),
            block: vec![0; get_maximum_output_size(page_size.bytes())],
        }
    }

    /// The page as a block.
    pub(crate) fn block(&mut self, page: &[u8]) -> &[u8] {
        let len = compress_into_with_table(page, &mut self.block, &mut self.table)
            .expect("the buffer holds what LZ4 needs at worst");
        self.block.get(..len).expect("no more than the buffer")
    }

    /// Appends the page as a frame, as Litestream up to 0.5.15 writes it: one block and a
    /// checksum of the content.
    pub(crate) fn frame(&mut self, page: &[u8], out: &mut Vec<u8>) {
        let descriptor = [
            VERSION | INDEPENDENT_BLOCKS | CONTENT_CHECKSUM,
            BLOCKS_OF_64_KIB,
        ];
        out.extend(FRAME_MAGIC);
        out.extend(descriptor);
        out.push(descriptor_checksum(&descriptor));

        let block = self.block(page);
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("about as long as a page");
        if block.len() < page.len() {
            out.extend(len(block).to_le_bytes());
            out.extend(block);
        } else {
            out.extend((len(page) | UNCOMPRESSED).to_le_bytes());
            out.extend(page);
        }

        out.extend(0u32.to_le_bytes());
        out.extend(XxHash32::oneshot(0, page).to_le_bytes());
    }
}

/// Decompresses a block that holds exactly one page.
pub(crate) fn decompress_block(block: &[u8], page: &mut [u8]) -> Result<(), CompressionFault> {
    match decompress_into(block, page) {
        Ok(len) if len == page.len() => Ok(()),
        Ok(len) => Err(CompressionFault::Short(len)),
        Err(error) => Err(CompressionFault::Block(error.to_string())),
    }
}

/// Finds the end of a frame while its bytes arrive.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameWalk {
    page_size: PageSize,
    descriptor: Option<Descriptor>,
    /// The length of what has been walked over.
    walked: usize,
}

/// How far a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameEnd {
    /// It has at least that many bytes.
    AtLeast(usize),
    /// It has exactly that many bytes.
    At(usize),
}

impl FrameWalk {
    pub(crate) fn new(page_size: PageSize) -> FrameWalk {
        FrameWalk {
            page_size,
            descriptor: None,
            walked: 0,
        }
    }

    /// Walks on over `frame`, all bytes of the frame so far.
    pub(crate) fn walk(&mut self, frame: &[u8]) -> Result<FrameEnd, CompressionFault> {
        let descriptor = match self.descriptor {
            Some(descriptor) => descriptor,
            None => match Descriptor::parse(frame, self.page_size)? {
                Ok(descriptor) => {
                    self.walked = descriptor.len;
                    *self.descriptor.insert(descriptor)
                }
                Err(needed) => return Ok(FrameEnd::AtLeast(needed)),
            },
        };
        loop {
            let end = self.walked + 4;
            let Some(size) = frame.get(self.walked..end) else {
                return Ok(FrameEnd::AtLeast(end));
            };
            match BlockSize::parse(size)? {
                BlockSize::End => {
                    return Ok(FrameEnd::At(
                        end + 4 * usize::from(descriptor.content_checksum),
                    ));
                }
                BlockSize::Compressed(len) | BlockSize::Plain(len) => {
                    self.walked = end + len + 4 * usize::from(descriptor.block_checksums);
                }
            }
            // With room for what ends the frame.
            if self.walked + 8 > frame_max(self.page_size) {
                return Err(CompressionFault::FrameTooLong);
            }
        }
    }
}

/// Decompresses a frame that holds exactly one page, and checks its checksums.
pub(crate) fn decompress_frame(
    frame: &[u8],
    page: &mut [u8],
    page_size: PageSize,
) -> Result<(), CompressionFault> {
    const CUT: CompressionFault = CompressionFault::FrameHeader("it is cut off");

    let descriptor = Descriptor::parse(frame, page_size)?.map_err(|_| CUT)?;
    let mut rest = frame.get(descriptor.len..).ok_or(CUT)?;
    let mut take = |len| {
        let (taken, left) = rest.split_at_checked(len).ok_or(CUT)?;
        rest = left;
        Ok(taken)
    };
    let mut filled = 0;
    loop {
        let (len, compressed) = match BlockSize::parse(take(4)?)? {
            BlockSize::End => break,
            BlockSize::Compressed(len) => (len, true),
            BlockSize::Plain(len) => (len, false),
        };
        let block = take(len)?;
        if descriptor.block_checksums && take(4)? != XxHash32::oneshot(0, block).to_le_bytes() {
            return Err(CompressionFault::FrameChecksum("block"));
        }

        let (before, free) = page.split_at_mut(filled);
        filled += if !compressed {
            let free = free.get_mut(..len).ok_or(CompressionFault::FrameTooLong)?;
            free.copy_from_slice(block);
            len
        } else if descriptor.independent {
            decompress_into(block, free).map_err(|e| CompressionFault::Block(e.to_string()))?
        } else {
            decompress_into_with_dict(block, free, before)
                .map_err(|e| CompressionFault::Block(e.to_string()))?
        };
    }
    if filled != page.len() {
        return Err(CompressionFault::Short(filled));
    }
    if descriptor.content_checksum && take(4)? != XxHash32::oneshot(0, page).to_le_bytes() {
        return Err(CompressionFault::FrameChecksum("content"));
    }
    if !rest.is_empty() {
        return Err(CompressionFault::FrameTooLong);
    }
    Ok(())
}

/// What a frame says of itself before its blocks.
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    len: usize,
    independent: bool,
    block_checksums: bool,
    content_checksum: bool,
}

impl Descriptor {
    /// The descriptor that `frame` begins with, or how many bytes of it that takes.
    fn parse(
        frame: &[u8],
        page_size: PageSize,
    ) -> Result<Result<Descriptor, usize>, CompressionFault> {
        let refuse = |why| Err(CompressionFault::FrameHeader(why));
        let Some((&[m0, m1, m2, m3, flags, block_size, _], _)) =
            frame.split_first_chunk::<DESCRIPTOR_MIN>()
        else {
            return Ok(Err(DESCRIPTOR_MIN));
        };
        if [m0, m1, m2, m3] != FRAME_MAGIC {
            return refuse("it does not begin with LZ4's magic number");
        }
        if flags & VERSION_MASK != VERSION {
            return refuse("its version is unknown");
        }
        if flags & RESERVED != 0 || block_size & 0b1000_1111 != 0 || block_size < BLOCKS_OF_64_KIB {
            return refuse("it has reserved bits or an unknown block size");
        }
        if flags & DICTIONARY != 0 {
            return refuse("it needs a dictionary");
        }
        let has_size = flags & CONTENT_SIZE != 0;
        let len = DESCRIPTOR_MIN + 8 * usize::from(has_size);
        let Some((&checksum, checked)) = frame
            .get(FRAME_MAGIC.len()..len)
            .and_then(<[u8]>::split_last)
        else {
            return Ok(Err(len));
        };
        if checksum != descriptor_checksum(checked) {
            return Err(CompressionFault::FrameChecksum("header"));
        }
        if let Some(size) = checked.get(2..).and_then(|size| size.try_into().ok()) {
            let size = u64::from_le_bytes(size);
            if size != u64::from(page_size.get()) {
                return Err(CompressionFault::FrameContentSize(size));
            }
        }
        Ok(Ok(Descriptor {
            len,
            independent: flags & INDEPENDENT_BLOCKS != 0,
            block_checksums: flags & BLOCK_CHECKSUMS != 0,
            content_checksum: flags & CONTENT_CHECKSUM != 0,
        }))
    }
}

/// The checksum that ends a frame's descriptor: the second byte of its hash.
fn descriptor_checksum(checked: &[u8]) -> u8 {
    let [_, second, ..] = XxHash32::oneshot(0, checked).to_le_bytes();
    second
}

/// What follows in a frame.
enum BlockSize {
    End,
    Compressed(usize),
    Plain(usize),
}

impl BlockSize {
    fn parse(bytes: &[u8]) -> Result<BlockSize, CompressionFault> {
        let size = match bytes.try_into() {
            Ok(bytes) => u32::from_le_bytes(bytes),
            Err(_) => return Err(CompressionFault::FrameHeader("it is cut off")),
        };
        let len = (size & !UNCOMPRESSED) as usize;
        match size {
            0 => Ok(BlockSize::End),
            // It would hold nothing, and a frame could have any number of them.
            UNCOMPRESSED => Err(CompressionFault::FrameHeader("it has an empty block")),
            _ if size & UNCOMPRESSED == 0 => Ok(BlockSize::Compressed(len)),
            _ => Ok(BlockSize::Plain(len)),
        }
    }
}

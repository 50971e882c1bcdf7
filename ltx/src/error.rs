//! What can be wrong with an LTX file, or with what it is to be made of.

use crate::checksum::Checksum;
use crate::page::{PageSize, Pgno};
use crate::txid::TxidRange;

/// A rule of the LTX format that bytes break, or that the parts of a file to be written break.
///
/// Messages name the byte and the page, not the file: whoever opened it adds its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not begin with `LTX1`.
    #[error("not an LTX file: it begins with \"{}\", not with \"LTX1\"", found.escape_ascii())]
    Magic {
        /// The first four bytes.
        found: [u8; 4],
    },

    /// The header has flags that nobody has defined.
    #[error("header: unknown flags {flags:#x}")]
    Flags {
        /// All flags of the header.
        flags: u32,
    },

    /// The header's page size is no page size.
    #[error("header: {bytes} is not a page size: that is a power of two from 512 to 65536")]
    PageSize {
        /// The size stored.
        bytes: u32,
    },

    /// The header's transactions are none, or in the wrong order.
    #[error("header: transactions {min:#x} to {max:#x} are not a range: it begins at 1 or later")]
    Txids {
        /// The first transaction.
        min: u64,
        /// The last transaction.
        max: u64,
    },

    /// The header names a place in a WAL that can't be.
    #[error("header: no place in a WAL has offset {offset}, size {size} and salts {salts:08x?}")]
    Wal {
        /// The offset stored.
        offset: i64,
        /// The size stored.
        size: i64,
        /// The salts stored.
        salts: [u32; 2],
    },

    /// The header's checksum of the database before is missing, or is there and must not be.
    #[error("header: pre-apply checksum {stored:016x} in a file that is {file}")]
    PreApply {
        /// The value stored.
        stored: u64,
        /// What the file is, which decides what it stores here.
        file: FileKind,
    },

    /// The header's last 20 bytes are not zero.
    #[error("header: byte {offset} is reserved, and is not zero")]
    Reserved {
        /// The first such byte.
        offset: u64,
    },

    /// The lock page is stored, which no database has content in.
    #[error("page {pgno} at byte {offset}: the lock page is never stored")]
    LockPage {
        /// The lock page.
        pgno: Pgno,
        /// Where its record begins.
        offset: u64,
    },

    /// A page lies beyond the end of the database.
    #[error("page {pgno} at byte {offset}: the database ends at page {commit}")]
    PageBeyondCommit {
        /// The page.
        pgno: Pgno,
        /// The header's count of pages.
        commit: u32,
        /// Where the page's record begins.
        offset: u64,
    },

    /// Pages do not ascend.
    #[error("page {pgno} at byte {offset}: pages ascend, and this one follows page {last}")]
    PageOrder {
        /// The page.
        pgno: Pgno,
        /// The page before it in the file.
        last: u32,
        /// Where the page's record begins.
        offset: u64,
    },

    /// A snapshot lacks a page.
    #[error("byte {offset}: page {expected} is missing, and a snapshot holds every page")]
    MissingPage {
        /// The first page missing.
        expected: Pgno,
        /// Where its record should begin.
        offset: u64,
    },

    /// A page's header has flags that nobody has defined.
    #[error("page {pgno} at byte {offset}: unknown flags {flags:#x}")]
    PageFlags {
        /// The number stored, which may be 0.
        pgno: u32,
        /// The flags stored.
        flags: u16,
        /// Where the page's record begins.
        offset: u64,
    },

    /// A page's compressed size is more than its page could need.
    #[error(
        "page {pgno} at byte {offset}: {size} compressed bytes, where no page of this size \
         needs more than {max}"
    )]
    BlockSize {
        /// The page.
        pgno: Pgno,
        /// The size stored.
        size: u32,
        /// What LZ4 needs at worst.
        max: usize,
        /// Where the size is stored.
        offset: u64,
    },

    /// A page's compressed bytes do not decompress to one page.
    #[error("page {pgno} at byte {offset}: {fault}")]
    Compression {
        /// The page.
        pgno: Pgno,
        /// Where its compressed bytes begin.
        offset: u64,
        /// What is wrong with them.
        fault: CompressionFault,
    },

    /// An entry of the page index does not fit the pages.
    #[error("page index at byte {offset}: {fault}")]
    Index {
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        fault: IndexFault,
    },

    /// The trailer's checksum of the database after is missing, or is there and must not be.
    #[error("trailer: post-apply checksum {stored:016x} in a file that is {file}")]
    PostApply {
        /// The value stored.
        stored: u64,
        /// What the file is, which decides what it stores here.
        file: FileKind,
    },

    /// The database's checksum is not that of the pages.
    #[error("post-apply checksum {stored}, where the pages have {computed}")]
    DatabaseChecksum {
        /// The checksum stored, or to be stored.
        stored: Checksum,
        /// The checksum of the pages.
        computed: Checksum,
    },

    /// The file's checksum is not that of its bytes.
    #[error("file checksum {stored:016x}, where the content has {computed}")]
    FileChecksum {
        /// The value stored.
        stored: u64,
        /// The checksum of the content.
        computed: Checksum,
    },

    /// The file ends too early.
    #[error("the file ends at byte {len}, in the middle of {part}")]
    Truncated {
        /// The length of the file.
        len: u64,
        /// What it ends in.
        part: Part,
    },

    /// Bytes follow the trailer.
    #[error("the file goes on at byte {offset}, after its trailer")]
    TrailingBytes {
        /// The first such byte.
        offset: u64,
    },

    /// A page to be written is not as long as the header says.
    #[error("page {pgno}: {len} bytes, where pages have {page_size}")]
    PageLength {
        /// The page.
        pgno: Pgno,
        /// Its length.
        len: usize,
        /// The length it should have.
        page_size: PageSize,
    },

    /// The buffer for a page is shorter than the page.
    #[error("a buffer of {len} bytes for a page of {page_size}")]
    Buffer {
        /// The buffer's length.
        len: usize,
        /// The length it must have at least.
        page_size: PageSize,
    },

    /// An input of a merge is damaged.
    #[error("input {input} of the merge: {error}")]
    MergeInput {
        /// The input, counted from 0.
        input: usize,
        /// What is wrong with it.
        error: Box<Error>,
    },

    /// There is nothing to merge.
    #[error("a merge needs at least one input")]
    NothingToMerge,

    /// The inputs of a merge are of databases with pages of different sizes.
    #[error("input {input} of the merge has pages of {found} bytes, the first {first}")]
    MergePageSize {
        /// The input, counted from 0.
        input: usize,
        /// Its page size.
        found: PageSize,
        /// The first input's.
        first: PageSize,
    },

    /// The inputs of a merge do not follow one another.
    #[error("input {input} of the merge is {txids}, which does not continue {before}")]
    MergeOrder {
        /// The input, counted from 0.
        input: usize,
        /// Its transactions.
        txids: TxidRange,
        /// Those of the input before.
        before: TxidRange,
    },

    /// An input of a merge starts from another database than the input before it leaves.
    #[error(
        "input {input} of the merge starts from database checksum {pre_apply}, the input before \
         it ends with {post_apply}"
    )]
    MergeChain {
        /// The input, counted from 0.
        input: usize,
        /// The checksum it starts from.
        pre_apply: Checksum,
        /// The checksum that the input before it ends with.
        post_apply: Checksum,
    },
}

/// What a file is, as far as it decides which checksums the file stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileKind {
    /// It has the flag that says so.
    WithoutChecksums,
    /// It begins with transaction 1, and has checksums.
    Snapshot,
    /// It begins with a later transaction, and has checksums.
    Incremental,
    /// It has checksums, and leaves a database without pages.
    EmptyDatabase,
}

impl std::fmt::Display for FileKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            FileKind::WithoutChecksums => "without checksums, which must be 0",
            FileKind::Snapshot => "a snapshot, which has none before it and one after it",
            FileKind::Incremental => "not a snapshot, which needs one",
            FileKind::EmptyDatabase => "of an empty database, which is 8000000000000000",
        })
    }
}

/// What can be wrong with the compressed bytes of a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompressionFault {
    /// The bytes are no LZ4 block, or one of more than a page.
    #[error("not an LZ4 block of one page: {0}")]
    Block(String),
    /// The bytes decompress to less than a page.
    #[error("decompresses to {0} bytes, less than a page")]
    Short(usize),
    /// The frame's header is none of LZ4's.
    #[error("not an LZ4 frame: {0}")]
    FrameHeader(&'static str),
    /// The frame holds more than a page, or says so.
    #[error("an LZ4 frame of more than a page")]
    FrameTooLong,
    /// The frame says that it holds another number of bytes than a page has.
    #[error("an LZ4 frame that says it holds {0} bytes")]
    FrameContentSize(u64),
    /// One of the frame's own checksums does not match.
    #[error("the LZ4 frame's checksum of its {0} does not match")]
    FrameChecksum(&'static str),
}

/// What can be wrong with the page index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexFault {
    /// A number is not in the only form its writer gives it.
    #[error("not a number in its shortest form")]
    Number,
    /// A page number is none, or is not higher than the one before it.
    #[error("page {0} is out of order, or is no page of the database")]
    Page(u64),
    /// A page's record does not begin where the one before it ends.
    #[error("page {pgno} is said to be at byte {offset}, where the record before it ends at {end}")]
    Offset {
        /// The page.
        pgno: Pgno,
        /// The offset stored.
        offset: u64,
        /// Where the record before it ends, or the header does.
        end: u64,
    },
    /// A record can't have that length.
    #[error("page {pgno} is said to take {len} bytes")]
    Length {
        /// The page.
        pgno: Pgno,
        /// The length stored.
        len: u64,
    },
    /// The records do not end where the pages do.
    #[error("it lists records up to byte {records_end}, and the pages end at byte {pages_end}")]
    End {
        /// Where the last record ends by the index.
        records_end: u64,
        /// Where it ends in fact.
        pages_end: u64,
    },
    /// Other pages, or records of other lengths, than the file has.
    #[error("does not list the pages that the file holds")]
    Disagrees,
    /// The index is not as long as it says.
    #[error("{said} bytes long by its own count, and {len} in fact")]
    Size {
        /// The size stored after it.
        said: u64,
        /// Its size.
        len: u64,
    },
    /// The index is longer than there is room for, or than the pages of the database need.
    #[error("{0} bytes by its own count, which is more than the file's pages need or leave")]
    TooLong(u64),
    /// The index does not end.
    #[error("the index has no end")]
    Unended,
    /// The pages do not end where the index begins.
    #[error("the six zero bytes that end the pages are not before the index")]
    NoPagesEnd,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The first 100 bytes.
    Header,
    /// What comes between two pages, or after the last one.
    Pages,
    /// One page's record.
    Page(Pgno),
    /// The page index, with its size.
    Index,
    /// The last 16 bytes.
    Trailer,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Header => f.write_str("its header"),
            Part::Pages => f.write_str("its pages"),
            Part::Page(pgno) => write!(f, "page {pgno}"),
            Part::Index => f.write_str("its page index"),
            Part::Trailer => f.write_str("its trailer"),
        }
    }
}

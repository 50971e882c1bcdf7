//! The LTX file format: one run of SQLite transactions as a file of pages, as Litestream 0.5
//! writes and reads it.
//!
//! A file has a [`Header`], the pages that its transactions changed, an index of them, and a
//! [`Trailer`] with checksums; a [`TxidRange`] is its name. A file that begins with the first
//! transaction holds the whole database.
//!
//! Nothing here does I/O. An [`Encoder`] appends to a buffer that the caller writes out, a
//! [`Decoder`] is fed with what the caller has read, and so is a [`Merge`] of many files into
//! one; synchronous and asynchronous programs use them alike. [`IndexSearch`] finds single pages
//! in a file of which ranges can be read. [`Reader`] decodes from a [`std::io::Read`].
//!
//! All of them check every rule of the format, in any bytes whatever, and take memory by the page
//! size, not by what a file says of itself.
//!
//! ```
//! use ltx::{Compression, Encoder, Header, PageSize, Pgno, Reader, Timestamp, Txid, TxidRange};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let txids = TxidRange::single(Txid::FIRST);
//! let header = Header::new(PageSize::MIN, 2, txids, Timestamp::EPOCH);
//! let mut file = Vec::new();
//! let mut encoder = Encoder::new(header, Compression::Blocks, &mut file);
//! for number in 1..=2 {
//!     let pgno = Pgno::new(number).expect("pages are numbered from 1");
//!     encoder.page(pgno, &[number as u8; 512], &mut file)?;
//! }
//! encoder.finish(None, &mut file)?;
//! assert_eq!(txids.to_string(), "0000000000000001-0000000000000001.ltx");
//!
//! let mut reader = Reader::new(&file[..])?;
//! let mut page = [0; 512];
//! while let Some(pgno) = reader.next_page(&mut page)? {
//!     assert_eq!(page, [pgno.get() as u8; 512]);
//! }
//! # Ok(())
//! # }
//! ```

mod checksum;
mod decoder;
mod encoder;
mod error;
mod header;
mod index;
mod lz4;
mod merge;
mod page;
mod reader;
mod record;
mod timestamp;
mod txid;

pub use checksum::{Checksum, DatabaseChecksum};
pub use decoder::{Decoder, Step};
pub use encoder::{CompressedPages, Compression, Encoder};
pub use error::{CompressionFault, Error, FileKind, IndexFault, Part};
pub use header::{HEADER_SIZE, Header, TRAILER_SIZE, Trailer, WalSpan};
pub use index::{Index, IndexSearch};
pub use merge::{Merge, MergeStep};
pub use page::{PageSize, Pgno};
pub use reader::{ReadError, Reader};
pub use timestamp::{ParseTimestampError, Timestamp};
pub use txid::{ParseTxidError, Txid, TxidRange};

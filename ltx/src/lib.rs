//! The LTX file format: one run of SQLite transactions as a file of pages, as Litestream 0.5
//! writes and reads it.

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
pub use encoder::{Compression, Encoder};
pub use error::{CompressionFault, Error, FileKind, IndexFault, Part};
pub use header::{HEADER_SIZE, Header, TRAILER_SIZE, Trailer, WalSpan};
pub use index::{Index, IndexSearch};
pub use merge::{Merge, MergeStep};
pub use page::{PageSize, Pgno};
pub use reader::{ReadError, Reader};
pub use timestamp::{ParseTimestampError, Timestamp};
pub use txid::{ParseTxidError, Txid, TxidRange};

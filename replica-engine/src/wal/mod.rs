//! SQLite's write-ahead log, read from its bytes.
//!
//! A WAL is a [`WalHeader`] and frames, each of one page. A frame counts only if it has the salts
//! of the header and if its checksum, which goes on from that of the frame before it, is right;
//! [`Chain`] verifies that, frame after frame. A transaction counts only if its last frame says so;
//! [`Changes`] tells which pages the committed ones have left, and where in the WAL they are.
//!
//! Whatever else is in the file is the remains of an earlier WAL, of a transaction that was rolled
//! back, or of one that is being written: the log ends where the first [`Break`] is, and what is
//! there may become a frame later. Nothing here does I/O.
//!
//! ```no_run
//! use replica_engine::wal::{Chain, Changes, FRAME_HEADER_SIZE, HEADER_SIZE, WalHeader};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bytes = std::fs::read("app.db-wal")?;
//! let header = WalHeader::parse(&bytes)?;
//! let mut changes = Changes::since(Chain::new(header));
//! for frame in bytes[HEADER_SIZE..].chunks(FRAME_HEADER_SIZE + header.page_size().bytes()) {
//!     if changes.take(frame).is_err() {
//!         break;
//!     }
//! }
//! let changed = changes.finish();
//! println!("{} pages, up to byte {}", changed.pages().len(), changed.end().offset());
//! # Ok(())
//! # }
//! ```

mod chain;
mod changes;
mod checksum;
mod header;

pub use chain::{Break, Chain, FRAME_HEADER_SIZE, Frame};
pub use changes::{Changed, ChangedPage, Changes, Taken};
pub use checksum::{ByteOrder, WalChecksum};
pub use header::{HEADER_SIZE, HeaderFault, WalHeader};

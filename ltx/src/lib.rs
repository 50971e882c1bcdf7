//! The LTX file format: one run of SQLite transactions as a file of pages, as Litestream 0.5
//! writes and reads it.

mod timestamp;
mod txid;

pub use timestamp::{ParseTimestampError, Timestamp};
pub use txid::{ParseTxidError, Txid, TxidRange};

//! The contract between a replication engine and the place its LTX files are kept.
//!
//! A *replica* is the set of LTX files of one SQLite database under one root: a folder, or a
//! prefix of a bucket. [`ReplicaClient`] is what the engine asks of the place that keeps them,
//! and everything else here is a word of that contract. The `conformance` crate tests each
//! promise of it against any implementation.
//!
//! The promises have stable ids, K1 to K24, which the documentation of each method names:
//! [`contract`] lists them.
//!
//! # Writing a client
//!
//! A backend needs four things of this crate beside the trait: [`Layout`] says where a file
//! lives, [`ByteRange::resolve`] turns a requested range into offsets of a file of known size,
//! [`listing`] puts what a folder holds in order, and [`exactly`] makes sure that a stream never
//! ends short. `conformance/examples/your_own_backend.rs` is a whole one.
//!
//! This crate does no I/O, starts no task and reads no clock.

#[doc = include_str!("../CONTRACT.md")]
pub mod contract {}

mod body;
mod capabilities;
mod client;
mod error;
mod ext;
mod file;
mod layout;
mod range;
mod stream;

pub use body::Body;
pub use capabilities::Capabilities;
pub use client::{ReplicaClient, Timestamps};
pub use error::{Error, ErrorKind, Op, Result};
pub use ext::ReplicaClientExt;
pub use file::{FileId, FileInfo, Level};
pub use layout::Layout;
pub use ltx::{Timestamp, Txid, TxidRange};
pub use range::ByteRange;
pub use stream::{ByteStream, FileStream, exactly, listing};

/// Makes the trait implementable without naming the macro's crate in a backend's manifest.
pub use async_trait::async_trait;

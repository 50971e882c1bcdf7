//! Replicas in S3 and the stores that speak its protocol.
//!
//! ```no_run
//! use replica_core::{ReplicaClientExt, Body, FileId, Level, ReplicaClient, Timestamp, Txid, TxidRange};
//! use replica_s3::{Credentials, S3Client, S3Config};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> replica_core::Result<()> {
//! let config = S3Config::new("backups")
//!     .prefix("app/db")
//!     .region("eu-central-1")
//!     .credentials(Credentials::new("AKIAEXAMPLE", "its-secret"));
//! let client = S3Client::new(config)?;
//! let file = FileId {
//!     level: Level::RAW,
//!     txids: TxidRange::single(Txid::FIRST),
//! };
//! let now = Timestamp::from_millis(1_795_247_087_728);
//!
//! client.write(file, now, Body::from(b"LTX1...".to_vec())).await?;
//!
//! assert_eq!(client.read(file, (..4).into()).await?, "LTX1");
//! # Ok(())
//! # }
//! ```
//!
//! The layout is Litestream's for its `s3` replicas, and so are the times: a file's metadata
//! `litestream-timestamp` is when it was created. Copy a replica with its metadata: a file without
//! fails an [exact](replica_core::Timestamps::Exact) listing as [`Corrupt`].
//!
//! # Stores
//!
//! What a store needs is looked up by its endpoint in [`providers::PROVIDERS`]. Any other one is
//! taken for software that speaks the protocol as S3 does, with the bucket in the path, unless
//! [`S3Config::provider`] says which it is: Garage, for one, signs for a region of its own. A store
//! has to read what was just written, replace atomically, and list in order; S3's directory
//! buckets do not, and are refused.
//!
//! A bucket with Object Lock and a default retention takes only uploads that carry a checksum
//! beside their signature. AWS gets one; for another store with such a bucket, see
//! [`Provider::checksum`](providers::Provider::checksum).
//!
//! The permissions that a replica needs are `s3:GetObject`, `s3:PutObject`, `s3:DeleteObject` and
//! `s3:AbortMultipartUpload` on the objects below the prefix, and `s3:ListBucket` and
//! `s3:ListBucketMultipartUploads` on the bucket. One that is only read needs the first and
//! `s3:ListBucket`.
//!
//! # What `object_store` does, and what not
//!
//! Uploads, signatures, and the sources of credentials are `object_store`'s. Reads, listings and
//! deletions are sent beside it, through the same connections, because a replica has to know what
//! it leaves out: how long a file is whose range starts beyond the end, keys that are none of the
//! replica's, which keys of a batch could not be deleted, and which uploads are open.
//!
//! No call is tried again here, with three exceptions that the layers can't make. A request of an
//! upload in parts is sent up to three times more within 20 seconds, or a part within five minutes
//! where the store was not silent meanwhile (and one that aborts the upload for a minute, while
//! nobody waits for it). A body that breaks is asked for once more at the byte where
//! it broke, of the same version or not at all. And a request that can be repeated is, once and
//! at once, where its connection breaks before the answer: that of a server that has closed it
//! while it was idle shows no sooner.
//!
//! # Errors
//!
//! Each names the key, and its [`source`](std::error::Error::source) says what the server said.
//!
//! | kind | what happened |
//! | --- | --- |
//! | [`NotFound`] | there is no such file |
//! | [`PermissionDenied`] | permissions, a wrong or unknown key, an expired token, no credentials |
//! | [`Invalid`] | no such bucket, the wrong region, a clock that is wrong, a certificate that is not trusted, plain HTTP that is not allowed |
//! | [`Unavailable`] | no connection, no answer in time, a broken body, 408, 429, 5xx; it was replaced meanwhile |
//! | [`Corrupt`] | a file without its time |
//! | [`Other`] | a full store; an answer that S3 would not give |
//!
//! # Costs
//!
//! - `list` sends a request for each 1,000 files, a page ahead of nobody: the next one is asked for
//!   when the last one was read. [`Timestamps::Exact`](replica_core::Timestamps::Exact) adds one
//!   for each file, up to [`heads_in_flight`](S3Config::heads_in_flight) at the same time.
//! - `open` sends one request; one more for an empty range, and for each time that the body broke.
//! - `write` sends one request for up to [`part_size`](S3Config::part_size) bytes, and needs the
//!   memory of the file for it. A larger file costs one for each part and two more, and the memory
//!   of [`parts_in_flight`](S3Config::parts_in_flight) parts. A body whose size is not known can
//!   have as many parts as the store takes: with the defaults 80,000 MiB.
//! - `delete` sends a request for each 1,000 files, or one for each file where the store has no
//!   such thing.
//! - `delete_all` lists the open uploads, where the store does so, and the files, and sends one
//!   request for each upload and for each 1,000 files. Not every store lists uploads by a prefix:
//!   all but AWS are asked for those of the whole bucket, 1,000 with a request.
//!
//! # Time
//!
//! Connecting, the wait for an answer, and each pause of a body have a limit. What is seen to move
//! is not cut, however slowly it does. Of what was sent it is seen only that the system took it:
//! a line that carries an upload has to carry 512 KiB of it within
//! [`request_timeout`](S3Config::request_timeout), which is 18 KB a second.
//!
//! # Cancellation
//!
//! A dropped call or stream drops its connection. A dropped write whose request was sent to its
//! last byte may happen, whole. The upload of one that was sent in parts is aborted by a task on
//! the runtime of the write. Only where that can't be done, because the runtime is shut down, the
//! process killed, the store away or the answer lost that names the upload, an open upload stays,
//! which costs what its parts cost: `delete_all` aborts it, and so does a lifecycle rule for
//! incomplete uploads, which every bucket should have.
//!
//! MinIO lists only the open uploads that were begun on the very server that is asked, and since
//! it was started. Of the others `delete_all` knows nothing: they stay until MinIO removes them as
//! stale, by default after a day.
//!
//! [`NotFound`]: replica_core::ErrorKind::NotFound
//! [`PermissionDenied`]: replica_core::ErrorKind::PermissionDenied
//! [`Invalid`]: replica_core::ErrorKind::Invalid
//! [`Unavailable`]: replica_core::ErrorKind::Unavailable
//! [`Corrupt`]: replica_core::ErrorKind::Corrupt
//! [`Other`]: replica_core::ErrorKind::Other

mod again;
mod bucket;
mod classify;
mod client;
mod config;
mod credentials;
mod delete;
mod fault;
mod list;
pub mod providers;
mod read;
mod time;
mod transport;
mod uploads;
mod wire;
mod write;

pub use client::S3Client;
pub use config::{Credentials, Encryption, S3Config, Tls};

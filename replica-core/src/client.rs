//! The trait.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ltx::{Timestamp, Txid};

use crate::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, Result,
};

/// A place that keeps the LTX files of one replica.
///
/// Implementations promise K1 to K24 (see [`contract`](crate::contract); the `conformance` crate
/// holds the tests). The ones that concern every method:
///
/// - **Concurrency** (K19): any number of calls may run at once, on one client or several, in one
///   process or several.
/// - **Cancellation** (K20): dropping a future, or a stream that a call returned, stops the work
///   soon and leaves the client usable. A dropped write has happened whole or not at all.
/// - **Time** (K23): nothing hangs. A client over a network has limits for connecting, for each
///   request and for a stalled body; a slow body that makes progress is not cut.
/// - **Errors** (K21): the [`ErrorKind`](crate::ErrorKind) says what to do. No call retries; see
///   the layers for that. After an error the next call works (K24).
/// - **Secrets** (K22): no credential is in an error or in the `Debug` text.
#[async_trait]
pub trait ReplicaClient: fmt::Debug + Send + Sync + 'static {
    /// The URL scheme this client answers to, which also names it in errors and metrics.
    fn scheme(&self) -> &'static str;

    /// What this store promises beyond the contract, or less than it: the few facts that a caller
    /// branches on.
    fn capabilities(&self) -> Capabilities;

    /// Lists the files of `level` whose first transaction is `from` or later, in order, lazily.
    ///
    /// The stream ascends by `(min, max)`, has each file once and with its exact size, and holds
    /// only names of exactly the form that Litestream gives them (K2, K8). The first item arrives
    /// with the store's first page; where the store pages, memory does not grow with the number
    /// of files (K9). A level that was never written is empty. A page that fails later is an
    /// `Err` item, which ends the stream.
    ///
    /// # Errors
    ///
    /// A missing bucket is [`Invalid`](crate::ErrorKind::Invalid), a refused login
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied): never an empty listing (K4).
    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream>;

    /// Reads the part of `range` that the file has.
    ///
    /// A range is cut at the end of the file; one that starts exactly there, or has length zero,
    /// gives an empty stream (K3). The stream yields every byte of the range, in order, of one
    /// version of the file, or ends in an `Err`: never short (K5, K6). The cost is about that of
    /// the range, not of the file (K7).
    ///
    /// # Errors
    ///
    /// [`NotFound`](crate::ErrorKind::NotFound) from `open` itself, not from the first read,
    /// where there is no such file (K4). [`Invalid`](crate::ErrorKind::Invalid) for a range that
    /// starts beyond the end, for any `u64`.
    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream>;

    /// Stores `body` as `file`, to be listed with the time `created_at`: whole, or not at all.
    ///
    /// Nothing can be listed or opened before all of it is there, and a body that fails, or whose
    /// length is not what it said, leaves nothing behind (K11). `Ok` means that the file survives
    /// a crash of the process and of the machine on either side (K12). A file of this name is
    /// replaced atomically, where [`Capabilities::atomic_replace`] says so (K13). What is
    /// returned is what a later [`list`](ReplicaClient::list) says (K14). Memory is bounded by
    /// the store's part size, not by the file (K15).
    ///
    /// # Errors
    ///
    /// The body's own error, where it fails. [`Invalid`](crate::ErrorKind::Invalid) for a body
    /// that is shorter or longer than it said, or for a `created_at` that the store can't hold.
    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo>;

    /// Deletes `files`. Deleting a file that is not there succeeds, in any number, and an empty
    /// slice costs no request (K16).
    ///
    /// # Errors
    ///
    /// [`Error::files`](crate::Error::files) names those that could not be deleted; the others
    /// are gone.
    async fn delete(&self, files: &[FileId]) -> Result<()>;

    /// Deletes everything under this client's root, and nothing beside it: files, temporary
    /// files, and the open uploads that the store can list (K17).
    ///
    /// It succeeds on a root that never existed, follows no symbolic link out of the root, and
    /// leaves the client usable.
    async fn delete_all(&self) -> Result<()>;
}

/// Which times a listing gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timestamps {
    /// Whatever the listing carries, at no request per file.
    Fast,
    /// The `created_at` given to `write`, to the store's declared
    /// [resolution](Capabilities::timestamp_resolution), or an error: never something else
    /// silently (K10).
    Exact,
}

macro_rules! forward_to_inner {
    ($pointer:ident) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<C: ReplicaClient + ?Sized> ReplicaClient for $pointer<C> {
            fn scheme(&self) -> &'static str {
                (**self).scheme()
            }

            fn capabilities(&self) -> Capabilities {
                (**self).capabilities()
            }

            async fn list(
                &self,
                level: Level,
                from: Txid,
                timestamps: Timestamps,
            ) -> Result<FileStream> {
                (**self).list(level, from, timestamps).await
            }

            async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
                (**self).open(file, range).await
            }

            async fn write(
                &self,
                file: FileId,
                created_at: Timestamp,
                body: Body,
            ) -> Result<FileInfo> {
                (**self).write(file, created_at, body).await
            }

            async fn delete(&self, files: &[FileId]) -> Result<()> {
                (**self).delete(files).await
            }

            async fn delete_all(&self) -> Result<()> {
                (**self).delete_all().await
            }
        }
    };
}

forward_to_inner!(Arc);
forward_to_inner!(Box);

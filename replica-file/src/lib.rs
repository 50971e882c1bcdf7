//! Replicas in a folder of a local file system.
//!
//! ```
//! use replica_core::{
//!     Body, FileId, Level, ReplicaClient, ReplicaClientExt, Timestamp, Txid, TxidRange,
//! };
//! use replica_file::FileClient;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> replica_core::Result<()> {
//! # let backups = tempfile::tempdir().expect("a temporary folder");
//! # let backups = backups.path();
//! let client = FileClient::new(backups.join("app"));
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
//! The layout is Litestream's for its `file` replicas, and so are the times: a file's
//! modification time is when it was created. Copy a replica with its times (`cp -a`).
//!
//! # What is on the disk when
//!
//! A file is written under a temporary name in its level's folder, given its permissions and its
//! time, synced, and renamed; then the folder is synced, and at a client's first write to a
//! level also each folder above it as far as the root's parent, and the parent of each folder that
//! it made. Where that fails the error says so, and the write may or may not survive a crash. A
//! parent of folders that others made is left to them where permissions forbid to open it.
//!
//! The temporary file is locked (`flock`) as long as its writer lives. One whose writer is dead is
//! removed by the next client that writes to the level for the first time; the files of another
//! machine, whose locks may not be visible here, and those on a file system without locks, only
//! when they have been untouched for a day. So
//! a folder may be shared between processes, and between machines where the file system allows
//! it.
//!
//! # Links, and other things that are no files
//!
//! The root, and folders above it, may be reached through symbolic links. Below the root none
//! is followed: a folder that is a link is [`Invalid`], and an entry that is no regular file is
//! never listed, opened or waited for. A root that is a link to nowhere is [`Invalid`] rather than
//! an empty replica, because it is what an absent disk looks like; one that is simply missing is
//! a replica without files.
//!
//! # Errors
//!
//! Each names the path, and its [`source`](std::error::Error::source) is the
//! [`std::io::Error`], whose kind tells more: a full disk is [`Other`] with the cause
//! [`StorageFull`](std::io::ErrorKind::StorageFull).
//!
//! | kind | what happened |
//! | --- | --- |
//! | [`NotFound`] | there is no such file |
//! | [`PermissionDenied`] | permissions, or a file system that is mounted read-only |
//! | [`Invalid`] | the root is no folder or below a file; a link; a path too long; a time the file system can't hold |
//! | [`Unavailable`] | too many open files, no memory, a network file system that is away; the file or its folder was deleted during the call |
//! | [`Corrupt`] | the disk can't read it, or the file was cut while it was being read |
//! | [`Other`] | a full disk, a used-up quota, a size limit |
//!
//! # Costs
//!
//! All work is done on Tokio's blocking threads, in hops: nobody holds a thread while a reader
//! or a body pauses.
//!
//! - `list` reads the names of the level at once (16 bytes of memory a file), and looks at the
//!   files in batches of 512, up to four batches side by side ahead of its reader. [`Timestamps`]
//!   makes no difference. The names are read again while the folder changes, up to eight times in all, because a file system may
//!   move the name of a file that is being replaced past the reader: a file is missed only where
//!   it is replaced during each of them. A folder at rest for two seconds is read once.
//! - `open` reads a range of up to 64 KiB at once and holds no file open. A longer one holds one
//!   until its stream ends or is dropped, and up to two chunks of 512 KiB.
//! - `write` takes one hop for up to 1 MiB. A longer body is written in batches of 1 MiB, while the
//!   next one is gathered. Each write costs a sync of the file and one of its folder, however small
//!   it is, and one more for each 64 MiB on the way, during which the next 64 MiB may be written.
//!
//! # Cancellation
//!
//! A dropped call or stream stops after the batch, chunk, sync or deletion that is under way. A dropped
//! write is decided once: either its thread sees that the caller has gone and removes the
//! temporary file, or it has begun to rename it, and the write happens whole. A system call that
//! hangs, as on a network file system that is away, keeps its thread but not its caller: put a
//! time limit around the client.
//!
//! [`NotFound`]: replica_core::ErrorKind::NotFound
//! [`PermissionDenied`]: replica_core::ErrorKind::PermissionDenied
//! [`Invalid`]: replica_core::ErrorKind::Invalid
//! [`Unavailable`]: replica_core::ErrorKind::Unavailable
//! [`Corrupt`]: replica_core::ErrorKind::Corrupt
//! [`Other`]: replica_core::ErrorKind::Other
//! [`Timestamps`]: replica_core::Timestamps

#[cfg(not(unix))]
compile_error!("replica-file needs the file system of a Unix");

mod blocking;
mod classify;
mod client;
mod delete;
mod folder;
mod list;
mod read;
mod root;
mod staged;
mod sys;
mod temporary;
#[cfg(target_os = "linux")]
#[cfg(test)]
mod trace;
mod write;

pub use client::{FileClient, FileClientBuilder};

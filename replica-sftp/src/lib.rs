//! Replicas on an SFTP server.
//!
//! The layout is Litestream's for its `sftp` replicas, and so are the times: a file's
//! modification time is when it was created, in whole seconds, which is all that the protocol has.
//! The encryption and the login are `ssh2`'s; the protocol itself is spoken here, because that
//! takes no unsafe code, tells what the server can do, and lets any number of requests be under
//! way at once.
//!
//! # What is on the disk when
//!
//! A file is written under a temporary name in its level's folder, given its time, synced where
//! the server has `fsync@openssh.com`, and renamed with `posix-rename@openssh.com`. SFTP has no way
//! to sync a folder: after a crash of the server's machine the newest names may be missing.
//!
//! A server without `posix-rename@openssh.com` can't replace a file. A client that is told so
//! ([`SftpConfig::atomic_replace`], or [`SftpClient::connect`], which asks) moves the old file to
//! a name that ends in `.old`, renames the new one, and removes the old one. Whoever reads may
//! find no file for a moment. A client that dies in between leaves the old file under that name,
//! from which it can be renamed by hand, and the new one, whole, under one that ends in `.tmp`.
//!
//! What a call could not clear away because its connection was lost is cleared away on another, or
//! on the next one. Where that puts an old file back in its place, another client may have deleted
//! it meanwhile, to whom it did not exist: it is there again. What a process that died has left
//! stays until `delete_all`: nobody can tell from afar whether its writer still lives.
//!
//! # Connections
//!
//! Each has a thread of its own. A call takes one that nobody uses; where all are in use it shares
//! one, and another is opened for later calls. A connection that is lost fails the calls that use
//! it with [`Unavailable`], and the next call has a new one.
//!
//! # Costs
//!
//! - `write` takes four round trips for a small file; a larger one has up to 4 MiB under way.
//! - `open` takes two, the second of which brings the first piece of up to 256 KiB. A reader who
//!   goes on has up to 4 MiB asked for ahead.
//! - `list` reads a level whole before its first item, because SFTP has no order, and twice unless
//!   its folder has been seen at rest for three seconds, and is so still: a file system may hide a
//!   file for a moment that is being replaced. [`Timestamps`] makes no difference.
//!
//! # Links
//!
//! They are followed by `open`, where the server does, and never listed. `delete_all` deletes a
//! link and not what is behind it, the root itself aside. Where the folder in which a login begins
//! is the root, however that is written, or is in it, it deletes the `ltx` folder alone.
//!
//! # Errors
//!
//! | kind | what happened |
//! | --- | --- |
//! | [`NotFound`] | there is no such file |
//! | [`PermissionDenied`] | a refused login, a host key that changed or was revoked, permissions |
//! | [`Invalid`] | an unknown host key (the error has the line to add), a key that can't be used, a wrong path, a time before 1970 or after 2106 |
//! | [`Unavailable`] | nobody answers, or not in time; a lost connection |
//! | [`Corrupt`] | a file was cut while it was being read |
//! | [`Other`] | a full disk, a used-up quota, and what the server gives no reason for |
//!
//! [`NotFound`]: replica_core::ErrorKind::NotFound
//! [`PermissionDenied`]: replica_core::ErrorKind::PermissionDenied
//! [`Invalid`]: replica_core::ErrorKind::Invalid
//! [`Unavailable`]: replica_core::ErrorKind::Unavailable
//! [`Corrupt`]: replica_core::ErrorKind::Corrupt
//! [`Other`]: replica_core::ErrorKind::Other
//! [`Timestamps`]: replica_core::Timestamps

#[cfg(not(unix))]
compile_error!("replica-sftp needs the sockets of a Unix");

mod call;
mod classify;
mod client;
mod config;
mod connect;
mod connection;
mod delete;
mod known_hosts;
mod list;
mod pool;
mod public_key;
mod read;
mod replace;
mod root;
mod temporary;
mod wire;
mod write;

pub use client::SftpClient;
pub use config::{HostKey, Login, PrivateKey, SftpConfig};
pub use public_key::{PublicKey, PublicKeyError};

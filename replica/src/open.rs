//! Opening a replica by what a person writes.

#[cfg(any(feature = "s3", feature = "sftp"))]
mod environment;
#[cfg(feature = "s3")]
mod s3;
#[cfg(feature = "sftp")]
mod sftp;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use replica_core::ReplicaClient;
use replica_file::FileClient;

use crate::{Location, LocationError, stack_to_replicate};

/// Opens the replica at `url`: `s3://bucket/prefix`, `sftp://user@host/path`,
/// `file:///path/to/replica`, or the path of a folder. [`Location`] says more.
///
/// Costs no I/O to speak of: a place that does not exist shows itself at the first call, and
/// [`Location::missing`] tells it beforehand.
///
/// # Errors
///
/// A URL that names no place, or one that this build has no client for. Never shows a secret of
/// the URL.
pub fn open(url: &str) -> Result<Arc<dyn ReplicaClient>, OpenError> {
    url.parse::<Location>()?.open()
}

/// Opens the replica at `url`, as [`open`] does, for a [`Replicator`](crate::Replicator) that is
/// started: with the layers of [`stack_to_replicate`](crate::stack_to_replicate).
///
/// # Errors
///
/// As [`open`].
pub fn open_to_replicate(url: &str) -> Result<Arc<dyn ReplicaClient>, OpenError> {
    Ok(stack_to_replicate(url.parse::<Location>()?.client()?))
}

/// A replica that could not be opened, for a reason that no waiting mends. Shows no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL names no place.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The store's client was left out of this build.
    #[error("this build has no client for {0}://: build `replica` with its feature `{0}`")]
    NoFeature(&'static str),
    /// A setting that is not what it should be. Its value may be secret and is not shown.
    #[error("{name}: {why}")]
    Setting {
        /// The setting's name in a URL or a configuration, or of an environment variable.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A file that a setting names can't be read.
    #[error("can't read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One half of a bucket's access key is given, and not the other.
    #[error("{given} is given, and {missing} is not: both make the key of a bucket")]
    HalfKey {
        /// The half that is given.
        given: &'static str,
        /// The half that is not.
        missing: &'static str,
    },
    /// No key for a bucket, and no other way to get one.
    #[error("no credentials: set $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY")]
    NoCredentials,
    /// Nothing to log in with at an SFTP server.
    #[error(
        "nothing to log in with: give the URL a password or a key-path, or start an agent \
         ($SSH_AUTH_SOCK)"
    )]
    NoLogin,
    /// The client can't be made of what was given.
    #[error(transparent)]
    Client(#[from] replica_core::Error),
}

/// The secrets that the client of `location` is given.
pub(crate) fn secrets(location: &Location) -> Vec<String> {
    match location {
        #[cfg(feature = "s3")]
        Location::S3(location) => {
            let variable = |name: &str| std::env::var(name).ok();
            s3::secrets(location, &environment::Environment::new(&variable))
        }
        #[cfg(feature = "sftp")]
        Location::Sftp(location) => sftp::secrets(location),
        _ => Vec::new(),
    }
}

/// A client of the store, without a layer.
pub(crate) fn client(location: &Location) -> Result<Arc<dyn ReplicaClient>, OpenError> {
    #[cfg(any(feature = "s3", feature = "sftp"))]
    let variable = |name: &str| std::env::var(name).ok();
    match location {
        Location::Folder(path) => Ok(Arc::new(FileClient::new(path))),
        #[cfg(feature = "s3")]
        Location::S3(location) => s3::client(location, &environment::Environment::new(&variable)),
        #[cfg(feature = "sftp")]
        Location::Sftp(location) => {
            sftp::client(location, &environment::Environment::new(&variable))
        }
        #[cfg(not(all(feature = "s3", feature = "sftp")))]
        other => Err(OpenError::NoFeature(other.scheme())),
    }
}

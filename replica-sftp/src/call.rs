//! What a status of the server does not say.

use replica_core::{Error, ErrorKind};

use crate::classify::classify;
use crate::connection::Failure;
use crate::pool::Call;
use crate::wire::{Request, Space, Status, parse_space};

/// How little space counts as none: one piece of a file.
const FULL: u64 = crate::connect::PIECE_MAX;

impl Call {
    /// The error for `failure`, which came of trying to write `path` in some way (`doing`, an
    /// infinitive). Where the server gives no reason, as OpenSSH does for a full disk too, its
    /// file system is asked.
    pub(crate) async fn explain(&self, doing: &str, path: &str, failure: Failure) -> Error {
        let has_no_reason =
            matches!(&failure, Failure::Status(status) if status.code == Status::FAILURE);
        if has_no_reason
            && let Some(space) = self.space(path).await
            && (space.bytes < FULL || space.files == Some(0))
        {
            let message =
                format!("could not {doing} {path}: no space is left on the server's file system");
            let error = Error::new(ErrorKind::Other, message);
            return match failure {
                Failure::Status(status) => error.with_source(status),
                Failure::Lost(_) | Failure::Nonsense => error,
            };
        }
        if has_no_reason && self.extensions.statvfs {
            let message = format!(
                "could not {doing} {path}: the server gives no reason; its file system has space \
                 left, but a quota may be used up"
            );
            let error = Error::new(ErrorKind::Other, message);
            return match failure {
                Failure::Status(status) => error.with_source(status),
                Failure::Lost(_) | Failure::Nonsense => error,
            };
        }
        classify(doing, path, failure)
    }

    /// What the file system of `path`, or of the folder above it, has left.
    async fn space(&self, path: &str) -> Option<Space> {
        if !self.extensions.statvfs {
            return None;
        }
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let folder = if folder.is_empty() { "/" } else { folder };
        let reply = self
            .ask(Request::file_system(folder))
            .await
            .extended()
            .ok()?;
        parse_space(reply).ok()
    }
}

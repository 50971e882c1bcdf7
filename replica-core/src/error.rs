//! What can go wrong, told by what the caller should do about it.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

use crate::FileId;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: its kind, the operation, the store, the files, and the cause.
///
/// `Display` gives one line without the cause, which [`source`](StdError::source) holds. Neither
/// ever holds a secret (K22).
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    op: Option<Op>,
    scheme: Option<&'static str>,
    files: Vec<FileId>,
    message: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What the caller of a failed call should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file is not there: plan again. A missing bucket is [`Invalid`](ErrorKind::Invalid).
    NotFound,
    /// Ask the operator: wrong credentials, or too few permissions.
    PermissionDenied,
    /// Fix the call or the configuration: a range beyond the end, a bucket that does not exist.
    Invalid,
    /// Try again later, the only transient kind: 408, 429, 5xx, resets, time-outs, lost sessions.
    Unavailable,
    /// The bytes are not what was written: use another copy, or stop.
    Corrupt,
    /// Something else, a full disk among them: trying again at once won't help.
    Other,
}

/// The operation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// [`ReplicaClient::list`](crate::ReplicaClient::list), or an item of its stream.
    List,
    /// [`ReplicaClient::open`](crate::ReplicaClient::open), or an item of its stream.
    Open,
    /// [`ReplicaClient::write`](crate::ReplicaClient::write).
    Write,
    /// [`ReplicaClient::delete`](crate::ReplicaClient::delete).
    Delete,
    /// [`ReplicaClient::delete_all`](crate::ReplicaClient::delete_all).
    DeleteAll,
}

impl Error {
    /// An error of `kind`. `message` says what was wrong and, where it can, what to do: lower
    /// case, no full stop, no secret.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Error {
        Error(Box::new(Inner {
            kind,
            op: None,
            scheme: None,
            files: Vec::new(),
            message: message.into(),
            source: None,
        }))
    }

    /// The same error with its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// The same error, said to have happened during `op` on the store named `scheme`, unless
    /// something further in has said so already.
    #[must_use]
    pub fn during(mut self, op: Op, scheme: &'static str) -> Error {
        self.0.op.get_or_insert(op);
        self.0.scheme.get_or_insert(scheme);
        self
    }

    /// The same error, said to be about `file`, unless something further in has named files.
    #[must_use]
    pub fn of(self, file: FileId) -> Error {
        self.of_files([file])
    }

    /// The same error, said to be about `files`, unless something further in has named files.
    #[must_use]
    pub fn of_files(mut self, files: impl IntoIterator<Item = FileId>) -> Error {
        if self.0.files.is_empty() {
            self.0.files.extend(files);
        }
        self
    }

    /// What the caller should do.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed, where one is known.
    pub fn op(&self) -> Option<Op> {
        self.0.op
    }

    /// The URL scheme of the store that failed, where one is known.
    pub fn scheme(&self) -> Option<&'static str> {
        self.0.scheme
    }

    /// The files it is about: for a failed `delete`, those that could not be deleted.
    pub fn files(&self) -> &[FileId] {
        &self.0.files
    }

    /// What was wrong, without the operation and the files.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Whether the same call may succeed a little later.
    pub fn is_transient(&self) -> bool {
        self.0.kind == ErrorKind::Unavailable
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            op,
            scheme,
            files,
            message,
            ..
        } = &*self.0;
        if let Some(scheme) = scheme {
            write!(f, "{scheme}: ")?;
        }
        if let Some(op) = op {
            write!(f, "{op}")?;
            f.write_str(if files.is_empty() { ": " } else { " " })?;
        }
        if let Some((first, others)) = files.split_first() {
            write!(f, "{first}")?;
            if !others.is_empty() {
                write!(f, " and {} more", others.len())?;
            }
            f.write_str(": ")?;
        }
        f.write_str(message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::NotFound => "not found",
            ErrorKind::PermissionDenied => "permission denied",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Other => "other",
        })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::List => "list",
            Op::Open => "open",
            Op::Write => "write",
            Op::Delete => "delete",
            Op::DeleteAll => "delete-all",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Level, Txid, TxidRange};

    fn file(txid: u64) -> FileId {
        let txid = Txid::new(txid).unwrap();
        FileId {
            level: Level::RAW,
            txids: TxidRange::single(txid),
        }
    }

    #[test]
    fn an_error_names_the_store_the_operation_and_the_file() {
        let error = Error::new(ErrorKind::NotFound, "no such file")
            .of(file(1))
            .during(Op::Open, "file");

        assert_eq!(
            error.to_string(),
            "file: open 0/0000000000000001-0000000000000001.ltx: no such file"
        );
    }

    #[test]
    fn many_files_are_counted() {
        let error = Error::new(ErrorKind::Other, "access is frozen")
            .of_files([file(1), file(2), file(3)])
            .during(Op::Delete, "s3");

        assert_eq!(
            error.to_string(),
            "s3: delete 0/0000000000000001-0000000000000001.ltx and 2 more: access is frozen"
        );
        assert_eq!(error.files().len(), 3);
    }

    #[test]
    fn the_innermost_context_stays() {
        let error = Error::new(ErrorKind::Other, "broken")
            .of(file(1))
            .during(Op::Open, "s3");

        let outer = error.of(file(2)).during(Op::Write, "retry");

        assert_eq!(
            (outer.op(), outer.scheme(), outer.files()),
            (Some(Op::Open), Some("s3"), &[file(1)][..])
        );
    }

    #[test]
    fn a_cause_is_a_source_and_not_repeated() {
        let error = Error::new(ErrorKind::Other, "could not read").with_source("disk on fire");

        assert_eq!(error.to_string(), "could not read");
        assert_eq!(error.source().unwrap().to_string(), "disk on fire");
    }
}

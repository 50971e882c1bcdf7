//! From the errors of a server, of a connection and of a login to those of the contract.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use replica_core::{Error, ErrorKind};
use ssh2::ErrorCode;

use crate::connection::{Failure, Lost};
use crate::wire::{Status, harmless};

/// What went wrong, in the words of whoever found it.
#[derive(Debug)]
pub(crate) enum Cause {
    Status(Status),
    Lost(Lost),
    Nonsense,
    Io(io::Error),
    Ssh(ssh2::Error),
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Cause {
        match failure {
            Failure::Status(status) => Cause::Status(status),
            Failure::Lost(lost) => Cause::Lost(lost),
            Failure::Nonsense => Cause::Nonsense,
        }
    }
}

impl From<Status> for Cause {
    fn from(status: Status) -> Cause {
        Cause::Status(status)
    }
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Cause {
        Cause::Io(error)
    }
}

impl From<ssh2::Error> for Cause {
    fn from(error: ssh2::Error) -> Cause {
        Cause::Ssh(error)
    }
}

/// The error for `cause`, which came of trying to do `doing` (an infinitive) to `what`, which may
/// be a name of the server's.
pub(crate) fn classify(doing: &str, what: impl fmt::Display, cause: impl Into<Cause>) -> Error {
    let cause = cause.into();
    let (kind, reason) = judge(&cause);
    let what: String = harmless(&what.to_string()).collect();
    let error = Error::new(kind, format!("could not {doing} {what}: {reason}"));
    match cause {
        Cause::Status(status) => error.with_source(status),
        // Its reason is the error's already.
        Cause::Lost(_) | Cause::Nonsense => error,
        Cause::Io(cause) => error.with_source(cause),
        Cause::Ssh(cause) => error.with_source(cause),
    }
}

/// What the caller should do about `cause`, and why.
fn judge(cause: &Cause) -> (ErrorKind, String) {
    let (kind, reason) = match cause {
        Cause::Status(status) => judge_status(status.code),
        Cause::Lost(lost) => return (ErrorKind::Unavailable, lost.to_string()),
        Cause::Nonsense => (
            ErrorKind::Other,
            "the server's answer is none to what it was asked",
        ),
        Cause::Io(error) => judge_io(error),
        Cause::Ssh(error) => match error.code() {
            ErrorCode::Session(code) => judge_ssh(code, error.message()),
            ErrorCode::SFTP(code) => judge_status(code.unsigned_abs()),
        },
    };
    (kind, reason.to_owned())
}

fn judge_status(code: u32) -> (ErrorKind, &'static str) {
    match code {
        Status::NO_SUCH_FILE | Status::NO_SUCH_PATH => {
            (ErrorKind::NotFound, "there is no such file")
        }
        Status::PERMISSION_DENIED => (ErrorKind::PermissionDenied, "permission denied"),
        Status::WRITE_PROTECT => (
            ErrorKind::PermissionDenied,
            "the file system is mounted read-only",
        ),
        // OpenSSH says this of a path that is too long too.
        Status::BAD_MESSAGE => (
            ErrorKind::Invalid,
            "the server does not take it; a path may be too long",
        ),
        Status::UNSUPPORTED => (ErrorKind::Invalid, "the server can't do that"),
        Status::FILE_ALREADY_EXISTS => (ErrorKind::Invalid, "something else has that name"),
        Status::NO_CONNECTION | Status::CONNECTION_LOST => (
            ErrorKind::Unavailable,
            "the server has lost what is behind it",
        ),
        Status::NO_SPACE => (
            ErrorKind::Other,
            "no space is left on the server's file system",
        ),
        Status::QUOTA_EXCEEDED => (ErrorKind::Other, "the disk quota is used up"),
        _ => (ErrorKind::Other, "the server gives no reason"),
    }
}

fn judge_io(error: &io::Error) -> (ErrorKind, &'static str) {
    // What `ssh2` says through `io::Error` is its own error in disguise.
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner as Option<&ssh2::Error> {
        Some(error) => match error.code() {
            ErrorCode::Session(code) => judge_ssh(code, error.message()),
            ErrorCode::SFTP(code) => judge_status(code.unsigned_abs()),
        },
        None => (
            ErrorKind::Unavailable,
            match error.kind() {
                io::ErrorKind::ConnectionRefused => "nobody listens there",
                io::ErrorKind::TimedOut => "it does not answer in time",
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    "the connection broke"
                }
                _ => "the network says no",
            },
        ),
    }
}

// Of `libssh2.h`.
const KEX_FAILURE: i32 = -5;
const KEY_EXCHANGE_FAILURE: i32 = -8;
const TIMEOUT: i32 = -9;
const PASSWORD_EXPIRED: i32 = -15;
const FILE: i32 = -16;
const METHOD_NONE: i32 = -17;
const AUTHENTICATION_FAILED: i32 = -18;
const PUBLICKEY_UNVERIFIED: i32 = -19;
const CHANNEL_FAILURE: i32 = -21;
const CHANNEL_REQUEST_DENIED: i32 = -22;
const METHOD_NOT_SUPPORTED: i32 = -33;
const INVAL: i32 = -34;
const AGENT_PROTOCOL: i32 = -42;
const KEYFILE_AUTH_FAILED: i32 = -48;
const ALGO_UNSUPPORTED: i32 = -51;
const BAD_USE: i32 = -39;

/// Judges an error by its `code`, and where that means two things by libssh2's `message`.
fn judge_ssh(code: i32, message: &str) -> (ErrorKind, &'static str) {
    match code {
        // Whatever keeps the answer to a key from being received.
        PUBLICKEY_UNVERIFIED if message.starts_with("Waiting for ") => {
            (ErrorKind::Unavailable, "the connection broke")
        }
        TIMEOUT => (ErrorKind::Unavailable, "it does not answer in time"),
        AUTHENTICATION_FAILED | PUBLICKEY_UNVERIFIED => (
            ErrorKind::PermissionDenied,
            "it refuses the login: the user or what was shown is wrong",
        ),
        PASSWORD_EXPIRED => (
            ErrorKind::PermissionDenied,
            "it refuses the login: the password has expired, and is to be changed first",
        ),
        FILE | KEYFILE_AUTH_FAILED | ALGO_UNSUPPORTED => (
            ErrorKind::Invalid,
            "the private key can't be used: it is no key, of a form that nobody knows here, or its \
             passphrase is wrong",
        ),
        AGENT_PROTOCOL | BAD_USE => (
            ErrorKind::Invalid,
            "the agent does not answer, or there is none",
        ),
        METHOD_NONE | METHOD_NOT_SUPPORTED | INVAL => (
            ErrorKind::Invalid,
            "the two have no method in common, or a setting makes no sense",
        ),
        CHANNEL_FAILURE | CHANNEL_REQUEST_DENIED => {
            (ErrorKind::Invalid, "it does not offer SFTP to this user")
        }
        KEX_FAILURE | KEY_EXCHANGE_FAILURE => (
            ErrorKind::Unavailable,
            "no keys were agreed on: the connection broke, or the two have no method in common",
        ),
        _ => (ErrorKind::Unavailable, "the connection broke"),
    }
}

/// Whether `error` means that nothing was heard in time.
pub(crate) fn is_timeout(error: &ssh2::Error) -> bool {
    error.code() == ErrorCode::Session(TIMEOUT)
}

/// The same error for one more caller. Causes can't be copied, but their words can.
pub(crate) fn copy(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.message().to_owned());
    match error.source() {
        Some(cause) => copy.with_source(cause.to_string()),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_transient() {
        let status = |code| Cause::Status(Status::of(code));
        let io = |kind| Cause::Io(io::Error::from(kind));
        let ssh = |code| Cause::Ssh(ssh2::Error::new(ErrorCode::Session(code), "in its words"));
        let unheard = |message| {
            let code = ErrorCode::Session(PUBLICKEY_UNVERIFIED);
            Cause::Ssh(ssh2::Error::new(code, message))
        };
        for (cause, kind) in [
            (status(Status::NO_SUCH_FILE), ErrorKind::NotFound),
            (status(Status::NO_SUCH_PATH), ErrorKind::NotFound),
            (
                status(Status::PERMISSION_DENIED),
                ErrorKind::PermissionDenied,
            ),
            (status(Status::WRITE_PROTECT), ErrorKind::PermissionDenied),
            (status(Status::BAD_MESSAGE), ErrorKind::Invalid),
            (status(Status::UNSUPPORTED), ErrorKind::Invalid),
            (status(Status::FILE_ALREADY_EXISTS), ErrorKind::Invalid),
            (status(Status::NO_CONNECTION), ErrorKind::Unavailable),
            (status(Status::CONNECTION_LOST), ErrorKind::Unavailable),
            (status(Status::FAILURE), ErrorKind::Other),
            (status(Status::NO_SPACE), ErrorKind::Other),
            (status(Status::QUOTA_EXCEEDED), ErrorKind::Other),
            (status(4711), ErrorKind::Other),
            (Cause::Lost(Lost::new("a reset")), ErrorKind::Unavailable),
            (io(io::ErrorKind::ConnectionRefused), ErrorKind::Unavailable),
            (io(io::ErrorKind::ConnectionReset), ErrorKind::Unavailable),
            (io(io::ErrorKind::TimedOut), ErrorKind::Unavailable),
            (ssh(TIMEOUT), ErrorKind::Unavailable),
            (ssh(KEY_EXCHANGE_FAILURE), ErrorKind::Unavailable),
            (ssh(AUTHENTICATION_FAILED), ErrorKind::PermissionDenied),
            (ssh(PUBLICKEY_UNVERIFIED), ErrorKind::PermissionDenied),
            (
                unheard("Waiting for USERAUTH response"),
                ErrorKind::Unavailable,
            ),
            (
                unheard("Waiting for publickey USERAUTH response"),
                ErrorKind::Unavailable,
            ),
            (ssh(PASSWORD_EXPIRED), ErrorKind::PermissionDenied),
            (ssh(FILE), ErrorKind::Invalid),
            (ssh(ALGO_UNSUPPORTED), ErrorKind::Invalid),
            (ssh(AGENT_PROTOCOL), ErrorKind::Invalid),
            (ssh(CHANNEL_REQUEST_DENIED), ErrorKind::Invalid),
        ] {
            let told = format!("{cause:?}");

            let error = classify("write", "/db", cause);

            assert_eq!(error.kind(), kind, "{told}");
            assert_eq!(error.is_transient(), kind == ErrorKind::Unavailable);
            assert!(
                error.to_string().contains("could not write /db: "),
                "{error}"
            );
        }
    }
}

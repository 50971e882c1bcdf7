//! From the errors of a file system to those of the contract.

use std::io;
use std::path::Path;

use replica_core::{Error, ErrorKind};
use rustix::io::Errno;

/// The error for `cause`, which came of trying to do `doing` (an infinitive) to `path`.
///
/// The cause is kept as the source: a [`std::io::Error`], whose own kind says more than
/// ours, such as [`StorageFull`](io::ErrorKind::StorageFull).
pub(crate) fn classify(doing: &str, path: &Path, cause: io::Error) -> Error {
    let (kind, reason) =
        Errno::from_io_error(&cause).map_or((ErrorKind::Other, "the system says no"), judge);
    Error::new(
        kind,
        format!("could not {doing} {}: {reason}", path.display()),
    )
    .with_source(cause)
}

/// What the caller should do about `errno`, and why.
fn judge(errno: Errno) -> (ErrorKind, &'static str) {
    match errno {
        Errno::NOENT => (ErrorKind::NotFound, "there is no such file"),
        Errno::ACCESS | Errno::PERM => (ErrorKind::PermissionDenied, "permission denied"),
        Errno::ROFS => (
            ErrorKind::PermissionDenied,
            "the file system is mounted read-only",
        ),

        Errno::NOTDIR | Errno::LOOP => (
            ErrorKind::Invalid,
            "it is not a folder, or a symbolic link that is not followed",
        ),
        Errno::ISDIR | Errno::EXIST | Errno::NOTEMPTY => {
            (ErrorKind::Invalid, "something else has that name")
        }
        Errno::NAMETOOLONG => (ErrorKind::Invalid, "the path is too long"),
        Errno::INVAL | Errno::ILSEQ | Errno::OVERFLOW => {
            (ErrorKind::Invalid, "the file system does not take it")
        }

        Errno::NOSPC => (ErrorKind::Other, "no space is left on the file system"),
        Errno::DQUOT => (ErrorKind::Other, "the disk quota is used up"),
        Errno::FBIG => (
            ErrorKind::Other,
            "the file is larger than the file system or a limit of the process allows",
        ),

        Errno::MFILE | Errno::NFILE => (ErrorKind::Unavailable, "too many files are open"),
        Errno::NOMEM | Errno::NOBUFS | Errno::AGAIN | Errno::INTR | Errno::BUSY | Errno::NOLCK => {
            (ErrorKind::Unavailable, "the system is short of something")
        }
        // A network file system that is away, or whose server has been replaced.
        Errno::STALE
        | Errno::TIMEDOUT
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::CONNREFUSED
        | Errno::CONNRESET
        | Errno::CONNABORTED
        | Errno::NOTCONN
        | Errno::SHUTDOWN => (
            ErrorKind::Unavailable,
            "the server of the file system can't be reached",
        ),

        // The disk, or the file system's own checksums, say that the bytes are lost.
        Errno::IO | Errno::BADMSG => (ErrorKind::Corrupt, "the disk can't read or write it"),
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Errno::UCLEAN => (ErrorKind::Corrupt, "the file system is damaged there"),

        _ => (ErrorKind::Other, "the system says no"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    fn check(errno: Errno, kind: ErrorKind, reason: &str) {
        let error = classify("write", Path::new("/replica/ltx"), errno.into());

        assert_eq!(error.kind(), kind, "{errno}");
        assert_eq!(
            error.to_string(),
            format!("could not write /replica/ltx: {reason}")
        );
        let source = error.source().expect("the cause is kept");
        let source: &io::Error = source.downcast_ref().expect("as what it was");
        assert_eq!(Errno::from_io_error(source), Some(errno));
    }

    #[test]
    fn the_kind_says_what_the_caller_should_do() {
        let denied = ErrorKind::PermissionDenied;
        check(Errno::ACCESS, denied, "permission denied");
        check(Errno::PERM, denied, "permission denied");
        check(Errno::ROFS, denied, "the file system is mounted read-only");

        let no_folder = "it is not a folder, or a symbolic link that is not followed";
        check(Errno::NOTDIR, ErrorKind::Invalid, no_folder);
        check(Errno::LOOP, ErrorKind::Invalid, no_folder);
        check(
            Errno::NAMETOOLONG,
            ErrorKind::Invalid,
            "the path is too long",
        );

        let open_files = "too many files are open";
        check(Errno::MFILE, ErrorKind::Unavailable, open_files);
        check(Errno::NFILE, ErrorKind::Unavailable, open_files);
        check(
            Errno::STALE,
            ErrorKind::Unavailable,
            "the server of the file system can't be reached",
        );

        check(
            Errno::IO,
            ErrorKind::Corrupt,
            "the disk can't read or write it",
        );
        check(Errno::NOENT, ErrorKind::NotFound, "there is no such file");
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        let full = "no space is left on the file system";
        check(Errno::NOSPC, ErrorKind::Other, full);
        check(Errno::DQUOT, ErrorKind::Other, "the disk quota is used up");

        let error = classify("write", Path::new("/replica"), Errno::NOSPC.into());
        let source = error.source().and_then(|source| source.downcast_ref());
        assert_eq!(
            source.map(io::Error::kind),
            Some(io::ErrorKind::StorageFull)
        );
    }

    #[test]
    fn what_is_unknown_keeps_its_cause() {
        let error = classify("write", Path::new("/replica"), io::Error::other("odd"));

        assert_eq!(error.kind(), ErrorKind::Other);
        assert_eq!(error.source().expect("a cause").to_string(), "odd");
    }
}

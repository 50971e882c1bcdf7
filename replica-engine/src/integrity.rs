//! What SQLite itself says of a database.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::{Connection, Error, InterruptHandle, OpenFlags};

use crate::RestoreError;
use crate::restore::run_blocking;

/// How far SQLite checks a restored database before it gets its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Integrity {
    /// Not at all: the bytes are verified in any case.
    #[default]
    Unchecked,
    /// Its structure (`PRAGMA quick_check`).
    Quick,
    /// Its structure, and its indexes against its tables (`PRAGMA integrity_check`).
    Full,
}

/// Has SQLite check the database at `path`, which nobody may write meanwhile.
pub(crate) async fn check_integrity(path: &Path, integrity: Integrity) -> Result<(), RestoreError> {
    let pragma = match integrity {
        Integrity::Unchecked => return Ok(()),
        Integrity::Quick => "PRAGMA quick_check",
        Integrity::Full => "PRAGMA integrity_check",
    };
    let uri = immutable_uri(path);
    let connection = run_blocking(move || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        Connection::open_with_flags(uri, flags).map_err(RestoreError::Unchecked)
    })
    .await??;
    let _interrupt = Interrupt(connection.get_interrupt_handle());
    run_blocking(move || {
        let findings = findings(&connection, pragma).or_else(|error| match error {
            // So broken that the check itself fails.
            Error::SqliteFailure(code, _) if is_verdict(code) => Ok(vec![error.to_string()]),
            error => Err(RestoreError::Unchecked(error)),
        })?;
        if findings == ["ok"] {
            Ok(())
        } else {
            Err(RestoreError::Integrity { findings })
        }
    })
    .await?
}

fn findings(connection: &Connection, pragma: &str) -> rusqlite::Result<Vec<String>> {
    connection
        .prepare(pragma)?
        .query_map((), |row| row.get(0))?
        .collect()
}

fn is_verdict(error: rusqlite::ffi::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.code, DatabaseCorrupt | NotADatabase)
}

/// The database at `path` as one that nobody changes: SQLite then makes no file beside it.
fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' => {
                uri.push(char::from(byte));
            }
            _ => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri + "?immutable=1"
}

/// Stops the check when nobody waits for it any more.
struct Interrupt(InterruptHandle);

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

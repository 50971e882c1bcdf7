//! Whether somebody has a database open that is to be replaced.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

/// How long it is waited for whoever looks into the database for a moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether somebody has the database at `path` open, as far as SQLite's locks tell: one in WAL mode
/// from the first read on until it is closed, another one while it is read or written.
///
/// SQLite is asked for the lock that keeps everybody else out, and changes nothing but what any
/// reader would: a transaction that a crash has cut short is rolled back. What is no database, and
/// what may not be opened, is nobody's. It goes through SQLite because a process that opens and
/// closes the file by itself loses all the locks that its own connections have.
pub(crate) fn is_occupied(path: &Path) -> bool {
    match lock(path) {
        Ok(()) => false,
        Err(error) => matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
        ),
    }
}

fn lock(path: &Path) -> rusqlite::Result<()> {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let has_log = Path::new(&wal).exists();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(PATIENCE)?;
    // A log that is there stays as it is. One that is made by this has to go with it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    // The index of a log is kept in memory then, and not beside it.
    connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK")
}

//! The connection by which a database is held.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, Result};

use super::file;

/// How long it is waited for whoever checkpoints just now.
const RELOCK_PAUSE: Duration = Duration::from_micros(100);
/// How often, which is a tenth of a second.
const RELOCK_TRIES: usize = 1_000;

/// A connection that has SQLite's checkpoint lock, or reads, or both.
///
/// - While it has the lock, no frame of the log is copied to the database file. So the log is begun
///   anew at most once: by the first one who writes where all of it was in the database file when
///   the lock was taken. The next log has frames that are not, or none, and neither is begun anew.
/// - While it reads frames of the log, the log isn't begun anew at all, and of what is written later
///   nothing is copied. While it reads the database file alone, because all of the log is there,
///   nothing is copied, so that it is as with the lock; but that an empty log may be replaced by
///   another empty one.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) connection: Connection,
    has_lock: Cell<bool>,
    /// How often it has taken it.
    locks: Cell<u32>,
    /// Whether it never takes the lock.
    only_reads: bool,
}

impl Keeper {
    pub(super) fn new(connection: Connection) -> Keeper {
        Keeper {
            connection,
            has_lock: Cell::new(false),
            locks: Cell::new(0),
            only_reads: false,
        }
    }

    /// One that leaves the lock to others.
    pub(super) fn that_reads(connection: Connection) -> Keeper {
        let mut keeper = Keeper::new(connection);
        keeper.only_reads = true;
        keeper
    }

    pub(super) fn has_lock(&self) -> bool {
        self.has_lock.get()
    }

    /// The number of the lock, which is another one each time that it is taken, where it has it.
    pub(super) fn lock_number(&self) -> Option<u32> {
        self.has_lock().then(|| self.locks.get())
    }

    pub(super) fn reads(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Takes the lock, where it can be had at once, and says whether it has it now.
    pub(super) fn lock(&self) -> Result<bool> {
        if !self.has_lock() && !self.only_reads {
            let locked = file::lock_checkpoints(&self.connection)?;
            self.has_lock.set(locked);
            self.locks.update(|locks| locks.wrapping_add(locked.into()));
        }
        Ok(self.has_lock())
    }

    /// Takes the lock again, though somebody may be about to checkpoint.
    pub(super) fn relock(&self) -> Result<bool> {
        for _ in 0..RELOCK_TRIES {
            if self.lock()? {
                return Ok(true);
            }
            thread::sleep(RELOCK_PAUSE);
        }
        self.lock()
    }

    /// Gives the lock back, where it has it.
    pub(super) fn unlock(&self) -> Result<()> {
        if self.has_lock() {
            file::unlock_checkpoints(&self.connection)?;
            self.has_lock.set(false);
        }
        Ok(())
    }

    /// Begins to read, where it does not yet.
    pub(super) fn read(&self) -> Result<()> {
        match self.reads() {
            true => Ok(()),
            false => begin(&self.connection),
        }
    }

    /// Ends to read, where it does.
    pub(super) fn end(&self) -> Result<()> {
        end(&self.connection)
    }
}

impl Drop for Keeper {
    /// The lock is the process's, and SQLite would not give it back: it knows nothing of it.
    fn drop(&mut self) {
        self.unlock().ok();
    }
}

/// Begins a read transaction, or none where it fails.
pub(super) fn begin(connection: &Connection) -> Result<()> {
    connection.execute_batch("BEGIN")?;
    // A transaction begins with the first read: until then nothing is held.
    let read = "SELECT EXISTS(SELECT 1 FROM sqlite_schema)";
    let begun = connection.query_row(read, (), |_| Ok(()));
    if begun.is_err() {
        end(connection).ok();
    }
    begun
}

/// Ends the transaction of `connection`, where it is in one.
pub(super) fn end(connection: &Connection) -> Result<()> {
    match connection.is_autocommit() {
        true => Ok(()),
        false => connection.execute_batch("ROLLBACK"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_has_failed_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let open = || Connection::open(&path).expect("a database in a temporary folder");
        let (writer, reader) = (open(), open());
        let locked = writer.execute_batch("CREATE TABLE t(a); BEGIN EXCLUSIVE");
        locked.expect("nobody else has it");
        reader.busy_timeout(Duration::ZERO).expect("a connection");

        begin(&reader).expect_err("it is locked");

        assert!(reader.is_autocommit());
        writer.execute_batch("COMMIT").expect("it can end");
        begin(&reader).expect("nobody writes any more");
        assert!(!reader.is_autocommit());
    }

    #[test]
    fn the_lock_ends_with_its_keeper() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let open = || Connection::open(&path).expect("a database in a temporary folder");
        let (first, second) = (open(), open());
        let made = "PRAGMA journal_mode=WAL; CREATE TABLE t(a)";
        first.execute_batch(made).expect("a table can be made");
        let read = second.execute_batch("SELECT * FROM t");
        read.expect("there is a table");
        let (first, second) = (Keeper::new(first), Keeper::new(second));

        assert_eq!((first.lock(), second.lock()), (Ok(true), Ok(false)));
        drop(first);

        assert_eq!(second.lock(), Ok(true));
    }
}

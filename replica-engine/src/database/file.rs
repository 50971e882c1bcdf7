//! The database file as SQLite itself has it open, and one of SQLite's locks.
//!
//! A process that opens the file once more and closes it again loses, by the rules of POSIX, all
//! the locks that its connections hold on it, those of the application that embeds this crate
//! among them. So the file is read through the handle that a connection has, which only SQLite's
//! C interface gives. This is the only place of the crate that calls it.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU16, AtomicU32};

use rusqlite::{Connection, Error, Result, ffi};

/// The number of the lock under which SQLite checkpoints: WAL_CKPT_LOCK of its file format.
const CHECKPOINT_LOCK: c_int = 1;
/// The size of the regions in which SQLite maps the log's index.
const REGION: c_int = 32_768;
/// How many words of 32 bits the header has with which the first one begins, twice.
const HEADER_WORDS: usize = 12;

/// Reads the part of `connection`'s database file that begins at byte `offset`. What is beyond the
/// end of the file reads as zeros, as it does for SQLite.
///
/// Nothing is locked by this, so what is read is of one state only where the connection's own
/// transaction, or the caller, sees to that.
pub(super) fn read(connection: &Connection, offset: u64, out: &mut [u8]) -> Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), c_int::try_from(out.len())) else {
        return Err(misuse());
    };
    let file = pointer(connection)?;
    // SAFETY: `file` is as `pointer` promises. A file that is not open has no methods. `xRead`
    // writes at most `len` bytes to `out`, which has as many.
    let code = unsafe {
        let methods = file.as_ref().and_then(|file| file.pMethods.as_ref());
        let x_read = methods.and_then(|methods| methods.xRead);
        let x_read = x_read.ok_or_else(misuse)?;
        x_read(file, out.as_mut_ptr().cast(), len, offset)
    };
    match code {
        // A short read has filled the rest with zeros.
        ffi::SQLITE_OK | ffi::SQLITE_IOERR_SHORT_READ => Ok(()),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Writes to the disk what was written to `connection`'s database file, by whomever.
pub(super) fn sync(connection: &Connection) -> Result<()> {
    let file = pointer(connection)?;
    // SAFETY: `file` is as `pointer` promises. A file that is not open has no methods.
    let code = unsafe {
        let methods = file.as_ref().and_then(|file| file.pMethods.as_ref());
        let x_sync = methods.and_then(|methods| methods.xSync);
        let x_sync = x_sync.ok_or_else(misuse)?;
        x_sync(file, ffi::SQLITE_SYNC_NORMAL)
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Takes the lock under which SQLite checkpoints, which nobody does then. `false` where somebody is
/// at it: this waits for nobody.
///
/// SQLite takes the lock itself wherever it checkpoints or mends the index of a log, and finds it
/// taken then, on this connection too. It knows nothing of this, so the lock must be given back
/// before the connection is closed. The connection must have read a database in WAL mode.
pub(super) fn lock_checkpoints(connection: &Connection) -> Result<bool> {
    match shm_lock(connection, ffi::SQLITE_SHM_LOCK | ffi::SQLITE_SHM_EXCLUSIVE)? {
        ffi::SQLITE_OK => Ok(true),
        ffi::SQLITE_BUSY => Ok(false),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Gives back the lock that [`lock_checkpoints`] has taken on this connection.
pub(super) fn unlock_checkpoints(connection: &Connection) -> Result<()> {
    match shm_lock(
        connection,
        ffi::SQLITE_SHM_UNLOCK | ffi::SQLITE_SHM_EXCLUSIVE,
    )? {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

fn shm_lock(connection: &Connection, flags: c_int) -> Result<c_int> {
    let file = pointer(connection)?;
    // SAFETY: `file` is as `pointer` promises. A file that is not open has no methods, and methods
    // before version 2 have no locks. SQLite's own file systems lock per connection and process,
    // and give an error where the connection has no log open.
    unsafe {
        let methods = file.as_ref().and_then(|file| file.pMethods.as_ref());
        let methods = methods.filter(|methods| methods.iVersion >= 2);
        let x_shm_lock = methods.and_then(|methods| methods.xShmLock);
        let x_shm_lock = x_shm_lock.ok_or_else(misuse)?;
        Ok(x_shm_lock(file, CHECKPOINT_LOCK, 1, flags))
    }
}

/// A part of the index of a log, in memory that all connections to the database share.
#[derive(Clone, Copy)]
pub(super) struct Region<'a> {
    /// Its first half.
    pub(super) words: &'a [AtomicU32],
    /// Its second half.
    pub(super) slots: &'a [AtomicU16],
}

/// Shows part number `number` of the index of `connection`'s log to `work`, which must do nothing
/// with that connection. It is made where it is not there yet.
///
/// Must be called while `connection` has the write lock: so nobody else changes it meanwhile, but
/// for what readers and checkpoints note of themselves in the first one.
pub(super) fn index_region<T>(
    connection: &Connection,
    number: u32,
    work: impl FnOnce(Region<'_>) -> T,
) -> Result<T> {
    const WORDS: usize = 4096;
    const SLOTS: usize = 8192;
    const EXTEND: c_int = 1;
    let number = c_int::try_from(number).map_err(|_| misuse())?;
    let words: *const AtomicU32 = region(pointer(connection)?, number, EXTEND)?.cast();
    // SAFETY: the region is as `region` promises, aligned to a page of the machine, and is mapped
    // for as long as the connection is borrowed. Both halves together are all of it. Others write to
    // it, so that it is only seen as atomic integers, all of whose values are valid.
    let region = unsafe {
        let slots: *const AtomicU16 = words.add(WORDS).cast();
        Region {
            words: slice::from_raw_parts(words, WORDS),
            slots: slice::from_raw_parts(slots, SLOTS),
        }
    };
    Ok(work(region))
}

/// The two copies of the header of the log's index, in 32-bit words of this machine, as they were at
/// some moment: they are equal unless somebody was just writing one of them, or has died of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexHeader([[u32; HEADER_WORDS]; 2]);

impl IndexHeader {
    /// Whether it is none that has to be mended before anybody can read.
    pub(crate) fn is_whole(&self) -> bool {
        let [header, copy] = self.0;
        let [is_init, ..] = header[3].to_ne_bytes();
        header == copy && is_init != 0
    }

    /// How many bytes the committed frames of the log have.
    fn log_len(&self) -> u64 {
        /// The bytes before each page.
        const FRAME_HEADER: u64 = 24;
        let [header, _] = self.0;
        // The word has two bytes and the size of a page, of which 1 stands for 65,536.
        let [_, _, low, high] = header[3].to_ne_bytes();
        let page_size = match u16::from_ne_bytes([low, high]) {
            1 => 65_536,
            size => u64::from(size),
        };
        u64::from(header[4]) * (page_size + FRAME_HEADER)
    }
}

/// The header of the log's index at this very moment.
///
/// It costs no system call. The connection must have read a database in WAL mode.
pub(super) fn index_header(connection: &Connection) -> Result<IndexHeader> {
    let words: *const u32 = region(pointer(connection)?, 0, 0)?.cast();
    let mut headers = [[0; HEADER_WORDS]; 2];
    for (index, word) in headers.as_flattened_mut().iter_mut().enumerate() {
        // SAFETY: the region is as `region` promises, and begins at the beginning of a page. It is
        // memory that other processes write, too, so that no reference to it is made, and what is
        // read lies within it.
        *word = unsafe { words.add(index).read_volatile() };
    }
    Ok(IndexHeader(headers))
}

/// How many bytes the committed frames of the log have, without its header, at this very moment.
pub(super) fn log_len(connection: &Connection) -> Result<u64> {
    index_header(connection).map(|header| header.log_len())
}

/// Part number `number` of the log's index, of [`REGION`] bytes, which is made where it is not there
/// yet if `extend` is 1. SQLite keeps it mapped for as long as the connection of `file` has its log
/// open: from when it has read a database in WAL mode until it is closed, and no longer than it is
/// borrowed therefore.
fn region(file: *mut ffi::sqlite3_file, number: c_int, extend: c_int) -> Result<*const c_void> {
    let mut region: *mut c_void = ptr::null_mut();
    // SAFETY: `file` is as `pointer` promises. A file that is not open has no methods, and methods
    // before version 2 have no index. `xShmMap` stores the address of a region of as many bytes as
    // it is asked for, or a null pointer, or it fails.
    let code = unsafe {
        let methods = file.as_ref().and_then(|file| file.pMethods.as_ref());
        let methods = methods.filter(|methods| methods.iVersion >= 2);
        let x_shm_map = methods.and_then(|methods| methods.xShmMap);
        let x_shm_map = x_shm_map.ok_or_else(misuse)?;
        let region_of: *mut *mut c_void = &mut region;
        x_shm_map(file, number, REGION, extend, region_of.cast())
    };
    match code {
        ffi::SQLITE_OK if region.is_null() => Err(misuse()),
        ffi::SQLITE_OK => Ok(region.cast_const()),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Sees to it that whatever was written to the index before is seen before whatever is written to
/// it afterwards.
pub(super) fn index_barrier(connection: &Connection) -> Result<()> {
    let file = pointer(connection)?;
    // SAFETY: `file` is as `pointer` promises. A file that is not open has no methods.
    unsafe {
        let methods = file.as_ref().and_then(|file| file.pMethods.as_ref());
        let x_shm_barrier = methods.and_then(|methods| methods.xShmBarrier);
        x_shm_barrier.ok_or_else(misuse)?(file);
    }
    Ok(())
}

/// The open file of `connection`'s main database. SQLite owns it for as long as the connection is
/// open, which it is while it is borrowed; and a connection is not `Sync`, so no other thread uses
/// that file meanwhile.
fn pointer(connection: &Connection) -> Result<*mut ffi::sqlite3_file> {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    file_control(connection, ffi::SQLITE_FCNTL_FILE_POINTER, &mut file)?;
    Ok(file)
}

/// Whether `connection`'s database is no longer the file of its path: it was renamed, deleted or
/// replaced.
pub(super) fn has_moved(connection: &Connection) -> Result<bool> {
    let mut moved: c_int = 0;
    file_control(connection, ffi::SQLITE_FCNTL_HAS_MOVED, &mut moved)?;
    Ok(moved != 0)
}

/// Asks the file of `connection`'s main database for something that SQLite stores in `answer`,
/// which must be of the type that belongs to `operation`.
fn file_control<T>(connection: &Connection, operation: c_int, answer: &mut T) -> Result<()> {
    let answer: *mut T = answer;
    // SAFETY: the handle is that of an open connection, which is borrowed and so can't be closed
    // meanwhile; the name is a C string; and both callers give an answer of the type that SQLite's
    // documentation has for their operation.
    let code = unsafe {
        ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            operation,
            answer.cast::<c_void>(),
        )
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

/// Has `connection`, which has done nothing yet, keep no memory of its own for small things: it does
/// few of them, and it may be one of thousands.
pub(super) fn without_lookaside(connection: &Connection) -> Result<()> {
    let none: *mut c_void = ptr::null_mut();
    let zero: c_int = 0;
    // SAFETY: the handle is that of an open connection, which is borrowed and so can't be closed
    // meanwhile. SQLite's documentation has a pointer and two integers for this option; without a
    // pointer it allocates by itself, here nothing.
    let code = unsafe {
        let handle = connection.handle();
        ffi::sqlite3_db_config(handle, ffi::SQLITE_DBCONFIG_LOOKASIDE, none, zero, zero)
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}

fn misuse() -> Error {
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_MISUSE), None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_file_is_read_as_it_is_with_zeros_behind_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("PRAGMA page_size=512; CREATE TABLE t(a)")
            .unwrap();
        let mut out = [7; 700];

        read(&connection, 512, &mut out).unwrap();

        drop(connection);
        let content = fs::read(&path).unwrap();
        assert_eq!(content.len(), 1024);
        assert_eq!(out[..512], content[512..]);
        assert_eq!(out[512..], [0; 188]);
    }

    #[test]
    fn an_offset_that_no_file_has_is_an_error() {
        let connection = Connection::open_in_memory().unwrap();

        assert!(read(&connection, u64::MAX, &mut [0; 8]).is_err());
    }

    #[test]
    fn a_file_is_synced_where_there_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("a.db")).unwrap();
        connection.execute_batch("CREATE TABLE t(a)").unwrap();

        assert_eq!(sync(&connection), Ok(()));
        assert!(sync(&Connection::open_in_memory().unwrap()).is_err());
    }

    #[test]
    fn a_file_that_was_replaced_has_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t(a)").unwrap();

        assert!(!has_moved(&connection).unwrap());
        fs::rename(&path, folder.path().join("b.db")).unwrap();
        assert!(has_moved(&connection).unwrap());
        fs::write(&path, "another one").unwrap();
        assert!(has_moved(&connection).unwrap());
    }

    fn checkpointed(connection: &Connection) -> (bool, i64, i64) {
        let row = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        });
        row.expect("a checkpoint is no error, whether it comes about or not")
    }

    #[test]
    fn nobody_checkpoints_while_that_is_locked_and_nobody_waits_for_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let open = || Connection::open(&path).expect("a database in a temporary folder");
        let (keeper, other) = (open(), open());
        let made = "PRAGMA journal_mode=WAL; CREATE TABLE t(a)";
        keeper.execute_batch(made).expect("a table can be made");
        let second = open();
        let read = second.execute_batch("SELECT * FROM t");
        read.expect("there is a table");

        assert_eq!(lock_checkpoints(&keeper), Ok(true));
        assert_eq!(lock_checkpoints(&second), Ok(false));
        assert_eq!(checkpointed(&other), (true, -1, -1));
        assert_eq!(checkpointed(&keeper), (true, -1, -1));
        let written = other.execute_batch("INSERT INTO t VALUES(1)");
        written.expect("whoever writes needs no checkpoint");

        assert_eq!(unlock_checkpoints(&keeper), Ok(()));
        assert_eq!(checkpointed(&other), (false, 0, 0));
        assert_eq!(lock_checkpoints(&second), Ok(true));
        assert_eq!(unlock_checkpoints(&second), Ok(()));
    }

    #[test]
    fn without_a_log_there_is_no_lock() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let connection = Connection::open(folder.path().join("a.db")).expect("a database");
        let made = connection.execute_batch("CREATE TABLE t(a)");
        made.expect("a table can be made");

        lock_checkpoints(&connection).expect_err("it has no log");
        let in_memory = Connection::open_in_memory().expect("a database in memory");
        lock_checkpoints(&in_memory).expect_err("it has no file");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn reading_the_file_costs_no_lock() {
        use std::os::unix::fs::MetadataExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE t(a); BEGIN EXCLUSIVE")
            .unwrap();
        let inode = format!(":{} ", fs::metadata(&path).unwrap().ino());
        let locks = || {
            let all = fs::read_to_string("/proc/locks").unwrap();
            all.lines().filter(|line| line.contains(&inode)).count()
        };
        let before = locks();

        read(&connection, 0, &mut [0; 100]).unwrap();
        assert_eq!(locks(), before);

        // What it would cost otherwise.
        drop(fs::File::open(&path).unwrap());
        assert!(before > 0 && locks() == 0);
    }
}

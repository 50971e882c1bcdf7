//! A live database, held so that nobody begins its write-ahead log anew behind our back.

mod file;
mod frames;

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ltx::{PageSize, Pgno};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::ReplicateError;
use crate::wal::{Break, Chain, Changes, HEADER_SIZE, HeaderFault, Taken, WalHeader};

pub(crate) use frames::Frames;

/// How long SQLite waits for a lock of somebody else's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a checkpoint waits before it tries again to take the write lock: a writer that never
/// pauses leaves it for some microseconds at a time.
const LOCK_PAUSE: Duration = Duration::from_micros(100);
/// How often it tries again, which is more than a second.
const LOCK_TRIES: i32 = 10_000;
/// How long it waits before it counts the frames again, where a writer is just changing their
/// number.
const COUNT_PAUSE: Duration = Duration::from_millis(1);
/// How often it counts them, which is as long as it waits for a lock.
const COUNTS_MAX: usize = 5_000;

/// The tables by which Litestream writes to a log that has no frames and takes the write lock.
/// Both programs use them, so that either can take over from the other.
const TABLES: &str = "CREATE TABLE IF NOT EXISTS _litestream_seq (id INTEGER PRIMARY KEY, seq INTEGER); \
     CREATE TABLE IF NOT EXISTS _litestream_lock (id INTEGER)";

/// Puts one frame into the log.
const BUMP: &str = "INSERT INTO _litestream_seq (id, seq) VALUES (1, 1) \
     ON CONFLICT (id) DO UPDATE SET seq = seq + 1";

/// How often the log is looked at again because it was begun anew in between, which happens once.
const LOOKS_MAX: usize = 4;

/// How many bytes of the log are read at a time, at least.
const READ_SIZE: usize = 256 * 1024;

/// Two connections to one database, of which one is in a read transaction at any time: the *hold*.
///
/// While that lasts, SQLite begins the log anew at most once, and only when every frame that was
/// in it when the hold began is in the database file too: a reader of frames keeps others from
/// overwriting them, and a reader of the database file alone keeps others from checkpointing what
/// is written to the new log. [`hand_over`](Database::hand_over) begins a new hold before the old
/// one ends, so there is one without interruption for as long as this lives.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    wal: PathBuf,
    /// The files beside the database when it was opened.
    beside: [(PathBuf, Option<Identity>); 2],
    holding: Connection,
    free: Connection,
}

/// Which file of the system one is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// What the log is at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) header: Result<WalHeader, HeaderFault>,
    /// How many of its frames are committed.
    pub(crate) frames: u32,
    /// How many of those are in the database file too.
    pub(crate) backfilled: u32,
}

/// What a checkpoint has found, and left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backfill {
    /// Somebody else is at one.
    Busy,
    /// So many frames are in the log, and so many of them in the database file too.
    Done { frames: u32, backfilled: u32 },
}

impl Database {
    /// Opens the database at `path`, puts it into WAL mode and holds it.
    pub(crate) fn open(path: &Path) -> Result<Database, ReplicateError> {
        let holding = connect(path)?;
        let sqlite = |source| ReplicateError::sqlite("prepare", path, source);
        let mode: String = holding
            .query_row("PRAGMA journal_mode=WAL", (), |row| row.get(0))
            .map_err(sqlite)?;
        if mode != "wal" {
            let path = path.to_owned();
            return Err(ReplicateError::NotWal { path, mode });
        }
        holding.execute_batch(TABLES).map_err(sqlite)?;
        let free = connect(path)?;
        // SQLite follows links, and puts the log beside what they lead to.
        let resolved = path.canonicalize().map_err(|source| ReplicateError::Read {
            path: path.to_owned(),
            source,
        })?;
        let beside = |suffix| {
            let mut path = resolved.clone().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        };
        let wal = beside("-wal");
        hold(&holding).map_err(sqlite)?;
        let identified = |path: PathBuf| match Identity::of(&path) {
            Ok(identity) => Ok((path, identity)),
            Err(error) => Err(error),
        };
        let beside = [identified(wal.clone())?, identified(beside("-shm"))?];
        Ok(Database {
            path: resolved,
            wal,
            beside,
            holding,
            free,
        })
    }

    /// The path of the log.
    pub(crate) fn wal_path(&self) -> &Path {
        &self.wal
    }

    /// What the log is now.
    pub(crate) fn observe(&self) -> Result<Observed, ReplicateError> {
        if self.holding.is_autocommit() {
            // An error has ended the hold, and whoever was told so knows that it is a new one.
            hold(&self.holding).map_err(|source| self.failed("read", source))?;
        }
        if file::has_moved(&self.holding).map_err(|source| self.failed("look for", source))? {
            let path = self.path.clone();
            return Err(ReplicateError::Replaced { path });
        }
        for (path, opened) in &self.beside {
            if Identity::of(path)? != *opened {
                // Whoever opens the database from now on writes to another log, and sees none of
                // the locks of those who have it open.
                let path = path.clone();
                return Err(ReplicateError::Replaced { path });
            }
        }
        for _ in 0..LOOKS_MAX {
            let header = self.wal_header()?;
            let (frames, backfilled) = self.counts()?;
            if self.wal_header()? == header {
                return Ok(Observed {
                    header,
                    frames,
                    backfilled,
                });
            }
        }
        Err(self.unsteady())
    }

    /// Sees to it that the log has frames that can't be checkpointed under this hold, so that it
    /// can't be begun anew either.
    pub(crate) fn pin(&self) -> Result<(), ReplicateError> {
        let Observed {
            frames, backfilled, ..
        } = self.observe()?;
        match frames == backfilled {
            true => self.bump(),
            false => Ok(()),
        }
    }

    /// Commits a transaction that changes next to nothing.
    pub(crate) fn bump(&self) -> Result<(), ReplicateError> {
        let bumped = self
            .free
            // Whatever the application deletes.
            .execute_batch(TABLES)
            .and_then(|()| self.free.execute(BUMP, ()));
        bumped
            .map(drop)
            .map_err(|source| self.failed("write to", source))
    }

    /// Begins a new hold, and ends the old one. From then on what is committed up to now can be
    /// checkpointed, and where all of that is in the database file already, the log can be begun
    /// anew.
    ///
    /// # Errors
    ///
    /// What SQLite says. The old hold goes on.
    pub(crate) fn hand_over(&mut self) -> Result<(), ReplicateError> {
        let begun = hold(&self.free);
        self.take_over(begun)
    }

    /// Begins a new hold that keeps everybody from writing too, and ends the old one. `false` where
    /// others have been writing for as long as this waits.
    ///
    /// Whoever gets `true` calls [`unlock_writers`](Database::unlock_writers) soon.
    pub(crate) fn lock_writers(&mut self) -> Result<bool, ReplicateError> {
        let eagerly = self.free.busy_handler(Some(|tries| {
            thread::sleep(LOCK_PAUSE);
            tries < LOCK_TRIES
        }));
        let begin = || self.free.execute_batch("BEGIN IMMEDIATE");
        let begun = self.patient_again(eagerly, begin)?;
        if let Err(error) = &begun
            && error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
        {
            return Ok(false);
        }
        self.take_over(begun)?;
        Ok(true)
    }

    /// Begins a new hold, and ends the one under which nobody can write.
    ///
    /// # Errors
    ///
    /// What SQLite says. Everybody can write again, but it may be that nothing is held until the
    /// log is observed the next time.
    pub(crate) fn unlock_writers(&mut self) -> Result<(), ReplicateError> {
        let handed = self.hand_over();
        if handed.is_err() {
            // The application goes before the replica.
            end(&self.holding).map_err(|source| self.failed("unlock", source))?;
        }
        handed
    }

    /// The other connection is in a transaction if `begun` says so, which is the hold from now on.
    fn take_over(&mut self, begun: rusqlite::Result<()>) -> Result<(), ReplicateError> {
        let handed = begun.and_then(|()| end(&self.holding));
        if let Err(source) = handed {
            // It may have begun all the same; where it can't be ended, it holds more than need be.
            end(&self.free).ok();
            return Err(self.failed("hold", source));
        }
        mem::swap(&mut self.holding, &mut self.free);
        Ok(())
    }

    /// Copies as much of the log to the database file as the hold and other readers allow, which
    /// is in nobody's way.
    pub(crate) fn backfill(&self) -> Result<Backfill, ReplicateError> {
        self.checkpoint("PRAGMA wal_checkpoint(PASSIVE)")
    }

    /// Sees to it that what was copied to the database file is on the disk.
    pub(crate) fn sync_file(&self) -> Result<(), ReplicateError> {
        file::sync(&self.free).map_err(|source| self.failed("sync", source))
    }

    /// Gives back the disk space of a log that is in the database file as a whole, if nobody is
    /// reading or writing it at this very moment: this waits for nobody.
    pub(crate) fn truncate(&self) -> Result<Backfill, ReplicateError> {
        let at_once = self.free.busy_timeout(Duration::ZERO);
        self.patient_again(at_once, || {
            self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)")
        })?
    }

    /// Does `work` with the free connection, of which it was `set` how long it waits for others;
    /// it waits as ever afterwards.
    fn patient_again<T>(
        &self,
        set: rusqlite::Result<()>,
        work: impl FnOnce() -> T,
    ) -> Result<T, ReplicateError> {
        let failed = |source| self.failed("set up", source);
        set.map_err(failed)?;
        let done = work();
        self.free.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        Ok(done)
    }

    /// The size of the log's file, whatever is in it.
    pub(crate) fn wal_len(&self) -> Result<u64, ReplicateError> {
        match std::fs::metadata(&self.wal) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(source) => Err(self.unreadable(source)),
        }
    }

    /// Collects what is committed after `start`, up to frame number `frames` or the end of the
    /// first transaction after which it is more than `bytes`. The frames, which are returned too,
    /// are where the pages are.
    pub(crate) fn changes(
        &self,
        start: Chain,
        frames: u32,
        bytes: u64,
    ) -> Result<(Changes, Frames), ReplicateError> {
        let mut changes = Changes::since(start);
        let file = self.take(&mut changes, frames, bytes, |_| {})?;
        Ok((changes, Frames::InLog(file)))
    }

    /// Takes the frames up to number `frames` too, and appends their bytes to `copied`.
    pub(crate) fn copy(
        &self,
        changes: &mut Changes,
        frames: u32,
        copied: &mut Vec<u8>,
    ) -> Result<(), ReplicateError> {
        let keep = |frame: &[u8]| copied.extend_from_slice(frame);
        self.take(changes, frames, u64::MAX, keep).map(drop)
    }

    fn take(
        &self,
        changes: &mut Changes,
        frames: u32,
        bytes: u64,
        mut keep: impl FnMut(&[u8]),
    ) -> Result<File, ReplicateError> {
        let start = *changes.next();
        let header = *start.header();
        let file = self.open_wal()?;
        let mut buffer = vec![0; (READ_SIZE / header.frame_size()).max(1) * header.frame_size()];
        'log: while changes.next().frames() < frames {
            let read = read_at_most(&file, &mut buffer, changes.next().offset())
                .map_err(|source| self.unreadable(source))?;
            if read < header.frame_size() {
                return Err(self.broken(&header, changes.next(), Break::Short));
            }
            for frame in buffer[..read].chunks(header.frame_size()) {
                if changes.next().frames() == frames {
                    break 'log;
                }
                let taken = changes
                    .take(frame)
                    .map_err(|found| self.broken(&header, changes.next(), found))?;
                keep(frame);
                let len = changes.next().offset() - start.offset();
                if taken == Taken::Commit && len >= bytes {
                    break 'log;
                }
            }
        }
        if self.wal_header()? != Ok(header) {
            return Err(self.unsteady());
        }
        Ok(file)
    }

    /// Reads the pages from `first` on from the database file, without the log.
    pub(crate) fn read_pages(
        &self,
        first: Pgno,
        page_size: PageSize,
        out: &mut [u8],
    ) -> Result<(), ReplicateError> {
        file::read(&self.holding, first.offset(page_size), out)
            .map_err(|source| self.failed("read", source))
    }

    /// The log's file, which SQLite locks nothing of, so that it may be opened and closed.
    fn open_wal(&self) -> Result<File, ReplicateError> {
        File::open(&self.wal).map_err(|source| self.unreadable(source))
    }

    /// The header of the log. One that isn't there is one without bytes.
    fn wal_header(&self) -> Result<Result<WalHeader, HeaderFault>, ReplicateError> {
        let file = match File::open(&self.wal) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(HeaderFault::Short { len: 0 }));
            }
            Err(source) => return Err(self.unreadable(source)),
        };
        let mut bytes = [0; HEADER_SIZE];
        let len = read_at_most(&file, &mut bytes, 0).map_err(|source| self.unreadable(source))?;
        Ok(WalHeader::parse(&bytes[..len]))
    }

    /// How many frames SQLite counts in the log, and how many of them are in the database file.
    fn counts(&self) -> Result<(u32, u32), ReplicateError> {
        for _ in 0..COUNTS_MAX {
            let counted = self.checkpoint("PRAGMA wal_checkpoint(NOOP)")?;
            if let Backfill::Done { frames, backfilled } = counted {
                return Ok((frames, backfilled));
            }
            thread::sleep(COUNT_PAUSE);
        }
        Err(self.unsteady())
    }

    fn checkpoint(&self, pragma: &str) -> Result<Backfill, ReplicateError> {
        let (busy, frames, backfilled): (bool, i64, i64) = self
            .free
            .query_row(pragma, (), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .map_err(|source| self.failed("checkpoint", source))?;
        match (u32::try_from(frames), u32::try_from(backfilled)) {
            _ if busy => Ok(Backfill::Busy),
            (Ok(frames), Ok(backfilled)) => Ok(Backfill::Done { frames, backfilled }),
            // SQLite says so with -1.
            _ => Err(ReplicateError::NotWal {
                path: self.path.clone(),
                mode: String::from("another"),
            }),
        }
    }

    /// Tells a log that was begun anew while it was being read from one that is damaged.
    fn broken(&self, header: &WalHeader, at: &Chain, found: Break) -> ReplicateError {
        match self.wal_header() {
            Ok(now) if now == Ok(*header) => ReplicateError::Log {
                path: self.wal.clone(),
                offset: at.offset(),
                found,
            },
            Ok(_) => self.unsteady(),
            Err(error) => error,
        }
    }

    /// The log has frames, but `fault` instead of a header.
    pub(crate) fn without_header(&self, fault: HeaderFault) -> ReplicateError {
        let path = self.wal.clone();
        ReplicateError::LogHeader { path, fault }
    }

    pub(crate) fn unsteady(&self) -> ReplicateError {
        let path = self.wal.clone();
        ReplicateError::Unsteady { path }
    }

    fn unreadable(&self, source: io::Error) -> ReplicateError {
        let path = self.wal.clone();
        ReplicateError::Read { path, source }
    }

    fn failed(&self, action: &'static str, source: rusqlite::Error) -> ReplicateError {
        ReplicateError::sqlite(action, &self.path, source)
    }
}

impl Identity {
    /// The one of the file at `path`, or `None` where there is none.
    fn of(path: &Path) -> Result<Option<Identity>, ReplicateError> {
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(Identity {
                device: found.dev(),
                inode: found.ino(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                let path = path.to_owned();
                Err(ReplicateError::Read { path, source })
            }
        }
    }
}

/// Opens one more connection to the database at `path`, which never checkpoints of itself, neither
/// after a commit nor when it is closed as the last one: the log then stays where it is, and
/// whoever opens the database next goes on with it.
fn connect(path: &Path) -> Result<Connection, ReplicateError> {
    let sqlite = |source| ReplicateError::sqlite("open", path, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    file::without_lookaside(&connection).map_err(sqlite)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .map_err(sqlite)?;
    connection
        // A checkpoint is written to the disk before its log may be begun anew.
        .execute_batch(
            "PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=2; PRAGMA mmap_size=0; \
             PRAGMA synchronous=NORMAL; PRAGMA shrink_memory",
        )
        .map_err(sqlite)?;
    Ok(connection)
}

/// Begins a read transaction, or none where it fails.
fn hold(connection: &Connection) -> rusqlite::Result<()> {
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
fn end(connection: &Connection) -> rusqlite::Result<()> {
    match connection.is_autocommit() {
        true => Ok(()),
        false => connection.execute_batch("ROLLBACK"),
    }
}

/// Reads from byte `offset` on until the buffer is full or the file ends.
fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_that_has_failed_is_none() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let open = || Connection::open(&path).expect("a database in a temporary folder");
        let (writer, reader) = (open(), open());
        let locked = writer.execute_batch("CREATE TABLE t(a); BEGIN EXCLUSIVE");
        locked.expect("nobody else has it");
        reader.busy_timeout(Duration::ZERO).expect("a connection");

        hold(&reader).expect_err("it is locked");

        assert!(reader.is_autocommit());
        writer.execute_batch("COMMIT").expect("it can end");
        hold(&reader).expect("nobody writes any more");
        assert!(!reader.is_autocommit());
    }

    #[test]
    fn a_log_is_pinned_though_the_application_has_deleted_the_table_for_that() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let application = Connection::open(&path).expect("a database in a temporary folder");
        let made = application.execute_batch("CREATE TABLE t(a)");
        made.expect("a table can be made");
        let mut database = Database::open(&path).expect("it is a database");
        let dropped = application.execute_batch("DROP TABLE _litestream_seq");
        dropped.expect("the table is there");
        database.hand_over().expect("nobody is in the way");
        database.backfill().expect("nobody is in the way");
        let before = database.observe().expect("the log can be read");
        assert_eq!(before.frames, before.backfilled);

        database
            .pin()
            .expect("a pin needs nothing that others delete");

        let after = database.observe().expect("the log can be read");
        assert!(after.frames > after.backfilled, "{after:?}");
    }
}

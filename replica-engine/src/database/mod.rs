//! A live database, held so that nobody begins its write-ahead log anew behind our back.

mod apply;
mod brake;
mod file;
mod frames;
mod index;
mod keeper;

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ltx::{PageSize, Pgno};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::ReplicateError;
use crate::wal::{Break, Chain, Changes, HEADER_SIZE, HeaderFault, Taken, WalHeader};

pub(crate) use apply::CHECKPOINT_FRAMES;
use brake::Brake;
pub(crate) use file::IndexHeader;
pub(crate) use frames::{Copies, Frames};
use keeper::{Keeper, begin, end};

/// How long SQLite waits for a lock of somebody else's.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a checkpoint waits before it tries again to take the write lock: a writer that never
/// pauses leaves it for some microseconds at a time.
const LOCK_PAUSE: Duration = Duration::from_micros(100);
/// How often it tries again, which is more than a second.
const LOCK_TRIES: i32 = 10_000;
/// How often who has something to write tries again in the same way, which is as long as SQLite waits
/// for a lock. SQLite itself looks so seldom after a while that it misses each gap.
const WRITE_TRIES: i32 = 50_000;
/// How long it waits before it counts the frames again, where a writer is just changing their
/// number.
const COUNT_PAUSE: Duration = Duration::from_millis(1);
/// How often it counts them, which is as long as it waits for a lock.
const COUNTS_MAX: usize = 5_000;
/// After how many of those the checkpoint lock is given back.
const COUNTS_LOCKED: usize = 100;

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

/// Two connections to one database, of which one sees to it that there is a *hold* on it at any
/// time.
///
/// While that lasts, SQLite begins the log anew at most once, and only when every frame of it is in
/// the database file too. The hold is SQLite's own checkpoint lock: who tries to checkpoint is
/// refused at once, and costs a writer next to nothing. To checkpoint takes to let go of it. Until
/// it is taken again, and as long as there are frames in the database file that the replica has
/// not, the hold is a read transaction, which keeps others from overwriting what it reads, and from
/// checkpointing what is written later. It is one too for as long as somebody else has the lock.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    wal: PathBuf,
    /// The database's own file when it was opened.
    file: Option<Identity>,
    /// The files beside it then.
    beside: [(PathBuf, Option<Identity>); 2],
    keeper: Keeper,
    worker: Connection,
    /// How many holds were begun when there was none.
    holds: Cell<u32>,
    /// The log, where it can't be begun anew for as long as the lock is ours.
    pinned: Cell<Option<Pinned>>,
    /// What slows writers down, where anything does.
    brake: Option<Brake>,
}

/// Which file of the system one is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

/// A log with frames that are not in the database file when the lock of this number was ours: nobody
/// can copy them to it meanwhile, nor begin the log anew.
#[derive(Clone, Copy, Debug)]
struct Pinned {
    lock: u32,
    header: WalHeader,
    backfilled: u32,
    /// Whether it was seen again, so that it was not just being begun anew when they were counted.
    is_certain: bool,
}

/// What the log is at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    pub(crate) header: Result<WalHeader, HeaderFault>,
    /// How many of its frames are committed.
    pub(crate) frames: u32,
    /// How many of those are in the database file too.
    pub(crate) backfilled: u32,
    /// Under which hold: where there was none for a while, anything may have happened.
    pub(crate) hold: u32,
    /// The size of its file, whatever is in it.
    pub(crate) len: u64,
}

/// What a checkpoint has found, and left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backfill {
    /// Somebody else is at one.
    Busy,
    /// So many frames are in the log, and so many of them in the database file too.
    Done { frames: u32, backfilled: u32 },
}

impl Observed {
    /// How many committed frames are not in the database file yet.
    pub(crate) fn left(&self) -> u32 {
        self.frames.saturating_sub(self.backfilled)
    }

    /// How many bytes the committed frames have.
    pub(crate) fn bytes(&self) -> u64 {
        let frame_size = self.header.map_or(0, |header| header.frame_size());
        u64::from(self.frames).saturating_mul(frame_size as u64)
    }
}

impl Database {
    /// Opens the database at `path`, puts it into WAL mode and holds it.
    pub(crate) fn open(path: &Path) -> Result<Database, ReplicateError> {
        let mut keeper = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let sqlite = |source| ReplicateError::sqlite("prepare", path, source);
        let mode: String = keeper
            .query_row("PRAGMA journal_mode=WAL", (), |row| row.get(0))
            .map_err(sqlite)?;
        if mode != "wal" {
            let path = path.to_owned();
            return Err(ReplicateError::NotWal { path, mode });
        }
        look_eagerly(&mut keeper)
            .and_then(|()| keeper.execute_batch(TABLES))
            .and_then(|()| keeper.busy_timeout(BUSY_TIMEOUT))
            .map_err(sqlite)?;
        let worker = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        Database::held(path, Keeper::new(keeper), worker)
    }

    /// Opens the database at `path` to read it, and holds it. Nothing of what writes may be called
    /// of it, and nothing is changed by it, its tables and its journal mode neither.
    pub(crate) fn open_to_read(path: &Path) -> Result<Database, ReplicateError> {
        // Who has the checkpoint lock keeps others from mending the log's index, and this one does
        // not look often: to read is enough for it.
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        Database::open_as_it_is(path, flags, Keeper::that_reads)
    }

    /// Opens a database that is in WAL mode already.
    fn open_as_it_is(
        path: &Path,
        access: OpenFlags,
        keep: impl FnOnce(Connection) -> Keeper,
    ) -> Result<Database, ReplicateError> {
        let open = || connect(path, access);
        let keeper = open()?;
        let mode: String = keeper
            .query_row("PRAGMA journal_mode", (), |row| row.get(0))
            .map_err(|source| ReplicateError::sqlite("read", path, source))?;
        if mode != "wal" {
            let path = path.to_owned();
            return Err(ReplicateError::NotWal { path, mode });
        }
        Database::held(path, keep(keeper), open()?)
    }

    /// Begins to hold the database that both connections are of.
    fn held(path: &Path, keeper: Keeper, worker: Connection) -> Result<Database, ReplicateError> {
        let sqlite = |source| ReplicateError::sqlite("prepare", path, source);
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
        keeper.read().map_err(sqlite)?;
        let identified = |path: PathBuf| match Identity::of(&path) {
            Ok(identity) => Ok((path, identity)),
            Err(error) => Err(error),
        };
        let file = Identity::of(&resolved)?;
        let beside = [identified(wal.clone())?, identified(beside("-shm"))?];
        shrink(&keeper.connection).map_err(sqlite)?;
        Ok(Database {
            path: resolved,
            wal,
            file,
            beside,
            keeper,
            worker,
            holds: Cell::new(1),
            pinned: Cell::new(None),
            brake: None,
        })
    }

    /// The size of the database's pages, and how many it had when the hold began.
    pub(crate) fn size(&self) -> Result<(PageSize, u32), ReplicateError> {
        let ask = |pragma| {
            self.keeper
                .connection
                .query_row(pragma, (), |row| row.get::<_, u32>(0))
        };
        let size = ask("PRAGMA page_size").map_err(|source| self.failed("read", source))?;
        let pages = ask("PRAGMA page_count").map_err(|source| self.failed("read", source))?;
        match PageSize::new(size) {
            Some(size) => Ok((size, pages)),
            None => Err(self.unsteady()),
        }
    }

    /// The path of the database, without links.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the log.
    pub(crate) fn wal_path(&self) -> &Path {
        &self.wal
    }

    /// Makes sure that `path`, by which this was opened, does not lead to another file by now, as where
    /// a link was changed: whoever opens the database by it from now on writes to that one. One that
    /// leads nowhere may be about to be changed, and nobody opens anything by it.
    pub(crate) fn check_path(&self, path: &Path) -> Result<(), ReplicateError> {
        match Identity::of(path) {
            Ok(there @ Some(_)) if there != self.file => Err(ReplicateError::Replaced {
                path: path.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// What the log is now.
    pub(crate) fn observe(&self) -> Result<Observed, ReplicateError> {
        if file::has_moved(&self.keeper.connection)
            .map_err(|source| self.failed("look for", source))?
        {
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
            let hold = self.hold()?;
            let header = self.wal_header()?;
            let (frames, backfilled) = self.counts()?;
            if self.wal_header()? != header || !self.is_held() {
                continue;
            }
            let observed = Observed {
                header,
                frames,
                backfilled,
                hold,
                len: self.wal_len()?,
            };
            if !self.is_bypassed(&observed) {
                return Ok(observed);
            }
            // The locks are none to others, whatever SQLite takes them for here.
            self.holds.update(|holds| holds.wrapping_add(1));
            let ended = self.keeper.unlock().and_then(|()| self.keeper.end());
            ended.map_err(|source| self.failed("hold", source))?;
        }
        Err(self.unsteady())
    }

    /// Whether somebody has checkpointed while the lock for that was ours. A process that opens and
    /// closes a file of the database by itself, as to copy it, loses all locks that its connections
    /// have on that, and nobody is told.
    fn is_bypassed(&self, observed: &Observed) -> bool {
        let lock = self.keeper.lock_number();
        let before = self
            .pinned
            .take()
            .filter(|pinned| Some(pinned.lock) == lock);
        if let Some(pinned) = before
            && observed.header == Ok(pinned.header)
            && observed.frames > 0
        {
            self.pinned.set(Some(Pinned {
                is_certain: true,
                ..pinned
            }));
            return observed.backfilled > pinned.backfilled;
        }
        let header = observed.header.ok().filter(|_| observed.left() > 0);
        self.pinned
            .set(lock.zip(header).map(|(lock, header)| Pinned {
                lock,
                header,
                backfilled: observed.backfilled,
                is_certain: false,
            }));
        before.is_some_and(|pinned| pinned.is_certain)
    }

    /// Begins a hold where there is none, as after an error that has ended it, and says which one
    /// there is.
    fn hold(&self) -> Result<u32, ReplicateError> {
        let failed = |source| self.failed("hold", source);
        if !self.is_held() {
            self.holds.set(self.holds.get().wrapping_add(1));
            self.keeper.read().map_err(failed)?;
        }
        self.keeper.lock().map_err(failed)?;
        Ok(self.holds.get())
    }

    /// Whether nobody else can checkpoint, or mend the log's index.
    pub(crate) fn has_lock(&self) -> bool {
        self.keeper.has_lock()
    }

    /// Takes SQLite's checkpoint lock, where somebody else had it and has let go of it, and says
    /// whether it is ours.
    pub(crate) fn lock(&self) -> Result<bool, ReplicateError> {
        let locked = self.keeper.lock();
        locked.map_err(|source| self.failed("lock", source))
    }

    /// The number of the present hold.
    pub(crate) fn hold_number(&self) -> u32 {
        self.holds.get()
    }

    /// Whether there is a hold, as there is not after some errors until the next one is begun.
    pub(crate) fn is_held(&self) -> bool {
        // Where we write, nobody else does.
        self.keeper.has_lock() || self.keeper.reads() || !self.worker.is_autocommit()
    }

    /// Sees to it that the log has frames that can't be checkpointed under this hold, so that it
    /// can't be begun anew either.
    pub(crate) fn pin(&mut self) -> Result<(), ReplicateError> {
        if self.observe()?.left() > 0 {
            return Ok(());
        }
        self.bump()?;
        shrink(&self.worker).map_err(|source| self.failed("set up", source))
    }

    /// Commits a transaction that changes next to nothing.
    pub(crate) fn bump(&mut self) -> Result<(), ReplicateError> {
        let eagerly = look_eagerly(&mut self.worker);
        let bumped = self.patient_again(eagerly, || {
            // Whatever the application deletes.
            let made = self.worker.execute_batch(TABLES);
            made.and_then(|()| self.worker.execute(BUMP, ()))
        })?;
        bumped
            .map(drop)
            .map_err(|source| self.failed("write to", source))
    }

    /// Reads what is committed now instead of what was committed before, without letting go of the
    /// hold.
    fn read_anew(&self) -> rusqlite::Result<()> {
        if self.keeper.has_lock() {
            self.keeper.end()?;
            return self.keeper.read();
        }
        begin(&self.worker)?;
        let read = self.keeper.end().and_then(|()| self.keeper.read());
        end(&self.worker).and(read)
    }

    /// Ends to read where all that is in the database file was copied, as `is_copied` says: then the
    /// lock alone lets the log be begun anew only once all of it was.
    pub(crate) fn release(
        &self,
        is_copied: impl FnOnce(&Observed) -> bool,
    ) -> Result<(), ReplicateError> {
        if !self.keeper.reads() {
            return Ok(());
        }
        let observed = self.observe()?;
        if is_copied(&observed) && self.keeper.has_lock() {
            let ended = self.keeper.end();
            ended.map_err(|source| self.failed("unlock", source))?;
        }
        Ok(())
    }

    /// What the log's index is at this moment, which costs next to nothing.
    pub(crate) fn index_header(&self) -> Option<IndexHeader> {
        file::index_header(&self.keeper.connection).ok()
    }

    /// Lets go of the checkpoint lock, if the log's index has to be mended, and mends it.
    pub(crate) fn mend(&self) -> Result<(), ReplicateError> {
        self.counts()?;
        self.hold().map(drop)
    }

    /// How many bytes the committed frames of the log have at this moment, as far as that can be
    /// told at no cost.
    pub(crate) fn log_len(&self) -> Option<u64> {
        file::log_len(&self.keeper.connection).ok()
    }

    /// Slows writers down from now on, so that the log hardly comes to more than `max` bytes, if
    /// what is done now does not take too long.
    pub(crate) fn slow_writers(&mut self, max: u64) {
        let works = self.brake.take().filter(Brake::works);
        let brake = works.unwrap_or_else(|| Brake::start(&self.path, max));
        brake.may_help();
        self.brake = Some(brake);
    }

    /// The same, if it does slow them down, however long that takes, or no longer.
    pub(crate) fn slow_writers_on(&self, is_certain: bool) {
        match is_certain {
            true => self.brake.iter().for_each(Brake::helps),
            false => self.brake.iter().for_each(Brake::may_help),
        }
    }

    /// Slows nobody down any more.
    pub(crate) fn let_writers_go(&mut self) {
        self.brake = None;
    }

    /// Keeps everybody from writing. `false` where others have been writing for as long as this
    /// waits.
    ///
    /// Whoever gets `true` calls [`unlock_writers`](Database::unlock_writers) soon.
    pub(crate) fn lock_writers(&mut self) -> Result<bool, ReplicateError> {
        if !self.worker.is_autocommit() {
            // Somebody else of us has locked them already.
            return Ok(false);
        }
        self.brake.iter().for_each(Brake::pause);
        let locked = self.try_lock_writers();
        if !matches!(locked, Ok(true)) {
            // Whatever has failed, nobody is kept from writing by it.
            end(&self.worker).ok();
            self.brake.iter().for_each(Brake::resume);
        }
        locked
    }

    fn try_lock_writers(&mut self) -> Result<bool, ReplicateError> {
        let eagerly = self.worker.busy_handler(Some(|tries| {
            thread::sleep(LOCK_PAUSE);
            tries < LOCK_TRIES
        }));
        let begin = || self.worker.execute_batch("BEGIN IMMEDIATE");
        let begun = self.patient_again(eagerly, begin)?;
        if let Err(error) = &begun
            && error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
        {
            return Ok(false);
        }
        // What it has kept from being overwritten can't be meanwhile.
        let locked = begun.and_then(|()| self.keeper.end());
        locked.map_err(|source| self.failed("lock", source))?;
        Ok(true)
    }

    /// Lets everybody write again, and reads what is committed.
    ///
    /// # Errors
    ///
    /// What SQLite says. Everybody can write again, but it may be that nothing is held until the
    /// log is observed the next time.
    pub(crate) fn unlock_writers(&self) -> Result<(), ReplicateError> {
        let read = self.keeper.read();
        // The application goes before the replica.
        let unlocked = end(&self.worker);
        self.brake.iter().for_each(Brake::resume);
        unlocked
            .and(read)
            .map_err(|source| self.failed("unlock", source))
    }

    /// Copies as much of the log to the database file as readers allow, which is in nobody's way,
    /// and goes on to read what was committed when it began, unless nobody can write.
    ///
    /// It is called only where the log has frames that are not in the database file, or where
    /// all that are were copied: so that the log isn't begun anew before.
    pub(crate) fn backfill(&self) -> Result<Backfill, ReplicateError> {
        match self.between_locks("PRAGMA wal_checkpoint(PASSIVE)")? {
            // A writer has come first, and has done it.
            Backfill::Busy if self.keeper.has_lock() => {
                let (frames, backfilled) = self.counts()?;
                Ok(Backfill::Done { frames, backfilled })
            }
            done => Ok(done),
        }
    }

    /// Sees to it that what was copied to the database file is on the disk.
    pub(crate) fn sync_file(&self) -> Result<(), ReplicateError> {
        file::sync(&self.worker).map_err(|source| self.failed("sync", source))
    }

    /// Gives back the disk space of a log that is in the database file as a whole, if nobody is
    /// reading or writing it at this very moment: this waits for nobody.
    pub(crate) fn truncate(&self) -> Result<Backfill, ReplicateError> {
        let _paused = self.brake.as_ref().map(Brake::paused);
        let at_once = self.worker.busy_timeout(Duration::ZERO);
        self.patient_again(at_once, || {
            self.between_locks("PRAGMA wal_checkpoint(TRUNCATE)")
        })?
    }

    /// Lets go of the checkpoint lock for a checkpoint, and takes it again.
    fn between_locks(&self, pragma: &str) -> Result<Backfill, ReplicateError> {
        let failed = |source| self.failed("hold", source);
        if !self.keeper.lock().map_err(failed)? {
            // What is read keeps frames from being overwritten that may not be copied yet. To read
            // anew instead would let somebody who checkpoints copy the newer ones too, between the
            // end of the one and the beginning of the other.
            return Ok(Backfill::Busy);
        }
        if self.worker.is_autocommit() {
            self.read_anew().map_err(failed)?;
        }
        let done = self.checkpoint(pragma, || self.keeper.unlock());
        let has_lock = self.keeper.relock().map_err(failed)?;
        match done? {
            // Somebody else may go on with it.
            _ if !has_lock => Ok(Backfill::Busy),
            done => Ok(done),
        }
    }

    /// Does `work` with the other connection, of which it was `set` how long it waits for others;
    /// it waits as ever afterwards.
    fn patient_again<T>(
        &self,
        set: rusqlite::Result<()>,
        work: impl FnOnce() -> T,
    ) -> Result<T, ReplicateError> {
        let failed = |source| self.failed("set up", source);
        set.map_err(failed)?;
        let done = work();
        self.worker.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
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
        Ok((changes, Frames::in_log(file)))
    }

    /// Takes the frames up to number `frames` too, and keeps the last one of each page in `copies`.
    pub(crate) fn copy(
        &self,
        changes: &mut Changes,
        frames: u32,
        copies: &mut Copies,
    ) -> Result<(), ReplicateError> {
        let keep = |frame: &[u8]| {
            let pgno = frame.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
            let Some(pgno) = pgno.and_then(Pgno::new) else {
                unreachable!("a frame that was verified has the number of a page");
            };
            match copies.get_mut(&pgno) {
                Some(copy) if copy.len() == frame.len() => copy.copy_from_slice(frame),
                _ => drop(copies.insert(pgno, frame.into())),
            }
        };
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
        file::read(&self.keeper.connection, first.offset(page_size), out)
            .map_err(|source| self.failed("read", source))
    }

    /// The log's file, which SQLite locks nothing of, so that it may be opened and closed.
    pub(crate) fn open_wal(&self) -> Result<File, ReplicateError> {
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
        for tries in 0..COUNTS_MAX {
            let counted = self.checkpoint("PRAGMA wal_checkpoint(NOOP)", || Ok(()))?;
            if let Backfill::Done { frames, backfilled } = counted {
                return Ok((frames, backfilled));
            }
            if tries == COUNTS_LOCKED {
                // Who was changing it may have died of that, and to mend it takes the lock. Nobody
                // can read meanwhile.
                let unlocked = self.keeper.unlock();
                unlocked.map_err(|source| self.failed("unlock", source))?;
            }
            thread::sleep(COUNT_PAUSE);
        }
        Err(self.unsteady())
    }

    /// Calls `before` at the last moment: of the writers that try to checkpoint after each commit
    /// one may come first, and then that commit takes as long as it takes.
    fn checkpoint(
        &self,
        pragma: &str,
        before: impl FnOnce() -> rusqlite::Result<()>,
    ) -> Result<Backfill, ReplicateError> {
        // SQLite refuses that to whoever is in a transaction.
        let idle = match self.worker.is_autocommit() {
            true => &self.worker,
            false => &self.keeper.connection,
        };
        let ask = || {
            let mut statement = idle.prepare(pragma)?;
            before()?;
            statement.query_row((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        };
        let (busy, frames, backfilled): (bool, i64, i64) =
            ask().map_err(|source| self.failed("checkpoint", source))?;
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
fn connect(path: &Path, access: OpenFlags) -> Result<Connection, ReplicateError> {
    let sqlite = |source| ReplicateError::sqlite("open", path, source);
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
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
             PRAGMA synchronous=NORMAL",
        )
        .and_then(|()| shrink(&connection))
        .map_err(sqlite)?;
    Ok(connection)
}

/// Gives back the memory of pages that were read: of thousands of databases each is a quarter of what
/// one costs that nobody writes.
fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA shrink_memory")
}

/// Has `connection` wait for others, for as long as it would, in such a way that it finds the gaps that
/// writers leave who never pause.
fn look_eagerly(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.busy_handler(Some(|tries| {
        thread::sleep(LOCK_PAUSE);
        tries < WRITE_TRIES
    }))
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
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

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
        database.observe().expect("the log can be read");
        database.backfill().expect("nobody is in the way");
        let before = database.observe().expect("the log can be read");
        assert_eq!(before.frames, before.backfilled);

        database
            .pin()
            .expect("a pin needs nothing that others delete");

        let after = database.observe().expect("the log can be read");
        assert!(after.frames > after.backfilled, "{after:?}");
    }

    /// A sync was refused for that reason now and then, beside three writers that never paused.
    #[test]
    fn what_is_to_be_written_finds_the_gaps_of_a_writer_that_hardly_pauses() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_application, mut database) = written(&folder);
        let path = folder.path().join("a.db");
        let (begun, begins) = std::sync::mpsc::sync_channel(1);
        let is_over = AtomicBool::new(false);

        let bumped = thread::scope(|scope| {
            scope.spawn(|| {
                let writer = Connection::open(&path).expect("it is a database");
                let patient = writer.busy_timeout(10 * BUSY_TIMEOUT);
                patient.expect("a connection can be set up");
                while !is_over.load(Ordering::Relaxed) {
                    let locked = writer.execute_batch("BEGIN IMMEDIATE");
                    locked.expect("its turn comes");
                    begun.try_send(()).ok();
                    thread::sleep(BUSY_TIMEOUT / 10);
                    writer.execute_batch("COMMIT").expect("it has written");
                    thread::sleep(2 * COUNT_PAUSE);
                }
            });
            begins.recv().expect("it should begin");
            let bumped = database.bump();
            is_over.store(true, Ordering::Relaxed);
            bumped
        });

        bumped.expect("there are gaps");
    }

    /// A database with some frames in its log, and the application that has written them.
    fn written(folder: &tempfile::TempDir) -> (Connection, Database) {
        let path = folder.path().join("a.db");
        let application = Connection::open(&path).expect("a database in a temporary folder");
        let made = application.execute_batch("CREATE TABLE t(a)");
        made.expect("a table can be made");
        let database = Database::open(&path).expect("it is a database");
        let written = application.execute_batch("INSERT INTO t VALUES(1)");
        written.expect("anybody may write");
        (application, database)
    }

    #[test]
    fn a_hold_that_has_ended_is_followed_by_another_one() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_application, database) = written(&folder);
        let before = database.observe().expect("the log can be read");

        let unlocked = database.keeper.unlock();
        unlocked.expect("it has the lock");
        database.keeper.end().expect("it reads");
        let after = database.observe().expect("the log can be read");

        assert_ne!(before.hold, after.hold);
        assert_eq!((before.header, before.frames), (after.header, after.frames));
        let again = database.observe().expect("the log can be read");
        assert_eq!(again.hold, after.hold);
    }

    #[test]
    fn an_index_that_a_writer_has_left_half_written_can_be_mended() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (application, database) = written(&folder);
        database.observe().expect("the log can be read");
        database.keeper.end().expect("it reads");
        // The second copy of its header. A process that closes the file loses its locks, so another
        // one writes it.
        let script = "printf '0123456789' | dd of=\"$1\" bs=1 seek=56 conv=notrunc status=none";
        let torn = std::process::Command::new("sh")
            .args(["-c", script, "sh"])
            .arg(folder.path().join("a.db-shm"))
            .status();
        assert!(torn.expect("a shell should run").success());

        let observed = database.observe().expect("it is mended");

        assert!(observed.frames > 0 && database.is_held(), "{observed:?}");
        let written = application.execute_batch("INSERT INTO t VALUES(2)");
        written.expect("anybody may write");
    }

    /// Where somebody else checkpointed just then, a checkpoint of ours went on to read what was
    /// committed last. All of that could be copied to the database file in between, and the log be
    /// begun anew, before any of it was in the replica.
    #[test]
    fn frames_stay_where_somebody_else_has_the_lock() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (application, database) = written(&folder);
        database.observe().expect("the log can be read");
        database.keeper.unlock().expect("it has the lock");
        let other = Connection::open(folder.path().join("a.db")).expect("it is a database");
        let read = other.execute_batch("SELECT * FROM t");
        read.expect("there is a table");
        assert_eq!(file::lock_checkpoints(&other), Ok(true));
        let written = application.execute_batch("INSERT INTO t VALUES(2)");
        written.expect("anybody may write");

        let done = database.backfill().expect("it is no error");
        file::unlock_checkpoints(&other).expect("it has the lock");
        let (frames, backfilled): (u32, u32) = application
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |row| {
                Ok((row.get(1)?, row.get(2)?))
            })
            .expect("anybody may checkpoint now");

        assert_eq!(done, Backfill::Busy);
        assert!(backfilled < frames, "{backfilled} of {frames}");
    }

    #[test]
    fn nobody_keeps_the_lock_of_a_database_that_was_closed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (application, database) = written(&folder);
        database.observe().expect("the log can be read");
        let refused = || {
            let pragma = "PRAGMA wal_checkpoint(TRUNCATE)";
            let refused = application.query_row(pragma, (), |row| row.get(0));
            refused.expect("a checkpoint that is refused is no error")
        };
        let before: bool = refused();

        drop(database);

        assert!(before && !refused());
    }
}

//! Keeps a restored database up to date with its replica, for whoever reads it.
//!
//! Each step is one transaction of SQLite's own kind: the pages of the new files are appended to the
//! database's log, under SQLite's write lock, the last frame ends the transaction, and the log's
//! index shows it to everybody at once. So readers, in any process, see the state before or after
//! it, wait for nothing and need not open the database again. Whoever dies on the way leaves one of
//! the two states; and page for page it is what a restore gives. SQLite has no interface to write
//! pages: the backup interface writes all of them, and changes the first; `sqlite_dbpage` is not in
//! the bundled build, and changes it too.
//!
//! Where the replica no longer has the files that go on from here, all of the latest state is put in
//! as one transaction in the very same way.
//!
//! In which state the database is can't be noted in it. So it is noted beside it, before each step,
//! which two states it may be in: see [`Position`].

mod append;
mod position;

use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ltx::{Checksum, Pgno};
use replica_core::{
    FileId, FileInfo, Level, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps, Txid,
};
use tokio::time::{Instant, sleep};

use crate::apply::Assembly;
use crate::damage::ReadFailure;
use crate::database::{CHECKPOINT_FRAMES, Database};
use crate::drill::LiveState;
use crate::listing::{list, read_header, wait_for_listings};
use crate::plan::following;
use crate::replicate::lock;
use crate::restore::run_blocking;
use crate::verify::show;
use crate::wal::Chain;
use crate::{
    Damage, PlanError, Progress, ReplicateError, RestoreError, RestoreOptions, RestorePlan, Target,
    restore,
};
use append::{Append, Ready};
use position::Position;

/// How often other files are chosen in one step because one of them was damaged or gone.
const REPLANS_MAX: usize = 32;

/// How often it is looked whether a step that was dropped has let go of the write lock.
const DROPPED_LOOKS: usize = 2_000;
/// The pause between two looks.
const DROPPED_PAUSE: Duration = Duration::from_millis(1);

/// From how many frames on a step waits for readers of the log, so that it can be begun anew.
const LONG_LOG: u32 = 16_000;
/// How long it waits for them.
const READERS_MAX: Duration = Duration::from_secs(2);
/// The pause before it looks for them again.
const READERS_PAUSE: Duration = Duration::from_millis(5);

/// What to follow, and where to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FollowOptions {
    /// The path of the followed database.
    pub output: PathBuf,
    /// The permissions of a new database; 0600, unless they are set.
    pub mode: u32,
    /// How many bytes are fetched before they are needed; as in a restore.
    pub fetch_ahead: u64,
}

impl FollowOptions {
    /// Follows to `output`, where a database must be that was followed before, or none.
    pub fn new(output: impl Into<PathBuf>) -> FollowOptions {
        let options = RestoreOptions::new(output);
        FollowOptions {
            output: options.output,
            mode: options.mode,
            fetch_ahead: options.fetch_ahead,
        }
    }
}

/// A step that was made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Followed {
    /// The transaction at which the database is now.
    pub txid: Txid,
    /// When that was copied, by the header of the last file.
    pub created_at: Timestamp,
    /// The files that were applied, in their order.
    pub files: Vec<FileInfo>,
    /// Whether all of the database was written anew, because the replica no longer has the files
    /// that go on from where it was.
    pub anew: bool,
    /// The files that could not be used, where others held the same transactions.
    pub damaged: Vec<Damage>,
}

/// Why a database can't be followed. It is as it was after the last step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FollowError {
    /// There is a database that was not followed before, or is not known to be.
    #[error("{} was not made by following a replica: follow to another path", path.display())]
    NotFollowed {
        /// The database.
        path: PathBuf,
    },
    /// Another database is there than the one that was followed, or somebody has written to it.
    #[error(
        "{} is not what following has left: remove it, and what is beside it, to begin anew",
        path.display()
    )]
    Changed {
        /// The database.
        path: PathBuf,
    },
    /// The replica ends before the transaction at which the database is already, and has something
    /// newer than that, or may have.
    #[error(
        "the replica ends with transaction {last}, and the database is at {txid}: the replica's \
         history was replaced, unless it only lags behind; remove the database, and what is beside \
         it, to begin anew"
    )]
    WentBack {
        /// Where the database is.
        txid: Txid,
        /// The replica's last transaction.
        last: Txid,
    },
    /// The replica ends before the transaction at which the database is already, with what is older
    /// than that: it is a copy that lags behind, or its last files were lost.
    #[error(
        "the replica ends with transaction {last}, which is older than {txid}, where the database \
         is: it may lag behind"
    )]
    Lags {
        /// Where the database is.
        txid: Txid,
        /// The replica's last transaction.
        last: Txid,
    },
    /// Somebody else has kept the write lock for too long.
    #[error("somebody else is writing to {}", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// The note of where the database stands can't be read or written.
    #[error("can't keep {}", path.display())]
    Position {
        /// The note.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The database can't be opened, read or written.
    #[error(transparent)]
    Database(#[from] ReplicateError),
    /// The log can't be written.
    #[error("can't write to the log of {}", path.display())]
    Write {
        /// The database.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The replica can't be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] replica_core::Error),
}

impl FollowError {
    /// Whether a later step may do, with nobody doing anything about it: what is away may come back,
    /// an empty place where a replica was among it, such as a folder that is not mounted.
    pub fn may_pass(&self) -> bool {
        let store = match self {
            FollowError::Busy { .. }
            | FollowError::Lags { .. }
            | FollowError::Restore(RestoreError::Plan(PlanError::Empty)) => return true,
            FollowError::Store(error) | FollowError::Restore(RestoreError::Store(error)) => error,
            _ => return false,
        };
        store.kind() == replica_core::ErrorKind::Unavailable
    }
}

/// A database that is kept up to date with a replica, step by step.
///
/// Others may read it, in any way that SQLite has, and must not write to it. It is the only one that
/// writes; what others have written is noticed where it is still in the log.
///
/// The log is copied to the database file as it grows, and begun anew as soon as nobody reads it any
/// more. A step waits up to two seconds for that where the log is long (16,000 pages), so that only
/// readers in transactions that take longer let it grow further.
pub struct Follower {
    client: Arc<dyn ReplicaClient>,
    options: FollowOptions,
    database: Arc<Mutex<Database>>,
    position: Position,
    /// When the state was copied that the database has, if it was put there by this follower.
    created_at: Option<Timestamp>,
    first_page: Checksum,
    pages: u32,
    /// The end of the log, where it is known.
    end: Option<Chain>,
}

impl Follower {
    /// Goes on with the database that was followed before, or restores one, and tells `progress`
    /// how that goes on.
    ///
    /// Where it stands is kept beside it, in a file with `-follow` behind its name.
    ///
    /// # Errors
    ///
    /// Any [`FollowError`]. It must be awaited in a Tokio runtime.
    pub async fn open(
        client: Arc<dyn ReplicaClient>,
        options: FollowOptions,
        progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Follower, FollowError> {
        let path = options.output.clone();
        let kept = run_blocking(move || (Position::read(&path), path.exists())).await?;
        let kept = (kept.0.map_err(|source| options.position(source))?, kept.1);
        let mut created_at = None;
        let position = match kept {
            (None, true) => {
                let path = options.output;
                return Err(FollowError::NotFollowed { path });
            }
            (Some(position), true) => position,
            (kept, false) => {
                // Whoever dies before the position is known begins with all of it once more.
                keep(Position::UNKNOWN, &options).await?;
                let mut wanted = RestoreOptions::new(&options.output);
                (wanted.mode, wanted.fetch_ahead) = (options.mode, options.fetch_ahead);
                match restore(Arc::clone(&client), &wanted, progress).await {
                    Ok(restored) => {
                        created_at = Some(restored.created_at);
                        Position {
                            from: Some(restored.txid),
                            until: Some(restored.txid),
                            first_pages: [None; 2],
                        }
                    }
                    Err(error) => {
                        if kept.is_none() {
                            let path = Position::path(&options.output);
                            run_blocking(move || std::fs::remove_file(path).ok()).await?;
                        }
                        return Err(error.into());
                    }
                }
            }
        };
        let path = options.output.clone();
        let (database, pages, first_page) = run_blocking(move || look(&path)).await??;
        let position = match position {
            Position {
                from: Some(txid),
                first_pages: [None, None],
                ..
            } => {
                let position = Position::at(txid, first_page);
                keep(position, &options).await?;
                position
            }
            _ if position.fits(first_page) => position,
            _ => {
                let path = options.output;
                return Err(FollowError::Changed { path });
            }
        };
        Ok(Follower {
            client,
            options,
            database: Arc::new(Mutex::new(database)),
            position,
            created_at,
            first_page,
            pages,
            end: None,
        })
    }

    /// The transaction at which the database is, at least; `None` where it is not known since a
    /// first restore was cut short.
    pub fn txid(&self) -> Option<Txid> {
        self.position.from
    }

    /// Brings the database to the last state of the replica, if it is not there yet. It takes one
    /// request where it is: a listing of level 0.
    ///
    /// Dropping the future leaves the database in the state before, or in the one after; the next
    /// call goes on.
    ///
    /// # Errors
    ///
    /// Any [`FollowError`].
    pub async fn step(&mut self) -> Result<Option<Followed>, FollowError> {
        let mut damaged: Vec<Damage> = Vec::new();
        let mut target = None;
        loop {
            let Some((files, anew)) = self.choose(&damaged).await? else {
                self.keep_log_short().await?;
                return Ok(None);
            };
            let txid = files.last().map(|file| file.id.txids.max());
            let is_older = txid < target;
            if is_older && let Some(txid) = target {
                // Never a state before the one that was there to be had.
                return Err(lost(txid, damaged).into());
            }
            target = txid;
            match self.apply(&files, anew).await? {
                Ok((txid, created_at)) => {
                    return Ok(Some(Followed {
                        txid,
                        created_at,
                        files,
                        anew,
                        damaged,
                    }));
                }
                Err(damage) => damaged.push(damage),
            }
            if let Some(txid) = target.filter(|_| damaged.len() > REPLANS_MAX) {
                return Err(lost(txid, damaged).into());
            }
        }
    }

    /// The files of the next step, and whether they are all of the database; `None` where there is
    /// nothing new.
    async fn choose(
        &self,
        damaged: &[Damage],
    ) -> Result<Option<(Vec<FileInfo>, bool)>, FollowError> {
        let sound = |file: &FileInfo| damaged.iter().all(|damage| damage.file != file.id);
        let Position {
            from: Some(from),
            until: Some(until),
            ..
        } = self.position
        else {
            let mut files = list(&*self.client, Timestamps::Fast).await?;
            files.retain(sound);
            let plan = RestorePlan::new(Target::Latest, &files).map_err(RestoreError::Plan)?;
            return Ok(Some((plan.needed().to_vec(), true)));
        };
        if damaged.is_empty() {
            let files = self.client.list_all(Level::RAW, from, Timestamps::Fast);
            let files = files.await?;
            let newest = files.iter().map(|file| file.id.txids.max()).max();
            if newest == Some(from) && from == until {
                return Ok(None);
            }
            let chain = following(from, &files);
            let reached = chain.last().map(|file| file.id.txids.max());
            if reached.is_some() && reached == newest && newest >= Some(until) {
                return Ok(Some((chain, false)));
            }
        }
        // What is missing for that reason alone must not lead to all of the database.
        wait_for_listings(&*self.client).await;
        let mut files = list(&*self.client, Timestamps::Fast).await?;
        let last = files
            .iter()
            .max_by_key(|file| (file.id.txids.max(), Reverse(file.id.level)));
        let Some(last) = last else {
            return Err(RestoreError::Plan(PlanError::Empty).into());
        };
        let newest = last.id.txids.max();
        if newest < until {
            return Err(self.went_back(until, last.id).await?);
        }
        if newest == from {
            return Ok(None);
        }
        files.retain(sound);
        let chain = following(from, &files);
        let reached = chain.last().map(|file| file.id.txids.max());
        if reached == Some(newest) {
            return Ok(Some((chain, false)));
        }
        let lost = |plan| match damaged.is_empty() {
            true => RestoreError::Plan(plan),
            false => lost(newest, damaged.to_vec()),
        };
        let plan = RestorePlan::new(Target::Latest, &files).map_err(lost)?;
        Ok(Some((plan.needed().to_vec(), true)))
    }

    /// What it is that the replica ends with `last`, before `txid`.
    async fn went_back(&self, txid: Txid, last: FileId) -> Result<FollowError, FollowError> {
        let header = match read_header(&*self.client, last).await {
            Ok(header) => Some(header),
            Err(ReadFailure::Damaged(_)) => None,
            Err(ReadFailure::Store(error)) => return Err(error.into()),
        };
        let header = header.filter(|_| last.level != Level::SNAPSHOT);
        let times = header.map(|header| header.timestamp()).zip(self.created_at);
        let is_older = times.is_some_and(|(time, ours)| time <= ours);
        let last = last.txids.max();
        Ok(match is_older {
            true => FollowError::Lags { txid, last },
            false => FollowError::WentBack { txid, last },
        })
    }

    /// Puts the pages of `files` into the database, or finds one of them damaged.
    async fn apply(
        &mut self,
        files: &[FileInfo],
        anew: bool,
    ) -> Result<Result<(Txid, Timestamp), Damage>, FollowError> {
        let Some(last) = files.last() else {
            unreachable!("a step has files");
        };
        let header = match read_header(&*self.client, last.id).await {
            Ok(header) => header,
            Err(ReadFailure::Damaged(damage)) => return Ok(Err(damage)),
            Err(ReadFailure::Store(error)) => return Err(error.into()),
        };
        // Whoever has read since the last step reads the database file alone, if they began after
        // all was copied to it, and so are not in the way. The others end one by one.
        let waits_until = Instant::now() + READERS_MAX;
        while !self.is_short()
            && self.keep_log_short().await? >= LONG_LOG
            && Instant::now() < waits_until
        {
            sleep(READERS_PAUSE).await;
        }
        let (database, path) = (Arc::clone(&self.database), self.options.output.clone());
        let (known, position) = (self.end, self.position);
        let locked = run_blocking(move || {
            let locked = Locked::take(database, &path)?;
            let database = lock(&locked.database);
            // A step that was dropped, or has failed, may have come to its end.
            let found = match position.is_certain() {
                true => None,
                false => Some(first_page(&database)?),
            };
            let log = database.open_log(known, header.page_size())?;
            drop(database);
            let is_ours = found.is_none_or(|(_, first_page)| position.fits(first_page));
            let log = log.filter(|_| is_ours);
            let log = log.ok_or(FollowError::Changed { path })?;
            Ok::<_, FollowError>((locked, log, found))
        });
        let (locked, log, found) = locked.await??;
        if let Some(found) = found {
            (self.pages, self.first_page) = found;
        }

        let had = if anew { 0 } else { self.pages };
        let assembly = Assembly::new(files, None, header.commit()).onto(had);
        let mut append = Append::new(locked, log, assembly, header.commit());
        for file in files {
            let shown = show(
                Arc::clone(&self.client),
                *file,
                self.options.fetch_ahead,
                append,
            );
            append = match shown.await {
                Ok((_, append)) => append,
                Err(ReadFailure::Damaged(damage)) => return Ok(Err(damage)),
                Err(ReadFailure::Store(error)) => return Err(error.into()),
            };
            if let Some(failure) = append.failure {
                return Err(failure);
            }
        }
        let (ready, first_page) = match append.finish() {
            Ok(ready) => ready,
            Err(damage) => return Ok(Err(damage)),
        };
        let first_page = first_page.unwrap_or(self.first_page);
        let (txid, pages) = (last.id.txids.max(), ready.pages());
        let known = match self.position {
            Position { from: None, .. } => [None; 2],
            _ => [Some(self.first_page), Some(first_page)],
        };
        self.position = Position {
            until: Some(txid),
            first_pages: known,
            ..self.position
        };
        let (position, path) = (self.position, self.options.output.clone());
        // Whoever drops this does not know how far it comes.
        self.end = None;
        self.end = run_blocking(move || commit(ready, position, &path)).await??;
        self.position = Position::at(txid, first_page);
        (self.first_page, self.pages) = (first_page, pages);
        self.created_at = Some(header.timestamp());
        Ok(Ok((txid, header.timestamp())))
    }

    /// Returns how many frames the log still has.
    async fn keep_log_short(&self) -> Result<u32, FollowError> {
        let database = Arc::clone(&self.database);
        let kept = run_blocking(move || {
            let database = lock(&database);
            database.keep_log_short(database.log_frames()?)
        });
        Ok(kept.await??)
    }

    /// Whether the log needs no look before something is appended.
    fn is_short(&self) -> bool {
        let frames = self.end.map(|end| end.frames());
        frames.is_some_and(|frames| frames < CHECKPOINT_FRAMES)
    }

    /// Notes that the database is at its last step for certain, so that whoever goes on with it
    /// need not make that once more.
    ///
    /// # Errors
    ///
    /// [`FollowError::Position`], which is no harm.
    pub async fn close(self) -> Result<(), FollowError> {
        let (database, position) = (Arc::clone(&self.database), self.position);
        let path = self.options.output.clone();
        let written = run_blocking(move || {
            // A step that was dropped may still write its own.
            let _database = lock(&database);
            position.write(&path)
        });
        written
            .await?
            .map_err(|source| self.options.position(source))
    }
}

impl FollowOptions {
    fn position(&self, source: io::Error) -> FollowError {
        let path = Position::path(&self.output);
        FollowError::Position { path, source }
    }
}

/// A state that can't be reached. An older one is of no use here.
fn lost(txid: Txid, damaged: Vec<Damage>) -> RestoreError {
    RestoreError::Damaged {
        txid,
        damaged,
        before: None,
    }
}

async fn keep(position: Position, options: &FollowOptions) -> Result<(), FollowError> {
    let path = options.output.clone();
    let written = run_blocking(move || position.write(&path)).await?;
    written.map_err(|source| options.position(source))
}

/// Opens the database, and finds how many pages it has, and the first of them.
fn look(path: &Path) -> Result<(Database, u32, Checksum), ReplicateError> {
    let database = Database::open_to_apply(path)?;
    let (pages, first_page) = first_page(&database)?;
    database.let_go()?;
    Ok((database, pages, first_page))
}

/// How many pages the database has now, and the checksum of the first of them.
fn first_page(database: &Database) -> Result<(u32, Checksum), ReplicateError> {
    let state = LiveState::at(None, database)?;
    let first = Pgno::new(1).expect("the first page is number 1");
    let mut page = vec![0; state.page_size().bytes()];
    state.read(database, first, &mut page)?;
    Ok((state.pages(), Checksum::of_page(first, &page)))
}

/// Ends the transaction that is `ready`, and shows it to everybody. Returns the end of the log, unless
/// that was emptied.
fn commit(ready: Ready, position: Position, path: &Path) -> Result<Option<Chain>, FollowError> {
    position
        .write(path)
        .map_err(|source| FollowError::Position {
            path: Position::path(path),
            source,
        })?;
    let pages = ready.pages();
    let (mut locked, end) = ready.commit()?;
    let Some(end) = end else {
        return Ok(None);
    };
    // What lets go of it must not do so once more, when the next step may have it.
    locked.is_held = false;
    let database = lock(&locked.database);
    let Some(frames) = database.publish(&end, pages)? else {
        let path = path.to_owned();
        return Err(FollowError::Changed { path });
    };
    let left = database.keep_log_short(frames)?;
    Ok((left > 0).then_some(end))
}

/// A database that nobody else writes to for as long as this lives. Whoever appends has it, so that
/// a step which was dropped keeps the next one waiting until it writes no more.
struct Locked {
    database: Arc<Mutex<Database>>,
    path: PathBuf,
    is_held: bool,
}

impl Locked {
    fn take(database: Arc<Mutex<Database>>, path: &Path) -> Result<Locked, FollowError> {
        let path = path.to_owned();
        for _ in 0..DROPPED_LOOKS {
            if !lock(&database).is_written() {
                break;
            }
            thread::sleep(DROPPED_PAUSE);
        }
        // Which is refused where it has not let go yet.
        let is_held = lock(&database).lock_writers()?;
        match is_held {
            true => Ok(Locked {
                database,
                path,
                is_held,
            }),
            false => Err(FollowError::Busy { path }),
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        if self.is_held {
            // Where it can't be ended, the next step finds it locked, and says so.
            let _ = lock(&self.database).let_go();
        }
    }
}

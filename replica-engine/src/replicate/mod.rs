//! Copies what is committed to a live database into a replica.

mod checkpoint;
mod decide;
mod error;
mod glance;
mod hold;
mod likeness;
mod looks;
mod outage;
mod pending;
mod prepare;
mod resume;
mod running;
mod schedule;
mod status;
mod watch;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ltx::{PageSize, Txid};
use replica_core::{
    FileId, FileInfo, Level, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps,
};
use tokio::time::{Instant, sleep, timeout};

pub use checkpoint::{Checkpoint, Checkpointed};
pub use decide::SnapshotReason;
pub use error::ReplicateError;
pub use running::Replication;
pub use status::{Ended, Event, Status, Trouble};
pub use workers::Workers;

use crate::database::Observed;
use crate::plan::{RestorePlan, Target};
use crate::restore::run_blocking;
use crate::upkeep::{self, Catalogue, Known, Moment, UpkeepOptions};
use checkpoint::Checkpointing;
use hold::{Hold, Member};
pub(crate) use pending::lock;
use pending::{Contents, Failure, Pending, try_lock};
use prepare::Preparing;
pub(crate) use resume::{Newest, mark};
use schedule::{Past, Schedule, due};

/// How often a file is begun again because the log has changed under it, which happens once.
const ATTEMPTS_MAX: usize = 4;
/// How much time passes at least before the replica is looked at again for files of somebody else.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How much time passes at least before it is looked again, where something is stored, whether all
/// files are there that the latest state is made of: a listing of each level.
const SURVEY_AGAIN: Duration = Duration::from_secs(10 * 60);
/// How often it is looked how long the log is while a file is being stored.
const GLANCE_PAUSE: Duration = Duration::from_millis(20);
/// How many times, which is five seconds.
const GLANCES_MAX: usize = 250;

/// What an application may say to SQLite on each of its connections while its database is
/// replicated: it spares whoever commits the checkpoints, which would do nothing then. Where nothing
/// is replicated any more the log grows for ever with it.
pub const DISABLE_AUTOCHECKPOINT_PRAGMA: &str = "PRAGMA wal_autocheckpoint=0";

/// What to replicate, and how.
///
/// What an application meets while its database is replicated:
///
/// - The write lock is taken for some milliseconds now and then. So connections that write should
///   have a `busy_timeout`, and a transaction that reads first and writes then should be begun with
///   `BEGIN IMMEDIATE`: SQLite refuses to let one write that has read before others have written,
///   whatever the timeout.
/// - Its own checkpoints of any kind find SQLite's checkpoint lock taken and are busy at once, which
///   is no error to who commits: automatic ones do nothing, at next to no cost
///   ([`DISABLE_AUTOCHECKPOINT_PRAGMA`] spares that too), and `PRAGMA wal_checkpoint` says so in its
///   first column. None is needed.
/// - `VACUUM` works and is replicated as one transaction. Another `journal_mode` can't be set.
/// - Two small tables are added, with the names that Litestream gives them.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReplicateOptions {
    /// The path of the database.
    pub database: PathBuf,
    /// How many bytes of the log go into one file at most, but for a transaction that is larger;
    /// 64 MiB, unless it is set. Replication takes 16 bytes of memory a page of them, as much for
    /// the index of the file, and 5 MiB for pages.
    pub file_max: u64,
    /// From how many pages of the log on these are copied to the database file, so that the log
    /// can be begun anew; 1000, as in SQLite, unless it is set.
    pub checkpoint_pages: u32,
    /// After which time that is done even where they are fewer; one minute, unless it is set.
    pub checkpoint_interval: Duration,
    /// How many bytes the log may have, as far as that is up to replication; 64 MiB, unless it is
    /// set. From a quarter on writers are kept waiting for a few milliseconds now and then, until it
    /// is begun anew; so connections of the application should have a `busy_timeout`. Where it has
    /// become larger, its file is cut once nobody has committed for a moment. Writers for whom the
    /// disk or the store is too slow may bring it to four times as much: from here on they are
    /// slowed down more and more, so that that is hardly exceeded, and each transaction waits for
    /// some 35 ms in the end. It grows further while the whole database is being stored, while the
    /// store is away or takes longer than five seconds for a file, while an application's reader
    /// needs it, and by a transaction that is larger.
    ///
    /// Where the store takes nothing for ten seconds, because it is away or hangs, and the log has
    /// grown by eight times as much meanwhile, it is kept no longer, so that the disk does not fill:
    /// it is begun anew as ever from then on, and the replica gets the whole database once its store
    /// is back, as [`Event::LeftBehind`] tells. So a larger `wal_max` makes more of an outage cost
    /// no snapshot. A store that is slower than what is written, and takes all of it in the end, is
    /// waited for.
    ///
    /// Of several replicas one whose store is away is waited for up to a half of it, and one that has
    /// not kept up for five seconds up to all of it, and nobody is slowed down for either; then the
    /// others go on without it.
    pub wal_max: u64,
    /// How soon after a file the next one may follow, where it runs; 50 ms, unless it is set. What
    /// is committed after a while goes at once; after that commits are collected for so long, and
    /// share one file and one request to the store; but where the log grows by a sixteenth of
    /// `wal_max` they go before. 50 ms is what a person takes for at once. Where requests are paid
    /// for, a second makes a twentieth of them, and fewer bytes: a page that changes again and again
    /// is in each file once.
    pub window: Duration,
    /// How often the log is looked at where the kernel does not tell that it was written; one
    /// second, unless it is set. It takes no request to the store.
    pub poll: Duration,
    /// How the replica is kept small and quick to restore, where it runs; as Litestream does, unless
    /// it is set. Without it files are only added.
    pub upkeep: Option<UpkeepOptions>,
    /// Whom it shares with other databases to be worked at, where it runs; nobody, unless it is set.
    pub workers: Option<Workers>,
    /// What time it is, for the files' headers.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl ReplicateOptions {
    /// Replicates `database`, whose files have the times that `clock` tells.
    pub fn new(
        database: impl Into<PathBuf>,
        clock: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> ReplicateOptions {
        ReplicateOptions {
            database: database.into(),
            file_max: 64 * 1024 * 1024,
            checkpoint_pages: 1000,
            checkpoint_interval: Duration::from_secs(60),
            wal_max: 64 * 1024 * 1024,
            window: Duration::from_millis(50),
            poll: Duration::from_secs(1),
            upkeep: Some(UpkeepOptions::default()),
            workers: None,
            clock: Arc::new(clock),
        }
    }
}

impl fmt::Debug for ReplicateOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicateOptions")
            .field("database", &self.database)
            .field("file_max", &self.file_max)
            .field("checkpoint_pages", &self.checkpoint_pages)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("wal_max", &self.wal_max)
            .field("window", &self.window)
            .field("poll", &self.poll)
            .field("upkeep", &self.upkeep)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

/// What one call of [`Replicator::sync`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Synced {
    /// The last transaction of the replica.
    pub txid: Txid,
    /// The files that were stored, in their order.
    pub files: Vec<FileInfo>,
    /// Why one of them is the whole database, where one is.
    pub snapshot: Option<SnapshotReason>,
    /// By how much the time of one of them is before that of the file before it, where it is: the
    /// clock has been wrong then, or it is now. States from the time in between can't be restored by
    /// their time.
    pub clock_back: Option<Duration>,
}

/// A live database and the replica that it is copied to.
///
/// While it exists, one of its two connections has SQLite's checkpoint lock or is in a read
/// transaction, so that nobody begins the database's write-ahead log anew before all of it is in the
/// replica. Applications write as ever, and can't checkpoint: [`upkeep`](Replicator::upkeep) does,
/// and without it the log grows for as long as this exists. What it leaves is a log that the next
/// one, or Litestream, goes on from.
///
/// There must be one of them to a replica, here and anywhere, Litestream included. A second one is
/// noticed by the files that it writes, some of which may be lost by then.
///
/// # Several replicas of one database
///
/// Open one of these for each, in one process. They hold the database together, and each goes on at
/// its own pace: it has its own place in the log, its own status and its own troubles, and may be
/// opened, shut down or dropped at any time. The log is begun anew once all of them have it, where a
/// few megabytes that one still lacks are kept in memory for it; give them the same
/// [`wal_max`](ReplicateOptions::wal_max), which says for how long one that is behind is waited for.
/// Another process is refused: [`ReplicateError::Replicated`].
pub struct Replicator {
    client: Arc<dyn ReplicaClient>,
    options: ReplicateOptions,
    /// The path of the database, wherever the process goes.
    named: PathBuf,
    hold: Arc<Hold>,
    /// Where the replica stands in the log, and what is being stored.
    member: Arc<Member>,
    /// The last file of the replica.
    last: Option<Last>,
    /// What the log was when it was last looked at for a sync that has come to its end, if the hold
    /// is still the same.
    synced: Option<Observed>,
    /// When the replica was last looked at for files of somebody else.
    looked: Option<Instant>,
    /// When it was last looked whether the latest state can be restored.
    surveyed: Instant,
    /// Whether it may not be, so that it is looked once more.
    is_doubtful: bool,
    /// By how much the files' times go back where one was stored that nobody was told of yet.
    clock_back: Option<Duration>,
    /// The files that should be there, with their sizes, from the last one of level 0 at that look
    /// on; without one where it is not known whether they are.
    ours: BTreeMap<FileId, Option<u64>>,
    stored: Stored,
    /// What the replica had when this was opened, as long as nothing was stored since.
    listed: Option<Catalogue>,
    /// When this was opened, at a time that is certain not to be ahead.
    certain: Moment,
    /// Whoever wants to know which files are stored.
    known: Option<Arc<Known>>,
}

/// What was stored since the database was opened.
#[derive(Clone, Copy, Debug, Default)]
struct Stored {
    files: u64,
    bytes: u64,
}

/// What matters of the last file of a replica.
#[derive(Clone, Copy, Debug)]
struct Last {
    info: FileInfo,
    time: Timestamp,
    page_size: Option<PageSize>,
}

impl Replicator {
    /// Opens the database, puts it into WAL mode and adds Litestream's two small tables, if it has
    /// not been done before; and finds where the replica behind `client` stands.
    ///
    /// A replica that this or Litestream has written before goes on from where it ends, if the log
    /// still has that place and the same content there. Otherwise the next file will hold the whole
    /// database, on top of the history that there is; and where that history has a gap or ends with
    /// a file that can't be read, so that nothing on top of it could be restored, a snapshot is
    /// stored besides, from which restores begin from then on.
    ///
    /// # Errors
    ///
    /// Any [`ReplicateError`]. It must be awaited in a Tokio runtime.
    pub async fn open(
        client: Arc<dyn ReplicaClient>,
        options: ReplicateOptions,
    ) -> Result<Replicator, ReplicateError> {
        let path = options.database.clone();
        let named = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let hold = run_blocking(move || Hold::open(&path)).await??;
        // What another process has stored just before is there, and may not be listed yet.
        sleep(client.capabilities().list_lag).await;
        let listed = upkeep::list(&*client).await?;
        let files = listed.files();
        let newest = Newest::find(&client, &files).await?;
        let place = match newest {
            None => Err(SnapshotReason::First),
            Some(_) if RestorePlan::new(Target::Latest, &files).is_err() => {
                Err(SnapshotReason::Incomplete)
            }
            Some(newest) => newest.place(&files, &hold.database, &client).await?,
        };
        let certain = match client.capabilities().timestamp_resolution {
            Some(_) => listed.certain((options.clock)()),
            None => Moment::without_time(),
        };
        let joined = Arc::clone(&hold);
        let member = run_blocking(move || joined.join(place)).await??;
        Ok(Replicator {
            client,
            options,
            named,
            member,
            hold,
            last: newest.map(|newest| Last {
                info: newest.info,
                time: newest.time(),
                page_size: newest.header.map(|header| header.page_size()),
            }),
            synced: None,
            looked: None,
            surveyed: Instant::now(),
            is_doubtful: false,
            clock_back: None,
            ours: (newest.iter().map(|newest| newest.info))
                .filter(|file| file.id.level == Level::RAW)
                .map(|file| (file.id, Some(file.size)))
                .collect(),
            stored: Stored::default(),
            certain,
            listed: Some(listed),
            known: None,
        })
    }

    /// Why the next file will hold the whole database, where it will.
    pub fn snapshot_reason(&self) -> Option<SnapshotReason> {
        self.member.standing().place.err()
    }

    /// Stores everything that was committed before this call, and returns when it is stored.
    ///
    /// What the store has acknowledged survives whatever happens here. After an error, and where
    /// the future is dropped, call it again: it goes on where it was. A store that fails is not
    /// tried again by this, but by a [`Replication`]; whoever calls this alone gives it a client
    /// that tries again.
    ///
    /// # Errors
    ///
    /// Any [`ReplicateError`].
    pub async fn sync(&mut self) -> Result<Synced, ReplicateError> {
        let checkpointing = self.checkpointing(false);
        let synced = tokio::select! {
            biased;
            synced = self.store_all() => synced,
            never = checkpointing.bound_log() => match never {},
        };
        self.member.standing().is_failing = synced.is_err();
        match synced {
            Ok(_) => self.member.standing().standstill = None,
            Err(_) => checkpointing.bound_log_now().await,
        }
        synced
    }

    async fn store_all(&mut self) -> Result<Synced, ReplicateError> {
        let (mut files, mut snapshot) = (Vec::new(), None);
        let mut target: Option<Observed> = None;
        let mut attempts = 1;
        self.synced = None;
        loop {
            let stored = match self.store_next(&mut target).await {
                Ok(stored) => stored,
                Err(ReplicateError::Unsteady { .. }) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some((stored_now, reason)) = stored else {
                break;
            };
            files.extend(stored_now);
            snapshot = snapshot.or(reason);
            if self.has_reached(target) && !self.last.is_some_and(|last| last.is_snapshot()) {
                let (hold, path) = (Arc::clone(&self.hold), self.named.clone());
                run_blocking(move || lock(&hold.database).check_path(&path)).await??;
                break;
            }
        }
        self.synced = target.filter(|target| self.member.standing().has_all(target));
        Ok(Synced {
            txid: self.last.map_or(Txid::FIRST, |last| last.txid()),
            files,
            snapshot,
            clock_back: self.clock_back.take(),
        })
    }

    /// Checkpoints as the options say, if it is time to: call it after each sync. `quiet` says
    /// that nothing was committed for a moment, which is a good one to begin the log anew.
    ///
    /// It does nothing where the last [`sync`](Replicator::sync) has failed: the log is needed.
    ///
    /// # Errors
    ///
    /// Any [`ReplicateError`]. The next sync goes on where the last one was.
    pub async fn upkeep(&mut self, quiet: bool) -> Result<Option<Checkpointed>, ReplicateError> {
        let schedule = self.schedule();
        let past = *self.hold.past();
        let past = Past {
            elapsed: past.at.elapsed(),
            recycled: past.recycled,
        };
        let synced = self.synced.as_ref();
        match synced.and_then(|observed| due(&schedule, observed, past, quiet)) {
            Some(how) => self.checkpoint_in(how, quiet).await,
            None => Ok(None),
        }
    }

    /// Checkpoints now. `None` where it can't be: the last [`sync`](Replicator::sync) has failed,
    /// there was none since the last checkpoint, or somebody else checkpoints, or writes for a
    /// second without a pause.
    ///
    /// # Errors
    ///
    /// Any [`ReplicateError`]. The next sync goes on where the last one was.
    pub async fn checkpoint(
        &mut self,
        how: Checkpoint,
    ) -> Result<Option<Checkpointed>, ReplicateError> {
        self.checkpoint_in(how, true).await
    }

    async fn checkpoint_in(
        &mut self,
        how: Checkpoint,
        quiet: bool,
    ) -> Result<Option<Checkpointed>, ReplicateError> {
        if self.synced.take().is_none() {
            return Ok(None);
        }
        self.hold.past().at = Instant::now();
        let checkpointing = self.checkpointing(quiet);
        run_blocking(move || checkpointing.checkpoint(how)).await?
    }

    /// Looks once more whether what was stored is still there as it was stored, and can be restored
    /// with what it goes on top of: to be called at the end, since nobody looks after it. Where files
    /// are missing that it takes, the whole database is stored anew, which is what it says then. It
    /// costs a request for each level where anything was stored, and none where nothing was.
    ///
    /// # Errors
    ///
    /// [`ReplicateError::Conflict`] where somebody else has written to the replica, so that nobody
    /// knows what a restore would give; [`ReplicateError::Store`] where that can't be found out.
    pub async fn confirm(&mut self) -> Result<Option<Synced>, ReplicateError> {
        if self.stored.files == 0 {
            return Ok(None);
        }
        self.look(None).await?;
        self.is_doubtful = true;
        self.survey().await?;
        if self.snapshot_reason() != Some(SnapshotReason::Incomplete) {
            return Ok(None);
        }
        let synced = self.sync().await?;
        self.look(None).await?;
        Ok(Some(synced))
    }

    /// Stores one file, if there is anything to store.
    async fn store_next(
        &mut self,
        target: &mut Option<Observed>,
    ) -> Result<Option<(Vec<FileInfo>, Option<SnapshotReason>)>, ReplicateError> {
        let mut pending = self.member.standing().pending.clone();
        if pending.is_none() {
            self.survey().await?;
            if self.member.standing().is_let_go {
                // Nobody needs to wait for it again before it answers.
                self.look(None).await?;
            }
            let preparing = self.preparing();
            let prepared = run_blocking(move || preparing.prepare()).await??;
            let is_other = |target: Observed, observed: Observed| target.header != observed.header;
            if let Some(observed) = prepared.observed
                && (prepared.anew || target.is_none_or(|target| is_other(target, observed)))
            {
                *target = Some(observed);
            }
            pending = prepared.pending;
        }
        let Some(pending) = pending else {
            return Ok(None);
        };
        if self
            .looked
            .is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN)
        {
            self.look(Some(&pending)).await?;
        }

        let (start, info) = match self.store(&pending).await {
            Ok(stored) => stored,
            Err(error) => {
                if !matches!(error, ReplicateError::Store(_)) {
                    self.give_up(&pending);
                }
                return Err(error);
            }
        };

        self.is_doubtful |= self.surveyed.elapsed() >= SURVEY_AGAIN;
        let files: Vec<FileInfo> = start.into_iter().chain([info]).collect();
        let sizes = files.iter().map(|file| (file.id, Some(file.size)));
        self.ours.extend(sizes);
        self.listed = None;
        if let Some(known) = &self.known {
            files.iter().for_each(|file| known.add(*file));
        }
        self.stored.files += files.len() as u64;
        self.stored.bytes += files.iter().map(|file| file.size).sum::<u64>();
        let time = pending.header.timestamp();
        if let Some(last) = self.last.filter(|last| time < last.time) {
            let back = last.time.as_millis().abs_diff(time.as_millis());
            self.clock_back = Some(Duration::from_millis(back));
        }
        self.last = Some(Last {
            info,
            time,
            page_size: Some(pending.header.page_size()),
        });
        self.member.standing().stored(&pending);
        Ok(Some((files, pending.contents.reason())))
    }

    /// Gives up a file that can't be made. Where it could be before, it may be in the replica by now
    /// or later on, so its transaction is left to it: restores begin behind it from now on.
    fn give_up(&mut self, pending: &Pending) {
        let mut standing = self.member.standing();
        standing.give_up();
        if pending.may_be_stored() {
            let (id, time) = (pending.file(), pending.header.timestamp());
            self.ours.insert(id, None);
            let last = self.last.get_or_insert(Last {
                info: FileInfo {
                    id,
                    size: 0,
                    created_at: time,
                },
                time,
                page_size: Some(pending.header.page_size()),
            });
            last.info.id = id;
            last.time = time;
            standing.place = Err(SnapshotReason::Incomplete);
        }
    }

    /// Stores the file, and before it the one that restores begin with, where it takes one.
    async fn store(
        &self,
        pending: &Pending,
    ) -> Result<(Option<FileInfo>, FileInfo), ReplicateError> {
        let start = match pending.new_start() {
            Some(start) => Some(self.write(&start).await?),
            None => None,
        };
        Ok((start, self.write(pending).await?))
    }

    async fn write(&self, pending: &Pending) -> Result<FileInfo, ReplicateError> {
        let failure = Failure::default();
        let body = pending.body(&self.hold.database, &failure).await?;
        let time = pending.header.timestamp();
        let write = self.client.write(pending.file(), time, body);
        let is_waited_for = {
            let is_failing = self.member.standing().is_failing;
            let is_kept = self.hold.past().kept.is_some();
            !is_failing && !is_kept && pending.contents == Contents::Changes
        };
        let written = match is_waited_for {
            true => self.while_watching(write).await,
            false => write.await,
        };
        written.map_err(|error| lock(&failure).take().unwrap_or(error.into()))
    }

    /// Waits for a file to be stored, and has writers slowed down if the log grows too fast
    /// meanwhile. A store that takes longer is not waited for.
    async fn while_watching<T>(&self, write: impl Future<Output = T>) -> T {
        let (mut write, schedule) = (pin!(write), self.schedule());
        for _ in 0..GLANCES_MAX {
            if let Ok(written) = timeout(GLANCE_PAUSE, &mut write).await {
                return written;
            }
            // Whoever is at it sees to that too.
            if let Some(mut database) = try_lock(&self.hold.database)
                && database
                    .log_len()
                    .is_some_and(|len| schedule.is_watched(len))
            {
                database.slow_writers(schedule.most());
                break;
            }
        }
        write.await
    }

    /// Looks whether somebody else has written to the replica: whether all that was stored since the
    /// last look is there as it was stored, but for what was deleted when it was old, and nothing
    /// else is. What upkeep does is no conflict: it adds nothing to level 0, and leaves the last file
    /// there.
    async fn look(&mut self, pending: Option<&Pending>) -> Result<(), ReplicateError> {
        // What was stored just before need not be listed yet.
        sleep(self.client.capabilities().list_lag).await;
        let raws = self.ours.keys().filter(|file| file.level == Level::RAW);
        let from = match (raws.min(), self.last) {
            (Some(first), _) => first.txids.min(),
            // What a file of a higher level was made of may be at level 0 too.
            (None, Some(last)) => last.txid().next().unwrap_or(last.txid()),
            (None, None) => Txid::FIRST,
        };
        let listed = self.client.list_all(Level::RAW, from, Timestamps::Fast);
        let mut listed = listed.await?;
        let last_listed = listed.iter().map(|file| file.id).max();
        let is_first = self.last.is_none();
        if is_first || self.ours.keys().any(|file| file.level == Level::SNAPSHOT) {
            // Somebody else may begin with the same file. Upkeep makes further ones.
            let whole = self
                .client
                .list_all(Level::SNAPSHOT, Txid::FIRST, Timestamps::Fast);
            let whole = whole.await?.into_iter();
            listed.extend(whole.filter(|file| is_first || self.ours.contains_key(&file.id)));
        }
        let is_ours = |file: &FileInfo| match self.ours.get(&file.id) {
            Some(size) => size.is_none_or(|size| size == file.size),
            None => {
                pending.is_some_and(|pending| file.id == pending.file() && pending.may_be_stored())
            }
        };
        if let Some(other) = listed.iter().find(|file| !is_ours(file)) {
            return Err(ReplicateError::Conflict { file: other.id });
        }
        let stored = self.ours.iter().filter(|(_, size)| size.is_some());
        let stored = stored.map(|(file, _)| *file);
        let newest = stored.filter(|file| file.level == Level::RAW).max();
        // Where the next one is there already, upkeep may know of it, and take it for the newest.
        if let Some(newest) = newest.filter(|newest| last_listed < Some(*newest)) {
            return Err(ReplicateError::Conflict { file: newest });
        }
        self.looked = Some(Instant::now());
        // Upkeep deletes some of them too, but not as early.
        let listed: BTreeSet<FileId> = listed.iter().map(|file| file.id).collect();
        let mut raws =
            (self.ours.iter()).filter(|(file, size)| size.is_some() && file.level == Level::RAW);
        self.is_doubtful |= raws.any(|(file, _)| !listed.contains(file));
        self.ours.retain(|file, _| {
            file.level == Level::RAW && newest.is_none_or(|newest| *file >= newest)
        });
        Ok(())
    }

    /// Looks, where there is a reason to, whether the latest state can still be
    /// restored. Where not, files were deleted, or upkeep has found them damaged, and nothing on top
    /// of what there is could be restored either: the next file is a new start.
    async fn survey(&mut self) -> Result<(), ReplicateError> {
        self.is_doubtful |= self
            .known
            .as_ref()
            .is_some_and(|known| known.take_lacking());
        if self.last.is_none() || !self.is_doubtful {
            return Ok(());
        }
        let is_whole = async || {
            let files = upkeep::list(&*self.client).await?.files();
            let last = files.iter().map(|file| file.id.txids.max()).max();
            let sound = match &self.known {
                Some(known) => known.sound(&files),
                None => files,
            };
            let plan = RestorePlan::new(Target::Latest, &sound);
            Ok(plan.is_ok_and(|plan| Some(plan.txid()) >= last))
        };
        // What was stored just now may not be listed yet.
        let mut whole: replica_core::Result<bool> = is_whole().await;
        if let Ok(false) = whole {
            sleep(self.client.capabilities().list_lag).await;
            whole = is_whole().await;
        }
        if !whole? {
            self.member.standing().place = Err(SnapshotReason::Incomplete);
        }
        self.surveyed = Instant::now();
        self.is_doubtful = false;
        Ok(())
    }

    /// Whether the replica has all that was there when `target` was observed.
    fn has_reached(&self, target: Option<Observed>) -> bool {
        match (self.member.standing().place, target) {
            (Ok(place), Some(target)) => {
                target.header == Ok(*place.end.header()) && target.frames <= place.end.frames()
            }
            _ => false,
        }
    }

    fn schedule(&self) -> Schedule {
        Schedule {
            pages: self.options.checkpoint_pages,
            interval: self.options.checkpoint_interval,
            wal_max: self.options.wal_max,
        }
    }

    fn checkpointing(&self, quiet: bool) -> Checkpointing {
        Checkpointing {
            hold: Arc::clone(&self.hold),
            own: Arc::clone(&self.member),
            schedule: self.schedule(),
            quiet,
        }
    }

    fn preparing(&self) -> Preparing {
        Preparing {
            hold: Arc::clone(&self.hold),
            member: Arc::clone(&self.member),
            round: self.member.standing().next_round(),
            named: self.named.clone(),
            last: self.last,
            file_max: self.options.file_max,
            schedule: self.schedule(),
            now: (self.options.clock)(),
        }
    }
}

impl fmt::Debug for Replicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicator")
            .field("client", &self.client)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Last {
    /// Whether it is the first file of all, which is stored as a snapshot, and followed by another.
    fn is_snapshot(&self) -> bool {
        self.info.id.level == Level::SNAPSHOT
    }

    fn txid(&self) -> Txid {
        self.info.id.txids.max()
    }
}

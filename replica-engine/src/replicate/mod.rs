//! Copies what is committed to a live database into a replica.

mod decide;
mod error;
mod pending;
mod resume;

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ltx::{Header, PageSize, Txid, TxidRange, WalSpan};
use replica_core::{FileInfo, Level, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps};
use tokio::time::Instant;

pub use decide::SnapshotReason;
pub use error::ReplicateError;

use crate::database::{Database, Observed};
use crate::restore::run_blocking;
use crate::wal::{Chain, Changed};
use decide::{Place, Step, decide, has_growth};
use pending::{Contents, Failure, Pending, lock};
use resume::Newest;

/// How often a file is begun again because the log has changed under it, which happens once.
const ATTEMPTS_MAX: usize = 4;
/// How much time passes before the replica is looked at again for files of somebody else.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What to replicate, and how.
#[derive(Clone)]
#[non_exhaustive]
pub struct ReplicateOptions {
    /// The path of the database.
    pub database: PathBuf,
    /// How many bytes of the log go into one file at most, but for a transaction that is larger;
    /// 64 MiB, unless it is set. Replication takes 16 bytes of memory a page of them, as much for
    /// the index of the file, and 5 MiB for pages.
    pub file_max: u64,
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
            clock: Arc::new(clock),
        }
    }
}

impl fmt::Debug for ReplicateOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicateOptions")
            .field("database", &self.database)
            .field("file_max", &self.file_max)
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
}

/// A live database and the replica that it is copied to.
///
/// While it exists, one of its two connections is in a read transaction, so that nobody begins the
/// database's write-ahead log anew before all of it is in the replica. Applications write as ever.
/// It checkpoints nothing, so the log grows for as long as it exists: open it, sync, drop it. What
/// it leaves is a log that the next one, or Litestream, goes on from.
///
/// There must be one of them to a replica, here and anywhere, Litestream included. A second one is
/// noticed by the files that it writes, some of which may be lost by then.
pub struct Replicator {
    client: Arc<dyn ReplicaClient>,
    options: ReplicateOptions,
    database: Arc<Mutex<Database>>,
    /// Where the replica stands in the log, or why that is not known.
    place: Result<Place, SnapshotReason>,
    /// The last file of the replica.
    last: Option<Last>,
    /// The file that is being stored. After an error of the store it may be there already, so the
    /// very same one is stored again.
    pending: Option<Pending>,
    looked: Instant,
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
    /// database, on top of the history that there is.
    ///
    /// # Errors
    ///
    /// Any [`ReplicateError`]. It must be awaited in a Tokio runtime.
    pub async fn open(
        client: Arc<dyn ReplicaClient>,
        options: ReplicateOptions,
    ) -> Result<Replicator, ReplicateError> {
        let path = options.database.clone();
        let database = run_blocking(move || Database::open(&path)).await??;
        let database = Arc::new(Mutex::new(database));
        let newest = Newest::find(&*client).await?;
        let place = match newest {
            None => Err(SnapshotReason::First),
            Some(newest) => find_place(&newest, &database, &*client).await?,
        };
        Ok(Replicator {
            client,
            options,
            database,
            place,
            last: newest.map(|newest| Last {
                info: newest.info,
                time: newest.time(),
                page_size: newest.header.map(|header| header.page_size()),
            }),
            pending: None,
            looked: Instant::now(),
        })
    }

    /// Stores everything that was committed before this call, and returns when it is stored.
    ///
    /// What the store has acknowledged survives whatever happens here. After an error, and where
    /// the future is dropped, call it again: it goes on where it was. A store that fails is not
    /// tried again by this: give it a client that does.
    ///
    /// # Errors
    ///
    /// Any [`ReplicateError`].
    pub async fn sync(&mut self) -> Result<Synced, ReplicateError> {
        let (mut files, mut snapshot) = (Vec::new(), None);
        let mut target: Option<Observed> = None;
        let mut attempts = 1;
        loop {
            let stored = match self.store_next(&mut target).await {
                Ok(stored) => stored,
                Err(ReplicateError::Unsteady { .. }) if attempts < ATTEMPTS_MAX => {
                    attempts += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some((info, reason)) = stored else {
                break;
            };
            files.push(info);
            snapshot = snapshot.or(reason);
            if self.has_reached(target) {
                break;
            }
        }
        if let Ok(place) = &mut self.place {
            place.complete = true;
        }
        Ok(Synced {
            txid: self.last.map_or(Txid::FIRST, |last| last.txid()),
            files,
            snapshot,
        })
    }

    /// Stores one file, if there is anything to store.
    async fn store_next(
        &mut self,
        target: &mut Option<Observed>,
    ) -> Result<Option<(FileInfo, Option<SnapshotReason>)>, ReplicateError> {
        if self.pending.is_none() {
            let preparing = self.preparing();
            let prepared = run_blocking(move || preparing.prepare()).await??;
            if target.is_none_or(|target| target.header != prepared.observed.header) {
                *target = Some(prepared.observed);
            }
            self.pending = prepared.pending;
        }
        let Some(pending) = self.pending.clone() else {
            return Ok(None);
        };
        if self.looked.elapsed() >= LOOK_AGAIN {
            self.look(&pending).await?;
        }

        let info = match self.store(&pending).await {
            Ok(info) => info,
            Err(error) => {
                if !matches!(error, ReplicateError::Store(_)) {
                    // The file could not be made, and so it was not stored.
                    self.pending = None;
                }
                return Err(error);
            }
        };

        self.pending = None;
        self.last = Some(Last {
            info,
            time: pending.header.timestamp(),
            page_size: Some(pending.header.page_size()),
        });
        let complete = self.place.is_ok_and(|place| place.complete);
        self.place = Ok(Place {
            end: *pending.changed.end(),
            commit: pending.header.commit(),
            complete,
        });
        Ok(Some((info, pending.contents.reason())))
    }

    async fn store(&self, pending: &Pending) -> Result<FileInfo, ReplicateError> {
        let failure = Failure::default();
        let body = pending.body(&self.database, &failure).await?;
        let time = pending.header.timestamp();
        let written = self.client.write(pending.file(), time, body).await;
        written.map_err(|error| lock(&failure).take().unwrap_or(error.into()))
    }

    /// Looks whether somebody else has written to the replica.
    async fn look(&mut self, pending: &Pending) -> Result<(), ReplicateError> {
        let from = self
            .last
            .map_or(Txid::FIRST, |last| last.info.id.txids.min());
        let listed = self.client.list_all(Level::RAW, from, Timestamps::Fast);
        let ours = |file: &FileInfo| match self.last {
            Some(last) if last.info.id == file.id => last.info.size == file.size,
            _ => file.id == pending.file(),
        };
        match listed.await?.into_iter().find(|file| !ours(file)) {
            Some(FileInfo { id, .. }) => Err(ReplicateError::Conflict { file: id }),
            None => {
                self.looked = Instant::now();
                Ok(())
            }
        }
    }

    /// Whether the replica has all that was there when `target` was observed.
    fn has_reached(&self, target: Option<Observed>) -> bool {
        match (&self.place, target) {
            (Ok(place), Some(target)) => {
                target.header == Ok(*place.end.header()) && target.frames <= place.end.frames()
            }
            _ => false,
        }
    }

    fn preparing(&self) -> Preparing {
        Preparing {
            database: Arc::clone(&self.database),
            place: self.place,
            last: self.last,
            file_max: self.options.file_max,
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
    fn txid(&self) -> Txid {
        self.info.id.txids.max()
    }
}

async fn find_place(
    newest: &Newest,
    database: &Arc<Mutex<Database>>,
    client: &dyn ReplicaClient,
) -> Result<Result<Place, SnapshotReason>, ReplicateError> {
    let (file, held) = (*newest, Arc::clone(database));
    let claim = match run_blocking(move || file.claim(&lock(&held))).await?? {
        Ok(claim) => claim,
        Err(reason) => return Ok(Err(reason)),
    };
    let has = newest.has(&claim, client).await?;
    Ok(has.map(|()| claim.place))
}

/// What it takes to say what the next file holds.
struct Preparing {
    database: Arc<Mutex<Database>>,
    place: Result<Place, SnapshotReason>,
    last: Option<Last>,
    file_max: u64,
    now: Timestamp,
}

struct Prepared {
    observed: Observed,
    pending: Option<Pending>,
}

impl Preparing {
    fn prepare(&self) -> Result<Prepared, ReplicateError> {
        let database = lock(&self.database);
        let observed = database.observe()?;
        let step = decide(self.place.as_ref().map_err(|reason| *reason), &observed)
            .map_err(|fault| database.without_header(fault))?;
        match step {
            Step::Nothing => Ok(Prepared {
                observed,
                pending: None,
            }),
            Step::Snapshot(reason) => self.snapshot(&database, reason),
            Step::Append(start) => {
                let (changes, wal) = database.changes(start, observed.frames, self.file_max)?;
                let changed = changes.finish();
                let before = self.place.map_or(0, |place| place.commit);
                if !has_growth(&changed, before) {
                    return self.snapshot(&database, SnapshotReason::Unwritten);
                }
                let pending = self.pending(&database, start, (changed, wal), Contents::Changes)?;
                Ok(Prepared {
                    observed,
                    pending: Some(pending),
                })
            }
        }
    }

    fn snapshot(
        &self,
        database: &Database,
        reason: SnapshotReason,
    ) -> Result<Prepared, ReplicateError> {
        database.pin()?;
        let observed = database.observe()?;
        let header = observed
            .header
            .map_err(|fault| database.without_header(fault))?;
        let start = Chain::new(header);
        let (changes, wal) = database.changes(start, observed.frames, u64::MAX)?;
        let contents = Contents::Everything(reason);
        let pending = self.pending(database, start, (changes.finish(), wal), contents)?;
        Ok(Prepared {
            observed,
            pending: Some(pending),
        })
    }

    fn pending(
        &self,
        database: &Database,
        start: Chain,
        (changed, wal): (Changed, File),
        contents: Contents,
    ) -> Result<Pending, ReplicateError> {
        let end = changed.end();
        let page_size = end.header().page_size();
        let span = WalSpan::new(
            start.offset(),
            end.offset() - start.offset(),
            end.header().salts(),
        );
        let (Some(commit), Some(span)) = (changed.commit(), span) else {
            return Err(database.unsteady());
        };
        let txid = match self.last {
            None => Txid::FIRST,
            Some(last) => last
                .txid()
                .next()
                .ok_or(ReplicateError::Exhausted { txid: last.txid() })?,
        };
        if let Some(replica) = self.last.and_then(|last| last.page_size)
            && replica != page_size
        {
            return Err(ReplicateError::PageSize {
                database: page_size,
                replica,
            });
        }
        let time = self.last.map_or(self.now, |last| last.time.max(self.now));
        let txids = TxidRange::single(txid);
        Ok(Pending {
            header: Header::new(page_size, commit.get(), txids, time).with_wal(span),
            contents,
            changed: Arc::new(changed),
            wal: Arc::new(wal),
        })
    }
}

//! A restore drill: restores a replica, and holds the result against the live database.
//!
//! Both must be of one moment. A read transaction of ours, the *hold*, stops SQLite from copying to
//! the database file what is committed after it, so under it the database file with the committed
//! frames of the log laid over it, up to any of them, is what the database was there; that is how
//! the replicator makes a snapshot too. And the newest file of a replica says up to which frame of
//! which log it goes. So the drill takes the hold first, waits until the replica has everything up
//! to there, restores the transaction at which it has arrived, and compares that with the live
//! database as it was at the end of that very file. No file need end where the hold began, so a
//! replicator that stores several transactions in one file is no trouble, and writers are never
//! waited for.
//!
//! Where the files say nothing about the place, the same comparison is made with the latest state:
//! equal bytes need no place to be good. Different ones do, and are told as what they are, unknown.
//!
//! The restore goes to a scratch file by the code of every other restore: that is the drill. To put
//! a database together on the way, page by page, would take another reader of the replica, which
//! would be the one that is proven.
//!
//! What the hold costs: for as long as it lasts the log is not begun anew, and so grows by what is
//! written. It lasts for the restore and one reading of the database.

mod live;
mod verdict;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ltx::{Header, PageSize, Pgno};
use replica_core::{Level, ReplicaClient, ReplicaClientExt, Timestamps};
use tokio::time::{Instant, sleep, timeout};

use crate::damage::ReadFailure;
use crate::database::Database;
use crate::listing::{list, read_header};
use crate::progress::Listener;
use crate::replicate::{Newest, lock};
use crate::restore::{rebuild, run_blocking};
use crate::staged::{Destination, Staged};
use crate::{
    Damage, Existing, PlanError, Progress, ReplicateError, RestoreError, RestoreOptions, Target,
};
pub(crate) use live::LiveState;

pub use verdict::{Compared, Differences, Doubt, Flaw, Verdict, VerifyError};

/// How often all is begun again because the database or the replica has moved on in between.
const ROUNDS_MAX: usize = 3;
/// The pause before the replica is looked at again, at first and in the end.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(1)];
/// How many bytes are compared before somebody else may say that it is enough.
const COMPARED_AT_ONCE: u64 = 16 * 1024 * 1024;
/// How many bytes are read at a time.
const BLOCK: usize = 1024 * 1024;
/// How many pages are named that differ.
const NAMED_MAX: usize = 8;

/// What to verify, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// The path of the live database.
    pub database: PathBuf,
    /// The folder for the restored database, which takes as much space there as the live one for
    /// as long as this goes on.
    pub scratch: PathBuf,
    /// For how long the replica is waited for where it lags behind; 5 s, unless it is set.
    pub wait: Duration,
    /// How long it may all take, and with it the hold on the log, which grows meanwhile by what is
    /// written; 10 minutes, unless it is set.
    pub hold_max: Duration,
    /// How many bytes are fetched before they are needed; as in a restore.
    pub fetch_ahead: u64,
}

impl VerifyOptions {
    /// Verifies the replica of `database` with a restore into the folder `scratch`.
    pub fn new(database: impl Into<PathBuf>, scratch: impl Into<PathBuf>) -> VerifyOptions {
        let scratch = scratch.into();
        VerifyOptions {
            database: database.into(),
            fetch_ahead: RestoreOptions::new(&scratch).fetch_ahead,
            scratch,
            wait: Duration::from_secs(5),
            hold_max: Duration::from_secs(600),
        }
    }
}

/// A step of a verification.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum VerifyProgress {
    /// The replica lags behind, and is waited for.
    Waiting,
    /// The replica is being restored.
    Restoring(Progress),
    /// The restored database has so many bytes, and is compared with the live one now.
    Comparing {
        /// How many bytes.
        bytes: u64,
    },
    /// More of it was compared.
    Compared {
        /// How many bytes.
        bytes: u64,
    },
    /// The database or the replica has moved on meanwhile, and all begins again, if not for too
    /// often.
    Again,
}

type Teller = Arc<dyn Fn(VerifyProgress) + Send + Sync>;

/// Restores the replica behind `client` to a scratch file, compares it with the live database at
/// the same place, and tells `progress` how that goes on.
///
/// Nobody is kept from reading or writing the database, and nothing is written to it, to its log or
/// to the replica; SQLite makes the log and the shared memory, empty, where they are missing. The
/// user must be allowed to write to both all the same. For what it costs otherwise see
/// [`VerifyOptions::hold_max`]. Dropping the future stops the work soon, and leaves nothing.
///
/// It must be awaited in a Tokio runtime.
///
/// # Errors
///
/// Any [`VerifyError`]: nothing is said about the replica then.
pub async fn verify(
    client: Arc<dyn ReplicaClient>,
    options: &VerifyOptions,
    progress: impl Fn(VerifyProgress) + Send + Sync + 'static,
) -> Result<Verdict, VerifyError> {
    let drill = Drill {
        client,
        options,
        teller: Arc::new(progress),
    };
    match timeout(options.hold_max, drill.rounds()).await {
        Ok(Err(VerifyError::Database(ReplicateError::NotWal { path, mode }))) => {
            Err(VerifyError::NotWal { path, mode })
        }
        Ok(verdict) => verdict,
        Err(_) => Ok(Verdict::Unknown(Doubt::TooLong {
            hold_max: options.hold_max,
        })),
    }
}

/// Whether the log was begun anew while it was being read, which a later attempt may not meet.
fn is_movement(error: &VerifyError) -> bool {
    matches!(
        error,
        VerifyError::Database(ReplicateError::Unsteady { .. })
    )
}

struct Drill<'a> {
    client: Arc<dyn ReplicaClient>,
    options: &'a VerifyOptions,
    teller: Teller,
}

impl Drill<'_> {
    async fn rounds(&self) -> Result<Verdict, VerifyError> {
        let mut has_differed = false;
        for _ in 0..ROUNDS_MAX {
            match self.round().await {
                // What is being copied to the database file just now is counted only afterwards.
                Ok(Some(Verdict::Bad(Flaw::Differs { .. }))) if !has_differed => {
                    has_differed = true;
                    (self.teller)(VerifyProgress::Again);
                }
                Ok(Some(verdict)) => return Ok(verdict),
                Err(error) if !is_movement(&error) => return Err(error),
                Ok(None) | Err(_) => (self.teller)(VerifyProgress::Again),
            }
        }
        Ok(Verdict::Unknown(Doubt::Moving))
    }

    /// One attempt, or `None` where it says nothing because something has moved meanwhile.
    async fn round(&self) -> Result<Option<Verdict>, VerifyError> {
        let path = self.options.database.clone();
        let database = run_blocking(move || Database::open_to_read(&path)).await??;
        let database = Arc::new(Mutex::new(database));
        let (newest, place, behind) = self.arrive(&database).await?;

        let restored = match self.restore(&newest).await {
            Ok(restored) => restored,
            Err(RestoreError::Damaged { txid, damaged, .. }) => {
                return Ok(Some(Verdict::Bad(Flaw::Damaged { txid, damaged })));
            }
            // It was compacted meanwhile.
            Err(RestoreError::Plan(PlanError::TxidUnavailable { .. })) => return Ok(None),
            Err(RestoreError::Plan(error)) if error != PlanError::Empty => {
                return Ok(Some(Verdict::Bad(Flaw::Unrestorable(error))));
            }
            Err(error) => return Err(error.into()),
        };

        let (held, doubt) = (Arc::clone(&database), place.as_ref().err().copied());
        let live = run_blocking(move || LiveState::at(place.ok(), &lock(&held))).await??;
        let live = Arc::new(live);
        let differences = self.compare(&database, &live, &restored).await?;
        let (held, compared) = (Arc::clone(&database), Arc::clone(&live));
        let is_unmoved = run_blocking(move || compared.is_unmoved(&lock(&held))).await??;
        if !is_unmoved {
            return Ok(None);
        }
        let header = restored.header;
        let compared = Compared {
            txid: header.txids().max(),
            created_at: header.timestamp(),
            page_size: header.page_size().get(),
            pages: header.commit(),
            behind,
            damaged: restored.damaged,
        };
        Ok(match (differences, doubt) {
            (None, _) => Some(Verdict::Good(compared)),
            // The next file may say where it belongs.
            (Some(_), Some(_)) if self.newer(&newest).await?.is_some() => None,
            (Some(_), Some(doubt)) => Some(Verdict::Unknown(doubt)),
            (Some(differences), None) => Some(Verdict::Bad(Flaw::Differs {
                compared,
                differences,
            })),
        })
    }

    /// What was added to the replica after `newest`.
    async fn newer(&self, newest: &Newest) -> Result<Option<Newest>, VerifyError> {
        // What both programs add to a replica is at level 0.
        let from = newest.info.id.txids.max();
        let added = self.client.list_all(Level::RAW, from, Timestamps::Fast);
        let added = Newest::of(&added.await?);
        Ok(added.filter(|added| added.info.id.txids.max() > from))
    }

    /// Waits until the replica has all that was committed when this began, or for as long as is
    /// wanted. Returns its newest file, the place in the log that this goes up to, if it says so, and
    /// how many bytes of the log it lacks still.
    async fn arrive(
        &self,
        database: &Arc<Mutex<Database>>,
    ) -> Result<(Newest, Result<live::Place, Doubt>, u64), VerifyError> {
        let held = Arc::clone(database);
        let begun = run_blocking(move || lock(&held).observe()).await??;
        let files = list(&*self.client, Timestamps::Fast).await?;
        let empty = || VerifyError::Restore(RestoreError::Plan(PlanError::Empty));
        let mut newest = Newest::of(&files).ok_or_else(empty)?;
        let deadline = Instant::now() + self.options.wait;
        let [mut pause, pause_max] = PAUSES;
        loop {
            newest.header = match read_header(&*self.client, newest.info.id).await {
                Ok(header) => Some(header),
                // Whoever restores finds what is wrong.
                Err(ReadFailure::Damaged(_)) => None,
                Err(ReadFailure::Store(error)) => return Err(error.into()),
            };
            let (held, at) = (Arc::clone(database), newest);
            let place = run_blocking(move || live::Place::of(&at, &lock(&held))).await??;
            let has_arrived = match &place {
                Ok(place) => place.lacks(&begun) == 0,
                // Nothing was written since there was a log.
                Err(_) => begun.frames == 0,
            };
            if has_arrived || Instant::now() + pause > deadline {
                let behind = place.as_ref().map_or(0, |place| place.lacks(&begun));
                return Ok((newest, place, behind));
            }
            (self.teller)(VerifyProgress::Waiting);
            sleep(pause).await;
            pause = (pause * 2).min(pause_max);
            newest = self.newer(&newest).await?.unwrap_or(newest);
        }
    }

    async fn restore(&self, newest: &Newest) -> Result<Restored, RestoreError> {
        let mut options = RestoreOptions::new(self.options.scratch.join("verified.db"));
        options.target = Target::Txid(newest.info.id.txids.max());
        options.fetch_ahead = self.options.fetch_ahead;
        let path = options.output.clone();
        // It never gets that name, so nothing that has it is in the way.
        let staged = run_blocking(move || {
            let destination = Destination::new(&path, Existing::Replace)?;
            Staged::new(destination, 0o600)
        })
        .await??;
        let teller = Arc::clone(&self.teller);
        let listener: Listener = Arc::new(move |step| teller(VerifyProgress::Restoring(step)));
        let client = Arc::clone(&self.client);
        let (_, applied, damaged) = rebuild(client, &options, &staged, &listener).await?;
        Ok(Restored {
            header: applied.header,
            file: staged.file(),
            damaged,
            _staged: staged,
        })
    }

    /// Holds the restored database against the live one, page by page.
    async fn compare(
        &self,
        database: &Arc<Mutex<Database>>,
        live: &Arc<LiveState>,
        restored: &Restored,
    ) -> Result<Option<Differences>, VerifyError> {
        let header = restored.header;
        let page_size = header.page_size();
        let mut differences = Differences {
            pages: Vec::new(),
            count: 0,
            live: (live.pages(), live.page_size().get()),
            restored: (header.commit(), page_size.get()),
        };
        if live.page_size() != page_size {
            differences.count = u64::from(header.commit().max(live.pages()));
            return Ok(Some(differences));
        }
        let bytes = u64::from(header.commit()) * u64::from(page_size.get());
        (self.teller)(VerifyProgress::Comparing { bytes });
        let common = header.commit().min(live.pages());
        let at_once = u32::try_from(COMPARED_AT_ONCE / u64::from(page_size.get())).unwrap_or(1);
        let mut first = 1;
        while first <= common {
            let last = common.min(first.saturating_add(at_once - 1));
            let comparison = Comparison {
                database: Arc::clone(database),
                live: Arc::clone(live),
                file: Arc::clone(&restored.file),
                path: restored._staged.path().to_owned(),
            };
            let unequal = run_blocking(move || comparison.unequal(first, last)).await??;
            differences.add(unequal.into_iter());
            let bytes = u64::from(last - first + 1) * u64::from(page_size.get());
            (self.teller)(VerifyProgress::Compared { bytes });
            let Some(next) = last.checked_add(1) else {
                break;
            };
            first = next;
        }
        // What only one of them has is not equal.
        let more = common..header.commit().max(live.pages());
        differences.add(more.filter_map(|before| Pgno::new(before.saturating_add(1))));
        Ok((differences.count > 0).then_some(differences))
    }
}

impl Differences {
    fn add(&mut self, pages: impl Iterator<Item = Pgno>) {
        for page in pages {
            self.count += 1;
            if self.pages.len() < NAMED_MAX {
                self.pages.push(page);
            }
        }
    }
}

/// What the replica gives.
struct Restored {
    header: Header,
    file: Arc<File>,
    damaged: Vec<Damage>,
    /// The file disappears with it.
    _staged: Staged,
}

/// What it takes to compare pages on another thread.
struct Comparison {
    database: Arc<Mutex<Database>>,
    live: Arc<LiveState>,
    file: Arc<File>,
    path: PathBuf,
}

impl Comparison {
    /// The pages from `first` to `last` that are not equal. The lock page has no content.
    fn unequal(&self, first: u32, last: u32) -> Result<Vec<Pgno>, VerifyError> {
        let page_size = self.live.page_size();
        let at_once = (BLOCK / page_size.bytes()).max(1) as u32;
        let (mut expected, mut found) = (Vec::new(), Vec::new());
        let mut unequal = Vec::new();
        for first in (first..=last).step_by(at_once as usize) {
            let pages = at_once.min(last - first + 1) as usize;
            let Some(from) = Pgno::new(first) else {
                continue;
            };
            expected.resize(pages * page_size.bytes(), 0);
            found.resize(pages * page_size.bytes(), 0);
            self.live.read(&lock(&self.database), from, &mut expected)?;
            self.read_restored(from, page_size, &mut found)?;
            let (live, restored) = (
                expected.chunks_exact(page_size.bytes()),
                found.chunks_exact(page_size.bytes()),
            );
            for ((live, restored), number) in live.zip(restored).zip(first..) {
                let pgno = Pgno::new(number).filter(|pgno| *pgno != page_size.lock_page());
                if let Some(pgno) = pgno.filter(|_| live != restored) {
                    unequal.push(pgno);
                }
            }
        }
        Ok(unequal)
    }

    fn read_restored(
        &self,
        from: Pgno,
        page_size: PageSize,
        out: &mut [u8],
    ) -> Result<(), VerifyError> {
        let read = self.file.read_exact_at(out, from.offset(page_size));
        read.map_err(|source: io::Error| {
            VerifyError::Restore(RestoreError::Write {
                action: "read back",
                path: self.path.clone(),
                source,
            })
        })
    }
}

//! Does for a replica what is due, one job at a time, for as long as it is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use replica_core::{FileId, FileInfo, Level, ReplicaClient, Timestamp, Txid};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::catalogue::{Catalogue, Moment};
use super::due::{Due, Merging, compaction, snapshot};
use super::error::UpkeepError;
use super::list;
use super::merge::merge;
use super::options::UpkeepOptions;
use super::retention::superfluous;
use crate::replicate::{Workers, lock};
use crate::{Fault, PlanError};

/// The first pause before a job is tried again that failed; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
/// How many files are deleted in one call.
const DELETES_MAX: usize = 1000;
/// How soon after a new file something may be due that is due for no other reason.
const SOON: Duration = Duration::from_secs(30);

/// A job of the upkeep of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum UpkeepJob {
    /// To find out what the replica has, after something has failed.
    Listing,
    /// To put files together to one of this level.
    Compaction(Level),
    /// To make a snapshot.
    Snapshot,
    /// To delete what nothing needs any more.
    Retention,
}

impl fmt::Display for UpkeepJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpkeepJob::Listing => f.write_str("listing"),
            UpkeepJob::Compaction(level) => write!(f, "compaction to level {level}"),
            UpkeepJob::Snapshot => f.write_str("snapshot"),
            UpkeepJob::Retention => f.write_str("retention"),
        }
    }
}

/// A job that fails, and is tried again, less and less often, until it succeeds.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpkeepTrouble {
    /// The job.
    pub job: UpkeepJob,
    /// What happened last.
    pub error: Arc<UpkeepError>,
    /// Since when it has not succeeded.
    pub since: Timestamp,
    /// How often it was tried.
    pub attempts: u32,
}

/// What happens while the upkeep goes on.
#[derive(Debug)]
pub(crate) enum Told {
    /// So many files were put together into one.
    Merged { file: FileInfo, inputs: usize },
    /// So many files with so many bytes were deleted.
    Deleted { files: u64, bytes: u64 },
    /// A job has failed.
    Failed(UpkeepTrouble),
    /// A job that had failed has not this time.
    Mended(UpkeepJob),
}

/// What the replica has, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Known {
    catalogue: Mutex<Catalogue>,
    /// Whether a file was added.
    added: Notify,
    /// The files that were found damaged.
    damaged: Mutex<BTreeSet<FileId>>,
    /// Whether files may be gone or damaged that the latest state is made of.
    is_lacking: AtomicBool,
}

impl Known {
    pub(crate) fn new(catalogue: Catalogue) -> Known {
        Known {
            catalogue: Mutex::new(catalogue),
            added: Notify::new(),
            damaged: Mutex::default(),
            is_lacking: AtomicBool::new(false),
        }
    }

    /// Those of `files` that are not known to be damaged.
    pub(crate) fn sound(&self, files: &[FileInfo]) -> Vec<FileInfo> {
        let damaged = lock(&self.damaged);
        let is_sound = |file: &&FileInfo| !damaged.contains(&file.id);
        files.iter().filter(is_sound).copied().collect()
    }

    /// Whether files may be gone or damaged that the latest state is made of, as far as was noticed
    /// since the last time that this was asked.
    pub(crate) fn take_lacking(&self) -> bool {
        self.is_lacking.swap(false, Ordering::Relaxed)
    }

    /// A file was stored.
    pub(crate) fn add(&self, file: FileInfo) {
        lock(&self.catalogue).add(file, Instant::now());
        self.added.notify_one();
    }
}

/// Whoever does what is due.
pub(crate) struct Keeper {
    client: Arc<dyn ReplicaClient>,
    options: UpkeepOptions,
    clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    known: Arc<Known>,
    /// A moment whose time is certain not to be ahead.
    certain: Moment,
    /// Whether the replica may have something else than is known.
    is_doubtful: bool,
    /// With whom it shares to be worked at.
    workers: Option<Workers>,
    failing: BTreeMap<UpkeepJob, Failing>,
}

/// A job that has failed.
#[derive(Clone, Copy)]
struct Failing {
    attempts: u32,
    since: Timestamp,
    again: Instant,
}

/// What to do next.
enum Next {
    Work(UpkeepJob, Work),
    /// The job has failed, and there is no reason for it any more.
    Mended(UpkeepJob),
    Wait(Option<Instant>),
}

enum Work {
    List,
    Merge(Merging),
    Delete(Vec<FileInfo>),
    /// There is nothing that could be done.
    Fail(PlanError),
}

impl Keeper {
    /// Keeps the replica behind `client`. It is listed first, unless `known` is all that it has. The
    /// time of the moment `certain` must not be ahead, whatever `clock` says.
    pub(crate) fn new(
        client: Arc<dyn ReplicaClient>,
        options: UpkeepOptions,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
        known: Arc<Known>,
        certain: Moment,
        is_doubtful: bool,
        workers: Option<Workers>,
    ) -> Keeper {
        Keeper {
            client,
            options,
            clock,
            known,
            certain,
            is_doubtful,
            workers,
            failing: BTreeMap::new(),
        }
    }

    /// Does what is due, again and again. It can be dropped at any time: what is half done is done
    /// anew the next time.
    pub(crate) async fn run(mut self, tell: impl Fn(Told) + Send) {
        loop {
            let mut next = self.next();
            let mut turn = None;
            if let (Next::Work(job, _), Some(workers)) = (&next, &self.workers) {
                turn = Some(workers.upkeep_turn(self.failing.contains_key(job)).await);
                // Much may have happened meanwhile.
                next = self.next();
            }
            match next {
                Next::Work(job, work) => match self.work(work).await {
                    Ok(told) => {
                        told.into_iter().for_each(&tell);
                        if self.failing.remove(&job).is_some() {
                            tell(Told::Mended(job));
                        }
                    }
                    Err(error) => tell(Told::Failed(self.failed(job, error))),
                },
                Next::Mended(job) => {
                    self.failing.remove(&job);
                    tell(Told::Mended(job));
                }
                Next::Wait(until) => {
                    drop(turn);
                    self.rest(until).await;
                }
            }
        }
    }

    /// Decides what to do next. A job that has failed does not keep others waiting. What the clock
    /// says is good enough to put files together, and not to delete them.
    fn next(&mut self) -> Next {
        let mut now = Moment::at((self.clock)());
        let certain = self.certain.certain_at(now);
        if certain.time == now.time {
            // So that fractions of milliseconds don't add up.
            self.certain = certain;
        }
        if self.client.capabilities().timestamp_resolution.is_none() {
            // The files' times mean nothing.
            now = Moment {
                at: now.at,
                ..Moment::without_time()
            };
        }
        let again = |job| self.failing.get(&job).map(|failing| failing.again);
        if self.is_doubtful {
            return match again(UpkeepJob::Listing).filter(|again| *again > now.at) {
                Some(again) => Next::Wait(Some(again)),
                None => Next::Work(UpkeepJob::Listing, Work::List),
            };
        }
        let catalogue = lock(&self.known.catalogue);
        let mut wake: Option<Instant> = None;
        for job in self.jobs() {
            let pause = again(job);
            let next = match pause.filter(|again| *again > now.at) {
                Some(again) => Some(again),
                None => match self.due(job, &catalogue, now, certain) {
                    Ok(Due::Now(work)) => return Next::Work(job, work),
                    Err(error) => return Next::Work(job, Work::Fail(error)),
                    Ok(_) if pause.is_some() => return Next::Mended(job),
                    Ok(Due::After(wait)) => now.at.checked_add(wait),
                    Ok(Due::Never) => None,
                },
            };
            wake = wake.into_iter().chain(next).min();
        }
        Next::Wait(wake)
    }

    fn jobs(&self) -> impl Iterator<Item = UpkeepJob> {
        let levels = self.options.levels.iter();
        let retention = self.options.retention.map(|_| UpkeepJob::Retention);
        levels
            .map(|(level, _)| UpkeepJob::Compaction(level))
            .chain([UpkeepJob::Snapshot])
            .chain(retention)
    }

    fn due(
        &self,
        job: UpkeepJob,
        catalogue: &Catalogue,
        now: Moment,
        certain: Moment,
    ) -> Result<Due<Work>, PlanError> {
        let options = &self.options;
        match job {
            UpkeepJob::Listing => Ok(Due::Never),
            UpkeepJob::Compaction(to) => {
                match options.levels.iter().find(|(level, _)| *level == to) {
                    Some((level, interval)) => {
                        Ok(compaction(catalogue, level, interval, now)?.map(Work::Merge))
                    }
                    None => Ok(Due::Never),
                }
            }
            UpkeepJob::Snapshot => {
                let everything = options.levels.first().is_none();
                let due = snapshot(catalogue, options.snapshot_interval, everything, now)?;
                Ok(due.map(Work::Merge))
            }
            UpkeepJob::Retention => match &options.retention {
                Some(retention) => {
                    Ok(superfluous(catalogue, retention, certain)?.map(Work::Delete))
                }
                None => Ok(Due::Never),
            },
        }
    }

    async fn work(&mut self, work: Work) -> Result<Option<Told>, UpkeepError> {
        match work {
            Work::List => {
                let (begun, lag) = (Instant::now(), self.client.capabilities().list_lag);
                let listed = list(&*self.client).await?;
                let whole_since = begun.checked_sub(lag).unwrap_or(begun);
                lock(&self.known.catalogue).replace(listed, whole_since);
                self.is_doubtful = false;
                Ok(None)
            }
            Work::Merge(merging) => {
                let file = merge(&self.client, &merging).await?;
                lock(&self.known.catalogue).add(file, Instant::now());
                let inputs = merging.inputs.len();
                Ok(Some(Told::Merged { file, inputs }))
            }
            Work::Delete(files) => Ok(Some(self.delete(&files).await?)),
            Work::Fail(error) => Err(error.into()),
        }
    }

    /// Deletes `files` in their order, as far as a store keeps one: what others begin with is
    /// deleted only when those are gone.
    async fn delete(&self, files: &[FileInfo]) -> Result<Told, UpkeepError> {
        let is_whole = |file: &FileInfo| file.id.txids.min() == Txid::FIRST;
        let (later, first) = files.split_at(files.partition_point(|file| !is_whole(file)));
        for files in later.chunks(DELETES_MAX).chain(first.chunks(DELETES_MAX)) {
            let names: Vec<_> = files.iter().map(|file| file.id).collect();
            self.client.delete(&names).await?;
            let mut catalogue = lock(&self.known.catalogue);
            names.into_iter().for_each(|file| catalogue.remove(file));
        }
        Ok(Told::Deleted {
            files: files.len() as u64,
            bytes: files.iter().map(|file| file.size).sum(),
        })
    }

    /// Notes that a job has failed, and when it is tried again.
    fn failed(&mut self, job: UpkeepJob, error: UpkeepError) -> UpkeepTrouble {
        let is_gone = match &error {
            UpkeepError::Broken(_) => true,
            UpkeepError::Damaged(damage) => damage.fault == Fault::Missing,
            UpkeepError::Store(_) | UpkeepError::Unfit { .. } => false,
        };
        if let (UpkeepError::Damaged(damage), false) = (&error, is_gone) {
            lock(&self.known.damaged).insert(damage.file);
        }
        if is_gone || matches!(error, UpkeepError::Damaged(_)) {
            self.known.is_lacking.store(true, Ordering::Relaxed);
        }
        // What a store has done before it failed, and what somebody else did, is not known.
        self.is_doubtful |= is_gone || matches!(error, UpkeepError::Store(_));
        let before = self.failing.get(&job);
        let attempts = before.map_or(1, |failing| failing.attempts.saturating_add(1));
        let since = before.map_or_else(|| (self.clock)(), |failing| failing.since);
        let again = Instant::now() + pause(attempts);
        self.failing.insert(
            job,
            Failing {
                attempts,
                since,
                again,
            },
        );
        UpkeepTrouble {
            job,
            error: Arc::new(error),
            since,
            attempts,
        }
    }

    /// Waits until something may be due, of what is there or of what is stored meanwhile.
    async fn rest(&self, mut until: Option<Instant>) {
        loop {
            let due = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = due => return,
                () = self.known.added.notified() => {
                    let soon = self.options.levels.first().unwrap_or(SOON);
                    let then = Instant::now().checked_add(soon);
                    until = until.into_iter().chain(then).min();
                }
            }
        }
    }
}

/// How long to wait after so many attempts in vain.
fn pause(attempts: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX);
    PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX)
}

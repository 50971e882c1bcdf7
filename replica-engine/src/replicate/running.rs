//! Replicates for as long as it is wanted.

use std::any::Any;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use replica_core::{Error, ErrorKind, Timestamp, Txid};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::error::ReplicateError;
use super::glance;
use super::looks::{Looks, later};
use super::pending::try_lock;
use super::status::{Ended, Event, Status, Trouble};
use super::watch::Watch;
use super::workers::Turn;
use super::{Replicator, Synced};
use crate::restore::run_blocking;
use crate::upkeep::{Keeper, Known, Told};

/// How many events are kept for whoever does not take them at once.
const EVENTS_MAX: usize = 32;
/// The first pause before something is tried again that failed; each further one is twice as long.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// How often the length of a log is looked at within a window, which costs next to nothing.
const GLANCE: Duration = Duration::from_millis(50);
/// How often the length of its file is noted while something takes long.
const MEASURE_PAUSE: Duration = Duration::from_secs(1);
/// By which part of what a log may have it grows at most within a window.
const WINDOW_PART: u64 = 16;
/// The longest such pause: so much later than a store that was away a replica is up to date.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A replication that runs until it is shut down, in a task of its own. It ends without more ado
/// where this is dropped.
pub struct Replication {
    /// How often a sync was asked for.
    wanted: watch::Sender<u64>,
    /// When to give up what is not done, once it is to end.
    stop: watch::Sender<Option<Instant>>,
    progress: watch::Receiver<Progress>,
    /// Not another sender, so that the stream of events ends with the task, however that ends.
    events: broadcast::WeakSender<Event>,
    task: JoinHandle<()>,
}

/// What the task tells.
#[derive(Clone, Debug, Default)]
struct Progress {
    status: Status,
    /// How many of the syncs that were asked for are done.
    done: u64,
    /// Whether everything was stored that was committed before the end, and was still there.
    complete: bool,
    /// Whether everything was stored.
    acknowledged: bool,
}

impl Replicator {
    /// Replicates from now on: what is committed is stored within milliseconds, the log is kept
    /// short, and what fails is tried again until it succeeds, each second at least. So the client
    /// should hardly try again by itself, for some seconds at most: an outage is told of only once a
    /// write has failed. It should give up a write that makes no progress.
    ///
    /// On Linux the kernel tells when the log is written, and it is looked at each half a minute
    /// besides; elsewhere, and where it does not, as often as the options say.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, or in one without time.
    pub fn start(mut self) -> Replication {
        let (wanted, wants) = watch::channel(0);
        let (stop, stops) = watch::channel(None);
        let status = Status {
            txid: self.last.map(|last| last.txid()),
            ..Status::default()
        };
        let (tell, progress) = watch::channel(Progress {
            status,
            ..Progress::default()
        });
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let told = events.downgrade();
        let wal = self.hold.wal.clone();
        self.member.standing().on_let_go = Some(Box::new(when_left_behind(&tell, &events)));
        let upkeep = self.start_upkeep(&tell, &events);
        let watch = Watch::new(&wal);
        let is_glanced_at = glance::watch(&self.hold.database, watch.told().as_ref());
        let (window, poll) = (self.options.window, self.options.poll);
        let running = Running {
            upkeep,
            looks: Looks::new(window, poll, watch.works() && is_glanced_at, Instant::now()),
            watch,
            replicator: self,
            wal,
            wants,
            stops,
            tell,
            interrupted: None,
            checkpoint_from: None,
            checkpoints: 0,
            events,
        };
        Replication {
            wanted,
            stop,
            progress,
            events: told,
            task: tokio::spawn(running.run()),
        }
    }
}

impl Replicator {
    /// Begins to look after the replica, in a task of its own, if that is wanted.
    fn start_upkeep(
        &mut self,
        tell: &watch::Sender<Progress>,
        events: &broadcast::Sender<Event>,
    ) -> Option<JoinHandle<()>> {
        let upkeep = self.options.upkeep.clone()?;
        let listed = self.listed.take();
        let is_doubtful = listed.is_none();
        let known = Arc::new(Known::new(listed.unwrap_or_default()));
        self.known = Some(Arc::clone(&known));
        let (client, clock) = (Arc::clone(&self.client), Arc::clone(&self.options.clock));
        let workers = self.options.workers.clone();
        let keeper = Keeper::new(
            client,
            upkeep,
            clock,
            known,
            self.certain,
            is_doubtful,
            workers,
        );
        let (tell, events) = (tell.clone(), events.clone());
        Some(tokio::spawn(async move {
            let told = |told: Told| {
                let happened = note(&tell, told);
                happened.map(|event| events.send(event).ok());
            };
            // Nothing of it is used any more where it has panicked.
            let kept = AssertUnwindSafe(keeper.run(told)).catch_unwind().await;
            if let Err(panic) = kept {
                tell.send_modify(|progress| progress.status.upkeep_ended = true);
                events.send(Event::UpkeepEnded).ok();
                std::panic::resume_unwind(panic);
            }
        }))
    }
}

/// Notes in the status that others have gone on without the replica, and tells whoever listens.
fn when_left_behind(
    tell: &watch::Sender<Progress>,
    events: &broadcast::Sender<Event>,
) -> impl Fn() + Send + use<> {
    let (tell, events) = (tell.clone(), events.downgrade());
    move || {
        tell.send_modify(|progress| progress.status.left_behind = true);
        if let Some(events) = events.upgrade() {
            events.send(Event::LeftBehind).ok();
        }
    }
}

/// Notes in the status what the upkeep tells, and says what others are told of it.
fn note(tell: &watch::Sender<Progress>, told: Told) -> Option<Event> {
    match told {
        Told::Merged { file, inputs } => Some(Event::Compacted { file, inputs }),
        Told::Deleted { files, bytes } => Some(Event::Deleted { files, bytes }),
        Told::Failed(trouble) => {
            let (job, error) = (trouble.job, Arc::clone(&trouble.error));
            let is_new = trouble.attempts == 1;
            tell.send_modify(|progress| {
                let troubles = &mut progress.status.upkeep;
                troubles.retain(|before| before.job != job);
                troubles.push(trouble);
            });
            is_new.then_some(Event::UpkeepInterrupted { job, error })
        }
        Told::Mended(job) => {
            tell.send_modify(|progress| {
                progress.status.upkeep.retain(|trouble| trouble.job != job)
            });
            Some(Event::UpkeepResumed(job))
        }
    }
}

impl Replication {
    /// Returns when everything is stored that was committed before this call, and says which
    /// transaction is the last one. It waits for as long as that takes, and so without an end where
    /// a store refuses what is written: [`sync_within`](Replication::sync_within) does not.
    ///
    /// # Errors
    ///
    /// Why the replication has ended meanwhile or before.
    pub async fn sync(&self) -> Result<Txid, Arc<ReplicateError>> {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            *wanted += 1;
            number = *wanted;
        });
        let mut progress = self.progress.clone();
        let reached = progress
            .wait_for(|progress| progress.done >= number || progress.status.ended)
            .await
            .map_err(|_| Arc::new(ReplicateError::Ended))?;
        match (&reached.status.trouble, reached.status.txid) {
            (_, Some(txid)) if reached.done >= number => Ok(txid),
            (Some(trouble), _) => Err(Arc::clone(&trouble.error)),
            (None, _) => Err(Arc::new(ReplicateError::Ended)),
        }
    }

    /// The same, for no longer than `deadline`. Replication goes on in any case.
    ///
    /// # Errors
    ///
    /// Why the replication has ended meanwhile or before; or what keeps it from going on after
    /// `deadline`, which is [`ReplicateError::Late`] where nothing does.
    pub async fn sync_within(&self, deadline: Duration) -> Result<Txid, Arc<ReplicateError>> {
        match timeout(deadline, self.sync()).await {
            Ok(synced) => synced,
            Err(_) => Err(match self.status().trouble {
                Some(trouble) => trouble.error,
                None => Arc::new(ReplicateError::Late { within: deadline }),
            }),
        }
    }

    /// What it is at.
    pub fn status(&self) -> Status {
        self.progress.borrow().status.clone()
    }

    /// What happens from now on. The stream ends when the replication has.
    pub fn events(&self) -> BoxStream<'static, Event> {
        let Some(events) = self.events.upgrade() else {
            return stream::empty().boxed();
        };
        let receiver = events.subscribe();
        stream::unfold(receiver, |mut receiver| async {
            match receiver.recv().await {
                Ok(event) => Some((event, receiver)),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    Some((Event::Missed(missed), receiver))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }

    /// Stores what is committed, and ends, after `deadline` at the latest. The replica's upkeep
    /// ends at once: what of it is half done is done anew another time.
    ///
    /// Where the future is dropped it ends at once.
    pub async fn shut_down(mut self, deadline: Duration) -> Ended {
        let ended = self.stop(deadline).await;
        if let Err(error) = (&mut self.task).await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        ended
    }

    /// The same for whoever shares it with others, as with the handlers of a server, whose syncs fail
    /// from then on. It returns once the database is closed. Of several calls the first one says until
    /// when.
    ///
    /// Where the future is dropped it ends by the deadline all the same.
    pub async fn stop(&self, deadline: Duration) -> Ended {
        self.stop.send_if_modified(|stop| {
            let is_first = stop.is_none();
            stop.get_or_insert(later(Instant::now(), deadline));
            is_first
        });
        let mut progress = self.progress.clone();
        // The task is the last one who has the other end, and lets go of it after the database.
        while progress.changed().await.is_ok() {}
        let Progress {
            status,
            complete,
            acknowledged,
            ..
        } = progress.borrow().clone();
        Ended {
            complete,
            acknowledged,
            status,
        }
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replication")
            .field("status", &self.progress.borrow().status)
            .finish_non_exhaustive()
    }
}

/// The task.
struct Running {
    replicator: Replicator,
    /// The task that looks after the replica.
    upkeep: Option<JoinHandle<()>>,
    looks: Looks,
    watch: Watch,
    wal: PathBuf,
    wants: watch::Receiver<u64>,
    stops: watch::Receiver<Option<Instant>>,
    tell: watch::Sender<Progress>,
    events: broadcast::Sender<Event>,
    /// Since when nothing has succeeded.
    interrupted: Option<Instant>,
    /// When to checkpoint again after that has failed.
    checkpoint_from: Option<Instant>,
    /// How many had succeeded by then, of whichever replica of the database.
    checkpoints: u64,
}

impl Running {
    async fn run(mut self) {
        let mut panicked = None;
        let error = loop {
            let is_last = self.stops.borrow().is_some();
            if is_last {
                panicked = panicked.or(self.end_upkeep().await);
            }
            let Some(mut turn) = self.turn().await else {
                break None;
            };
            let wanted = *self.wants.borrow_and_update();
            // What is written from here on is looked at once more.
            self.watch.forget();
            let (begun, now) = (Instant::now(), (self.replicator.options.clock)());
            let quiet = self.looks.is_quiet();
            let Some(mut synced) = self.sync(&mut turn).await else {
                break None;
            };
            if is_last {
                let acknowledged = synced.is_ok();
                self.tell
                    .send_modify(|progress| progress.acknowledged = acknowledged);
            }
            if is_last && let Ok(stored) = synced {
                let Running {
                    replicator, stops, ..
                } = &mut self;
                let Some(confirmed) = within(stops, Box::pin(replicator.confirm())).await else {
                    break None;
                };
                synced = confirmed.map(|anew| stored || anew.is_some());
                self.note().await;
            }
            match synced {
                Ok(stored) => {
                    self.looks.looked(begun, stored);
                    self.succeeded(now, wanted, is_last);
                    if is_last {
                        // What a checkpoint copies to memory would be lost.
                        break None;
                    }
                    match self.checkpoint(now, quiet).await {
                        Some(Ok(())) => {
                            drop(turn);
                            self.rest().await;
                        }
                        Some(Err(error)) => break Some(error),
                        None => break None,
                    }
                }
                Err(error) => {
                    let error = Arc::new(error);
                    let pause = self.failed(now, &error);
                    if error.is_lasting() {
                        break Some(error);
                    }
                    drop(turn);
                    if within(&mut self.stops, sleep_until(begun + pause))
                        .await
                        .is_none()
                    {
                        break None;
                    }
                }
            }
        };
        panicked = panicked.or(self.end_upkeep().await);
        self.tell
            .send_modify(|progress| progress.status.ended = true);
        self.events.send(Event::Ended(error)).ok();
        // Not before what is committed was stored: that does not need the upkeep.
        if let Some(panic) = panicked {
            std::panic::resume_unwind(panic);
        }
    }

    /// Waits until it is its turn, where there are others; `None` where there is no time left.
    async fn turn(&mut self) -> Option<Option<Turn>> {
        let Some(workers) = self.replicator.options.workers.clone() else {
            return Some(None);
        };
        let is_failing = self.interrupted.is_some();
        let checkpointing = self.replicator.checkpointing(false);
        let turn = async {
            tokio::select! {
                biased;
                turn = workers.turn(is_failing) => turn,
                never = checkpointing.bound_log() => match never {},
                never = measure(&self.tell, &self.wal) => match never {},
            }
        };
        within(&mut self.stops, turn).await.map(Some)
    }

    /// Ends the upkeep, and returns when it has, with what it has panicked with, if it has.
    async fn end_upkeep(&mut self) -> Option<Box<dyn Any + Send>> {
        let upkeep = self.upkeep.take()?;
        upkeep.abort();
        upkeep.await.err()?.try_into_panic().ok()
    }

    /// Stores what is committed, and says whether that was anything; `None` where there is no time
    /// left.
    async fn sync(&mut self, turn: &mut Option<Turn>) -> Option<Result<bool, ReplicateError>> {
        let before = self.replicator.stored;
        let Running {
            replicator,
            stops,
            tell,
            wal,
            ..
        } = self;
        let sync = async {
            tokio::select! {
                biased;
                synced = sync_in_turn(replicator, turn) => synced,
                never = measure(tell, wal) => match never {},
            }
        };
        // On the heap, so that it takes no memory for as long as there is nothing to do.
        let synced = within(stops, Box::pin(sync)).await;

        let after = self.replicator.stored;
        let stored = after.files > before.files;
        if let (true, Some(last)) = (stored, self.replicator.last) {
            let snapshot = match &synced {
                Some(Ok(synced)) => synced.snapshot,
                _ => None,
            };
            self.tell(Event::Stored {
                txid: last.txid(),
                files: after.files - before.files,
                bytes: after.bytes - before.bytes,
                snapshot,
            });
        }
        if let Some(Ok(Synced {
            clock_back: Some(by),
            ..
        })) = &synced
        {
            self.tell(Event::ClockBack { by: *by });
        }
        self.note().await;
        synced.map(|synced| synced.map(|_| stored))
    }

    /// Checkpoints, if it is time to; `None` where there is no time left. Where it fails the replica
    /// has everything all the same, so only an error that lasts is one here.
    async fn checkpoint(
        &mut self,
        now: Timestamp,
        quiet: bool,
    ) -> Option<Result<(), Arc<ReplicateError>>> {
        if self
            .checkpoint_from
            .is_some_and(|from| Instant::now() < from)
        {
            return Some(Ok(()));
        }
        let Running {
            replicator, stops, ..
        } = self;
        let done = within(stops, Box::pin(replicator.upkeep(quiet))).await?;
        let checkpoints = self.replicator.hold.past().done;
        if done.is_ok() && self.checkpoint_from.is_some() && checkpoints != self.checkpoints {
            self.checkpoint_from = None;
            self.tell
                .send_modify(|progress| progress.status.checkpoint_trouble = None);
        }
        match done {
            Ok(None) => {}
            Ok(Some(checkpointed)) => {
                self.tell(Event::Checkpointed(checkpointed));
                self.note().await;
            }
            Err(error) => {
                let error = Arc::new(error);
                let mut attempts = 1;
                self.tell.send_modify(|progress| {
                    let trouble = &mut progress.status.checkpoint_trouble;
                    attempts = one_more(trouble, now, &error);
                });
                if attempts == 1 {
                    self.tell(Event::CheckpointFailed(Arc::clone(&error)));
                }
                if error.is_lasting() {
                    return Some(Err(error));
                }
                self.checkpoint_from = Some(Instant::now() + pause(attempts));
                self.checkpoints = checkpoints;
            }
        }
        Some(Ok(()))
    }

    /// Notes what was stored until now, and how long the log is.
    async fn note(&mut self) {
        let wal_bytes = match self.replicator.synced {
            Some(observed) => observed.len,
            None => len(&self.wal).await,
        };
        let stored = self.replicator.stored;
        self.tell.send_if_modified(|progress| {
            let status = &mut progress.status;
            let changed = status.files != stored.files || status.wal_bytes != wal_bytes;
            status.wal_bytes = wal_bytes;
            status.txid = self.replicator.last.map(|last| last.txid());
            status.files = stored.files;
            status.bytes = stored.bytes;
            changed
        });
    }

    /// Waits until there is a reason to look at the log.
    async fn rest(&mut self) {
        let stored = self.replicator.member.standing().end();
        let stored = stored.map_or(0, |end| {
            u64::from(end.frames()) * end.header().frame_size() as u64
        });
        loop {
            let next = self.looks.next();
            tokio::select! {
                biased;
                _ = self.stops.changed() => return,
                _ = self.wants.changed() => return,
                () = sleep_until(next) => return,
                () = self.watch.written() => self.looks.written(),
            }
            // Whatever else is written until then is looked at then too, unless that is a lot.
            while self.looks.next() > Instant::now() {
                let glance = later(Instant::now(), GLANCE);
                tokio::select! {
                    biased;
                    _ = self.stops.changed() => return,
                    _ = self.wants.changed() => return,
                    () = sleep_until(self.looks.next().min(glance)) => {}
                }
                let grown = match self.log_len() {
                    // It was begun anew.
                    len if len < stored => len,
                    len => len - stored,
                };
                if grown >= self.replicator.options.wal_max / WINDOW_PART {
                    return;
                }
            }
        }
    }

    /// How long the log is, as far as that can be told at once.
    fn log_len(&self) -> u64 {
        let database = &self.replicator.hold.database;
        try_lock(database)
            .and_then(|open| open.log_len())
            .unwrap_or_default()
    }

    /// Notes that the replica has everything that was committed at `now`.
    fn succeeded(&mut self, now: Timestamp, wanted: u64, is_last: bool) {
        let mut attempts = 0;
        let is_left_behind = self.replicator.member.standing().is_let_go;
        self.tell.send_modify(|progress| {
            attempts = progress
                .status
                .trouble
                .take()
                .map_or(0, |trouble| trouble.attempts);
            progress.status.complete_at = Some(now);
            progress.status.left_behind = is_left_behind;
            progress.done = wanted;
            progress.complete = is_last;
        });
        if let Some(since) = self.interrupted.take() {
            let after = since.elapsed();
            self.tell(Event::Resumed { attempts, after });
        }
    }

    /// Notes what failed, and says how long to wait before it is tried again.
    fn failed(&mut self, now: Timestamp, error: &Arc<ReplicateError>) -> Duration {
        let mut attempts = 1;
        self.tell.send_modify(|progress| {
            attempts = one_more(&mut progress.status.trouble, now, error);
        });
        if self.interrupted.is_none() {
            self.interrupted = Some(Instant::now());
            self.tell(Event::Interrupted(Arc::clone(error)));
        }
        pause(attempts)
    }

    /// Tells whoever listens.
    fn tell(&self, event: Event) {
        self.events.send(event).ok();
    }
}

/// Syncs, and gives that up where the store takes nothing while others wait for their turn.
async fn sync_in_turn(
    replicator: &mut Replicator,
    turn: &mut Option<Turn>,
) -> Result<Synced, ReplicateError> {
    let own = Arc::clone(&replicator.member);
    let mut sync = pin!(replicator.sync());
    let Some(turn) = turn else {
        return sync.await;
    };
    loop {
        tokio::select! {
            biased;
            synced = &mut sync => return synced,
            () = own.stands_still() => {}
        }
        if turn.fails() {
            return sync.await;
        }
        if turn.is_last() {
            own.standing().is_failing = true;
            let message = "the store takes nothing, and other databases wait for their turn";
            return Err(Error::new(ErrorKind::Unavailable, message).into());
        }
    }
}

/// Notes how long the log is, for as long as something keeps who does so otherwise: a write that
/// hangs must not make it look short.
async fn measure(tell: &watch::Sender<Progress>, wal: &Path) -> Infallible {
    loop {
        sleep(MEASURE_PAUSE).await;
        let wal_bytes = len(wal).await;
        tell.send_if_modified(|progress| {
            std::mem::replace(&mut progress.status.wal_bytes, wal_bytes) != wal_bytes
        });
    }
}

/// How many bytes the file of the log has.
async fn len(wal: &Path) -> u64 {
    let wal = wal.to_owned();
    let found = run_blocking(move || std::fs::metadata(wal)).await;
    found.map_or(0, |found| found.map_or(0, |metadata| metadata.len()))
}

/// Notes that there was `error` at `now`, and says how often that was in a row.
fn one_more(trouble: &mut Option<Trouble>, now: Timestamp, error: &Arc<ReplicateError>) -> u32 {
    let (since, attempts) = match trouble {
        Some(before) => (before.since, before.attempts.saturating_add(1)),
        None => (now, 1),
    };
    *trouble = Some(Trouble {
        error: Arc::clone(error),
        since,
        attempts,
    });
    attempts
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(upkeep) = &self.upkeep {
            upkeep.abort();
        }
    }
}

/// Waits for `work`, but once it is to end no longer than it may.
async fn within<T>(
    stops: &mut watch::Receiver<Option<Instant>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut stops = stops.clone();
    let too_late = async {
        let deadline = match stops.wait_for(Option::is_some).await {
            Ok(deadline) => *deadline,
            // Nobody can say so any more.
            Err(_) => None,
        };
        match deadline {
            Some(deadline) => sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = too_late => None,
    }
}

/// How long to wait after so many attempts in vain.
fn pause(attempts: u32) -> Duration {
    let doubled = 1_u32
        .checked_shl(attempts.saturating_sub(1))
        .unwrap_or(u32::MAX);
    PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_second() {
        let pauses = [1, 2, 3, 5, 6, 40, u32::MAX].map(|attempts| pause(attempts).as_millis());

        assert_eq!(pauses, [50, 100, 200, 800, 1000, 1000, 1000]);
    }
}

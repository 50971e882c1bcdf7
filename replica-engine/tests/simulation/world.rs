//! One run: a database, its replicas, and everything that happens to them.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use replica_core::{ReplicaClient, Timestamp};
use replica_engine::{
    Checkpoint, Existing, Levels, ReplicateError, ReplicateOptions, Replication, Replicator,
    RestoreOptions, Retention, Target, UpkeepError, UpkeepOptions, compact, restore, snapshot,
};
use replica_mock::{MockClient, MockStore};
use tempfile::TempDir;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use crate::application::{Application, Copy, leaves_no_litter};
use crate::ledger::{Ledger, number};
use crate::line::{Fault, Line};
use crate::runtime;
use crate::step::{Setting, Step};
use crate::verdict::{Verdict, holds};

const SECOND: Duration = Duration::from_secs(1);
/// The time at which every run begins.
const BEGIN: i64 = 1_795_247_087_728;
/// How long something may take at most that succeeds in the end.
const LONG: Duration = Duration::from_secs(60 * 60);
/// In how many parts that is waited for.
const PARTS: u32 = 60;
/// How many bytes of log go into one file.
const FILE_MAX: u64 = 60_000;
/// How long the log may be.
const WAL_MAX: u64 = 200_000;

pub(crate) struct World {
    application: Arc<Mutex<Application>>,
    replicas: Vec<Replica>,
    /// Which of them it is about now.
    at: usize,
    clock: Clock,
    kept: Option<Copy>,
    output: TempDir,
}

/// One replica of the database, and who replicates to it.
struct Replica {
    line: Line,
    /// The replica as it is, whatever goes wrong.
    store: MockClient,
    ledger: Ledger,
    process: Option<Process>,
}

/// A process that replicates.
enum Process {
    /// Which is told each thing that it does.
    Stepwise(Box<Replicator>),
    Running(Replication),
}

/// The clock of the machine, which somebody may set.
#[derive(Clone)]
struct Clock {
    begun: Instant,
    ahead: Arc<AtomicI64>,
}

impl Clock {
    fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    fn at(&self, at: Instant) -> Timestamp {
        let passed = at.duration_since(self.begun).as_millis();
        let passed = i64::try_from(passed).expect("runs are short");
        Timestamp::from_millis(BEGIN + passed + self.ahead.load(Ordering::Relaxed))
    }
}

/// Plays the steps, and says which promise was not kept, if any.
pub(crate) async fn play(setting: Setting, steps: &[Step]) -> Verdict {
    let mut world = World::new(setting);
    for (index, step) in steps.iter().enumerate() {
        let played = match world.play(step).await {
            Ok(()) => world.look(),
            Err(reason) => Err(reason),
        };
        played.map_err(|reason| format!("step {}, {step:?}: {reason}", index + 1))?;
    }
    let finished = world.finish().await;
    finished.map_err(|reason| format!("in the end: {reason}"))
}

/// What was asked of the store in a run, in words.
pub(crate) async fn calls(setting: Setting, steps: &[Step]) -> Vec<String> {
    let mut world = World::new(setting);
    for step in steps {
        // What is wrong is told by `play`.
        world.play(step).await.ok();
    }
    let stores = world.replicas.iter().map(|replica| &replica.store);
    stores
        .flat_map(MockClient::calls)
        .map(|call| format!("{:?} {:?}", call.request, call.outcome))
        .collect()
}

/// Waits for an hour of the paused clock, in parts. That goes on whenever nothing is at work, and may
/// take the moment in which a thread has ended its work and not said so yet for such a one: then it
/// jumps to the end of a part.
async fn patiently<T>(work: impl Future<Output = T>) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    for _ in 0..PARTS {
        if let Ok(done) = timeout(LONG / PARTS, &mut work).await {
            return Ok(done);
        }
    }
    timeout(LONG / PARTS, work).await
}

impl World {
    fn new(setting: Setting) -> World {
        let application = Application::new(setting.page_size, setting.autocheckpoint);
        let application = Arc::new(Mutex::new(application));
        let replicas = (0..setting.replicas).map(|_| {
            let store = MockStore::with_capabilities(setting.store).client("");
            Replica {
                line: Line::new(store.clone(), Arc::clone(&application)),
                store,
                ledger: Ledger::new(retention()),
                process: None,
            }
        });
        World {
            replicas: replicas.collect(),
            at: 0,
            application,
            clock: Clock {
                begun: Instant::now(),
                ahead: Arc::default(),
            },
            kept: None,
            output: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    async fn play(&mut self, step: &Step) -> Verdict {
        match step {
            Step::Change(change) => self.application().make(change),
            Step::Meanwhile(calls, change) => self.replicas[self.at]
                .line
                .meanwhile(*calls, change.clone()),
            Step::Turn(to) => self.at = to % self.replicas.len(),
            Step::Read => self.application().read(),
            Step::StopReading => self.application().stop_reading(),
            Step::RestartApplication { is_orderly } => self.application().restart(*is_orderly),
            Step::Start { runs } => self.start(*runs).await?,
            Step::End => self.end().await?,
            Step::Kill => self.kill().await,
            Step::Doom(doom) => self.replicas[self.at].line.doom(*doom),
            Step::Sync => self.sync().await?,
            Step::Checkpoint(how) => self.checkpoint(*how).await?,
            Step::CheckpointDue { quiet } => self.checkpoint_due(*quiet).await?,
            Step::Compact => self.compact().await?,
            Step::Snapshot => self.snapshot().await?,
            Step::Wait(seconds) => self.wait(*seconds).await?,
            Step::SetClock(seconds) => {
                self.clock
                    .ahead
                    .fetch_add(seconds * 1000, Ordering::Relaxed);
            }
            Step::Fault(fault) => self.replicas[self.at].line.arm(*fault),
            Step::Outage(seconds) => self.replicas[self.at]
                .line
                .go_away(Duration::from_secs(*seconds)),
            Step::CutPower(lost) => {
                // A copy that is made while a checkpoint goes on has pages of frames that are not
                // counted yet, and that were synced before.
                self.kill_all().await;
                let copy = self.application().copy();
                self.application().cut_power(&copy, *lost);
            }
            Step::Keep => {
                let copy = self.application().copy();
                self.kept = Some(copy);
            }
            Step::PutBack => {
                if let Some(kept) = self.kept.clone() {
                    self.kill_all().await;
                    self.application().replace(&kept);
                }
            }
            Step::PlanRestore(age) => {
                let (txid, now) = (
                    self.replicas[self.at].ledger.newest().saturating_sub(*age),
                    Instant::now(),
                );
                if txid > 0 && self.replicas[self.at].ledger.promises(txid, now) {
                    self.replicas[self.at]
                        .ledger
                        .plan(Target::Txid(number(txid)), now);
                }
            }
            Step::Restore {
                age,
                by_time: false,
                fault,
            } => self.restore(*age, *fault).await?,
            Step::Restore { age, fault, .. } => self.restore_before(*age, *fault).await?,
        }
        let takes_time = matches!(step, Step::Start { .. } | Step::Sync | Step::Wait(_));
        if takes_time && self.runs() {
            // Whatever it does at this moment comes to its end.
            self.pass(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Looks whether every promise is kept, after each change of the store.
    fn look(&mut self) -> Verdict {
        let application = Arc::clone(&self.application);
        let application = locked(&application);
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            for entry in replica.line.journal() {
                let time = self.clock.at(entry.at);
                let checked = replica.ledger.check(&application, entry, time);
                checked.map_err(|reason| format!("replica {index}: {reason}"))?;
            }
        }
        leaves_no_litter(application.folder())
    }

    async fn start(&mut self, runs: bool) -> Verdict {
        if self.replicas[self.at].process.is_some() {
            return Ok(());
        }
        if self.clock.ahead.load(Ordering::Relaxed) != 0 {
            // Nothing tells a clock that is wrong in two runs.
            self.replicas[self.at].ledger.forgive();
        }
        let (path, clock) = (self.application().path(), self.clock.clone());
        let mut options = ReplicateOptions::new(path, move || clock.now());
        options.file_max = FILE_MAX;
        options.wal_max = WAL_MAX;
        options.checkpoint_pages = 30;
        // Somebody who waits for time to pass asks for a sync first.
        options.poll = LONG;
        options.window = Duration::ZERO;
        options.upkeep = Some(upkeep());
        let opened = Replicator::open(self.client(), options);
        match self.replicas[self.at].line.survive(opened).await {
            None => self.bury().await,
            Some(Ok(replicator)) => {
                self.replicas[self.at].process = Some(match runs {
                    true => Process::Running(replicator.start()),
                    false => Process::Stepwise(Box::new(replicator)),
                });
            }
            Some(Err(error)) => self.judge("open", &error)?,
        }
        Ok(())
    }

    async fn end(&mut self) -> Verdict {
        let asked = self.asked();
        match self.replicas[self.at].process.take() {
            Some(Process::Running(replication)) => {
                let ended = replication.shut_down(LONG);
                match self.replicas[self.at].line.survive(ended).await {
                    None => self.bury().await,
                    Some(ended) => {
                        holds!(ended.complete, "it ended without all: {:?}", ended.status);
                        let newest = self
                            .look()
                            .map(|()| self.replicas[self.at].ledger.newest())?;
                        self.acknowledged(newest, asked)?;
                    }
                }
            }
            process => {
                self.replicas[self.at].process = process;
                self.sync().await?;
                self.kill().await;
            }
        }
        Ok(())
    }

    async fn kill(&mut self) {
        self.replicas[self.at].process = None;
        self.bury().await;
    }

    async fn kill_all(&mut self) {
        for replica in &mut self.replicas {
            replica.process = None;
        }
        self.bury().await;
    }

    /// Waits until nothing is left of a process that died.
    async fn bury(&mut self) {
        sleep(Duration::from_millis(1)).await;
        sleep(Duration::from_millis(1)).await;
    }

    async fn sync(&mut self) -> Verdict {
        let asked = self.asked();
        let synced = match self.replicas[self.at].process.take() {
            None => return Ok(()),
            Some(Process::Stepwise(mut replicator)) => {
                let synced = self.replicas[self.at].line.survive(replicator.sync()).await;
                let synced = synced.map(|synced| synced.map(|synced| synced.txid.get()));
                if synced.is_some() {
                    self.replicas[self.at].process = Some(Process::Stepwise(replicator));
                }
                match synced {
                    Some(Err(error)) => {
                        self.judge("sync", &error)?;
                        return Ok(());
                    }
                    Some(Ok(txid)) => Some(txid),
                    None => None,
                }
            }
            Some(Process::Running(replication)) => {
                let synced = self.replicas[self.at]
                    .line
                    .survive(patiently(replication.sync()))
                    .await;
                if synced.is_some() {
                    self.replicas[self.at].process = Some(Process::Running(replication));
                }
                match synced {
                    Some(Ok(Ok(txid))) => Some(txid.get()),
                    Some(Ok(Err(error))) => return Err(format!("it has ended: {error:?}")),
                    Some(Err(_)) => return Err(String::from("it does not go on")),
                    None => None,
                }
            }
        };
        match synced {
            Some(txid) => {
                self.look()?;
                self.acknowledged(txid, asked)
            }
            None => {
                self.bury().await;
                Ok(())
            }
        }
    }

    /// The application's last transaction, and how often it has done something.
    fn asked(&self) -> (u64, u64) {
        let application = self.application();
        (application.version(), application.actions())
    }

    /// Looks whether the replica has everything that was committed when a sync was asked for, which
    /// is all that there is if nothing was done since.
    fn acknowledged(&mut self, txid: u64, (version, actions): (u64, u64)) -> Verdict {
        let application = self.application();
        let newest = self.replicas[self.at].ledger.newest();
        holds!(
            txid <= newest,
            "{txid} was acknowledged, and {newest} is the last one"
        );
        let stored = self.replicas[self.at].ledger.version(txid)?;
        holds!(
            stored >= version || application.actions() != actions,
            "what transaction {version} has left was acknowledged, and {stored} is there"
        );
        // The others write a little of their own at times.
        let others = self.replicas.iter().enumerate();
        let mut others = others.filter(|(index, _)| *index != self.at);
        let is_alone = others.all(|(_, other)| !matches!(other.process, Some(Process::Running(_))));
        if application.actions() == actions && txid == newest && is_alone {
            let is_same = self.replicas[self.at].ledger.image(txid)? == application.image();
            holds!(is_same, "transaction {txid} is not the database");
        }
        Ok(())
    }

    async fn checkpoint(&mut self, how: Checkpoint) -> Verdict {
        let Some(Process::Stepwise(replicator)) = &mut self.replicas[self.at].process else {
            return Ok(());
        };
        let done = replicator.checkpoint(how).await;
        done.map(drop).map_err(|error| format!("{error:?}"))
    }

    async fn checkpoint_due(&mut self, quiet: bool) -> Verdict {
        let Some(Process::Stepwise(replicator)) = &mut self.replicas[self.at].process else {
            return Ok(());
        };
        let done = replicator.upkeep(quiet).await;
        done.map(drop).map_err(|error| format!("{error:?}"))
    }

    async fn compact(&mut self) -> Verdict {
        if self.runs() {
            return Ok(());
        }
        let (client, options) = (self.client(), upkeep());
        let work = async { compact(&client, &options, self.clock.now()).await.map(drop) };
        let done = self.replicas[self.at].line.survive(work).await;
        self.put_together(done).await
    }

    async fn snapshot(&mut self) -> Verdict {
        if self.runs() {
            return Ok(());
        }
        let client = self.client();
        let work = async { snapshot(&client).await.map(drop) };
        let done = self.replicas[self.at].line.survive(work).await;
        self.put_together(done).await
    }

    async fn put_together(&mut self, done: Option<Result<(), UpkeepError>>) -> Verdict {
        match done {
            None => self.kill().await,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let may_fail = self.replicas[self.at].line.is_troubled()
                    || self.replicas[self.at].ledger.newest() == 0;
                holds!(may_fail, "what was put together: {error:?}");
            }
        }
        Ok(())
    }

    async fn wait(&mut self, seconds: u64) -> Verdict {
        self.sync_first().await?;
        self.pass(Duration::from_secs(seconds)).await;
        Ok(())
    }

    /// Has everything stored by a process that runs by itself, which the kernel would tell to, at
    /// some moment that is another one each time.
    async fn sync_first(&mut self) -> Verdict {
        match self.runs() {
            true => self.sync().await,
            false => Ok(()),
        }
    }

    fn runs(&self) -> bool {
        matches!(self.replicas[self.at].process, Some(Process::Running(_)))
    }

    /// Lets time pass, which a process may not survive.
    async fn pass(&mut self, span: Duration) {
        if self.replicas[self.at]
            .line
            .survive(sleep(span))
            .await
            .is_none()
        {
            self.kill().await;
        }
    }

    /// Restores a state that is so many transactions old.
    async fn restore(&mut self, age: u64, fault: Option<Fault>) -> Verdict {
        self.sync_first().await?;
        let txid = self.replicas[self.at].ledger.newest().saturating_sub(age);
        if txid == 0 {
            return Ok(());
        }
        let target = match age {
            0 => Target::Latest,
            _ => Target::Txid(number(txid)),
        };
        let is_promised = self.replicas[self.at].ledger.promises(txid, Instant::now());
        self.restored(target, txid, is_promised, fault).await
    }

    /// Restores the state just before one that is so many transactions old, by the time of that.
    async fn restore_before(&mut self, age: u64, fault: Option<Fault>) -> Verdict {
        self.sync_first().await?;
        let next = self.replicas[self.at].ledger.newest().saturating_sub(age);
        let Some(times) = self.replicas[self.at].ledger.times() else {
            return Ok(());
        };
        let time = times.iter().find(|(txid, _)| *txid == next);
        let before = |time| times.iter().rev().find(|(_, other)| *other < time);
        let Some((time, txid)) = time.and_then(|(_, time)| Some((*time, before(*time)?.0))) else {
            return Ok(());
        };
        let is_promised =
            [txid, next].map(|txid| self.replicas[self.at].ledger.promises(txid, Instant::now()));
        self.restored(Target::Time(time), txid, is_promised == [true; 2], fault)
            .await
    }

    /// Restores, and compares with `txid`, the only transaction that may come of it; and it must,
    /// where it is promised.
    async fn restored(
        &self,
        target: Target,
        txid: u64,
        is_promised: bool,
        fault: Option<Fault>,
    ) -> Verdict {
        let path = self.output.path().join("restored.db");
        let mut options = RestoreOptions::new(&path);
        options.existing = Existing::Replace;
        options.target = target;
        let mock = MockStore::with_capabilities(
            self.replicas[self.at]
                .store
                .capabilities()
                .with_list_lag(Duration::ZERO),
        );
        let mock = mock.client("");
        mock.restore(&self.replicas[self.at].store.snapshot());
        if let Some(fault) = fault {
            fault.of_restore(&mock);
        }
        // It has a thread of its own that no clock waits for.
        let restored = tokio::task::spawn_blocking(move || {
            runtime().block_on(restore(Arc::new(mock), &options, |_| {}))
        });
        let restored = restored.await.expect("a restore does not panic");
        match restored {
            Err(error) => holds!(
                !is_promised || fault.is_some(),
                "transaction {txid} is promised: {error:?}"
            ),
            Ok(restored) => {
                let came = restored.txid.get();
                // A time is as exact as what was put together since.
                let is_last = matches!(target, Target::Time(_))
                    && (came + 1..=txid).all(|txid| !self.replicas[self.at].ledger.has(txid));
                let is_right = came == txid || came < txid && is_last;
                holds!(is_right, "{txid} was asked for, and {came} came");
                let bytes = std::fs::read(&path).expect("a restore makes a file");
                let is_same = bytes == self.replicas[self.at].ledger.image(came)?;
                holds!(is_same, "transaction {came} is another after a restore");
            }
        }
        Ok(())
    }

    /// Everything is well again: whatever was committed can be restored in the end.
    async fn finish(&mut self) -> Verdict {
        self.application().stop_reading();
        let all = 0..self.replicas.len();
        for replica in &self.replicas {
            replica.line.mend();
        }
        for at in all.clone() {
            self.at = at;
            self.recover().await?;
        }
        for at in all.clone() {
            // What the others have written of their own, too.
            self.at = at;
            self.sync().await?;
        }
        for at in all.clone() {
            self.at = at;
            self.end().await?;
            self.look()?;
        }
        self.pass(10 * SECOND).await;
        for at in all {
            self.at = at;
            self.restore(0, None).await?;
            let ledger = &self.replicas[at].ledger;
            let is_latest = ledger.image(ledger.newest())? == self.application().image();
            holds!(is_latest, "the latest state is not the database");
        }
        Ok(())
    }

    /// Sees to it that the replica has everything.
    async fn recover(&mut self) -> Verdict {
        self.sync_first().await?;
        self.pass(400 * SECOND).await;
        self.look()?;
        if let Some(Process::Running(replication)) = &self.replicas[self.at].process {
            let status = replication.status();
            let is_well = status.trouble.is_none() && status.upkeep.is_empty() && !status.ended;
            holds!(
                is_well && !status.left_behind,
                "it has not recovered: {status:?}"
            );
        }
        self.start(false).await?;
        self.look()?;
        let replica = &self.replicas[self.at];
        holds!(replica.process.is_some(), "it can't be opened");
        let before = replica.ledger.newest();
        self.sync().await?;
        let after = self.replicas[self.at].ledger.newest();
        holds!(after > 0, "nothing was stored");
        holds!(after <= before + 40, "it stored {} files", after - before);
        Ok(())
    }

    fn judge(&mut self, what: &str, error: &ReplicateError) -> Verdict {
        let of_store = matches!(error, ReplicateError::Store(_));
        holds!(
            of_store && self.replicas[self.at].line.is_troubled(),
            "{what}: {error:?}"
        );
        Ok(())
    }

    fn client(&self) -> Arc<dyn ReplicaClient> {
        Arc::new(self.replicas[self.at].line.clone())
    }

    fn application(&self) -> MutexGuard<'_, Application> {
        locked(&self.application)
    }
}

fn locked(application: &Mutex<Application>) -> MutexGuard<'_, Application> {
    application.lock().unwrap_or_else(PoisonError::into_inner)
}

fn retention() -> Retention {
    let mut retention = Retention::default();
    retention.raw = 100 * SECOND;
    retention.states = 2000 * SECOND;
    retention.grace = 50 * SECOND;
    retention
}

fn upkeep() -> UpkeepOptions {
    let mut options = UpkeepOptions::default();
    options.levels = Levels::new(vec![30 * SECOND, 300 * SECOND]).expect("two levels");
    options.snapshot_interval = 900 * SECOND;
    options.retention = Some(retention());
    options
}

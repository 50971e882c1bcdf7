//! One database that is replicated.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use replica::{
    Ended, Event, Location, PlanError, ReplicaClient, ReplicateError, ReplicateOptions,
    Replication, Replicator, RestoreError, RestoreOptions,
};
use rustix::fs::{Access, access};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::log::{Log, in_one_line};
use super::upkeep::Done;
use super::{Job, LogLevel, WORKERS};
use crate::contact::{could_not_open, reach, refused_by};
use crate::output;
use crate::status::{Failure, Status};
use crate::workplace::may_write_beside;

/// How often it is looked whether a database is there that is waited for.
const LOOK: Duration = Duration::from_millis(100);
/// How soon a database is opened again that was there, and could not be.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// The longest pause before that is tried again for one of several that could not be opened at the
/// start, where its store is not just away; the first one is [`OPEN_AGAIN`], and each further one is
/// twice as long.
const OPEN_AGAIN_MAX: Duration = Duration::from_secs(30);
/// For how long a store may keep others from being asked for their first answer.
const FIRST_ANSWER_ALONE: Duration = Duration::from_secs(1);
/// How long it is tried at the start to open a database that somebody else has locked.
const LOCKED_MAX: Duration = Duration::from_secs(30);
/// The first pause in between; each further one is twice as long, up to [`OPEN_AGAIN`].
const LOCKED_PAUSE: Duration = Duration::from_millis(50);

/// A database, and where it is replicated to.
pub(super) struct Database {
    job: Job,
    log: Log,
    /// As the command line or the configuration has it.
    name: String,
    /// Without secrets.
    replica: String,
    turns: Turns,
    /// Kept for as long as no child may be started that works with the database.
    unready: Option<mpsc::Sender<Infallible>>,
}

/// How many of the databases that are opened at the same time were locked the last time, where
/// there are more.
const LOCKED_WORKERS: usize = WORKERS / 4;

/// How many databases are opened at the same time, and how many are restored, where there are more.
/// A restore takes as long as it takes, and a database that somebody else has locked may be for long:
/// neither holds up those that can be opened.
#[derive(Clone)]
pub(super) struct Turns {
    opening: Arc<Semaphore>,
    locked: Arc<Semaphore>,
    restoring: Arc<Semaphore>,
}

/// The right to open a database now, for as long as it is kept.
struct Turn<'a> {
    _locked: Option<SemaphorePermit<'a>>,
    _one: SemaphorePermit<'a>,
}

/// What it takes to replicate a database: a store that has answered.
pub(super) struct Opened {
    client: Arc<dyn ReplicaClient>,
    /// None as long as the database is missing.
    replicator: Option<Replicator>,
}

impl Database {
    pub(super) fn new(job: Job, log: Log, turns: Turns) -> Database {
        Database {
            name: job.options.database.display().to_string(),
            replica: job.location.to_string(),
            job,
            log,
            turns,
            unready: None,
        }
    }

    /// Lets nobody start a child, who has the other end of this, before the database may be worked
    /// with.
    pub(super) fn hold_up(&mut self, child: mpsc::Sender<Infallible>) {
        self.unready = Some(child);
    }

    /// Looks whether there can be a database and a replica, and changes nothing.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match fs::metadata(self.path()) {
            Ok(found) if !found.is_file() => {
                let message = format!("{} is not a regular file", self.name);
                return Err(Failure::new(Status::Usage, message));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !self.job.restore && !self.job.wait {
                    return Err(self.missing());
                }
                self.check_parent()?;
            }
            Err(error) => {
                let message = format!("can't look at {}", self.name);
                return Err(Failure::new(Status::Usage, message).because_of(Some(&error)));
            }
        }
        if let Location::Folder(folder) = &self.job.location {
            check_folder(folder)
                .map_err(|error| could_not_open(&self.job.location).because_of(Some(&error)))?;
        }
        Ok(())
    }

    /// Waits for it from now on, since it is missing and others are not.
    pub(super) fn wait_for_it(&mut self) {
        self.job.wait = true;
        let message = format_args!(
            "there is no database at {}: it is waited for, while the others are replicated",
            self.name
        );
        self.tell(LogLevel::Warn, "missing", message, json!({}));
    }

    /// Whoever makes the database needs the folder.
    fn check_parent(&self) -> Result<(), Failure> {
        let parent = self.path().parent().unwrap_or(Path::new(""));
        match parent == Path::new("") || parent.is_dir() {
            true => Ok(()),
            false => Err(Failure::new(
                Status::Usage,
                format!("there is no folder for {}", self.name),
            )),
        }
    }

    pub(super) fn missing(&self) -> Failure {
        let failure = Failure::new(
            Status::Nothing,
            format!("there is no database at {}", self.name),
        );
        match self.job.restore {
            true => failure.hint(format!("there is no replica at {} either", self.replica)),
            false => failure.hint("-restore-if-db-not-exists restores it from its replica"),
        }
    }

    /// Whether `other` is another replica of the same database.
    pub(super) fn is_beside(&self, other: &Database) -> bool {
        Arc::ptr_eq(&self.job.places, &other.job.places)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn replica(&self) -> &str {
        &self.replica
    }

    pub(super) fn options(&self) -> ReplicateOptions {
        self.job.options.clone()
    }

    fn path(&self) -> &Path {
        &self.job.options.database
    }

    /// Whether there is a database to replicate. One that is waited for is there when somebody has
    /// committed something to it, who may have decided before on a page size and the like.
    pub(super) fn is_there(&self) -> bool {
        fs::metadata(self.path()).is_ok_and(|found| !self.job.wait || found.len() > 0)
    }

    /// A client without a layer of the store, which has answered; the database is restored from
    /// there, if that is wanted.
    pub(super) async fn reach(&self) -> Result<Arc<dyn ReplicaClient>, Failure> {
        let client = self.turns.answered(reach(&self.job.location)).await?;
        if self.is_to_be_restored() {
            let places = &self.job.places;
            let _turn = places.turn_to_restore().await;
            if self.path().exists() {
                // From another of its replicas.
                return Ok(client);
            }
            let newest = match places.are_several() {
                true => places.newest().await?,
                false => None,
            };
            let (from, stacked) = match newest {
                Some((from, client)) => (from, client),
                None => (&self.job.location, replica::stack(Arc::clone(&client))),
            };
            let _turn = permit(&self.turns.restoring).await;
            self.restore(from, stacked).await?;
        }
        Ok(client)
    }

    async fn restore(
        &self,
        from: &Location,
        client: Arc<dyn ReplicaClient>,
    ) -> Result<(), Failure> {
        let message = format_args!("restoring from {from}");
        self.tell(LogLevel::Info, "restoring", message, json!({}));
        let options = RestoreOptions::new(self.path());
        let restored = match replica::restore(client, &options, |_| ()).await {
            Ok(restored) => restored,
            Err(RestoreError::Plan(PlanError::Empty)) => {
                let message = "there is no replica yet, and so nothing to restore";
                self.tell(LogLevel::Info, "not_restored", message, json!({}));
                return Ok(());
            }
            Err(RestoreError::Store(error)) if error.is_transient() => {
                return Err(refused_by(from, &error));
            }
            Err(error) => return Err(Failure::of(Status::Failed, &error)),
        };
        for damage in &restored.damaged {
            let message =
                format_args!("{damage}; other files with the same transactions were used");
            self.tell(LogLevel::Warn, "damaged", message, json!({}));
        }
        let (txid, time) = (restored.txid, restored.created_at);
        let message = format_args!("restored to transaction {txid} of {time}");
        let fields = json!({ "txid": txid.to_string(), "bytes": restored.bytes });
        self.tell(LogLevel::Info, "restored", message, fields);
        Ok(())
    }

    /// Whether it has to come from its replica before anybody works with it.
    fn is_to_be_restored(&self) -> bool {
        self.job.restore && !self.path().exists()
    }

    /// Reaches the store, and opens the database if it is there.
    pub(super) async fn open(&self) -> Result<Opened, Failure> {
        let client = replica::stack_to_replicate(self.reach().await?);
        let replicator = match self.is_there() {
            true => {
                let opened = self.replicator(&client).await;
                Some(opened.map_err(|error| failed(&error, self))?)
            }
            false => None,
        };
        Ok(Opened { client, replicator })
    }

    /// Opens the database, where others have it locked after some time.
    pub(super) async fn replicator(
        &self,
        client: &Arc<dyn ReplicaClient>,
    ) -> Result<Replicator, ReplicateError> {
        let mut turn = self.turns.turn().await;
        let begun = Instant::now();
        let mut pause = LOCKED_PAUSE;
        loop {
            match Replicator::open(Arc::clone(client), self.options()).await {
                Err(error) if error.is_locked() && begun.elapsed() < LOCKED_MAX => {
                    if pause == LOCKED_PAUSE {
                        let (error, time) = (in_one_line(&error), output::time(LOCKED_MAX));
                        let message = format_args!(
                            "it can't be opened yet, which is tried again for {time}: {error}"
                        );
                        self.tell(LogLevel::Warn, "locked", message, json!({ "error": error }));
                    }
                    drop(turn);
                    sleep(pause).await;
                    pause = (2 * pause).min(OPEN_AGAIN);
                    turn = self.turns.turn_again().await;
                }
                opened => {
                    if let Ok(replicator) = &opened {
                        self.warn_of_another(replicator);
                    }
                    return opened;
                }
            }
        }
    }

    /// Tells where the replica may be that of another database. To refuse it would end what should
    /// go on by itself after a database was restored, or its log removed; what the replica has stays
    /// for as long as retention says.
    fn warn_of_another(&self, replicator: &Replicator) {
        let Some(reason) = replicator.snapshot_reason().filter(|why| why.is_doubtful()) else {
            return;
        };
        let message = format_args!(
            "{} may be the replica of another database: {reason}. The whole database is stored on \
             top of what is there. If it is another one, end this and give it a place of its own: \
             what is below can be restored only until retention deletes it",
            self.replica
        );
        let fields = json!({ "reason": reason.to_string() });
        self.tell(LogLevel::Warn, "other_history", message, fields);
    }

    fn tell(
        &self,
        level: LogLevel,
        event: &str,
        message: impl std::fmt::Display,
        mut fields: Value,
    ) {
        fields["replica"] = self.replica.as_str().into();
        let database = Some(self.name.as_str());
        match self.job.places.are_several() {
            true => {
                let message = format_args!("{}: {message}", self.replica);
                self.log.tell(level, event, database, message, fields);
            }
            false => self.log.tell(level, event, database, message, fields),
        }
    }
}

impl Database {
    /// Opens it for the first time, unless `stops` says before that it is to end.
    pub(super) async fn open_first(
        &mut self,
        stops: &mut watch::Receiver<bool>,
    ) -> Result<Opened, Failure> {
        let opened = tokio::select! {
            biased;
            _ = stops.wait_for(|stop| *stop) => Err(self.not_begun()),
            opened = self.open() => opened,
        };
        if opened.is_ok() {
            self.unready = None;
        }
        opened
    }

    /// Tells that it could not be opened yet. A child may start without that, unless it would find
    /// no database in place of the one that is restored.
    pub(super) fn put_off(&mut self, failure: &Failure) {
        if !self.is_to_be_restored() {
            self.unready = None;
        }
        let error = failure.in_one_line();
        let fields = json!({ "error": error });
        if failure.may_pass() {
            let message = format_args!(
                "it can't be replicated yet, and is as soon as the store answers: {error}"
            );
            self.tell(LogLevel::Warn, "put_off", message, fields);
            return;
        }
        self.job.wait = true;
        let message = format_args!(
            "it can't be replicated yet, which is tried again while the others are: {error}"
        );
        self.tell(LogLevel::Error, "put_off", message, fields);
    }

    /// Replicates until `stops` says so, and then stores what is committed, within `deadline`.
    ///
    /// A store that refuses what is first written to it ends this, unless it is `patient`: whoever
    /// has just started it can do something about that.
    pub(super) async fn keep(
        mut self,
        opened: Result<Opened, Failure>,
        patient: bool,
        again: bool,
        mut stops: watch::Receiver<bool>,
        deadline: Duration,
    ) -> Result<(), Failure> {
        let Opened { client, replicator } = match opened {
            Ok(opened) => opened,
            Err(failure) => self.open_again(failure, again, &mut stops).await?,
        };
        let database = &self;
        let replicator = match replicator {
            Some(replicator) => replicator,
            None => {
                let message = "waiting for the database to be made";
                database.tell(LogLevel::Info, "waiting", message, json!({}));
                match database.wait(&client, &mut stops).await? {
                    Some(replicator) => replicator,
                    None => return Ok(()),
                }
            }
        };
        let begin = |replicator: Replicator| {
            let message = format_args!("replicating to {}", database.replica);
            database.tell(LogLevel::Info, "started", message, json!({}));
            replicator.start()
        };
        let mut replication = begin(replicator);
        let mut keeping = Keeping {
            events: replication.events(),
            database,
            refusable: !patient,
            interrupted: false,
            replaced: false,
            upkeep: Done::default(),
        };
        while let Err(failure) = keeping.until_stopped(&replication, &mut stops).await {
            if !(again && std::mem::take(&mut keeping.replaced)) {
                return Err(failure);
            }
            let message = format_args!(
                "the database was replaced: it is opened again, and the whole of it is stored"
            );
            database.tell(LogLevel::Warn, "replaced", message, json!({}));
            drop(replication);
            replication = match database.wait(&client, &mut stops).await? {
                Some(replicator) => begin(replicator),
                None => return Err(failure),
            };
            keeping.events = replication.events();
        }
        let seconds = output::time(deadline);
        let message = format_args!("storing what is committed, for {seconds} at most");
        database.tell(LogLevel::Info, "stopping", message, json!({}));
        let ended = keeping.until_ended(replication.shut_down(deadline)).await;
        let upkeep = keeping.upkeep;
        database.ended(&ended, deadline, upkeep)
    }
}

impl Database {
    /// Tries again what has failed at the start until it succeeds. What has failed last is the error
    /// where it is to end before, and where it will not pass by itself, unless it is tried `again`
    /// all the same.
    async fn open_again(
        &mut self,
        mut failure: Failure,
        again: bool,
        stops: &mut watch::Receiver<bool>,
    ) -> Result<Opened, Failure> {
        let mut pause = OPEN_AGAIN;
        loop {
            let attempt = async {
                sleep(pause).await;
                self.check()?;
                self.open().await
            };
            let attempted = tokio::select! {
                biased;
                _ = stops.wait_for(|stop| *stop) => {
                    return Err(match failure.may_pass() {
                        true => self.not_begun().because(failure),
                        false => failure,
                    });
                }
                attempted = attempt => attempted,
            };
            let failed = match attempted {
                Ok(opened) => {
                    self.unready = None;
                    return Ok(opened);
                }
                Err(failed) => failed,
            };
            if failed.may_pass() {
                pause = OPEN_AGAIN;
            } else if !again {
                return Err(failed);
            } else {
                if failure.may_pass() {
                    self.put_off(&failed);
                }
                pause = (2 * pause).min(OPEN_AGAIN_MAX);
            }
            failure = failed;
        }
    }

    /// The failure for one that was to end before it could be opened.
    fn not_begun(&self) -> Failure {
        let (name, replica) = (&self.name, &self.replica);
        Failure::new(
            Status::Failed,
            format!("nothing that was committed to {name} meanwhile is in {replica}"),
        )
    }

    /// Waits until it is there, and opens it. `None` where there is none in the end.
    async fn wait(
        &self,
        client: &Arc<dyn ReplicaClient>,
        stops: &mut watch::Receiver<bool>,
    ) -> Result<Option<Replicator>, Failure> {
        let mut told = false;
        loop {
            let is_last = *stops.borrow_and_update();
            let mut pause = LOOK;
            if self.is_there() {
                match Replicator::open(Arc::clone(client), self.options()).await {
                    Ok(replicator) => {
                        self.warn_of_another(&replicator);
                        return Ok(Some(replicator));
                    }
                    Err(error) if error.is_lasting() || is_last => {
                        return Err(failed(&error, self));
                    }
                    // Whoever makes it may keep it locked for a while.
                    Err(error) if !told => {
                        told = true;
                        self.interrupted(&error);
                    }
                    Err(_) => {}
                }
                pause = OPEN_AGAIN;
            } else if is_last {
                return Ok(None);
            }
            tokio::select! {
                () = sleep(pause) => {}
                _ = stops.changed() => {}
            }
        }
    }
}

impl Turns {
    pub(super) fn new() -> Turns {
        Turns {
            opening: Arc::new(Semaphore::new(WORKERS)),
            locked: Arc::new(Semaphore::new(LOCKED_WORKERS)),
            restoring: Arc::new(Semaphore::new(WORKERS)),
        }
    }

    async fn turn(&self) -> Turn<'_> {
        Turn {
            _locked: None,
            _one: permit(&self.opening).await,
        }
    }

    /// The same for a database that was locked the last time.
    async fn turn_again(&self) -> Turn<'_> {
        Turn {
            _locked: Some(permit(&self.locked).await),
            _one: permit(&self.opening).await,
        }
    }

    /// Waits for the first answer of a store when it is its turn. One that takes long for it holds up
    /// no other.
    async fn answered<T>(&self, answer: impl Future<Output = T>) -> T {
        let turn = self.turn().await;
        let mut answer = pin!(answer);
        match timeout(FIRST_ANSWER_ALONE, &mut answer).await {
            Ok(answered) => answered,
            Err(_) => {
                drop(turn);
                answer.await
            }
        }
    }
}

async fn permit(turns: &Semaphore) -> SemaphorePermit<'_> {
    turns.acquire().await.expect("it is never closed")
}

/// A database while it is replicated.
struct Keeping<'a> {
    events: BoxStream<'static, Event>,
    database: &'a Database,
    /// Whether an error that a store will repeat is the end, because nothing was stored yet.
    refusable: bool,
    /// Whether it was told that nothing succeeds at present.
    interrupted: bool,
    /// Whether it has ended because another database is in the place of this one.
    replaced: bool,
    /// What was done for the replica.
    upkeep: Done,
}

impl Keeping<'_> {
    async fn until_stopped(
        &mut self,
        replication: &Replication,
        stops: &mut watch::Receiver<bool>,
    ) -> Result<(), Failure> {
        // What happened before anybody listened is not among the events.
        let status = replication.status();
        if status.upkeep_ended {
            self.note(Event::UpkeepEnded)?;
        }
        if let Some(trouble) = status.trouble {
            self.note_interruption(&trouble.error)?;
        }
        let mut first = pin!(replication.sync());
        let mut is_synced = false;
        loop {
            tokio::select! {
                biased;
                _ = stops.wait_for(|stop| *stop) => return Ok(()),
                event = self.events.next() => match event {
                    Some(event) => self.note(event)?,
                    None => return Err(failed(&ReplicateError::Ended, self.database)),
                },
                synced = &mut first, if !is_synced => {
                    let txid = synced.map_err(|error| failed(&error, self.database))?;
                    is_synced = true;
                    self.refusable = false;
                    let message = format_args!(
                        "everything that was committed is stored, up to transaction {txid}"
                    );
                    let fields = json!({ "txid": txid.to_string() });
                    self.database.tell(LogLevel::Info, "synced", message, fields);
                }
            }
        }
    }

    /// Tells what happens until `ending` is done.
    async fn until_ended(&mut self, ending: impl Future<Output = Ended>) -> Ended {
        self.refusable = false;
        let mut ending = pin!(ending);
        loop {
            tokio::select! {
                biased;
                // An error that ends it is in what it has ended with.
                Some(event) = self.events.next() => drop(self.note(event)),
                ended = &mut ending => return ended,
            }
        }
    }

    fn note(&mut self, event: Event) -> Result<(), Failure> {
        let database = self.database;
        if let Some(told) = self.upkeep.note(&event) {
            database.tell(told.level, told.event, told.message, told.fields);
        }
        match event {
            Event::Stored {
                txid,
                files,
                bytes,
                snapshot,
            } => {
                self.refusable = false;
                let files_count =
                    output::count(usize::try_from(files).unwrap_or(usize::MAX), "file");
                let size = output::size(bytes);
                let (level, message) = match snapshot {
                    Some(reason) => (
                        LogLevel::Info,
                        format!(
                            "stored the whole database, up to transaction {txid} ({files_count}, {size}): {reason}"
                        ),
                    ),
                    None => (
                        LogLevel::Debug,
                        format!("stored transaction {txid} ({files_count}, {size})"),
                    ),
                };
                let fields = json!({
                    "txid": txid.to_string(),
                    "files": files,
                    "bytes": bytes,
                    "snapshot": snapshot.map(|reason| reason.to_string()),
                });
                database.tell(level, "stored", message, fields);
            }
            Event::Checkpointed(done) => {
                let message = format_args!(
                    "checkpointed: {} of {} frames of the log are in the database file",
                    done.backfilled, done.frames
                );
                let fields = json!({
                    "frames": done.frames,
                    "backfilled": done.backfilled,
                    "recycled": done.recycled,
                });
                database.tell(LogLevel::Debug, "checkpointed", message, fields);
            }
            Event::CheckpointFailed(error) => {
                let error = in_one_line(&*error);
                let message = format_args!(
                    "the log can't be checkpointed, so it grows; it is tried again: {error}"
                );
                let fields = json!({ "error": error });
                database.tell(LogLevel::Warn, "checkpoint_failed", message, fields);
            }
            Event::ClockBack { by } => {
                let message = format_args!(
                    "the clock says a time that is {} before that of the last file: states from \
                     in between can't be restored by their time",
                    output::time(by)
                );
                let fields = json!({ "by_ms": millis(by) });
                database.tell(LogLevel::Warn, "clock_back", message, fields);
            }
            Event::Interrupted(error) => self.note_interruption(&error)?,
            Event::Resumed { attempts, after } => {
                self.interrupted = false;
                let message = format_args!(
                    "goes on after {} and {}",
                    output::time(after),
                    output::count(usize::try_from(attempts).unwrap_or(usize::MAX), "attempt")
                );
                let fields = json!({ "attempts": attempts, "after_ms": millis(after) });
                database.tell(LogLevel::Info, "resumed", message, fields);
            }
            Event::LeftBehind => {
                let message = format_args!(
                    "it lacks too much of the log, which is begun anew without it: it gets what it \
                     lacks, and maybe the whole database, once its store takes it"
                );
                database.tell(LogLevel::Warn, "left_behind", message, json!({}));
            }
            Event::Missed(missed) => {
                let message = format_args!("{missed} events came too fast to be told");
                database.tell(
                    LogLevel::Warn,
                    "missed",
                    message,
                    json!({ "events": missed }),
                );
            }
            Event::Ended(Some(error)) => {
                self.replaced |= matches!(*error, ReplicateError::Replaced { .. });
                return Err(failed(&error, database));
            }
            _ => {}
        }
        Ok(())
    }

    fn note_interruption(&mut self, error: &ReplicateError) -> Result<(), Failure> {
        if error.is_lasting() {
            self.replaced |= matches!(error, ReplicateError::Replaced { .. });
            return Err(failed(error, self.database));
        }
        if self.refusable && matches!(error, ReplicateError::Store(error) if !error.is_transient())
        {
            return Err(failed(error, self.database));
        }
        if !self.interrupted {
            self.interrupted = true;
            self.database.interrupted(error);
        }
        Ok(())
    }
}

impl Database {
    fn interrupted(&self, error: &ReplicateError) {
        let error = in_one_line(error);
        let message = format_args!("interrupted, and tried again until it succeeds: {error}");
        let fields = json!({ "error": error });
        self.tell(LogLevel::Warn, "interrupted", message, fields);
    }

    /// Tells how a replication that was shut down has ended.
    fn ended(&self, ended: &Ended, deadline: Duration, upkeep: Done) -> Result<(), Failure> {
        for trouble in &ended.status.upkeep {
            let error = in_one_line(&*trouble.error);
            let message = format_args!(
                "the upkeep of the replica has failed since {} ({}): {error}",
                trouble.since, trouble.job
            );
            let fields = json!({ "job": trouble.job.to_string(), "error": error });
            self.tell(LogLevel::Warn, "upkeep_behind", message, fields);
        }
        let txid = ended.status.txid.map(|txid| txid.to_string());
        let last = match &txid {
            Some(txid) => format!("transaction {txid}"),
            None => String::from("none"),
        };
        if ended.complete {
            let kept = upkeep.sentence();
            let kept = kept.map_or(String::new(), |kept| format!("; meanwhile {kept}"));
            let message = format_args!(
                "stopped: everything that was committed is stored, up to {last}{kept}"
            );
            let fields = json!({
                "txid": txid,
                "files": ended.status.files,
                "bytes": ended.status.bytes,
                "upkeep": upkeep.to_json(&ended.status),
            });
            self.tell(LogLevel::Info, "stopped", message, fields);
            return Ok(());
        }
        let (name, replica, txid) = (&self.name, &self.replica, txid.as_deref());
        let txid = txid.unwrap_or("none");
        let message = match ended.acknowledged {
            true => format!(
                "everything that was committed to {name} was stored in {replica}, up to transaction \
                 {txid}, but a last look whether it is still there has failed"
            ),
            false => format!(
                "not everything that was committed to {name} is in {replica}: the last transaction \
                 there is {txid}"
            ),
        };
        let failure = Failure::new(Status::Failed, message);
        Err(match &ended.status.trouble {
            Some(trouble) => failure.because_of(Some(&*trouble.error)),
            None => failure.hint(format!("it takes longer than {}", output::time(deadline))),
        })
    }
}

/// The failure for a database that can't be replicated, or not any more.
pub(super) fn failed(error: &ReplicateError, database: &Database) -> Failure {
    match error {
        ReplicateError::Store(error) => refused_by(&database.job.location, error),
        ReplicateError::NotFound { .. } => database.missing(),
        _ => {
            let name = match database.job.places.are_several() {
                true => format!("{} to {}", database.name, database.replica),
                false => database.name.clone(),
            };
            let failure = Failure::of_replication(error, &name);
            match error {
                ReplicateError::Sqlite { .. } if !may_write(database.path()) => failure.hint(
                    "the database and files beside it are written: replicate as a user who may \
                     write there",
                ),
                _ => failure,
            }
        }
    }
}

/// Whether this user may write to a database.
fn may_write(database: &Path) -> bool {
    access(database, Access::WRITE_OK).is_ok() && may_write_beside(database)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Looks whether the folder can be written to, or be made.
fn check_folder(folder: &Path) -> io::Result<()> {
    for above in folder.ancestors() {
        let above = match above == Path::new("") {
            true => Path::new("."),
            false => above,
        };
        match fs::metadata(above) {
            Ok(found) if !found.is_dir() => {
                let message = format!("{} is not a folder", above.display());
                return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
            }
            Ok(_) => {
                return access(above, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| {
                    let error = io::Error::from(error);
                    let message = format!("can't write to {}: {error}", above.display());
                    io::Error::new(error.kind(), message)
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A part of the path is a file, and found above.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

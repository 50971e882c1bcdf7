//! `replica replicate`

mod child;
mod database;
mod log;
mod once;
mod places;
mod upkeep;
mod words;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use jiff::SignedDuration;
use replica::{Config, Location, PassedOver, ReplicateOptions, Workers};
use tokio::sync::{mpsc, watch};

use crate::args::without_secrets;
use crate::descriptors;
use crate::signals::Signals;
use crate::source::{expand, is_database, location};
use crate::status::{Failure, Status, with_exit_statuses};
use child::Child;
use database::{Database, Opened, Turns};
use log::Log;
use places::Places;

/// Signals within so much time are one: whoever sends them may do so to the process and to its
/// group, as `timeout` does.
const ONE_SIGNAL: Duration = Duration::from_millis(500);
/// How long the last sync may take, unless something else is said; as in Litestream.
const SHUTDOWN_SYNC_TIMEOUT: Duration = Duration::from_secs(30);

/// How many databases are worked at at the same time, where there are more.
const WORKERS: usize = 32;

const EXAMPLES: &str = "\
Examples:
  replica replicate app.db file:///backups/app
  replica replicate app.db s3://bucket/app
  replica replicate app.db /backups/app s3://bucket/app    to both
  replica replicate -once app.db /backups/app              once, and no longer
  replica replicate -restore-if-db-not-exists -exec ./serve app.db s3://bucket/app
  replica replicate -config litestream.yml                 all databases in there
  replica replicate -json -log-level debug app.db /backups/app";

/// Replicate live databases, from now on
///
/// What is committed to a database is in its replica within milliseconds. The application goes on
/// as ever; its connections should have a busy_timeout, and may leave checkpoints to this command
/// (PRAGMA wal_autocheckpoint=0). The database is put into WAL mode, and gets the two small tables
/// that Litestream makes, so that either program can go on where the other has stopped. There must
/// be one of them to a database and to a replica.
///
/// What is wrong at the start is an error at once: a database that is none, a key, a bucket or a host
/// key that is wrong, a store that refuses to be written. Of several databases such a one is told,
/// and tried again while the others are replicated. A store that is away at the start, or gives no
/// answer within 30 seconds, is told of, and tried again, every few seconds, for as long as it takes;
/// what is committed meanwhile is stored then. It holds up no other database or replica. Only -once
/// ends with an error then.
///
/// Later a store that is away is tried again, each second at least; the outage is told when it begins
/// and when it ends. What is committed meanwhile stays in the database's log, which grows.
///
/// The replica is kept small and quick to restore meanwhile, as Litestream does it by default:
/// files are put together each 30 seconds, 5 minutes and hour, there is a snapshot a day, and what
/// is older than 24 hours is deleted once nothing needs it: until then there is a state to restore
/// for each 30 seconds, and for the last 5 minutes every single one. A configuration may say
/// something else (levels, snapshot, l0-retention, retention). Whatever it says, files go 5 minutes
/// after they may: a restore that has just begun finds them.
///
/// The first SIGINT or SIGTERM stores what is committed, as far as there is time for it
/// (-shutdown-sync-timeout), tells what it did, and ends with 0 where that is everything, and with 1
/// where not. The second one ends at once, with 130 or 143; one within half a second of the first is
/// taken for the same.
///
/// With -exec the child is started once each store has answered or was found to be away, and each
/// database that is restored is there: without its store that takes until the store is back. The
/// signals go to the child; the end of the child is the end of this, after the last sync, with the
/// child's exit status (128 and the number of the signal that has ended it). Where that is 0, and not
/// everything could be stored, it is 1. A second signal kills the child.
///
/// There is one line on stderr for each thing that happens.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct ReplicateArgs {
    /// The database; without it, those of the configuration
    #[arg(value_name = "DATABASE", requires = "replica")]
    database: Option<PathBuf>,

    /// Its replica: a URL (s3://bucket/prefix, sftp://user@host/path, file:///path/to/replica) or
    /// a folder, which is made where it is missing; or several of them
    ///
    /// Each of several goes on by itself. One that is behind since its store is slow or away holds
    /// up no other one; where the database's log would grow too much for that, the others go on
    /// without it, and it gets the whole database once it is back.
    #[arg(value_name = "REPLICA")]
    replica: Vec<OsString>,

    /// Litestream's configuration file, whose databases are replicated
    /// [default: $LITESTREAM_CONFIG or /etc/litestream.yml]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,

    /// Take $NAME and ${NAME} in the configuration as they stand
    #[arg(long)]
    no_expand_env: bool,

    /// Run a command meanwhile, and end when it has ended
    ///
    /// It is split into words as a shell does, and no shell is run: for more than words write
    /// sh -c '…'.
    #[arg(long, value_name = "CMD", conflicts_with = "once")]
    exec: Option<String>,

    /// Store what is committed now, and end
    ///
    /// Where the database's log was begun anew since the last time, nothing tells what was in it,
    /// and the whole database is stored.
    #[arg(long)]
    once: bool,

    /// Restore a database that is missing from its replica first
    ///
    /// Where there is no replica either, the database is waited for, as it is with -exec.
    #[arg(long)]
    restore_if_db_not_exists: bool,

    /// How long the last sync may take [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    shutdown_sync_timeout: Option<Duration>,

    /// What is told: each file that is stored is `debug`
    #[arg(long, value_name = "LEVEL", default_value = "info", ignore_case = true)]
    log_level: LogLevel,

    /// Print JSON: a line is an object
    #[arg(long)]
    pub(crate) json: bool,

    /// With -once, make a snapshot of what is stored then
    #[arg(long, requires = "once")]
    force_snapshot: bool,

    #[arg(long, hide = true)]
    enforce_retention: bool,
}

/// Litestream's levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// A database that is to be replicated to one place, and how.
#[derive(Debug)]
struct Job {
    options: ReplicateOptions,
    location: Location,
    /// All replicas of the database, this one among them.
    places: Arc<Places>,
    /// Whether it is restored where it is missing.
    restore: bool,
    /// Whether it is waited for where it is still missing then.
    wait: bool,
}

/// What the command line and the configuration say.
#[derive(Debug)]
struct Order {
    jobs: Vec<Job>,
    /// The words of the command that is run meanwhile.
    exec: Option<Vec<String>>,
    shutdown_sync_timeout: Duration,
    /// What the configuration says in vain.
    passed_over: Vec<PassedOver>,
}

pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    let duration = text.parse::<SignedDuration>().ok();
    duration
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or("write it as 500ms, 30s or 5m")
}

impl ReplicateArgs {
    pub(crate) async fn run(self) -> Result<Status, Failure> {
        let order = self.order()?;
        let mut signals = Signals::listen()?;
        let log = Log::start(self.json, self.log_level)?;
        for setting in &order.passed_over {
            log.passed_over(setting);
        }
        let ended = match self.once {
            true => tokio::select! {
                done = once::run(order.jobs, self.force_snapshot, self.json, &log) => done,
                signal = signals.next() => Err(interrupted(signal)),
            },
            false => keep(order, &log, &mut signals).await,
        };
        log.close().await;
        ended
    }

    fn order(&self) -> Result<Order, Failure> {
        if self.enforce_retention {
            let message = "-enforce-retention is not supported: in one run nothing tells for \
                           certain how old a file is";
            return Err(Failure::new(Status::Usage, message)
                .hint("replica replicate without -once deletes what is old enough"));
        }
        let mut order = match &self.database {
            Some(database) => self.named(database.clone())?,
            None => self.configured()?,
        };
        if let Some(timeout) = self.shutdown_sync_timeout {
            order.shutdown_sync_timeout = timeout;
        }
        if self.once && order.exec.is_some() {
            let message = "-once and the configuration's exec do not go together";
            return Err(Failure::new(Status::Usage, message));
        }
        let waits = order.exec.is_some();
        let workers = NonZeroUsize::new(WORKERS).map(Workers::new);
        let is_same = |a: &Job, b: &Job| a.options.database == b.options.database;
        for jobs in order.jobs.chunk_by_mut(is_same) {
            let locations = jobs.iter().map(|job| job.location.clone());
            let places = Arc::new(Places::new(locations.collect()));
            for job in jobs {
                job.places = Arc::clone(&places);
            }
        }
        for job in &mut order.jobs {
            job.options.workers = workers.clone();
            job.restore |= self.restore_if_db_not_exists;
            job.wait = !self.once && (waits || job.restore);
        }
        Ok(order)
    }

    /// The database and the replica of the command line.
    fn named(&self, database: PathBuf) -> Result<Order, Failure> {
        if self.config.is_some() {
            let message = "a database and -config do not go together";
            return Err(Failure::new(Status::Usage, message));
        }
        check_order("replicate", &database, &self.replica)?;
        let mut jobs: Vec<Job> = Vec::new();
        for replica in &self.replica {
            let location = location(replica)?;
            if jobs.iter().any(|job| job.location.is_same_place(&location)) {
                let message =
                    format!("{location} is there twice: each replica needs its own place");
                return Err(Failure::new(Status::Usage, message));
            }
            let mut options = ReplicateOptions::new(database.clone(), replica::now);
            options.window = location.window();
            jobs.push(Job {
                options,
                location,
                places: Arc::default(),
                restore: false,
                wait: false,
            });
        }
        Ok(Order {
            jobs,
            exec: self.exec.as_deref().map(words).transpose()?,
            shutdown_sync_timeout: SHUTDOWN_SYNC_TIMEOUT,
            passed_over: Vec::new(),
        })
    }

    fn configured(&self) -> Result<Order, Failure> {
        let path = self.config.clone().unwrap_or_else(Config::default_path);
        if self.config.is_none() && !path.exists() {
            return Err(Failure::new(
                Status::Usage,
                format!("nothing to replicate: there is no {}", path.display()),
            )
            .hint("replica replicate DATABASE URL, or give -config"));
        }
        let wrong = |error| Failure::of(Status::Usage, &error);
        let config = Config::read(path, expand(self.no_expand_env)).map_err(wrong)?;
        let jobs = config.replicated().map_err(wrong)?.into_iter();
        let timeout = config.shutdown_sync_timeout().map_err(wrong)?;
        let exec = self.exec.as_deref().or(config.exec());
        Ok(Order {
            jobs: jobs
                .map(|replicated| Job {
                    options: replicated.options,
                    location: replicated.location,
                    places: Arc::default(),
                    restore: replicated.restore_if_missing,
                    wait: false,
                })
                .collect(),
            exec: exec.map(words).transpose()?,
            shutdown_sync_timeout: timeout.unwrap_or(SHUTDOWN_SYNC_TIMEOUT),
            passed_over: config.passed_over().cloned().collect(),
        })
    }
}

/// Refuses a replica where the database should be, and the other way round.
pub(super) fn check_order(
    command: &str,
    database: &Path,
    replicas: &[OsString],
) -> Result<(), Failure> {
    let is_url = database.to_str().is_some_and(Location::is_url);
    let is_swapped = |replica: &OsString| is_database(Path::new(replica)) && !database.is_file();
    if !is_url && !replicas.iter().any(is_swapped) {
        return Ok(());
    }
    let shown = without_secrets(database.as_os_str());
    let message = format!(
        "{} is no database: the database comes first, and then its replica",
        shown.display()
    );
    Err(Failure::new(Status::Usage, message).hint(format!("replica {command} DATABASE REPLICA")))
}

/// The words of a command, of which there is at least one.
fn words(command: &str) -> Result<Vec<String>, Failure> {
    match words::split(command) {
        Some(words) if !words.is_empty() => Ok(words),
        Some(_) => Err(Failure::new(Status::Usage, "the command to run is empty")),
        None => Err(Failure::new(
            Status::Usage,
            "the command to run has a quote without its end",
        )),
    }
}

fn interrupted(signal: Status) -> Failure {
    Failure::new(signal, format!("interrupted by {}", signal.name()))
}

/// What a database has come to.
enum Reached {
    /// It was opened for the first time, or could not be.
    Opened(Box<(Database, Result<Opened, Failure>)>),
    /// It is not replicated any more.
    Ended(Result<(), Failure>),
}

/// What is done with a database at present.
type Work = LocalBoxFuture<'static, Reached>;

/// Replicates until a signal comes, the child has ended, or there is nothing left to replicate.
///
/// Each database is replicated as soon as it is opened. One of several that is missing, or can't be
/// opened, keeps no other one from that; it is an error where all are. The child is started once all
/// have been tried, and what is to be restored is there.
async fn keep(order: Order, log: &Log, signals: &mut Signals) -> Result<Status, Failure> {
    descriptors::provide_for(order.jobs.len())?;
    let single = order.jobs.len() == 1;
    let (mut exec, mut child) = (order.exec, None);
    let patient = exec.is_some();
    // The replications end when this says so.
    let (stop, stops) = watch::channel(false);
    // Nothing is ever sent: it is closed once no database holds up the child.
    let (unready, mut ready) = mpsc::channel(1);
    let mut work: FuturesUnordered<Work> = FuturesUnordered::new();
    let mut refused = Vec::new();
    for (mut database, checked) in check(order.jobs, log) {
        let mut stops = stops.clone();
        database.hold_up(unready.clone());
        work.push(Box::pin(async move {
            let opened = match checked {
                Ok(()) => database.open_first(&mut stops).await,
                Err(failure) => Err(failure),
            };
            Reached::Opened(Box::new((database, opened)))
        }));
    }
    drop(unready);
    let kept = |database: Database, opened| -> Work {
        let (stops, timeout) = (stops.clone(), order.shutdown_sync_timeout);
        // Whoever looks after one database starts it again; of many nobody would notice.
        let again = !single;
        Box::pin(async move {
            Reached::Ended(database.keep(opened, patient, again, stops, timeout).await)
        })
    };
    let (mut untried, mut is_any_kept) = (work.len(), false);
    // The failure that is the last word, and whether there were others, which were told.
    let (mut last, mut others) = (None, false);
    let mut code = 0;
    let mut signalled: Option<Instant> = None;
    while child.is_some() || !work.is_empty() {
        tokio::select! {
            biased;
            signal = signals.next() => {
                match (signalled, &child) {
                    (Some(first), _) if first.elapsed() < ONE_SIGNAL => {}
                    (Some(_), _) => {
                        // What is dropped now ends: the child is killed.
                        let message = format!(
                            "interrupted for the second time ({}): stopped at once",
                            signal.name()
                        );
                        return Err(Failure::new(signal, message));
                    }
                    (None, _) if !is_any_kept => return Err(interrupted(signal)),
                    (None, child) => {
                        signalled = Some(Instant::now());
                        log.signalled(signal, child.is_some());
                        match child {
                            Some(child) => child.pass_on(signal),
                            None => {
                                exec = None;
                                stop.send_replace(true);
                            }
                        }
                    }
                }
            }
            ended = child::ended(&mut child), if child.is_some() => {
                code = ended?;
                child = None;
                log.child_ended(code);
                stop.send_replace(true);
            }
            _ = ready.recv(), if exec.is_some() && untried == 0 => {
                child = exec.take().as_deref().map(Child::start).transpose()?;
            }
            Some(reached) = work.next(), if !work.is_empty() => match reached {
                Reached::Opened(tried) => {
                    let (database, opened) = *tried;
                    untried -= 1;
                    is_any_kept |= match &opened {
                        Ok(_) => true,
                        Err(failure) => failure.may_pass(),
                    };
                    match opened {
                        Ok(opened) => work.push(kept(database, Ok(opened))),
                        Err(failure) => refused.push((database, failure)),
                    }
                    if is_any_kept {
                        for (mut database, failure) in refused.drain(..) {
                            if !*stops.borrow() {
                                database.put_off(&failure);
                            }
                            work.push(kept(database, Err(failure)));
                        }
                    } else if untried == 0 {
                        return Err(told_but_one(refused, log));
                    }
                }
                Reached::Ended(Ok(())) => {}
                Reached::Ended(Err(failure)) if single && child.is_none() && code == 0 => {
                    last = Some(failure);
                }
                Reached::Ended(Err(failure)) => {
                    log.failed(&failure);
                    others = true;
                }
            }
        }
    }
    match (code, last) {
        (0, Some(failure)) => Err(failure),
        (0, None) if others => Err(Failure::new(
            Status::Failed,
            "not everything that was committed is in its replica",
        )),
        (0, None) => Ok(Status::Done),
        (code, _) => Ok(Status::Child(code)),
    }
}

/// Looks at all databases, before any of them is changed. Where one is missing and others are not, it
/// is waited for.
fn check(jobs: Vec<Job>, log: &Log) -> Vec<(Database, Result<(), Failure>)> {
    let turns = Turns::new();
    let databases = jobs.into_iter();
    let databases = databases.map(|job| Database::new(job, log.clone(), turns.clone()));
    let mut databases: Vec<_> = databases
        .map(|database| {
            let checked = database.check();
            (database, checked)
        })
        .collect();
    if databases.iter().any(|(_, checked)| checked.is_ok()) {
        for (database, checked) in &mut databases {
            if matches!(checked, Err(failure) if failure.status == Status::Nothing) {
                database.wait_for_it();
                *checked = database.check();
            }
        }
    }
    databases
}

/// The first failure, after the others were told.
fn told_but_one(refused: Vec<(Database, Failure)>, log: &Log) -> Failure {
    let mut failures = refused.into_iter().map(|(_, failure)| failure);
    let first = failures.next();
    failures.for_each(|failure| log.failed(&failure));
    first.unwrap_or_else(|| Failure::new(Status::Nothing, "there is nothing to replicate"))
}

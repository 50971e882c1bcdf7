//! A web service with a SQLite database of its own: restored before it serves, replicated while it
//! serves, and with a policy for when that fails.
//!
//! ```sh
//! cargo run -p replica --example service -- app.db file:///var/backups/app fail-fast=60
//! curl -d 'remember the milk' http://127.0.0.1:8080/notes
//! curl http://127.0.0.1:8080/notes
//! curl http://127.0.0.1:8080/health
//! ```

#![allow(clippy::print_stderr, reason = "an application prints")]

use std::error::Error;
use std::future::{IntoFuture, pending};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use futures::stream::BoxStream;
use replica::{
    DISABLE_AUTOCHECKPOINT_PRAGMA, Event, Integrity, Location, PlanError, ReplicateError,
    ReplicateOptions, Replication, Replicator, RestoreError, RestoreOptions, Status,
};
use rusqlite::Connection;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// How long whoever writes a note waits for the replica to have it.
const STORED_WITHIN: Duration = Duration::from_secs(2);
/// How soon it is tried again to begin with replication.
const AGAIN: Duration = Duration::from_secs(1);
/// How long requests that are being answered may take at the end.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take at the end to store what is not stored yet.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Why a service ends that fails fast.
const TOO_LONG: &str = "nothing could be stored for too long";

type Failure = Box<dyn Error + Send + Sync>;

/// What the service does when its replica can't be kept.
#[derive(Clone, Copy, Debug)]
enum Policy {
    /// Whoever writes a note is told that it is there once the replica has it. Where nothing can be
    /// stored for so long, at the start too, the service ends: whatever watches over it may start
    /// it elsewhere.
    FailFast(Duration),
    /// A note is there once it is committed. Without its replica the service goes on, and says so.
    Degrade,
}

/// What the command line says.
pub(crate) struct Settings {
    database: PathBuf,
    url: String,
    policy: Policy,
    address: SocketAddr,
}

/// What the handlers share.
struct Service {
    settings: Settings,
    connection: Mutex<Connection>,
    /// From when it has begun.
    replication: OnceLock<Replication>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    run(Settings::parse(std::env::args().skip(1))?).await
}

impl Settings {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Settings, Failure> {
        let usage = "usage: service DATABASE REPLICA fail-fast=SECONDS|degrade [ADDRESS]";
        let args: Vec<String> = args.collect();
        let (database, url, policy, address) = match &args[..] {
            [database, url, policy] => (database, url, policy, "127.0.0.1:8080"),
            [database, url, policy, address] => (database, url, policy, address.as_str()),
            _ => return Err(usage.into()),
        };
        let policy = match policy.strip_prefix("fail-fast=") {
            Some(seconds) => Policy::FailFast(Duration::from_secs(seconds.parse()?)),
            None if policy == "degrade" => Policy::Degrade,
            None => return Err(usage.into()),
        };
        Ok(Settings {
            database: database.into(),
            url: url.clone(),
            policy,
            address: address.parse()?,
        })
    }
}

/// Serves until SIGINT or SIGTERM, or until the policy says that it must not go on.
pub(crate) async fn run(settings: Settings) -> Result<(), Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    restore_if_missing(&settings).await?;
    let listener = TcpListener::bind(settings.address).await?;
    let service = Arc::new(Service {
        connection: Mutex::new(open(&settings)?),
        replication: OnceLock::new(),
        settings,
    });
    let events = match service.settings.policy {
        // Nobody is served before all that is there is in the replica.
        Policy::FailFast(patience) => Some(service.begin_within(patience).await?),
        Policy::Degrade => None,
    };
    let mut watching = tokio::spawn(Arc::clone(&service).watch(events));

    eprintln!("serving at http://{}", listener.local_addr()?);
    let router = Router::new()
        .route("/notes", get(list).post(add))
        .route("/health", get(health))
        .with_state(Arc::clone(&service));
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = axum::serve(listener, router).with_graceful_shutdown(async {
        // It is dropped where it should stop.
        let _ = stopped.await;
    });
    let mut serving = tokio::spawn(serving.into_future());
    let unbearable = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        why = &mut watching => Some(why?),
    };
    drop(stop);
    if timeout(ANSWERED_WITHIN, &mut serving).await.is_err() {
        eprintln!("some requests take too long, and are cut off");
        serving.abort();
    }

    watching.abort();
    let ended = service.end().await;
    match unbearable {
        Some(why) => Err(why),
        None => ended,
    }
}

/// The first start finds neither a database nor a replica, and begins with nothing. A replica that
/// can't be restored ends the service, whatever the policy: to begin with nothing would hide the
/// loss.
async fn restore_if_missing(settings: &Settings) -> Result<(), Failure> {
    if settings.database.exists() {
        return Ok(());
    }
    let client = settings.url.parse::<Location>()?.open()?;
    let mut options = RestoreOptions::new(&settings.database);
    options.integrity = Integrity::Quick;
    match replica::restore(client, &options, |_| ()).await {
        Ok(restored) => eprintln!("restored to transaction {}", restored.txid),
        Err(RestoreError::Plan(PlanError::Empty)) => eprintln!("there is nothing to restore yet"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn open(settings: &Settings) -> Result<Connection, Failure> {
    let connection = Connection::open(&settings.database)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA journal_mode=WAL")?;
    connection.execute_batch(DISABLE_AUTOCHECKPOINT_PRAGMA)?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, text TEXT NOT NULL)",
    )?;
    Ok(connection)
}

impl Service {
    /// Begins to replicate. What happens from then on are its events.
    async fn replicate(&self) -> Result<(Replication, BoxStream<'static, Event>), Failure> {
        let client = replica::open_to_replicate(&self.settings.url)?;
        let options = ReplicateOptions::new(&self.settings.database, replica::now);
        let replication = Replicator::open(client, options).await?.start();
        let events = replication.events();
        Ok((replication, events))
    }

    /// Tells what happens to the replication, and returns when the service must not go on.
    async fn watch(self: Arc<Self>, events: Option<BoxStream<'static, Event>>) -> Failure {
        let mut events = match events {
            Some(events) => events,
            None => self.begin().await,
        };
        let mut deadline = None;
        let why = loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = until(deadline) => return TOO_LONG.into(),
            };
            match event {
                Some(Event::Interrupted(error)) => {
                    eprintln!("replication is interrupted: {error}");
                    if let Policy::FailFast(patience) = self.settings.policy {
                        deadline = Some(Instant::now() + patience);
                    }
                }
                Some(Event::Resumed { after, .. }) => {
                    eprintln!("replication goes on after {after:?}");
                    deadline = None;
                }
                Some(Event::Ended(Some(error))) => break error.to_string(),
                Some(_) => {}
                None => break String::from("it was shut down"),
            }
        };
        let why = format!("replication has ended: {why}");
        if let Policy::FailFast(_) = self.settings.policy {
            return why.into();
        }
        eprintln!("{why}");
        // Nobody else checkpoints now, and the log would grow for ever.
        let checkpoint_again =
            |connection: &Connection| connection.execute_batch("PRAGMA wal_autocheckpoint=1000");
        if let Err(error) = self.on_database(checkpoint_again).await {
            eprintln!("{error}");
        }
        pending().await
    }

    /// Begins to replicate, and returns what happens once everything is stored, which may take as
    /// long as the service has patience.
    async fn begin_within(&self, patience: Duration) -> Result<BoxStream<'static, Event>, Failure> {
        let deadline = Instant::now() + patience;
        let mut told = false;
        let (replication, events) = loop {
            let error = match timeout_at(deadline, self.replicate()).await {
                Ok(Ok(begun)) => break begun,
                Ok(Err(error)) => error,
                Err(_) => return Err(TOO_LONG.into()),
            };
            let known = error.downcast_ref::<ReplicateError>();
            let may_pass = known.is_some_and(|error| !error.is_lasting());
            if !may_pass || Instant::now() + AGAIN > deadline {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                eprintln!("not replicated yet: {error}");
            }
            sleep(AGAIN).await;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        replication.sync_within(left).await?;
        // Nobody else begins.
        let _ = self.replication.set(replication);
        Ok(events)
    }

    /// Begins to replicate as soon as that can be done. What is committed meanwhile is in the log.
    async fn begin(&self) -> BoxStream<'static, Event> {
        let mut told = false;
        loop {
            match self.replicate().await {
                Ok((replication, events)) => {
                    // Nobody else begins.
                    let _ = self.replication.set(replication);
                    return events;
                }
                Err(error) if !told => eprintln!("not replicated yet: {error}"),
                Err(_) => {}
            }
            told = true;
            sleep(AGAIN).await;
        }
    }

    /// Stores what is not stored yet, as far as there is time, and says what is missing.
    async fn end(&self) -> Result<(), Failure> {
        let Some(replication) = self.replication.get() else {
            return Err("the replica has nothing of this run: replication never began".into());
        };
        let ended = replication.stop(SHUTDOWN).await;
        if ended.complete {
            return Ok(());
        }
        let Status { txid, trouble, .. } = ended.status;
        let last = txid.map_or(String::from("none"), |txid| txid.to_string());
        let why = trouble.map_or(String::from("there was no more time"), |trouble| {
            trouble.error.to_string()
        });
        Err(format!("what follows transaction {last} is not in the replica: {why}").into())
    }

    /// Works with the database on a thread that may wait.
    async fn on_database<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Failure> {
        let service = Arc::clone(self);
        let worked = tokio::task::spawn_blocking(move || {
            let connection = service.connection.lock();
            work(&connection.unwrap_or_else(PoisonError::into_inner))
        });
        Ok(worked.await??)
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

async fn list(State(service): State<Arc<Service>>) -> Result<String, Broken> {
    let notes = service.on_database(|connection| {
        let mut statement = connection.prepare("SELECT text FROM notes ORDER BY id")?;
        let notes = statement.query_map((), |row| row.get::<_, String>(0))?;
        notes.map(|note| note.map(|note| note + "\n")).collect()
    });
    Ok(notes.await?)
}

async fn add(
    State(service): State<Arc<Service>>,
    note: String,
) -> Result<(StatusCode, String), Broken> {
    let insert =
        |connection: &Connection| connection.execute("INSERT INTO notes(text) VALUES(?1)", [note]);
    service.on_database(insert).await?;
    if let Policy::Degrade = service.settings.policy {
        return Ok((StatusCode::CREATED, String::from("written\n")));
    }
    let stored = match service.replication.get() {
        Some(replication) => replication.sync_within(STORED_WITHIN).await,
        None => return Err(Broken("nothing is replicated yet".into())),
    };
    Ok(match stored {
        Ok(txid) => (
            StatusCode::CREATED,
            format!("written, and in the replica by transaction {txid}\n"),
        ),
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("written, but not in the replica: {error}\n"),
        ),
    })
}

/// Whether the replica is kept, for whatever watches over the service. That takes a service away
/// which is not well, so one that may go on without its replica is well all the same.
async fn health(State(service): State<Arc<Service>>) -> Response {
    let replication = service.replication.get();
    let status = replication.map_or_else(Status::default, Replication::status);
    let is_replicated = status.complete_at.is_some() && status.trouble.is_none() && !status.ended;
    let code = match service.settings.policy {
        Policy::FailFast(_) if !is_replicated => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    // All that was committed so long ago is in the replica.
    let complete_at = status.complete_at.and_then(|time| time.to_system_time());
    let lag = complete_at.and_then(|time| SystemTime::now().duration_since(time).ok());
    let body = json!({
        "replicated": is_replicated,
        "txid": status.txid.map(|txid| txid.to_string()),
        "lag_seconds": lag.map(|lag| lag.as_secs_f64()),
        "wal_bytes": status.wal_bytes,
        "trouble": status.trouble.as_ref().map(|trouble| trouble.error.to_string()),
        "trouble_since": status.trouble.as_ref().map(|trouble| trouble.since.to_string()),
    });
    (
        code,
        [(CONTENT_TYPE, "application/json")],
        format!("{body}\n"),
    )
        .into_response()
}

/// What is wrong here, and not with the request.
struct Broken(Failure);

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken(failure)
    }
}

impl IntoResponse for Broken {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{}\n", self.0)).into_response()
    }
}

//! Histories of overlapping calls.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future;
use replica_core::{FileId, Level, Timestamps, Txid};
use tokio::time::Instant;

use super::{NOON, Random, assert_bytes, content, ok, raw, steps};
use crate::attempt::spawn;
use crate::history::{Call, Event, History};
use crate::store::{Client, Store};

const WORKERS: u64 = 8;
const FILES: u64 = 4;

/// Gives each start and each end a moment of its own, in order.
struct Clock {
    began: Instant,
    last: AtomicU64,
}

impl Clock {
    fn now(&self) -> u64 {
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let later = |last: u64| Some(now.max(last.saturating_add(1)));
        let last = self
            .last
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, later);
        later(last.unwrap_or_else(|last| last)).unwrap_or(now)
    }
}

/// The content that stands for `value`, which is read back from it.
fn content_of(value: u64) -> Bytes {
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.extend_from_slice(&content(20 + (value % 200) as usize, value));
    bytes.into()
}

fn value_of(content: &Bytes) -> u64 {
    let value = content.first_chunk().copied().map(u64::from_le_bytes);
    let value = value.unwrap_or_default();
    assert_bytes(content, &content_of(value), "a read during writes");
    value
}

/// Lets eight workers on three clients at four files, and writes down what they do.
async fn record(store: &Store, calls: u64) -> History {
    let clients = store.clients(3).await;
    let clock = Arc::new(Clock {
        began: Instant::now(),
        last: AtomicU64::new(0),
    });
    let events = Arc::new(Mutex::new(Vec::new()));
    let workers = (0..WORKERS).map(|number| {
        let worker = Worker {
            client: clients[number as usize % clients.len()].clone(),
            clock: clock.clone(),
            events: events.clone(),
            random: Random::new(store.seed() ^ (number << 32)),
            next_value: 1 + number,
        };
        spawn(worker.work(calls))
    });
    future::join_all(workers.collect::<Vec<_>>()).await;

    let capabilities = clients[0].capabilities();
    let events = std::mem::take(&mut *events.lock().unwrap_or_else(PoisonError::into_inner));
    History::new(capabilities.list_lag, !capabilities.atomic_replace, events)
}

struct Worker {
    client: Client,
    clock: Arc<Clock>,
    events: Arc<Mutex<Vec<Event>>>,
    random: Random,
    next_value: u64,
}

impl Worker {
    async fn work(mut self, calls: u64) {
        for _ in 0..calls {
            let file = 1 + self.random.below(FILES);
            let start = self.clock.now();
            let (call, ended) = match self.random.below(20) {
                0..7 => self.write(file, usize::MAX).await,
                7 => {
                    let polls = 1 + self.random.below(4) as usize;
                    self.write(file, polls).await
                }
                8 | 9 => {
                    ok(self.client.delete(&[raw(file)]).await, "a delete");
                    (Call::Delete { file }, true)
                }
                10 => {
                    let files = [raw(file)];
                    let deleted = steps(self.client.delete(&files), 1).await;
                    let ended = deleted.map(|deleted| ok(deleted, "a delete")).is_some();
                    (Call::Delete { file }, ended)
                }
                11 | 12 => {
                    let listed = self
                        .client
                        .listing(Level::RAW, Txid::FIRST, Timestamps::Fast);
                    let number = |file: FileId| file.txids.min().get();
                    let found = listed.await.iter().map(|info| number(info.id)).collect();
                    (Call::List { found }, true)
                }
                _ => {
                    let found = self.client.content_of(raw(file)).await;
                    let found = found.as_ref().map(value_of);
                    (Call::Read { file, found }, true)
                }
            };
            let end = ended.then(|| self.clock.now());
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            events.push(Event { start, end, call });
        }
    }

    /// Writes a new value, and drops the call after so many polls.
    async fn write(&mut self, file: u64, polls: usize) -> (Call, bool) {
        let value = self.next_value;
        self.next_value += WORKERS;
        let body = content_of(value).into();
        let written = steps(self.client.write(raw(file), NOON, body), polls).await;
        let ended = written.map(|written| ok(written, "a write")).is_some();
        (Call::Write { file, value }, ended)
    }
}

/// How many calls each worker makes.
fn effort(store: &Store) -> u64 {
    if store.slow() { 150 } else { 40 }
}

/// Saves the history where the run was asked to, before it is judged.
fn save(store: &Store, history: &History, name: &str) {
    if let Some(folder) = store.histories() {
        let path = folder.join(format!("{name}.jsonl"));
        if let Err(error) = std::fs::write(&path, history.to_string()) {
            panic!("could not save the history as {}: {error}", path.display());
        }
    }
}

pub(crate) async fn reads_see_the_last_write(store: Store) {
    let history = record(&store, effort(&store)).await;

    save(&store, &history, "reads_see_the_last_write");
    if let Err(violation) = history.check_files() {
        panic!("not linearizable (seed {}): {violation}", store.seed());
    }
}

pub(crate) async fn listings_show_what_is_there(store: Store) {
    let history = record(&store, effort(&store)).await;

    save(&store, &history, "listings_show_what_is_there");
    if let Err(violation) = history.check_listings() {
        panic!("an impossible listing (seed {}): {violation}", store.seed());
    }
}

pub(crate) async fn a_saved_history_gets_the_same_verdict(store: Store) {
    let history = record(&store, 10).await;

    let text = history.to_string();
    let saved: History = match text.parse() {
        Ok(saved) => saved,
        Err(error) => panic!("a saved history can't be read: {error}"),
    };
    assert_eq!(saved, history, "a history changes when it is saved");
    assert_eq!(
        saved.check(),
        history.check(),
        "the verdict changes when it is saved"
    );
    if let Err(violation) = saved.check() {
        panic!("not linearizable (seed {}): {violation}", store.seed());
    }

    // The same history with one answer that can't be is refused, saved or not.
    let impossible =
        r#"{"start":1,"end":2,"call":{"read":{"file":1,"found":18446744073709551615}}}"#;
    let doctored: Result<History, _> = format!("{text}{impossible}\n").parse();
    assert!(
        doctored.is_ok_and(|doctored| doctored.check().is_err()),
        "a read of a value that nobody wrote passes"
    );
}

//! Reading back what was written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, Op, ReplicaClient, Result, Timestamp, Timestamps, Txid,
};
use tokio::sync::OwnedMutexGuard;

use crate::fingerprint::Fingerprint;

/// A client that reads back each file that it has written, and compares its length and checksum
/// with those of the body.
///
/// A file that differs is read once more, in case the damage was done on the way back. If it
/// still differs it is deleted, because a damaged file must not be taken for a whole one (K11),
/// and the write fails with an error of kind [`Corrupt`](ErrorKind::Corrupt). The file that it
/// replaced, if any, is lost.
///
/// Writes of one file through this client take turns, from the first byte sent to the verdict, so
/// that what is read back, and deleted, is a writer's own. A body may read through this client;
/// one that writes its own file through it waits for itself. Nothing else waits: a file that is
/// not there any more where a delete ran at the same time through this client is no damage.
/// Other clients may not write other content under the same name meanwhile: it would be taken
/// for damage.
///
/// A body costs no memory, and the write of it twice the traffic. A read back that fails leaves
/// it open whether the file is good, and is the error of the write.
#[derive(Debug)]
pub struct Verify<C> {
    client: C,
    changes: Changes,
}

impl<C: ReplicaClient> Verify<C> {
    /// Verifies what is written on `client`.
    pub fn new(client: C) -> Verify<C> {
        Verify {
            client,
            changes: Changes::default(),
        }
    }

    /// What is stored as `file`; nothing, where it is not there.
    async fn read_back(&self, file: FileId) -> Result<Option<Fingerprint>> {
        let mut bytes = match self.client.open(file, ByteRange::ALL).await {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            result => result?,
        };
        let mut stored = Fingerprint::default();
        while let Some(chunk) = bytes.try_next().await? {
            stored.update(&chunk);
        }
        Ok(Some(stored))
    }

    /// Takes a damaged file away, and says so.
    async fn discard(&self, file: FileId, damage: String) -> Error {
        let corrupt = |message| {
            Error::new(ErrorKind::Corrupt, message)
                .of(file)
                .during(Op::Write, self.scheme())
        };
        match self.client.delete(&[file]).await {
            Ok(()) => corrupt(format!("{damage}; the file was deleted")),
            Err(error) => {
                corrupt(format!("{damage}; the file could not be deleted")).with_source(error)
            }
        }
    }
}

/// How often a file is read back before it is taken for damaged.
const READS: usize = 2;

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: ReplicaClient> ReplicaClient for Verify<C> {
    fn scheme(&self) -> &'static str {
        self.client.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        self.client.list(level, from, timestamps).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        self.client.open(file, range).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let writing = self.changes.begin_write(file).await;
        let sent = Sent::default();
        let body = sent.watch(body);
        let info = self.client.write(file, created_at, body).await?;
        let sent = sent.fingerprint();
        let mut damage = String::new();
        for _ in 0..READS {
            let stored = self.read_back(file).await?;
            if stored.is_none() && writing.may_have_been_undone() {
                return Ok(info);
            }
            match damage_of(sent, info.size, stored) {
                None => return Ok(info),
                Some(found) => damage = found,
            }
        }
        Err(self.discard(file, damage).await)
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let _deleting = self.changes.begin_delete(files);
        self.client.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        let _deleting = self.changes.begin_delete_all();
        self.client.delete_all().await
    }
}

/// How what was `stored` differs from what was `sent`, of which the store said it had `said`
/// bytes. A body that was not read to its end has no fingerprint.
fn damage_of(sent: Option<Fingerprint>, said: u64, stored: Option<Fingerprint>) -> Option<String> {
    let Some(sent) = sent else {
        return Some("the store did not read all of the body".to_owned());
    };
    let Some(stored) = stored else {
        return Some(format!(
            "{} bytes were written, and there is no file",
            sent.len()
        ));
    };
    if stored.len() != sent.len() || said != sent.len() {
        Some(format!(
            "{} bytes were sent, {said} said to be written, and {} read back",
            sent.len(),
            stored.len()
        ))
    } else if stored != sent {
        Some(format!(
            "the {} bytes that were read back are not those that were written",
            sent.len()
        ))
    } else {
        None
    }
}

/// What a store has read of a body.
#[derive(Default)]
struct Sent {
    progress: Arc<Mutex<Progress>>,
}

#[derive(Default)]
struct Progress {
    fingerprint: Fingerprint,
    /// What the body was said to have.
    size: Option<u64>,
    ended: bool,
}

impl Sent {
    /// The same body, whose last reading is noted here.
    fn watch(&self, body: Body) -> Body {
        if let Some(bytes) = body.as_bytes() {
            let mut progress = lock(&self.progress);
            progress.fingerprint.update(bytes);
            progress.ended = true;
            drop(progress);
            return body;
        }
        let size = body.size();
        let progress = Arc::clone(&self.progress);
        body.map_stream(move |stream| {
            *lock(&progress) = Progress {
                size,
                ..Progress::default()
            };
            let (read, ended) = (Arc::clone(&progress), Arc::clone(&progress));
            let end = stream::poll_fn(move |_| {
                lock(&ended).ended = true;
                Poll::Ready(None)
            });
            stream
                .inspect_ok(move |chunk| lock(&read).fingerprint.update(chunk))
                .chain(end)
                .boxed()
        })
    }

    /// Of the whole body; nothing, where it was not read to its end.
    fn fingerprint(&self) -> Option<Fingerprint> {
        let progress = lock(&self.progress);
        let whole = progress.ended || progress.size == Some(progress.fingerprint.len());
        whole.then_some(progress.fingerprint)
    }
}

/// The writes and deletes that run, and the writes that wait for their turn.
#[derive(Debug, Default)]
struct Changes {
    running: Mutex<Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// The files that are being changed, and no others.
    files: HashMap<FileId, Rivals>,
    /// How many deletes of everything run.
    deletes_of_all: usize,
}

#[derive(Debug, Default)]
struct Rivals {
    /// How many writes run or wait, and deletes run.
    count: usize,
    /// How many of those are deletes.
    deletes: usize,
    /// Whether a delete has run since the write whose turn it is began.
    deleted: bool,
    /// Held by the write whose turn it is.
    turn: Arc<Turn>,
}

type Turn = tokio::sync::Mutex<()>;

impl Changes {
    /// Waits for the turn to write `file`.
    async fn begin_write(&self, file: FileId) -> Change<'_> {
        let (mut change, turn) = {
            let mut running = lock(&self.running);
            let rivals = running.files.entry(file).or_default();
            rivals.count += 1;
            let turn = Arc::clone(&rivals.turn);
            (Change::new(self, What::Write(file)), turn)
        };
        change.turn = Some(turn.lock_owned().await);
        let mut running = lock(&self.running);
        let deletes_of_all = running.deletes_of_all;
        if let Some(rivals) = running.files.get_mut(&file) {
            rivals.deleted = rivals.deletes + deletes_of_all > 0;
        }
        drop(running);
        change
    }

    fn begin_delete(&self, files: &[FileId]) -> Change<'_> {
        let mut running = lock(&self.running);
        for file in files {
            let rivals = running.files.entry(*file).or_default();
            rivals.count += 1;
            rivals.deletes += 1;
            rivals.deleted = true;
        }
        Change::new(self, What::Delete(files.to_vec()))
    }

    fn begin_delete_all(&self) -> Change<'_> {
        let mut running = lock(&self.running);
        running.deletes_of_all += 1;
        for rivals in running.files.values_mut() {
            rivals.deleted = true;
        }
        Change::new(self, What::DeleteAll)
    }
}

/// A write or a delete that runs, or waits for its turn, until this is dropped.
struct Change<'a> {
    changes: &'a Changes,
    what: What,
    turn: Option<OwnedMutexGuard<()>>,
}

enum What {
    Write(FileId),
    Delete(Vec<FileId>),
    DeleteAll,
}

impl Change<'_> {
    fn new(changes: &Changes, what: What) -> Change<'_> {
        Change {
            changes,
            what,
            turn: None,
        }
    }

    /// Whether a delete of the file that is written has run at the same time.
    fn may_have_been_undone(&self) -> bool {
        let What::Write(file) = &self.what else {
            return false;
        };
        let running = lock(&self.changes.running);
        running.files.get(file).is_some_and(|rivals| rivals.deleted)
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        let mut running = lock(&self.changes.running);
        let (files, deletes) = match &self.what {
            What::Write(file) => (std::slice::from_ref(file), 0),
            What::Delete(files) => (files.as_slice(), 1),
            What::DeleteAll => {
                running.deletes_of_all -= 1;
                return;
            }
        };
        for file in files {
            if let Some(rivals) = running.files.get_mut(file) {
                rivals.count -= 1;
                rivals.deletes -= deletes;
                if rivals.count == 0 {
                    running.files.remove(file);
                }
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Mutants that break when calls overlap or are dropped.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use replica_core::{
    Body, ByteRange, ByteStream, Error, ErrorKind, FileId, FileInfo, FileStream, Level,
    ReplicaClient, Result, Timestamp, async_trait, listing,
};
use replica_mock::MockClient;
use tokio::sync::{RwLock, Semaphore};
use tokio::task::yield_now;

use crate::{Bug, Query, collect, info, leaking, lock, mutants};

mutants! {
    all_writers_have_one_staging_file: Staging::new(|_| None) => [
        "concurrency::many_writers_of_many_names",
        "concurrency::many_writers_of_one_name",
    ];
    the_staging_file_is_named_after_the_file: Staging::new(Some) => [
        "concurrency::many_writers_of_one_name",
    ];
    an_overwrite_comes_in_pieces: InPieces => [
        "concurrency::readers_during_overwrites",
        "concurrency::a_mixed_load_keeps_every_promise",
        "cancel::an_overwrite_dropped_at_any_step",
    ];
    a_delete_comes_in_pieces: DeletesInPieces => [
        "concurrency::readers_during_deletes",
        "cancel::a_dropped_delete_leaves_files_or_not",
    ];
    a_dropped_delete_leaves_listed_ghosts: Ghosts::default() => [
        "cancel::a_dropped_delete_leaves_files_or_not",
    ];
    listings_are_cached_while_others_write: CachedListings::default() => [
        "concurrency::listings_during_writes",
        "linear::listings_show_what_is_there",
    ];
    two_can_not_make_one_folder: FolderRace::default() => [
        "concurrency::first_writes_of_a_new_level",
    ];
    a_write_locks_the_store: OneLock::default() => [
        "concurrency::a_slow_write_blocks_nobody",
        "cancel::a_time_limit_is_kept",
    ];
    a_stream_locks_the_store: StreamsLock::default() => [
        "concurrency::a_held_stream_blocks_nobody",
        "concurrency::an_open_stream_never_mixes_versions",
    ];
    there_are_sixteen_connections: Connections::of(16, false) => [
        "concurrency::many_readers_take_turns",
    ];
    a_dropped_reader_keeps_its_connection: Connections::of(64, true) => [
        "cancel::readers_dropped_half_way",
    ];
    a_dropped_write_leaves_its_beginning: LeavesBeginnings => [
        "cancel::a_write_dropped_at_any_step",
        "cancel::an_overwrite_dropped_at_any_step",
        "cancel::a_dropped_write_never_publishes_later",
        "model::calls_that_fail_have_happened_or_not",
    ];
    a_write_goes_on_without_its_caller: GoesOn => ["cancel::a_dropped_write_never_publishes_later"];
    a_dropped_call_leaves_its_lock: LeavesLocks::default() => [
        "cancel::calls_dropped_at_any_step",
        "cancel::a_dropped_delete_leaves_files_or_not",
        "model::calls_that_fail_have_happened_or_not",
    ];
}

/// Collects a body under a name that others may have too, and publishes what is there.
struct Staging {
    name: fn(FileId) -> Option<FileId>,
    staged: Mutex<HashMap<Option<FileId>, BytesMut>>,
}

impl Staging {
    fn new(name: fn(FileId) -> Option<FileId>) -> Staging {
        Staging {
            name,
            staged: Mutex::default(),
        }
    }
}

#[async_trait]
impl Bug for Staging {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let name = (self.name)(file);
        let mut stream = body.into_stream();
        while let Some(chunk) = stream.try_next().await? {
            let mut staged = lock(&self.staged);
            staged.entry(name).or_default().extend_from_slice(&chunk);
        }
        let whole = lock(&self.staged).remove(&name).unwrap_or_default();
        let size = whole.len();
        mock.put(file, time, whole.freeze());
        Ok(info(file, time, size))
    }
}

struct InPieces;

#[async_trait]
impl Bug for InPieces {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let whole = collect(body).await?;
        if let Some(old) = mock.content(file) {
            let half = whole.len().min(old.len()) / 2;
            mock.put(file, time, [&whole[..half], &old[half..]].concat());
            yield_now().await;
        }
        mock.write(file, time, whole.into()).await
    }
}

struct DeletesInPieces;

#[async_trait]
impl Bug for DeletesInPieces {
    async fn delete(&self, mock: &MockClient, files: &[FileId]) -> Result<()> {
        for file in files {
            if let Some((time, old)) = mock.snapshot().get(file) {
                mock.put(*file, *time, old.slice(..old.len() / 2));
                yield_now().await;
                yield_now().await;
            }
            mock.remove(*file);
        }
        Ok(())
    }
}

/// Forgets the content of a file before its name.
#[derive(Default)]
struct Ghosts(Mutex<HashSet<FileId>>);

#[async_trait]
impl Bug for Ghosts {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        if lock(&self.0).contains(&file) {
            return Err(Error::new(ErrorKind::NotFound, "no such file").of(file));
        }
        mock.open(file, range).await
    }

    async fn delete(&self, mock: &MockClient, files: &[FileId]) -> Result<()> {
        lock(&self.0).extend(files);
        yield_now().await;
        mock.delete(files).await?;
        lock(&self.0).retain(|file| !files.contains(file));
        Ok(())
    }
}

/// While a write is under way, gives the listing from before it.
#[derive(Default)]
struct CachedListings {
    writing: AtomicU32,
    cached: Mutex<HashMap<Level, Vec<FileInfo>>>,
}

#[async_trait]
impl Bug for CachedListings {
    async fn list(&self, mock: &MockClient, query: Query) -> Result<FileStream> {
        let fresh = query.all(mock).await?;
        let mut cached = lock(&self.cached);
        let cached = cached.entry(query.level).or_default();
        if self.writing.load(Ordering::Relaxed) == 0 {
            *cached = fresh;
        }
        Ok(listing(cached.clone(), query.from))
    }

    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        self.writing.fetch_add(1, Ordering::Relaxed);
        let written = mock.write(file, time, body).await;
        self.writing.fetch_sub(1, Ordering::Relaxed);
        written
    }
}

#[derive(Default)]
struct FolderRace(Mutex<HashSet<Level>>);

#[async_trait]
impl Bug for FolderRace {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let is_there = lock(&self.0).contains(&file.level);
        yield_now().await;
        if !is_there && !lock(&self.0).insert(file.level) {
            return Err(Error::new(ErrorKind::Other, "the folder exists"));
        }
        mock.write(file, time, body).await
    }
}

/// Does one thing after another.
#[derive(Default)]
struct OneLock(tokio::sync::Mutex<()>);

#[async_trait]
impl Bug for OneLock {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let _one = self.0.lock().await;
        mock.open(file, range).await
    }

    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let lock = self.0.lock().await;
        // A caller that goes away never unlocks it.
        let lock = std::mem::ManuallyDrop::new(lock);
        let written = mock.write(file, time, body).await;
        drop(std::mem::ManuallyDrop::into_inner(lock));
        written
    }
}

/// Lets nobody change anything while somebody reads.
#[derive(Default)]
struct StreamsLock(Arc<RwLock<()>>);

#[async_trait]
impl Bug for StreamsLock {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let lock = self.0.clone().read_owned().await;
        let reading = mock.open(file, range).await?;
        Ok(reading
            .inspect(move |_| {
                let _held = &lock;
            })
            .boxed())
    }

    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let _lock = self.0.write().await;
        mock.write(file, time, body).await
    }
}

/// Has so many connections, of which each stream takes one.
struct Connections {
    free: Arc<Semaphore>,
    leak: bool,
}

impl Connections {
    fn of(count: usize, leak: bool) -> Connections {
        Connections {
            free: Arc::new(Semaphore::new(count)),
            leak,
        }
    }
}

#[async_trait]
impl Bug for Connections {
    async fn open(&self, mock: &MockClient, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let permit = self
            .free
            .clone()
            .acquire_owned()
            .await
            .expect("nobody closes it");
        let reading = mock.open(file, range).await?;
        if self.leak {
            return Ok(leaking(reading, permit));
        }
        Ok(reading
            .inspect(move |_| {
                let _held = &permit;
            })
            .boxed())
    }
}

struct LeavesBeginnings;

#[async_trait]
impl Bug for LeavesBeginnings {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        struct Publish<'a>(&'a MockClient, FileId, Timestamp, BytesMut);
        impl Drop for Publish<'_> {
            fn drop(&mut self) {
                let begun: Bytes = self.3.split().freeze();
                self.0.put(self.1, self.2, begun);
            }
        }
        let mut begun = Publish(mock, file, time, BytesMut::new());
        let mut stream = body.into_stream();
        yield_now().await;
        while let Some(chunk) = stream.try_next().await? {
            begun.3.extend_from_slice(&chunk);
            yield_now().await;
        }
        Ok(info(file, time, begun.3.len()))
    }
}

struct GoesOn;

#[async_trait]
impl Bug for GoesOn {
    async fn write(
        &self,
        mock: &MockClient,
        file: FileId,
        time: Timestamp,
        body: Body,
    ) -> Result<FileInfo> {
        let mock = mock.clone();
        let writing = tokio::spawn(async move { mock.write(file, time, body).await });
        writing.await.expect("the mock does not panic")
    }
}

/// Marks each delete as under way, and waits for ever for one that never ended.
#[derive(Default)]
struct LeavesLocks(AtomicU32);

impl LeavesLocks {
    async fn begin(&self) {
        while self.0.swap(1, Ordering::Relaxed) == 1 {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}

#[async_trait]
impl Bug for LeavesLocks {
    async fn delete(&self, mock: &MockClient, files: &[FileId]) -> Result<()> {
        self.begin().await;
        let deleted = mock.delete(files).await;
        self.0.store(0, Ordering::Relaxed);
        deleted
    }
}

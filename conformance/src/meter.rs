//! Counting what a case asks of its store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, ReplicaClient,
    Result, Timestamp, Timestamps, Txid, async_trait,
};
use serde::Serialize;

/// How often each operation was called, and how many bytes of files went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Calls of `list`.
    pub list: u64,
    /// Calls of `open`.
    pub open: u64,
    /// Calls of `write`.
    pub write: u64,
    /// Calls of `delete`.
    pub delete: u64,
    /// Calls of `delete_all`.
    pub delete_all: u64,
    /// Bytes that were taken from bodies.
    pub bytes_written: u64,
    /// Bytes that came out of streams.
    pub bytes_read: u64,
}

impl Usage {
    /// Calls of any operation.
    pub fn calls(&self) -> u64 {
        self.list + self.open + self.write + self.delete + self.delete_all
    }

    /// Bytes in either direction.
    pub fn bytes(&self) -> u64 {
        self.bytes_written + self.bytes_read
    }

    pub(crate) fn add(&mut self, other: &Usage) {
        self.list += other.list;
        self.open += other.open;
        self.write += other.write;
        self.delete += other.delete;
        self.delete_all += other.delete_all;
        self.bytes_written += other.bytes_written;
        self.bytes_read += other.bytes_read;
    }
}

/// The counts of one case, shared by all its clients.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    list: AtomicU64,
    open: AtomicU64,
    write: AtomicU64,
    delete: AtomicU64,
    delete_all: AtomicU64,
    bytes_written: AtomicU64,
    bytes_read: AtomicU64,
    waited_ms: AtomicU64,
    waits: Waits,
}

/// How long all cases of a run together have waited because their store declared that they must.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits(Arc<AtomicU64>);

impl Waits {
    pub(crate) fn total(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

impl Meter {
    /// Counts for one case, whose waits are added to those of the others.
    pub(crate) fn new(waits: &Waits) -> Meter {
        Meter {
            waits: waits.clone(),
            ..Meter::default()
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            list: get(&self.list),
            open: get(&self.open),
            write: get(&self.write),
            delete: get(&self.delete),
            delete_all: get(&self.delete_all),
            bytes_written: get(&self.bytes_written),
            bytes_read: get(&self.bytes_read),
        }
    }

    /// How long the case has waited because its store declared that it must: time that does not
    /// count against the case's limit.
    pub(crate) fn waited(&self) -> Duration {
        Duration::from_millis(self.waited_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn add_wait(&self, wait: Duration) {
        let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        add(&self.waited_ms, millis);
        add(&self.waits.0, millis);
    }
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// A client that counts what passes through it, and changes nothing.
#[derive(Debug)]
pub(crate) struct Metered {
    inner: Arc<dyn ReplicaClient>,
    meter: Arc<Meter>,
}

impl Metered {
    pub(crate) fn new(inner: Arc<dyn ReplicaClient>, meter: Arc<Meter>) -> Metered {
        Metered { inner, meter }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ReplicaClient for Metered {
    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        add(&self.meter.list, 1);
        self.inner.list(level, from, timestamps).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        add(&self.meter.open, 1);
        let stream = self.inner.open(file, range).await?;
        Ok(counted(stream, Arc::clone(&self.meter), |meter| {
            &meter.bytes_read
        }))
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        add(&self.meter.write, 1);
        // Bytes in memory stay what they are, so that a client's short cut for them is tested.
        let body = match body.as_bytes() {
            Some(bytes) => {
                add(&self.meter.bytes_written, bytes.len() as u64);
                body
            }
            None => {
                let meter = Arc::clone(&self.meter);
                body.map_stream(move |stream| {
                    counted(stream, Arc::clone(&meter), |meter| &meter.bytes_written)
                })
            }
        };
        self.inner.write(file, created_at, body).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        add(&self.meter.delete, 1);
        self.inner.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        add(&self.meter.delete_all, 1);
        self.inner.delete_all().await
    }
}

fn counted(stream: ByteStream, meter: Arc<Meter>, counter: fn(&Meter) -> &AtomicU64) -> ByteStream {
    let count = move |chunk: &Result<Bytes>| {
        if let Ok(chunk) = chunk {
            add(counter(&meter), chunk.len() as u64);
        }
    };
    stream.inspect(count).boxed()
}

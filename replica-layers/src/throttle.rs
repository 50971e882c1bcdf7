//! Leaving some of the line to others.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, ReplicaClient,
    Result, Timestamp, Timestamps, Txid,
};
use tokio::time::Instant;

/// A client that moves at most so many bytes a second: as many up, and as many down, over all of
/// its calls together.
///
/// An idle line saves up a tenth of a second's worth, and no more. Large chunks are passed on in
/// pieces of that size, 64 KiB at most, so that the line is used evenly. Only the bytes of files
/// count.
#[derive(Debug)]
pub struct Throttle<C> {
    client: C,
    up: Arc<Meter>,
    down: Arc<Meter>,
}

impl<C: ReplicaClient> Throttle<C> {
    /// Moves at most `bytes_per_second` of files to `client`, and as many from it.
    pub fn new(client: C, bytes_per_second: NonZeroU64) -> Throttle<C> {
        Throttle {
            client,
            up: Arc::new(Meter::new(bytes_per_second)),
            down: Arc::new(Meter::new(bytes_per_second)),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: ReplicaClient> ReplicaClient for Throttle<C> {
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
        let bytes = self.client.open(file, range).await?;
        Ok(metered(bytes, Arc::clone(&self.down)))
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let up = Arc::clone(&self.up);
        let body = body.map_stream(move |bytes| metered(bytes, Arc::clone(&up)));
        self.client.write(file, created_at, body).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.client.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.client.delete_all().await
    }
}

/// The same bytes, in pieces, each when `meter` lets it pass.
fn metered(bytes: ByteStream, meter: Arc<Meter>) -> ByteStream {
    stream::unfold((bytes, Bytes::new(), meter), |state| async move {
        let (mut bytes, mut chunk, meter) = state;
        if chunk.is_empty() {
            chunk = match bytes.next().await? {
                Ok(chunk) => chunk,
                Err(error) => return Some((Err(error), (bytes, Bytes::new(), meter))),
            };
        }
        let piece = chunk.split_to(chunk.len().min(meter.piece));
        // A timer costs a tick of its clock even where nothing is owed.
        if let Some(passes_at) = meter.pass(piece.len()) {
            tokio::time::sleep_until(passes_at).await;
        }
        Some((Ok(piece), (bytes, chunk, meter)))
    })
    .boxed()
}

/// A token bucket that holds what a tenth of a second brings, kept as the time at which it will
/// be full again.
#[derive(Debug)]
struct Meter {
    bytes_per_second: NonZeroU64,
    /// The most that is passed on as one.
    piece: usize,
    full_at: Mutex<Option<Instant>>,
}

const BURST: Duration = Duration::from_millis(100);

const PIECE_MAX: u64 = 64 * 1024;

impl Meter {
    fn new(bytes_per_second: NonZeroU64) -> Meter {
        let burst = bytes_per_second.get() / 10;
        Meter {
            bytes_per_second,
            piece: usize::try_from(burst.clamp(1, PIECE_MAX)).expect("64 KiB fit in a usize"),
            full_at: Mutex::new(None),
        }
    }

    /// Lets `bytes`, a piece at most, pass at the time returned, or now where there is none.
    ///
    /// They are spoken for from then on, even where the caller goes away before that time.
    fn pass(&self, bytes: usize) -> Option<Instant> {
        let nanos = (bytes as u128 * 1_000_000_000).div_ceil(self.bytes_per_second.get().into());
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let paid_at = full_at.map_or(now, |full_at| full_at.max(now)) + cost;
        *full_at = Some(paid_at);
        let owed = paid_at.duration_since(now).saturating_sub(BURST);
        (!owed.is_zero()).then(|| now + owed)
    }
}

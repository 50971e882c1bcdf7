//! Not asking for everything at once.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, ReplicaClient,
    Result, Timestamp, Timestamps, Txid,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A client that lets so many calls run at once, and the others wait their turn, in order.
///
/// A call is one until it returns. A stream that it returned is none: how fast and how long it
/// is read is its reader's affair, who may well hold several of them while it opens another, as
/// a merge does, and would wait for itself if each of them counted. For the same reason a write
/// gives its turn up while it waits for its body, which may come from other calls of this client.
///
/// So it does not bound how many writes have begun: each one whose body lets it wait makes room
/// for the next to begin. And it may have to wait for its turn in the middle: see
/// [`TimeoutSettings::body`](crate::TimeoutSettings::body).
///
/// A future that was polled keeps its turn until it is polled to its end or dropped, so one that
/// is set aside half done may hold up all others.
#[derive(Debug)]
pub struct Limit<C> {
    client: C,
    turns: Arc<Semaphore>,
}

impl<C: ReplicaClient> Limit<C> {
    /// Lets `calls` run on `client` at once.
    pub fn new(client: C, calls: NonZeroUsize) -> Limit<C> {
        let calls = calls.get().min(Semaphore::MAX_PERMITS);
        Limit {
            client,
            turns: Arc::new(Semaphore::new(calls)),
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: ReplicaClient> ReplicaClient for Limit<C> {
    fn scheme(&self) -> &'static str {
        self.client.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        let _turn = Turn::of(&self.turns).await;
        self.client.list(level, from, timestamps).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let _turn = Turn::of(&self.turns).await;
        self.client.open(file, range).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let turn = Arc::new(Turn::of(&self.turns).await);
        let lent = Arc::clone(&turn);
        let body = body.map_stream(move |bytes| without_a_turn(bytes, Arc::clone(&lent)));
        self.client.write(file, created_at, body).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let _turn = Turn::of(&self.turns).await;
        self.client.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        let _turn = Turn::of(&self.turns).await;
        self.client.delete_all().await
    }
}

/// The same bytes; while they are waited for, `turn` is given up.
fn without_a_turn(bytes: ByteStream, turn: Arc<Turn>) -> ByteStream {
    stream::unfold((bytes, turn), |(mut bytes, turn)| async move {
        let mut next = bytes.next();
        let item = match futures::poll!(&mut next) {
            std::task::Poll::Ready(item) => item,
            std::task::Poll::Pending => {
                turn.give_up();
                let item = next.await;
                turn.take_again().await;
                item
            }
        };
        Some((item?, (bytes, turn)))
    })
    .boxed()
}

/// One of the turns, which may be given up for a while.
struct Turn {
    turns: Arc<Semaphore>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    async fn of(turns: &Arc<Semaphore>) -> Turn {
        let turn = Turn {
            turns: Arc::clone(turns),
            permit: Mutex::new(None),
        };
        turn.take_again().await;
        turn
    }

    async fn take_again(&self) {
        let permit = Arc::clone(&self.turns).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        self.hold(Some(permit));
    }

    fn give_up(&self) {
        self.hold(None);
    }

    fn hold(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

//! Giving up on what does not answer.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, Op, ReplicaClient, Result, Timestamp, Timestamps, Txid,
};
use tokio::time::{Instant, Sleep};

/// A client that gives up on a call that does not answer, and on a body that stands still.
///
/// What is slow and gets on is not cut: the limits are on the time without progress. What is
/// given up ends in an error of kind [`Unavailable`](ErrorKind::Unavailable), and the call or
/// stream below is dropped, which stops its work (K20).
///
/// While a write waits for its body, the limits on the store stand still and the one on the body
/// runs: [`TimeoutSettings::body`]. The body comes through the layers outside of this one, so what
/// they make it wait counts there: [`Limit`](crate::Limit) for a turn, [`Throttle`](crate::Throttle)
/// for the line. That can't be told from a caller who stalls: both are a body that does not come.
///
/// Two waits count nowhere: the one for the turn of a whole call, which is before the call gets
/// here; and what a `Throttle` holds back of a file that is read, which is between two requests of
/// its reader.
#[derive(Debug)]
pub struct Timeout<C> {
    client: C,
    settings: TimeoutSettings,
    /// Those of a write.
    write: TimeoutSettings,
}

/// How long a [`Timeout`] waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// For an answer: a listing or a file to be opened, a write to begin and, when all of its
    /// body has been taken, to end. A delete has as much for each thousand files or part of it.
    pub call: Duration,
    /// For the store to give the next piece of a file or the next file of a listing, and to ask
    /// for the next piece of a body. A store that takes a part of several megabytes before it
    /// sends it asks for nothing meanwhile: see
    /// [`leaving_writes_to_the_client`](Timeout::leaving_writes_to_the_client).
    pub stall: Duration,
    /// For the next piece of a body to be written to come, once the store has asked for it. With
    /// a `Limit` or a `Throttle` outside of the `Timeout` this must be more than the longest wait
    /// for a turn or for a piece's share of the line, which only their user knows.
    pub body: Duration,
    /// For deleting everything, of which nobody knows how much it is.
    pub delete_all: Duration,
}

/// A minute for an answer and for each piece of the store's, ten for each piece of a body, and an
/// hour for deleting everything.
impl Default for TimeoutSettings {
    fn default() -> TimeoutSettings {
        TimeoutSettings {
            call: Duration::from_secs(60),
            stall: Duration::from_secs(60),
            body: Duration::from_secs(10 * 60),
            delete_all: Duration::from_secs(60 * 60),
        }
    }
}

impl<C: ReplicaClient> Timeout<C> {
    /// Waits for `client` as long as `settings` say.
    pub fn new(client: C, settings: TimeoutSettings) -> Timeout<C> {
        Timeout {
            client,
            settings,
            write: settings,
        }
    }

    /// The same, for a client that gives up by itself on each request of a write that does not get
    /// on. Of a write only the wait for its body has a limit here.
    ///
    /// What a write sends can't be seen from here, only what it takes. A client of a bucket takes
    /// some parts of a file as fast as they come and then nothing until one of them has arrived,
    /// which over a slow line takes as long as the line needs.
    #[must_use]
    pub fn leaving_writes_to_the_client(mut self) -> Timeout<C> {
        self.write = TimeoutSettings {
            call: Duration::MAX,
            stall: Duration::MAX,
            ..self.settings
        };
        self
    }

    fn no_answer(&self, op: Op, limit: Duration) -> Error {
        let message = format!("no answer within {limit:?}");
        Error::new(ErrorKind::Unavailable, message).during(op, self.scheme())
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<C: ReplicaClient> ReplicaClient for Timeout<C> {
    fn scheme(&self) -> &'static str {
        self.client.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        let TimeoutSettings { call, stall, .. } = self.settings;
        let files =
            match tokio::time::timeout(call, self.client.list(level, from, timestamps)).await {
                Ok(files) => files?,
                Err(_) => return Err(self.no_answer(Op::List, call)),
            };
        let scheme = self.scheme();
        Ok(without_stalls(files, stall, move || {
            stalled(stall).during(Op::List, scheme)
        }))
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let TimeoutSettings { call, stall, .. } = self.settings;
        let bytes = match tokio::time::timeout(call, self.client.open(file, range)).await {
            Ok(bytes) => bytes?,
            Err(_) => return Err(self.no_answer(Op::Open, call).of(file)),
        };
        let scheme = self.scheme();
        let error = move || stalled(stall).of(file).during(Op::Open, scheme);
        Ok(without_stalls(bytes, stall, error))
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let progress = Progress::new(Wait::Answer, self.write.call);
        let body = progress.watch(body, self.write);
        let mut write = self.client.write(file, created_at, body);
        let mut limit = pin!(tokio::time::sleep_until(progress.now().deadline));
        let written = poll_fn(|context| {
            if let Poll::Ready(result) = write.as_mut().poll(context) {
                return Poll::Ready(Some(result));
            }
            let deadline = progress.now().deadline;
            if limit.deadline() != deadline {
                limit.as_mut().reset(deadline);
            }
            limit.as_mut().poll(context).map(|()| None)
        });
        if let Some(result) = written.await {
            return result;
        }
        let State { wait, limit, .. } = progress.now();
        Err(match wait {
            Wait::Answer => self.no_answer(Op::Write, limit).of(file),
            Wait::Body => Error::new(
                ErrorKind::Unavailable,
                format!("nothing came of the body for {limit:?}"),
            )
            .of(file)
            .during(Op::Write, self.scheme()),
        })
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        let thousands = u32::try_from(files.len().div_ceil(1000)).unwrap_or(u32::MAX);
        let limit = self.settings.call.saturating_mul(thousands.max(1));
        match tokio::time::timeout(limit, self.client.delete(files)).await {
            Ok(result) => result,
            Err(_) => Err(self
                .no_answer(Op::Delete, limit)
                .of_files(files.iter().copied())),
        }
    }

    async fn delete_all(&self) -> Result<()> {
        let limit = self.settings.delete_all;
        match tokio::time::timeout(limit, self.client.delete_all()).await {
            Ok(result) => result,
            Err(_) => Err(self.no_answer(Op::DeleteAll, limit)),
        }
    }
}

/// The same items, ending in an error when none comes within `limit` of being asked for. Items
/// that are there when they are asked for cost no timer.
fn without_stalls<T: Send + 'static>(
    items: stream::BoxStream<'static, Result<T>>,
    limit: Duration,
    error: impl Fn() -> Error + Send + 'static,
) -> stream::BoxStream<'static, Result<T>> {
    let mut items = Some(items);
    let mut patience: Option<Pin<Box<Sleep>>> = None;
    stream::poll_fn(move |context| {
        let Some(awaited) = &mut items else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(item) = awaited.poll_next_unpin(context) {
            patience = None;
            if item.is_none() {
                items = None;
            }
            return Poll::Ready(item);
        }
        let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(patience.as_mut().poll(context));
        items = None;
        Poll::Ready(Some(Err(error())))
    })
    .boxed()
}

fn stalled(limit: Duration) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("nothing came for {limit:?}"),
    )
}

/// What a write waits for, and how long.
#[derive(Clone)]
struct Progress(Arc<Mutex<State>>);

#[derive(Clone, Copy)]
struct State {
    wait: Wait,
    limit: Duration,
    deadline: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// For the store.
    Answer,
    /// For the body, which the store has asked for more.
    Body,
}

/// How much of a body in memory is shown to the store at once: the store takes the next piece
/// when it is done with this one, and that is progress.
const PIECE: usize = 64 * 1024;

impl State {
    fn new(wait: Wait, limit: Duration) -> State {
        State {
            wait,
            limit,
            deadline: later(limit),
        }
    }
}

impl Progress {
    fn new(wait: Wait, limit: Duration) -> Progress {
        Progress(Arc::new(Mutex::new(State::new(wait, limit))))
    }

    fn now(&self) -> State {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is the store's turn, which has another `limit`.
    fn await_answer(&self, limit: Duration) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::new(Wait::Answer, limit);
    }

    /// It is the body's turn, which has another `limit`, unless it was before.
    fn await_body(&self, limit: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.wait != Wait::Body {
            *state = State::new(Wait::Body, limit);
        }
    }

    /// The same body, in pieces; each of them, and its end, is progress.
    fn watch(&self, body: Body, settings: TimeoutSettings) -> Body {
        // One piece shows no progress, and a store may do better with bytes in memory.
        if body.as_bytes().is_some_and(|bytes| bytes.len() <= PIECE) {
            return body;
        }
        let progress = self.clone();
        body.map_stream(move |mut bytes| {
            let (mut chunk, progress) = (Bytes::new(), progress.clone());
            stream::poll_fn(move |context| {
                if chunk.is_empty() {
                    match bytes.poll_next_unpin(context) {
                        Poll::Ready(Some(Ok(next))) if next.is_empty() => {
                            // The next one may be empty too, and so on for ever: the limit has
                            // to be looked at in between.
                            context.waker().wake_by_ref();
                            progress.await_body(settings.body);
                            return Poll::Pending;
                        }
                        Poll::Ready(Some(Ok(next))) => chunk = next,
                        Poll::Pending => {
                            progress.await_body(settings.body);
                            return Poll::Pending;
                        }
                        end => {
                            progress.await_answer(settings.call);
                            return end;
                        }
                    }
                }
                progress.await_answer(settings.stall);
                Poll::Ready(Some(Ok(chunk.split_to(chunk.len().min(PIECE)))))
            })
            .boxed()
        })
    }
}

fn later(limit: Duration) -> Instant {
    let now = Instant::now();
    // As good as never.
    now.checked_add(limit)
        .unwrap_or_else(|| now + Duration::from_secs(60 * 60 * 24 * 365))
}

//! Work on Tokio's blocking threads, and how it learns that nobody waits for it any more.

use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures::stream::{self, Stream};
use replica_core::{Error, ErrorKind, Result};
use tokio::task::{JoinHandle, spawn_blocking};

/// Work on a blocking thread. Dropped before it has begun, it never begins; dropped later, it
/// ends on its own, and what it gives is dropped on its thread.
#[must_use]
pub(crate) struct Work<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Work<T> {
    pub(crate) fn spawn(work: impl FnOnce() -> Result<T> + Send + 'static) -> Work<T> {
        Work(spawn_blocking(work))
    }
}

impl<T> Future for Work<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        Poll::Ready(match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(_) => Err(Error::new(
                    ErrorKind::Unavailable,
                    "the runtime is shutting down",
                )),
            },
        })
    }
}

impl<T> Drop for Work<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The caller of a call whose work runs on a blocking thread, as that thread sees it.
///
/// Caller and thread race for one decision: whether the call happens. The first one has it.
#[derive(Clone, Debug)]
pub(crate) struct Caller(Arc<AtomicBool>);

/// The caller's end: dropping it decides that the call does not happen, unless it already has.
#[derive(Debug)]
pub(crate) struct Waiting(Arc<AtomicBool>);

impl Caller {
    pub(crate) fn new() -> (Waiting, Caller) {
        let decided = Arc::new(AtomicBool::new(false));
        (Waiting(Arc::clone(&decided)), Caller(decided))
    }

    /// Whether the work should stop, because its caller has gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// An error where the caller has gone, for `?`. Nobody is there to read it.
    pub(crate) fn still_waits(&self) -> Result<()> {
        if self.is_gone() {
            Err(Error::new(ErrorKind::Other, "the call was dropped"))
        } else {
            Ok(())
        }
    }

    /// Decides that the call happens: an error where the caller went away before. To be called
    /// once, right before what can't be undone.
    pub(crate) fn commit(&self) -> Result<()> {
        if self.0.swap(true, Ordering::AcqRel) {
            Err(Error::new(ErrorKind::Other, "the call was dropped"))
        } else {
            Ok(())
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Something that is read piece by piece on blocking threads. It is moved from hop to hop, so
/// that a reader who pauses holds no thread.
pub(crate) trait Source: Sized + Send + 'static {
    type Piece: Send + 'static;

    /// The next piece, and what is left after it.
    fn next(self) -> Result<(Self::Piece, Option<Self>)>;
}

/// The pieces of `source`, each read while its reader is busy with the one before. Nothing is
/// read before the first poll.
pub(crate) fn pieces<S: Source>(source: S) -> impl Stream<Item = Result<S::Piece>> + Send {
    enum State<S: Source> {
        Resting(S),
        Reading(Work<(S::Piece, Option<S>)>),
    }
    let read = |source: S| Work::spawn(move || source.next());
    stream::try_unfold(Some(State::Resting(source)), move |state| async move {
        let work = match state {
            None => return Ok(None),
            Some(State::Resting(source)) => read(source),
            Some(State::Reading(work)) => work,
        };
        let (piece, rest) = work.await?;
        Ok(Some((
            piece,
            rest.map(|source| State::Reading(read(source))),
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;
    use tokio::runtime::{Builder, Runtime};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A runtime whose only blocking thread does nothing else until the sender is dropped.
    fn busy_runtime() -> (Runtime, mpsc::SyncSender<()>) {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .expect("a machine that runs tests can run a runtime");
        let (busy, idle) = mpsc::sync_channel::<()>(0);
        runtime.spawn_blocking(move || idle.recv_timeout(PATIENCE));
        (runtime, busy)
    }

    #[test]
    fn work_that_is_dropped_before_it_begins_never_begins() {
        let (runtime, busy) = busy_runtime();
        let begun = Arc::new(AtomicBool::new(false));

        let work = {
            let (_entered, begun) = (runtime.enter(), Arc::clone(&begun));
            Work::spawn(move || {
                begun.store(true, Ordering::SeqCst);
                Ok(())
            })
        };
        drop(work);
        drop(busy);
        runtime.block_on(async { spawn_blocking(|| ()).await.unwrap() });

        assert!(!begun.load(Ordering::SeqCst));
    }

    #[test]
    fn work_that_comes_after_the_runtimes_end_is_an_error() {
        let (runtime, _busy) = busy_runtime();
        let handle = runtime.handle().clone();
        runtime.shutdown_background();

        let _entered = handle.enter();
        let error = futures::executor::block_on(Work::spawn(|| Ok(()))).unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert_eq!(error.to_string(), "the runtime is shutting down");
    }

    #[test]
    fn whether_a_call_happens_is_decided_once() {
        let (waiting, caller) = Caller::new();
        assert!(caller.still_waits().is_ok());
        drop(waiting);
        assert!(caller.still_waits().is_err());
        assert!(caller.commit().is_err());

        let (waiting, caller) = Caller::new();
        assert!(caller.commit().is_ok());
        drop(waiting);
        assert!(caller.commit().is_err());
    }
}

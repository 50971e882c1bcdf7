//! Running what may panic, and learning what it said.
//!
//! Cases fail by panicking, as tests do, and a client under test may panic by itself. Either way
//! the run goes on: the panic is caught, and its message and place are kept for the report
//! instead of being printed in the middle of it.

use std::any::Any;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt;
use tokio::task::{JoinError, JoinHandle};

/// What the first panic of an attempt said, and where.
type Record = Arc<Mutex<Option<String>>>;

tokio::task_local! {
    static RECORD: Record;
}

/// Runs `future` to its end or to its panic, whose message and place are the error.
pub(crate) async fn attempt<T>(future: impl Future<Output = T>) -> Result<T, String> {
    record_panics();
    let record = Record::default();
    let result = RECORD
        .scope(Arc::clone(&record), AssertUnwindSafe(future).catch_unwind())
        .await;
    result.map_err(|payload| {
        let recorded = record.lock().unwrap_or_else(PoisonError::into_inner).take();
        recorded.unwrap_or_else(|| message(payload.as_ref()).to_owned())
    })
}

/// A task of the case that spawned it: it stops when it is dropped, and its panic is the panic
/// of whoever awaits it.
pub(crate) struct Task<T>(JoinHandle<T>);

/// Runs `future` beside its caller, on another thread where the runtime has one.
pub(crate) fn spawn<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    Task(match RECORD.try_with(Arc::clone) {
        Ok(record) => tokio::spawn(RECORD.scope(record, future)),
        Err(_) => tokio::spawn(future),
    })
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|result| result.unwrap_or_else(|error| panic::resume_unwind(payload(error))))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn payload(error: JoinError) -> Box<dyn Any + Send> {
    match error.try_into_panic() {
        Ok(payload) => payload,
        Err(_) => Box::new("the runtime stopped a task of the case"),
    }
}

/// Makes panics inside an attempt go to its record, and leaves all others to the hook that was
/// there before.
fn record_panics() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if RECORD.try_with(|record| keep(record, info)).is_err() {
                before(info);
            }
        }));
    });
}

fn keep(record: &Record, info: &PanicHookInfo<'_>) {
    let place = info
        .location()
        .map(|at| format!(" (at {}:{})", at.file(), at.line()))
        .unwrap_or_default();
    record
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_with(|| format!("{}{place}", message(info.payload())));
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_told_with_its_place() {
        let error = attempt(async { panic!("oh {}", "no") }).await.unwrap_err();

        assert!(error.starts_with("oh no (at "), "{error}");
        assert!(error.contains("attempt.rs:"), "{error}");
    }

    #[tokio::test]
    async fn a_panic_of_a_spawned_task_is_its_awaiters() {
        let error = attempt(async { spawn(async { panic!("oh no") }).await })
            .await
            .unwrap_err();

        assert!(error.starts_with("oh no (at "), "{error}");
    }

    #[tokio::test]
    async fn the_first_panic_of_an_attempt_is_told() {
        let error = attempt(async {
            let inner = attempt(async { panic!("inner") }).await;
            panic!("outer after {}", inner.unwrap_err().starts_with("inner"))
        })
        .await
        .unwrap_err();

        assert!(error.starts_with("outer after true"), "{error}");
    }
}

//! The connections of a client: opened when they are needed, and forgotten when they are lost.

use std::ops::{ControlFlow, Deref};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use replica_core::{Error, ErrorKind, Result};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::classify::copy;
use crate::config::SftpConfig;
use crate::connect::connect;
use crate::connection::{Connection, Leftover, Times, Worker};

/// How many openings may hang, in what can't be interrupted: finding an address, reading a key, and
/// asking an agent. After that, no other is begun until one of them ends.
const HANGING_MAX: usize = 8;

/// How many things left on the server are remembered until they can be cleared away.
const LEFTOVERS_MAX: usize = 4096;

/// How long nothing is tried after a connection could not be opened that is one more than needed: a
/// server may lock out who is refused too often.
const EXTRA_PAUSE: Duration = Duration::from_secs(30);

/// How much longer than its connection a caller waits, for the thread to say what came of it.
const GRACE: Duration = Duration::from_millis(500);

pub(crate) struct Pool {
    pub(crate) config: SftpConfig,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bounded by [`SftpConfig::connections_max`].
    live: Vec<Arc<Connection>>,
    /// The connection that is being opened, where one is.
    opening: Option<Underway>,
    /// How many openings were begun.
    begun: u64,
    /// How many openings are given up that have not ended. Bounded by [`HANGING_MAX`].
    hanging: usize,
    /// When one more connection than needed could not be opened.
    extra_failed_at: Option<Instant>,
    /// Bounded by [`LEFTOVERS_MAX`].
    leftovers: Vec<Leftover>,
}

/// An opening that has not ended.
struct Underway {
    number: u64,
    began: Instant,
    waiters: Vec<Waiter>,
}

type Waiter = oneshot::Sender<Result<Call>>;

/// A connection that is used by a call, or by the stream that a call returned.
pub(crate) struct Call {
    connection: Arc<Connection>,
    pool: Weak<Pool>,
}

impl Call {
    fn new(connection: &Arc<Connection>, pool: &Arc<Pool>) -> Call {
        connection.begin_call();
        Call {
            connection: Arc::clone(connection),
            pool: Arc::downgrade(pool),
        }
    }

    /// Clears `leftover` away, without waiting for that: on this connection, or on another one.
    pub(crate) fn clear(&self, leftover: Leftover) {
        if let Err(leftover) = self.connection.clear(leftover)
            && let Some(pool) = self.pool.upgrade()
        {
            pool.remember(vec![leftover]);
        }
    }
}

impl Deref for Call {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.connection.end_call();
    }
}

impl Pool {
    pub(crate) fn new(config: SftpConfig) -> Pool {
        Pool {
            config,
            state: Mutex::default(),
        }
    }

    /// A connection for one call: one that nobody uses, or else the one that the fewest use, while
    /// another is being opened. Only where there is none it waits for that.
    pub(crate) async fn call(self: &Arc<Self>) -> Result<Call> {
        let opened = {
            let mut state = self.lock();
            state.live.retain(|connection| !connection.is_lost());
            let best = state
                .live
                .iter()
                .min_by_key(|connection| connection.calls());
            let best = best.map(|connection| Call::new(connection, self));
            if let Some(call) = best {
                // The call itself is one of them.
                let is_shared = call.calls() > 1;
                let may_try = state
                    .extra_failed_at
                    .is_none_or(|failed_at| failed_at.elapsed() >= EXTRA_PAUSE);
                if is_shared && may_try && state.live.len() < self.config.connections_max {
                    self.open(&mut state);
                }
                return Ok(call);
            }
            let (waiter, opened) = oneshot::channel();
            self.open(&mut state);
            if let Some(opening) = &mut state.opening {
                opening.waiters.push(waiter);
            }
            opened
        };
        let unavailable = |reason: String| Err(Error::new(ErrorKind::Unavailable, reason));
        match timeout(self.opening_max(), opened).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => unavailable("the thread of the connection ended too soon".to_owned()),
            // It hangs in what can't be interrupted.
            Err(_) => unavailable(format!(
                "could not connect to {} within {:?}",
                self.config.address(),
                self.config.connect_timeout
            )),
        }
    }

    /// How long an opening may take, as far as its callers are concerned.
    fn opening_max(&self) -> Duration {
        self.config.connect_timeout + GRACE
    }

    /// Opens one more connection on a thread of its own, unless that is being done and does not
    /// hang.
    fn open(self: &Arc<Self>, state: &mut State) {
        if let Some(opening) = &mut state.opening {
            opening.waiters.retain(|waiter| !waiter.is_closed());
            let hangs = opening.began.elapsed() >= self.opening_max();
            if !hangs || state.hanging >= HANGING_MAX {
                return;
            }
        }
        let number = state.begun;
        let opening = Opening {
            pool: Arc::clone(self),
            number,
        };
        let thread = thread::Builder::new().name("replica-sftp".to_owned());
        // Where no thread can be had, nothing is being opened, and who waits is told so.
        if thread.spawn(move || opening.run()).is_ok() {
            state.begun += 1;
            let given_up = state.opening.take();
            state.hanging += usize::from(given_up.is_some());
            state.opening = Some(Underway {
                number,
                began: Instant::now(),
                waiters: given_up.map_or_else(Vec::new, |given_up| given_up.waiters),
            });
        }
    }

    /// Has `leftovers` cleared away on a connection that lives, or else keeps them for the next
    /// one, as many as there is room for.
    fn remember(&self, leftovers: Vec<Leftover>) {
        let mut state = self.lock();
        for leftover in leftovers {
            let mut live = state.live.iter();
            let kept = live.try_fold(leftover, |leftover, connection| {
                match connection.clear(leftover) {
                    Ok(()) => ControlFlow::Break(()),
                    Err(leftover) => ControlFlow::Continue(leftover),
                }
            });
            if let ControlFlow::Continue(leftover) = kept
                && state.leftovers.len() < LEFTOVERS_MAX
            {
                state.leftovers.push(leftover);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The opening of a connection, which ends for those who wait for it however it ends.
struct Opening {
    pool: Arc<Pool>,
    number: u64,
}

impl Opening {
    /// Connects, and then works for the connection until it ends.
    fn run(self) {
        let config = &self.pool.config;
        let times = Times {
            stall: config.stall_timeout,
            keepalive: config.keepalive,
        };
        let opened = connect(config).and_then(|link| {
            Connection::new(link, times).map_err(|error| {
                let message = "could not make what a thread is woken with";
                Error::new(ErrorKind::Unavailable, message).with_source(error)
            })
        });
        let worker = self.tell(opened);
        // The pool may end before the connection, and with it the need for one.
        let pool = Arc::downgrade(&self.pool);
        drop(self);
        let Some(mut worker) = worker else {
            return;
        };
        let leftovers = worker.run();
        if let Some(pool) = pool.upgrade() {
            pool.remember(leftovers);
        }
    }

    /// Tells those who wait what came of it, and has what was left on the server cleared away.
    fn tell(&self, opened: Result<(Connection, Worker)>) -> Option<Worker> {
        let mut state = self.pool.lock();
        let waiters = self.end(&mut state);
        let is_too_many = state.live.len() >= self.pool.config.connections_max.max(1);
        let (result, worker) = match opened {
            // Another was opened while this one hung.
            Ok(_) if waiters.is_empty() && is_too_many => return None,
            Ok((connection, worker)) => {
                let connection = Arc::new(connection);
                for leftover in std::mem::take(&mut state.leftovers) {
                    // Its thread has not begun, so that it can't be lost.
                    let _ = connection.clear(leftover);
                }
                state.live.push(Arc::clone(&connection));
                state.extra_failed_at = None;
                (Ok(connection), Some(worker))
            }
            Err(error) => {
                state.live.retain(|connection| !connection.is_lost());
                state.extra_failed_at = (!state.live.is_empty()).then(Instant::now);
                (Err(error), None)
            }
        };
        drop(state);
        for waiter in waiters {
            // Who has gone needs no connection.
            let _ = waiter.send(match &result {
                Ok(connection) => Ok(Call::new(connection, &self.pool)),
                Err(error) => Err(copy(error)),
            });
        }
        worker
    }

    /// Lets another begin, and gives back those who still wait for this one.
    fn end(&self, state: &mut State) -> Vec<Waiter> {
        match state.opening.take_if(|it| it.number == self.number) {
            Some(ended) => ended.waiters,
            None => {
                state.hanging = state.hanging.saturating_sub(1);
                Vec::new()
            }
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        // Where it has panicked, nobody was told; and another may begin.
        if thread::panicking() {
            self.end(&mut self.pool.lock());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Request;
    use std::fs;
    use testbed::SftpServer;

    #[tokio::test]
    async fn what_a_lost_connection_has_left_is_cleared_away_on_one_that_lives() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = SftpServer::start(folder.path());
        let pool = Arc::new(Pool::new(SftpConfig::of(&server)));
        let call = pool.call().await.expect("a connection");
        let left = folder.path().join("left");
        fs::write(&left, "half").expect("a file");

        pool.remember(vec![Leftover::Temporary("/left".to_owned())]);
        // Answered in order.
        let answer = call.ask(Request::ping()).await;

        assert_eq!(
            answer.names().expect("a name").map(|names| names.len()),
            Some(1)
        );
        assert!(!left.exists());
        assert_eq!(server.connections(), 1);
    }
}

//! A port that can be closed and opened again, and whose connections can be cut.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

/// How long the end of an aborted task is waited for: it ends as soon as a worker can drop it.
const END_MAX: Duration = Duration::from_secs(10);
/// The pause after a connection that couldn't be accepted, for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// What is done with a connection.
type Serve = Arc<dyn Fn(TcpStream) -> BoxFuture<'static, ()> + Send + Sync>;

/// Where a server listens: on a free port of 127.0.0.1, until it is dropped.
///
/// Every server of the testbed, and the [`Proxy`](crate::Proxy), is one beside what it serves:
/// the methods are theirs. Its connections are tasks of a runtime of its own.
pub struct Port {
    /// There until the port is dropped.
    runtime: Option<Runtime>,
    address: SocketAddr,
    serve: Serve,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified whenever a task has ended.
    ended: Condvar,
}

#[derive(Default)]
struct State {
    accepting: Option<AbortHandle>,
    accepted: u64,
    live: HashMap<u64, Connection>,
}

struct Connection {
    task: AbortHandle,
    /// A second handle of the socket, by which it can be reset whoever owns the first.
    socket: TcpStream,
}

impl Port {
    /// Listens on a free port.
    pub(crate) fn open<F>(serve: impl Fn(TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime needs two threads");
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let port = Self {
            runtime: Some(runtime),
            address,
            serve: Arc::new(move |stream| Box::pin(serve(stream))),
            shared: Arc::default(),
        };
        port.listen(listener);
        port
    }

    /// Where it listens, or will again.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Refuses connections and resets the live ones, until [`reopen`](Self::reopen). What the
    /// server keeps stays.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        if let Some(task) = &state.accepting {
            task.abort();
            state = self.shared.wait(state, |state| state.accepting.is_some());
        }
        drop(state);
        self.reset_connections();
    }

    /// Accepts connections again, on the same port.
    pub fn reopen(&self) {
        if self.shared.lock().accepting.is_none() {
            self.listen(bind(self.address));
        }
    }

    /// Resets every live connection.
    pub fn reset_connections(&self) {
        let state = self.shared.lock();
        let doomed: Vec<u64> = state.live.keys().copied().collect();
        for connection in state.live.values() {
            // It fails for a socket that the other side has reset already.
            let _ = connection.socket.set_zero_linger();
            connection.task.abort();
        }
        drop(self.shared.wait(state, |state| {
            doomed.iter().any(|id| state.live.contains_key(id))
        }));
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.lock().accepted
    }

    /// How many connections are open.
    pub fn live_connections(&self) -> usize {
        self.shared.lock().live.len()
    }

    fn listen(&self, listener: StdListener) {
        let runtime = self.runtime.as_ref().expect("it is there until the drop");
        let (shared, serve) = (Arc::clone(&self.shared), Arc::clone(&self.serve));
        let mut state = self.shared.lock();
        let closing = Closing(Arc::clone(&self.shared));
        let task = runtime.spawn(async move {
            // Declared before the listener, so that the port is free when it is dropped.
            let _closing = closing;
            let listener = TcpListener::from_std(listener).expect("a listener that doesn't block");
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => shared.serve(&serve, stream),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        state.accepting = Some(task.abort_handle());
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, serve: &Serve, stream: TcpStream) {
        // Interactive protocols wait for small packets.
        let _ = stream.set_nodelay(true);
        let Ok((stream, socket)) = twice(stream) else {
            return;
        };
        let mut state = self.lock();
        state.accepted += 1;
        let id = state.accepted;
        let serving = serve(stream);
        let leaving = Leaving(Arc::clone(self), id);
        let task = tokio::spawn(async move {
            let _leaving = leaving;
            serving.await;
        });
        let task = task.abort_handle();
        state.live.insert(id, Connection { task, socket });
    }

    /// Waits while tasks that were aborted are still there.
    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        mut there: impl FnMut(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let (state, timeout) = self
            .ended
            .wait_timeout_while(state, END_MAX, |state| there(state))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "a task of the testbed won't end");
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Notes that a port was closed.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.lock().accepting = None;
        self.0.ended.notify_all();
    }
}

/// Notes that a connection has ended.
struct Leaving(Arc<Shared>, u64);

impl Drop for Leaving {
    fn drop(&mut self) {
        let connection = self.0.lock().live.remove(&self.1);
        drop(connection);
        self.0.ended.notify_all();
    }
}

fn bind(address: SocketAddr) -> StdListener {
    let listener = StdListener::bind(address).expect("a port of 127.0.0.1 should be free");
    listener
        .set_nonblocking(true)
        .expect("a socket can be told not to block");
    listener
}

/// Two handles of one socket.
fn twice(stream: TcpStream) -> std::io::Result<(TcpStream, TcpStream)> {
    let stream = stream.into_std()?;
    let socket = stream.try_clone()?;
    Ok((TcpStream::from_std(stream)?, TcpStream::from_std(socket)?))
}

//! One connection: a thread that owns the session, and the callers who send it requests.
//!
//! Any number of requests are under way at once; the thread never waits for one of them. A caller
//! waits for its own reply only, and may go away at any time: what is left of its call is the
//! thread's.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use ssh2::{BlockDirections, Channel, Session};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use crate::wire::{
    Attributes, Extensions, Frames, Kind, Limits, Name, Request, Response, Status, parse,
};

/// How many requests of callers are under way on a connection at most; more wait for their turn.
const REQUESTS_MAX: usize = 1024;

/// How many bytes are put together before they are sent.
const OUT_MAX: usize = 512 << 10;

/// How many bytes are taken from the session at once.
const IN_MAX: usize = 256 << 10;

/// How much is sent before it is looked whether something has arrived.
const SEND_BURST: usize = 256 << 10;

/// How long nothing is taken from a socket that is to be sent to first.
const DEAF_MAX: Duration = Duration::from_millis(10);

/// What a login leads to: a session, and the channel on which the server speaks SFTP.
pub(crate) struct Link {
    pub(crate) session: Session,
    pub(crate) channel: Channel,
    /// The session's socket.
    pub(crate) socket: TcpStream,
    pub(crate) extensions: Extensions,
    pub(crate) limits: Limits,
    /// What has already arrived of the first response.
    pub(crate) frames: Frames,
}

/// The callers' end of a connection, which ends when this is dropped.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    pub(crate) extensions: Extensions,
    pub(crate) limits: Limits,
}

struct Shared {
    queue: Mutex<Queue>,
    /// One byte wakes the thread.
    waker: UnixStream,
    /// Whether a byte is on its way.
    is_woken: AtomicBool,
    /// How many calls use the connection.
    calls: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    /// Bounded by [`REQUESTS_MAX`], and by what the callers' calls have to clean up: a request or
    /// two for each handle and temporary file.
    requests: VecDeque<Queued>,
    state: State,
}

#[derive(Default)]
enum State {
    #[default]
    Open,
    /// Nobody sends anything any more: what is queued is still done.
    Closing,
    Closed(Lost),
}

struct Queued {
    request: Request,
    then: Then,
}

impl Queued {
    fn renames(&self) -> bool {
        self.request.renames()
    }

    /// Whether it would give a file its name for a caller who has gone.
    fn is_void(&self) -> bool {
        let has_gone = matches!(&self.then, Then::Reply(reply, _) if reply.is_closed());
        has_gone && self.renames()
    }
}

/// What becomes of a response.
enum Then {
    Reply(Reply, OwnedSemaphorePermit),
    /// Nobody waits for it.
    Forget,
    /// Nobody waits for it, and this is to be done on another connection where this one is lost
    /// before it comes.
    Cleanup(Leftover),
    /// It tells what is in the place of a file that could not be put back.
    Look(Leftover),
}

type Reply = oneshot::Sender<Result<Received, Lost>>;

/// Something that a call has left on the server, and could not clear away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Leftover {
    /// A temporary file.
    Temporary(String),
    /// A file that was moved out of the way of another that never came.
    Aside {
        /// Where it is.
        from: String,
        /// Where it was, and is put again. Where another file is by now, it is removed.
        to: String,
    },
}

impl Leftover {
    fn request(&self) -> Request {
        match self {
            Leftover::Temporary(path) => Request::remove(path),
            Leftover::Aside { from, to } => Request::rename(from, to),
        }
    }
}

/// Why a connection is no more.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) reason: Arc<str>,
}

impl Lost {
    pub(crate) fn new(reason: impl fmt::Display) -> Lost {
        Lost {
            reason: reason.to_string().into(),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Lost {}

/// Why a request was not done.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The server says so.
    Status(Status),
    /// Whether it was done is not known.
    Lost(Lost),
    /// The server says something that is no answer to what it was asked.
    Nonsense,
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Failure {
        Failure::Lost(lost)
    }
}

/// A response as its caller gets it.
enum Received {
    Response(Response),
    Handle(Handle),
}

/// A file or folder that is open on the server, until this is dropped.
pub(crate) struct Handle {
    id: Bytes,
    shared: Arc<Shared>,
    is_closed: bool,
}

impl Handle {
    pub(crate) fn id(&self) -> &[u8] {
        &self.id
    }

    /// The request that closes it. To be sent: nothing else will close it.
    pub(crate) fn into_close(mut self) -> Request {
        self.is_closed = true;
        Request::close(&self.id)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.is_closed {
            // Where the connection is lost, so is the handle.
            let _ = self.shared.push(Queued {
                request: Request::close(&self.id),
                then: Then::Forget,
            });
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

/// A response that is still to come.
#[must_use]
#[derive(Debug)]
pub(crate) struct Pending(oneshot::Receiver<Result<Received, Lost>>);

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Received")
    }
}

impl Future for Pending {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        Pin::new(&mut self.0).poll(cx).map(|received| {
            Answer(match received {
                Ok(Ok(received)) => Ok(received),
                Ok(Err(lost)) => Err(lost.into()),
                Err(_) => Err(Lost::new("the connection ended").into()),
            })
        })
    }
}

/// What came of a request, before it is known whether it is what was asked for.
pub(crate) struct Answer(Result<Received, Failure>);

impl Answer {
    /// Of a request that is answered by a status alone.
    pub(crate) fn done(self) -> Result<(), Failure> {
        match self.0? {
            Received::Response(Response::Status(status)) if status.code == Status::OK => Ok(()),
            received => Err(refused(received)),
        }
    }

    pub(crate) fn handle(self) -> Result<Handle, Failure> {
        match self.0? {
            Received::Handle(handle) => Ok(handle),
            received => Err(refused(received)),
        }
    }

    pub(crate) fn attributes(self) -> Result<Attributes, Failure> {
        match self.0? {
            Received::Response(Response::Attributes(attributes)) => Ok(attributes),
            received => Err(refused(received)),
        }
    }

    /// `None` at the end of the file.
    pub(crate) fn data(self) -> Result<Option<Bytes>, Failure> {
        match self.0? {
            Received::Response(Response::Data(data)) => Ok(Some(data)),
            Received::Response(Response::Status(status)) if status.code == Status::EOF => Ok(None),
            received => Err(refused(received)),
        }
    }

    /// `None` at the end of the folder.
    pub(crate) fn names(self) -> Result<Option<Vec<Name>>, Failure> {
        match self.0? {
            Received::Response(Response::Names(names)) => Ok(Some(names)),
            Received::Response(Response::Status(status)) if status.code == Status::EOF => Ok(None),
            received => Err(refused(received)),
        }
    }

    pub(crate) fn extended(self) -> Result<Bytes, Failure> {
        match self.0? {
            Received::Response(Response::Extended(reply)) => Ok(reply),
            received => Err(refused(received)),
        }
    }
}

fn refused(received: Received) -> Failure {
    match received {
        Received::Response(Response::Status(status)) if status.code != Status::OK => {
            Failure::Status(status)
        }
        _ => Failure::Nonsense,
    }
}

impl Connection {
    /// A connection over `link`, and the work of its thread.
    pub(crate) fn new(link: Link, times: Times) -> io::Result<(Connection, Worker)> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            waker,
            is_woken: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
        });
        let connection = Connection {
            shared: Arc::clone(&shared),
            permits: Arc::new(Semaphore::new(REQUESTS_MAX)),
            extensions: link.extensions,
            limits: link.limits,
        };
        let worker = Worker {
            link,
            times,
            shared,
            woken,
            pending: HashMap::new(),
            next_id: 0,
            out: Vec::new(),
            sent: 0,
        };
        Ok((connection, worker))
    }

    /// Sends `request`, after those that were sent before.
    pub(crate) async fn send(&self, request: Request) -> Result<Pending, Failure> {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let (reply, pending) = oneshot::channel();
        self.shared
            .push(Queued {
                request,
                then: Then::Reply(reply, permit),
            })
            .map_err(|(lost, _)| lost)?;
        Ok(Pending(pending))
    }

    /// Sends `request`, and waits for the answer.
    pub(crate) async fn ask(&self, request: Request) -> Answer {
        match self.send(request).await {
            Ok(pending) => pending.await,
            Err(failure) => Answer(Err(failure)),
        }
    }

    /// Clears `leftover` away, without waiting for that. Gives it back where the connection is
    /// lost.
    pub(crate) fn clear(&self, leftover: Leftover) -> Result<(), Leftover> {
        let queued = Queued {
            request: leftover.request(),
            then: Then::Cleanup(leftover),
        };
        self.shared
            .push(queued)
            .map_err(|(_, queued)| match queued.then {
                Then::Cleanup(leftover) => leftover,
                Then::Reply(..) | Then::Forget | Then::Look(_) => {
                    unreachable!("it was a cleanup")
                }
            })
    }

    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.shared.lock().state, State::Closed(_))
    }

    /// How many calls use it.
    pub(crate) fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn begin_call(&self) {
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end_call(&self) {
        self.shared.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        if matches!(queue.state, State::Open) {
            queue.state = State::Closing;
        }
        drop(queue);
        self.shared.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[allow(clippy::result_large_err)]
    fn push(&self, queued: Queued) -> Result<(), (Lost, Queued)> {
        let mut queue = self.lock();
        if let State::Closed(lost) = &queue.state {
            return Err((lost.clone(), queued));
        }
        queue.requests.push_back(queued);
        drop(queue);
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            // A full pipe wakes as well as one more byte would.
            let _ = (&self.waker).write(&[0]);
        }
    }
}

/// How long a connection waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// How long a server may neither take nor give a byte while something is asked of it.
    pub(crate) stall: Duration,
    /// How long a connection is left alone before it is looked whether the server is still there.
    pub(crate) keepalive: Duration,
}

/// What the thread of a connection does.
pub(crate) struct Worker {
    link: Link,
    times: Times,
    shared: Arc<Shared>,
    woken: UnixStream,
    pending: HashMap<u32, Then>,
    next_id: u32,
    out: Vec<u8>,
    /// How much of `out` is sent.
    sent: usize,
}

impl Worker {
    /// Works until nobody needs the connection any more, or it is lost. Returns what its callers
    /// have left on the server, to be remembered before this is dropped.
    pub(crate) fn run(&mut self) -> Vec<Leftover> {
        let lost = match self.pump() {
            Ok(()) => Lost::new("the connection is closed"),
            Err(lost) => lost,
        };
        let unsent = {
            let mut queue = self.shared.lock();
            queue.state = State::Closed(lost.clone());
            std::mem::take(&mut queue.requests)
        };
        let mut leftovers = Vec::new();
        let unanswered = self.pending.drain().map(|(_, then)| then);
        for then in unanswered.chain(unsent.into_iter().map(|queued| queued.then)) {
            match then {
                Then::Reply(reply, _permit) => {
                    // A caller that has gone needs no answer.
                    let _ = reply.send(Err(lost.clone()));
                }
                Then::Cleanup(leftover) | Then::Look(leftover) => leftovers.push(leftover),
                Then::Forget => {}
            }
        }
        leftovers
    }

    fn pump(&mut self) -> Result<(), Lost> {
        let mut arrived = vec![0; IN_MAX];
        let mut moved_at = Instant::now();
        let mut has_arrived = false;
        loop {
            let was_idle = self.is_idle();
            let is_closing = self.take_requests();
            if self.is_idle() {
                if is_closing {
                    return Ok(());
                }
            } else if was_idle {
                moved_at = Instant::now();
            }

            let (sent, sending) = self.send()?;
            let (received, receiving) = self.receive(&mut arrived)?;
            if sent || received {
                moved_at = Instant::now();
                has_arrived = false;
                continue;
            }

            let limit = match self.is_idle() {
                true => self.times.keepalive,
                false => self.times.stall,
            };
            let left = limit.saturating_sub(moved_at.elapsed());
            if left.is_zero() {
                if !self.is_idle() {
                    return Err(Lost::new(format_args!(
                        "the server has not answered for {limit:?}"
                    )));
                }
                self.enqueue(Queued {
                    request: Request::ping(),
                    then: Then::Forget,
                });
                moved_at = Instant::now();
                continue;
            }
            let to_send = sending || receiving;
            // Within a packet to the server, libssh2 may not take what has arrived: to wait for
            // that would be to wait for nothing.
            has_arrived = match to_send && has_arrived {
                true => self.wait(PollFlags::OUT, left.min(DEAF_MAX))?,
                false if to_send => self.wait(PollFlags::IN | PollFlags::OUT, left)?,
                false => self.wait(PollFlags::IN, left)?,
            };
        }
    }

    /// Whether nothing is asked of the server.
    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.sent == self.out.len()
    }

    /// Takes what callers have sent, and says whether that was all for ever.
    fn take_requests(&mut self) -> bool {
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        while self.out.len() < OUT_MAX {
            let next = {
                let mut queue = self.shared.lock();
                // A name is given only when that is next to be sent: as long as it waits for its
                // turn, whoever wants it can go away.
                let is_early = queue.requests.front().is_some_and(Queued::renames);
                if is_early && self.sent < self.out.len() {
                    return false;
                }
                let next = queue.requests.pop_front();
                if next.is_none() {
                    return matches!(queue.state, State::Closing);
                }
                next
            };
            if let Some(queued) = next.filter(|queued| !queued.is_void()) {
                self.enqueue(queued);
            }
        }
        false
    }

    fn enqueue(&mut self, queued: Queued) {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        queued.request.encode(id, &mut self.out);
        self.pending.insert(id, queued.then);
    }

    /// Whether anything was sent, and whether more could be if the socket took it.
    fn send(&mut self) -> Result<(bool, bool), Lost> {
        let before = self.sent;
        while self.sent < self.out.len() && self.sent - before < SEND_BURST {
            match self.link.channel.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok((self.sent > before, self.wants_to_send()));
                }
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok((self.sent > before, false))
    }

    /// Whether anything has arrived, and whether the session has something to send before more
    /// can.
    fn receive(&mut self, arrived: &mut [u8]) -> Result<(bool, bool), Lost> {
        match self.link.channel.read(arrived) {
            Ok(0) if self.link.channel.eof() => {
                Err(Lost::new("the server has ended the connection"))
            }
            Ok(0) => Ok((false, false)),
            Ok(count) => {
                self.link.frames.push(&arrived[..count]);
                self.dispatch()?;
                Ok((true, false))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok((false, self.wants_to_send()))
            }
            Err(error) => Err(broken(&error)),
        }
    }

    fn wants_to_send(&self) -> bool {
        matches!(
            self.link.session.block_directions(),
            BlockDirections::Outbound | BlockDirections::Both
        )
    }

    /// Gives each response that has arrived to its caller.
    fn dispatch(&mut self) -> Result<(), Lost> {
        let nonsense = || Lost::new("the server does not speak SFTP as it should");
        while let Some(frame) = self.link.frames.next().map_err(|_| nonsense())? {
            let (id, response) = parse(frame).map_err(|_| nonsense())?;
            let then = self.pending.remove(&id).ok_or_else(nonsense)?;
            let (reply, _permit) = match then {
                Then::Reply(reply, permit) => (reply, permit),
                Then::Cleanup(leftover) => {
                    self.put_back(leftover, &response);
                    continue;
                }
                Then::Look(leftover) => {
                    self.make_way(leftover, &response);
                    continue;
                }
                Then::Forget => continue,
            };
            let received = match response {
                Response::Handle(id) => Received::Handle(Handle {
                    id,
                    shared: Arc::clone(&self.shared),
                    is_closed: false,
                }),
                response => Received::Response(response),
            };
            // What nobody waits for is dropped, and a handle thereby closed.
            let _ = reply.send(Ok(received));
        }
        Ok(())
    }

    /// Goes on with what could not be cleared away: a file that can't be put back may have
    /// another in its place.
    fn put_back(&mut self, leftover: Leftover, response: &Response) {
        let Leftover::Aside { to, .. } = &leftover else {
            return;
        };
        if let Response::Status(status) = response
            && (status.code == Status::OK || status.is_no_such_file())
        {
            return;
        }
        self.enqueue(Queued {
            request: Request::lstat(to),
            then: Then::Look(leftover),
        });
    }

    /// Removes a file that another has come for. Where none has, it stays: it can be renamed by
    /// hand.
    fn make_way(&mut self, leftover: Leftover, response: &Response) {
        let (Leftover::Aside { from, .. }, Response::Attributes(found)) = (leftover, response)
        else {
            return;
        };
        if found.kind() != Some(Kind::Folder) {
            let superseded = Leftover::Temporary(from);
            self.enqueue(Queued {
                request: superseded.request(),
                then: Then::Cleanup(superseded),
            });
        }
    }

    /// Waits for one of `events`, or until something is to be sent, for at most `limit`. Says
    /// whether something was seen to have arrived.
    fn wait(&mut self, events: PollFlags, limit: Duration) -> Result<bool, Lost> {
        let mut watched = [
            PollFd::new(&self.link.socket, events),
            PollFd::new(&self.woken, PollFlags::IN),
        ];
        let limit = Timespec::try_from(limit).ok();
        match poll(&mut watched, limit.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(broken(&errno.into())),
        }
        let has_arrived = watched[0].revents().contains(PollFlags::IN);
        if !watched[1].revents().is_empty() {
            let mut byte = [0];
            // Before the flag falls, so that a byte which comes after it is seen.
            let _ = (&self.woken).read(&mut byte);
            self.shared.is_woken.store(false, Ordering::Release);
        }
        Ok(has_arrived)
    }
}

impl Drop for Worker {
    /// Says goodbye, and waits for nothing.
    fn drop(&mut self) {
        let link = &mut self.link;
        // Where the server is no longer there, nothing of this matters.
        let _ = link.session.disconnect(None, "", None);
        let _ = link.socket.shutdown(Shutdown::Both);
        // libssh2 keeps a session for ever that it takes to have half a packet to send: the first
        // attempt tells it that it can't be sent, and the second that the connection has ended.
        let rest = match self.sent < self.out.len() {
            true => &self.out[self.sent..],
            false => &[0],
        };
        for _ in 0..2 {
            let _ = link.channel.write(rest);
        }
    }
}

fn broken(error: &io::Error) -> Lost {
    Lost::new(format_args!("the connection broke: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SftpConfig;
    use crate::connect::connect;
    use std::fs;
    use testbed::SftpServer;

    /// A connection to `server` whose thread has not begun.
    fn connection(server: &SftpServer) -> (Connection, Worker) {
        let config = SftpConfig::of(server);
        let link = connect(&config).expect("the server lets us in");
        let times = Times {
            stall: config.stall_timeout,
            keepalive: config.keepalive,
        };
        Connection::new(link, times).expect("a pair of sockets")
    }

    /// A name once appeared long after the write that wanted it had been dropped: its request
    /// waited behind others on a slow line.
    #[tokio::test]
    async fn a_name_that_waits_for_its_turn_is_not_given_once_its_caller_has_gone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = SftpServer::start(folder.path());
        for name in ["wanted", "moved", "replaced"] {
            fs::write(folder.path().join(name), name).expect("a file");
        }
        let (connection, mut worker) = connection(&server);

        let wanted = Request::replace("/wanted", "/given");
        let wanted = connection.send(wanted).await.expect("it waits");
        let moved = connection.send(Request::rename("/moved", "/a")).await;
        let replaced = connection.send(Request::replace("/replaced", "/b")).await;
        drop((moved, replaced));
        drop(connection);
        worker.run();

        wanted.await.done().expect("it is given");
        let exists = |name: &str| folder.path().join(name).exists();
        assert!(exists("given") && exists("moved") && exists("replaced"));
        assert!(!exists("a") && !exists("b"));
    }

    #[tokio::test]
    async fn what_is_not_cleared_away_when_the_connection_is_lost_is_given_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = SftpServer::start(folder.path());
        let (connection, mut worker) = connection(&server);
        let temporary = Leftover::Temporary("/2.tmp".to_owned());
        let aside = Leftover::Aside {
            from: "/1.old".to_owned(),
            to: "/1".to_owned(),
        };

        for leftover in [&temporary, &aside] {
            let queued = connection.clear(leftover.clone());
            queued.expect("the connection lives");
        }
        server.reset_connections();
        let mut leftovers = worker.run();
        let late = connection.clear(temporary.clone());

        leftovers.sort_by_key(|leftover| *leftover == aside);
        assert_eq!(leftovers, [temporary.clone(), aside]);
        assert_eq!(late, Err(temporary));
    }

    #[tokio::test]
    async fn an_old_file_goes_back_to_its_place_or_away_where_another_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let server = SftpServer::start(folder.path());
        for name in ["1.old", "2.old", "2", "3.old"] {
            fs::write(folder.path().join(name), name).expect("a file");
        }
        fs::create_dir(folder.path().join("3")).expect("a folder");
        let (connection, mut worker) = connection(&server);

        for number in 1..=4 {
            let leftover = Leftover::Aside {
                from: format!("/{number}.old"),
                to: format!("/{number}"),
            };
            connection.clear(leftover).expect("the connection lives");
        }
        drop(connection);
        let leftovers = worker.run();

        let content = |name: &str| fs::read_to_string(folder.path().join(name)).ok();
        assert_eq!(leftovers, []);
        assert_eq!(content("1").as_deref(), Some("1.old"));
        assert_eq!(content("2").as_deref(), Some("2"));
        assert_eq!(content("2.old"), None);
        assert_eq!(content("3.old").as_deref(), Some("3.old"));
    }
}

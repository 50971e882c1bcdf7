//! A network between a client and a server, for any protocol over TCP.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::port::Port;

/// The bytes read at once.
const CHUNK_MAX: usize = 64 << 10;
/// The chunks on their way in one direction. Latency holds back no more than these.
const CHUNKS_UNDER_WAY: usize = 1024;
/// A throttled connection gets as many slices a second.
const SLICES_A_SECOND: u64 = 50;

/// A TCP proxy on 127.0.0.1 with faults on demand.
///
/// Without a fault it passes everything on as it comes, ends of streams included. Where it can't
/// connect to the upstream, the client's connection is reset.
pub struct Proxy {
    network: Arc<Network>,
    port: Port,
}

/// A way over the network, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// What is wrong with a connection.
///
/// Several faults can be. Bytes are counted from when the fault was set, or from the start of a
/// later connection. `after: 0` acts when the first byte comes, which doesn't pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Bytes arrive this much later. They are under way meanwhile: it limits no throughput.
    Latency {
        /// From the client to the server.
        up: Duration,
        /// From the server to the client.
        down: Duration,
    },
    /// Either direction of each connection passes so many bytes a second. 0 passes nothing.
    Throttle {
        /// The bytes a second.
        bytes_per_second: u64,
    },
    /// The connection is reset as soon as it is accepted.
    ResetAtConnect,
    /// Both sides of the connection are reset (RST) once so many bytes have passed.
    Reset {
        /// The way whose bytes count.
        direction: Direction,
        /// How many of them pass.
        after: u64,
    },
    /// Both sides of the connection are closed (FIN) once so many bytes have passed.
    Close {
        /// The way whose bytes count.
        direction: Direction,
        /// How many of them pass.
        after: u64,
    },
    /// Nothing passes in that direction once so many bytes have, until the fault is cleared.
    Stall {
        /// The way whose bytes count.
        direction: Direction,
        /// How many of them pass.
        after: u64,
    },
    /// The connection is accepted, and then nothing passes, not even the connection itself, until
    /// the fault is cleared.
    BlackHole,
    /// One bit of one byte arrives wrong.
    Flip {
        /// The way whose bytes count.
        direction: Direction,
        /// How many of them come before it.
        after: u64,
    },
    /// The request reaches the server; when its reply comes it is discarded, and the client's
    /// connection reset.
    DropReply,
}

impl Proxy {
    /// Starts a proxy before `upstream`.
    pub fn start(upstream: SocketAddr) -> Self {
        let (changes, _) = watch::channel(());
        let network = Arc::new(Network {
            state: Mutex::new(State {
                upstream,
                set: Vec::new(),
                next: Vec::new(),
                links: Vec::new(),
                passed: [0; 2],
            }),
            changes,
        });
        let serving = Arc::clone(&network);
        let port = Port::open(move |client| {
            let link = serving.link();
            async move { link.carry(client).await }
        });
        Self { network, port }
    }

    /// Connects to another server from the next connection on.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.network.lock().upstream = upstream;
    }

    /// Adds a fault to every connection, live ones included, until [`clear`](Self::clear).
    pub fn set(&self, fault: Fault) {
        let mut state = self.network.lock();
        state.set.push(fault);
        for link in &state.links {
            lock(link).push(Active::new(fault));
        }
        drop(state);
        self.network.changes.send_replace(());
    }

    /// Adds a fault to the next `connections`, and to no live one.
    pub fn next(&self, connections: u64, fault: Fault) {
        self.network.lock().next.push((connections, fault));
    }

    /// Takes every fault away: those that were set, those for connections to come, and those of
    /// live connections, which go on where they stalled.
    pub fn clear(&self) {
        let mut state = self.network.lock();
        state.set.clear();
        state.next.clear();
        for link in &state.links {
            lock(link).clear();
        }
        drop(state);
        self.network.changes.send_replace(());
    }

    /// How many bytes were passed on in that direction, over all connections.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.network.lock().passed[direction as usize]
    }
}

impl Deref for Proxy {
    type Target = Port;

    fn deref(&self) -> &Port {
        &self.port
    }
}

struct Network {
    state: Mutex<State>,
    /// Sent to whenever faults were set or cleared.
    changes: watch::Sender<()>,
}

struct State {
    upstream: SocketAddr,
    set: Vec<Fault>,
    /// Faults of the next so many connections.
    next: Vec<(u64, Fault)>,
    /// The faults of the live connections.
    links: Vec<Arc<Mutex<Vec<Active>>>>,
    passed: [u64; 2],
}

/// A fault of one connection.
struct Active {
    fault: Fault,
    /// The bytes that passed since it was set.
    passed: [u64; 2],
}

/// What ends a connection, or the way in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Reset,
    Close,
    DropReply,
    /// One side is broken.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Cut(Cut),
    Stall,
}

/// What is under way in one direction.
struct Parcel {
    due: Instant,
    load: Load,
}

enum Load {
    Bytes(Bytes),
    End,
    Cut(Cut),
}

impl Network {
    /// Notes a new connection and the faults that it has.
    fn link(self: &Arc<Self>) -> Link {
        let mut state = self.lock();
        let mut faults: Vec<_> = state.set.iter().copied().map(Active::new).collect();
        for (connections, fault) in &mut state.next {
            *connections -= 1;
            faults.push(Active::new(*fault));
        }
        state.next.retain(|(connections, _)| *connections > 0);
        let faults = Arc::new(Mutex::new(faults));
        state.links.push(Arc::clone(&faults));
        Link {
            network: Arc::clone(self),
            faults,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Active {
    fn new(fault: Fault) -> Self {
        Self {
            fault,
            passed: [0; 2],
        }
    }

    /// What stops the bytes in that direction, and how many pass before.
    fn stop(&self, direction: Direction) -> Option<(Stop, u64)> {
        let (stop, counted, after) = match self.fault {
            Fault::Reset { direction, after } => (Stop::Cut(Cut::Reset), direction, after),
            Fault::Close { direction, after } => (Stop::Cut(Cut::Close), direction, after),
            Fault::Stall { direction, after } => (Stop::Stall, direction, after),
            Fault::BlackHole => (Stop::Stall, direction, 0),
            Fault::DropReply => (Stop::Cut(Cut::DropReply), Direction::Down, 0),
            Fault::Latency { .. }
            | Fault::Throttle { .. }
            | Fault::ResetAtConnect
            | Fault::Flip { .. } => return None,
        };
        (counted == direction)
            .then(|| (stop, after.saturating_sub(self.passed[direction as usize])))
    }
}

/// A connection and its faults.
struct Link {
    network: Arc<Network>,
    faults: Arc<Mutex<Vec<Active>>>,
}

impl Link {
    async fn carry(&self, mut client: TcpStream) {
        if self.has(Fault::ResetAtConnect) {
            let _ = client.set_zero_linger();
            return;
        }
        self.cleared(|| !self.has(Fault::BlackHole)).await;
        let upstream = self.network.lock().upstream;
        let Ok(mut server) = TcpStream::connect(upstream).await else {
            let _ = client.set_zero_linger();
            return;
        };
        let _ = server.set_nodelay(true);

        let ways = {
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            tokio::try_join!(
                self.way(Direction::Up, &mut from_client, &mut to_server),
                self.way(Direction::Down, &mut from_server, &mut to_client),
            )
        };
        match ways {
            Ok(_) => {}
            Err(Cut::Reset | Cut::Broken) => {
                let _ = client.set_zero_linger();
                let _ = server.set_zero_linger();
            }
            Err(Cut::DropReply) => {
                let _ = client.set_zero_linger();
                // The client's reset doesn't wait for the server's end.
                tokio::spawn(finish(server));
            }
            Err(Cut::Close) => {
                tokio::join!(finish(client), finish(server));
            }
        }
    }

    /// Carries bytes one way until their end.
    async fn way(
        &self,
        direction: Direction,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), Cut> {
        let (send, receive) = mpsc::channel(CHUNKS_UNDER_WAY);
        tokio::try_join!(
            async {
                self.send(direction, from, send).await;
                Ok(())
            },
            self.deliver(direction, receive, to),
        )?;
        Ok(())
    }

    /// Reads bytes and sends them on their way, as far as the faults let them.
    async fn send(
        &self,
        direction: Direction,
        from: &mut (impl AsyncRead + Unpin),
        parcels: mpsc::Sender<Parcel>,
    ) {
        loop {
            let mut buffer = BytesMut::with_capacity(CHUNK_MAX);
            let load = match from.read_buf(&mut buffer).await {
                Err(_) => Some(Load::Cut(Cut::Broken)),
                Ok(0) => Some(Load::End),
                Ok(_) => None,
            };
            self.spoil(direction, &mut buffer);
            let mut bytes = buffer.freeze();
            let mut last = load;
            while !bytes.is_empty() && last.is_none() {
                let (passes, stop) = self.step(direction, bytes.len());
                if passes > 0 {
                    let load = Load::Bytes(bytes.split_to(passes));
                    if parcels.send(self.parcel(direction, load)).await.is_err() {
                        return;
                    }
                }
                match stop {
                    Some(Stop::Cut(cut)) => last = Some(Load::Cut(cut)),
                    Some(Stop::Stall) => self.cleared(|| !self.stalls(direction)).await,
                    None => {}
                }
            }
            if let Some(load) = last {
                // Nobody receives it where the connection has ended.
                let _ = parcels.send(self.parcel(direction, load)).await;
                return;
            }
        }
    }

    /// Writes what was under way when it is due.
    async fn deliver(
        &self,
        direction: Direction,
        mut parcels: mpsc::Receiver<Parcel>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), Cut> {
        let mut free = Instant::now();
        while let Some(parcel) = parcels.recv().await {
            sleep_until(parcel.due).await;
            let mut bytes = match parcel.load {
                Load::Bytes(bytes) => bytes,
                Load::End => return to.shutdown().await.map_err(|_| Cut::Broken),
                Load::Cut(cut) => return Err(cut),
            };
            while !bytes.is_empty() {
                self.cleared(|| self.rate() != Some(0)).await;
                let slice = match self.rate() {
                    None => bytes.split_to(bytes.len()),
                    Some(rate) => {
                        let slice_max = usize::try_from((rate / SLICES_A_SECOND).max(1));
                        let slice = bytes.len().min(slice_max.unwrap_or(CHUNK_MAX));
                        let cost = Duration::from_secs_f64(slice as f64 / rate.max(1) as f64);
                        free = free.max(Instant::now()) + cost;
                        sleep_until(free).await;
                        bytes.split_to(slice)
                    }
                };
                to.write_all(&slice).await.map_err(|_| Cut::Broken)?;
                self.network.lock().passed[direction as usize] += slice.len() as u64;
            }
        }
        Ok(())
    }

    /// Makes those of the next bytes wrong that shall be.
    fn spoil(&self, direction: Direction, bytes: &mut [u8]) {
        for active in lock(&self.faults).iter() {
            if let Fault::Flip {
                direction: counted,
                after,
            } = active.fault
                && counted == direction
                && let Some(ahead) = after.checked_sub(active.passed[direction as usize])
                && let Some(byte) = usize::try_from(ahead).ok().and_then(|at| bytes.get_mut(at))
            {
                *byte ^= 1;
            }
        }
    }

    /// How many of the next `len` bytes pass, and what stops the others.
    fn step(&self, direction: Direction, len: usize) -> (usize, Option<Stop>) {
        let mut faults = lock(&self.faults);
        let first = faults
            .iter()
            .filter_map(|active| active.stop(direction))
            .filter(|(_, left)| *left <= len as u64)
            .min_by_key(|(_, left)| *left);
        let (passes, stop) = match first {
            Some((stop, left)) => (left as usize, Some(stop)),
            None => (len, None),
        };
        for active in faults.iter_mut() {
            active.passed[direction as usize] += passes as u64;
        }
        (passes, stop)
    }

    fn parcel(&self, direction: Direction, load: Load) -> Parcel {
        let faults = lock(&self.faults);
        let latency = faults.iter().map(|active| match active.fault {
            Fault::Latency { up, .. } if direction == Direction::Up => up,
            Fault::Latency { down, .. } if direction == Direction::Down => down,
            _ => Duration::ZERO,
        });
        Parcel {
            due: Instant::now() + latency.sum::<Duration>(),
            load,
        }
    }

    /// Waits until faults were changed so that `passable` holds.
    async fn cleared(&self, passable: impl Fn() -> bool) {
        let mut changes = self.network.changes.subscribe();
        while !passable() {
            changes
                .changed()
                .await
                .expect("the link keeps the network that sends");
        }
    }

    fn has(&self, fault: Fault) -> bool {
        lock(&self.faults)
            .iter()
            .any(|active| active.fault == fault)
    }

    fn stalls(&self, direction: Direction) -> bool {
        lock(&self.faults)
            .iter()
            .filter_map(|active| active.stop(direction))
            .any(|stop| stop == (Stop::Stall, 0))
    }

    /// The lowest rate that was asked for.
    fn rate(&self) -> Option<u64> {
        let faults = lock(&self.faults);
        let rates = faults.iter().filter_map(|active| match active.fault {
            Fault::Throttle { bytes_per_second } => Some(bytes_per_second),
            _ => None,
        });
        rates.min()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        state
            .links
            .retain(|faults| !Arc::ptr_eq(faults, &self.faults));
    }
}

/// Ends our side of a connection, and reads what still comes until the other side ends too: a
/// socket that is closed with bytes unread is reset.
async fn finish(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        let mut buffer = vec![0; CHUNK_MAX];
        while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
    }
}

fn lock(faults: &Mutex<Vec<Active>>) -> MutexGuard<'_, Vec<Active>> {
    faults.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The line between a process and the store: calls that come to nothing, come to an end too late,
//! or are the last ones of their process; and what the application does meanwhile.

use std::fmt;
use std::future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use proptest::prelude::*;
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, Error, ErrorKind, FileId, FileInfo, FileStream,
    Level, Op, ReplicaClient, Result, Timestamp, Timestamps, Txid, async_trait,
};
use replica_mock::{MockClient, Snapshot};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::application::{Application, Change};

/// After which time a call is given up that makes no progress, as by the `Timeout` layer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What goes wrong with one call of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    op: Op,
    /// How many calls it spares.
    skip: u64,
    times: u64,
    /// At which byte or item, as far as the call has some; before anything, or after everything.
    point: Point,
    effect: Effect,
}

#[derive(Clone, Copy, Debug)]
enum Point {
    Before,
    Within(u64),
    After,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Fail(ErrorKind),
    Delay(u64),
    Hang,
    /// Of what is read.
    Cut,
    Flip,
}

impl Fault {
    /// Makes `mock` do so.
    fn arm(self, mock: &MockClient) {
        let trouble = || mock.on(self.op).skip(self.skip).times(self.times);
        let has_body = matches!(self.op, Op::Open | Op::Write);
        let at = match self.point {
            Point::Within(byte) if has_body => trouble().at_byte(byte),
            Point::Within(item) if self.op == Op::List => trouble().at_item(item % 4),
            Point::After if matches!(self.op, Op::Write | Op::Delete) => trouble().after_applying(),
            _ => trouble(),
        };
        let byte = match self.point {
            Point::Before => 0,
            Point::Within(byte) => byte,
            Point::After => 90,
        };
        match self.effect {
            Effect::Fail(kind) => at.fail(kind),
            Effect::Delay(seconds) => at.delay(Duration::from_secs(seconds)),
            Effect::Hang => at.hang(),
            // A store that keeps something else than it says can't be made up for.
            Effect::Cut if self.op == Op::Open => trouble().short_body(byte),
            Effect::Flip if self.op == Op::Open => trouble().flip_byte(byte),
            Effect::Cut | Effect::Flip => at.fail(ErrorKind::Unavailable),
        }
    }

    /// The same for a client that nobody waits for in vain.
    pub(crate) fn of_restore(mut self, mock: &MockClient) {
        if matches!(self.effect, Effect::Hang) {
            self.effect = Effect::Fail(ErrorKind::Unavailable);
        }
        if self.op != Op::List {
            self.op = Op::Open;
        }
        self.arm(mock);
    }
}

pub(crate) fn any_fault() -> impl Strategy<Value = Fault> {
    let op = prop_oneof![
        1 => Just(Op::List),
        4 => Just(Op::Open),
        6 => Just(Op::Write),
        2 => Just(Op::Delete),
    ];
    let point = prop_oneof![
        2 => Just(Point::Before),
        1 => (0u64..600).prop_map(Point::Within),
        3 => Just(Point::After),
    ];
    let kind = prop_oneof![
        6 => Just(ErrorKind::Unavailable),
        1 => Just(ErrorKind::PermissionDenied),
        1 => Just(ErrorKind::Other),
    ];
    let effect = prop_oneof![
        6 => kind.prop_map(Effect::Fail),
        2 => (1u64..90).prop_map(Effect::Delay),
        1 => Just(Effect::Hang),
        2 => Just(Effect::Cut),
        3 => Just(Effect::Flip),
    ];
    (op, 0u64..6, 1u64..4, point, effect).prop_map(|(op, skip, times, point, effect)| Fault {
        op,
        skip,
        times,
        point,
        effect,
    })
}

/// One file that is read is another one than was stored.
pub(crate) fn any_damage() -> impl Strategy<Value = Fault> {
    (0u64..3, 0u64..400).prop_map(|(skip, byte)| Fault {
        op: Op::Open,
        skip,
        times: 1,
        point: Point::Within(byte),
        effect: Effect::Flip,
    })
}

/// When a process dies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doom {
    /// Before or in which of its calls.
    pub(crate) call: u64,
    /// Of those that change something, or of all.
    pub(crate) of_changes: bool,
    /// Whether that was carried out.
    pub(crate) is_done: bool,
}

pub(crate) fn any_doom() -> impl Strategy<Value = Doom> {
    let change = (0u64..6, any::<bool>()).prop_map(|(call, is_done)| Doom {
        call,
        of_changes: true,
        is_done,
    });
    let any = (0u64..40).prop_map(|call| Doom {
        call,
        of_changes: false,
        is_done: false,
    });
    prop_oneof![3 => change, 1 => any]
}

/// What was in the store after a change.
pub(crate) struct Entry {
    pub(crate) at: Instant,
    pub(crate) files: Snapshot,
}

/// A client of a store in memory that a process has. Clones are the same one.
#[derive(Clone)]
pub(crate) struct Line {
    mock: MockClient,
    application: Arc<Mutex<Application>>,
    wire: Arc<Mutex<Wire>>,
    died: Arc<Notify>,
}

#[derive(Default)]
struct Wire {
    doom: Option<Doom>,
    /// Until when nothing gets through.
    away: Option<Instant>,
    /// What the application does in so many calls from now.
    meanwhile: Vec<(u64, Change)>,
    journal: Vec<Entry>,
    /// Whether anything was to go wrong ever.
    is_troubled: bool,
}

impl Line {
    pub(crate) fn new(mock: MockClient, application: Arc<Mutex<Application>>) -> Line {
        Line {
            mock,
            application,
            wire: Arc::default(),
            died: Arc::default(),
        }
    }

    pub(crate) fn arm(&self, fault: Fault) {
        self.wire().is_troubled = true;
        fault.arm(&self.mock);
    }

    pub(crate) fn doom(&self, doom: Doom) {
        self.wire().doom = Some(doom);
    }

    /// Nothing gets through from now on for so long.
    pub(crate) fn go_away(&self, span: Duration) {
        let mut wire = self.wire();
        wire.is_troubled = true;
        wire.away = Some(Instant::now() + span);
    }

    pub(crate) fn meanwhile(&self, calls: u64, change: Change) {
        self.wire().meanwhile.push((calls, change));
    }

    pub(crate) fn is_troubled(&self) -> bool {
        self.wire().is_troubled
    }

    /// Everything is well from now on.
    pub(crate) fn mend(&self) {
        self.mock.clear_faults();
        let mut wire = self.wire();
        wire.doom = None;
        wire.away = None;
        wire.meanwhile.clear();
    }

    /// What has changed since this was called last.
    pub(crate) fn journal(&self) -> Vec<Entry> {
        let mut journal = std::mem::take(&mut self.wire().journal);
        // A call that was given up may have been carried out.
        journal.push(Entry {
            at: Instant::now(),
            files: self.mock.snapshot(),
        });
        journal
    }

    /// Waits for the work of a process, which may die of it.
    pub(crate) async fn survive<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.died.notified() => None,
            done = work => Some(done),
        }
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a call as this line lets it, and notes what it has changed.
    async fn call<T>(&self, op: Op, call: impl Future<Output = Result<T>>) -> Result<T> {
        let (doom, is_away, change) = self.wire().meet(op);
        if let Some(change) = change {
            let mut application = self
                .application
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            application.make(&change);
        }
        if doom.is_some_and(|doom| !doom.is_done) {
            self.died.notify_one();
            return future::pending().await;
        }
        if is_away {
            return Err(Error::new(ErrorKind::Unavailable, "the store is away"));
        }
        let answer = timeout(PATIENCE, call).await;
        if matches!(op, Op::Write | Op::Delete) {
            let files = self.mock.snapshot();
            self.wire().journal.push(Entry {
                at: Instant::now(),
                files,
            });
        }
        if doom.is_some() {
            self.died.notify_one();
            return future::pending().await;
        }
        answer.unwrap_or_else(|_| Err(late()))
    }
}

impl Wire {
    fn meet(&mut self, op: Op) -> (Option<Doom>, bool, Option<Change>) {
        let is_change = matches!(op, Op::Write | Op::Delete);
        let mut met = None;
        if let Some(doom) = self.doom.filter(|doom| is_change || !doom.of_changes) {
            match doom.call.checked_sub(1) {
                Some(call) => self.doom = Some(Doom { call, ..doom }),
                None => met = self.doom.take(),
            }
        }
        let is_away = self.away.is_some_and(|until| Instant::now() < until);
        let mut change = None;
        if let Some((calls, _)) = self.meanwhile.first_mut() {
            match calls.checked_sub(1) {
                Some(left) => *calls = left,
                None => change = Some(self.meanwhile.remove(0).1),
            }
        }
        (met, is_away, change)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

fn late() -> Error {
    Error::new(ErrorKind::Unavailable, "the store does not answer")
}

/// The same stream, given up where it makes no progress.
fn patient<T: Send + 'static>(
    items: stream::BoxStream<'static, Result<T>>,
) -> stream::BoxStream<'static, Result<T>> {
    stream::unfold(Some(items), |items| async {
        let mut items = items?;
        match timeout(PATIENCE, items.next()).await {
            Ok(item) => Some((item?, Some(items))),
            Err(_) => Some((Err(late()), None)),
        }
    })
    .boxed()
}

#[async_trait]
impl ReplicaClient for Line {
    fn scheme(&self) -> &'static str {
        self.mock.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.mock.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        let call = self.mock.list(level, from, timestamps);
        Ok(patient(self.call(Op::List, call).await?))
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let call = self.mock.open(file, range);
        Ok(patient(self.call(Op::Open, call).await?))
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let call = self.mock.write(file, created_at, body);
        self.call(Op::Write, call).await
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.call(Op::Delete, self.mock.delete(files)).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.call(Op::DeleteAll, self.mock.delete_all()).await
    }
}

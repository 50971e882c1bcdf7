//! Trouble: what is to go wrong, when, and whether it has.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use replica_core::{Error, ErrorKind, FileId, Level, Op, Result};

use crate::log::{Call, Outcome, Request};

/// A fault being described: begun by [`MockClient::on`](crate::MockClient::on), armed by its last
/// word.
///
/// Which calls it meets: every one of the operation, unless [`of`](Trouble::of) or
/// [`at_level`](Trouble::at_level) narrow that; the next one, unless [`skip`](Trouble::skip),
/// [`times`](Trouble::times) or [`every`](Trouble::every) say otherwise. A call meets at most one
/// fault: the first one armed that has its turn.
///
/// Where in the call it strikes: before anything is done, unless
/// [`after_applying`](Trouble::after_applying), [`at_byte`](Trouble::at_byte) or
/// [`at_item`](Trouble::at_item) say otherwise.
#[derive(Debug)]
#[must_use = "a fault is armed by what it does: fail, delay, hang, …"]
pub struct Trouble {
    script: Arc<Mutex<Script>>,
    fault: Fault,
    point: Point,
}

impl Trouble {
    /// Only calls that name `file`. A delete that names others too deletes those, and its error
    /// names this one.
    pub fn of(self, file: FileId) -> Trouble {
        self.of_files([file])
    }

    /// Only calls that name one of `files`. A delete that names others too deletes those, and
    /// its error names these.
    pub fn of_files(mut self, files: impl IntoIterator<Item = FileId>) -> Trouble {
        self.fault.files.extend(files);
        self
    }

    /// Only calls that list `level`, or name a file of it.
    pub fn at_level(mut self, level: Level) -> Trouble {
        self.fault.level = Some(level);
        self
    }

    /// Spares the first `calls` that it would meet.
    pub fn skip(mut self, calls: u64) -> Trouble {
        self.fault.skip = calls;
        self
    }

    /// Strikes `times` calls, not one.
    pub fn times(mut self, times: u64) -> Trouble {
        self.fault.times = Some(times);
        self
    }

    /// Strikes each `nth` call, for ever: each one for 1, every second one for 2.
    pub fn every(mut self, nth: u64) -> Trouble {
        self.fault.every = nth.max(1);
        self.fault.times = None;
        self
    }

    /// Strikes when the call has been carried out: it has happened, and its caller does not know.
    ///
    /// # Panics
    ///
    /// On a read, which carries out nothing.
    pub fn after_applying(mut self) -> Trouble {
        let op = self.fault.op;
        assert!(
            !matches!(op, Op::Open | Op::List),
            "{op} carries out nothing that a fault could come after"
        );
        self.point = Point::After;
        self
    }

    /// Strikes when the call has moved `bytes` of its body, which is read or written in part: the
    /// read before them succeeds, and the write leaves nothing.
    ///
    /// # Panics
    ///
    /// On a call that moves no body.
    pub fn at_byte(mut self, bytes: u64) -> Trouble {
        self.assert_has_a_body();
        self.point = Point::Byte(bytes);
        self
    }

    /// Strikes when the listing has given `items`.
    ///
    /// # Panics
    ///
    /// On any other call than a list.
    pub fn at_item(mut self, items: u64) -> Trouble {
        let op = self.fault.op;
        assert!(
            op == Op::List,
            "{op} has no items that a fault could come between"
        );
        self.point = Point::Item(items);
        self
    }

    /// The call, or the stream that it gave, fails with an error of `kind`.
    pub fn fail(self, kind: ErrorKind) {
        self.act(Action::Fail(kind));
    }

    /// The call, or the stream that it gave, goes on only after `pause` of Tokio's clock.
    pub fn delay(self, pause: Duration) {
        self.act(Action::Delay(pause));
    }

    /// The call, or the stream that it gave, never goes on.
    pub fn hang(self) {
        self.act(Action::Hang);
    }

    /// The store breaks its promises: what is read ends after `bytes` without an error (K5), or
    /// of what is written only the first `bytes` are kept, and the call succeeds (K11).
    ///
    /// # Panics
    ///
    /// On a call that moves no body.
    pub fn short_body(self, bytes: u64) {
        self.assert_has_a_body();
        self.arm(Effect::Short(bytes));
    }

    /// The store breaks its promises: the byte at `offset` of what is read, or kept of what is
    /// written, is another one.
    ///
    /// # Panics
    ///
    /// On a call that moves no body.
    pub fn flip_byte(self, offset: u64) {
        self.assert_has_a_body();
        self.arm(Effect::Flip(offset));
    }

    /// Each chunk of the body, or item of the listing, and their end, come only after another
    /// `pause` of Tokio's clock.
    ///
    /// # Panics
    ///
    /// On a delete, which has neither.
    pub fn drip(self, pause: Duration) {
        let op = self.fault.op;
        assert!(
            matches!(op, Op::Open | Op::Write | Op::List),
            "{op} moves nothing that could drip"
        );
        self.arm(Effect::Drip(pause));
    }

    pub(crate) fn new(script: Arc<Mutex<Script>>, op: Op) -> Trouble {
        Trouble {
            script,
            fault: Fault {
                number: 0,
                op,
                files: Vec::new(),
                level: None,
                skip: 0,
                every: 1,
                times: Some(1),
                effect: Effect::At(Point::Before, Action::Hang),
                met: 0,
                taken: 0,
                struck: 0,
            },
            point: Point::Before,
        }
    }

    fn assert_has_a_body(&self) {
        let op = self.fault.op;
        assert!(matches!(op, Op::Open | Op::Write), "{op} moves no body");
    }

    fn act(self, action: Action) {
        let effect = Effect::At(self.point, action);
        self.arm(effect);
    }

    fn arm(mut self, effect: Effect) {
        self.fault.effect = effect;
        lock(&self.script).arm(self.fault);
    }
}

/// What one client is to do wrong, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Script {
    faults: Vec<Fault>,
    /// How many faults were ever armed, which numbers the next one.
    armed: u64,
    calls: VecDeque<Call>,
    /// How many calls came before the first of `calls`.
    forgotten: u64,
}

/// How many calls are remembered; older ones are forgotten.
const CALLS_MAX: usize = 100_000;

#[derive(Debug)]
struct Fault {
    number: u64,
    op: Op,
    /// Any, where empty.
    files: Vec<FileId>,
    level: Option<Level>,
    skip: u64,
    every: u64,
    /// For ever, where `None`.
    times: Option<u64>,
    effect: Effect,
    /// How many calls it could have taken.
    met: u64,
    /// How many calls were to be struck.
    taken: u64,
    /// How many of those came to the point where it strikes.
    struck: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Effect {
    At(Point, Action),
    Short(u64),
    Flip(u64),
    Drip(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Point {
    Before,
    After,
    Byte(u64),
    Item(u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Action {
    Fail(ErrorKind),
    Delay(Duration),
    Hang,
}

impl Fault {
    fn concerns(&self, request: &Request) -> bool {
        let files = request.files();
        self.op == request.op()
            && (self.files.is_empty() || files.iter().any(|file| self.files.contains(file)))
            && self.level.is_none_or(|level| match request {
                Request::List { level: listed, .. } => *listed == level,
                _ => files.iter().any(|file| file.level == level),
            })
    }

    /// Whether it takes this call, which it concerns.
    fn has_its_turn(&self) -> bool {
        let turn = self.met.saturating_sub(self.skip);
        turn > 0 && turn.is_multiple_of(self.every) && self.is_left()
    }

    fn is_left(&self) -> bool {
        self.times.is_none_or(|times| self.taken < times)
    }

    fn is_used(&self) -> bool {
        self.struck >= self.times.unwrap_or(1)
    }
}

/// What a test reads when the fault was not used.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.op)?;
        for file in &self.files {
            write!(f, " {file}")?;
        }
        if let Some(level) = self.level {
            write!(f, " at level {level}")?;
        }
        match self.effect {
            Effect::At(point, action) => {
                match action {
                    Action::Fail(kind) => write!(f, ": fail with \"{kind}\"")?,
                    Action::Delay(pause) => write!(f, ": delay for {pause:?}")?,
                    Action::Hang => write!(f, ": hang")?,
                }
                match point {
                    Point::Before => {}
                    Point::After => write!(f, " after applying")?,
                    Point::Byte(bytes) => write!(f, " at byte {bytes}")?,
                    Point::Item(items) => write!(f, " at item {items}")?,
                }
            }
            Effect::Short(bytes) => write!(f, ": end after {bytes} bytes")?,
            Effect::Flip(offset) => write!(f, ": flip byte {offset}")?,
            Effect::Drip(pause) => write!(f, ": drip every {pause:?}")?,
        }
        write!(f, " (struck {} times", self.struck)?;
        match self.times {
            Some(times) => write!(f, " of {times})"),
            None => f.write_str(")"),
        }
    }
}

impl Script {
    fn arm(&mut self, mut fault: Fault) {
        fault.number = self.armed;
        self.armed += 1;
        self.faults.push(fault);
    }

    fn fault(&mut self, number: u64) -> Option<&mut Fault> {
        self.faults.iter_mut().find(|fault| fault.number == number)
    }

    pub(crate) fn unused_faults(&self) -> Vec<String> {
        let unused = self.faults.iter().filter(|fault| !fault.is_used());
        unused.map(ToString::to_string).collect()
    }

    pub(crate) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.iter().cloned().collect()
    }

    pub(crate) fn clear_calls(&mut self) {
        self.forgotten += self.calls.len() as u64;
        self.calls.clear();
    }

    /// Logs a call, and finds the fault that it meets.
    fn begin(&mut self, request: Request) -> (u64, Option<Struck>) {
        let mut struck = None;
        for fault in &mut self.faults {
            if !fault.concerns(&request) {
                continue;
            }
            fault.met += 1;
            if struck.is_none() && fault.has_its_turn() {
                fault.taken += 1;
                struck = Some(Struck {
                    number: fault.number,
                    effect: fault.effect,
                    files: fault.files.clone(),
                });
            }
        }
        if self.calls.len() == CALLS_MAX {
            self.calls.pop_front();
            self.forgotten += 1;
        }
        let number = self.forgotten + self.calls.len() as u64;
        self.calls.push_back(Call {
            request,
            outcome: Outcome::Running,
            bytes: 0,
            items: 0,
        });
        (number, struck)
    }

    fn call(&mut self, number: u64) -> Option<&mut Call> {
        let index = number.checked_sub(self.forgotten)?;
        self.calls.get_mut(usize::try_from(index).ok()?)
    }
}

/// The fault that a call meets.
#[derive(Debug)]
struct Struck {
    number: u64,
    effect: Effect,
    files: Vec<FileId>,
}

/// A call under way, which tells the log how it goes, and meets its fault.
#[derive(Debug)]
pub(crate) struct Ongoing {
    script: Arc<Mutex<Script>>,
    number: u64,
    fault: Option<Struck>,
    ended: bool,
}

impl Ongoing {
    pub(crate) fn begin(script: &Arc<Mutex<Script>>, request: Request) -> Ongoing {
        let (number, fault) = lock(script).begin(request);
        Ongoing {
            script: Arc::clone(script),
            number,
            fault,
            ended: false,
        }
    }

    /// What the call is to do wrong, unless it has been done.
    pub(crate) fn effect(&self) -> Option<Effect> {
        self.fault.as_ref().map(|fault| fault.effect)
    }

    /// The files that the fault is about; any, where empty.
    pub(crate) fn fault_files(&self) -> &[FileId] {
        self.fault.as_ref().map_or(&[], |fault| &fault.files)
    }

    /// Notes that the fault has been met, which it is once a call.
    pub(crate) fn struck(&mut self) {
        if let Some(fault) = self.fault.take()
            && let Some(fault) = lock(&self.script).fault(fault.number)
        {
            fault.struck += 1;
        }
    }

    /// Comes to `point`, and meets the fault that waits there.
    pub(crate) async fn come_to(&mut self, point: Point) -> Result<()> {
        let Some(Effect::At(at, action)) = self.effect() else {
            return Ok(());
        };
        if at != point {
            return Ok(());
        }
        self.struck();
        match action {
            Action::Fail(kind) => return Err(Error::new(kind, "the mock was told to fail")),
            Action::Delay(pause) => tokio::time::sleep(pause).await,
            Action::Hang => std::future::pending().await,
        }
        Ok(())
    }

    /// Waits as long as a dripping body asks. It drips again and again, and that counts once.
    pub(crate) async fn drip(&mut self) {
        let Some(&Struck { number, effect, .. }) = self.fault.as_ref() else {
            return;
        };
        if let Effect::Drip(pause) = effect {
            if let Some(fault) = lock(&self.script).fault(number) {
                fault.struck = fault.taken;
            }
            tokio::time::sleep(pause).await;
        }
    }

    pub(crate) fn moved(&mut self, bytes: usize) {
        if let Some(call) = lock(&self.script).call(self.number) {
            call.bytes += bytes as u64;
        }
    }

    pub(crate) fn listed(&mut self) {
        if let Some(call) = lock(&self.script).call(self.number) {
            call.items += 1;
        }
    }

    pub(crate) fn end<T>(&mut self, result: &Result<T>) {
        match result {
            Ok(_) => self.done(),
            Err(error) => self.failed(error.kind()),
        }
    }

    pub(crate) fn done(&mut self) {
        self.end_as(Outcome::Done);
    }

    pub(crate) fn failed(&mut self, kind: ErrorKind) {
        self.end_as(Outcome::Failed(kind));
    }

    fn end_as(&mut self, outcome: Outcome) {
        if self.ended {
            return;
        }
        self.ended = true;
        if let Some(call) = lock(&self.script).call(self.number) {
            call.outcome = outcome;
        }
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        self.end_as(Outcome::Dropped);
    }
}

pub(crate) fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives way to the other tasks once, under any runtime.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if yielded {
            return std::task::Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

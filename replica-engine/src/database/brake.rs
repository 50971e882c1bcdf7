//! Slows writers down before their log has become larger than it may be.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::time::Instant;

use super::keeper::end;
use super::{connect, file};

/// For how long writers are slowed down where nobody says that it still helps.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a log is looked at that is still short.
const SHORT_PAUSE: Duration = Duration::from_millis(5);
/// How often a log is looked at while writers have their turn, for a start and later on. Who has
/// waited for less than 50 ms comes back soon: SQLite waits for 1, 2, 5, 10, 15 and 20 ms before it
/// tries again.
const TURN_PAUSE: Duration = Duration::from_micros(50);
const TURN_SOON: Duration = Duration::from_millis(20);
const TURN_LONG_PAUSE: Duration = Duration::from_millis(1);
/// How often it tries at once to take the write lock from writers that take it again and again,
/// how long it waits then before it tries again, and how often.
const LOCK_EAGER: i32 = 100;
const LOCK_PAUSE: Duration = Duration::from_micros(100);
const LOCK_TRIES: i32 = 600;
/// For how long writers have to wait at a time. SQLite makes up to 8 ms of that, and 33 ms.
const HOLD: Duration = Duration::from_millis(5);
const LONG_HOLD: Duration = Duration::from_millis(30);
/// How often a turn is so long that who waits for 100 ms before it tries again, which is the longest
/// that SQLite waits, has one too.
const FAIR_PAUSE: Duration = Duration::from_secs(2);
const FAIR_TURN: Duration = Duration::from_millis(110);
/// From which part of what the log may have on writers are slowed down.
const FROM: u64 = 4;
/// By which part of what is left the log may grow in one turn.
const PARTS: u64 = 32;

/// Takes the write lock again and again for some milliseconds, in a thread of its own, while a log
/// is near to what it may have. Writers have their turn in between, each time for less, so that the
/// log comes nearer and nearer to that, and hardly goes beyond.
#[derive(Debug)]
pub(super) struct Brake {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// When to end, unless somebody says until then that it still helps; without a time not before
    /// somebody says one.
    until: Option<Instant>,
    /// Whether somebody else of us takes the write lock.
    is_paused: bool,
    /// Whether the write lock is taken, or writers have not had their turn since.
    is_held: bool,
    is_dropped: bool,
}

/// A brake that leaves the write lock to others of us until this is dropped.
pub(super) struct Paused<'a>(&'a Brake);

/// When a turn was long for the last time.
#[derive(Clone, Copy, Debug)]
struct Fairness(Instant);

/// What is done to writers whose log has some length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    /// For how long they have to wait.
    hold: Duration,
    /// By how many bytes the log may grow then until it is done again, but for the transaction that
    /// exceeds them.
    turn: u64,
}

impl State {
    fn is_over(&self) -> bool {
        self.is_dropped || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

impl Fairness {
    /// For how long the next turn lasts in any case.
    fn least(&mut self) -> Duration {
        if self.0.elapsed() < FAIR_PAUSE {
            return Duration::ZERO;
        }
        self.0 = Instant::now();
        FAIR_TURN
    }
}

impl Slice {
    /// `None` where a log of `len` bytes, which may have `max`, is none that writers are slowed down
    /// for.
    fn of(len: u64, max: u64) -> Option<Slice> {
        // A transaction more than is wanted fits in too.
        let (from, end) = (max / FROM, max - max / 16);
        let left = end.saturating_sub(len);
        (len > from).then_some(Slice {
            hold: match left < (end - from) / 8 {
                true => LONG_HOLD,
                false => HOLD,
            },
            turn: left / PARTS,
        })
    }
}

impl Brake {
    /// Slows down who writes the database at `path`, as soon as the log comes to a quarter of `max`
    /// bytes, and so that it hardly comes to more than all of that.
    pub(super) fn start(path: &Path, max: u64) -> Brake {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                until: None,
                is_paused: false,
                is_held: false,
                is_dropped: false,
            }),
            changed: Condvar::new(),
        });
        let thread = thread::Builder::new().name(String::from("replica-brake"));
        let (own, path) = (Arc::clone(&shared), path.to_owned());
        let thread = thread.spawn(move || {
            // Where it can't be done the log is as long as writers make it.
            if let Ok(mut connection) = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE) {
                own.slow(&mut connection, max);
            }
        });
        Brake {
            shared,
            thread: thread.ok(),
        }
    }

    /// Whether it has not ended by itself.
    pub(super) fn works(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_some_and(|thread| !thread.is_finished())
    }

    /// Says that it helps, for as long as what is being done now takes.
    pub(super) fn helps(&self) {
        self.shared.lock().until = None;
    }

    /// Says that it helps, if what comes next does not take too long.
    pub(super) fn may_help(&self) {
        self.shared.lock().until = Some(Instant::now() + PATIENCE);
    }

    /// Leaves the write lock to others of us, once writers have had their turn.
    pub(super) fn pause(&self) {
        let mut state = self.shared.lock();
        state.is_paused = true;
        self.shared.changed.notify_all();
        while state.is_held && self.works() {
            state = self.shared.wait(state, TURN_SOON);
        }
    }

    /// The same, for as long as that is kept.
    pub(super) fn paused(&self) -> Paused<'_> {
        self.pause();
        Paused(self)
    }

    /// Goes on.
    pub(super) fn resume(&self) {
        self.shared.lock().is_paused = false;
        self.shared.changed.notify_all();
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        self.shared.lock().is_dropped = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has only slowed down others.
            thread.join().ok();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // There is nothing in it that could be half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, max: Duration) -> MutexGuard<'a, State> {
        match self.changed.wait_timeout(state, max) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    /// Slows writers down until that is over.
    fn slow(&self, connection: &mut Connection, max: u64) {
        let eagerly = connection.busy_handler(Some(|tries| {
            match tries < LOCK_EAGER {
                true => thread::yield_now(),
                false => thread::sleep(LOCK_PAUSE),
            }
            tries < LOCK_TRIES
        }));
        // Only who has read the database has its log.
        let read = connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()));
        if eagerly.and(read).is_err() {
            return;
        }
        let mut fairness = Fairness(Instant::now());
        let mut state = self.lock();
        while !state.is_over() {
            let is_long = |len| Slice::of(len, max).is_some();
            if state.is_paused || !file::log_len(connection).is_ok_and(is_long) {
                state = self.wait(state, SHORT_PAUSE);
                continue;
            }
            state.is_held = true;
            drop(state);
            if connection.execute_batch("BEGIN IMMEDIATE").is_ok() {
                // As long as it is now, since nobody writes.
                let len = file::log_len(connection).unwrap_or_default();
                let slice = Slice::of(len, max);
                slice.iter().for_each(|slice| self.hold(slice.hold));
                if end(connection).is_err() {
                    // With the connection the transaction ends too.
                    self.lock().is_held = false;
                    self.changed.notify_all();
                    return;
                }
                let least = fairness.least();
                slice
                    .iter()
                    .for_each(|slice| self.turn(connection, len, slice.turn, least));
            } else {
                // Writers leave no gap, or something is wrong that others tell.
                thread::sleep(SHORT_PAUSE);
            }
            state = self.lock();
            state.is_held = false;
            self.changed.notify_all();
        }
    }

    /// Returns after `hold`, or as soon as it is paused or over.
    fn hold(&self, hold: Duration) {
        let until = Instant::now() + hold;
        let mut state = self.lock();
        while !state.is_paused && !state.is_dropped {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wait(state, left);
        }
    }

    /// Leaves their turn to writers of a log of `len` bytes, which may grow by `more`, for as long
    /// as `least` in any case. As long as nobody writes there is nothing to slow down.
    fn turn(&self, connection: &Connection, len: u64, more: u64, least: Duration) {
        let has_grown = |now: u64| now < len || now > len.saturating_add(more);
        let begun = Instant::now();
        while begun.elapsed() < least || !file::log_len(connection).is_ok_and(has_grown) {
            let is_long = begun.elapsed() > TURN_SOON;
            if is_long && self.is_awaited() {
                break;
            }
            thread::sleep(match is_long {
                true => TURN_LONG_PAUSE,
                false => TURN_PAUSE,
            });
        }
    }

    /// Whether somebody waits for the end of a turn.
    fn is_awaited(&self) -> bool {
        let state = self.lock();
        state.is_paused || state.is_over()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 4 * 1024 * 1024;
    /// How long anything here may take, which is much longer than it does.
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn writers_of_a_short_log_are_not_slowed_down() {
        for len in [0, 1, MAX / FROM] {
            assert_eq!(Slice::of(len, MAX), None);
        }
        assert_eq!(Slice::of(0, 0), None);
    }

    #[test]
    fn the_longer_the_log_the_less_is_written_until_next_to_nothing_is() {
        let slices: Vec<Slice> = (MAX / FROM + 1..MAX * 2)
            .step_by(1000)
            .filter_map(|len| Slice::of(len, MAX))
            .collect();

        let ordered = |pair: &[Slice]| pair[0].turn >= pair[1].turn && pair[0].hold <= pair[1].hold;
        assert!(slices.windows(2).all(ordered), "{slices:?}");
        let (first, last) = (slices.first(), slices.last());
        assert_eq!(first.map(|slice| slice.hold), Some(HOLD));
        let (hold, turn) = (LONG_HOLD, 0);
        assert_eq!(last, Some(&Slice { hold, turn }));
    }

    #[test]
    fn a_turn_never_leads_beyond_what_the_log_may_have() {
        for len in (MAX / FROM + 1..MAX).step_by(1000) {
            let slice = Slice::of(len, MAX).expect("it is long");

            assert!(
                slice.turn == 0 || len + slice.turn < MAX,
                "{len}: {slice:?}"
            );
        }
    }

    fn open(folder: &tempfile::TempDir) -> Connection {
        let connection = Connection::open(folder.path().join("a.db"));
        let connection = connection.expect("a database in a temporary folder");
        let settings = "PRAGMA wal_autocheckpoint=0; PRAGMA synchronous=OFF; \
             PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(a)";
        connection
            .execute_batch(settings)
            .expect("a table can be made");
        connection
    }

    fn write(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch("INSERT INTO t VALUES(randomblob(5000))")
    }

    /// Waits until something happens, and says whether it has.
    fn has_come(mut happens: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + LONG;
        while !happens() {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(SHORT_PAUSE);
        }
        true
    }

    #[test]
    fn a_log_hardly_grows_any_more_once_it_is_as_long_as_it_may_be() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (connection, writer) = (open(&folder), open(&folder));
        while file::log_len(&connection).expect("it has a log") <= MAX {
            write(&writer).expect("nobody else writes");
        }
        let brake = Brake::start(&folder.path().join("a.db"), MAX);
        let settings = writer.busy_timeout(LONG);
        settings.expect("a connection can be set up");

        // It takes a writer some milliseconds otherwise, and where the machine has no time for who
        // slows it down it may take as little for once.
        let is_slow = has_come(|| {
            let begun = Instant::now();
            for _ in 0..100 {
                write(&writer).expect("a writer has its turn");
            }
            begun.elapsed() > 3 * LONG_HOLD
        });

        assert!(is_slow);
        assert!(brake.works());
    }

    /// Who has just written comes back first, and where each turn is one transaction long, who waits
    /// for longer before it tries again never had one.
    #[tokio::test(start_paused = true)]
    async fn each_two_seconds_a_turn_is_longer_than_who_waits_for_one_waits_at_a_time() {
        const WAIT_MAX: Duration = Duration::from_millis(100);
        let mut fairness = Fairness(Instant::now());
        let mut long = Vec::new();

        for second in 0..6 {
            long.push(fairness.least() > WAIT_MAX);
            assert_eq!(fairness.least(), Duration::ZERO, "{second}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }

        assert_eq!(long, [false, false, true, false, true, false]);
    }

    #[test]
    fn a_turn_that_is_to_be_long_is_so_whatever_is_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let connection = open(&folder);
        write(&connection).expect("nobody else writes");
        let brake = Brake::start(&folder.path().join("a.db"), MAX);

        let begun = Instant::now();
        brake.shared.turn(&connection, 0, 0, FAIR_TURN);

        assert!(begun.elapsed() >= FAIR_TURN);
    }

    #[test]
    fn nobody_is_slowed_down_during_a_pause() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let connection = open(&folder);
        while file::log_len(&connection).expect("it has a log") <= MAX {
            write(&connection).expect("nobody else writes");
        }
        let brake = Brake::start(&folder.path().join("a.db"), MAX);
        let at_once = connection.busy_timeout(Duration::ZERO);
        at_once.expect("a connection can be set up");
        let is_refused = || has_come(|| write(&connection).is_err());
        assert!(is_refused());

        brake.pause();
        for _ in 0..100 {
            write(&connection).expect("nobody else writes");
            thread::sleep(TURN_PAUSE);
        }

        brake.resume();
        assert!(is_refused());
        drop(brake);
        write(&connection).expect("nobody else writes");
    }

    #[test]
    fn it_ends_by_itself_where_it_is_forgotten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let _connection = open(&folder);
        let brake = Brake::start(&folder.path().join("a.db"), MAX);

        brake.may_help();

        assert!(has_come(|| !brake.works()));
    }
}

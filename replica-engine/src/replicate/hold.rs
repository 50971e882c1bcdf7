//! What the replicas of one database have in common: the hold on it, and who of them needs its log.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::decide::{Place, SnapshotReason};
use super::error::ReplicateError;
use super::outage::Standstill;
use super::pending::{Contents, Pending, lock};
use super::schedule::Schedule;
use crate::database::{Copies, Database, Frames, Observed};
use crate::wal::{Chain, Changed, WalHeader};

/// The databases that this process holds. SQLite's locks are the process's too: a second hold on
/// the same database would find the first one in its way, and neither would know what the other's
/// replica lacks.
static HOLDS: LazyLock<Mutex<HashMap<PathBuf, Weak<Hold>>>> = LazyLock::new(Mutex::default);

/// How long another one is waited for that has the database, as one does that is just ending, and
/// how often that is looked at.
const OTHER_MAX: Duration = Duration::from_secs(1);
const OTHER_PAUSE: Duration = Duration::from_millis(10);

/// From which part of what the log may be on it is begun anew without a replica that fails.
const FAILING_FROM: u64 = 2;

/// For how long a checkpoint waits for a replica until that counts as one that does not keep up.
const LATE_MAX: Duration = Duration::from_secs(5);

/// A database that is held for all replicas of it that this process keeps.
pub(crate) struct Hold {
    pub(crate) database: Arc<Mutex<Database>>,
    path: PathBuf,
    pub(crate) wal: PathBuf,
    members: Mutex<Vec<Weak<Member>>>,
    /// Whether there was ever one, who may have checkpointed, and be gone.
    was_joined: AtomicBool,
    past: Mutex<Checkpoints>,
    /// The log's file, on which there is a lock for as long as it is open, so that no other process
    /// replicates the database too. SQLite has locks of its own, and none on this file.
    _alone: File,
}

/// What was done to the log, by whichever replica.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoints {
    /// When it was tried last.
    pub(crate) at: Instant,
    /// For how many in a row there was more to do than may be while nobody can write.
    pub(crate) vain: u32,
    /// The log that the last one has left to be begun anew.
    pub(crate) recycled: Option<WalHeader>,
    /// The log that one has not left to be begun anew because somebody was reading it.
    pub(crate) read: Option<WalHeader>,
    /// The one with which that has come about twice, or which waits for a replica that is behind: it
    /// does not help to slow down who writes it.
    pub(crate) kept: Option<WalHeader>,
    /// How many have succeeded.
    pub(crate) done: u64,
}

/// A replica, as the others see it.
pub(crate) struct Member(Mutex<Standing>);

/// Where a replica stands.
///
/// The place, and what is between it and the end of the log, changes while the database is locked,
/// but for a file that was stored, or given up.
pub(crate) struct Standing {
    /// Where the replica stands in the log, or why that is not known.
    pub(crate) place: Result<Place, SnapshotReason>,
    /// The file that is being stored. After an error of the store it may be there already, so the
    /// very same one is stored again.
    pub(crate) pending: Option<Pending>,
    /// How often somebody began to look for it.
    rounds: u64,
    /// What was committed after that, where the log may have been begun anew since.
    pub(crate) kept: Option<Kept>,
    /// Whether the log is begun anew only once all of it is in the replica, or in memory.
    pub(crate) attends: bool,
    /// Since when checkpoints wait for it.
    pub(crate) late: Option<Instant>,
    /// Whether the others have gone on without it since it had everything.
    pub(crate) is_let_go: bool,
    /// Whether the last sync has failed.
    pub(crate) is_failing: bool,
    /// Since when nothing of what it lacks was stored, as far as somebody has looked at that.
    pub(crate) standstill: Option<Standstill>,
    /// Told when the others go on without it.
    pub(crate) on_let_go: Option<Box<dyn Fn() + Send>>,
}

/// A part of the log that is in memory.
pub(crate) struct Kept {
    /// Where the replica stands when it is to have this next.
    pub(crate) after: Chain,
    pub(crate) start: Chain,
    pub(crate) changed: Changed,
    pub(crate) copies: Copies,
}

impl Hold {
    /// Holds the database at `path`, together with whoever does so already in this process.
    pub(crate) fn open(path: &Path) -> Result<Arc<Hold>, ReplicateError> {
        let mut opened: Option<(Database, File)> = None;
        let begun = Instant::now();
        let mut replaced: Option<Arc<Hold>> = None;
        loop {
            let other = (opened.as_ref()).map(|(database, _)| database.path().to_owned());
            // What is no file is told by whoever opens it.
            let resolved = other.or_else(|| path.canonicalize().ok());
            let other = resolved.as_deref().and_then(Hold::of);
            if let Some(other) = other.filter(|other| !is_same(&replaced, other)) {
                match lock(&other.database).observe() {
                    Ok(_) => return Ok(Arc::clone(&other)),
                    Err(ReplicateError::Replaced { .. }) => {}
                    Err(error) => return Err(error),
                }
                replaced = Some(other);
            }
            // Who only waits keeps nothing of the log from being begun anew.
            let is_new = opened.is_none() && replaced.is_none();
            if is_new && resolved.as_deref().is_some_and(is_taken) {
                wait(begun, path)?;
                continue;
            }
            let (database, log) = match opened.take() {
                Some(opened) => opened,
                None => {
                    let database = Database::open(path)?;
                    let log = database.open_wal()?;
                    (database, log)
                }
            };
            // It may be the last one who has that, and the list must not be locked when it goes.
            let _other;
            let mut holds = lock(&HOLDS);
            let other = holds.get(database.path()).and_then(Weak::upgrade);
            // Otherwise somebody else of this process was first.
            let is_first = other.as_ref().is_none_or(|other| is_same(&replaced, other));
            _other = other;
            // A file system without such locks tells nothing of other processes.
            if is_first && !matches!(log.try_lock(), Err(TryLockError::WouldBlock)) {
                let hold = Arc::new(Hold::new(database, log));
                holds.insert(hold.path.clone(), Arc::downgrade(&hold));
                return Ok(hold);
            }
            drop(holds);
            if is_first {
                drop((database, log));
                wait(begun, path)?;
            } else {
                opened = Some((database, log));
            }
        }
    }

    fn of(path: &Path) -> Option<Arc<Hold>> {
        lock(&HOLDS).get(path).and_then(Weak::upgrade)
    }

    fn new(database: Database, log: File) -> Hold {
        Hold {
            _alone: log,
            path: database.path().to_owned(),
            wal: database.wal_path().to_owned(),
            database: Arc::new(Mutex::new(database)),
            members: Mutex::default(),
            was_joined: AtomicBool::new(false),
            past: Mutex::new(Checkpoints {
                at: Instant::now(),
                vain: 0,
                recycled: None,
                read: None,
                kept: None,
                done: 0,
            }),
        }
    }

    /// One more replica, for as long as it is kept, which stands at `place`. From now on the log stays
    /// for it; what others have copied to the database file since its place was found leads to a
    /// snapshot, where the log was begun anew.
    pub(crate) fn join(
        &self,
        mut place: Result<Place, SnapshotReason>,
    ) -> Result<Arc<Member>, ReplicateError> {
        // Nobody checkpoints meanwhile.
        let database = lock(&self.database);
        if let Ok(place) = &mut place
            && self.was_joined.load(Ordering::Relaxed)
        {
            let observed = database.observe()?;
            let is_kept = observed.header == Ok(*place.end.header())
                && observed.backfilled <= place.end.frames();
            place.complete &= is_kept;
            place.empty &= is_kept;
        }
        let member = Arc::new(Member(Mutex::new(Standing::new(place))));
        self.was_joined.store(true, Ordering::Relaxed);
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&member));
        Ok(member)
    }

    pub(crate) fn members(&self) -> Vec<Arc<Member>> {
        let members = lock(&self.members);
        members.iter().filter_map(Weak::upgrade).collect()
    }

    /// What was done to the log before.
    pub(crate) fn past(&self) -> MutexGuard<'_, Checkpoints> {
        lock(&self.past)
    }

    /// Slows down who writes a log that comes near to what it may be, for as long as what is done
    /// now takes.
    pub(crate) fn slow_writers(
        &self,
        database: &mut Database,
        observed: &Observed,
        schedule: &Schedule,
    ) {
        let kept = self.past().kept;
        match schedule.is_watched(observed.bytes()) {
            true if kept.is_some() && kept == observed.header.ok() => database.let_writers_go(),
            true => database.slow_writers(schedule.most()),
            false => {}
        }
    }

    /// Whether what is in the database file is in every replica that attends, or in memory.
    pub(crate) fn has_copied(&self, observed: &Observed) -> bool {
        let members = self.members();
        let mut standings = members.iter().map(|member| member.standing());
        standings.all(|standing| !standing.attends || standing.has_copied(observed))
    }

    /// Lets the log be begun anew where all replicas have what is in the database file.
    pub(crate) fn release(&self, database: &Database) -> Result<(), ReplicateError> {
        database.release(|observed| self.has_copied(observed))
    }
}

/// Whether another process replicates the database at `path`, as far as that can be told.
fn is_taken(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    File::open(log).is_ok_and(|log| matches!(log.try_lock(), Err(TryLockError::WouldBlock)))
}

/// Waits for a moment, but no longer than until a while after `begun`.
fn wait(begun: Instant, path: &Path) -> Result<(), ReplicateError> {
    if begun.elapsed() >= OTHER_MAX {
        let path = path.to_owned();
        return Err(ReplicateError::Replicated { path });
    }
    thread::sleep(OTHER_PAUSE);
    Ok(())
}

fn is_same(one: &Option<Arc<Hold>>, other: &Arc<Hold>) -> bool {
    one.as_ref().is_some_and(|one| Arc::ptr_eq(one, other))
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holds = lock(&HOLDS);
        // Another one may have taken its place.
        if (holds.get(&self.path)).is_some_and(|hold| hold.strong_count() == 0) {
            holds.remove(&self.path);
        }
    }
}

impl Checkpoints {
    /// Notes that somebody was reading this log when it should have been begun anew.
    pub(crate) fn read(&mut self, log: Option<WalHeader>) {
        if self.read == log {
            self.kept = log;
        }
        self.read = log;
    }
}

impl Member {
    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.0)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").finish_non_exhaustive()
    }
}

impl Standing {
    pub(crate) fn new(place: Result<Place, SnapshotReason>) -> Standing {
        Standing {
            attends: place.is_ok(),
            place,
            pending: None,
            rounds: 0,
            kept: None,
            late: None,
            is_let_go: false,
            is_failing: false,
            standstill: None,
            on_let_go: None,
        }
    }

    /// The number of a look for the next file, which makes those before it void.
    pub(crate) fn next_round(&mut self) -> u64 {
        self.rounds += 1;
        self.rounds
    }

    /// Whether nobody has begun to look for the next file since the look with that number.
    pub(crate) fn is_last_round(&self, round: u64) -> bool {
        self.rounds == round
    }

    /// Up to where everything is in the replica, or in memory.
    pub(crate) fn end(&self) -> Option<Chain> {
        let place = self.place.ok()?.end;
        let pending = self.pending.as_ref().filter(|pending| pending.is_copied());
        Some(match (&self.kept, pending) {
            (Some(kept), _) => *kept.changed.end(),
            (None, Some(pending)) => *pending.changed.end(),
            (None, None) => place,
        })
    }

    /// Whether what is in the database file is in the replica too, or in memory.
    fn has_copied(&self, observed: &Observed) -> bool {
        let is_copied = |end: Chain| {
            observed.header == Ok(*end.header()) && observed.backfilled <= end.frames()
        };
        observed.backfilled == 0 || self.end().is_some_and(is_copied)
    }

    /// Whether everything that was looked for is in the replica, and nothing is under way.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.attends && self.pending.is_none() && self.kept.is_none() && self.place.is_ok()
    }

    /// Has the log stay from now on until the replica has it, and says whether it did not before.
    pub(crate) fn attend(&mut self) -> bool {
        !std::mem::replace(&mut self.attends, true)
    }

    /// Notes that the replica has everything that was observed under the hold of this number, if the
    /// log was kept for it since.
    pub(crate) fn has_all(&mut self, observed: &Observed) -> bool {
        let Ok(place) = &mut self.place else {
            return false;
        };
        if self.attends {
            place.complete = true;
            // Others may have emptied it since it was observed.
            place.empty = observed.frames == 0 || place.empty && place.hold == observed.hold;
            place.hold = observed.hold;
            self.is_let_go = false;
        }
        self.attends
    }

    /// Notes that the file that was being stored is in the replica.
    pub(crate) fn stored(&mut self, pending: &Pending) {
        let before = self.place.ok();
        self.pending = None;
        if before.is_none() && pending.contents == Contents::Changes {
            // Something was found to be missing since it was made, and is not in it.
            return;
        }
        self.place = Ok(Place {
            end: *pending.changed.end(),
            commit: pending.header.commit(),
            complete: before.is_some_and(|place| place.complete),
            empty: before.is_some_and(|place| place.empty) && pending.is_copied(),
            hold: before.map_or(0, |place| place.hold),
        });
    }

    /// Gives up the file that was being stored, and what comes after it.
    pub(crate) fn give_up(&mut self) {
        let pending = self.pending.take();
        let kept = self.kept.take();
        if (kept.is_some() || pending.is_some_and(|pending| pending.is_copied()))
            && let Ok(place) = &mut self.place
        {
            place.complete = false;
        }
    }

    /// Nobody keeps the log for it any more, until it looks at that the next time: whatever it
    /// lacks then leads to a snapshot, where the log was begun anew.
    pub(crate) fn forget(&mut self) {
        self.attends = false;
        if let Ok(place) = &mut self.place {
            place.complete = false;
            place.empty = false;
        }
    }

    /// The others go on without it. What is being stored of the whole database would not be one
    /// state any more.
    pub(crate) fn let_go(&mut self) {
        self.forget();
        self.late = None;
        if let Some(pending) = &self.pending {
            pending.make_void();
        }
        let is_new = !std::mem::replace(&mut self.is_let_go, true);
        if let (true, Some(told)) = (is_new, &self.on_let_go) {
            told();
        }
    }

    /// Whether the others may go on without it, where the log has `len` bytes. One that fails is
    /// waited for as long as there is room for it, and one that does not keep up for longer; one that
    /// is behind for a moment until there is no room at all, since writers are slowed down for it;
    /// and one that is getting the whole database would never get it if it were not waited for.
    pub(crate) fn may_be_let_go(&self, len: u64, schedule: &Schedule) -> bool {
        if self.is_failing {
            return len >= schedule.wal_max / FAILING_FROM;
        }
        let max = match self.is_slow() {
            true => schedule.wal_max,
            false => schedule.most(),
        };
        len >= max && !self.takes_everything()
    }

    /// Whether it is of no use to slow writers down until it has what it lacks.
    pub(crate) fn is_no_match(&self) -> bool {
        self.is_failing || self.takes_everything() || self.is_slow()
    }

    fn is_slow(&self) -> bool {
        self.late.is_some_and(|late| late.elapsed() >= LATE_MAX)
    }

    /// Whether the database file is being stored, which nobody may copy to meanwhile.
    pub(crate) fn takes_everything(&self) -> bool {
        let contents = self.pending.as_ref().map(|pending| pending.contents);
        matches!(contents, Some(Contents::Everything(_)))
    }
}

impl Kept {
    /// What was kept, for a file.
    pub(crate) fn into_parts(self) -> (Chain, (Changed, Frames)) {
        (self.start, (self.changed, Frames::Copied(self.copies)))
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    fn run(connection: &Connection, sql: &str) {
        let done = connection.execute_batch(sql);
        done.expect("anybody may write");
    }

    /// Where the replica that has checkpointed was gone by then, whoever came next had its place taken
    /// for one after which nothing was missed, and the frames in between never reached it.
    #[test]
    fn what_somebody_has_checkpointed_who_is_gone_may_be_missed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let application = Connection::open(&path).expect("a database in a temporary folder");
        run(&application, "PRAGMA journal_mode=WAL; CREATE TABLE t(a)");
        let hold = Hold::open(&path).expect("it is a database");
        let place = {
            let database = lock(&hold.database);
            let observed = database.observe().expect("the log can be read");
            let start = Chain::new(observed.header.expect("it has a header"));
            let found = database.changes(start, observed.frames, u64::MAX);
            let (changes, _) = found.expect("the log can be read");
            Place {
                end: *changes.finish().end(),
                commit: 1,
                complete: true,
                empty: false,
                hold: observed.hold,
            }
        };

        let first = hold.join(Err(SnapshotReason::First));
        drop(first.expect("the log can be read"));
        run(&application, "INSERT INTO t VALUES(1)");
        let copied = lock(&hold.database).backfill();
        copied.expect("nobody is in the way");
        let second = hold.join(Ok(place)).expect("the log can be read");

        let place = second.standing().place.expect("it has one");
        assert!(!place.complete);
    }
}

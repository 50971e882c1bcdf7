//! Checkpoints the log, so that it can be begun anew.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::decide::{Place, Step, decide, has_growth};
use super::error::ReplicateError;
use super::hold::{Hold, Kept, Member, Standing};
use super::pending::lock;
use super::schedule::Schedule;
use crate::database::{Backfill, Copies, Database, Observed};
use crate::wal::{Chain, Changes, WalHeader};

/// What is done at most while nobody can write, for a start.
const BOUNDS: Bounds = Bounds {
    copied: 4 * 1024 * 1024,
    backfilled: 2000,
    backfilled_bytes: 8 * 1024 * 1024,
};
/// How often those are doubled: a writer that is faster than all that was tried before is kept
/// waiting longer, rather than that the log grows on.
const DOUBLED_MAX: u32 = 2;
/// How many bytes of the log are in memory at most before that, where each page is once.
const AHEAD_MAX: u64 = 16 * 1024 * 1024;
/// How often the log is looked at before nobody can write.
const LOOKS_MAX: usize = 4;
/// How often the log is copied to the database file before that: each time there is less left of
/// what was written meanwhile.
const PASSES_MAX: usize = 6;
/// How often it is copied while nobody can write, and how long after the time before.
const BACKFILLS_MAX: u32 = 4;
const BACKFILL_PAUSE: Duration = Duration::from_micros(500);

/// A way to checkpoint.
///
/// All of them copy what is in the log to the database file, as far as the replica and readers
/// allow it, so that the log can be begun anew: otherwise it would grow for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checkpoint {
    /// In nobody's way. The log is begun anew where nobody is writing at that moment.
    Gentle,
    /// Takes the write lock for as long as it takes to copy what was written just before, at most
    /// 4 MiB to memory, and 2,000 pages or 8 MiB to the database file, and to write that to the
    /// disk; where that was too little, up to four times as much. The log is begun anew even where
    /// somebody writes all the time; an application's long reader still prevents it.
    Firm,
}

/// What is done at most while nobody can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// How many bytes of the log are copied to memory.
    copied: u64,
    /// How many frames of it are copied to the database file: at first twice as many as SQLite
    /// itself copies by default in the middle of a commit.
    backfilled: u32,
    /// How many bytes those may have.
    backfilled_bytes: u64,
}

impl Bounds {
    /// What may be done after so many checkpoints for which less was too little.
    pub(crate) fn after(vain: u32) -> Bounds {
        let times = 1 << vain.min(DOUBLED_MAX);
        Bounds {
            copied: BOUNDS.copied * u64::from(times),
            backfilled: BOUNDS.backfilled * times,
            backfilled_bytes: BOUNDS.backfilled_bytes * u64::from(times),
        }
    }
}

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpointed {
    /// How many frames were in the log.
    pub frames: u32,
    /// How many of those are in the database file too.
    pub backfilled: u32,
    /// Whether whoever writes next begins the log anew, or has done so already.
    pub recycled: bool,
}

/// A checkpoint that one of a database's replicas makes for all of them.
#[derive(Clone)]
pub(crate) struct Checkpointing {
    pub(crate) hold: Arc<Hold>,
    pub(crate) own: Arc<Member>,
    pub(crate) schedule: Schedule,
    /// Whether nothing was committed for a moment.
    pub(crate) quiet: bool,
}

/// What keeps a log from being begun anew though the write lock was taken for that, or was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hindrance {
    /// Somebody reads what is in it.
    Reader,
    /// There was more left to be done than may be while nobody can write.
    TooMuch,
}

/// What a checkpoint did, and what has kept it from doing all.
type Done = (Option<Checkpointed>, Option<Hindrance>);

/// A replica that is to have all of the log before it is begun anew.
struct Share {
    member: Arc<Member>,
    /// The place up to which the replica has everything, or memory has.
    place: Place,
}

/// The replicas for which a checkpoint is made. Where that fails, nobody knows what the log is.
struct Shares(Vec<Share>);

/// A database whose writers are slowed down, where they are at all, until it is dropped.
struct Slowing<'a>(&'a mut Database);

/// A database that nobody can write to until it is dropped.
struct Locked<'a>(&'a Database);

/// What stands between a replica and a checkpoint.
enum Obstacle {
    /// What is in the database file is being stored.
    Everything,
    /// It lacks more than can be kept in memory for it.
    Distance,
}

impl Checkpointing {
    /// Checkpoints, and gives back disk space where the log has become larger than it may be.
    /// `None` where that can't be at present.
    pub(crate) fn checkpoint(
        &self,
        how: Checkpoint,
    ) -> Result<Option<Checkpointed>, ReplicateError> {
        let mut database = lock(&self.hold.database);
        if !self.own.standing().is_at_rest() {
            return Ok(None);
        }
        // Whoever else has it may copy more of the log to the database file than is seen here.
        if !database.lock()? {
            return Ok(None);
        }
        let observed = database.observe()?;
        let log = observed.header.ok();
        let mut is_kept = false;
        let shares = self.shares(how, &observed, &mut is_kept);
        {
            let mut past = self.hold.past();
            past.kept = past.kept.filter(|kept| Some(*kept) == log);
            let is_as_wanted = shares
                .as_ref()
                .is_some_and(|(possible, _)| *possible == how);
            if is_kept {
                past.kept = log;
            } else if is_as_wanted && log.is_some() && log == past.recycled {
                past.read(log);
            }
        }
        self.hold
            .slow_writers(&mut database, &observed, &self.schedule);
        let Some((how, shares)) = shares else {
            return Ok(None);
        };
        self.checkpoint_for(&mut database, shares, how, log)
    }

    /// Checkpoints what was `observed` where no replica needs the log: none of them attends. `None`
    /// where that can't be at present.
    pub(crate) fn checkpoint_for_nobody(
        &self,
        database: &mut Database,
        how: Checkpoint,
        observed: &Observed,
    ) -> Result<Option<Checkpointed>, ReplicateError> {
        if !database.lock()? {
            return Ok(None);
        }
        let log = observed.header.ok();
        {
            let mut past = self.hold.past();
            past.kept = past.kept.filter(|kept| Some(*kept) == log);
            if log.is_some() && log == past.recycled {
                past.read(log);
            }
        }
        self.hold.slow_writers(database, observed, &self.schedule);
        self.checkpoint_for(database, Shares(Vec::new()), how, log)
    }

    /// Checkpoints the `log` for those whom it can be made for.
    fn checkpoint_for(
        &self,
        database: &mut Database,
        mut shares: Shares,
        how: Checkpoint,
        log: Option<WalHeader>,
    ) -> Result<Option<Checkpointed>, ReplicateError> {
        let bounds = Bounds::after(self.hold.past().vain);
        let mut slowing = Slowing::on(database);
        let database = &mut *slowing;
        let (mut checkpointed, hindrance) = match how {
            Checkpoint::Gentle => (self.gentle(database, &shares)?, None),
            Checkpoint::Firm => self.firm(database, &shares, bounds)?,
        };
        let mut recycled = None;
        if let Some(done) = &mut checkpointed
            && done.recycled
        {
            // Whoever does not attend says nothing of this log.
            let end = self.own.standing().end().filter(|_| !shares.0.is_empty());
            if let Some(end) = end {
                done.recycled = is_recycled(database, &end)?;
            }
            let log = end.map_or(log, |end| Some(*end.header()));
            recycled = log.filter(|_| done.recycled);
        }
        if recycled.is_some()
            && shares.are_complete()
            && database.wal_len()? > self.schedule.cut_from(self.quiet)
        {
            let truncated = database.truncate()?;
            if matches!(truncated, Backfill::Done { frames: 0, .. }) {
                shares.settle(|place| place.empty = true);
            }
            self.hold.release(database)?;
        }
        shares.0.clear();
        let mut past = self.hold.past();
        past.recycled = recycled;
        match hindrance {
            Some(Hindrance::TooMuch) => past.vain = past.vain.saturating_add(1),
            Some(Hindrance::Reader) => past.read(log),
            None if recycled.is_some() => past.vain = 0,
            None => {}
        }
        past.done += u64::from(checkpointed.is_some());
        Ok(checkpointed)
    }

    /// For whom it is made, and how: a replica that lacks too much has it wait, or made in such a way
    /// that the log is not begun anew, for as long as there is room for that. The log `is_kept` where
    /// that may take long.
    fn shares(
        &self,
        how: Checkpoint,
        observed: &Observed,
        is_kept: &mut bool,
    ) -> Option<(Checkpoint, Shares)> {
        let mut possible = how;
        let mut shares = Shares(Vec::new());
        for member in self.hold.members() {
            if !member.standing().attends {
                continue;
            }
            let is_own = Arc::ptr_eq(&member, &self.own);
            let obstacle = match Share::of(&member, how, observed, is_own) {
                Ok(share) => {
                    member.standing().late = None;
                    shares.0.extend(share);
                    continue;
                }
                Err(obstacle) => obstacle,
            };
            let mut standing = member.standing();
            standing.late.get_or_insert_with(Instant::now);
            if standing.may_be_let_go(observed.bytes(), &self.schedule) {
                standing.let_go();
                continue;
            }
            *is_kept |= standing.is_no_match();
            match obstacle {
                Obstacle::Everything => return shares.given_up(),
                Obstacle::Distance => possible = Checkpoint::Gentle,
            }
        }
        let is_worth_it = possible == how || observed.left() >= BOUNDS.backfilled;
        // While it reads anew, the log must not be begun anew before all have what was read before.
        let is_safe = observed.left() > 0 || self.hold.has_copied(observed);
        match is_worth_it && is_safe {
            true => Some((possible, shares)),
            false => shares.given_up(),
        }
    }

    /// A checkpoint in nobody's way.
    ///
    /// The log is begun anew at most once more, and not before all of it is in the replicas: what
    /// else was copied to the database file is read for as long as it is not. Whether it is begun
    /// anew, [`is_recycled`] tells.
    fn gentle(
        &self,
        database: &Database,
        shares: &Shares,
    ) -> Result<Option<Checkpointed>, ReplicateError> {
        let Backfill::Done { frames, backfilled } = database.backfill()? else {
            shares.are_as_before(&database.observe()?);
            return Ok(None);
        };
        self.hold.release(database)?;
        let observed = database.observe()?;
        shares.are_as_before(&observed);
        let has_all = self.hold.has_copied(&observed)
            && shares.have(|end| {
                frames == 0 || observed.header == Ok(*end.header()) && frames == end.frames()
            });
        Ok(Some(Checkpointed {
            frames,
            backfilled,
            recycled: has_all && backfilled == frames,
        }))
    }

    /// A checkpoint of which the last part is done while nobody can write: what can be done before
    /// that is.
    ///
    /// Until all that is in the database file was copied, the log isn't begun anew: with each pass a
    /// new read transaction begins while there are frames that are not in the file, and the last one
    /// ends when nobody can write. What is in the file then is in the replicas or in memory.
    fn firm(
        &self,
        database: &mut Database,
        shares: &Shares,
        bounds: Bounds,
    ) -> Result<Done, ReplicateError> {
        let mut ahead: Vec<Option<Copied>> = shares.0.iter().map(|_| None).collect();
        let (mut copied, mut is_read) = (None, false);
        for _ in 0..PASSES_MAX {
            let Backfill::Done { backfilled, .. } = database.backfill()? else {
                shares.are_as_before(&database.observe()?);
                return Ok((None, None));
            };
            if copied.replace(backfilled) == Some(backfilled) {
                // Somebody who reads keeps the rest from being copied.
                is_read = true;
                break;
            }
            // SQLite does that only once it has copied all of the log, which is while nobody can
            // write.
            database.sync_file()?;
            for (share, ahead) in shares.0.iter().zip(&mut ahead) {
                *ahead = match share.copy_ahead(database, ahead.take(), bounds) {
                    // It was begun anew meanwhile, and holds still once nobody can write.
                    Err(ReplicateError::Unsteady { .. }) => None,
                    ahead => ahead?,
                };
            }
            if database.observe()?.left() <= bounds.backfilled / 4 {
                break;
            }
        }
        let observed = database.observe()?;
        let lacked = ahead.iter().flatten().map(|ahead| ahead.lacks(&observed));
        let is_vain = observed.left() > bounds.backfilled || lacked.sum::<u64>() > bounds.copied;
        if is_vain || !database.lock_writers()? {
            shares.are_as_before(&database.observe()?);
            let hindrance = match is_read {
                true => Some(Hindrance::Reader),
                false => is_vain.then_some(Hindrance::TooMuch),
            };
            return Ok((None, hindrance));
        }
        let locked = Locked(database);
        let done = while_nobody_writes(locked.0, shares, ahead, bounds);
        locked.end()?;
        let done = done?;
        self.hold.release(database)?;
        Ok(done)
    }
}

/// Copies the rest of what was committed since the last sync of each replica to memory, and the rest
/// of the log to the database file: the writers wait for it.
fn while_nobody_writes(
    database: &Database,
    shares: &Shares,
    ahead: Vec<Option<Copied>>,
    bounds: Bounds,
) -> Result<Done, ReplicateError> {
    let observed = database.observe()?;
    let mut room = bounds.copied;
    let mut kept = Vec::with_capacity(ahead.len());
    for (share, ahead) in shares.0.iter().zip(ahead) {
        kept.push(share.copied(database, ahead, &observed, &mut room)?);
    }
    let ends = || {
        shares.0.iter().zip(&kept).map(|(share, kept)| {
            let end = kept.as_ref().map(|kept| kept.changed.end());
            *end.unwrap_or(&share.place.end)
        })
    };
    let has_all =
        |end: &Chain| observed.header == Ok(*end.header()) && observed.frames == end.frames();
    let have_all = ends().all(|end| has_all(&end));
    let left = observed.left();
    let page_size = observed.header.map_or(0, |header| header.page_size().get());
    let is_little = left <= bounds.backfilled
        && u64::from(left) * u64::from(page_size) <= bounds.backfilled_bytes;
    let checkpointed = match have_all && is_little {
        true => backfill_all(database)?,
        false => None,
    };
    let is_empty = observed.frames == 0;
    let hindrance = match checkpointed {
        Some(checkpointed) => (!checkpointed.recycled).then_some(Hindrance::Reader),
        None => (!(is_empty || have_all && is_little)).then_some(Hindrance::TooMuch),
    };
    // As long as there are frames that are not in the database file, it isn't begun anew.
    let stays = left > 0 && database.has_lock();
    for (share, kept) in shares.0.iter().zip(kept) {
        if !have_all && !is_empty && !stays {
            // It may be begun anew before this replica has all of it, whatever it is storing now.
            share.member.standing().forget();
        }
        share.settle(have_all, kept, |place| {
            // A log without frames was begun anew, and nothing was committed to it since.
            let is_empty = is_empty && place.complete;
            place.complete = have_all || is_empty || place.complete && stays;
            place.empty = is_empty;
        });
    }
    Ok((checkpointed, hindrance))
}

/// Copies the rest of the log to the database file while nobody can write. Who would like to write
/// reads for a moment each time that it tries to, which keeps frames from being copied.
fn backfill_all(database: &Database) -> Result<Option<Checkpointed>, ReplicateError> {
    let mut tries = 1;
    loop {
        let Backfill::Done { frames, backfilled } = database.backfill()? else {
            return Ok(None);
        };
        if frames == backfilled || tries == BACKFILLS_MAX {
            return Ok(Some(Checkpointed {
                frames,
                backfilled,
                recycled: frames == backfilled,
            }));
        }
        tries += 1;
        thread::sleep(BACKFILL_PAUSE);
    }
}

impl Slowing<'_> {
    fn on(database: &mut Database) -> Slowing<'_> {
        database.slow_writers_on(true);
        Slowing(database)
    }
}

impl Deref for Slowing<'_> {
    type Target = Database;

    fn deref(&self) -> &Database {
        self.0
    }
}

impl DerefMut for Slowing<'_> {
    fn deref_mut(&mut self) -> &mut Database {
        self.0
    }
}

impl Drop for Slowing<'_> {
    fn drop(&mut self) {
        self.0.slow_writers_on(false);
    }
}

impl Locked<'_> {
    fn end(self) -> Result<(), ReplicateError> {
        self.0.unlock_writers()
    }
}

impl Drop for Locked<'_> {
    /// Does nothing more where that has been done.
    fn drop(&mut self) {
        self.0.unlock_writers().ok();
    }
}

impl Shares {
    /// Without a checkpoint.
    fn given_up<T>(mut self) -> Option<T> {
        self.0.clear();
        None
    }

    fn have(&self, all: impl Fn(&Chain) -> bool) -> bool {
        let mut ends = self.0.iter().map(|share| share.member.standing().end());
        ends.all(|end| end.is_some_and(|end| all(&end)))
    }

    fn are_complete(&self) -> bool {
        let mut places = self.0.iter().map(|share| share.member.standing().place);
        places.all(|place| place.is_ok_and(|place| place.complete))
    }

    fn settle(&self, change: impl Fn(&mut Place)) {
        for share in &self.0 {
            if let Ok(place) = &mut share.member.standing().place {
                change(place);
            }
        }
    }

    /// Notes what is known without a checkpoint, or after a gentle one, where `observed` is seen
    /// then.
    ///
    /// What was copied to the database file keeps the log from being begun anew until it is in the
    /// replicas too.
    fn are_as_before(&self, observed: &Observed) {
        self.settle(|place| {
            let is_another = observed.header != Ok(*place.end.header());
            place.empty = place.complete && is_another && (place.empty || observed.frames == 0);
        });
    }
}

impl Drop for Shares {
    /// It has come to no end.
    fn drop(&mut self) {
        for share in &self.0 {
            share.member.standing().forget();
        }
    }
}

impl Share {
    /// What a checkpoint has to do for a replica: nothing where no place of its is known yet.
    fn of(
        member: &Arc<Member>,
        how: Checkpoint,
        observed: &Observed,
        is_own: bool,
    ) -> Result<Option<Share>, Obstacle> {
        let pending = {
            let standing = member.standing();
            if standing.takes_everything() {
                return Err(Obstacle::Everything);
            }
            let pending = standing.pending.clone();
            pending.filter(|pending| !pending.is_copied())
        };
        if let (Some(pending), Checkpoint::Firm) = (pending, how) {
            let end = pending.changed.end();
            let len = pending.changed.pages().len() * end.header().frame_size();
            if len as u64 > AHEAD_MAX || pending.frames.keep(&pending.changed).is_err() {
                return Err(Obstacle::Distance);
            }
        }
        let standing = member.standing();
        match (standing.reach(), how) {
            (Some(place), Checkpoint::Gentle) => Ok(Some(Share::new(member, place))),
            (None, Checkpoint::Gentle) => Ok(None),
            (Some(place), Checkpoint::Firm) => {
                let is_same = observed.header == Ok(*place.end.header());
                let copied = if is_same { place.end.frames() } else { 0 };
                let lacked = u64::from(observed.frames.saturating_sub(copied));
                let lacked = lacked * place.end.header().frame_size() as u64;
                match standing.kept.is_some() || lacked > AHEAD_MAX && !is_own {
                    true => Err(Obstacle::Distance),
                    false => Ok(Some(Share::new(member, place))),
                }
            }
            (None, Checkpoint::Firm) => Err(Obstacle::Distance),
        }
    }

    fn new(member: &Arc<Member>, place: Place) -> Share {
        Share {
            member: Arc::clone(member),
            place,
        }
    }

    fn step(&self, database: &Database, observed: &Observed) -> Result<Step, ReplicateError> {
        decide(Ok(&self.place), observed).map_err(|fault| database.without_header(fault))
    }

    /// Copies what was committed since the last sync to memory, beyond what is `copied` already, as
    /// long as writers are not much faster than that.
    fn copy_ahead(
        &self,
        database: &Database,
        mut copied: Option<Copied>,
        bounds: Bounds,
    ) -> Result<Option<Copied>, ReplicateError> {
        for _ in 0..LOOKS_MAX {
            let observed = database.observe()?;
            let Step::Append(start) = self.step(database, &observed)? else {
                return Ok(copied);
            };
            let mut further = Copied::from(copied, start);
            let lacked = further.lacks(&observed);
            while further.lacks(&observed) > 0 {
                let room = further.room();
                if room == 0 {
                    return Ok(Some(further));
                }
                let Copied {
                    changes, copies, ..
                } = &mut further;
                let until = changes.next().frames().saturating_add(room);
                database.copy(changes, until.min(observed.frames), copies)?;
            }
            copied = Some(further);
            if lacked <= bounds.copied / 4 {
                break;
            }
        }
        Ok(copied)
    }

    /// What was committed since the last sync, in memory, unless there is no `room` for what is not
    /// there yet, or it calls for a snapshot.
    fn copied(
        &self,
        database: &Database,
        ahead: Option<Copied>,
        observed: &Observed,
        room: &mut u64,
    ) -> Result<Option<Kept>, ReplicateError> {
        let Step::Append(start) = self.step(database, observed)? else {
            return Ok(None);
        };
        let mut copied = Copied::from(ahead, start);
        let Some(rest) = room.checked_sub(copied.lacks(observed)) else {
            return Ok(None);
        };
        *room = rest;
        database.copy(&mut copied.changes, observed.frames, &mut copied.copies)?;
        let Copied {
            start,
            changes,
            copies,
        } = copied;
        let changed = changes.finish();
        if !has_growth(&changed, self.place.commit) {
            return Ok(None);
        }
        Ok(Some(Kept {
            after: self.place.end,
            start,
            changed,
            copies,
        }))
    }

    /// Notes what a checkpoint has led to, with what is to be stored next where it `has_all`.
    fn settle(&self, has_all: bool, kept: Option<Kept>, change: impl FnOnce(&mut Place)) {
        let mut standing = self.member.standing();
        if standing.reach().map(|place| place.end) != Some(self.place.end) {
            // What was in memory was given up.
            return standing.forget();
        }
        standing.kept = kept.filter(|_| has_all);
        if let Ok(place) = &mut standing.place {
            change(place);
        }
    }
}

impl Standing {
    /// The place up to which everything is in the replica, or in memory.
    fn reach(&self) -> Option<Place> {
        let mut place = self.place.ok()?;
        place.end = self.end()?;
        if let Some(commit) = self.commit() {
            place.commit = commit;
        }
        Some(place)
    }

    /// How many pages the database had at the end of what is in memory.
    fn commit(&self) -> Option<u32> {
        let pending = self.pending.as_ref().filter(|pending| pending.is_copied());
        match (&self.kept, pending) {
            (Some(kept), _) => kept.changed.commit().map(|commit| commit.get()),
            (None, pending) => pending.map(|pending| pending.header.commit()),
        }
    }
}

/// What was committed after some place in the log, in memory.
struct Copied {
    start: Chain,
    changes: Changes,
    copies: Copies,
}

impl Copied {
    /// What there is from `start` on, or nothing yet.
    fn from(copied: Option<Copied>, start: Chain) -> Copied {
        let copied = copied.filter(|copied| copied.start == start);
        copied.unwrap_or_else(|| Copied {
            start,
            changes: Changes::since(start),
            copies: Copies::new(),
        })
    }

    /// How many frames there is room for, whatever their pages are.
    fn room(&self) -> u32 {
        let frame_size = self.start.header().frame_size() as u64;
        let taken = self.copies.len() as u64 * frame_size;
        u32::try_from(AHEAD_MAX.saturating_sub(taken) / frame_size).unwrap_or(u32::MAX)
    }

    /// How many bytes of the log that was observed are not in it yet.
    fn lacks(&self, observed: &Observed) -> u64 {
        let next = self.changes.next();
        let frames = observed.frames.saturating_sub(next.frames());
        u64::from(frames) * next.header().frame_size() as u64
    }
}

/// Whether the log that was copied up to `copied` is being begun anew, which is
/// allowed as soon as nobody reads it.
fn is_recycled(database: &Database, copied: &Chain) -> Result<bool, ReplicateError> {
    let Observed {
        header,
        frames,
        backfilled,
        ..
    } = database.observe()?;
    Ok(header != Ok(*copied.header())
        || frames == 0
        || (frames == copied.frames() && frames == backfilled))
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rusqlite::Connection;

    use super::*;

    #[test]
    fn everybody_can_write_again_whatever_happens_under_the_write_lock() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let application = Connection::open(&path).expect("a database in a temporary folder");
        let made = application.execute_batch("CREATE TABLE t(a)");
        made.expect("a table can be made");
        let at_once = application.busy_timeout(Duration::ZERO);
        at_once.expect("a connection can be set up");
        let mut database = Database::open(&path).expect("it is a database");
        let mut is_refused = false;

        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let locked = database.lock_writers();
            assert!(locked.expect("nobody writes"));
            let _locked = Locked(&database);
            let refused = application.execute_batch("INSERT INTO t VALUES(1)");
            is_refused = refused.is_err();
            panic!("something that nobody has thought of");
        }));

        assert!(panicked.is_err() && is_refused);
        let written = application.execute_batch("INSERT INTO t VALUES(2)");
        written.expect("nobody is in the way");
        let observed = database.observe().expect("the log can be read");
        assert!(observed.frames > 0);
    }
}

//! Checkpoints the log, so that it can be begun anew.

use std::thread;
use std::time::Duration;

use super::decide::{Place, Step};
use super::error::ReplicateError;
use super::pending::{Contents, Pending, lock};
use super::prepare::Preparing;
use crate::database::{Backfill, Copies, Database, Frames, Observed};
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

/// What a checkpoint has led to.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) checkpointed: Option<Checkpointed>,
    /// Whether everything that was in the log when it was begun anew, or will be, is in the
    /// replica or in `pending`.
    pub(crate) complete: bool,
    /// Whether there is nothing in the log, or was nothing when all of what it holds was yet to
    /// come.
    pub(crate) empty: bool,
    /// The log that waits to be begun anew.
    pub(crate) recycled: Option<WalHeader>,
    /// What was committed since the last sync, where it had to be copied.
    pub(crate) pending: Option<Pending>,
    /// Why the log is not begun anew, where it should be.
    pub(crate) hindrance: Option<Hindrance>,
}

/// What keeps a log from being begun anew though the write lock was taken for that, or was to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hindrance {
    /// Somebody reads what is in it.
    Reader,
    /// There was more left to be done than may be while nobody can write.
    TooMuch,
}

impl Done {
    /// What is known without a checkpoint, or after a gentle one, where the replica has everything
    /// up to `place`, and `observed` is seen then.
    ///
    /// What was copied to the database file keeps the log from being begun anew until it is in the
    /// replica too.
    fn of(place: &Place, observed: &Observed) -> Done {
        let is_another = observed.header != Ok(*place.end.header());
        Done {
            complete: place.complete,
            empty: place.complete && is_another && (place.empty || observed.frames == 0),
            ..Done::default()
        }
    }
}

impl Preparing {
    /// Checkpoints, and gives back disk space where the log has become larger than it may be.
    pub(crate) fn checkpoint(
        &self,
        how: Checkpoint,
        bounds: Bounds,
    ) -> Result<Done, ReplicateError> {
        let mut database = lock(&self.database);
        let Ok(place) = self.place else {
            return Ok(Done::default());
        };
        let observed = database.observe()?;
        self.slow_writers(&mut database, &observed);
        database.slow_writers_on(true);
        let done = self.checkpoint_within(&mut database, &place, how, bounds);
        database.slow_writers_on(false);
        done
    }

    fn checkpoint_within(
        &self,
        database: &mut Database,
        place: &Place,
        how: Checkpoint,
        bounds: Bounds,
    ) -> Result<Done, ReplicateError> {
        let mut done = match how {
            Checkpoint::Gentle => {
                let checkpointed = gentle(database, &place.end)?;
                Done {
                    checkpointed,
                    ..Done::of(place, &database.observe()?)
                }
            }
            Checkpoint::Firm => self.firm(database, place, bounds)?,
        };
        let end = match &done.pending {
            Some(pending) => *pending.changed.end(),
            None => place.end,
        };
        if let Some(checkpointed) = &mut done.checkpointed
            && checkpointed.recycled
        {
            checkpointed.recycled = is_recycled(database, &end)?;
        }
        if done
            .checkpointed
            .is_some_and(|checkpointed| checkpointed.recycled)
        {
            done.recycled = Some(*end.header());
            if done.complete && database.wal_len()? > self.schedule.wal_max {
                let truncated = database.truncate()?;
                done.empty |= matches!(truncated, Backfill::Done { frames: 0, .. });
                database.release(&end)?;
            }
        }
        Ok(done)
    }

    /// A checkpoint of which the last part is done while nobody can write: what can be done before
    /// that is.
    ///
    /// Until all that is in the database file was copied, the log isn't begun anew: with each pass a
    /// new read transaction begins while there are frames that are not in the file, and the last one
    /// ends when nobody can write. What is in the file then is in the replica or in memory.
    fn firm(
        &self,
        database: &mut Database,
        place: &Place,
        bounds: Bounds,
    ) -> Result<Done, ReplicateError> {
        let (mut ahead, mut copied, mut is_read) = (None, None, false);
        for _ in 0..PASSES_MAX {
            let Backfill::Done { backfilled, .. } = database.backfill()? else {
                return Ok(Done::of(place, &database.observe()?));
            };
            if copied.replace(backfilled) == Some(backfilled) {
                // Somebody who reads keeps the rest from being copied.
                is_read = true;
                break;
            }
            // SQLite does that only once it has copied all of the log, which is while nobody can
            // write.
            database.sync_file()?;
            ahead = match self.copy_ahead(database, ahead, bounds) {
                // It was begun anew meanwhile, and holds still once nobody can write.
                Err(ReplicateError::Unsteady { .. }) => None,
                ahead => ahead?,
            };
            if database.observe()?.left() <= bounds.backfilled / 4 {
                break;
            }
        }
        let observed = database.observe()?;
        let lacks = |ahead: &Copied| ahead.lacks(&observed) > bounds.copied;
        let is_vain = observed.left() > bounds.backfilled || ahead.as_ref().is_some_and(lacks);
        if is_vain || !database.lock_writers()? {
            let hindrance = match is_read {
                true => Some(Hindrance::Reader),
                false => is_vain.then_some(Hindrance::TooMuch),
            };
            return Ok(Done {
                hindrance,
                ..Done::of(place, &database.observe()?)
            });
        }
        let done = self.while_nobody_writes(database, place, ahead, bounds);
        database.unlock_writers()?;
        let done = done?;
        let end = done.pending.as_ref().map(|pending| pending.changed.end());
        database.release(end.unwrap_or(&place.end))?;
        Ok(done)
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

    /// Copies the rest of what was committed since the last sync to memory, and the rest of the
    /// log to the database file: the writers wait for it.
    fn while_nobody_writes(
        &self,
        database: &Database,
        place: &Place,
        ahead: Option<Copied>,
        bounds: Bounds,
    ) -> Result<Done, ReplicateError> {
        let observed = database.observe()?;
        let pending = match self.step(database, &observed)? {
            Step::Append(start) => {
                let copied = Copied::from(ahead, start);
                self.copied(database, copied, &observed, bounds)?
            }
            Step::Nothing | Step::Snapshot(_) => None,
        };
        let end = pending.as_ref().map(|pending| *pending.changed.end());
        let end = end.unwrap_or(place.end);
        let has_all = observed.header == Ok(*end.header()) && observed.frames == end.frames();
        let left = observed.left();
        let page_size = end.header().page_size().get();
        let is_little = left <= bounds.backfilled
            && u64::from(left) * u64::from(page_size) <= bounds.backfilled_bytes;
        let checkpointed = match has_all && is_little {
            true => backfill_all(database)?,
            false => None,
        };
        // A log without frames was begun anew, and nothing was committed to it since.
        let is_empty = observed.frames == 0 && place.complete;
        let hindrance = match checkpointed {
            Some(checkpointed) => (!checkpointed.recycled).then_some(Hindrance::Reader),
            None => (!is_empty && !(has_all && is_little)).then_some(Hindrance::TooMuch),
        };
        Ok(Done {
            checkpointed,
            // As long as there are frames that are not in the database file, it isn't begun anew.
            complete: has_all || is_empty || place.complete && left > 0 && database.has_lock(),
            empty: is_empty,
            recycled: None,
            pending: pending.filter(|_| has_all),
            hindrance,
        })
    }

    /// What was committed since the last sync, in memory, unless it is too much for that or calls
    /// for a snapshot.
    fn copied(
        &self,
        database: &Database,
        mut copied: Copied,
        observed: &Observed,
        bounds: Bounds,
    ) -> Result<Option<Pending>, ReplicateError> {
        if copied.lacks(observed) > bounds.copied {
            return Ok(None);
        }
        database.copy(&mut copied.changes, observed.frames, &mut copied.copies)?;
        let Copied {
            start,
            changes,
            copies,
        } = copied;
        let changed = changes.finish();
        if !self.has_growth(&changed) {
            return Ok(None);
        }
        let frames = Frames::Copied(copies);
        let pending = self.pending(database, start, (changed, frames), Contents::Changes)?;
        Ok(Some(pending))
    }
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

/// A checkpoint in nobody's way, where the replica has everything up to `copied`, which is all
/// that was committed at some moment of the present hold.
///
/// The log is begun anew at most once more, and not before all of it is in the replica: what else
/// was copied to the database file is read for as long as it is not. Whether it is begun anew,
/// [`is_recycled`] tells.
fn gentle(database: &Database, copied: &Chain) -> Result<Option<Checkpointed>, ReplicateError> {
    let Backfill::Done { frames, backfilled } = database.backfill()? else {
        return Ok(None);
    };
    database.release(copied)?;
    let observed = database.observe()?;
    let has_all = observed.header == Ok(*copied.header()) && frames == copied.frames();
    Ok(Some(Checkpointed {
        frames,
        backfilled,
        recycled: has_all && backfilled == frames,
    }))
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
    Ok(header != Ok(*copied.header()) || (frames == copied.frames() && frames == backfilled))
}

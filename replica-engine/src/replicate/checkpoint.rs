//! Checkpoints the log, so that it can be begun anew.

use super::decide::{Place, Step};
use super::error::ReplicateError;
use super::pending::{Contents, Pending, lock};
use super::prepare::Preparing;
use crate::database::{Backfill, Database, Frames, Observed};
use crate::wal::{Chain, Changes, WalHeader};

/// How many bytes of the log are copied at most while nobody can write.
const LOCKED_MAX: u64 = 1024 * 1024;
/// How many frames of it are copied to the database file at most while nobody can write: as many as
/// SQLite itself copies by default in the middle of a commit.
const BACKFILLED_MAX: u32 = 1000;
/// How many bytes those may have.
const BACKFILLED_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How many bytes of it are copied at most before that.
const AHEAD_MAX: u64 = 16 * 1024 * 1024;
/// How often the log is looked at before nobody can write.
const LOOKS_MAX: usize = 4;

/// A way to checkpoint.
///
/// All of them copy what is in the log to the database file, as far as the replica and readers
/// allow it, so that the log can be begun anew: otherwise it would grow for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checkpoint {
    /// In nobody's way. The log is begun anew where nobody is writing at that moment.
    Gentle,
    /// Takes the write lock for as long as it takes to copy what was written just before, at most
    /// 1 MiB to memory, and 1,000 pages or 8 MiB to the database file, and to write that to the
    /// disk. The log is begun anew even where somebody writes all the time; an application's long
    /// reader still prevents it.
    Firm,
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
}

impl Done {
    /// What is known without a checkpoint where the replica has everything up to `place`, and
    /// `observed` is seen under the first new hold, or under one on the very same frames.
    ///
    /// The log that `place` is in can't be begun anew before more of it is copied, where it has not
    /// been yet. A log that was empty has gained at most frames that this hold is on.
    fn of(place: &Place, observed: &Observed) -> Done {
        let is_another = observed.header != Ok(*place.end.header());
        let complete = place.complete && (is_another || observed.frames <= place.end.frames());
        Done {
            complete,
            empty: complete && is_another && (place.empty || observed.frames == 0),
            ..Done::default()
        }
    }
}

impl Preparing {
    /// Checkpoints, and gives back disk space where the log has become larger than `wal_max`.
    pub(crate) fn checkpoint(&self, how: Checkpoint, wal_max: u64) -> Result<Done, ReplicateError> {
        let mut database = lock(&self.database);
        let Ok(place) = self.place else {
            return Ok(Done::default());
        };
        let mut done = match how {
            Checkpoint::Gentle => {
                let checkpointed = gentle(&mut database, &place.end)?;
                Done {
                    checkpointed,
                    ..Done::of(&place, &database.observe()?)
                }
            }
            Checkpoint::Firm => self.firm(&mut database, &place)?,
        };
        let end = match &done.pending {
            Some(pending) => *pending.changed.end(),
            None => place.end,
        };
        if let Some(checkpointed) = &mut done.checkpointed
            && checkpointed.recycled
        {
            checkpointed.recycled = is_recycled(&database, &end)?;
        }
        if done
            .checkpointed
            .is_some_and(|checkpointed| checkpointed.recycled)
        {
            done.recycled = Some(*end.header());
            if done.complete && database.wal_len()? > wal_max {
                let truncated = database.truncate()?;
                done.empty |= matches!(truncated, Backfill::Done { frames: 0, .. });
            }
        }
        Ok(done)
    }

    /// A checkpoint of which the last part is done while nobody can write: what can be done before
    /// that is.
    fn firm(&self, database: &mut Database, place: &Place) -> Result<Done, ReplicateError> {
        database.hand_over()?;
        database.backfill()?;
        // SQLite does that only once it has copied all of the log, which is while nobody can write.
        database.sync_file()?;
        let ahead = match self.copy_ahead(database) {
            // It was begun anew meanwhile, and holds still once nobody can write.
            Err(ReplicateError::Unsteady { .. }) => None,
            ahead => ahead?,
        };
        if !database.lock_writers()? {
            return Ok(Done::of(place, &database.observe()?));
        }
        let done = self.while_nobody_writes(database, ahead);
        database.unlock_writers()?;
        done
    }

    /// Copies what was committed since the last sync to memory, as long as writers are not much
    /// faster than that.
    fn copy_ahead(&self, database: &Database) -> Result<Option<Copied>, ReplicateError> {
        let mut copied: Option<Copied> = None;
        for _ in 0..LOOKS_MAX {
            let observed = database.observe()?;
            let Step::Append(start) = self.step(database, &observed)? else {
                return Ok(copied);
            };
            let mut further = Copied::from(copied, start);
            if further.lacks(&observed) + further.bytes.len() as u64 > AHEAD_MAX {
                return Ok(Some(further));
            }
            let lacked = further.lacks(&observed);
            database.copy(&mut further.changes, observed.frames, &mut further.bytes)?;
            copied = Some(further);
            if lacked <= LOCKED_MAX / 4 {
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
        ahead: Option<Copied>,
    ) -> Result<Done, ReplicateError> {
        let observed = database.observe()?;
        let pending = match self.step(database, &observed)? {
            Step::Append(start) => self.copied(database, Copied::from(ahead, start), &observed)?,
            Step::Nothing | Step::Snapshot(_) => None,
        };
        let end = pending.as_ref().map(|pending| *pending.changed.end());
        let end = end.or(self.place.ok().map(|place| place.end));
        let has_all = end.is_some_and(|end| {
            observed.header == Ok(*end.header()) && observed.frames == end.frames()
        });
        let left = observed.frames.saturating_sub(observed.backfilled);
        let page_size = end.map_or(0, |end| end.header().page_size().get());
        let is_little = left <= BACKFILLED_MAX
            && u64::from(left) * u64::from(page_size) <= BACKFILLED_BYTES_MAX;
        let checkpointed = match has_all && is_little {
            true => match database.backfill()? {
                Backfill::Done { frames, backfilled } => Some(Checkpointed {
                    frames,
                    backfilled,
                    recycled: frames == backfilled,
                }),
                Backfill::Busy => None,
            },
            false => None,
        };
        // A log without frames was begun anew, and nothing was committed to it since.
        let is_empty = observed.frames == 0 && self.place.is_ok_and(|place| place.complete);
        Ok(Done {
            checkpointed,
            complete: has_all || is_empty,
            empty: is_empty,
            recycled: None,
            pending: pending.filter(|_| has_all),
        })
    }

    /// What was committed since the last sync, in memory, unless it is too much for that or calls
    /// for a snapshot.
    fn copied(
        &self,
        database: &Database,
        mut copied: Copied,
        observed: &Observed,
    ) -> Result<Option<Pending>, ReplicateError> {
        if copied.lacks(observed) > LOCKED_MAX {
            return Ok(None);
        }
        database.copy(&mut copied.changes, observed.frames, &mut copied.bytes)?;
        let Copied {
            start,
            changes,
            bytes,
        } = copied;
        let changed = changes.finish();
        if !self.has_growth(&changed) {
            return Ok(None);
        }
        let from = start.offset();
        let frames = Frames::Copied { from, bytes };
        let pending = self.pending(database, start, (changed, frames), Contents::Changes)?;
        Ok(Some(pending))
    }
}

/// What was committed after some place in the log, in memory.
struct Copied {
    start: Chain,
    changes: Changes,
    bytes: Vec<u8>,
}

impl Copied {
    /// What there is from `start` on, or nothing yet.
    fn from(copied: Option<Copied>, start: Chain) -> Copied {
        let copied = copied.filter(|copied| copied.start == start);
        copied.unwrap_or_else(|| Copied {
            start,
            changes: Changes::since(start),
            bytes: Vec::new(),
        })
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
/// The log is begun anew at most once more, and not before all of it is in the replica: the first
/// new hold is on frames, which stay, or on none, where they all are in the database file and so
/// were there, and copied, under the hold before. The second one is only begun where both have the
/// very same frames; whether that hold is on none, [`is_recycled`] tells.
fn gentle(database: &mut Database, copied: &Chain) -> Result<Option<Checkpointed>, ReplicateError> {
    database.hand_over()?;
    let Backfill::Done { frames, backfilled } = database.backfill()? else {
        return Ok(None);
    };
    let observed = database.observe()?;
    let has_all = observed.header == Ok(*copied.header()) && frames == copied.frames();
    let recycled = has_all && backfilled == frames;
    if recycled {
        database.hand_over()?;
    }
    Ok(Some(Checkpointed {
        frames,
        backfilled,
        recycled,
    }))
}

/// Whether the log that was copied up to `copied` is being begun anew, which a hold on the
/// database file alone allows.
fn is_recycled(database: &Database, copied: &Chain) -> Result<bool, ReplicateError> {
    let Observed {
        header,
        frames,
        backfilled,
    } = database.observe()?;
    Ok(header != Ok(*copied.header()) || (frames == copied.frames() && frames == backfilled))
}

//! Finds in the log what the next file of a replica holds.

use std::sync::{Arc, Mutex};

use ltx::{Header, Txid, TxidRange, WalSpan};
use replica_core::{Level, Timestamp};

use super::Last;
use super::decide::{Place, SnapshotReason, Step, decide, has_growth};
use super::error::ReplicateError;
use super::pending::{Contents, Pending, lock};
use super::resume::mark;
use super::schedule::Schedule;
use crate::database::{Database, Frames, Observed};
use crate::wal::{Chain, Changed, WalHeader};

/// By how much a clock may go back without that being seen in the times of files, which ascend.
const CLOCK_STEP_MAX: i64 = 60_000;

/// What it takes to say what the next file holds.
pub(crate) struct Preparing {
    pub(crate) database: Arc<Mutex<Database>>,
    pub(crate) place: Result<Place, SnapshotReason>,
    pub(crate) last: Option<Last>,
    pub(crate) file_max: u64,
    pub(crate) schedule: Schedule,
    /// The log that is not begun anew because somebody reads what is in it.
    pub(crate) kept: Option<WalHeader>,
    pub(crate) now: Timestamp,
}

pub(crate) struct Prepared {
    pub(crate) observed: Observed,
    pub(crate) pending: Option<Pending>,
}

impl Preparing {
    /// Looks at the log, and finds the next file in it.
    pub(crate) fn prepare(&self) -> Result<Prepared, ReplicateError> {
        let mut database = lock(&self.database);
        let mut observed = database.observe()?;
        let mut step = self.step(&database, &observed)?;
        if step == Step::Nothing && self.last.is_some_and(|last| last.is_snapshot()) {
            // Litestream goes on from the newest file of level 0. Where there is none it begins
            // with transaction 1, though that is in a snapshot.
            database.bump()?;
            observed = database.observe()?;
            step = self.step(&database, &observed)?;
        }
        match step {
            Step::Nothing => {
                if let Ok(place) = &self.place {
                    database.release(&place.end)?;
                }
                Ok(Prepared {
                    observed,
                    pending: None,
                })
            }
            Step::Snapshot(reason) => self.snapshot(&mut database, reason),
            Step::Append(start) => {
                self.slow_writers(&mut database, &observed);
                let (changes, frames) = database.changes(start, observed.frames, self.file_max)?;
                let changed = changes.finish();
                if !self.has_growth(&changed) {
                    return self.snapshot(&mut database, SnapshotReason::Unwritten);
                }
                let pending =
                    self.pending(&database, start, (changed, frames), Contents::Changes)?;
                Ok(Prepared {
                    observed,
                    pending: Some(pending),
                })
            }
        }
    }

    /// Slows down who writes a log that comes near to what it may be, for as long as what is done
    /// now takes.
    pub(crate) fn slow_writers(&self, database: &mut Database, observed: &Observed) {
        let is_kept = self.kept.is_some() && self.kept == observed.header.ok();
        match self.schedule.is_watched(observed.len()) {
            // Somebody reads it for a while, so it would not help.
            true if is_kept => database.let_writers_go(),
            true => database.slow_writers(self.schedule.wal_max),
            false => {}
        }
    }

    pub(crate) fn step(
        &self,
        database: &Database,
        observed: &Observed,
    ) -> Result<Step, ReplicateError> {
        decide(self.place.as_ref().map_err(|reason| *reason), observed)
            .map_err(|fault| database.without_header(fault))
    }

    pub(crate) fn has_growth(&self, changed: &Changed) -> bool {
        has_growth(changed, self.place.map_or(0, |place| place.commit))
    }

    fn snapshot(
        &self,
        database: &mut Database,
        reason: SnapshotReason,
    ) -> Result<Prepared, ReplicateError> {
        // That takes as long as it takes.
        database.let_writers_go();
        database.pin()?;
        let observed = database.observe()?;
        let header = observed
            .header
            .map_err(|fault| database.without_header(fault))?;
        let start = Chain::new(header);
        let (changes, frames) = database.changes(start, observed.frames, u64::MAX)?;
        let contents = Contents::Everything(reason);
        let pending = self.pending(database, start, (changes.finish(), frames), contents)?;
        Ok(Prepared {
            observed,
            pending: Some(pending),
        })
    }

    pub(crate) fn pending(
        &self,
        database: &Database,
        start: Chain,
        (changed, frames): (Changed, Frames),
        contents: Contents,
    ) -> Result<Pending, ReplicateError> {
        let end = changed.end();
        let page_size = end.header().page_size();
        let span = WalSpan::new(
            start.offset(),
            end.offset() - start.offset(),
            end.header().salts(),
        );
        let (Some(commit), Some(span)) = (changed.commit(), span) else {
            return Err(database.unsteady());
        };
        let txid = match self.last {
            None => Txid::FIRST,
            Some(last) => last
                .txid()
                .next()
                .ok_or(ReplicateError::Exhausted { txid: last.txid() })?,
        };
        if let Some(replica) = self.last.and_then(|last| last.page_size)
            && replica != page_size
        {
            return Err(ReplicateError::PageSize {
                database: page_size,
                replica,
            });
        }
        let time = self
            .last
            .map_or(self.now, |last| time_after(last.time, self.now));
        let txids = TxidRange::single(txid);
        let level = match self.last {
            // It holds the whole database, and so nothing is gained by putting it together with
            // what follows at each level, as Litestream does.
            None => Level::SNAPSHOT,
            Some(_) => Level::RAW,
        };
        Ok(Pending {
            level,
            header: Header::new(page_size, commit.get(), txids, time)
                .with_wal(span)
                .with_node_id(mark(end)),
            contents,
            changed: Arc::new(changed),
            frames: Arc::new(frames),
            handed_on: Arc::default(),
        })
    }
}

/// The time of a file that is made at `now` after one of the time `before`. One that is much later
/// than `now` is wrong, and is not kept on with: every state from then on would have it.
fn time_after(before: Timestamp, now: Timestamp) -> Timestamp {
    match before.as_millis().saturating_sub(now.as_millis()) {
        0..=CLOCK_STEP_MAX => before,
        _ => now,
    }
}

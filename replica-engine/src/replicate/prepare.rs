//! Finds in the log what the next file of a replica holds.

use std::path::PathBuf;
use std::sync::Arc;

use ltx::{Header, Txid, TxidRange, WalSpan};
use replica_core::{Level, Timestamp};

use super::Last;
use super::decide::{Place, SnapshotReason, Step, decide, has_growth};
use super::error::ReplicateError;
use super::hold::{Hold, Member};
use super::pending::{Contents, Pending, lock};
use super::resume::mark;
use super::schedule::Schedule;
use crate::database::{Database, Frames, Observed};
use crate::wal::{Chain, Changed};

/// By how much a clock may go back without that being seen in the times of files, which ascend.
const CLOCK_STEP_MAX: i64 = 60_000;

/// What it takes to say what the next file holds.
pub(crate) struct Preparing {
    pub(crate) hold: Arc<Hold>,
    pub(crate) member: Arc<Member>,
    /// The number of this look.
    pub(crate) round: u64,
    /// The path by which the database was opened.
    pub(crate) named: PathBuf,
    pub(crate) last: Option<Last>,
    pub(crate) file_max: u64,
    pub(crate) schedule: Schedule,
    pub(crate) now: Timestamp,
}

pub(crate) struct Prepared {
    /// What the log was, if it was looked at.
    pub(crate) observed: Option<Observed>,
    /// Whether the log is kept for the replica only from then on.
    pub(crate) anew: bool,
    pub(crate) pending: Option<Pending>,
}

impl Prepared {
    fn without_a_look(pending: Option<Pending>) -> Prepared {
        Prepared {
            observed: None,
            anew: false,
            pending,
        }
    }
}

impl Preparing {
    /// Looks at the log, and finds the next file in it, which the replica then has to store.
    pub(crate) fn prepare(&self) -> Result<Prepared, ReplicateError> {
        let mut database = lock(&self.hold.database);
        let found = self.member.standing().pending.clone();
        if found.is_some() {
            // By a call that nobody waits for any more.
            return Ok(Prepared::without_a_look(found));
        }
        if !self.member.standing().is_last_round(self.round) {
            // Nobody waits for this one any more, and the file that it takes for the last one may
            // have been followed by another.
            return Ok(Prepared::without_a_look(None));
        }
        if let Some(pending) = self.kept(&database)? {
            self.member.standing().pending = Some(pending.clone());
            return Ok(Prepared::without_a_look(Some(pending)));
        }
        let anew = self.member.standing().attend();
        let place = self.member.standing().place;
        let next = self.next(&mut database, place);
        if next.is_err() && anew {
            // What it looks at the next time is the first again that is kept for it.
            self.member.standing().forget();
        }
        let (observed, pending) = next?;
        self.member.standing().pending = pending.clone();
        if pending.is_none() {
            self.hold.release(&database)?;
        }
        Ok(Prepared {
            observed: Some(observed),
            anew,
            pending,
        })
    }

    /// What a checkpoint has copied to memory, where that goes on from where the replica stands.
    fn kept(&self, database: &Database) -> Result<Option<Pending>, ReplicateError> {
        let mut standing = self.member.standing();
        let Some(kept) = standing.kept.take() else {
            return Ok(None);
        };
        if standing.place.map(|place| place.end) != Ok(kept.after) {
            standing.forget();
            return Ok(None);
        }
        let (start, found) = kept.into_parts();
        let pending = self.pending(database, start, found, Contents::Changes);
        if pending.is_err() {
            standing.forget();
        }
        pending.map(Some)
    }

    /// What the log is, and the next file in it.
    fn next(
        &self,
        database: &mut Database,
        place: Result<Place, SnapshotReason>,
    ) -> Result<(Observed, Option<Pending>), ReplicateError> {
        let mut observed = database.observe()?;
        let mut step = step(database, place, &observed)?;
        // What was committed to the one that was opened is stored first, as far as it is in its log.
        if !matches!(step, Step::Append(_)) {
            database.check_path(&self.named)?;
        }
        if step == Step::Nothing && self.last.is_some_and(|last| last.is_snapshot()) {
            // Litestream goes on from the newest file of level 0. Where there is none it begins
            // with transaction 1, though that is in a snapshot.
            database.bump()?;
            observed = database.observe()?;
            step = self::step(database, place, &observed)?;
        }
        match step {
            Step::Nothing => Ok((observed, None)),
            Step::Snapshot(reason) => self.snapshot(database, reason),
            Step::Append(start) => {
                self.hold.slow_writers(database, &observed, &self.schedule);
                let (changes, frames) = database.changes(start, observed.frames, self.file_max)?;
                let changed = changes.finish();
                if !has_growth(&changed, place.map_or(0, |place| place.commit)) {
                    return self.snapshot(database, SnapshotReason::Unwritten);
                }
                let pending =
                    self.pending(database, start, (changed, frames), Contents::Changes)?;
                Ok((observed, Some(pending)))
            }
        }
    }

    fn snapshot(
        &self,
        database: &mut Database,
        reason: SnapshotReason,
    ) -> Result<(Observed, Option<Pending>), ReplicateError> {
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
        Ok((observed, Some(pending)))
    }

    fn pending(
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
            taken: Arc::default(),
            start_taken: Arc::default(),
            void: Arc::default(),
            hold: database.hold_number(),
        })
    }
}

fn step(
    database: &Database,
    place: Result<Place, SnapshotReason>,
    observed: &Observed,
) -> Result<Step, ReplicateError> {
    decide(place.as_ref().map_err(|reason| *reason), observed)
        .map_err(|fault| database.without_header(fault))
}

/// The time of a file that is made at `now` after one of the time `before`. One that is much later
/// than `now` is wrong, and is not kept on with: every state from then on would have it.
fn time_after(before: Timestamp, now: Timestamp) -> Timestamp {
    match before.as_millis().saturating_sub(now.as_millis()) {
        0..=CLOCK_STEP_MAX => before,
        _ => now,
    }
}

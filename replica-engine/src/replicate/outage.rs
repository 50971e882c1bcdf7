//! Bounds the log while a store takes nothing: an application's disk must not fill because of that.

use std::convert::Infallible;
use std::time::Duration;

use replica_core::FileId;
use tokio::time::{Instant, sleep};

use super::checkpoint::Checkpointing;
use super::error::ReplicateError;
use super::hold::{Member, Standing};
use super::pending::{lock, try_lock};
use super::schedule::{Past, due};
use crate::restore::run_blocking;

/// How often it is looked whether a replica gets on.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// For how long nothing more must have been stored until that counts: a store that takes its time
/// for a file is none that is away.
const STANDSTILL_MIN: Duration = Duration::from_secs(10);
/// How many times what the log may have it grows by in that time, or later, until it is begun anew
/// without the replica: about as much as it is to Litestream, unless `wal_max` is set.
const GROWTH_MAX: u64 = 8;

/// A time in which a replica gets nothing of what it lacks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standstill {
    since: Instant,
    mark: Mark,
    /// How many bytes the log had then.
    len: u64,
}

/// What is being stored, and how far that is.
type Mark = Option<(FileId, u64)>;

impl Standing {
    fn mark(&self) -> Mark {
        let pending = self.pending.as_ref();
        pending.map(|pending| (pending.file(), pending.progress()))
    }

    /// Looks how far the replica is, and says whether a log that has `len` bytes by now has grown so
    /// much in one standstill that it is not kept for it any longer.
    fn has_stood_still(&mut self, len: u64, wal_max: u64) -> bool {
        let (since, mark) = (Instant::now(), self.mark());
        let goes_on = |before: &Standstill| before.mark == mark && before.len <= len;
        let before = self.standstill.filter(goes_on);
        let standstill = before.unwrap_or(Standstill { since, mark, len });
        self.standstill = Some(standstill);
        standstill.since.elapsed() >= STANDSTILL_MIN
            && len - standstill.len >= wal_max.saturating_mul(GROWTH_MAX)
    }

    /// Whether the log has been written since it was looked at the last time, where nobody keeps it
    /// for the replica.
    fn is_written_without(&mut self, len: u64) -> bool {
        let (since, mark) = (Instant::now(), None);
        let before = self.standstill.replace(Standstill { since, mark, len });
        before.is_none_or(|before| before.len != len)
    }

    /// Whether the others, or we, have gone on without it, and it has not come back since.
    fn is_gone(&self) -> bool {
        self.is_let_go && !self.attends
    }
}

impl Member {
    /// Returns once nothing more was stored for a while.
    pub(crate) async fn stands_still(&self) {
        let (mut since, mut mark) = (Instant::now(), self.standing().mark());
        while since.elapsed() <= STANDSTILL_MIN {
            sleep(LOOK_PAUSE).await;
            let now = self.standing().mark();
            if now != mark {
                (since, mark) = (Instant::now(), now);
            }
        }
    }
}

impl Checkpointing {
    /// Sees to it, for as long as somebody waits for the replica to get on, that the log does not
    /// grow for ever.
    pub(crate) async fn bound_log(&self) -> Infallible {
        loop {
            sleep(LOOK_PAUSE).await;
            self.bound_log_now().await;
        }
    }

    pub(crate) async fn bound_log_now(&self) {
        if self.has_grown() {
            let own = self.clone();
            // What is wrong with the database is told by whoever stores what is in it.
            run_blocking(move || own.go_on_without()).await.ok();
        }
    }

    /// Whether it is time to, as far as that can be told at next to no cost.
    fn has_grown(&self) -> bool {
        let Some(database) = try_lock(&self.hold.database) else {
            // Somebody is at it.
            return false;
        };
        let Some(len) = database.log_len() else {
            return false;
        };
        let mut standing = self.own.standing();
        match standing.is_gone() {
            true => standing.is_written_without(len),
            false => standing.has_stood_still(len, self.schedule.wal_max),
        }
    }

    /// Has the log begun anew without this replica, where it has stood still for long enough, and no
    /// other one needs it. It gets the whole database once its store is back.
    fn go_on_without(&self) -> Result<(), ReplicateError> {
        let mut database = lock(&self.hold.database);
        let observed = database.observe()?;
        {
            let mut standing = self.own.standing();
            let wal_max = self.schedule.wal_max;
            if !standing.is_gone() && standing.has_stood_still(observed.bytes(), wal_max) {
                standing.let_go();
                standing.standstill = None;
                // Nobody waits for it any more.
                self.hold.past().kept = None;
            }
        }
        let members = self.hold.members();
        if !members.iter().all(|member| member.standing().is_gone()) {
            return Ok(());
        }
        let past = *self.hold.past();
        let past = Past {
            elapsed: past.at.elapsed(),
            recycled: past.recycled,
        };
        let Some(how) = due(&self.schedule, &observed, past, false) else {
            return Ok(());
        };
        self.hold.past().at = Instant::now();
        self.checkpoint_for_nobody(&mut database, how, &observed)
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replicate::decide::SnapshotReason;

    const WAL_MAX: u64 = 1000;
    const GROWN: u64 = 8 * WAL_MAX;

    async fn pass(time: Duration) {
        tokio::time::advance(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_is_kept_until_it_has_grown_by_much_for_long() {
        let mut standing = Standing::new(Err(SnapshotReason::First));
        let mut looks = |len| standing.has_stood_still(len, WAL_MAX);

        assert!(!looks(500));
        assert!(!looks(500 + GROWN));
        pass(STANDSTILL_MIN).await;
        assert!(!looks(500 + GROWN - 1));
        assert!(looks(500 + GROWN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_was_begun_anew_meanwhile_has_to_grow_again() {
        let mut standing = Standing::new(Err(SnapshotReason::First));
        let mut looks = |len| standing.has_stood_still(len, WAL_MAX);
        assert!(!looks(2 * GROWN));
        pass(STANDSTILL_MIN).await;

        assert!(!looks(0));
        assert!(!looks(GROWN));

        pass(STANDSTILL_MIN).await;
        assert!(looks(GROWN));
    }
}

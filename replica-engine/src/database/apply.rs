//! Pages that are put into a database as one transaction, without SQLite's knowing of tables.
//!
//! They are appended to the log as a connection that writes would do it: under SQLite's write lock,
//! first to the log and then to its [index], whose header makes them count. So it is for others as
//! if one of them had committed: whoever is reading goes on to see what they saw, nobody waits, and
//! whoever dies on the way leaves frames that end no transaction, or a whole one.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use ltx::{PageSize, Pgno};
use rusqlite::OpenFlags;

use super::{Backfill, Database, Keeper, Observed, end, index};
use crate::ReplicateError;
use crate::wal::{ByteOrder, Chain, WalHeader};

/// From how many frames on the log is copied to the database file.
pub(crate) const CHECKPOINT_FRAMES: u32 = 1000;

impl Database {
    /// Opens the database at `path` to put pages into it. Nothing is changed by that.
    pub(crate) fn open_to_apply(path: &Path) -> Result<Database, ReplicateError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        Database::open_as_it_is(path, flags, Keeper::new)
    }

    /// Opens the log to append to it, and finds its end, where `known` is where it ended before.
    /// `None` where others have written to it since.
    pub(crate) fn open_log(
        &self,
        known: Option<Chain>,
        page_size: PageSize,
    ) -> Result<Option<(File, Chain)>, ReplicateError> {
        let observed = self.observe()?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.wal)
            .map_err(|source| self.unreadable(source))?;
        if observed.frames == 0 {
            // All of it is in the database file, and what is left of it must not follow the new.
            let before = observed.header.map_or(0, |header| header.salts()[0]);
            let random = RandomState::new().hash_one(&self.wal) as u32;
            let salts = [before.wrapping_add(1), random];
            let header = WalHeader::new(ByteOrder::Little, page_size, 0, salts);
            // A crash must leave none of its frames behind the header of another log.
            file.write_all_at(&header.encode(), 0)
                .and_then(|()| file.sync_all())
                .map_err(|source| self.unreadable(source))?;
            return Ok(Some((file, Chain::new(header))));
        }
        let header = observed
            .header
            .map_err(|fault| self.without_header(fault))?;
        let end = match known {
            Some(known) if header == *known.header() && observed.frames == known.frames() => known,
            Some(_) => return Ok(None),
            None => {
                let (changes, _) = self.changes(Chain::new(header), observed.frames, u64::MAX)?;
                *changes.end()
            }
        };
        index::forget_after(&self.worker, end.frames())
            .map_err(|source| self.failed("write to", source))?;
        Ok(Some((file, end)))
    }

    /// Notes that `pages` were appended after frame number `after`, which shows them to nobody.
    pub(crate) fn index(&self, after: u32, pages: &[Pgno]) -> Result<(), ReplicateError> {
        let added = index::add(&self.worker, after, pages);
        added.map_err(|source| self.failed("write to", source))
    }

    /// Makes what was appended up to `last` a part of the database, which has so many `pages` then,
    /// and lets others write again. Returns how many frames the log has, or `None` where SQLite finds
    /// another end.
    pub(crate) fn publish(&self, last: &Chain, pages: u32) -> Result<Option<u32>, ReplicateError> {
        let shown = index::publish(&self.worker, last, pages);
        self.let_go()?;
        shown.map_err(|source| self.failed("write to", source))?;
        let found = self.look()?;
        // Who has checkpointed it by now may have emptied it too.
        let is_there = found.header.as_ref() == Ok(last.header());
        let is_it = found.frames == 0 || is_there && found.frames == last.frames();
        Ok(is_it.then_some(found.frames))
    }

    /// How many frames the log has.
    pub(crate) fn log_frames(&self) -> Result<u32, ReplicateError> {
        self.look().map(|observed| observed.frames)
    }

    /// What the log is now, without holding it any longer.
    fn look(&self) -> Result<Observed, ReplicateError> {
        let observed = self.observe();
        self.let_go().and(observed)
    }

    /// Copies the log, which has `frames`, to the database file where it has grown, as far as nobody
    /// reads it, and gives back its disk space where nobody does. Returns how many frames it has then.
    pub(crate) fn keep_log_short(&self, frames: u32) -> Result<u32, ReplicateError> {
        if frames < CHECKPOINT_FRAMES {
            return Ok(frames);
        }
        let at_once = self.worker.busy_timeout(Duration::ZERO);
        let done = self.patient_again(at_once, || {
            self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)", || Ok(()))
        })??;
        Ok(match done {
            Backfill::Done { frames, .. } => frames,
            Backfill::Busy => frames,
        })
    }

    /// Whether the write lock is held by way of this.
    pub(crate) fn is_written(&self) -> bool {
        !self.worker.is_autocommit()
    }

    /// Ends the hold, and with it the locks that keep others from writing and checkpointing: each of
    /// them, whatever becomes of the others.
    pub(crate) fn let_go(&self) -> Result<(), ReplicateError> {
        let unlocked = self.keeper.unlock();
        let ended = self.keeper.end();
        let released = self.release_writers();
        let all = unlocked.and(ended).and(released);
        all.map_err(|source| self.failed("unlock", source))
    }

    /// Gives the write lock back. Nothing of what was appended is undone by that, whose transaction is
    /// none of SQLite's.
    fn release_writers(&self) -> rusqlite::Result<()> {
        if self.worker.is_autocommit() {
            return Ok(());
        }
        // Where the first page has another size than the database, SQLite has changed that as soon as
        // it began, and must not write it.
        let ended = end(&self.worker);
        // It takes its cache for what was published by now, and that has only what was there before.
        ended.and(self.worker.execute_batch("PRAGMA shrink_memory"))
    }
}

//! Pages that are put into a database as one transaction, without SQLite's knowing of tables.
//!
//! They are appended to the log as SQLite would do it, under its write lock, and then SQLite is made
//! to find them, as it does after a crash: it reads the log again where the index that is shared
//! between its connections says nothing of it. Whoever is reading meanwhile goes on to see what
//! they saw, for recovery changes nothing of the frames that were there; and whoever dies on the
//! way leaves frames that end no transaction, or a whole one.

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use ltx::PageSize;
use rusqlite::OpenFlags;

use super::{Database, Keeper, end, file};
use crate::ReplicateError;
use crate::wal::{ByteOrder, Chain, WalHeader};

/// From how many frames on the log is copied to the database file.
const CHECKPOINT_FRAMES: u32 = 1000;

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
            file.write_all_at(&header.encode(), 0)
                .map_err(|source| self.unreadable(source))?;
            return Ok(Some((file, Chain::new(header))));
        }
        let header = observed
            .header
            .map_err(|fault| self.without_header(fault))?;
        if let Some(known) = known {
            let goes_on = header == *known.header() && observed.frames == known.frames();
            return Ok(goes_on.then_some((file, known)));
        }
        let (changes, _) = self.changes(Chain::new(header), observed.frames, u64::MAX)?;
        Ok(Some((file, *changes.end())))
    }

    /// Makes what was appended up to `last` a part of the database, and lets others write again.
    /// `false` where SQLite finds another end.
    pub(crate) fn publish(&self, last: &Chain) -> Result<bool, ReplicateError> {
        file::forget_index(&self.worker).map_err(|source| self.failed("write to", source))?;
        self.let_go()?;
        let found = self.observe()?;
        self.let_go()?;
        // Who has checkpointed it by now may have emptied it too.
        let is_there = found.header.as_ref() == Ok(last.header());
        Ok(found.frames == 0 || is_there && found.frames == last.frames())
    }

    /// Copies the log to the database file where it has grown, as far as nobody reads it, and gives
    /// back its disk space where nobody does.
    pub(crate) fn keep_log_short(&self) -> Result<(), ReplicateError> {
        let observed = self.observe()?;
        self.let_go()?;
        if observed.frames < CHECKPOINT_FRAMES {
            return Ok(());
        }
        let at_once = self.worker.busy_timeout(Duration::ZERO);
        self.patient_again(at_once, || {
            self.checkpoint("PRAGMA wal_checkpoint(TRUNCATE)", || Ok(()))
        })?
        .map(drop)
    }

    /// Takes the checkpoint lock too, if nobody else has it.
    pub(crate) fn locks_checkpoints(&self) -> Result<bool, ReplicateError> {
        let locked = self.keeper.relock();
        locked.map_err(|source| self.failed("lock", source))
    }

    /// Ends the hold, and with it the locks that keep others from writing and checkpointing, and so
    /// from reading the log again.
    pub(crate) fn let_go(&self) -> Result<(), ReplicateError> {
        let failed = |source| self.failed("unlock", source);
        self.keeper.unlock().map_err(failed)?;
        self.keeper.end().map_err(failed)?;
        if !self.worker.is_autocommit() {
            // Nothing was written by way of it, so this only ends it. To roll it back would look for
            // what to undo, in an index that says nothing any more.
            let ended = self.worker.execute_batch("COMMIT");
            ended.or_else(|_| end(&self.worker)).map_err(failed)?;
        }
        Ok(())
    }
}

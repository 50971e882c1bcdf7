//! What a replica has, kept in memory, so that nothing is listed while nothing changes. No I/O.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use replica_core::{FileId, FileInfo, Level, Timestamp, Txid, TxidRange};
use tokio::time::Instant;

/// The files of all levels.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalogue {
    levels: [BTreeMap<TxidRange, Entry>; Level::ALL.len()],
}

/// A file, and since when it is known to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) info: FileInfo,
    pub(crate) seen: Instant,
}

/// A moment, by the clock that files are stamped with, and by one that is never set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) time: Timestamp,
    pub(crate) at: Instant,
}

impl Catalogue {
    /// A file is there.
    pub(crate) fn add(&mut self, info: FileInfo, seen: Instant) {
        let level = &mut self.levels[usize::from(info.id.level.get())];
        let entry = level.entry(info.id.txids).or_insert(Entry { info, seen });
        entry.info = info;
    }

    /// A file is gone.
    pub(crate) fn remove(&mut self, file: FileId) {
        self.levels[usize::from(file.level.get())].remove(&file.txids);
    }

    /// The files are those of a listing, which has all that were there at `then`, and those that
    /// were added since.
    pub(crate) fn replace(&mut self, listed: Catalogue, then: Instant) {
        let mut before = std::mem::replace(self, listed);
        for (level, known) in self.levels.iter_mut().zip(&mut before.levels) {
            for (txids, entry) in std::mem::take(known) {
                match level.get_mut(&txids) {
                    Some(listed) => listed.seen = entry.seen,
                    None if entry.seen >= then => {
                        level.insert(txids, entry);
                    }
                    None => {}
                }
            }
        }
    }

    /// The files of a level, by their first transaction.
    pub(crate) fn level(&self, level: Level) -> impl Iterator<Item = &Entry> {
        self.levels[usize::from(level.get())].values()
    }

    /// Those of them that begin with `min` or later.
    pub(crate) fn level_from(&self, level: Level, min: Txid) -> impl Iterator<Item = &Entry> {
        let from = TxidRange::single(min);
        let level = &self.levels[usize::from(level.get())];
        level.range(from..).map(|(_, entry)| entry)
    }

    /// The files of all levels.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.levels.iter().flat_map(BTreeMap::values)
    }

    /// Now, where the clock says `now`, at a time that is not ahead: that of the last file, if the
    /// clock says a later one. It may have been wrong ever since this process began.
    pub(crate) fn certain(&self, now: Timestamp) -> Moment {
        let times = self
            .entries()
            .map(|entry| (entry.max(), entry.info.created_at));
        let last = times.max_by_key(|(txid, time)| (*txid, Reverse(*time)));
        Moment::at(last.map_or(now, |(_, time)| time.min(now)))
    }

    /// The same, as a listing has them.
    pub(crate) fn files(&self) -> Vec<FileInfo> {
        self.entries().map(|entry| entry.info).collect()
    }

    /// The last transaction that a file of these levels has.
    pub(crate) fn last(&self, levels: impl IntoIterator<Item = Level>) -> Option<Txid> {
        let files = levels.into_iter().flat_map(|level| self.level(level));
        files.map(Entry::max).max()
    }
}

impl Entry {
    pub(crate) fn min(&self) -> Txid {
        self.info.id.txids.min()
    }

    pub(crate) fn max(&self) -> Txid {
        self.info.id.txids.max()
    }

    /// Whether it holds the whole database, which a file from the first transaction on does.
    pub(crate) fn is_whole(&self) -> bool {
        self.min() == Txid::FIRST
    }
}

impl Moment {
    /// Now, where the clock that files are stamped with says `time`.
    pub(crate) fn at(time: Timestamp) -> Moment {
        let at = Instant::now();
        Moment { time, at }
    }

    /// Now, at no time: files are only as old as they have been known.
    pub(crate) fn without_time() -> Moment {
        Moment::at(Timestamp::from_millis(i64::MIN))
    }

    /// The later moment `now`, at the time that has come by then at least, where it was this one
    /// before: no more has passed than the clock says that is never set. One that says less is
    /// believed.
    pub(crate) fn certain_at(&self, now: Moment) -> Moment {
        let passed = now.at.saturating_duration_since(self.at).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        let time = self.time.as_millis().saturating_add(passed);
        Moment {
            time: Timestamp::from_millis(time).min(now.time),
            at: now.at,
        }
    }

    /// How long it is until the file is as old as `age`: by its own time or by how long it has been
    /// known, so that a clock that was set back delays nothing.
    pub(crate) fn until_older(&self, entry: &Entry, age: Duration) -> Duration {
        let then = entry.info.created_at.as_millis();
        let elapsed = i128::from(self.time.as_millis()) - i128::from(then);
        let span = i128::try_from(age.as_millis()).unwrap_or(i128::MAX);
        let left = span.saturating_sub(elapsed).max(0);
        let by_time = Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX));
        by_time.min(self.until_known(entry, age))
    }

    /// How long it is until the file has been known to be there for so long.
    pub(crate) fn until_known(&self, entry: &Entry, span: Duration) -> Duration {
        span.saturating_sub(self.at.saturating_duration_since(entry.seen))
    }
}

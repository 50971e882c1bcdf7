//! Decides what the next file of a replica holds. No I/O.

use std::fmt;

use ltx::PageSize;

use crate::database::Observed;
use crate::wal::{Chain, Changed, HeaderFault};

/// A place in the log up to which a replica has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The end of the last transaction that the replica has.
    pub(crate) end: Chain,
    /// How many pages the database had then.
    pub(crate) commit: u32,
    /// Whether the log is begun anew under the hold with the number [`hold`](Place::hold) only after
    /// all of it is in the replica. So it is where the replica has had everything at some moment of
    /// that hold: what is copied to the database file later keeps the log from being begun anew
    /// until it is in the replica too.
    pub(crate) complete: bool,
    /// Whether the log has had no frames at some moment of that hold since.
    pub(crate) empty: bool,
    /// The hold on the database of which these are true, and of no other one.
    pub(crate) hold: u32,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing is committed that the replica has not.
    Nothing,
    /// Store what is committed after this place.
    Append(Chain),
    /// Store the whole database, because nothing tells what was missed.
    Snapshot(SnapshotReason),
}

/// Why the whole database is stored and not only what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SnapshotReason {
    /// The replica is empty.
    First,
    /// The replica's newest file does not say which part of a log it was made of.
    NoPlace,
    /// The replica's newest file can't be read.
    Unreadable,
    /// The replica lacks files that its latest state is made of, or they are damaged.
    Incomplete,
    /// The log was begun anew, and what it held before may not be in the replica.
    NewLog,
    /// The log ends before the place up to which the replica has it: the database is older than
    /// its replica.
    ShorterLog,
    /// The log has something else at the place that the replica's newest file was made of.
    OtherLog,
    /// The log that the replica's newest file was made of was removed, as it is by whoever closes
    /// a database last. The database has most of what the replica has.
    RemovedLog,
    /// The log is none that followed the one that the replica's newest file was made of: that one
    /// was removed, or it is of another database.
    UnknownLog,
    /// The database has grown by pages that nobody has written.
    Unwritten,
}

impl SnapshotReason {
    /// Whether the database may be another one than the replica's.
    pub fn is_doubtful(self) -> bool {
        matches!(
            self,
            SnapshotReason::ShorterLog | SnapshotReason::OtherLog | SnapshotReason::UnknownLog
        )
    }

    /// Whether what the replica has can't be restored up to its end, so that nothing on top of that
    /// can be either.
    pub(crate) fn is_a_new_start(self) -> bool {
        matches!(
            self,
            SnapshotReason::Unreadable | SnapshotReason::Incomplete
        )
    }
}

impl fmt::Display for SnapshotReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SnapshotReason::First => "the replica is empty",
            SnapshotReason::NoPlace => "the replica's newest file does not say where to go on",
            SnapshotReason::Unreadable => "the replica's newest file can't be read",
            SnapshotReason::Incomplete => "files of the replica are missing or damaged",
            SnapshotReason::NewLog => "the write-ahead log was begun anew since it was copied",
            SnapshotReason::ShorterLog => "the database is older than its replica",
            SnapshotReason::OtherLog => "the database has another history than its replica",
            SnapshotReason::RemovedLog => {
                "the write-ahead log was removed since it was copied, as it is by whoever closes \
                 the database last"
            }
            SnapshotReason::UnknownLog => {
                "the write-ahead log is not the one that was copied, and did not follow it: it was \
                 removed since, or the database is another one"
            }
            SnapshotReason::Unwritten => "the database has grown by pages that were not written",
        })
    }
}

/// Decides what is to be stored now, where `place` is where the replica stands.
///
/// # Errors
///
/// The fault of a header that should be there, because SQLite counts frames behind it.
pub(crate) fn decide(
    place: Result<&Place, SnapshotReason>,
    observed: &Observed,
) -> Result<Step, HeaderFault> {
    let place = match place {
        Ok(place) => place,
        Err(reason) => return Ok(Step::Snapshot(reason)),
    };
    let complete = place.complete && place.hold == observed.hold;
    if observed.frames == 0 {
        // Whatever there was is in the database file now, and whoever begins the log anew next
        // may not have written its header yet.
        return Ok(match complete {
            true => Step::Nothing,
            false => Step::Snapshot(SnapshotReason::NewLog),
        });
    }
    let header = observed.header?;
    if header == *place.end.header() {
        return Ok(match place.end.frames() {
            copied if copied == observed.frames => Step::Nothing,
            copied if copied < observed.frames => Step::Append(place.end),
            _ => Step::Snapshot(SnapshotReason::ShorterLog),
        });
    }
    // Between two checkpoints of ours the log begins anew once, after all of it was in the database
    // file, and it has to be in the replica to be checkpointed again. So nothing was missed where all
    // of it was in the replica, and this is the very next log. An empty one may be replaced by
    // another empty one, whose salts don't follow.
    let ([salt, _], [before, _]) = (header.salts(), place.end.header().salts());
    let next = place.empty || salt == before.wrapping_add(1);
    let same_size = header.page_size() == place.end.header().page_size();
    Ok(match complete && next && same_size {
        true => Step::Append(Chain::new(header)),
        false => Step::Snapshot(SnapshotReason::NewLog),
    })
}

/// Whether `changed` has every page by which the database has grown beyond `before` pages. SQLite
/// writes them all; where it has not, the file would not be enough to restore from.
pub(crate) fn has_growth(changed: &Changed, before: u32) -> bool {
    let page_size = changed.end().header().page_size();
    let after = changed.commit().map_or(0, |commit| commit.get());
    let grown = data_pages(after, page_size).saturating_sub(data_pages(before, page_size));
    let written = changed.pages().iter().rev();
    let written = written.take_while(|page| page.pgno().get() > before);
    written.count() == grown as usize
}

/// How many of a database's first `pages` pages are stored: all but the lock page.
fn data_pages(pages: u32, page_size: PageSize) -> u32 {
    pages - u32::from(pages >= page_size.lock_page().get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{ByteOrder, Changes, Frame, WalHeader};
    use ltx::Pgno;

    fn header(salt: u32, page_size: u32) -> WalHeader {
        let page_size = PageSize::new(page_size).unwrap();
        WalHeader::new(ByteOrder::Little, page_size, 0, [salt, 7])
    }

    fn observed(header: WalHeader, frames: u32) -> Observed {
        Observed {
            header: Ok(header),
            frames,
            backfilled: 0,
            hold: 1,
            len: 0,
        }
    }

    /// What a log of these frames, pages with commits, has changed.
    fn changed(frames: &[(u32, u32)]) -> Changed {
        let mut changes = Changes::since(Chain::new(header(u32::MAX, 512)));
        for &(pgno, commit) in frames {
            let pgno = Pgno::new(pgno).unwrap();
            let frame = changes.next().encode(Frame { pgno, commit }, &[0; 512]);
            changes.take(&frame).unwrap();
        }
        changes.finish()
    }

    /// After two frames of the log whose first salt is the highest there is.
    fn place(complete: bool) -> Place {
        Place {
            end: *changed(&[(1, 1), (1, 1)]).end(),
            commit: 1,
            complete,
            empty: false,
            hold: 1,
        }
    }

    #[test]
    fn the_same_log_is_gone_on_with_from_where_it_was_copied_to() {
        for complete in [false, true] {
            let place = place(complete);
            let step = |frames| decide(Ok(&place), &observed(*place.end.header(), frames));

            assert_eq!(step(2), Ok(Step::Nothing));
            assert_eq!(step(3), Ok(Step::Append(place.end)));
            assert_eq!(step(1), Ok(Step::Snapshot(SnapshotReason::ShorterLog)));
        }
    }

    #[test]
    fn only_the_very_next_log_is_gone_on_with_and_only_where_nothing_was_missed() {
        let step = |complete, log| decide(Ok(&place(complete)), &observed(log, 1));
        let snapshot = Ok(Step::Snapshot(SnapshotReason::NewLog));
        // The salt after the highest one.
        let next = header(0, 512);

        assert_eq!(step(true, next), Ok(Step::Append(Chain::new(next))));
        assert_eq!(step(false, next), snapshot);
        assert_eq!(step(true, header(1, 512)), snapshot);
        assert_eq!(step(true, header(0, 1024)), snapshot);
    }

    #[test]
    fn whatever_log_follows_one_that_was_seen_empty_is_gone_on_with() {
        let other = header(1, 512);
        let step = |complete| {
            let mut place = place(complete);
            place.empty = true;
            decide(Ok(&place), &observed(other, 1))
        };

        assert_eq!(step(true), Ok(Step::Append(Chain::new(other))));
        assert_eq!(step(false), Ok(Step::Snapshot(SnapshotReason::NewLog)));
    }

    #[test]
    fn no_other_log_is_gone_on_with_where_there_was_no_hold_meanwhile() {
        let place = place(true);
        let step = |log, frames| {
            let mut observed = observed(log, frames);
            observed.hold = 2;
            decide(Ok(&place), &observed)
        };
        let snapshot = Ok(Step::Snapshot(SnapshotReason::NewLog));

        assert_eq!(step(header(0, 512), 1), snapshot);
        assert_eq!(step(header(0, 512), 0), snapshot);
        let same = *place.end.header();
        assert_eq!(step(same, 3), Ok(Step::Append(place.end)));
    }

    #[test]
    fn an_empty_log_is_nothing_new_where_nothing_was_missed() {
        let fault = HeaderFault::Short { len: 0 };
        let mut empty = observed(header(0, 512), 0);
        empty.header = Err(fault);
        let snapshot = Step::Snapshot(SnapshotReason::NewLog);

        assert_eq!(decide(Ok(&place(true)), &empty), Ok(Step::Nothing));
        assert_eq!(decide(Ok(&place(false)), &empty), Ok(snapshot));
        empty.frames = 1;
        assert_eq!(decide(Ok(&place(true)), &empty), Err(fault));
    }

    #[test]
    fn growth_by_a_page_that_was_not_written_is_noticed() {
        assert!(has_growth(&changed(&[(2, 0), (3, 3)]), 1));
        assert!(has_growth(&changed(&[(1, 1)]), 5));
        assert!(!has_growth(&changed(&[(1, 0), (3, 3)]), 1));
    }

    #[test]
    fn the_lock_page_is_no_growth_that_is_missed() {
        let lock = PageSize::MIN.lock_page().get();

        assert!(has_growth(&changed(&[(lock + 1, lock + 1)]), lock - 1));
        assert!(!has_growth(&changed(&[(lock + 1, lock + 1)]), lock - 2));
    }
}

//! Decides when the log is checkpointed, and how. No I/O.

use std::time::Duration;

use super::checkpoint::Checkpoint;
use crate::database::Observed;
use crate::wal::WalHeader;

/// From which part of what the log may be on it is begun anew though somebody writes all the time:
/// one that writes at full speed adds as much again, and more, before that has come about.
const FIRM_FROM: u64 = 4;
/// How many times what the log may have a writer may bring it to that is too fast for the disk or
/// the store. One that is slowed down from less on has less of its speed left than it has alone.
const MOST: u64 = 4;
/// From which part on it is watched all the time, which takes a thread: a log that is checkpointed
/// as often as SQLite does it never comes to that.
const WATCHED_FROM: u64 = 2;

/// When to checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    pub(crate) pages: u32,
    pub(crate) interval: Duration,
    pub(crate) wal_max: u64,
}

/// What was done to the log before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Past {
    /// How long ago the last checkpoint was.
    pub(crate) elapsed: Duration,
    /// The log that it has left to be begun anew.
    pub(crate) recycled: Option<WalHeader>,
}

impl Schedule {
    /// Whether a log of `len` bytes is watched all the time, so that who writes it is slowed down in
    /// time.
    pub(crate) fn is_watched(&self, len: u64) -> bool {
        len > self.wal_max / WATCHED_FROM
    }

    /// How many bytes the log hardly exceeds, whoever writes it.
    pub(crate) fn most(&self) -> u64 {
        self.wal_max.saturating_mul(MOST)
    }

    /// From how many bytes on the file of a log that may be begun anew is cut: one that is written
    /// all the time would soon be as large again, and that costs more than to write it anew.
    pub(crate) fn cut_from(&self, quiet: bool) -> u64 {
        match quiet {
            true => self.wal_max,
            false => self.most(),
        }
    }
}

/// Decides how to checkpoint now, if at all, where the replica has what was observed. `quiet` says
/// that nothing was committed for a moment.
pub(crate) fn due(
    schedule: &Schedule,
    observed: &Observed,
    past: Past,
    quiet: bool,
) -> Option<Checkpoint> {
    // Nobody may write any more, who would begin it anew and fill what the file has already.
    let is_too_large = quiet && observed.len > schedule.wal_max;
    let header = (observed.header.ok()).filter(|_| observed.frames > 0 || is_too_large)?;
    let left = observed.left();
    if left == 0 && past.recycled == Some(header) && !is_too_large {
        return None;
    }
    // The rest is left for what is written until the log begins anew. One that was in vain is
    // followed by another at once, and by a firmer one.
    if observed.bytes() >= schedule.wal_max / FIRM_FROM {
        return Some(Checkpoint::Firm);
    }
    let is_long = observed.frames >= schedule.pages;
    let is_time = is_long && (quiet || left >= schedule.pages) || past.elapsed >= schedule.interval;
    (is_time || is_too_large).then_some(Checkpoint::Gentle)
}

#[cfg(test)]
mod tests {
    use ltx::PageSize;

    use super::*;
    use crate::wal::{ByteOrder, HeaderFault};

    const SCHEDULE: Schedule = Schedule {
        pages: 1000,
        interval: Duration::from_secs(60),
        wal_max: 64 * 1024 * 1024,
    };
    const JUST_NOW: Past = Past {
        elapsed: Duration::ZERO,
        recycled: None,
    };

    fn log(frames: u32, backfilled: u32) -> Observed {
        let page_size = PageSize::new(4096).expect("4096 is a page size");
        Observed {
            header: Ok(WalHeader::new(ByteOrder::Little, page_size, 0, [1, 2])),
            frames,
            backfilled,
            hold: 1,
            len: 0,
        }
    }

    #[test]
    fn pages_that_wait_are_checkpointed_once_they_are_many() {
        let due = |frames, backfilled| due(&SCHEDULE, &log(frames, backfilled), JUST_NOW, false);

        assert_eq!(due(999, 0), None);
        assert_eq!(due(1000, 0), Some(Checkpoint::Gentle));
        assert_eq!(due(1000, 1), None);
        assert_eq!(due(2000, 1000), Some(Checkpoint::Gentle));
    }

    #[test]
    fn a_long_log_is_begun_anew_in_a_quiet_moment() {
        let due = |frames| due(&SCHEDULE, &log(frames, frames), JUST_NOW, true);

        assert_eq!(due(999), None);
        assert_eq!(due(1000), Some(Checkpoint::Gentle));
    }

    #[test]
    fn a_few_pages_are_checkpointed_after_a_while() {
        let due = |frames, seconds| {
            let elapsed = Duration::from_secs(seconds);
            let past = Past {
                elapsed,
                ..JUST_NOW
            };
            due(&SCHEDULE, &log(frames, 0), past, false)
        };

        assert_eq!(due(1, 59), None);
        assert_eq!(due(1, 60), Some(Checkpoint::Gentle));
        assert_eq!(due(0, 60), None);
    }

    #[test]
    fn the_write_lock_is_taken_where_the_log_comes_to_a_quarter_of_what_it_may_be() {
        // 4,120 bytes each.
        let quarter = 4073;
        let due = |frames| due(&SCHEDULE, &log(frames, frames), JUST_NOW, false);

        assert_eq!(due(quarter - 1), None);
        assert_eq!(due(quarter), Some(Checkpoint::Firm));
    }

    #[test]
    fn a_log_that_waits_to_be_begun_anew_is_left_alone() {
        let past = Past {
            elapsed: Duration::from_secs(60),
            recycled: log(1, 1).header.ok(),
        };

        assert_eq!(due(&SCHEDULE, &log(9999, 9999), past, true), None);
        let further = due(&SCHEDULE, &log(9999, 9998), past, true);
        assert_eq!(further, Some(Checkpoint::Firm));
    }

    #[test]
    fn a_file_that_is_larger_than_it_may_be_is_cut_in_a_quiet_moment() {
        let due = |frames, quiet, over| {
            let log = log(frames, frames);
            let past = Past {
                recycled: log.header.ok(),
                ..JUST_NOW
            };
            let len = SCHEDULE.wal_max + over;
            due(&SCHEDULE, &Observed { len, ..log }, past, quiet)
        };

        for frames in [0, 1] {
            assert_eq!(due(frames, true, 1), Some(Checkpoint::Gentle));
            assert_eq!(due(frames, true, 0), None);
            assert_eq!(due(frames, false, 1), None);
        }
    }

    #[test]
    fn a_log_without_a_header_is_left_alone() {
        let mut observed = log(9999, 0);
        observed.header = Err(HeaderFault::Checksum);

        assert_eq!(due(&SCHEDULE, &observed, JUST_NOW, true), None);
    }
}

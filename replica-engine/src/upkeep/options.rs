//! What the upkeep of a replica is to do, and when.

use std::time::Duration;

use replica_core::Level;

/// How the files of a replica are put together, and for how long they are kept.
///
/// Unless it is set otherwise this is what Litestream does by default, but that it keeps its
/// promise: see [`Retention::states`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UpkeepOptions {
    /// How often files are put together to one of the next level; 30 seconds, 5 minutes and an
    /// hour, unless it is set.
    pub levels: Levels,
    /// How old the last snapshot is when the next one is made, if anything was committed since; 24
    /// hours, unless it is set.
    pub snapshot_interval: Duration,
    /// For how long files are kept; without it nothing is ever deleted.
    pub retention: Option<Retention>,
}

impl Default for UpkeepOptions {
    fn default() -> UpkeepOptions {
        UpkeepOptions {
            levels: Levels::default(),
            snapshot_interval: 24 * HOUR,
            retention: Some(Retention::default()),
        }
    }
}

/// For how long files are kept. The newest state is always kept, whatever the clock says.
///
/// How old a file is by its time is believed only as far as the clock can't be ahead: after a pause
/// of replication files stay for longer, until the process has known them for the times given here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// For how long the state after each single file of level 0 can be restored; 5 minutes, unless
    /// it is set. It is kept for longer where no other level has its transactions.
    pub raw: Duration,
    /// For how long the states after the files of other levels can be restored; 24 hours, unless it
    /// is set. So the last snapshot from before that time is kept, and everything after it, while
    /// Litestream deletes a snapshot once it is as old as this, and with it the way to the states
    /// after it.
    pub states: Duration,
    /// For how long a file stays once nothing above needs it any more; 5 minutes, unless it is set.
    /// A restore that was planned before finds its files for as long, and what replaces a file
    /// has been there for as long when it goes.
    pub grace: Duration,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention {
            raw: 5 * MINUTE,
            states: 24 * HOUR,
            grace: 5 * MINUTE,
        }
    }
}

/// How often the files of each level are put together to one of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(Vec<Duration>);

impl Levels {
    /// The files of level 0 after the first of these intervals, those of level 1 after the second
    /// one, and so on: each once it is as old as that, with all that follow it. Nothing is put
    /// together where there are none, but for snapshots. `None` where there are more than eight,
    /// which is how many levels there are between the logs and the snapshots.
    pub fn new(intervals: Vec<Duration>) -> Option<Levels> {
        (intervals.len() < usize::from(Level::SNAPSHOT.get())).then_some(Levels(intervals))
    }

    /// The levels, lowest first, with the interval after which there is a file of it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Level, Duration)> {
        let levels = Level::ALL.into_iter().skip(1);
        levels.zip(self.0.iter().copied())
    }

    /// After which time the first of them has a file at the latest.
    pub(crate) fn first(&self) -> Option<Duration> {
        self.0.first().copied()
    }
}

impl Default for Levels {
    fn default() -> Levels {
        Levels(vec![Duration::from_secs(30), 5 * MINUTE, HOUR])
    }
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_eight_levels_at_most() {
        assert!(Levels::new(vec![MINUTE; 9]).is_none());
        let levels = Levels::new(vec![MINUTE; 8]).expect("eight are allowed");
        let levels: Vec<u8> = levels.iter().map(|(level, _)| level.get()).collect();
        assert_eq!(levels, [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}

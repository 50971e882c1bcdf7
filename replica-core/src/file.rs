//! What a file of a replica is called, and what a listing says of it.

use std::fmt;

use ltx::{Timestamp, TxidRange};

/// How far a file has been compacted: 0 to 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(u8);

impl Level {
    /// Files straight from the WAL, one transaction id each.
    pub const RAW: Level = Level(0);
    /// Snapshots: files that hold the whole database.
    pub const SNAPSHOT: Level = Level(9);
    /// Every level, ascending. Those between [`RAW`](Level::RAW) and
    /// [`SNAPSHOT`](Level::SNAPSHOT) hold compactions.
    pub const ALL: [Level; 10] = [
        Level(0),
        Level(1),
        Level(2),
        Level(3),
        Level(4),
        Level(5),
        Level(6),
        Level(7),
        Level(8),
        Level(9),
    ];

    /// The level numbered `level`, or `None` above 9.
    pub const fn new(level: u8) -> Option<Level> {
        if level <= Level::SNAPSHOT.0 {
            Some(Level(level))
        } else {
            None
        }
    }

    /// The number itself.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of one file of a replica. Names sort in listing order: by level, then by `min`, then
/// by `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// How far it has been compacted.
    pub level: Level,
    /// The transactions that it holds.
    pub txids: TxidRange,
}

/// `<level>/<min>-<max>.ltx`, for people: where a file lives is [`Layout`](crate::Layout)'s.
impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.level, self.txids)
    }
}

/// What a listing says of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileInfo {
    /// Its name.
    pub id: FileId,
    /// Its length in bytes.
    pub size: u64,
    /// The time that was given when it was written.
    pub created_at: Timestamp,
}

//! An application that changes a database at random.

use proptest::prelude::*;
use rusqlite::Connection;

/// What an application may do to a database with the table that [`TABLE`] makes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Rows with their sizes, and whether they are committed.
    Write {
        rows: Vec<(u8, u16)>,
        ends: bool,
    },
    /// Deletes the rows from this one on.
    Delete(u8),
    Vacuum,
    /// A checkpoint of some kind, whether it comes about or not.
    Checkpoint(&'static str),
}

pub(crate) const TABLE: &str = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB)";

impl Change {
    pub(crate) fn make(&self, connection: &Connection) {
        match self {
            Change::Write { rows, ends } => {
                run(connection, "BEGIN");
                for (id, len) in rows {
                    let text = "x".repeat(usize::from(*len) / 3);
                    let sql = "INSERT OR REPLACE INTO t VALUES(?1, ?2, randomblob(?3))";
                    let inserted = connection.execute(sql, (id, text, len));
                    inserted.expect("a row should fit");
                }
                run(connection, if *ends { "COMMIT" } else { "ROLLBACK" });
            }
            Change::Delete(from) => run(connection, &format!("DELETE FROM t WHERE id >= {from}")),
            Change::Vacuum => run(connection, "VACUUM"),
            Change::Checkpoint(kind) => run(connection, &format!("PRAGMA wal_checkpoint({kind})")),
        }
    }
}

pub(crate) fn any_change() -> impl Strategy<Value = Change> {
    let rows = prop::collection::vec((any::<u8>(), 0u16..3000), 1..20);
    let kind = prop::sample::select(vec!["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
    prop_oneof![
        8 => (rows, prop::bool::weighted(0.8))
            .prop_map(|(rows, ends)| Change::Write { rows, ends }),
        2 => any::<u8>().prop_map(Change::Delete),
        1 => Just(Change::Vacuum),
        2 => kind.prop_map(Change::Checkpoint),
    ]
}

pub(crate) fn any_page_size() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![512u32, 1024, 4096, 65_536])
}

/// Runs statements that should succeed.
pub(crate) fn run(connection: &Connection, sql: &str) {
    if let Err(error) = connection.execute_batch(sql) {
        panic!("{sql}: {error}");
    }
}

/// Opens the database at `path`, which is there or can be made.
pub(crate) fn connect(path: &std::path::Path) -> Connection {
    Connection::open(path).expect("a database in a temporary folder should open")
}

/// The database that SQLite makes of the file at `path` and its log: bytes of one file.
pub(crate) fn checkpointed(path: &std::path::Path) -> Vec<u8> {
    let connection = connect(path);
    let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0));
    let busy: u32 = busy.expect("SQLite should read the log");
    assert_eq!(busy, 0, "somebody else has it open");
    drop(connection);
    std::fs::read(path).expect("the database should be there")
}

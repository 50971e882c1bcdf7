//! The application: what it writes, and what the database was after each of its transactions.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use tempfile::TempDir;

use crate::verdict::{Verdict, holds};

/// What an application may do to its database.
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

pub(crate) fn any_change() -> impl Strategy<Value = Change> {
    let rows = prop::collection::vec((any::<u8>(), 0u16..2500), 1..12);
    let kind = prop::sample::select(vec!["PASSIVE", "FULL", "RESTART", "TRUNCATE"]);
    prop_oneof![
        10 => (rows, prop::bool::weighted(0.85))
            .prop_map(|(rows, ends)| Change::Write { rows, ends }),
        2 => any::<u8>().prop_map(Change::Delete),
        1 => Just(Change::Vacuum),
        3 => kind.prop_map(Change::Checkpoint),
    ]
}

/// The files of a database as they are at some moment.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    database: Vec<u8>,
    wal: Vec<u8>,
    /// How many bytes of the log a power cut spares for certain.
    synced: usize,
    /// How many bytes of it are committed.
    committed: usize,
}

/// A folder with a database, and the application that writes it.
pub(crate) struct Application {
    folder: TempDir,
    page_size: u32,
    autocheckpoint: u32,
    connection: Option<Connection>,
    reader: Option<Connection>,
    /// The database's file, which is open for as long as it exists: to close it would drop the locks
    /// of this process's connections.
    file: File,
    /// Which of the application's transactions has left this content.
    states: BTreeMap<u64, u64>,
    /// The last transaction whose content the database has now.
    version: u64,
    transactions: u64,
    /// How often something was done.
    actions: u64,
    /// The log that the application has begun with.
    durable: Vec<u8>,
}

impl Application {
    pub(crate) fn new(page_size: u32, autocheckpoint: u32) -> Application {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("app.db");
        let connection = connect(&path);
        run(&connection, &format!("PRAGMA page_size={page_size}"));
        run(&connection, "PRAGMA journal_mode=WAL");
        run(
            &connection,
            "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB); \
             CREATE TABLE version(number); INSERT INTO version VALUES(0)",
        );
        // No power cut takes the tables away.
        run(&connection, "PRAGMA wal_checkpoint(TRUNCATE)");
        let file = File::open(&path).expect("the database was made");
        let mut application = Application {
            folder,
            page_size,
            autocheckpoint,
            connection: Some(connection),
            reader: None,
            file,
            states: BTreeMap::new(),
            version: 0,
            transactions: 0,
            actions: 0,
            durable: Vec::new(),
        };
        application.set_up();
        application.committed();
        application
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    fn wal(&self) -> PathBuf {
        self.folder.path().join("app.db-wal")
    }

    /// The number of the last transaction whose content the database has.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn actions(&self) -> u64 {
        self.actions
    }

    /// Which transaction has left the content of the database in the file at `path`, or none.
    pub(crate) fn version_of(&self, path: &Path) -> Result<Option<u64>, String> {
        let failed = |error: rusqlite::Error| format!("a restored database is not one: {error}");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
        let check = connection.query_row("PRAGMA integrity_check", (), |row| row.get(0));
        let check: String = check.map_err(failed)?;
        holds!(check == "ok", "a restored database is damaged: {check}");
        let digest = digest(&connection).map_err(failed)?;
        Ok(self.states.get(&digest).copied())
    }

    /// Does something, where the application runs. A database that is locked is let be.
    pub(crate) fn make(&mut self, change: &Change) {
        self.actions += 1;
        let number = self.transactions + 1;
        let Some(connection) = &self.connection else {
            return;
        };
        let patience = match change {
            Change::Checkpoint(_) => Duration::ZERO,
            _ => Duration::from_secs(10),
        };
        let set = connection.busy_timeout(patience);
        set.expect("a connection can be set up");
        match change {
            Change::Write { rows, ends } => {
                run(connection, "BEGIN IMMEDIATE");
                for (id, len) in rows {
                    let text = "x".repeat(usize::from(*len) / 3);
                    let blob = noise(number * 256 + u64::from(*id), *len);
                    let sql = "INSERT OR REPLACE INTO t VALUES(?1, ?2, ?3)";
                    let inserted = connection.execute(sql, params![id, text, blob]);
                    inserted.expect("a row should fit");
                }
                count(connection, number);
                run(connection, if *ends { "COMMIT" } else { "ROLLBACK" });
            }
            Change::Delete(from) => {
                run(connection, "BEGIN IMMEDIATE");
                run(connection, &format!("DELETE FROM t WHERE id >= {from}"));
                count(connection, number);
                run(connection, "COMMIT");
            }
            // A reader is in its way where it would have to begin the log anew.
            Change::Vacuum => run(connection, "VACUUM"),
            Change::Checkpoint(kind) => run(connection, &format!("PRAGMA wal_checkpoint({kind})")),
        }
        self.committed();
    }

    /// A reader begins, and goes on to read until the next one begins or the application ends.
    pub(crate) fn read(&mut self) {
        self.actions += 1;
        self.reader = None;
        if self.connection.is_some() {
            let connection = connect(&self.path());
            run(&connection, "BEGIN; SELECT count(*) FROM t");
            self.reader = Some(connection);
        }
    }

    /// Every reader ends.
    pub(crate) fn stop_reading(&mut self) {
        self.reader = None;
    }

    /// Ends the application, in an orderly way or not, and starts it anew.
    pub(crate) fn restart(&mut self, is_orderly: bool) {
        self.actions += 1;
        self.end(is_orderly);
        self.start();
    }

    /// What the database is now, byte for byte.
    pub(crate) fn image(&self) -> Vec<u8> {
        let copy = self.raw();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("copy.db");
        write(&path, &copy.database);
        write(&folder.path().join("copy.db-wal"), &copy.wal);
        let connection = connect(&path);
        run(&connection, "PRAGMA synchronous=OFF");
        let busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0));
        let busy: u32 = busy.expect("SQLite should read the log");
        assert_eq!(busy, 0, "nobody else has the copy");
        drop(connection);
        fs::read(&path).expect("the copy is there")
    }

    /// The files as they are now. Nobody may write meanwhile, but anybody may checkpoint.
    pub(crate) fn copy(&self) -> Copy {
        let mut copy = self.raw();
        if let Some(connection) = &self.connection {
            let count = connection.query_row("PRAGMA wal_checkpoint(NOOP)", (), |row| {
                Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            });
            let (frames, backfilled) = count.expect("the application can count");
            let offset = |frames: i64| match usize::try_from(frames) {
                Ok(frames @ 1..) => 32 + frames * (self.page_size as usize + 24),
                _ => copy.wal.len(),
            };
            (copy.committed, copy.synced) = (offset(frames), offset(backfilled.max(frames.min(1))));
            if copy.wal.get(..32) == self.durable.get(..32) && copy.wal.len() >= self.durable.len()
            {
                copy.synced = copy.synced.max(self.durable.len());
            }
        }
        copy
    }

    /// The machine loses its power while nobody but the application has the database open: so many
    /// hundredths of what was not synced of the log.
    pub(crate) fn cut_power(&mut self, copy: &Copy, lost: usize) {
        let mut copy = copy.clone();
        let kept = copy.committed.saturating_sub(copy.synced) * (100 - lost.min(100)) / 100;
        copy.wal.truncate(copy.synced + kept);
        self.replace(&copy);
    }

    /// Puts a copy in the place of the database while nobody but the application has it open.
    pub(crate) fn replace(&mut self, copy: &Copy) {
        self.actions += 1;
        self.end(false);
        for name in ["app.db", "app.db-wal", "app.db-shm"] {
            fs::remove_file(self.folder.path().join(name)).ok();
        }
        write(&self.path(), &copy.database);
        write(&self.wal(), &copy.wal);
        self.file = File::open(self.path()).expect("the database was put there");
        self.start();
        let connection = self.connection.as_ref().expect("it was started");
        let digest = digest(connection).expect("the database is whole");
        let version = self.states.get(&digest);
        self.version = *version.expect("a copy has some state of the application");
    }

    fn start(&mut self) {
        // Nobody knows any more how much of it is in the database file.
        self.durable = fs::read(self.wal()).unwrap_or_default();
        self.connection = Some(connect(&self.path()));
        self.set_up();
    }

    fn end(&mut self, is_orderly: bool) {
        for connection in [self.reader.take(), self.connection.take()]
            .into_iter()
            .flatten()
        {
            if !is_orderly {
                let set =
                    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
                set.expect("a connection can be set up");
            }
        }
    }

    fn set_up(&self) {
        let autocheckpoint = self.autocheckpoint;
        let settings = format!(
            "PRAGMA cache_size=10; PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint={autocheckpoint}"
        );
        if let Some(connection) = &self.connection {
            run(connection, &settings);
        }
    }

    /// Notes what the database has now.
    fn committed(&mut self) {
        let Some(connection) = &self.connection else {
            return;
        };
        let digest = digest(connection).expect("the application can read");
        let states = &mut self.states;
        self.version = *states.entry(digest).or_insert_with(|| {
            self.transactions += 1;
            self.transactions
        });
    }

    /// The log first: what is copied to the database file meanwhile is in it too.
    fn raw(&self) -> Copy {
        let mut wal = Vec::new();
        if let Ok(mut file) = File::open(self.wal()) {
            file.read_to_end(&mut wal).expect("the log can be read");
        }
        let len = self.file.metadata().expect("the file is open").len();
        let mut database = vec![0; usize::try_from(len).expect("it is small")];
        let read = self.file.read_exact_at(&mut database, 0);
        read.expect("the file can be read");
        let len = wal.len();
        Copy {
            database,
            wal,
            synced: len,
            committed: len,
        }
    }
}

/// So that no two transactions leave the same content.
fn count(connection: &Connection, number: u64) {
    run(connection, &format!("UPDATE version SET number = {number}"));
}

/// Stands for the content of the application's tables.
fn digest(connection: &Connection) -> rusqlite::Result<u64> {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes.iter().chain(&[0xff]) {
            digest = (digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    let number: i64 = connection.query_row("SELECT number FROM version", (), |row| row.get(0))?;
    add(&number.to_be_bytes());
    let mut statement = connection.prepare("SELECT id, length(a), b FROM t ORDER BY id")?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        add(&row.get::<_, i64>(0)?.to_be_bytes());
        add(&row.get::<_, i64>(1)?.to_be_bytes());
        add(row.get_ref(2)?.as_blob().unwrap_or_default());
    }
    Ok(digest)
}

/// Bytes that are the same for the same seed, and don't get smaller by compression.
fn noise(seed: u64, len: u16) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(next).collect()
}

/// Runs statements that succeed, or find the database locked.
fn run(connection: &Connection, sql: &str) {
    match connection.execute_batch(sql) {
        Ok(()) => {}
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => {}
        Err(error) => panic!("{sql}: {error}"),
    }
}

fn connect(path: &Path) -> Connection {
    Connection::open(path).expect("a database in a temporary folder should open")
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("a file in a temporary folder can be written");
}

/// Looks whether nothing but the database and its log is in its folder.
pub(crate) fn leaves_no_litter(folder: &Path) -> Verdict {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let name = entry.expect("the folder can be read").file_name();
        let name = name.to_string_lossy().into_owned();
        let is_known = ["app.db", "app.db-wal", "app.db-shm"].contains(&name.as_str());
        holds!(is_known, "{name} lies beside the database");
    }
    Ok(())
}

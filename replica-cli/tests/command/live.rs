//! A database that an application writes to, and the command that replicates it.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::replica::{LIMIT, command, finish, folder, names, replica, text};

/// More lines than any of these tests makes.
const LINES_MAX: usize = 1_000_000;

/// The pause of a writer after each commit. Without one it writes a log of gigabytes, because the
/// command is built without optimisation here, and SQLite is not.
const PAUSE: Duration = Duration::from_micros(500);

/// A row: its id, and what is in it.
pub(crate) type Row = (i64, String);

/// An application with its database, in a folder of its own.
pub(crate) struct Live {
    folder: TempDir,
    connection: Option<Connection>,
}

impl Live {
    /// A database of one table with one row.
    pub(crate) fn new() -> Live {
        let live = Live {
            folder: folder(),
            connection: None,
        };
        live.again()
    }

    /// The application, which makes its database unless it is there.
    pub(crate) fn again(mut self) -> Live {
        let connection = connect(&self.path());
        run(
            &connection,
            "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, a TEXT); \
             INSERT OR IGNORE INTO t VALUES(1, 'first')",
        );
        self.connection = Some(connection);
        self
    }

    /// The same folder, where somebody has removed the database.
    pub(crate) fn without_database(mut self) -> Live {
        self.connection = None;
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.beside(&format!("app.db{suffix}")));
        }
        self
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.beside("app.db")
    }

    /// A path in the folder of the database.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The URL of its replica.
    pub(crate) fn url(&self) -> String {
        format!("file://{}", self.beside("replica").display())
    }

    /// Commits so many rows, one by one.
    pub(crate) fn insert(&self, rows: u32) {
        let connection = self.connection.as_ref().expect("the application runs");
        for _ in 0..rows {
            run(connection, "INSERT INTO t(a) VALUES(hex(randomblob(200)))");
        }
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        rows(&self.path())
    }

    /// The arguments that replicate it.
    pub(crate) fn plain_args(&self, flags: &[&str]) -> Vec<String> {
        let (path, url) = (self.path(), self.url());
        let args = ["replicate"].iter().chain(flags).copied();
        args.chain([text(&path), &url]).map(str::to_owned).collect()
    }

    /// The arguments that replicate it to these places, with a log for people.
    pub(crate) fn plain_args_to(&self, urls: &[&str]) -> Vec<String> {
        let path = self.path();
        let args = ["replicate", text(&path)];
        args.iter()
            .chain(urls)
            .map(|arg| (*arg).to_owned())
            .collect()
    }

    /// The arguments that replicate it to `url`, with a log that tells everything as JSON.
    pub(crate) fn args(&self, flags: &[&str], url: &str) -> Vec<String> {
        let path = self.path();
        let told = ["replicate", "-json", "-log-level", "debug"];
        let args = told.iter().chain(flags).copied();
        args.chain([text(&path), url]).map(str::to_owned).collect()
    }

    /// Starts to replicate it.
    pub(crate) fn replicate(&self, flags: &[&str]) -> Running {
        Running::start(self.args(flags, &self.url()))
    }

    /// Waits until the replica has so many files.
    pub(crate) fn wait_for_file(&self, files: usize) {
        let level = self.beside("replica/ltx/0");
        let started = Instant::now();
        while !level.exists()
            || names(&level)
                .iter()
                .filter(|name| name.ends_with(".ltx"))
                .count()
                < files
        {
            assert!(started.elapsed() < LIMIT, "nothing is stored");
            thread::yield_now();
        }
    }

    /// Writes from now on, hardly with a pause.
    pub(crate) fn writer(&self) -> Writer {
        let (committed, stop) = (
            Arc::new(AtomicU64::new(1)),
            Arc::new(AtomicBool::new(false)),
        );
        let connection = connect(&self.path());
        run(
            &connection,
            "PRAGMA synchronous=NORMAL; CREATE TABLE last(id INTEGER); INSERT INTO last VALUES(1)",
        );
        let (count, end) = (Arc::clone(&committed), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for id in 2.. {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                run(
                    &connection,
                    &format!(
                        "BEGIN IMMEDIATE; INSERT INTO t VALUES({id}, '{}'); UPDATE last SET id = \
                         {id}; COMMIT",
                        content(id)
                    ),
                );
                count.store(id, Ordering::SeqCst);
                thread::sleep(PAUSE);
            }
        });
        Writer {
            committed,
            stop,
            thread: Some(thread),
        }
    }
}

/// What the writer puts into a row.
fn content(id: u64) -> String {
    format!("{id} ").repeat(usize::try_from(id % 50).unwrap_or(0) + 1)
}

/// An application that writes about a thousand times a second: rows with ascending ids, and each time the last id
/// to another table.
pub(crate) struct Writer {
    committed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// The last row that was committed, at least.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }

    /// Looks whether a database is one of those that the writer's was, and says how many rows it
    /// had then.
    pub(crate) fn check_prefix(&self, path: &Path) -> u64 {
        let connection = connect(path);
        let last: i64 = one(&connection, "SELECT id FROM last");
        let rows = rows(path);
        for ((id, text), wanted) in rows.iter().zip(1..) {
            assert_eq!(*id, wanted, "a row is missing");
            let number = wanted.unsigned_abs();
            assert!(
                number == 1 || *text == content(number),
                "row {id} is another"
            );
        }
        assert_eq!(
            rows.last().map(|(id, _)| *id),
            Some(last),
            "half a transaction"
        );
        rows.len() as u64
    }

    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer meets no error");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.end();
        }
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The command while it runs. It is killed when this is dropped.
pub(crate) struct Running {
    child: Option<Child>,
    lines: Receiver<String>,
    seen: Vec<String>,
}

/// What a run has told.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) lines: Vec<String>,
}

impl Running {
    pub(crate) fn start<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Running {
        Running::of(command(args))
    }

    pub(crate) fn of(mut command: Command) -> Running {
        let mut child = command.spawn().expect("the command should start");
        let stderr = child.stderr.take().expect("it is piped");
        let (tell, lines) = sync_channel(LINES_MAX);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let line = line.expect("a log is text");
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Running {
            child: Some(child),
            lines,
            seen: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Looks whether it still runs, which it must.
    #[track_caller]
    pub(crate) fn assert_running(&mut self) {
        let child = self.child.as_mut().expect("it was not waited for");
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            let lines = std::iter::from_fn(|| self.lines.recv_timeout(LIMIT).ok());
            let told: Vec<String> = lines.collect();
            panic!("it has ended with {status}: {told:#?}");
        }
    }

    /// Waits until a line tells of `event`, and returns that.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, event: &str) -> Value {
        loop {
            let line = self.next(event);
            let line: Value = serde_json::from_str(&line)
                .unwrap_or_else(|error| panic!("{error}: {:#?}", self.seen));
            if line["event"] == event {
                return line;
            }
        }
    }

    /// Waits until a line has these words.
    #[track_caller]
    pub(crate) fn wait_for_line(&mut self, words: &str) {
        while !self.next(words).contains(words) {}
    }

    #[track_caller]
    fn next(&mut self, awaited: &str) -> String {
        match self.lines.recv_timeout(LIMIT) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(error) => panic!("{awaited}: {error}: {:#?}", self.seen),
        }
    }

    /// Waits for the end, which must be with `status`.
    #[track_caller]
    pub(crate) fn end(self, status: i32) -> Told {
        let (told, ended) = self.finish();
        assert_eq!(ended, Some(status), "{told:#?}");
        told
    }

    /// Waits for the end of what was killed.
    #[track_caller]
    pub(crate) fn killed(self) -> Told {
        let (told, ended) = self.finish();
        assert_eq!(ended, None, "{told:#?}");
        told
    }

    fn finish(mut self) -> (Told, Option<i32>) {
        let child = self.child.take().expect("it runs");
        let status = finish(child).status;
        let mut lines = std::mem::take(&mut self.seen);
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            lines.push(line);
        }
        (Told { lines }, status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Told {
    /// Every line, as JSON. The last one may be cut.
    fn json(&self) -> Vec<Value> {
        let parse = |line: &String| serde_json::from_str(line).ok();
        self.lines.iter().filter_map(parse).collect()
    }

    /// The last line.
    #[track_caller]
    pub(crate) fn last(&self) -> Value {
        self.json().pop().expect("it has told something")
    }

    /// All lines that tell of `event`.
    pub(crate) fn all(&self, event: &str) -> Vec<Value> {
        let mut lines = self.json();
        lines.retain(|line| line["event"] == event);
        lines
    }

    /// The only line that tells of `event`.
    #[track_caller]
    pub(crate) fn one(&self, event: &str) -> Value {
        let mut lines = self.all(event);
        assert_eq!(lines.len(), 1, "{self:#?}");
        lines.remove(0)
    }
}

/// The rows of a restore from `url`, in which SQLite finds no fault.
#[track_caller]
pub(crate) fn restored(url: &str) -> Vec<Row> {
    let folder = folder();
    let output = folder.path().join("restored.db");
    let args = [
        "restore",
        "-integrity-check",
        "full",
        "-o",
        text(&output),
        url,
    ];
    replica(args).ended(0);
    rows(&output)
}

pub(crate) fn rows(path: &Path) -> Vec<Row> {
    let connection = connect(path);
    let mut statement = connection
        .prepare("SELECT id, a FROM t ORDER BY id")
        .expect("there is a table");
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)));
    rows.and_then(Iterator::collect)
        .expect("the rows can be read")
}

/// Runs statements in the database at `path`.
pub(crate) fn sqlite(path: &Path, sql: &str) {
    run(&connect(path), sql);
}

fn connect(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("a database in a temporary folder should open");
    connection
        .busy_timeout(Duration::from_secs(60))
        .expect("a timeout can be set");
    connection
}

fn one(connection: &Connection, sql: &str) -> i64 {
    connection
        .query_row(sql, (), |row| row.get(0))
        .expect("there is a row")
}

fn run(connection: &Connection, sql: &str) {
    if let Err(error) = connection.execute_batch(sql) {
        panic!("{sql}: {error}");
    }
}

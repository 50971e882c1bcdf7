//! The service of the examples, as a process of its own that is asked over HTTP.

#[allow(dead_code, reason = "it is run by a test, and not by its `main`")]
#[path = "../examples/service.rs"]
mod service;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Says to this test's own program that it is the service, with these arguments, one a line.
const ARGS: &str = "REPLICA_TEST_SERVICE";
const NAME: &str = "a_note_that_was_confirmed_outlives_the_service_and_its_disk";

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(300);
/// More lines than a service tells.
const LINES_MAX: usize = 10_000;

/// The place of some services, and of the replica that they share.
struct Place(TempDir);

/// A service that runs. It is killed where this is dropped.
struct Running {
    child: Child,
    lines: Receiver<String>,
    told: Vec<String>,
    address: String,
}

#[test]
fn a_note_that_was_confirmed_outlives_the_service_and_its_disk() {
    if let Some(args) = std::env::var_os(ARGS) {
        return serve(args.to_str().expect("arguments are text"));
    }
    let place = Place::new();

    let service = place.start("first", "fail-fast=60");
    let (written, _) = service.post("remember the milk");
    drop(service);
    let service = place.start("second", "fail-fast=60");
    let (found, notes) = service.get("/notes");

    assert_eq!((written, found), (201, 200));
    assert_eq!(notes, "remember the milk\n");
    let restored = service
        .told
        .iter()
        .any(|line| line.starts_with("restored to transaction"));
    assert!(restored, "{:#?}", service.told);
    let (well, health) = service.health();
    assert_eq!((well, &health["replicated"]), (200, &Value::Bool(true)));
    assert!(health["lag_seconds"].is_f64(), "{health}");
}

#[test]
fn a_service_that_fails_fast_confirms_nothing_without_its_replica() {
    let place = Place::new();
    let service = place.start("first", "fail-fast=600");
    place.break_store();

    let (written, answer) = service.post("lost?");
    let (well, health) = service.health();

    assert_eq!(written, 503, "{answer}");
    assert!(answer.contains("not in the replica"), "{answer}");
    assert_eq!((well, &health["replicated"]), (503, &Value::Bool(false)));
    assert!(health["trouble"].is_string(), "{health}");
}

#[test]
fn a_service_that_fails_fast_ends_where_nothing_can_be_stored_for_too_long() {
    let place = Place::new();
    let service = place.start("first", "fail-fast=1");
    place.break_store();

    place.commit("first");
    let (status, told) = service.ended();

    assert!(!status.success(), "{told:#?}");
    let last = told
        .iter()
        .any(|line| line.contains("nothing could be stored for too long"));
    assert!(last, "{told:#?}");
}

#[test]
fn a_service_that_fails_fast_serves_nobody_where_its_replica_can_not_be_written() {
    let place = Place::new();
    drop(place.start("first", "fail-fast=60"));
    place.break_store();

    let (status, told) = place.spawn("first", "fail-fast=1").ended();

    assert!(!status.success(), "{told:#?}");
    assert!(
        !told.iter().any(|line| line.contains("serving")),
        "{told:#?}"
    );
}

/// It ended at once where its store was away at the start, and waited only later.
#[test]
fn a_service_that_fails_fast_waits_for_its_replica_at_the_start_too() {
    let place = Place::new();
    drop(place.start("first", "fail-fast=60"));
    place.break_store();
    let mut service = place.spawn("first", "fail-fast=600");

    service.line("not replicated yet: ");
    place.mend_store();
    service.line("serving at http://");

    let told = service.told.iter();
    let early = told.filter(|line| line.contains("not replicated yet"));
    assert_eq!(early.count(), 1, "{:#?}", service.told);
}

#[test]
fn a_degraded_service_serves_says_so_and_catches_up() {
    let place = Place::new();
    drop(place.start("first", "fail-fast=60"));
    place.break_store();

    let service = place.start("first", "degrade");
    let (written, _) = service.post("while it was away");
    let (well, health) = service.health();
    place.mend_store();
    service.wait_until_replicated();
    let (status, told) = service.terminated();
    let (_, notes) = place.start("second", "degrade").get("/notes");

    assert_eq!(written, 201);
    assert_eq!((well, &health["replicated"]), (200, &Value::Bool(false)));
    assert!(status.success(), "{told:#?}");
    assert_eq!(notes, "while it was away\n");
}

#[test]
fn a_service_that_is_ended_says_what_could_not_be_stored() {
    let place = Place::new();
    let service = place.start("first", "degrade");
    service.wait_until_replicated();
    place.break_store();
    let (written, _) = service.post("too late");

    let (status, told) = service.terminated();

    assert_eq!(written, 201);
    assert!(!status.success(), "{told:#?}");
    let missing = told
        .iter()
        .any(|line| line.contains("is not in the replica"));
    assert!(missing, "{told:#?}");
}

/// What the service's `main` does.
fn serve(args: &str) {
    let settings = service::Settings::parse(args.lines().map(str::to_owned));
    let settings = settings.expect("the arguments are right");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    if let Err(error) = runtime.block_on(service::run(settings)) {
        panic!("{error}");
    }
}

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().expect("a temporary folder"))
    }

    fn replica(&self) -> PathBuf {
        self.0.path().join("replica")
    }

    /// Starts a service with a folder of its own of this name, and waits until it serves.
    fn start(&self, name: &str, policy: &str) -> Running {
        let mut running = self.spawn(name, policy);
        let line = running.line("serving at http://");
        let (_, address) = line.split_once("http://").expect("an address");
        running.address = address.to_owned();
        running
    }

    fn spawn(&self, name: &str, policy: &str) -> Running {
        let folder = self.0.path().join(name);
        fs::create_dir_all(&folder).expect("a folder can be made");
        let (database, replica) = (folder.join("app.db"), self.replica());
        let (database, replica) = (database.display(), replica.display());
        let mut child = Command::new(std::env::current_exe().expect("it runs"))
            .args(["--exact", NAME, "--nocapture"])
            .env(
                ARGS,
                format!("{database}\nfile://{replica}\n{policy}\n127.0.0.1:0"),
            )
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it can be started");
        let stderr = child.stderr.take().expect("it is a pipe");
        let (tell, lines) = sync_channel(LINES_MAX);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Running {
            child,
            lines,
            told: Vec::new(),
            address: String::new(),
        }
    }

    /// Puts a file where the replica's folder is, in which nobody can write.
    fn break_store(&self) {
        fs::rename(self.replica(), self.0.path().join("aside")).expect("it is there");
        fs::write(self.replica(), "").expect("a file can be written");
    }

    /// Commits a note to the database of a service, as somebody else.
    fn commit(&self, name: &str) {
        let path = self.0.path().join(name).join("app.db");
        let connection = rusqlite::Connection::open(path).expect("it is there");
        let insert = connection.execute("INSERT INTO notes(text) VALUES('more')", ());
        insert.expect("anybody may write");
    }

    fn mend_store(&self) {
        fs::remove_file(self.replica()).expect("it is there");
        fs::rename(self.0.path().join("aside"), self.replica()).expect("it is there");
    }
}

impl Running {
    /// Waits for a line that has this text.
    fn line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("nothing tells {text:?}: {:#?}", self.told));
            self.told.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1"), "")
    }

    fn post(&self, note: &str) -> (u16, String) {
        self.ask("POST /notes HTTP/1.1", note)
    }

    fn health(&self) -> (u16, Value) {
        let (status, body) = self.get("/health");
        (status, serde_json::from_str(&body).expect("JSON"))
    }

    fn wait_until_replicated(&self) {
        let deadline = Instant::now() + LIMIT;
        while self.health().1["replicated"] != Value::Bool(true) {
            assert!(Instant::now() < deadline, "{:?}", self.health());
            thread::yield_now();
        }
    }

    fn ask(&self, line: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(LIMIT)).expect("it can be set");
        let length = body.len();
        let head = format!("{line}\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}");
        write!(stream, "{head}\r\n\r\n{body}").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), body.to_owned())
    }

    fn terminated(self) -> (ExitStatus, Vec<String>) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status();
        assert!(sent.expect("kill should run").success());
        self.ended()
    }

    /// Waits for its end, and returns all that it has told.
    fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.told.push(line),
                // Its stderr is closed, and so it has ended.
                Err(_) if Instant::now() < deadline => break,
                Err(_) => panic!("it does not end: {:#?}", self.told),
            }
        }
        let status = self.child.wait().expect("a child can be waited for");
        (status, std::mem::take(&mut self.told))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

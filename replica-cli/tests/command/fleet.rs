//! `replica replicate` of more databases than it works at at the same time.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use testbed::http::Scripted;

use crate::interruption::send;
use crate::live::{Live, Running, restored};
use crate::replica::{folder, text};
use crate::stores::{Bucket, at};

/// How many it opens, and how many it restores, at the same time.
const WORKERS: usize = 32;
/// For how long it tries to open one that somebody else has locked, before it tells that it can't.
const LOCKED_MAX: Duration = Duration::from_secs(30);

/// A configuration of these databases and their replicas, in `folder`.
fn configured<'a>(
    folder: &Path,
    databases: impl IntoIterator<Item = &'a (PathBuf, String)>,
) -> PathBuf {
    let config = folder.join("litestream.yml");
    let mut lines = String::from("dbs:\n");
    for (path, url) in databases {
        lines += &format!(
            "  - path: {}\n    restore-if-db-not-exists: true\n    replica:\n      url: {url}\n",
            path.display()
        );
    }
    fs::write(&config, lines).expect("a file can be written");
    config
}

/// What another process does who replicates it.
fn locked(live: &Live) -> File {
    let log = File::open(live.beside("app.db-wal")).expect("it has a log");
    log.lock().expect("nobody else replicates it");
    log
}

/// Each kept its turn for all of that time.
#[test]
fn databases_that_others_have_locked_hold_up_no_other_one() {
    let folder = folder();
    let lives: Vec<Live> = (0..=WORKERS).map(|_| Live::new()).collect();
    let mut locks: Vec<File> = lives.iter().map(locked).collect();
    let databases: Vec<_> = lives.iter().map(|live| (live.path(), live.url())).collect();
    let config = configured(folder.path(), &databases);

    let begun = Instant::now();
    let mut running = Running::start(["replicate", "-json", "-config", text(&config)]);
    for _ in &lives {
        running.wait_for("locked");
    }
    let tried = begun.elapsed();
    locks.pop();
    let synced = running.wait_for("synced");
    send("TERM", running.id());

    running.end(1);
    assert!(tried < LOCKED_MAX, "{tried:?}");
    let live = lives.last().expect("there are some");
    assert_eq!(synced["database"], text(&live.path()));
    assert_eq!(restored(&live.url()), live.rows());
}

/// Each kept a turn for as long as its restore took.
#[test]
fn databases_that_are_restored_first_hold_up_no_other_one() {
    let (folder, live, bucket) = (folder(), Live::new(), Bucket::empty());
    let relay = Scripted::before(bucket.server.address());
    // Each gets a first answer, and no second one.
    let is_first = |from: &str| from.contains("ffffffffffffffff");
    relay
        .on(move |request| !request.parameter("start-after").is_some_and(is_first))
        .alter(|answer| answer.delay(Duration::from_secs(3600)));
    let lock = locked(&live);
    let missing = (0..WORKERS).map(|number| {
        let name = format!("missing{number}");
        let url = at(&relay.endpoint(), &name);
        (folder.path().join(name), url)
    });
    let databases: Vec<_> = missing.chain([(live.path(), live.url())]).collect();
    let config = configured(folder.path(), &databases);
    let args = ["replicate", "-json", "-config", text(&config)];

    let mut running = Running::of(bucket.command(args));
    for _ in 0..WORKERS {
        running.wait_for("restoring");
    }
    drop(lock);
    let synced = running.wait_for("synced");
    send("TERM", running.id());

    let ran = running.end(1);
    assert_eq!(synced["database"], text(&live.path()));
    // No restore has come to its end meanwhile.
    let is_restored = |told: &Value| told["database"] != text(&live.path());
    assert!(!ran.all("put_off").iter().any(is_restored), "{ran:#?}");
    assert_eq!(restored(&live.url()), live.rows());
}

//! How a replica is kept while it is replicated, and by hand: `replica status`, `snapshot` and
//! `compact`.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::interruption::send;
use crate::live::{Live, Running, restored, sqlite};
use crate::replica::{Ran, folder, names, replica, text};

/// A configuration for `live` with these lines above its database.
fn configured(live: &Live, settings: &str) -> PathBuf {
    let config = live.beside("litestream.yml");
    let (path, url) = (live.path(), live.url());
    let content = format!(
        "{settings}\ndbs:\n  - path: {}\n    replica: {{url: '{url}'}}\n",
        path.display()
    );
    fs::write(&config, content).expect("a configuration can be written");
    config
}

/// Replicates as the configuration says, with a log that tells everything as JSON.
fn replicate(live: &Live, settings: &str) -> Running {
    let config = configured(live, settings);
    let args = ["replicate", "-json", "-log-level", "debug", "-config"];
    Running::start(args.iter().copied().chain([text(&config)]))
}

/// Stores what is committed, and ends.
fn once(live: &Live) {
    replica(live.plain_args(&["-once"])).ended(0);
}

fn status(args: &[&str]) -> Ran {
    replica(["status", "-json"].iter().chain(args))
}

/// How many files each level has.
fn levels(status: &Value) -> Vec<(u64, u64)> {
    let levels = status["levels"].as_array().expect("levels").iter();
    levels
        .filter_map(|level| Some((level["level"].as_u64()?, level["files"].as_u64()?)))
        .collect()
}

#[test]
fn files_are_put_together_as_the_configuration_says() {
    let live = Live::new();
    let mut running = replicate(&live, "levels: [{interval: 1s}]\nsnapshot: {interval: 1h}");
    running.wait_for("synced");
    live.insert(3);

    let compacted = running.wait_for("compacted");
    send("TERM", running.id());

    let ran = running.end(0);
    assert_eq!(compacted["level_made"], 1);
    let stopped = ran.last();
    assert_eq!(stopped["event"], "stopped", "{ran:#?}");
    assert!(
        stopped["upkeep"]["put_together"].as_u64() > Some(0),
        "{stopped}"
    );
    assert_eq!(stopped["upkeep"]["failing"], Value::Array(Vec::new()));
    assert!(!names(&live.beside("replica/ltx/1")).is_empty());
    assert_eq!(restored(&live.url()), live.rows());
}

/// Nothing is made of a file that can't be read, and what is committed is stored all the same.
#[test]
fn a_damaged_file_is_named_and_replication_goes_on() {
    let live = Live::new();
    let mut running = replicate(&live, "levels: [{interval: 5s}]");
    running.wait_for("synced");
    let level = live.beside("replica/ltx/0");
    let name = names(&level).pop().expect("there is a file");
    let mut bytes = fs::read(level.join(&name)).expect("it can be read");
    bytes[150] ^= 1;
    fs::write(level.join(&name), bytes).expect("it can be written");

    let told = running.wait_for("upkeep_interrupted");
    live.insert(1);
    running.wait_for("stored");
    send("TERM", running.id());

    let ran = running.end(0);
    assert_eq!(told["job"], "compaction to level 1");
    let error = told["error"].as_str().expect("an error");
    assert!(error.contains(name.trim_end_matches(".ltx")), "{error}");
    assert_eq!(ran.one("upkeep_behind")["job"], "compaction to level 1");
    assert_eq!(ran.last()["event"], "stopped", "{ran:#?}");
}

#[test]
fn a_setting_that_nothing_comes_of_is_told_and_one_that_nobody_knows_refused() {
    let live = Live::new();
    let mut running = replicate(&live, "addr: ':9090'");
    let told = running.wait_for("passed_over");
    running.wait_for("synced");
    send("TERM", running.id());
    running.end(0);

    let config = configured(&live, "snapshot:\n  retenton: 72h");
    let refused = replica(["replicate", "-config", text(&config)]).ended(2);

    assert_eq!(
        (&told["setting"], &told["line"]),
        (&"addr".into(), &1.into())
    );
    assert_eq!(told["level"], "warn");
    let line = "line 2: retenton: there is no such setting: is it retention?";
    assert!(refused.stderr.contains(line), "{}", refused.stderr);
}

#[test]
fn status_tells_what_a_replica_holds_and_whether_its_database_has_more() {
    let live = Live::new();
    once(&live);
    let (path, url) = (live.path(), live.url());
    let look = || {
        let ran = status(&["-database", text(&path), &url]).ended(0);
        ran.json()[0].clone()
    };

    let complete = look();
    live.insert(3);
    let behind = look();
    once(&live);
    let again = look();

    assert_eq!(complete["database"]["state"], "complete", "{complete}");
    assert_eq!(complete["restorable"]["newest"]["txid"], "0000000000000002");
    assert_eq!(complete["restorable"]["oldest"]["txid"], "0000000000000001");
    assert_eq!(levels(&complete), [(0, 1), (9, 1)]);
    assert_eq!(behind["database"]["state"], "behind", "{behind}");
    assert_eq!(behind["database"]["transactions_behind"], 3);
    assert_eq!(again["database"]["state"], "complete", "{again}");
    assert_eq!(again["restorable"]["newest"]["txid"], "0000000000000003");
}

/// What the log before had is not known: all was said to be in the replica, or as much to be missing as
/// the new log has.
#[test]
fn status_can_not_tell_all_of_a_log_that_was_begun_anew() {
    let look_after = |sql: &str| {
        let live = Live::new();
        once(&live);
        live.insert(1);
        let (path, url) = (live.path(), live.url());
        sqlite(&path, &format!("PRAGMA wal_checkpoint(RESTART); {sql}"));
        let ran = status(&["-database", text(&path), &url]).ended(0);
        ran.json()[0]["database"].clone()
    };

    // What is rolled back is in the log all the same, and nothing of it is committed.
    let nothing = look_after(
        "PRAGMA cache_size=1; BEGIN; \
         INSERT INTO t(a) SELECT hex(randomblob(9000)) FROM (VALUES(1), (2), (3), (4)); ROLLBACK",
    );
    let more = look_after("INSERT INTO t(a) VALUES('a'); INSERT INTO t(a) VALUES('b')");

    assert_eq!(nothing["state"], "unknown", "{nothing}");
    let told = nothing["message"].as_str().expect("a message");
    assert!(told.contains("the one before had more"), "{told}");
    assert_eq!(
        (&more["state"], &more["transactions_behind"]),
        (&"behind".into(), &2.into()),
        "{more}"
    );
    let told = more["message"].as_str().expect("a message");
    assert!(told.starts_with("at least 2 transactions ("), "{told}");
}

#[test]
fn status_changes_nothing() {
    let live = Live::new();
    once(&live);
    live.insert(1);
    let (path, url) = (live.path(), live.url());
    let beside = |suffix: &str| live.beside(&format!("app.db{suffix}"));
    let content = || ["", "-wal"].map(|suffix| fs::read(beside(suffix)).expect("it is there"));
    let before = content();

    status(&["-database", text(&path), &url]).ended(0);

    assert!(content() == before);
}

#[test]
fn status_can_not_tell_of_a_log_that_the_replica_was_not_made_of() {
    let (live, other) = (Live::new(), Live::new());
    once(&live);
    let (path, url) = (other.path(), live.url());

    let ran = status(&["-database", text(&path), &url]).ended(0);

    let database = &ran.json()[0]["database"];
    assert_eq!(database["state"], "unknown", "{database}");
    let told = database["message"].as_str().expect("a message");
    assert!(told.contains("the database is another one"), "{told}");
}

/// A monitor that asks for the status alone took it for well.
#[test]
fn status_fails_where_the_database_can_not_be_read() {
    let live = Live::new();
    once(&live);
    let (missing, other) = (live.beside("missing.db"), live.beside("other"));
    fs::write(&other, "This is no database.").expect("a file can be written");

    for (path, why) in [
        (&missing, ": No such file or directory"),
        (&other, " is not a SQLite database, or it is encrypted"),
    ] {
        let ran = status(&["-database", text(path), &live.url()]).ended(1);

        let database = &ran.json()[0]["database"];
        assert_eq!(database["state"], "unreadable", "{ran:?}");
        let message = database["message"].as_str().expect("a message");
        let told = format!("can't be read: {}{why}", path.display());
        assert!(message.starts_with(&told), "{message}");
    }
}

#[test]
fn status_says_how_to_look_at_a_database_that_is_given_as_a_replica() {
    let live = Live::new();
    once(&live);
    let path = live.path();

    let ran = replica(["status", text(&path), &live.url()]).ended(1);

    let told = format!(
        "hint: give its replica: replica status -database {} URL",
        path.display()
    );
    assert!(ran.stderr.contains(&told), "{ran:?}");
}

#[test]
fn status_is_for_people_unless_json_is_asked_for() {
    let live = Live::new();
    once(&live);
    let path = live.path();

    let ran = replica(["status", "-database", text(&path), &live.url()]).ended(0);

    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines[0], live.url());
    assert!(lines[1].starts_with("  newest      transaction 0000000000000002 of "));
    assert!(lines[2].starts_with("  oldest      transaction 0000000000000001 of "));
    assert_eq!(
        lines[3],
        "  database    everything that is committed is in the replica"
    );
    assert_eq!(lines[4], "  level  files  size");
    assert!(lines[5].starts_with("  0      1      "), "{lines:#?}");
}

#[test]
fn status_of_a_configuration_is_of_all_its_databases() {
    let live = Live::new();
    once(&live);
    let config = configured(&live, "");
    let text = fs::read_to_string(&config).expect("it can be read");
    let missing = live.beside("nothing");
    let more = format!(
        "  - {{path: /other.db, replica: {{path: '{}'}}}}\n",
        missing.display()
    );
    fs::write(&config, text + &more).expect("it can be written");

    let ran = status(&["-config", config.to_str().expect("a plain name")]).ended(1);

    let all = ran.json();
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(all[0]["source"], live.path().display().to_string());
    assert_eq!(all[0]["database"]["state"], "complete");
    assert!(ran.stderr.contains("no replica at"), "{}", ran.stderr);
}

#[test]
fn a_gap_is_told_and_is_a_failure() {
    let live = Live::new();
    for _ in 0..3 {
        live.insert(1);
        once(&live);
    }
    let level = live.beside("replica/ltx/0");
    let files = names(&level);
    fs::remove_file(level.join(&files[1])).expect("it can be removed");

    let ran = status(&[&live.url()]).ended(1);

    let told = ran.json()[0]["unrestorable"].clone();
    let told = told.as_str().expect("a reason");
    assert!(told.starts_with("transactions are missing"), "{told}");
}

#[test]
fn nothing_to_look_at_is_status_3() {
    let folder = folder();
    let place = folder.path().join("nothing");

    for command in [&["status"][..], &["snapshot"], &["compact", "-level", "1"]] {
        let args = command.iter().copied().chain([text(&place)]);
        let ran = replica(args).ended(3);

        assert!(ran.stderr.contains("no replica at"), "{}", ran.stderr);
    }
}

#[test]
fn a_snapshot_is_made_of_the_replicas_own_files() {
    let live = Live::new();
    for _ in 0..2 {
        live.insert(2);
        once(&live);
    }
    let rows = live.rows();
    let live = live.without_database();

    let made = replica(["snapshot", "-json", &live.url()]).ended(0).json();
    let again = replica(["snapshot", &live.url()]).ended(0);

    assert_eq!(made["files"][0]["level"], 9);
    assert_eq!(made["files"][0]["max_txid"], "0000000000000003");
    assert!(again.stdout.ends_with("there is nothing to put together\n"));
    fs::remove_dir_all(live.beside("replica/ltx/0")).expect("it can be removed");
    assert_eq!(restored(&live.url()), rows);
}

#[test]
fn once_makes_a_snapshot_where_it_is_told_to() {
    let live = Live::new();
    once(&live);
    live.insert(2);

    let ran = replica(live.plain_args(&["-once", "-force-snapshot", "-json"])).ended(0);

    assert_eq!(ran.json()[0]["snapshot_made"], true);
    fs::remove_dir_all(live.beside("replica/ltx/0")).expect("it can be removed");
    assert_eq!(restored(&live.url()), live.rows());
}

/// Whatever else the replicator stores and makes meanwhile.
#[test]
fn a_snapshot_is_made_beside_a_running_replication() {
    let live = Live::new();
    let mut running = live.replicate(&[]);
    running.wait_for("synced");
    live.insert(3);
    running.wait_for("stored");

    replica(["snapshot", &live.url()]).ended(0);
    live.insert(3);
    running.wait_for("stored");
    send("TERM", running.id());

    let ran = running.end(0);
    assert_eq!(ran.last()["event"], "stopped", "{ran:#?}");
    assert_eq!(names(&live.beside("replica/ltx/9")).len(), 2);
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn the_files_of_a_level_are_put_together_to_one_of_the_next() {
    let live = Live::new();
    for _ in 0..3 {
        live.insert(1);
        once(&live);
    }
    let compact = |level: &str| {
        let ran = replica(["compact", "-json", "-level", level, &live.url()]).ended(0);
        ran.json()["files"].as_array().expect("files").len()
    };

    let made = [compact("1"), compact("1"), compact("2")];

    assert_eq!(made, [1, 0, 1]);
    let found = status(&[&live.url()]).ended(0).json();
    assert_eq!(levels(&found[0]), [(0, 3), (1, 1), (2, 1), (9, 1)]);
    fs::remove_dir_all(live.beside("replica/ltx/0")).expect("it can be removed");
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn levels_that_nothing_is_put_together_to_are_refused() {
    for (level, told) in [
        ("0", "files straight from the database are not put together"),
        ("9", "a snapshot is made by replica snapshot"),
        ("10", "levels are 1 to 8"),
        ("one", "levels are 1 to 8"),
    ] {
        let ran = replica(["compact", "-level", level, "/nowhere"]).ended(2);

        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
}

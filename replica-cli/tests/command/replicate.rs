//! `replica replicate`, with an application that writes to the database.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::Value;

use crate::bad_input::{as_nobody, open_tree};
use crate::interruption::send;
use crate::live::{Live, Running, restored, rows, sqlite};
use crate::replica::{LIMIT, folder, names, replica, text};
use crate::stores::{Bucket, Sftp};

#[test]
fn what_is_committed_is_replicated_until_a_signal_comes() {
    for signal in ["INT", "TERM"] {
        let live = Live::new();
        let mut running = live.replicate(&[]);
        running.wait_for("synced");
        live.insert(3);
        running.wait_for("stored");

        live.insert(4);
        send(signal, running.id());

        let ran = running.end(0);
        assert_eq!(ran.last()["event"], "stopped", "{ran:#?}");
        assert_eq!(restored(&live.url()), live.rows());
        assert_eq!(live.rows().len(), 8);
    }
}

#[test]
fn the_log_is_for_people_unless_json_is_asked_for() {
    let live = Live::new();

    let mut running = Running::start(live.plain_args(&[]));
    running.wait_for_line("everything that was committed is stored");
    send("TERM", running.id());
    let ran = running.end(0);

    let (path, url) = (live.path().display().to_string(), live.url());
    let told = [
        format!(" info  {path}: replicating to {url}"),
        format!(" info  {path}: stored the whole database, up to transaction 0000000000000002 ("),
        format!(
            " info  {path}: everything that was committed is stored, up to transaction \
             0000000000000002"
        ),
        String::from(" info  SIGTERM: ending"),
        format!(" info  {path}: storing what is committed, for 30.0 s at most"),
        format!(
            " info  {path}: stopped: everything that was committed is stored, up to transaction \
             0000000000000002"
        ),
    ];
    assert_eq!(ran.lines.len(), told.len(), "{ran:#?}");
    for (line, told) in ran.lines.iter().zip(told) {
        let (time, rest) = line.split_at(line.find(' ').unwrap_or_default());
        assert!(time.ends_with('Z') && rest.starts_with(&told), "{line}");
    }
}

#[test]
fn only_what_is_of_the_level_is_told() {
    let live = Live::new();
    let running = Running::start(live.plain_args(&["-log-level", "error"]));
    live.wait_for_file(1);
    send("TERM", running.id());
    let ran = running.end(0);

    assert_eq!(ran.lines, [""; 0]);
}

#[test]
fn once_stores_what_is_missing_and_ends() {
    let live = Live::new();
    let once = || {
        let ran = replica(live.plain_args(&["-once", "-json"])).ended(0);
        assert_eq!(ran.stderr, "");
        ran.json()[0].clone()
    };

    let first = once();
    let second = once();
    live.insert(5);
    let third = once();

    assert_eq!(first["snapshot"], "the replica is empty");
    assert_eq!(
        (&first["files"], &second["files"], &third["files"]),
        (&2.into(), &0.into(), &1.into())
    );
    assert_eq!(third["snapshot"], Value::Null);
    assert_eq!(third["txid"], "0000000000000003");
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn once_says_what_it_did() {
    let live = Live::new();
    let first = replica(live.plain_args(&["-once"])).ended(0);
    let second = replica(live.plain_args(&["-once"])).ended(0);

    let begin = format!(
        "{} has {} up to transaction 0000000000000002: ",
        live.url(),
        live.path().display()
    );
    assert!(
        first
            .stdout
            .starts_with(&format!("{begin}stored 2 files, ")),
        "{first:?}"
    );
    assert!(
        first
            .stdout
            .ends_with("whole database: the replica is empty\n"),
        "{first:?}"
    );
    assert_eq!(second.stdout, format!("{begin}nothing was missing\n"));
}

#[test]
fn the_end_of_the_child_is_the_end_after_a_last_sync() {
    for (command, status) in [("exit 0", 0), ("exit 3", 3), ("kill -s KILL $$", 137)] {
        let live = Live::new();
        let go = live.beside("go");
        let script = format!(
            "while [ ! -e '{}' ]; do sleep 0.02; done; {command}",
            go.display()
        );
        let exec = format!("sh -c \"{}\"", script.replace('$', "\\$"));
        let mut running = live.replicate(&["-exec", &exec]);
        running.wait_for("synced");

        live.insert(7);
        fs::write(go, "").expect("a file can be written");

        let ran = running.end(status);
        assert_eq!(ran.one("child_ended")["exit_status"], status);
        assert_eq!(ran.last()["event"], "stopped");
        assert_eq!(restored(&live.url()), live.rows());
    }
}

#[test]
fn a_signal_goes_to_the_child_first() {
    for signal in ["INT", "TERM"] {
        let live = Live::new();
        let ready = live.beside("ready");
        let exec = format!(
            "sh -c \"trap 'exit 5' {signal}; : > '{}'; while :; do sleep 0.02; done\"",
            ready.display()
        );
        let mut running = live.replicate(&["-exec", &exec]);
        running.wait_for("synced");
        wait_until("the child has its trap", || ready.exists());
        live.insert(7);

        send(signal, running.id());

        running.end(5);
        assert_eq!(restored(&live.url()), live.rows());
    }
}

#[test]
fn a_second_signal_kills_the_child() {
    let live = Live::new();
    let (ready, told) = (live.beside("ready"), live.beside("told"));
    let exec = format!(
        "sh -c \"trap ': > {}' TERM; echo \\$\\$ > {}; while :; do sleep 0.02; done\"",
        told.display(),
        ready.display()
    );
    let mut running = live.replicate(&["-exec", &exec]);
    running.wait_for("synced");
    wait_until("the child has its trap", || {
        fs::read_to_string(&ready).is_ok_and(|id| id.ends_with('\n'))
    });
    let child = fs::read_to_string(&ready).expect("the child's id");

    send("TERM", running.id());
    wait_until("the child was told", || told.exists());
    let_signals_be_two();
    send("TERM", running.id());

    running.end(143);
    let process = PathBuf::from(format!("/proc/{}/exe", child.trim()));
    wait_until("the child is gone", || fs::read_link(&process).is_err());
}

#[test]
fn a_child_that_can_not_be_run_is_told() {
    let live = Live::new();
    for (exec, told) in [
        ("/nowhere/at/all -x", "error: can't run /nowhere/at/all\n"),
        ("", "error: the command to run is empty\n"),
        (
            "sh -c 'oh",
            "error: the command to run has a quote without its end\n",
        ),
    ] {
        let ran = replica(live.plain_args(&["-exec", exec])).ended(2);

        assert!(ran.stderr.starts_with(told), "{ran:?}");
    }
}

#[test]
fn a_missing_database_is_restored_first() {
    let live = Live::new();
    live.insert(9);
    replica(live.plain_args(&["-once"])).ended(0);
    let rows_before = live.rows();
    let live = live.without_database();

    let mut running = live.replicate(&["-restore-if-db-not-exists"]);
    let restored_to = running.wait_for("restored");
    running.wait_for("synced");
    assert_eq!(rows(&live.path()), rows_before);
    let live = live.again();
    live.insert(2);
    send("TERM", running.id());

    running.end(0);
    assert_eq!(restored_to["txid"], "0000000000000002");
    assert_eq!(restored(&live.url()), live.rows());
    assert_eq!(live.rows().len(), rows_before.len() + 2);
}

#[test]
fn a_database_that_is_there_is_not_restored() {
    let live = Live::new();
    let mut running = live.replicate(&["-restore-if-db-not-exists"]);
    running.wait_for("synced");
    live.insert(1);
    send("TERM", running.id());

    let ran = running.end(0);

    assert_eq!(ran.all("restoring").len(), 0);
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn without_a_replica_a_missing_database_is_waited_for() {
    for flags in [&["-restore-if-db-not-exists"][..], &["-exec", "sleep 600"]] {
        let live = Live::new().without_database();
        let mut running = live.replicate(flags);
        running.wait_for("waiting");

        let live = live.again();
        running.wait_for("synced");
        live.insert(1);
        send("TERM", running.id());

        // The child has no handler of the signal.
        running.end(if flags[0] == "-exec" { 143 } else { 0 });
        assert_eq!(restored(&live.url()), live.rows());
    }
}

#[test]
fn a_database_that_a_child_makes_at_its_end_is_replicated() {
    let live = Live::new();
    live.insert(2);
    let wanted = live.rows();
    let (ready_made, path) = (live.beside("ready.db"), live.path());
    sqlite(&path, &format!("VACUUM INTO '{}'", ready_made.display()));
    let live = live.without_database();
    let exec = format!("cp '{}' '{}'", ready_made.display(), path.display());

    live.replicate(&["-exec", &exec]).end(0);

    assert_eq!(restored(&live.url()), wanted);
}

/// What is wrong while the store is away is told once when it begins and once when it ends, and
/// nothing is lost.
#[test]
fn an_outage_of_a_bucket_is_told_once_and_nothing_is_lost() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let url = bucket.url("app");
    let mut running = Running::of(bucket.command(live.args(&[], &url)));
    running.wait_for("synced");

    bucket.server.close();
    live.insert(3);
    let error = running.wait_for("interrupted");
    for _ in 0..5 {
        live.insert(3);
    }
    bucket.server.reopen();
    let resumed = running.wait_for("resumed");
    live.insert(1);
    send("TERM", running.id());

    let ran = running.end(0);
    assert_eq!(
        (ran.all("interrupted").len(), ran.all("resumed").len()),
        (1, 1)
    );
    assert!(
        error["error"]
            .as_str()
            .is_some_and(|error| error.contains("s3")),
        "{error}"
    );
    assert!(resumed["attempts"].as_u64() >= Some(1), "{resumed}");
    assert!(!ran.lines.join("\n").contains(bucket.server.secret_key()));
    let output = live.beside("restored.db");
    bucket.run(["restore", "-o", text(&output), &url]).ended(0);
    assert_eq!(rows(&output), live.rows());
}

#[test]
fn an_outage_of_a_folder_is_told_once_and_nothing_is_lost() {
    let live = Live::new();
    let mut running = live.replicate(&[]);
    running.wait_for("synced");
    let (replica, away) = (live.beside("replica"), live.beside("away"));

    fs::rename(&replica, &away).expect("a folder can be renamed");
    fs::write(&replica, "in the way").expect("a file can be written");
    live.insert(3);
    running.wait_for("interrupted");
    live.insert(3);
    fs::remove_file(&replica).expect("a file can be removed");
    fs::rename(&away, &replica).expect("a folder can be renamed");
    running.wait_for("resumed");
    send("TERM", running.id());

    let ran = running.end(0);
    assert_eq!(
        (ran.all("interrupted").len(), ran.all("resumed").len()),
        (1, 1)
    );
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn what_could_not_be_stored_in_time_is_told() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let url = bucket.url("app");
    let flags = ["-shutdown-sync-timeout", "500ms"];
    let mut running = Running::of(bucket.command(live.args(&flags, &url)));
    running.wait_for("synced");
    bucket.server.close();
    live.insert(3);
    running.wait_for("interrupted");

    send("TERM", running.id());

    let ran = running.end(1);
    let error = &ran.last()["error"];
    assert_eq!(
        error["message"],
        format!(
            "not everything that was committed to {} is in {url}: the last transaction there is \
             0000000000000002",
            live.path().display()
        )
    );
    assert!(
        !error["causes"].as_array().expect("causes").is_empty(),
        "{error}"
    );
}

/// The child's status says nothing of that, and would hide it.
#[test]
fn what_could_not_be_stored_makes_the_end_of_a_child_that_succeeds_a_failure() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let go = live.beside("go");
    let exec = format!(
        "sh -c \"while [ ! -e '{}' ]; do sleep 0.02; done\"",
        go.display()
    );
    let flags = ["-shutdown-sync-timeout", "500ms", "-exec", &exec];
    let mut running = Running::of(bucket.command(live.args(&flags, &bucket.url("app"))));
    running.wait_for("synced");
    bucket.server.close();
    live.insert(3);
    running.wait_for("interrupted");

    fs::write(go, "").expect("a file can be written");

    let ran = running.end(1);
    assert_eq!(ran.one("child_ended")["exit_status"], 0);
    assert!(
        ran.last()["error"]["message"]
            .as_str()
            .is_some_and(|message| message.starts_with("not everything that was committed to ")),
        "{ran:#?}"
    );
}

#[test]
fn a_second_signal_stops_at_once() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        let live = Live::new();
        let bucket = Bucket::empty();
        let flags = ["-shutdown-sync-timeout", "1h"];
        let mut running = Running::of(bucket.command(live.args(&flags, &bucket.url("app"))));
        running.wait_for("synced");
        bucket.server.close();
        live.insert(3);
        running.wait_for("interrupted");

        send(signal, running.id());
        running.wait_for("stopping");
        let_signals_be_two();
        send(signal, running.id());

        let ran = running.end(status);
        assert_eq!(ran.all("stopped").len(), 0);
        assert_eq!(
            ran.last()["error"]["message"],
            format!("interrupted for the second time (SIG{signal}): stopped at once")
        );
    }
}

/// Two signals within half a second are one. What passes here is that time, and nothing is waited
/// for.
fn let_signals_be_two() {
    thread::sleep(Duration::from_millis(600));
}

/// `timeout` of GNU sends each signal to the process and to its group.
#[test]
fn a_signal_that_comes_twice_is_one() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let flags = ["-shutdown-sync-timeout", "1s"];
    let mut running = Running::of(bucket.command(live.args(&flags, &bucket.url("app"))));
    running.wait_for("synced");
    bucket.server.close();
    live.insert(3);
    running.wait_for("interrupted");

    send("INT", running.id());
    send("TERM", running.id());

    let ran = running.end(1);
    assert_eq!(ran.all("signal").len(), 1, "{ran:#?}");
    let error = &ran.last()["error"]["message"];
    let told = error.as_str().expect("a message");
    assert!(
        told.starts_with("not everything that was committed"),
        "{told}"
    );
}

#[test]
fn a_database_that_others_have_locked_is_waited_for() {
    let live = Live::new().without_database();
    let path = live.path();
    sqlite(
        &path,
        "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT); INSERT INTO t VALUES(1, 'a')",
    );
    let reader = Connection::open(&path).expect("it should open");
    let begun = reader.execute_batch("BEGIN; SELECT * FROM t");
    begun.expect("it should be read");
    let mut running = live.replicate(&[]);

    let told = running.wait_for("locked");
    reader.execute_batch("COMMIT").expect("it should end");
    running.wait_for("synced");
    send("TERM", running.id());

    let ran = running.end(0);
    assert_eq!(told["level"], "warn");
    let error = told["error"].as_str().expect("an error");
    assert!(error.contains("locked"), "{error}");
    assert_eq!(ran.all("locked").len(), 1, "{ran:#?}");
    assert_eq!(restored(&live.url()), live.rows());
}

/// Two of them have written the same transactions to one replica, each as it saw them, and for half a
/// minute neither has noticed.
#[test]
fn a_database_that_another_process_replicates_is_waited_for() {
    let live = Live::new();
    let mut first = live.replicate(&[]);
    first.wait_for("synced");
    let mut second = live.replicate(&[]);

    let told = second.wait_for("locked");
    live.insert(3);
    send("TERM", first.id());
    first.end(0);
    second.wait_for("synced");
    live.insert(2);
    send("TERM", second.id());

    second.end(0);
    let error = told["error"].as_str().expect("an error");
    assert!(
        error.ends_with("is being replicated by another process: end that one first"),
        "{error}"
    );
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn a_replica_that_may_be_of_another_database_is_told_and_gone_on_with() {
    let (live, other) = (Live::new(), Live::new());
    replica(live.plain_args(&["-once"])).ended(0);
    other.insert(3);

    let mut running = Running::start(other.args(&[], &live.url()));
    let told = running.wait_for("other_history");
    running.wait_for("synced");
    send("TERM", running.id());

    running.end(0);
    assert_eq!(told["level"], "warn");
    let reason = told["reason"].as_str().expect("a reason");
    assert!(
        reason.ends_with("or the database is another one"),
        "{reason}"
    );
    assert_eq!(restored(&live.url()), other.rows());
}

#[test]
fn no_secret_of_a_url_is_told() {
    let live = Live::new();
    let sftp = Sftp::of(&live.beside(""));
    let url = sftp.url("/replica");

    let mut running = Running::of(sftp.command(live.args(&[], &url)));
    running.wait_for("synced");
    send("TERM", running.id());
    let ran = running.end(0);

    assert!(
        !ran.lines.join("\n").contains(sftp.server.password()),
        "{ran:#?}"
    );
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn a_configuration_names_databases_and_a_child() {
    let lives = [Live::new(), Live::new()];
    let go = lives[0].beside("go");
    let config = lives[0].beside("litestream.yml");
    let mut lines = format!(
        "exec: sh -c \"while [ ! -e '{}' ]; do sleep 0.02; done\"\ndbs:\n",
        go.display()
    );
    for live in &lives {
        lines += &format!(
            "  - path: {}\n    replica:\n      url: {}\n      sync-interval: 10ms\n",
            live.path().display(),
            live.url()
        );
    }
    fs::write(&config, lines).expect("a configuration can be written");

    let args = [
        "replicate",
        "-json",
        "-log-level=debug",
        "-config",
        text(&config),
    ];
    let mut running = Running::start(args);
    running.wait_for("synced");
    running.wait_for("synced");
    for live in &lives {
        live.insert(3);
    }
    fs::write(go, "").expect("a file can be written");

    let ran = running.end(0);
    assert_eq!(ran.all("stopped").len(), 2);
    for live in &lives {
        assert_eq!(restored(&live.url()), live.rows());
    }
}

#[test]
fn a_database_that_is_replaced_is_a_clear_end() {
    let live = Live::new();
    let mut running = live.replicate(&[]);
    running.wait_for("synced");

    fs::rename(live.path(), live.beside("other.db")).expect("a file can be renamed");

    let ran = running.end(1);
    let error = &ran.last()["error"];
    assert_eq!(
        error["message"],
        format!("can't replicate {}", live.path().display())
    );
    assert!(
        error["hint"].as_str().is_some_and(
            |hint| hint.contains("before you start again, restore that to another path")
        ),
        "{error}"
    );
}

/// A configuration with all of these databases.
fn configured(lives: &[Live; 2]) -> PathBuf {
    let config = lives[0].beside("litestream.yml");
    let mut lines = String::from("dbs:\n");
    for live in lives {
        let (path, url) = (live.path(), live.url());
        lines += &format!(
            "  - path: {}\n    replica:\n      url: {url}\n",
            path.display()
        );
    }
    fs::write(&config, lines).expect("a file can be written");
    config
}

/// A database that nobody had made yet ended the replication of all the others.
#[test]
fn one_of_several_databases_that_is_missing_is_waited_for() {
    let lives = [Live::new(), Live::new().without_database()];
    let config = configured(&lives);
    let [live, missing] = lives;
    let args = ["replicate", "-json", "-config", text(&config)];

    let mut running = Running::start(args);
    let told = running.wait_for("missing");
    running.wait_for("synced");
    let made = missing.again();
    running.wait_for("synced");
    for live in [&live, &made] {
        live.insert(3);
    }
    send("TERM", running.id());

    let ran = running.end(0);
    assert_eq!(told["level"], "warn");
    assert_eq!(told["database"], made.path().display().to_string());
    assert_eq!(ran.all("missing").len(), 1, "{ran:#?}");
    for live in [&live, &made] {
        assert_eq!(restored(&live.url()), live.rows());
    }
}

/// One that was no database ended the replication of all the others.
#[test]
fn one_of_several_databases_that_can_not_be_opened_is_tried_again() {
    let lives = [Live::new(), Live::new().without_database()];
    let config = configured(&lives);
    let [live, broken] = lives;
    fs::write(broken.path(), "no database".repeat(100)).expect("a file can be written");
    let args = ["replicate", "-json", "-config", text(&config)];

    let mut running = Running::start(args);
    let told = running.wait_for("put_off");
    running.wait_for("synced");
    fs::remove_file(broken.path()).expect("it is there");
    let mended = broken.again();
    running.wait_for("synced");
    send("TERM", running.id());

    let ran = running.end(0);
    let error = told["error"].as_str().expect("an error");
    assert!(error.contains("is not a SQLite database"), "{error}");
    assert_eq!(told["level"], "error");
    assert_eq!(ran.all("put_off").len(), 1, "{ran:#?}");
    for live in [&live, &mended] {
        assert_eq!(restored(&live.url()), live.rows());
    }
}

#[test]
fn one_of_several_databases_that_could_not_be_opened_until_the_end_is_a_failure() {
    let lives = [Live::new(), Live::new().without_database()];
    let config = configured(&lives);
    fs::write(lives[1].path(), "no database".repeat(100)).expect("a file can be written");
    let mut running = Running::start(["replicate", "-json", "-config", text(&config)]);
    running.wait_for("put_off");
    running.wait_for("synced");

    send("TERM", running.id());

    let ran = running.end(1);
    let failed = ran.one("failed");
    let message = failed["message"].as_str().expect("a message");
    assert!(message.contains("is not a SQLite database"), "{message}");
    assert_eq!(restored(&lives[0].url()), lives[0].rows());
}

#[test]
fn where_none_of_several_databases_can_be_replicated_that_is_the_end() {
    let lives = [
        Live::new().without_database(),
        Live::new().without_database(),
    ];
    let config = configured(&lives);

    for once in [&[][..], &["-once"]] {
        let args = [&["replicate", "-config", text(&config)], once].concat();
        let ran = replica(args);

        assert!(matches!(ran.status, Some(1 | 3)), "{ran:?}");
        for live in &lives {
            let told = format!("there is no database at {}", live.path().display());
            assert!(ran.stderr.contains(&told), "{ran:?}");
        }
    }
}

#[test]
fn once_stores_those_of_several_databases_that_it_can() {
    let lives = [Live::new().without_database(), Live::new()];
    let config = configured(&lives);

    let ran = replica(["replicate", "-once", "-config", text(&config)]).ended(1);

    let told = format!("there is no database at {}", lives[0].path().display());
    assert!(ran.stderr.contains(&told), "{ran:?}");
    assert_eq!(restored(&lives[1].url()), lives[1].rows());
}

/// It ended for this database alone, the process went on with the others, and nobody noticed.
#[test]
fn one_of_several_databases_that_is_replaced_is_gone_on_with() {
    let lives = [Live::new(), Live::new()];
    let config = configured(&lives);
    let mut running = Running::start(["replicate", "-json", "-config", text(&config)]);
    running.wait_for("synced");
    running.wait_for("synced");
    let [live, other] = &lives;
    let copy = live.beside("copy.db");
    replica(["restore", "-o", text(&copy), &live.url()]).ended(0);

    for suffix in ["-wal", "-shm"] {
        let mut path = live.path().into_os_string();
        path.push(suffix);
        fs::remove_file(path).expect("it is there while it is replicated");
    }
    fs::rename(&copy, live.path()).expect("a file can be renamed");
    running.wait_for("replaced");
    running.wait_for("synced");
    live.insert(7);
    other.insert(7);
    send("INT", running.id());

    running.end(0);
    for live in &lives {
        assert_eq!(restored(&live.url()), live.rows());
    }
}

/// The application goes before its replica: it goes on, and the log and the exit status tell.
#[test]
fn a_child_goes_on_without_its_replication() {
    let live = Live::new();
    let go = live.beside("go");
    let exec = format!(
        "sh -c \"while [ ! -e '{}' ]; do sleep 0.02; done\"",
        go.display()
    );
    let mut running = live.replicate(&["-exec", &exec]);
    running.wait_for("synced");

    fs::rename(live.path(), live.beside("other.db")).expect("a file can be renamed");
    let failed = running.wait_for("failed");
    fs::write(go, "").expect("a file can be written");

    let ran = running.end(1);
    let told = format!("can't replicate {}: ", live.path().display());
    assert!(
        failed["message"]
            .as_str()
            .is_some_and(|message| message.starts_with(&told)),
        "{failed}"
    );
    assert_eq!(
        ran.last()["error"]["message"],
        "not everything that was committed is in its replica"
    );
}

/// Kills the command while an application writes all the time; so often, or as often as
/// `$REPLICA_CLI_KILLS` says.
const KILLS: u32 = 5;

#[test]
fn whenever_it_is_killed_what_it_has_told_to_be_stored_is_restored() {
    let kills = std::env::var_os("REPLICA_CLI_KILLS");
    let kills = kills.map_or(KILLS, |kills| {
        let kills = kills.to_str().and_then(|kills| kills.parse().ok());
        kills.expect("a number of kills")
    });
    let live = Live::new();
    let writer = live.writer();
    for round in 0..kills {
        let committed_before = writer.committed();
        let mut running = live.replicate(&[]);
        let mut told = running.wait_for("synced");
        for _ in 0..random_up_to(20) {
            told = running.wait_for("stored");
        }
        let moment = Instant::now() + Duration::from_micros(random_up_to(50_000));
        wait_until("the moment has come", || Instant::now() >= moment);

        send("KILL", running.id());

        let ran = running.killed();
        let told = ran
            .all("stored")
            .last()
            .map_or(told, |last| (*last).clone());
        let output = live.beside("restored.db");
        let args = [
            "restore",
            "-json",
            "-force",
            "-integrity-check",
            "full",
            "-o",
        ];
        let report = replica([&args[..], &[text(&output), &live.url()]].concat());
        let report = report.ended(0).json();
        assert!(
            report["txid"].as_str() >= told["txid"].as_str(),
            "round {round}: {report}"
        );
        let rows = writer.check_prefix(&output);
        assert!(
            rows >= committed_before,
            "round {round}: {rows} of {committed_before}"
        );
    }

    let mut running = live.replicate(&[]);
    running.wait_for("synced");
    writer.stop();
    send("TERM", running.id());

    running.end(0);
    assert_eq!(restored(&live.url()), live.rows());
}

/// A number from 0 up to `max`.
fn random_up_to(max: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(max) % (max + 1)
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < LIMIT, "not yet: {what}");
        std::thread::yield_now();
    }
}

/// Tries to replicate what can't be, which is told in `message` at once, and changes nothing.
#[track_caller]
fn check_refused(live: &Live, args: &[&str], status: i32, message: &str) {
    let before = (names(&live.beside("")), fs::read(live.path()).ok());

    let ran = replica([&["replicate"], args].concat()).ended(status);

    assert!(
        ran.stderr.starts_with(&format!("error: {message}")),
        "{message}: {ran:#?}"
    );
    assert_eq!(ran.stdout, "");
    assert_eq!(
        (names(&live.beside("")), fs::read(live.path()).ok()),
        before
    );
}

#[test]
fn a_file_that_is_no_database_is_told() {
    let live = Live::new().without_database();
    let (path, url) = (live.path(), live.url());
    let shown = path.display();
    // An encrypted database looks like this.
    let noise: Vec<u8> = (0..8192u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();

    for content in [b"This is no database, but a text.".repeat(200), noise] {
        fs::write(&path, content).expect("a file can be written");
        for flags in [&[][..], &["-once"]] {
            let message = format!(
                "can't replicate {shown}\n  cause: {shown} is not a SQLite database, or it is \
                 encrypted\n"
            );
            check_refused(&live, &[flags, &[text(&path), &url]].concat(), 1, &message);
        }
    }
}

#[test]
fn a_missing_database_is_told() {
    let live = Live::new().without_database();
    let message = format!(
        "there is no database at {}\n  hint: -restore-if-db-not-exists",
        live.path().display()
    );

    check_refused(&live, &[text(&live.path()), &live.url()], 3, &message);
    check_refused(
        &live,
        &["-once", text(&live.path()), &live.url()],
        3,
        &message,
    );
    let nowhere = [
        "-restore-if-db-not-exists",
        "/nowhere/at/all/app.db",
        &live.url(),
    ];
    check_refused(
        &live,
        &nowhere,
        2,
        "there is no folder for /nowhere/at/all/app.db",
    );
    let message = format!(
        "there is no database at {}\n  hint: there is no replica at",
        live.path().display()
    );
    let ran = replica(live.plain_args(&["-once", "-restore-if-db-not-exists"])).ended(3);
    assert!(ran.stderr.contains(&message), "{ran:?}");
}

#[test]
fn what_can_not_be_a_database_or_a_replica_is_told() {
    let live = Live::new();
    let (path, url) = (live.path(), live.url());
    let (path, folder) = (text(&path), live.beside(""));
    let folder = text(&folder).trim_end_matches('/');
    let file = live.beside("file");
    fs::write(&file, "").expect("a file can be written");
    let file = text(&file);

    let message = format!("{folder} is not a regular file");
    check_refused(&live, &[folder, &url], 2, &message);
    for place in [file.to_owned(), format!("{file}/below/it")] {
        let message = format!("could not open file://{place}\n  cause: {file} is not a folder");
        check_refused(&live, &[path, &place], 2, &message);
    }
    check_refused(
        &live,
        &[path, "ftp://me:hush@host/x"],
        2,
        "unknown scheme ftp://",
    );
    check_refused(&live, &[path, ""], 2, "the replica's URL is empty");
}

/// "can't checkpoint app.db" says what does not work, and not why.
#[test]
fn a_database_that_may_not_be_written_is_told() {
    let (live, place) = (Live::new(), folder());
    let database = place.path().join("app.db");
    fs::copy(live.path(), &database).expect("it can be copied");
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode can be set");
    };
    set_mode(place.path(), 0o777);
    set_mode(&database, 0o444);
    let url = format!("file://{}/backup", place.path().display());

    let args = ["replicate", "-once", text(&database), &url];
    let ran = as_nobody(&place.path().join("program"), &args).ended(1);

    let hint = "hint: the database and files beside it are written: replicate as a user who may \
                write there\n";
    assert!(ran.stderr.ends_with(hint), "{ran:#?}");
}

/// It was tried for ever, as though somebody deleted the folder again and again.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_nobody_can_make_is_told() {
    let live = Live::new();
    let path = live.path();

    for flags in [&[][..], &["-once"]] {
        let args = [&["replicate"], flags, &[text(&path), "/proc/replica"]].concat();
        let ran = replica(args).ended(2);

        let told = "error: could not open file:///proc/replica\n  cause: ";
        assert!(ran.stderr.contains(told), "{ran:#?}");
    }
}

#[test]
fn a_call_that_makes_no_sense_is_told() {
    let live = Live::new();
    let (path, url) = (live.path(), live.url());
    let path = text(&path);

    for (args, message) in [
        (
            &[path, &url, "file:///another", &url][..],
            &format!("{url} is there twice: each replica needs its own place")[..],
        ),
        (
            &[path],
            "the following required arguments were not provided:\n  <REPLICA>",
        ),
        (
            &[],
            "nothing to replicate: there is no /nowhere/litestream.yml",
        ),
        (
            &["-config", "x.yml", path, &url],
            "a database and -config do not go together",
        ),
        (
            &["-once", "-exec", "true", path, &url],
            "the argument '--once' cannot be used with '--exec <CMD>'",
        ),
        (
            &["-force-snapshot", path, &url],
            "the following required arguments were not provided:\n  --once",
        ),
        (
            &["-once", "-enforce-retention", path, &url],
            "-enforce-retention is not supported: in one run nothing tells for certain how old a \
             file is",
        ),
        (
            &[&url, path],
            &format!("{url} is no database: the database comes first, and then its replica"),
        ),
        (
            &["sftp://me:hush@host/a", path],
            "sftp://…@host/a is no database: the database comes first, and then its replica",
        ),
        (
            &["replica", path],
            "replica is no database: the database comes first, and then its replica",
        ),
        (
            &["-log-level", "loud", path, &url],
            "invalid value 'loud' for '--log-level <LEVEL>'",
        ),
        (
            &["-shutdown-sync-timeout", "soon", path, &url],
            "invalid value 'soon' for '--shutdown-sync-timeout <TIME>': write it as 500ms, 30s or \
             5m",
        ),
    ] {
        check_refused(&live, args, 2, message);
    }
}

#[test]
fn what_can_not_be_written_to_is_told_at_once() {
    let live = Live::new().without_database();
    let (folder, path) = (live.beside(""), live.path());
    let open = live.beside("open");
    fs::create_dir_all(open.join("closed/ltx/0")).expect("a folder can be made");
    sqlite(&path, "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT)");
    open_tree(&folder);
    for (path, mode) in [
        (&path, 0o666),
        (&open, 0o777),
        (&open.join("closed"), 0o777),
        (&open.join("closed/ltx/0"), 0o555),
        (&folder, 0o555),
    ] {
        set_mode(path, mode);
    }
    let run = |replica: &Path| {
        let args = ["replicate", text(&path), text(replica)];
        as_nobody(&open.join("program"), &args)
    };
    let before = fs::read(&path).expect("the database can be read");

    let no_place_for_the_replica = run(&live.beside("replica")).ended(2);
    let no_place_for_the_log = run(&open.join("replica")).ended(1);
    let unchanged = fs::read(&path).expect("the database can be read") == before;
    set_mode(&folder, 0o777);
    let refused_by_the_store = run(&open.join("closed")).ended(2);

    let shown = text(&folder).trim_end_matches('/');
    let told = format!(
        "error: could not open file://{shown}/replica\n  cause: can't write to {shown}/: Permission \
         denied"
    );
    let stderr = no_place_for_the_replica
        .stderr
        .replace(&format!("{shown}:"), &format!("{shown}/:"));
    assert!(stderr.starts_with(&told), "{stderr}");
    let told = format!("error: can't replicate {}\n  cause: ", path.display());
    assert!(
        no_place_for_the_log.stderr.starts_with(&told),
        "{no_place_for_the_log:?}"
    );
    assert!(unchanged);
    let told = format!(
        "error: could not open file://{}\n  cause: file: write 9/",
        open.join("closed").display()
    );
    assert!(
        refused_by_the_store.stderr.contains(&told),
        "{refused_by_the_store:?}"
    );
    assert_eq!(names(&open), ["closed", "program"]);
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode can be set");
}

//! `replica restore -f`: a database that follows its replica until a signal comes.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::interruption::send;
use crate::live::{Live, Row, Running, rows, sqlite};
use crate::replica::{command, folder, names, replica, text};
use crate::stores::{Bucket, Sftp, run};

/// How long it may take until something is followed.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until the database at `path` has the same rows as the application's.
#[track_caller]
fn wait_for(following: &mut Running, path: &Path, wanted: &[Row]) {
    wait_until(following, || path.exists() && rows(path) == wanted);
}

/// Waits for no longer than it may take, and only for as long as somebody follows.
#[track_caller]
fn wait_until(following: &mut Running, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        following.assert_running();
        assert!(started.elapsed() < LIMIT, "it does not follow");
        std::thread::yield_now();
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("it can be read")
}

#[test]
fn it_follows_until_a_signal_comes_and_goes_on_later() {
    let live = Live::new();
    live.insert(20);
    replica(live.plain_args(&["-once"])).ended(0);
    let (output, url) = (live.beside("read.db"), live.url());
    let args = [
        "restore",
        "-f",
        "-follow-interval",
        "10ms",
        "-o",
        text(&output),
        &url,
    ];
    for name in ["INT", "TERM"] {
        let mut following = Running::start(args);
        wait_for(&mut following, &output, &live.rows());
        live.insert(5);
        replica(live.plain_args(&["-once"])).ended(0);

        wait_for(&mut following, &output, &live.rows());
        send(name, following.id());

        following.end(0);
        assert_eq!(rows(&output), live.rows());
    }
    assert!(names(output.parent().expect("a folder")).contains(&"read.db-follow".to_owned()));
}

#[test]
fn each_line_for_people_begins_with_its_time() {
    let live = Live::new();
    replica(live.plain_args(&["-once"])).ended(0);
    let (output, told) = (live.beside("read.db"), live.beside("told"));
    let mut following = command(["restore", "-f", "-o", text(&output), &live.url()]);
    following.stdout(fs::File::create(&told).expect("a file can be made"));

    let mut following = Running::of(following);
    wait_until(&mut following, || read(&told).contains(" follows"));
    send("TERM", following.id());
    following.end(0);

    let told = fs::read_to_string(&told).expect("it is text");
    let times: Vec<_> = told
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    assert!(!times.is_empty(), "{told}");
    for (time, _) in times {
        assert_eq!(time.len(), "2026-11-22T06:00:00.000Z".len(), "{told}");
        assert!(time.ends_with('Z'), "{told}");
    }
}

/// Follows the replica at `url` with what `command` makes, while it grows.
fn check_store(live: &Live, url: &str, command: impl Fn(&[&str]) -> Command) {
    let (output, path) = (live.beside("read.db"), live.path());
    let once = || run(command(&["replicate", "-once", text(&path), url])).ended(0);
    live.insert(20);
    once();
    let args = ["-follow-interval", "10ms", "-o", text(&output), url];
    let mut following = Running::of(command(&[&["restore", "-f"], &args[..]].concat()));
    wait_for(&mut following, &output, &live.rows());
    for rows in [1, 3000] {
        live.insert(rows);
        once();

        wait_for(&mut following, &output, &live.rows());
    }
    send("TERM", following.id());
    following.end(0);
}

#[test]
fn a_replica_in_a_bucket_is_followed() {
    let (live, bucket) = (Live::new(), Bucket::empty());

    check_store(&live, &bucket.url("app"), |args| bucket.command(args));
}

#[test]
fn a_replica_on_a_server_is_followed() {
    let (live, root) = (Live::new(), folder());
    let sftp = Sftp::of(root.path());

    check_store(&live, &sftp.url("/app"), |args| sftp.command(args));
}

/// A folder that was unmounted for a moment has ended it with status 3.
#[test]
fn a_replica_that_is_gone_for_a_while_is_waited_for() {
    let live = Live::new();
    replica(live.plain_args(&["-once"])).ended(0);
    let (output, url) = (live.beside("read.db"), live.url());
    let (place, elsewhere) = (live.beside("replica"), live.beside("elsewhere"));
    let args = ["-follow-interval", "10ms", "-o", text(&output), &url];
    let told = live.beside("told");
    let mut following = command(["restore", "-f", "-json"].iter().chain(&args));
    following.stdout(fs::File::create(&told).expect("a file can be made"));
    let mut following = Running::of(following);
    let wait_for_event = |following: &mut Running, wanted: &str| {
        let wanted = format!("\"event\":\"{wanted}\"");
        wait_until(following, || read(&told).contains(&wanted));
    };
    wait_for_event(&mut following, "following");
    wait_for(&mut following, &output, &live.rows());

    fs::rename(&place, &elsewhere).expect("a folder can be renamed");
    wait_for_event(&mut following, "interrupted");
    fs::rename(&elsewhere, &place).expect("a folder can be renamed");
    wait_for_event(&mut following, "resumed");
    live.insert(3);
    replica(live.plain_args(&["-once"])).ended(0);
    wait_for_event(&mut following, "followed");
    send("TERM", following.id());

    following.end(0);
    assert_eq!(rows(&output), live.rows());
    let told = read(&told);
    assert_eq!(told.matches("interrupted").count(), 1, "{told}");
    assert!(told.contains("the replica has no files"), "{told}");
}

#[test]
fn what_cannot_be_followed_is_told() {
    let live = Live::new();
    let (output, url) = (live.beside("read.db"), live.url());
    let args = ["restore", "-f", "-o", text(&output), &url];

    let none = replica(args).ended(3);
    replica(live.plain_args(&["-once"])).ended(0);
    let followed = live.beside("followed.db");
    let mut following = Running::start(["restore", "-f", "-o", text(&followed), &url]);
    wait_for(&mut following, &followed, &live.rows());
    live.insert(1);
    replica(live.plain_args(&["-once"])).ended(0);
    // Now it follows, and does not restore any more.
    wait_for(&mut following, &followed, &live.rows());
    send("TERM", following.id());
    following.end(0);
    let emptied = format!("file://{}", live.beside("nowhere").display());
    let typing_error = replica(["restore", "-f", "-o", text(&followed), &emptied]).ended(3);
    sqlite(&output, "CREATE TABLE mine(a)");
    let other = replica(args).ended(1);
    let at = replica([
        "restore",
        "-f",
        "-txid",
        "0000000000000001",
        "-o",
        "x",
        "/x",
    ])
    .ended(2);

    for none in [none, typing_error] {
        assert!(none.stderr.contains("no replica at"), "{}", none.stderr);
    }
    assert!(
        other.stderr.contains("was not made by following"),
        "{}",
        other.stderr
    );
    assert!(at.stderr.contains("cannot be used with"), "{}", at.stderr);
}

//! `replica restore -f`: a database that follows its replica until a signal comes.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use crate::live::{Live, Row, Running, rows, sqlite};
use crate::replica::{LIMIT, names, replica, text};

/// Waits until the database at `path` has the same rows as the application's.
fn wait_for(path: &Path, wanted: &[Row]) {
    let started = Instant::now();
    while !path.exists() || rows(path) != wanted {
        assert!(started.elapsed() < LIMIT, "it does not follow");
        std::thread::yield_now();
    }
}

fn signal(running: &Running, name: &str) {
    let id = running.id().to_string();
    let status = Command::new("kill").args(["-s", name, &id]).status();
    assert!(status.expect("kill should run").success());
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
        let following = Running::start(args);
        wait_for(&output, &live.rows());
        live.insert(5);
        replica(live.plain_args(&["-once"])).ended(0);

        wait_for(&output, &live.rows());
        signal(&following, name);

        following.end(0);
        wait_for(&output, &live.rows());
    }
    assert!(names(output.parent().expect("a folder")).contains(&"read.db-follow".to_owned()));
}

#[test]
fn what_cannot_be_followed_is_told() {
    let live = Live::new();
    let (output, url) = (live.beside("read.db"), live.url());
    let args = ["restore", "-f", "-o", text(&output), &url];

    let none = replica(args).ended(3);
    replica(live.plain_args(&["-once"])).ended(0);
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

    assert!(none.stderr.contains("no replica at"), "{}", none.stderr);
    assert!(
        other.stderr.contains("was not made by following"),
        "{}",
        other.stderr
    );
    assert!(at.stderr.contains("cannot be used with"), "{}", at.stderr);
}

//! `replica` with several replicas of one database.

use std::fs;

use serde_json::Value;

use crate::interruption::send;
use crate::live::{Live, Running, restored, rows, sqlite};
use crate::replica::{replica, text};
use crate::stores::{Bucket, Sftp};

/// The URLs of two replicas of the database.
fn urls(live: &Live) -> [String; 2] {
    ["a", "b"].map(|name| format!("file://{}", live.beside(name).display()))
}

fn replicate(live: &Live, flags: &[&str]) -> Running {
    let [a, b] = urls(live);
    let mut args = live.args(flags, &a);
    args.push(b);
    Running::start(args)
}

/// Waits until a line tells of `event` for the replica at `url`.
fn wait_for(running: &mut Running, event: &str, url: &str) -> Value {
    loop {
        let line = running.wait_for(event);
        if line["replica"] == url {
            return line;
        }
    }
}

#[test]
fn each_place_gets_everything_and_tells_so() {
    let live = Live::new();
    let urls = urls(&live);
    let mut running = replicate(&live, &[]);
    for _ in &urls {
        running.wait_for("synced");
    }

    live.insert(20);
    send("TERM", running.id());

    let told = running.end(0).all("stopped");
    let mut places: Vec<_> = told.iter().map(|line| line["replica"].as_str()).collect();
    places.sort_unstable();
    assert_eq!(places, urls.each_ref().map(|url| Some(url.as_str())));
    for url in &urls {
        assert_eq!(restored(url), live.rows());
    }
}

#[test]
fn a_place_that_is_away_holds_up_no_other_one_and_is_named_in_the_end() {
    let live = Live::new();
    let [a, b] = urls(&live);
    let mut running = replicate(&live, &["-shutdown-sync-timeout", "1s"]);
    for _ in 0..2 {
        running.wait_for("synced");
    }

    let folder = live.beside("a");
    fs::rename(&folder, live.beside("away")).expect("a folder can be renamed");
    fs::write(&folder, "in the way").expect("a file can be written");
    live.insert(20);
    wait_for(&mut running, "interrupted", &a);
    send("TERM", running.id());

    let told = running.end(1);
    let stopped = told.one("stopped");
    let failed = told.one("failed");
    assert_eq!(stopped["replica"], b);
    let message = format!(
        "not everything that was committed to {} is in {a}: ",
        live.path().display()
    );
    assert!(
        failed["message"]
            .as_str()
            .is_some_and(|told| told.starts_with(&message)),
        "{failed}"
    );
    assert_eq!(restored(&b), live.rows());
}

#[test]
fn once_stores_what_it_can_and_names_the_place_where_it_can_not() {
    let live = Live::new();
    let [a, b] = urls(&live);
    fs::write(live.beside("a"), "in the way").expect("a file can be written");
    let mut args = live.plain_args(&["-once"]);
    args.truncate(args.len() - 1);
    args.extend([a.clone(), b.clone()]);

    let ran = replica(args).ended(1);

    assert!(
        ran.stderr.contains(&format!("could not open {a}: ")),
        "{ran:?}"
    );
    assert!(ran.stdout.starts_with(&format!("{b} has ")), "{ran:?}");
    assert_eq!(restored(&b), live.rows());
}

#[test]
fn a_missing_database_is_restored_from_the_replica_with_the_latest_state() {
    let live = Live::new();
    let [a, b] = urls(&live);
    let path = live.path();
    let once = |urls: &[&str], flags: &[&str], status| {
        let mut args = vec!["replicate", "-once"];
        args.extend(flags);
        args.push(text(&path));
        args.extend(urls);
        replica(args).ended(status)
    };
    once(&[&a], &[], 0);
    live.insert(20);
    once(&[&b], &[], 0);
    let before = live.rows();
    let live = live.without_database();

    once(&[&a, &b], &["-restore-if-db-not-exists"], 0);

    assert_eq!(rows(&live.path()), before);
    for url in [&a, &b] {
        assert_eq!(restored(url), before);
    }
    let live = live.without_database();
    fs::rename(live.beside("a"), live.beside("away")).expect("a folder can be renamed");
    fs::write(live.beside("a"), "in the way").expect("a file can be written");
    let refused = once(&[&a, &b], &["-restore-if-db-not-exists"], 1);
    assert!(refused.stderr.contains(&a), "{refused:?}");
    assert!(!live.path().exists());
}

#[test]
fn one_of_several_replicas_of_a_configuration_is_named_by_its_url() {
    let live = Live::new();
    let [a, b] = urls(&live);
    let config = live.beside("litestream.yml");
    let path = live.path();
    let lines = format!(
        "dbs:\n  - path: {}\n    replicas:\n      - url: {a}\n      - url: {b}\n",
        path.display()
    );
    fs::write(&config, lines).expect("a file can be written");
    let output = live.beside("restored.db");
    let restore = |which: &str, status| {
        let args = [
            "restore",
            "-config",
            text(&config),
            "-o",
            text(&output),
            which,
        ];
        replica(args).ended(status)
    };
    replica(["replicate", "-once", "-config", text(&config)]).ended(0);

    let all = replica(["status", "-json", "-config", text(&config)]).ended(0);
    let unclear = restore(text(&path), 2);
    let nowhere = restore("file:///nowhere", 2);
    restore(&b, 0);

    let all = all.json();
    assert_eq!([&all[0]["replica"], &all[1]["replica"]], [&a, &b]);
    let told = format!("the database has several replicas: say which one by its URL: {a} or {b}");
    assert!(unclear.stderr.contains(&told), "{unclear:?}");
    let told = "no database has a replica at file:///nowhere";
    assert!(nowhere.stderr.contains(told), "{nowhere:?}");
    assert_eq!(rows(&output), live.rows());
}

/// A user who has a bucket and knows an SFTP server, which serves the folder of the database.
fn replicate_to_servers(live: &Live, bucket: &Bucket, sftp: &Sftp) -> (Running, [String; 2]) {
    let urls = [bucket.url("app"), sftp.url("/replica")];
    let mut args = live.args(&[], &urls[0]);
    args.push(urls[1].clone());
    let mut command = bucket.command(args);
    command.env("HOME", sftp.in_home(""));
    let mut running = Running::of(command);
    for _ in &urls {
        running.wait_for("synced");
    }
    (running, urls)
}

/// Checks what a restore from the bucket gives.
#[track_caller]
fn check_bucket(live: &Live, bucket: &Bucket, url: &str) {
    let output = live.beside("restored.db");
    bucket.run(["restore", "-o", text(&output), url]).ended(0);
    assert_eq!(rows(&output), live.rows());
}

#[test]
fn a_bucket_that_is_away_holds_up_no_server_and_gets_everything_once_it_is_back() {
    let live = Live::new();
    let (bucket, sftp) = (Bucket::empty(), Sftp::of(&live.beside("")));
    let (mut running, [url, server]) = replicate_to_servers(&live, &bucket, &sftp);

    bucket.server.close();
    live.insert(20);
    let interrupted = running.wait_for("interrupted");
    let without_bucket = restored(&live.url());
    let all = live.rows();
    live.insert(5);
    bucket.server.reopen();
    let resumed = running.wait_for("resumed");
    send("TERM", running.id());

    let told = running.end(0);
    assert_eq!([&interrupted["replica"], &resumed["replica"]], [&url, &url]);
    assert!(without_bucket.len() > 1 && all.starts_with(&without_bucket));
    let mut stopped: Vec<_> = told.all("stopped");
    stopped.retain(|line| line["replica"] != url.as_str());
    assert_eq!(stopped.len(), 1);
    let secrets = [bucket.server.secret_key(), sftp.server.password()];
    let lines = told.lines.join("\n");
    assert!(
        !secrets.iter().any(|secret| lines.contains(secret)),
        "{lines}"
    );
    assert!(server.contains(sftp.server.password()));
    assert_eq!(restored(&live.url()), live.rows());
    check_bucket(&live, &bucket, &url);
}

/// The log is begun anew without a replica whose store is away once it has half of the 64 MiB that
/// it may have.
#[test]
fn a_place_that_is_left_behind_is_named_and_gets_the_whole_database() {
    let live = Live::new();
    let (bucket, sftp) = (Bucket::empty(), Sftp::of(&live.beside("")));
    let (mut running, [url, _]) = replicate_to_servers(&live, &bucket, &sftp);
    bucket.server.close();
    live.insert(1);
    wait_for(&mut running, "interrupted", &url);

    for _ in 0..10 {
        sqlite(
            &live.path(),
            "INSERT INTO t(a) VALUES(printf('%.*c', 5000000, 'x'))",
        );
    }
    let left_behind = running.wait_for("left_behind");
    while running.wait_for("checkpointed")["recycled"] != true {}
    // The log is begun anew.
    live.insert(1);
    bucket.server.reopen();
    let stored = loop {
        let line = wait_for(&mut running, "stored", &url);
        if !line["snapshot"].is_null() {
            break line;
        }
    };
    wait_for(&mut running, "resumed", &url);
    send("TERM", running.id());

    let told = running.end(0);
    assert_eq!(
        (&left_behind["level"], &left_behind["replica"]),
        (&"warn".into(), &url.as_str().into())
    );
    assert!(stored["snapshot"].is_string(), "{stored}");
    assert_eq!(told.all("left_behind").len(), 1, "{told:#?}");
    assert_eq!(restored(&live.url()), live.rows());
    check_bucket(&live, &bucket, &url);
}

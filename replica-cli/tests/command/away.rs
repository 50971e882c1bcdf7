//! `replica replicate` where a store is away, hangs or refuses from the start.

use std::process::Command;
use std::time::Instant;

use testbed::{Fault, Proxy};

use crate::interruption::send;
use crate::live::{Live, Running, restored, rows};
use crate::refused::SOON;
use crate::replica::{command, folder, text};
use crate::stores::{Bucket, Sftp, at, run};

/// Checks that a restore from `url` gives what the application has committed.
#[track_caller]
fn check_restored(live: &Live, bucket: &Bucket, url: &str) {
    let output = live.beside("restored.db");
    bucket.run(["restore", "-o", text(&output), url]).ended(0);
    assert_eq!(rows(&output), live.rows());
}

/// It ended with an error after four seconds, so that a service did not start that was started
/// together with its store.
#[test]
fn a_store_that_is_away_at_the_start_is_waited_for() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let url = bucket.url("app");
    bucket.server.close();
    let mut running = Running::of(bucket.command(live.args(&[], &url)));

    let told = running.wait_for("put_off");
    live.insert(3);
    bucket.server.reopen();
    running.wait_for("synced");
    live.insert(3);
    send("TERM", running.id());

    let ran = running.end(0);
    assert_eq!(told["level"], "warn");
    let error = told["error"].as_str().expect("an error");
    assert!(error.contains("nobody listens at "), "{error}");
    assert_eq!(ran.all("put_off").len(), 1, "{ran:#?}");
    check_restored(&live, &bucket, &url);
}

#[test]
fn a_server_that_is_away_at_the_start_is_waited_for() {
    let live = Live::new();
    let sftp = Sftp::of(&live.beside(""));
    sftp.server.close();
    let mut running = Running::of(sftp.command(live.args(&[], &sftp.url("/replica"))));

    running.wait_for("put_off");
    sftp.server.reopen();
    running.wait_for("synced");
    send("TERM", running.id());

    running.end(0);
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn what_a_store_refuses_at_the_start_is_an_error_at_once() {
    let live = Live::new();
    let (bucket, place) = (Bucket::empty(), folder());
    let sftp = Sftp::of(place.path());
    let url = bucket.url("app");
    let mut wrong_key = bucket.command(live.plain_args_to(&[&url]));
    wrong_key.env("AWS_SECRET_ACCESS_KEY", "hush");
    let other = format!("s3://other/app?endpoint={}", bucket.server.endpoint());
    let wrong_bucket = bucket.command(live.plain_args_to(&[&other]));
    let wrong_login = sftp.command(live.plain_args_to(&[&sftp.url_of("me:hush", "/app")]));
    let unknown_host = of_a_stranger(&live, &sftp.url("/app"));

    for (command, told) in [
        (wrong_key, "the signature is wrong"),
        (wrong_bucket, "there is no bucket other"),
        (wrong_login, "could not open sftp://"),
        (unknown_host, "known_hosts"),
    ] {
        let begun = Instant::now();
        let ran = run(command).ended(2);

        assert!(begun.elapsed() < SOON, "{told}: {ran:?}");
        assert!(ran.stderr.contains(told), "{told}: {ran:#?}");
        assert!(ran.stderr.starts_with("error: could not open "), "{ran:#?}");
    }
}

/// The command of a user who knows no server's key.
fn of_a_stranger(live: &Live, url: &str) -> Command {
    let mut command = command(live.plain_args_to(&[url]));
    command.env("HOME", live.beside(""));
    command
}

#[test]
fn what_a_store_refuses_once_it_is_back_is_an_error_too() {
    let live = Live::new();
    let bucket = Bucket::empty();
    bucket.server.close();
    let mut command = bucket.command(live.args(&[], &bucket.url("app")));
    command.env("AWS_SECRET_ACCESS_KEY", "hush");
    let mut running = Running::of(command);

    running.wait_for("put_off");
    bucket.server.reopen();

    let ran = running.end(2);
    let causes = ran.last()["error"]["causes"].to_string();
    assert!(causes.contains("the signature is wrong"), "{causes}");
}

#[test]
fn whoever_ends_it_before_the_store_is_back_is_told_what_is_missing() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let url = bucket.url("app");
    bucket.server.close();
    let mut running = Running::of(bucket.command(live.args(&[], &url)));
    running.wait_for("put_off");

    send("TERM", running.id());

    let ran = running.end(1);
    let error = &ran.last()["error"];
    let path = live.path();
    let message = format!(
        "nothing that was committed to {} meanwhile is in {url}",
        path.display()
    );
    assert_eq!(error["message"], message);
    let causes = error["causes"].to_string();
    assert!(causes.contains("nobody listens at "), "{causes}");
}

#[test]
fn once_does_not_wait_for_a_store_that_is_away() {
    let live = Live::new();
    let bucket = Bucket::empty();
    bucket.server.close();
    let args = live.args(&["-once"], &bucket.url("app"));

    let begun = Instant::now();
    let ran = bucket.run(args).ended(2);

    assert!(begun.elapsed() < SOON, "{ran:?}");
    assert!(ran.stderr.contains("nobody listens at "), "{ran:?}");
}

/// All stores had to answer before anything was replicated, which took half a minute for one that
/// hangs.
#[test]
fn a_store_that_hangs_from_the_start_holds_up_no_other() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let network = Proxy::start(bucket.server.address());
    network.set(Fault::BlackHole);
    let hanging = at(&format!("http://{}", network.address()), "app");
    let mut args = live.args(&["-shutdown-sync-timeout", "5s"], &hanging);
    args.push(live.url());
    let mut running = Running::of(bucket.command(args));

    let synced = running.wait_for("synced");
    live.insert(3);
    send("TERM", running.id());

    let ran = running.end(1);
    assert_eq!(synced["replica"], live.url());
    assert_eq!(ran.all("put_off").len(), 0, "{ran:#?}");
    assert_eq!(ran.one("stopped")["replica"], live.url());
    let failed = ran.one("failed");
    let message = failed["message"].as_str().expect("a message");
    assert!(
        message.starts_with("nothing that was committed to "),
        "{message}"
    );
    assert_eq!(restored(&live.url()), live.rows());
}

#[test]
fn a_child_does_not_wait_for_a_store_that_is_away() {
    let live = Live::new();
    let bucket = Bucket::empty();
    bucket.server.close();
    let running = Running::of(bucket.command(live.args(&["-exec", "true"], &bucket.url("app"))));

    let ran = running.end(1);

    assert_eq!(ran.one("child_ended")["exit_status"], 0);
    let failed = ran.all("failed").len() + usize::from(ran.last()["error"].is_object());
    assert!(failed > 0, "{ran:#?}");
}

/// A child that finds no database makes one, and the replica of that would go on top of what was to
/// be restored.
#[test]
fn a_child_waits_for_a_database_that_is_to_be_restored_from_a_store_that_is_away() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let url = bucket.url("app");
    live.insert(5);
    let wanted = live.rows();
    bucket.run(live.args(&["-once"], &url)).ended(0);
    let live = live.without_database();
    bucket.server.close();
    let exec = format!("test -s '{}'", live.path().display());
    let flags = ["-restore-if-db-not-exists", "-exec", &exec];
    let mut running = Running::of(bucket.command(live.args(&flags, &url)));

    running.wait_for("put_off");
    bucket.server.reopen();

    let ran = running.end(0);
    assert_eq!(ran.one("child_ended")["exit_status"], 0);
    assert_eq!(ran.all("restored").len(), 1);
    assert_eq!(rows(&live.path()), wanted);
}

/// One database whose store refuses it is told, and the others go on; as before, but they do not
/// wait for each other.
#[test]
fn what_one_of_several_stores_refuses_is_told_while_the_others_go_on() {
    let live = Live::new();
    let bucket = Bucket::empty();
    let refused = format!("s3://other/app?endpoint={}", bucket.server.endpoint());
    let mut args = live.args(&[], &refused);
    args.push(live.url());
    let mut running = Running::of(bucket.command(args));

    let told = running.wait_for("put_off");
    bucket.server.create_bucket("other");
    running.wait_for("synced");
    let second = running.wait_for("synced");
    live.insert(2);
    send("TERM", running.id());

    running.end(0);
    assert_eq!(
        (&told["level"], &told["replica"]),
        (&"error".into(), &refused.as_str().into())
    );
    assert_eq!(second["replica"], refused);
    assert_eq!(restored(&live.url()), live.rows());
    check_restored(&live, &bucket, &refused);
}

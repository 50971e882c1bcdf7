//! `replica verify`: three outcomes, and an exit status for each.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::bad_input::{as_nobody, open_tree};
use crate::live::{Live, sqlite};
use crate::replica::{Ran, folder, names, replica, text};

/// Verifies the replica of `live`, with a scratch folder in which nothing is left.
fn verify(live: &Live, flags: &[&str]) -> Ran {
    let (scratch, path, url) = (folder(), live.path(), live.url());
    let args = ["verify", "-scratch", text(scratch.path())];
    let ran = replica(args.iter().chain(flags).copied().chain([text(&path), &url]));
    assert_eq!(names(scratch.path()), Vec::<String>::new());
    ran
}

/// A database that was replicated once.
fn replicated() -> Live {
    let live = Live::new();
    live.insert(50);
    replica(live.plain_args(&["-once"])).ended(0);
    live
}

#[test]
fn a_good_replica_is_good_while_the_database_is_in_use() {
    let live = Live::new();
    let mut running = live.replicate(&[]);
    running.wait_for("synced");
    let writer = live.writer();

    let ran = verify(&live, &["-wait", "60s"]).ended(0);
    let json = verify(&live, &["-json", "-wait", "60s"]).ended(0).json();

    writer.stop();
    assert!(ran.stdout.starts_with("good: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("byte for byte"), "{}", ran.stdout);
    assert_eq!(json["verdict"], "good");
    // Whoever writes without a pause is ahead by what the restore took.
    assert!(json["behind"].is_u64(), "{json}");
}

#[test]
fn what_the_replica_lacks_is_told() {
    let live = replicated();
    live.insert(3);

    let ran = verify(&live, &["-wait", "0s"]).ended(0);
    let json = verify(&live, &["-json", "-wait", "0s"]).ended(0).json();

    assert!(ran.stdout.starts_with("good: "), "{}", ran.stdout);
    assert!(
        ran.stderr.contains("not in the replica yet"),
        "{}",
        ran.stderr
    );
    assert!(json["behind"].as_u64() > Some(0), "{json}");
    assert!(json["size"].as_u64() > Some(50 * 400), "{json}");
    assert_eq!(json["source"], live.url());
}

#[test]
fn a_bad_replica_is_status_1_and_its_bad_file_is_named() {
    let live = replicated();
    let file = "ltx/9/0000000000000001-0000000000000001.ltx";
    let path = live.beside("replica").join(file);
    let mut content = fs::read(&path).expect("the first file is a snapshot");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&path, content).expect("it can be written");

    let ran = verify(&live, &[]).ended(1);
    let json = verify(&live, &["-json"]).ended(1).json();

    assert!(ran.stdout.starts_with("bad: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("0000000000000001"), "{}", ran.stdout);
    assert_eq!(
        (&json["verdict"], &json["reason"]),
        (&"bad".into(), &"damaged".into())
    );
    let named = json["files"][0].as_str().expect("a file");
    assert!(named.contains("0000000000000001"), "{json}");
}

#[test]
fn what_cannot_be_told_is_status_4_with_what_to_do() {
    let live = replicated();
    sqlite(
        &live.path(),
        "INSERT INTO t(a) VALUES('more'); PRAGMA wal_checkpoint(TRUNCATE)",
    );

    let ran = verify(&live, &["-wait", "0s"]).ended(4);
    let json = verify(&live, &["-json", "-wait", "0s"]).ended(4).json();

    assert!(ran.stdout.starts_with("unknown: "), "{}", ran.stdout);
    assert!(ran.stdout.contains("hint: verify while"), "{}", ran.stdout);
    assert_eq!(
        (&json["verdict"], &json["reason"]),
        (&"unknown".into(), &"new_log".into())
    );
}

/// "can't read app.db: unable to open database file", which can be read by anybody.
#[test]
fn a_folder_in_which_sqlite_can_keep_nothing_is_told() {
    let live = replicated();
    let place = folder();
    let database = place.path().join("folder/app.db");
    fs::create_dir(place.path().join("folder")).expect("a folder can be made");
    fs::copy(live.path(), &database).expect("it can be copied");
    open_tree(&live.beside(""));
    open_tree(place.path());
    let set_mode = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode can be set");
    };
    let closed = place.path().join("folder");
    set_mode(place.path(), 0o777);
    set_mode(&closed, 0o555);

    let args = ["verify", text(&database), &live.url()];
    let ran = as_nobody(&place.path().join("program"), &args);

    set_mode(&closed, 0o755);
    let ran = ran.ended(4);
    let hint = "hint: SQLite keeps two files beside a database that it reads";
    assert!(ran.stderr.contains(hint), "{ran:?}");
}

#[test]
fn what_keeps_it_from_being_told_is_status_4_with_what_to_do() {
    let live = replicated();
    let (path, url, plain) = (live.path(), live.url(), live.beside("plain.db"));
    sqlite(&plain, "CREATE TABLE t(a)");
    let (database, nowhere) = (text(&path), live.beside("nowhere"));

    let not_wal = replica(["verify", text(&plain), &url]).ended(4);
    let no_folder = replica(["verify", "-scratch", text(&nowhere), database, &url]).ended(4);
    let too_long = verify(&live, &["-json", "-hold-max", "0s"]).ended(4).json();

    let hint = "hint: replicate it, which puts it into WAL mode";
    assert!(not_wal.stderr.contains(hint), "{}", not_wal.stderr);
    assert!(
        no_folder.stderr.contains("hint: -scratch names another"),
        "{}",
        no_folder.stderr
    );
    assert!(
        no_folder.stderr.contains(text(&nowhere)),
        "{}",
        no_folder.stderr
    );
    assert_eq!(too_long["reason"], "too_long", "{too_long}");
}

#[test]
fn what_is_not_there_is_told() {
    let live = Live::new();
    let (path, nowhere) = (live.path(), live.beside("nowhere.db"));

    let none = verify(&live, &[]).ended(3);
    let unnamed = replica(["verify", text(&path)]).ended(2);
    let without_config = replica(["verify", "-config", "/nowhere.yml", text(&path), "/x"]).ended(2);
    let replicated = replicated();
    let missing = replica(["verify", text(&nowhere), &replicated.url()]).ended(3);

    assert!(none.stderr.contains("no replica at"), "{}", none.stderr);
    assert!(
        unnamed.stderr.contains("nothing says where"),
        "{}",
        unnamed.stderr
    );
    assert!(
        without_config.stderr.contains("/nowhere.yml"),
        "{}",
        without_config.stderr
    );
    assert!(
        missing.stderr.contains("there is no database at"),
        "{}",
        missing.stderr
    );
    assert!(!nowhere.exists());
}

#[test]
fn a_replica_in_the_place_of_its_database_is_told() {
    let live = replicated();
    let (path, url) = (live.path(), live.url());

    for args in [&["verify", &url, text(&path)][..], &["verify", &url]] {
        let ran = replica(args).ended(2);

        let told = format!(
            "error: {url} is no database: the database comes first, and then its replica\n  hint: \
             replica verify DATABASE REPLICA\n"
        );
        assert_eq!(ran.stderr, told);
    }
}

#[test]
fn one_of_several_replicas_of_a_configuration_is_verified_by_its_url() {
    let (live, other) = (Live::new(), Live::new());
    let [a, b, of_other] = [live.beside("a"), live.beside("b"), other.beside("replica")]
        .map(|path| format!("file://{}", path.display()));
    let config = live.beside("litestream.yml");
    let (path, other_path) = (live.path(), other.path());
    let lines = format!(
        "dbs:\n  - path: {}\n    replicas:\n      - url: {a}\n      - url: {b}\n  - path: {}\n    \
         replica:\n      url: {of_other}\n",
        path.display(),
        other_path.display()
    );
    fs::write(&config, lines).expect("a file can be written");
    replica(["replicate", "-once", "-config", text(&config)]).ended(0);
    fs::remove_dir_all(live.beside("a")).expect("it is there");
    let verify = |replicas: &[&str], status| {
        let args = ["verify", "-config", text(&config), text(&path)];
        replica(args.iter().chain(replicas)).ended(status)
    };

    let unclear = verify(&[], 2);
    let gone = verify(&[&a], 3);
    let good = verify(&[&b], 0);
    let foreign = verify(&[&of_other], 2);
    let nowhere = verify(&["file:///nowhere"], 2);

    let told = format!("say which one by its URL: {a} or {b}");
    assert!(unclear.stderr.contains(&told), "{unclear:?}");
    let told = format!("no replica at {a}: ");
    assert!(gone.stderr.contains(&told), "{gone:?}");
    let told = format!("good: {b} gives {} at ", path.display());
    assert!(good.stdout.starts_with(&told), "{good:?}");
    let told = format!(
        "{of_other} is the replica of {}, and not of {}",
        other_path.display(),
        path.display()
    );
    assert!(foreign.stderr.contains(&told), "{foreign:?}");
    let told = "no database has a replica at file:///nowhere";
    assert!(nowhere.stderr.contains(told), "{nowhere:?}");
}

//! What goes wrong is told in words that help, with the right exit status, and leaves nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::live::{Live, sqlite};
use crate::replica::{Golden, Ran, finish, folder, names, replica, text};

/// Restores from `source` with `flags`, which must fail with `status` and tell `message`, and
/// leave nothing.
#[track_caller]
fn check(source: &str, flags: &[&str], status: i32, message: &str) {
    let folder = folder();
    let output = folder.path().join("restored.db");
    let mut args = vec!["restore", "-o", output.to_str().expect("a plain name")];
    args.extend(flags);
    args.push(source);

    let ran = replica(args).ended(status);

    assert_eq!(ran.stderr, format!("error: {message}\n"));
    assert_eq!(ran.stdout, "");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn an_unknown_scheme_is_told_with_the_known_ones() {
    for command in [
        &["restore", "-o", "x"][..],
        &["ltx"],
        &["ltx", "verify"],
        &["conformance"],
    ] {
        let ran = replica(command.iter().chain([&"ftp://me:hush@host/path"])).ended(2);

        assert_eq!(
            ran.stderr,
            "error: unknown scheme ftp://: write s3://bucket/prefix, sftp://user@host/path or \
             file:///path/to/replica, or the path of a folder\n"
        );
    }
}

#[test]
fn a_scheme_without_a_client_is_told_as_such() {
    for scheme in ["gs", "webdavs"] {
        check(
            &format!("{scheme}://me:hush@bucket/path?secret=hush"),
            &[],
            2,
            &format!(
                "there is no client for {scheme}:// yet: write s3://bucket/prefix, \
                 sftp://user@host/path or file:///path/to/replica, or the path of a folder"
            ),
        );
    }
}

#[test]
fn a_place_without_a_replica_is_no_empty_success() {
    let folder = folder();
    let root = folder.path().display();
    fs::create_dir(folder.path().join("empty")).unwrap();
    fs::create_dir_all(folder.path().join("bare/ltx/0")).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();

    for (name, why) in [
        ("nothing", "the folder does not exist"),
        ("empty", "the folder has no ltx folder"),
        ("bare", "it has no files"),
    ] {
        let message = format!("no replica at file://{root}/{name}: {why}");

        check(&format!("file://{root}/{name}"), &[], 3, &message);
        check(&format!("{root}/{name}"), &[], 3, &message);
        check(&format!("{root}/{name}"), &["-dry-run"], 3, &message);
        check(
            &format!("{root}/{name}"),
            &["-txid", "0000000000000001"],
            3,
            &message,
        );
        check(
            &format!("{root}/{name}"),
            &["-timestamp", "2026-11-21T00:00:00Z"],
            3,
            &message,
        );
    }
    check(
        &format!("{root}/file"),
        &[],
        3,
        &format!("no replica at file://{root}/file: it is a file, not a folder"),
    );
}

#[test]
fn listing_and_verifying_a_place_without_a_replica_fails() {
    for command in [&["ltx"][..], &["ltx", "-json"], &["ltx", "verify"]] {
        let ran = replica(command.iter().chain([&"/nowhere/at/all"])).ended(3);

        assert_eq!(ran.stdout, "");
        assert!(
            ran.stderr
                .contains("no replica at file:///nowhere/at/all: the folder does not exist"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn the_folder_that_litestream_made_of_an_encoded_url_is_pointed_to() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("my%20app/ltx")).unwrap();
    let root = folder.path().display();

    let ran = replica(["ltx", &format!("file://{root}/my%20app")]).ended(3);

    assert_eq!(
        ran.stderr,
        format!(
            "error: no replica at file://{root}/my%20app: the folder does not exist\n  hint: \
             Litestream does not decode a URL, and has written to {root}/my%20app: give that path \
             without file://\n"
        )
    );
}

#[test]
fn the_ltx_folder_and_a_file_in_it_are_recognised() {
    let golden = Golden::copy("ps512");
    let file = golden.file(0, "0000000000000001-0000000000000001.ltx");
    let ltx = golden.root().join("ltx");

    for (path, hint) in [
        (&ltx, "give the folder that holds the ltx folder".to_owned()),
        (&file, format!("replica ltx inspect {}", file.display())),
    ] {
        let ran = replica(["ltx".as_ref(), path.as_os_str()]).ended(3);

        assert!(
            ran.stderr.ends_with(&format!("  hint: {hint}\n")),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_malformed_transaction_or_time_is_a_wrong_call() {
    for (flags, told) in [
        (
            ["-txid", "0000000000000000"],
            "invalid value '0000000000000000' for '--txid <TXID>': a transaction id is 16 hex \
             digits and not zero, such as 000000000000001f",
        ),
        (
            ["-txid", "0"],
            "a transaction id is 16 hex digits and not zero",
        ),
        (
            ["-txid", "1f"],
            "a transaction id is 16 hex digits and not zero",
        ),
        (
            ["-txid", "zzzzzzzzzzzzzzzz"],
            "a transaction id is 16 hex digits and not zero",
        ),
        (
            ["-timestamp", "yesterday"],
            "\"yesterday\" is not a time: write it as RFC 3339",
        ),
        (
            ["-timestamp", "2026-11-21"],
            "\"2026-11-21\" is not a time: write it as RFC 3339",
        ),
    ] {
        let ran = replica([&["restore", "-o", "x", "y"][..], &flags].concat()).ended(2);

        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
}

#[test]
fn what_the_replica_does_not_reach_is_told_with_what_it_has() {
    let golden = Golden::copy("ps4096");
    let url = golden.url();

    check(
        &url,
        &["-txid", "000000000000001a"],
        1,
        "transaction 000000000000001a is beyond the end of the replica: its last one is \
         0000000000000019",
    );
    for flags in [
        ["-timestamp", "2020-01-01T00:00:00Z"],
        ["-timestamp", "2100-01-01T00:00:00Z"],
    ] {
        let output = golden.beside("restored.db");
        let args = [
            "restore",
            "-o",
            output.to_str().unwrap(),
            flags[0],
            flags[1],
            &url,
        ];

        let ran = replica(args).ended(1);

        assert!(ran.stderr.contains(flags[1]), "{}", ran.stderr);
        assert!(!output.exists());
    }
}

#[test]
fn an_upper_case_transaction_is_taken_as_litestream_takes_it() {
    let golden = Golden::copy("ps512");
    let output = golden.beside("restored.db");

    let args = [
        "restore",
        "-o",
        output.to_str().unwrap(),
        "-txid",
        "000000000000000A",
    ];
    let ran = replica([&args[..], &[&golden.url()]].concat()).ended(0);

    assert!(ran.stdout.contains("000000000000000a"), "{}", ran.stdout);
}

#[test]
fn an_existing_target_is_left_alone() {
    let golden = Golden::copy("ps512");
    let output = golden.beside("app.db");
    fs::write(&output, "precious").unwrap();

    let ran = replica(["restore", "-o", output.to_str().unwrap(), &golden.url()]).ended(1);

    assert_eq!(
        ran.stderr,
        format!(
            "error: {} exists already: restore to another path, or ask for it to be replaced\n  \
             hint: -force replaces it\n",
            output.display()
        )
    );
    assert_eq!(fs::read(&output).unwrap(), b"precious");
}

#[test]
fn a_target_folder_that_can_not_be_written_is_told() {
    let golden = Golden::copy("ps512");
    fs::write(golden.beside("file"), "").unwrap();

    for (output, told) in [
        (
            golden.beside("none/app.db"),
            "it does not exist, so make it first",
        ),
        (golden.beside("file/app.db"), "it is not a folder"),
    ] {
        let ran = replica(["restore", "-o", output.to_str().unwrap(), &golden.url()]).ended(1);

        let folder = output.parent().unwrap().display();
        let message = format!("error: can't write in {folder}: {told}\n");
        assert!(ran.stderr.starts_with(&message), "{}", ran.stderr);
    }
}

#[test]
fn a_target_folder_without_permission_is_told() {
    let golden = Golden::copy("ps512");
    let folder = golden.beside("locked");
    fs::create_dir(&folder).unwrap();
    open_to_all(&golden);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let output = folder.join("app.db");

    let ran = as_nobody(
        &golden.beside("replica-command"),
        &["restore", "-o", output.to_str().unwrap(), &golden.url()],
    )
    .ended(1);

    let message = format!(
        "error: can't write in {}: permission denied\n",
        folder.display()
    );
    assert!(ran.stderr.starts_with(&message), "{}", ran.stderr);
}

#[test]
fn a_file_of_the_replica_without_permission_is_told() {
    let golden = Golden::copy("ps512");
    open_to_all(&golden);
    let file = golden.file(0, "0000000000000001-0000000000000001.ltx");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let output = golden.beside("open/app.db");
    fs::create_dir(golden.beside("open")).unwrap();
    fs::set_permissions(golden.beside("open"), fs::Permissions::from_mode(0o777)).unwrap();

    let ran = as_nobody(
        &golden.beside("replica-command"),
        &["restore", "-o", output.to_str().unwrap(), &golden.url()],
    )
    .ended(1);

    assert!(
        ran.stderr
            .contains("0/0000000000000001-0000000000000001.ltx"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.to_lowercase().contains("permission denied"),
        "{}",
        ran.stderr
    );
}

/// A limit on the size of files stands in for the full disk, which needs a file system of its own
/// (the stage with real programs has one): the write fails part of the way in both.
#[test]
fn a_database_that_does_not_fit_leaves_nothing() {
    let golden = Golden::copy("ps65536");
    let output = golden.beside("out/app.db");
    fs::create_dir(golden.beside("out")).unwrap();
    let program = env!("CARGO_BIN_EXE_replica");
    let script = "trap '' XFSZ; ulimit -f 100; exec \"$0\" restore -o \"$1\" \"$2\"";

    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        script,
        program,
        output.to_str().unwrap(),
        &golden.url(),
    ]);
    shell.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ran = finish(shell.spawn().unwrap()).ended(1);

    assert!(
        ran.stderr.starts_with("error: could not "),
        "{}",
        ran.stderr
    );
    assert!(ran.stderr.contains("File too large"), "{}", ran.stderr);
    assert_eq!(names(&golden.beside("out")), [""; 0]);
}

#[test]
fn a_file_of_another_page_size_is_named() {
    let golden = Golden::copy("ps4096");
    let other = Golden::copy("ps512");
    let name = "0000000000000005-0000000000000005.ltx";
    for level in [1, 2, 9] {
        fs::remove_dir_all(golden.root().join("ltx").join(level.to_string())).unwrap();
    }
    fs::copy(other.file(0, name), golden.file(0, name)).unwrap();

    let output = golden.beside("app.db");
    let ran = replica(["restore", "-o", output.to_str().unwrap(), &golden.url()]).ended(1);

    assert!(
        ran.stderr
            .contains(&format!("0/{name}: its database has pages of 512")),
        "{}",
        ran.stderr
    );
    assert!(!output.exists());
}

#[test]
fn a_damaged_file_is_named_and_there_is_no_database() {
    let golden = Golden::copy("ps512");
    let name = "0000000000000007-0000000000000007.ltx";
    let mut bytes = fs::read(golden.file(0, name)).unwrap();
    bytes[200] ^= 1;
    fs::write(golden.file(0, name), bytes).unwrap();
    let output = golden.beside("app.db");

    let ran = replica(["restore", "-o", output.to_str().unwrap(), &golden.url()]).ended(1);

    assert!(
        ran.stderr.contains(&format!("0/{name}: ")),
        "{}",
        ran.stderr
    );
    assert!(!output.exists());
}

#[test]
fn a_target_is_needed() {
    let ran = replica(["restore", "file:///backups/app"]).ended(2);

    assert_eq!(
        ran.stderr,
        "error: -o is needed: nothing else says where to write the database\n  hint: replica \
         restore -o /path/to/db file:///backups/app\n"
    );
}

#[test]
fn with_json_an_error_is_one_json_object_on_stderr() {
    let ran = replica(["restore", "-json", "-o", "x", "/nowhere/at/all"]).ended(3);

    let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(
        error,
        json!({ "error": {
            "message": "no replica at file:///nowhere/at/all: the folder does not exist",
            "causes": [],
            "hint": null,
            "exit_status": 3,
        }})
    );
    assert_eq!(ran.stdout, "");
}

/// A wrong call was told as text, although every error was promised as JSON.
#[test]
fn with_json_a_wrong_call_is_one_json_object_too() {
    for args in [
        &["restore", "-json", "-txid", "1f", "-o", "x", "y"][..],
        &["ltx", "-json", "-level", "10", "y"],
        &["ltx", "verify", "--json"],
        &["conformance", "-json=true", "-no-such-flag"],
    ] {
        let ran = replica(args).ended(2);

        let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(error["error"]["exit_status"], 2, "{args:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{args:?}");
        assert_eq!(ran.stdout, "");
    }
    let text = replica(["ltx", "verify"]).ended(2);
    let value = replica(["ltx", "verify", "-nonsense", "--", "-json"]).ended(2);
    assert!(text.stderr.starts_with("error: "), "{}", text.stderr);
    assert!(value.stderr.starts_with("error: "), "{}", value.stderr);
}

/// To verify an empty replica ended with 1, as if it were bad, where to restore it ended with 3.
#[test]
fn a_replica_without_files_is_nothing_to_verify() {
    let folder = folder();
    fs::create_dir_all(folder.path().join("ltx")).unwrap();
    let root = folder.path().to_str().unwrap();

    let ran = replica(["ltx", "verify", root]).ended(3);

    let message = format!("error: no replica at file://{root}: it has no files\n");
    assert!(ran.stderr.ends_with(&message), "{}", ran.stderr);
}

/// To inspect a pipe waited for ever for somebody to write to it, deaf to signals.
#[test]
fn what_is_no_regular_file_is_refused_before_it_is_opened() {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());

    for command in ["inspect", "verify"] {
        let ran = replica(["ltx", command, pipe.to_str().unwrap()]).ended(1);

        let message = format!("error: {} is not a regular file\n", pipe.display());
        assert_eq!(ran.stderr, message);
    }
}

/// All files below a folder, with what they hold.
fn contents(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be read") {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                found.push((path.clone(), None));
                folders.push(path);
            } else {
                let content = fs::read(&path).expect("a file can be read");
                found.push((path, Some(content)));
            }
        }
    }
    found.sort();
    found
}

/// Each command with what it can't work on: how it ends, and the words that it tells.
#[test]
fn whatever_is_wrong_is_told_and_nothing_is_changed() {
    let live = Live::new();
    live.insert(3);
    let source = live.beside("source");
    let source = format!("file://{}", source.display());
    replica(["replicate", "-once", text(&live.path()), &source]).ended(0);
    let place = folder();
    let at = |name: &str| place.path().join(name);
    fs::write(at("text"), "This is no database, but a text.".repeat(200)).expect("a file");
    let noise = (0..8192_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8);
    fs::write(at("encrypted"), noise.collect::<Vec<_>>()).expect("a file");
    fs::write(at("empty"), "").expect("a file");
    fs::create_dir(at("folder")).expect("a folder");
    fs::write(at("file"), "in the way").expect("a file");
    sqlite(&at("app.db"), "CREATE TABLE t(a)");
    let [text_, encrypted, empty, folder_, app, file] =
        ["text", "encrypted", "empty", "folder", "app.db", "file"].map(at);
    let [text_, encrypted, empty, folder_, app, file] =
        [&text_, &encrypted, &empty, &folder_, &app, &file].map(|path| text(path));
    let output = at("restored.db");
    let output = text(&output);
    let replica_below_a_file = format!("{file}/replica");
    let new = at("new");
    let new = text(&new);
    let before = contents(place.path());

    let no_database = "is not a SQLite database, or it is encrypted";
    for (args, status, told) in [
        (&["replicate", text_, new][..], 1, no_database),
        (&["replicate", encrypted, new], 1, no_database),
        (&["replicate", folder_, new], 2, "is not a regular file"),
        (&["replicate", app, file], 2, "is not a folder"),
        (
            &["replicate", app, &replica_below_a_file],
            2,
            "is not a folder",
        ),
        (
            &["replicate", app, "s4://bucket/app"],
            2,
            "unknown scheme s4://",
        ),
        (&["replicate", app, "s3://"], 2, "s3://"),
        (&["replicate", "-once", text_, new], 1, no_database),
        (&["replicate", "-once", encrypted, new], 1, no_database),
        (
            &["replicate", "-once", folder_, new],
            2,
            "is not a regular file",
        ),
        (&["replicate", "-once", app, file], 2, "is not a folder"),
        (&["verify", text_, &source], 4, no_database),
        (&["verify", encrypted, &source], 4, no_database),
        (&["verify", folder_, &source], 4, folder_),
        (&["verify", empty, &source], 4, empty),
        (&["verify", app, file], 3, "it is a file, not a folder"),
        (&["verify", app, folder_], 3, "the folder has no ltx folder"),
        (
            &["verify", app, "s4://bucket/app"],
            2,
            "unknown scheme s4://",
        ),
        (&["status", text_], 3, "it is a file, not a folder"),
        (&["status", folder_], 3, "the folder has no ltx folder"),
        (&["status", app], 2, "is a SQLite database, not a replica"),
        (&["status", "s4://bucket/app"], 2, "unknown scheme s4://"),
        (&["snapshot", file], 3, "it is a file, not a folder"),
        (&["snapshot", folder_], 3, "the folder has no ltx folder"),
        (&["snapshot", app], 2, "is a SQLite database, not a replica"),
        (&["snapshot", "s4://bucket/app"], 2, "unknown scheme s4://"),
        (
            &["compact", "-level", "1", file],
            3,
            "it is a file, not a folder",
        ),
        (
            &["compact", "-level", "1", folder_],
            3,
            "the folder has no ltx folder",
        ),
        (
            &["compact", "-level", "1", app],
            2,
            "is a SQLite database, not a replica",
        ),
        (
            &["compact", "-level", "1", "s4://b/app"],
            2,
            "unknown scheme s4://",
        ),
        (
            &["compact", "-level", "9", &source],
            2,
            "a snapshot is made by replica snapshot",
        ),
        (
            &["restore", "-o", output, file],
            3,
            "it is a file, not a folder",
        ),
        (
            &["restore", "-o", output, folder_],
            3,
            "the folder has no ltx folder",
        ),
        (
            &["restore", "-o", output, app],
            2,
            "is a SQLite database, not a replica",
        ),
        (
            &["restore", "-o", output, "s4://b/app"],
            2,
            "unknown scheme s4://",
        ),
        (&["restore", "-o", folder_, &source], 1, folder_),
        (
            &["restore", "-o", &replica_below_a_file, &source],
            1,
            "it is not a folder",
        ),
    ] {
        let ran = replica(args);

        assert_eq!(ran.status, Some(status), "{args:?}: {ran:#?}");
        assert!(ran.stderr.starts_with("error: "), "{args:?}: {ran:#?}");
        assert!(ran.stderr.contains(told), "{args:?}: {ran:#?}");
        assert_eq!(ran.stdout, "", "{args:?}");
        let changed = contents(place.path()) != before;
        assert!(!changed, "{args:?} has changed {:?}", names(place.path()));
    }
}

/// Where a store takes no new files, as on a disk that is mounted to be read, nothing is stored and
/// nothing is lost.
#[test]
fn a_replica_that_can_not_be_written_is_told_by_whatever_writes_to_it() {
    let live = Live::new();
    live.insert(3);
    replica(live.plain_args(&["-once"])).ended(0);
    live.insert(3);
    replica(live.plain_args(&["-once"])).ended(0);
    let closed = live.beside("replica");
    open_tree(&live.beside(""));
    for level in ["0", "9"] {
        let folder = closed.join("ltx").join(level);
        fs::set_permissions(folder, Permissions::from_mode(0o555)).expect("a mode can be set");
    }
    fs::set_permissions(closed.join("ltx"), Permissions::from_mode(0o555))
        .expect("a mode can be set");
    let before = contents(&closed);
    let url = live.url();
    let open = folder();
    fs::set_permissions(open.path(), Permissions::from_mode(0o777)).expect("a mode can be set");

    for args in [&["snapshot", &url][..], &["compact", "-level", "1", &url]] {
        let ran = as_nobody(&open.path().join("program"), args).ended(1);

        let message = format!("error: can't put the files of {url} together\n  cause: ");
        assert!(ran.stderr.starts_with(&message), "{ran:#?}");
        assert!(
            ran.stderr.to_lowercase().contains("permission denied"),
            "{ran:#?}"
        );
        assert!(
            contents(&closed) == before,
            "{args:?} has changed the replica"
        );
    }
}

/// Runs the command as a user who is not root, for whom permissions count: from a copy at
/// `program`, because the original may be where nobody else can go.
pub(crate) fn as_nobody(program: &Path, args: &[&str]) -> Ran {
    // Another process copies it. If this one did, a child that another test forks meanwhile would
    // hold the copy open for writing, and the system refuses to run such a file.
    let copied = Command::new("cp")
        .args([Path::new(env!("CARGO_BIN_EXE_replica")), program])
        .status()
        .expect("cp should start");
    assert!(copied.success());
    let mut command = Command::new(program);
    command
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if fs::metadata("/proc/self")
        .expect("this process is there")
        .uid()
        == 0
    {
        command.uid(65534).gid(65534);
    }
    finish(command.spawn().expect("the command should start"))
}

/// Lets any user read the replica.
fn open_to_all(golden: &Golden) {
    let root = golden.root();
    let above = root.parent().expect("it is below a temporary folder");
    open_tree(above);
}

pub(crate) fn open_tree(path: &Path) {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a copy can be opened");
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder can be read") {
            open_tree(&entry.expect("a folder can be read").path());
        }
    }
}

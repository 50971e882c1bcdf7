//! `replica restore`.

use std::fs;

use serde_json::json;

use crate::live::Live;
use crate::replica::{Golden, folder, names, replica, snapshot_of_zeros, text};

#[test]
fn a_dry_run_gives_litestreams_plan_and_writes_nothing() {
    let golden = Golden::copy("ps4096");
    let url = golden.url();
    let args = [
        "restore",
        "-dry-run",
        "-txid",
        "0000000000000005",
        "-o",
        "none/app.db",
        &url,
    ];

    let text = replica(args).ended(0);
    let json = replica(args.iter().chain(&["-json"])).ended(0);

    // As Litestream 0.5.17 prints it.
    let file = |level: u8, min: u64, max: u64, size: u64, time: &str| {
        json!({
            "level": level,
            "name": format!("{min:016x}-{max:016x}.ltx"),
            "min_txid": format!("{min:016x}"),
            "max_txid": format!("{max:016x}"),
            "size": size,
            "timestamp": time,
        })
    };
    assert_eq!(
        json.json(),
        json!({
            "source": url,
            "target_path": "none/app.db",
            "replica": "file",
            "min_txid": "0000000000000001",
            "max_txid": "0000000000000005",
            "files": [
                file(9, 1, 1, 23091, "2026-11-21T07:44:14Z"),
                file(2, 1, 3, 23358, "2026-11-21T07:44:15Z"),
                file(0, 4, 4, 9727, "2026-11-21T07:44:16Z"),
                file(0, 5, 5, 9539, "2026-11-21T07:44:17Z"),
            ],
        })
    );
    assert_eq!(
        text.stdout,
        format!(
            "Restore plan:\n  source: {url}\n  target: none/app.db\n  replica: file\n  txid \
             range: 0000000000000001 - 0000000000000005\n\nFiles to fetch:\n\
             level  file                                   min_txid          max_txid          \
             size   timestamp\n\
             9      0000000000000001-0000000000000001.ltx  0000000000000001  0000000000000001  \
             23091  2026-11-21T07:44:14Z\n\
             2      0000000000000001-0000000000000003.ltx  0000000000000001  0000000000000003  \
             23358  2026-11-21T07:44:15Z\n\
             0      0000000000000004-0000000000000004.ltx  0000000000000004  0000000000000004  \
             9727   2026-11-21T07:44:16Z\n\
             0      0000000000000005-0000000000000005.ltx  0000000000000005  0000000000000005  \
             9539   2026-11-21T07:44:17Z\n"
        )
    );
}

/// A time that lies between two milliseconds was rounded down, and only what is older than the
/// millisecond was restored: at 11.4630005 s it lacked the transaction of 11.463 s, which
/// Litestream restores.
#[test]
fn a_time_finer_than_a_millisecond_takes_in_what_is_older_than_it() {
    let golden = Golden::copy("ps512");
    let url = golden.url();
    let plan = |time: &str| {
        let args = ["restore", "-json", "-dry-run", "-o", "none/app.db"];
        replica([&args[..], &["-timestamp", time, &url]].concat())
    };

    // As Litestream 0.5.17 plans them, and refuses the last.
    for (time, txid) in [
        ("2026-11-21T07:44:11.463Z", "0000000000000004"),
        ("2026-11-21T07:44:11.463000001Z", "0000000000000005"),
        ("2026-11-21T07:44:11.4630005Z", "0000000000000005"),
        ("2026-11-21T07:44:12.037Z", "000000000000000e"),
    ] {
        assert_eq!(plan(time).ended(0).json()["max_txid"], txid, "{time}");
    }
    let beyond = plan("2026-11-21T07:44:12.0375Z").ended(1);

    assert!(
        beyond
            .stderr
            .contains("the replica ends at 2026-11-21T07:44:12.037Z"),
        "{}",
        beyond.stderr
    );
}

#[test]
fn the_json_of_a_restore_has_litestreams_fields() {
    let golden = Golden::copy("ps512");
    let output = golden.beside("app.db");
    let output = output.to_str().unwrap();

    let args = [
        "restore",
        "-json",
        "-integrity-check",
        "full",
        "-o",
        output,
        &golden.url(),
    ];
    let report = replica(args).ended(0).json();

    assert_eq!(report["db_path"], output);
    assert_eq!(report["replica"], "file");
    assert_eq!(report["txid"], "000000000000000f");
    assert_eq!(report["integrity_check"], "full");
    assert!(report["duration_ms"].is_u64());
    assert_eq!(report["size"], golden.facts["latest"]["size"]);
}

#[test]
fn a_restore_says_what_it_restored_and_shows_no_bar_in_a_pipe() {
    let golden = Golden::copy("ps512");
    let output = golden.beside("app.db");

    let ran = replica([
        "restore",
        golden.url().as_str(),
        "-o",
        output.to_str().unwrap(),
    ])
    .ended(0);

    assert!(
        ran.stdout.starts_with(&format!(
            "restored {} to transaction 000000000000000f of 2026-11-21T07:44:",
            output.display()
        )),
        "{}",
        ran.stdout
    );
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_damaged_file_is_made_up_for_and_told() {
    let golden = Golden::copy("ps4096");
    let snapshot = "0000000000000001-0000000000000019.ltx";
    let mut bytes = fs::read(golden.file(9, snapshot)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(golden.file(9, snapshot), bytes).unwrap();
    let output = golden.beside("app.db");

    let ran = replica(["restore", "-o", output.to_str().unwrap(), &golden.url()]).ended(0);

    assert_eq!(
        crate::replica::sha256(&output),
        golden.facts["latest"]["sha256"]
    );
    assert!(
        ran.stderr.starts_with(&format!("warning: 9/{snapshot}: ")),
        "{}",
        ran.stderr
    );
}

#[test]
fn an_existing_database_is_a_success_only_when_asked_for() {
    let golden = Golden::copy("ps512");
    let output = golden.beside("app.db");
    fs::write(&output, "precious").unwrap();
    let url = golden.url();
    let args = ["restore", "-o", output.to_str().unwrap(), &url];

    replica(args).ended(1);
    let skipped = replica(args.iter().chain(&["-if-db-not-exists"])).ended(0);
    let nowhere = [
        "-if-db-not-exists",
        "-o",
        output.to_str().unwrap(),
        "/nowhere/at/all",
    ];
    replica(["restore"].iter().chain(&nowhere)).ended(0);

    assert!(
        skipped
            .stderr
            .ends_with("app.db exists already: nothing to do\n")
    );
    assert_eq!(fs::read(&output).unwrap(), b"precious");
    assert_eq!(
        names(golden.root().parent().unwrap()),
        ["app.db", "replica"]
    );
}

#[test]
fn a_missing_replica_is_a_success_only_when_asked_for() {
    let golden = Golden::copy("ps512");
    let output = golden.beside("app.db");
    let bare = golden.beside("bare");
    fs::create_dir_all(bare.join("ltx")).unwrap();

    for place in ["/nowhere/at/all", bare.to_str().unwrap()] {
        let args = ["restore", "-o", output.to_str().unwrap(), place];
        replica(args).ended(3);
        let ran = replica(args.iter().chain(&["-if-replica-exists"])).ended(0);

        assert!(
            ran.stderr.contains("there is no replica at file://"),
            "{}",
            ran.stderr
        );
        assert!(!output.exists());
    }
}

#[test]
fn if_replica_exists_excuses_nothing_else() {
    let golden = Golden::copy("ps512");
    let output = golden.beside("app.db");

    let txid = ["-if-replica-exists", "-txid", "00000000000000ff"];
    let args = ["restore", "-o", output.to_str().unwrap(), &golden.url()];
    replica([&args[..], &txid].concat()).ended(1);
}

#[test]
fn force_replaces_a_database_and_what_sqlite_keeps_beside_it() {
    let golden = Golden::copy("ps512");
    let output = golden.beside("app.db");
    for suffix in ["", "-wal", "-shm"] {
        fs::write(golden.beside(&format!("app.db{suffix}")), "old").unwrap();
    }

    replica([
        "restore",
        "-force",
        "-o",
        output.to_str().unwrap(),
        &golden.url(),
    ])
    .ended(0);

    assert_eq!(
        crate::replica::sha256(&output),
        golden.facts["latest"]["sha256"]
    );
    assert_eq!(
        names(golden.root().parent().unwrap()),
        ["app.db", "replica"]
    );
}

#[test]
fn the_configuration_says_where_the_database_goes() {
    let golden = Golden::copy("ps512");
    let config = golden.beside("litestream.yml");
    let database = golden.beside("app.db");
    fs::write(
        &config,
        format!(
            "dbs: [{{path: '{}', replica: {{url: '{}'}}}}]",
            database.display(),
            golden.url()
        ),
    )
    .unwrap();

    let (config, path) = (config.to_str().unwrap(), database.to_str().unwrap());
    replica(["restore", "-config", config, path]).ended(0);

    assert_eq!(
        crate::replica::sha256(&database),
        golden.facts["latest"]["sha256"]
    );
}

#[test]
fn sqlite_checks_the_database_when_asked_to() {
    let folder = folder();
    snapshot_of_zeros(&folder.path().join("replica"), 3);
    let (url, output) = (folder.path().join("replica"), folder.path().join("app.db"));
    let args = [
        "restore",
        url.to_str().unwrap(),
        "-o",
        output.to_str().unwrap(),
    ];

    for mode in ["quick", "full"] {
        replica(args.iter().chain(&["-integrity-check", mode])).ended(1);
        assert_eq!(names(folder.path()), ["replica"]);
    }
    replica(args.iter().chain(&["-integrity-check", "none"])).ended(0);
}

/// The application went on with a file that had no name any more, and lost what it wrote.
#[test]
fn force_leaves_a_database_alone_that_an_application_has_open() {
    let live = Live::new();
    replica(live.plain_args(&["-once"])).ended(0);
    let (path, url) = (live.path(), live.url());

    let ran = replica(["restore", "-force", "-o", text(&path), &url]).ended(1);

    let told = format!("{} is open in an application", path.display());
    assert!(ran.stderr.contains(&told), "{ran:?}");
    live.insert(1);
    assert_eq!(live.rows().len(), 2);
    let left: Vec<String> = names(&live.beside(""));
    assert!(
        !left.iter().any(|name| name.contains("restore")),
        "{left:?}"
    );
}

#[test]
fn a_state_that_is_lost_is_told_with_the_newest_one_that_is_not() {
    let live = Live::new();
    for _ in 0..2 {
        live.insert(1);
        replica(live.plain_args(&["-once"])).ended(0);
    }
    let level = live.beside("replica/ltx/0");
    let last = level.join(names(&level).pop().expect("there is a file"));
    let bytes = fs::read(&last).expect("it can be read");
    fs::write(&last, &bytes[..bytes.len() / 2]).expect("it can be written");
    let (output, url) = (live.beside("restored.db"), live.url());
    let restore = |more: &[&str]| {
        let args = ["restore", "-o", text(&output), &url];
        replica(args.iter().chain(more))
    };

    let lost = restore(&[]).ended(1);
    let hint = lost
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("  hint: "));
    let txid = hint
        .and_then(|hint| hint.split(' ').nth(1))
        .unwrap_or_default();
    let found = restore(&["-txid", txid]);
    let verified = replica(["ltx", "verify", &url]).ended(1);

    assert_eq!(
        hint,
        Some(&*format!(
            "-txid {txid} restores the newest state that the other files give"
        ))
    );
    found.ended(0);
    let told = format!("the last one that the sound files give is that after transaction {txid}");
    assert!(verified.stdout.contains(&told), "{verified:?}");
}

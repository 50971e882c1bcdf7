//! `replica ltx`, `ltx inspect` and `ltx verify`.

use std::fs;
use std::io::{BufRead, BufReader};

use serde_json::json;

use crate::replica::{Golden, command, finish, replica, replica_unread};

const FIRST: &str = "0000000000000001-0000000000000001.ltx";

#[test]
fn level_0_is_listed_unless_another_is_asked_for() {
    let golden = Golden::copy("ps4096");
    let wanted = golden.facts["ltx"].as_array().unwrap();
    let of_level = |level: i64| {
        let files = wanted.iter().filter(move |file| file["level"] == level);
        files.cloned().collect::<Vec<_>>()
    };

    let url = golden.url();
    for (args, level) in [
        (&["-json"][..], 0),
        (&["-json", "-level", "9"], 9),
        (&["-json", "--level=1"], 1),
        (&["-json", "-level=5"], 5),
    ] {
        let ran = replica([&["ltx"], args, &[&url]].concat()).ended(0);

        assert_eq!(ran.json(), json!(of_level(level)), "{args:?}");
    }
}

#[test]
fn a_level_without_files_is_an_empty_list() {
    let golden = Golden::copy("ps512");

    let json = replica(["ltx", "-json", "-level", "5", &golden.url()]).ended(0);
    let text = replica(["ltx", "-level", "5", &golden.url()]).ended(0);

    assert_eq!(json.stdout, "[]\n");
    assert_eq!(text.stdout, "level  min_txid  max_txid  size  created\n");
}

#[test]
fn flags_may_follow_the_replica() {
    let golden = Golden::copy("ps512");

    let before = replica(["ltx", "-level", "all", "-json", &golden.url()]).ended(0);
    let after = replica(["ltx", &golden.url(), "--json", "--level=all"]).ended(0);
    let path = golden.root();
    let path = replica(["ltx", path.to_str().unwrap(), "-json=1", "-level", "all"]).ended(0);

    assert_eq!(before.stdout, after.stdout);
    assert_eq!(before.stdout, path.stdout);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let golden = Golden::copy("ps512");
    let file = fs::read(golden.file(0, FIRST)).unwrap();
    for txid in 0x10..0x1000 {
        let name = format!("{txid:016x}-{txid:016x}.ltx");
        fs::write(golden.file(0, &name), &file[..100]).unwrap();
    }

    for args in [&["ltx"][..], &["ltx", "-json"]] {
        let mut child = command(args.iter().chain([&&*golden.url()]))
            .spawn()
            .unwrap();
        let mut reader = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        drop(reader);

        let ran = finish(child).ended(0);
        assert_eq!(ran.stderr, "");
    }
}

#[test]
fn a_configuration_names_the_replica() {
    let golden = Golden::copy("ps512");
    let config = golden.beside("litestream.yml");
    let database = golden.beside("app.db");
    fs::write(
        &config,
        format!(
            "secret-access-key: hush\ndbs:\n  - path: {}\n    replica:\n      type: file\n      path: \
             ${{REPLICA_ROOT}}\n  - path: /gs.db\n    replica:\n      url: gs://hush\n",
            database.display()
        ),
    )
    .unwrap();
    let (config, database) = (config.to_str().unwrap(), database.to_str().unwrap());

    let ran = finish(
        command(["ltx", "-json", "-level", "all", "-config", config, database])
            .env("REPLICA_ROOT", golden.root())
            .spawn()
            .unwrap(),
    );
    let default = finish(
        command(["ltx", "-json", "-level", "all", database])
            .env("REPLICA_ROOT", golden.root())
            .env("LITESTREAM_CONFIG", config)
            .spawn()
            .unwrap(),
    );
    assert_eq!(ran.ended(0).json(), golden.facts["ltx"]);
    assert_eq!(default.ended(0).json(), golden.facts["ltx"]);

    let unexpanded = replica(["ltx", "-no-expand-env", "-config", config, database]).ended(3);
    let unset = replica(["ltx", "-config", config, database]).ended(2);
    let refused = |replica: &str| {
        let mut command = command(["ltx", "-config", config, replica]);
        command.env("REPLICA_ROOT", "/nowhere");
        finish(command.spawn().expect("the command starts")).ended(2)
    };
    let other = refused("/other.db");
    let gs = refused("/gs.db");
    let url = refused(&golden.url());
    assert!(
        unexpanded.stderr.contains("REPLICA_ROOT"),
        "{}",
        unexpanded.stderr
    );
    assert!(
        unset
            .stderr
            .contains("line 6: an environment variable is not set"),
        "{}",
        unset.stderr
    );
    assert_eq!(
        other.stderr,
        format!("error: {config}: /other.db: the configuration has no such database\n")
    );
    assert!(
        gs.stderr.contains("there is no client for gs:// yet"),
        "{}",
        gs.stderr
    );
    assert!(!gs.stderr.contains("hush"), "{}", gs.stderr);
    assert!(url.stderr.contains("-config"), "{}", url.stderr);
}

#[test]
fn a_file_is_shown_with_what_it_holds() {
    let golden = Golden::copy("ps4096");
    let path = golden.file(0, FIRST);
    let size = fs::metadata(&path).unwrap().len();

    let text = replica(["ltx".as_ref(), "inspect".as_ref(), path.as_os_str()]).ended(0);
    let json = replica(["ltx", "inspect", "-pages", "-json", path.to_str().unwrap()]).ended(0);

    let json = json.json();
    assert_eq!(json["size"], size);
    assert_eq!(json["min_txid"], "0000000000000001");
    assert_eq!(json["max_txid"], "0000000000000001");
    assert_eq!(json["page_size"], 4096);
    assert_eq!(json["is_snapshot"], true);
    let pages = json["pages"].as_array().unwrap();
    assert_eq!(json["stored_pages"], pages.len());
    assert_eq!(json["database_pages"], pages.len());
    assert_eq!(pages[0]["page"], 1);
    assert_eq!(pages[0]["offset"], 100);
    assert!(
        text.stdout.contains("page size         4096\n"),
        "{}",
        text.stdout
    );
    assert!(!text.stdout.contains("offset"), "{}", text.stdout);
}

#[test]
fn the_pages_of_a_file_are_listed_when_asked_for() {
    let golden = Golden::copy("ps512");

    let file = golden.file(0, FIRST);
    let ran = replica(["ltx", "inspect", file.to_str().unwrap(), "-pages"]).ended(0);

    let first = ran
        .stdout
        .lines()
        .skip_while(|line| !line.starts_with("page  "))
        .nth(1);
    assert!(
        first.is_some_and(|line| line.starts_with("1           100 ")),
        "{}",
        ran.stdout
    );
}

#[test]
fn what_is_no_ltx_file_is_not_shown() {
    let golden = Golden::copy("ps512");
    let database = golden.beside("app.db");
    fs::write(&database, [b'x'; 4096]).unwrap();
    let nothing = golden.beside("nothing.ltx");
    let root = golden.root();

    for (path, told) in [
        (&database, "not an LTX file"),
        (&nothing, "No such file"),
        (&root, "is a folder, not an LTX file"),
    ] {
        let ran = replica(["ltx".as_ref(), "inspect".as_ref(), path.as_os_str()]).ended(1);

        assert!(
            ran.stderr.contains(path.to_str().unwrap()),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
}

#[test]
fn a_sound_replica_verifies_with_what_it_restores() {
    let golden = Golden::copy("ps4096");

    let ran = replica(["ltx", "verify", &golden.url()]).ended(0);

    assert!(ran.stdout.contains(": all sound\n"), "{}", ran.stdout);
    assert!(
        ran.stdout
            .contains("restorable from transaction 0000000000000001 of "),
        "{}",
        ran.stdout
    );
    assert!(
        ran.stdout.contains(" to transaction 0000000000000019 of "),
        "{}",
        ran.stdout
    );
}

#[test]
fn each_damaged_missing_and_overlapping_file_is_reported() {
    let golden = Golden::copy("ps512");
    let name = |min: u64, max: u64| format!("{min:016x}-{max:016x}.ltx");
    let damaged = golden.file(0, &name(3, 3));
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() - 20;
    bytes[middle] ^= 0x10;
    fs::write(&damaged, bytes).unwrap();
    fs::remove_file(golden.file(0, &name(7, 7))).unwrap();
    fs::create_dir_all(golden.root().join("ltx/1")).unwrap();
    fs::copy(golden.file(0, &name(1, 1)), golden.file(1, &name(1, 1))).unwrap();
    fs::copy(golden.file(0, &name(1, 1)), golden.file(1, &name(1, 2))).unwrap();

    let text = replica(["ltx", "verify", &golden.url()]).ended(1);
    let json = replica(["ltx", "verify", "-json", &golden.url()]).ended(1);

    let json = json.json();
    let found = |kind: &str, file: String| {
        let findings = json["findings"].as_array().unwrap();
        findings
            .iter()
            .any(|finding| finding["kind"] == kind && finding["file"] == file)
    };
    assert!(found("damaged", format!("0/{}", name(3, 3))), "{json:#}");
    assert!(found("missing", format!("0/{}", name(8, 8))), "{json:#}");
    assert!(found("overlap", format!("1/{}", name(1, 2))), "{json:#}");
    for finding in json["findings"].as_array().unwrap() {
        assert!(
            text.stdout.contains(finding["message"].as_str().unwrap()),
            "{}",
            text.stdout
        );
    }
}

#[test]
fn lost_times_are_told_and_are_no_damage() {
    let golden = Golden::without_times("ps512");

    let ran = replica(["ltx", "verify", &golden.url()]).ended(0);

    assert!(
        ran.stdout.contains("another time than their headers have"),
        "{}",
        ran.stdout
    );
}

#[test]
fn one_file_is_verified_by_its_path() {
    let golden = Golden::copy("ps512");
    let path = golden.file(0, FIRST);
    let verify = |json: bool| {
        let flag = if json { "-json" } else { "-json=false" };
        replica(["ltx", "verify", flag, path.to_str().unwrap()])
    };

    let sound = verify(false).ended(0);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let damaged = verify(false).ended(1);
    let json = verify(true).ended(1);

    assert!(sound.stdout.ends_with(": sound\n"), "{}", sound.stdout);
    assert!(
        damaged.stdout.contains(": file checksum "),
        "{}",
        damaged.stdout
    );
    assert_eq!(json.json()["findings"].as_array().unwrap().len(), 1);
}

#[test]
fn a_file_under_a_wrong_name_is_reported() {
    let golden = Golden::copy("ps512");
    let renamed = golden.beside("0000000000000002-0000000000000002.ltx");
    fs::copy(golden.file(0, FIRST), &renamed).unwrap();

    let ran = replica(["ltx", "verify", renamed.to_str().unwrap()]).ended(1);

    assert!(
        ran.stdout
            .contains("its header says that it is 0000000000000001-"),
        "{}",
        ran.stdout
    );
}

#[test]
fn damage_is_told_by_the_status_though_nobody_reads_stdout() {
    let golden = Golden::copy("ps512");
    let path = golden.file(0, FIRST);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();

    for json in ["-json=false", "-json"] {
        for what in [golden.url().as_str(), path.to_str().unwrap()] {
            let ran = replica_unread(["ltx", "verify", json, what]).ended(1);

            assert_eq!(ran.stderr, "");
        }
    }
}

#[test]
fn a_replica_called_inspect_is_reached_as_a_path() {
    let golden = Golden::copy("ps512");
    fs::rename(golden.root(), golden.beside("inspect")).unwrap();

    let mut command = command(["ltx", "-json", "-level", "all", "./inspect"]);
    command.current_dir(golden.root().parent().unwrap());
    let ran = finish(command.spawn().unwrap()).ended(0);

    assert_eq!(ran.json(), golden.facts["ltx"]);
}

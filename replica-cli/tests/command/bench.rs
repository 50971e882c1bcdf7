//! `replica bench`.

use std::fs;
use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::interruption::send;
use crate::replica::{Ran, finish, folder, names, replica};
use crate::stores::{Bucket, Sftp};

/// A little of everything.
const LITTLE: [&str; 9] = [
    "bench",
    "-size",
    "1",
    "-files",
    "3",
    "-file-size",
    "1",
    "-concurrency",
    "2",
];

#[test]
fn a_folder_is_measured_and_left_as_it_was() {
    let folder = folder();
    fs::write(folder.path().join("neighbour"), "here").expect("a file can be written");
    let path = folder.path().to_str().expect("a plain name");

    let ran = replica(LITTLE.iter().chain([&path])).ended(0);

    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[0], format!("file://{path}"));
    let heading = "operation files size time rate p50 p99 waiting";
    assert_eq!(words(lines[1]).join(" "), heading);
    let operations: Vec<_> = lines[2..].iter().map(|line| line[..11].trim()).collect();
    assert_eq!(
        operations,
        [
            "write one",
            "read one",
            "write many",
            "read many",
            "list",
            "list, exact",
            "delete"
        ]
    );
    for (line, size) in [
        (2, "1.0 MiB"),
        (3, "1.0 MiB"),
        (4, "3.0 KiB"),
        (5, "3.0 KiB"),
    ] {
        assert!(lines[line].contains(size), "{}", ran.stdout);
    }
    for line in [6, 7] {
        assert!(lines[line].ends_with(" %"), "{}", ran.stdout);
    }
    assert_eq!(ran.stderr, "");
    assert_eq!(names(folder.path()), ["neighbour"]);
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn a_bucket_and_a_server_are_measured_and_left_as_they_were() {
    let bucket = Bucket::empty();
    let folder = folder();
    let sftp = Sftp::of(folder.path());

    let of_bucket = bucket.run(LITTLE.iter().chain([&"-json", &&*bucket.url("bench")]));
    let of_server = sftp.run(LITTLE.iter().chain([&"-json", &&*sftp.url("/home")]));

    check(&of_bucket.ended(0), "s3");
    check(&of_server.ended(0), "sftp");
    assert_eq!(bucket.server.keys(), [""; 0]);
    assert!(bucket.server.requests("PutObject") >= 4);
    assert_eq!(names(&folder.path().join("home")), [""; 0]);
}

#[track_caller]
fn check(ran: &Ran, scheme: &str) {
    let report = ran.json();
    assert_eq!(report["replica"], scheme);
    assert_eq!(report["size"], 1 << 20);
    assert_eq!(report["file_size"], 1 << 10);
    let operations = report["operations"].as_array().expect("operations");
    let facts: Vec<_> = operations
        .iter()
        .map(|operation| {
            json!([
                operation["operation"],
                operation["files"],
                operation["bytes"]
            ])
        })
        .collect();
    assert_eq!(
        Value::from(facts),
        json!([
            ["write one", 1, 1 << 20],
            ["read one", 1, 1 << 20],
            ["write many", 3, 3 << 10],
            ["read many", 3, 3 << 10],
            ["list", 3, 0],
            ["list, exact", 3, 0],
            ["delete", 4, 0],
        ])
    );
    for operation in operations {
        let number = |name: &str| operation[name].as_f64();
        assert!(number("seconds") > Some(0.0), "{operation}");
        assert!(
            number("p50_seconds") <= number("p99_seconds"),
            "{operation}"
        );
        assert!(
            number("waiting_seconds") <= number("seconds"),
            "{operation}"
        );
    }
}

#[test]
fn an_interrupted_bench_leaves_nothing() {
    let bucket = Bucket::empty();
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    let many = ["bench", "-size", "1", "-files", "100000"];

    for (command, is_empty) in [
        (
            bucket.command(many.iter().chain([&&*bucket.url("bench")])),
            &(|| bucket.server.keys().is_empty()) as &dyn Fn() -> bool,
        ),
        (
            sftp.command(many.iter().chain([&&*sftp.url("/home")])),
            &|| names(&folder.path().join("home")).is_empty(),
        ),
    ] {
        let mut command = command;
        let mut child = command.spawn().expect("the command should start");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        // The small files are being written once the large one was read.
        for _ in 0..4 {
            stdout.read_line(&mut String::new()).expect("a line");
        }
        assert!(!is_empty());

        send("INT", child.id());

        let ran = finish(child).ended(130);
        assert_eq!(ran.stderr, "error: interrupted\n");
        assert!(is_empty());
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    sftp.server.fail_writes_after(500_000);
    sftp.server.set_free(0);

    let ran = sftp
        .run(LITTLE.iter().chain([&&*sftp.url("/home")]))
        .ended(1);

    for told in [
        "0000000000000001-0000000000000001.ltx",
        "no space is left on the server's file system",
    ] {
        assert!(ran.stderr.contains(told), "{told}: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains(sftp.server.password()), "{ran:?}");
    assert_eq!(names(&folder.path().join("home")), [""; 0]);
}

#[test]
fn a_place_that_is_everything_is_not_measured() {
    let bucket = Bucket::empty();
    let folder = folder();
    let sftp = Sftp::of(folder.path());

    let of_bucket = bucket.run(["bench", &bucket.url("")]).ended(2);
    let of_server = sftp.run(["bench", &sftp.url("/")]).ended(2);
    let of_files = replica(["bench", "/"]).ended(2);

    for (ran, told) in [
        (of_bucket, "is a whole bucket"),
        (of_server, "is the root of a server"),
        (of_files, "is the root of the file system"),
    ] {
        assert!(ran.stderr.contains(told), "{}", ran.stderr);
    }
}

//! Replicas in a bucket.

use std::fs;

use serde_json::Value;

use crate::replica::{Golden, folder, sha256, text};
use crate::stores::{Bucket, run};

#[test]
fn a_replica_in_a_bucket_restores_bit_for_bit() {
    let golden = Golden::copy("ps4096");
    let bucket = Bucket::holding(&golden);

    check(&golden, &bucket, &[], &golden.facts["latest"]);
    let of_txids = golden.facts["restore_txid"].as_object().expect("txids");
    for (txid, wanted) in of_txids.iter().take(3) {
        check(&golden, &bucket, &["-txid", txid], wanted);
    }
    let of_times = golden.facts["restore_timestamp"].as_object();
    for (time, wanted) in of_times.expect("times").iter().take(3) {
        check(&golden, &bucket, &["-timestamp", time], wanted);
    }
}

/// Restores with `flags` from `app`, and compares.
#[track_caller]
fn check(golden: &Golden, bucket: &Bucket, flags: &[&str], wanted: &Value) {
    let output = golden.beside("restored.db");
    let args = ["restore", "-force", "-o", text(&output), &bucket.url("app")];

    bucket.run([&args, flags].concat()).ended(0);

    assert_eq!(sha256(&output), wanted["sha256"], "{flags:?}");
}

#[test]
fn a_listing_of_a_bucket_is_litestreams() {
    let golden = Golden::copy("ps4096");
    let bucket = Bucket::holding(&golden);
    let args = ["ltx", "-level", "all", &bucket.url("app")];

    let text = bucket.run(args).ended(0);
    let json = bucket.run(args.iter().chain(&["-json"])).ended(0);

    let lines: Vec<_> = text.stdout.lines().collect();
    assert_eq!(Value::from(lines), golden.facts["ltx_text"]);
    assert_eq!(json.json(), golden.facts["ltx"]);
}

#[test]
fn a_replica_in_a_bucket_verifies() {
    let golden = Golden::copy("ps4096");
    let bucket = Bucket::holding(&golden);
    let url = bucket.url("app");

    let sound = bucket.run(["ltx", "verify", "-json", &url]).ended(0);
    bucket.server.remove(&bucket.server.keys()[3]);
    let bad = bucket.run(["ltx", "verify", &url]).ended(1);

    assert_eq!(sound.json()["findings"], Value::Array(Vec::new()));
    assert!(bad.stdout.contains("1 finding"), "{}", bad.stdout);
}

#[test]
fn parameters_of_a_url_are_followed() {
    let golden = Golden::copy("ps512");
    let bucket = Bucket::holding(&golden);
    let parameters = "&region=eu-central-1&force-path-style=true&sign-payload=true\
                      &part-size=5MiB&concurrency=2";
    let output = golden.beside("restored.db");
    let url = bucket.url("//./app/") + parameters;

    bucket.run(["restore", "-o", text(&output), &url]).ended(0);

    assert_eq!(sha256(&output), golden.facts["latest"]["sha256"]);
}

#[test]
fn a_configuration_names_a_bucket_and_its_keys() {
    let golden = Golden::copy("ps512");
    let bucket = Bucket::holding(&golden);
    let server = &bucket.server;
    let config = golden.beside("litestream.yml");
    let keys = format!(
        "access-key-id: {}\nsecret-access-key: {}\n",
        server.access_key(),
        server.secret_key()
    );
    let fields = format!(
        "dbs:\n  - path: /var/lib/app.db\n    replica:\n      type: s3\n      bucket: testbed\n      \
         path: app\n      endpoint: {}\n      force-path-style: true\n",
        server.endpoint()
    );
    let url = format!(
        "dbs:\n  - path: /var/lib/app.db\n    replicas:\n      - url: {}\n",
        bucket.url("app")
    );

    for text_of_config in [keys.clone() + &fields, keys + &url] {
        fs::write(&config, text_of_config).expect("a configuration can be written");
        let output = golden.beside("restored.db");
        let args = ["restore", "-force", "-o", text(&output), "-config"];
        let args = [&args[..], &[text(&config), "/var/lib/app.db"]].concat();

        run(crate::replica::command(args)).ended(0);

        assert_eq!(sha256(&output), golden.facts["latest"]["sha256"]);
    }
}

#[test]
fn a_prefix_without_a_replica_is_nothing() {
    let bucket = Bucket::holding(&Golden::copy("ps512"));
    let folder = folder();
    let output = folder.path().join("app.db");

    for (prefix, hint) in [
        ("typo", ""),
        ("app/000", ""),
        (
            "app/0000",
            "  hint: that is a level of a replica: give the place above it\n",
        ),
    ] {
        let url = bucket.url(prefix);
        for command in [
            &["restore", "-o", text(&output)][..],
            &["restore", "-dry-run", "-o", text(&output)],
            &["ltx"],
            &["ltx", "-level", "all"],
            &["ltx", "-level", "9"],
            &["ltx", "verify"],
        ] {
            let ran = bucket.run(command.iter().chain([&&*url])).ended(3);

            let message = format!("error: no replica at {url}: it has no files\n{hint}");
            assert_eq!(ran.stderr, message, "{command:?}");
            // A verification prints what it finds, and finds that nothing can be restored.
            assert!(
                ran.stdout.is_empty() || command.contains(&"verify"),
                "{ran:?}"
            );
        }
        let skipped = ["restore", "-if-replica-exists", "-o", text(&output), &url];
        bucket.run(skipped).ended(0);
        assert!(!output.exists());
    }
}

#[test]
fn a_bucket_is_proved_and_left_as_it_was() {
    let golden = Golden::copy("ps512");
    let bucket = Bucket::holding(&golden);
    let before = bucket.server.keys();

    let ran = bucket
        .run(["conformance", "-filter", "range::", &bucket.url("app")])
        .ended(0);

    assert!(
        ran.stdout.contains("kept the promises of all"),
        "{}",
        ran.stdout
    );
    assert_eq!(bucket.server.keys(), before);
}

#[test]
fn a_whole_bucket_is_not_worked_in() {
    let bucket = Bucket::empty();

    for url in [bucket.url(""), bucket.url("/a/..")] {
        let ran = bucket.run(["conformance", &url]).ended(2);

        assert!(ran.stderr.contains("is a whole bucket"), "{}", ran.stderr);
        assert_eq!(bucket.server.requests_in_all(), 0);
    }
}

//! Replicas on an SFTP server.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::replica::{Golden, folder, names, sha256, text};
use crate::stores::Sftp;

#[test]
fn a_replica_on_a_server_restores_bit_for_bit() {
    let golden = Golden::copy("ps4096");
    let sftp = Sftp::holding(&golden);

    check(&golden, &sftp, &[], &golden.facts["latest"]);
    let of_txids = golden.facts["restore_txid"].as_object().expect("txids");
    for (txid, wanted) in of_txids.iter().take(3) {
        check(&golden, &sftp, &["-txid", txid], wanted);
    }
    let of_times = golden.facts["restore_timestamp"].as_object();
    for (time, wanted) in of_times.expect("times").iter().take(3) {
        check(&golden, &sftp, &["-timestamp", time], wanted);
    }
}

/// Restores with `flags`, and compares.
#[track_caller]
fn check(golden: &Golden, sftp: &Sftp, flags: &[&str], wanted: &Value) {
    let output = golden.beside("restored.db");
    let url = sftp.url("/replica");
    let args = ["restore", "-force", "-o", text(&output), &url];

    sftp.run([&args, flags].concat()).ended(0);

    assert_eq!(sha256(&output), wanted["sha256"], "{flags:?}");
}

#[test]
fn a_listing_of_a_server_is_litestreams() {
    let golden = Golden::copy("ps4096");
    let sftp = Sftp::holding(&golden);
    let args = ["ltx", "-level", "all", &sftp.url("/replica")];

    let text = sftp.run(args).ended(0);
    let json = sftp.run(args.iter().chain(&["-json"])).ended(0);

    let lines: Vec<_> = text.stdout.lines().collect();
    assert_eq!(Value::from(lines), golden.facts["ltx_text"]);
    assert_eq!(json.json(), golden.facts["ltx"]);
}

#[test]
fn a_replica_on_a_server_verifies() {
    let golden = Golden::copy("ps4096");
    let sftp = Sftp::holding(&golden);
    let url = sftp.url("/replica");

    let sound = sftp.run(["ltx", "verify", "-json", &url]).ended(0);
    fs::remove_file(golden.file(0, "0000000000000005-0000000000000005.ltx"))
        .expect("a file can be removed");
    let bad = sftp.run(["ltx", "verify", &url]).ended(1);

    assert_eq!(sound.json()["findings"], Value::Array(Vec::new()));
    assert!(bad.stdout.contains("finding"), "{}", bad.stdout);
}

#[test]
fn a_key_and_the_key_of_the_host_may_be_given_with_the_url() {
    let golden = Golden::copy("ps512");
    let sftp = Sftp::holding(&golden);
    fs::remove_file(sftp.in_home(".ssh/known_hosts")).expect("it was written");
    let key = new_key(&sftp);
    let output = golden.beside("restored.db");
    let host_key = sftp
        .server
        .host_key()
        .replace(' ', "%20")
        .replace('+', "%2B");
    let url = sftp.url_of(
        sftp.server.user(),
        &format!("/replica/../replica?key-path={key}&host-key={host_key}"),
    );

    sftp.run(["restore", "-o", text(&output), &url]).ended(0);

    assert_eq!(sha256(&output), golden.facts["latest"]["sha256"]);
}

#[test]
fn a_configuration_names_a_server_and_a_login() {
    let golden = Golden::copy("ps512");
    let sftp = Sftp::holding(&golden);
    fs::rename(golden.root(), golden.beside("home/replica")).expect("it is there");
    fs::remove_file(sftp.in_home(".ssh/known_hosts")).expect("it was written");
    let key = new_key(&sftp);
    let server = &sftp.server;
    let config = golden.beside("litestream.yml");
    let of_login = [
        format!("password: {}", server.password()),
        format!("key-path: {key}"),
    ];

    for login in of_login {
        let output = golden.beside("restored.db");
        // A path without a slash begins where the login does.
        let replica = format!(
            "{{type: sftp, host: '{}', user: {}, path: replica, host-key: {}, {login}}}",
            server.address(),
            server.user(),
            server.host_key()
        );
        fs::write(
            &config,
            format!("dbs: [{{path: /var/lib/app.db, replica: {replica}}}]\n"),
        )
        .expect("a configuration can be written");
        let args = ["restore", "-force", "-o", text(&output), "-config"];

        sftp.run([&args[..], &[text(&config), "/var/lib/app.db"]].concat())
            .ended(0);

        assert_eq!(sha256(&output), golden.facts["latest"]["sha256"]);
    }
}

#[test]
fn a_folder_without_a_replica_is_nothing() {
    let golden = Golden::copy("ps512");
    let sftp = Sftp::holding(&golden);
    let folder = folder();
    let output = folder.path().join("app.db");

    for (path, hint) in [
        ("/typo", ""),
        ("/home", ""),
        (
            "/replica/ltx",
            "  hint: give the folder that holds the ltx folder\n",
        ),
        (
            "/replica/ltx/0",
            "  hint: that is a level of a replica: give the folder above ltx\n",
        ),
    ] {
        let url = sftp.url(path);
        let shown = sftp.url_of(sftp.server.user(), path);
        for command in [
            &["restore", "-o", text(&output)][..],
            &["ltx"],
            &["ltx", "-level", "all"],
            &["ltx", "verify"],
        ] {
            let ran = sftp.run(command.iter().chain([&&*url])).ended(3);

            let message = format!("error: no replica at {shown}: it has no files\n{hint}");
            assert_eq!(ran.stderr, message, "{command:?}");
            // A verification prints what it finds, and finds that nothing can be restored.
            assert!(
                ran.stdout.is_empty() || command.contains(&"verify"),
                "{ran:?}"
            );
        }
        assert!(!output.exists());
    }
}

#[test]
fn a_server_is_proved_and_left_as_it_was() {
    let folder = folder();
    fs::create_dir(folder.path().join("replicas")).expect("a folder can be made");
    let sftp = Sftp::of(folder.path());

    let url = sftp.url("/replicas");
    let ran = sftp
        .run(["conformance", "-filter", "range::", &url])
        .ended(0);

    assert!(
        ran.stdout.contains("kept the promises of all"),
        "{}",
        ran.stdout
    );
    assert_eq!(names(&folder.path().join("replicas")), [""; 0]);
}

/// A server that can't replace a file in one step is said to be such by a parameter, and proved
/// for what it has.
#[test]
fn a_server_without_posix_rename_is_proved_as_one() {
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    sftp.server.refuse_extension("posix-rename@openssh.com");

    let url = sftp.url("/home/replicas?atomic-replace=false");
    let ran = sftp
        .run(["conformance", "-filter", "write::", &url])
        .ended(0);

    assert!(
        ran.stdout.contains("kept the promises of all"),
        "{}",
        ran.stdout
    );
}

/// A key that the server takes.
fn new_key(sftp: &Sftp) -> String {
    let path = sftp.in_home("id");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", text(&path)])
        .status()
        .expect("ssh-keygen should be installed: Debian's package is openssh-client");
    assert!(made.success(), "ssh-keygen failed");
    let public = fs::read_to_string(sftp.in_home("id.pub")).expect("it was written");
    sftp.server.authorize(&public);
    text(&path).to_owned()
}

//! The command explains itself.

use crate::replica::{folder, names, replica};

const COMMANDS: [&[&str]; 14] = [
    &[],
    &["replicate"],
    &["restore"],
    &["verify"],
    &["ltx"],
    &["ltx", "inspect"],
    &["ltx", "verify"],
    &["status"],
    &["snapshot"],
    &["compact"],
    &["conformance"],
    &["bench"],
    &["completions"],
    &["man"],
];

#[test]
fn every_command_has_help_with_examples() {
    for command in COMMANDS {
        for flag in ["--help", "-help", "-h"] {
            let ran = replica(command.iter().chain([&flag])).ended(0);

            let name = [&["replica"], command].concat().join(" ");
            assert!(
                ran.stdout.contains(&format!("Usage: {name}")),
                "{}",
                ran.stdout
            );
            assert!(ran.stdout.contains("Examples:"), "{}", ran.stdout);
            assert_eq!(ran.stderr, "");
        }
    }
}

#[test]
fn help_is_a_command_too() {
    for command in COMMANDS {
        let asked = replica([&"help"].into_iter().chain(command)).ended(0);

        let flagged = replica(command.iter().chain([&"--help"])).ended(0);
        assert_eq!(asked.stdout, flagged.stdout);
    }
}

#[test]
fn long_help_lists_the_exit_statuses() {
    for command in [&COMMANDS[..3], &COMMANDS[3..12]].concat() {
        let ran = replica(command.iter().chain([&"--help"])).ended(0);

        assert!(ran.stdout.contains("Exit statuses:"), "{}", ran.stdout);
    }
}

#[test]
fn what_to_do_after_a_killed_replacement_is_in_the_help() {
    let ran = replica(["restore", "--help"]).ended(0);

    let help = ran.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    for told in [
        ".replica-restore-<16 hex digits>-DATABASE-wal",
        "rename it to DATABASE-wal before anybody opens the database",
        "restore with -force again, which removes it",
    ] {
        assert!(help.contains(told), "{told}: {help}");
    }
}

#[test]
fn the_version_is_the_crates() {
    for args in [&["version"], &["--version"], &["-version"], &["-V"]] {
        let ran = replica(args).ended(0);

        assert!(
            ran.stdout.trim_end().ends_with(env!("CARGO_PKG_VERSION")),
            "{ran:?}"
        );
    }
}

#[test]
fn completions_are_there_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = replica(["completions", shell]).ended(0);

        assert!(ran.stdout.contains("conformance"), "{shell}");
    }
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let folder = folder();

    let page = replica(["man"]).ended(0);
    replica(["man".as_ref(), folder.path().as_os_str()]).ended(0);

    assert!(page.stdout.contains(".TH replica 1"), "{}", page.stdout);
    assert_eq!(
        names(folder.path()),
        [
            "replica-bench.1",
            "replica-compact.1",
            "replica-completions.1",
            "replica-conformance.1",
            "replica-ltx-inspect.1",
            "replica-ltx-verify.1",
            "replica-ltx.1",
            "replica-man.1",
            "replica-replicate.1",
            "replica-restore.1",
            "replica-snapshot.1",
            "replica-status.1",
            "replica-verify.1",
            "replica-version.1",
            "replica.1",
        ]
    );
}

#[test]
fn a_call_that_makes_no_sense_is_status_2() {
    for (args, told) in [
        (&[][..], "Usage: replica"),
        (&["restore"], "REPLICA"),
        (&["ltx"], "REPLICA"),
        (&["bogus"], "unrecognized subcommand 'bogus'"),
        (&["restore", "-bogus", "x"], "unexpected argument '--bogus'"),
        (
            &["restore", "-dryrun", "x"],
            "a similar argument exists: '--dry-run'",
        ),
        (
            &["restore", "-o"],
            "a value is required for '--output <PATH>'",
        ),
        (
            &["restore", "-o", "-json", "x"],
            "a value is required for '--output <PATH>'",
        ),
        (
            &["restore", "-json=maybe", "x"],
            "unexpected value 'maybe' for '--json'",
        ),
        (
            &[
                "restore",
                "-txid=000000000000000a",
                "-timestamp=2026-11-21T00:00:00Z",
                "x",
            ],
            "the argument '--txid <TXID>' cannot be used with '--timestamp <TIMESTAMP>'",
        ),
        (&["restore", "x", "y"], "unexpected argument 'y'"),
        (&["ltx", "-level", "10", "x"], "a level is 0 to 9, or all"),
        (&["ltx", "-level", "-1", "x"], "unexpected argument '-1'"),
        (&["conformance", "-jobs", "0"], "give a number from 1"),
        (&["bench", "-files", "0", "x"], "0 is not in 1..=1000000"),
        (
            &["restore", "-integrity-check", "some", "x"],
            "[possible values: none, quick, full]",
        ),
    ] {
        let ran = replica(args).ended(2);

        assert!(ran.stderr.contains(told), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
}

/// A forgotten -o made the error show the password of the replica's URL.
#[test]
fn a_call_that_makes_no_sense_is_told_without_the_secrets_of_its_urls() {
    let sftp = "sftp://me:hush@nas/app";
    let key = "s3://bucket/app?sse-customer-key=hush";
    for args in [
        &["restore", "app.db", sftp][..],
        &["restore", "app.db", key],
        &["restore", "-txid", sftp, "x"],
        &["restore", "-txid=sftp://me:hush@nas/app", "x"],
        &["ltx", "-level", key, "x"],
        &["-sftp://me:hush@nas/app"],
        &[sftp],
    ] {
        for json in [&[][..], &["-json"]] {
            let ran = replica([args, json].concat()).ended(2);

            assert!(!ran.stderr.is_empty(), "{args:?}");
            assert!(!ran.stderr.contains("hush"), "{args:?}: {}", ran.stderr);
        }
    }
}

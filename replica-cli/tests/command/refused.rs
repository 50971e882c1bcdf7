//! A store that can't be worked with is told in words that help, soon, and without a secret.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use testbed::http::{Answer, Scripted};
use testbed::{Direction, Fault, Proxy};

use crate::replica::{Golden, Ran, folder};
use crate::stores::{Bucket, Sftp, at, run};

/// The command gives a store half a minute to answer for the first time. This is generous to a
/// machine that is busy, and far below what the layers of a replica wait.
pub(crate) const SOON: Duration = Duration::from_secs(75);

/// A secret of each kind, none of which may be seen.
const SECRETS: [&str; 4] = [
    "testbed-secret-key",
    "testbed-password",
    "hush",
    "X-Amz-Signature",
];

/// Runs a command that must not get to its store: it ends with 2, soon, and says `told`.
#[track_caller]
fn check(command: Command, told: &[&str]) {
    let begun = Instant::now();
    let ran = run(command).ended(2);

    assert!(begun.elapsed() < SOON, "{:?}: {ran:?}", begun.elapsed());
    check_told(&ran, told);
    assert!(ran.stderr.starts_with("error: could not open "), "{ran:#?}");
    assert_eq!(ran.stdout, "");
}

#[track_caller]
fn check_told(ran: &Ran, told: &[&str]) {
    for words in told {
        assert!(ran.stderr.contains(words), "{words:?}: {ran:#?}");
    }
    for secret in SECRETS {
        assert!(!ran.stderr.contains(secret), "{secret}: {ran:#?}");
        assert!(!ran.stdout.contains(secret), "{secret}: {ran:#?}");
    }
}

/// Each command that opens a replica at `url`.
fn commands(url: &str) -> [Vec<&str>; 4] {
    [
        vec!["restore", "-o", "/nowhere/app.db", url],
        vec!["ltx", url],
        vec!["ltx", "verify", url],
        vec!["conformance", url],
    ]
}

#[test]
fn a_wrong_bucket_is_told_by_every_command() {
    let bucket = Bucket::empty();
    let endpoint = bucket.server.endpoint();
    let url = format!("s3://other/app?endpoint={endpoint}");

    for args in commands(&url) {
        let told = format!(
            "error: could not open {url}\n  cause: s3: list: could not list s3://other/app/0009/: \
             there is no bucket other at {endpoint}: make it, or correct its name\n"
        );
        check(bucket.command(args), &[&told, "404 NoSuchBucket"]);
    }
}

#[test]
fn a_wrong_key_is_told() {
    let bucket = Bucket::empty();
    let mut command = bucket.command(["ltx", &bucket.url("app")]);
    command.env("AWS_ACCESS_KEY_ID", "AKIAOTHER");

    check(command, &["does not know the access key"]);
}

#[test]
fn a_wrong_secret_is_told() {
    let bucket = Bucket::empty();
    let mut command = bucket.command(["ltx", &bucket.url("app")]);
    command.env("AWS_SECRET_ACCESS_KEY", "hush");

    check(
        command,
        &["the signature is wrong: is the secret key the one that belongs to the access key?"],
    );
}

#[test]
fn half_a_key_is_told_by_the_half_that_is_missing() {
    let bucket = Bucket::empty();
    let url = bucket.url("app");
    for (given, missing) in [
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"),
    ] {
        for args in commands(&url) {
            let mut command = crate::replica::command(args);
            command.env(given, "hush");

            let told = format!(
                "cause: {given} is given, and {missing} is not: both make the key of a bucket\n"
            );
            check(command, &[&told]);
        }
    }
    assert_eq!(bucket.server.requests_in_all(), 0);
}

#[test]
fn nobody_to_sign_as_is_told() {
    let bucket = Bucket::empty();
    let mut command = crate::replica::command(["ltx", &bucket.url("app")]);
    command.env("AWS_EC2_METADATA_DISABLED", "true");

    check(
        command,
        &["no credentials: set $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY"],
    );
}

/// What no server in this process says: a wrong region, an expired token, a wrong clock, and that
/// something else than a store answers.
#[test]
fn what_a_store_refuses_is_told_with_what_to_do() {
    let error = |status, code: &str| Answer::s3_error(status, code);
    for (answer, told) in [
        (
            error(301, "PermanentRedirect").header("x-amz-bucket-region", "eu-west-1"),
            "the bucket is in region eu-west-1, and not in us-east-1: configure that one",
        ),
        (
            error(400, "ExpiredToken"),
            "the session token has expired: give a new one",
        ),
        (
            error(403, "RequestTimeTooSkewed").header("date", "Sat, 21 Nov 2026 09:00:00 GMT"),
            "the store's Sat, 21 Nov 2026 09:00:00 GMT; set the wrong one right",
        ),
        (
            error(403, "AccessDenied"),
            "these credentials may not do that: see the permissions that a replica needs",
        ),
        (
            Answer::new(404).body("<html>hello</html>"),
            "is it the address of a store?",
        ),
        (
            Answer::new(200).body("<html>hello</html>"),
            "does not answer as S3 does: is it the address of a store",
        ),
        (error(503, "SlowDown"), "the store asks for fewer requests"),
    ] {
        let store = Scripted::handling(move |_| answer.clone());
        let url = at(&store.endpoint(), "app") + "&region=us-east-1";
        let mut command = Bucket::empty().command(["restore", "-o", "/nowhere/app.db", &url]);
        command.env("AWS_SESSION_TOKEN", "hush");

        check(command, &[told, &url]);
    }
}

#[test]
fn a_store_that_stumbles_at_first_is_asked_again() {
    let golden = Golden::copy("ps512");
    let bucket = Bucket::holding(&golden);
    let relay = Scripted::before(bucket.server.address());
    relay
        .on(|_| true)
        .times(2)
        .answer(Answer::s3_error(503, "SlowDown"));

    let url = at(&relay.endpoint(), "app");
    let ran = bucket.run(["ltx", "-json", "-level", "all", &url]).ended(0);

    assert_eq!(ran.json(), golden.facts["ltx"]);
    relay.assert_rules_used();
}

#[test]
fn a_port_where_nobody_listens_is_told() {
    let bucket = Bucket::empty();
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    bucket.server.close();
    sftp.server.close();

    for args in commands(&bucket.url("app")) {
        let told = format!(
            "nobody listens at {}: is it the right host and port, and is the server up?",
            bucket.server.endpoint()
        );
        check(bucket.command(args), &[&told]);
    }
    for args in commands(&sftp.url("/app")) {
        let told = format!(
            "could not connect to [127.0.0.1]:{}: nobody listens there",
            sftp.server.address().port()
        );
        check(sftp.command(args), &[&told]);
    }
}

#[test]
fn a_name_without_an_address_is_told() {
    let bucket = Bucket::empty();
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    let url = at("http://no-such-host.invalid:9000", "app");

    check(
        bucket.command(["ltx", &url]),
        &["the name of http://no-such-host.invalid:9000 has no address: is it spelled right"],
    );
    check(
        sftp.command(["ltx", "sftp://me:hush@no-such-host.invalid/app"]),
        &["could not find the address of no-such-host.invalid"],
    );
}

#[test]
fn a_store_that_takes_a_connection_and_never_answers_is_told() {
    let bucket = Bucket::empty();
    let network = Proxy::start(bucket.server.address());
    network.set(Fault::BlackHole);
    let url = at(&format!("http://{}", network.address()), "app");

    check(
        bucket.command(["restore", "-o", "/nowhere/app.db", &url]),
        &["cause: "],
    );
}

#[test]
fn a_server_that_takes_a_connection_and_never_answers_is_told() {
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    for fault in [
        Fault::BlackHole,
        Fault::Stall {
            direction: Direction::Down,
            after: 1000,
        },
    ] {
        let network = Proxy::start(sftp.server.address());
        network.set(fault);
        let url = format!("sftp://me:hush@{}/app?skip-verify=true", network.address());

        let begun = Instant::now();
        let ran = sftp
            .run(["restore", "-o", "/nowhere/app.db", &url])
            .ended(2);

        assert!(begun.elapsed() < SOON, "{:?}: {ran:?}", begun.elapsed());
        check_told(
            &ran,
            &[
                "warning: skip-verify: whoever is in between can read and change everything\n",
                &format!("[127.0.0.1]:{}", network.address().port()),
            ],
        );
    }
}

#[test]
fn a_wrong_host_key_is_told_and_nothing_is_sent() {
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    sftp.server.change_host_key();
    let known_hosts = sftp.in_home(".ssh/known_hosts");

    for args in commands(&sftp.url("/app")) {
        check(
            sftp.command(args),
            &[
                &format!(
                    "THE HOST KEY OF [127.0.0.1]:{} IS NOT THE ONE THAT IS KNOWN",
                    sftp.server.address().port()
                ),
                &sftp.server.fingerprint(),
                &format!("is in {}, line 1", known_hosts.display()),
                "nothing was sent to it",
            ],
        );
    }
    assert_eq!(sftp.server.logins(), 0);
}

#[test]
fn an_unknown_host_key_is_told_with_the_line_to_add() {
    let golden = Golden::copy("ps512");
    let sftp = Sftp::holding(&golden);
    let known_hosts = sftp.in_home(".ssh/known_hosts");
    fs::remove_file(&known_hosts).expect("it was written");
    let url = sftp.url("/replica");
    let line = sftp.server.known_hosts_line();

    let told = format!("add this line to {}: {line}", known_hosts.display());
    check(sftp.command(["ltx", &url]), &[&told]);
    assert_eq!(sftp.server.logins(), 0);

    fs::write(&known_hosts, line).expect("a file can be written");
    sftp.run(["ltx", &url]).ended(0);
}

#[test]
fn a_refused_login_is_told() {
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    let url = sftp.url_of(&format!("{}:hush", sftp.server.user()), "/app");

    for args in commands(&url) {
        check(
            sftp.command(args),
            &[
                "could not log in with a password to",
                "it refuses the login: the user or what was shown is wrong",
            ],
        );
    }
}

#[test]
fn a_login_without_anything_to_show_is_told() {
    let folder = folder();
    let sftp = Sftp::of(folder.path());
    let url = sftp.url_of(sftp.server.user(), "/app");
    let keyed = format!("{url}?key-path=/nowhere/id");

    check(
        sftp.command(["ltx", &url]),
        &[
            "nothing to log in with: give the URL a password or a key-path, or start an agent \
             ($SSH_AUTH_SOCK)",
        ],
    );
    check(sftp.command(["ltx", &keyed]), &["can't read /nowhere/id"]);
}

#[test]
fn a_folder_that_is_denied_is_told() {
    let golden = Golden::copy("ps512");
    let sftp = Sftp::holding(&golden);
    sftp.server.deny("/replica");

    check(
        sftp.command(["ltx", &sftp.url("/replica")]),
        &["permission denied"],
    );
}

/// In a URL Litestream takes a host nearby for one without TLS, and in a configuration it does not.
#[test]
fn plain_http_is_spoken_only_where_it_was_written() {
    let bucket = Bucket::empty();
    let address = bucket.server.address();
    let folder = folder();
    let config = folder.path().join("litestream.yml");
    let replica = format!("{{type: s3, bucket: testbed, path: app, endpoint: '{address}'}}");
    fs::write(
        &config,
        format!("dbs: [{{path: /var/lib/app.db, replica: {replica}}}]\n"),
    )
    .expect("a file can be written");
    let config = config.to_str().expect("a plain name");

    let told = format!(
        "https://{address} does not speak TLS: if it really is a server for plain HTTP, say http://"
    );
    check(
        bucket.command(["ltx", "-config", config, "/var/lib/app.db"]),
        &[&told],
    );
    assert_eq!(bucket.server.requests_in_all(), 0);
}

//! Who is let in, and who is trusted: host keys and logins, with a server that counts what was
//! shown to it.

mod support;

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use replica_core::ErrorKind;
use replica_sftp::{HostKey, Login, PrivateKey};
use support::calls::{client, content, listed, refusal, write};
use support::served::{PASSWORD, Served};

#[tokio::test]
async fn a_server_with_another_key_than_the_given_one_is_shown_nothing() {
    let server = Served::start();
    let config = server.config("db");
    server.change_host_key();

    let error = refusal(config).await;

    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(error.to_string().contains(&server.fingerprint()), "{error}");
    assert_eq!(server.logins(), 0);
}

#[tokio::test]
async fn a_server_that_changes_its_key_meanwhile_is_shown_nothing_more() {
    let server = Served::start();
    let client = client(server.config("db"));
    write(&client, 1, &content(10, 1)).await.unwrap();

    server.change_host_key();
    server.reset_connections();
    // The first may still use the connection that was reset.
    let _ = listed(&client).await;
    let error = listed(&client).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(server.logins(), 1);
}

#[tokio::test]
async fn a_server_that_no_file_knows_is_shown_nothing_and_the_error_says_what_to_add() {
    let server = Served::start();
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("known_hosts");
    let files = HostKey::KnownHosts(vec![folder.path().join("nowhere"), known.clone()]);
    let config = server.config("db").host_key(files);

    let error = refusal(config.clone()).await;
    let logins = server.logins();
    let message = error.to_string();
    let (_, line) = message.rsplit_once(": ").unwrap();
    fs::write(&known, format!("{line}\n")).unwrap();
    let next = listed(&client(config)).await;

    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert_eq!(logins, 0);
    assert_eq!(line, server.known_hosts_line());
    assert_eq!(next.unwrap(), [0; 0]);
}

#[tokio::test]
async fn a_key_that_a_file_has_otherwise_or_revoked_is_refused_and_shown_nothing() {
    let server = Served::start();
    let line = server.known_hosts_line();
    let (_, key) = line.split_once(' ').unwrap();
    let (host, _) = line.split_once(' ').unwrap();
    let other = Served::start().host_key();
    let folder = tempfile::tempdir().unwrap();
    let known = folder.path().join("known_hosts");

    for (text, told) in [
        (format!("{host} {other}\n"), "IS NOT THE ONE THAT IS KNOWN"),
        (format!("{line}\n@revoked * {key}\n"), "HAS BEEN REVOKED"),
    ] {
        fs::write(&known, text).unwrap();
        let files = HostKey::KnownHosts(vec![known.clone()]);

        let error = refusal(server.config("db").host_key(files)).await;

        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
    assert_eq!(server.logins(), 0);
}

#[tokio::test]
async fn any_key_will_do_only_for_who_asks_for_that() {
    let server = Served::start();
    let config = server.config("db");
    server.change_host_key();

    let unchecked = client(config.clone().host_key(HostKey::Unchecked));
    let trusted = listed(&unchecked).await;
    let by_default = refusal(config.host_key(HostKey::default())).await;

    assert_eq!(trusted.unwrap(), [0; 0]);
    assert_eq!(by_default.kind(), ErrorKind::Invalid, "{by_default}");
}

#[tokio::test]
async fn a_refused_login_is_tried_once_and_told_without_the_secret() {
    const WRONG: &str = "correct horse battery staple";
    let server = Served::start();
    let mut config = server.config("db");
    config.logins = vec![Login::Password(WRONG.to_owned())];

    let error = refusal(config).await;

    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert!(!error.is_transient());
    assert!(!format!("{error} {error:?}").contains(WRONG), "{error:?}");
    assert_eq!((server.connections(), server.logins()), (1, 1));
}

#[tokio::test]
async fn logins_are_tried_in_their_order_until_one_is_welcome() {
    let server = Served::start();
    let mut config = server.config("db");
    config.logins = vec![
        Login::Password("wrong".to_owned()),
        Login::Password(PASSWORD.to_owned()),
        Login::Password("never shown".to_owned()),
    ];

    let listed = listed(&client(config)).await;

    assert_eq!(listed.unwrap(), [0; 0]);
    assert_eq!((server.connections(), server.logins()), (1, 2));
}

/// What an agent that never answers does to a client, or a key on a file system that hangs: no call
/// came through any more, even when it would have been answered.
#[tokio::test]
async fn a_login_that_never_ends_costs_its_time_limit_and_the_next_call_begins_another() {
    const LIMIT: Duration = Duration::from_secs(5);
    let server = Served::start();
    let folder = tempfile::tempdir().unwrap();
    let (key, hanging) = (folder.path().join("key"), folder.path().join("hanging"));
    let made = Command::new("mkfifo").arg(&key).status();
    assert!(made.expect("mkfifo should be installed").success());
    let mut config = server.config("db").connect_timeout(LIMIT);
    config.logins = vec![Login::Key {
        key: PrivateKey::File(key.clone()),
        passphrase: None,
    }];
    let client = client(config);

    let error = listed(&client).await.unwrap_err();
    fs::rename(&key, &hanging).unwrap();
    fs::write(&key, server.authorize_new()).unwrap();
    let next = listed(&client).await;
    // The first login ends, with an empty key.
    drop(File::options().write(true).open(&hanging).unwrap());

    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(next.unwrap(), [0; 0]);
    assert_eq!(listed(&client).await.unwrap(), [0; 0]);
}

#[tokio::test]
async fn a_key_that_can_not_be_used_is_told_as_such_before_it_is_shown() {
    let server = Served::start();
    let with = |key| {
        let mut config = server.config("db");
        config.logins = vec![Login::Key {
            key,
            passphrase: None,
        }];
        config
    };

    let none = refusal(with(PrivateKey::Text("no key".to_owned()))).await;
    let missing = refusal(with(PrivateKey::File("no/such/file".into()))).await;
    let nothing = {
        let mut config = server.config("db");
        config.logins.clear();
        refusal(config).await
    };

    for error in [none, missing, nothing] {
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(server.logins(), 0);
}

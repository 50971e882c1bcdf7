//! What only SFTP can get wrong, against OpenSSH's server: host keys, logins, lost connections,
//! and what lies on its disk.

mod support;

use std::error::Error as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, Error, ErrorKind, FileId, Level, ReplicaClient, ReplicaClientExt, Result, Timestamp,
    Timestamps, Txid, TxidRange,
};
use replica_sftp::{HostKey, Login, PrivateKey, SftpClient, SftpConfig};
use support::calls::until;
use support::openssh::{Form, Sshd};

const NAME: &str = "0000000000000001-0000000000000001.ltx";
const NOON: Timestamp = Timestamp::from_millis(1_795_262_400_000);

fn file(txid: u64) -> FileId {
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::new(txid).expect("a transaction")),
    }
}

async fn write(client: &SftpClient, txid: u64, content: &[u8]) -> Result<()> {
    let body = Body::from(content.to_vec());
    client.write(file(txid), NOON, body).await.map(|_| ())
}

fn client(config: SftpConfig) -> SftpClient {
    SftpClient::new(config).expect("a configuration that makes sense")
}

/// What is in the folder of level 0.
fn names(replica: &Path) -> Vec<String> {
    let entries = fs::read_dir(replica.join("ltx/0")).expect("the level's folder");
    let mut names: Vec<_> = entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

/// The failure of a first call, which must come soon.
async fn refusal(config: SftpConfig) -> Error {
    let begun = Instant::now();
    let error = client(config)
        .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .err()
        .expect("the call should fail");
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "it took too long"
    );
    error
}

#[tokio::test]
async fn files_lie_where_litestream_keeps_them_with_the_time_they_were_given() {
    let server = Sshd::start(Form::Whole);
    let client = client(server.config("a b/db"));

    write(&client, 1, b"content").await.unwrap();

    let path = server.path("a b/db").join("ltx/0").join(NAME);
    assert_eq!(fs::read(&path).unwrap(), b"content");
    let modified = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(Timestamp::from_system_time(modified), Some(NOON));
}

#[tokio::test]
async fn a_replica_without_posix_rename_can_be_overwritten_by_who_knows_it() {
    let server = Sshd::start(Form::NoPosixRename);
    let asked = SftpClient::connect(server.config("db").atomic_replace(true))
        .await
        .unwrap();
    let trusting = client(server.config("db").atomic_replace(true));
    write(&trusting, 1, b"old").await.unwrap();

    let refused = write(&trusting, 1, b"new").await.unwrap_err();
    write(&asked, 1, b"newer").await.unwrap();

    assert!(!asked.capabilities().atomic_replace);
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("atomic_replace"), "{refused}");
    assert_eq!(names(&server.path("db")), [NAME]);
    assert_eq!(asked.read(file(1), (..).into()).await.unwrap(), "newer");
}

#[tokio::test]
async fn a_lost_connection_costs_one_call() {
    let mut server = Sshd::start(Form::Whole);
    let client = client(server.config("db").connections_max(1));
    write(&client, 1, b"first").await.unwrap();

    server.restart();
    // Whether the client has seen the end of its connection by now is up to the machine.
    let _ = client.read(file(1), (..).into()).await;
    let read = client.read(file(1), (..).into()).await.unwrap();

    assert_eq!(read, "first");
}

#[tokio::test]
async fn a_server_that_dies_during_a_write_leaves_nothing_that_stays() {
    let server = Sshd::start(Form::Whole);
    let client = client(server.config("db"));
    write(&client, 1, b"first").await.unwrap();
    let (sent, cut) = tokio::sync::oneshot::channel::<()>();
    let body = stream::once(async { Ok(bytes::Bytes::from(vec![7; 300_000])) }).chain(
        stream::once(async move {
            let _ = cut.await;
            Ok(bytes::Bytes::from(vec![8; 300_000]))
        }),
    );
    let writing = client.write(file(2), NOON, Body::once(None, body.boxed()));
    let cutting = async {
        while names(&server.path("db")).len() < 2 {
            tokio::task::yield_now().await;
        }
        server.cut();
        drop(sent);
    };
    let (written, ()) = futures::join!(writing, cutting);
    let error = written.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    write(&client, 3, b"third").await.unwrap();
    assert_eq!(
        names(&server.path("db")).len(),
        2,
        "the temporary file is gone"
    );
}

#[tokio::test]
async fn a_body_that_fails_leaves_no_temporary_file() {
    let server = Sshd::start(Form::Whole);
    let client = client(server.config("db"));
    let failing = stream::iter([
        Ok(bytes::Bytes::from(vec![7; 300_000])),
        Err(Error::new(ErrorKind::Other, "the source broke")),
    ]);

    let body = Body::once(None, failing.boxed());
    let error = client.write(file(1), NOON, body).await.unwrap_err();

    assert_eq!(error.message(), "the source broke");
    assert_eq!(names(&server.path("db")), [""; 0]);
}

#[tokio::test]
async fn nothing_but_files_of_the_replica_is_listed() {
    let server = Sshd::start(Form::Whole);
    let client = client(server.config("db"));
    write(&client, 1, b"first").await.unwrap();
    let folder = server.path("db").join("ltx/0");
    for name in [
        "0000000000000002-0000000000000002.ltx.tmp",
        "000000000000000A-000000000000000A.ltx",
        "000000000000002-000000000000002.ltx",
    ] {
        fs::write(folder.join(name), "foreign").unwrap();
    }
    fs::create_dir(folder.join("0000000000000003-0000000000000003.ltx")).unwrap();
    symlink(
        folder.join(NAME),
        folder.join("0000000000000004-0000000000000004.ltx"),
    )
    .unwrap();

    let listed = client
        .list_all(Level::RAW, Txid::FIRST, Timestamps::Exact)
        .await
        .unwrap();
    let opened = client.open(file(3), (..).into()).await.err().unwrap();
    client.delete(&[file(3)]).await.unwrap();

    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].id, listed[0].created_at), (file(1), NOON));
    assert_eq!(opened.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn deleting_everything_follows_no_link() {
    let server = Sshd::start(Form::Whole);
    let client = client(server.config("db"));
    write(&client, 1, b"first").await.unwrap();
    let outside = server.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "stays").unwrap();
    symlink(&outside, server.path("db").join("ltx/link")).unwrap();
    fs::create_dir_all(server.path("db").join("deep/er")).unwrap();
    fs::write(server.path("db-old"), "a neighbour").unwrap();

    client.delete_all().await.unwrap();

    assert!(!server.path("db").exists());
    assert!(outside.join("precious").exists());
    assert!(server.path("db-old").exists());
}

#[tokio::test]
async fn a_root_that_is_no_folder_is_no_empty_replica() {
    let server = Sshd::start(Form::Whole);
    fs::write(server.path("taken"), "a file").unwrap();
    symlink("nowhere", server.path("dangling")).unwrap();

    for root in ["taken", "taken/below", "dangling"] {
        let error = refusal(server.config(root)).await;
        let written = write(&client(server.config(root)), 1, b"x")
            .await
            .unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(written.kind(), ErrorKind::Invalid, "{written}");
    }
}

#[tokio::test]
async fn a_time_that_the_protocol_has_no_form_for_is_invalid() {
    let server = Sshd::start(Form::Whole);
    let client = client(server.config("db"));
    let second = |second: i64| Timestamp::from_millis(second * 1000 + 1);
    let body = || Body::from(b"x".to_vec());

    for beyond in [-1, i64::from(u32::MAX) + 1] {
        let error = client
            .write(file(1), second(beyond), body())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    for known in [0, 1 << 31, i64::from(u32::MAX)] {
        let written = client.write(file(1), second(known), body()).await.unwrap();
        assert_eq!(written.created_at, Timestamp::from_millis(known * 1000));
        let listed = client
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Exact)
            .await
            .unwrap();
        assert_eq!(listed, [written]);
    }
}

#[tokio::test]
async fn a_server_whose_key_is_not_known_is_sent_nothing_and_the_error_says_what_to_add() {
    let server = Sshd::start(Form::Whole);
    let known = server.file("known_hosts");
    let config = |key: &str| {
        let mut config = server.config("db");
        config.host_key = HostKey::KnownHosts(vec![known.clone()]);
        config.logins = vec![server.login(key)];
        config
    };
    // Which are in the log of a server that tells of every attempt.
    let attempts = |result: &str| {
        let log = fs::read_to_string(server.file("log")).unwrap();
        log.matches(result).count()
    };

    let unknown = refusal(config("other")).await;
    let other = fs::read_to_string(server.file("other.pub")).unwrap();
    fs::write(&known, format!("[127.0.0.1]:{} {other}", server.port())).unwrap();
    let changed = refusal(config("other")).await;
    let message = unknown.to_string();
    let (_, line) = message.rsplit_once(": ").expect("the line to add");
    fs::write(&known, format!("{line}\n")).unwrap();
    let refused = refusal(config("other")).await;
    write(&client(config("user")), 1, b"first").await.unwrap();
    until("both logins in the log", || {
        attempts("Failed publickey") > 0 && attempts("Accepted publickey") > 0
    })
    .await;

    assert_eq!(unknown.kind(), ErrorKind::Invalid);
    assert_eq!(changed.kind(), ErrorKind::PermissionDenied);
    assert_eq!(
        changed.to_string().matches("SHA256:").count(),
        2,
        "{changed}"
    );
    assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
    assert_eq!(
        (attempts("Failed publickey"), attempts("Accepted publickey")),
        (1, 1)
    );
}

#[tokio::test]
async fn a_hashed_name_of_known_hosts_is_found() {
    let server = Sshd::start(Form::Whole);
    let known = server.file("known_hosts");
    fs::write(
        &known,
        format!("[127.0.0.1]:{} {}", server.port(), server.host_key()),
    )
    .unwrap();
    let hashed = std::process::Command::new("ssh-keygen")
        .arg("-H")
        .arg("-f")
        .arg(&known)
        .output()
        .expect("ssh-keygen");
    assert!(hashed.status.success());
    assert!(fs::read_to_string(&known).unwrap().starts_with("|1|"));

    let config = server
        .config("db")
        .host_key(HostKey::KnownHosts(vec![known]));
    write(&client(config), 1, b"first").await.unwrap();
}

#[tokio::test]
async fn a_refused_login_is_told_from_a_key_that_is_none() {
    let server = Sshd::start(Form::Whole);
    let with = |login| {
        let mut config = server.config("db");
        config.logins = vec![login];
        config
    };
    let text = |text: &str| Login::Key {
        key: PrivateKey::Text(text.into()),
        passphrase: Some("hunter2".into()),
    };

    let refused = refusal(with(server.login("other"))).await;
    let password = refusal(with(Login::Password("hunter2".into()))).await;
    let none = refusal(with(text("no key"))).await;
    let missing = refusal(with(server.login("nowhere"))).await;

    for error in [refused, password] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
    for error in [none, missing] {
        assert_eq!(
            error.kind(),
            ErrorKind::Invalid,
            "{error} {:?}",
            error.source()
        );
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn keys_of_every_form_log_in_and_an_encrypted_one_with_its_passphrase_alone() {
    const PASSPHRASE: &str = "correct horse battery staple";
    let server = Sshd::start(Form::Whole);
    let with = |name: &str, passphrase: Option<&str>| {
        let mut config = server.config("db");
        config.logins = vec![Login::Key {
            key: PrivateKey::File(server.file(name)),
            passphrase: passphrase.map(str::to_owned),
        }];
        config
    };
    for (name, form, format, passphrase) in [
        ("rsa", ["rsa", "3072"], "RFC4716", None),
        ("ecdsa", ["ecdsa", "256"], "RFC4716", None),
        ("pem", ["rsa", "2048"], "PEM", None),
        ("locked", ["ed25519", "256"], "RFC4716", Some(PASSPHRASE)),
        ("locked_pem", ["rsa", "2048"], "PEM", Some(PASSPHRASE)),
    ] {
        server.authorize_new(name, form, format, passphrase);

        let listed = client(with(name, passphrase))
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await;

        assert!(listed.is_ok(), "{name}: {listed:?}");
    }

    for wrong in [None, Some("wrong")] {
        let error = refusal(with("locked", wrong)).await;

        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("passphrase"), "{error}");
    }
}

/// An agent is found by the environment, which a test can't change for itself: it runs once more,
/// as the command of an `ssh-agent`, which ends with it.
#[tokio::test]
async fn the_keys_of_an_agent_are_tried_until_one_is_welcome() {
    const WITHIN: &str = "REPLICA_TEST_WITHIN_AN_AGENT";
    if std::env::var_os(WITHIN).is_none() {
        let again = Command::new("ssh-agent")
            .arg(std::env::current_exe().expect("a test has a program"))
            .arg("--exact")
            .arg("the_keys_of_an_agent_are_tried_until_one_is_welcome")
            .env(WITHIN, "yes")
            .output()
            .expect("ssh-agent should be installed: Debian's package is openssh-client");
        let said = String::from_utf8_lossy(&again.stdout);
        assert!(again.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    let server = Sshd::start(Form::Whole);
    server.authorize_new("rsa", ["rsa", "3072"], "RFC4716", None);
    let mut config = server.config("db");
    config.logins = vec![Login::Agent];
    let add = |key: &str| {
        let added = Command::new("ssh-add")
            .arg("-q")
            .arg(server.file(key))
            .status();
        assert!(added.expect("ssh-add is ssh-agent's").success(), "{key}");
    };

    let empty = refusal(config.clone()).await;
    add("other");
    let refused = refusal(config.clone()).await;
    add("rsa");
    let welcome = write(&client(config), 1, b"content").await;

    for error in [empty, refused] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("agent"), "{error}");
    }
    assert!(welcome.is_ok(), "{welcome:?}");
    assert_eq!(names(&server.path("db")), [NAME]);
}

#[tokio::test]
async fn a_server_that_is_restarted_during_any_call_costs_that_call_alone() {
    let mut server = Sshd::start(Form::Whole);
    let client = client(server.config("db"));
    let content = vec![7; 32 << 20];
    let many: Vec<_> = (1000..3000).map(file).collect();

    for call in ["list", "read", "write", "delete", "delete_all"] {
        write(&client, 1, &content).await.expect(call);
        for id in &many {
            let name = server.path("db/ltx/0").join(id.txids.to_string());
            fs::write(name, "small").expect(call);
        }
        let calling = {
            let (client, many, content) = (client.clone(), many.clone(), content.clone());
            tokio::spawn(async move {
                match call {
                    "list" => client
                        .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
                        .await
                        .map(|_| ()),
                    "read" => client.read(file(1), (..).into()).await.map(|_| ()),
                    "write" => write(&client, 2, &content).await,
                    "delete" => client.delete(&many).await,
                    _ => client.delete_all().await,
                }
            })
        };
        server = tokio::task::spawn_blocking(move || {
            server.restart();
            server
        })
        .await
        .expect("it starts again");
        if let Err(error) = calling.await.expect("no panic") {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{call}: {error}");
        }

        // A connection that was idle may not know of it yet.
        let _ = client.list(Level::RAW, Txid::FIRST, Timestamps::Fast).await;
        let listed = client
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await
            .expect(call);
        for info in listed {
            let size = if info.size > 5 { content.len() } else { 5 };
            assert_eq!(info.size, size as u64, "{call}: half a file");
        }
    }
}

#[tokio::test]
async fn a_host_that_is_deaf_costs_the_time_limit_and_one_that_is_closed_nothing() {
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = |listener: &TcpListener| {
        SftpConfig::new("127.0.0.1", "nobody", "/db")
            .port(listener.local_addr().unwrap().port())
            .host_key(HostKey::Unchecked)
            .login(Login::Password("hunter2".into()))
            .connect_timeout(Duration::from_millis(700))
    };
    let deaf_config = config(&deaf);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed_config = config(&closed);
    drop(closed);

    let begun = Instant::now();
    let timed_out = refusal(deaf_config).await;
    let took = begun.elapsed();
    let refused = refusal(closed_config).await;

    assert_eq!(timed_out.kind(), ErrorKind::Unavailable, "{timed_out}");
    assert!(took < Duration::from_millis(1700), "it took {took:?}");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert!(refused.to_string().contains("nobody listens"), "{refused}");
}

#[tokio::test]
async fn streams_that_are_held_keep_nobody_waiting_and_none_is_leaked() {
    let server = Sshd::start(Form::Whole);
    let client = client(server.config("db").connections_max(1));
    let content = vec![7; 2 << 20];
    write(&client, 1, &content).await.unwrap();

    let mut held = Vec::new();
    for _ in 0..50 {
        let mut stream = client.open(file(1), (..).into()).await.unwrap();
        stream.try_next().await.unwrap();
        held.push(stream);
    }
    write(&client, 2, b"second").await.unwrap();
    drop(held);

    // More than a process may have open at once.
    for _ in 0..1500 {
        drop(client.open(file(2), (..).into()).await.unwrap());
    }
    let read = client.read(file(1), (..).into()).await.unwrap();
    assert_eq!(read.len(), content.len());
}

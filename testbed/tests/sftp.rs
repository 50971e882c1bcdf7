//! A client that isn't ours finds an SFTP server, and the test finds the files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use russh::client::{self, Handle};
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, ssh_key};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};
use tempfile::TempDir;
use testbed::SftpServer;

#[tokio::test]
async fn what_a_client_writes_the_test_sees_and_the_client_reads() {
    let (root, server) = server();
    let client = Client::of(&server).await;
    let sftp = &client.sftp;
    fs::create_dir(root.path().join("a")).expect("a folder");

    write(sftp, "/a/b", b"0123456789").await.expect("a write");
    let handle = sftp
        .open("/a/b", OpenFlags::READ, none())
        .await
        .expect("a handle");
    let part = sftp.read(&handle.handle, 2, 3).await.expect("a part");
    let end = sftp.read(&handle.handle, 10, 3).await;
    let size = sftp
        .fstat(&handle.handle)
        .await
        .expect("attributes")
        .attrs
        .size;
    let times = FileAttributes {
        atime: Some(8),
        mtime: Some(9),
        ..FileAttributes::empty()
    };
    sftp.setstat("/a/b", times).await.expect("times");

    let file = root.path().join("a/b");
    assert_eq!(fs::read(&file).expect("a file"), b"0123456789");
    assert_eq!(fs::metadata(&file).expect("a file").mtime(), 9);
    assert_eq!(part.data, b"234");
    assert_eq!(status(end), StatusCode::Eof);
    assert_eq!(size, Some(10));
    assert_eq!(server.requests("setstat"), 1);
}

#[tokio::test]
async fn paths_stay_below_the_root_and_relative_ones_begin_at_home() {
    let (root, server) = server();
    let client = Client::of(&server).await;

    write(&client.sftp, "a", b"x").await.expect("a write");
    write(&client.sftp, "../../../b", b"x")
        .await
        .expect("a write");
    let real = client.sftp.realpath(".").await.expect("a path");

    assert!(root.path().join("home/a").exists());
    assert!(root.path().join("b").exists());
    assert_eq!(real.files[0].filename, "/home");
}

#[tokio::test]
async fn renaming_replaces_only_by_the_extension() {
    let (root, server) = server();
    let client = Client::of(&server).await;
    let sftp = &client.sftp;
    write(sftp, "/a", b"new").await.expect("a write");
    write(sftp, "/b", b"old").await.expect("a write");

    let plain = sftp.rename("/a", "/b").await;
    let posix = posix_rename(sftp, "/a", "/b").await;
    server.refuse_extension("posix-rename@openssh.com");
    let refused = posix_rename(sftp, "/b", "/c").await;
    let second = Client::of(&server).await;

    assert_eq!(status(plain), StatusCode::Failure);
    assert_eq!(posix, StatusCode::Ok);
    assert_eq!(refused, StatusCode::OpUnsupported);
    assert_eq!(fs::read(root.path().join("b")).expect("a file"), b"new");
    let name = "posix-rename@openssh.com".to_owned();
    assert!(client.extensions.contains(&name), "{:?}", client.extensions);
    assert!(
        !second.extensions.contains(&name),
        "{:?}",
        second.extensions
    );
}

#[tokio::test]
async fn folders_are_listed_page_by_page() {
    let (root, server) = server();
    server.set_page_max(2);
    for name in ["a", "b", "c"] {
        fs::write(root.path().join("home").join(name), "x").expect("a file");
    }
    let sftp = Client::of(&server).await.sftp;

    let handle = sftp.opendir("/home").await.expect("a handle").handle;
    let mut names = Vec::new();
    let end = loop {
        match sftp.readdir(&handle).await {
            Ok(page) => names.extend(page.files.into_iter().map(|file| file.filename)),
            Err(error) => break status::<()>(Err(error)),
        }
    };

    names.sort();
    assert_eq!(names, [".", "..", "a", "b", "c"]);
    assert_eq!(end, StatusCode::Eof);
    assert_eq!(server.requests("readdir"), 4);
}

#[tokio::test]
async fn a_folder_can_be_opened_as_a_file_is_and_not_read() {
    let (_root, server) = server();
    let sftp = Client::of(&server).await.sftp;

    let handle = sftp.open("/home", OpenFlags::READ, none()).await;
    let handle = handle.expect("a handle").handle;
    let found = sftp.fstat(&handle).await.expect("attributes").attrs;
    let read = sftp.read(&handle, 0, 1).await;

    assert!(found.is_dir());
    assert_eq!(status(read), StatusCode::Failure);
}

#[tokio::test]
async fn one_read_in_seven_is_short_and_none_longer_than_the_limit() {
    const PIECE_MAX: usize = 255 << 10;
    let (root, server) = server();
    let sftp = Client::of(&server).await.sftp;
    fs::write(root.path().join("a"), vec![7; 1 << 20]).expect("a file");

    let limits = sftp.limits().await.expect("limits");
    let handle = sftp.open("/a", OpenFlags::READ, none()).await;
    let handle = handle.expect("a handle").handle;
    let mut lengths = Vec::new();
    for _ in 0..8 {
        let read = sftp.read(&handle, 0, 1 << 20).await.expect("a part");
        lengths.push(read.data.len());
    }

    assert_eq!(limits.max_read_len, PIECE_MAX as u64);
    assert_eq!(limits.max_write_len, PIECE_MAX as u64);
    assert_eq!(lengths[6], PIECE_MAX.div_ceil(2));
    lengths.remove(6);
    assert_eq!(lengths, [PIECE_MAX; 7]);
}

#[tokio::test]
async fn a_full_disk_and_a_denied_path_fail_as_openssh_has_it() {
    let (_root, server) = server();
    let sftp = Client::of(&server).await.sftp;
    server.set_free(8192);
    server.fail_writes_after(5);
    server.deny("/home/secret");

    let free = sftp.statvfs("/").await.expect("free space");
    let first = write(&sftp, "a", b"12345").await;
    let second = write(&sftp, "b", b"6").await;
    let denied = sftp.stat("secret/a").await;
    server.allow_everything();
    let allowed = write(&sftp, "b", b"6").await;

    assert_eq!(free.blocks_avail * free.fragment_size, 8192);
    first.expect("a write");
    assert_eq!(status(second), StatusCode::Failure);
    assert_eq!(status(denied), StatusCode::PermissionDenied);
    allowed.expect("a write");
}

#[tokio::test]
async fn a_client_that_does_not_know_the_host_key_shows_no_credentials() {
    let (_root, server) = server();
    let known = server.host_key();
    server.change_host_key();

    let stranger = connect(&server, &known).await;
    let logins = server.logins();
    let friend = Client::of(&server).await;

    assert!(stranger.is_err());
    assert_eq!(logins, 0);
    assert_eq!(server.logins(), 1);
    assert!(server.known_hosts_line().ends_with(&server.host_key()));
    drop(friend);
}

#[tokio::test]
async fn the_right_password_or_key_is_let_in_and_no_other() {
    let (_root, server) = server();
    let seed = |byte| ssh_key::private::Ed25519Keypair::from_seed(&[byte; 32]);
    let (known, unknown) = (PrivateKey::from(seed(1)), PrivateKey::from(seed(2)));
    server.authorize(&known.public_key().to_openssh().expect("a key's text"));
    let mut client = connect(&server, &server.host_key())
        .await
        .expect("a connection");
    let with_key = |key| PrivateKeyWithHashAlg::new(Arc::new(key), None);

    let wrong = client.authenticate_password(server.user(), "wrong").await;
    let stranger = client
        .authenticate_publickey(server.user(), with_key(unknown))
        .await;
    let friend = client
        .authenticate_publickey(server.user(), with_key(known))
        .await;

    assert!(!wrong.expect("an answer").success());
    assert!(!stranger.expect("an answer").success());
    assert!(friend.expect("an answer").success());
    assert!(server.logins() >= 3);
}

#[tokio::test]
async fn sessions_can_be_reset_and_the_server_restarted() {
    let (_root, server) = server();
    let client = Client::of(&server).await;

    server.close();
    let broken = client.sftp.stat("/").await;
    let refused = connect(&server, &server.host_key()).await;
    server.reopen();
    let again = Client::of(&server).await;

    assert!(broken.is_err());
    assert!(refused.is_err());
    again.sftp.stat("/").await.expect("attributes");
    assert_eq!(server.live_connections(), 1);
}

struct Client {
    sftp: RawSftpSession,
    extensions: Vec<String>,
    /// The session ends with it.
    _ssh: Handle<Known>,
}

impl Client {
    async fn of(server: &SftpServer) -> Self {
        let mut ssh = connect(server, &server.host_key())
            .await
            .expect("a connection");
        let answer = ssh
            .authenticate_password(server.user(), server.password())
            .await;
        assert!(answer.expect("an answer").success());
        let channel = ssh.channel_open_session().await.expect("a channel");
        channel
            .request_subsystem(true, "sftp")
            .await
            .expect("a subsystem");
        let sftp = RawSftpSession::new(channel.into_stream());
        let version = sftp.init().await.expect("a version");
        Self {
            sftp,
            extensions: version.extensions.into_keys().collect(),
            _ssh: ssh,
        }
    }
}

/// A client's knowledge of a host key.
struct Known(String);

impl client::Handler for Known {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = key else {
            return Ok(false);
        };
        Ok(key.to_openssh().is_ok_and(|key| key == self.0))
    }
}

fn server() -> (TempDir, SftpServer) {
    let root = tempfile::tempdir().expect("a temporary folder");
    let server = SftpServer::start(root.path());
    (root, server)
}

async fn connect(server: &SftpServer, key: &str) -> Result<Handle<Known>, russh::Error> {
    let config = Arc::new(client::Config::default());
    client::connect(config, server.address(), Known(key.to_owned())).await
}

async fn write(sftp: &RawSftpSession, path: &str, bytes: &[u8]) -> Result<(), Error> {
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
    let handle = sftp.open(path, flags, none()).await?.handle;
    let written = sftp.write(&handle, 0, bytes.to_vec()).await;
    sftp.close(&handle).await?;
    written.map(|_| ())
}

async fn posix_rename(sftp: &RawSftpSession, from: &str, to: &str) -> StatusCode {
    let mut data = Vec::new();
    for path in [from, to] {
        data.extend_from_slice(&(path.len() as u32).to_be_bytes());
        data.extend_from_slice(path.as_bytes());
    }
    match sftp.extended("posix-rename@openssh.com", data).await {
        Ok(Packet::Status(status)) => status.status_code,
        other => status(other),
    }
}

fn none() -> FileAttributes {
    FileAttributes::empty()
}

/// The status of what failed.
fn status<T>(result: Result<T, Error>) -> StatusCode {
    match result {
        Err(Error::Status(status)) => status.status_code,
        Err(error) => panic!("no status: {error}"),
        Ok(_) => panic!("it went well"),
    }
}

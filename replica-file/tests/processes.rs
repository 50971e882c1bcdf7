//! What takes a process of its own: to be killed, to write beside another, to have another
//! umask, to be another user.
//!
//! Such a test starts its own executable once more, for itself alone, and says in the
//! environment that it is the child. A child never passes: it ends with a status of its own, and
//! its parent asks for that.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use replica_core::{
    Body, ErrorKind, FileId, Level, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps, Txid,
    TxidRange,
};
use replica_file::FileClient;
use rustix::fs::Mode;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The status of a child that did all that it had to.
const DONE: i32 = 86;

/// Tells a child which folder it works in.
const FOLDER: &str = "REPLICA_FILE_TEST_CHILD";

const PATIENCE: Duration = Duration::from_secs(60);

/// A user without rights, who need not exist.
const NOBODY: u32 = 65534;

fn file(txid: u64) -> FileId {
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::new(txid).expect("the id is not 0")),
    }
}

fn runtime() -> Runtime {
    Runtime::new().expect("a machine that runs tests can run a runtime")
}

/// Does `work` with the child's folder and ends the process, where this is a child.
fn if_child(work: impl AsyncFnOnce(PathBuf)) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        runtime().block_on(work(folder.into()));
        std::process::exit(DONE);
    }
}

/// The test `name` in a process of its own, to work in `folder`.
fn child(name: &str, folder: &Path) -> Command {
    let executable = std::env::current_exe().expect("this is an executable");
    child_of(executable.into(), name, folder)
}

fn child_of(executable: OsString, name: &str, folder: &Path) -> Command {
    let mut command = Command::new(executable);
    command
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    command
}

/// Waits for `child` to end, and kills it where it does not.
fn expect_done(mut child: Child) {
    drop(child.stdin.take());
    let status = wait_for(|| child.try_wait().expect("it can be waited for"));
    if status.is_none() {
        // It may have ended just now.
        let _ = child.kill();
    }
    let status = status.expect("the child ends in time");
    assert_eq!(status.code(), Some(DONE), "{status}");
}

/// What `look` finds, or `None` where it finds nothing for too long.
fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Some(found) = look() {
            return Some(found);
        }
        std::thread::yield_now();
    }
    None
}

/// The temporary file below `root`, once there is one.
fn temporary(root: &Path) -> PathBuf {
    let found = wait_for(|| {
        let entries = fs::read_dir(root.join("ltx/0")).ok()?;
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.find(|path| path.extension().is_some_and(|extension| extension == "tmp"))
    });
    found.expect("the child begins to write")
}

/// A body that goes on when a byte comes in by the standard input, and until then has given
/// more than a client keeps in memory.
fn body_that_waits() -> Body {
    let begin = stream::once(async { Ok(vec![1; 3 << 20].into()) });
    let end = stream::once(async {
        let read = tokio::task::spawn_blocking(|| std::io::stdin().read_exact(&mut [0]));
        let read = read.await.expect("reading does not panic");
        read.expect("the parent sends a byte");
        Ok(vec![2].into())
    });
    Body::once(None, begin.chain(end).boxed())
}

async fn write_and_wait(root: PathBuf) {
    let written = FileClient::builder(root)
        .file_mode(0o444)
        .build()
        .write(file(1), Timestamp::EPOCH, body_that_waits())
        .await;
    written.expect("the write succeeds");
}

fn list(client: &FileClient) -> Vec<FileId> {
    let listed = runtime().block_on(client.list_all(Level::RAW, Txid::FIRST, Timestamps::Exact));
    let listed = listed.expect("the level can be listed");
    listed.into_iter().map(|info| info.id).collect()
}

#[test]
fn a_writer_that_is_killed_leaves_nothing_that_lasts() {
    if_child(write_and_wait);
    let dir = tempfile::tempdir().unwrap();
    let mut child = child(
        "a_writer_that_is_killed_leaves_nothing_that_lasts",
        dir.path(),
    )
    .spawn()
    .unwrap();
    let left_over = temporary(dir.path());
    let mode = left_over.metadata().unwrap().permissions().mode();
    assert_eq!(
        mode & 0o7777,
        0o600,
        "what is not whole is its writer's alone"
    );

    child.kill().unwrap();
    child.wait().unwrap();

    assert!(left_over.exists(), "nobody could clean up");
    let client = FileClient::new(dir.path());
    assert_eq!(list(&client), []);
    let error = runtime().block_on(client.read(file(1), (..).into()));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);

    let content = Body::from(b"again".to_vec());
    let written = runtime().block_on(client.write(file(1), Timestamp::EPOCH, content));
    written.unwrap();
    assert!(!left_over.exists(), "the next writer cleans up");
    assert_eq!(list(&client), [file(1)]);
}

#[test]
fn a_writer_in_another_process_is_not_swept_away() {
    if_child(write_and_wait);
    let dir = tempfile::tempdir().unwrap();
    let mut child = child("a_writer_in_another_process_is_not_swept_away", dir.path())
        .spawn()
        .unwrap();
    let being_written = temporary(dir.path());

    let client = FileClient::new(dir.path());
    let content = Body::from(b"beside".to_vec());
    let written = runtime().block_on(client.write(file(2), Timestamp::EPOCH, content));
    written.unwrap();
    assert!(being_written.exists());
    child.stdin.as_mut().unwrap().write_all(&[0]).unwrap();
    expect_done(child);

    assert_eq!(list(&client), [file(1), file(2)]);
    assert!(!being_written.exists());
}

/// The bodies that are written under one name: each of a size and a byte of its own.
fn content(writer: u8) -> Vec<u8> {
    vec![writer; 100_000 + usize::from(writer)]
}

async fn write_side_by_side(root: PathBuf) {
    let client = FileClient::new(&root);
    let writers = (0..4).map(|writer| {
        let (client, process) = (client.clone(), std::process::id() as u8 & 0x7c);
        async move {
            for _ in 0..25 {
                let body = Body::from(content(process + writer));
                let written = client.write(file(1), Timestamp::EPOCH, body).await;
                written.expect("the write succeeds");
            }
        }
    });
    futures::future::join_all(writers).await;
}

#[test]
fn two_processes_write_one_name_and_each_reader_sees_one_of_them_whole() {
    if_child(write_side_by_side);
    let name = "two_processes_write_one_name_and_each_reader_sees_one_of_them_whole";
    let dir = tempfile::tempdir().unwrap();
    let client = FileClient::new(dir.path());
    let runtime = runtime();
    let body = Body::from(content(1));
    runtime
        .block_on(client.write(file(1), Timestamp::EPOCH, body))
        .unwrap();

    let children = [(); 2].map(|()| child(name, dir.path()).spawn().unwrap());
    let waiting = std::thread::spawn(|| children.map(expect_done));
    let mut reads = 0;
    while !waiting.is_finished() || reads == 0 {
        let listed = list(&client);
        let read = runtime.block_on(client.read(file(1), (..).into())).unwrap();
        assert_eq!(listed, [file(1)]);
        assert!(read == content(read[0]), "a mixture");
        reads += 1;
    }
    waiting.join().unwrap();

    let left: Vec<_> = fs::read_dir(dir.path().join("ltx/0")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// The permission bits of the root, its folders and the file.
fn modes(root: &Path) -> [u32; 4] {
    ["", "ltx", "ltx/0", &format!("ltx/{}", file(1))].map(|path| {
        let meta = root.join(path).metadata().expect("it was written");
        meta.permissions().mode() & 0o7777
    })
}

async fn write_under_umasks(folder: PathBuf) {
    for umask in [0o000, 0o027, 0o077] {
        rustix::process::umask(Mode::from_raw_mode(umask));
        let root = folder.join(format!("default-{umask}"));
        let clients = [
            (FileClient::new(&root), root, [0o700, 0o700, 0o700, 0o600]),
            {
                let root = folder.join(format!("set-{umask}"));
                let client = FileClient::builder(&root)
                    .file_mode(0o640)
                    .dir_mode(0o2750)
                    .build();
                (client, root, [0o2750, 0o2750, 0o2750, 0o640])
            },
        ];
        for (client, root, expected) in clients {
            let body = Body::from(Vec::new());
            let written = client.write(file(1), Timestamp::EPOCH, body).await;
            written.expect("the write succeeds");
            assert_eq!(modes(&root), expected, "under umask {umask:o}");
        }
    }
}

#[test]
fn permissions_are_as_set_whatever_the_umask() {
    if_child(write_under_umasks);
    let dir = tempfile::tempdir().unwrap();

    let mut child = child("permissions_are_as_set_whatever_the_umask", dir.path());

    expect_done(child.spawn().unwrap());
}

async fn meet_permissions(root: PathBuf) {
    assert!(!rustix::process::geteuid().is_root());
    let client = FileClient::new(&root);
    let write = async |id| {
        let body = Body::from(b"content".to_vec());
        client.write(id, Timestamp::EPOCH, body).await
    };
    for txid in 1..=2 {
        write(file(txid)).await.expect("the folder is ours");
    }
    let set_mode = |path: &Path, mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(path, permissions).expect("it is ours");
    };
    let denied = |error: Option<replica_core::Error>, path: &Path| {
        let error = error.expect("the system denies it");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        let expected = format!("{}: permission denied", path.display());
        assert!(error.to_string().ends_with(&expected), "{error}");
        error
    };

    // A file that can't be read.
    let path = root.join(format!("ltx/{}", file(1)));
    set_mode(&path, 0o000);
    denied(client.read(file(1), (..).into()).await.err(), &path);

    // A folder that can't be written to.
    let level = root.join("ltx/0");
    set_mode(&level, 0o500);
    let error = write(file(3)).await.err();
    let error = error.expect("the system denies it");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let error = denied(client.delete(&[file(1), file(3)]).await.err(), &path);
    assert_eq!(error.files(), [file(1)]);
    let error = client.delete_all().await.err();
    let error = error.expect("the system denies it");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");

    // A folder that can't be read.
    set_mode(&level, 0o000);
    let listed = client.list(Level::RAW, Txid::FIRST, Timestamps::Fast).await;
    denied(listed.err(), &level);

    // A root that can't be made.
    let parent = root.join("read-only");
    fs::create_dir(&parent).expect("the folder is ours");
    set_mode(&parent, 0o500);
    let below = FileClient::new(parent.join("db"));
    let body = Body::from(Vec::new());
    let error = below.write(file(1), Timestamp::EPOCH, body).await.err();
    denied(error, &parent.join("db"));

    // A root that someone else has made in a folder that can't be read.
    let parent = root.join("unreadable");
    fs::create_dir_all(parent.join("db")).expect("the folder is ours");
    set_mode(&parent, 0o300);
    let below = FileClient::new(parent.join("db"));
    let body = Body::from(Vec::new());
    let written = below.write(file(1), Timestamp::EPOCH, body).await;
    written.expect("the root itself can be written to");
    set_mode(&parent, 0o700);

    set_mode(&level, 0o700);
    client.delete_all().await.expect("the folder is ours again");
}

/// A folder that anyone can reach, with a copy of this executable that anyone can run: the build
/// folder may lie where only its owner can go.
fn reachable_copy() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let everyone = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), everyone.clone()).expect("it is ours");
    let copy = dir.path().join("test");
    let executable = std::env::current_exe().expect("this is an executable");
    fs::copy(executable, &copy).expect("an executable can be copied");
    fs::set_permissions(&copy, everyone).expect("it is ours");
    (dir, copy)
}

#[test]
fn what_permissions_forbid_is_told_as_such() {
    if_child(meet_permissions);
    let (dir, executable) = reachable_copy();
    let root = dir.path().join("db");
    fs::create_dir(&root).unwrap();

    let name = "what_permissions_forbid_is_told_as_such";
    let mut child = child_of(executable.into(), name, &root);
    child.current_dir(dir.path());
    // Permissions do not bind the superuser, so that a test run by one is done by another user.
    if rustix::process::geteuid().is_root() {
        chown(&root, Some(NOBODY), Some(NOBODY)).unwrap();
        child.uid(NOBODY).gid(NOBODY);
    }

    expect_done(child.spawn().unwrap());
}

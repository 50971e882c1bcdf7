//! What only a folder can be asked: its paths, links, permissions, open files and sizes.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ByteRange, Error, ErrorKind, FileId, Level, ReplicaClient, ReplicaClientExt, Result,
    Timestamp, Timestamps, Txid, TxidRange,
};
use replica_file::FileClient;
use rustix::fs::{CWD, Mode};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(20);

fn file(txid: u64) -> FileId {
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::new(txid).expect("the id is not 0")),
    }
}

/// A folder, and a client whose root is `db` in it.
fn replica() -> (TempDir, FileClient) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let client = FileClient::new(dir.path().join("db"));
    (dir, client)
}

fn path(dir: &TempDir, id: FileId) -> PathBuf {
    dir.path().join(format!("db/ltx/{id}"))
}

async fn write(client: &FileClient, id: FileId, content: &'static [u8]) {
    let body = Body::from(content);
    let written = client.write(id, Timestamp::EPOCH, body).await;
    written.expect("the file can be written");
}

async fn list(client: &FileClient) -> Result<Vec<FileId>> {
    let files = client
        .list_all(Level::RAW, Txid::FIRST, Timestamps::Exact)
        .await?;
    Ok(files.into_iter().map(|info| info.id).collect())
}

/// Everything below `dir`, as sorted paths relative to it.
fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            found.push(
                path.strip_prefix(dir)
                    .expect("it lies below")
                    .display()
                    .to_string(),
            );
            if path.symlink_metadata().expect("it exists").is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Every call on `client` gives an error of `kind` that says `message`.
async fn check_refused(client: &FileClient, kind: ErrorKind, message: &str) {
    let body = Body::from(Vec::new());
    let errors: [Option<Error>; 5] = [
        list(client).await.err(),
        client.read(file(1), (..).into()).await.err(),
        client.write(file(1), Timestamp::EPOCH, body).await.err(),
        client.delete(&[file(1)]).await.err(),
        client.delete_all().await.err(),
    ];
    for error in errors {
        let error = error.expect("the call is refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
}

#[tokio::test]
async fn paths_are_litestreams() {
    let (dir, client) = replica();
    let txids = TxidRange::new(Txid::new(0xab).unwrap(), Txid::new(0xcdef).unwrap()).unwrap();

    for level in Level::ALL {
        write(&client, FileId { level, txids }, b"").await;
    }

    let mut expected = vec!["ltx".to_owned()];
    for level in 0..=9 {
        expected.push(format!("ltx/{level}"));
        expected.push(format!("ltx/{level}/00000000000000ab-000000000000cdef.ltx"));
    }
    assert_eq!(tree(&dir.path().join("db")), expected);
}

#[test]
fn what_is_no_file_of_the_replica_is_never_listed_or_opened() {
    let (dir, client) = replica();
    let runtime = Runtime::new().unwrap();
    runtime.block_on(write(&client, file(1), b"real"));
    let level = dir.path().join("db/ltx/0");
    for name in [
        "0000000000000001-0000000000000001.ltx.tmp",
        "000000000000000A-000000000000000A.ltx",
        "000000000000002-0000000000000002.ltx",
        "00000000000000002-0000000000000002.ltx",
        "0000000000000000-0000000000000002.ltx",
        "0000000000000003-0000000000000002.ltx",
        "marker",
        "\u{1F4BE}",
    ] {
        fs::write(level.join(name), "foreign").unwrap();
    }
    fs::create_dir(level.join("sub")).unwrap();
    fs::write(level.join("sub").join(file(2).txids.to_string()), "").unwrap();
    fs::create_dir(path(&dir, file(3))).unwrap();
    symlink(path(&dir, file(1)), path(&dir, file(4))).unwrap();
    symlink("nowhere", path(&dir, file(5))).unwrap();
    rustix::fs::mkfifoat(CWD, path(&dir, file(6)), Mode::RUSR).unwrap();
    drop(std::os::unix::net::UnixListener::bind(path(&dir, file(7))).unwrap());

    let listed = runtime.block_on(list(&client)).unwrap();
    let opened = [2, 3, 4, 5, 6, 7].map(|txid| {
        let opening = client.open(file(txid), (..).into());
        runtime.block_on(async { tokio::time::timeout(PATIENCE, opening).await })
    });
    // Not waiting for a thread that waits for the other end of a pipe.
    runtime.shutdown_background();

    assert_eq!(listed, [file(1)]);
    for opened in opened {
        let error = opened.expect("nothing is waited for").err();
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::NotFound));
    }
}

#[tokio::test]
async fn a_folder_with_the_name_of_a_file_is_in_the_way_of_a_write_alone() {
    let (dir, client) = replica();
    fs::create_dir_all(path(&dir, file(1)).join("sub")).unwrap();

    let body = Body::from(Vec::new());
    let error = client.write(file(1), Timestamp::EPOCH, body).await;
    client.delete(&[file(1)]).await.unwrap();

    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(
        error.to_string().ends_with("something else has that name"),
        "{error}"
    );
    assert_eq!(tree(&dir.path().join("db/ltx/0")).len(), 2);
}

#[tokio::test]
async fn a_link_with_the_name_of_a_file_is_replaced_and_not_followed() {
    let (dir, client) = replica();
    let outside = dir.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    fs::create_dir_all(dir.path().join("db/ltx/0")).unwrap();
    symlink(&outside, path(&dir, file(1))).unwrap();

    write(&client, file(1), b"new").await;

    assert_eq!(client.read(file(1), (..).into()).await.unwrap(), b"new"[..]);
    assert_eq!(fs::read(&outside).unwrap(), b"untouched");
}

#[tokio::test]
async fn the_root_may_be_a_symbolic_link() {
    let (dir, client) = replica();
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    symlink(&real, dir.path().join("db")).unwrap();

    write(&client, file(1), b"content").await;
    let listed = list(&client).await.unwrap();
    client.delete_all().await.unwrap();

    assert_eq!(listed, [file(1)]);
    assert_eq!(tree(dir.path()), ["db", "real"]);
}

#[tokio::test]
async fn a_root_behind_a_link_that_leads_nowhere_is_no_empty_replica() {
    let (dir, client) = replica();
    symlink("nowhere", dir.path().join("db")).unwrap();
    let below = FileClient::new(dir.path().join("db/below/it"));

    for client in [client, below] {
        check_refused(
            &client,
            ErrorKind::Invalid,
            "db is a symbolic link that leads nowhere",
        )
        .await;
    }

    assert_eq!(tree(dir.path()), ["db"]);
}

#[tokio::test]
async fn no_link_below_the_root_is_followed() {
    for link in ["db/ltx", "db/ltx/0"] {
        let (dir, client) = replica();
        let outside = FileClient::new(dir.path().join("outside"));
        write(&outside, file(1), b"untouched").await;
        let link = dir.path().join(link);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let target = match link.ends_with("ltx") {
            true => "outside/ltx",
            false => "outside/ltx/0",
        };
        symlink(dir.path().join(target), &link).unwrap();

        let errors = [
            list(&client).await.unwrap_err(),
            client.read(file(1), (..).into()).await.unwrap_err(),
            client.delete(&[file(1)]).await.unwrap_err(),
            client
                .write(file(2), Timestamp::EPOCH, Body::from(Vec::new()))
                .await
                .unwrap_err(),
        ];
        client.delete_all().await.unwrap();

        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            assert!(
                error.to_string().contains(link.to_str().unwrap()),
                "{error}"
            );
        }
        assert!(
            link.symlink_metadata().is_err(),
            "the link itself is deleted"
        );
        assert_eq!(list(&outside).await.unwrap(), [file(1)]);
    }
}

#[tokio::test]
async fn deleting_all_takes_everything_below_the_root_and_nothing_beside_it() {
    let (dir, client) = replica();
    write(&client, file(1), b"content").await;
    let root = dir.path().join("db");
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/c/foreign"), "").unwrap();
    fs::write(root.join("ltx/0/left-over.tmp"), "").unwrap();
    fs::write(dir.path().join("beside"), "").unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/file"), "").unwrap();
    symlink(dir.path().join("outside"), root.join("a/link")).unwrap();
    symlink("..", root.join("a/up")).unwrap();

    client.delete_all().await.unwrap();

    assert_eq!(tree(dir.path()), ["beside", "outside", "outside/file"]);
    write(&client, file(1), b"again").await;
    assert_eq!(list(&client).await.unwrap(), [file(1)]);
}

#[tokio::test]
async fn deleting_all_says_when_folders_are_too_deep() {
    let (dir, client) = replica();
    let mut deep = dir.path().join("db");
    deep.extend(["d"; 70]);
    fs::create_dir_all(&deep).unwrap();

    let error = client.delete_all().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Other);
    assert!(
        error.to_string().ends_with("is too deep to be deleted"),
        "{error}"
    );
}

#[tokio::test]
async fn a_root_that_is_a_file_or_below_one_is_invalid() {
    let (dir, client) = replica();
    fs::write(dir.path().join("db"), "a file").unwrap();
    let below = FileClient::new(dir.path().join("db/below"));

    for client in [client, below] {
        check_refused(&client, ErrorKind::Invalid, "it is not a folder").await;
    }

    assert_eq!(fs::read(dir.path().join("db")).unwrap(), b"a file");
}

#[tokio::test]
async fn a_root_without_a_name_is_invalid() {
    check_refused(
        &FileClient::new(""),
        ErrorKind::Invalid,
        "the path of the replica is empty",
    )
    .await;
    check_refused(&FileClient::new("/a\0b"), ErrorKind::Invalid, "").await;
}

#[tokio::test]
async fn reading_makes_nothing() {
    let (dir, client) = replica();

    let listed = list(&client).await.unwrap();
    let error = client.read(file(1), (..).into()).await.unwrap_err();
    client.delete(&[file(1)]).await.unwrap();
    client.delete_all().await.unwrap();

    assert_eq!(listed, []);
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(tree(dir.path()), [""; 0]);
}

#[tokio::test]
async fn a_file_beyond_4_gib_is_listed_and_read() {
    const GIB: u64 = 1 << 30;
    let (dir, client) = replica();
    write(&client, file(1), b"").await;
    let sparse = OpenOptions::new()
        .write(true)
        .open(path(&dir, file(1)))
        .unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 5 * GIB).unwrap();

    let size = client
        .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .unwrap()[0]
        .size;
    let tail = client.read(file(1), (5 * GIB - 1..).into()).await.unwrap();

    assert_eq!(size, 5 * GIB + 3);
    assert_eq!(tail, b"\0end"[..]);
}

#[tokio::test]
async fn a_file_that_is_cut_while_it_is_read_ends_in_an_error() {
    let (dir, client) = replica();
    let body = Body::from(vec![7; 4 << 20]);
    client.write(file(1), Timestamp::EPOCH, body).await.unwrap();

    let mut stream = client.open(file(1), ByteRange::ALL).await.unwrap();
    stream.try_next().await.unwrap();
    let opened = OpenOptions::new().write(true).open(path(&dir, file(1)));
    opened.unwrap().set_len(3 << 20).unwrap();
    let rest = stream.try_collect::<Vec<_>>().await;

    let error = rest.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(
        error.to_string().contains("ends after 3145728 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_that_is_replaced_while_it_is_read_is_read_as_it_was() {
    let (_dir, client) = replica();
    let body = |fill| Body::from(vec![fill; 4 << 20]);
    client
        .write(file(1), Timestamp::EPOCH, body(1))
        .await
        .unwrap();

    let mut stream = client.open(file(1), ByteRange::ALL).await.unwrap();
    let mut read = stream.try_next().await.unwrap().unwrap().to_vec();
    client
        .write(file(1), Timestamp::EPOCH, body(2))
        .await
        .unwrap();
    while let Some(chunk) = stream.try_next().await.unwrap() {
        read.extend_from_slice(&chunk);
    }

    assert!(read == [1; 4 << 20]);
}

/// How many files below `dir` this process has open.
#[cfg(target_os = "linux")]
fn open_files(dir: &TempDir) -> usize {
    let root = dir.path().canonicalize().expect("it exists");
    fs::read_dir("/proc/self/fd")
        .expect("Linux tells")
        .filter_map(|fd| fs::read_link(fd.ok()?.path()).ok())
        .filter(|opened| opened.starts_with(&root))
        .count()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_stream_that_ends_holds_no_file_open() {
    let (dir, client) = replica();
    for txid in 1..=2000 {
        fs::create_dir_all(dir.path().join("db/ltx/0")).unwrap();
        File::create(path(&dir, file(txid))).unwrap();
    }
    let body = Body::from(vec![7; 2 << 20]);
    client.write(file(1), Timestamp::EPOCH, body).await.unwrap();

    let mut reading = client.open(file(1), ByteRange::ALL).await.unwrap();
    let mut listing = client
        .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .unwrap();
    assert_eq!(open_files(&dir), 2);
    while reading.try_next().await.unwrap().is_some() {}
    while listing.try_next().await.unwrap().is_some() {}

    assert_eq!(open_files(&dir), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_stream_that_is_dropped_holds_no_file_open() {
    let (dir, client) = replica();
    let runtime = Runtime::new().unwrap();

    runtime.block_on(async {
        let body = Body::from(vec![7; 8 << 20]);
        client.write(file(1), Timestamp::EPOCH, body).await.unwrap();
        for _ in 0..100 {
            let mut stream = client.open(file(1), ByteRange::ALL).await.unwrap();
            stream.try_next().await.unwrap();
        }
    });
    // A chunk that was being read ahead is read to its end.
    runtime.shutdown_timeout(PATIENCE);

    assert_eq!(open_files(&dir), 0);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_small_range_is_read_when_it_is_opened() {
    let (dir, client) = replica();
    let body = Body::from(vec![7; 1 << 20]);
    client.write(file(1), Timestamp::EPOCH, body).await.unwrap();

    let stream = client.open(file(1), (1000..50_000).into()).await.unwrap();

    assert_eq!(open_files(&dir), 0);
    let read: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(read.concat(), [7; 49_000]);
}

#[test]
fn readers_that_pause_hold_no_thread() {
    let (_dir, client) = replica();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .unwrap();

    let busy = async {
        let body = Body::from(vec![7; 2 << 20]);
        client.write(file(1), Timestamp::EPOCH, body).await.unwrap();
        let mut paused = Vec::new();
        for _ in 0..20 {
            let mut stream = client.open(file(1), ByteRange::ALL).await.unwrap();
            stream.try_next().await.unwrap();
            paused.push(stream);
        }
        let stalled = Body::once(None, {
            let begun = stream::once(async { Ok(vec![7; 2 << 20].into()) });
            begun.chain(stream::pending()).boxed()
        });
        let stalled = client.write(file(2), Timestamp::EPOCH, stalled);
        tokio::select! {
            result = stalled => panic!("its body never ends: {result:?}"),
            () = write(&client, file(3), b"not held up") => {}
        }
        list(&client).await.unwrap()
    };
    let listed = runtime.block_on(async { tokio::time::timeout(PATIENCE, busy).await });

    assert_eq!(listed.expect("one thread is enough"), [file(1), file(3)]);
}

#[tokio::test]
async fn a_write_that_is_under_way_is_not_swept() {
    let (dir, client) = replica();
    let (go_on, wait) = futures::channel::oneshot::channel::<()>();
    let body = stream::once(async { Ok(vec![1; 2 << 20].into()) }).chain(stream::once(async {
        wait.await.unwrap();
        Ok(vec![2].into())
    }));
    let level = dir.path().join("db/ltx/0");

    let slow = client.write(file(1), Timestamp::EPOCH, Body::once(None, body.boxed()));
    let others = async {
        while !level.exists() || tree(&level).is_empty() {
            tokio::task::yield_now().await;
        }
        let other = FileClient::new(dir.path().join("db"));
        write(&other, file(2), b"first of its client").await;
        go_on.send(()).unwrap();
    };
    let (slow, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(slow, others) })
        .await
        .unwrap();

    assert_eq!(slow.unwrap().size, (2 << 20) + 1);
    assert_eq!(tree(&level).len(), 2);
}

#[tokio::test]
async fn a_failed_write_has_cleaned_up_when_it_returns() {
    let (dir, client) = replica();
    let failing = |begin: usize| {
        stream::once(async move { Ok(vec![7; begin].into()) })
            .chain(stream::once(async {
                Err(Error::new(ErrorKind::Unavailable, "the source broke"))
            }))
            .boxed()
    };

    for begin in [0, 100, 1 << 20, 3 << 20] {
        for len in [None, Some(9)] {
            let body = Body::once(len, failing(begin));
            let error = client.write(file(1), Timestamp::EPOCH, body).await;

            error.unwrap_err();
            let left = tree(dir.path());
            assert!(!left.iter().any(|path| path.contains(".ltx")), "{left:?}");
        }
    }
}

#[tokio::test]
async fn far_times_are_exact_or_refused() {
    // On the disk the project is built on: a file system in memory may hold every time.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let client = FileClient::new(dir.path().join("db"));
    const YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1000;
    let times = [
        -1,
        -YEAR_MS,
        -1000 * YEAR_MS,
        68 * YEAR_MS + 1,
        137 * YEAR_MS + 999,
        1000 * YEAR_MS,
        i64::MIN,
        i64::MAX,
    ];

    for millis in times {
        let time = Timestamp::from_millis(millis);
        let written = client.write(file(1), time, Body::from(Vec::new())).await;
        let listed = client
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Exact)
            .await
            .unwrap();

        match written {
            Ok(info) => assert_eq!((info.created_at, &listed[..]), (time, &[info][..])),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
                assert_eq!(listed, []);
            }
        }
        client.delete_all().await.unwrap();
    }
}

#[tokio::test]
async fn a_time_finer_than_a_millisecond_is_rounded_down() {
    let (dir, client) = replica();
    write(&client, file(1), b"").await;
    let opened = File::options()
        .write(true)
        .open(path(&dir, file(1)))
        .unwrap();

    for (nanos, millis) in [(1_999_999, 1), (999_999, 0)] {
        let time = std::time::UNIX_EPOCH + Duration::from_nanos(nanos);
        opened.set_modified(time).unwrap();
        let listed = client
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Exact)
            .await;

        assert_eq!(
            listed.unwrap()[0].created_at,
            Timestamp::from_millis(millis)
        );
    }
    let before = std::time::UNIX_EPOCH - Duration::from_micros(1500);
    opened.set_modified(before).unwrap();
    let listed = client
        .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await;
    assert_eq!(listed.unwrap()[0].created_at, Timestamp::from_millis(-2));
}

/// A listing once read the names of its level a single time. Where a file system moves the entry of
/// a file that is replaced (tmpfs, Btrfs), one that was replaced ahead of the reader turned up
/// behind it: most listings of a busy folder lacked files that had been there all along, and a
/// restore saw a gap.
#[test]
fn files_that_are_replaced_during_a_listing_are_listed() {
    const FILES: u64 = 3000;
    const REPLACED: u64 = 2_000;
    // A file system in memory, where there is one: it is fast enough to be busy.
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    let dir = dir.unwrap();
    let client = FileClient::new(dir.path().join("db"));
    fs::create_dir_all(dir.path().join("db/ltx/0")).unwrap();
    let expected: Vec<_> = (1..=FILES).map(file).collect();
    for id in &expected {
        File::create(path(&dir, *id)).unwrap();
    }
    let runtime = Runtime::new().unwrap();

    let is_done = AtomicBool::new(false);
    let replaced = AtomicU64::new(0);
    let start = Instant::now();
    let mut listings = 0;
    let missing = std::thread::scope(|scope| {
        scope.spawn(|| {
            let temporary = dir.path().join("db/ltx/0/temporary");
            while !is_done.load(Ordering::Relaxed) {
                let count = replaced.fetch_add(1, Ordering::Relaxed);
                File::create(&temporary).unwrap();
                fs::rename(&temporary, path(&dir, file(count * 1237 % FILES + 1))).unwrap();
            }
        });
        let mut missing = 0;
        while listings < 20 || replaced.load(Ordering::Relaxed) < REPLACED {
            listings += 1;
            // No panic here: the other thread would be waited for, and go on for ever.
            let listed = runtime.block_on(list(&client));
            missing += usize::from(!listed.is_ok_and(|listed| listed == expected));
            if start.elapsed() > PATIENCE {
                break;
            }
        }
        is_done.store(true, Ordering::Relaxed);
        missing
    });

    assert!(replaced.into_inner() >= REPLACED, "the folder was not busy");
    assert_eq!(missing, 0, "of {listings} listings lack files");
}

#[tokio::test]
async fn a_folder_that_is_there_keeps_its_permissions() {
    let (dir, client) = replica();
    let root = dir.path().join("db");
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();

    write(&client, file(1), b"").await;

    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&root), 0o755);
    assert_eq!(mode(&root.join("ltx")), 0o700);
}

#[test]
fn a_relative_root_stays_where_it_was() {
    let here = std::env::current_dir().unwrap().join("db");

    let client = FileClient::new("db");

    let debug = format!("{client:?}");
    assert!(debug.contains(&format!("{here:?}")), "{debug}");
}

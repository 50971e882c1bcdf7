//! What a restore does at its target, and does not.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ltx::{Checksum, DatabaseChecksum, Pgno};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, Op,
    ReplicaClient, Result as StoreResult, Timestamp, Timestamps, Txid,
};
use replica_engine::{Existing, Progress, RestoreError, RestoreOptions, Target, restore};
use replica_mock::{MockClient, file};
use rusqlite::Connection;

use crate::support::{Made, Output, database, page, small};

async fn fails(replica: &MockClient, options: &RestoreOptions) -> RestoreError {
    let result = restore(Arc::new(replica.clone()), options, |_| {}).await;
    result.expect_err("the restore should fail")
}

/// The options that put a database in the place of another.
fn replacing(output: &Output) -> RestoreOptions {
    let mut options = output.options(Target::Latest);
    options.existing = Existing::Replace;
    options
}

#[tokio::test]
async fn a_database_is_for_its_owner_only_unless_told_otherwise() {
    let (replica, _) = small();
    for (mode, wanted) in [(None, 0o600), (Some(0o640), 0o640)] {
        let output = Output::new();
        let mut options = output.options(Target::Latest);
        options.mode = mode.unwrap_or(options.mode);

        restore(Arc::new(replica.clone()), &options, |_| {})
            .await
            .unwrap();

        let permissions = fs::metadata(output.path()).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, wanted);
    }
}

#[tokio::test]
async fn what_exists_is_refused_before_anything_is_fetched() {
    let (replica, _) = small();
    for name in [
        "restored.db",
        "restored.db-wal",
        "restored.db-shm",
        "restored.db-journal",
    ] {
        let output = Output::new();
        let there = output.folder().join(name);
        fs::write(&there, "precious").unwrap();

        let error = fails(&replica, &output.options(Target::Latest)).await;

        assert!(
            error.to_string().starts_with(&there.display().to_string()),
            "{error}"
        );
        assert_eq!(fs::read(&there).unwrap(), b"precious");
        assert_eq!(output.names(), [name]);
        assert!(replica.calls().is_empty());
    }
}

#[tokio::test]
async fn a_link_that_leads_nowhere_exists_too() {
    let (replica, _) = small();
    let output = Output::new();
    symlink("nowhere", output.path()).unwrap();

    let error = fails(&replica, &output.options(Target::Latest)).await;

    assert!(
        matches!(error, RestoreError::TargetExists { .. }),
        "{error}"
    );
}

/// Puts a file at `name` as soon as the restore has been planned.
fn appear(output: &Output, name: &str) -> impl Fn(Progress) + Send + Sync + 'static {
    let path = output.folder().join(name);
    move |progress| {
        if matches!(progress, Progress::Planned { .. }) {
            fs::write(&path, "precious").unwrap();
        }
    }
}

#[tokio::test]
async fn what_appears_meanwhile_is_not_overwritten() {
    let (replica, _) = small();
    for name in ["restored.db", "restored.db-wal"] {
        let output = Output::new();
        let options = output.options(Target::Latest);

        let result = restore(Arc::new(replica.clone()), &options, appear(&output, name)).await;

        let error = result.expect_err("something has appeared");
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(fs::read(output.folder().join(name)).unwrap(), b"precious");
        assert_eq!(output.names(), [name]);
    }
}

#[tokio::test]
async fn an_old_database_is_replaced_with_all_that_is_beside_it() {
    let (replica, states) = small();
    let output = Output::new();
    for name in [
        "restored.db",
        "restored.db-wal",
        "restored.db-shm",
        "restored.db-journal",
    ] {
        fs::write(output.folder().join(name), "old").unwrap();
    }

    restore(Arc::new(replica), &replacing(&output), |_| {})
        .await
        .unwrap();

    assert_eq!(output.content(), states[2]);
    assert_eq!(output.names(), ["restored.db"]);
}

/// A forced restore made a database that a group could read its owner's only: the application that
/// had it open as another user was locked out.
#[tokio::test]
async fn a_database_that_is_replaced_keeps_its_permissions() {
    let (replica, _) = small();
    for mode in [0o644, 0o660, 0o400] {
        let output = Output::new();
        fs::write(output.path(), "old").unwrap();
        fs::set_permissions(output.path(), fs::Permissions::from_mode(mode)).unwrap();
        let old = fs::metadata(output.path()).unwrap();

        restore(Arc::new(replica.clone()), &replacing(&output), |_| {})
            .await
            .unwrap();

        let new = fs::metadata(output.path()).unwrap();
        assert_eq!(new.permissions().mode() & 0o777, mode);
        assert_eq!((new.uid(), new.gid()), (old.uid(), old.gid()));
    }
}

/// An application that has the database at the target open, in WAL mode or just reading.
fn application(output: &Output, is_wal: bool) -> Connection {
    let connection = Connection::open(output.path()).expect("a database can be opened");
    let used = match is_wal {
        true => "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS t(a)",
        false => {
            "PRAGMA journal_mode=DELETE; CREATE TABLE IF NOT EXISTS t(a); BEGIN; SELECT * FROM t"
        }
    };
    connection.execute_batch(used).expect("it can be used");
    connection
}

/// A forced restore took the name from a database that an application had open, which went on with
/// a file that nobody would find again.
#[tokio::test]
async fn a_database_that_somebody_has_open_is_not_replaced() {
    let (replica, states) = small();
    for is_wal in [true, false] {
        let output = Output::new();
        let application = application(&output, is_wal);
        let mut before = output.names();

        let error = fails(&replica, &replacing(&output)).await;

        assert!(matches!(error, RestoreError::Occupied { .. }), "{error}");
        assert!(replica.calls().is_empty(), "before anything is fetched");
        let mut after = output.names();
        before.sort_unstable();
        after.sort_unstable();
        assert_eq!(after, before);
        let written = application.execute_batch("INSERT INTO t VALUES(1)");
        written.expect("it goes on as before");
        drop(application);
        let restored = restore(Arc::new(replica.clone()), &replacing(&output), |_| {}).await;
        restored.expect("nobody has it open any more");
        assert_eq!(output.content(), states[2]);
        replica.clear_calls();
    }
}

#[tokio::test]
async fn a_database_that_is_opened_meanwhile_is_not_replaced() {
    let (replica, _) = small();
    let output = Arc::new(Output::new());
    drop(application(&output, true));
    let opened = Arc::new(Mutex::new(None));
    let open = {
        let (output, opened) = (Arc::clone(&output), Arc::clone(&opened));
        move |progress| {
            if matches!(progress, Progress::Planned { .. }) {
                *opened.lock().expect("nobody panics with it") = Some(application(&output, true));
            }
        }
    };

    let result = restore(Arc::new(replica), &replacing(&output), open).await;

    let error = result.expect_err("it is open");
    assert!(matches!(error, RestoreError::Occupied { .. }), "{error}");
    let mut opened = opened.lock().expect("nobody panics with it");
    let application = opened.take().expect("it was planned");
    let written = application.execute_batch("INSERT INTO t VALUES(1)");
    written.expect("it goes on as before");
}

/// Who crashed has nothing open, and its log is not touched before the new database is whole.
#[tokio::test]
async fn to_ask_who_has_a_database_open_changes_nothing() {
    let (replica, _) = small();
    replica.corrupt(file(0, 3..=3), 110);
    for has_log in [true, false] {
        let (crashed, output) = (Output::new(), Output::new());
        let application = application(&crashed, true);
        for suffix in ["", "-wal"].iter().take(1 + usize::from(has_log)) {
            let name = format!("restored.db{suffix}");
            // By another process, because one that closes a file loses its locks.
            let copied = std::process::Command::new("cp")
                .arg(crashed.folder().join(&name))
                .arg(output.folder().join(&name))
                .status();
            assert!(copied.expect("cp should run").success());
        }
        drop(application);
        let state = || -> Vec<(String, Vec<u8>)> {
            let read = |name: &String| fs::read(output.folder().join(name)).expect("it is there");
            let mut names = output.names();
            names.sort_unstable();
            names
                .into_iter()
                .map(|name| (name.clone(), read(&name)))
                .collect()
        };
        let before = state();

        let error = fails(&replica, &replacing(&output)).await;

        assert!(matches!(error, RestoreError::Damaged { .. }), "{error}");
        assert_eq!(state(), before, "with a log: {has_log}");
    }
}

/// A forced restore put a database in the place of a socket, and would have done so with a device.
#[tokio::test]
async fn only_a_file_is_replaced() {
    let (replica, _) = small();
    let output = Output::new();
    let _socket = std::os::unix::net::UnixListener::bind(output.path()).unwrap();

    let error = fails(&replica, &replacing(&output)).await;

    assert!(matches!(error, RestoreError::NotAFile { .. }), "{error}");
    assert!(!fs::symlink_metadata(output.path()).unwrap().is_file());
    assert!(replica.calls().is_empty());
}

#[tokio::test]
async fn an_old_database_stays_as_it_was_until_the_new_one_is_whole() {
    let (replica, _) = small();
    replica.corrupt(file(0, 3..=3), 110);
    let output = Output::new();
    fs::write(output.path(), "old").unwrap();
    fs::write(output.folder().join("restored.db-wal"), "old log").unwrap();

    let error = fails(&replica, &replacing(&output)).await;

    assert!(matches!(error, RestoreError::Damaged { .. }), "{error}");
    assert_eq!(output.content(), b"old");
    assert_eq!(
        fs::read(output.folder().join("restored.db-wal")).unwrap(),
        b"old log"
    );
    assert_eq!(output.names().len(), 2, "{:?}", output.names());
}

#[tokio::test]
async fn what_a_link_leads_to_is_replaced_and_not_the_link() {
    let (replica, states) = small();
    let output = Output::new();
    let real = output.folder().join("real.db");
    fs::write(&real, "old").unwrap();
    symlink("real.db", output.path()).unwrap();

    restore(Arc::new(replica), &replacing(&output), |_| {})
        .await
        .unwrap();

    assert!(output.path().symlink_metadata().unwrap().is_symlink());
    assert_eq!(fs::read(&real).unwrap(), states[2]);
}

#[tokio::test]
async fn a_folder_is_no_target() {
    let (replica, _) = small();
    let output = Output::new();
    fs::create_dir(output.path()).unwrap();
    for mut options in [output.options(Target::Latest), replacing(&output)] {
        let error = fails(&replica, &options).await;
        assert!(matches!(error, RestoreError::NotAFile { .. }), "{error}");

        options.output = "/".into();
        let error = fails(&replica, &options).await;
        assert!(matches!(error, RestoreError::NotAFile { .. }), "{error}");
    }
    assert!(replica.calls().is_empty());
}

#[tokio::test]
async fn a_folder_that_can_not_be_written_to_is_told_before_anything_is_fetched() {
    let (replica, _) = small();
    let output = Output::new();
    fs::write(output.folder().join("file"), "").unwrap();
    for (folder, says) in [
        ("missing", "it does not exist, so make it first"),
        ("file", "it is not a folder"),
    ] {
        let folder = output.folder().join(folder);

        let error = fails(&replica, &RestoreOptions::new(folder.join("x.db"))).await;

        assert_eq!(
            error.to_string(),
            format!("can't write in {}: {says}", folder.display())
        );
    }
    assert!(replica.calls().is_empty());
}

/// "can't write in /proc: it does not exist, so make it first".
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_folder_that_takes_no_files_is_not_said_to_be_missing() {
    let (replica, _) = small();

    let error = fails(&replica, &RestoreOptions::new("/proc/x.db")).await;

    assert_eq!(
        error.to_string(),
        "can't write in /proc: no files can be made there"
    );
}

#[tokio::test]
async fn a_database_that_does_not_fit_is_told_before_it_is_fetched() {
    let replica = MockClient::new();
    let pages = [(1, 1), (2, 1)];
    Made::new(file(0, 1..=1), 2, &pages).put(&replica);
    let mut huge = Made::new(file(0, 2..=2), u32::MAX, &[(3, 3)]);
    huge.page_size = 512;
    huge.put(&replica);
    let output = Output::new();

    let error = fails(&replica, &output.options(Target::Latest)).await;

    match error {
        RestoreError::DiskFull {
            needed,
            available,
            path,
        } => {
            assert_eq!((needed, path), (512 * u64::from(u32::MAX), output.path()));
            assert!(available < needed);
        }
        error => panic!("{error}"),
    }
    output.assert_empty();
}

/// A header that is damaged may ask for any size.
#[tokio::test]
async fn a_damaged_size_is_damage_and_no_full_disk() {
    let (replica, _) = small();
    replica.corrupt(file(0, 3..=3), 12);
    let output = Output::new();

    let error = fails(&replica, &output.options(Target::Latest)).await;

    assert!(matches!(error, RestoreError::Damaged { .. }), "{error}");
}

/// A store that notes how many bytes a folder has whenever a file's header is read.
#[derive(Debug)]
struct Weighing {
    replica: MockClient,
    folder: std::path::PathBuf,
    weights: Mutex<Vec<u64>>,
}

#[replica_core::async_trait]
impl ReplicaClient for Weighing {
    fn scheme(&self) -> &'static str {
        self.replica.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.replica.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, times: Timestamps) -> StoreResult<FileStream> {
        self.replica.list(level, from, times).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> StoreResult<ByteStream> {
        if range == (..ltx::HEADER_SIZE as u64).into() {
            let entries = fs::read_dir(&self.folder).unwrap();
            let weight = entries.map(|entry| entry.unwrap().metadata().unwrap().len());
            self.weights.lock().unwrap().push(weight.sum());
        }
        self.replica.open(file, range).await
    }

    async fn write(&self, file: FileId, time: Timestamp, body: Body) -> StoreResult<FileInfo> {
        self.replica.write(file, time, body).await
    }

    async fn delete(&self, files: &[FileId]) -> StoreResult<()> {
        self.replica.delete(files).await
    }

    async fn delete_all(&self) -> StoreResult<()> {
        self.replica.delete_all().await
    }
}

/// A restore to a disk with room for the database once, but not twice, failed for want of space as
/// soon as one file was damaged and another copy was there: what the first attempt had written
/// still lay on the disk when the free space was measured for the second.
#[tokio::test]
async fn a_second_attempt_finds_the_space_that_the_first_has_used() {
    let replica = MockClient::new();
    let large = |id, pages: &[(u32, u8)]| Made {
        page_size: 65_536,
        ..Made::new(id, 40, pages)
    };
    let pages: Vec<(u32, u8)> = (1..=40).map(|pgno| (pgno, 1)).collect();
    large(file(9, 1..=1), &pages).put(&replica);
    large(file(1, 2..=2), &[(1, 2)]).put(&replica);
    large(file(0, 2..=2), &[(1, 2)]).put(&replica);
    replica.corrupt(file(1, 2..=2), 150);
    let output = Output::new();
    let client = Arc::new(Weighing {
        replica,
        folder: output.folder().to_owned(),
        weights: Mutex::default(),
    });

    let restored = restore(client.clone(), &output.options(Target::Latest), |_| {})
        .await
        .unwrap();

    assert_eq!(restored.damaged.len(), 1);
    assert_eq!(*client.weights.lock().unwrap(), [0, 0]);
}

/// "could not write o.db: File too large": a file in the middle of a replica made the database
/// larger than any disk, if only until the next one, and its last page was written to where no
/// file system goes.
#[tokio::test]
async fn a_database_that_was_too_large_for_a_while_is_restored() {
    let replica = MockClient::new();
    let large = |id, commit, pages: &[(u32, u8)]| Made {
        page_size: 65_536,
        ..Made::new(id, commit, pages)
    };
    large(file(0, 1..=1), 2, &[(1, 1), (2, 1)]).put(&replica);
    large(file(0, 2..=2), u32::MAX, &[(1, 2), (u32::MAX, 2)]).put(&replica);
    large(file(0, 3..=3), 2, &[(2, 3)]).put(&replica);
    let output = Output::new();

    restore(Arc::new(replica), &output.options(Target::Latest), |_| {})
        .await
        .unwrap();

    assert_eq!(
        output.content(),
        [page(1, 2, 65_536), page(2, 3, 65_536)].concat()
    );
}

#[tokio::test]
async fn progress_adds_up() {
    let (replica, states) = small();
    let output = Output::new();
    let told = Arc::new(Mutex::new((0, 0, 0, Vec::new())));
    let listener = Arc::clone(&told);

    let restored = restore(
        Arc::new(replica.clone()),
        &output.options(Target::Latest),
        move |progress| {
            let mut told = listener.lock().unwrap();
            match progress {
                Progress::Planned { bytes, .. } => told.0 = bytes,
                Progress::Read { bytes } => told.1 += bytes,
                Progress::Written { bytes } => told.2 += bytes,
                other => told.3.push(format!("{other:?}")),
            }
        },
    )
    .await
    .unwrap();

    let told = told.lock().unwrap();
    let stored: u64 = restored.files.iter().map(|file| file.size).sum();
    assert_eq!((told.0, told.1), (stored, stored));
    assert_eq!(
        told.2,
        4 * 512,
        "the pages of three files, but for those beyond the end"
    );
    assert_eq!(told.3, ["Syncing"]);
    assert_eq!(restored.bytes, states[2].len() as u64);
}

#[tokio::test]
async fn any_number_of_restores_run_side_by_side() {
    let (replica, states) = small();
    let output = Output::new();
    let options = |index: usize| RestoreOptions::new(output.folder().join(format!("{index}.db")));

    let all: Vec<RestoreOptions> = (0..20).map(options).collect();
    let restores = all
        .iter()
        .map(|options| restore(Arc::new(replica.clone()), options, |_| {}));
    let results = futures::future::join_all(restores).await;

    assert!(results.iter().all(Result::is_ok));
    for options in all {
        assert_eq!(fs::read(options.output).unwrap(), states[2]);
    }
}

#[tokio::test]
async fn one_of_two_restores_to_one_path_wins_whole() {
    let (replica, states) = small();
    let output = Output::new();
    let options = output.options(Target::Latest);
    let client: Arc<MockClient> = Arc::new(replica);

    let (one, two) = futures::join!(
        restore(client.clone(), &options, |_| {}),
        restore(client.clone(), &options, |_| {})
    );

    assert_eq!(
        [one.is_ok(), two.is_ok()].iter().filter(|ok| **ok).count(),
        1
    );
    assert_eq!(output.content(), states[2]);
    assert_eq!(output.names(), ["restored.db"]);
}

/// The one page that SQLite never writes to is in no file of a replica, and in no checksum.
#[tokio::test]
async fn the_lock_page_is_left_as_zeros() {
    let replica = MockClient::new();
    let size = 65_536;
    let lock_page = (0x4000_0000 / size + 1) as u32;
    let pages: Vec<(u32, u8)> = (1..=lock_page + 1)
        .filter(|pgno| *pgno != lock_page)
        .map(|pgno| (pgno, 0))
        .collect();
    let mut made = Made::new(file(9, 1..=1), lock_page + 1, &pages);
    made.page_size = size;
    let mut database = DatabaseChecksum::default();
    for &(pgno, fill) in &pages {
        let page = page(pgno, fill, size);
        database.add(Checksum::of_page(Pgno::new(pgno).unwrap(), &page));
    }
    made.checksums = Some((None, database.get()));
    made.put(&replica);
    let output = Output::new();

    let restored = restore(Arc::new(replica), &output.options(Target::Latest), |_| {})
        .await
        .unwrap();

    use std::os::unix::fs::FileExt;
    let database = fs::File::open(output.path()).unwrap();
    let read = |pgno: u32| {
        let mut bytes = vec![9; size];
        database
            .read_exact_at(&mut bytes, u64::from(pgno - 1) * size as u64)
            .unwrap();
        bytes
    };
    assert_eq!(restored.pages, lock_page + 1);
    assert_eq!(read(lock_page - 1), page(lock_page - 1, 0, size));
    assert_eq!(read(lock_page), vec![0; size]);
    assert_eq!(read(lock_page + 1), page(lock_page + 1, 0, size));
}

#[tokio::test]
async fn memory_is_bounded_by_what_is_fetched_ahead() {
    let replica = MockClient::new().with_chunk_size(1 << 20);
    let pages: Vec<(u32, u8)> = (1..=400).map(|pgno| (pgno, 1)).collect();
    let mut made = Made::new(file(9, 1..=1), 400, &pages);
    made.page_size = 65_536;
    made.put(&replica);
    for number in 2..100 {
        Made {
            page_size: 65_536,
            ..Made::new(file(0, number..=number), 400, &[(1, 2)])
        }
        .put(&replica);
    }
    let output = Output::new();
    let most = Arc::new(Mutex::new(0));
    let (listener, calls) = (Arc::clone(&most), replica.clone());

    let mut options = output.options(Target::Latest);
    options.fetch_ahead = 1 << 20;
    restore(Arc::new(replica.clone()), &options, move |_| {
        let running = calls.running();
        let mut most = listener.lock().unwrap();
        *most = running.max(*most);
    })
    .await
    .unwrap();

    assert!(*most.lock().unwrap() <= 8, "{most:?} reads at a time");
    let largest = replica
        .calls()
        .iter()
        .filter(|call| call.op() == Op::Open)
        .map(|call| call.bytes)
        .max();
    assert!(
        largest.is_some_and(|bytes| bytes <= 1 << 17),
        "{largest:?} bytes in one read"
    );
}

fn age(path: &std::path::Path) {
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))
        .unwrap();
}

#[tokio::test]
async fn what_a_killed_restore_left_is_removed_and_nothing_else() {
    let (replica, _) = small();
    let output = Output::new();
    let left = |name: &str| {
        let path = output.folder().join(name);
        fs::write(&path, "left").unwrap();
        path
    };
    let dead = left(".replica-restore-0000000000000001.tmp");
    let young = left(".replica-restore-0000000000000002.tmp");
    let alive = left(".replica-restore-0000000000000003.tmp");
    let aside = left(".replica-restore-0000000000000004-wal");
    let other = left("replica-restore-0000000000000005.tmp");
    let lock = fs::File::open(&alive).unwrap();
    lock.lock().unwrap();
    for path in [&dead, &alive, &aside, &other] {
        age(path);
    }

    restore(Arc::new(replica), &output.options(Target::Latest), |_| {})
        .await
        .unwrap();

    assert!(!dead.exists());
    for path in [young, alive, aside, other] {
        assert!(path.exists(), "{path:?} was removed");
    }
}

#[test]
fn a_small_database_is_what_it_should_be() {
    assert_eq!(database(&[1, 2])[512..], page(2, 2, 512));
}

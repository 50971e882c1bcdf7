//! The client.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, Op,
    ReplicaClient, Result, Timestamp, Timestamps, Txid,
};
use rustix::fs::{Mode, RawMode};

use crate::blocking::{Caller, Work};
use crate::root::Root;
use crate::{delete, list, read, write};

const SCHEME: &str = "file";

/// A client that keeps a replica in a folder. The [crate's page](crate) says what it promises
/// beyond the contract, and what it costs.
///
/// Nothing is opened, made or looked at before the first call, and no file is held open between
/// calls. A clone is the same client: it shares what it knows of the folders.
///
/// Calls run on Tokio's blocking threads, so they need a Tokio runtime, and panic without one.
///
/// `delete_all` deletes what is below the root, whoever put it there, and then the root folder
/// itself, as Litestream does, where that can be deleted: a symbolic link or a mount stays.
#[derive(Clone)]
pub struct FileClient {
    root: Arc<Root>,
}

impl FileClient {
    /// A client of the replica whose root is the folder `root`, with the modes of a builder that
    /// is left as it is: 0600 for files and 0700 for folders.
    ///
    /// The folder need not exist: the first write makes it. A relative path is taken from the
    /// current folder of this moment.
    pub fn new(root: impl Into<PathBuf>) -> FileClient {
        FileClient::builder(root).build()
    }

    /// A builder for a client of the replica in the folder `root`, to set what
    /// [`new`](FileClient::new) leaves as it is.
    pub fn builder(root: impl Into<PathBuf>) -> FileClientBuilder {
        FileClientBuilder {
            root: root.into(),
            file_mode: 0o600,
            dir_mode: 0o700,
        }
    }
}

/// Sets what a [`FileClient`] does differently.
#[derive(Clone, Debug)]
#[must_use]
pub struct FileClientBuilder {
    root: PathBuf,
    file_mode: u32,
    dir_mode: u32,
}

impl FileClientBuilder {
    /// The permission bits of the files it writes, as `chmod` takes them: 0600 unless set, which
    /// is for their owner alone. The process's umask has no part in it.
    pub fn file_mode(mut self, mode: u32) -> FileClientBuilder {
        self.file_mode = mode;
        self
    }

    /// The permission bits of the folders it makes, as `chmod` takes them: 0700 unless set. A
    /// folder that is already there keeps its own.
    pub fn dir_mode(mut self, mode: u32) -> FileClientBuilder {
        self.dir_mode = mode;
        self
    }

    /// The client.
    pub fn build(self) -> FileClient {
        // An empty path stays empty, and every call says so.
        let path = std::path::absolute(&self.root).unwrap_or(self.root);
        FileClient {
            root: Arc::new(Root::new(path, mode(self.file_mode), mode(self.dir_mode))),
        }
    }
}

/// The bits that `chmod` knows.
fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode((bits & 0o7777) as RawMode)
}

#[async_trait]
impl ReplicaClient for FileClient {
    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::FULL
    }

    async fn list(&self, level: Level, from: Txid, _timestamps: Timestamps) -> Result<FileStream> {
        let root = Arc::clone(&self.root);
        let stream = Work::spawn(move || list::list(&root, level, from))
            .await
            .map_err(|error| error.during(Op::List, SCHEME))?;
        Ok(stream
            .map_err(|error| error.during(Op::List, SCHEME))
            .boxed())
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        let root = Arc::clone(&self.root);
        let stream = Work::spawn(move || read::open(&root, file, range))
            .await
            .map_err(|error| error.of(file).during(Op::Open, SCHEME))?;
        Ok(stream
            .map_err(move |error| error.of(file).during(Op::Open, SCHEME))
            .boxed())
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        write::write(Arc::clone(&self.root), file, created_at, body)
            .await
            .map_err(|error| error.of(file).during(Op::Write, SCHEME))
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let (_waiting, caller) = Caller::new();
        let (root, files) = (Arc::clone(&self.root), files.to_vec());
        Work::spawn(move || delete::delete(&root, files, &caller))
            .await
            .map_err(|error| error.during(Op::Delete, SCHEME))
    }

    async fn delete_all(&self) -> Result<()> {
        let (_waiting, caller) = Caller::new();
        let root = Arc::clone(&self.root);
        Work::spawn(move || delete::delete_all(&root, &caller))
            .await
            .map_err(|error| error.during(Op::DeleteAll, SCHEME))
    }
}

/// Says where, and with which permissions.
impl fmt::Debug for FileClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileClient")
            .field("root", &self.root.path)
            .field("file_mode", &self.root.file_mode)
            .field("dir_mode", &self.root.folder_mode)
            .finish()
    }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;
    use futures::channel::oneshot;
    use futures::stream;
    use replica_core::{Error, ErrorKind, ReplicaClientExt, TxidRange};
    use rustix::io::Errno;
    use std::error::Error as _;
    use std::fs;
    use std::io;
    use std::path::Path;
    use std::time::Duration;
    use tempfile::TempDir;
    use tokio::runtime::Runtime;

    const NAME: &str = "0000000000000001-0000000000000001.ltx";

    fn file() -> FileId {
        FileId {
            level: Level::RAW,
            txids: TxidRange::single(Txid::FIRST),
        }
    }

    /// A folder, a client whose root is `db` in it, and what that does there.
    fn traced() -> (TempDir, FileClient, Trace) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        (dir, FileClient::new(path.join("db")), Trace::of(&path))
    }

    async fn write(client: &FileClient, content: &'static [u8]) -> Result<FileInfo> {
        let body = Body::from(content);
        client.write(file(), Timestamp::EPOCH, body).await
    }

    /// The names in the folder of level 0.
    fn names(dir: &TempDir) -> Vec<String> {
        let Ok(entries) = fs::read_dir(dir.path().join("db/ltx/0")) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Starts a write, lets it come to `call`, drops it there, and then lets its thread go on to
    /// the end.
    fn drop_write_at(call: &str, dir: &TempDir, client: FileClient, trace: &Trace) -> Vec<String> {
        let runtime = Runtime::new().unwrap();
        trace.hold(call);
        let writing = runtime.spawn(async move { write(&client, b"new").await });
        trace.wait_until_held();
        writing.abort();
        let dropped = runtime.block_on(writing).unwrap_err();
        assert!(dropped.is_cancelled());
        trace.heal();
        runtime.shutdown_timeout(Duration::from_secs(20));
        names(dir)
    }

    #[tokio::test]
    async fn all_that_a_file_needs_is_on_the_disk_before_its_write_returns() {
        let (_dir, client, trace) = traced();

        write(&client, b"first").await.unwrap();
        let first = trace.take();
        write(&client, b"second").await.unwrap();
        let second = trace.take();

        let file = [
            "create db/ltx/0/TEMP",
            "lock db/ltx/0/TEMP",
            "write db/ltx/0/TEMP",
            "chmod db/ltx/0/TEMP",
            "utimens db/ltx/0/TEMP",
            "fsync db/ltx/0/TEMP",
            &format!("rename db/ltx/0/{NAME}"),
            "fsync db/ltx/0",
        ];
        let folders = [
            "mkdir db",
            "chmod db",
            "fsync .",
            "mkdir db/ltx",
            "chmod db/ltx",
            "fsync db",
            "mkdir db/ltx/0",
            "chmod db/ltx/0",
            "fsync db/ltx",
        ];
        assert_eq!(first, [&folders[..], &file[..]].concat());
        assert_eq!(second, file);
    }

    /// The root's own entry was once left to the process that had made it, which may not have come
    /// that far: a write returned, and a crash took the replica.
    #[tokio::test]
    async fn folders_that_another_process_has_just_made_are_synced_too() {
        let (dir, client, trace) = traced();
        fs::create_dir_all(dir.path().join("db/ltx/0")).unwrap();

        write(&client, b"first").await.unwrap();

        assert_eq!(
            trace.take()[..4],
            [
                "fsync .",
                "fsync db",
                "fsync db/ltx",
                "create db/ltx/0/TEMP"
            ]
        );
    }

    #[tokio::test]
    async fn a_folder_above_the_root_that_another_process_has_just_made_is_synced_too() {
        let (dir, _, trace) = traced();
        fs::create_dir(dir.path().join("db")).unwrap();
        let client = FileClient::new(dir.path().join("db/app"));

        write(&client, b"first").await.unwrap();

        assert_eq!(
            trace.take()[..4],
            ["fsync .", "mkdir db/app", "chmod db/app", "fsync db"]
        );
    }

    /// As above, where the other process was faster by a moment.
    #[test]
    fn a_root_that_another_process_makes_at_the_same_time_is_synced_too() {
        let (dir, client, trace) = traced();
        let runtime = Runtime::new().unwrap();

        trace.hold("mkdir db");
        let writing = runtime.spawn(async move { write(&client, b"new").await });
        trace.wait_until_held();
        fs::create_dir(dir.path().join("db")).unwrap();
        trace.heal();
        runtime.block_on(writing).unwrap().unwrap();

        assert_eq!(trace.take()[..3], ["mkdir db", "fsync .", "mkdir db/ltx"]);
    }

    #[tokio::test]
    async fn folders_that_were_deleted_are_made_and_synced_again() {
        let (dir, client, trace) = traced();
        write(&client, b"first").await.unwrap();
        fs::remove_dir_all(dir.path().join("db")).unwrap();
        trace.take();

        write(&client, b"second").await.unwrap();

        let calls = trace.take();
        for call in ["fsync .", "fsync db", "fsync db/ltx", "fsync db/ltx/0"] {
            assert!(calls.iter().any(|made| made == call), "{call} in {calls:?}");
        }
    }

    #[tokio::test]
    async fn folders_that_were_replaced_are_synced_again() {
        let (dir, client, trace) = traced();
        write(&client, b"first").await.unwrap();
        fs::rename(dir.path().join("db"), dir.path().join("away")).unwrap();
        fs::create_dir_all(dir.path().join("db/ltx/0")).unwrap();
        trace.take();

        write(&client, b"second").await.unwrap();

        assert_eq!(trace.take()[..3], ["fsync .", "fsync db", "fsync db/ltx"]);
    }

    #[tokio::test]
    async fn a_deletion_syncs_each_folder_once() {
        let (_dir, client, trace) = traced();
        let (first, second) = (
            file(),
            FileId {
                level: Level::SNAPSHOT,
                ..file()
            },
        );
        for file in [first, second] {
            client
                .write(file, Timestamp::EPOCH, Body::from(Vec::new()))
                .await
                .unwrap();
        }
        trace.take();

        client.delete(&[second, first, second]).await.unwrap();

        assert_eq!(
            trace.take(),
            [
                &format!("unlink db/ltx/0/{NAME}"),
                "fsync db/ltx/0",
                &format!("unlink db/ltx/9/{NAME}"),
                "fsync db/ltx/9",
            ]
        );
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_leaves_the_old_file_and_nothing_else() {
        for call in [
            "create",
            "write",
            "utimens",
            "fsync db/ltx/0/TEMP",
            "rename",
        ] {
            let (dir, client, trace) = traced();
            write(&client, b"old").await.unwrap();
            trace.fail(call, Errno::NOSPC);

            let error = write(&client, b"new").await.unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Other, "{error}");
            let message = error.to_string();
            assert!(
                message.starts_with(&format!("file: write 0/{NAME}: could not ")),
                "{message}"
            );
            assert!(
                message.ends_with(": no space is left on the file system"),
                "{message}"
            );
            assert!(message.contains(dir.path().to_str().unwrap()), "{message}");
            let cause = error.source().and_then(|source| source.downcast_ref());
            assert_eq!(cause.map(io::Error::kind), Some(io::ErrorKind::StorageFull));
            assert_eq!(names(&dir), [NAME], "after {call}");
            assert_eq!(client.read(file(), (..).into()).await.unwrap(), b"old"[..]);
            trace.heal();
            write(&client, b"new").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_folder_that_can_not_be_synced_fails_the_write() {
        for call in ["fsync .", "fsync db", "fsync db/ltx", "fsync db/ltx/0"] {
            let (_dir, client, trace) = traced();
            trace.fail(call, Errno::IO);

            let error = write(&client, b"new").await.unwrap_err();

            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }

    #[tokio::test]
    async fn a_folder_that_could_not_be_synced_is_synced_by_the_next_write() {
        let (_dir, client, trace) = traced();
        trace.fail("fsync db/ltx", Errno::IO);
        write(&client, b"new").await.unwrap_err();
        trace.heal();
        trace.take();

        write(&client, b"new").await.unwrap();

        assert!(trace.take().contains(&"fsync db/ltx".to_owned()));
    }

    #[tokio::test]
    async fn a_body_that_stalls_does_not_hide_a_full_disk() {
        let (dir, client, trace) = traced();
        trace.fail("write", Errno::NOSPC);
        let body = stream::once(async { Ok(vec![7; 2 << 20].into()) }).chain(stream::pending());

        let writing = client.write(file(), Timestamp::EPOCH, Body::once(None, body.boxed()));
        let result = tokio::time::timeout(Duration::from_secs(20), writing).await;

        let error = result.expect("it does not wait for the body").unwrap_err();
        assert!(error.to_string().contains("no space is left"), "{error}");
        assert_eq!(names(&dir), [""; 0]);
    }

    #[tokio::test]
    async fn the_error_of_a_body_is_returned_when_all_is_cleaned_up() {
        let (dir, client, trace) = traced();
        let (failing, failed) = oneshot::channel();
        let begin = stream::once(async { Ok(vec![7; 2 << 20].into()) });
        let body = begin.chain(stream::once(async {
            failing.send(()).expect("the test waits for it");
            Err(Error::new(ErrorKind::Unavailable, "the source broke"))
        }));

        trace.hold("create");
        let writing = async {
            let body = Body::once(None, body.boxed());
            let result = client.write(file(), Timestamp::EPOCH, body).await;
            trace.note("returned");
            result
        };
        let letting_go = async {
            failed.await.expect("the body is read to its error");
            trace.heal();
        };
        let (result, ()) = tokio::join!(writing, letting_go);

        assert_eq!(result.unwrap_err().message(), "the source broke");
        let calls = trace.take();
        assert_eq!(
            calls[calls.len() - 2..],
            ["unlink db/ltx/0/TEMP", "returned"]
        );
        assert_eq!(names(&dir), [""; 0]);
    }

    #[test]
    fn a_write_that_is_dropped_before_its_commit_never_happens() {
        for call in [
            "mkdir db/ltx/0",
            "create",
            "write",
            "utimens",
            "fsync db/ltx/0/TEMP",
        ] {
            let (dir, client, trace) = traced();

            let left = drop_write_at(call, &dir, client, &trace);

            assert_eq!(left, [""; 0], "dropped at {call}");
        }
    }

    #[test]
    fn a_write_that_is_dropped_after_its_commit_happens_whole() {
        for call in ["rename", "fsync db/ltx/0"] {
            let (dir, client, trace) = traced();

            let left = drop_write_at(call, &dir, client, &trace);

            assert_eq!(left, [NAME], "dropped at {call}");
            let read = fs::read(dir.path().join("db/ltx/0").join(NAME)).unwrap();
            assert_eq!(read, b"new");
        }
    }

    #[test]
    fn a_dropped_write_leaves_the_old_file() {
        let (dir, client, trace) = traced();
        let runtime = Runtime::new().unwrap();
        runtime.block_on(write(&client, b"old")).unwrap();

        let left = drop_write_at("fsync db/ltx/0/TEMP", &dir, client.clone(), &trace);

        assert_eq!(left, [NAME]);
        let read = runtime.block_on(client.read(file(), (..).into()));
        assert_eq!(read.unwrap(), b"old"[..]);
    }

    #[test]
    fn a_dropped_write_stops_in_the_middle_of_a_large_body() {
        let (dir, client, trace) = traced();
        let runtime = Runtime::new().unwrap();

        trace.hold("write");
        let writing = runtime.spawn(async move {
            let body = Body::from(vec![7; 8 << 20]);
            client.write(file(), Timestamp::EPOCH, body).await
        });
        trace.wait_until_held();
        writing.abort();
        runtime.block_on(writing).unwrap_err();
        trace.heal();
        runtime.shutdown_timeout(Duration::from_secs(20));

        let calls = trace.take();
        let writes = calls.iter().filter(|call| call.starts_with("write"));
        assert_eq!(writes.count(), 1, "{calls:?}");
        assert_eq!(names(&dir), [""; 0]);
    }

    /// A body of `count` MiB that needs the memory of one.
    fn large_body(count: usize) -> Body {
        let piece = bytes::Bytes::from(vec![7; 1 << 20]);
        Body::once(None, stream::iter(vec![piece; count]).map(Ok).boxed())
    }

    /// All bytes of a large file once went to the page cache, and a single sync at the end brought
    /// them to the disk. Where that took longer than a time limit allows, no attempt could succeed.
    #[tokio::test]
    async fn a_large_file_goes_to_the_disk_while_it_is_being_written() {
        let (_dir, client, trace) = traced();

        let written = client.write(file(), Timestamp::EPOCH, large_body(130));
        assert_eq!(written.await.unwrap().size, 130 << 20);

        let calls = trace.take();
        let quarters = quarters_before_syncs(&calls);
        let batch = 4;
        assert_eq!(quarters.len(), 3, "{quarters:?}");
        assert!((256..=256 + batch).contains(&quarters[0]), "{quarters:?}");
        assert!((512..=512 + batch).contains(&quarters[1]), "{quarters:?}");
        assert_eq!(quarters[2], 520, "{quarters:?}");
    }

    /// Each sync once kept the next bytes waiting, and whoever made them.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_body_goes_on_during_a_sync_as_far_as_to_the_next_one() {
        let (_dir, client, trace) = traced();
        let piece = bytes::Bytes::from(vec![7; 1 << 20]);
        let (asked, mut asks) = tokio::sync::watch::channel(0);
        let body = stream::iter(1..=140).map(move |number| {
            asked.send_replace(number);
            Ok(piece.clone())
        });

        trace.hold("fdatasync");
        let writing = tokio::spawn(async move {
            let body = Body::once(None, body.boxed());
            client.write(file(), Timestamp::EPOCH, body).await
        });
        let went_on = asks.wait_for(|number| *number > 100);
        let went_on = tokio::time::timeout(Duration::from_secs(20), went_on).await;
        assert!(went_on.is_ok(), "the first sync is held");
        drop(went_on);
        trace.heal();
        writing.await.expect("it does not panic").expect("a write");

        let quarters = quarters_before_syncs(&trace.take());
        assert!(quarters[1] <= 516, "more was written: {quarters:?}");
    }

    /// How many quarters of a MiB were written before each sync of the file.
    fn quarters_before_syncs(calls: &[String]) -> Vec<usize> {
        let syncs = (0..calls.len()).filter(|at| calls[*at].contains("sync db/ltx/0/TEMP"));
        let written = |before: &[String]| {
            let writes = before.iter().filter(|call| call.starts_with("write"));
            writes.count()
        };
        syncs.map(|at| written(&calls[..at])).collect()
    }

    /// Such a sync can't be interrupted, so a dropped write went on, and its temporary file stayed,
    /// until all was on the disk.
    #[test]
    fn a_dropped_write_begins_no_further_sync() {
        let (dir, client, trace) = traced();
        let runtime = Runtime::new().unwrap();

        trace.hold("fdatasync");
        let writing = runtime.spawn(async move {
            client
                .write(file(), Timestamp::EPOCH, large_body(200))
                .await
        });
        trace.wait_until_held();
        writing.abort();
        runtime.block_on(writing).unwrap_err();
        trace.heal();
        runtime.shutdown_timeout(Duration::from_secs(20));

        let calls = trace.take();
        let synced = calls.iter().filter(|call| call.starts_with("fdatasync"));
        assert_eq!(synced.count(), 1);
        assert_eq!(names(&dir), [""; 0]);
    }

    #[test]
    fn a_dropped_deletion_stops() {
        let (dir, client, trace) = traced();
        let runtime = Runtime::new().unwrap();
        let files: Vec<_> = (1..=3)
            .map(|txid| FileId {
                txids: TxidRange::single(Txid::new(txid).unwrap()),
                ..file()
            })
            .collect();
        for file in &files {
            let body = Body::from(Vec::new());
            runtime
                .block_on(client.write(*file, Timestamp::EPOCH, body))
                .unwrap();
        }

        trace.hold("unlink");
        let deleting = runtime.spawn(async move { client.delete(&files).await });
        trace.wait_until_held();
        deleting.abort();
        runtime.block_on(deleting).unwrap_err();
        trace.heal();
        runtime.shutdown_timeout(Duration::from_secs(20));

        assert_eq!(names(&dir).len(), 2);
    }

    /// Starts a write, does `meanwhile` when it has come to `call`, and gives what comes of it.
    fn write_with(call: &str, meanwhile: impl FnOnce(&Path)) -> (TempDir, Result<FileInfo>) {
        let (dir, client, trace) = traced();
        let runtime = Runtime::new().unwrap();
        trace.hold(call);
        let writing = runtime.spawn(async move { write(&client, b"new").await });
        trace.wait_until_held();
        meanwhile(&dir.path().join("db/ltx/0"));
        trace.heal();
        let result = runtime.block_on(writing).unwrap();
        (dir, result)
    }

    #[test]
    fn a_temporary_file_that_is_swept_before_it_is_locked_is_made_again() {
        let (dir, result) = write_with("lock", |folder| {
            for entry in fs::read_dir(folder).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
        });

        result.unwrap();
        assert_eq!(names(&dir), [NAME]);
    }

    #[test]
    fn a_folder_that_is_deleted_under_a_write_is_made_again() {
        for call in ["mkdir db/ltx/0", "create"] {
            let (dir, result) = write_with(call, |folder| {
                let root = folder.ancestors().nth(2).unwrap();
                fs::remove_dir_all(root).unwrap();
            });

            result.unwrap();
            assert_eq!(names(&dir), [NAME], "deleted before {call}");
        }
    }

    #[test]
    fn a_file_that_is_deleted_while_it_is_being_written_is_worth_another_try() {
        let (_dir, result) = write_with("rename", |folder| {
            fs::remove_dir_all(folder).unwrap();
        });

        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(
            error
                .to_string()
                .ends_with("was deleted while it was being written"),
            "{error}"
        );
    }

    /// NFS without its lock daemon says ENOLCK, which once failed every write.
    #[tokio::test]
    async fn a_file_system_without_locks_can_be_written_to() {
        for errno in [Errno::NOLCK, Errno::NOSYS, Errno::NOTSUP, Errno::INVAL] {
            let (dir, client, trace) = traced();
            trace.fail("lock", errno);

            write(&client, b"new").await.unwrap();

            assert_eq!(names(&dir), [NAME], "{errno}");
        }
    }

    /// A failed sync was once told without its files: a retry of those that were named succeeded,
    /// and a crash brought the others back.
    #[tokio::test]
    async fn a_deletion_that_can_not_be_synced_names_the_files_of_its_level() {
        let (_dir, client, trace) = traced();
        let [first, second, other] =
            [(1, Level::RAW), (2, Level::RAW), (1, Level::SNAPSHOT)].map(|(txid, level)| FileId {
                level,
                txids: TxidRange::single(Txid::new(txid).unwrap()),
            });
        for file in [first, second, other] {
            let body = Body::from(Vec::new());
            client.write(file, Timestamp::EPOCH, body).await.unwrap();
        }
        trace.fail(&format!("unlink db/ltx/{second}"), Errno::PERM);
        trace.fail("fsync db/ltx/0", Errno::IO);

        let error = client.delete(&[first, second, other]).await.unwrap_err();

        assert_eq!(error.files(), [first, second]);
    }

    #[tokio::test]
    async fn a_file_that_can_not_be_deleted_is_named_and_the_others_are_gone() {
        let (dir, client, trace) = traced();
        let files: Vec<_> = (1..=3)
            .map(|txid| FileId {
                txids: TxidRange::single(Txid::new(txid).unwrap()),
                ..file()
            })
            .collect();
        for file in &files {
            let body = Body::from(Vec::new());
            client.write(*file, Timestamp::EPOCH, body).await.unwrap();
        }
        trace.fail(&format!("unlink db/ltx/{}", files[1]), Errno::PERM);

        let error = client.delete(&files).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(error.files(), [files[1]]);
        assert_eq!(names(&dir), [files[1].txids.to_string()]);
    }
}

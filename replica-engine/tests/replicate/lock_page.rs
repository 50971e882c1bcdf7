//! A database beyond 1 GiB: over the page that SQLite locks, and of which nothing is ever stored.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use replica_core::{FileId, Level, ReplicaClient};
use replica_engine::{
    Checkpoint, Levels, RestoreOptions, UpkeepOptions, compact, restore, snapshot,
};
use replica_mock::MockClient;
use tempfile::TempDir;

use crate::application::{connect, run};
use crate::support::{Live, NOW};

const PAGE_SIZE: u32 = 65_536;
const LOCK_BYTE: u64 = 0x4000_0000;

/// Has the database end three pages before the page that SQLite locks. What is between belongs to
/// nothing, is all zeros, and takes no space on the disk.
fn grow(live: &mut Live) {
    live.run("PRAGMA wal_checkpoint(TRUNCATE)");
    live.disconnect();
    let pages = u32::try_from(LOCK_BYTE / u64::from(PAGE_SIZE)).expect("a number of pages") - 3;
    let file = File::options().write(true).open(live.path());
    let file = file.expect("it is there");
    // As SQLite notes its size in the header.
    file.write_all_at(&pages.to_be_bytes(), 28)
        .and_then(|()| file.set_len(u64::from(pages) * u64::from(PAGE_SIZE)))
        .expect("there is room for nothing");
    live.connect();
}

/// How long the database is, for who has it open.
fn len(live: &Live) -> u64 {
    let pages = live
        .application()
        .query_row("PRAGMA page_count", (), |row| row.get::<_, u32>(0));
    u64::from(pages.expect("SQLite knows")) * u64::from(PAGE_SIZE)
}

/// The database with its log in it.
fn copied(live: &Live) -> (TempDir, PathBuf) {
    let copy = live.copy();
    let path = copy.path().join("app.db");
    run(&connect(&path), "PRAGMA wal_checkpoint(TRUNCATE)");
    (copy, path)
}

fn is_same(one: &Path, other: &Path) -> bool {
    let [mut one, mut other] = [one, other].map(|path| File::open(path).expect("it is there"));
    let [mut expected, mut found] = [(); 2].map(|()| vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut expected).expect("it can be read");
        if read == 0 {
            return other.read(&mut found).expect("it can be read") == 0;
        }
        let is_there = other.read_exact(&mut found[..read]).is_ok();
        if !is_there || expected[..read] != found[..read] {
            return false;
        }
    }
}

/// Restores the latest state, and compares it with the live database.
async fn check(live: &Live, replica: &MockClient) {
    let (_copy, expected) = copied(live);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = RestoreOptions::new(folder.path().join("restored.db"));

    let restored = restore(Arc::new(replica.clone()), &options, |_| {}).await;

    restored.expect("what was replicated can be restored");
    assert!(
        is_same(&expected, &options.output),
        "what was restored is another"
    );
}

#[tokio::test]
async fn a_database_grows_over_the_lock_page() {
    let (mut live, replica) = (Live::new(PAGE_SIZE), MockClient::new());
    grow(&mut live);
    let mut replicator = live.started(&replica).await;
    replicator.sync().await.expect("the store works");
    assert!(len(&live) < LOCK_BYTE);

    // Two pages a transaction.
    for _ in 0..4 {
        live.run("INSERT INTO t(b) VALUES(randomblob(100000))");
        let synced = replicator.sync().await.expect("the store works");
        assert_eq!(synced.snapshot, None);
    }
    let done = replicator.checkpoint(Checkpoint::Firm).await;
    done.expect("nobody is in the way");
    live.run("UPDATE t SET b = randomblob(90000)");
    replicator.sync().await.expect("the store works");

    assert!(len(&live) > LOCK_BYTE + u64::from(PAGE_SIZE));
    let client: Arc<dyn ReplicaClient> = Arc::new(replica.clone());
    let mut options = UpkeepOptions::default();
    options.levels = Levels::new(vec![Duration::ZERO]).expect("a level");
    let made = compact(&client, &options, NOW).await;
    assert_eq!(made.expect("the replica is whole").len(), 1);
    let raw = |file: &FileId| file.level == Level::RAW;
    for file in replica.files().into_iter().filter(raw) {
        replica.remove(file);
    }
    check(&live, &replica).await;
    let made = snapshot(&client).await.expect("the replica is whole");
    assert!(made.is_some());
    drop(replicator);
    // A file of the whole database is refused unless it has every page but that one.
    let mut replicator = live.started(&MockClient::new()).await;
    replicator.sync().await.expect("the store works");
}

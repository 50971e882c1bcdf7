//! What happens while nobody looks: between two runs, and behind the back of one.

use std::fs;

use replica_core::Op;
use replica_engine::{ReplicateError, Replicator, SnapshotReason, Synced};
use replica_mock::{MockClient, file};

use crate::support::{Live, raw, stored};

/// A database with some rows, and a replica of it that is up to date; replication has ended.
async fn replicated(page_size: u32) -> (Live, MockClient) {
    let (mut live, replica) = (Live::new(page_size), MockClient::new());
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;
    insert(&live, 20);
    live.sync(&mut replicator).await;
    (live, replica)
}

fn insert(live: &Live, rows: usize) {
    for _ in 0..rows {
        live.run("INSERT INTO t(a, b) VALUES('some', randomblob(700))");
    }
}

async fn resumed(live: &mut Live, replica: &MockClient) -> (Replicator, Synced) {
    let mut replicator = live.started(replica).await;
    let synced = live.sync(&mut replicator).await;
    (replicator, synced)
}

/// Replicates once more, for the `reason` that is expected, and then as ever.
async fn check(mut live: Live, replica: MockClient, reason: Option<SnapshotReason>) {
    let before = replica.files().len();

    let (mut replicator, synced) = resumed(&mut live, &replica).await;
    insert(&live, 1);
    let next = live.sync(&mut replicator).await;

    assert_eq!(synced.snapshot, reason);
    assert_eq!(next.snapshot, None);
    assert_eq!(next.txid.get() as usize, replica.files().len());
    assert!(replica.files().len() > before);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn it_goes_on_where_it_ended() {
    let (live, replica) = replicated(512).await;
    insert(&live, 5);

    check(live, replica, None).await;
}

#[tokio::test]
async fn it_goes_on_where_it_ended_after_a_large_file() {
    let (mut live, replica) = replicated(4096).await;
    let mut replicator = live.started(&replica).await;
    live.run("INSERT INTO t VALUES(1000, 'large', randomblob(3000000))");
    live.sync(&mut replicator).await;
    drop(replicator);
    insert(&live, 5);

    check(live, replica, None).await;
}

#[tokio::test]
async fn it_leaves_the_log_where_it_is_the_last_to_close_the_database() {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    insert(&live, 20);
    live.sync(&mut replicator).await;
    live.disconnect();
    drop(replicator);

    let (_, synced) = resumed(&mut live, &replica).await;

    assert_eq!((synced.txid.get(), synced.snapshot), (1, None));
}

#[tokio::test]
async fn it_goes_on_where_nobody_has_written() {
    let (mut live, replica) = replicated(512).await;
    replica.clear_calls();

    let (_, synced) = resumed(&mut live, &replica).await;

    assert_eq!((synced.txid.get(), synced.files.len()), (2, 0));
    assert_eq!(replica.count(Op::Write), 0);
}

#[tokio::test]
async fn a_log_that_was_begun_anew_leads_to_a_snapshot() {
    let (live, replica) = replicated(512).await;
    live.run("PRAGMA wal_checkpoint(RESTART)");
    insert(&live, 1);

    check(live, replica, Some(SnapshotReason::NewLog)).await;
}

#[tokio::test]
async fn a_log_that_was_removed_leads_to_a_snapshot() {
    let (mut live, replica) = replicated(512).await;
    live.disconnect();
    live.connect();
    insert(&live, 1);

    check(live, replica, Some(SnapshotReason::NewLog)).await;
}

#[tokio::test]
async fn a_database_that_left_wal_mode_meanwhile_leads_to_a_snapshot() {
    let (live, replica) = replicated(512).await;
    live.run("PRAGMA journal_mode=DELETE");
    insert(&live, 1);

    check(live, replica, Some(SnapshotReason::NewLog)).await;
}

#[tokio::test]
async fn an_older_copy_of_the_database_leads_to_a_snapshot() {
    // A power cut with synchronous=NORMAL leaves a database behind its replica in the same way.
    for further in [0, 1, 40] {
        let (mut live, replica) = replicated(512).await;
        let older = tempfile::tempdir().expect("a temporary folder");
        let names = ["app.db", "app.db-wal"];
        let folder = live
            .path()
            .parent()
            .expect("a file is in a folder")
            .to_owned();
        live.run("PRAGMA wal_autocheckpoint=0");
        for name in names {
            fs::copy(folder.join(name), older.path().join(name)).expect("both files are there");
        }
        insert(&live, 20);
        resumed(&mut live, &replica).await;
        live.disconnect();
        fs::remove_file(folder.join("app.db-shm")).ok();
        for name in names {
            fs::copy(older.path().join(name), folder.join(name)).expect("both files are there");
        }
        live.connect();
        insert(&live, further);
        let reason = match further {
            40 => SnapshotReason::OtherLog,
            _ => SnapshotReason::ShorterLog,
        };

        check(live, replica, Some(reason)).await;
    }
}

#[tokio::test]
async fn a_replica_whose_newest_file_is_no_raw_one_is_gone_on_with_by_a_snapshot() {
    let (live, replica) = replicated(512).await;
    let content = stored(&replica, 2);
    let time = crate::support::NOW;
    replica.put(file(1, 2..=2), time, content);
    replica.remove(raw(2));
    insert(&live, 1);

    let mut replicator = live.started(&replica).await;
    let synced = replicator.sync().await.expect("a sync should succeed");

    assert_eq!(synced.snapshot, Some(SnapshotReason::NoPlace));
    assert_eq!(synced.txid.get(), 3);
}

#[tokio::test]
async fn a_newest_file_that_is_damaged_is_gone_on_with_by_a_snapshot() {
    for offset in [0, 300] {
        let (mut live, replica) = replicated(512).await;
        replica.corrupt(raw(2), stored(&replica, 2).len() - 30 - offset);
        if offset == 0 {
            replica.corrupt(raw(2), 50);
        }
        insert(&live, 1);

        let mut replicator = live.started(&replica).await;
        let synced = replicator.sync().await.expect("a sync should succeed");

        assert!(synced.snapshot.is_some(), "{synced:?}");
        assert_eq!(synced.txid.get(), 3);
        live.disconnect();
    }
}

#[tokio::test]
async fn a_time_is_never_before_that_of_the_file_before() {
    let (live, replica) = replicated(512).await;
    insert(&live, 1);
    let mut options = live.options();
    options.clock = std::sync::Arc::new(|| replica_core::Timestamp::EPOCH);

    let client = std::sync::Arc::new(replica.clone());
    let mut replicator = Replicator::open(client, options)
        .await
        .expect("it should start");
    let synced = replicator.sync().await.expect("a sync should succeed");

    assert_eq!(synced.files[0].created_at, crate::support::NOW);
}

#[tokio::test]
async fn pages_of_another_size_are_not_mixed_with_the_replicas() {
    let (live, replica) = replicated(512).await;
    live.run("PRAGMA journal_mode=DELETE; PRAGMA page_size=1024; VACUUM; PRAGMA journal_mode=WAL");
    let files = replica.files();

    let mut replicator = live.started(&replica).await;
    let error = replicator.sync().await.expect_err("a sync should fail");

    assert!(matches!(error, ReplicateError::PageSize { .. }), "{error}");
    assert_eq!(replica.files(), files);
}

#[tokio::test]
async fn what_an_application_checkpoints_meanwhile_is_not_missed() {
    for kind in ["PASSIVE", "FULL", "RESTART", "TRUNCATE"] {
        let (mut live, replica) = (Live::new(512), MockClient::new());
        live.run("PRAGMA busy_timeout=0");
        let mut replicator = live.started(&replica).await;
        live.sync(&mut replicator).await;
        for _ in 0..4 {
            insert(&live, 10);
            live.run(&format!("PRAGMA wal_checkpoint({kind})"));
            insert(&live, 1);
            let synced = live.sync(&mut replicator).await;
            assert_eq!(synced.snapshot, None, "{kind}");
        }
        live.assert_restorable(replica).await;
    }
}

#[tokio::test]
async fn a_vacuum_is_followed() {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    insert(&live, 50);
    live.sync(&mut replicator).await;
    live.run("DELETE FROM t WHERE id > 10; VACUUM");

    let synced = live.sync(&mut replicator).await;
    insert(&live, 60);
    live.sync(&mut replicator).await;

    assert_eq!(synced.snapshot, None);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_database_that_was_replaced_is_noticed() {
    let (live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    replicator.sync().await.expect("a sync should succeed");
    fs::rename(live.path(), live.path().with_extension("old")).expect("it is there");

    let error = replicator.sync().await.expect_err("a sync should fail");

    assert!(matches!(error, ReplicateError::Replaced { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_database_is_told_at_once() {
    let live = Live::new(512);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let replica = MockClient::new();
    let open = |path: std::path::PathBuf| {
        let mut options = live.options();
        options.database = path;
        Replicator::open(std::sync::Arc::new(replica.clone()), options)
    };
    let text = folder.path().join("text");
    fs::write(
        &text,
        "not a database, but long enough to be looked at ".repeat(30),
    )
    .expect("a file can be written");

    let none = open(folder.path().join("none.db"))
        .await
        .expect_err("that is no database");
    let text = open(text).await.expect_err("that is no database");
    let dir = open(folder.path().to_owned())
        .await
        .expect_err("that is no database");

    assert!(matches!(none, ReplicateError::NotFound { .. }), "{none}");
    assert!(
        matches!(text, ReplicateError::NotADatabase { .. }),
        "{text}"
    );
    assert!(matches!(dir, ReplicateError::Sqlite { .. }), "{dir}");
    assert_eq!(replica.calls().len(), 0);
}

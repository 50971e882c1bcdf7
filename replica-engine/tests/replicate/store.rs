//! A store that fails, or is written by somebody else; and a real folder.

use std::time::Duration;

use replica_core::{ErrorKind, Op};
use replica_engine::ReplicateError;
use replica_file::FileClient;
use replica_mock::{MockClient, file};

use crate::support::{Live, NOW, raw, stored};

#[tokio::test]
async fn a_folder_keeps_what_restores_to_the_same_bytes() {
    let mut live = Live::new(4096);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let client = FileClient::new(folder.path().join("replica"));
    let mut replicator = live.started(&client).await;

    for round in 0..5 {
        live.run(&format!(
            "INSERT INTO t(a, b) VALUES('{round}', randomblob(40000)); DELETE FROM t WHERE id = 2"
        ));
        live.sync(&mut replicator).await;
    }

    live.assert_restorable(client).await;
}

#[tokio::test]
async fn after_an_error_the_very_same_file_is_stored_again() {
    for applied in [false, true] {
        let (mut live, replica) = (Live::new(512), MockClient::new());
        let mut replicator = live.started(&replica).await;
        live.sync(&mut replicator).await;
        live.run("INSERT INTO t VALUES(1, 'one', zeroblob(3000))");
        let trouble = replica.on(Op::Write);
        let trouble = if applied {
            trouble.after_applying()
        } else {
            trouble
        };
        trouble.fail(ErrorKind::Unavailable);

        let error = replicator.sync().await.expect_err("a sync should fail");
        let stored = replica.content(raw(2));
        live.run("INSERT INTO t VALUES(2, 'two', zeroblob(3000))");
        let synced = live.sync(&mut replicator).await;

        assert!(matches!(error, ReplicateError::Store(_)), "{error}");
        assert_eq!(stored.is_some(), applied);
        assert_eq!(synced.files.len(), 2);
        if applied {
            assert_eq!(
                replica.content(raw(2)),
                stored,
                "it was stored with other content"
            );
        }
        live.assert_restorable(replica).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_was_dropped_can_be_called_again() {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;
    live.run("INSERT INTO t VALUES(1, 'one', zeroblob(3000))");
    replica.on(Op::Write).hang();

    let dropped = tokio::time::timeout(Duration::from_secs(1), replicator.sync()).await;
    let synced = live.sync(&mut replicator).await;

    assert!(dropped.is_err());
    assert_eq!(synced.txid.get(), 2);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_store_that_can_not_be_listed_is_not_taken_for_an_empty_one() {
    let (live, replica) = (Live::new(512), MockClient::new());
    replica.fail_next(Op::List, ErrorKind::PermissionDenied);

    let error = live
        .replicator(replica.clone())
        .await
        .expect_err("it should not start");

    assert!(matches!(error, ReplicateError::Store(_)), "{error}");
    assert_eq!(replica.count(Op::Write), 0);
}

#[tokio::test(start_paused = true)]
async fn somebody_else_who_writes_to_the_replica_is_noticed() {
    let (live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    replicator.sync().await.expect("a sync should succeed");
    let content = stored(&replica, 1);
    replica.put(file(0, 7..=7), NOW, content);
    live.run("INSERT INTO t VALUES(1, 'one', zeroblob(3000))");

    tokio::time::advance(Duration::from_secs(60)).await;
    let error = replicator.sync().await.expect_err("a sync should fail");

    assert!(
        matches!(error, ReplicateError::Conflict { file } if file == raw(7)),
        "{error}"
    );
    assert!(replica.content(raw(2)).is_none());
}

#[tokio::test]
async fn a_last_transaction_that_has_no_next_is_an_error() {
    let (live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    replicator.sync().await.expect("a sync should succeed");
    let content = stored(&replica, 1);
    replica.put(file(0, u64::MAX..=u64::MAX), NOW, content);
    drop(replicator);

    let mut replicator = live.started(&replica).await;
    let error = replicator.sync().await.expect_err("a sync should fail");

    assert!(matches!(error, ReplicateError::Exhausted { .. }), "{error}");
}

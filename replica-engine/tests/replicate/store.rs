//! A store that fails, or is written by somebody else; and a real folder.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ltx::Header;
use replica_core::{Capabilities, ErrorKind, Op};
use replica_engine::{ReplicateError, Replicator, SnapshotReason, Synced, Target, plan};
use replica_file::FileClient;
use replica_mock::{MockClient, file};
use tokio::time::sleep;

use crate::support::{Live, NOW, raw, restored, stored, with_header};

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
        let stored = replica.content(raw(3));
        live.run("INSERT INTO t VALUES(2, 'two', zeroblob(3000))");
        let synced = live.sync(&mut replicator).await;

        assert!(matches!(error, ReplicateError::Store(_)), "{error}");
        assert_eq!(stored.is_some(), applied);
        assert_eq!(synced.files.len(), 2);
        if applied {
            assert_eq!(
                replica.content(raw(3)),
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
    assert_eq!(synced.txid.get(), 3);
    live.assert_restorable(replica).await;
}

/// A file that was being made kept a thread until the store had taken all of it. Where there were as
/// many of them as threads, none was left for a folder to write with, and all waited for ever.
#[test]
fn a_store_that_pauses_holds_no_thread_that_others_need() {
    let runtime = |threads| {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(threads)
            .build()
            .expect("a runtime")
    };
    let (slow, slowly) = (Live::new(4096), MockClient::new());
    slow.run("INSERT INTO t(b) VALUES(randomblob(9000000))");
    slowly.on(Op::Write).at_byte(1_000_000).hang();
    let mut live = Live::new(4096);
    live.run("INSERT INTO t(b) VALUES(randomblob(9000000))");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let client = FileClient::new(folder.path().join("replica"));

    runtime(1).block_on(async {
        let mut hanging = slow.started(&slowly).await;
        let hangs = tokio::spawn(async move { hanging.sync().await });
        let reached = async {
            while slowly.count(Op::Write) == 0 {
                tokio::task::yield_now().await;
            }
            let mut replicator = live.started(&client).await;
            live.sync(&mut replicator).await;
        };
        let reached = tokio::time::timeout(Duration::from_secs(60), reached).await;

        reached.expect("another database is replicated meanwhile");
        assert!(!hangs.is_finished());
        hangs.abort();
    });

    runtime(8).block_on(live.assert_restorable(client));
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

/// Commits one more transaction after `pause` and replicates it, which must fail because of what
/// somebody else has done to the file of `txid`, and change nothing.
async fn check_conflict(
    live: &Live,
    replica: &MockClient,
    mut replicator: Replicator,
    pause: Duration,
    txid: u64,
) {
    let content = |file| (file, replica.content(file));
    let all = || replica.files().into_iter().map(content).collect::<Vec<_>>();
    let before = all();
    live.run("INSERT INTO t(a, b) VALUES('one more', zeroblob(3000))");

    tokio::time::advance(pause).await;
    let error = replicator.sync().await.expect_err("a sync should fail");

    assert!(
        matches!(error, ReplicateError::Conflict { file } if file == raw(txid)),
        "{error}"
    );
    assert!(all() == before, "it has changed the replica");
}

/// A database and its replica of four files.
async fn replicating() -> (Live, MockClient, Replicator) {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    for _ in 0..3 {
        live.run("INSERT INTO t(a, b) VALUES('one', zeroblob(3000))");
        live.sync(&mut replicator).await;
    }
    (live, replica, replicator)
}

const A_MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn somebody_else_who_writes_to_the_replica_is_noticed() {
    // Further on, over the file before the newest one, where the next one would go, and over the
    // first one, which is at another level.
    for txid in [7, 3, 5, 1] {
        let (live, replica, replicator) = replicating().await;
        let content = stored(&replica, 1 + u64::from(txid == 1));
        replica.put(raw(txid), NOW, content);

        check_conflict(&live, &replica, replicator, A_MINUTE, txid).await;
    }
}

#[tokio::test(start_paused = true)]
async fn somebody_else_who_deletes_from_the_replica_is_noticed() {
    let (live, replica, replicator) = replicating().await;
    replica.remove(raw(4));

    check_conflict(&live, &replica, replicator, A_MINUTE, 4).await;
}

#[tokio::test(start_paused = true)]
async fn somebody_else_is_noticed_before_anything_is_written() {
    let (live, replica, _) = replicating().await;
    let replicator = live.started(&replica).await;
    let content = stored(&replica, 1);
    replica.put(raw(5), NOW, content);

    check_conflict(&live, &replica, replicator, Duration::ZERO, 5).await;
}

#[tokio::test(start_paused = true)]
async fn somebody_else_who_has_just_begun_is_noticed_before_anything_is_written() {
    let (live, replica, other) = (Live::new(512), MockClient::new(), Live::new(512));
    let replicator = live.started(&replica).await;
    let mut others = other.started(&replica).await;
    replica.on(Op::Write).skip(1).fail(ErrorKind::Unavailable);
    others.sync().await.expect_err("the store has failed");
    assert_eq!(replica.files(), [raw(1)]);

    check_conflict(&live, &replica, replicator, Duration::ZERO, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_deleted_when_it_was_old_or_stored_in_spite_of_an_error_is_no_conflict() {
    let (mut live, replica, mut replicator) = replicating().await;
    replica.put(file(1, 3..=3), NOW, stored(&replica, 3));
    replica.remove(raw(3));
    replica
        .on(Op::Write)
        .after_applying()
        .fail(ErrorKind::Unavailable);
    live.run("INSERT INTO t(a, b) VALUES('stored', zeroblob(3000))");
    replicator.sync().await.expect_err("the store has failed");
    assert!(replica.content(raw(5)).is_some());

    tokio::time::advance(A_MINUTE).await;
    let synced = live.sync(&mut replicator).await;

    assert_eq!((synced.txid.get(), synced.snapshot), (5, None));
}

/// Commits once more, and says what was stored for that.
async fn one_more(live: &mut Live, replicator: &mut Replicator) -> Synced {
    live.run("INSERT INTO t(a, b) VALUES('one more', zeroblob(3000))");
    live.sync(replicator).await
}

/// Whoever restored then would have got nothing: everything after was stored on top of a gap.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_from_the_middle_is_gone_on_without_by_a_new_start() {
    let (mut live, replica, mut replicator) = replicating().await;
    replica.remove(raw(3));

    tokio::time::advance(A_MINUTE).await;
    one_more(&mut live, &mut replicator).await;
    let second = one_more(&mut live, &mut replicator).await;
    let third = one_more(&mut live, &mut replicator).await;

    assert_eq!(second.snapshot, Some(SnapshotReason::Incomplete));
    assert_eq!(third.snapshot, None);
    let latest = restored(&(Arc::new(replica) as _), Target::Latest).await;
    assert!(latest == live.state(), "what was restored is another");
}

/// Everything was said to be stored at the end, and nothing of it could be restored.
#[tokio::test(start_paused = true)]
async fn what_restores_begin_with_is_missed_at_the_end_and_stored_anew() {
    let (mut live, replica, mut replicator) = replicating().await;
    replica.remove(raw(1));
    one_more(&mut live, &mut replicator).await;

    let confirmed = replicator.confirm().await;

    confirmed.expect("it is put right");
    let latest = restored(&(Arc::new(replica) as _), Target::Latest).await;
    assert!(latest == live.state(), "what was restored is another");
}

#[tokio::test(start_paused = true)]
async fn what_restores_begin_with_is_missed_within_minutes() {
    let (mut live, replica, mut replicator) = replicating().await;
    one_more(&mut live, &mut replicator).await;
    tokio::time::advance(A_MINUTE).await;
    one_more(&mut live, &mut replicator).await;
    replica.remove(raw(1));
    replica.clear_calls();

    tokio::time::advance(5 * A_MINUTE).await;
    let before = one_more(&mut live, &mut replicator).await;
    let lists = replica.count(Op::List);
    tokio::time::advance(5 * A_MINUTE).await;
    one_more(&mut live, &mut replicator).await;
    let after = one_more(&mut live, &mut replicator).await;

    assert_eq!((before.snapshot, lists), (None, 1));
    assert_eq!(after.snapshot, Some(SnapshotReason::Incomplete));
    let latest = restored(&(Arc::new(replica) as _), Target::Latest).await;
    assert!(latest == live.state(), "what was restored is another");
}

#[tokio::test]
async fn what_was_compacted_is_no_conflict() {
    let (mut live, replica, _) = replicating().await;
    let content = stored(&replica, 4);
    let compacted = file(1, 3..=4);
    let merged = with_header(&content, |header| {
        let (page_size, commit) = (header.page_size(), header.commit());
        Header::new(page_size, commit, compacted.txids, header.timestamp())
    });
    replica.put(compacted, NOW, merged);
    replica.remove(raw(4));

    let mut replicator = live.started(&replica).await;
    let synced = live.sync(&mut replicator).await;

    assert_eq!(synced.snapshot, Some(SnapshotReason::NoPlace));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_may_be_in_the_replica_is_not_made_with_other_content() {
    // The store has said that it has failed, and the log was overwritten then.
    let (mut live, replica, mut replicator) = replicating().await;
    replica
        .on(Op::Write)
        .after_applying()
        .fail(ErrorKind::Unavailable);
    live.run("INSERT INTO t(a, b) VALUES('stored', zeroblob(3000))");
    replicator.sync().await.expect_err("the store has failed");
    let content = stored(&replica, 5);
    let log = damage_end(&live.wal());
    replicator.sync().await.expect_err("the log is damaged");
    overwrite(&live.wal(), &log);

    let synced = replicator.sync().await.expect("the log is whole again");
    live.run("INSERT INTO t(a, b) VALUES('further', zeroblob(3000))");
    tokio::time::advance(A_MINUTE).await;
    let further = live.sync(&mut replicator).await;

    assert_eq!(synced.snapshot, Some(SnapshotReason::Incomplete));
    assert_eq!((synced.txid.get(), further.txid.get()), (6, 7));
    assert_eq!(stored(&replica, 5), content);
    let latest = restored(&(Arc::new(replica) as _), Target::Latest).await;
    assert!(latest == live.state(), "what was restored is another");
}

/// The first of all files was taken for somebody else's, and replication ended for good.
#[tokio::test(start_paused = true)]
async fn a_first_file_that_may_be_in_the_replica_is_no_conflict() {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    live.run("INSERT INTO t(a, b) VALUES('stored', zeroblob(3000))");
    let mut replicator = live.started(&replica).await;
    replica
        .on(Op::Write)
        .after_applying()
        .fail(ErrorKind::Unavailable);
    replicator.sync().await.expect_err("the store has failed");
    let log = damage_end(&live.wal());
    replicator.sync().await.expect_err("the log is damaged");
    overwrite(&live.wal(), &log);
    tokio::time::advance(A_MINUTE).await;

    let synced = live.sync(&mut replicator).await;

    assert_eq!(synced.snapshot, Some(SnapshotReason::Incomplete));
    let latest = restored(&(Arc::new(replica) as _), Target::Latest).await;
    assert!(latest == live.state(), "what was restored is another");
}

/// Changes the last byte of the log, and returns what it was.
fn damage_end(log: &Path) -> Vec<u8> {
    let before = std::fs::read(log).expect("the log is there");
    let mut damaged = before.clone();
    if let Some(byte) = damaged.last_mut() {
        *byte ^= 1;
    }
    overwrite(log, &damaged);
    before
}

/// Writes to a file that others have open, and leaves it the same file.
fn overwrite(path: &Path, content: &[u8]) {
    let file = std::fs::File::options().write(true).open(path);
    let written = file.and_then(|mut file| file.write_all(content));
    written.expect("a file can be written");
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

/// A store whose listings are behind by five seconds.
fn lagging() -> MockClient {
    let lag = Duration::from_secs(5);
    MockClient::with_capabilities(Capabilities::FULL.with_list_lag(lag))
}

#[tokio::test(start_paused = true)]
async fn what_is_not_listed_yet_is_gone_on_with_by_the_next_process() {
    // It took the replica for an empty one, and wrote over what it had.
    let (mut live, replica) = (Live::new(512), lagging());
    let mut first = live.started(&replica).await;
    live.sync(&mut first).await;
    drop(first);

    let mut second = live.started(&replica).await;
    live.run("INSERT INTO t(a) VALUES('more')");
    let synced = live.sync(&mut second).await;

    assert_eq!((synced.txid.get(), synced.snapshot), (3, None));
    sleep(Duration::from_secs(5)).await;
    live.assert_restorable(replica).await;
}

/// The latest state was one that was older than what had been acknowledged.
#[tokio::test(start_paused = true)]
async fn what_is_not_listed_yet_is_restored() {
    let (mut live, replica) = (Live::new(512), lagging());
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;
    sleep(Duration::from_secs(5)).await;
    live.run("INSERT INTO t(a) VALUES('more')");
    live.sync(&mut replicator).await;

    live.assert_latest(&replica).await;

    live.run("INSERT INTO t(a) VALUES('more still')");
    let txid = live.sync(&mut replicator).await.txid;
    let planned = plan(&replica, Target::Latest).await;
    assert_eq!(planned.expect("it can be restored").txid(), txid);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_listed_yet_was_deleted_by_nobody() {
    // A look for another writer missed the file that was stored just before it.
    let (mut live, replica) = (Live::new(512), lagging());
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;

    for pause in [29, 2, 29, 2] {
        sleep(Duration::from_secs(pause)).await;
        live.run("INSERT INTO t(a) VALUES('more')");
        live.sync(&mut replicator).await;
    }

    sleep(Duration::from_secs(5)).await;
    live.assert_restorable(replica).await;
}

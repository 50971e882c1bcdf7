//! What happens while nobody looks: between two runs, and behind the back of one.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::time::Duration;

use ltx::Header;
use replica_core::{ErrorKind, Op, ReplicaClient, Timestamp};
use replica_engine::{ReplicateError, Replicator, SnapshotReason, Synced, Target, plan};
use replica_mock::{MockClient, file};

use crate::application::{connect, run};
use crate::support::{Live, NOW, raw, restored, stored, with_header};

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

    assert_eq!((synced.txid.get(), synced.snapshot), (2, None));
}

#[tokio::test]
async fn it_goes_on_where_nobody_has_written() {
    let (mut live, replica) = replicated(512).await;
    replica.clear_calls();

    let (_, synced) = resumed(&mut live, &replica).await;

    assert_eq!((synced.txid.get(), synced.files.len()), (3, 0));
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

    check(live, replica, Some(SnapshotReason::RemovedLog)).await;
}

/// It was taken for another database whenever an application began with a restore.
#[tokio::test]
async fn a_small_database_that_is_as_its_replica_has_it_is_taken_for_the_same() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    live.run("INSERT INTO t(a) VALUES('x')");
    resumed(&mut live, &replica).await;
    live.disconnect();
    live.connect();

    check(live, replica, Some(SnapshotReason::RemovedLog)).await;
}

/// Two databases of one application have the same tables and the same pages in use.
#[tokio::test]
async fn another_database_of_the_same_application_is_not_taken_for_the_replicas() {
    let (_, replica) = replicated(512).await;
    let (mut other, _) = replicated(512).await;

    let (_, synced) = resumed(&mut other, &replica).await;

    assert_eq!(synced.snapshot, Some(SnapshotReason::UnknownLog));
}

#[tokio::test]
async fn a_database_that_left_wal_mode_meanwhile_leads_to_a_snapshot() {
    let (live, replica) = replicated(512).await;
    live.run("PRAGMA journal_mode=DELETE");
    insert(&live, 1);

    check(live, replica, Some(SnapshotReason::RemovedLog)).await;
}

#[tokio::test]
async fn an_older_copy_of_the_database_leads_to_a_snapshot() {
    // A power cut with synchronous=NORMAL leaves a database behind its replica in the same way.
    for further in [0, 1, 40] {
        let (mut live, replica) = replicated(512).await;
        live.run("PRAGMA wal_autocheckpoint=0");
        let older = live.copy();
        insert(&live, 20);
        resumed(&mut live, &replica).await;
        live.replace(&older);
        insert(&live, further);
        let reason = match further {
            40 => SnapshotReason::OtherLog,
            _ => SnapshotReason::ShorterLog,
        };

        check(live, replica, Some(reason)).await;
    }
}

/// Writes one row, and overwrites another one that is in no file with it.
fn last_file(live: &Live) {
    live.run("UPDATE t SET b = x'00' WHERE id = 1");
}

/// A replica of five files, and the database as it has been before its fourth one, with its log.
async fn forked() -> (Live, MockClient, tempfile::TempDir) {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    live.run("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(1, 'one', zeroblob(40))");
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;
    live.run("CREATE TABLE other(a)");
    live.sync(&mut replicator).await;
    let older = live.copy();
    live.run("INSERT INTO other VALUES('this one')");
    live.sync(&mut replicator).await;
    last_file(&live);
    live.sync(&mut replicator).await;
    (live, replica, older)
}

#[tokio::test]
async fn another_history_is_noticed_though_the_newest_file_is_the_same_in_both() {
    // Both have the same log up to a file before the newest one, and as many frames as that after
    // it: only the file in between tells them apart, or the mark, where there is one.
    for is_marked in [true, false] {
        let (mut live, replica, older) = forked().await;
        if !is_marked {
            unmark(&replica);
        }
        live.replace(&older);
        live.run("PRAGMA wal_autocheckpoint=0; INSERT INTO other VALUES('that one')");
        last_file(&live);

        check(live, replica, Some(SnapshotReason::OtherLog)).await;
    }
}

#[tokio::test]
async fn litestreams_files_are_gone_on_with_where_all_of_the_log_is_in_them() {
    // Its own first file is at level 0, and ours at level 9 where it goes on from us. Where there is
    // one at level 1 alone, what it was made of is gone.
    for (level, reason) in [(0, None), (9, None), (1, Some(SnapshotReason::NoPlace))] {
        let (live, replica, _) = forked().await;
        unmark(&replica);
        let content = stored(&replica, 1);
        replica.remove(raw(1));
        replica.put(file(level, 1..=1), NOW, content);
        insert(&live, 1);

        let mut replicator = live.started(&replica).await;
        let synced = replicator.sync().await.expect("a sync should succeed");

        assert_eq!((synced.txid.get(), synced.snapshot), (6, reason));
    }
}

#[tokio::test]
async fn it_goes_on_where_a_file_of_the_log_was_put_together_with_others_and_deleted() {
    let (live, replica, _) = forked().await;
    replica.put(file(1, 3..=3), NOW, stored(&replica, 3));
    replica.remove(raw(3));

    check(live, replica, None).await;
}

#[tokio::test]
async fn files_that_do_not_go_on_from_each_other_are_gone_on_without() {
    let (live, replica, _) = forked().await;
    // Somebody else has written the third file once more.
    replica.put(
        raw(3),
        NOW,
        with_header(&stored(&replica, 4), |header| {
            let wal = header.wal().expect("it was made of a log");
            Header::new(
                header.page_size(),
                header.commit(),
                raw(3).txids,
                header.timestamp(),
            )
            .with_wal(wal)
        }),
    );

    check_new_start(live, replica, SnapshotReason::Incomplete).await;
}

/// Makes all files ones that Litestream could have written.
fn unmark(replica: &MockClient) {
    for file in replica.files() {
        let content = replica.content(file).expect("it is there");
        replica.put(
            file,
            NOW,
            with_header(&content, |header| header.with_node_id(0)),
        );
    }
}

#[tokio::test]
async fn a_replica_whose_newest_file_is_no_raw_one_is_gone_on_with_by_a_snapshot() {
    let (live, replica) = replicated(512).await;
    let content = stored(&replica, 3);
    let time = NOW;
    replica.put(file(1, 3..=3), time, content);
    replica.remove(raw(3));
    insert(&live, 1);

    let mut replicator = live.started(&replica).await;
    let synced = replicator.sync().await.expect("a sync should succeed");

    assert_eq!(synced.snapshot, Some(SnapshotReason::NoPlace));
    assert_eq!(synced.txid.get(), 4);
}

/// Replicates a replica once more of which some file is lost or damaged, and restores the latest
/// state as replication found it, and after one more commit.
async fn check_new_start(mut live: Live, replica: MockClient, reason: SnapshotReason) {
    let client: Arc<dyn ReplicaClient> = Arc::new(replica.clone());
    let files = replica.files();
    let last = files.iter().map(|file| file.txids.max()).max();
    let next = last.expect("it has files").get() + 1;
    insert(&live, 1);

    let (mut replicator, synced) = resumed(&mut live, &replica).await;
    let first = restored(&client, Target::Latest).await;
    let state = live.state();
    insert(&live, 1);
    let further = live.sync(&mut replicator).await;

    assert_eq!((synced.txid.get(), synced.snapshot), (next, Some(reason)));
    let files: Vec<_> = synced.files.iter().map(|file| file.id).collect();
    assert_eq!(files, [file(9, 1..=next), raw(next)]);
    assert!(first == state, "what was restored is another");
    assert_eq!((further.txid.get(), further.snapshot), (next + 1, None));
    let latest = restored(&client, Target::Latest).await;
    assert!(latest == live.state(), "what was restored is another");
    drop(replicator);
    let (_, synced) = resumed(&mut live, &replica).await;
    assert_eq!((synced.txid.get(), synced.files.len()), (next + 1, 0));
}

#[tokio::test]
async fn a_newest_file_that_is_damaged_is_gone_on_with_by_a_new_start() {
    // In its header, its pages, and its index.
    for offset in [0, 13, 50, 700, usize::MAX] {
        let (live, replica) = replicated(512).await;
        let len = stored(&replica, 3).len();
        replica.corrupt(raw(3), offset.min(len - 30));

        check_new_start(live, replica, SnapshotReason::Unreadable).await;
    }
}

#[tokio::test]
async fn a_file_that_is_missing_is_gone_on_without_by_a_new_start() {
    for missing in [1, 2, 3] {
        let (mut live, replica) = replicated(512).await;
        insert(&live, 1);
        resumed(&mut live, &replica).await;
        replica.remove(raw(missing));

        check_new_start(live, replica, SnapshotReason::Incomplete).await;
    }
}

#[tokio::test]
async fn a_new_start_that_was_stored_by_half_is_made_once_more() {
    let (mut live, replica) = replicated(512).await;
    replica.corrupt(raw(3), 50);
    insert(&live, 1);
    let mut replicator = live.started(&replica).await;
    replica.on(Op::Write).skip(1).fail(ErrorKind::Unavailable);

    replicator.sync().await.expect_err("the store has failed");
    drop(replicator);
    let (_, synced) = resumed(&mut live, &replica).await;

    assert_eq!(synced.snapshot, Some(SnapshotReason::NoPlace));
    let client: Arc<dyn ReplicaClient> = Arc::new(replica);
    let latest = restored(&client, Target::Latest).await;
    assert!(latest == live.state(), "what was restored is another");
}

/// Replicates once more while the clock says `now`.
async fn synced_at(live: &mut Live, replica: &MockClient, now: Timestamp) -> Synced {
    insert(live, 1);
    let mut options = live.options();
    options.clock = Arc::new(move || now);
    let replicator = Replicator::open(Arc::new(replica.clone()), options).await;
    live.sync(&mut replicator.expect("it should start")).await
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + seconds * 1000)
}

#[tokio::test]
async fn a_clock_that_goes_back_a_little_is_waited_for() {
    let (mut live, replica) = replicated(512).await;

    let synced = synced_at(&mut live, &replica, after(-60)).await;

    assert_eq!(synced.files[0].created_at, NOW);
    assert_eq!(synced.clock_back, None);
}

#[tokio::test]
async fn a_clock_that_was_far_ahead_is_told_and_no_state_is_silently_older_for_that() {
    let (mut live, replica) = replicated(512).await;
    let client: Arc<dyn ReplicaClient> = Arc::new(replica.clone());
    let a_day = 24 * 3600;

    let ahead = synced_at(&mut live, &replica, after(a_day)).await;
    let right = synced_at(&mut live, &replica, after(100)).await;
    let further = synced_at(&mut live, &replica, after(200)).await;

    assert_eq!(ahead.clock_back, None);
    assert_eq!(right.files[0].created_at, after(100));
    let back = Duration::from_secs(a_day.unsigned_abs() - 100);
    assert_eq!((right.clock_back, further.clock_back), (Some(back), None));
    let in_between = plan(&*client, Target::Time(after(150))).await;
    in_between.expect_err("nothing says when the file before was made");
    let before = plan(&*client, Target::Time(after(50))).await;
    let before = before.expect("all times before are right");
    assert_eq!(before.txid().get(), 3);
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

/// Whatever was committed to the other one was said to be stored, and it was in no replica.
#[tokio::test]
async fn a_link_that_leads_to_another_database_is_noticed() {
    let (live, other, replica) = (Live::new(512), Live::new(512), MockClient::new());
    let link = live.path().with_file_name("link.db");
    symlink(live.path(), &link).expect("a link can be made");
    let mut options = live.options();
    options.database = link.clone();
    let opened = Replicator::open(Arc::new(replica.clone()), options).await;
    let mut replicator = opened.expect("a link leads to a database");
    replicator.sync().await.expect("a sync should succeed");

    fs::remove_file(&link).expect("it is there");
    let leads_nowhere = replicator.sync().await;
    symlink(live.path(), &link).expect("a link can be made");
    let leads_back = replicator.sync().await;
    live.run("INSERT INTO t(a) VALUES('last')");
    fs::remove_file(&link).expect("it is there");
    symlink(other.path(), &link).expect("a link can be made");
    let leads_on = replicator.sync().await;
    let leads_on_still = replicator.sync().await;

    leads_nowhere.expect("nobody opens another database by it");
    leads_back.expect("it is the same database");
    for led_on in [leads_on, leads_on_still] {
        let error = led_on.expect_err("it is another database");
        assert!(
            matches!(&error, ReplicateError::Replaced { path } if *path == link),
            "{error}"
        );
        assert!(error.is_lasting());
    }
    let client: Arc<dyn ReplicaClient> = Arc::new(replica);
    assert!(restored(&client, Target::Latest).await == live.state());
}

#[tokio::test]
async fn a_log_or_its_index_that_was_replaced_is_noticed() {
    // Applications that are started afterwards write to another log, and hold none that we see.
    for suffix in ["-wal", "-shm"] {
        for is_made_anew in [false, true] {
            let (mut live, replica) = (Live::new(512), MockClient::new());
            let mut replicator = live.started(&replica).await;
            live.sync(&mut replicator).await;
            let file = live.path().with_extension(format!("db{suffix}"));
            fs::rename(&file, file.with_extension("old")).expect("it is there");
            if is_made_anew {
                fs::write(&file, "").expect("a file can be written");
            }

            let error = replicator.sync().await.expect_err("a sync should fail");

            assert!(
                matches!(&error, ReplicateError::Replaced { path } if path.ends_with(file.file_name().expect("it is a file"))),
                "{error}"
            );
            assert!(error.is_lasting());
        }
    }
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

/// Litestream begins anew where there is a snapshot and no file of level 0, and so did we.
#[tokio::test]
async fn a_replica_that_has_only_its_first_file_is_gone_on_with() {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    insert(&live, 20);
    replica.on(Op::Write).skip(1).fail(ErrorKind::Unavailable);
    let error = replicator
        .sync()
        .await
        .expect_err("the second file is not stored");
    drop(replicator);
    assert_eq!(replica.files(), [file(9, 1..=1)], "{error}");

    let (_, synced) = resumed(&mut live, &replica).await;

    assert_eq!((synced.txid.get(), synced.snapshot), (2, None));
    assert_eq!(replica.files(), [file(0, 2..=2), file(9, 1..=1)]);
    live.assert_restorable(replica).await;
}

/// What the other process had committed first was in no replica, and nothing told of it.
#[tokio::test]
async fn who_checkpoints_after_the_locks_were_lost_by_closing_a_file_is_noticed() {
    const DATABASE: &str = "REPLICA_TEST_CHECKPOINT";
    const NAME: &str =
        "resume::who_checkpoints_after_the_locks_were_lost_by_closing_a_file_is_noticed";
    if let Some(database) = std::env::var_os(DATABASE) {
        // The other process.
        return run(
            &connect(std::path::Path::new(&database)),
            "UPDATE t SET a = 'lost' WHERE id = 1; PRAGMA wal_checkpoint(RESTART); \
             UPDATE t SET a = 'kept' WHERE id = (SELECT max(id) FROM t)",
        );
    }
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;
    insert(&live, 40);
    live.sync(&mut replicator).await;

    let index = fs::read(live.path().with_extension("db-shm"));
    let other = std::process::Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", NAME])
        .env(DATABASE, live.path())
        .stdout(std::process::Stdio::null())
        .status();
    let synced = live.sync(&mut replicator).await;

    assert!(index.is_ok() && other.expect("it can be started").success());
    assert_eq!(synced.snapshot, Some(SnapshotReason::NewLog));
    live.assert_restorable(replica).await;
}

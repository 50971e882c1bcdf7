//! The log stays short, and nothing that was in it is missed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use replica_core::{ErrorKind, Op, ReplicaClient};
use replica_engine::{Checkpoint, Checkpointed, Replicator, SnapshotReason, Target};
use replica_mock::MockClient;
use rusqlite::Connection;

use crate::application::{connect, run};
use crate::support::{Live, restored};

/// A database with some rows, and a replica of it that is up to date.
async fn replicating() -> (Live, MockClient, Replicator) {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    insert(&live);
    live.sync(&mut replicator).await;
    (live, replica, replicator)
}

fn insert(live: &Live) {
    live.run("INSERT INTO t(a, b) VALUES('some', randomblob(9000))");
}

async fn checkpoint(replicator: &mut Replicator, how: Checkpoint) -> Option<Checkpointed> {
    let done = replicator.checkpoint(how).await;
    done.expect("a checkpoint should succeed or find nothing to do")
}

/// The salt by which logs are told apart.
fn log(live: &Live) -> Vec<u8> {
    let bytes = std::fs::read(live.wal()).expect("the log should be there");
    bytes[16..24].to_vec()
}

#[tokio::test]
async fn the_log_begins_anew_after_either_checkpoint_and_goes_on_in_the_replica() {
    for how in [Checkpoint::Gentle, Checkpoint::Firm] {
        let (mut live, replica, mut replicator) = replicating().await;
        for _ in 0..3 {
            insert(&live);
            live.sync(&mut replicator).await;
            let before = log(&live);

            let done = checkpoint(&mut replicator, how).await;
            insert(&live);
            let synced = live.sync(&mut replicator).await;

            let done = done.expect("everything was in the replica");
            assert!(done.recycled && done.frames == done.backfilled, "{done:?}");
            assert_ne!(log(&live), before);
            assert_eq!(synced.snapshot, None);
        }
        live.assert_restorable(replica).await;
    }
}

#[tokio::test]
async fn what_was_committed_since_the_last_sync_is_not_missed() {
    for how in [Checkpoint::Gentle, Checkpoint::Firm] {
        let (mut live, replica, mut replicator) = replicating().await;
        insert(&live);

        let done = checkpoint(&mut replicator, how).await;
        insert(&live);
        let synced = live.sync(&mut replicator).await;

        let recycled = done.is_some_and(|done| done.recycled);
        assert_eq!(recycled, how == Checkpoint::Firm);
        assert_eq!(synced.snapshot, None, "{how:?}");
        live.assert_restorable(replica).await;
    }
}

#[tokio::test]
async fn what_a_checkpoint_has_copied_is_stored_though_the_store_fails_meanwhile() {
    let (mut live, replica, mut replicator) = replicating().await;
    insert(&live);
    checkpoint(&mut replicator, Checkpoint::Firm).await;
    insert(&live);
    replica.fail_next(Op::Write, ErrorKind::Unavailable);

    let failed = replicator.sync().await;
    let synced = live.sync(&mut replicator).await;

    failed.expect_err("the store has failed");
    assert_eq!((synced.files.len(), synced.snapshot), (2, None));
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn an_application_that_deletes_the_tables_of_ours_loses_nothing() {
    let (mut live, replica, mut replicator) = replicating().await;
    live.run("DROP TABLE _litestream_seq; DROP TABLE _litestream_lock");
    for how in [Checkpoint::Gentle, Checkpoint::Firm] {
        insert(&live);
        live.sync(&mut replicator).await;

        let done = checkpoint(&mut replicator, how).await;
        insert(&live);
        let synced = live.sync(&mut replicator).await;

        assert!(done.is_some_and(|done| done.recycled), "{how:?}: {done:?}");
        assert_eq!(synced.snapshot, None, "{how:?}");
    }
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_checkpoint_of_a_log_that_was_emptied_meanwhile_leads_to_no_snapshot() {
    for how in [Checkpoint::Gentle, Checkpoint::Firm] {
        let (mut live, replica, mut replicator) = replicating().await;
        checkpoint(&mut replicator, how).await;
        live.sync(&mut replicator).await;
        live.run("PRAGMA wal_checkpoint(TRUNCATE)");

        checkpoint(&mut replicator, how).await;
        let first = live.sync(&mut replicator).await;
        insert(&live);
        let synced = live.sync(&mut replicator).await;

        assert_eq!((first.snapshot, synced.snapshot), (None, None), "{how:?}");
        live.assert_restorable(replica).await;
    }
}

#[tokio::test]
async fn a_checkpoint_of_an_empty_log_leads_to_no_snapshot() {
    for how in [Checkpoint::Gentle, Checkpoint::Firm] {
        let (mut live, replica, mut replicator) = replicating().await;
        checkpoint(&mut replicator, how).await;
        live.run("PRAGMA wal_checkpoint(TRUNCATE)");
        live.run("PRAGMA wal_checkpoint(TRUNCATE)");
        live.sync(&mut replicator).await;

        checkpoint(&mut replicator, how).await;
        insert(&live);
        let synced = live.sync(&mut replicator).await;

        assert_eq!(synced.snapshot, None, "{how:?}");
        live.assert_restorable(replica).await;
    }
}

#[tokio::test]
async fn a_new_start_after_a_checkpoint_of_all_leads_to_no_snapshot() {
    let (mut live, replica, mut replicator) = replicating().await;
    insert(&live);
    checkpoint(&mut replicator, Checkpoint::Gentle).await;
    live.sync(&mut replicator).await;
    drop(replicator);

    let mut replicator = live.started(&replica).await;
    insert(&live);
    let synced = live.sync(&mut replicator).await;

    assert_eq!(synced.snapshot, None);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_process_that_is_killed_after_a_checkpoint_leads_to_a_snapshot() {
    let (mut live, replica, mut replicator) = replicating().await;
    insert(&live);
    checkpoint(&mut replicator, Checkpoint::Firm).await;
    insert(&live);
    drop(replicator);

    let mut replicator = live.started(&replica).await;
    let synced = live.sync(&mut replicator).await;

    assert_eq!(synced.snapshot, Some(SnapshotReason::NewLog));
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_checkpoint_waits_for_a_sync() {
    let (mut live, replica, mut replicator) = replicating().await;
    checkpoint(&mut replicator, Checkpoint::Gentle).await;

    let second = checkpoint(&mut replicator, Checkpoint::Gentle).await;
    insert(&live);
    replica.fail_next(Op::Write, ErrorKind::Unavailable);
    replicator.sync().await.expect_err("the store has failed");
    let after_error = checkpoint(&mut replicator, Checkpoint::Firm).await;

    assert_eq!((second, after_error), (None, None));
    live.sync(&mut replicator).await;
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_reader_of_the_application_is_waited_for_without_a_loss() {
    for how in [Checkpoint::Gentle, Checkpoint::Firm] {
        let (mut live, replica, mut replicator) = replicating().await;
        let reader = live.reader();
        insert(&live);
        live.sync(&mut replicator).await;

        let meanwhile = checkpoint(&mut replicator, how).await;
        drop(reader);
        live.sync(&mut replicator).await;
        let afterwards = checkpoint(&mut replicator, how).await;
        insert(&live);
        let synced = live.sync(&mut replicator).await;

        assert!(!meanwhile.expect("a part of it").recycled);
        assert!(afterwards.expect("all of it").recycled);
        assert_eq!(synced.snapshot, None);
        live.assert_restorable(replica).await;
    }
}

#[tokio::test]
async fn an_application_that_keeps_the_write_lock_is_left_alone() {
    let (mut live, replica, mut replicator) = replicating().await;
    live.run("BEGIN IMMEDIATE; INSERT INTO t(a) VALUES('not yet')");

    let meanwhile = checkpoint(&mut replicator, Checkpoint::Firm).await;

    assert_eq!(meanwhile, None);
    live.run("COMMIT");
    live.sync(&mut replicator).await;
    let afterwards = checkpoint(&mut replicator, Checkpoint::Firm).await;
    assert!(afterwards.expect("nobody writes").recycled);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_transaction_that_reads_first_may_write_though_its_log_is_replicated_meanwhile() {
    for how in [Checkpoint::Gentle, Checkpoint::Firm] {
        let (mut live, replica, mut replicator) = replicating().await;
        let later = connect(&live.path());
        insert(&live);
        run(&later, "PRAGMA busy_timeout=5000; BEGIN; SELECT * FROM t");

        live.sync(&mut replicator).await;
        checkpoint(&mut replicator, how).await;
        run(&later, "INSERT INTO t(a) VALUES('later'); COMMIT");

        drop(later);
        assert_eq!(live.sync(&mut replicator).await.snapshot, None);
        live.assert_restorable(replica).await;
    }
}

/// What SQLite answers to a checkpoint of the application: whether it was refused, and how many
/// frames are in the log and in the database file.
fn asked(live: &Live, kind: &str) -> (bool, i64, i64) {
    let pragma = format!("PRAGMA wal_checkpoint({kind})");
    let answer = live.application().query_row(&pragma, (), |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    });
    answer.expect("a checkpoint that is refused is no error")
}

#[tokio::test]
async fn an_application_may_do_what_it_likes_and_only_its_checkpoints_are_refused() {
    let (mut live, replica, mut replicator) = replicating().await;
    insert(&live);

    let refused = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"].map(|kind| asked(&live, kind).0);
    live.run("VACUUM");
    live.disconnect();
    live.connect();
    insert(&live);
    let synced = live.sync(&mut replicator).await;
    drop(replicator);
    let allowed = asked(&live, "TRUNCATE");

    assert_eq!((refused, allowed), ([true; 4], (false, 0, 0)));
    assert_eq!(synced.snapshot, None);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn automatic_checkpoints_of_an_application_copy_nothing_and_do_not_fail() {
    let (mut live, replica, mut replicator) = replicating().await;
    live.run("PRAGMA wal_autocheckpoint=1");
    checkpoint(&mut replicator, Checkpoint::Gentle).await;

    insert(&live);
    insert(&live);

    let (_, frames, backfilled) = asked(&live, "NOOP");
    assert!(frames > 0 && backfilled == 0, "{backfilled} of {frames}");
    assert_eq!(live.sync(&mut replicator).await.snapshot, None);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_log_is_not_begun_anew_before_what_a_checkpoint_has_copied_is_stored() {
    let (mut live, replica, mut replicator) = replicating().await;
    insert(&live);
    let before = log(&live);

    let done = checkpoint(&mut replicator, Checkpoint::Gentle).await;
    insert(&live);
    let meanwhile = log(&live);
    live.sync(&mut replicator).await;

    let done = done.expect("nobody is in the way");
    assert_eq!(done.frames, done.backfilled);
    assert_eq!(meanwhile, before);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn two_that_replicate_one_database_are_not_in_each_others_way() {
    let (mut live, replica, mut first) = replicating().await;
    let other = MockClient::new();
    let mut second = live.started(&other).await;
    for how in [Checkpoint::Gentle, Checkpoint::Firm, Checkpoint::Gentle] {
        insert(&live);
        second.sync().await.expect("a sync should succeed");
        live.sync(&mut first).await;

        checkpoint(&mut first, how).await;
        checkpoint(&mut second, how).await;
        insert(&live);
        let after = second.sync().await.expect("a sync should succeed");

        assert_eq!(
            (live.sync(&mut first).await.snapshot, after.snapshot),
            (None, None)
        );
    }
    drop(first);
    checkpoint(&mut second, Checkpoint::Firm).await;
    insert(&live);
    let synced = second.sync().await.expect("a sync should succeed");
    assert_eq!(synced.snapshot, None);
    live.assert_latest(&other).await;
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn the_disk_space_of_a_log_that_has_grown_is_given_back() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut options = live.options();
    options.wal_max = 1024 * 1024;
    let client = Arc::new(replica.clone());
    let started = Replicator::open(client, options).await;
    let mut replicator = started.expect("it should start");
    live.sync(&mut replicator).await;
    live.run("INSERT INTO t(a, b) VALUES('large', randomblob(3000000))");
    live.sync(&mut replicator).await;

    let done = replicator.upkeep(true).await.expect("it should succeed");

    assert!(done.is_some_and(|done| done.recycled), "{done:?}");
    let left = std::fs::metadata(live.wal()).expect("the log is there");
    assert_eq!(left.len(), 0);
    insert(&live);
    assert_eq!(live.sync(&mut replicator).await.snapshot, None);
    live.assert_restorable(replica).await;
}

/// The log of a database with a replica that has everything, whose file is larger than it may be, since
/// somebody reads it.
async fn larger_than_it_may_be() -> (Live, MockClient, Replicator, Connection) {
    let (mut live, replica, mut replicator) = replicating_within(1024 * 1024).await;
    live.run("INSERT INTO t(a, b) VALUES('large', randomblob(3000000))");
    live.sync(&mut replicator).await;
    let reader = live.reader();
    let done = replicator.upkeep(true).await.expect("it should succeed");
    assert!(done.is_some_and(|done| done.recycled), "{done:?}");
    assert!(wal_len(&live) > 1024 * 1024);
    (live, replica, replicator, reader)
}

/// Looks whether the log takes no space, and goes on with a new one.
async fn assert_given_back(mut live: Live, replica: MockClient, mut replicator: Replicator) {
    assert_eq!(wal_len(&live), 0);
    insert(&live);
    assert_eq!(live.sync(&mut replicator).await.snapshot, None);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn disk_space_is_given_back_once_nobody_reads_though_nobody_writes_any_more() {
    let (mut live, replica, mut replicator, reader) = larger_than_it_may_be().await;
    drop(reader);

    live.sync(&mut replicator).await;
    replicator.upkeep(true).await.expect("it should succeed");

    assert_given_back(live, replica, replicator).await;
}

#[tokio::test]
async fn disk_space_is_given_back_of_a_log_that_was_begun_anew_and_is_short_since() {
    let (mut live, replica, mut replicator, reader) = larger_than_it_may_be().await;
    drop(reader);
    insert(&live);

    live.sync(&mut replicator).await;
    assert!(wal_len(&live) > 1024 * 1024);
    replicator.upkeep(true).await.expect("it should succeed");

    assert_given_back(live, replica, replicator).await;
}

#[tokio::test]
async fn disk_space_is_given_back_of_a_log_that_has_no_frames_from_the_start() {
    let mut live = Live::new(4096);
    live.run("INSERT INTO t(a, b) VALUES('large', randomblob(3000000))");
    let other = connect(&live.path());
    run(&other, "PRAGMA wal_checkpoint(RESTART)");
    assert!(wal_len(&live) > 1024 * 1024);
    let mut options = live.options();
    options.wal_max = 1024 * 1024;
    let replica = MockClient::new();
    let opened = Replicator::open(Arc::new(replica.clone()), options).await;
    let mut replicator = opened.expect("it should start");
    live.sync(&mut replicator).await;

    replicator.upkeep(true).await.expect("it should succeed");

    assert_given_back(live, replica, replicator).await;
}

#[tokio::test]
async fn disk_space_is_given_back_while_somebody_writes_only_where_it_is_a_lot() {
    for (bytes, is_cut) in [(3_000_000, false), (5_000_000, true)] {
        let (mut live, replica, mut replicator) = replicating_within(1024 * 1024).await;
        live.run(&format!("INSERT INTO t(b) VALUES(randomblob({bytes}))"));
        live.sync(&mut replicator).await;

        let done = replicator.upkeep(false).await.expect("it should succeed");

        assert!(done.is_some_and(|done| done.recycled), "{done:?}");
        assert_eq!(wal_len(&live) == 0, is_cut);
        live.assert_restorable(replica).await;
    }
}

/// An application that writes without a pause until it is told to stop.
struct Writer {
    stop: Arc<AtomicBool>,
    /// Says how long the longest commit took.
    thread: thread::JoinHandle<Duration>,
}

impl Writer {
    fn start(path: &Path, settings: &str) -> Writer {
        let (path, stop) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
        let settings = format!("PRAGMA busy_timeout=5000; {settings}");
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let application = connect(&path);
            run(&application, &settings);
            let mut longest = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                run(
                    &application,
                    "INSERT INTO t(a, b) VALUES('busy', randomblob(300))",
                );
                run(
                    &application,
                    "DELETE FROM t WHERE id = (SELECT min(id) FROM t)",
                );
                longest = longest.max(begun.elapsed());
            }
            longest
        });
        Writer { stop, thread }
    }

    fn stop(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer should see no error")
    }
}

/// A database with a log of up to `wal_max` bytes, and a replica that is up to date.
async fn replicating_within(wal_max: u64) -> (Live, MockClient, Replicator) {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut options = live.options();
    options.wal_max = wal_max;
    options.checkpoint_pages = 50;
    let client = Arc::new(replica.clone());
    let started = Replicator::open(client, options).await;
    let mut replicator = started.expect("it should start");
    live.sync(&mut replicator).await;
    (live, replica, replicator)
}

/// Syncs and checkpoints beside a writer until the log was begun anew so many times, and says how
/// long it was at most.
async fn recycled(live: &Live, replicator: &mut Replicator, times: u32) -> u64 {
    let (mut recycled, mut largest, begun) = (0, 0, Instant::now());
    while recycled < times && begun.elapsed() < Duration::from_secs(60) {
        let synced = replicator.sync().await.expect("a sync should succeed");
        assert_eq!(synced.snapshot, None);
        let done = replicator.upkeep(false).await.expect("it should succeed");
        recycled += u32::from(done.is_some_and(|done| done.recycled));
        largest = largest.max(wal_len(live));
    }
    assert_eq!(recycled, times);
    largest
}

fn wal_len(live: &Live) -> u64 {
    std::fs::metadata(live.wal()).map_or(0, |metadata| metadata.len())
}

const WRITE: &str = "INSERT INTO t(b) VALUES(randomblob(30000))";

/// Writes until the log has more than `len` bytes.
fn write_more_than(live: &Live, len: u64) {
    while wal_len(live) <= len {
        live.run(WRITE);
    }
}

/// Writes each five milliseconds until that comes about at once mostly: whoever is slowed down is
/// kept waiting for thirty after each transaction.
async fn until_writes_come_about_at_once(live: &Live) {
    live.run("PRAGMA busy_timeout=0");
    let write = "INSERT INTO t(a) VALUES('some')";
    let mut refused = 100;
    while refused > 50 {
        refused = 0;
        for _ in 0..100 {
            refused += u32::from(live.application().execute_batch(write).is_err());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    live.run("PRAGMA busy_timeout=5000");
}

async fn assert_latest(live: &mut Live, replica: MockClient, replicator: &mut Replicator) {
    live.sync(replicator).await;
    let client: Arc<dyn ReplicaClient> = Arc::new(replica);
    let restored = restored(&client, Target::Latest).await;
    assert!(restored == live.state(), "what was restored is another");
}

#[tokio::test]
async fn a_writer_that_never_pauses_is_not_kept_waiting_and_its_log_stays_short() {
    const WAL_MAX: u64 = 4 * 1024 * 1024;
    for autocheckpoint in [0, 50] {
        let (mut live, replica, mut replicator) = replicating_within(WAL_MAX).await;
        let settings =
            format!("PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint={autocheckpoint}");
        let writer = Writer::start(&live.path(), &settings);

        let largest = recycled(&live, &mut replicator, 5).await;
        let longest = writer.stop();

        assert!(largest <= WAL_MAX, "the log has had {largest} bytes");
        assert!(
            longest < Duration::from_secs(1),
            "a commit took {longest:?}"
        );
        assert_latest(&mut live, replica, &mut replicator).await;
    }
}

#[tokio::test]
async fn who_writes_is_slowed_down_once_the_log_is_as_long_as_it_may_be() {
    const WAL_MAX: u64 = 1024 * 1024;
    let (mut live, replica, mut replicator) = replicating_within(WAL_MAX).await;
    replica.on(Op::Write).delay(Duration::from_millis(700));
    write_more_than(&live, 4 * WAL_MAX);
    live.run("PRAGMA busy_timeout=0");

    let refused = async {
        while live.application().execute_batch(WRITE).is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let refused = async {
        tokio::select! {
            biased;
            () = refused => true,
            _ = replicator.sync() => false,
        }
    };
    let is_refused = refused.await;

    assert!(is_refused, "nobody has slowed it down");
    live.run("PRAGMA busy_timeout=5000");
    live.run(WRITE);
    replicator.sync().await.expect("a sync should succeed");
    recycled(&live, &mut replicator, 1).await;
    assert_latest(&mut live, replica, &mut replicator).await;
}

#[tokio::test]
async fn nobody_is_slowed_down_for_a_log_that_a_reader_keeps() {
    const WAL_MAX: u64 = 1024 * 1024;
    let (mut live, replica, mut replicator) = replicating_within(WAL_MAX).await;
    insert(&live);
    let reader = live.reader();
    write_more_than(&live, 4 * WAL_MAX);

    let mut syncs = async |times| {
        for _ in 0..times {
            replicator.sync().await.expect("a sync should succeed");
            replicator.upkeep(false).await.expect("it should succeed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // Whoever is slowed down is so by then.
    syncs(5).await;
    let freed = async {
        tokio::select! {
            () = syncs(usize::MAX) => {}
            () = until_writes_come_about_at_once(&live) => {}
        }
    };
    let freed = tokio::time::timeout(Duration::from_secs(60), freed).await;
    drop(reader);

    freed.expect("nobody should be slowed down");
    assert_latest(&mut live, replica, &mut replicator).await;
}

#[tokio::test]
async fn nobody_is_slowed_down_for_long_where_the_store_hangs() {
    const WAL_MAX: u64 = 2 * 1024 * 1024;
    let (mut live, replica, mut replicator) = replicating_within(WAL_MAX).await;
    write_more_than(&live, 4 * WAL_MAX);
    replica.on(Op::Write).hang();

    let freed = async {
        // Whoever is slowed down is so by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        until_writes_come_about_at_once(&live).await;
    };
    let freed = async {
        tokio::select! {
            _ = replicator.sync() => panic!("the store hangs"),
            () = freed => {}
        }
    };
    let freed = tokio::time::timeout(Duration::from_secs(60), freed).await;

    freed.expect("nobody should be slowed down");
    replica.clear_faults();
    assert_latest(&mut live, replica, &mut replicator).await;
}

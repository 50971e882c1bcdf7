//! Several replicas of one database at once.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use replica_core::{ErrorKind, Op};
use replica_engine::{
    Checkpoint, Checkpointed, Event, ReplicateError, ReplicateOptions, Replicator, SnapshotReason,
    Synced, Target,
};
use replica_mock::{MockClient, file};
use rusqlite::Connection;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::application::connect;
use crate::support::{Live, NOW, restored, stored};

const LONG: Duration = Duration::from_secs(60);
/// How many bytes the log may have.
const WAL_MAX: u64 = 400_000;

fn insert(live: &Live) {
    live.run("INSERT INTO t(a, b) VALUES('some', randomblob(9000))");
}

fn options(live: &Live) -> ReplicateOptions {
    let mut options = live.options();
    options.wal_max = WAL_MAX;
    options.checkpoint_pages = 20;
    options
}

async fn opened(live: &Live, replica: &MockClient) -> Replicator {
    let opened = Replicator::open(Arc::new(replica.clone()), options(live)).await;
    opened.expect("a live database and a store that works")
}

/// A database with two replicas that are up to date.
async fn two() -> (Live, [MockClient; 2], [Replicator; 2]) {
    let live = Live::new(512);
    insert(&live);
    let replicas = [MockClient::new(), MockClient::new()];
    let mut replicators = [
        opened(&live, &replicas[0]).await,
        opened(&live, &replicas[1]).await,
    ];
    for _ in 0..2 {
        // The first file of each is followed by one with a write of ours.
        for replicator in &mut replicators {
            synced(replicator).await;
        }
    }
    (live, replicas, replicators)
}

/// The same, of which the second one lacks something, and the log.
async fn two_of_which_one_lags() -> (Live, [MockClient; 2], [Replicator; 2], Vec<u8>) {
    let (live, replicas, mut replicators) = two().await;
    insert(&live);
    synced(&mut replicators[0]).await;
    let log = log(&live);
    (live, replicas, replicators, log)
}

/// Stores what is committed, and says why that was the whole database, if it was.
async fn synced(replicator: &mut Replicator) -> Option<SnapshotReason> {
    let synced = replicator.sync().await;
    synced.expect("a sync should succeed").snapshot
}

async fn checkpoint(replicator: &mut Replicator, how: Checkpoint) -> Option<Checkpointed> {
    let done = replicator.checkpoint(how).await;
    done.expect("a checkpoint should succeed or find nothing to do")
}

fn is_recycled(done: Option<Checkpointed>) -> bool {
    done.is_some_and(|done| done.recycled)
}

/// The salts by which logs are told apart.
fn log(live: &Live) -> Vec<u8> {
    let bytes = std::fs::read(live.wal()).expect("the log should be there");
    bytes[16..24].to_vec()
}

fn log_len(live: &Live) -> u64 {
    let found = std::fs::metadata(live.wal());
    found.expect("the log should be there").len()
}

/// Stores what is committed, of which no part was lost to any of them, and looks whether it is there.
async fn assert_nothing_lost(
    live: &Live,
    replicas: &[MockClient],
    replicators: [&mut Replicator; 2],
) {
    for replicator in replicators {
        assert_eq!(synced(replicator).await, None);
    }
    assert_latest(live, replicas).await;
}

async fn assert_latest(live: &Live, replicas: &[MockClient]) {
    for replica in replicas {
        live.assert_latest(replica).await;
    }
}

#[tokio::test]
async fn each_replica_gets_everything_whoever_syncs_and_checkpoints_when() {
    let (live, replicas, mut replicators) = two().await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let (mut logs, mut recycled) = (vec![log(&live)], 0);

    for round in 0..120 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let one = &mut replicators[(state >> 20) as usize % 2];
        let snapshot = match state % 8 {
            0..=2 => {
                insert(&live);
                None
            }
            3..=5 => synced(one).await,
            6 => {
                recycled += u32::from(is_recycled(checkpoint(one, Checkpoint::Gentle).await));
                None
            }
            _ => {
                recycled += u32::from(is_recycled(checkpoint(one, Checkpoint::Firm).await));
                None
            }
        };
        assert_eq!(snapshot, None, "round {round}");
        logs.push(log(&live));
    }

    for replicator in &mut replicators {
        assert_eq!(synced(replicator).await, None);
    }
    logs.dedup();
    assert!(recycled > 3 && logs.len() > 3, "{recycled}, {}", logs.len());
    assert_latest(&live, &replicas).await;
}

#[tokio::test]
async fn a_checkpoint_keeps_what_another_replica_lacks() {
    let (live, replicas, [mut first, mut second], before) = two_of_which_one_lags().await;

    let done = checkpoint(&mut first, Checkpoint::Firm).await;
    insert(&live);
    let after = log(&live);
    let snapshot = synced(&mut second).await;

    assert!(is_recycled(done), "{done:?}");
    assert_ne!(after, before);
    assert_eq!((snapshot, synced(&mut first).await), (None, None));
    assert_latest(&live, &replicas).await;
}

#[tokio::test]
async fn a_checkpoint_keeps_what_another_replica_is_storing() {
    let (live, replicas, [mut first, mut second]) = two().await;
    insert(&live);
    replicas[1].fail_next(Op::Write, ErrorKind::Unavailable);
    second.sync().await.expect_err("the store has failed");
    insert(&live);
    synced(&mut first).await;

    let done = checkpoint(&mut first, Checkpoint::Firm).await;
    for _ in 0..9 {
        insert(&live);
    }
    let synced_then = second.sync().await.expect("a sync should succeed");

    assert!(is_recycled(done), "{done:?}");
    // The very file that was being stored, what followed it in the old log, and the new log.
    assert_eq!((synced_then.snapshot, synced_then.files.len()), (None, 3));
    assert_eq!(synced(&mut first).await, None);
    assert_latest(&live, &replicas).await;
}

#[tokio::test]
async fn a_gentle_checkpoint_leaves_the_log_until_every_replica_has_it() {
    let (live, replicas, [mut first, mut second], before) = two_of_which_one_lags().await;

    let early = checkpoint(&mut first, Checkpoint::Gentle).await;
    insert(&live);
    let kept = log(&live);
    synced(&mut first).await;
    synced(&mut second).await;
    let late = checkpoint(&mut second, Checkpoint::Gentle).await;
    insert(&live);
    let begun_anew = log(&live);

    assert!(
        !is_recycled(early) && is_recycled(late),
        "{early:?} {late:?}"
    );
    assert!(kept == before && begun_anew != before);
    assert_nothing_lost(&live, &replicas, [&mut first, &mut second]).await;
}

/// What was copied to the database file but not to the second replica was read no more once the first
/// one had it: the log was begun anew then.
#[tokio::test]
async fn what_is_in_the_database_file_stays_in_the_log_until_every_replica_has_it() {
    let (live, replicas, [mut first, mut second], before) = two_of_which_one_lags().await;
    checkpoint(&mut first, Checkpoint::Gentle).await;

    for _ in 0..3 {
        synced(&mut first).await;
        checkpoint(&mut first, Checkpoint::Gentle).await;
    }
    insert(&live);

    assert_eq!(log(&live), before);
    assert_eq!(synced(&mut second).await, None);
    synced(&mut first).await;
    assert_latest(&live, &replicas).await;
}

#[tokio::test]
async fn a_replica_whose_store_is_away_does_not_have_the_log_grow_and_gets_everything_in_the_end() {
    let (live, replicas, [mut first, mut second]) = two().await;
    let away = replicas[1].on(Op::Write).times(100_000);
    away.fail(ErrorKind::Unavailable);
    let (mut longest, mut recycled) = (0, 0);

    for _ in 0..150 {
        insert(&live);
        assert_eq!(synced(&mut first).await, None);
        let done = first.upkeep(false).await.expect("it should succeed");
        recycled += u32::from(is_recycled(done));
        second.sync().await.expect_err("the store is away");
        longest = longest.max(log_len(&live));
    }

    assert!(longest <= WAL_MAX, "{longest}");
    assert!(recycled >= 4, "{recycled}");
    replicas[1].clear_faults();
    let snapshot = synced(&mut second).await;
    assert_eq!(snapshot, Some(SnapshotReason::NewLog));
    // What it has written for that is for the other one too.
    assert_eq!(synced(&mut first).await, None);
    assert_latest(&live, &replicas).await;
    // From then on nothing goes on without it.
    insert(&live);
    synced(&mut first).await;
    assert!(is_recycled(checkpoint(&mut first, Checkpoint::Firm).await));
    insert(&live);
    assert_nothing_lost(&live, &replicas, [&mut first, &mut second]).await;
}

/// Two folders on one disk took turns to be let go, beside a writer at full speed.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_behind_for_a_moment_is_waited_for_and_one_that_does_not_keep_up_is_not()
{
    for (seconds, snapshot) in [(3, None), (12, Some(SnapshotReason::NewLog))] {
        let (live, replicas, [mut first, mut second]) = two().await;
        live.run("PRAGMA busy_timeout=5000");
        let slow = replicas[1].on(Op::Write);
        slow.delay(Duration::from_secs(seconds));
        insert(&live);
        let storing = tokio::spawn(async move {
            second.sync().await.expect("a sync should succeed");
            second
        });
        tokio::time::sleep(Duration::from_secs(1)).await;

        // What comes after the file that it is storing is kept in memory for it once, and not twice.
        for pause in [0, 0, seconds - 2] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            for _ in 0..WAL_MAX / 9000 {
                insert(&live);
            }
            assert_eq!(synced(&mut first).await, None);
            checkpoint(&mut first, Checkpoint::Firm).await;
        }
        insert(&live);
        let mut second = storing.await.expect("it should not panic");

        assert_eq!(synced(&mut second).await, snapshot);
        assert_eq!(synced(&mut first).await, None);
        assert_latest(&live, &replicas).await;
    }
}

#[tokio::test]
async fn a_short_outage_of_one_store_costs_no_snapshot() {
    let (live, replicas, [mut first, mut second]) = two().await;
    let away = replicas[1].on(Op::Write).times(100_000);
    away.fail(ErrorKind::Unavailable);

    for _ in 0..12 {
        insert(&live);
        synced(&mut first).await;
        first.upkeep(false).await.expect("it should succeed");
        second.sync().await.expect_err("the store is away");
    }
    replicas[1].clear_faults();

    assert_eq!(synced(&mut second).await, None);
    assert_latest(&live, &replicas).await;
}

/// A database that is so large that it is stored while it is being read, with a replica that is up to
/// date and one that has nothing yet.
async fn large() -> (Live, [MockClient; 2], [Replicator; 2]) {
    let live = Live::new(4096);
    let replicas = [MockClient::new(), MockClient::new()];
    let mut first = opened(&live, &replicas[0]).await;
    // Behind the tables that replication writes to, which are read from the log.
    live.run("INSERT INTO t(a, b) VALUES('large', randomblob(6000000))");
    synced(&mut first).await;
    let second = opened(&live, &replicas[1]).await;
    (live, replicas, [first, second])
}

/// Begins to store by way of `replicator` what takes 9 seconds, and is at it for 5.
async fn storing(
    mut replicator: Replicator,
    replica: &MockClient,
) -> JoinHandle<(Replicator, Result<Synced, ReplicateError>)> {
    let slow = replica.on(Op::Write).at_byte(3_000_000);
    slow.delay(Duration::from_secs(9));
    let storing = tokio::spawn(async move {
        let synced = replicator.sync().await;
        (replicator, synced)
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    storing
}

#[tokio::test(start_paused = true)]
async fn the_database_file_is_left_alone_while_another_replica_gets_the_whole_of_it() {
    let (live, replicas, [mut first, second]) = large().await;
    let before = live.state();

    let storing = storing(second, &replicas[1]).await;
    for _ in 0..3 {
        live.run("UPDATE t SET b = randomblob(6000000)");
        synced(&mut first).await;
        for how in [Checkpoint::Gentle, Checkpoint::Firm] {
            assert_eq!(checkpoint(&mut first, how).await, None);
            synced(&mut first).await;
        }
    }
    let (mut second, stored) = storing.await.expect("it does not panic");

    stored.expect("a sync should succeed");
    let client = Arc::new(replicas[1].clone()) as _;
    let txid = replica_core::Txid::FIRST;
    assert!(restored(&client, Target::Txid(txid)).await == before);
    synced(&mut second).await;
    synced(&mut first).await;
    assert_latest(&live, &replicas).await;
}

/// What is in the only row.
fn content(connection: &Connection) -> Vec<u8> {
    let content = connection.query_row("SELECT b FROM t", (), |row| row.get(0));
    content.expect("there is a row")
}

#[tokio::test(start_paused = true)]
async fn what_others_did_not_wait_for_of_a_whole_database_is_stored_anew_and_no_mixture() {
    let (live, replicas, [mut first, mut second]) = large().await;
    // So that it is read from the database file.
    checkpoint(&mut first, Checkpoint::Firm).await;
    replicas[1].fail_next(Op::Write, ErrorKind::Unavailable);
    second.sync().await.expect_err("the store has failed");
    let before = content(live.application());

    let storing = storing(second, &replicas[1]).await;
    live.run("UPDATE t SET b = randomblob(6000000)");
    synced(&mut first).await;
    let done = checkpoint(&mut first, Checkpoint::Firm).await;
    let (mut second, stored) = storing.await.expect("it does not panic");

    assert!(is_recycled(done), "{done:?}");
    stored.expect("a sync should succeed");
    let client = Arc::new(replicas[1].clone()) as _;
    let txid = replica_core::Txid::FIRST;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("first.db");
    std::fs::write(&path, restored(&client, Target::Txid(txid)).await).expect("it has room");
    let first_stored = content(&connect(&path));
    assert!([before, content(live.application())].contains(&first_stored));
    synced(&mut second).await;
    synced(&mut first).await;
    assert_latest(&live, &replicas).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_does_not_delay_the_others() {
    let (live, replicas, replicators) = two().await;
    let slow = replicas[1].on(Op::Write).times(100_000);
    slow.delay(Duration::from_secs(9));
    let [first, second] = replicators.map(Replicator::start);

    for _ in 0..30 {
        insert(&live);
        let begun = Instant::now();
        let synced = first.sync_within(LONG).await;
        synced.expect("it goes on");
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    second.sync().await.expect("it goes on");
    assert!(!second.status().left_behind);
    assert_latest(&live, &replicas).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_told_once_that_a_replica_is_left_behind_until_it_has_everything() {
    let (live, replicas, replicators) = two().await;
    let away = replicas[1].on(Op::Write).times(100_000);
    away.fail(ErrorKind::Unavailable);
    let [first, second] = replicators.map(Replicator::start);
    let mut events = [first.events(), second.events()];
    let mut told = 0;

    for _ in 0..150 {
        insert(&live);
        first.sync().await.expect("it goes on");
        tokio::time::sleep(Duration::from_millis(200)).await;
        while let Some(Some(event)) = events[1].next().now_or_never() {
            told += u32::from(matches!(event, Event::LeftBehind));
        }
    }

    let statuses = [first.status(), second.status()];
    assert_eq!(
        statuses.each_ref().map(|status| status.left_behind),
        [false, true]
    );
    assert!(told == 1 && statuses[0].trouble.is_none() && statuses[1].trouble.is_some());
    while let Some(Some(event)) = events[0].next().now_or_never() {
        assert!(
            !matches!(event, Event::LeftBehind | Event::Interrupted(_)),
            "{event:?}"
        );
    }
    replicas[1].clear_faults();
    second.sync().await.expect("it goes on");
    assert!(!second.status().left_behind);
    // What the other one has written for that.
    first.sync().await.expect("it goes on");
    assert_latest(&live, &replicas).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_ends_does_not_end_the_others_nor_holds_them_up() {
    let (live, replicas, replicators) = two().await;
    replicas[1].put(file(0, 9..=9), NOW, stored(&replicas[1], 2));
    let [first, second] = replicators.map(Replicator::start);
    tokio::time::sleep(LONG).await;
    insert(&live);

    let error = second.sync().await.expect_err("somebody else writes");
    let mut events = first.events();
    let mut recycled = 0;
    for _ in 0..20 {
        insert(&live);
        first.sync().await.expect("it goes on");
        tokio::time::sleep(Duration::from_secs(1)).await;
        while let Some(Some(event)) = events.next().now_or_never() {
            recycled += u32::from(matches!(event, Event::Checkpointed(done) if done.recycled));
        }
    }

    assert!(matches!(*error, ReplicateError::Conflict { .. }), "{error}");
    assert!(recycled > 2, "{recycled}");
    assert!(log_len(&live) <= WAL_MAX);
    assert_latest(&live, &replicas[..1]).await;
}

#[tokio::test]
async fn a_replica_may_come_and_go_while_others_stay() {
    let (live, replicas, [mut first, second]) = two().await;
    let third = MockClient::new();

    drop(second);
    insert(&live);
    synced(&mut first).await;
    let mut second = opened(&live, &replicas[1]).await;
    let mut added = opened(&live, &third).await;

    assert_eq!(synced(&mut second).await, None);
    assert_eq!(synced(&mut added).await, Some(SnapshotReason::First));
    for how in [Checkpoint::Firm, Checkpoint::Gentle, Checkpoint::Firm] {
        insert(&live);
        synced(&mut added).await;
        checkpoint(&mut added, how).await;
        insert(&live);
        for replicator in [&mut first, &mut second, &mut added] {
            assert_eq!(synced(replicator).await, None);
        }
    }
    drop((first, second));
    insert(&live);
    synced(&mut added).await;
    assert!(is_recycled(
        checkpoint(&mut added, Checkpoint::Gentle).await
    ));
    assert_latest(&live, &[third]).await;
}

#[tokio::test(start_paused = true)]
async fn each_is_shut_down_within_its_time() {
    let (live, replicas, replicators) = two().await;
    insert(&live);
    replicas[1].on(Op::Write).hang();
    let [first, second] = replicators.map(Replicator::start);
    let within = Duration::from_secs(10);

    let begun = Instant::now();
    let (first, second) = tokio::join!(
        async { (first.shut_down(within).await, begun.elapsed()) },
        async { (second.shut_down(within).await, begun.elapsed()) },
    );

    assert!(
        first.0.complete && first.1 < Duration::from_secs(1),
        "{first:?}"
    );
    assert!(!second.0.complete && second.1 == within, "{second:?}");
    assert_latest(&live, &replicas[..1]).await;
}

#[tokio::test]
async fn a_database_in_the_place_of_one_that_is_held_is_held_by_itself() {
    let (live, replicas, [mut first, mut second]) = two().await;
    for name in ["app.db", "app.db-wal", "app.db-shm"] {
        let path = live.path().with_file_name(name);
        std::fs::rename(&path, path.with_extension("old")).expect("it is there");
    }
    let mut other = Live::new(512);
    other.disconnect();
    std::fs::copy(other.path(), live.path()).expect("it is closed");

    let error = first.sync().await.expect_err("it is another database");
    let opened = timeout(LONG, opened(&live, &replicas[0])).await;
    let mut opened = opened.expect("in time");
    let reason = synced(&mut opened).await;

    assert!(matches!(error, ReplicateError::Replaced { .. }), "{error}");
    assert_eq!(reason, Some(SnapshotReason::UnknownLog));
    second.sync().await.expect_err("it is another database");
    drop((first, second));
    assert_eq!(synced(&mut opened).await, None);
}

/// What was committed between its opening and its first sync was once lost to it.
#[tokio::test]
async fn a_replica_that_is_opened_gets_what_others_checkpoint_before_its_first_sync() {
    let (live, replicas, [mut first, second]) = two().await;
    drop(second);
    let mut second = opened(&live, &replicas[1]).await;

    for how in [Checkpoint::Gentle, Checkpoint::Firm] {
        for _ in 0..3 {
            insert(&live);
            synced(&mut first).await;
            checkpoint(&mut first, how).await;
        }
    }
    synced(&mut second).await;

    assert_latest(&live, &replicas).await;
}

/// What a call had found that was dropped was once replaced by what the next one found.
#[tokio::test]
async fn what_a_dropped_sync_has_found_is_stored_by_the_next_one() {
    let (live, replicas, [mut first, mut second]) = two().await;

    for round in 0..40 {
        insert(&live);
        synced(&mut first).await;
        checkpoint(&mut first, Checkpoint::Firm).await;
        insert(&live);
        // Its work goes on or not, on another thread.
        let dropped = timeout(Duration::from_micros(round * 10), second.sync());
        dropped.await.ok();
        let snapshot = synced(&mut second).await;
        synced(&mut first).await;

        assert_eq!(snapshot, None, "round {round}");
        assert_latest(&live, &replicas).await;
    }
}

//! Stores that take nothing, and what that costs the disk of the application.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use replica_core::{ErrorKind, Op};
use replica_engine::{Event, Replication, Replicator};
use replica_mock::MockClient;
use tokio::time::{sleep, timeout};

use crate::support::Live;

/// How many bytes the log may have.
const WAL_MAX: u64 = 100_000;
/// How long anything here may take by Tokio's clock, which is much longer than it does.
const LONG: Duration = Duration::from_secs(24 * 3600);
const AN_HOUR: Duration = Duration::from_secs(3600);

async fn started(live: &Live, replica: &MockClient) -> Replication {
    let mut options = live.options();
    options.wal_max = WAL_MAX;
    let opened = Replicator::open(Arc::new(replica.clone()), options).await;
    opened.expect("a live database").start()
}

/// A database, and its only replica, which is up to date.
async fn running() -> (Live, MockClient, Replication) {
    let (live, replica) = (Live::new(512), MockClient::new());
    let replication = started(&live, &replica).await;
    synced(&replication).await;
    (live, replica, replication)
}

async fn synced(replication: &Replication) {
    let synced = timeout(LONG, replication.sync()).await;
    let synced = synced.expect("a sync should come to its end");
    synced.expect("replication should go on");
}

/// Commits some 11 KB to the log each fifth of a second, for a minute, and says how long it was at
/// most.
async fn write_for_a_minute(live: &Live) -> u64 {
    let mut longest = 0;
    for _ in 0..300 {
        live.run("INSERT INTO t(a, b) VALUES('some', randomblob(9000))");
        sleep(Duration::from_millis(200)).await;
        let found = std::fs::metadata(live.wal());
        longest = longest.max(found.expect("the log should be there").len());
    }
    longest
}

/// It grew for as long as the store was away, and the disk of the application with it.
#[tokio::test(start_paused = true)]
async fn the_log_of_an_only_replica_stays_bounded_while_its_store_is_away() {
    for (op, hangs) in [(Op::Write, false), (Op::Write, true), (Op::List, false)] {
        let (live, replica, replication) = running().await;
        let mut events = replication.events();
        match hangs {
            true => replica.on(op).delay(AN_HOUR),
            false => replica.on(op).times(100_000).fail(ErrorKind::Unavailable),
        }
        if op == Op::List {
            // So that it is looked for another writer.
            sleep(AN_HOUR).await;
        }

        let longest = write_for_a_minute(&live).await;

        assert!(longest < 12 * WAL_MAX, "{op:?}: {longest}");
        assert!(replication.status().left_behind, "{op:?}");
        replica.clear_faults();
        synced(&replication).await;
        assert!(!replication.status().left_behind, "{op:?}");
        let mut told = 0;
        while let Some(Some(event)) = events.next().now_or_never() {
            told += u32::from(matches!(event, Event::LeftBehind));
        }
        assert_eq!(told, 1, "{op:?}");
        live.assert_latest(&replica).await;
        // And all goes on as before.
        live.run("INSERT INTO t(a) VALUES('afterwards')");
        synced(&replication).await;
        live.assert_latest(&replica).await;
    }
}

/// It said how long the log was before a write that hung, for as long as that did.
#[tokio::test(start_paused = true)]
async fn the_status_says_how_long_the_log_is_while_a_write_hangs() {
    let (live, replica, replication) = running().await;
    replica.on(Op::Write).delay(AN_HOUR);
    live.run("INSERT INTO t(a) VALUES('some')");
    sleep(Duration::from_secs(2)).await;

    live.run("INSERT INTO t(a, b) VALUES('some', randomblob(50000))");
    sleep(Duration::from_secs(2)).await;

    let log = std::fs::metadata(live.wal()).expect("the log should be there");
    assert_eq!(replication.status().wal_bytes, log.len());
}

#[tokio::test(start_paused = true)]
async fn an_outage_in_which_little_is_written_costs_no_snapshot() {
    let (live, replica, replication) = running().await;
    let mut events = replication.events();
    let away = replica.on(Op::Write).times(100_000);
    away.fail(ErrorKind::Unavailable);

    for _ in 0..60 {
        live.run("INSERT INTO t(a, b) VALUES('some', randomblob(9000))");
        sleep(AN_HOUR / 60).await;
    }
    replica.clear_faults();
    synced(&replication).await;

    while let Some(Some(event)) = events.next().now_or_never() {
        let snapshot = matches!(event, Event::Stored { snapshot, .. } if snapshot.is_some());
        assert!(
            !snapshot && !matches!(event, Event::LeftBehind),
            "{event:?}"
        );
    }
    live.assert_latest(&replica).await;
}

/// A database so large that it is stored while it is being read.
fn large() -> Live {
    let live = Live::new(4096);
    live.run("INSERT INTO t(a, b) VALUES('large', randomblob(12000000))");
    live
}

#[tokio::test(start_paused = true)]
async fn a_whole_database_that_gets_on_is_waited_for_however_long_it_takes() {
    let (live, replica) = (large(), MockClient::new());
    replica.on(Op::Write).drip(Duration::from_secs(5));
    let replication = started(&live, &replica).await;
    let mut events = replication.events();

    write_for_a_minute(&live).await;

    assert!(replica.files().is_empty(), "it is stored already");
    synced(&replication).await;
    while let Some(Some(event)) = events.next().now_or_never() {
        assert!(!matches!(event, Event::LeftBehind), "{event:?}");
    }
    live.assert_latest(&replica).await;
}

/// While one replica got the whole database nothing was copied to the database file, and the log of
/// all others grew for as long as that hung.
#[tokio::test(start_paused = true)]
async fn a_whole_database_that_hangs_holds_up_the_log_of_no_other_replica() {
    let (live, replicas) = (large(), [MockClient::new(), MockClient::new()]);
    let first = started(&live, &replicas[0]).await;
    synced(&first).await;
    replicas[1].on(Op::Write).at_byte(3_000_000).delay(AN_HOUR);
    let second = started(&live, &replicas[1]).await;

    let before = write_for_a_minute(&live).await;
    let after = write_for_a_minute(&live).await;

    assert!(after < before + WAL_MAX, "{before}, {after}");
    assert!(second.status().left_behind && !first.status().left_behind);
    synced(&second).await;
    // What it has written for that is for the other one too.
    synced(&first).await;
    for replica in &replicas {
        live.assert_latest(replica).await;
    }
}

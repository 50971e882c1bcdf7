//! A replication that runs by itself.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use replica_core::{ErrorKind, Op};
use replica_engine::{Event, ReplicateError, Replication, SnapshotReason, Target, UpkeepOptions};
use replica_mock::{MockClient, file};
use tokio::time::{Instant, timeout};

use crate::application::connect;
use crate::support::{Live, NOW, raw, restored, stored};

/// How long anything here may take, which is much longer than it does.
const LONG: Duration = Duration::from_secs(60);

/// A database, and a replica of it that is up to date and kept so.
async fn running() -> (Live, MockClient, Replication) {
    let (live, replica) = (Live::new(512), MockClient::new());
    let replication = live.started(&replica).await.start();
    synced(&replication).await;
    (live, replica, replication)
}

async fn synced(replication: &Replication) -> u64 {
    let synced = timeout(LONG, replication.sync()).await;
    let synced = synced.expect("a sync should come to its end");
    synced.expect("replication should go on").get()
}

fn insert(live: &Live) {
    live.run("INSERT INTO t(a, b) VALUES('some', randomblob(900))");
}

async fn assert_restorable(live: &Live, replica: &MockClient) {
    let restored = restored(&(Arc::new(replica.clone()) as _), Target::Latest).await;
    assert!(restored == live.state(), "what was restored is another");
}

async fn next(events: &mut BoxStream<'static, Event>) -> Event {
    let event = timeout(LONG, events.next()).await;
    event
        .expect("something should happen")
        .expect("the replication should not have ended")
}

/// Waits until such a thing happens.
async fn until(events: &mut BoxStream<'static, Event>, happens: impl Fn(&Event) -> bool) {
    let wait = async { while !happens(&next(events).await) {} };
    timeout(LONG, wait).await.expect("it should happen");
}

async fn next_but_checkpoints(events: &mut BoxStream<'static, Event>) -> Event {
    loop {
        match next(events).await {
            Event::Checkpointed(_) => {}
            event => return event,
        }
    }
}

#[tokio::test]
async fn what_is_committed_is_stored_without_being_asked_for() {
    let (live, replica, replication) = running().await;
    let mut events = replication.events();
    insert(&live);

    let event = next(&mut events).await;

    let Event::Stored {
        txid,
        files,
        bytes,
        snapshot,
    } = event
    else {
        panic!("{event:?}");
    };
    assert_eq!((txid.get(), files, snapshot), (3, 1, None));
    assert_eq!(bytes, stored(&replica, 3).len() as u64);
    assert_restorable(&live, &replica).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_commit_does_not_wait_until_the_log_is_polled() {
    let (live, replica) = (Live::new(512), MockClient::new());
    let mut options = live.options();
    options.poll = Duration::from_secs(3600);
    let replicator = replica_engine::Replicator::open(Arc::new(replica.clone()), options).await;
    let replication = replicator.expect("it should start").start();
    synced(&replication).await;
    let mut events = replication.events();
    // By itself it looks after about one second, and then not before another one has passed.
    tokio::time::sleep(Duration::from_millis(1200)).await;

    let begun = Instant::now();
    insert(&live);
    let event = next(&mut events).await;

    assert!(matches!(event, Event::Stored { .. }), "{event:?}");
    assert!(begun.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn a_sync_returns_when_everything_is_stored_that_was_committed_before() {
    let (live, replica, replication) = running().await;
    for round in 0..5 {
        insert(&live);

        let txid = synced(&replication).await;

        assert!(replica.content(raw(txid)).is_some(), "round {round}");
        assert_eq!(replication.status().txid.map(|txid| txid.get()), Some(txid));
        assert_restorable(&live, &replica).await;
    }
    let status = replication.status();
    assert_eq!(status.files, replica.files().len() as u64);
    assert_eq!(status.complete_at, Some(NOW));
    assert!(status.trouble.is_none() && !status.ended && status.wal_bytes > 0);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_the_store_while_nothing_is_committed() {
    let (_live, replica, replication) = running().await;
    replica.clear_calls();

    tokio::time::sleep(Duration::from_secs(3600)).await;

    assert_eq!(replica.calls().len(), 0);
    assert!(!replication.status().ended);
}

#[tokio::test(start_paused = true)]
async fn commits_within_a_window_share_a_file() {
    let (live, replica) = (Live::new(512), MockClient::new());
    let mut options = live.options();
    options.window = Duration::from_secs(10);
    let replicator = replica_engine::Replicator::open(Arc::new(replica.clone()), options).await;
    let replication = replicator.expect("it should start").start();
    let mut events = replication.events();
    next(&mut events).await;
    let begun = Instant::now();

    for _ in 0..10 {
        insert(&live);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let event = next(&mut events).await;

    assert!(matches!(event, Event::Stored { files: 1, .. }), "{event:?}");
    assert!(begun.elapsed() >= Duration::from_secs(9));
    assert_restorable(&live, &replica).await;
}

#[tokio::test]
async fn commits_that_make_the_log_long_do_not_wait_for_the_end_of_a_window() {
    let (live, replica) = (Live::new(4096), MockClient::new());
    let mut options = live.options();
    options.window = Duration::from_secs(3600);
    options.wal_max = 1024 * 1024;
    let replicator = replica_engine::Replicator::open(Arc::new(replica.clone()), options).await;
    let replication = replicator.expect("it should start").start();
    let mut events = replication.events();
    next(&mut events).await;

    live.run("INSERT INTO t(a, b) VALUES('some', randomblob(900000))");
    let event = next(&mut events).await;

    assert!(matches!(event, Event::Stored { .. }), "{event:?}");
    assert_restorable(&live, &replica).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_once_and_nothing_is_lost_or_stored_twice() {
    let (live, replica, replication) = running().await;
    let mut events = replication.events();
    replica.on(Op::Write).times(30).fail(ErrorKind::Unavailable);

    insert(&live);
    let first = next(&mut events).await;
    let trouble = replication.status().trouble.expect("the store is away");
    insert(&live);
    let then = [next(&mut events).await, next(&mut events).await];

    assert!(matches!(first, Event::Interrupted(_)), "{first:?}");
    assert!(matches!(&*trouble.error, ReplicateError::Store(_)));
    let [
        Event::Stored { files, .. },
        Event::Resumed { attempts, after },
    ] = &then
    else {
        panic!("{then:?}");
    };
    assert_eq!((*attempts, *files), (30, 2));
    assert!(*after > Duration::from_secs(20) && *after < Duration::from_secs(30));
    assert!(replication.status().trouble.is_none());
    assert_eq!(replica.files().len(), 4);
    assert_restorable(&live, &replica).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_nothing_is_lost() {
    let (live, replica, replication) = running().await;
    for round in 0..20 {
        let write = || replica.on(Op::Write);
        match round % 5 {
            0 => write().fail(ErrorKind::Unavailable),
            1 => write().after_applying().fail(ErrorKind::Unavailable),
            2 => write().at_byte(100).fail(ErrorKind::Unavailable),
            3 => write().delay(Duration::from_secs(20)),
            _ => write().fail(ErrorKind::PermissionDenied),
        }
        insert(&live);
        let sync = replication.sync();
        insert(&live);

        let synced = timeout(LONG, sync).await;

        let txid = synced.expect("in time").expect("it goes on");
        assert!(replica.content(raw(txid.get())).is_some());
    }
    synced(&replication).await;
    replica.assert_faults_used();
    assert_restorable(&live, &replica).await;
}

#[tokio::test]
async fn a_checkpoint_that_fails_hides_no_sync_that_has_succeeded() {
    let (live, replica) = (Live::new(512), MockClient::new());
    let mut options = live.options();
    options.checkpoint_pages = 1;
    let replicator = replica_engine::Replicator::open(Arc::new(replica.clone()), options).await;
    let replication = replicator.expect("it should start").start();
    let mut events = replication.events();
    // Until then it may checkpoint before it syncs.
    let recycled = |event: &Event| matches!(event, Event::Checkpointed(done) if done.recycled);
    until(&mut events, recycled).await;

    // Nobody else can read such a schema, as a checkpoint must.
    live.run(
        "PRAGMA writable_schema=ON; BEGIN; PRAGMA schema_version=1000; \
         INSERT INTO sqlite_schema VALUES('table', 'x', 'x', 3, 'CREATE nothing'); COMMIT",
    );
    let then = [
        next_but_checkpoints(&mut events).await,
        next_but_checkpoints(&mut events).await,
    ];

    let [Event::Stored { .. }, Event::CheckpointFailed(_)] = &then else {
        panic!("{then:?}");
    };
    let trouble = replication.status().checkpoint_trouble;
    assert!(trouble.is_some_and(|trouble| trouble.since == NOW));
    live.run("DELETE FROM sqlite_schema WHERE name = 'x'; PRAGMA schema_version=1001");
    let checkpointed = |event: &Event| matches!(event, Event::Checkpointed(_));
    until(&mut events, checkpointed).await;
    assert!(replication.status().checkpoint_trouble.is_none());
    synced(&replication).await;
    assert_restorable(&live, &replica).await;
}

#[tokio::test]
async fn a_database_that_was_replaced_ends_it() {
    let (live, _replica, replication) = running().await;
    let mut events = replication.events();
    std::fs::rename(live.path(), live.path().with_extension("old")).expect("it is there");

    let error = replication
        .sync()
        .await
        .expect_err("it is another database");

    assert!(matches!(*error, ReplicateError::Replaced { .. }), "{error}");
    let interrupted = next_but_checkpoints(&mut events).await;
    assert!(
        matches!(interrupted, Event::Interrupted(_)),
        "{interrupted:?}"
    );
    let ended = next(&mut events).await;
    assert!(matches!(ended, Event::Ended(Some(_))), "{ended:?}");
    // The stream did not end for as long as the replication was held.
    let after = timeout(LONG, events.next()).await;
    assert!(matches!(after, Ok(None)), "{after:?}");
    assert!(replication.status().ended);
    let after = timeout(LONG, replication.events().next()).await;
    assert!(matches!(after, Ok(None)), "{after:?}");
    replication.sync().await.expect_err("it has ended");
    let ended = replication.shut_down(LONG).await;
    assert!(!ended.complete && ended.status.trouble.is_some());
}

/// Whoever shares it had to take it out of a lock to end it.
#[tokio::test]
async fn a_replication_that_is_shared_is_stopped_by_any_of_those_who_have_it() {
    let (live, replica, replication) = running().await;
    let shared = Arc::new(replication);
    let other = Arc::clone(&shared);
    insert(&live);

    let ended = timeout(LONG, shared.stop(LONG)).await.expect("it ends");
    let again = timeout(LONG, other.stop(LONG)).await.expect("it has ended");

    assert!(ended.complete && again.complete);
    assert_eq!(ended.status.txid, again.status.txid);
    assert_restorable(&live, &replica).await;
    other.sync().await.expect_err("it has ended");
    // Nobody holds the database any more.
    let busy = live
        .application()
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get(0));
    assert_eq!(busy, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_nobody_waits_for_ends_it_all_the_same() {
    let (live, replica, replication) = running().await;
    replica
        .on(Op::Write)
        .times(100_000)
        .fail(ErrorKind::Unavailable);
    insert(&live);

    timeout(Duration::from_secs(1), replication.stop(LONG))
        .await
        .expect_err("it takes a minute");
    let begun = Instant::now();
    let ended = timeout(2 * LONG, replication.stop(Duration::MAX)).await;
    let ended = ended.expect("it ends");

    assert!(!ended.complete && ended.status.ended);
    assert!(begun.elapsed() <= LONG, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn somebody_else_who_writes_to_the_replica_ends_it() {
    let (live, replica, replication) = running().await;
    replica.put(file(0, 7..=7), NOW, stored(&replica, 1));

    tokio::time::sleep(Duration::from_secs(60)).await;
    insert(&live);
    let error = replication.sync().await.expect_err("somebody else writes");

    assert!(matches!(*error, ReplicateError::Conflict { .. }), "{error}");
    assert!(replica.content(raw(3)).is_none());
}

/// An operator who had deleted the replica was told that another one replicates to it.
#[tokio::test(start_paused = true)]
async fn a_replica_that_somebody_has_deleted_is_told_as_that() {
    let (live, replica, replication) = running().await;
    for file in replica.files() {
        replica.remove(file);
    }

    tokio::time::sleep(Duration::from_secs(60)).await;
    insert(&live);
    let error = replication.sync().await.expect_err("it is gone");

    assert!(matches!(*error, ReplicateError::Conflict { .. }), "{error}");
    let told = "was written or deleted, and not by this replication: ";
    assert!(error.to_string().contains(told), "{error}");
}

/// Nobody looks after the end: two short runs on one replica ended well, and what was restored was
/// of one database and of the other.
#[tokio::test]
async fn a_shutdown_tells_of_somebody_else_who_has_written() {
    let (live, replica, replication) = running().await;
    insert(&live);
    replication.sync().await.expect("a sync should succeed");
    replica.put(file(0, 7..=7), NOW, stored(&replica, 1));

    let ended = replication.shut_down(LONG).await;

    let trouble = ended.status.trouble.expect("it is told");
    assert!(
        matches!(*trouble.error, ReplicateError::Conflict { .. }),
        "{trouble:?}"
    );
    assert!(!ended.complete && ended.acknowledged);
}

/// Everything is stored; it was said that not everything is.
#[tokio::test(start_paused = true)]
async fn a_shutdown_tells_a_last_look_that_fails_from_what_is_not_stored() {
    for op in [Op::List, Op::Write] {
        let (live, replica, replication) = running().await;
        insert(&live);
        replication.sync().await.expect("a sync should succeed");
        replica.on(op).times(100_000).fail(ErrorKind::Unavailable);
        if op == Op::Write {
            insert(&live);
        }

        let ended = replication.shut_down(Duration::from_secs(5)).await;

        assert!(!ended.complete, "{op:?}");
        assert_eq!(ended.acknowledged, op == Op::List, "{op:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_waits_no_longer_than_it_may() {
    let within = Duration::from_secs(5);
    let (live, replica, replication) = running().await;
    replica.on(Op::Write).hang();
    insert(&live);
    let late = replication.sync_within(within).await;
    let error = late.expect_err("the store hangs");
    assert!(matches!(*error, ReplicateError::Late { .. }), "{error}");

    let (live, replica, replication) = running().await;
    let refused = replica.on(Op::Write).times(100_000);
    refused.fail(ErrorKind::PermissionDenied);
    insert(&live);
    let refused = replication.sync_within(within).await;
    let error = refused.expect_err("the store refuses");
    assert!(matches!(*error, ReplicateError::Store(_)), "{error}");
}

#[tokio::test]
async fn a_shutdown_stores_what_was_committed() {
    let (live, replica, replication) = running().await;
    insert(&live);

    let ended = replication.shut_down(LONG).await;

    assert!(ended.complete && ended.status.ended);
    assert_restorable(&live, &replica).await;
    insert(&live);
    let mut replicator = live.started(&replica).await;
    let synced = replicator.sync().await.expect("a sync should succeed");
    assert_eq!(synced.snapshot, None);
}

/// A replication whose upkeep panics as soon as it begins.
async fn with_upkeep_that_panics() -> (Live, MockClient, Replication) {
    let (live, replica) = (Live::new(512), MockClient::new());
    let mut options = live.options();
    options.upkeep = Some(UpkeepOptions::default());
    let upkeep = OnceLock::new();
    options.clock = Arc::new(move || {
        // The upkeep's is the first task that asks.
        if let Some(task) = tokio::task::try_id() {
            assert_ne!(upkeep.get_or_init(|| task), &task, "the upkeep panics");
        }
        NOW
    });
    let opened = replica_engine::Replicator::open(Arc::new(replica.clone()), options).await;
    let replication = opened.expect("a live database").start();
    (live, replica, replication)
}

/// It was noticed when the replication was shut down, days later.
#[tokio::test]
async fn it_is_told_at_once_that_the_upkeep_has_panicked() {
    let (live, replica, replication) = with_upkeep_that_panics().await;
    let mut events = replication.events();

    let is_told = timeout(LONG, async {
        while let Some(event) = events.next().await {
            if matches!(event, Event::UpkeepEnded) {
                return true;
            }
        }
        false
    });

    assert_eq!(is_told.await, Ok(true));
    assert!(replication.status().upkeep_ended);
    insert(&live);
    synced(&replication).await;
    assert_restorable(&live, &replica).await;
}

/// The panic was passed on before the last sync, which was then never made.
#[tokio::test]
async fn a_shutdown_stores_what_was_committed_though_the_upkeep_has_panicked() {
    let (live, replica, replication) = with_upkeep_that_panics().await;
    synced(&replication).await;
    insert(&live);

    let shut_down = AssertUnwindSafe(replication.shut_down(LONG));
    let ended = shut_down.catch_unwind().await;

    assert!(ended.is_err(), "it was not passed on");
    assert_restorable(&live, &replica).await;
}

#[tokio::test]
async fn a_shutdown_may_take_forever() {
    let (live, replica, replication) = running().await;
    insert(&live);

    let ended = replication.shut_down(Duration::MAX).await;

    assert!(ended.complete);
    assert_restorable(&live, &replica).await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_take_longer_than_it_may() {
    for hangs in [true, false] {
        let (live, replica, replication) = running().await;
        match hangs {
            true => replica.on(Op::Write).hang(),
            false => replica
                .on(Op::Write)
                .times(1000)
                .fail(ErrorKind::Unavailable),
        }
        insert(&live);
        let mut events = replication.events();

        let begun = Instant::now();
        let ended = replication.shut_down(Duration::from_secs(10)).await;

        assert_eq!(begun.elapsed().as_secs(), 10);
        assert!(!ended.complete && ended.status.ended);
        assert_eq!(ended.status.trouble.is_some(), !hangs);
        while let Some(event) = events.next().await {
            assert!(!matches!(event, Event::Stored { .. }), "{event:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replication_that_is_dropped_ends_at_once() {
    let (live, replica, replication) = running().await;
    let mut events = replication.events();
    replica.on(Op::Write).hang();
    insert(&live);
    let stored = timeout(LONG, replication.sync()).await;
    stored.expect_err("the store hangs");

    drop(replication);

    while events.next().await.is_some() {}
    let mut replicator = live.started(&replica).await;
    let synced = replicator.sync().await.expect("a sync should succeed");
    assert_eq!((synced.txid.get(), synced.snapshot), (3, None));
    assert_restorable(&live, &replica).await;
}

/// What a writer leaves that dies over the index of the log: two copies of its header that differ.
/// A process that closes the file loses its locks, so another one writes it.
fn tear_index(live: &Live) {
    let script = "printf '0123456789' | dd of=\"$1\" bs=1 seek=56 conv=notrunc status=none";
    let torn = std::process::Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(live.path().with_extension("db-shm"))
        .status();
    assert!(torn.expect("a shell should run").success());
}

/// Nobody looked at a log while a file of it was being stored, or its turn was waited for, so that
/// nobody could read the database for as long as that took.
#[tokio::test]
async fn an_index_that_was_left_half_written_is_mended_while_the_store_hangs() {
    let (live, replica, replication) = running().await;
    replica.on(Op::Write).hang();
    insert(&live);
    let hangs = async {
        while replica.running() == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let hangs = timeout(LONG, hangs).await;
    hangs.expect("a file should be stored by now");

    tear_index(&live);
    let path = live.path();
    let read = tokio::task::spawn_blocking(move || {
        connect(&path).query_row("SELECT count(*) FROM t", (), |row| row.get::<_, u32>(0))
    });
    let read = read.await.expect("a reader should not panic");

    assert_eq!(read, Ok(1));
    assert!(replica.running() > 0);
    replica.clear_faults();
    drop(replication);
    insert(&live);
    let replication = live.started(&replica).await.start();
    synced(&replication).await;
    assert_restorable(&live, &replica).await;
}

#[tokio::test]
async fn it_keeps_the_log_short() {
    let (live, replica) = (Live::new(4096), MockClient::new());
    let mut options = live.options();
    options.checkpoint_pages = 10;
    options.poll = Duration::from_millis(50);
    let replicator = replica_engine::Replicator::open(Arc::new(replica.clone()), options).await;
    let replication = replicator.expect("it should start").start();
    let mut events = replication.events();

    for _ in 0..3 {
        live.run("INSERT INTO t(a, b) VALUES('some', randomblob(60000))");
        loop {
            match next(&mut events).await {
                Event::Checkpointed(checkpointed) if checkpointed.recycled => break,
                Event::Stored { snapshot, txid, .. } => {
                    let first = Some(SnapshotReason::First).filter(|_| txid.get() == 2);
                    assert_eq!(snapshot, first);
                }
                Event::Checkpointed(_) => {}
                event => panic!("{event:?}"),
            }
        }
    }
    synced(&replication).await;

    assert!(replication.status().wal_bytes < 60 * 4120);
    assert_restorable(&live, &replica).await;
}

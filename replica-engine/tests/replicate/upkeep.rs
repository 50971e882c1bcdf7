//! The files of a replica are put together and deleted, and whatever fails meanwhile: what is
//! promised can be restored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use replica_core::{Capabilities, ErrorKind, FileId, Level, Op, ReplicaClient, Timestamp, Txid};
use replica_engine::{
    Event, Fault, Levels, ReplicateError, ReplicateOptions, Replication, Replicator, RestorePlan,
    Retention, SnapshotReason, Synced, Target, UpkeepError, UpkeepJob, UpkeepOptions, compact,
    snapshot,
};
use replica_mock::{MockClient, file};
use tokio::time::{Instant, timeout};

use crate::support::{Live, NOW, raw, restored};

const SECOND: Duration = Duration::from_secs(1);
/// How long anything here may take, which is much longer than it does.
const LONG: Duration = Duration::from_secs(6 * 60 * 60);

fn shared(replica: &MockClient) -> Arc<dyn ReplicaClient> {
    Arc::new(replica.clone())
}

/// Puts together whatever there is.
fn at_once() -> UpkeepOptions {
    let mut options = UpkeepOptions::default();
    options.levels = Levels::new(vec![Duration::ZERO; 3]).expect("three levels");
    options
}

/// A database and its replica, after so many transactions of that size.
async fn replicated(transactions: u64, bytes: u64) -> (Live, MockClient) {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = live.started(&replica).await;
    for number in 0..transactions {
        let id = number % 5;
        live.run(&format!(
            "INSERT OR REPLACE INTO t VALUES({id}, '{number}', randomblob({bytes}))"
        ));
        live.sync(&mut replicator).await;
    }
    (live, replica)
}

fn of_level(replica: &MockClient, level: u8) -> Vec<FileId> {
    let mut files = replica.files();
    files.retain(|file| file.level.get() == level);
    files
}

#[tokio::test]
async fn a_fresh_database_is_stored_once() {
    let (live, replica) = replicated(4, 10_000).await;

    compact(&shared(&replica), &at_once(), NOW)
        .await
        .expect("the replica is whole");

    assert_eq!(of_level(&replica, 0).first(), Some(&file(0, 2..=2)));
    for level in 1..=3 {
        assert_eq!(of_level(&replica, level), [file(level, 2..=5)]);
    }
    assert_eq!(of_level(&replica, 9), [file(9, 1..=1)]);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn what_was_put_together_restores_to_the_same_bytes() {
    for bytes in [1000, 2_000_000] {
        let (live, replica) = replicated(7, bytes).await;

        let made = compact(&shared(&replica), &at_once(), NOW)
            .await
            .expect("it is whole");

        assert_eq!(made.len(), 3);
        let whole = replica.snapshot();
        for level in 1..=3 {
            for other in whole
                .keys()
                .filter(|file| ![level, 9].contains(&file.level.get()))
            {
                replica.remove(*other);
            }
            let latest = restored(&shared(&replica), Target::Latest).await;
            assert!(latest == live.state(), "level {level}");
            replica.restore(&whole);
        }
    }
}

#[tokio::test]
async fn a_snapshot_is_the_latest_state() {
    for bytes in [1000, 2_000_000] {
        let (live, replica) = replicated(7, bytes).await;

        let made = snapshot(&shared(&replica))
            .await
            .expect("the replica is whole");

        assert_eq!(made.map(|made| made.id), Some(file(9, 1..=8)));
        for file in replica.files() {
            if file.level != Level::SNAPSHOT || file.txids.max() == Txid::FIRST {
                replica.remove(file);
            }
        }
        assert!(restored(&shared(&replica), Target::Latest).await == live.state());
        let again = snapshot(&shared(&replica))
            .await
            .expect("the replica is whole");
        assert_eq!(again, None);
    }
}

#[tokio::test]
async fn many_files_become_one_snapshot() {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    for number in 0..300 {
        live.run(&format!("INSERT INTO t(a) VALUES('{number}')"));
        replicator.sync().await.expect("a sync should succeed");
    }

    let made = snapshot(&shared(&replica))
        .await
        .expect("the replica is whole");

    assert_eq!(made.map(|made| made.id), Some(file(9, 1..=301)));
    live.sync(&mut replicator).await;
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_damaged_input_is_named_and_nothing_is_stored() {
    for bytes in [1000, 2_000_000] {
        let (_live, replica) = replicated(4, bytes).await;
        let sound = replica.snapshot();
        let damaged = raw(3);
        let len = sound[&damaged].1.len();
        for offset in [0, 20, 110, len / 2, len - 40, len - 3] {
            replica.corrupt(damaged, offset);
            let before = replica.snapshot();

            let compacted = compact(&shared(&replica), &at_once(), NOW).await;
            let snapshot = snapshot(&shared(&replica)).await;

            for error in [compacted.err(), snapshot.err()] {
                assert!(
                    matches!(&error, Some(UpkeepError::Damaged(damage)) if damage.file == damaged),
                    "byte {offset}: {error:?}"
                );
            }
            assert!(replica.snapshot() == before, "something was stored");
            replica.restore(&sound);
        }
    }
}

#[tokio::test]
async fn an_input_that_is_gone_is_named() {
    let (_live, replica) = replicated(4, 1000).await;
    replica.on(Op::Open).of(raw(3)).fail(ErrorKind::NotFound);

    let error = compact(&shared(&replica), &at_once(), NOW).await;

    let error = error.expect_err("a file is gone");
    assert!(
        matches!(&error, UpkeepError::Damaged(damage) if damage.file == raw(3) && damage.fault == Fault::Missing),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_behind_missing_transactions_is_not_put_together_with_what_is_before() {
    let (_live, replica) = replicated(6, 1000).await;
    replica.remove(raw(4));

    let error = compact(&shared(&replica), &at_once(), NOW).await;

    let error = error.expect_err("transaction 4 is missing");
    assert!(matches!(error, UpkeepError::Broken(_)), "{error}");
    assert_eq!(of_level(&replica, 1), [file(1, 2..=3)]);
    snapshot(&shared(&replica))
        .await
        .expect_err("transaction 4 is missing");
}

#[tokio::test(start_paused = true)]
async fn after_dying_anywhere_it_is_done_again_to_the_same_end() {
    let (live, replica) = replicated(5, 1000).await;
    let fresh = replica.snapshot();
    compact(&shared(&replica), &at_once(), NOW)
        .await
        .expect("it is whole");
    snapshot(&shared(&replica)).await.expect("it is whole");
    let wanted = replica.snapshot();
    let mut struck = 0;
    for op in [Op::List, Op::Open, Op::Write] {
        for skip in 0..24 {
            for how in 0..4 {
                replica.restore(&fresh);
                replica.clear_faults();
                let trouble = replica.on(op).skip(skip);
                match (how, op) {
                    (0, _) => trouble.fail(ErrorKind::Unavailable),
                    (1, Op::Write) => trouble.after_applying().fail(ErrorKind::Unavailable),
                    (2, Op::Write) => trouble.at_byte(60).fail(ErrorKind::Unavailable),
                    (3, _) => trouble.hang(),
                    _ => continue,
                }

                let work = async {
                    compact(&shared(&replica), &at_once(), NOW).await?;
                    snapshot(&shared(&replica)).await
                };
                let first = timeout(SECOND, work).await;
                if replica.unused_faults().is_empty() {
                    struck += 1;
                    assert!(!matches!(first, Ok(Ok(_))), "{op} {skip} {how}");
                }
                replica.clear_faults();
                live.assert_latest(&replica).await;
                compact(&shared(&replica), &at_once(), NOW)
                    .await
                    .expect("it is whole");
                snapshot(&shared(&replica)).await.expect("it is whole");

                assert!(replica.snapshot() == wanted, "{op} {skip} {how}");
            }
        }
    }
    assert!(struck > 60, "only {struck} faults struck");
}

/// A database that is replicated, looked after, and written once in a while.
struct Kept {
    live: Live,
    replica: MockClient,
    replication: Replication,
    events: BoxStream<'static, Event>,
    begun: Instant,
    /// By how many seconds the clock is ahead.
    ahead: Arc<AtomicI64>,
    /// When each state was acknowledged, and what some of them are.
    states: Vec<(Instant, Txid, Option<Vec<u8>>)>,
    /// After which of them files of other levels than 0 were seen to end.
    compacted: BTreeSet<Txid>,
}

fn quick() -> UpkeepOptions {
    let mut options = UpkeepOptions::default();
    options.levels = Levels::new(vec![30 * SECOND, 300 * SECOND]).expect("two levels");
    options.snapshot_interval = 1200 * SECOND;
    let mut retention = Retention::default();
    retention.raw = 100 * SECOND;
    retention.states = 2000 * SECOND;
    retention.grace = 50 * SECOND;
    options.retention = Some(retention);
    options
}

fn kept_options(
    live: &Live,
    upkeep: UpkeepOptions,
    begun: Instant,
    ahead: &Arc<AtomicI64>,
) -> ReplicateOptions {
    let mut options = live.options();
    options.upkeep = Some(upkeep);
    // Each transaction is asked for here, and to look for others takes time that is not paused.
    options.poll = 200 * LONG;
    let ahead = Arc::clone(ahead);
    options.clock = Arc::new(move || {
        let elapsed = begun.elapsed().as_millis() as i64 + ahead.load(Ordering::Relaxed) * 1000;
        Timestamp::from_millis(NOW.as_millis() + elapsed)
    });
    options
}

impl Kept {
    async fn new(upkeep: UpkeepOptions) -> Kept {
        Kept::on(MockClient::new(), upkeep).await
    }

    async fn on(replica: MockClient, upkeep: UpkeepOptions) -> Kept {
        let live = Live::new(512);
        let (begun, ahead) = (Instant::now(), Arc::default());
        let options = kept_options(&live, upkeep, begun, &ahead);
        let replicator = Replicator::open(shared(&replica), options).await;
        let replication = replicator.expect("it should start").start();
        let events = replication.events();
        let mut kept = Kept {
            live,
            replica,
            replication,
            events,
            begun,
            ahead,
            states: Vec::new(),
            compacted: BTreeSet::new(),
        };
        kept.sync().await;
        kept
    }

    /// Ends the replication, and begins anew after so many transactions and so long, with a clock
    /// that is so many seconds ahead. The first sync is given too.
    async fn begun_anew(mut self, unseen: usize, pause: Duration, ahead: i64) -> (Kept, Synced) {
        // So that the log is not begun anew meanwhile, which would take a snapshot in any case.
        self.live.run("INSERT INTO t(a) VALUES('seen')");
        let reader = self.live.reader();
        self.sync().await;
        self.replication.shut_down(SECOND).await;
        for _ in 0..unseen {
            self.live.run("INSERT INTO t(a) VALUES('unseen')");
        }
        tokio::time::sleep(pause).await;
        self.ahead.store(ahead, Ordering::Relaxed);
        let options = kept_options(&self.live, quick(), self.begun, &self.ahead);
        let replicator = Replicator::open(shared(&self.replica), options).await;
        let mut replicator = replicator.expect("it should start");
        let synced = self.live.sync(&mut replicator).await;
        drop(reader);
        self.replication = replicator.start();
        self.events = self.replication.events();
        (self, synced)
    }

    fn set_clock_ahead(&self, seconds: i64) {
        self.ahead.store(seconds, Ordering::Relaxed);
    }

    async fn sync(&mut self) {
        let synced = timeout(LONG, self.replication.sync()).await;
        let txid = synced.expect("in time").expect("replication goes on");
        let state = self
            .states
            .len()
            .is_multiple_of(4)
            .then(|| self.live.state());
        self.states.push((Instant::now(), txid, state));
        let files = self.replica.files().into_iter();
        let compactions = files.filter(|file| file.level > Level::RAW);
        self.compacted
            .extend(compactions.map(|file| file.txids.max()));
    }

    /// Writes once each 20 seconds, for so long.
    async fn write_for(&mut self, seconds: u64) {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end {
            self.live.run("INSERT INTO t(a, b) VALUES('some', randomblob(900)); DELETE FROM t WHERE id % 4 = 1");
            self.sync().await;
            tokio::time::sleep(20 * SECOND).await;
        }
    }

    fn listed(&self) -> Vec<replica_core::FileInfo> {
        let snapshot = self.replica.snapshot();
        let listed =
            snapshot
                .into_iter()
                .map(|(id, (created_at, content))| replica_core::FileInfo {
                    id,
                    size: content.len() as u64,
                    created_at,
                });
        listed.collect()
    }

    /// Whether everything can be restored that is promised, by its names; and the newest state,
    /// and some others, byte for byte.
    async fn assert_promises(&self, restores: usize) {
        let (listed, frozen) = (self.listed(), MockClient::new());
        frozen.restore(&self.replica.snapshot());
        let (_, last, _) = self.states.last().expect("a state was noted");
        let plan = RestorePlan::new(Target::Latest, &listed).expect("the latest state is there");
        assert_eq!(plan.txid(), *last);
        let mut promised = Vec::new();
        for (at, txid, state) in &self.states {
            let target = Target::Txid(*txid);
            if at.elapsed() <= 100 * SECOND
                || (at.elapsed() <= 2000 * SECOND && self.compacted.contains(txid))
            {
                let plan = RestorePlan::new(target, &listed);
                assert!(
                    plan.is_ok(),
                    "{txid} after {:?}: {plan:?}",
                    self.begun.elapsed()
                );
                promised.extend(state.clone().map(|state| (target, state)));
            }
        }
        promised.push((Target::Latest, self.live.state()));
        // A restore works in threads of its own, which the paused clock would not wait for.
        tokio::time::resume();
        let client = shared(&frozen);
        for (target, state) in promised.iter().rev().step_by(promised.len() / restores + 1) {
            assert!(restored(&client, *target).await == *state, "{target:?}");
        }
        tokio::time::pause();
    }

    fn taken(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(Some(event)) = futures::FutureExt::now_or_never(self.events.next()) {
            events.push(event);
        }
        events
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_stays_small_and_keeps_its_promises() {
    let mut kept = Kept::new(quick()).await;

    for _ in 0..20 {
        kept.write_for(300).await;
        kept.assert_promises(3).await;
    }

    let count = |level| of_level(&kept.replica, level).len();
    assert!(count(0) <= 15, "{} at level 0", count(0));
    assert!((50..90).contains(&count(1)), "{} at level 1", count(1));
    assert!((5..15).contains(&count(2)), "{} at level 2", count(2));
    assert!((2..=3).contains(&count(9)), "{} snapshots", count(9));
    assert!(kept.replication.status().upkeep.is_empty());
    let events = kept.taken();
    let happened = |wanted: fn(&Event) -> bool| events.iter().any(wanted);
    assert!(happened(
        |event| matches!(event, Event::Compacted { file, .. } if file.id.level == Level::SNAPSHOT)
    ));
    assert!(happened(|event| matches!(
        event,
        Event::Deleted {
            files: 1..,
            bytes: 1..
        }
    )));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_no_times_keeps_files_for_as_long_as_others() {
    // It lists them as from 1970, by which all of them were old at once: what had been put together
    // went after the grace, and each compaction led to a snapshot.
    let store = Capabilities::FULL.with_timestamp_resolution(None);
    let mut kept = Kept::on(MockClient::with_capabilities(store), quick()).await;

    for _ in 0..12 {
        kept.write_for(300).await;
        kept.assert_promises(1).await;
    }

    let count = |level| of_level(&kept.replica, level).len();
    assert!((2..=4).contains(&count(9)), "{} snapshots", count(9));
    assert!(count(0) <= 15, "{} at level 0", count(0));
    assert!(count(1) < 110, "{} at level 1", count(1));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_of_the_store_once_everything_is_done() {
    let mut kept = Kept::new(quick()).await;
    kept.write_for(60).await;
    tokio::time::sleep(2 * LONG).await;
    kept.replica.clear_calls();

    tokio::time::sleep(100 * LONG).await;

    assert_eq!(kept.replica.calls().len(), 0);
    assert_eq!(of_level(&kept.replica, 9).len(), 1);
    kept.assert_promises(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_not_needed_as_long_as_nothing_fails() {
    let mut kept = Kept::new(quick()).await;

    kept.write_for(1500).await;

    // The replicator itself looks for files of somebody else now and then, and each ten minutes for
    // files that are gone.
    let looked_at = [Level::RAW, Level::SNAPSHOT];
    let own = |call: &&replica_mock::Call| matches!(&call.request, replica_mock::Request::List { level, .. } if !looked_at.contains(level));
    let calls = kept.replica.calls();
    assert_eq!(
        calls.iter().filter(own).count(),
        8 + 2 * 8,
        "more than the one at the start, and two by the replicator"
    );
}

#[tokio::test(start_paused = true)]
async fn whatever_the_store_does_promises_are_kept() {
    let mut kept = Kept::new(quick()).await;
    for round in 0..60u64 {
        let op = [Op::Write, Op::Delete, Op::Open, Op::List][round as usize % 4];
        let trouble = kept.replica.on(op).skip(round % 3);
        match (round / 4 % 4, op) {
            (0, _) => trouble.fail(ErrorKind::Unavailable),
            (1, Op::Write | Op::Delete) => trouble.after_applying().fail(ErrorKind::Unavailable),
            (2, _) => trouble.delay(100 * SECOND),
            _ => trouble.times(3).fail(ErrorKind::PermissionDenied),
        }

        kept.write_for(100).await;
        kept.assert_promises(1).await;
    }
    kept.replica.clear_faults();
    kept.write_for(2500).await;

    kept.assert_promises(5).await;
    assert!(kept.replication.status().upkeep.is_empty());
    assert!(of_level(&kept.replica, 0).len() <= 15);
}

#[tokio::test(start_paused = true)]
async fn after_each_delete_there_is_a_whole_replica() {
    let mut kept = Kept::new(quick()).await;
    kept.write_for(2500).await;
    let mut deletes = kept.replica.count(Op::Delete);
    for _ in 0..40 {
        kept.replica.fail_next(Op::Write, ErrorKind::Unavailable);
        kept.replica
            .on(Op::Delete)
            .after_applying()
            .fail(ErrorKind::Unavailable);

        kept.write_for(60).await;

        kept.assert_promises(1).await;
    }
    deletes = kept.replica.count(Op::Delete) - deletes;
    assert!(deletes > 15, "only {deletes}");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_file_is_told_once_and_replication_goes_on() {
    let mut kept = Kept::new(quick()).await;
    kept.write_for(10).await;
    let damaged = *of_level(&kept.replica, 0)
        .last()
        .expect("something was stored");
    let sound = kept.replica.content(damaged).expect("it was stored");
    kept.replica.corrupt(damaged, sound.len() / 2);
    let before = kept.replica.snapshot();

    for _ in 0..10 {
        kept.live.run("INSERT INTO t(a) VALUES('more')");
        kept.sync().await;
        tokio::time::sleep(60 * SECOND).await;
    }

    let events = kept.taken();
    let told: Vec<&Event> = events
        .iter()
        .filter(|event| {
            matches!(
                event,
                Event::UpkeepInterrupted { .. } | Event::UpkeepResumed(_)
            )
        })
        .collect();
    let job = UpkeepJob::Compaction(Level::new(1).expect("a level"));
    let [Event::UpkeepInterrupted { job: failed, error }] = told[..] else {
        panic!("{told:?}");
    };
    assert!(
        *failed == job && error.to_string().contains(&damaged.to_string()),
        "{error}"
    );
    let status = kept.replication.status();
    let [trouble] = &status.upkeep[..] else {
        panic!("{:?}", status.upkeep);
    };
    assert!(trouble.attempts > 5 && status.trouble.is_none());
    let after = kept.replica.snapshot();
    assert!(
        before
            .iter()
            .all(|(file, content)| after.get(file) == Some(content)),
        "something went"
    );
    assert_eq!(of_level(&kept.replica, 1), []);

    kept.replica.put(damaged, NOW, sound);
    tokio::time::sleep(600 * SECOND).await;

    let events = kept.taken();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::UpkeepResumed(mended) if *mended == job))
    );
    assert!(kept.replication.status().upkeep.is_empty());
    kept.assert_promises(3).await;
}

#[tokio::test(start_paused = true)]
async fn a_compaction_that_stands_still_holds_up_neither_files_nor_the_end() {
    let mut kept = Kept::new(quick()).await;
    let level = Level::new(1).expect("a level");
    kept.replica.on(Op::Write).at_level(level).hang();
    kept.write_for(100).await;
    let begun = Instant::now();
    kept.live.run("INSERT INTO t(a) VALUES('more')");

    kept.sync().await;
    let lag = begun.elapsed();
    let ended = kept.replication.shut_down(10 * SECOND).await;

    assert!(lag < SECOND, "{lag:?}");
    assert!(ended.complete && begun.elapsed() < 2 * SECOND);
    kept.replica.assert_faults_used();
    assert_eq!(kept.replica.running(), 0);
    kept.replica.clear_calls();
    tokio::time::sleep(LONG).await;
    assert_eq!(
        kept.replica.calls().len(),
        0,
        "something goes on after the end"
    );
}

#[tokio::test(start_paused = true)]
async fn without_upkeep_files_are_only_added() {
    let (live, replica) = (Live::new(512), MockClient::new());
    let mut options = live.options();
    options.upkeep = None;
    options.poll = 200 * LONG;
    let replicator = Replicator::open(shared(&replica), options).await;
    let replication = replicator.expect("it should start").start();
    for _ in 0..10 {
        live.run("INSERT INTO t(a) VALUES('more')");
        replication.sync().await.expect("it goes on");
        tokio::time::sleep(LONG).await;
    }

    assert!(of_level(&replica, 0).len() >= 10);
    assert_eq!(of_level(&replica, 1), []);
    assert_eq!(of_level(&replica, 9), [file(9, 1..=1)]);
}

#[tokio::test(start_paused = true)]
async fn a_replication_that_begins_anew_goes_on_with_the_upkeep() {
    let mut kept = Kept::new(quick()).await;
    kept.write_for(200).await;
    let before = of_level(&kept.replica, 1);
    let (live, replica) = (kept.live, kept.replica);
    kept.replication.shut_down(SECOND).await;
    let mut options = live.options();
    options.upkeep = Some(quick());
    let replicator = Replicator::open(shared(&replica), options).await;
    let replication = replicator.expect("it should start").start();

    live.run("INSERT INTO t(a) VALUES('more')");
    replication.sync().await.expect("it goes on");
    tokio::time::sleep(60 * SECOND).await;

    let after = of_level(&replica, 1);
    assert!(after.len() > before.len() && after.starts_with(&before));
    let pairs = after.windows(2);
    assert!(
        pairs
            .into_iter()
            .all(|pair| pair[0].txids.max().next() == Some(pair[1].txids.min()))
    );
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_without_a_snapshot_where_files_were_put_together_and_deleted() {
    let mut kept = Kept::new(quick()).await;
    for round in 0..5 {
        kept.write_for(700).await;
        if round >= 2 && round % 2 == 0 {
            // Until all is put together, and only the last file is left at level 0.
            tokio::time::sleep(700 * SECOND).await;
            assert_eq!(of_level(&kept.replica, 0).len(), 1);
        }
        let first = of_level(&kept.replica, 0)[0];
        assert!(first.txids.min().get() > 2, "nothing was deleted");
        let (unseen, pause) = (round % 2, SECOND * 700 * round as u32);

        let (again, synced) = kept.begun_anew(unseen, pause, 0).await;

        assert_eq!(synced.snapshot, None, "round {round}");
        assert_eq!(synced.files.len(), unseen, "round {round}");
        kept = again;
        kept.sync().await;
        kept.assert_promises(2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn somebody_else_is_noticed_beside_the_upkeep_and_that_is_taken_for_nobody_else() {
    let mut kept = Kept::new(quick()).await;
    kept.write_for(2000).await;
    let deleted = |event: &Event| matches!(event, Event::Deleted { .. });
    assert!(kept.taken().iter().filter(|event| deleted(event)).count() > 5);
    let newest = *of_level(&kept.replica, 0).last().expect("it stays");
    let foreign = raw(newest.txids.max().get() + 1);
    let content = kept.replica.content(newest).expect("it is there");
    kept.replica.put(foreign, NOW, content.clone());

    tokio::time::sleep(40 * SECOND).await;
    kept.live.run("INSERT INTO t(a) VALUES('more')");
    let error = kept
        .replication
        .sync()
        .await
        .expect_err("somebody else writes");

    assert!(
        matches!(&*error, ReplicateError::Conflict { file } if *file == foreign),
        "{error}"
    );
    assert_eq!(kept.replica.content(foreign), Some(content));
    kept.replica.clear_calls();
    tokio::time::sleep(LONG).await;
    assert_eq!(kept.replica.calls().len(), 0, "something goes on");
}

/// What upkeep finds missing, nobody else had noticed: all that followed was stored for nothing.
#[tokio::test(start_paused = true)]
async fn a_file_that_upkeep_misses_is_gone_on_without_by_a_new_start() {
    let mut kept = Kept::new(quick()).await;
    kept.write_for(60).await;
    for _ in 0..2 {
        kept.live.run("INSERT INTO t(a) VALUES('some')");
        kept.sync().await;
    }
    let gone = of_level(&kept.replica, 0);
    let gone = gone[gone.len() - 2];
    kept.replica.remove(gone);

    tokio::time::sleep(60 * SECOND).await;
    kept.live.run("INSERT INTO t(a) VALUES('more')");
    kept.sync().await;

    let is_new_start = |event: &Event| {
        matches!(
            event,
            Event::Stored {
                snapshot: Some(SnapshotReason::Incomplete),
                ..
            }
        )
    };
    assert!(kept.taken().iter().any(is_new_start));
    let latest = restored(&shared(&kept.replica), Target::Latest).await;
    assert!(latest == kept.live.state(), "what was restored is another");
}

/// What upkeep finds damaged, nobody else knew either: whatever was committed from then on was
/// acknowledged, and could not be restored.
#[tokio::test(start_paused = true)]
async fn a_file_that_upkeep_finds_damaged_is_gone_on_without_by_one_new_start() {
    for from_end in [1, 2] {
        let mut kept = Kept::new(quick()).await;
        kept.write_for(60).await;
        for _ in 0..2 {
            kept.live.run("INSERT INTO t(a) VALUES('some')");
            kept.sync().await;
        }
        let files = of_level(&kept.replica, 0);
        let damaged = files[files.len() - from_end];
        let content = kept.replica.content(damaged).expect("it was stored");
        kept.replica.corrupt(damaged, content.len() / 2);

        for _ in 0..10 {
            tokio::time::sleep(60 * SECOND).await;
            kept.live.run("INSERT INTO t(a) VALUES('more')");
            kept.sync().await;
        }

        let is_new_start = |event: &&Event| {
            matches!(
                event,
                Event::Stored {
                    snapshot: Some(SnapshotReason::Incomplete),
                    ..
                }
            )
        };
        assert_eq!(kept.taken().iter().filter(is_new_start).count(), 1);
        let latest = restored(&shared(&kept.replica), Target::Latest).await;
        assert!(latest == kept.live.state(), "what was restored is another");
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_file_but_for_one_that_is_stored_in_spite_of_errors_may_go() {
    let mut kept = Kept::new(quick()).await;
    kept.write_for(60).await;
    let newest = *of_level(&kept.replica, 0).last().expect("it was stored");
    let level = Level::new(1).expect("a level");
    let trouble = kept
        .replica
        .on(Op::Write)
        .at_level(Level::RAW)
        .times(100_000);
    trouble.after_applying().fail(ErrorKind::Unavailable);
    kept.live.run("INSERT INTO t(a) VALUES('stored')");
    // So that it is listed what there is.
    kept.replica
        .on(Op::Write)
        .at_level(level)
        .fail(ErrorKind::Unavailable);
    let sync = timeout(1000 * SECOND, kept.replication.sync()).await;
    sync.expect_err("the store fails");
    assert_eq!(kept.replica.content(newest), None, "it is still there");

    kept.replica.clear_faults();
    kept.sync().await;

    kept.write_for(100).await;
    kept.assert_promises(2).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_the_clock_says_promises_are_kept() {
    const A_DAY: i64 = 24 * 60 * 60;
    for begins_anew in [false, true] {
        let mut kept = Kept::new(quick()).await;
        kept.write_for(2600).await;
        // Nothing tells where it is ahead in one run, and in the next one too.
        let still_ahead = if begins_anew { 0 } else { 900 };
        for ahead in [A_DAY, 0, -A_DAY, 0, 1800, still_ahead, -20_000 * A_DAY, 0] {
            match begins_anew {
                true => kept = kept.begun_anew(0, 10 * SECOND, ahead).await.0,
                false => kept.set_clock_ahead(ahead),
            }
            for _ in 0..3 {
                kept.write_for(100).await;
                kept.assert_promises(1).await;
            }
        }
        kept.write_for(4500).await;

        kept.assert_promises(3).await;
        assert!(kept.replication.status().upkeep.is_empty());
        let count = |level| of_level(&kept.replica, level).len();
        assert!(count(0) <= 15, "{} at level 0", count(0));
        assert!(count(1) < 90, "{} at level 1", count(1));
        assert!(count(9) <= 4, "{} snapshots", count(9));
    }
}

//! Databases that share who works at them.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use replica_core::{ErrorKind, Op, Timestamp};
use replica_engine::{Levels, Replication, Replicator, Target, UpkeepOptions, Workers};
use replica_mock::MockClient;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Live, NOW, restored};

const SECOND: Duration = Duration::from_secs(1);
/// How long anything here may take by Tokio's clock, which is much longer than it does.
const LONG: Duration = Duration::from_secs(3600);

fn workers(count: usize) -> Workers {
    Workers::new(NonZeroUsize::new(count).expect("somebody works"))
}

/// A database, and its replication by workers that others share.
struct Shared {
    live: Live,
    replica: MockClient,
    replication: Replication,
}

impl Shared {
    async fn start(workers: &Workers, replica: MockClient) -> Shared {
        Shared::start_with(workers, replica, None).await
    }

    async fn start_with(
        workers: &Workers,
        replica: MockClient,
        upkeep: Option<UpkeepOptions>,
    ) -> Shared {
        let live = Live::new(512);
        let mut options = live.options();
        options.workers = Some(workers.clone());
        options.upkeep = upkeep;
        let begun = Instant::now();
        options.clock = Arc::new(move || {
            Timestamp::from_millis(NOW.as_millis() + begun.elapsed().as_millis() as i64)
        });
        let replicator = Replicator::open(Arc::new(replica.clone()), options).await;
        Shared {
            live,
            replica,
            replication: replicator.expect("it should start").start(),
        }
    }

    async fn sync(&self) {
        let synced = timeout(LONG, self.replication.sync()).await;
        synced
            .expect("it should be its turn some time")
            .expect("replication should go on");
    }

    async fn assert_restorable(&self) {
        let replica = Arc::new(self.replica.clone()) as _;
        let restored = restored(&replica, Target::Latest).await;
        assert!(
            restored == self.live.state(),
            "what was restored is another"
        );
    }

    async fn until(&self, op: Op, count: usize) {
        let wait = async {
            while self.replica.count(op) < count {
                sleep(SECOND / 100).await;
            }
        };
        timeout(LONG, wait).await.expect("it should come to that");
    }
}

#[tokio::test(start_paused = true)]
async fn databases_that_share_workers_take_turns() {
    let two = workers(2);
    let mut slow = Vec::new();
    for _ in 0..2 {
        let replica = MockClient::new();
        replica.on(Op::Write).delay(10 * SECOND);
        let shared = Shared::start(&two, replica).await;
        shared.until(Op::Write, 1).await;
        slow.push(shared);
    }

    let begun = Instant::now();
    let third = Shared::start(&two, MockClient::new()).await;
    third.sync().await;

    let waited = begun.elapsed();
    assert!(waited > 9 * SECOND && waited < 11 * SECOND, "{waited:?}");
    for shared in slow {
        shared.sync().await;
        shared.assert_restorable().await;
    }
    third.assert_restorable().await;
}

#[tokio::test(start_paused = true)]
async fn databases_whose_store_hangs_leave_turns_to_others() {
    let four = workers(4);
    let mut hanging = Vec::new();
    for _ in 0..6 {
        let replica = MockClient::new();
        replica.fail_next(Op::Write, ErrorKind::Unavailable);
        replica.on(Op::Write).skip(1).every(1).hang();
        let shared = Shared::start(&four, replica).await;
        shared.until(Op::Write, 1).await;
        hanging.push(shared);
    }
    sleep(60 * SECOND).await;

    let healthy = Shared::start(&four, MockClient::new()).await;
    healthy.sync().await;

    let tried: usize = hanging
        .iter()
        .map(|shared| shared.replica.count(Op::Write))
        .sum();
    assert_eq!(tried, 6 + 1);
    healthy.assert_restorable().await;
}

/// A first attempt was taken for one that gets on, so that enough stores that hung from the start had
/// all the turns.
#[tokio::test(start_paused = true)]
async fn databases_whose_store_hangs_from_the_start_leave_turns_to_others() {
    let four = workers(4);
    let mut hanging = Vec::new();
    for _ in 0..6 {
        let replica = MockClient::new();
        replica.on(Op::Write).every(1).hang();
        hanging.push(Shared::start(&four, replica).await);
    }

    let begun = Instant::now();
    let healthy = Shared::start(&four, MockClient::new()).await;
    healthy.sync().await;
    let first = begun.elapsed();
    sleep(60 * SECOND).await;
    let begun = Instant::now();
    healthy.live.run("INSERT INTO t(a) VALUES('some')");
    healthy.sync().await;

    assert!(first < 60 * SECOND, "{first:?}");
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    let told = hanging.iter().filter(|shared| {
        let trouble = shared.replication.status().trouble;
        trouble.is_some()
    });
    // Nobody else waits for the turn of another one.
    assert_eq!(told.count(), 3);
    healthy.assert_restorable().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_its_turn_no_longer_than_it_may() {
    let one = workers(1);
    let replica = MockClient::new();
    replica.on(Op::Write).hang();
    let hanging = Shared::start(&one, replica).await;
    hanging.until(Op::Write, 1).await;
    let waiting = Shared::start(&one, MockClient::new()).await;

    let begun = Instant::now();
    let ended = waiting.replication.shut_down(10 * SECOND).await;

    assert_eq!(begun.elapsed().as_secs(), 10);
    assert!(!ended.complete);
    assert_eq!(waiting.replica.count(Op::Write), 0);
}

#[tokio::test(start_paused = true)]
async fn jobs_of_the_upkeep_take_turns_and_hold_up_no_commits() {
    let four = workers(4);
    let mut upkeep = UpkeepOptions::default();
    upkeep.levels = Levels::new(vec![30 * SECOND]).expect("one level");
    upkeep.retention = None;
    let mut all = Vec::new();
    for _ in 0..3 {
        let replica = MockClient::new();
        let shared = Shared::start_with(&four, replica, Some(upkeep.clone())).await;
        shared.sync().await;
        shared.replica.clear_calls();
        shared.replica.on(Op::Open).every(1).hang();
        all.push(shared);
    }

    for _ in 0..5 {
        sleep(60 * SECOND).await;
        for shared in &all {
            shared.live.run("INSERT INTO t(a) VALUES('some')");
            shared.sync().await;
        }
    }

    let at_work = all
        .iter()
        .filter(|shared| shared.replica.count(Op::Open) > 0);
    assert_eq!(at_work.count(), 1);
}

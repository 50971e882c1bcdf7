//! A followed database is what a restore gives, for readers that never let go of it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use replica_core::{Level, Op, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps, Txid};
use replica_engine::{
    FollowError, FollowOptions, Follower, PlanError, Replicator, RestoreError, Target,
    UpkeepOptions, compact, snapshot,
};
use replica_file::FileClient;
use replica_mock::MockClient;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::application::{connect, run};
use crate::support::{Live, NOW, copy_file, raw, restored, stored, with_pages};

/// The folder of a followed database.
struct Followed(TempDir);

impl Followed {
    fn new() -> Followed {
        Followed(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("read.db")
    }

    async fn open(&self, client: &(impl ReplicaClient + Clone)) -> Result<Follower, FollowError> {
        let options = FollowOptions::new(self.path());
        Follower::open(Arc::new(client.clone()), options, |_| {}).await
    }

    async fn opened(&self, client: &(impl ReplicaClient + Clone)) -> Follower {
        let opened = self.open(client).await;
        opened.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The path of what is beside the database, with `suffix` behind its name.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut path = self.path().into_os_string();
        path.push(suffix);
        path.into()
    }

    /// What SQLite reads, byte for byte, of a copy that is checkpointed.
    fn state(&self) -> Vec<u8> {
        let copy = Followed::new();
        for suffix in ["", "-wal"] {
            let from = self.beside(suffix);
            if from.exists() {
                copy_file(&from, &copy.beside(suffix));
            }
        }
        crate::application::checkpointed(&copy.path())
    }
}

/// An application's database, its replica, and a database that follows that.
struct Line {
    live: Live,
    replica: MockClient,
    replicator: Replicator,
    followed: Followed,
    follower: Follower,
}

impl Line {
    /// With pages of so many bytes, and with nothing to be done.
    async fn new(page_size: u32) -> Line {
        let (mut live, replica) = (Live::new(page_size), MockClient::new());
        let mut replicator = live.started(&replica).await;
        live.sync(&mut replicator).await;
        let followed = Followed::new();
        let follower = followed.opened(&replica).await;
        Line {
            live,
            replica,
            replicator,
            followed,
            follower,
        }
    }

    /// Commits `sql`, and has it in the replica: the number of that transaction.
    async fn commit(&mut self, sql: &str) -> u64 {
        self.live.run(sql);
        self.live.sync(&mut self.replicator).await.txid.get()
    }

    async fn step(&mut self) -> Option<(u64, bool)> {
        step(&mut self.follower).await
    }

    /// Looks whether the followed database is what a restore gives.
    async fn assert_followed(&self) {
        assert!(self.followed.state() == latest(&self.replica).await);
    }
}

async fn step(follower: &mut Follower) -> Option<(u64, bool)> {
    let step = follower.step().await;
    let step = step.unwrap_or_else(|error| panic!("{error}"));
    step.map(|step| (step.txid.get(), step.anew))
}

async fn latest(client: &(impl ReplicaClient + Clone)) -> Vec<u8> {
    let client: Arc<dyn ReplicaClient> = Arc::new(client.clone());
    restored(&client, Target::Latest).await
}

fn count(reader: &Connection) -> u32 {
    let count = reader.query_row("SELECT count(*) FROM t", (), |row| row.get(0));
    count.expect("the table can be read")
}

/// All that is in the table, as SQLite finds it.
fn content(reader: &Connection) -> Vec<(i64, Option<String>, Option<Vec<u8>>)> {
    let statement = reader.prepare("SELECT id, a, b FROM t ORDER BY id");
    let mut statement = statement.expect("there is a table");
    let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
    let rows = rows.expect("the table can be read");
    rows.map(|row| row.expect("the table can be read"))
        .collect()
}

#[tokio::test]
async fn each_step_gives_what_a_restore_gives_and_readers_see_it() {
    for page_size in [512, 4096, 65_536] {
        let mut line = Line::new(page_size).await;
        let reader = connect(&line.followed.path());
        assert_eq!((line.step().await, count(&reader)), (None, 0));
        for sql in [
            "INSERT INTO t(b) VALUES(randomblob(9000))",
            "INSERT INTO t(b) SELECT randomblob(3000) FROM t, t AS u, (VALUES(1), (2))",
            "CREATE INDEX i ON t(b); UPDATE t SET a = hex(b)",
            "DELETE FROM t WHERE id > 1; VACUUM",
            "INSERT INTO t(a) VALUES('the last one')",
        ] {
            let txid = line.commit(sql).await;

            assert_eq!(line.step().await, Some((txid, false)));

            assert!(
                line.followed.state() == latest(&line.replica).await,
                "{sql}"
            );
            assert!(
                content(&reader) == content(line.live.application()),
                "{sql}"
            );
            let check: String = reader
                .query_row("PRAGMA integrity_check", (), |row| row.get(0))
                .expect("it can be checked");
            assert_eq!(check, "ok", "{sql}");
        }
    }
}

#[tokio::test]
async fn a_database_that_vacuums_itself_shrinks() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    live.run("PRAGMA auto_vacuum=FULL; VACUUM");
    let mut replicator = live.started(&replica).await;
    live.run("INSERT INTO t(b) VALUES(randomblob(200000))");
    live.sync(&mut replicator).await;
    let followed = Followed::new();
    let mut follower = followed.opened(&replica).await;
    let large = followed.state().len();
    live.run("DELETE FROM t");
    live.sync(&mut replicator).await;

    step(&mut follower).await.expect("there is something new");

    let small = followed.state();
    assert!(small.len() < large / 4, "{} of {large}", small.len());
    assert!(small == latest(&replica).await);
}

#[tokio::test]
async fn a_reader_in_a_transaction_goes_on_to_see_what_it_saw() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = live.started(&replica).await;
    live.run("INSERT INTO t(a) VALUES('one')");
    live.sync(&mut replicator).await;
    let followed = Followed::new();
    let mut follower = followed.opened(&replica).await;
    let reader = connect(&followed.path());
    for rows in 1..20 {
        run(&reader, "BEGIN");
        assert_eq!(count(&reader), rows);
        live.run("INSERT INTO t(a, b) VALUES('more', randomblob(20000))");
        live.sync(&mut replicator).await;

        step(&mut follower).await.expect("there is something new");

        assert_eq!(count(&reader), rows);
        run(&reader, "COMMIT");
        assert_eq!(count(&reader), rows + 1);
    }
}

#[tokio::test]
async fn it_goes_on_after_it_was_ended_and_a_reader_has_checkpointed() {
    for ends in [true, false] {
        let (mut live, replica) = (Live::new(4096), MockClient::new());
        let mut replicator = live.started(&replica).await;
        live.sync(&mut replicator).await;
        let followed = Followed::new();
        for round in 0..4 {
            let mut follower = followed.opened(&replica).await;
            live.run("INSERT INTO t(b) VALUES(randomblob(9000))");
            let txid = live.sync(&mut replicator).await.txid;
            let stepped = step(&mut follower).await;
            assert_eq!(stepped, Some((txid.get(), false)), "round {round}");
            match ends {
                true => follower.close().await.expect("the folder can be written"),
                // As if it were killed.
                false => drop(follower),
            }
            // The last one to close it copies the log to the database file.
            drop(connect(&followed.path()));
            assert!(followed.state() == latest(&replica).await);
        }
    }
}

/// SQLite's index of such a log has several regions, of which a follower that begins has mapped only
/// some when it ends its first step.
#[tokio::test]
async fn it_goes_on_with_a_long_log() {
    let mut line = Line::new(512).await;
    let reader = connect(&line.followed.path());
    run(&reader, "BEGIN; SELECT count(*) FROM t");
    for len in [12_000_000, 1] {
        let sql = format!("INSERT INTO t(b) VALUES(randomblob({len}))");
        line.commit(&sql).await;
        line.step().await.expect("there is something new");
    }
    line.follower = line.followed.opened(&line.replica).await;
    line.commit("INSERT INTO t(a) VALUES('the last one')").await;

    let stepped = line.step().await;
    let seen = count(&reader);
    run(&reader, "COMMIT");

    assert_eq!((stepped, seen), (Some((5, false)), 0));
    assert!(content(&reader) == content(line.live.application()));
    line.assert_followed().await;
}

/// Whoever was reading when a step came to its end kept the log from being emptied, each time anew.
#[tokio::test]
async fn the_log_stays_short_though_somebody_reads_at_each_step() {
    let mut line = Line::new(512).await;
    let reader = connect(&line.followed.path());
    let mut largest = 0;
    for _ in 0..12 {
        line.commit("INSERT INTO t(b) VALUES(randomblob(400000))")
            .await;
        run(&reader, "BEGIN; SELECT count(*) FROM t");
        line.step().await.expect("there is something new");
        run(&reader, "COMMIT");
        assert_eq!(line.step().await, None);
        let wal = line.followed.0.path().join("read.db-wal");
        largest = largest.max(std::fs::metadata(wal).expect("there is a log").len());
    }

    assert!(largest < 2_000_000, "{largest}");
    line.assert_followed().await;
}

/// Two that read in turn, so that one of them is always in a transaction, kept the log from ever being
/// begun anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_bounded_though_somebody_always_reads() {
    let mut line = Line::new(512).await;
    let read = "BEGIN; SELECT count(*) FROM t";
    let (path, end) = (line.followed.path(), Arc::new(AtomicBool::new(false)));
    let ended = Arc::clone(&end);
    let readers = std::thread::spawn(move || {
        let mut readers = [connect(&path), connect(&path)];
        run(&readers[0], read);
        while !ended.load(Ordering::Relaxed) {
            readers.swap(0, 1);
            run(&readers[0], read);
            // A reading takes its time.
            std::thread::sleep(Duration::from_millis(50));
            run(&readers[1], "COMMIT");
        }
    });
    let mut largest = 0;
    for _ in 0..9 {
        line.commit("INSERT INTO t(b) VALUES(randomblob(2000000)); DELETE FROM t WHERE id < 3")
            .await;
        line.step().await.expect("there is something new");
        let wal = line.followed.0.path().join("read.db-wal");
        largest = largest.max(std::fs::metadata(wal).expect("there is a log").len());
    }
    end.store(true, Ordering::Relaxed);
    readers.join().expect("readers meet no error");

    // Of 19 MB in all.
    assert!(largest < 14_000_000, "{largest}");
    line.assert_followed().await;
}

/// Each of them read the log anew after a step, and told the others that it was locked meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_wait_for_nobody_are_never_told_that_it_is_locked() {
    let mut line = Line::new(512).await;
    let (path, end) = (line.followed.path(), Arc::new(AtomicBool::new(false)));
    let readers = [(); 3].map(|()| {
        let (path, ended) = (path.clone(), Arc::clone(&end));
        std::thread::spawn(move || {
            let reader = connect(&path);
            reader.busy_timeout(Duration::ZERO).expect("a setting");
            let (mut reads, mut before) = (0_u32, 0);
            while !ended.load(Ordering::Relaxed) {
                let now = count(&reader);
                assert!(now >= before, "{now} rows after {before}");
                (reads, before) = (reads + 1, now);
            }
            reads
        })
    });
    for _ in 0..40 {
        line.commit("INSERT INTO t(b) VALUES(randomblob(40000))")
            .await;

        line.step().await.expect("there is something new");
    }
    end.store(true, Ordering::Relaxed);
    for reader in readers {
        let reads = reader.join().expect("it was never told that it is locked");
        assert!(reads > 0);
    }
}

/// What of it went on to be written could come into the way of the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_is_dropped_anywhere_leaves_the_next_one_to_be_made() {
    let mut line = Line::new(512).await;
    let reader = connect(&line.followed.path());
    for turns in [0, 1, 2, 3, 5, 8, 13, 21, 50, 200, 1000, 5000] {
        line.commit("INSERT INTO t(b) VALUES(randomblob(900000)); DELETE FROM t WHERE id < 3")
            .await;
        let others = async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = line.follower.step() => {}
            () = others => {}
        }

        line.step().await;

        assert!(
            content(&reader) == content(line.live.application()),
            "{turns}"
        );
        assert!(
            line.followed.state() == latest(&line.replica).await,
            "{turns}"
        );
    }
}

/// A step whose caller gave up on it came to its end all the same. The next one noted as the state
/// before it one that was gone, so that whoever went on after a crash took the database for another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_a_step_that_was_dropped_and_came_to_its_end_is_none_of_others() {
    let mut line = Line::new(4096).await;
    let reader = connect(&line.followed.path());
    let note = line.followed.beside("-follow");
    let noted = || std::fs::read(&note).ok();
    // It grows each time, so that its first page is another one.
    let grows = "INSERT INTO t(b) VALUES(randomblob(90000))";
    let (mut rows, deadline) = (0, Instant::now() + Duration::from_secs(60));
    loop {
        (rows, _) = (rows + 1, line.commit(grows).await);
        let before = noted();
        let is_noted = async {
            while noted() == before {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = is_noted => break,
            _ = line.follower.step() => assert!(Instant::now() < deadline, "it is never dropped"),
        }
    }
    while count(&reader) < rows {
        assert!(Instant::now() < deadline, "it does not come to its end");
        tokio::task::yield_now().await;
    }
    let crashed = Followed::new();
    for suffix in ["", "-wal"] {
        copy_file(&line.followed.beside(suffix), &crashed.beside(suffix));
    }
    line.commit(grows).await;
    let stepped = line.step().await;

    // As if it had died between its note and its end.
    copy_file(&note, &crashed.beside("-follow"));
    let mut follower = crashed.opened(&line.replica).await;

    assert_eq!(step(&mut follower).await, stepped);
    assert!(crashed.state() == latest(&line.replica).await);
    line.assert_followed().await;
}

/// SQLite mends the size in such a header as soon as it begins to write, and the end of each step
/// committed that into the log, over the step itself.
#[tokio::test]
async fn a_header_that_sqlite_would_mend_is_left_as_it_is() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = live.started(&replica).await;
    let other = MockClient::new();
    let copy = |number| {
        let file = with_pages(&stored(&replica, number), |pgno, page| {
            if pgno.get() == 1 {
                // The size, and for which change it is.
                page[28..32].copy_from_slice(&[0, 0, 9, 9]);
                page[92..96].copy_from_slice(&[9; 4]);
            }
        });
        other.put(raw(number), NOW, file);
    };
    let first = live.sync(&mut replicator).await.txid.get();
    (1..=first).for_each(copy);
    let followed = Followed::new();
    let mut follower = followed.opened(&other).await;
    let reader = connect(&followed.path());
    for sql in [
        "INSERT INTO t(b) VALUES(randomblob(90000))",
        "INSERT INTO t(a) VALUES('small')",
        "DELETE FROM t WHERE id = 1; VACUUM",
        "INSERT INTO t(b) VALUES(randomblob(90000))",
    ] {
        live.run(sql);
        let txid = live.sync(&mut replicator).await.txid.get();
        let whole = stored(&replica, txid);
        other.put(raw(txid), NOW, whole[..whole.len() - 9].to_vec());
        follower.step().await.expect_err("a file is damaged");
        copy(txid);

        assert_eq!(step(&mut follower).await, Some((txid, false)), "{sql}");

        assert!(followed.state() == latest(&other).await, "{sql}");
        assert!(content(&reader) == content(live.application()), "{sql}");
    }
}

#[tokio::test]
async fn nothing_new_costs_one_listing() {
    let mut line = Line::new(4096).await;
    line.replica.clear_calls();

    assert_eq!(line.step().await, None);

    assert_eq!(
        (line.replica.count(Op::List), line.replica.calls().len()),
        (1, 1)
    );
}

#[tokio::test]
async fn it_goes_on_from_higher_levels_or_anew_where_files_were_deleted() {
    let mut line = Line::new(4096).await;
    let reader = connect(&line.followed.path());
    for _ in 0..3 {
        line.commit("INSERT INTO t(b) VALUES(randomblob(9000))")
            .await;
    }
    let client: Arc<dyn ReplicaClient> = Arc::new(line.replica.clone());
    let later = Timestamp::from_millis(NOW.as_millis() + 3_600_000);
    let all = compact(&client, &UpkeepOptions::default(), later).await;
    assert!(!all.expect("what is there can be put together").is_empty());
    line.replica
        .delete(&[raw(3), raw(4)])
        .await
        .expect("it works");

    assert_eq!(line.step().await, Some((5, false)));
    assert_eq!(count(&reader), 3);

    line.commit("INSERT INTO t(b) VALUES(randomblob(9000)); DELETE FROM t WHERE id = 1")
        .await;
    let made = snapshot(&client).await;
    made.expect("what is there can be put together");
    let raws = client
        .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .expect("it works");
    let raws: Vec<_> = raws.iter().map(|file| file.id).collect();
    line.replica.delete(&raws).await.expect("it works");

    assert_eq!(line.step().await, Some((6, true)));
    assert_eq!(count(&reader), 3);
    line.assert_followed().await;
}

#[tokio::test]
async fn a_damaged_file_is_named_and_changes_nothing() {
    let mut line = Line::new(4096).await;
    let (before, reader) = (line.followed.state(), connect(&line.followed.path()));
    // Of which a part is in the log before the rest is read.
    line.commit("INSERT INTO t(b) VALUES(randomblob(3000000))")
        .await;
    let file = stored(&line.replica, 3);
    line.replica
        .put(raw(3), NOW, file[..file.len() - 9].to_vec());

    let error = line.follower.step().await.expect_err("a file is damaged");

    assert!(error.to_string().contains(&raw(3).to_string()), "{error}");
    assert!(!error.may_pass());
    assert!(line.followed.state() == before && count(&reader) == 0);
    line.replica.put(raw(3), NOW, file);
    assert_eq!(line.step().await, Some((3, false)));
    assert!(content(&reader) == content(line.live.application()));
    line.assert_followed().await;
}

#[tokio::test]
async fn it_never_goes_back_and_waits_for_a_replica_that_lags() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;
    let before = replica.snapshot();
    live.run("INSERT INTO t(b) VALUES(1)");
    live.sync(&mut replicator).await;
    let after = replica.snapshot();
    let followed = Followed::new();
    let mut follower = followed.opened(&replica).await;
    replica.restore(&before);

    let lags = follower.step().await.expect_err("the replica went back");

    assert!(
        matches!(&lags, FollowError::Lags { txid, last } if txid.get() == 3 && last.get() == 2),
        "{lags}"
    );
    assert!(lags.may_pass());
    replica.delete_all().await.expect("it works");
    let empty = follower.step().await.expect_err("nothing is there");
    assert!(
        matches!(
            empty,
            FollowError::Restore(RestoreError::Plan(PlanError::Empty))
        ),
        "{empty}"
    );
    assert!(empty.may_pass());
    replica.restore(&after);
    live.run("INSERT INTO t(b) VALUES(2)");
    live.sync(&mut replicator).await;
    assert_eq!(step(&mut follower).await, Some((4, false)));
    assert!(followed.state() == latest(&replica).await);
}

#[tokio::test]
async fn a_history_that_was_replaced_is_no_replica_that_lags() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = live.started(&replica).await;
    for row in [1, 2] {
        live.run(&format!("INSERT INTO t(b) VALUES({row})"));
        live.sync(&mut replicator).await;
    }
    let followed = Followed::new();
    let mut follower = followed.opened(&replica).await;
    let (other, newer) = (Live::new(4096), MockClient::new());
    let mut options = other.options();
    options.clock = Arc::new(|| Timestamp::from_millis(NOW.as_millis() + 1));
    let began = Replicator::open(Arc::new(newer.clone()), options).await;
    let mut began = began.expect("a live database and a store that works");
    began.sync().await.expect("a sync should succeed");
    replica.restore(&newer.snapshot());

    let replaced = follower.step().await.expect_err("it is another history");

    assert!(
        matches!(&replaced, FollowError::WentBack { txid, last } if txid > last),
        "{replaced}"
    );
    assert!(!replaced.may_pass());
    drop(follower);
    // It is not known any more when that was copied.
    let mut follower = followed.opened(&replica).await;
    let replaced = follower.step().await.expect_err("it is another history");
    assert!(
        matches!(replaced, FollowError::WentBack { .. }),
        "{replaced}"
    );
}

#[tokio::test]
async fn a_database_that_is_not_the_followed_one_is_refused() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;
    let (followed, other) = (Followed::new(), Followed::new());
    run(&connect(&other.path()), "CREATE TABLE mine(a)");

    let refused = other.open(&replica).await.err().expect("it is another");

    assert!(
        matches!(refused, FollowError::NotFollowed { .. }),
        "{refused}"
    );
    drop(followed.opened(&replica).await);
    run(
        &connect(&followed.path()),
        "CREATE TABLE mine(a); PRAGMA wal_checkpoint(TRUNCATE)",
    );
    let refused = followed.open(&replica).await.err().expect("it was written");
    assert!(matches!(refused, FollowError::Changed { .. }), "{refused}");
}

#[tokio::test]
async fn what_others_write_meanwhile_is_noticed() {
    let mut line = Line::new(4096).await;
    for sql in ["INSERT INTO t(b) VALUES(1)", "INSERT INTO t(b) VALUES(2)"] {
        line.commit(sql).await;
        if sql.ends_with("(2)") {
            run(&connect(&line.followed.path()), "DELETE FROM t");
            break;
        }
        line.step().await.expect("there is something new");
    }

    let error = line
        .follower
        .step()
        .await
        .expect_err("somebody has written");

    assert!(matches!(error, FollowError::Changed { .. }), "{error}");
}

/// Names the folder to this test's own program when it is the one to be killed.
const FOLDER: &str = "REPLICA_ENGINE_TEST_FOLLOWED";
const NAME: &str = "follow::a_killed_follower_leaves_one_state_or_the_next";
/// How often it is killed.
const KILLS: usize = 12;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_follower_leaves_one_state_or_the_next() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return follow_until_killed(folder.into()).await;
    }
    let live = Live::new(1024);
    live.run("CREATE TABLE twin(id INTEGER PRIMARY KEY, b BLOB)");
    let store = tempfile::tempdir().expect("a temporary folder");
    let client = FileClient::new(store.path().join("replica"));
    let mut options = live.options();
    options.window = Duration::from_millis(1);
    let replicator = Replicator::open(Arc::new(client.clone()), options).await;
    let replication = replicator.expect("it works").start();
    replication.sync().await.expect("the store works");
    let end = Arc::new(AtomicBool::new(false));
    let (path, ended) = (live.path(), Arc::clone(&end));
    // Both tables are the same after each transaction, on pages far from one another.
    let writer = std::thread::spawn(move || {
        let connection = connect(&path);
        run(
            &connection,
            "PRAGMA busy_timeout=5000; PRAGMA synchronous=OFF",
        );
        for id in 0.. {
            if ended.load(Ordering::Relaxed) {
                return;
            }
            let id = id % 100;
            run(
                &connection,
                &format!(
                    "BEGIN IMMEDIATE; INSERT OR REPLACE INTO t(id, b) VALUES({id}, randomblob(3000)); \
                     INSERT OR REPLACE INTO twin SELECT id, b FROM t WHERE id = {id}; COMMIT"
                ),
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let database = store.path().join("read.db");

    // With one that stays, the index that is shared by connections outlives the killed one.
    let mut kept = None;
    for kill in 0..KILLS {
        kept = kept.filter(|_| kill % 4 != 0);
        let position = std::fs::read(store.path().join("read.db-follow")).ok();
        let child = Command::new(std::env::current_exe().expect("it runs"))
            .args(["--exact", NAME])
            .env(FOLDER, store.path())
            .stdout(Stdio::null())
            .spawn();
        let child = Killed(child.expect("it can be started"));
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut checks = 0;
        // Until it has made some steps, and somewhere in the next one.
        while checks < 20 || std::fs::read(store.path().join("read.db-follow")).ok() == position {
            assert!(Instant::now() < deadline, "it does not follow");
            if database.exists() {
                match kill % 4 {
                    0 | 1 => assert_twins(&connect(&database)),
                    _ => assert_twins(kept.get_or_insert_with(|| connect(&database))),
                }
                checks += 1;
            } else {
                std::thread::yield_now();
            }
        }
        drop(child);
        if let Some(kept) = &kept {
            assert_twins(kept);
        }
        assert_twins(&connect(&database));
    }
    drop(kept);

    end.store(true, Ordering::Relaxed);
    writer.join().expect("nothing keeps it from writing");
    assert!(
        replication
            .shut_down(Duration::from_secs(30))
            .await
            .complete
    );
    let followed = Followed(store);
    let mut follower = followed.opened(&client).await;
    step(&mut follower).await;
    assert_eq!(step(&mut follower).await, None);
    assert!(followed.state() == latest(&client).await);
}

/// Reads both tables in one transaction.
fn assert_twins(reader: &Connection) {
    reader
        .busy_timeout(Duration::from_secs(10))
        .expect("a setting");
    let differ: u32 = reader
        .query_row(
            "SELECT count(*) FROM t FULL JOIN twin USING(id) WHERE t.b IS NOT twin.b",
            (),
            |row| row.get(0),
        )
        .expect("readers meet no error");
    assert_eq!(differ, 0);
    let check: String = reader
        .query_row("PRAGMA quick_check", (), |row| row.get(0))
        .expect("readers meet no error");
    assert_eq!(check, "ok");
}

async fn follow_until_killed(folder: PathBuf) {
    let client = FileClient::new(folder.join("replica"));
    let options = FollowOptions::new(folder.join("read.db"));
    let follower = Follower::open(Arc::new(client), options, |_| {}).await;
    let mut follower = follower.expect("it goes on");
    let deadline = Instant::now() + Duration::from_secs(90);
    while Instant::now() < deadline {
        follower.step().await.expect("it goes on");
    }
    panic!("nobody has killed this process");
}

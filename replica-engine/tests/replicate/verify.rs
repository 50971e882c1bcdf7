//! A restore drill tells a good replica from a bad one, and from one of which nothing can be told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ltx::{Compression, Encoder, Reader};
use replica_core::{Op, ReplicaClient};
use replica_engine::{
    Checkpoint, Doubt, Fault, Flaw, PlanError, ReplicateOptions, Replicator, RestoreError, Verdict,
    VerifyError, VerifyOptions, VerifyProgress, verify,
};
use replica_mock::MockClient;

use crate::application::{connect, run};
use crate::support::{Live, NOW, raw, stored, with_header};

/// Verifies without waiting for a replica that lags behind.
async fn verdict(live: &Live, replica: &MockClient) -> Result<Verdict, VerifyError> {
    verdict_within(live, replica, Duration::ZERO).await
}

async fn verdict_within(
    live: &Live,
    replica: &MockClient,
    wait: Duration,
) -> Result<Verdict, VerifyError> {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let mut options = VerifyOptions::new(live.path(), scratch.path());
    options.wait = wait;
    let verdict = verify(Arc::new(replica.clone()), &options, |_| {}).await;
    let left = std::fs::read_dir(scratch.path()).expect("it is still there");
    assert_eq!(left.count(), 0, "something was left");
    verdict
}

/// Verifies, and returns the transaction at which it is good, and by how much it lags.
async fn good(live: &Live, replica: &MockClient) -> (u64, u64) {
    match verdict(live, replica).await {
        Ok(Verdict::Good(compared)) => (compared.txid.get(), compared.behind),
        other => panic!("{other:?}"),
    }
}

async fn bad(live: &Live, replica: &MockClient) -> Flaw {
    match verdict(live, replica).await {
        Ok(Verdict::Bad(flaw)) => flaw,
        other => panic!("{other:?}"),
    }
}

async fn unknown(live: &Live, replica: &MockClient) -> Doubt {
    match verdict(live, replica).await {
        Ok(Verdict::Unknown(doubt)) => doubt,
        other => panic!("{other:?}"),
    }
}

/// So that a handler of a web server can await it.
#[tokio::test]
async fn a_verification_can_go_on_on_another_thread() {
    let (live, replica) = (Live::new(512), MockClient::new());
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let options = VerifyOptions::new(live.path(), scratch.path());

    let task = tokio::spawn(async move {
        let verdict = verify(Arc::new(replica), &options, |_| {}).await;
        verdict.is_err()
    });

    assert!(task.await.expect("it does not panic"), "nothing is there");
}

/// A replica of three transactions, with its replicator.
async fn three(live: &mut Live, replica: &MockClient) -> Replicator {
    let mut replicator = live.started(replica).await;
    live.run("INSERT INTO t(b) VALUES(randomblob(5000))");
    // Two of them: a file of level 0 follows the snapshot at once.
    live.sync(&mut replicator).await;
    live.run("INSERT INTO t(b) VALUES(randomblob(7000))");
    live.sync(&mut replicator).await;
    replicator
}

/// The same file, of which the last page differs in one byte. Returns the number of that page.
fn with_other_page(file: &[u8]) -> (u32, Vec<u8>) {
    let mut reader = Reader::new(file).expect("a stored file has a header");
    let header = *reader.header();
    let mut pages = Vec::new();
    let mut page = vec![0; header.page_size().bytes()];
    while let Some(pgno) = reader.next_page(&mut page).expect("a stored file is whole") {
        pages.push((pgno, page.clone()));
    }
    let (last, content) = pages.last_mut().expect("it holds pages");
    content[100] ^= 1;
    let last = last.get();
    let mut out = Vec::new();
    let mut encoder = Encoder::new(header, Compression::Blocks, &mut out);
    for (pgno, page) in &pages {
        let added = encoder.page(*pgno, page, &mut out);
        added.expect("it has the pages of the one before");
    }
    encoder.finish(None, &mut out).expect("it has no checksums");
    (last, out)
}

#[tokio::test]
async fn a_replica_that_gives_the_live_database_is_good() {
    for page_size in [512, 4096, 65_536] {
        let (mut live, replica) = (Live::new(page_size), MockClient::new());
        let _replicator = three(&mut live, &replica).await;

        assert_eq!(good(&live, &replica).await, (3, 0));
    }
}

#[tokio::test]
async fn a_replica_that_lags_is_good_at_the_place_it_has_come_to() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let _replicator = three(&mut live, &replica).await;
    live.run("UPDATE t SET b = randomblob(3000); DELETE FROM t WHERE id = 1; VACUUM");

    let (txid, behind) = good(&live, &replica).await;

    assert_eq!(txid, 3);
    assert!(behind > 4096, "{behind}");
}

#[tokio::test]
async fn a_replica_that_lags_is_waited_for() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = three(&mut live, &replica).await;
    live.run("INSERT INTO t(b) VALUES(randomblob(5000))");

    let (verdict, synced) = tokio::join!(
        verdict_within(&live, &replica, Duration::from_secs(60)),
        replicator.sync()
    );

    assert_eq!(synced.expect("the store works").txid.get(), 4);
    match verdict {
        Ok(Verdict::Good(compared)) => {
            assert_eq!((compared.txid.get(), compared.behind), (4, 0));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_replica_is_good_while_somebody_writes_all_the_time() {
    let (live, replica) = (Live::new(1024), MockClient::new());
    let mut options = ReplicateOptions::new(live.path(), || NOW);
    options.checkpoint_pages = 50;
    options.window = Duration::from_millis(5);
    let replicator = Replicator::open(Arc::new(replica.clone()), options).await;
    let replication = replicator.expect("it works").start();
    replication.sync().await.expect("the store works");
    let end = Arc::new(AtomicBool::new(false));
    let (path, ended) = (live.path(), Arc::clone(&end));
    let writer = std::thread::spawn(move || {
        let connection = connect(&path);
        run(
            &connection,
            "PRAGMA busy_timeout=5000; PRAGMA synchronous=OFF",
        );
        while !ended.load(Ordering::Relaxed) {
            run(
                &connection,
                "INSERT INTO t(b) VALUES(randomblob(900)); \
                 DELETE FROM t WHERE id < (SELECT max(id) FROM t) - 200",
            );
            std::thread::yield_now();
        }
    });

    let mut verdicts = Vec::new();
    for _ in 0..3 {
        verdicts.push(verdict_within(&live, &replica, Duration::from_secs(30)).await);
    }

    end.store(true, Ordering::Relaxed);
    writer.join().expect("nothing keeps it from writing");
    let ended = replication.shut_down(Duration::from_secs(30)).await;
    assert!(ended.complete);
    for verdict in verdicts {
        assert!(matches!(verdict, Ok(Verdict::Good(_))), "{verdict:?}");
    }
}

/// A log that was emptied before all that had been in it was stored says nothing of where the newest
/// file belongs; the next one does, and is there a moment later. `verify` beside a writer that never
/// pauses said that nothing can be told, now and then.
#[tokio::test]
async fn what_is_stored_while_nothing_can_be_told_is_looked_at_too() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = three(&mut live, &replica).await;
    live.run("INSERT INTO t(b) VALUES(randomblob(5000))");
    let done = replicator.checkpoint(Checkpoint::Firm).await;
    done.expect("nobody is in the way");
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let options = VerifyOptions::new(live.path(), scratch.path());
    let (compared, comparing) = sync_channel(10);
    let (synced, syncing) = sync_channel::<()>(0);
    let syncing = Mutex::new(syncing);
    let client = Arc::new(replica.clone());
    let progress = move |step| {
        if matches!(step, VerifyProgress::Comparing { .. }) {
            let _ = compared.send(());
            let syncing = syncing.lock().expect("nobody has panicked");
            // An error once it is synced.
            let _ = syncing.recv_timeout(Duration::from_secs(60));
        }
    };
    let verifying = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(verify(client, &options, progress))
    });

    let begun = comparing.recv_timeout(Duration::from_secs(60));
    begun.expect("the newest file is restored");
    live.sync(&mut replicator).await;
    drop(synced);
    let verdict = verifying.join().expect("it does not panic");

    let Ok(Verdict::Good(compared)) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(compared.txid.get(), 4);
}

#[tokio::test]
async fn a_page_that_is_another_is_named() {
    for node in [None, Some(0)] {
        let (mut live, replica) = (Live::new(4096), MockClient::new());
        let _replicator = three(&mut live, &replica).await;
        let file = stored(&replica, 3);
        let file = match node {
            // As Litestream writes it.
            Some(node) => with_header(&file, |header| header.with_node_id(node)),
            None => file.to_vec(),
        };
        replica.put(raw(3), NOW, file.clone());
        assert_eq!(good(&live, &replica).await, (3, 0));
        let (page, other) = with_other_page(&file);
        replica.put(raw(3), NOW, other);

        let flaw = bad(&live, &replica).await;

        let Flaw::Differs {
            compared,
            differences,
        } = flaw
        else {
            panic!("{flaw:?}");
        };
        assert_eq!(compared.txid.get(), 3);
        let named: Vec<u32> = differences.pages.iter().map(|page| page.get()).collect();
        assert_eq!((differences.count, named), (1, vec![page]));
    }
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let _replicator = three(&mut live, &replica).await;
    let file = stored(&replica, 2);
    replica.put(raw(2), NOW, file[..file.len() - 9].to_vec());

    let flaw = bad(&live, &replica).await;

    let Flaw::Damaged { damaged, .. } = &flaw else {
        panic!("{flaw:?}");
    };
    assert_eq!(damaged[0].file, raw(2));
    assert!(matches!(damaged[0].fault, Fault::Format(_)));
    assert!(flaw.to_string().contains(&raw(2).to_string()), "{flaw}");
}

#[tokio::test]
async fn a_missing_file_is_told() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let _replicator = three(&mut live, &replica).await;
    replica.delete(&[raw(2)]).await.expect("the store works");

    let flaw = bad(&live, &replica).await;

    let gap = |next| PlanError::Gap {
        after: ltx::Txid::FIRST,
        next,
    };
    assert!(
        matches!(&flaw, Flaw::Unrestorable(error) if *error == gap(raw(3))),
        "{flaw:?}"
    );
}

#[tokio::test]
async fn equal_bytes_are_good_though_the_log_is_gone() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    drop(three(&mut live, &replica).await);
    live.disconnect();
    live.connect();
    live.run("PRAGMA wal_checkpoint(TRUNCATE)");

    assert_eq!(good(&live, &replica).await, (3, 0));

    live.disconnect();
    assert!(!live.wal().exists());
    assert_eq!(good(&live, &replica).await, (3, 0));
}

#[tokio::test]
async fn nothing_is_told_of_a_replica_that_was_left_behind() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    drop(three(&mut live, &replica).await);
    live.run("INSERT INTO t(b) VALUES(1); PRAGMA wal_checkpoint(PASSIVE)");
    let txid = ltx::Txid::new(3).expect("it is not zero");

    assert_eq!(unknown(&live, &replica).await, Doubt::Checkpointed { txid });

    live.run("INSERT INTO t(b) VALUES(2)");
    assert_eq!(unknown(&live, &replica).await, Doubt::NewLog { txid });

    live.run("PRAGMA wal_checkpoint(TRUNCATE)");
    assert_eq!(unknown(&live, &replica).await, Doubt::NewLog { txid });
}

#[tokio::test]
async fn nothing_is_told_of_a_replica_of_another_history() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = three(&mut live, &replica).await;
    let copy = live.copy();
    live.run("INSERT INTO t(b) VALUES(1)");
    live.sync(&mut replicator).await;
    drop(replicator);
    let txid = ltx::Txid::new(4).expect("it is not zero");
    live.replace(&copy);

    assert_eq!(unknown(&live, &replica).await, Doubt::ShorterLog { txid });

    live.run("INSERT INTO t(b) VALUES(2)");
    assert_eq!(unknown(&live, &replica).await, Doubt::OtherLog { txid });
}

#[tokio::test]
async fn nothing_is_changed() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    drop(three(&mut live, &replica).await);
    let application = connect(&live.path());
    let keep = rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    application.set_db_config(keep, true).expect("a setting");
    run(
        &application,
        "DROP TABLE _litestream_seq; DROP TABLE _litestream_lock; SELECT count(*) FROM t",
    );
    live.disconnect();
    drop(application);
    let files = || [live.path(), live.wal()].map(|path| std::fs::read(path).expect("it is there"));
    let (before, calls) = (files(), replica.count(Op::Write));

    let (txid, behind) = good(&live, &replica).await;

    assert_eq!(txid, 3);
    assert!(behind > 0);
    assert!(files() == before);
    assert_eq!(replica.count(Op::Write), calls);
    assert_eq!(replica.count(Op::Delete), 0);
}

#[tokio::test]
async fn what_is_there_no_replica_of_and_what_is_not_in_wal_mode_is_told_at_once() {
    let (live, replica) = (Live::new(4096), MockClient::new());

    let empty = verdict(&live, &replica).await;

    let plan = VerifyError::Restore(RestoreError::Plan(PlanError::Empty));
    assert_eq!(empty.expect_err("no files").to_string(), plan.to_string());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("other.db");
    run(&connect(&path), "CREATE TABLE t(a)");
    let options = VerifyOptions::new(&path, folder.path());
    let refused = verify(Arc::new(replica), &options, |_| {}).await;
    assert!(
        matches!(&refused, Err(VerifyError::NotWal { mode, .. }) if mode == "delete"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_drill_that_takes_too_long_lets_go() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let _replicator = three(&mut live, &replica).await;
    replica.on(Op::Open).skip(1).hang();
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let mut options = VerifyOptions::new(live.path(), scratch.path());
    options.hold_max = Duration::from_millis(300);

    let verdict = verify(Arc::new(replica.clone()), &options, |_| {}).await;

    let hold_max = options.hold_max;
    assert!(
        matches!(&verdict, Ok(Verdict::Unknown(doubt)) if *doubt == Doubt::TooLong { hold_max }),
        "{verdict:?}"
    );
}

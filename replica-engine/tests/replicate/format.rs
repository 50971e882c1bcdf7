//! The files are those that Litestream would write, but for a number that it never asks for.

use ltx::{Header, PageSize, Reader, WalSpan};
use replica_engine::SnapshotReason;
use replica_mock::MockClient;

use crate::support::{Live, NOW, stored};

fn header(replica: &MockClient, txid: u64) -> Header {
    Header::parse(&stored(replica, txid)).expect("a stored file has a header")
}

fn pages(replica: &MockClient, txid: u64) -> Vec<u32> {
    let content = stored(replica, txid);
    let mut reader = Reader::new(&content[..]).expect("a stored file has a header");
    let mut page = vec![0; reader.header().page_size().bytes()];
    let mut pages = Vec::new();
    while let Some(pgno) = reader.next_page(&mut page).expect("a stored file is whole") {
        pages.push(pgno.get());
    }
    pages
}

fn span(header: &Header) -> WalSpan {
    header.wal().expect("a file of level 0 is made of a log")
}

#[tokio::test]
async fn the_first_file_is_the_whole_database_and_each_further_one_what_has_changed() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    let mut replicator = live.started(&replica).await;
    live.run("INSERT INTO t VALUES(1, 'one', zeroblob(20000)), (2, 'one', NULL)");

    let first = live.sync(&mut replicator).await;
    live.run("UPDATE t SET a = 'two' WHERE id = 2");
    live.run("UPDATE t SET a = 'three' WHERE id = 2");
    let second = live.sync(&mut replicator).await;

    assert_eq!(first.snapshot, Some(SnapshotReason::First));
    assert_eq!((first.files.len(), second.files.len()), (2, 1));
    assert_eq!((first.txid.get(), second.txid.get()), (2, 3));
    assert_eq!(second.snapshot, None);
    let [one, follower, two] = [1, 2, 3].map(|txid| header(&replica, txid));
    for header in [one, follower, two] {
        assert_eq!(
            header.page_size(),
            PageSize::new(4096).expect("a page size")
        );
        assert_eq!(header.timestamp(), NOW);
        assert!(!header.has_checksums());
        assert_ne!(header.node_id(), 0, "nothing tells its log from others");
    }
    assert_eq!(pages(&replica, 1).len(), one.commit() as usize);
    assert_eq!(span(&one).offset(), 32);
    // Litestream goes on from a file of level 0, and so there is one.
    assert_eq!(pages(&replica, 2).len(), 1);
    assert_eq!(span(&follower).offset(), 32 + span(&one).size());
    // Both transactions changed the same page, which is stored once.
    assert_eq!(pages(&replica, 3).len(), 1);
    let before = span(&follower);
    assert_eq!(span(&two).offset(), before.offset() + before.size());
    assert_eq!(span(&two).size(), 2 * (24 + 4096));
    assert_eq!(span(&two).salts(), span(&one).salts());
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn nothing_is_stored_where_nothing_was_committed() {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut replicator = live.started(&replica).await;
    live.sync(&mut replicator).await;
    live.run("BEGIN; INSERT INTO t VALUES(1, 'never', zeroblob(100000)); ROLLBACK");
    live.run("BEGIN; INSERT INTO t VALUES(2, 'not yet', zeroblob(100000))");
    let requests = replica.calls().len();

    let synced = replicator.sync().await.expect("a sync should succeed");

    assert_eq!((synced.txid.get(), synced.files.len()), (2, 0));
    assert_eq!(replica.calls().len(), requests, "it asked the store");
    live.run("COMMIT");
    assert_eq!(live.sync(&mut replicator).await.txid.get(), 3);
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn both_of_litestreams_tables_are_there() {
    let live = Live::new(4096);

    live.started(&MockClient::new()).await;

    live.run("INSERT INTO _litestream_seq VALUES(2, 2); INSERT INTO _litestream_lock VALUES(1)");
}

#[tokio::test]
async fn a_backlog_goes_into_several_files_each_of_whole_transactions() {
    let (mut live, replica) = (Live::new(512), MockClient::new());
    let mut options = live.options();
    options.file_max = 10_000;
    let client = std::sync::Arc::new(replica.clone());
    let mut replicator = replica_engine::Replicator::open(client, options)
        .await
        .expect("it should start");
    live.sync(&mut replicator).await;
    for id in 0..40 {
        live.run(&format!(
            "INSERT INTO t VALUES({id}, 'x', randomblob(1000))"
        ));
    }
    live.run("INSERT INTO t VALUES(99, 'large', randomblob(50000))");

    let synced = live.sync(&mut replicator).await;

    assert!(synced.files.len() > 5, "{}", synced.files.len());
    let mut end = span(&header(&replica, 1)).size() + 32;
    for txid in 2..=synced.txid.get() {
        let span = span(&header(&replica, txid));
        assert_eq!(span.offset(), end);
        end += span.size();
    }
    live.assert_restorable(replica).await;
}

#[tokio::test]
async fn a_database_larger_than_memory_is_allowed_is_streamed() {
    let (mut live, replica) = (Live::new(4096), MockClient::new());
    for id in 0..40 {
        live.run(&format!(
            "INSERT INTO t VALUES({id}, 'x', randomblob(300000))"
        ));
    }
    // Half of it is in the database file only, and half in the log only.
    live.run("PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET b = randomblob(300000) WHERE id % 2");
    let mut replicator = live.started(&replica).await;

    live.sync(&mut replicator).await;
    live.run("UPDATE t SET b = randomblob(300000) WHERE id % 3");
    live.sync(&mut replicator).await;

    assert!(stored(&replica, 3).len() > 5_000_000);
    live.assert_restorable(replica).await;
}

//! What the mock shows of itself, and how it is weaker where a test asks for that.

use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, TryStreamExt, stream};
use replica_core::{
    Body, ByteRange, Capabilities, ErrorKind, FileId, Level, Op, ReplicaClient, ReplicaClientExt,
    Timestamp, Timestamps, Txid,
};
use replica_mock::{MockClient, MockStore, Outcome, Request, file};

fn raw(txid: u64) -> FileId {
    file(0, txid..=txid)
}

async fn listed(mock: &MockClient) -> Vec<FileId> {
    let all = mock
        .list_all(Level::RAW, Txid::FIRST, Timestamps::Exact)
        .await
        .expect("the listing succeeds");
    all.into_iter().map(|info| info.id).collect()
}

#[tokio::test]
async fn the_log_holds_each_call_with_its_outcome() {
    let mock = MockClient::new();
    let created_at = Timestamp::from_millis(5);

    mock.write(raw(1), created_at, vec![7; 100].into())
        .await
        .unwrap();
    mock.read(raw(1), (10..30).into()).await.unwrap();
    mock.read(raw(2), (..).into()).await.unwrap_err();
    listed(&mock).await;
    mock.delete(&[raw(1), raw(2)]).await.unwrap();
    mock.delete_all().await.unwrap();

    let log: Vec<_> = mock
        .calls()
        .into_iter()
        .map(|call| (call.request, call.outcome, call.bytes, call.items))
        .collect();
    let (file, range) = (raw(1), ByteRange::from(10..30));
    let missing = Request::Open {
        file: raw(2),
        range: ByteRange::ALL,
    };
    let list = Request::List {
        level: Level::RAW,
        from: Txid::FIRST,
        timestamps: Timestamps::Exact,
    };
    let delete = Request::Delete {
        files: vec![raw(1), raw(2)],
    };
    assert_eq!(
        log,
        [
            (Request::Write { file, created_at }, Outcome::Done, 100, 0),
            (Request::Open { file, range }, Outcome::Done, 20, 0),
            (missing, Outcome::Failed(ErrorKind::NotFound), 0, 0),
            (list, Outcome::Done, 0, 1),
            (delete, Outcome::Done, 0, 0),
            (Request::DeleteAll, Outcome::Done, 0, 0),
        ]
    );
    mock.clear_calls();
    assert!(mock.calls().is_empty());
}

#[tokio::test]
async fn a_stream_runs_until_it_is_dropped() {
    let mock = MockClient::new().with_chunk_size(10);
    mock.put(raw(1), Timestamp::EPOCH, vec![7; 100]);

    let mut stream = mock.open(raw(1), (..).into()).await.unwrap();
    stream.try_next().await.unwrap();

    assert_eq!((mock.running(), mock.calls()[0].bytes), (1, 10));
    // What is logged of a stream stays its own, whatever is forgotten in between.
    mock.clear_calls();
    mock.read(raw(1), (..3).into()).await.unwrap();
    drop(stream);
    assert_eq!(mock.running(), 0);
    assert_eq!(
        (mock.calls()[0].outcome, mock.calls()[0].bytes),
        (Outcome::Done, 3)
    );
}

#[tokio::test]
async fn a_snapshot_can_be_gone_back_to() {
    let mock = MockClient::new();
    mock.put(raw(1), Timestamp::from_millis(1), vec![1]);
    mock.put(raw(2), Timestamp::from_millis(2), vec![2]);
    let snapshot = mock.snapshot();

    mock.put(raw(1), Timestamp::from_millis(3), vec![3]);
    mock.remove(raw(2));
    mock.put(raw(3), Timestamp::from_millis(3), vec![3]);
    mock.restore(&snapshot);

    assert_eq!(mock.snapshot(), snapshot);
    assert_eq!(listed(&mock).await, [raw(1), raw(2)]);
    assert_eq!(
        snapshot[&raw(2)],
        (Timestamp::from_millis(2), Bytes::from_static(&[2]))
    );
}

#[tokio::test]
async fn an_open_reader_keeps_the_version_that_it_opened() {
    let mock = MockClient::new().with_chunk_size(10);
    mock.put(raw(1), Timestamp::EPOCH, vec![1; 100]);

    let mut stream = mock.open(raw(1), (..).into()).await.unwrap();
    let mut read = stream.try_next().await.unwrap().unwrap().to_vec();
    mock.put(raw(1), Timestamp::EPOCH, vec![2; 100]);
    while let Some(chunk) = stream.try_next().await.unwrap() {
        read.extend_from_slice(&chunk);
    }

    assert_eq!(read, [1; 100]);
}

#[tokio::test(start_paused = true)]
async fn a_lagging_listing_misses_every_change_for_as_long_as_it_says() {
    let lag = Duration::from_secs(5);
    let mock = MockClient::with_capabilities(Capabilities::FULL.with_list_lag(lag));
    let nearly = lag - Duration::from_millis(1);

    mock.put(raw(1), Timestamp::EPOCH, vec![1]);
    assert!(
        mock.read(raw(1), (..).into()).await.is_ok(),
        "only listings lag"
    );
    tokio::time::advance(nearly).await;
    assert_eq!(listed(&mock).await, []);
    tokio::time::advance(lag - nearly).await;
    assert_eq!(listed(&mock).await, [raw(1)]);

    mock.delete(&[raw(1)]).await.unwrap();
    tokio::time::advance(nearly).await;
    assert_eq!(listed(&mock).await, [raw(1)]);
    tokio::time::advance(lag - nearly).await;
    assert_eq!(listed(&mock).await, []);
}

#[tokio::test]
async fn times_are_kept_as_finely_as_declared() {
    let time_kept = async |resolution, millis| {
        let capabilities = Capabilities::FULL.with_timestamp_resolution(resolution);
        let mock = MockClient::with_capabilities(capabilities);
        let time = Timestamp::from_millis(millis);
        let written = mock.write(raw(1), time, vec![7].into()).await.unwrap();
        let listed = mock
            .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await
            .unwrap();
        assert_eq!(listed, [written]);
        written.created_at.as_millis()
    };
    let second = Some(Duration::from_secs(1));

    assert_eq!(time_kept(Some(Duration::from_millis(1)), 1234).await, 1234);
    assert_eq!(time_kept(second, 1999).await, 1000);
    assert_eq!(time_kept(second, -1).await, -1000);
    assert_eq!(time_kept(second, i64::MIN).await, i64::MIN);
    assert_eq!(time_kept(None, 1234).await, 0);
}

#[tokio::test]
async fn a_store_without_times_refuses_an_exact_listing() {
    let capabilities = Capabilities::FULL.with_timestamp_resolution(None);
    let mock = MockClient::with_capabilities(capabilities);

    let listing = mock.list(Level::RAW, Txid::FIRST, Timestamps::Exact).await;

    assert_eq!(listing.err().unwrap().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_store_without_atomic_replacement_has_a_gap_but_loses_nothing() {
    let mock = MockClient::with_capabilities(Capabilities::FULL.with_atomic_replace(false));
    mock.put(raw(1), Timestamp::EPOCH, vec![1]);
    let mut contents = Vec::new();

    let mut write = mock.write(raw(1), Timestamp::EPOCH, vec![2].into());
    while (&mut write).now_or_never().is_none() {
        contents.push(mock.content(raw(1)));
    }
    contents.push(mock.content(raw(1)));
    contents.dedup();
    let mut dropped = mock.write(raw(1), Timestamp::EPOCH, vec![3].into());
    while mock.content(raw(1)).is_some() {
        assert!((&mut dropped).now_or_never().is_none());
    }
    drop(dropped);

    let (old, new) = (Bytes::from_static(&[1]), Bytes::from_static(&[2]));
    assert_eq!(contents, [Some(old), None, Some(new)]);
    assert_eq!(mock.content(raw(1)).unwrap(), [3][..]);
}

#[tokio::test]
async fn roots_are_paths() {
    let store = MockStore::new();
    for root in ["x", "x/db", "x/db2", "x/db/inner", "y"] {
        store.client(root).put(raw(1), Timestamp::EPOCH, vec![7]);
    }

    store.client("/x//./db/").delete_all().await.unwrap();

    let left =
        ["x", "x/db", "x/db2", "x/db/inner", "y"].map(|root| store.client(root).files().len());
    assert_eq!(left, [1, 0, 1, 0, 1]);
    store.client("").delete_all().await.unwrap();
    assert_eq!(store.client("y").files(), []);
}

#[tokio::test]
async fn a_listing_goes_on_over_pages_while_files_come_and_go() {
    let mock = MockClient::new();
    for txid in 1..=2500 {
        mock.put(raw(txid), Timestamp::EPOCH, vec![7]);
    }

    let mut listing = mock
        .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .unwrap();
    listing.try_next().await.unwrap();
    mock.remove(raw(1));
    mock.remove(raw(1001));
    mock.put(raw(2501), Timestamp::EPOCH, vec![7]);
    let rest: Vec<_> = listing
        .map_ok(|info| info.id.txids.min().get())
        .try_collect()
        .await
        .unwrap();

    let survivors: Vec<_> = (2..=2501).filter(|txid| *txid != 1001).collect();
    assert_eq!(rest, survivors);
}

#[tokio::test]
async fn a_body_of_another_length_than_it_said_is_refused() {
    let mock = MockClient::new();
    for len in [2, 4] {
        let chunks = stream::iter([Ok(Bytes::from_static(&[1, 2, 3]))]);

        let written = mock
            .write(raw(1), Timestamp::EPOCH, Body::once(len, Box::pin(chunks)))
            .await;

        let error = written.unwrap_err();
        assert_eq!(
            (error.kind(), error.op()),
            (ErrorKind::Invalid, Some(Op::Write))
        );
        assert!(mock.files().is_empty());
    }
}

#[tokio::test]
async fn debug_texts_hold_no_content() {
    let store = MockStore::new();
    let mock = store.client("db");
    mock.put(raw(1), Timestamp::EPOCH, vec![77; 10]);

    assert_eq!(format!("{mock:?}"), "MockClient { root: \"db\", .. }");
    assert_eq!(format!("{store:?}"), "MockStore { roots: [\"db\"] }");
}

#[test]
#[should_panic(expected = "no file holds transactions 0..=1 at level 0")]
fn an_impossible_name_is_refused() {
    file(0, 0..=1);
}

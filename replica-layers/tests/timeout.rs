//! What stands still is given up after as long as was said, and what gets on is not.

use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, Error, ErrorKind, FileId, Level, Op, ReplicaClient, ReplicaClientExt, Timestamp,
    Timestamps, Txid,
};
use replica_layers::{Limit, Timeout, TimeoutSettings};
use replica_mock::{MockClient, Outcome, file};
use tokio::time::Instant;

const CALL: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(3);
const BODY: Duration = Duration::from_secs(30);
const DELETE_ALL: Duration = Duration::from_secs(100);

fn raw(txid: u64) -> FileId {
    file(0, txid..=txid)
}

fn content() -> Bytes {
    (0..100).collect::<Vec<u8>>().into()
}

/// A client of one file of a hundred bytes in chunks of ten, and a timeout of it.
fn setup() -> (MockClient, Timeout<MockClient>) {
    let mock = MockClient::new().with_chunk_size(10);
    mock.put(raw(1), Timestamp::EPOCH, content());
    let settings = TimeoutSettings {
        call: CALL,
        stall: STALL,
        body: BODY,
        delete_all: DELETE_ALL,
    };
    (mock.clone(), Timeout::new(mock, settings))
}

/// A body of ten chunks, each of which takes `pause` to come.
fn slow_body(pause: Duration) -> Body {
    let chunks = (0..10).map(|n| content().slice(n * 10..(n + 1) * 10));
    let slow = stream::iter(chunks).then(move |chunk| async move {
        tokio::time::sleep(pause).await;
        Ok(chunk)
    });
    Body::once(100, slow.boxed())
}

/// What `wait` comes to, which a broken limit must not turn into a test that hangs.
async fn ended<T>(wait: impl Future<Output = T>) -> T {
    let ended = tokio::time::timeout(10 * DELETE_ALL, wait).await;
    ended.expect("a limit should end it")
}

#[track_caller]
fn assert_given_up(error: Error, op: Op) {
    assert_eq!(
        (error.kind(), error.op()),
        (ErrorKind::Unavailable, Some(op)),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_does_not_answer_is_given_up() {
    let (mock, timeout) = setup();
    for op in [Op::List, Op::Open, Op::Write, Op::Delete, Op::DeleteAll] {
        mock.on(op).hang();
    }
    let mut start = Instant::now();
    let mut lap = || std::mem::replace(&mut start, Instant::now()).elapsed();

    let list = ended(timeout.list(Level::RAW, Txid::FIRST, Timestamps::Fast)).await;
    assert_given_up(list.err().unwrap(), Op::List);
    assert_eq!(lap(), CALL);
    let open = ended(timeout.open(raw(1), (..).into())).await;
    assert_given_up(open.err().unwrap(), Op::Open);
    assert_eq!(lap(), CALL);
    let write = ended(timeout.write(raw(2), Timestamp::EPOCH, content().into())).await;
    assert_given_up(write.unwrap_err(), Op::Write);
    assert_eq!(lap(), CALL);
    let delete = ended(timeout.delete(&[raw(1)])).await;
    assert_given_up(delete.unwrap_err(), Op::Delete);
    assert_eq!(lap(), CALL);
    let delete_all = ended(timeout.delete_all()).await;
    assert_given_up(delete_all.unwrap_err(), Op::DeleteAll);
    assert_eq!(lap(), DELETE_ALL);

    assert!(
        mock.calls()
            .iter()
            .all(|call| call.outcome == Outcome::Dropped)
    );
    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn an_error_says_how_long_it_waited_and_for_what() {
    let (mock, timeout) = setup();
    mock.on(Op::Open).hang();

    let opened = ended(timeout.open(raw(1), (..).into())).await;

    assert_eq!(
        opened.err().unwrap().to_string(),
        "mock: open 0/0000000000000001-0000000000000001.ltx: no answer within 10s"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_answers_in_time_is_not_cut() {
    let (mock, timeout) = setup();
    for op in [Op::List, Op::Open, Op::Write, Op::Delete, Op::DeleteAll] {
        mock.on(op).delay(CALL - Duration::from_millis(1));
    }

    timeout
        .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .map(drop)
        .unwrap();
    timeout.open(raw(1), (..).into()).await.map(drop).unwrap();
    timeout
        .write(raw(2), Timestamp::EPOCH, content().into())
        .await
        .unwrap();
    timeout.delete(&[]).await.unwrap();
    timeout.delete_all().await.unwrap();

    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_read_that_stands_still_is_given_up() {
    let (mock, timeout) = setup();
    mock.on(Op::Open).at_byte(50).hang();
    let mut stream = timeout.open(raw(1), (..).into()).await.unwrap();
    let mut read = 0;
    let start = Instant::now();

    let error = loop {
        match ended(stream.next()).await.expect("an error ends it") {
            Ok(chunk) => read += chunk.len(),
            Err(error) => break error,
        }
    };

    assert_eq!((read, start.elapsed()), (50, STALL));
    assert_eq!(error.files(), [raw(1)]);
    assert_given_up(error, Op::Open);
    assert!(stream.next().await.is_none());
    assert_eq!(mock.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_stands_still_is_given_up() {
    let (mock, timeout) = setup();
    mock.on(Op::List).at_item(1).hang();
    let mut files = timeout
        .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .unwrap();

    assert!(files.next().await.unwrap().is_ok());
    let start = Instant::now();
    let error = ended(files.next()).await.unwrap().unwrap_err();

    assert_given_up(error, Op::List);
    assert_eq!(start.elapsed(), STALL);
    assert!(files.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn slow_streams_that_get_on_are_not_cut() {
    let (mock, timeout) = setup();
    for txid in 2..=30 {
        mock.put(raw(txid), Timestamp::EPOCH, content());
    }
    let pause = STALL - Duration::from_millis(1);
    for op in [Op::Open, Op::List] {
        mock.on(op).drip(pause);
    }
    let start = Instant::now();

    assert_eq!(timeout.read(raw(1), (..).into()).await.unwrap(), content());
    let files = timeout
        .list_all(Level::RAW, Txid::FIRST, Timestamps::Fast)
        .await
        .unwrap();

    assert_eq!(files.len(), 30);
    assert!(start.elapsed() > 3 * CALL);
    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_reader_may_take_its_time() {
    let (_, timeout) = setup();
    let mut stream = timeout.open(raw(1), (..).into()).await.unwrap();

    let mut read = 0;
    while let Some(chunk) = stream.try_next().await.unwrap() {
        read += chunk.len();
        tokio::time::sleep(10 * STALL).await;
    }

    assert_eq!(read, 100);
}

#[tokio::test(start_paused = true)]
async fn a_slow_write_that_gets_on_is_not_cut() {
    let (mock, timeout) = setup();
    let start = Instant::now();

    let body = slow_body(BODY - Duration::from_millis(1));
    timeout.write(raw(2), Timestamp::EPOCH, body).await.unwrap();

    assert!(start.elapsed() > 2 * CALL);
    assert_eq!(mock.content(raw(2)).unwrap(), content());
}

#[tokio::test(start_paused = true)]
async fn a_large_body_in_memory_gets_on_piece_by_piece() {
    let (mock, timeout) = setup();
    mock.on(Op::Write).drip(STALL - Duration::from_millis(1));
    let large = Bytes::from(vec![7; 1 << 20]);
    let start = Instant::now();

    timeout
        .write(raw(2), Timestamp::EPOCH, large.clone().into())
        .await
        .unwrap();

    assert!(start.elapsed() > 4 * CALL);
    assert_eq!(mock.content(raw(2)).unwrap(), large);
    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_body_stands_still_is_given_up() {
    let (mock, timeout) = setup();
    let half = stream::iter([Ok(content().slice(..50))]).chain(stream::pending());
    let start = Instant::now();

    let body = Body::once(100, half.boxed());
    let written = ended(timeout.write(raw(2), Timestamp::EPOCH, body)).await;

    let error = written.unwrap_err();
    assert_eq!(error.message(), "nothing came of the body for 30s");
    assert_given_up(error, Op::Write);
    assert_eq!(start.elapsed(), BODY);
    assert_eq!(mock.files(), [raw(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_store_stands_still_is_given_up() {
    let pause = STALL / 3;
    // Before the first chunk, behind the fifth, and behind the last but before the end.
    for (at, waited) in [
        (0, CALL),
        (50, 5 * pause + STALL),
        (100, 10 * pause + STALL),
    ] {
        let (mock, timeout) = setup();
        mock.on(Op::Write).at_byte(at).hang();
        let start = Instant::now();

        let body = slow_body(pause);
        let written = ended(timeout.write(raw(2), Timestamp::EPOCH, body)).await;

        assert_given_up(written.unwrap_err(), Op::Write);
        assert_eq!(start.elapsed(), waited);
        mock.assert_faults_used();
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_does_not_end_is_given_up() {
    let (mock, timeout) = setup();
    mock.on(Op::Write).after_applying().hang();
    let start = Instant::now();

    let body = slow_body(Duration::from_secs(1));
    let written = ended(timeout.write(raw(2), Timestamp::EPOCH, body)).await;

    assert_given_up(written.unwrap_err(), Op::Write);
    assert_eq!(start.elapsed(), 10 * Duration::from_secs(1) + CALL);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_left_to_the_client_is_not_cut() {
    // A client of a bucket took four parts at the speed of a disk and sent them for minutes over a
    // slow line: that was given up as a store that stands still, again and again.
    for at in [0, 50, 100] {
        let (mock, timeout) = setup();
        let timeout = timeout.leaving_writes_to_the_client();
        mock.on(Op::Write).at_byte(at).hang();

        let write = timeout.write(raw(2), Timestamp::EPOCH, slow_body(STALL / 3));
        let written = tokio::time::timeout(100 * CALL, write).await;

        assert!(written.is_err(), "{written:?}");
        mock.assert_faults_used();
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_is_given_up_though_the_write_is_left_to_the_client() {
    let (_, timeout) = setup();
    let timeout = timeout.leaving_writes_to_the_client();
    let body = Body::once(100, stream::pending().boxed());
    let start = Instant::now();

    let written = ended(timeout.write(raw(2), Timestamp::EPOCH, body)).await;

    assert_given_up(written.unwrap_err(), Op::Write);
    assert_eq!(start.elapsed(), BODY);
}

#[tokio::test(start_paused = true)]
async fn empty_chunks_are_no_progress() {
    let (_, timeout) = setup();
    let nothing = stream::repeat_with(|| Ok(Bytes::new())).then(|chunk| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        chunk
    });
    let start = Instant::now();

    let body = Body::once(None, nothing.boxed());
    let written = ended(timeout.write(raw(2), Timestamp::EPOCH, body)).await;

    assert_given_up(written.unwrap_err(), Op::Write);
    assert_eq!(start.elapsed(), BODY);
}

#[test]
fn endless_empty_chunks_are_given_up() {
    // A body that gave empty chunks without a pause was asked for the next one in a loop that
    // nothing ended, and no limit was looked at again.
    let settings = TimeoutSettings {
        body: Duration::from_millis(20),
        ..TimeoutSettings::default()
    };
    let timeout = Timeout::new(MockClient::new(), settings);
    let nothing = stream::repeat_with(|| Ok(Bytes::new()));
    let body = Body::once(None, nothing.boxed());

    // In such a loop the thread itself would be lost, and any limit of this test's with it.
    let (done, ended) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let written = block_on(timeout.write(raw(2), Timestamp::EPOCH, body));
        let _ = done.send(written);
    });
    let written = ended.recv_timeout(Duration::from_secs(10));

    let written = written.expect("a limit should end it");
    assert_given_up(written.unwrap_err(), Op::Write);
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    runtime.expect("a runtime without I/O").block_on(future)
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_its_turn_is_not_cut() {
    // A write gave its turn up while it waited for its body, and another call took it for longer
    // than the store may take to answer: the wait for the turn was counted as the store's.
    let (mock, timeout) = setup();
    mock.on(Op::Delete).delay(CALL - Duration::from_millis(1));
    let client = Limit::new(timeout, NonZeroUsize::MIN);
    let start = Instant::now();

    let delete = async {
        tokio::time::sleep(STALL / 6).await;
        client.delete(&[raw(9)]).await
    };
    let body = slow_body(STALL / 3);
    let write = client.write(raw(2), Timestamp::EPOCH, body);
    let (written, deleted) = futures::future::join(write, delete).await;

    written.unwrap();
    deleted.unwrap();
    assert!(start.elapsed() > CALL + STALL);
    assert_eq!(mock.content(raw(2)).unwrap(), content());
    mock.assert_faults_used();
}

#[tokio::test(start_paused = true)]
async fn a_delete_has_its_time_for_each_thousand_files() {
    let (mock, timeout) = setup();
    mock.on(Op::Delete).hang();
    let files: Vec<_> = (1..=2001).map(raw).collect();
    let start = Instant::now();

    let error = ended(timeout.delete(&files)).await.unwrap_err();

    assert_eq!(start.elapsed(), 3 * CALL);
    assert_eq!(error.files().len(), 2001);
}

#[tokio::test(start_paused = true)]
async fn endless_limits_are_taken() {
    let (mock, _) = setup();
    let settings = TimeoutSettings {
        call: Duration::MAX,
        stall: Duration::MAX,
        body: Duration::MAX,
        delete_all: Duration::MAX,
    };
    let timeout = Timeout::new(mock, settings);

    timeout
        .write(raw(2), Timestamp::EPOCH, slow_body(CALL))
        .await
        .unwrap();
    timeout.delete(&[raw(2)]).await.unwrap();

    assert_eq!(timeout.read(raw(1), (..).into()).await.unwrap(), content());
}

#[tokio::test(start_paused = true)]
async fn the_client_works_after_a_call_was_given_up() {
    let (mock, timeout) = setup();
    mock.on(Op::Open).hang();

    assert!(ended(timeout.read(raw(1), (..).into())).await.is_err());

    assert_eq!(timeout.read(raw(1), (..).into()).await.unwrap(), content());
}

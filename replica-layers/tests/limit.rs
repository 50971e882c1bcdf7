//! No more calls at once than were allowed, all of them in the end, and nobody waits for itself.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ErrorKind, FileId, Level, Op, ReplicaClient, ReplicaClientExt, Timestamp, Timestamps,
    Txid,
};
use replica_layers::Limit;
use replica_mock::{MockClient, file};
use tokio::time::{Instant, timeout};

const PAUSE: Duration = Duration::from_secs(1);

fn raw(txid: u64) -> FileId {
    file(0, txid..=txid)
}

fn content() -> Bytes {
    (0..100).collect::<Vec<u8>>().into()
}

fn setup(calls: usize) -> (MockClient, Limit<MockClient>) {
    let mock = MockClient::new().with_chunk_size(10);
    mock.put(raw(1), Timestamp::EPOCH, content());
    let calls = NonZeroUsize::new(calls).expect("the tests allow some calls");
    (mock.clone(), Limit::new(mock, calls))
}

#[tokio::test(start_paused = true)]
async fn only_so_many_calls_run_at_once() {
    let (mock, limit) = setup(3);
    for op in [Op::List, Op::Open, Op::Write, Op::Delete, Op::DeleteAll] {
        mock.on(op).every(1).delay(PAUSE);
    }
    let limit = &limit;
    let start = Instant::now();

    let calls: Vec<_> = (0..15)
        .map(|n| async move {
            match n % 5 {
                0 => limit
                    .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
                    .await
                    .map(drop),
                1 => limit.open(raw(1), (..).into()).await.map(drop),
                2 => limit
                    .write(raw(1), Timestamp::EPOCH, content().into())
                    .await
                    .map(drop),
                3 => limit.delete(&[raw(9)]).await,
                _ => limit.delete(&[]).await,
            }
        })
        .collect();
    let running = async {
        let mut most = 0;
        for _ in 0..45 {
            most = most.max(mock.running());
            tokio::time::sleep(PAUSE / 10).await;
        }
        most
    };
    let both = futures::future::join(join_all(calls), running);
    let (results, most) = timeout(100 * PAUSE, both).await.unwrap();

    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(most, 3);
    assert!(start.elapsed() < 6 * PAUSE);
    timeout(2 * PAUSE, limit.delete_all())
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn held_streams_hold_nobody_up() {
    let (_, limit) = setup(1);
    let mut held = Vec::new();
    let hold_and_delete = async {
        for _ in 0..10 {
            let mut stream = limit.open(raw(1), (..).into()).await?;
            stream.try_next().await?;
            let mut files = limit
                .list(Level::RAW, Txid::FIRST, Timestamps::Fast)
                .await?;
            files.try_next().await?;
            held.push((stream, files));
        }
        limit.delete(&[raw(1)]).await
    };

    let deleted = timeout(PAUSE, hold_and_delete).await;

    deleted.expect("nobody waits for ever").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_may_be_fed_by_calls_of_the_same_client() {
    let (mock, limit) = setup(1);
    let limit = Arc::new(limit);
    let source = Arc::clone(&limit);
    let copy = Body::reopenable(100, move || {
        let source = Arc::clone(&source);
        async move { source.open(raw(1), (..).into()).await }
    });

    timeout(PAUSE, limit.write(raw(2), Timestamp::EPOCH, copy))
        .await
        .unwrap()
        .unwrap();

    assert_eq!(mock.content(raw(2)).unwrap(), content());
}

#[tokio::test(start_paused = true)]
async fn a_write_that_waits_for_its_body_holds_nobody_up_and_goes_on() {
    let (mock, limit) = setup(1);
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let body = Body::once(100, receiver.map(Ok).boxed());
    let mut write = limit.write(raw(2), Timestamp::EPOCH, body);

    for n in 0..10 {
        // It gets as far as its body.
        for _ in 0..5 {
            assert!((&mut write).now_or_never().is_none());
        }
        timeout(PAUSE, limit.read(raw(1), (..).into()))
            .await
            .unwrap()
            .unwrap();
        sender
            .unbounded_send(content().slice(n * 10..(n + 1) * 10))
            .unwrap();
    }
    drop(sender);
    timeout(PAUSE, write).await.unwrap().unwrap();

    assert_eq!(mock.content(raw(2)).unwrap(), content());
}

#[tokio::test(start_paused = true)]
async fn a_write_counts_while_the_store_works() {
    let (mock, limit) = setup(1);
    mock.on(Op::Write).after_applying().delay(PAUSE);
    let chunks = stream::iter([Ok(content())]).then(|chunk| async {
        tokio::task::yield_now().await;
        chunk
    });
    let start = Instant::now();

    let write = limit.write(raw(2), Timestamp::EPOCH, Body::once(100, chunks.boxed()));
    let delete = async {
        tokio::time::sleep(PAUSE / 2).await;
        limit.delete(&[raw(9)]).await.unwrap();
        start.elapsed()
    };
    let both = futures::future::join(write, delete);
    let (written, deleted_at) = timeout(10 * PAUSE, both).await.unwrap();

    written.unwrap();
    assert_eq!(deleted_at, PAUSE);
}

#[tokio::test(start_paused = true)]
async fn dropped_and_failed_calls_give_their_turn_back() {
    let (mock, limit) = setup(1);
    mock.on(Op::Open).hang();
    mock.fail_next(Op::Delete, ErrorKind::Unavailable);
    mock.on(Op::Write).at_byte(50).hang();

    assert!(
        timeout(PAUSE, limit.open(raw(1), (..).into()))
            .await
            .is_err()
    );
    let deleted = timeout(PAUSE, limit.delete(&[raw(1)])).await;
    assert!(deleted.expect("it has its turn").is_err());
    let body = Body::once(None, stream::iter([Ok(content())]).boxed());
    assert!(
        timeout(PAUSE, limit.write(raw(2), Timestamp::EPOCH, body))
            .await
            .is_err()
    );
    // One that waits for its turn gives up its place in the queue.
    let files = [raw(9)];
    let mut held = limit.delete(&files);
    assert!((&mut held).now_or_never().is_none());
    assert!(timeout(PAUSE, limit.delete_all()).await.is_err());
    drop(held);

    timeout(PAUSE, limit.read(raw(1), (..).into()))
        .await
        .unwrap()
        .unwrap();
    mock.assert_faults_used();
}

#[tokio::test]
async fn any_number_of_calls_is_taken() {
    let (_, limit) = setup(usize::MAX);

    assert_eq!(limit.read(raw(1), (..).into()).await.unwrap(), content());
}

//! No more bytes than were allowed, in any stretch of time, and hardly fewer.

use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use proptest::prelude::*;
use replica_core::{Body, FileId, ReplicaClient, ReplicaClientExt, Result, Timestamp};
use replica_layers::Throttle;
use replica_mock::{MockClient, file};
use tokio::time::Instant;

const RATE: u64 = 1000;

fn raw(txid: u64) -> FileId {
    file(0, txid..=txid)
}

fn throttle(mock: &MockClient, bytes_per_second: u64) -> Throttle<MockClient> {
    let rate = NonZeroU64::new(bytes_per_second).expect("the tests move bytes");
    Throttle::new(mock.clone(), rate)
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|n| n as u8).collect()
}

fn assert_about(elapsed: Duration, seconds: f64) {
    let elapsed = elapsed.as_secs_f64();
    // What was saved up, and the milliseconds of Tokio's clock.
    let (least, most) = (seconds - 0.15, seconds * 1.01 + 0.01);
    assert!(
        least <= elapsed && elapsed <= most,
        "{elapsed} s, not {seconds} s"
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_at_the_rate_in_both_directions() {
    for (rate, size) in [(RATE, 10_000), (7, 700), (10_000_000, 50_000_000)] {
        let mock = MockClient::new();
        let throttle = throttle(&mock, rate);
        let seconds = size as f64 / rate as f64;

        let start = Instant::now();
        throttle
            .write(raw(1), Timestamp::EPOCH, content(size).into())
            .await
            .unwrap();
        assert_about(start.elapsed(), seconds);
        let start = Instant::now();
        let read = throttle.read(raw(1), (..).into()).await.unwrap();
        assert_about(start.elapsed(), seconds);

        assert_eq!(read, content(size));
        assert_eq!(mock.content(raw(1)).unwrap(), read);
    }
}

#[tokio::test(start_paused = true)]
async fn the_directions_do_not_share() {
    let mock = MockClient::new();
    mock.put(raw(1), Timestamp::EPOCH, content(5000));
    let throttle = throttle(&mock, RATE);
    let start = Instant::now();

    let write = throttle.write(raw(2), Timestamp::EPOCH, content(5000).into());
    let (written, read) = futures::future::join(write, throttle.read(raw(1), (..).into())).await;

    written.unwrap();
    read.unwrap();
    assert_about(start.elapsed(), 5.0);
}

#[tokio::test(start_paused = true)]
async fn all_calls_share_one_rate() {
    let mock = MockClient::new();
    mock.put(raw(1), Timestamp::EPOCH, content(1000));
    let throttle = throttle(&mock, RATE);
    let start = Instant::now();

    let reads = join_all((0..5).map(|_| throttle.read(raw(1), (..).into()))).await;

    assert!(reads.iter().all(Result::is_ok));
    assert_about(start.elapsed(), 5.0);
}

#[tokio::test(start_paused = true)]
async fn a_large_chunk_passes_in_pieces() {
    let mock = MockClient::new().with_chunk_size(1 << 20);
    mock.put(raw(1), Timestamp::EPOCH, content(1 << 20));
    for (rate, largest) in [(RATE, 100), (1 << 30, 64 * 1024)] {
        let stream = throttle(&mock, rate)
            .open(raw(1), (..).into())
            .await
            .unwrap();

        let sizes: Vec<_> = stream
            .take(5)
            .map_ok(|piece| piece.len())
            .try_collect()
            .await
            .unwrap();

        assert_eq!(sizes, [largest; 5]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_line_saves_up_a_tenth_of_a_second() {
    let mock = MockClient::new();
    mock.put(raw(1), Timestamp::EPOCH, content(1000));
    let throttle = throttle(&mock, RATE);
    throttle.read(raw(1), (..).into()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let start = Instant::now();

    throttle.read(raw(1), (..).into()).await.unwrap();

    assert_about(start.elapsed(), 0.9);
}

#[tokio::test(start_paused = true)]
async fn errors_and_empty_chunks_pass_at_once() {
    let mock = MockClient::new();
    let throttle = throttle(&mock, 1);
    let chunks = vec![
        Ok(Bytes::new()),
        Err(replica_core::Error::new(
            replica_core::ErrorKind::Other,
            "the source broke",
        )),
    ];
    let start = Instant::now();

    let body = Body::once(None, stream::iter(chunks).boxed());
    let error = throttle
        .write(raw(1), Timestamp::EPOCH, body)
        .await
        .unwrap_err();

    assert_eq!(error.message(), "the source broke");
    assert!(start.elapsed().is_zero());
}

/// On the real clock: a paused one moves at no cost.
#[tokio::test]
async fn what_owes_nothing_waits_for_no_timer() {
    // Each piece waited for a timer, even one that was due already, which costs a millisecond or
    // two: in pieces of 64 KiB no stream moved more than 50 MiB a second, whatever the rate.
    const CHUNKS: u64 = 20_000;
    let mock = MockClient::new();
    let throttle = throttle(&mock, 1 << 40);
    let chunks = stream::iter((0..CHUNKS).map(|_| Ok(Bytes::from_static(b"0123456789"))));
    let body = Body::once(10 * CHUNKS, chunks.boxed());
    let start = std::time::Instant::now();

    throttle
        .write(raw(1), Timestamp::EPOCH, body)
        .await
        .unwrap();

    // With the timers it takes more than twenty.
    let elapsed = start.elapsed();
    assert!(elapsed < Duration::from_secs(10), "{elapsed:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn no_stretch_of_time_sees_more_than_the_rate_and_a_burst(
        rate in 1u64..5000,
        sizes in proptest::collection::vec(1usize..400, 1..20),
        idle_millis in proptest::collection::vec(0u64..500, 20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let passed = runtime.block_on(async {
            let mock = MockClient::new();
            let throttle = throttle(&mock, rate);
            let start = Instant::now();
            let mut passed = vec![(Duration::ZERO, 0)];
            let mut total = 0;
            for (size, idle) in sizes.iter().zip(&idle_millis) {
                mock.put(raw(1), Timestamp::EPOCH, content(*size));
                let mut stream = throttle.open(raw(1), (..).into()).await.unwrap();
                while let Some(piece) = stream.try_next().await.unwrap() {
                    total += piece.len();
                    passed.push((start.elapsed(), total));
                }
                tokio::time::sleep(Duration::from_millis(*idle)).await;
            }
            passed
        });
        let burst = (rate as f64 / 10.0).max(1.0);
        for (index, (from, before)) in passed.iter().enumerate() {
            for (until, after) in &passed[index..] {
                let allowed = burst + rate as f64 * (*until - *from).as_secs_f64();
                prop_assert!((after - before) as f64 <= allowed + 0.01, "{passed:?}");
            }
        }
    }
}

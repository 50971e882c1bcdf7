//! The times of files.

use std::time::Duration;

use replica_core::{ErrorKind, FileId, Level, ReplicaClientExt, Timestamp, Timestamps, Txid};
use tokio::time::Instant;

use super::{content, file, raw, small, txid, write_many};
use crate::store::{Client, Store, chain, some_time};

/// Checks that an exact listing of `level` gives `wanted`, to the declared resolution, or is an
/// error where the store keeps no times.
async fn check(client: &Client, level: Level, wanted: &[(FileId, Timestamp)]) {
    if client.capabilities().timestamp_resolution.is_none() {
        client.wait_out_lag().await;
        let listed = client.list_all(level, Txid::FIRST, Timestamps::Exact).await;
        assert!(listed.is_err(), "a store without times lists exact ones");
        return;
    }
    let wanted: Vec<_> = wanted
        .iter()
        .filter_map(|(file, time)| Some((*file, client.rounded(*time)?)))
        .collect();
    let listed = client.must_list_exact(level).await;
    let listed: Vec<_> = listed
        .iter()
        .map(|file| (file.id, file.created_at))
        .collect();
    if let Some((found, wanted)) = listed.iter().zip(&wanted).find(|(a, b)| a != b) {
        panic!(
            "{} is listed at {}, and was written at {}",
            found.0, found.1, wanted.1
        );
    }
    assert_eq!(listed.len(), wanted.len(), "files are missing");
}

pub(crate) async fn write_returns_what_a_listing_says(store: Store) {
    let client = store.client().await;
    for (number, millis) in (1..).zip([0, 1_000, 1_700_000_000_000, 1_700_000_000_999]) {
        let time = Timestamp::from_millis(millis);

        let written = client
            .must_write_at(raw(number), time, &content(100, number))
            .await;

        if let Some(rounded) = client.rounded(time) {
            assert_eq!(written.created_at, rounded, "the time that write returned");
            let listed = client.must_list_exact(Level::RAW).await;
            assert_eq!(listed.last(), Some(&written), "what the listing says");
        } else {
            check(&client, Level::RAW, &[]).await;
        }
    }
}

pub(crate) async fn exact_times_are_those_that_were_written(store: Store) {
    let client = store.client().await;
    let time = |millis| Timestamp::from_millis(1_500_000_000_000 + millis);
    let mut wanted = Vec::new();
    for number in 1..=20 {
        // Later files are older, so that no clock gives these.
        let time = time(-7_919 * i64::try_from(number).expect("it is at most 20"));
        client
            .must_write_at(raw(number), time, &content(10, number))
            .await;
        wanted.push((raw(number), time));
    }
    check(&client, Level::RAW, &wanted).await;

    for (number, (file, written_at)) in (100..).zip(&mut wanted) {
        *written_at = time(86_400_123 + 1_001 * i64::try_from(number).expect("it is small"));
        client
            .must_write_at(*file, *written_at, &content(20, number))
            .await;
    }

    check(&client, Level::RAW, &wanted).await;
    check(&store.client().await, Level::RAW, &wanted).await;
    // From the middle, and of another level.
    if client.capabilities().timestamp_resolution.is_some() {
        let listed = client
            .listing(Level::RAW, txid(15), Timestamps::Exact)
            .await;
        let listed: Vec<_> = listed
            .iter()
            .map(|file| (file.id, Some(file.created_at)))
            .collect();
        let rounded = |(file, time): &(FileId, Timestamp)| (*file, client.rounded(*time));
        assert_eq!(listed, wanted[14..].iter().map(rounded).collect::<Vec<_>>());
    }
    let snapshot = file(Level::SNAPSHOT, 1, 20);
    client
        .must_write_at(snapshot, time(5), &content(30, 1))
        .await;
    check(&client, Level::SNAPSHOT, &[(snapshot, time(5))]).await;
}

pub(crate) async fn odd_times_are_kept_or_refused(store: Store) {
    const YEAR: i64 = 31_556_952_000;
    let client = store.client().await;
    let mut kept = Vec::new();
    for (number, millis) in (1..).zip([
        0,
        1,
        999,
        -1,
        -1_000,
        -1_001,
        -YEAR,
        // Where 32 bits of seconds end, signed and unsigned.
        (1 << 31) * 1_000 - 1,
        (1 << 31) * 1_000,
        (1 << 32) * 1_000 - 1,
        (1 << 32) * 1_000,
        (1 << 32) * 1_000 + 123,
        250 * YEAR,
        8_000 * YEAR,
        i64::MAX,
        i64::MIN,
    ]) {
        let time = Timestamp::from_millis(millis);
        let body = small(raw(number));
        match client.write(raw(number), time, body.clone().into()).await {
            Ok(_) => kept.push((raw(number), time)),
            Err(error) if error.kind() == ErrorKind::Invalid => {
                assert!(
                    !client.has(raw(number)).await,
                    "the file of a refused time is there"
                );
            }
            Err(error) => panic!("the time {millis} ms failed: {}", chain(&error)),
        }
    }

    check(&client, Level::RAW, &kept).await;
    let usual = |time: &&(FileId, Timestamp)| (0..=8_000 * YEAR).contains(&time.1.as_millis());
    assert!(
        kept.iter().filter(usual).count() >= 3,
        "the times of the first second and of the year 2038 are not odd"
    );
}

pub(crate) async fn fast_times_list_the_same_files(store: Store) {
    let client = store.client().await;
    let files: Vec<_> = (1..=50).map(raw).collect();
    write_many(&client, &files).await;

    let fast = client.must_list(Level::RAW).await;

    let named: Vec<_> = fast.iter().map(|file| (file.id, file.size)).collect();
    let wanted: Vec<_> = files
        .iter()
        .map(|file| (*file, small(*file).len() as u64))
        .collect();
    assert_eq!(named, wanted, "the fast listing");
    if client.capabilities().timestamp_resolution.is_some() {
        let exact = client.must_list_exact(Level::RAW).await;
        let named: Vec<_> = exact.iter().map(|file| (file.id, file.size)).collect();
        assert_eq!(named, wanted, "the exact listing");
    }
}

pub(crate) async fn many_exact_times_come_in_time(store: Store) {
    const BUDGET: Duration = Duration::from_secs(60);
    let client = store.client().await;
    let files: Vec<_> = (1..=1000).map(raw).collect();
    write_many(&client, &files).await;
    client.wait_out_lag().await;

    let started = Instant::now();
    let wanted: Vec<_> = files.iter().map(|file| (*file, some_time(*file))).collect();
    check(&client, Level::RAW, &wanted).await;

    let took = started.elapsed();
    store.note(format!("1000 exact times took {took:?}"));
    assert!(took < BUDGET, "1000 exact times took {took:?}");
}

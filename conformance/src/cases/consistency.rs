//! What one client did, another one sees.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, FusedFuture};
use replica_core::{Body, ErrorKind, FileId, Level, Timestamps, Txid};
use tokio::time::Instant;

use super::{NOON, assert_bytes, assert_error, chunked, content, ok, raw, small};
use crate::attempt::spawn;
use crate::store::{Client, Store};

/// Counts the rounds of a case: two hundred, or on a slow store as many as its time allows, and
/// never fewer than twenty.
struct Rounds {
    started: Instant,
    budget: Duration,
    done: u64,
}

impl Rounds {
    fn of(store: &Store) -> Rounds {
        Rounds {
            started: Instant::now(),
            budget: Duration::from_secs(if store.slow() { 200 } else { 10 }),
            done: 0,
        }
    }
}

impl Iterator for Rounds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let enough = self.done >= 200 || (self.done >= 20 && self.started.elapsed() > self.budget);
        self.done += 1;
        (!enough).then_some(self.done)
    }
}

pub(crate) async fn a_written_file_is_read_at_once(store: Store) {
    let (writer, reader) = (store.client().await, store.client().await);
    for round in Rounds::of(&store) {
        let content = content(100 + round as usize, round);

        writer.must_write(raw(round), &content).await;

        assert_bytes(
            &reader.must_read(raw(round), ..).await,
            &content,
            "just written",
        );
    }
}

/// Lists until `file` is there, or not there, as `wanted` says; returns how long after `since`
/// the listing began that showed it, which the declared lag bounds.
async fn converge(client: &Client, file: FileId, wanted: bool, since: Instant) -> Duration {
    let lag = client.capabilities().list_lag;
    loop {
        let after = since.elapsed();
        let listed = client
            .listing(file.level, Txid::FIRST, Timestamps::Fast)
            .await;
        if listed.iter().any(|info| info.id == file) == wanted {
            return after;
        }
        let seen = if wanted { "not listed" } else { "still listed" };
        assert!(
            after < lag,
            "{file} is {seen} after {after:?}, and the lag is at most {lag:?}"
        );
        client.wait((lag / 50).max(Duration::from_millis(1))).await;
    }
}

fn tell_lags(store: &Store, mut lags: Vec<Duration>) {
    lags.sort_unstable();
    let at = |percent: usize| lags.get((lags.len() * percent / 100).min(lags.len() - 1));
    if let (Some(median), Some(high)) = (at(50), at(99))
        && !high.is_zero()
    {
        store.note(format!(
            "listings lag by {median:.1?} (p50) and {high:.1?} (p99)"
        ));
    }
}

pub(crate) async fn a_written_file_is_listed_in_time(store: Store) {
    let (writer, reader) = (store.client().await, store.client().await);
    let mut lags = Vec::new();
    for round in Rounds::of(&store) {
        writer.must_write(raw(round), &small(raw(round))).await;

        let since = Instant::now();
        lags.push(converge(&reader, raw(round), true, since).await);
    }
    tell_lags(&store, lags);
}

pub(crate) async fn a_deleted_file_is_gone_at_once(store: Store) {
    let (writer, reader) = (store.client().await, store.client().await);
    let mut lags = Vec::new();
    for round in Rounds::of(&store) {
        writer.must_write(raw(round), &small(raw(round))).await;
        assert!(reader.has(raw(round)).await, "just written");
        converge(&reader, raw(round), true, Instant::now()).await;

        writer.must_delete(&[raw(round)]).await;

        let since = Instant::now();
        assert!(
            !reader.has(raw(round)).await,
            "a deleted file can be opened"
        );
        lags.push(converge(&reader, raw(round), false, since).await);
    }
    tell_lags(&store, lags);
}

pub(crate) async fn an_overwritten_file_is_never_read_old(store: Store) {
    let (writer, reader) = (store.client().await, store.client().await);
    for round in Rounds::of(&store) {
        let content = content(100 + (round % 7) as usize, round);

        writer.must_write(raw(1), &content).await;

        assert_bytes(
            &reader.must_read(raw(1), ..).await,
            &content,
            "just overwritten",
        );
        let tail = reader.must_read(raw(1), 50..).await;
        assert_bytes(
            &tail,
            &content[50..],
            "the tail of what was just overwritten",
        );
    }
}

pub(crate) async fn a_miss_is_not_remembered(store: Store) {
    let (writer, reader) = (store.client().await, store.client().await);
    for round in Rounds::of(&store) {
        let missing = reader.open(raw(round), (..).into()).await;
        assert_error(
            missing,
            ErrorKind::NotFound,
            "opening what is not there yet",
        );
        reader
            .listing(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await;

        writer.must_write(raw(round), &small(raw(round))).await;

        let found = reader.must_read(raw(round), ..).await;
        assert_bytes(&found, &small(raw(round)), "what was missing before");
    }
}

pub(crate) async fn what_is_visible_is_whole(store: Store) {
    const FILES: u64 = 20;
    const SIZE: usize = 50_000;
    fn body(number: u64) -> Bytes {
        content(SIZE, number)
    }
    let (writer, reader) = (store.client().await, store.client().await);
    let writing = spawn(async move {
        for number in 1..=FILES {
            let body = Body::once(SIZE as u64, chunked(&body(number), &[5_000]));
            ok(writer.write(raw(number), NOON, body).await, "a write");
        }
    });
    let mut writing = std::pin::pin!(writing.fuse());

    let mut next = 1;
    while next <= FILES {
        // What the writer panics with is the failure of the case, and not that nothing comes.
        let over = writing.is_terminated() || future::poll_immediate(&mut writing).await.is_some();
        let listed = reader
            .listing(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await;
        for info in &listed {
            assert_eq!(
                info.size, SIZE as u64,
                "{} is listed before it is whole",
                info.id
            );
        }
        match reader.content_of(raw(next)).await {
            Some(found) => {
                assert_bytes(&found, &body(next), "a file that can be opened");
                next += 1;
            }
            None if over => panic!("{} was written, and can't be opened", raw(next)),
            None => tokio::task::yield_now().await,
        }
        if let Some(info) = listed.last() {
            let found = reader.must_read(info.id, ..).await;
            assert_bytes(
                &found,
                &body(info.id.txids.min().get()),
                "a file that is listed",
            );
        }
    }
    if !writing.is_terminated() {
        writing.await;
    }
}

pub(crate) async fn a_deleted_file_stays_gone(store: Store) {
    let (writer, reader) = (store.client().await, store.client().await);
    let files: Vec<_> = (1..=10).map(raw).collect();
    super::write_many(&writer, &files).await;
    writer.must_delete(&files).await;

    let waits: &[u64] = if store.slow() { &[0, 5_000] } else { &[0, 500] };
    for wait in waits {
        reader.wait(Duration::from_millis(*wait)).await;
        for file in &files {
            assert!(!reader.has(*file).await, "{file} came back after {wait} ms");
        }
        assert_eq!(
            reader.names(Level::RAW).await,
            [],
            "listed again after {wait} ms"
        );
    }
}

//! Calls that are dropped before they end.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{FutureExt, TryStreamExt, future};
use replica_core::{Body, ByteRange, FileId, Level, Timestamps, Txid};
use tokio::time::timeout;

use super::{
    Gate, NOON, SETTLING, assert_bytes, chunked, content, file, level, ok, raw, small, steps,
    write_many,
};
use crate::attempt::spawn;
use crate::store::{Client, Store};

const SIZE: usize = 40_000;

/// After how many polls a call is dropped: each number up to where calls usually end, and then
/// some.
fn drop_points() -> impl Iterator<Item = usize> {
    (1..20).chain((20..60).step_by(5))
}

fn body(tag: u64) -> Body {
    Body::once(SIZE as u64, chunked(&content(SIZE, tag), &[10_000]))
}

/// Every file of the level, opened: what is listed can be read, and the other way round.
async fn check_agreement(client: &Client, files: &[FileId]) {
    let listed = client.must_list(files[0].level).await;
    for file in files {
        let listed = listed.iter().find(|info| info.id == *file);
        match (client.content_of(*file).await, listed) {
            (None, None) => {}
            (Some(found), Some(listed)) => {
                assert_eq!(found.len() as u64, listed.size, "the size of {file}");
            }
            (Some(_), None) => panic!("{file} can be opened, and is not listed"),
            (None, Some(_)) => panic!("{file} is listed, and can't be opened"),
        }
    }
}

pub(crate) async fn a_write_dropped_at_any_step(store: Store) {
    let (client, reader) = (store.client().await, store.client().await);
    let mut files = Vec::new();
    for polls in drop_points() {
        let file = raw(polls as u64);
        if let Some(written) = steps(client.write(file, NOON, body(polls as u64)), polls).await {
            ok(written, "a write that was not dropped");
        }
        files.push(file);
    }
    reader.wait(SETTLING).await;

    check_agreement(&reader, &files).await;
    for file in files {
        if let Some(found) = reader.content_of(file).await {
            let wanted = content(SIZE, file.txids.min().get());
            assert_bytes(&found, &wanted, "the file of a dropped write");
        }
        client.must_write(file, &small(file)).await;
        assert_bytes(
            &reader.must_read(file, ..).await,
            &small(file),
            "written again",
        );
    }
}

pub(crate) async fn an_overwrite_dropped_at_any_step(store: Store) {
    let (client, reader) = (store.client().await, store.client().await);
    let old = content(SIZE + 1, 0);
    for polls in drop_points() {
        let (file, tag) = (raw(polls as u64), polls as u64);
        client.must_write(file, &old).await;
        let written = steps(client.write(file, NOON, body(tag)), polls).await;
        let ended = written.is_some();
        if let Some(written) = written {
            ok(written, "an overwrite that was not dropped");
        }

        match reader.content_of(file).await {
            Some(found) if !ended && found == old => {}
            Some(found) => assert_bytes(&found, &content(SIZE, tag), "after a dropped overwrite"),
            None => assert!(
                !client.capabilities().atomic_replace,
                "a dropped overwrite took the old file away"
            ),
        }
    }
    reader.wait(SETTLING).await;

    let files: Vec<_> = drop_points().map(|polls| raw(polls as u64)).collect();
    check_agreement(&reader, &files).await;
    for file in files {
        let found = reader.must_read(file, ..).await;
        if found != old {
            let wanted = content(SIZE, file.txids.min().get());
            assert_bytes(&found, &wanted, "long after a dropped overwrite");
        }
    }
}

pub(crate) async fn a_dropped_write_never_publishes_later(store: Store) {
    const SOON: Duration = Duration::from_secs(5);
    let (client, reader) = (store.client().await, store.client().await);
    let whole = content(SIZE, 1);
    for before in [0, SIZE / 2, SIZE] {
        let (body, mut gate) = Gate::body(&whole, before);
        let mut writing = client.write(raw(1), NOON, body).boxed();
        match future::select(&mut writing, gate.reached().boxed()).await {
            future::Either::Left((written, _)) => {
                ok(written, "the write");
                panic!("a write ended before its body did");
            }
            future::Either::Right(_) => {}
        }

        drop(writing);

        let stopped = timeout(SOON, gate.dropped()).await;
        assert!(
            stopped.is_ok(),
            "a dropped write still reads its body after {SOON:?}"
        );
        gate.open();
        reader.wait(SETTLING).await;
        assert!(
            !reader.has(raw(1)).await,
            "a dropped write was published later"
        );
        assert_eq!(
            reader.names(Level::RAW).await,
            [],
            "a dropped write is listed"
        );
    }

    client.must_write(raw(1), &whole).await;
    assert_bytes(
        &reader.must_read(raw(1), ..).await,
        &whole,
        "written at last",
    );
}

pub(crate) async fn readers_dropped_half_way(store: Store) {
    let client = store.client().await;
    let whole = content(300_000, 1);
    client.must_write(raw(1), &whole).await;

    for _ in 0..100 {
        let mut reading = ok(client.open(raw(1), ByteRange::ALL).await, "the open");
        let head = ok(reading.try_next().await, "the first bytes");
        assert!(head.is_some(), "the first bytes are missing");
    }
    for _ in 0..100 {
        drop(ok(client.open(raw(1), (100..).into()).await, "an open"));
    }

    assert_bytes(
        &client.must_read(raw(1), ..).await,
        &whole,
        "after 200 dropped readers",
    );
}

pub(crate) async fn listings_dropped_after_the_first_item(store: Store) {
    let client = store.client().await;
    let files: Vec<_> = (1..=20).map(raw).collect();
    write_many(&client, &files).await;
    client.wait_out_lag().await;

    for from in [1, 5].repeat(50) {
        let from = super::txid(from);
        let listing = client.list(Level::RAW, from, Timestamps::Fast).await;
        let first = ok(
            ok(listing, "the listing").try_next().await,
            "the first item",
        );
        assert_eq!(first.map(|info| info.id.txids.min()), Some(from));
    }

    assert_eq!(
        client.names(Level::RAW).await,
        files,
        "after 100 dropped listings"
    );
}

pub(crate) async fn a_dropped_delete_leaves_files_or_not(store: Store) {
    let (client, reader) = (store.client().await, store.client().await);
    let files: Vec<_> = (1..=2500).map(raw).collect();
    write_many(&client, &files).await;
    let spared = file(level(1), 1, 1);
    client.must_write(spared, &small(spared)).await;

    let (few, many) = files.split_at(400);
    let dropped = (1..).zip(few.chunks(100)).chain([(2, many)]);
    for (polls, files) in dropped {
        if let Some(deleted) = steps(client.delete(files), polls).await {
            ok(deleted, "a delete that was not dropped");
        }
    }
    reader.wait(SETTLING).await;
    let some: Vec<_> = files.iter().step_by(20).copied().collect();
    check_agreement(&reader, &some).await;
    for file in some {
        if let Some(found) = reader.content_of(file).await {
            assert_bytes(
                &found,
                &small(file),
                "a file that a dropped delete has left",
            );
        }
    }

    client.must_delete(&files).await;
    assert_eq!(reader.names(Level::RAW).await, [], "deleted at last");
    assert_eq!(reader.names(level(1)).await, [spared]);
}

pub(crate) async fn calls_dropped_at_any_step(store: Store) {
    let client = store.client().await;
    let doomed = store.sibling("doomed").await;
    let whole = content(SIZE, 1);
    client.must_write(raw(1), &whole).await;
    client.must_write(raw(2), &whole).await;
    for polls in drop_points() {
        // Whether they end or not is not the question here.
        let _ = steps(client.open(raw(1), ByteRange::ALL), polls).await;
        let _ = steps(
            client.list(Level::RAW, Txid::FIRST, Timestamps::Exact),
            polls,
        )
        .await;
        let _ = steps(client.delete(&[raw(2), raw(3)]), polls).await;
        // It may still meet the last of the deletion that was dropped before.
        let _ = doomed.write(raw(1), NOON, small(raw(1)).into()).await;
        let _ = steps(doomed.delete_all(), polls).await;
    }
    client.wait(SETTLING).await;

    assert_bytes(
        &client.must_read(raw(1), ..).await,
        &whole,
        "after many dropped calls",
    );
    client.must_delete(&[raw(2)]).await;
    assert_eq!(client.names(Level::RAW).await, [raw(1)]);
    doomed.must_delete_all().await;
    assert_eq!(doomed.names(Level::RAW).await, []);
    doomed.must_write(raw(1), &small(raw(1))).await;
}

pub(crate) async fn a_time_limit_is_kept(store: Store) {
    const LIMIT: Duration = Duration::from_millis(100);
    let client = store.client().await;
    let whole = content(SIZE, 1);
    client.must_write(raw(1), &whole).await;

    let (body, gate) = Gate::body(&whole, SIZE / 2);
    let stuck = {
        let client = client.clone();
        spawn(async move { timeout(LIMIT, client.write(raw(2), NOON, body)).await })
    };
    match timeout(LIMIT + Duration::from_secs(1), stuck).await {
        Ok(Err(_)) => {}
        Ok(Ok(_)) => panic!("a write ended although its body did not"),
        Err(_) => panic!("a time limit of {LIMIT:?} around a stuck write was not kept"),
    }
    gate.open();

    check_polls("open", client.open(raw(1), ByteRange::ALL)).await;
    check_polls(
        "list",
        client.list(Level::RAW, Txid::FIRST, Timestamps::Fast),
    )
    .await;
    check_polls("write", client.write(raw(3), NOON, whole.into())).await;
    check_polls("delete", client.delete(&[raw(1), raw(2), raw(3)])).await;
    check_polls("delete_all", client.delete_all()).await;
}

/// Checks that `call` gives its thread back after each step, as no time limit is kept otherwise.
async fn check_polls<T>(what: &str, call: impl Future<Output = replica_core::Result<T>>) {
    let mut call = pin!(call);
    let mut longest = Duration::ZERO;
    let result = future::poll_fn(|context| {
        let started = Instant::now();
        let polled = call.poll_unpin(context);
        longest = longest.max(started.elapsed());
        polled
    })
    .await;
    ok(result, what);
    assert!(
        longest < Duration::from_secs(1),
        "{what} kept its thread busy for {longest:?}"
    );
}

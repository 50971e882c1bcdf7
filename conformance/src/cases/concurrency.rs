//! Calls that run side by side.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};
use replica_core::{
    Body, ByteRange, ErrorKind, FileId, Level, ReplicaClientExt, Timestamp, Timestamps, Txid,
};
use tokio::time::Instant;

use super::{Gate, NOON, Random, assert_bytes, chunked, content, file, level, ok, raw, small};
use crate::attempt::spawn;
use crate::store::{Client, Store, chain};

pub(crate) async fn many_writers_of_many_names(store: Store) {
    let client = store.client().await;
    let files: Vec<_> = (1..=32).map(raw).collect();
    let body = |file: FileId| content(20_000, file.txids.min().get());

    let writers = files.iter().map(|file| {
        let (client, file) = (client.clone(), *file);
        spawn(async move {
            let stream = chunked(&body(file), &[3_000]);
            ok(
                client.write(file, NOON, Body::once(20_000, stream)).await,
                "a write",
            )
        })
    });
    future::join_all(writers.collect::<Vec<_>>()).await;

    assert_eq!(client.names(Level::RAW).await, files);
    for file in files {
        assert_bytes(
            &client.must_read(file, ..).await,
            &body(file),
            "one of many",
        );
    }
}

pub(crate) async fn many_writers_of_one_name(store: Store) {
    const WRITERS: u64 = 8;
    let clients = store.clients(WRITERS as usize).await;
    let size = |writer: u64| 10_000 + 500 * writer;
    let time = |writer: u64| Timestamp::from_millis(NOON.as_millis() + 5_000 * writer as i64);
    for round in 0..10 {
        let tag = |writer: u64| 100 * round + writer;
        let writers = (0..).zip(&clients).map(|(writer, client)| {
            let client = client.clone();
            let body = content(size(writer) as usize, tag(writer));
            spawn(async move {
                let body = Body::once(size(writer), chunked(&body, &[1_000]));
                let written = client.write(raw(1), time(writer), body).await;
                ok(written, "one of several writes of one name");
            })
        });
        future::join_all(writers.collect::<Vec<_>>()).await;

        for reader in &clients[..2] {
            let found = reader.must_read(raw(1), ..).await;
            let winner = (found.len() as u64).saturating_sub(10_000) / 500;
            let wanted = content(size(winner) as usize, tag(winner));
            assert_bytes(&found, &wanted, "the file of the writer who won");
            let listed = reader.must_list(Level::RAW).await;
            let listed: Vec<_> = listed.iter().map(|file| (file.id, file.size)).collect();
            assert_eq!(
                listed,
                [(raw(1), size(winner))],
                "the listing of the writer who won"
            );
            if let Some(time) = reader.rounded(time(winner)) {
                let listed = reader.must_list_exact(Level::RAW).await;
                assert_eq!(listed[0].created_at, time, "the time of the writer who won");
            }
        }
    }
}

const VERSIONS: usize = 10;

/// Contents of one file at different times, of different lengths.
fn versions() -> Vec<Bytes> {
    (1..=VERSIONS)
        .map(|tag| content(60_000 + 1_000 * tag, tag as u64))
        .collect()
}

/// What came of reading a file while it changes.
#[derive(PartialEq, Eq)]
enum Read {
    Whole,
    Missing,
    /// A connection was lost, or the like.
    Interrupted,
}

/// Reads `file` from byte `start` on while it changes: what comes is of one of `versions`, to its
/// end, or it is an error.
async fn read_one_version(client: &Client, file: FileId, start: usize, versions: &[Bytes]) -> Read {
    match client.read(file, (start as u64..).into()).await {
        Ok(found) => {
            assert!(
                versions.iter().any(|version| version[start..] == found[..]),
                "{} bytes from byte {start} came that are no version of the file",
                found.len()
            );
            Read::Whole
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Read::Missing,
        Err(error) if error.is_transient() => Read::Interrupted,
        Err(error) => panic!("reading {file} while it changes failed: {}", chain(&error)),
    }
}

pub(crate) async fn readers_during_overwrites(store: Store) {
    const ROUNDS: usize = 40;
    const LAST: usize = (ROUNDS - 1) % VERSIONS;
    let versions = Arc::new(versions());
    let writer = store.client().await;
    let atomic = writer.capabilities().atomic_replace;
    writer.must_write(raw(1), &versions[0]).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for number in 0..4 {
        let (reader, versions, done) = (store.client().await, versions.clone(), done.clone());
        readers.push(spawn(async move {
            let start = [0, 1, 10_000, 59_000][number];
            while !done.load(Ordering::Relaxed) {
                let read = read_one_version(&reader, raw(1), start, &versions).await;
                assert!(
                    !atomic || read != Read::Missing,
                    "the file is gone while it is overwritten"
                );
                tokio::task::yield_now().await;
            }
            let found = reader.must_read(raw(1), start as u64..).await;
            assert_bytes(&found, &versions[LAST][start..], "after the overwrites");
        }));
    }

    for round in 0..ROUNDS {
        let version = &versions[round % versions.len()];
        let body = Body::once(version.len() as u64, chunked(version, &[9_000]));
        ok(writer.write(raw(1), NOON, body).await, "an overwrite");
    }

    done.store(true, Ordering::Relaxed);
    future::join_all(readers).await;
}

pub(crate) async fn readers_during_deletes(store: Store) {
    let versions = Arc::new(versions());
    let writer = store.client().await;
    read_what_is_deleted(&writer, &store.client().await).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for start in [0, 30_000] {
        let (reader, versions, done) = (store.client().await, versions.clone(), done.clone());
        readers.push(spawn(async move {
            while !done.load(Ordering::Relaxed) {
                read_one_version(&reader, raw(1), start, &versions).await;
                tokio::task::yield_now().await;
            }
        }));
    }

    for round in 0..40 {
        writer
            .must_write(raw(1), &versions[round % versions.len()])
            .await;
        tokio::task::yield_now().await;
        writer.must_delete(&[raw(1)]).await;
    }

    done.store(true, Ordering::Relaxed);
    future::join_all(readers).await;
    assert!(!writer.has(raw(1)).await);
}

/// Deletes a file of which a part has been read.
async fn read_what_is_deleted(writer: &Client, reader: &Client) {
    let body = content(2 << 20, 1);
    for start in [0, 1 << 20] {
        writer.must_write(raw(1), &body).await;
        let reading = reader.open(raw(1), (start as u64..).into()).await;
        let mut reading = ok(reading, "the open");
        let head = ok(reading.try_next().await, "the first bytes");
        let mut found = head.expect("the file is not empty").to_vec();

        writer.must_delete(&[raw(1)]).await;

        let ended = loop {
            match reading.try_next().await {
                Ok(Some(chunk)) => found.extend_from_slice(&chunk),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let wanted = &body[start..];
        if ended {
            assert_bytes(&found, wanted, "a file that was deleted while it was read");
        } else {
            assert!(
                wanted.starts_with(&found),
                "other bytes came of a deleted file"
            );
        }
    }
}

pub(crate) async fn listings_during_writes(store: Store) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 30;
    let lister = store.client().await;
    let lag = lister.capabilities().list_lag;
    let complete = Arc::new(Mutex::new(Vec::<(FileId, Instant)>::new()));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let (client, complete) = (store.client().await, complete.clone());
        writers.push(spawn(async move {
            for number in 1..=EACH {
                let file = raw(number * WRITERS + writer);
                let stream = chunked(&small(file), &[10]);
                let body = Body::once(small(file).len() as u64, stream);
                ok(client.write(file, NOON, body).await, "a write");
                let mut complete = complete.lock().unwrap_or_else(PoisonError::into_inner);
                complete.push((file, Instant::now()));
            }
        }));
    }
    let mut writing = future::join_all(writers);

    loop {
        let over = future::poll_immediate(&mut writing).await.is_some();
        let now = Instant::now();
        let before: Vec<_> = {
            let complete = complete.lock().unwrap_or_else(PoisonError::into_inner);
            let old_enough = |(_, since): &&(FileId, Instant)| now - *since >= lag;
            complete
                .iter()
                .filter(old_enough)
                .map(|(file, _)| *file)
                .collect()
        };
        let listed = lister
            .listing(Level::RAW, Txid::FIRST, Timestamps::Fast)
            .await;
        let names: HashSet<_> = listed.iter().map(|info| info.id).collect();
        for file in before {
            assert!(
                names.contains(&file),
                "{file} was complete, and is not listed"
            );
        }
        for info in &listed {
            assert_eq!(
                info.size,
                small(info.id).len() as u64,
                "{} is listed in part",
                info.id
            );
        }
        if over {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(lister.names(Level::RAW).await.len() as u64, WRITERS * EACH);
}

pub(crate) async fn first_writes_of_a_new_level(store: Store) {
    let clients = store.clients(32).await;
    for level in [level(0), level(7)] {
        let writers = (1..).zip(&clients).map(|(number, client)| {
            let (client, file) = (client.clone(), file(level, number, number));
            spawn(async move { client.must_write(file, &small(file)).await })
        });

        let written = future::join_all(writers.collect::<Vec<_>>()).await;

        let names: Vec<_> = written.iter().map(|info| info.id).collect();
        assert_eq!(clients[0].names(level).await, names);
    }
}

pub(crate) async fn a_mixed_load_keeps_every_promise(store: Store) {
    const TIME: Duration = Duration::from_secs(30);
    const CALLS: u64 = 400;
    const FILES: u64 = 20;
    let clients = store.clients(5).await;
    let versions = Arc::new(versions());
    let started = Instant::now();
    let workers = (0..20).map(|worker| {
        let client = clients[worker % clients.len()].clone();
        let versions = versions.clone();
        let mut random = Random::new(store.seed() ^ worker as u64);
        spawn(async move {
            for _ in 0..CALLS {
                if started.elapsed() > TIME {
                    break;
                }
                let file = raw(1 + random.below(FILES));
                match random.below(10) {
                    0..4 => {
                        let version = &versions[random.below(10) as usize];
                        let body = Body::once(version.len() as u64, chunked(version, &[20_000]));
                        ok(client.write(file, NOON, body).await, "a write");
                    }
                    4..8 => {
                        let start = random.below(60_000) as usize;
                        read_one_version(&client, file, start, &versions).await;
                    }
                    8 => client.must_delete(&[file]).await,
                    _ => {
                        for info in client
                            .listing(Level::RAW, Txid::FIRST, Timestamps::Fast)
                            .await
                        {
                            let known = versions.iter().any(|one| one.len() as u64 == info.size);
                            assert!(known, "{} is listed with {} bytes", info.id, info.size);
                        }
                    }
                }
            }
        })
    });

    future::join_all(workers.collect::<Vec<_>>()).await;

    for info in clients[0].must_list(Level::RAW).await {
        let found = clients[1].must_read(info.id, ..).await;
        let version = versions.iter().find(|one| one.len() as u64 == info.size);
        assert_bytes(&found, version.map_or(&[], |one| one), "a file at the end");
    }
}

pub(crate) async fn a_slow_write_blocks_nobody(store: Store) {
    let client = store.client().await;
    let body = content(100_000, 1);
    client.must_write(raw(1), &body).await;
    let (slow, mut gate) = Gate::body(&body, 50_000);
    let writing = {
        let client = client.clone();
        spawn(async move { client.write(raw(2), NOON, slow).await })
    };
    gate.reached().await;

    for client in [&client, &store.client().await] {
        assert_bytes(
            &client.must_read(raw(1), ..).await,
            &body,
            "beside a slow write",
        );
        client.must_write(raw(3), &body).await;
        assert_eq!(client.names(Level::RAW).await, [raw(1), raw(3)]);
        client.must_delete(&[raw(3)]).await;
    }

    gate.open();
    ok(writing.await, "the slow write");
    assert_bytes(&client.must_read(raw(2), ..).await, &body, "written slowly");
}

pub(crate) async fn a_held_stream_blocks_nobody(store: Store) {
    let client = store.client().await;
    let body = content(200_000, 1);
    client.must_write(raw(1), &body).await;
    client.must_write(raw(2), &body).await;
    client.wait_out_lag().await;
    let mut reading = ok(client.open(raw(1), ByteRange::ALL).await, "the open");
    let listing = client.list(Level::RAW, Txid::FIRST, Timestamps::Fast).await;
    let mut listing = ok(listing, "the listing");
    let head = ok(reading.try_next().await, "the first bytes").expect("the file is not empty");
    let first = ok(listing.try_next().await, "the first item").expect("there are files");

    client.must_write(raw(3), &body).await;
    assert_bytes(
        &client.must_read(raw(3), ..).await,
        &body,
        "beside a held stream",
    );
    assert_eq!(client.names(Level::RAW).await, [raw(1), raw(2), raw(3)]);
    client.must_delete(&[raw(3)]).await;

    let mut found = head.to_vec();
    while let Some(chunk) = ok(reading.try_next().await, "the rest of the held stream") {
        found.extend_from_slice(&chunk);
    }
    assert_bytes(&found, &body, "the held stream");
    let rest: Vec<_> = ok(listing.try_collect().await, "the rest of the held listing");
    assert_eq!(first.id, raw(1));
    assert_eq!(
        rest.first().map(|info| info.id),
        Some(raw(2)),
        "the held listing"
    );
}

pub(crate) async fn many_readers_take_turns(store: Store) {
    let client = store.client().await;
    let body = content(150_000, 1);
    client.must_write(raw(1), &body).await;

    let mut readers = Vec::new();
    for _ in 0..32 {
        let stream = ok(client.open(raw(1), ByteRange::ALL).await, "one of 32 opens");
        readers.push((stream, Vec::new()));
    }
    // A client that is only held by its streams goes on.
    drop(client);
    while !readers.is_empty() {
        let mut going = Vec::new();
        for (mut stream, mut found) in readers {
            match stream.next().await {
                Some(chunk) => {
                    found.extend_from_slice(&ok(chunk, "one of 32 streams"));
                    going.push((stream, found));
                }
                None => assert_bytes(&found, &body, "one of 32 streams"),
            }
        }
        readers = going;
    }
}

pub(crate) async fn an_open_stream_never_mixes_versions(store: Store) {
    const MIB: usize = 1 << 20;
    let (reader, writer) = (store.client().await, store.client().await);
    // Another length, a shorter one, and the same length: each is mixed up in its own way.
    for (tag, size) in [(2, 4 * MIB), (3, 2 * MIB), (4, 3 * MIB)] {
        let (old, new) = (content(3 * MIB, 1), content(size, tag));
        for range in [ByteRange::ALL, (MIB as u64 / 2..5 * MIB as u64 / 2).into()] {
            writer.must_write(raw(1), &old).await;
            let mut reading = ok(reader.open(raw(1), range).await, "the open");
            let mut found = Vec::new();
            if let Some(head) = ok(reading.try_next().await, "the first bytes") {
                found.extend_from_slice(&head);
            }

            writer.must_write(raw(1), &new).await;

            let ended = loop {
                match reading.try_next().await {
                    Ok(Some(chunk)) => found.extend_from_slice(&chunk),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            let part = |version: &Bytes| {
                let end = range.end().map_or(version.len(), |end| end as usize);
                version.slice(range.start() as usize..end.min(version.len()))
            };
            let is_of = |version: &Bytes| {
                let wanted = part(version);
                if ended {
                    found == wanted
                } else {
                    wanted.starts_with(&found)
                }
            };
            assert!(
                is_of(&old) || is_of(&new),
                "{} bytes of {range} came that are of neither version of an overwritten file",
                found.len()
            );
        }
    }
}

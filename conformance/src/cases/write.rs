//! Whole, or not at all.

use std::time::Duration;

use futures::{StreamExt, stream};
use replica_core::{Body, ErrorKind, FileId, Level};

use super::{Gate, NOON, assert_bytes, assert_error, chunked, content, failing_body, ok, raw};
use crate::attempt::spawn;
use crate::store::{Client, Store};

/// Larger than any chunk, and smaller than any part.
const SIZE: usize = 300_000;

pub(crate) async fn nothing_is_visible_before_the_end(store: Store) {
    let (writer, reader) = (store.client().await, store.client().await);
    let content = content(SIZE, 1);
    for (number, before) in (1..).zip([0, 1, SIZE / 2, SIZE - 1, SIZE]) {
        let (body, mut gate) = Gate::body(&content, before);
        let writing = {
            let writer = writer.clone();
            spawn(async move { writer.write(raw(number), NOON, body).await })
        };
        gate.reached().await;

        assert!(
            !reader.has(raw(number)).await,
            "a file can be opened after {before} of {SIZE} bytes"
        );
        let listed = reader.names(Level::RAW).await;
        assert!(
            !listed.contains(&raw(number)),
            "a file is listed after {before} of {SIZE} bytes"
        );

        gate.open();
        ok(writing.await, "the write");
        assert_bytes(
            &reader.must_read(raw(number), ..).await,
            &content,
            "the file",
        );
    }
}

/// Checks that neither of two clients finds `file`.
async fn check_absent(store: &Store, client: &Client, file: FileId, what: &str) {
    for client in [client, &store.client().await] {
        assert!(!client.has(file).await, "{what}: the file can be opened");
        assert_eq!(
            client.names(file.level).await,
            [],
            "{what}: something is listed"
        );
    }
}

pub(crate) async fn a_failing_body_leaves_nothing(store: Store) {
    const PART: usize = 8 << 20;
    let client = store.client().await;
    let content = content(PART + 100_000, 1);
    let sizes = [
        0,
        50,
        100,
        content.len() / 2,
        PART + 1,
        content.len() - 1,
        content.len(),
    ];
    for before in sizes {
        for kind in [ErrorKind::Corrupt, ErrorKind::Unavailable] {
            let body = failing_body(&content, before, kind);

            let written = client.write(raw(1), NOON, body).await;

            assert_error(
                written,
                kind,
                &format!("a body that fails after {before} bytes"),
            );
            let what = format!("a body that failed after {before} bytes");
            check_absent(&store, &client, raw(1), &what).await;
        }
    }
    // One of unknown length that fails in the middle must not pass for a shorter one.
    let body = Body::once(
        None,
        failing_body(&content, 70_000, ErrorKind::Other).into_stream(),
    );
    let written = client.write(raw(1), NOON, body).await;
    assert_error(
        written,
        ErrorKind::Other,
        "a body of unknown length that fails",
    );
    check_absent(&store, &client, raw(1), "a body of unknown length").await;

    client.must_write(raw(1), &content).await;
    assert_bytes(
        &client.must_read(raw(1), ..).await,
        &content,
        "written at last",
    );
}

/// Checks that `file` is still `old`, or where the store can't replace atomically may be absent
/// while it is being replaced.
async fn check_old(client: &Client, file: FileId, old: &[u8], what: &str) {
    match client.content_of(file).await {
        Some(found) => assert_bytes(&found, old, what),
        None => assert!(
            !client.capabilities().atomic_replace,
            "{what}: the file is gone"
        ),
    }
}

pub(crate) async fn readers_see_the_old_file_until_the_new_one_is_whole(store: Store) {
    let (writer, reader) = (store.client().await, store.client().await);
    let (old, new) = (content(SIZE, 1), content(SIZE + 1, 2));
    for before in [0, 1, SIZE / 2, SIZE, SIZE + 1] {
        writer.must_write(raw(1), &old).await;
        let (body, mut gate) = Gate::body(&new, before);
        let writing = {
            let writer = writer.clone();
            spawn(async move { writer.write(raw(1), NOON, body).await })
        };
        gate.reached().await;

        check_old(&reader, raw(1), &old, "while it is overwritten").await;
        if reader.capabilities().atomic_replace {
            let listed = reader.must_list(Level::RAW).await;
            let listed: Vec<_> = listed.iter().map(|file| (file.id, file.size)).collect();
            assert_eq!(listed, [(raw(1), SIZE as u64)], "while it is overwritten");
        }

        gate.open();
        ok(writing.await, "the overwrite");
        assert_bytes(&reader.must_read(raw(1), ..).await, &new, "overwritten");
    }
}

pub(crate) async fn a_failed_overwrite_leaves_the_old_file(store: Store) {
    let client = store.client().await;
    let (old, new) = (content(SIZE, 1), content(SIZE, 2));
    let before = client.must_write(raw(1), &old).await;

    for broken in [0, 1, SIZE / 2, SIZE] {
        let body = failing_body(&new, broken, ErrorKind::Unavailable);
        let written = client.write(raw(1), NOON, body).await;
        assert_error(written, ErrorKind::Unavailable, "a body that fails");
        assert_bytes(
            &client.must_read(raw(1), ..).await,
            &old,
            "after a failed overwrite",
        );
    }

    let listed = client.must_list(Level::RAW).await;
    let listed: Vec<_> = listed.iter().map(|file| (file.id, file.size)).collect();
    assert_eq!(listed, [(raw(1), before.size)]);
    if client.capabilities().timestamp_resolution.is_some() {
        assert_eq!(client.must_list_exact(Level::RAW).await, [before]);
    }
}

pub(crate) async fn a_shorter_file_leaves_no_tail(store: Store) {
    let client = store.client().await;
    let reader = store.client().await;
    for (tag, size) in (1..).zip([SIZE, 1_000, SIZE / 2, 1, 0, SIZE]) {
        let content = content(size, tag);

        client.must_write(raw(1), &content).await;

        assert_bytes(
            &reader.must_read(raw(1), ..).await,
            &content,
            "the newest content",
        );
        let listed = reader.must_list(Level::RAW).await;
        let listed: Vec<_> = listed.iter().map(|file| (file.id, file.size)).collect();
        assert_eq!(
            listed,
            [(raw(1), size as u64)],
            "the listing of the newest content"
        );
    }
}

pub(crate) async fn a_body_of_another_length_is_refused(store: Store) {
    let client = store.client().await;
    let old = content(1_000, 1);
    let new = content(SIZE, 2);
    client.must_write(raw(2), &old).await;

    for said in [0, 1, SIZE - 1, SIZE + 1, 10 * SIZE] {
        for file in [raw(1), raw(2)] {
            for body in [
                Body::once(said as u64, chunked(&new, &[65_536])),
                Body::once(said as u64, stream::iter([Ok(new.clone())]).boxed()),
            ] {
                let written = client.write(file, NOON, body).await;
                let what = format!("a body of {SIZE} bytes that said {said}");
                assert_error(written, ErrorKind::Invalid, &what);
                assert!(!client.has(raw(1)).await, "{what} was stored");
                assert_bytes(&client.must_read(raw(2), ..).await, &old, &what);
            }
        }
    }

    assert_eq!(client.names(Level::RAW).await, [raw(2)]);
}

pub(crate) async fn a_slow_body_is_not_cut(store: Store) {
    let client = store.client().await;
    let content = content(10_000, 1);
    let slowly = chunked(&content, &[1_000]).then(|chunk| async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        chunk
    });
    let body = Body::once(content.len() as u64, slowly.boxed());

    ok(client.write(raw(1), NOON, body).await, "a slow write");

    let mut found = Vec::new();
    let mut reading = ok(client.open(raw(1), (..).into()).await, "the open");
    while let Some(chunk) = reading.next().await {
        found.extend_from_slice(&ok(chunk, "a slow read"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_bytes(&found, &content, "what was written and read slowly");
}

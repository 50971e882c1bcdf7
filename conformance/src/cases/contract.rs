//! What goes for every call.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, future, stream};
use replica_core::{Body, ByteRange, ErrorKind, Level, ReplicaClientExt};

use super::{NOON, assert_bytes, assert_error, chunked, content, file, level, ok, raw};
use crate::store::{Client, Store};

pub(crate) async fn opening_again_is_harmless(store: Store) {
    let first = store.client().await;
    first.must_write(raw(1), &content(100, 1)).await;

    let clients = future::join_all((0..8).map(|_| store.client())).await;

    for client in clients {
        assert_bytes(
            &client.must_read(raw(1), ..).await,
            &content(100, 1),
            "another client",
        );
        assert_eq!(client.names(Level::RAW).await, [raw(1)]);
    }
    assert_eq!(first.names(Level::RAW).await, [raw(1)], "the first client");
}

pub(crate) async fn what_is_written_is_read_back(store: Store) {
    let client = store.client().await;
    for (number, size) in (1..).zip([1, 100, 1024, 64 * 1024]) {
        let content = content(size, number);

        let written = client.must_write(raw(number), &content).await;

        assert_bytes(
            &client.must_read(raw(number), ..).await,
            &content,
            "the whole file",
        );
        let listed = client.must_list(Level::RAW).await;
        let listed = listed.last().expect("the file was just written");
        assert_eq!((listed.id, listed.size), (written.id, written.size));
    }
}

pub(crate) async fn an_empty_file_is_a_file(store: Store) {
    let client = store.client().await;

    client.must_write(raw(1), &Bytes::new()).await;

    let listed = client.must_list(Level::RAW).await;
    assert_eq!(
        listed
            .iter()
            .map(|file| (file.id, file.size))
            .collect::<Vec<_>>(),
        [(raw(1), 0)]
    );
    for range in [
        ByteRange::ALL,
        (0..0).into(),
        (0..10).into(),
        (..u64::MAX).into(),
    ] {
        assert_bytes(&client.must_read(raw(1), range).await, &[], "an empty file");
    }
    let beyond = client.open(raw(1), (1..).into()).await;
    assert_error(
        beyond,
        ErrorKind::Invalid,
        "opening an empty file from byte 1",
    );
}

pub(crate) async fn a_body_of_unknown_length_is_stored_whole(store: Store) {
    const CHUNKINGS: [&[usize]; 3] = [&[1], &[7, 1, 4099, 0, 13], &[100_000]];
    let client = store.client().await;
    for (number, sizes) in (1..).zip(CHUNKINGS) {
        let content = content(5_003, number);
        let body = Body::once(None, chunked(&content, sizes));

        let written = ok(client.write(raw(number), NOON, body).await, "the write");

        assert_eq!(written.size, content.len() as u64);
        assert_bytes(
            &client.must_read(raw(number), ..).await,
            &content,
            "what was chunked",
        );
    }
}

pub(crate) async fn every_kind_of_body_is_stored(store: Store) {
    let client = store.client().await;
    let content = content(10_000, 1);
    let size = content.len() as u64;
    let stream = {
        let content = content.clone();
        move || chunked(&content, &[4096])
    };
    let again = {
        let stream = stream.clone();
        move || future::ready(Ok(stream()))
    };
    let bodies = [
        ("bytes", Body::from(content.clone())),
        ("a stream of known length", Body::once(size, stream())),
        ("a stream of unknown length", Body::once(None, stream())),
        (
            "reopenable, of known length",
            Body::reopenable(size, again.clone()),
        ),
        (
            "reopenable, of unknown length",
            Body::reopenable(None, again),
        ),
        (
            "bytes that a layer sees",
            Body::from(content.clone()).map_stream(|stream| stream),
        ),
        (
            "chunks of which some are empty",
            Body::once(
                size,
                stream::iter([
                    Ok(Bytes::new()),
                    Ok(content.slice(..1)),
                    Ok(Bytes::new()),
                    Ok(content.slice(1..)),
                    Ok(Bytes::new()),
                ])
                .boxed(),
            ),
        ),
    ];
    for (number, (kind, body)) in (1..).zip(bodies) {
        let written = ok(client.write(raw(number), NOON, body).await, kind);

        assert_eq!(written.size, size, "{kind}");
        assert_bytes(&client.must_read(raw(number), ..).await, &content, kind);
    }
}

pub(crate) async fn levels_are_independent(store: Store) {
    let client = store.client().await;
    let levels: Vec<_> = Level::ALL.into_iter().collect();
    for level in &levels {
        let content = content(200 + usize::from(level.get()), u64::from(level.get()));
        client.must_write(file(*level, 1, 1), &content).await;
    }

    client.must_delete(&[file(level(1), 1, 1)]).await;

    for level in levels {
        let content = content(200 + usize::from(level.get()), u64::from(level.get()));
        let name = file(level, 1, 1);
        if level.get() == 1 {
            assert!(!client.has(name).await, "{name} was deleted");
            assert_eq!(client.names(level).await, []);
        } else {
            assert_bytes(
                &client.must_read(name, ..).await,
                &content,
                "a file of another level",
            );
            assert_eq!(client.names(level).await, [name]);
        }
    }
}

pub(crate) async fn a_checked_write_refuses_what_is_no_ltx_file(store: Store) {
    let client = store.client().await;
    let whole = content(1_000, 1);
    for (what, body) in [
        ("nothing", whole.slice(..0)),
        ("99 bytes", whole.slice(..99)),
        ("a header without the magic number", whole.clone()),
    ] {
        for body in [
            Body::from(body.clone()),
            Body::once(None, chunked(&body, &[64])),
        ] {
            let written = client.write_ltx(raw(1), body).await;
            assert_error(written, ErrorKind::Invalid, what);
        }
    }

    assert!(!client.has(raw(1)).await, "what was refused is there");
    assert_eq!(client.names(Level::RAW).await, []);
}

pub(crate) async fn the_facts_of_a_client_do_not_change(store: Store) {
    let client = store.client().await;
    let facts = |client: &Client| (client.scheme(), client.capabilities());
    let before = facts(&client);

    client.must_write(raw(1), &content(100, 1)).await;
    let missing = client.read(raw(2), ByteRange::ALL).await;
    assert_error(missing, ErrorKind::NotFound, "reading a missing file");

    assert_eq!(facts(&client), before, "they changed with use");
    assert_eq!(
        facts(&store.client().await),
        before,
        "another client has others"
    );
    let (scheme, capabilities) = before;
    assert!(
        scheme.starts_with(|first: char| first.is_ascii_lowercase())
            && scheme.bytes().all(|byte| byte.is_ascii_lowercase()
                || byte.is_ascii_digit()
                || b"+-.".contains(&byte)),
        "{scheme:?} is not the scheme of a URL"
    );
    let day = Duration::from_secs(24 * 60 * 60);
    if let Some(resolution) = capabilities.timestamp_resolution {
        assert!(
            !resolution.is_zero() && resolution <= day,
            "a resolution of {resolution:?} is none"
        );
    }
    assert!(
        capabilities.list_lag <= day,
        "a lag of {:?} is no promise",
        capabilities.list_lag
    );
}

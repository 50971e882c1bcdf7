//! What roots and files may be called.

use replica_core::{ErrorKind, Level};

use super::{NOON, assert_bytes, file, level, raw, small, write_many};
use crate::store::{Store, chain};

pub(crate) async fn odd_characters_name_a_root(store: Store) {
    // Each is a place of its own: what one encodes to is another.
    let names = [
        "with space",
        "with%20space",
        "with+space",
        "a&b=c",
        "100%",
        "#1",
        "what?",
        "\"quoted\"",
        "it's",
        "[x]{y}",
        "tilde~",
        "@:;,$!()*",
        "\u{e9}t\u{e9}",
        "u\u{308}ber",
        "\u{1f980}",
        "\u{6f22}\u{5b57}",
    ];
    let mut opened = Vec::new();
    for (number, name) in (1..).zip(names) {
        // A name that the store can't have may be refused, at once or at the first write.
        if let Some(client) = store.sibling_if_taken(name).await {
            match client
                .write(raw(number), NOON, small(raw(number)).into())
                .await
            {
                Ok(_) => opened.push((number, name, client)),
                Err(error) => assert_eq!(
                    error.kind(),
                    ErrorKind::Invalid,
                    "a root named {name:?}: {}",
                    chain(&error)
                ),
            }
        }
    }

    for (number, name, client) in &opened {
        assert_eq!(
            client.names(Level::RAW).await,
            [raw(*number)],
            "the root {name:?}"
        );
        let found = client.must_read(raw(*number), ..).await;
        assert_bytes(&found, &small(raw(*number)), name);
    }
    for (_, _, client) in &opened {
        client.must_delete_all().await;
        assert_eq!(client.names(Level::RAW).await, []);
    }
    store.note(format!(
        "{} of {} odd names are taken",
        opened.len(),
        names.len()
    ));
    // A plain name beside them is none to be refused.
    let plain = store.client().await;
    plain.must_write(raw(1), &small(raw(1))).await;
}

pub(crate) async fn every_spelling_of_a_root_is_one_place(store: Store) {
    let client = store.sibling("deep/db").await;
    client.must_write(raw(1), &small(raw(1))).await;

    for spelling in [
        "deep/db/",
        "deep//db",
        "deep/./db",
        "./deep/db",
        "deep/db/.",
    ] {
        // A spelling may be refused; what is taken is the same place.
        let Some(same) = store.sibling_if_taken(spelling).await else {
            continue;
        };
        assert_eq!(
            same.names(Level::RAW).await,
            [raw(1)],
            "the root {spelling:?}"
        );
        same.must_write(raw(2), &small(raw(2))).await;
        assert!(client.has(raw(2)).await, "{spelling:?} is another place");
        same.must_delete(&[raw(2)]).await;
        assert!(!client.has(raw(2)).await, "{spelling:?} is another place");
    }
    assert_eq!(client.names(Level::RAW).await, [raw(1)]);
}

pub(crate) async fn every_transaction_has_a_name(store: Store) {
    let client = store.client().await;
    for level in [Level::RAW, level(4), Level::SNAPSHOT] {
        let files = [
            file(level, 1, 1),
            file(level, 1, u64::MAX),
            file(level, 0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210),
            file(level, u64::MAX - 1, u64::MAX),
            file(level, u64::MAX, u64::MAX),
        ];
        write_many(&client, &files).await;

        assert_eq!(client.names(level).await, files);
        for file in files {
            assert_bytes(
                &client.must_read(file, ..).await,
                &small(file),
                "an extreme name",
            );
        }
        client.must_delete(&files).await;
        assert_eq!(client.names(level).await, []);
    }
}

pub(crate) async fn long_roots_are_kept_or_refused(store: Store) {
    let segment = "s".repeat(255);
    let roots = [
        "s".repeat(200),
        segment.clone(),
        [&*segment; 3].join("/"),
        "s".repeat(256),
    ];
    let mut kept = 0;
    for root in &roots {
        let Some(client) = store.sibling_if_taken(root).await else {
            continue;
        };
        match client.write(raw(1), NOON, small(raw(1)).into()).await {
            Ok(_) => {
                kept += 1;
                assert_eq!(client.names(Level::RAW).await, [raw(1)]);
                let found = client.must_read(raw(1), ..).await;
                assert_bytes(&found, &small(raw(1)), "under a long root");
            }
            Err(error) => assert_eq!(
                error.kind(),
                ErrorKind::Invalid,
                "a root of {} characters: {}",
                root.len(),
                chain(&error)
            ),
        }
    }
    store.note(format!("{kept} of {} long names are taken", roots.len()));
    let plain = store.client().await;
    plain.must_write(raw(1), &small(raw(1))).await;
    assert_eq!(
        plain.names(Level::RAW).await,
        [raw(1)],
        "a plain root beside them"
    );
}

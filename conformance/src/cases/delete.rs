//! Deleting files by name.

use futures::future;
use replica_core::{FileId, Level};

use super::{assert_names, file, level, raw, small, write_many};
use crate::store::Store;

pub(crate) async fn nothing_to_delete_is_fine(store: Store) {
    let client = store.client().await;
    client.must_delete(&[]).await;
    client.must_write(raw(1), &small(raw(1))).await;

    client.must_delete(&[]).await;

    assert_eq!(client.names(Level::RAW).await, [raw(1)]);
}

pub(crate) async fn missing_files_are_fine(store: Store) {
    let client = store.client().await;
    client.must_delete(&[raw(1)]).await;
    client
        .must_delete(&[raw(1), file(level(5), 1, 3), raw(2)])
        .await;
    write_many(&client, &[raw(1), raw(2), raw(3)]).await;

    client.must_delete(&[raw(2)]).await;
    client.must_delete(&[raw(2)]).await;
    client.must_delete(&[raw(7), raw(1), raw(8)]).await;

    assert_eq!(client.names(Level::RAW).await, [raw(3)]);
    assert!(!client.has(raw(1)).await && !client.has(raw(2)).await);
}

pub(crate) async fn the_same_file_twice_is_fine(store: Store) {
    let client = store.client().await;
    let files: Vec<_> = (1..=30).map(raw).collect();
    write_many(&client, &files).await;
    let twice: Vec<_> = files[..10].iter().chain(&files[..10]).copied().collect();

    client.must_delete(&twice).await;
    let clients = store.clients(8).await;
    let shared = &files[5..20];
    future::join_all(clients.iter().map(|client| client.must_delete(shared))).await;

    assert_names(
        &client.names(Level::RAW).await,
        &files[20..],
        "what is left",
    );
}

pub(crate) async fn any_number_of_files(store: Store) {
    let client = store.client().await;
    let spared = raw(5_000);
    client.must_write(spared, &small(spared)).await;
    for count in [1000, 1001, 2500] {
        let files: Vec<_> = (1..=count).map(raw).collect();
        write_many(&client, &files).await;

        client.must_delete(&files).await;

        assert_names(
            &client.names(Level::RAW).await,
            &[spared],
            &format!("of {count} deleted"),
        );
        for file in [files[0], files[999], files[files.len() - 1]] {
            assert!(!client.has(file).await, "{file} can still be opened");
        }
    }
}

pub(crate) async fn only_the_files_named(store: Store) {
    let client = store.client().await;
    let doomed = file(Level::RAW, 0x10, 0x20);
    let others = [
        file(Level::RAW, 0x1, 0x20),
        file(Level::RAW, 0x10, 0x10),
        file(Level::RAW, 0x10, 0x21),
        file(Level::RAW, 0x10, 0x200),
        file(Level::RAW, 0x100, 0x200),
    ];
    write_many(&client, &others).await;
    client.must_write(doomed, &small(doomed)).await;
    let elsewhere = file(level(1), 0x10, 0x20);
    client.must_write(elsewhere, &small(elsewhere)).await;

    client.must_delete(&[doomed]).await;

    assert_names(&client.names(Level::RAW).await, &others, "the others");
    assert_eq!(client.names(level(1)).await, [elsewhere]);
    for other in others {
        assert!(client.has(other).await, "{other} was deleted too");
    }
    assert!(!client.has(doomed).await);
}

pub(crate) async fn files_of_several_levels(store: Store) {
    let client = store.client().await;
    let at = |number: u64| -> Vec<FileId> {
        Level::ALL
            .into_iter()
            .map(|level| file(level, number, number))
            .collect()
    };
    write_many(&client, &at(1)).await;
    write_many(&client, &at(2)).await;

    client.must_delete(&at(1)).await;

    for level in Level::ALL {
        assert_eq!(client.names(level).await, [file(level, 2, 2)]);
    }
    write_many(&client, &at(1)).await;
    for level in Level::ALL {
        assert_eq!(
            client.names(level).await,
            [file(level, 1, 1), file(level, 2, 2)]
        );
        assert!(client.has(file(level, 1, 1)).await, "written again");
    }
}

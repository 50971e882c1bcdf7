//! Deleting everything under a root, and nothing beside it.

use replica_core::{FileId, Level};

use super::{assert_bytes, file, raw, small, write_many};
use crate::store::{Client, Store};

async fn check_empty(client: &Client) {
    for level in Level::ALL {
        assert_eq!(
            client.must_list(level).await,
            [],
            "level {level} is not empty"
        );
    }
}

pub(crate) async fn deleting_all_of_nothing_is_fine(store: Store) {
    let client = store.client().await;

    client.must_delete_all().await;
    check_empty(&client).await;
    client.must_delete_all().await;
    client.must_delete_all().await;

    client.must_write(raw(1), &small(raw(1))).await;
    assert_bytes(
        &client.must_read(raw(1), ..).await,
        &small(raw(1)),
        "written afterwards",
    );
    client.must_delete_all().await;
    client.must_delete_all().await;
    check_empty(&client).await;
    assert!(!client.has(raw(1)).await);
}

pub(crate) async fn neighbours_are_left_alone(store: Store) {
    let client = store.client().await;
    let mut neighbours = vec![store.parent().await];
    for name in ["db2", "db-old", "db.x", "d", "a/db"] {
        neighbours.push(store.sibling(name).await);
    }
    // What a neighbour has, by its number, so that mixing any two of them is seen.
    let of = |number: usize| [raw(1), raw(10 + number as u64)];
    for (number, neighbour) in neighbours.iter().enumerate() {
        write_many(neighbour, &of(number)).await;
    }
    client.must_write(raw(2), &small(raw(2))).await;

    assert_eq!(
        client.names(Level::RAW).await,
        [raw(2)],
        "a neighbour's files are listed"
    );
    assert!(
        !client.has(raw(1)).await,
        "a neighbour's file can be opened"
    );
    client.must_delete(&[raw(1)]).await;
    client.must_delete_all().await;

    check_empty(&client).await;
    for (number, neighbour) in neighbours.iter().enumerate() {
        assert_eq!(
            neighbour.names(Level::RAW).await,
            of(number),
            "neighbour {number}"
        );
        for file in of(number) {
            assert_bytes(
                &neighbour.must_read(file, ..).await,
                &small(file),
                "a neighbour's file",
            );
        }
    }
}

pub(crate) async fn every_level_is_emptied(store: Store) {
    let client = store.client().await;
    let other = store.client().await;
    let mut files: Vec<FileId> = (1..=2500).map(raw).collect();
    files.extend(
        Level::ALL
            .into_iter()
            .skip(1)
            .map(|level| file(level, 1, 2500)),
    );
    write_many(&client, &files).await;

    client.must_delete_all().await;

    check_empty(&client).await;
    check_empty(&other).await;
    for file in files.iter().step_by(500).chain(&files[2500..]) {
        assert!(!other.has(*file).await, "{file} can still be opened");
    }
    for level in Level::ALL {
        let again = file(level, 3, 4);
        client.must_write(again, &small(again)).await;
        assert_eq!(other.names(level).await, [again], "written afterwards");
    }
}

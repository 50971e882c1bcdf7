//! Listing a level.

use std::collections::HashSet;

use futures::TryStreamExt;
use replica_core::{FileId, Level, Timestamps, Txid};

use super::{assert_names, file, level, ok, raw, small, txid, write_many};
use crate::store::{Client, Store};

pub(crate) async fn files_come_in_order_each_once(store: Store) {
    let client = store.client().await;
    let ordered = [
        raw(1),
        file(Level::RAW, 1, 2),
        file(Level::RAW, 1, 16),
        raw(2),
        file(Level::RAW, 2, 3),
        raw(16),
        file(Level::RAW, 16, 17),
    ];
    for place in [3, 0, 6, 2, 5, 1, 4] {
        let file: FileId = ordered[place];
        client.must_write(file, &small(file)).await;
    }

    let listed = client.must_list(Level::RAW).await;

    let names: Vec<_> = listed.iter().map(|file| file.id).collect();
    assert_names(&names, &ordered, "the listing");
    for file in listed {
        assert_eq!(
            file.size,
            small(file.id).len() as u64,
            "the size of {}",
            file.id
        );
    }
}

pub(crate) async fn a_level_never_written_is_empty(store: Store) {
    let client = store.client().await;
    for level in Level::ALL {
        assert_eq!(client.must_list(level).await, []);
    }

    client.must_write(raw(1), &small(raw(1))).await;

    for level in Level::ALL.into_iter().skip(1) {
        assert_eq!(client.must_list(level).await, []);
        assert_eq!(client.must_list_from(level, Txid::MAX).await, []);
    }
}

/// Checks that a listing from `from` has those of `files`, which are in order, that K8 says.
async fn check(client: &Client, files: &[FileId], from: u64) {
    let wanted: Vec<_> = files
        .iter()
        .copied()
        .filter(|file| file.txids.min().get() >= from)
        .collect();
    let listed = client.must_list_from(files[0].level, txid(from)).await;
    let names: Vec<_> = listed.into_iter().map(|file| file.id).collect();
    assert_names(&names, &wanted, &format!("from {from:#x}"));
}

pub(crate) async fn from_is_inclusive(store: Store) {
    let client = store.client().await;
    let files: Vec<_> = (1..=5).map(raw).collect();
    write_many(&client, &files).await;

    for from in [1, 2, 3, 5, 6, 1 << 40, u64::MAX] {
        check(&client, &files, from).await;
    }
}

pub(crate) async fn a_gap_starts_at_the_next_file(store: Store) {
    let client = store.client().await;
    let files: Vec<_> = [1, 2, 0x10, 0x11, 0x100, 0x1000].map(raw).into();
    write_many(&client, &files).await;

    for from in [3, 0xf, 0x12, 0xff, 0x101, 0x999, 0x1001] {
        check(&client, &files, from).await;
    }
}

pub(crate) async fn a_file_that_only_contains_from_is_left_out(store: Store) {
    let client = store.client().await;
    let level = level(1);
    let files = [file(level, 1, 10), file(level, 11, 20), file(level, 21, 30)];
    write_many(&client, &files).await;

    for from in [1, 2, 10, 11, 12, 20, 21, 22, 30, 31] {
        check(&client, &files, from).await;
    }
}

pub(crate) async fn transactions_are_numbers_and_not_text(store: Store) {
    let client = store.client().await;
    let numbers = [
        0x9,
        0xa,
        0xf,
        0x10,
        0x19,
        0xff,
        0x100,
        0x1ff,
        1 << 32,
        1 << 63,
        u64::MAX,
    ];
    let files: Vec<_> = numbers.map(raw).into();
    for file in files.iter().rev() {
        client.must_write(*file, &small(*file)).await;
    }

    for from in numbers {
        check(&client, &files, from).await;
        check(&client, &files, from - 1).await;
        check(&client, &files, from.saturating_add(1)).await;
    }
}

pub(crate) async fn levels_do_not_mix(store: Store) {
    let client = store.client().await;
    // Names that are parts of each other as text, in folders whose names nearly are.
    let files = |level: Level| {
        let number = u64::from(level.get()) + 1;
        [
            file(level, number, number),
            file(level, number, 16 * number),
        ]
    };
    for level in Level::ALL {
        write_many(&client, &files(level)).await;
    }

    for level in Level::ALL {
        assert_names(
            &client.names(level).await,
            &files(level),
            &format!("level {level}"),
        );
    }
}

pub(crate) async fn more_files_than_a_page(store: Store) {
    let client = store.client().await;
    let files: Vec<_> = (1..=2500).map(raw).collect();

    let mut written = 0;
    for count in [1000, 1001, 2500] {
        write_many(&client, &files[written..count]).await;
        written = count;

        check(&client, &files[..count], 1).await;
    }

    for from in [2, 999, 1000, 1001, 1002, 1501, 2499, 2500] {
        check(&client, &files, from).await;
    }
    let listed = client.must_list(Level::RAW).await;
    let wrong = listed
        .iter()
        .find(|file| file.size != small(file.id).len() as u64);
    assert_eq!(wrong, None, "a size is wrong");
}

pub(crate) async fn changes_between_pages_are_seen_or_not(store: Store) {
    /// More than a page of any store.
    const COUNT: u64 = 1300;
    let client = store.client().await;
    let files: Vec<_> = (1..=COUNT).map(|number| raw(2 * number)).collect();
    write_many(&client, &files).await;
    client.wait_out_lag().await;

    let listing = client.list(Level::RAW, Txid::FIRST, Timestamps::Fast).await;
    let mut listing = ok(listing, "the listing");
    let first = ok(listing.try_next().await, "the first item").expect("there are files");
    // More go than come, both on pages that are over and on those to come.
    let deleted: Vec<_> = (1..=2400)
        .step_by(50)
        .map(|number| raw(2 * number))
        .collect();
    let inserted: Vec<_> = (1..=2400)
        .step_by(200)
        .map(|number| raw(2 * number + 1))
        .collect();
    client.must_delete(&deleted).await;
    write_many(&client, &inserted).await;
    let rest: Vec<_> = ok(listing.try_collect().await, "the rest of the listing");

    let mut names = vec![first.id];
    names.extend(rest.iter().map(|file| file.id));
    assert!(
        names.is_sorted_by(|a, b| a < b),
        "the listing does not ascend, each once"
    );
    let listed: HashSet<_> = names.iter().copied().collect();
    let changed: HashSet<_> = deleted.iter().chain(&inserted).copied().collect();
    for file in &files {
        assert!(
            changed.contains(file) || listed.contains(file),
            "{file} was there all the time, and is not listed"
        );
    }
    let known: HashSet<_> = files.iter().chain(&inserted).copied().collect();
    assert!(
        listed.is_subset(&known),
        "the listing holds names that nobody wrote"
    );
}

//! Reading parts of a file.

use std::ops::Range;

use replica_core::{ByteRange, ErrorKind};

use super::{assert_bytes, assert_error, content, raw};
use crate::store::{Client, Store};

const SIZE: usize = 70_001;

/// A client of a store that holds one file, and the file's content.
async fn with_one_file(store: &Store) -> (Client, Vec<u8>) {
    let client = store.client().await;
    let content = content(SIZE, 1);
    client.must_write(raw(1), &content).await;
    (client, content.into())
}

async fn check(client: &Client, range: impl Into<ByteRange>, wanted: &[u8]) {
    let range = range.into();
    let found = client.must_read(raw(1), range).await;
    assert_bytes(&found, wanted, &format!("range {range}"));
}

pub(crate) async fn the_whole_file_is_read(store: Store) {
    let (client, content) = with_one_file(&store).await;

    check(&client, .., &content).await;
    check(&client, 0.., &content).await;
    check(&client, ..SIZE as u64, &content).await;
}

pub(crate) async fn from_an_offset_to_the_end(store: Store) {
    let (client, content) = with_one_file(&store).await;

    for offset in [1, 99, 100, 32_768, 65_535, 65_536, SIZE - 1] {
        check(&client, offset as u64.., &content[offset..]).await;
    }
}

pub(crate) async fn exactly_the_bytes_asked_for(store: Store) {
    let (client, content) = with_one_file(&store).await;

    for (start, len) in [
        (0, 1),
        (0, 100),
        (1, 1),
        (99, 2),
        (4_096, 4_096),
        (65_535, 2),
        (SIZE - 1, 1),
        (SIZE - 100, 100),
        (1, SIZE - 2),
    ] {
        let range = start..start + len;
        check(&client, start as u64..(start + len) as u64, &content[range]).await;
    }
}

pub(crate) async fn a_range_is_cut_at_the_end(store: Store) {
    let (client, content) = with_one_file(&store).await;

    for start in [0, 1, SIZE - 1] {
        let beyond = [1, SIZE as u64, 1 << 31, 1 << 32, 1 << 63];
        let ends = beyond.map(|beyond| SIZE as u64 + beyond);
        for end in ends
            .into_iter()
            .chain([1 << 32, (1 << 32) + 5, u64::MAX - 1, u64::MAX])
        {
            check(&client, start as u64..end, &content[start..]).await;
        }
    }
}

pub(crate) async fn at_the_end_is_empty(store: Store) {
    let (client, _) = with_one_file(&store).await;
    let end = SIZE as u64;

    check(&client, end.., &[]).await;
    for beyond in [end + 1, end + 10, u64::MAX] {
        check(&client, end..beyond, &[]).await;
    }
}

pub(crate) async fn beyond_the_end_is_invalid(store: Store) {
    let (client, content) = with_one_file(&store).await;
    let end = SIZE as u64;

    for start in [
        end + 1,
        end + 100_000,
        1 << 32,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ] {
        for range in [
            ByteRange::from(start..),
            ByteRange::from(start..start),
            ByteRange::from(start..start.saturating_add(1)),
            ByteRange::from(start..u64::MAX),
        ] {
            let opened = client.open(raw(1), range).await;
            assert_error(
                opened,
                ErrorKind::Invalid,
                &format!("opening range {range}"),
            );
        }
    }

    check(&client, .., &content).await;
}

pub(crate) async fn length_zero_is_empty(store: Store) {
    let (client, _) = with_one_file(&store).await;

    for offset in [0, 1, 100, SIZE as u64 - 1, SIZE as u64] {
        check(&client, offset..offset, &[]).await;
    }
    check(&client, ..0, &[]).await;
}

pub(crate) async fn random_ranges_match_an_oracle(store: Store) {
    let (client, content) = with_one_file(&store).await;
    let mut random = super::Random::new(store.seed());

    for _ in 0..200 {
        let start = random.below(SIZE as u64 + 2);
        let range = match random.below(4) {
            0 => ByteRange::from(start..),
            1 => ByteRange::from(start..start + random.below(16)),
            _ => ByteRange::from(start..start + random.below(SIZE as u64)),
        };
        match oracle(range) {
            Some(wanted) => check(&client, range, &content[wanted]).await,
            None => {
                let opened = client.open(raw(1), range).await;
                assert_error(
                    opened,
                    ErrorKind::Invalid,
                    &format!("opening range {range}"),
                );
            }
        }
    }
}

/// What K3 says of `range`, in words of its own.
fn oracle(range: ByteRange) -> Option<Range<usize>> {
    let start = range.start() as usize;
    let end = range.end().map_or(SIZE, |end| (end as usize).min(SIZE));
    (start <= SIZE).then_some(start..end)
}

pub(crate) async fn ranges_across_part_boundaries(store: Store) {
    const MIB: usize = 1 << 20;
    let client = store.client().await;
    let content = content(17 * MIB + 1, 1);
    client.must_write(raw(1), &content).await;

    // Nobody knows how large this store's parts are: these are the sizes that stores have.
    for boundary in [MIB, 5 * MIB, 8 * MIB, 10 * MIB, 16 * MIB] {
        for start in [boundary - 1, boundary, boundary + 1] {
            for len in [1, 2, 70_000] {
                let range = start..start + len;
                check(&client, start as u64..(start + len) as u64, &content[range]).await;
            }
        }
    }
    let middle = 5 * MIB - 1..10 * MIB + 1;
    check(
        &client,
        middle.start as u64..middle.end as u64,
        &content[middle],
    )
    .await;
}

pub(crate) async fn the_tail_is_found(store: Store) {
    const TAIL: u64 = 32 * 1024;
    let client = store.client().await;
    for (number, size) in (1..).zip([1, 8, 100, TAIL - 1, TAIL, TAIL + 1, 3 * TAIL + 5]) {
        let content = content(size as usize, number);
        let written = client.must_write(raw(number), &content).await;

        // As an index is found: the last 32 KiB, or the file where it is shorter, and then
        // exactly the last eight bytes.
        let tail = written.size.saturating_sub(TAIL);
        let footer = written.size.saturating_sub(8);
        let found = client.must_read(raw(number), tail..).await;
        assert_bytes(&found, &content[tail as usize..], "the tail");
        let found = client.must_read(raw(number), footer..written.size).await;
        assert_bytes(&found, &content[footer as usize..], "the footer");
    }
}

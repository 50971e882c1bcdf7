//! Merging, against a model that keeps databases as maps.

use std::collections::BTreeMap;

use bytes::Bytes;
use ltx::{
    Checksum, Compression, DatabaseChecksum, Error, Header, Merge, MergeStep, PageSize, Timestamp,
    WalSpan,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::file::{Content, decode, encode, header, pgno, txids};

type Pages = BTreeMap<u32, u8>;

proptest! {
    /// Files of one history, cut into overlapping runs, merge into the file of all.
    #[test]
    fn runs_of_a_history_merge_into_one(
        history in histories(),
        cuts in vec((any::<Index>(), any::<Index>()), 1..5),
        first in any::<Index>(),
        checksums in any::<bool>(),
        frames in any::<bool>(),
        piece in 1usize..2000,
    ) {
        let runs = runs(&history, first, &cuts);
        let compression = if frames { Compression::Frames } else { Compression::Blocks };
        let files: Vec<Vec<u8>> = runs
            .iter()
            .map(|&(min, max)| encode(&file_of(&history, min, max, checksums), compression))
            .collect::<Result<_, _>>()
            .unwrap();

        let merged = merge(&files, piece);

        let (min, max) = (runs[0].0, runs[runs.len() - 1].1);
        let mut whole = file_of(&history, min, max, checksums);
        whole.header = without_wal(whole.header);
        prop_assert_eq!(decode(&merged.unwrap()), Ok(whole));
    }

    /// Any files with fitting transactions, whether they are one history or not: what the newest
    /// has wins, what is beyond the end is dropped, and a snapshot lacks nothing.
    #[test]
    fn the_newest_input_wins_a_page(
        inputs in vec((0u32..12, btree_map(1u32..12, any::<u8>(), 0..12)), 1..5),
        snapshot in any::<bool>(),
    ) {
        let mut files = Vec::new();
        let mut model = Pages::new();
        for (min, (mut commit, mut pages)) in (if snapshot { 1 } else { 2 }..).zip(inputs) {
            pages.retain(|&number, _| number <= commit);
            if min == 1 {
                commit = complete(&mut pages);
            }
            model.extend(&pages);
            files.push((header(min, min, commit), pages));
        }
        let last = files.last().unwrap().0;
        model.retain(|&number, _| number <= last.commit());
        let lacking = (1..=last.commit()).find(|number| !model.contains_key(number));
        let files: Vec<Vec<u8>> = files
            .into_iter()
            .map(|(header, pages)| encode(&plain(header, &pages), Compression::Blocks).unwrap())
            .collect();

        let merged = merge(&files, 1000).map(|file| decode(&file).unwrap().pages);

        match lacking {
            Some(number) if snapshot => prop_assert!(
                matches!(merged, Err(Error::MissingPage { expected, .. }) if expected.get() == number),
                "{:?}", merged
            ),
            _ => prop_assert_eq!(merged, Ok(plain(last, &model).pages)),
        }
    }
}

#[test]
fn a_merge_takes_its_end_from_the_last_input_and_its_beginning_from_the_first() {
    let wal = WalSpan::new(32, 536, [1, 2]).unwrap();
    let at = |millis| Timestamp::from_millis(millis);
    let header = |min, max, commit, millis| {
        Header::new(PageSize::MIN, commit, txids(min, max), at(millis))
            .with_wal(wal)
            .with_node_id(7)
    };
    let pages = Pages::from([(1, 1), (2, 2)]);
    let files = [header(3, 5, 9, 500), header(4, 6, 2, 400)]
        .map(|header| encode(&plain(header, &pages), Compression::Blocks).unwrap());

    let merged = decode(&merge(&files, 100).unwrap()).unwrap();

    let wanted = Header::new(PageSize::MIN, 2, txids(3, 6), at(400));
    assert_eq!(merged.header, wanted);
}

#[test]
fn a_merge_is_without_checksums_if_one_input_is() {
    let database = Checksum::new(1 << 63 | 5).unwrap();
    let with = Content {
        header: header(2, 2, 1).with_checksums(Some(database)).unwrap(),
        pages: vec![],
        post_apply: Some(database),
    };
    let without = plain(header(3, 3, 1), &Pages::new());

    for pair in [
        [&with, &without],
        [&without_first(&without), &with_second(&with)],
    ] {
        let files = pair.map(|content| encode(content, Compression::Blocks).unwrap());
        let merged = decode(&merge(&files, 100).unwrap()).unwrap();
        assert!(!merged.header.has_checksums());
        assert_eq!(merged.post_apply, None);
    }

    fn without_first(content: &Content) -> Content {
        Content {
            header: header(2, 2, 1),
            ..content.clone()
        }
    }
    fn with_second(content: &Content) -> Content {
        let header = header(3, 3, 1).with_checksums(content.header.pre_apply());
        Content {
            header: header.unwrap(),
            ..content.clone()
        }
    }
}

#[test]
fn inputs_that_do_not_continue_each_other_are_refused() {
    for (before, after) in [
        ((1, 3), (5, 6)),
        ((1, 3), (1, 3)),
        ((1, 3), (2, 3)),
        ((4, 6), (1, 3)),
        ((2, u64::MAX), (2, u64::MAX)),
    ] {
        let [before, after] = [before, after].map(|(min, max)| txids(min, max));
        let files = [before, after].map(|txids| {
            let header = Header::new(PageSize::MIN, 0, txids, Timestamp::EPOCH);
            encode(&plain(header, &Pages::new()), Compression::Blocks).unwrap()
        });

        let error = Error::MergeOrder {
            input: 1,
            txids: after,
            before,
        };
        assert_eq!(merge(&files, 100), Err(error));
    }
}

#[test]
fn inputs_of_another_page_size_are_refused() {
    let sizes = [512, 1024].map(|bytes| PageSize::new(bytes).unwrap());
    let [small, large] = sizes;
    let files = [(small, 1), (large, 2)].map(|(page_size, txid)| {
        let header = Header::new(page_size, 0, txids(txid, txid), Timestamp::EPOCH);
        encode(&plain(header, &Pages::new()), Compression::Blocks).unwrap()
    });

    let error = Error::MergePageSize {
        input: 1,
        found: large,
        first: small,
    };
    assert_eq!(merge(&files, 100), Err(error));
}

#[test]
fn an_input_that_starts_from_another_database_is_refused() {
    let [one, two] = [1, 2].map(|n| Checksum::new(1 << 63 | n).unwrap());
    let files = [(2, one, one), (3, two, one)].map(|(txid, pre_apply, post_apply)| {
        let content = Content {
            header: header(txid, txid, 1)
                .with_checksums(Some(pre_apply))
                .unwrap(),
            pages: vec![],
            post_apply: Some(post_apply),
        };
        encode(&content, Compression::Blocks).unwrap()
    });

    let error = Error::MergeChain {
        input: 1,
        pre_apply: two,
        post_apply: one,
    };
    assert_eq!(merge(&files, 100), Err(error));
}

/// Also where the damage is in pages that another input replaces, or behind all pages.
#[test]
fn a_damaged_input_is_named_wherever_the_damage_is() {
    let pages = Pages::from([(1, 1), (2, 2)]);
    let files = [(1, 1), (2, 2)].map(|(min, max)| {
        encode(&plain(header(min, max, 2), &pages), Compression::Blocks).unwrap()
    });
    for input in 0..2 {
        let len = files[input].len();
        for at in [0, 50, 101, len - 30, len - 1] {
            let mut damaged = files.clone();
            damaged[input][at] ^= 1;

            let result = merge(&damaged, 100);

            match result {
                Err(Error::MergeInput { input: named, .. }) if named == input => {}
                result => panic!("byte {at} of input {input}: {result:?}"),
            }
        }
        let mut cut = files.clone();
        cut[input].pop();
        let result = merge(&cut, 100);
        assert!(
            matches!(result, Err(Error::MergeInput { .. })),
            "{result:?}"
        );
    }
}

#[test]
fn nothing_merges_into_nothing() {
    assert_eq!(merge(&[], 100), Err(Error::NothingToMerge));
}

#[test]
fn a_merge_stays_at_its_end() {
    let mut out = Vec::new();
    let mut failed = Merge::new(0, Compression::Blocks);
    assert_eq!(failed.step(&mut out), failed.step(&mut out));

    let file = encode(&plain(header(1, 1, 0), &Pages::new()), Compression::Blocks).unwrap();
    let mut done = Merge::new(1, Compression::Blocks);
    done.supply(0, file.into());
    done.end(0);
    let first = done.step(&mut out);
    let len = out.len();

    assert!(matches!(first, Ok(MergeStep::Done(_))), "{first:?}");
    assert_eq!(done.step(&mut out), first);
    assert_eq!(out.len(), len);
}

/// Merges files that arrive in pieces.
fn merge(files: &[Vec<u8>], piece: usize) -> Result<Vec<u8>, Error> {
    let mut pieces: Vec<_> = files.iter().map(|file| file.chunks(piece)).collect();
    let mut merge = Merge::new(files.len(), Compression::Blocks);
    let mut out = Vec::new();
    loop {
        match merge.step(&mut out)? {
            MergeStep::NeedInput(input) => match pieces[input].next() {
                Some(piece) => merge.supply(input, Bytes::copy_from_slice(piece)),
                None => merge.end(input),
            },
            MergeStep::Page(_) => {}
            MergeStep::Done(_) => return Ok(out),
        }
    }
}

/// One transaction: the pages it writes, and how many the database has afterwards.
#[derive(Clone, Debug)]
struct Transaction {
    commit: u32,
    pages: Pages,
}

/// Histories of a database that grows and shrinks, each page that it grows by being written.
fn histories() -> impl Strategy<Value = Vec<Transaction>> {
    vec((1u32..10, btree_map(1u32..10, any::<u8>(), 0..5)), 1..9).prop_map(|steps| {
        let mut before = 0;
        steps
            .into_iter()
            .map(|(commit, mut pages)| {
                for grown in before + 1..=commit {
                    pages.entry(grown).or_insert(grown as u8);
                }
                pages.retain(|&number, _| number <= commit);
                before = commit;
                Transaction { commit, pages }
            })
            .collect()
    })
}

/// Runs of transactions, numbered from 1, of which each continues or overlaps the one before.
fn runs(history: &[Transaction], first: Index, cuts: &[(Index, Index)]) -> Vec<(u64, u64)> {
    let last = history.len() as u64;
    let first = first.index(history.len()) as u64 + 1;
    let (mut min, mut done) = (first, first - 1);
    let mut runs = Vec::new();
    for (up_to, back) in cuts {
        if done == last {
            break;
        }
        let max = done + 1 + up_to.index((last - done) as usize) as u64;
        runs.push((min, max));
        done = max;
        // The next run begins anywhere from the first one's beginning to right behind this one.
        min = first + back.index((max + 2 - first) as usize) as u64;
    }
    runs
}

/// The file of the transactions `min..=max` of a history.
fn file_of(history: &[Transaction], min: u64, max: u64, checksums: bool) -> Content {
    let mut written = Pages::new();
    for transaction in &history[min as usize - 1..max as usize] {
        written.extend(&transaction.pages);
        written.retain(|&number, _| number <= transaction.commit);
    }
    let commit = history[max as usize - 1].commit;
    let wal = WalSpan::new(32 * max, 100, [1, 2]).unwrap();
    let header = Header::new(
        PageSize::MIN,
        commit,
        txids(min, max),
        Timestamp::from_millis(max as i64),
    )
    .with_wal(wal);
    let mut content = plain(header, &written);
    if checksums {
        let pre_apply = (min > 1).then(|| database_checksum(history, min - 1));
        content.header = header.with_checksums(pre_apply).unwrap();
        content.post_apply = Some(database_checksum(history, max));
    }
    content
}

fn database_checksum(history: &[Transaction], txid: u64) -> Checksum {
    let mut database = Pages::new();
    for transaction in &history[..txid as usize] {
        database.extend(&transaction.pages);
        database.retain(|&number, _| number <= transaction.commit);
    }
    let mut checksum = DatabaseChecksum::default();
    for (number, byte) in database {
        checksum.add(Checksum::of_page(pgno(number), &[byte; 512]));
    }
    checksum.get()
}

fn without_wal(header: Header) -> Header {
    let plain = Header::new(
        header.page_size(),
        header.commit(),
        header.txids(),
        header.timestamp(),
    );
    if header.has_checksums() {
        plain.with_checksums(header.pre_apply()).unwrap()
    } else {
        plain
    }
}

/// A file without checksums, of pages that are full of one byte.
fn plain(header: Header, pages: &Pages) -> Content {
    Content {
        header,
        pages: pages
            .iter()
            .map(|(&number, &byte)| (pgno(number), vec![byte; 512]))
            .collect(),
        post_apply: None,
    }
}

/// Makes pages those of a whole database, and says how many there are.
fn complete(pages: &mut Pages) -> u32 {
    let commit = pages.keys().next_back().copied().unwrap_or(0);
    for number in 1..=commit {
        pages.entry(number).or_insert(0);
    }
    commit
}

//! Encoding, then decoding.

use std::collections::BTreeMap;
use std::convert::Infallible;

use ltx::{
    Checksum, CompressedPages, Compression, DatabaseChecksum, Encoder, Header, PageSize, Pgno,
    Timestamp, Txid, TxidRange, WalSpan,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::file::{Content, decode, decode_pieces, encode, find_index};

proptest! {
    #[test]
    fn what_was_encoded_decodes_in_pieces_of_any_size(
        content in contents(),
        compression in compressions(),
        sizes in vec(1usize..3000, 1..8),
    ) {
        let file = encode(&content, compression).unwrap();

        let decoded = decode_pieces(pieces(&file, &sizes));

        prop_assert_eq!(decoded, Ok(content));
    }

    #[test]
    fn what_was_encoded_decodes_byte_by_byte(
        content in contents(),
        compression in compressions(),
    ) {
        let file = encode(&content, compression).unwrap();

        let decoded = decode_pieces(file.chunks(1));

        prop_assert_eq!(decoded, Ok(content));
    }

    #[test]
    fn every_page_is_found_through_the_index(
        content in contents(),
        compression in compressions(),
    ) {
        let file = encode(&content, compression).unwrap();

        let index = find_index(&file).unwrap();

        let mut page = vec![0; content.header.page_size().bytes()];
        prop_assert_eq!(index.len(), content.pages.len());
        for (pgno, data) in &content.pages {
            let range = index.record(*pgno).unwrap();
            let record = &file[range.start as usize..range.end as usize];
            index.decode(*pgno, record, &mut page).unwrap();
            prop_assert_eq!(&page, data);
        }
    }

    #[test]
    fn pages_that_are_compressed_apart_make_the_same_file(
        content in contents(),
        compression in compressions(),
        at_once in 1usize..5,
        apart in vec(any::<bool>(), 1..9),
    ) {
        let whole = encode(&content, compression).expect("the content is sound");

        let page_size = content.header.page_size();
        let mut file = Vec::new();
        let mut encoder = Encoder::new(content.header, compression, &mut file);
        let mut pages = CompressedPages::new(page_size);
        for (run, apart) in runs(&content.pages, at_once).zip(apart.into_iter().cycle()) {
            let bytes: Vec<u8> = run.iter().flat_map(|(_, page)| page).copied().collect();
            let filled = pages.compress(run[0].0, run.len(), |room| {
                room.copy_from_slice(&bytes);
                Ok::<_, Infallible>(())
            });
            filled.expect("the pages are there");
            let mut piece = match apart {
                true => vec![],
                false => std::mem::take(&mut file),
            };
            encoder.pages(&mut pages, &mut piece).expect("they go on where the last ones end");
            file.extend(piece);
        }
        encoder.finish(content.post_apply, &mut file).expect("all pages are there");

        prop_assert_eq!(file, whole);
    }

    #[test]
    fn any_bytes_give_a_value_or_an_error(
        bytes in vec(any::<u8>(), 0..2000),
        header in headers(),
    ) {
        // Most bytes are no header, so a valid one leads further in.
        let file = [&header.encode()[..], &bytes].concat();

        let _ = decode(&bytes);
        let _ = decode(&file);
        let _ = find_index(&bytes);
        let _ = find_index(&file);
    }

    #[test]
    fn a_header_parses_back(header in headers()) {
        prop_assert_eq!(Header::parse(&header.encode()), Ok(header));
    }
}

/// `file` in pieces of these sizes, again and again.
fn pieces<'f>(mut file: &'f [u8], sizes: &[usize]) -> impl Iterator<Item = &'f [u8]> {
    sizes.iter().cycle().map_while(move |&size| {
        let (piece, rest) = file.split_at(size.min(file.len()));
        file = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Pages that follow each other in the database, so many at once at most.
fn runs(pages: &[(Pgno, Vec<u8>)], at_once: usize) -> impl Iterator<Item = &[(Pgno, Vec<u8>)]> {
    pages
        .chunk_by(|(before, _), (pgno, _)| before.get() + 1 == pgno.get())
        .flat_map(move |run| run.chunks(at_once))
}

fn compressions() -> impl Strategy<Value = Compression> {
    prop_oneof![Just(Compression::Blocks), Just(Compression::Frames)]
}

fn page_sizes() -> impl Strategy<Value = PageSize> {
    // Small pages more often, for the sake of time.
    prop_oneof![
        4 => 9u32..=12,
        1 => 13u32..=16,
    ]
    .prop_map(|exponent| PageSize::new(1 << exponent).unwrap())
}

/// Headers without checksums, of any kind of file.
fn headers() -> impl Strategy<Value = Header> {
    let wal = (1u64..1 << 63, 0u64..1 << 63, any::<[u32; 2]>())
        .prop_map(|(offset, size, salts)| WalSpan::new(offset, size, salts).unwrap());
    (
        page_sizes(),
        any::<u32>(),
        prop_oneof![Just(1), 1u64..],
        any::<u64>(),
        any::<i64>(),
        proptest::option::of(wal),
        any::<u64>(),
    )
        .prop_map(|(page_size, commit, min, more, millis, wal, node_id)| {
            let [min, max] = [min, min.saturating_add(more)].map(|id| Txid::new(id).unwrap());
            let txids = TxidRange::new(min, max).unwrap();
            let header = Header::new(page_size, commit, txids, Timestamp::from_millis(millis))
                .with_node_id(node_id);
            wal.map_or(header, |wal| header.with_wal(wal))
        })
}

/// Files of any kind, page size and content.
fn contents() -> impl Strategy<Value = Content> {
    (headers(), any::<bool>(), any::<u64>().prop_map(checksum))
        .prop_flat_map(|(header, checksums, database)| {
            let len = header.page_size().bytes();
            let few = (200_000 / len).clamp(2, 12);
            // A snapshot holds every page. Another file holds some, and those around the lock
            // page are of interest.
            let pages = if header.is_snapshot() {
                vec(pages(len), 0..few)
                    .prop_map(|pages| (1..).zip(pages).collect::<BTreeMap<u32, _>>())
                    .boxed()
            } else {
                let lock = header.page_size().lock_page().get();
                let numbers = prop_oneof![1..50u32, lock - 2..lock + 3, any::<u32>()];
                btree_map(numbers, pages(len), 0..few)
                    .prop_map(move |mut pages| {
                        pages.remove(&lock);
                        pages.remove(&0);
                        pages
                    })
                    .boxed()
            };
            (
                Just(header),
                Just(checksums),
                Just(database),
                pages,
                any::<u32>(),
            )
        })
        .prop_map(|(header, checksums, database, pages, more)| {
            let last = pages.keys().next_back().copied().unwrap_or(0);
            let commit = if header.is_snapshot() {
                last
            } else {
                last.saturating_add(more)
            };
            let pages: Vec<(Pgno, Vec<u8>)> = pages
                .into_iter()
                .map(|(pgno, page)| (Pgno::new(pgno).unwrap(), page))
                .collect();
            with_commit(header, commit, checksums, database, pages)
        })
}

fn with_commit(
    header: Header,
    commit: u32,
    checksums: bool,
    database: Checksum,
    pages: Vec<(Pgno, Vec<u8>)>,
) -> Content {
    let plain = Header::new(
        header.page_size(),
        commit,
        header.txids(),
        header.timestamp(),
    )
    .with_node_id(header.node_id());
    let plain = header.wal().map_or(plain, |wal| plain.with_wal(wal));
    if !checksums {
        return Content {
            header: plain,
            pages,
            post_apply: None,
        };
    }
    let (pre_apply, post_apply) = if header.is_snapshot() {
        let mut sum = DatabaseChecksum::default();
        for (pgno, page) in &pages {
            sum.add(Checksum::of_page(*pgno, page));
        }
        (None, sum.get())
    } else if commit == 0 {
        (Some(database), Checksum::EMPTY)
    } else {
        (Some(database), database)
    };
    Content {
        header: plain.with_checksums(pre_apply).unwrap(),
        pages,
        post_apply: Some(post_apply),
    }
}

fn checksum(value: u64) -> Checksum {
    Checksum::new(value | 1 << 63).unwrap()
}

/// Pages that compress well, badly, and not at all.
fn pages(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(move |byte| vec![byte; len]),
        vec(any::<u8>(), 1..40)
            .prop_map(move |word| { word.iter().copied().cycle().take(len).collect() }),
        any::<u64>().prop_map(move |seed| {
            let mut state = seed | 1;
            (0..len)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    (state >> 24) as u8
                })
                .collect()
        }),
    ]
}

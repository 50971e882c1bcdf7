//! Each rule of the format, with a file that breaks it and nothing else.
//!
//! The files are put together by hand, with checksums that match, so that what is refused is the
//! rule's breach and not the checksum.

use std::convert::Infallible;

use crc_fast::{CrcAlgorithm, Digest};
use ltx::{
    Checksum, CompressedPages, Compression, CompressionFault, DatabaseChecksum, Encoder, Error,
    FileKind, Header, IndexFault, PageSize, Part, WalSpan,
};

use crate::file::{Content, decode, decode_pieces, encode, find_index, header, pgno};

const BIT_63: u64 = 1 << 63;

#[test]
fn a_file_begins_with_its_magic_number() {
    let found = *b"LTX2";
    check(Raw::new().header(0, found), Error::Magic { found });
}

#[test]
fn only_one_flag_of_a_file_is_known() {
    for flags in [1u32, 3, 4, 1 << 31] {
        check(
            Raw::new().header(4, flags.to_be_bytes()),
            Error::Flags { flags },
        );
    }
}

#[test]
fn a_page_size_is_one_of_sqlites() {
    for bytes in [0u32, 1, 256, 513, 131_072, 1 << 31] {
        check(
            Raw::new().header(8, bytes.to_be_bytes()),
            Error::PageSize { bytes },
        );
    }
}

#[test]
fn transactions_begin_at_1_and_ascend() {
    for (min, max) in [(0u64, 1u64), (0, 0), (1, 0), (3, 2)] {
        let raw = Raw::new()
            .header(16, min.to_be_bytes())
            .header(24, max.to_be_bytes());
        check(raw, Error::Txids { min, max });
    }
}

#[test]
fn a_place_in_a_wal_has_an_offset_and_nothing_negative() {
    for (offset, size, salts) in [
        (-1i64, 0i64, [0u32, 0]),
        (i64::MIN, 1, [1, 1]),
        (32, -1, [0, 0]),
        (0, 1, [0, 0]),
        (0, 0, [1, 0]),
        (0, 0, [0, 1]),
    ] {
        let raw = Raw::new()
            .header(48, offset.to_be_bytes())
            .header(56, size.to_be_bytes())
            .header(64, salts[0].to_be_bytes())
            .header(68, salts[1].to_be_bytes());
        let error = Error::Wal {
            offset,
            size,
            salts,
        };
        check(raw, error);
    }
    assert_eq!(WalSpan::new(0, 0, [0, 0]), None);
    assert_eq!(WalSpan::new(1 << 63, 0, [0, 0]), None);
    assert_eq!(WalSpan::new(32, 1 << 63, [0, 0]), None);
}

#[test]
fn only_an_incremental_file_with_checksums_has_one_from_before() {
    let file = FileKind::WithoutChecksums;
    for stored in [1, BIT_63] {
        let raw = Raw::new().header(40, stored.to_be_bytes());
        check(raw, Error::PreApply { stored, file });
    }
    let file = FileKind::Snapshot;
    for stored in [1, BIT_63] {
        let raw = Raw::new().with_checksums(stored, BIT_63);
        check(raw, Error::PreApply { stored, file });
    }
    let file = FileKind::Incremental;
    for stored in [0, 1, BIT_63 - 1] {
        let raw = Raw::new().txids(2, 2).with_checksums(stored, BIT_63);
        check(raw, Error::PreApply { stored, file });
    }
    assert_eq!(
        header(1, 1, 1).with_checksums(Some(Checksum::EMPTY)),
        Err(Error::PreApply {
            stored: BIT_63,
            file: FileKind::Snapshot
        })
    );
    assert_eq!(
        header(2, 2, 1).with_checksums(None),
        Err(Error::PreApply {
            stored: 0,
            file: FileKind::Incremental
        })
    );
}

#[test]
fn the_headers_end_is_zero() {
    for offset in 80..100 {
        let raw = Raw::new().header(offset, [1]);
        let offset = offset as u64;
        check(raw, Error::Reserved { offset });
    }
}

#[test]
fn the_lock_page_is_never_stored() {
    let lock = PageSize::MIN.lock_page();
    let mut raw = Raw::new().txids(2, 2).commit(u32::MAX);
    raw.pages = vec![Page::block(lock.get(), 1)];

    check(
        raw,
        Error::LockPage {
            pgno: lock,
            offset: 100,
        },
    );
}

#[test]
fn the_lock_page_is_left_out_of_pages_that_were_compressed_apart() {
    let lock = PageSize::MIN.lock_page();
    let first = pgno(lock.get() - 1);
    let mut file = Vec::new();
    let mut encoder = Encoder::new(header(2, 2, u32::MAX), Compression::Blocks, &mut file);

    let mut three = sevens(first, 3);
    encoder
        .pages(&mut three, &mut file)
        .expect("they follow each other");
    encoder
        .finish(None, &mut file)
        .expect("all pages are there");

    let pages = decode(&file)
        .expect("it was just encoded")
        .pages
        .into_iter();
    let pgnos: Vec<_> = pages.map(|(pgno, _)| pgno.get()).collect();
    assert_eq!(pgnos, [lock.get() - 1, lock.get() + 1]);
}

#[test]
fn of_pages_that_were_compressed_apart_the_file_has_those_before_a_wrong_one() {
    for is_apart in [false, true] {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(header(2, 2, 2), Compression::Blocks, &mut file);
        let mut piece = match is_apart {
            false => std::mem::take(&mut file),
            true => Vec::new(),
        };

        let added = encoder.pages(&mut sevens(pgno(1), 3), &mut piece);
        file.extend(piece);
        encoder.finish(None, &mut file).expect("a page was added");

        assert!(matches!(added, Err(Error::PageBeyondCommit { pgno, .. }) if pgno.get() == 3));
        assert_eq!(decode(&file).expect("it was just encoded").pages.len(), 2);
    }
}

#[test]
fn pages_that_were_compressed_apart_are_none_once_a_file_has_them() {
    for is_apart in [false, true] {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(header(2, 2, 9), Compression::Blocks, &mut file);
        if is_apart {
            file.clear();
        }
        let mut three = sevens(pgno(1), 3);
        encoder
            .pages(&mut three, &mut file)
            .expect("they follow each other");
        let len = file.len();

        let added = encoder.pages(&mut three, &mut file);

        assert_eq!((added, file.len()), (Ok(()), len));
    }
}

#[test]
fn pages_that_were_compressed_apart_are_of_the_files_size() {
    for is_apart in [false, true] {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(header(2, 2, 9), Compression::Blocks, &mut file);
        if is_apart {
            file.clear();
        }
        let mut large = CompressedPages::new(PageSize::MAX);
        large
            .compress(pgno(1), 1, |_| Ok::<_, Infallible>(()))
            .expect("the pages follow each other");

        let added = encoder.pages(&mut large, &mut file);

        let error = Error::PageLength {
            pgno: pgno(1),
            len: PageSize::MAX.bytes(),
            page_size: PageSize::MIN,
        };
        assert_eq!(added, Err(error));
    }
}

#[test]
fn pages_that_could_not_be_had_are_none() {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(header(2, 2, 9), Compression::Blocks, &mut file);
    let mut pages = sevens(pgno(1), 3);

    let filled = pages.compress(pgno(4), 3, |_| Err("the disk says no"));
    let len = file.len();
    encoder
        .pages(&mut pages, &mut file)
        .expect("they follow each other");

    assert_eq!((filled, file.len()), (Err("the disk says no"), len));
}

/// So many pages of the smallest size from `first` on, compressed apart.
fn sevens(first: ltx::Pgno, count: usize) -> CompressedPages {
    let mut pages = CompressedPages::new(PageSize::MIN);
    let filled = pages.compress(first, count, |room| {
        room.fill(7);
        Ok::<_, Infallible>(())
    });
    filled.expect("the block has no page that fails");
    pages
}

#[test]
fn pages_are_within_the_database() {
    let mut raw = Raw::new().txids(2, 2).commit(2);
    raw.pages = vec![Page::block(3, 1)];

    let error = Error::PageBeyondCommit {
        pgno: pgno(3),
        commit: 2,
        offset: 100,
    };
    check(raw, error);
}

#[test]
fn pages_ascend() {
    for number in [4, 5] {
        let mut raw = Raw::new().txids(2, 2).commit(9);
        raw.pages = vec![Page::block(5, 1), Page::block(number, 2)];

        let error = Error::PageOrder {
            pgno: pgno(number),
            last: 5,
            offset: 100 + raw.pages[0].bytes().len() as u64,
        };
        check(raw, error);
    }
}

#[test]
fn a_snapshot_holds_every_page() {
    let mut raw = Raw::new().commit(3);
    raw.pages = vec![Page::block(2, 1), Page::block(3, 1)];
    let expected = pgno(1);
    check(
        raw.clone(),
        Error::MissingPage {
            expected,
            offset: 100,
        },
    );

    raw.pages = vec![Page::block(1, 1), Page::block(3, 1)];
    let first = raw.pages[0].bytes().len() as u64;
    let expected = pgno(2);
    let offset = 100 + first;
    check(raw.clone(), Error::MissingPage { expected, offset });

    raw.pages = vec![Page::block(1, 1), Page::block(2, 1)];
    let expected = pgno(3);
    let offset = 100 + 2 * first;
    check(raw, Error::MissingPage { expected, offset });
}

#[test]
fn two_kinds_of_page_are_known() {
    for flags in [2u16, 3, 1 << 15] {
        let mut raw = Raw::new();
        raw.pages[0].flags = flags;
        let error = Error::PageFlags {
            pgno: 1,
            flags,
            offset: 100,
        };
        check(raw, error);
    }
    let mut raw = Raw::new();
    raw.pages[0].pgno = 0;
    let error = Error::PageFlags {
        pgno: 0,
        flags: 1,
        offset: 100,
    };
    check(raw, error);
}

#[test]
fn a_block_is_no_larger_than_a_page_can_need() {
    let max = 512 + 512 / 255 + 16;
    for size in [max as u32 + 1, u32::MAX] {
        let mut raw = Raw::new();
        raw.pages[0].size = Some(size);
        let error = Error::BlockSize {
            pgno: pgno(1),
            size,
            max,
            offset: 106,
        };
        check(raw, error);
    }
}

#[test]
fn a_block_holds_exactly_one_page() {
    for (page, fault) in [
        (Page::block_of(1, &[1; 511]), Short(511)),
        (Page::block_of(1, &[]), Short(0)),
    ] {
        check_page(page, 110, fault);
    }
    for page in [Page::block_of(1, &[1; 513]), Page::compressed(1, 1, &[])] {
        let mut raw = Raw::new();
        raw.pages = vec![page];
        let error = decode(&raw.bytes());
        assert!(
            matches!(
                error,
                Err(Error::Compression {
                    offset: 110,
                    fault: CompressionFault::Block(_),
                    ..
                })
            ),
            "{error:?}"
        );
    }
}

#[test]
fn a_frame_is_one_of_lz4s() {
    let change = |at: usize, to: u8, sum: bool| {
        let mut page = Page::frame(1, 1);
        page.compressed[at] = to;
        if sum {
            page.compressed[6] = (xxh32(&page.compressed[4..6]) >> 8) as u8;
        }
        page
    };
    let refuse = CompressionFault::FrameHeader;
    let reserved = "it has reserved bits or an unknown block size";
    for (page, fault) in [
        (
            change(0, 0, true),
            refuse("it does not begin with LZ4's magic number"),
        ),
        (change(4, 0xa4, true), refuse("its version is unknown")),
        (change(4, 0x66, true), refuse(reserved)),
        (change(5, 0x41, true), refuse(reserved)),
        (change(5, 0xc0, true), refuse(reserved)),
        (change(5, 0x30, true), refuse(reserved)),
        (change(4, 0x65, true), refuse("it needs a dictionary")),
        (
            change(5, 0x50, false),
            CompressionFault::FrameChecksum("header"),
        ),
    ] {
        check_page(page, 106, fault);
    }
}

#[test]
fn a_frame_holds_exactly_one_page() {
    let plain = |bytes: &[u8]| [&(bytes.len() as u32 | 1 << 31).to_le_bytes()[..], bytes].concat();
    let frame = |blocks: &[Vec<u8>], content: &[u8]| {
        let blocks = [&blocks.concat()[..], &[0; 4], &xxh32(content).to_le_bytes()].concat();
        Page::compressed(1, 0, &[&descriptor(0x64, &[])[..], &blocks].concat())
    };
    for (page, fault) in [
        (frame(&[], &[]), Short(0)),
        (frame(&[plain(&[1; 511])], &[1; 511]), Short(511)),
        (
            frame(&[plain(&[1; 512]), plain(&[1])], &[1; 513]),
            CompressionFault::FrameTooLong,
        ),
        (
            frame(&[plain(&[1; 600])], &[1; 600]),
            CompressionFault::FrameTooLong,
        ),
        (
            frame(&vec![plain(&[1; 300]); 4], &[1; 1200]),
            CompressionFault::FrameTooLong,
        ),
        (
            frame(&[plain(&[])], &[]),
            CompressionFault::FrameHeader("it has an empty block"),
        ),
        (
            frame(&[plain(&[1; 512])], &[2; 512]),
            CompressionFault::FrameChecksum("content"),
        ),
    ] {
        check_page(page, 106, fault);
    }
    // In a few blocks it is as good as in one.
    let mut raw = Raw::new();
    raw.pages = vec![frame(&[plain(&[1; 500]), plain(&[1; 12])], &[1; 512])];
    raw.pages[0].data = vec![1; 512];
    assert_eq!(
        decode(&raw.bytes()).unwrap().pages,
        [(pgno(1), vec![1; 512])]
    );
}

#[test]
fn a_page_that_does_not_compress_is_stored_in_a_frame_as_it_is() {
    let mut seed = 1u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    })
    .take(512)
    .collect();
    let record = |page: &[u8]| {
        let content = Content {
            header: header(1, 1, 1),
            pages: vec![(pgno(1), page.to_vec())],
            post_apply: None,
        };
        let file = encode(&content, Compression::Frames).unwrap();
        let range = find_index(&file).unwrap().record(pgno(1)).unwrap();
        file[range.start as usize..range.end as usize].to_vec()
    };

    assert_eq!(record(&noise)[6 + 7 + 4..][..512], noise);
    assert!(record(&[1; 512]).len() < 50);
}

/// What a frame's blocks take is bounded, or one could go on without end.
#[test]
fn a_frame_is_no_longer_than_two_pages() {
    let frame = |blocks: usize| {
        let mut frame = descriptor(0x60, &[]);
        for block in 0..blocks {
            // All but the last hold one byte.
            let len = if block + 1 < blocks { 1 } else { 513 - blocks };
            frame.extend((len as u32 | 1 << 31).to_le_bytes());
            frame.extend(vec![1; len]);
        }
        frame.extend([0; 4]);
        let mut page = Page::compressed(1, 0, &frame);
        page.data = vec![1; 512];
        page
    };
    // 140 blocks with their sizes, and what comes before and after them.
    assert_eq!(frame(140).compressed.len(), 7 + 140 * 4 + 512 + 4);
    let mut raw = Raw::new();
    raw.pages = vec![frame(140)];

    let taken = decode(&raw.bytes());

    assert_eq!(taken.unwrap().pages, [(pgno(1), vec![1; 512])]);
    check_page(frame(141), 106, CompressionFault::FrameTooLong);
}

#[test]
fn a_frames_own_size_and_checksums_are_checked() {
    let block = lz4_flex::block::compress(&[1; 512]);
    let frame = |flags: u8, size: &[u8], block_sum: u32| {
        let blocks = [
            &(block.len() as u32).to_le_bytes()[..],
            &block,
            &block_sum.to_le_bytes(),
            &[0; 4],
        ];
        let mut page = Page::compressed(
            1,
            0,
            &[&descriptor(flags, size)[..], &blocks.concat()].concat(),
        );
        page.data = vec![1; 512];
        page
    };
    let size = |size: u64| size.to_le_bytes();
    check_page(
        frame(0x78, &size(511), xxh32(&block)),
        106,
        CompressionFault::FrameContentSize(511),
    );
    check_page(
        frame(0x78, &size(512), 0),
        106,
        CompressionFault::FrameChecksum("block"),
    );

    let mut raw = Raw::new();
    raw.pages = vec![frame(0x78, &size(512), xxh32(&block))];
    assert_eq!(
        decode(&raw.bytes()).unwrap().pages,
        [(pgno(1), vec![1; 512])]
    );
}

/// Blocks that refer to the blocks before them, which LZ4's own tool writes for small pieces.
#[test]
fn a_frames_blocks_may_build_on_each_other() {
    let first = [b"0123456789abcdef".repeat(16)].concat();
    let second = lz4_flex::block::compress_with_dict(&first, &first);
    let frame = [
        &descriptor(0x40, &[])[..],
        &(first.len() as u32 | 1 << 31).to_le_bytes(),
        &first,
        &(second.len() as u32).to_le_bytes(),
        &second,
        &[0; 4],
    ]
    .concat();
    assert!(second.len() < 20, "the second block should be a reference");
    let mut raw = Raw::new();
    raw.pages = vec![Page::compressed(1, 0, &frame)];
    raw.pages[0].data = first.repeat(2);

    let decoded = decode(&raw.bytes());

    assert_eq!(decoded.unwrap().pages, [(pgno(1), first.repeat(2))]);
}

#[test]
fn the_index_lists_the_pages() {
    let record = Page::block(1, 1).bytes().len() as u64;
    let second = 100 + record;
    let end = second + record;
    let (one, two) = (pgno(1), pgno(2));
    // The numbers of an index, and after how many of them what is wrong.
    for (numbers, read, fault) in [
        (&[3, 100][..], 1, IndexFault::Page(3)),
        (&[1, 100, record, 1], 4, IndexFault::Page(1)),
        (&[1, 100, record, 3], 4, IndexFault::Page(3)),
        (&[u64::MAX], 1, IndexFault::Page(u64::MAX)),
        (
            &[1, 101],
            2,
            IndexFault::Offset {
                pgno: one,
                offset: 101,
                end: 100,
            },
        ),
        (
            &[1, 100, record, 2, second + 1],
            5,
            IndexFault::Offset {
                pgno: two,
                offset: second + 1,
                end: second,
            },
        ),
        (&[1, 100, 10], 3, IndexFault::Length { pgno: one, len: 10 }),
        (
            &[1, 100, u64::MAX],
            3,
            IndexFault::Length {
                pgno: one,
                len: u64::MAX,
            },
        ),
        // A page that is not listed, and lengths of which only the sum is right.
        (
            &[1, 100, record, 0],
            4,
            IndexFault::End {
                records_end: second,
                pages_end: end,
            },
        ),
        (
            &[1, 100, record + 1, 2, second + 1, record - 1, 0],
            7,
            IndexFault::Disagrees,
        ),
    ] {
        let mut raw = Raw::new().commit(2);
        raw.pages = vec![Page::block(1, 1), Page::block(2, 1)];
        raw.index = Some(numbers.iter().copied().flat_map(varint).collect());
        let len = numbers[..read].iter().copied().flat_map(varint).count() as u64;

        // The place is the last byte of the number that is wrong.
        let offset = end + 6 + len - 1;
        check(raw, Error::Index { offset, fault });
    }
}

#[test]
fn the_numbers_of_the_index_are_in_their_shortest_form() {
    for (index, at) in [
        (&[0x81, 0x00][..], 1),
        (&[0x80, 0x00], 1),
        (&[0xff; 10], 9),
        (
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02],
            9,
        ),
    ] {
        let mut raw = Raw::new();
        let start = 100 + raw.pages[0].bytes().len() as u64 + 6;
        raw.index = Some(index.to_vec());

        let error = Error::Index {
            offset: start + at,
            fault: IndexFault::Number,
        };
        check(raw, error);
    }
}

#[test]
fn the_index_is_as_long_as_it_says() {
    let mut raw = Raw::new();
    let index = raw.index().len() as u64;
    raw.index_size = Some(index + 1);

    let fault = IndexFault::Size {
        said: index + 1,
        len: index,
    };
    let offset = 100 + raw.pages[0].bytes().len() as u64 + 6 + index;
    check(raw, Error::Index { offset, fault });
}

#[test]
fn a_file_without_checksums_has_none_after_it() {
    for stored in [1, BIT_63] {
        let mut raw = Raw::new();
        raw.post_apply = stored;
        let file = FileKind::WithoutChecksums;
        check(raw, Error::PostApply { stored, file });
    }
}

#[test]
fn a_file_with_checksums_has_one_after_it() {
    for stored in [0, 1] {
        let raw = Raw::new().with_checksums(0, stored);
        let file = FileKind::Snapshot;
        check(raw, Error::PostApply { stored, file });

        let raw = Raw::new().txids(2, 2).with_checksums(BIT_63, stored);
        let file = FileKind::Incremental;
        check(raw, Error::PostApply { stored, file });
    }
}

#[test]
fn an_empty_database_has_the_empty_checksum() {
    let mut raw = Raw::new().commit(0).with_checksums(0, BIT_63 | 1);
    raw.pages.clear();
    let error = Error::PostApply {
        stored: BIT_63 | 1,
        file: FileKind::EmptyDatabase,
    };
    check(raw.clone(), error);

    raw.post_apply = BIT_63;
    assert_eq!(
        decode(&raw.bytes()).unwrap().post_apply,
        Some(Checksum::EMPTY)
    );
}

#[test]
fn a_snapshots_checksum_is_that_of_its_pages() {
    let stored = Checksum::new(BIT_63 | 5).unwrap();
    let mut computed = DatabaseChecksum::default();
    computed.add(Checksum::of_page(pgno(1), &[1; 512]));
    let computed = computed.get();

    let raw = Raw::new().with_checksums(0, stored.get());

    check(raw, Error::DatabaseChecksum { stored, computed });
}

#[test]
fn a_file_has_the_checksum_of_its_content() {
    for change in [1, BIT_63] {
        let mut file = Raw::new().bytes();
        let len = file.len();
        let right = u64::from_be_bytes(file[len - 8..].try_into().unwrap());
        let stored = right ^ change;
        file[len - 8..].copy_from_slice(&stored.to_be_bytes());

        let error = Error::FileChecksum {
            stored,
            computed: Checksum::new(right).unwrap(),
        };
        assert_eq!(decode(&file), Err(error));
    }
}

#[test]
fn a_cut_file_says_what_it_was_cut_in() {
    let file = Raw::new().bytes();
    let record = Raw::new().pages[0].bytes().len();
    let pages_end = 100 + record;
    for (len, part) in [
        (0, Part::Header),
        (99, Part::Header),
        (100, Part::Pages),
        (105, Part::Pages),
        (106, Part::Page(pgno(1))),
        (pages_end - 1, Part::Page(pgno(1))),
        (pages_end, Part::Pages),
        (pages_end + 6, Part::Index),
        (file.len() - 17, Part::Index),
        (file.len() - 16, Part::Trailer),
        (file.len() - 1, Part::Trailer),
    ] {
        let error = Error::Truncated {
            len: len as u64,
            part,
        };
        assert_eq!(decode(&file[..len]), Err(error));
    }
}

#[test]
fn an_error_stays() {
    let mut file = Raw::new().header(0, *b"LTX2").bytes();
    let mut decoder = ltx::Decoder::new();
    let first = decoder.decode(&mut &file[..], &mut []);
    file[3] = b'1';

    let second = decoder.decode(&mut &file[..], &mut []);

    assert!(first.is_err());
    assert_eq!(first, second);
    assert_eq!(decoder.finish().map(|_| ()), second.map(|_| ()));
}

#[test]
fn a_buffer_without_room_for_a_page_is_refused_and_can_be_replaced() {
    let file = Raw::new().bytes();
    let mut input = &file[..];
    let mut decoder = ltx::Decoder::new();
    decoder.decode(&mut input, &mut []).unwrap();

    let refused = decoder.decode(&mut input, &mut [0; 511]);
    let taken = decoder.decode(&mut input, &mut [0; 512]);

    let page_size = PageSize::MIN;
    assert_eq!(
        refused,
        Err(Error::Buffer {
            len: 511,
            page_size
        })
    );
    assert_eq!(taken, Ok(ltx::Step::Page(pgno(1))));
}

#[test]
fn an_encoder_keeps_the_same_rules() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(header(2, 2, 9), Compression::Blocks, &mut out);
    let page = [1; 512];
    encoder.page(pgno(5), &page, &mut out).unwrap();
    let before = out.clone();
    let offset = out.len() as u64;

    for (number, len, error) in [
        (
            5,
            512,
            Error::PageOrder {
                pgno: pgno(5),
                last: 5,
                offset,
            },
        ),
        (
            10,
            512,
            Error::PageBeyondCommit {
                pgno: pgno(10),
                commit: 9,
                offset,
            },
        ),
        (
            6,
            511,
            Error::PageLength {
                pgno: pgno(6),
                len: 511,
                page_size: PageSize::MIN,
            },
        ),
    ] {
        let refused = encoder.page(pgno(number), &page[..len], &mut out);
        assert_eq!(refused, Err(error));
        assert_eq!(out, before, "what is refused leaves no bytes");
    }
    // And goes on as if nothing had happened.
    encoder.page(pgno(6), &page, &mut out).unwrap();
    encoder.finish(None, &mut out).unwrap();
    assert_eq!(decode(&out).unwrap().pages.len(), 2);
}

#[test]
fn an_encoder_finishes_only_what_is_complete() {
    let five = Checksum::new(BIT_63 | 5).unwrap();
    let some = Some(five);
    let plain = header(1, 1, 1);
    let snapshot = plain.with_checksums(None).unwrap();
    let incremental = header(2, 2, 1).with_checksums(some).unwrap();
    let one = vec![(pgno(1), vec![1; 512])];
    let computed = Checksum::of_page(pgno(1), &[1; 512]);
    let finish = |header: Header, pages: &[_], post_apply| {
        let pages = pages.to_vec();
        let content = Content {
            header,
            pages,
            post_apply,
        };
        encode(&content, Compression::Blocks).map(|file| decode(&file).unwrap().post_apply)
    };

    let missing = Error::MissingPage {
        expected: pgno(1),
        offset: 100,
    };
    assert_eq!(finish(plain, &[], None), Err(missing));
    let refused = Error::PostApply {
        stored: BIT_63 | 5,
        file: FileKind::WithoutChecksums,
    };
    assert_eq!(finish(plain, &one, some), Err(refused));
    let refused = Error::PostApply {
        stored: 0,
        file: FileKind::Incremental,
    };
    assert_eq!(finish(incremental, &one, None), Err(refused));
    let refused = Error::DatabaseChecksum {
        stored: five,
        computed,
    };
    assert_eq!(finish(snapshot, &one, some), Err(refused));
    assert_eq!(finish(snapshot, &one, None), Ok(Some(computed)));
    assert_eq!(finish(snapshot, &one, Some(computed)), Ok(Some(computed)));
    assert_eq!(finish(incremental, &one, some), Ok(some));
    assert_eq!(finish(plain, &one, None), Ok(None));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let mut raw = Raw::new().txids(2, 2).commit(2);
    raw.pages = vec![Page::block(3, 1)];
    let error = decode(&raw.bytes()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "page 3 at byte 100: the database ends at page 2"
    );

    let error = decode(b"SQLite format 3\0".repeat(10).as_slice()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not an LTX file: it begins with \"SQLi\", not with \"LTX1\""
    );

    let error = decode(&Raw::new().bytes()[..120]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the file ends at byte 120, in the middle of page 1"
    );
}

/// A search reads none of the pages, so it finds an index only where it is told of one.
#[test]
fn a_search_checks_the_index_it_is_led_to() {
    let record = Raw::new().pages[0].bytes().len() as u64;
    let pages_end = 100 + record;
    let index_end = pages_end + 6 + Raw::new().index().len() as u64;
    let with = |change: fn(&mut Raw)| {
        let mut raw = Raw::new();
        change(&mut raw);
        find_index(&raw.bytes()).map(|index| index.len())
    };

    assert_eq!(with(|_| {}), Ok(1));
    let fault = IndexFault::TooLong(u64::MAX);
    let offset = index_end;
    assert_eq!(
        with(|raw| raw.index_size = Some(u64::MAX)),
        Err(Error::Index { offset, fault })
    );
    let fault = IndexFault::NoPagesEnd;
    let offset = pages_end + 1;
    assert_eq!(
        with(|raw| raw.index_size = Some(raw.index().len() as u64 - 1)),
        Err(Error::Index { offset, fault })
    );
    let fault = IndexFault::Unended;
    let offset = pages_end + 6 + 1;
    assert_eq!(
        with(|raw| raw.index = Some(vec![1])),
        Err(Error::Index { offset, fault })
    );
    let expected = pgno(2);
    let offset = pages_end;
    let missing = with(|raw| *raw = raw.clone().commit(2));
    assert_eq!(missing, Err(Error::MissingPage { expected, offset }));
    let file = FileKind::WithoutChecksums;
    assert_eq!(
        with(|raw| raw.post_apply = 7),
        Err(Error::PostApply { stored: 7, file })
    );
}

use CompressionFault::Short;

/// Checks that `raw` is refused with `error`, in one piece and byte by byte.
#[track_caller]
fn check(raw: Raw, error: Error) {
    let file = raw.bytes();

    assert_eq!(decode(&file), Err(error.clone()));
    assert_eq!(decode_pieces(file.chunks(1)), Err(error));
}

/// Checks that a file with `page` as its only one is refused because of `fault` in its compressed
/// bytes, which are at byte `offset`.
#[track_caller]
fn check_page(page: Page, offset: u64, fault: CompressionFault) {
    let mut raw = Raw::new();
    raw.pages = vec![page];
    let error = Error::Compression {
        pgno: pgno(1),
        offset,
        fault,
    };
    check(raw, error);
}

/// A file in parts, of which each can be wrong.
#[derive(Clone)]
struct Raw {
    header: Vec<u8>,
    pages: Vec<Page>,
    index: Option<Vec<u8>>,
    index_size: Option<u64>,
    post_apply: u64,
}

#[derive(Clone)]
struct Page {
    pgno: u32,
    flags: u16,
    size: Option<u32>,
    compressed: Vec<u8>,
    data: Vec<u8>,
}

impl Raw {
    /// A valid snapshot of one page, without checksums.
    fn new() -> Raw {
        Raw {
            header: header(1, 1, 1).encode().to_vec(),
            pages: vec![Page::block(1, 1)],
            index: None,
            index_size: None,
            post_apply: 0,
        }
    }

    /// The same file with other bytes in its header.
    fn header<const N: usize>(mut self, at: usize, bytes: [u8; N]) -> Raw {
        self.header[at..at + N].copy_from_slice(&bytes);
        self
    }

    fn commit(self, commit: u32) -> Raw {
        self.header(12, commit.to_be_bytes())
    }

    fn txids(self, min: u64, max: u64) -> Raw {
        self.header(16, min.to_be_bytes())
            .header(24, max.to_be_bytes())
    }

    fn with_checksums(mut self, pre_apply: u64, post_apply: u64) -> Raw {
        self.post_apply = post_apply;
        self.header(4, [0; 4]).header(40, pre_apply.to_be_bytes())
    }

    /// The index that belongs to the pages, or the one that was set.
    fn index(&self) -> Vec<u8> {
        if let Some(index) = &self.index {
            return index.clone();
        }
        let mut index = Vec::new();
        let mut offset = 100;
        for page in &self.pages {
            let len = page.bytes().len() as u64;
            for number in [u64::from(page.pgno), offset, len] {
                index.extend(varint(number));
            }
            offset += len;
        }
        index.push(0);
        index
    }

    /// The file, with the checksum of its content.
    fn bytes(&self) -> Vec<u8> {
        let mut file = self.header.clone();
        let mut crc = Digest::new(CrcAlgorithm::Crc64GoIso);
        crc.update(&self.header);
        for page in &self.pages {
            let bytes = page.bytes();
            let stored = bytes.len() - page.compressed.len();
            crc.update(&bytes[..stored]);
            crc.update(&page.data);
            file.extend(bytes);
        }
        let index = self.index();
        let size = self.index_size.unwrap_or(index.len() as u64);
        let end = [
            &[0; 6][..],
            &index,
            &size.to_be_bytes(),
            &self.post_apply.to_be_bytes(),
        ]
        .concat();
        crc.update(&end);
        file.extend(end);
        file.extend((crc.finalize() | BIT_63).to_be_bytes());
        file
    }
}

impl Page {
    /// A valid page of 512 times `byte`, as a block.
    fn block(pgno: u32, byte: u8) -> Page {
        Page::block_of(pgno, &[byte; 512])
    }

    fn block_of(pgno: u32, data: &[u8]) -> Page {
        let mut page = Page::compressed(pgno, 1, &lz4_flex::block::compress(data));
        page.data = data.to_vec();
        page
    }

    /// A valid page of 512 times `byte`, as a frame of one block.
    fn frame(pgno: u32, byte: u8) -> Page {
        let data = [byte; 512];
        let block = lz4_flex::block::compress(&data);
        let frame = [
            &descriptor(0x64, &[])[..],
            &(block.len() as u32).to_le_bytes(),
            &block,
            &[0; 4],
            &xxh32(&data).to_le_bytes(),
        ];
        let mut page = Page::compressed(pgno, 0, &frame.concat());
        page.data = data.to_vec();
        page
    }

    fn compressed(pgno: u32, flags: u16, compressed: &[u8]) -> Page {
        Page {
            pgno,
            flags,
            size: (flags == 1).then_some(compressed.len() as u32),
            compressed: compressed.to_vec(),
            data: Vec::new(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let size = self.size.map(u32::to_be_bytes);
        [
            &self.pgno.to_be_bytes()[..],
            &self.flags.to_be_bytes(),
            size.as_ref().map_or(&[], |size| &size[..]),
            &self.compressed,
        ]
        .concat()
    }
}

/// The beginning of an LZ4 frame with these flags.
fn descriptor(flags: u8, size: &[u8]) -> Vec<u8> {
    let checked = [&[flags, 0x40][..], size].concat();
    let checksum = (xxh32(&checked) >> 8) as u8;
    [&0x184d_2204_u32.to_le_bytes()[..], &checked, &[checksum]].concat()
}

fn xxh32(bytes: &[u8]) -> u32 {
    twox_hash::XxHash32::oneshot(0, bytes)
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

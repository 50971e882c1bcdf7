//! What a decoder allocates, whatever a file says of itself.

use allocation_counter::{AllocationInfo, measure};
use ltx::{Compression, Decoder, Encoder, Error, Header, PageSize, Step, Timestamp};

use crate::file::{Content, decode, encode, header, pgno, txids};

#[test]
fn a_size_of_four_gibibytes_allocates_nothing() {
    let file = small_file(Compression::Blocks);
    let mut claiming = file.clone();
    claiming[106..110].copy_from_slice(&u32::MAX.to_be_bytes());

    let used = measure(|| decode_only(claiming.chunks(7)));

    assert!(
        matches!(decode(&claiming), Err(Error::BlockSize { .. })),
        "the size should be refused"
    );
    assert!(used.bytes_max < 1000, "{used:?}");
}

#[test]
fn a_frame_of_four_gibibytes_allocates_nothing() {
    let file = small_file(Compression::Frames);
    // Magic number, flags, block size and their checksum come before the first block's size.
    let size = 100 + 6 + 7;
    let mut claiming = file.clone();
    claiming[size..size + 4].copy_from_slice(&(u32::MAX >> 1).to_le_bytes());

    let used = measure(|| decode_only(claiming.chunks(7)));

    assert!(
        matches!(decode(&claiming), Err(Error::Compression { .. })),
        "the size should be refused"
    );
    assert!(used.bytes_max < 1000, "{used:?}");
}

#[test]
fn memory_does_not_grow_with_the_file() {
    let [few, many] = [100, 20_000].map(|pages| {
        let file = large_file(pages);
        measure(|| decode_only(file.chunks(1000)))
    });

    assert_eq!(few.bytes_max, many.bytes_max);
    // One record, and what `Vec` grows it by.
    assert!(many.bytes_max < 2 * 512 + 100, "{many:?}");
}

#[test]
fn a_file_in_one_piece_costs_no_allocation_a_page() {
    let file = large_file(1000);

    let used = measure(|| decode_only([&file[..]]));

    assert_eq!(used.count_total, 0, "{used:?}");
}

#[test]
fn an_encoder_holds_its_index_and_little_else() {
    let page = [7; 512];
    let index = 20_000 * 10;

    let used: AllocationInfo = measure(|| {
        let mut out = Vec::with_capacity(4096);
        let header = Header::new(PageSize::MIN, 20_000, txids(1, 1), Timestamp::EPOCH);
        let mut encoder = Encoder::new(header, Compression::Blocks, &mut out);
        for number in 1..=20_000 {
            encoder.page(pgno(number), &page, &mut out).unwrap();
            out.clear();
        }
    });

    // The index doubles as it grows; the rest is LZ4's table and a block.
    assert!(used.bytes_max < 3 * index + 32 * 1024, "{used:?}");
}

fn decode_only<'f>(pieces: impl IntoIterator<Item = &'f [u8]>) {
    let mut page = [0; 512];
    let mut decoder = Decoder::new();
    for mut piece in pieces {
        while !matches!(
            decoder.decode(&mut piece, &mut page),
            Ok(Step::NeedInput) | Err(_)
        ) {}
    }
}

fn small_file(compression: Compression) -> Vec<u8> {
    let content = Content {
        header: header(1, 1, 1),
        pages: vec![(pgno(1), vec![1; 512])],
        post_apply: None,
    };
    encode(&content, compression).unwrap()
}

/// A file of pages that do not compress.
fn large_file(pages: u32) -> Vec<u8> {
    let mut seed = 1u32;
    let mut noise = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    let content = Content {
        header: header(1, 1, pages),
        pages: (1..=pages)
            .map(|number| (pgno(number), (0..512).map(|_| noise()).collect()))
            .collect(),
        post_apply: None,
    };
    encode(&content, Compression::Blocks).unwrap()
}

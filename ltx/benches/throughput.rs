//! Encoding, decoding and merging on one core, beside LZ4 and the CRC alone on the same pages.
//!
//! `cargo bench -p ltx`. The figure to read is each format bench's time over the sum of its raw
//! parts. Decoding is `lz4_decompress` and `crc`; encoding is `lz4_compress` and `crc`. Merging
//! reads 1.75 times as many pages as it writes here, and compresses none again: it is 1.75 times
//! decoding, and one `crc`.

#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use ltx::{
    Compression, Decoder, Encoder, Header, Merge, MergeStep, PageSize, Pgno, Step, Timestamp, Txid,
    TxidRange,
};
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};

const PAGE: usize = 4096;
const PAGES: u32 = 4096;
/// What is read or written at a time.
const CHUNK: usize = 1 << 20;

fn main() {
    divan::main();
}

/// What the pages hold.
#[derive(Clone, Copy, Debug)]
enum Content {
    /// Rows of words, numbers and ids, as tables have them: LZ4 leaves about a fifth.
    Rows,
    /// Bytes that do not compress.
    Random,
}

const CONTENTS: [Content; 2] = [Content::Rows, Content::Random];

#[divan::bench(args = CONTENTS)]
fn lz4_compress(bencher: Bencher<'_, '_>, content: Content) {
    let pages = pages(content, PAGES);
    let mut table = CompressTable::default();
    let mut block = vec![0; get_maximum_output_size(PAGE)];

    throughput(bencher).bench_local(|| {
        for page in &pages {
            let len = compress_into_with_table(page, &mut block, &mut table).unwrap();
            black_box(&block[..len]);
        }
    });
}

#[divan::bench(args = CONTENTS)]
fn lz4_decompress(bencher: Bencher<'_, '_>, content: Content) {
    let blocks: Vec<Vec<u8>> = pages(content, PAGES)
        .iter()
        .map(|page| lz4_flex::block::compress(page))
        .collect();
    let mut out = vec![0; CHUNK];

    throughput(bencher).bench_local(|| {
        for (block, page) in blocks.iter().zip((0..CHUNK / PAGE).cycle()) {
            let page = &mut out[page * PAGE..][..PAGE];
            decompress_into(block, page).unwrap();
            black_box(page);
        }
    });
}

#[divan::bench(args = CONTENTS)]
fn crc(bencher: Bencher<'_, '_>, content: Content) {
    let pages = pages(content, PAGES);

    throughput(bencher).bench_local(|| {
        let mut digest = Digest::new(CrcAlgorithm::Crc64GoIso);
        for page in &pages {
            digest.update(page);
        }
        black_box(digest.finalize())
    });
}

#[divan::bench(args = CONTENTS)]
fn encode(bencher: Bencher<'_, '_>, content: Content) {
    let pages = pages(content, PAGES);
    let mut out = Vec::with_capacity(2 * CHUNK);

    throughput(bencher).bench_local(|| {
        out.clear();
        encode_into(&pages, 1, 1, 1, &mut out, write_out);
        black_box(out.len())
    });
}

#[divan::bench(args = CONTENTS)]
fn decode(bencher: Bencher<'_, '_>, content: Content) {
    let mut file = Vec::new();
    encode_into(&pages(content, PAGES), 1, 1, 1, &mut file, |_| {});
    let mut out = vec![0; CHUNK];

    throughput(bencher).bench_local(|| {
        let mut decoder = Decoder::new();
        let mut page = 0;
        for mut chunk in file.chunks(CHUNK) {
            loop {
                match decoder.decode(&mut chunk, &mut out[page * PAGE..]).unwrap() {
                    Step::NeedInput => break,
                    Step::Header(_) => {}
                    Step::Page(_) => page = (page + 1) % (CHUNK / PAGE),
                }
            }
        }
        black_box(decoder.finish().unwrap())
    });
}

/// A whole database and three files with every fourth page of it, which together become as many
/// pages as the other benches have.
#[divan::bench(args = CONTENTS)]
fn merge(bencher: Bencher<'_, '_>, content: Content) {
    let pages = pages(content, PAGES);
    let files: Vec<Bytes> = [(1, 1, 1), (2, 1, 4), (3, 2, 4), (4, 3, 4)]
        .map(|(txid, first, step)| {
            let mut file = Vec::new();
            encode_into(&pages, txid, first, step, &mut file, |_| {});
            Bytes::from(file)
        })
        .into();
    let mut out = Vec::new();

    throughput(bencher).bench_local(|| {
        let mut merge = Merge::new(files.len(), Compression::Blocks);
        for (input, file) in files.iter().enumerate() {
            merge.supply(input, file.clone());
            merge.end(input);
        }
        out.clear();
        loop {
            match merge.step(&mut out).unwrap() {
                MergeStep::Page(_) => write_out(&mut out),
                MergeStep::NeedInput(input) => unreachable!("{input} has all"),
                MergeStep::Done(trailer) => break black_box(trailer),
            }
        }
    });
}

fn throughput<'a, 'b>(bencher: Bencher<'a, 'b>) -> Bencher<'a, 'b> {
    bencher.counter(BytesCount::new(PAGES as usize * PAGE))
}

/// What a program does with a full buffer, but for the writing.
fn write_out(out: &mut Vec<u8>) {
    if out.len() >= CHUNK {
        black_box(&out[..]);
        out.clear();
    }
}

/// A file of every `step`th page from `first` on, with a look at the buffer after each.
fn encode_into(
    pages: &[Vec<u8>],
    txid: u64,
    first: u32,
    step: usize,
    out: &mut Vec<u8>,
    after_page: impl Fn(&mut Vec<u8>),
) {
    let txid = TxidRange::single(Txid::new(txid).unwrap());
    let page_size = PageSize::new(PAGE as u32).unwrap();
    let header = Header::new(page_size, PAGES, txid, Timestamp::EPOCH);
    let mut encoder = Encoder::new(header, Compression::Blocks, out);
    for pgno in (first..=PAGES).step_by(step) {
        let page = &pages[pgno as usize - 1];
        encoder.page(Pgno::new(pgno).unwrap(), page, out).unwrap();
        after_page(out);
    }
    encoder.finish(None, out).unwrap();
}

fn pages(content: Content, count: u32) -> Vec<Vec<u8>> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    (0..count)
        .map(|_| match content {
            Content::Rows => rows(&mut random),
            Content::Random => (0..PAGE).map(|_| random.next() as u8).collect(),
        })
        .collect()
}

/// A page like a table's leaf: free space, then rows of a key and a few fields as text.
fn rows(random: &mut Random) -> Vec<u8> {
    const FIELDS: [&str; 8] = [
        "{\"status\":\"delivered\",",
        "{\"status\":\"pending\",",
        "\"updated_at\":\"2026-11-21T07:44:47Z\",",
        "\"customer\":\"someone@example.org\",",
        "\"warehouse\":\"north\",",
        "\"warehouse\":\"south\",",
        "\"carrier\":\"express\",",
        "\"note\":null}",
    ];
    let mut page = vec![0; PAGE / 5];
    while page.len() < PAGE {
        page.extend_from_slice(&[0x8a, 0x2b, 0x07, 0x00]);
        page.extend_from_slice(&(random.next() as u32 & 0xffff).to_be_bytes());
        for _ in 0..6 {
            let field = FIELDS[random.next() as usize % FIELDS.len()];
            page.extend_from_slice(field.as_bytes());
        }
    }
    page.truncate(PAGE);
    page
}

/// Marsaglia's xorshift: the same pages in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
}

//! Files of any content, damaged or not, merge into a valid file or an error.

#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary, Unstructured};
use libfuzzer_sys::fuzz_target;
use ltx::{
    Checksum, Compression, Decoder, Encoder, Error, Header, Merge, MergeStep, PageSize, Pgno, Step,
    Timestamp, Txid, TxidRange,
};

#[derive(Arbitrary, Debug)]
struct Input {
    files: Vec<File>,
    piece: u8,
    frames: bool,
}

#[derive(Arbitrary, Debug)]
struct File {
    large_pages: bool,
    frames: bool,
    /// A few pages, so that a round is quick.
    #[arbitrary(with = |u: &mut Unstructured| u.int_in_range(0..=20))]
    commit: u8,
    /// From where the file before ends: back, and on.
    back: u8,
    on: u8,
    checksums: Option<(u64, u64)>,
    pages: Vec<(u8, Vec<u8>)>,
    damage: Option<(u16, u8)>,
}

fuzz_target!(|input: Input| {
    let mut last = 0;
    let files: Vec<Vec<u8>> = input
        .files
        .iter()
        .take(8)
        .map(|file| {
            let mut bytes = encode(file, &mut last);
            if let Some((at, change)) = file.damage {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= change;
            }
            bytes
        })
        .collect();

    if let Ok(merged) = merge(
        &files,
        usize::from(input.piece) + 1,
        compression(input.frames),
    ) {
        check(&merged).expect("a merge makes a valid file");
    }
});

fn encode(file: &File, last: &mut u64) -> Vec<u8> {
    let min = (*last + 1).saturating_sub(u64::from(file.back)).max(1);
    let max = min.max(*last + u64::from(file.on));
    *last = max;
    let [min, max] = [min, max].map(|id| Txid::new(id).unwrap());
    let page_size = PageSize::new(if file.large_pages { 1024 } else { 512 }).unwrap();
    let txids = TxidRange::new(min, max).unwrap();
    let mut header = Header::new(
        page_size,
        u32::from(file.commit),
        txids,
        Timestamp::from_millis(max.get() as i64),
    );
    let mut post_apply = None;
    if let Some((pre, post)) = file.checksums {
        let [pre, post] = [pre, post].map(|sum| Checksum::new(sum | 1 << 63));
        header = header
            .with_checksums(pre.filter(|_| min != Txid::FIRST))
            .unwrap();
        post_apply = match (min == Txid::FIRST, file.commit) {
            (true, _) => None,
            (false, 0) => Some(Checksum::EMPTY),
            (false, _) => post,
        };
    }

    let mut out = Vec::new();
    let mut encoder = Encoder::new(header, compression(file.frames), &mut out);
    let mut page = vec![0; page_size.bytes()];
    let mut add = |number: u8, content: &[u8], out: &mut Vec<u8>| {
        page.fill(number);
        for (to, from) in page.iter_mut().zip(content) {
            *to = *from;
        }
        // What does not ascend or lies beyond the end is refused, and leaves nothing behind.
        if let Some(pgno) = Pgno::new(u32::from(number)) {
            let _ = encoder.page(pgno, &page, out);
        }
    };
    if min == Txid::FIRST {
        for number in 1..=file.commit {
            let content = file.pages.get(usize::from(number));
            add(
                number,
                content.map_or(&[], |(_, content)| content),
                &mut out,
            );
        }
    } else {
        for (number, content) in &file.pages {
            add(*number, content, &mut out);
        }
    }
    encoder.finish(post_apply, &mut out).unwrap();
    out
}

fn merge(files: &[Vec<u8>], piece: usize, compression: Compression) -> Result<Vec<u8>, Error> {
    let mut pieces: Vec<_> = files.iter().map(|file| file.chunks(piece)).collect();
    let mut merge = Merge::new(files.len(), compression);
    let mut out = Vec::new();
    loop {
        match merge.step(&mut out)? {
            MergeStep::NeedInput(input) => match pieces[input].next() {
                Some(piece) => merge.supply(input, piece.to_vec().into()),
                None => merge.end(input),
            },
            MergeStep::Page(_) => {}
            MergeStep::Done(_) => return Ok(out),
        }
    }
}

fn check(mut file: &[u8]) -> Result<(), Error> {
    let mut decoder = Decoder::new();
    let mut page = [0; 1024];
    while decoder.decode(&mut file, &mut page)? != Step::NeedInput {}
    decoder.finish().map(|_| ())
}

fn compression(frames: bool) -> Compression {
    if frames {
        Compression::Frames
    } else {
        Compression::Blocks
    }
}

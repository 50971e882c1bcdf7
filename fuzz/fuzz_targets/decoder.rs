//! Any bytes decode to a value or an error, the same one in one piece and in many; and what
//! decodes is what it encodes to.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ltx::{Compression, Decoder, Encoder, Error, Header, Pgno, Step, Trailer};

fuzz_target!(|input: &[u8]| {
    // The first byte is the size of the pieces.
    let Some((&piece, file)) = input.split_first() else {
        return;
    };
    let mut file = file.to_vec();

    let mut result = decode(&[&file]);
    // Nobody guesses a checksum, so set it right, and come to what lies behind it.
    if let Err(Error::FileChecksum { computed, .. }) = result {
        let checksum = file.len() - 8;
        file[checksum..].copy_from_slice(&computed.get().to_be_bytes());
        result = decode(&[&file]);
    }

    let pieces: Vec<&[u8]> = file.chunks(usize::from(piece) + 1).collect();
    assert_eq!(decode(&pieces), result);

    if let Ok((header, pages, trailer)) = result {
        for compression in [Compression::Blocks, Compression::Frames] {
            let mut again = Vec::new();
            let mut encoder = Encoder::new(header, compression, &mut again);
            for (pgno, page) in &pages {
                encoder.page(*pgno, page, &mut again).unwrap();
            }
            encoder.finish(trailer.post_apply, &mut again).unwrap();

            let (header_again, pages_again, trailer_again) = decode(&[&again]).unwrap();
            assert_eq!(header_again, header);
            assert_eq!(pages_again, pages);
            assert_eq!(trailer_again.post_apply, trailer.post_apply);
        }
    }
});

type Content = (Header, Vec<(Pgno, Vec<u8>)>, Trailer);

fn decode(pieces: &[&[u8]]) -> Result<Content, Error> {
    let mut decoder = Decoder::new();
    let mut page = vec![0; 65_536];
    let mut pages = Vec::new();
    for mut piece in pieces.iter().copied() {
        loop {
            match decoder.decode(&mut piece, &mut page)? {
                Step::NeedInput => break,
                Step::Header(header) => page.truncate(header.page_size().bytes()),
                Step::Page(pgno) => pages.push((pgno, page.clone())),
            }
        }
    }
    let trailer = decoder.finish()?;
    Ok((*decoder.header().unwrap(), pages, trailer))
}

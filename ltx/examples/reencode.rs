//! Rewrites an LTX file page by page: decodes it, checks it, and encodes what it holds.
//!
//! `cargo run -p ltx --example reencode -- IN OUT [blocks|frames]`

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};

use ltx::{Compression, Encoder, Reader};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (input, output, compression) = match args.iter().map(String::as_str).collect::<Vec<_>>()[..]
    {
        [input, output] | [input, output, "blocks"] => (input, output, Compression::Blocks),
        [input, output, "frames"] => (input, output, Compression::Frames),
        _ => return Err("usage: reencode IN OUT [blocks|frames]".into()),
    };

    let mut reader = Reader::new(File::open(input)?)?;
    let mut file = BufWriter::new(File::create(output)?);
    let mut page = vec![0; reader.header().page_size().bytes()];
    let mut out = Vec::new();
    let mut encoder = Encoder::new(*reader.header(), compression, &mut out);
    while let Some(pgno) = reader.next_page(&mut page)? {
        encoder.page(pgno, &page, &mut out)?;
        file.write_all(&out)?;
        out.clear();
    }
    let post_apply = reader.trailer().and_then(|trailer| trailer.post_apply);
    encoder.finish(post_apply, &mut out)?;
    file.write_all(&out)?;
    file.into_inner()?.sync_all()?;
    Ok(())
}

//! Merges LTX files that follow one another into one, as a compaction does.
//!
//! `cargo run -p ltx --example merge -- OUT IN…`, the oldest first.

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Read, Write};

use ltx::{Compression, Merge, MergeStep};

/// How much is read of an input at a time.
const PIECE: usize = 64 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let mut paths = std::env::args_os().skip(1);
    let output = paths.next().ok_or("usage: merge OUT IN…")?;
    let mut inputs = paths.map(File::open).collect::<Result<Vec<_>, _>>()?;

    let mut file = BufWriter::new(File::create(output)?);
    let mut merge = Merge::new(inputs.len(), Compression::Blocks);
    let mut out = Vec::new();
    loop {
        match merge.step(&mut out)? {
            MergeStep::NeedInput(input) => {
                let mut piece = vec![0; PIECE];
                let len = inputs[input].read(&mut piece)?;
                piece.truncate(len);
                match len {
                    0 => merge.end(input),
                    _ => merge.supply(input, piece.into()),
                }
            }
            MergeStep::Page(_) => {
                file.write_all(&out)?;
                out.clear();
            }
            MergeStep::Done(_) => break,
        }
    }
    file.write_all(&out)?;
    file.into_inner()?.sync_all()?;
    Ok(())
}

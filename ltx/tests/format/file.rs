//! Whole files, for tests: what one holds, and how it is made and read.

use std::path::{Path, PathBuf};

use ltx::{
    Checksum, Compression, Decoder, Encoder, Error, Header, Index, IndexSearch, PageSize, Pgno,
    Step, Timestamp, Trailer, Txid, TxidRange,
};

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Content {
    pub(crate) header: Header,
    pub(crate) pages: Vec<(Pgno, Vec<u8>)>,
    pub(crate) post_apply: Option<Checksum>,
}

pub(crate) fn encode(content: &Content, compression: Compression) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(content.header, compression, &mut out);
    for (pgno, page) in &content.pages {
        encoder.page(*pgno, page, &mut out)?;
    }
    encoder.finish(content.post_apply, &mut out)?;
    Ok(out)
}

pub(crate) fn decode(file: &[u8]) -> Result<Content, Error> {
    decode_pieces([file])
}

/// Decodes a file that arrives in `pieces`.
pub(crate) fn decode_pieces<'f>(
    pieces: impl IntoIterator<Item = &'f [u8]>,
) -> Result<Content, Error> {
    let mut decoder = Decoder::new();
    let mut page = vec![0; PageSize::MAX.bytes()];
    let mut pages = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.decode(&mut piece, &mut page)? {
                Step::NeedInput => break,
                Step::Header(_) => {}
                Step::Page(pgno) => {
                    let len = decoder.header().unwrap().page_size().bytes();
                    pages.push((pgno, page[..len].to_vec()));
                }
            }
        }
        assert!(piece.is_empty(), "a decoder takes all of its input");
    }
    let Trailer { post_apply, .. } = decoder.finish()?;
    Ok(Content {
        header: *decoder.header().expect("a whole file has a header"),
        pages,
        post_apply,
    })
}

pub(crate) fn find_index(file: &[u8]) -> Result<Index, Error> {
    let mut search = IndexSearch::new(file.len() as u64)?;
    while let Some(range) = search.wants() {
        search.supply(&file[range.start as usize..range.end as usize])?;
    }
    Ok(search.found().expect("nothing more is wanted"))
}

/// The header of a file without checksums, of pages of 512 bytes.
pub(crate) fn header(min: u64, max: u64, commit: u32) -> Header {
    Header::new(
        PageSize::MIN,
        commit,
        txids(min, max),
        Timestamp::from_millis(1000),
    )
}

pub(crate) fn txids(min: u64, max: u64) -> TxidRange {
    TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
}

pub(crate) fn pgno(pgno: u32) -> Pgno {
    Pgno::new(pgno).unwrap()
}

/// The folder of the replicas that Litestream wrote.
pub(crate) fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Every file of a replica that Litestream wrote, with its name for messages.
pub(crate) fn golden_files(set: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![golden().join(set)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ltx") {
                let name = path.strip_prefix(golden()).unwrap().display().to_string();
                files.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no files in {set}");
    files
}

/// All the sets that Litestream wrote.
pub(crate) const SETS: [&str; 6] = [
    "autovac",
    "frames512",
    "ps4096",
    "ps512",
    "ps65536",
    "vacuum",
];

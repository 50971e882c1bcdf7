//! Files that Litestream wrote.

use std::fs::File;

use ltx::{Compression, Reader, TxidRange};
use sha2::{Digest, Sha256};

use crate::file::{SETS, decode, encode, find_index, golden, golden_files};

#[test]
fn every_file_decodes_and_is_named_after_its_header() {
    for (name, file) in SETS.into_iter().flat_map(golden_files) {
        let content = decode(&file).unwrap_or_else(|error| panic!("{name}: {error}"));

        let file_name = name.rsplit('/').next().unwrap();
        let txids: TxidRange = file_name.parse().unwrap();
        assert_eq!(content.header.txids(), txids, "{name}");
        assert!(!content.header.has_checksums(), "{name}");
        assert!(!content.pages.is_empty(), "{name}");
    }
}

#[test]
fn every_file_encodes_to_one_with_the_same_content() {
    for (name, file) in SETS.into_iter().flat_map(golden_files) {
        let content = decode(&file).unwrap();

        for compression in [Compression::Blocks, Compression::Frames] {
            let again = encode(&content, compression).unwrap();

            assert_eq!(again[..100], file[..100], "{name}: the headers differ");
            assert_eq!(decode(&again), Ok(content.clone()), "{name}");
        }
    }
}

#[test]
fn every_files_index_leads_to_its_pages() {
    for (name, file) in SETS.into_iter().flat_map(golden_files) {
        let content = decode(&file).unwrap();

        let index = find_index(&file).unwrap_or_else(|error| panic!("{name}: {error}"));

        assert_eq!(index.header(), &content.header, "{name}");
        assert_eq!(index.len(), content.pages.len(), "{name}");
        let mut page = vec![0; content.header.page_size().bytes()];
        for ((pgno, range), (expected, data)) in index.records().zip(&content.pages) {
            let record = &file[range.start as usize..range.end as usize];
            index.decode(pgno, record, &mut page).unwrap();
            assert_eq!((pgno, &page), (*expected, data), "{name}");
            assert_eq!(index.record(pgno), Some(range), "{name}");
        }
    }
}

#[test]
fn a_reader_reads_what_a_decoder_decodes() {
    for (name, file) in golden_files("ps65536") {
        let content = decode(&file).unwrap();

        let mut reader = Reader::new(File::open(golden().join(&name)).unwrap()).unwrap();
        let mut page = vec![0; reader.header().page_size().bytes()];
        let mut pages = Vec::new();
        while let Some(pgno) = reader.next_page(&mut page).unwrap() {
            pages.push((pgno, page.clone()));
        }

        assert_eq!(reader.header(), &content.header, "{name}");
        assert_eq!(pages, content.pages, "{name}");
        assert!(reader.trailer().is_some(), "{name}");
    }
}

/// The replicas' first files hold whole databases, and the manifest says what restoring gives.
#[test]
fn the_first_files_pages_are_the_database_that_litestream_restores() {
    for (manifest, sets) in [
        (
            "manifest.json",
            &["autovac", "ps4096", "ps512", "ps65536", "vacuum"][..],
        ),
        ("manifest-frames.json", &["frames512"][..]),
    ] {
        let manifest = std::fs::read(golden().join(manifest)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        for set in sets {
            let first = "0000000000000001";
            let path = format!("{set}/replica/ltx/0/{first}-{first}.ltx");
            let content = decode(&std::fs::read(golden().join(path)).unwrap()).unwrap();
            let database: Vec<u8> = content
                .pages
                .into_iter()
                .flat_map(|(_, page)| page)
                .collect();

            let hash: String = Sha256::digest(&database)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();

            let wanted = &manifest["sets"][set]["restore_txid"][first]["sha256"];
            assert_eq!(wanted, &hash, "{set}");
        }
    }
}

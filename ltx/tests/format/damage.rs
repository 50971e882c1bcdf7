//! Files of which a byte was changed, or the end is missing.

use ltx::{Error, PageSize};

use crate::file::{Content, decode, find_index, golden_files};

/// Masks for every bit, and for all of them at once.
const MASKS: [u8; 9] = [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff];

#[test]
fn every_change_of_a_byte_is_an_error_or_none_of_the_content() {
    let files = golden_files("ps512").into_iter();
    for (name, file) in files.chain(golden_files("frames512")) {
        let content = decode(&file).unwrap();
        let spare = spare_bytes(&file);
        for at in 0..file.len() {
            // A mask of one bit that goes round, and all bits.
            for mask in [MASKS[at % 8], 0xff] {
                check_change(&name, &file, &content, at, mask, &spare);
            }
        }
    }
}

#[test]
fn every_change_of_one_files_bytes_is_an_error_or_none_of_the_content() {
    let (name, file) = smallest("ps512");
    let content = decode(&file).unwrap();
    let spare = spare_bytes(&file);

    for at in 0..file.len() {
        for mask in 1..=255 {
            check_change(&name, &file, &content, at, mask, &spare);
        }
    }
}

#[test]
fn a_sample_of_changes_of_larger_files_is_reported_too() {
    for set in ["autovac", "ps4096", "ps65536", "vacuum"] {
        for (name, file) in golden_files(set) {
            let content = decode(&file).unwrap();
            let spare = spare_bytes(&file);
            let near_the_ends = (0..120).chain(file.len() - 120..file.len());
            for at in near_the_ends.chain((0..file.len()).step_by(file.len() / 40)) {
                check_change(&name, &file, &content, at, MASKS[at % 9], &spare);
            }
        }
    }
}

#[test]
fn every_truncation_is_reported_with_the_length_of_what_is_left() {
    let files = golden_files("ps512").into_iter();
    for (name, file) in files.chain(golden_files("frames512")) {
        for len in 0..file.len() {
            match decode(&file[..len]) {
                Err(Error::Truncated { len: said, .. }) if said == len as u64 => {}
                result => panic!("{name} cut to {len} bytes: {result:?}"),
            }
        }
    }
}

#[test]
fn a_sample_of_truncations_of_larger_files_is_reported_too() {
    for set in ["autovac", "ps4096", "ps65536", "vacuum"] {
        for (name, file) in golden_files(set) {
            for len in (0..file.len()).step_by(file.len() / 60) {
                match decode(&file[..len]) {
                    Err(Error::Truncated { len: said, .. }) if said == len as u64 => {}
                    result => panic!("{name} cut to {len} bytes: {result:?}"),
                }
            }
        }
    }
}

#[test]
fn whatever_follows_a_file_is_an_error() {
    for (name, mut file) in golden_files("ps512") {
        let offset = file.len() as u64;
        file.push(0);

        let result = decode(&file);

        assert_eq!(result, Err(Error::TrailingBytes { offset }), "{name}");
    }
}

/// The tail tells where the index is, so every truncation but one to nothing sensible leads to
/// another place; what is there is not taken for an index.
#[test]
fn a_search_for_the_index_finds_none_in_a_truncated_file() {
    for (name, file) in golden_files("ps512") {
        for len in 0..file.len() {
            let found = find_index(&file[..len]);

            assert!(found.is_err(), "{name} cut to {len} bytes: {found:?}");
        }
    }
}

/// Checks that a change is an error, or is in bytes that may change and changes no content.
fn check_change(name: &str, file: &[u8], content: &Content, at: usize, mask: u8, spare: &[bool]) {
    let mut changed = file.to_vec();
    changed[at] ^= mask;

    if let Ok(decoded) = decode(&changed) {
        assert!(
            spare[at],
            "{name}: byte {at} xor {mask:#04x} goes unnoticed"
        );
        assert!(
            decoded == *content,
            "{name}: byte {at} xor {mask:#04x} changes the content"
        );
    }
    // An index may be unharmed or wrong, but looking for it must end well.
    let _ = find_index(&changed);
}

/// Whether each byte of a file is a compressed one, which another may do as well as.
fn spare_bytes(file: &[u8]) -> Vec<bool> {
    const PAGE_HEADER: usize = 6;
    const BLOCK_SIZE: usize = 4;

    let mut spare = vec![false; file.len()];
    for (_, record) in find_index(file).unwrap().records() {
        let (start, end) = (record.start as usize, record.end as usize);
        let block = file[start + 5] == 1;
        let compressed = start + PAGE_HEADER + if block { BLOCK_SIZE } else { 0 };
        spare[compressed..end].fill(true);
    }
    spare
}

fn smallest(set: &str) -> (String, Vec<u8>) {
    let files = golden_files(set);
    let smallest = files.into_iter().min_by_key(|(_, file)| file.len());
    let (name, file) = smallest.expect("the set has files");
    assert_eq!(decode(&file).unwrap().header.page_size(), PageSize::MIN);
    (name, file)
}

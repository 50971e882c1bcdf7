//! Pages read through the index, without the rest of the file.

use ltx::{Compression, Error, IndexFault, IndexSearch, PageSize, Part};

use crate::file::{Content, encode, find_index, header, pgno};

#[test]
fn a_small_files_index_takes_two_reads() {
    let file = file(10);
    let mut search = IndexSearch::new(file.len() as u64).unwrap();

    let mut reads = Vec::new();
    while let Some(range) = search.wants() {
        search
            .supply(&file[range.start as usize..range.end as usize])
            .unwrap();
        reads.push(range);
    }

    assert_eq!(reads, [0..100, 100..file.len() as u64]);
    assert_eq!(search.found().unwrap().len(), 10);
}

#[test]
fn a_long_index_takes_one_read_more_and_no_page() {
    let file = file(5000);
    let mut search = IndexSearch::new(file.len() as u64).unwrap();

    let mut reads = Vec::new();
    while let Some(range) = search.wants() {
        search
            .supply(&file[range.start as usize..range.end as usize])
            .unwrap();
        reads.push(range);
    }

    let end = file.len() as u64;
    let index = search.found().unwrap();
    let (_, last) = index.records().last().unwrap();
    assert_eq!(reads, [0..100, end - 16 * 1024..end, last.end..end - 24]);
}

#[test]
fn fewer_bytes_than_wanted_are_an_error() {
    let file = file(10);
    let mut search = IndexSearch::new(file.len() as u64).unwrap();

    let refused = search.supply(&file[..99]);

    let part = Part::Header;
    assert_eq!(refused, Err(Error::Truncated { len: 99, part }));
}

#[test]
fn a_file_without_room_for_its_parts_is_truncated() {
    for len in 0..131 {
        assert!(IndexSearch::new(len).is_err(), "{len} bytes");
    }
    assert!(IndexSearch::new(131).is_ok());
}

#[test]
fn a_page_that_is_not_there_has_no_record() {
    let index = find_index(&file(10)).unwrap();

    assert_eq!(index.record(pgno(11)), None);
    assert_eq!(index.record(pgno(u32::MAX)), None);
}

#[test]
fn bytes_that_are_not_the_pages_record_are_refused() {
    for compression in [Compression::Blocks, Compression::Frames] {
        let file = file_of(10, compression);
        let index = find_index(&file).unwrap();
        let range = index.record(pgno(2)).unwrap();
        let (start, end) = (range.start as usize, range.end as usize);
        let mut page = [0; 512];
        let mut decode = |bytes: &[u8]| index.decode(pgno(2), bytes, &mut page);
        let disagrees = Err(Error::Index {
            offset: range.start,
            fault: IndexFault::Disagrees,
        });

        assert_eq!(decode(&file[start..end]), Ok(()));
        // Another page's, one byte less and more, none, and the end of the pages.
        let other = index.record(pgno(3)).unwrap();
        let other = &file[other.start as usize..other.end as usize];
        assert_eq!(decode(other), disagrees);
        assert_eq!(decode(&file[start..end - 1]), disagrees);
        assert_eq!(decode(&file[start..end + 1]), disagrees);
        assert_eq!(decode(&[0; 6]), disagrees);
        let part = Part::Page(pgno(2));
        let len = range.start;
        assert_eq!(decode(&[]), Err(Error::Truncated { len, part }));
    }
}

#[test]
fn a_buffer_without_room_for_the_page_is_refused() {
    let file = file(2);
    let index = find_index(&file).unwrap();
    let range = index.record(pgno(2)).unwrap();
    let record = &file[range.start as usize..range.end as usize];

    let refused = index.decode(pgno(2), record, &mut [0; 511]);

    let page_size = PageSize::MIN;
    assert_eq!(
        refused,
        Err(Error::Buffer {
            len: 511,
            page_size
        })
    );
}

fn file(pages: u32) -> Vec<u8> {
    file_of(pages, Compression::Blocks)
}

fn file_of(pages: u32, compression: Compression) -> Vec<u8> {
    let content = Content {
        header: header(1, 1, pages),
        pages: (1..=pages).map(|n| (pgno(n), vec![n as u8; 512])).collect(),
        post_apply: None,
    };
    encode(&content, compression).unwrap()
}

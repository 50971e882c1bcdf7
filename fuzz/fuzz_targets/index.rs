//! In any bytes an index is found or an error, and so is each page that it lists.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ltx::{Error, Index, IndexSearch};

fuzz_target!(|file: &[u8]| {
    let Ok(index) = find(file) else {
        return;
    };

    let mut page = vec![0; index.header().page_size().bytes()];
    let mut last = 0;
    for (pgno, record) in index.records() {
        assert!(last < pgno.get());
        last = pgno.get();
        assert_eq!(index.record(pgno), Some(record.clone()));
        let record = &file[record.start as usize..record.end as usize];
        let _ = index.decode(pgno, record, &mut page);
    }
});

fn find(file: &[u8]) -> Result<Index, Error> {
    let mut search = IndexSearch::new(file.len() as u64)?;
    while let Some(range) = search.wants() {
        search.supply(&file[range.start as usize..range.end as usize])?;
    }
    Ok(search.found().expect("nothing more is wanted"))
}

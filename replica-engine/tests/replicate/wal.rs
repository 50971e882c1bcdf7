//! What is parsed is what SQLite reads.

use std::fs;
use std::path::PathBuf;

use ltx::{PageSize, Pgno};
use proptest::prelude::*;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::application::{TABLE, any_change, any_page_size, checkpointed, connect, run};
use replica_engine::wal::{
    Break, ByteOrder, Chain, Changed, Changes, FRAME_HEADER_SIZE, Frame, HEADER_SIZE, HeaderFault,
    WalChecksum, WalHeader,
};

const PAGE_SIZE: PageSize = PageSize::MIN;

fn header(order: ByteOrder) -> WalHeader {
    WalHeader::new(order, PAGE_SIZE, 3, [0x0102_0304, 0xfffe_fdfc])
}

/// A WAL of pages that are filled with a byte each: the page, the byte, and the commit.
fn wal(header: WalHeader, frames: &[(u32, u8, u32)]) -> Vec<u8> {
    let mut bytes = header.encode().to_vec();
    let mut chain = Chain::new(header);
    for &(pgno, fill, commit) in frames {
        let pgno = Pgno::new(pgno).expect("tests have no page 0");
        let page = vec![fill; header.page_size().bytes()];
        let frame = chain.encode(Frame { pgno, commit }, &page);
        chain.link(&frame).expect("what was encoded is a frame");
        bytes.extend(frame);
    }
    bytes
}

/// Takes all that there is from `start` on.
fn collect(wal: &[u8], start: Chain) -> (Changes, Break) {
    let mut changes = Changes::since(start);
    loop {
        let rest = wal.get(changes.next().offset() as usize..);
        if let Err(end) = changes.take(rest.unwrap_or_default()) {
            return (changes, end);
        }
    }
}

fn numbers(changed: &Changed) -> Vec<u32> {
    changed
        .pages()
        .iter()
        .map(|page| page.pgno().get())
        .collect()
}

#[test]
fn only_what_is_committed_counts() {
    let header = header(ByteOrder::Little);
    let bytes = wal(
        header,
        &[(1, 1, 0), (3, 1, 3), (2, 2, 0), (1, 2, 3), (1, 3, 0)],
    );

    let (changes, end) = collect(&bytes, Chain::new(header));
    let changed = changes.clone().finish();

    assert_eq!(end, Break::Short);
    assert_eq!((changes.next().frames(), changed.end().frames()), (5, 4));
    assert_eq!(changed.commit().map(|commit| commit.get()), Some(3));
    assert_eq!(numbers(&changed), [1, 2, 3]);
    let [one, ..] = changed.pages() else {
        panic!("page 1 was written");
    };
    let frame = &bytes[one.offset(PAGE_SIZE) as usize..];
    assert_eq!(one.verify(changed.end(), frame), Ok(&[2; 512][..]));
}

#[test]
fn pages_that_were_cut_off_and_the_lock_page_are_left_out() {
    let page_size = PageSize::MAX;
    let header = WalHeader::new(ByteOrder::Little, page_size, 0, [1, 2]);
    let lock = page_size.lock_page().get();
    let bytes = wal(
        header,
        &[
            (lock, 1, 0),
            (lock + 1, 1, lock + 2),
            (lock + 2, 1, lock + 2),
            (1, 2, lock + 1),
        ],
    );

    let (changes, _) = collect(&bytes, Chain::new(header));

    assert_eq!(numbers(&changes.finish()), [1, lock + 1]);
}

#[test]
fn a_collection_goes_on_where_another_one_ended() {
    let header = header(ByteOrder::Big);
    let frames = [(1, 1, 1), (2, 2, 2), (1, 3, 0), (3, 3, 3)];
    let all = wal(header, &frames);
    let first = &all[..wal(header, &frames[..3]).len() + 100];

    let (changes, end) = collect(first, Chain::new(header));
    let changed = changes.finish();
    let (more, _) = collect(&all, *changed.end());

    assert_eq!(end, Break::Short);
    assert_eq!(numbers(&changed), [1, 2]);
    assert_eq!(numbers(&more.finish()), [1, 3]);
}

#[test]
fn every_break_has_its_name() {
    let header = header(ByteOrder::Little);
    let bytes = wal(header, &[(1, 1, 1)]);
    let break_at = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[HEADER_SIZE + at] ^= byte;
        let linked = Chain::new(header).link(&bytes[HEADER_SIZE..]);
        linked.expect_err("a byte was changed")
    };

    assert_eq!(break_at(3, 1), Break::Pgno);
    assert_eq!(break_at(2, 1), Break::Checksum);
    assert_eq!(break_at(7, 2), Break::Checksum);
    assert_eq!(break_at(8, 1), Break::Salts);
    assert_eq!(break_at(15, 1), Break::Salts);
    assert_eq!(break_at(23, 1), Break::Checksum);
    assert_eq!(break_at(FRAME_HEADER_SIZE + 511, 1), Break::Checksum);
    let short = &bytes[HEADER_SIZE..bytes.len() - 1];
    assert_eq!(Chain::new(header).link(short), Err(Break::Short));
}

#[test]
fn every_fault_of_a_header_has_its_name() {
    let good = header(ByteOrder::Little).encode();
    let changed = |at: usize| {
        let mut bytes = good;
        bytes[at] ^= 8;
        WalHeader::parse(&bytes)
    };

    assert_eq!(
        WalHeader::parse(&good[..31]),
        Err(HeaderFault::Short { len: 31 })
    );
    assert_eq!(changed(0), Err(HeaderFault::Magic { found: 0x3f7f_0682 }));
    assert_eq!(changed(11), Err(HeaderFault::PageSize { found: 520 }));
    for at in [4, 12, 16, 23, 24, 31] {
        assert_eq!(changed(at), Err(HeaderFault::Checksum), "byte {at}");
    }
    let mut newer = good;
    newer[7] += 1;
    let sum = WalChecksum::default().and(&newer[..24], ByteOrder::Little);
    newer[24..].copy_from_slice(&sum.to_bytes());
    let fault = HeaderFault::Version { found: 3_007_001 };
    assert_eq!(WalHeader::parse(&newer), Err(fault));
}

#[test]
fn a_frame_that_was_replaced_meanwhile_is_not_taken_for_the_page() {
    let header = header(ByteOrder::Little);
    let bytes = wal(header, &[(1, 1, 1), (1, 2, 1)]);
    let (changes, _) = collect(&bytes, Chain::new(header));
    let changed = changes.finish();
    let [page] = changed.pages() else {
        panic!("one page was written");
    };

    let other = wal(header, &[(1, 1, 1), (1, 3, 1)]);
    let frame = &other[page.offset(PAGE_SIZE) as usize..];
    assert!(page.verify(changed.end(), frame).is_ok(), "it is valid too");

    let other = wal(header, &[(1, 9, 1), (1, 2, 1)]);
    let frame = &other[page.offset(PAGE_SIZE) as usize..];
    assert_eq!(page.verify(changed.end(), frame), Err(Break::Checksum));
}

/// A database that SQLite writes, and copies of it.
struct Live {
    folder: TempDir,
    connection: Connection,
}

impl Live {
    fn new(page_size: u32) -> Live {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let connection = connect(&folder.path().join("live.db"));
        run(
            &connection,
            &format!(
                "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; \
                 PRAGMA wal_autocheckpoint=0; PRAGMA cache_size=10; PRAGMA auto_vacuum=0; {TABLE}"
            ),
        );
        Live { folder, connection }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("live.db{suffix}"))
    }

    /// The bytes of the database file and those of the WAL.
    fn bytes(&self) -> (Vec<u8>, Vec<u8>) {
        // Locks don't matter to the only connection there is.
        let read = |suffix| fs::read(self.path(suffix)).expect("a live database has both files");
        (read(""), read("-wal"))
    }

    /// How many frames SQLite counts in the WAL.
    fn frames(&self) -> u32 {
        let count = |row: &rusqlite::Row<'_>| row.get(1);
        self.connection
            .query_row("PRAGMA wal_checkpoint(NOOP)", (), count)
            .expect("SQLite should count the frames")
    }
}

/// The database that SQLite makes of these files.
fn sqlite_reads(database: &[u8], wal: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("copy.db");
    fs::write(&path, database).expect("a file can be written");
    fs::write(folder.path().join("copy.db-wal"), wal).expect("a file can be written");
    checkpointed(&path)
}

/// The database file with what is committed in the WAL.
fn parsed(database: &[u8], wal: &[u8]) -> (Vec<u8>, Option<Changed>) {
    let Ok(header) = WalHeader::parse(wal) else {
        return (database.to_vec(), None);
    };
    let (changes, _) = collect(wal, Chain::new(header));
    let changed = changes.finish();
    let mut image = database.to_vec();
    let page_size = header.page_size();
    if let Some(commit) = changed.commit() {
        image.resize(commit.get() as usize * page_size.bytes(), 0);
    }
    for page in changed.pages() {
        let frame = &wal[page.offset(page_size) as usize..];
        let content = page.verify(changed.end(), frame);
        let content = content.expect("a page that was found is found again");
        let at = page.pgno().offset(page_size) as usize;
        image[at..at + page_size.bytes()].copy_from_slice(content);
    }
    (image, Some(changed))
}

/// The same WAL as a machine of the other byte order would have written it.
fn in_big_endian(wal: &[u8]) -> Vec<u8> {
    let Ok(old) = WalHeader::parse(wal) else {
        return wal.to_vec();
    };
    assert_eq!(old.order(), ByteOrder::Little);
    let new = WalHeader::new(ByteOrder::Big, old.page_size(), old.sequence(), old.salts());
    let (mut from, mut to) = (Chain::new(old), Chain::new(new));
    let mut bytes = new.encode().to_vec();
    for frame in wal[HEADER_SIZE..].chunks(old.frame_size()) {
        let Ok(taken) = from.link(frame) else {
            break;
        };
        let frame = to.encode(taken, &frame[FRAME_HEADER_SIZE..]);
        to.link(&frame).expect("what was encoded is a frame");
        bytes.extend(frame);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_sqlite_reads_is_what_was_parsed(
        page_size in any_page_size(),
        steps in prop::collection::vec(any_change(), 1..10),
    ) {
        let live = Live::new(page_size);
        let mut place: Option<Chain> = None;
        for step in steps {
            step.make(&live.connection);
            let (database, wal) = live.bytes();

            let (image, changed) = parsed(&database, &wal);

            prop_assert!(image == sqlite_reads(&database, &wal), "after {:?}", step);
            let Some(changed) = changed else {
                continue;
            };
            if live.frames() > 0 {
                prop_assert_eq!(changed.end().frames(), live.frames());
            }
            // From where the step before ended it is the same as from the beginning.
            if let Some(place) = place.filter(|place| place.header() == changed.end().header()) {
                let (more, _) = collect(&wal, place);
                prop_assert_eq!(*more.finish().end(), *changed.end());
            }
            place = Some(*changed.end());
        }
    }

    #[test]
    fn what_sqlite_makes_of_damage_is_what_was_parsed(
        page_size in any_page_size(),
        steps in prop::collection::vec(any_change(), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..3),
        big_endian: bool,
    ) {
        let live = Live::new(page_size);
        for step in &steps {
            step.make(&live.connection);
        }
        let (database, mut wal) = live.bytes();
        if big_endian {
            wal = in_big_endian(&wal);
        }
        if let Some(cut) = cut.filter(|_| !wal.is_empty()) {
            wal.truncate(cut.index(wal.len()));
        }
        for (at, change) in damage {
            if !wal.is_empty() {
                let at = at.index(wal.len());
                wal[at] ^= change;
            }
        }

        let (image, _) = parsed(&database, &wal);

        prop_assert!(image == sqlite_reads(&database, &wal));
    }

    #[test]
    fn a_log_ends_where_its_first_damaged_byte_is(
        frames in prop::collection::vec((1u32..9, any::<u8>(), 0u32..3), 1..12),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
        cut in any::<prop::sample::Index>(),
        rest: Vec<u8>,
        big_endian: bool,
    ) {
        let order = if big_endian { ByteOrder::Big } else { ByteOrder::Little };
        let header = header(order);
        let mut bytes = wal(header, &frames);
        let at = HEADER_SIZE + at.index(bytes.len() - HEADER_SIZE);
        let cut = HEADER_SIZE + cut.index(bytes.len() - HEADER_SIZE + 1);
        bytes[at] ^= change;
        bytes.truncate(cut);
        let whole = (at.min(cut) - HEADER_SIZE) / header.frame_size();
        bytes.extend(rest);

        let (changes, _) = collect(&bytes, Chain::new(header));

        prop_assert_eq!(changes.next().frames() as usize, whole);
        let committed = frames[..whole].iter().rposition(|(_, _, commit)| *commit > 0);
        prop_assert_eq!(changes.end().frames() as usize, committed.map_or(0, |last| last + 1));
    }

    #[test]
    fn any_bytes_are_a_header_that_encodes_to_them_or_none(
        bytes in prop::collection::vec(any::<u8>(), 0..40),
        fields: [u32; 3],
        page_size in any_page_size(),
        is_one: bool,
    ) {
        let [sequence, salts @ ..] = fields;
        let page_size = PageSize::new(page_size).expect("it is one");
        let bytes = match is_one {
            true => WalHeader::new(ByteOrder::Big, page_size, sequence, salts).encode().to_vec(),
            false => bytes,
        };

        let parsed = WalHeader::parse(&bytes);

        prop_assert!(!is_one || parsed.is_ok());
        if let Ok(header) = parsed {
            prop_assert_eq!(&header.encode()[..], &bytes[..HEADER_SIZE]);
        }
    }
}

//! SQLite's index of a log, kept as a connection that writes keeps it.
//!
//! All connections to a database find pages in its log by way of the index, which is memory that
//! they share. Its format is part of what SQLite documents ("WAL-mode File Format"), and one for all
//! versions, which may have the same database open.
//!
//! It has a header, and for each frame the number of its page and a place in a hash table. Whatever
//! is beyond the number of frames in the header is nobody's, so that frames can be added while
//! others read. The header is there twice; a reader who finds the two unequal looks again for as
//! long as somebody has the write lock.

use std::sync::atomic::Ordering::Relaxed;

use ltx::Pgno;
use rusqlite::{Connection, Error, Result, ffi};

use super::file::{Region, index_barrier, index_region};
use crate::wal::{ByteOrder, Chain, WalChecksum};

/// How many words a region has for the numbers of pages.
const WORDS: u64 = 4096;
/// With how many others the first region begins.
const HEADER_WORDS: u64 = 34;
/// The only version of the format that there ever was.
const VERSION: u32 = 3_007_000;
/// The multiplier of the hash.
const HASH: u32 = 383;
/// How many words one copy of the header has.
const HEADER: usize = 12;

const NATIVE: ByteOrder = match cfg!(target_endian = "big") {
    true => ByteOrder::Big,
    false => ByteOrder::Little,
};

/// Where a frame is noted.
struct Place {
    region: u32,
    /// Which word of the region has the number of its page.
    word: usize,
    /// The word of the region's first frame.
    first: usize,
}

impl Place {
    /// The one of frame number `frame`, from 1.
    fn of(frame: u64) -> Place {
        let word = frame - 1 + HEADER_WORDS;
        let region = u32::try_from(word / WORDS).unwrap_or(u32::MAX);
        Place {
            region,
            word: (word % WORDS) as usize,
            first: if region == 0 {
                HEADER_WORDS as usize
            } else {
                0
            },
        }
    }
}

/// Adds the frames after number `after`, which hold `pages`. They count only once they are
/// [published](publish).
pub(super) fn add(connection: &Connection, after: u32, pages: &[Pgno]) -> Result<()> {
    let mut next = u64::from(after) + 1;
    let mut rest = pages;
    while !rest.is_empty() {
        let place = Place::of(next);
        let room = WORDS as usize - place.word;
        let (here, later) = rest.split_at(rest.len().min(room));
        index_region(connection, place.region, |region| {
            if place.word == place.first {
                clear(region, place.first, 0);
            }
            let mut places = (place.word..).zip(here);
            places.try_for_each(|(word, pgno)| note(region, word, word - place.first + 1, *pgno))
        })??;
        next += here.len() as u64;
        rest = later;
    }
    Ok(())
}

/// Removes what somebody has added after frame number `last` who did not come to publish it.
pub(super) fn forget_after(connection: &Connection, last: u32) -> Result<()> {
    if last == 0 {
        // The first frame that is added removes it.
        return Ok(());
    }
    let place = Place::of(u64::from(last));
    index_region(connection, place.region, |region| {
        clear(region, place.word + 1, place.word + 1 - place.first);
    })
}

/// Makes the frames up to `end` the log, and the database one of `pages` pages, for everybody who
/// begins to read from now on.
pub(super) fn publish(connection: &Connection, end: &Chain, pages: u32) -> Result<()> {
    let changes = index_region(connection, 0, |region| {
        let changes = region.words.get(2);
        changes.map_or(0, |changes| changes.load(Relaxed))
    })?;
    let header = header(end, pages, changes.wrapping_add(1));
    // The second one first: whoever reads takes the first one for whole only if it is equal.
    for copy in [1, 0] {
        index_barrier(connection)?;
        index_region(connection, 0, |region| {
            for (word, value) in region.words.iter().skip(copy * HEADER).zip(header) {
                word.store(value, Relaxed);
            }
        })?;
    }
    index_barrier(connection)
}

/// Empties the words of `region` from `word` on, and the slots of frames after its first `last`.
fn clear(region: Region<'_>, word: usize, last: usize) {
    for slot in region.slots {
        if usize::from(slot.load(Relaxed)) > last {
            slot.store(0, Relaxed);
        }
    }
    for word in region.words.iter().skip(word) {
        word.store(0, Relaxed);
    }
}

/// Notes in `region` that its frame number `number` holds `pgno`.
fn note(region: Region<'_>, word: usize, number: usize, pgno: Pgno) -> Result<()> {
    let slots = region.slots.len();
    let begin = pgno.get().wrapping_mul(HASH) as usize % slots;
    let (before, after) = region.slots.split_at(begin);
    let mut probed = after.iter().chain(before).take(number);
    let free = probed.find(|slot| slot.load(Relaxed) == 0);
    // A region has more slots than frames, and those have one each.
    let (Some(slot), Some(word), Ok(number)) =
        (free, region.words.get(word), u16::try_from(number))
    else {
        let corrupt = ffi::Error::new(ffi::SQLITE_CORRUPT);
        return Err(Error::SqliteFailure(corrupt, None));
    };
    word.store(pgno.get(), Relaxed);
    slot.store(number, Relaxed);
    Ok(())
}

/// The header of the index of a log that ends with `end`.
fn header(end: &Chain, pages: u32, changes: u32) -> [u32; HEADER] {
    let log = end.header();
    // The largest size, which two bytes have no room for, is written as 1.
    let size = log.page_size().get();
    let [low, high] = ((size as u16) | (size >> 16) as u16).to_ne_bytes();
    let is_big = u8::from(log.order() == ByteOrder::Big);
    // As they are in the log.
    let [salt_1, salt_2] = log
        .salts()
        .map(|salt| u32::from_ne_bytes(salt.to_be_bytes()));
    let [sum_1, sum_2] = words(end.checksum());
    let fields = [
        VERSION,
        0,
        changes,
        u32::from_ne_bytes([1, is_big, low, high]),
        end.frames(),
        pages,
        sum_1,
        sum_2,
        salt_1,
        salt_2,
    ];
    let bytes = fields.map(u32::to_ne_bytes);
    let [own_1, own_2] = words(WalChecksum::default().and(bytes.as_flattened(), NATIVE));
    let mut header = [0; HEADER];
    let all = fields.into_iter().chain([own_1, own_2]);
    for (word, value) in header.iter_mut().zip(all) {
        *word = value;
    }
    header
}

/// The two numbers of a checksum.
fn words(checksum: WalChecksum) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = checksum.to_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::wal::{HEADER_SIZE, WalHeader};

    /// Which word of the header counts the transactions.
    const CHANGES: usize = 2;

    /// A database whose log has so many frames at least, in several transactions.
    fn written(page_size: u32, frames: u32) -> (TempDir, Connection) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let connection = Connection::open(folder.path().join("a.db")).expect("a new database");
        let made = connection.execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; \
             PRAGMA wal_autocheckpoint=0; CREATE TABLE t(a)"
        ));
        made.expect("a table can be made");
        loop {
            let written = connection.execute_batch(&format!(
                "INSERT INTO t SELECT randomblob(2 * {page_size}) FROM pragma_function_list LIMIT 99"
            ));
            written.expect("rows should fit");
            if end(&folder).0.frames() >= frames {
                return (folder, connection);
            }
        }
    }

    /// The end of the log, how many pages there are then, and which one each frame holds.
    fn end(folder: &TempDir) -> (Chain, u32, Vec<Pgno>) {
        let log = fs::read(folder.path().join("a.db-wal")).expect("there is a log");
        let header = WalHeader::parse(&log).expect("it has a header");
        let (mut end, mut size, mut pages) = (Chain::new(header), 0, Vec::new());
        for frame in log[HEADER_SIZE..].chunks_exact(header.frame_size()) {
            let frame = end.link(frame).expect("SQLite has written it");
            size = frame.commit;
            pages.push(frame.pgno);
        }
        (end, size, pages)
    }

    /// All of the index that has to do with `frames`, without what checkpoints and readers note.
    fn content(connection: &Connection, frames: u32) -> Vec<(Vec<u32>, Vec<u16>)> {
        let last = Place::of(u64::from(frames)).region;
        let regions = (0..=last).map(|number| {
            let copied = index_region(connection, number, |region| {
                let words = region.words.iter().map(|word| word.load(Relaxed));
                let slots = region.slots.iter().map(|slot| slot.load(Relaxed));
                (words.collect::<Vec<u32>>(), slots.collect::<Vec<u16>>())
            });
            let (mut words, slots) = copied.expect("the index is there");
            if number == 0 {
                words.drain(2 * HEADER..HEADER_WORDS as usize);
            }
            (words, slots)
        });
        regions.collect()
    }

    fn lock(connection: &Connection) {
        let locked = connection.execute_batch("BEGIN IMMEDIATE; SELECT * FROM t");
        locked.expect("nobody else has the write lock");
    }

    #[test]
    fn it_is_what_sqlite_makes_of_the_same_log() {
        for (page_size, frames) in [(512, 8500), (65_536, 10)] {
            let (folder, connection) = written(page_size, frames);
            let (end, size, pages) = end(&folder);
            lock(&connection);
            let expected = content(&connection, end.frames());
            let before = expected[0].0[CHANGES];

            let (mut after, mut rest) = (0, &pages[..]);
            for len in [1, 2, 4060, 7, u32::MAX] {
                let (now, later) = rest.split_at(rest.len().min(len as usize));
                add(&connection, after, now).expect("there is room");
                (after, rest) = (after + now.len() as u32, later);
            }
            publish(&connection, &end, size).expect("there is an index");

            let mut found = content(&connection, end.frames());
            let new = header(&end, size, before.wrapping_add(1));
            assert_eq!(found[0].0[..2 * HEADER], [new, new].concat());
            let old = header(&end, size, before);
            found[0].0[..2 * HEADER].copy_from_slice(&[old, old].concat());
            assert!(found == expected, "with pages of {page_size} bytes");
        }
    }

    #[test]
    fn what_was_not_published_is_removed() {
        for frames in [100, 4100] {
            let (folder, connection) = written(512, frames);
            let (end, _, pages) = end(&folder);
            lock(&connection);
            let expected = content(&connection, end.frames());

            add(&connection, end.frames(), &pages[..90]).expect("there is room");
            let added = content(&connection, end.frames());
            forget_after(&connection, end.frames()).expect("there is an index");

            assert!(added != expected);
            assert!(content(&connection, end.frames()) == expected);
        }
    }

    #[test]
    fn nothing_is_removed_of_an_empty_log() {
        let (_folder, connection) = written(512, 100);
        let emptied = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()));
        emptied.expect("nobody else has it open");
        lock(&connection);
        let expected = content(&connection, 1);

        forget_after(&connection, 0).expect("there is an index");

        assert!(content(&connection, 1) == expected);
    }
}

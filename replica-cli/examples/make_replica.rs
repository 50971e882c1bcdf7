//! Makes the replicas that `benches/beside_litestream.py` measures with: of one database of a
//! given size, the same every time.
//!
//! `make_replica FOLDER MIB` writes four trees below FOLDER: `snap` (a snapshot alone), `levels`
//! (a snapshot and four compactions), `l0` (a full file and 1,000 small ones, one a transaction)
//! and `list` (100,000 small files under right names).

use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::{env, iter};

use ltx::{Timestamp, Txid, TxidRange};
use rusqlite::{Connection, params};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PAGE_SIZE: usize = 4096;
const SMALL_FILES: u64 = 1000;
const COMPACTIONS: u64 = 4;
const LISTED: [(u8, u64); 4] = [(0, 90_000), (1, 9_000), (2, 900), (9, 100)];
const START: i64 = 1_750_000_000_000;

fn main() -> Result<()> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    let [folder, mib] = &args[..] else {
        return Err("usage: make_replica FOLDER MIB".into());
    };
    let folder = Path::new(folder);
    let mib: u64 = mib.to_str().ok_or("MIB is a number")?.parse()?;
    fs::create_dir_all(folder)?;

    let source = folder.join("source.db");
    let mut database = Source::create(&source, mib << 20)?;
    let full = database.encode_full()?;
    place(folder, "snap", 9, range(1, 1)?, &full)?;
    place(folder, "levels", 9, range(1, 1)?, &full)?;
    place(folder, "l0", 0, range(1, 1)?, &full)?;

    let mut small = Vec::new();
    for txid in 2..=SMALL_FILES + 1 {
        database.change()?;
        let file = database.encode_changes(txid)?;
        place(folder, "l0", 0, range(txid, txid)?, &file)?;
        small.push(file);
    }
    let step = small.len().div_ceil(COMPACTIONS as usize);
    for (number, files) in small.chunks(step).enumerate() {
        let first = 2 + (number * step) as u64;
        let txids = range(first, first + files.len() as u64 - 1)?;
        place(folder, "levels", 1, txids, &merge(files)?)?;
    }
    let listed = one_page(1)?;
    for (level, count) in LISTED {
        let step = LISTED[0].1 / count;
        for number in 0..count {
            let txids = match level {
                9 => range(1, (number + 1) * step)?,
                _ => range(number * step + 1, (number + 1) * step)?,
            };
            place(folder, "list", level, txids, &listed)?;
        }
    }
    drop(database);
    fs::remove_file(&source)?;
    Ok(())
}

fn range(min: u64, max: u64) -> Result<TxidRange> {
    let (min, max) = Txid::new(min)
        .zip(Txid::new(max))
        .ok_or("transactions are numbered from 1")?;
    Ok(TxidRange::new(min, max).ok_or("min is at most max")?)
}

/// Writes one file of the tree `name`.
fn place(folder: &Path, name: &str, level: u8, txids: TxidRange, bytes: &[u8]) -> Result<()> {
    let folder: PathBuf = folder.join(name).join("ltx").join(level.to_string());
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(txids.to_string()), bytes)?)
}

/// A database in WAL mode that nobody checkpoints, so that each transaction can be copied from
/// where its frames begin.
struct Source {
    path: PathBuf,
    connection: Connection,
    random: Random,
    rows: i64,
    /// How much of the WAL has been copied.
    copied: u64,
    /// The pages that the database has.
    commit: u32,
}

impl Source {
    fn create(path: &Path, size: u64) -> Result<Source> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "page_size", PAGE_SIZE as i64)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "off")?;
        connection.execute_batch(
            "CREATE TABLE orders(id INTEGER PRIMARY KEY, token TEXT, customer INT, note TEXT, doc TEXT, sig BLOB);
             CREATE INDEX orders_customer ON orders(customer, id);
             CREATE UNIQUE INDEX orders_token ON orders(token);",
        )?;
        let mut source = Source {
            path: path.to_owned(),
            connection,
            random: Random(7),
            rows: 0,
            copied: 0,
            commit: 0,
        };
        while u64::from(source.commit) * (PAGE_SIZE as u64) < size {
            source.insert(20_000)?;
            source.commit = source
                .connection
                .query_row("PRAGMA page_count", [], |row| row.get(0))?;
        }
        source
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        source
            .connection
            .pragma_update(None, "wal_autocheckpoint", 0)?;
        Ok(source)
    }

    fn insert(&mut self, count: i64) -> Result<()> {
        let transaction = self.connection.transaction()?;
        let mut insert = transaction.prepare("INSERT INTO orders VALUES (?, ?, ?, ?, ?, ?)")?;
        for _ in 0..count {
            self.rows += 1;
            let random = &mut self.random;
            let token = format!("{:016x}{:016x}", random.next(), random.next());
            let items: Vec<_> = (0..=random.below(7))
                .map(|_| random.below(99_999).to_string())
                .collect();
            let doc = format!(
                "{{\"agent\":\"{}\",\"items\":[{}]}}",
                random.words(1),
                items.join(",")
            );
            let note_words = 4 + random.below(14) as usize;
            let sig: Vec<u8> = iter::repeat_with(|| random.next() as u8)
                .take(32 + (self.rows % 64) as usize)
                .collect();
            let customer = random.below(200_000) as i64;
            insert.execute(params![
                self.rows,
                token,
                customer,
                random.words(note_words),
                doc,
                sig
            ])?;
        }
        drop(insert);
        Ok(transaction.commit()?)
    }

    /// One small transaction: four rows changed, four added.
    fn change(&mut self) -> Result<()> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        for _ in 0..4 {
            let id = 1 + self.random.below(self.rows as u64) as i64;
            let note = self.random.words(9);
            self.connection
                .execute("UPDATE orders SET note = ? WHERE id = ?", params![note, id])?;
        }
        for _ in 0..4 {
            self.rows += 1;
            let token = format!("{:016x}{:016x}", self.random.next(), self.random.next());
            self.connection.execute(
                "INSERT INTO orders VALUES (?, ?, 1, ?, '{}', x'00')",
                params![self.rows, token, self.random.words(9)],
            )?;
        }
        Ok(self.connection.execute_batch("COMMIT")?)
    }

    /// The whole database as one file, right after a checkpoint.
    fn encode_full(&mut self) -> Result<Vec<u8>> {
        let mut pages = File::open(&self.path)?;
        let mut out = Vec::new();
        let mut encoder = ltx::Encoder::new(self.header(1)?, ltx::Compression::Blocks, &mut out);
        let lock_page = 0x4000_0000 / PAGE_SIZE as u32 + 1;
        let mut page = vec![0; PAGE_SIZE];
        for number in 1..=self.commit {
            pages.read_exact(&mut page)?;
            if number != lock_page {
                let number = ltx::Pgno::new(number).ok_or("pages are numbered from 1")?;
                encoder.page(number, &page, &mut out)?;
            }
        }
        encoder.finish(None, &mut out)?;
        Ok(out)
    }

    /// What the WAL has gained since the last time as the file of transaction `txid`.
    fn encode_changes(&mut self, txid: u64) -> Result<Vec<u8>> {
        const FRAME_HEADER: usize = 24;
        let mut wal = File::open(self.path.with_file_name("source.db-wal"))?;
        let mut frames = Vec::new();
        self.copied = self.copied.max(32);
        wal.seek(SeekFrom::Start(self.copied))?;
        wal.read_to_end(&mut frames)?;
        self.copied += frames.len() as u64;

        let mut pages = std::collections::BTreeMap::new();
        for frame in frames.chunks_exact(FRAME_HEADER + PAGE_SIZE) {
            let (header, page) = frame.split_at(FRAME_HEADER);
            let field =
                |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
            pages.insert(field(0), page);
            if field(4) != 0 {
                self.commit = field(4);
            }
        }
        let mut out = Vec::new();
        let mut encoder = ltx::Encoder::new(self.header(txid)?, ltx::Compression::Blocks, &mut out);
        for (number, page) in pages {
            encoder.page(
                ltx::Pgno::new(number).ok_or("pages are numbered from 1")?,
                page,
                &mut out,
            )?;
        }
        encoder.finish(None, &mut out)?;
        Ok(out)
    }

    fn header(&self, txid: u64) -> Result<ltx::Header> {
        let page_size = ltx::PageSize::new(PAGE_SIZE as u32).ok_or("4096 is a page size")?;
        let time = Timestamp::from_millis(START + txid as i64 * 1000);
        Ok(ltx::Header::new(
            page_size,
            self.commit,
            range(txid, txid)?,
            time,
        ))
    }
}

/// A file of one empty page: what a listing shows does not hang on the content.
fn one_page(txid: u64) -> Result<Vec<u8>> {
    let page_size = ltx::PageSize::new(PAGE_SIZE as u32).ok_or("4096 is a page size")?;
    let header = ltx::Header::new(
        page_size,
        1,
        range(txid, txid)?,
        Timestamp::from_millis(START),
    );
    let mut out = Vec::new();
    let mut encoder = ltx::Encoder::new(header, ltx::Compression::Blocks, &mut out);
    encoder.page(
        ltx::Pgno::new(1).ok_or("pages are numbered from 1")?,
        &[0; PAGE_SIZE],
        &mut out,
    )?;
    encoder.finish(None, &mut out)?;
    Ok(out)
}

/// The compaction of `files`, which follow each other.
fn merge(files: &[Vec<u8>]) -> Result<Vec<u8>> {
    let mut pages = std::collections::BTreeMap::new();
    let mut headers = Vec::new();
    let mut page = vec![0; PAGE_SIZE];
    for file in files {
        let mut reader = ltx::Reader::new(&file[..])?;
        headers.push(*reader.header());
        while let Some(number) = reader.next_page(&mut page)? {
            pages.insert(number, page.clone());
        }
    }
    let (first, last) = headers
        .first()
        .zip(headers.last())
        .ok_or("nothing to merge")?;
    let txids = range(first.txids().min().get(), last.txids().max().get())?;
    let header = ltx::Header::new(last.page_size(), last.commit(), txids, last.timestamp());
    let mut out = Vec::new();
    let mut encoder = ltx::Encoder::new(header, ltx::Compression::Blocks, &mut out);
    for (number, page) in &pages {
        encoder.page(*number, page, &mut out)?;
    }
    encoder.finish(None, &mut out)?;
    Ok(out)
}

/// A small generator of numbers and words (xorshift), the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn words(&mut self, count: usize) -> String {
        const WORDS: [&str; 24] = [
            "account",
            "amount",
            "archive",
            "balance",
            "border",
            "budget",
            "carrier",
            "contract",
            "country",
            "customer",
            "delivery",
            "deposit",
            "engine",
            "factor",
            "freight",
            "invoice",
            "ledger",
            "margin",
            "network",
            "parcel",
            "payment",
            "receipt",
            "season",
            "warehouse",
        ];
        let words: Vec<_> = iter::repeat_with(|| WORDS[self.below(WORDS.len() as u64) as usize])
            .take(count)
            .collect();
        words.join(" ")
    }
}

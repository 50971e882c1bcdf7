//! `replica ltx inspect`

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Args;
use replica::ltx::{
    self, Checksum, Header, Index, IndexSearch, ReadError, Reader, Trailer, TxidRange,
};
use serde_json::{Value, json};

use crate::output;
use crate::status::{Failure, Status, with_exit_statuses};

const EXAMPLES: &str = "\
Examples:
  replica ltx inspect 0000000000000001-0000000000000001.ltx
  replica ltx inspect 0000000000000001-0000000000000001.ltx -pages -json";

/// Show what one LTX file holds
///
/// Reads all of the file, so that what is shown is verified.
#[derive(Debug, Args)]
#[command(
    after_help = EXAMPLES,
    after_long_help = with_exit_statuses(EXAMPLES),
)]
pub(crate) struct InspectArgs {
    /// The LTX file
    file: PathBuf,

    /// List the pages too, each with the place of its record in the file
    #[arg(long)]
    pages: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl InspectArgs {
    pub(crate) fn run(self) -> Result<Status, Failure> {
        let content = Content::read(&self.file).map_err(|unreadable| match unreadable {
            Unreadable::Failed(failure) => failure,
            Unreadable::Invalid(error) => {
                Failure::new(Status::Failed, format!("{}: {error}", self.file.display()))
            }
        })?;
        let mut out = output::stdout();
        if self.json {
            output::write_json(&mut out, &content.to_json(&self.file, self.pages))?;
        } else {
            content.write_text(&mut out, &self.file, self.pages)?;
        }
        out.flush()?;
        Ok(Status::Done)
    }
}

/// All of a file but its pages' content, verified.
pub(crate) struct Content {
    size: u64,
    header: Header,
    index: Index,
    trailer: Trailer,
}

impl Content {
    /// Reads the file at `path` twice: once through, to verify it, and its end, for the index.
    pub(crate) fn read(path: &Path) -> Result<Content, Unreadable> {
        let io_failed = |error: io::Error| {
            let failure = Failure::new(Status::Failed, format!("can't read {}", path.display()));
            Unreadable::Failed(failure.because_of(Some(&error)))
        };
        // Asked before it is opened: to open a pipe waits for somebody who writes to it.
        let kind = fs::metadata(path).map_err(io_failed)?;
        if kind.is_dir() {
            let failure = Failure::new(
                Status::Failed,
                format!("{} is a folder, not an LTX file", path.display()),
            );
            let hint = format!(
                "replica ltx {} lists the files of a replica",
                path.display()
            );
            return Err(Unreadable::Failed(failure.hint(hint)));
        }
        if !kind.is_file() {
            return Err(Unreadable::Failed(Failure::new(
                Status::Failed,
                format!("{} is not a regular file", path.display()),
            )));
        }
        let mut file = File::open(path).map_err(io_failed)?;
        let failed = |error| match error {
            ReadError::Io(error) => io_failed(error),
            ReadError::Ltx(error) => Unreadable::Invalid(error),
            other => Unreadable::Failed(Failure::of(Status::Failed, &other)),
        };

        let mut reader = Reader::new(&mut file).map_err(failed)?;
        let header = *reader.header();
        let mut page = vec![0; header.page_size().bytes()];
        while reader.next_page(&mut page).map_err(failed)?.is_some() {}
        let trailer = *reader
            .trailer()
            .expect("a reader that has read all pages has a trailer");

        let size = file.seek(SeekFrom::End(0)).map_err(io_failed)?;
        let mut search = IndexSearch::new(size)?;
        while let Some(range) = search.wants() {
            search.supply(&read_range(&mut file, range).map_err(io_failed)?)?;
        }
        let index = search
            .found()
            .expect("a search that wants no more has found the index");
        Ok(Content {
            size,
            header,
            index,
            trailer,
        })
    }

    /// The transactions that the file holds, by its header.
    pub(crate) fn txids(&self) -> TxidRange {
        self.header.txids()
    }

    /// The bytes that the records of all pages take.
    fn stored_bytes(&self) -> u64 {
        self.index
            .records()
            .map(|(_, record)| record.end - record.start)
            .sum()
    }

    fn kind(&self) -> &'static str {
        match self.header.is_snapshot() {
            true => "whole database",
            false => "changed pages",
        }
    }

    fn write_text(&self, out: &mut impl Write, path: &Path, pages: bool) -> io::Result<()> {
        let header = &self.header;
        let row =
            |out: &mut dyn Write, name: &str, value: String| writeln!(out, "{name:<18}{value}");
        let checksum = |checksum: Option<Checksum>| {
            checksum.map_or("none".to_owned(), |checksum| checksum.to_string())
        };
        row(out, "file", path.display().to_string())?;
        row(out, "size", self.size.to_string())?;
        row(out, "holds", self.kind().to_owned())?;
        row(out, "min txid", header.txids().min().to_string())?;
        row(out, "max txid", header.txids().max().to_string())?;
        row(out, "created", header.timestamp().to_string())?;
        row(out, "page size", header.page_size().to_string())?;
        row(out, "database pages", header.commit().to_string())?;
        row(out, "stored pages", self.index.len().to_string())?;
        row(out, "stored bytes", self.stored_bytes().to_string())?;
        if let Some(wal) = header.wal() {
            let [first, second] = wal.salts();
            row(
                out,
                "wal",
                format!(
                    "{} bytes from {}, salts {first:08x} {second:08x}",
                    wal.size(),
                    wal.offset()
                ),
            )?;
        }
        row(out, "node", header.node_id().to_string())?;
        row(out, "checksum before", checksum(header.pre_apply()))?;
        row(out, "checksum after", checksum(self.trailer.post_apply))?;
        row(
            out,
            "file checksum",
            format!("{} (verified)", self.trailer.file),
        )?;
        if pages {
            writeln!(out, "\npage        offset      bytes")?;
            for (pgno, record) in self.index.records() {
                let bytes = record.end - record.start;
                writeln!(out, "{:<10}  {:<10}  {bytes}", pgno.get(), record.start)?;
            }
        }
        Ok(())
    }

    fn to_json(&self, path: &Path, pages: bool) -> Value {
        let header = &self.header;
        let checksum = |checksum: Option<Checksum>| checksum.map(|checksum| checksum.to_string());
        let mut value = json!({
            "file": path.display().to_string(),
            "size": self.size,
            "min_txid": header.txids().min().to_string(),
            "max_txid": header.txids().max().to_string(),
            "timestamp": header.timestamp().to_string(),
            "is_snapshot": header.is_snapshot(),
            "page_size": header.page_size().get(),
            "database_pages": header.commit(),
            "stored_pages": self.index.len(),
            "stored_bytes": self.stored_bytes(),
            "wal": header.wal().map(|wal| json!({
                "offset": wal.offset(),
                "size": wal.size(),
                "salts": wal.salts(),
            })),
            "node_id": header.node_id(),
            "pre_apply_checksum": checksum(header.pre_apply()),
            "post_apply_checksum": checksum(self.trailer.post_apply),
            "file_checksum": self.trailer.file.to_string(),
        });
        if pages {
            let records = self.index.records().map(|(pgno, record)| {
                json!({
                    "page": pgno.get(),
                    "offset": record.start,
                    "bytes": record.end - record.start,
                })
            });
            value["pages"] = records.collect();
        }
        value
    }
}

/// Why a file's content is not known.
pub(crate) enum Unreadable {
    /// The file is not a whole and undamaged LTX file.
    Invalid(ltx::Error),
    /// The file could not be read.
    Failed(Failure),
}

impl From<ltx::Error> for Unreadable {
    fn from(error: ltx::Error) -> Unreadable {
        Unreadable::Invalid(error)
    }
}

fn read_range(file: &mut File, range: Range<u64>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(range.start))?;
    file.take(range.end - range.start).read_to_end(&mut bytes)?;
    Ok(bytes)
}

//! What the command prints.

use std::fmt::Display;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::Duration;

use replica::{FileInfo, Timestamp, Txid};
use serde::{Serialize, Serializer};

/// A buffered stdout. What was written is not seen before [`flush`](Write::flush).
pub(crate) fn stdout() -> BufWriter<StdoutLock<'static>> {
    BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

/// The end of printing something beside which there is a verdict: where a pipe's reader has seen
/// enough, the verdict is still to be given.
pub(crate) fn unless_closed(printed: io::Result<()>) -> io::Result<()> {
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// Writes `value` as indented JSON and a line's end.
pub(crate) fn write_json(out: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A file of a replica as JSON, with Litestream's names.
#[derive(Debug, Serialize)]
pub(crate) struct FileEntry {
    level: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(serialize_with = "text")]
    min_txid: Txid,
    #[serde(serialize_with = "text")]
    max_txid: Txid,
    size: u64,
    #[serde(serialize_with = "text")]
    timestamp: Timestamp,
}

impl FileEntry {
    /// As a listing has it.
    pub(crate) fn unnamed(file: FileInfo) -> FileEntry {
        FileEntry {
            level: file.id.level.get(),
            name: None,
            min_txid: file.id.txids.min(),
            max_txid: file.id.txids.max(),
            size: file.size,
            timestamp: seconds(file.created_at),
        }
    }

    /// As a restore's plan has it.
    pub(crate) fn named(file: FileInfo) -> FileEntry {
        FileEntry {
            name: Some(file.id.txids.to_string()),
            ..FileEntry::unnamed(file)
        }
    }
}

fn text<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A table whose columns are as wide as their widest cell.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Table {
        Table {
            rows: vec![header.iter().map(ToString::to_string).collect()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let Some((last, cells)) = row.split_last() else {
                continue;
            };
            for (cell, &width) in cells.iter().zip(&widths) {
                write!(out, "{cell:<width$}  ")?;
            }
            writeln!(out, "{last}")?;
        }
        Ok(())
    }
}

/// A time to the second, as Litestream prints it.
pub(crate) fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_millis(time.as_millis().div_euclid(1000).saturating_mul(1000))
}

/// A number of bytes as people read it.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let Some((power, unit)) = units
        .into_iter()
        .enumerate()
        .rfind(|(power, _)| bytes >> (10 * (power + 1)) > 0)
    else {
        return format!("{bytes} B");
    };
    format!(
        "{:.1} {unit}",
        bytes as f64 / 1024f64.powi(power as i32 + 1)
    )
}

/// A time as people read it.
pub(crate) fn time(time: Duration) -> String {
    match time.as_millis() {
        millis @ 0..1000 => format!("{millis} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// A number of things whose plural has an s.
pub(crate) fn count(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_the_last_is_not_padded() {
        let mut table = Table::new(&["a", "long", "z"]);
        table.row(["xyz".into(), "1".into(), "1".into()]);
        let mut out = Vec::new();

        table.write(&mut out).unwrap();

        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a    long  z\nxyz  1     1\n"
        );
    }

    #[test]
    fn a_time_is_cut_to_the_second_also_before_1970() {
        for (millis, text) in [
            (1_999, "1970-01-01T00:00:01Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(seconds(Timestamp::from_millis(millis)).to_string(), text);
        }
    }

    #[test]
    fn a_size_has_the_unit_it_fills() {
        for (bytes, text) in [
            (1, "1 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}

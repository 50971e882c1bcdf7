//! Which transaction a followed database is at, kept in a small file beside it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ltx::Checksum;
use replica_core::Txid;

/// What the file begins with.
const HEAD: &str = "replica-follow 1";
/// What a transaction is written as where there is none.
const NONE: &str = "none";
/// More than it ever has.
const LEN_MAX: u64 = 4096;

/// Where a followed database stands: at `from`, or at `until` already. All that is between the two
/// is put into it as one transaction, and to do that once more changes nothing; so whatever dies,
/// the next step is known, and must go to `until` at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// `None` where nothing of the database is to be trusted, so that all of it must come again.
    pub(super) from: Option<Txid>,
    pub(super) until: Option<Txid>,
    /// The checksums of the first page at `from` and at `until`, which tell another database that
    /// was put in its place.
    pub(super) first_pages: [Option<Checksum>; 2],
}

impl Position {
    /// Of a database that is still to be restored.
    pub(super) const UNKNOWN: Position = Position {
        from: None,
        until: None,
        first_pages: [None; 2],
    };

    /// Of a database that is at `txid` for certain.
    pub(super) fn at(txid: Txid, first_page: Checksum) -> Position {
        Position {
            from: Some(txid),
            until: Some(txid),
            first_pages: [Some(first_page); 2],
        }
    }

    /// Whether it is known at which of the two.
    pub(super) fn is_certain(&self) -> bool {
        self.from.is_some() && self.from == self.until
    }

    /// Whether a database with this first page may stand there.
    pub(super) fn fits(&self, first_page: Checksum) -> bool {
        self.from.is_none() || self.first_pages.contains(&Some(first_page))
    }

    /// Where that of the database at `path` is kept.
    pub(super) fn path(database: &Path) -> PathBuf {
        let mut path = database.to_owned().into_os_string();
        path.push("-follow");
        path.into()
    }

    /// Reads it, if it is there.
    pub(super) fn read(database: &Path) -> io::Result<Option<Position>> {
        let path = Position::path(database);
        match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(metadata) if metadata.len() > LEN_MAX => return Err(malformed()),
            Ok(_) => {}
        }
        let text = fs::read_to_string(path)?;
        Position::parse(&text).map(Some).ok_or_else(malformed)
    }

    /// Replaces what is kept, so that it survives a crash whole.
    pub(super) fn write(&self, database: &Path) -> io::Result<()> {
        let path = Position::path(database);
        let mut new = path.clone().into_os_string();
        new.push(".tmp");
        let mut file = File::create(&new)?;
        file.write_all(self.to_text().as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        File::open(folder)?.sync_all()
    }

    fn to_text(self) -> String {
        let text = |value: Option<String>| value.unwrap_or_else(|| NONE.to_owned());
        let txid = |txid: Option<Txid>| text(txid.map(|txid| txid.to_string()));
        let page = |sum: Option<Checksum>| text(sum.map(|sum| sum.get().to_string()));
        let [first, second] = self.first_pages;
        format!(
            "{HEAD}\nfrom {} {}\nuntil {} {}\n",
            txid(self.from),
            page(first),
            txid(self.until),
            page(second)
        )
    }

    fn parse(text: &str) -> Option<Position> {
        let mut lines = text.lines();
        if lines.next()? != HEAD {
            return None;
        }
        let (from, first) = parse_line(lines.next()?, "from")?;
        let (until, second) = parse_line(lines.next()?, "until")?;
        let is_whole = text.ends_with('\n') && lines.next().is_none() && from <= until;
        is_whole.then_some(Position {
            from,
            until,
            first_pages: [first, second],
        })
    }
}

fn parse_line(line: &str, name: &str) -> Option<(Option<Txid>, Option<Checksum>)> {
    let mut words = line.split(' ');
    if words.next()? != name {
        return None;
    }
    let txid = match words.next()? {
        NONE => None,
        text => Some(text.parse().ok()?),
    };
    let page = match words.next()? {
        NONE => None,
        text => Some(Checksum::new(text.parse().ok()?)?),
    };
    words.next().is_none().then_some((txid, page))
}

fn malformed() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "it is not what was written there",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        assert_eq!(Position::read(&path).expect("nothing is there"), None);
        let page = Checksum::EMPTY;
        for position in [
            Position::UNKNOWN,
            Position::at(Txid::FIRST, page),
            Position {
                from: Some(Txid::FIRST),
                until: Txid::FIRST.next(),
                first_pages: [Some(page), None],
            },
        ] {
            position.write(&path).expect("the folder can be written");

            assert_eq!(Position::read(&path).expect("it is there"), Some(position));
        }
        let text = Position::at(Txid::FIRST, page).to_text();
        for cut in 0..text.len() {
            assert_eq!(Position::parse(&text[..cut]), None, "{cut}");
        }
        assert_eq!(Position::parse(&format!("{text}more\n")), None);
    }
}

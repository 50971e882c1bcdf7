//! Where a file lives below a replica's root.

use crate::{FileId, Level};

/// Where a store keeps its files, byte for byte as Litestream 0.5 does (K1), so that either
/// program reads what the other wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `ltx/<level>/<min>-<max>.ltx`, the level in decimal: files, SFTP, WebDAV, GCS, Azure, NATS.
    Tree,
    /// `<level>/<min>-<max>.ltx`, the level as four hex digits: S3, OSS.
    Bucket,
}

impl Layout {
    /// The folder, relative to the root and without a slash at either end, that holds the files
    /// of `level` and nothing else.
    pub fn folder(self, level: Level) -> String {
        match self {
            Layout::Tree => format!("ltx/{level}"),
            Layout::Bucket => format!("{:04x}", level.get()),
        }
    }

    /// The path of `file`, relative to the root.
    pub fn path(self, file: FileId) -> String {
        format!("{}/{}", self.folder(file.level), file.txids)
    }

    /// The file that lives at `path`, relative to the root, or `None` where no file does: names
    /// that are not exactly of Litestream's form are no files of the replica (K2).
    pub fn parse(self, path: &str) -> Option<FileId> {
        let (folder, name) = path.rsplit_once('/')?;
        let level = Level::ALL
            .into_iter()
            .find(|level| self.folder(*level) == folder)?;
        Some(FileId {
            level,
            txids: name.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Txid, TxidRange};

    const BOTH: [Layout; 2] = [Layout::Tree, Layout::Bucket];

    fn file(level: Level) -> FileId {
        FileId {
            level,
            txids: TxidRange::new(Txid::FIRST, Txid::new(0x1f).unwrap()).unwrap(),
        }
    }

    #[test]
    fn paths_are_litestreams() {
        let name = "0000000000000001-000000000000001f.ltx";

        assert_eq!(
            Layout::Tree.path(file(Level::SNAPSHOT)),
            format!("ltx/9/{name}")
        );
        assert_eq!(
            Layout::Bucket.path(file(Level::SNAPSHOT)),
            format!("0009/{name}")
        );
    }

    #[test]
    fn a_path_parses_back_to_its_file() {
        for layout in BOTH {
            for level in Level::ALL {
                assert_eq!(layout.parse(&layout.path(file(level))), Some(file(level)));
            }
        }
    }

    #[test]
    fn what_is_not_exactly_a_path_is_no_file() {
        let name = "0000000000000001-000000000000001f.ltx";
        for folder in [
            "",
            "/ltx/0",
            "ltx/10",
            "ltx/00",
            "ltx/0/sub",
            "ltx/a",
            "ltx",
            "x/ltx/0",
            "0",
            "000a",
            "0000/0",
        ] {
            for layout in BOTH {
                assert_eq!(
                    layout.parse(&format!("{folder}/{name}")),
                    None,
                    "{folder} was taken"
                );
            }
        }
        assert_eq!(Layout::Tree.parse(name), None);
        assert_eq!(
            Layout::Tree.parse("ltx/0/0000000000000001-000000000000001F.ltx"),
            None
        );
        assert_eq!(Layout::Tree.parse(&format!("ltx/0/{name}.tmp")), None);
    }
}

//! Listing: the names of a level at once, what is behind them batch by batch.

use std::io;
use std::os::fd::AsFd;
use std::vec;

use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Error, ErrorKind, FileId, FileInfo, FileStream, Level, Result, Txid, TxidRange,
};
use rustix::fs::FileType;

use crate::blocking::{Source, pieces};
use crate::classify::classify;
use crate::folder::Folder;
use crate::root::Root;
use crate::sys;

/// How many files are looked at in one hop to a blocking thread.
const BATCH: usize = 512;

/// How often the names of a folder are read that is changed all the time.
const READINGS_MAX: usize = 8;

/// Lists the files of `level` from `from` on.
pub(crate) fn list(root: &Root, level: Level, from: Txid) -> Result<FileStream> {
    let Some(folder) = root.level(level)? else {
        return Ok(stream::empty().boxed());
    };
    let names = names(&folder, from)?.into_iter();
    let (first, rest) = Unlisted {
        folder,
        level,
        names,
    }
    .next()?;
    let first = stream::iter(first).map(Ok);
    Ok(match rest {
        None => first.boxed(),
        Some(rest) => first
            .chain(
                pieces(rest)
                    .map_ok(|batch| stream::iter(batch).map(Ok))
                    .try_flatten(),
            )
            .boxed(),
    })
}

/// The names of the files in `folder` from `from` on, in order: 16 bytes each, where a page of a
/// store would be bounded, because a folder is in no order.
///
/// A file system may move the entry of a file that is replaced, ahead of a reader or behind it, so
/// one reading of a folder that changes meanwhile may lack a file that was there all along. The
/// folder is therefore read until nothing changes during a reading, but not for ever: a file
/// can be missing from all readings together only where it was replaced in each of them.
fn names(folder: &Folder, from: Txid) -> Result<Vec<TxidRange>> {
    let mut names = Vec::new();
    let mut before = folder.changed()?;
    for reading in 0..READINGS_MAX {
        // A folder that changes twice within one tick of its clock looks as if it had changed
        // once, so while that is possible a second reading has to agree.
        let tick_is_over = before.is_past();
        let known = names.len();
        read_names(folder, from, &mut names)?;
        names.sort_unstable();
        names.dedup();
        let after = folder.changed()?;
        let is_confirmed = tick_is_over || (reading > 0 && names.len() == known);
        if before == after && is_confirmed {
            break;
        }
        before = after;
    }
    Ok(names)
}

fn read_names(folder: &Folder, from: Txid, names: &mut Vec<TxidRange>) -> Result<()> {
    for entry in folder.entries()? {
        let entry = entry.map_err(|errno| classify("read", folder.path(), errno.into()))?;
        let name = entry.file_name().to_str().ok();
        let txids: Option<TxidRange> = name.and_then(|name| name.parse().ok());
        if let Some(txids) = txids
            && txids.min() >= from
        {
            names.push(txids);
        }
    }
    Ok(())
}

/// Files of a level that have a name, but are still to be looked at.
struct Unlisted {
    folder: Folder,
    level: Level,
    names: vec::IntoIter<TxidRange>,
}

impl Source for Unlisted {
    type Piece = Vec<FileInfo>;

    fn next(mut self) -> Result<(Vec<FileInfo>, Option<Unlisted>)> {
        let mut batch = Vec::with_capacity(self.names.len().min(BATCH));
        while batch.len() < BATCH {
            let Some(txids) = self.names.next() else {
                return Ok((batch, None));
            };
            batch.extend(self.info(txids)?);
        }
        Ok((batch, Some(self)))
    }
}

impl Unlisted {
    /// What there is to say of a file, or `None` where it is gone or no regular file.
    fn info(&self, txids: TxidRange) -> Result<Option<FileInfo>> {
        let id = FileId {
            level: self.level,
            txids,
        };
        let name = txids.to_string();
        let meta = match sys::meta_in(self.folder.as_fd(), name.as_str()) {
            Ok(meta) if meta.kind == FileType::RegularFile => meta,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(classify("look at", &self.folder.path_of(name), error).of(id));
            }
        };
        let created_at = meta.modified.ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "the modification time of {} is beyond all calendars",
                    self.folder.path_of(name).display()
                ),
            )
            .of(id)
        })?;
        Ok(Some(FileInfo {
            id,
            size: meta.size,
            created_at,
        }))
    }
}

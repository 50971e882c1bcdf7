//! Listing: the names of a level at once, what is behind them in batches, several at a time.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use replica_core::{
    Error, ErrorKind, FileId, FileInfo, FileStream, Level, Result, Txid, TxidRange,
};
use rustix::fs::FileType;

use crate::blocking::Work;
use crate::classify::classify;
use crate::folder::Folder;
use crate::root::Root;
use crate::sys;

/// How many files are looked at in one hop to a blocking thread.
const BATCH: usize = 512;

/// How many batches are looked at side by side, ahead of the reader.
const BATCHES_AHEAD: usize = 4;

/// How often the names of a folder are read that is changed all the time.
const READINGS_MAX: usize = 8;

/// Lists the files of `level` from `from` on.
pub(crate) fn list(root: &Root, level: Level, from: Txid) -> Result<FileStream> {
    let Some(folder) = root.level(level)? else {
        return Ok(stream::empty().boxed());
    };
    let named = Named {
        names: names(&folder, from)?,
        folder,
        level,
    };
    let first = stream::iter(named.batch(0)?).map(Ok);
    if named.names.len() <= BATCH {
        return Ok(first.boxed());
    }
    Ok(first.chain(batches(named, BATCH).try_flatten()).boxed())
}

/// What is behind the names from `start` on, looked at on blocking threads ahead of the reader.
/// Nothing is looked at before the first poll, and nothing more after an error.
fn batches(
    named: Named,
    start: usize,
) -> impl Stream<Item = Result<impl Stream<Item = Result<FileInfo>> + Send>> + Send {
    let ahead = VecDeque::with_capacity(BATCHES_AHEAD);
    let state = (Arc::new(named), start, ahead);
    stream::try_unfold(state, async |(named, mut start, mut ahead)| {
        while ahead.len() < BATCHES_AHEAD && start < named.names.len() {
            let named = Arc::clone(&named);
            ahead.push_back(Work::spawn(move || named.batch(start)));
            start += BATCH;
        }
        let Some(next) = ahead.pop_front() else {
            return Ok(None);
        };
        let batch = stream::iter(next.await?).map(Ok);
        Ok(Some((batch, (named, start, ahead))))
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

/// The names in a level's folder; what is behind them is still to be looked at.
struct Named {
    folder: Folder,
    level: Level,
    names: Vec<TxidRange>,
}

impl Named {
    /// What there is to say of the files whose names are the [`BATCH`] from `start` on.
    fn batch(&self, start: usize) -> Result<Vec<FileInfo>> {
        let names = self.names.iter().skip(start).take(BATCH);
        names
            .filter_map(|txids| self.info(*txids).transpose())
            .collect()
    }

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

//! Reading: a range of one open file, chunk by chunk.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt, stream};
use replica_core::{ByteRange, ByteStream, Error, ErrorKind, FileId, Result};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::blocking::{Source, pieces};
use crate::classify::classify;
use crate::root::Root;
use crate::sys;

/// How many bytes are read at once. A stream holds one chunk that was read ahead, and its reader
/// the one before.
const CHUNK: u64 = 512 << 10;

/// A range that is not longer is read when it is opened: it keeps no file open, and costs one hop
/// to a blocking thread instead of two.
const AT_ONCE: u64 = 64 << 10;

/// Opens `range` of the file `id`.
pub(crate) fn open(root: &Root, id: FileId, range: ByteRange) -> Result<ByteStream> {
    let missing = || Error::new(ErrorKind::NotFound, "there is no such file");
    let folder = root.level(id.level)?.ok_or_else(missing)?;
    let name = id.txids.to_string();
    let path = folder.path_of(&name);
    let file = match sys::open_entry(folder.as_fd(), name.as_str(), OFlags::RDONLY) {
        Ok(file) => file,
        Err(error) if is_no_file(&error) => return Err(missing().with_source(error)),
        Err(error) => return Err(classify("open", &path, error)),
    };
    let meta = sys::meta(&file).map_err(|error| classify("look at", &path, error))?;
    if meta.kind != FileType::RegularFile {
        return Err(missing());
    }

    let range = range.resolve(meta.size)?;
    if range.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let unread = Unread {
        file,
        path,
        next: range.start,
        end: range.end,
    };
    if range.end - range.start <= AT_ONCE {
        let (bytes, _) = unread.next()?;
        return Ok(stream::once(async { Ok(bytes) }).boxed());
    }
    Ok(pieces(unread).boxed())
}

/// Whether what has the name is missing, a symbolic link or a socket: no file of the replica.
fn is_no_file(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::NOENT | Errno::LOOP | Errno::NXIO)
    )
}

/// What is still to be read of an open file, which is closed with it.
struct Unread {
    file: OwnedFd,
    path: PathBuf,
    next: u64,
    end: u64,
}

impl Source for Unread {
    type Piece = Bytes;

    fn next(mut self) -> Result<(Bytes, Option<Unread>)> {
        let len = (self.end - self.next).min(CHUNK) as usize;
        let mut chunk = Vec::with_capacity(len);
        while chunk.len() < len {
            let offset = self.next + chunk.len() as u64;
            let count = sys::read_at(&self.file, &mut chunk, offset)
                .map_err(|error| classify("read", &self.path, error))?;
            if count == 0 {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "{} ends after {offset} bytes: it was cut while it was being read",
                        self.path.display()
                    ),
                ));
            }
        }
        chunk.truncate(len);
        self.next += len as u64;
        let rest = (self.next < self.end).then_some(self);
        Ok((chunk.into(), rest))
    }
}

//! Frames of the log that were looked at and are wanted once more.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use ltx::Pgno;

use crate::ReplicateError;
use crate::wal::{Chain, ChangedPage};

/// Where frames that were found are.
#[derive(Debug)]
pub(crate) enum Frames {
    /// In the log's file, for as long as it is not begun anew.
    InLog(File),
    /// In memory, and so the log may be begun anew.
    Copied(Copies),
}

/// The last frame of each page, as bytes.
pub(crate) type Copies = HashMap<Pgno, Box<[u8]>>;

/// Why a frame that was there can't be read.
#[derive(Debug)]
pub(crate) enum FrameFault {
    Read(io::Error),
    /// It is another one now.
    Replaced,
}

impl Frames {
    /// Reads `page` once more, where `of` is any place in its log.
    pub(crate) fn read<'a>(
        &self,
        page: &ChangedPage,
        of: &Chain,
        frame: &'a mut [u8],
    ) -> Result<&'a [u8], FrameFault> {
        match self {
            Frames::InLog(file) => {
                let offset = page.offset(of.header().page_size());
                let read = file.read_exact_at(frame, offset);
                read.map_err(FrameFault::Read)?;
            }
            Frames::Copied(copies) => match copies.get(&page.pgno()) {
                Some(copy) if copy.len() == frame.len() => frame.copy_from_slice(copy),
                _ => return Err(FrameFault::Replaced),
            },
        }
        page.verify(of, frame).map_err(|_| FrameFault::Replaced)
    }
}

impl FrameFault {
    /// The same fault of the log at `path`.
    pub(crate) fn at(self, path: PathBuf) -> ReplicateError {
        match self {
            // A log that is begun anew may be cut off too.
            FrameFault::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                ReplicateError::Unsteady { path }
            }
            FrameFault::Read(source) => ReplicateError::Read { path, source },
            FrameFault::Replaced => ReplicateError::Unsteady { path },
        }
    }
}

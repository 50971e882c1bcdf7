//! Frames of the log that were looked at and are wanted once more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use crate::ReplicateError;
use crate::wal::{Chain, ChangedPage};

/// Where frames that were found are.
#[derive(Debug)]
pub(crate) enum Frames {
    /// In the log's file, for as long as it is not begun anew.
    InLog(File),
    /// In memory, and so the log may be begun anew.
    Copied {
        /// The offset in the log at which they begin.
        from: u64,
        bytes: Vec<u8>,
    },
}

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
        let offset = page.offset(of.header().page_size());
        match self {
            Frames::InLog(file) => file
                .read_exact_at(frame, offset)
                .map_err(FrameFault::Read)?,
            Frames::Copied { from, bytes } => {
                let skipped = offset.checked_sub(*from).map(usize::try_from);
                let rest = match skipped {
                    Some(Ok(skipped)) => bytes.get(skipped..).unwrap_or_default(),
                    _ => &[],
                };
                let Some(copy) = rest.get(..frame.len()) else {
                    return Err(FrameFault::Replaced);
                };
                frame.copy_from_slice(copy);
            }
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

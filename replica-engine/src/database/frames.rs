//! Frames of the log that were looked at and are wanted once more.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use ltx::Pgno;

use crate::ReplicateError;
use crate::wal::{Chain, Changed, ChangedPage};

/// Where frames that were found are.
#[derive(Debug)]
pub(crate) enum Frames {
    /// In the log's file, for as long as it is not begun anew, and maybe in memory too.
    InLog { file: File, kept: OnceLock<Copies> },
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
    pub(crate) fn in_log(file: File) -> Frames {
        Frames::InLog {
            file,
            kept: OnceLock::new(),
        }
    }

    /// The frames that are in memory, where they are.
    pub(crate) fn copies(&self) -> Option<&Copies> {
        match self {
            Frames::InLog { kept, .. } => kept.get(),
            Frames::Copied(copies) => Some(copies),
        }
    }

    /// Copies those of `changed` to memory, so that the log may be begun anew.
    pub(crate) fn keep(&self, changed: &Changed) -> Result<(), FrameFault> {
        let Frames::InLog { kept, .. } = self else {
            return Ok(());
        };
        if kept.get().is_some() {
            return Ok(());
        }
        let mut frame = vec![0; changed.end().header().frame_size()];
        let mut copies = Copies::new();
        for page in changed.pages() {
            self.read(page, changed.end(), &mut frame)?;
            copies.insert(page.pgno(), frame.as_slice().into());
        }
        // Whoever else has done so has read the same.
        kept.set(copies).ok();
        Ok(())
    }

    /// Reads `page` once more, where `of` is any place in its log.
    pub(crate) fn read<'a>(
        &self,
        page: &ChangedPage,
        of: &Chain,
        frame: &'a mut [u8],
    ) -> Result<&'a [u8], FrameFault> {
        if let (Frames::InLog { file, kept }, None) = (self, self.copies()) {
            let offset = page.offset(of.header().page_size());
            let read = file.read_exact_at(frame, offset);
            let found = match read.map_err(FrameFault::Read) {
                Ok(()) if page.verify(of, frame).is_err() => Err(FrameFault::Replaced),
                read => read,
            };
            match (found, kept.get()) {
                (Ok(()), _) => return Ok(page.content(of, frame)),
                // The log was begun anew just then.
                (Err(_), Some(_)) => {}
                (Err(fault), None) => return Err(fault),
            }
        }
        match self.copies().and_then(|copies| copies.get(&page.pgno())) {
            Some(copy) if copy.len() == frame.len() => frame.copy_from_slice(copy),
            _ => return Err(FrameFault::Replaced),
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

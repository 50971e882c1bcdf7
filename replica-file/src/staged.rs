//! A file on its way into the replica.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use replica_core::{Error, ErrorKind, FileId, FileInfo, Result, Timestamp};
use rustix::fs::Mode;

use crate::blocking::Caller;
use crate::classify::classify;
use crate::folder::Folder;
use crate::root::{LevelFolder, Root};
use crate::sys::{self, Lock};
use crate::temporary::{self, TemporaryName};

/// How many names are tried for one temporary file.
const NAME_ATTEMPTS: usize = 16;

/// The permissions of a file that is not whole yet: nobody else has any business with it, and
/// its owner, when sweeping, must be able to open it.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// How many bytes are written at once, before it is looked whether the caller still waits. Writes
/// of 1 MiB take ext4 about twice as long as those of 512 KiB and less.
const SLICE: usize = 256 << 10;

/// How many bytes are written before they are brought to the disk, while as many more may be
/// written. So a body moves at the pace of the disk, and no call has so much left to sync that it
/// hangs for longer than others wait.
const SYNC_EVERY: usize = 64 << 20;

/// A temporary file that disappears unless it is published: an unfinished write leaves no trace.
#[derive(Debug)]
pub(crate) struct Staged {
    id: FileId,
    folder: Folder,
    /// The permissions that it will have.
    mode: Mode,
    /// The name it has, until it has been given its final one.
    temporary: Option<String>,
    /// Locked, so that nobody takes it for left over.
    file: Arc<File>,
    /// How many bytes were written since the last sync was begun.
    unsynced: usize,
}

impl Staged {
    /// Makes an empty temporary file in the folder of `id`'s level, which is made where it is
    /// missing. The first time a client does so it sweeps the folder.
    pub(crate) fn create(root: &Root, id: FileId, caller: &Caller) -> Result<Staged> {
        for _ in 0..NAME_ATTEMPTS {
            caller.still_waits()?;
            let LevelFolder {
                folder,
                is_first_visit,
            } = root.make_level(id.level)?;
            let own = TemporaryName::new(id.txids);
            let name = own.to_string();
            let file = match sys::create(folder.as_fd(), &name, PRIVATE) {
                Ok(file) => file,
                // The folder was deleted meanwhile, or the name is taken.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists
                    ) =>
                {
                    continue;
                }
                Err(error) => return Err(classify("make", &folder.path_of(name), error)),
            };
            let staged = Staged {
                id,
                folder,
                mode: root.file_mode,
                temporary: Some(name),
                file: Arc::new(file),
                unsynced: 0,
            };
            let taken = sys::lock(&staged.file).map_err(|error| staged.fault("lock", error))?;
            let meta = sys::meta(&staged.file).map_err(|error| staged.fault("look at", error))?;
            // Whoever swept the folder between the creation and the lock took it for left over.
            if taken == Lock::Refused || meta.links == 0 {
                continue;
            }
            if is_first_visit {
                temporary::sweep(&staged.folder, own, meta.changed, caller);
            }
            return Ok(staged);
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "no temporary file could be made below {}: others delete them at once",
                root.path.display()
            ),
        ))
    }

    /// Appends `pieces`.
    pub(crate) fn write(&mut self, pieces: &[Bytes], caller: &Caller) -> Result<()> {
        for slice in pieces.iter().flat_map(|piece| piece.chunks(SLICE)) {
            caller.still_waits()?;
            sys::write_all(&self.file, slice).map_err(|error| self.fault("write", error))?;
            self.unsynced += slice.len();
        }
        Ok(())
    }

    /// What brings to the disk all that was written so far, where that is much.
    pub(crate) fn sync(&mut self) -> Option<impl FnOnce() -> Result<()> + Send + use<>> {
        if self.unsynced < SYNC_EVERY {
            return None;
        }
        self.unsynced = 0;
        let (file, path) = (Arc::clone(&self.file), self.path());
        Some(move || sys::sync_content(&file).map_err(|error| classify("sync", &path, error)))
    }

    /// Makes this the file of its name, whole and on the disk, in place of any there is: unless
    /// the caller goes away before the one moment when that happens.
    pub(crate) fn publish(mut self, created_at: Timestamp, caller: &Caller) -> Result<FileInfo> {
        caller.still_waits()?;
        sys::set_mode(&self.file, self.mode)
            .map_err(|error| self.fault("set the permissions of", error))?;
        sys::set_modified(&self.file, created_at)
            .map_err(|error| self.fault("set the time of", error))?;
        sys::sync_file(&self.file).map_err(|error| self.fault("sync", error))?;
        let meta = sys::meta(&self.file).map_err(|error| self.fault("look at", error))?;
        if meta.modified != Some(created_at) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the file system can't hold the time {created_at} for {}",
                    self.path().display()
                ),
            ));
        }

        caller.commit()?;
        self.rename()?;
        self.folder.sync()?;
        Ok(FileInfo {
            id: self.id,
            size: meta.size,
            created_at,
        })
    }

    fn rename(&mut self) -> Result<()> {
        let Some(temporary) = &self.temporary else {
            return Ok(());
        };
        let name = self.id.txids.to_string();
        match sys::rename(self.folder.as_fd(), temporary, &name) {
            Ok(()) => {
                self.temporary = None;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{} was deleted while it was being written",
                    self.path().display()
                ),
            )
            .with_source(error)),
            Err(error) => Err(classify(
                "rename a temporary file to",
                &self.folder.path_of(name),
                error,
            )),
        }
    }

    /// The error for `cause`, which came of trying to do `doing` to the temporary file.
    fn fault(&self, doing: &str, cause: io::Error) -> Error {
        classify(doing, &self.path(), cause)
    }

    fn path(&self) -> PathBuf {
        match &self.temporary {
            Some(name) => self.folder.path_of(name),
            None => self.folder.path_of(self.id.txids.to_string()),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // What can't be removed is swept by the next writer: the lock goes with the file.
            let _ = sys::unlink(self.folder.as_fd(), name.as_str());
        }
    }
}

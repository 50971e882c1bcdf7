//! Where a replica is, and the folders of its levels.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use replica_core::{Error, ErrorKind, Layout, Level, Result};
use rustix::fs::Mode;

use crate::folder::{Folder, Identity};

/// How often a folder that is deleted while it is being made is made again.
const MAKE_ATTEMPTS: usize = 16;

/// The root of a replica.
#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) path: PathBuf,
    pub(crate) file_mode: Mode,
    pub(crate) folder_mode: Mode,
    /// The folder of each level that is known to be safe on the disk with all above it.
    settled: Mutex<[Option<Identity>; Level::ALL.len()]>,
}

/// A level's folder, for writing.
pub(crate) struct LevelFolder {
    pub(crate) folder: Folder,
    /// Whether this client writes there for the first time.
    pub(crate) is_first_visit: bool,
}

impl Root {
    pub(crate) fn new(path: PathBuf, file_mode: Mode, folder_mode: Mode) -> Root {
        Root {
            path,
            file_mode,
            folder_mode,
            settled: Mutex::default(),
        }
    }

    /// Opens the folder of `level`, or `None` where nothing was ever written to it.
    pub(crate) fn level(&self, level: Level) -> Result<Option<Folder>> {
        self.refuse_empty_path()?;
        let mut folder = Folder::open_root(&self.path)?;
        for name in Layout::Tree.folder(level).split('/') {
            let Some(parent) = folder else {
                return Ok(None);
            };
            folder = parent.child(name)?;
        }
        Ok(folder)
    }

    /// Opens the folder of `level` to write to it, and makes it and what is missing above it.
    /// All of these are on the disk when this returns, whoever made them.
    pub(crate) fn make_level(&self, level: Level) -> Result<LevelFolder> {
        if let Some(folder) = self.level(level)?
            && self.settled_as(level) == Some(folder.identity()?)
        {
            return Ok(LevelFolder {
                folder,
                is_first_visit: false,
            });
        }
        for _ in 0..MAKE_ATTEMPTS {
            if let Some(folder) = self.make_and_settle(level)? {
                return Ok(LevelFolder {
                    folder,
                    is_first_visit: true,
                });
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!(
                "the folder of level {level} below {} is deleted again and again",
                self.path.display()
            ),
        ))
    }

    /// `None` where one of the folders was deleted meanwhile.
    fn make_and_settle(&self, level: Level) -> Result<Option<Folder>> {
        // Held until all is synced: another write of this client must not be acknowledged while
        // a folder that it is in could still be lost.
        let mut settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut folder) = Folder::make_root(&self.path, self.folder_mode)? else {
            return Ok(None);
        };
        for name in Layout::Tree.folder(level).split('/') {
            let Some(child) = folder.make_child(name, self.folder_mode)? else {
                return Ok(None);
            };
            // Also where another process made the child: it may not have come this far.
            folder.sync()?;
            folder = child;
        }
        settled[usize::from(level.get())] = Some(folder.identity()?);
        Ok(Some(folder))
    }

    fn settled_as(&self, level: Level) -> Option<Identity> {
        let settled = self.settled.lock().unwrap_or_else(PoisonError::into_inner);
        settled[usize::from(level.get())]
    }

    pub(crate) fn refuse_empty_path(&self) -> Result<()> {
        if self.path.as_os_str().is_empty() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the path of the replica is empty",
            ));
        }
        Ok(())
    }
}

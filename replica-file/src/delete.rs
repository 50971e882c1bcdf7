//! Deleting: files, and everything.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use replica_core::{Error, ErrorKind, FileId, Result};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::blocking::Caller;
use crate::classify::classify;
use crate::folder::Folder;
use crate::root::Root;
use crate::sys;

/// How deep folders are emptied: each takes an open file.
const DEPTH_MAX: usize = 64;

/// How often a folder is gone through until nothing is left in it: reading a folder while
/// deleting from it may skip entries, and others may add some.
const PASSES_MAX: usize = 8;

/// Deletes `files`, and says which could not be deleted.
pub(crate) fn delete(root: &Root, mut files: Vec<FileId>, caller: &Caller) -> Result<()> {
    files.sort_unstable();
    files.dedup();
    let mut failed = Failed::default();
    for files in files.chunk_by(|a, b| a.level == b.level) {
        let level = files[0].level;
        let folder = match root.level(level) {
            Ok(Some(folder)) => folder,
            Ok(None) => continue,
            Err(error) => {
                failed.add(files, error);
                continue;
            }
        };
        for file in files {
            caller.still_waits()?;
            if let Err(error) = delete_in(&folder, *file) {
                failed.add(&[*file], error);
            }
        }
        if let Err(error) = folder.sync() {
            failed.add(files, error);
        }
    }
    failed.into_result()
}

/// The files that could not be deleted, or not for good, and why the first of them could not.
#[derive(Default)]
struct Failed {
    files: Vec<FileId>,
    first: Option<Error>,
}

impl Failed {
    fn add(&mut self, files: &[FileId], error: Error) {
        self.files.extend(files);
        self.first.get_or_insert(error);
    }

    fn into_result(mut self) -> Result<()> {
        // One that could not be deleted is named again where its folder could not be synced.
        self.files.sort_unstable();
        self.files.dedup();
        self.first
            .map_or(Ok(()), |error| Err(error.of_files(self.files)))
    }
}

fn delete_in(folder: &Folder, file: FileId) -> Result<()> {
    let name = file.txids.to_string();
    match sys::unlink(folder.as_fd(), name.as_str()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A folder of that name is no file of the replica, so the file is not there. Linux says
        // EISDIR, others EPERM.
        Err(_) if is_folder(folder, &name) => Ok(()),
        result => result.map_err(|error| classify("delete", &folder.path_of(name), error)),
    }
}

fn is_folder(parent: &Folder, name: &str) -> bool {
    sys::meta_in(parent.as_fd(), name).is_ok_and(|meta| meta.kind == FileType::Directory)
}

/// Deletes everything below the root, and the root itself where that is possible.
pub(crate) fn delete_all(root: &Root, caller: &Caller) -> Result<()> {
    root.refuse_empty_path()?;
    // A root that the file system has no name for never existed.
    if let Err(error) = root.path.symlink_metadata()
        && Errno::from_io_error(&error) == Some(Errno::NAMETOOLONG)
    {
        return Ok(());
    }
    let Some(folder) = Folder::open_root(&root.path)? else {
        return Ok(());
    };
    empty(&folder, DEPTH_MAX, caller)?;
    folder.sync()?;
    // It stays where it is a symbolic link, a mount, or its parent is not ours to write to.
    let parent = folder.parent();
    if std::fs::remove_dir(&root.path).is_ok()
        && let Ok(parent) = parent
    {
        parent.sync()?;
    }
    Ok(())
}

/// Deletes all entries of `folder`. What can't be deleted does not keep the others from being
/// deleted; the first such error is returned.
fn empty(folder: &Folder, depth_left: usize, caller: &Caller) -> Result<()> {
    for _ in 0..PASSES_MAX {
        let mut is_empty = true;
        let mut failed = None;
        for entry in folder.entries()? {
            caller.still_waits()?;
            let entry = entry.map_err(|errno| classify("read", folder.path(), errno.into()))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            is_empty = false;
            if let Err(error) = remove(folder, name, depth_left, caller) {
                failed.get_or_insert(error);
            }
        }
        match failed {
            Some(error) => return Err(error),
            None if is_empty => return Ok(()),
            None => {}
        }
    }
    Err(Error::new(
        ErrorKind::Unavailable,
        format!(
            "{} is written to while it is being emptied",
            folder.path().display()
        ),
    ))
}

/// Deletes the entry `name` of `folder` with all that is in it.
fn remove(folder: &Folder, name: &CStr, depth_left: usize, caller: &Caller) -> Result<()> {
    let os_name = OsStr::from_bytes(name.to_bytes());
    let path = folder.path_of(os_name);
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|error| classify("delete", &path, error)),
    };
    match sys::meta_in(folder.as_fd(), name) {
        Ok(meta) if meta.kind == FileType::Directory => {}
        Ok(_) => return gone(sys::unlink(folder.as_fd(), name)),
        Err(error) => return gone(Err(error)),
    }
    let depth_left = depth_left.checked_sub(1).ok_or_else(|| {
        Error::new(
            ErrorKind::Other,
            format!("{} is too deep to be deleted", path.display()),
        )
    })?;
    let Some(child) = folder.child(os_name)? else {
        return Ok(());
    };
    empty(&child, depth_left, caller)?;
    match sys::remove_folder(folder.as_fd(), name) {
        // Someone has written to it since: the next pass sees to that.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        result => gone(result),
    }
}

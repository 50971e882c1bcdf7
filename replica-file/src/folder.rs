//! Folders held open, so that nothing below the root is ever reached through a symbolic link.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use replica_core::{Error, ErrorKind, Result};
use rustix::fs::{Dir, Mode};

use crate::classify::classify;
use crate::sys;

/// An open folder, with its path for messages.
#[derive(Debug)]
pub(crate) struct Folder {
    fd: File,
    path: PathBuf,
}

/// Which folder it is: numbers of inodes are used again, so the time of birth belongs to it where
/// the file system knows one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

/// When a folder last changed, by the clock of its file system, which is in no hurry: changes of
/// the same tick share a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    secs: i64,
    nanos: i64,
}

/// No clock of a file system ticks more slowly than this, in seconds: FAT's.
const TICK_MAX_SECS: i64 = 2;

impl Changed {
    /// Whether a change from now on would have another time.
    pub(crate) fn is_past(self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs().cast_signed());
        now.saturating_sub(self.secs) > TICK_MAX_SECS
    }
}

impl Folder {
    /// Opens the root of a replica, which may be a symbolic link itself. `None` where there is
    /// none; a link that leads nowhere is an error, because a disk that is not mounted must not
    /// look like an empty replica.
    pub(crate) fn open_root(path: &Path) -> Result<Option<Folder>> {
        match sys::open_folder(path) {
            Ok(fd) => Ok(Some(Folder {
                fd,
                path: path.to_owned(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                refuse_dangling_link(path)?;
                Ok(None)
            }
            Err(error) => Err(classify("open the folder", path, error)),
        }
    }

    /// Opens the root of a replica, and makes it and what is missing above it: each new folder
    /// has the permissions `mode`. `None` where it was deleted again meanwhile.
    ///
    /// Each folder is synced into its parent, whoever made it: whoever did may not have come that
    /// far. That goes for the lowest of those that were there, too, but not for those above it,
    /// because nobody makes a folder in one that is not synced yet.
    pub(crate) fn make_root(path: &Path, mode: Mode) -> Result<Option<Folder>> {
        let (mut missing, mut above) = (Vec::new(), None);
        for folder in path.ancestors() {
            if let Some(found) = Folder::open_root(folder)? {
                found.sync_into_parent_if_permitted()?;
                above = Some(found);
                break;
            }
            missing.push(folder);
        }
        for folder in missing.into_iter().rev() {
            let is_ours = match sys::make_folder(folder, mode) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return match above {
                        Some(above) if above.is_still_there()? => Err(unmakeable(folder, error)),
                        _ => Ok(None),
                    };
                }
                Err(error) => return Err(classify("make the folder", folder, error)),
            };
            let Some(made) = Folder::open_root(folder)? else {
                return Ok(None);
            };
            if is_ours {
                made.set_mode(mode)?;
                made.parent()?.sync()?;
            } else {
                made.sync_into_parent_if_permitted()?;
            }
            above = Some(made);
        }
        Folder::open_root(path)
    }

    /// Writes the entry of this folder, which someone else has made, to the disk. A parent that
    /// we may not read, or on a file system that is mounted read-only, is left to them.
    fn sync_into_parent_if_permitted(&self) -> Result<()> {
        match self.parent().and_then(|parent| parent.sync()) {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
            result => result,
        }
    }

    /// Whether its path still leads to it.
    fn is_still_there(&self) -> Result<bool> {
        match Folder::open_root(&self.path)? {
            Some(found) => Ok(found.identity()? == self.identity()?),
            None => Ok(false),
        }
    }

    /// Opens the folder `name` in this one. `None` where there is none.
    pub(crate) fn child(&self, name: impl AsRef<OsStr>) -> Result<Option<Folder>> {
        let name = name.as_ref();
        let path = self.path.join(name);
        match sys::open_folder_in(self.as_fd(), name) {
            Ok(fd) => Ok(Some(Folder { fd, path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(classify("open the folder", &path, error)),
        }
    }

    /// Opens the folder `name` in this one, and makes it with the permissions `mode` where it is
    /// missing. `None` where one of the two was deleted meanwhile.
    pub(crate) fn make_child(&self, name: &str, mode: Mode) -> Result<Option<Folder>> {
        if let Some(child) = self.child(name)? {
            return Ok(Some(child));
        }
        match sys::make_folder_in(self.as_fd(), name, mode) {
            Ok(()) => {
                let child = self.child(name)?;
                if let Some(child) = &child {
                    child.set_mode(mode)?;
                }
                Ok(child)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.child(name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(classify("make the folder", &self.path.join(name), error)),
        }
    }

    /// Writes this folder's entries to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        sys::sync_folder(self.as_fd())
            .map_err(|error| classify("sync the folder", &self.path, error))
    }

    /// The folder that this one is in.
    pub(crate) fn parent(&self) -> Result<Folder> {
        let path = self.path.join("..");
        match sys::open_folder_in(self.as_fd(), OsStr::new("..")) {
            Ok(fd) => Ok(Folder { fd, path }),
            Err(error) => Err(classify("open the folder", &path, error)),
        }
    }

    /// What tells this folder from one that is later made in its place.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let meta = self.fd.metadata();
        let meta = meta.map_err(|error| classify("look at the folder", &self.path, error))?;
        Ok(Identity {
            device: meta.dev(),
            inode: meta.ino(),
            born: meta.created().ok(),
        })
    }

    /// When an entry was last added, removed or renamed here.
    pub(crate) fn changed(&self) -> Result<Changed> {
        let meta = sys::meta(&self.fd);
        let meta = meta.map_err(|error| classify("look at the folder", &self.path, error))?;
        Ok(Changed {
            secs: meta.changed,
            nanos: meta.changed_nanos,
        })
    }

    /// Reads this folder's entries from the start.
    pub(crate) fn entries(&self) -> Result<Dir> {
        Dir::read_from(&self.fd)
            .map_err(|errno| classify("read the folder", &self.path, errno.into()))
    }

    /// The path of `name` in this folder, for messages.
    pub(crate) fn path_of(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn set_mode(&self, mode: Mode) -> Result<()> {
        sys::set_mode(&self.fd, mode)
            .map_err(|error| classify("set the permissions of", &self.path, error))
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An error where `path` is missing because it, or a folder above it, is a symbolic link that
/// leads nowhere.
fn refuse_dangling_link(path: &Path) -> Result<()> {
    let Some(existing) = path
        .ancestors()
        .find(|ancestor| ancestor.symlink_metadata().is_ok())
    else {
        return Ok(());
    };
    match existing.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "{} is a symbolic link that leads nowhere",
                existing.display()
            ),
        )
        .with_source(error)),
        _ => Ok(()),
    }
}

/// The error for a folder that a file system such as `/proc` has no place for: it says that there is
/// nothing above it, which there is.
fn unmakeable(folder: &Path, error: io::Error) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "could not make the folder {}: the file system there has no place for it",
            folder.display()
        ),
    )
    .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_folder_that_is_deleted_while_it_is_open_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        let root = Folder::open_root(dir.path()).unwrap().expect("it exists");
        let child = root.make_child("db", Mode::RWXU).unwrap();
        let child = child.expect("nobody deletes it");
        fs::remove_dir(dir.path().join("db")).unwrap();

        let entries = child.entries().unwrap();

        assert_eq!(entries.count(), 0);
        assert!(child.child("ltx").unwrap().is_none());
        assert!(child.make_child("ltx", Mode::RWXU).unwrap().is_none());
        child.sync().unwrap();
        root.make_child("db", Mode::RWXU)
            .unwrap()
            .expect("it can be made again");
    }

    /// It was taken for a folder that somebody deletes again and again, and tried for ever.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_folder_that_its_file_system_has_no_place_for_is_refused() {
        let made = Folder::make_root(Path::new("/proc/replica/app"), Mode::RWXU);

        let error = made.expect_err("nobody makes folders there");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("/proc/replica"), "{error}");
    }
}

//! The system calls of this crate, each in one place.
//!
//! Below the root every path is one name relative to an open folder, and no call follows a
//! symbolic link there. In this crate's own tests each call that changes something is recorded,
//! and can be made to fail: see `trace`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use replica_core::Timestamp;
use rustix::fs::{
    self, AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, Timespec, UTIME_OMIT,
};
use rustix::io::{Errno, retry_on_intr};

/// In this crate's tests: records the call on `fd` (and `name` in it), or makes it fail.
macro_rules! observed {
    ($call:literal, $fd:expr, $name:expr) => {
        #[cfg(all(test, target_os = "linux"))]
        crate::trace::observe($call, $fd, $name)?;
    };
}

/// What this crate wants to know of an entry of a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meta {
    pub(crate) kind: FileType,
    pub(crate) size: u64,
    /// How many names it still has.
    pub(crate) links: u64,
    /// Seconds since the epoch when the entry last changed, by the clock of the file system.
    pub(crate) changed: i64,
    /// The nanoseconds that belong to them, where the file system has such.
    pub(crate) changed_nanos: i64,
    /// When it was last modified, rounded down to a millisecond, where that can be said in an
    /// `i64` of milliseconds.
    pub(crate) modified: Option<Timestamp>,
}

// The fields of `Stat` have other types on other platforms.
#[allow(clippy::unnecessary_cast)]
impl From<Stat> for Meta {
    fn from(stat: Stat) -> Meta {
        let millis = (stat.st_mtime as i64)
            .checked_mul(1000)
            .and_then(|millis| millis.checked_add(stat.st_mtime_nsec as i64 / 1_000_000));
        Meta {
            kind: FileType::from_raw_mode(stat.st_mode as _),
            size: stat.st_size as u64,
            links: stat.st_nlink as u64,
            changed: stat.st_ctime as i64,
            changed_nanos: stat.st_ctime_nsec as i64,
            modified: millis.map(Timestamp::from_millis),
        }
    }
}

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Opens the folder at `path`, through any symbolic link.
pub(crate) fn open_folder(path: &Path) -> io::Result<File> {
    Ok(retry_on_intr(|| fs::open(path, FOLDER, Mode::empty()))?.into())
}

/// Opens the folder `name` in `parent`, unless it is a symbolic link.
pub(crate) fn open_folder_in(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = FOLDER | OFlags::NOFOLLOW;
    let fd = retry_on_intr(|| fs::openat(parent, name, flags, Mode::empty()))?;
    Ok(fd.into())
}

/// Opens the entry `name` of `folder` to be read, or to be locked as well. Does not wait for
/// the other end of a pipe, and does not follow a symbolic link.
pub(crate) fn open_entry(
    folder: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
    access: OFlags,
) -> io::Result<OwnedFd> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(retry_on_intr(|| {
        fs::openat(folder, name, flags, Mode::empty())
    })?)
}

/// Makes the new file `name` in `folder` and opens it to be written.
pub(crate) fn create(folder: BorrowedFd<'_>, name: &str, mode: Mode) -> io::Result<File> {
    observed!("create", folder, Some(name));
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = retry_on_intr(|| fs::openat(folder, name, flags | OFlags::NOFOLLOW, mode))?;
    Ok(File::from(fd))
}

pub(crate) fn make_folder(path: &Path, mode: Mode) -> io::Result<()> {
    observed!("mkdir", CWD, path.to_str());
    Ok(retry_on_intr(|| fs::mkdirat(CWD, path, mode))?)
}

pub(crate) fn make_folder_in(parent: BorrowedFd<'_>, name: &str, mode: Mode) -> io::Result<()> {
    observed!("mkdir", parent, Some(name));
    Ok(retry_on_intr(|| fs::mkdirat(parent, name, mode))?)
}

/// Sets the permission bits whatever the process's umask.
pub(crate) fn set_mode(fd: impl AsFd, mode: Mode) -> io::Result<()> {
    observed!("chmod", fd.as_fd(), None);
    Ok(retry_on_intr(|| fs::fchmod(&fd, mode))?)
}

pub(crate) fn set_modified(file: &File, time: Timestamp) -> io::Result<()> {
    observed!("utimens", file.as_fd(), None);
    let millis = time.as_millis();
    let times = fs::Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: millis.div_euclid(1000),
            tv_nsec: (millis.rem_euclid(1000) * 1_000_000) as _,
        },
    };
    Ok(retry_on_intr(|| fs::futimens(file, &times))?)
}

pub(crate) fn write_all(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    observed!("write", file.as_fd(), None);
    file.write_all(bytes)
}

/// Reads from `offset` on into the spare capacity of `buffer`, as much as there is at once:
/// nothing only at the end of the file.
pub(crate) fn read_at(file: &OwnedFd, buffer: &mut Vec<u8>, offset: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pread(file, rustix::buffer::spare_capacity(buffer), offset) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Writes the content of `file` to the disk.
pub(crate) fn sync_content(file: &File) -> io::Result<()> {
    observed!("fdatasync", file.as_fd(), None);
    file.sync_data()
}

/// Writes the content and the times of `file` to the disk.
pub(crate) fn sync_file(file: &File) -> io::Result<()> {
    observed!("fsync", file.as_fd(), None);
    file.sync_all()
}

/// Writes the entries of `folder` to the disk, where the file system has such a thing.
pub(crate) fn sync_folder(folder: BorrowedFd<'_>) -> io::Result<()> {
    observed!("fsync", folder, None);
    match retry_on_intr(|| fs::fsync(folder)) {
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        result => Ok(result?),
    }
}

pub(crate) fn rename(folder: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    observed!("rename", folder, Some(to));
    Ok(retry_on_intr(|| fs::renameat(folder, from, folder, to))?)
}

/// Removes the name `name` from `folder`: of anything but a folder.
pub(crate) fn unlink(
    folder: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> io::Result<()> {
    observed!("unlink", folder, name.as_str().ok());
    Ok(retry_on_intr(|| {
        fs::unlinkat(folder, name, AtFlags::empty())
    })?)
}

/// Removes the empty folder `name` from `parent`.
pub(crate) fn remove_folder(
    parent: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> io::Result<()> {
    observed!("rmdir", parent, name.as_str().ok());
    Ok(retry_on_intr(|| {
        fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
    })?)
}

pub(crate) fn meta(fd: impl AsFd) -> io::Result<Meta> {
    Ok(retry_on_intr(|| fs::fstat(&fd))?.into())
}

/// What `name` in `folder` is, itself and not what it links to.
pub(crate) fn meta_in(
    folder: BorrowedFd<'_>,
    name: impl rustix::path::Arg + Copy,
) -> io::Result<Meta> {
    Ok(retry_on_intr(|| fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))?.into())
}

/// What came of trying to lock a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// It is ours until it is closed, by us or by our death.
    Taken,
    /// Someone else has it.
    Refused,
    /// The file system has no locks.
    Unsupported,
}

/// Locks `file` for as long as it is open, without waiting.
pub(crate) fn lock(file: impl AsFd) -> io::Result<Lock> {
    match try_lock(file.as_fd()) {
        Ok(()) => Ok(Lock::Taken),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::WOULDBLOCK) => Ok(Lock::Refused),
            // The last is what NFS says without its lock daemon.
            Some(Errno::NOSYS | Errno::NOTSUP | Errno::INVAL | Errno::NOLCK) => {
                Ok(Lock::Unsupported)
            }
            _ => Err(error),
        },
    }
}

fn try_lock(file: BorrowedFd<'_>) -> io::Result<()> {
    observed!("lock", file, None);
    Ok(retry_on_intr(|| {
        fs::flock(file, FlockOperation::NonBlockingLockExclusive)
    })?)
}

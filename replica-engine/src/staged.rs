//! A file beside the target that becomes the target in one step, or disappears.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::RestoreError;
use crate::occupied::is_occupied;

/// What to do with a database that is at the target already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Fail, and leave it alone.
    #[default]
    Refuse,
    /// Put the restored database in its place once that is whole, with the same permissions and,
    /// where this user may, the same owner, and remove its write-ahead log, shared memory and
    /// journal. Anything but a regular file is refused, and so is a database that somebody has open,
    /// who would go on with a file that has no name any more. SQLite's locks tell of that: of one
    /// in WAL mode always, of another one while it is read or written.
    ///
    /// The log is out of the way while the one database takes the other's place. A process that is
    /// killed in that very moment leaves it as `.replica-restore-<number>-<name>-wal`: where the old
    /// database is still the one called `<name>`, rename it to `<name>-wal` before anybody opens the
    /// database. The next replacement of that database removes it.
    Replace,
}

/// What the names of temporary files begin and end with.
const PREFIX: &str = ".replica-restore-";
const SUFFIX: &str = ".tmp";
/// How many hex digits are between them.
const RANDOM_LEN: usize = 16;
/// What SQLite puts beside a database, and takes for a part of the one it finds there.
const BESIDE: [&str; 3] = ["-wal", "-journal", "-shm"];
/// How many names of a folder are looked at for temporary files of restores that were killed.
const SWEEP_MAX: usize = 10_000;
/// How long nothing was written to such a file before it is removed.
const SWEEP_AGE: Duration = Duration::from_secs(60);
/// How often another name is tried, where one is taken.
const NAMES_MAX: usize = 16;

/// A path that a database is to be restored to.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    path: PathBuf,
    folder: PathBuf,
    name: OsString,
    existing: Existing,
    /// Writes the names in a folder to the disk; a test's may fail to.
    sync: fn(&Path) -> io::Result<()>,
}

/// A temporary file beside the target, which disappears unless it is published.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
    file: Option<Arc<File>>,
    destination: Destination,
}

impl Destination {
    /// Checks that a database may be restored to `path`.
    pub(crate) fn new(path: &Path, existing: Existing) -> Result<Destination, RestoreError> {
        // What a link leads to is what is replaced, not the link.
        let resolved = match (existing, path.canonicalize()) {
            (Existing::Replace, Ok(resolved)) => resolved,
            _ => path.to_owned(),
        };
        let name = resolved.file_name().map(OsStr::to_owned);
        let folder = match resolved.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Path::new(".").to_owned(),
            Some(folder) => folder.to_owned(),
            None => PathBuf::new(),
        };
        let (Some(name), false) = (name, resolved.is_dir()) else {
            let path = path.to_owned();
            return Err(RestoreError::NotAFile { path });
        };
        let destination = Destination {
            path: resolved,
            folder,
            name,
            existing,
            sync: |folder| File::open(folder)?.sync_all(),
        };
        destination.check_nothing_is_there()?;
        Ok(destination)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes a user may still write where the target is, if the system says.
    pub(crate) fn available(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.folder).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Checks that nothing is there that must stay: anything, or anything but a file that nobody
    /// has open.
    fn check_nothing_is_there(&self) -> Result<(), RestoreError> {
        let path = self.path.clone();
        if self.existing == Existing::Replace {
            return match path.metadata() {
                Ok(there) if !there.is_file() => Err(RestoreError::NotAFile { path }),
                Ok(_) if is_occupied(&path) => Err(RestoreError::Occupied { path }),
                _ => Ok(()),
            };
        }
        if path.symlink_metadata().is_ok() {
            return Err(RestoreError::TargetExists { path });
        }
        let mut beside = self.beside().map(|(_, path)| path);
        match beside.find(|path| path.symlink_metadata().is_ok()) {
            Some(path) => Err(RestoreError::LeftOver { path }),
            None => Ok(()),
        }
    }

    /// What SQLite puts beside the target: the end of its name, and its path.
    fn beside(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        BESIDE.into_iter().map(|suffix| {
            let mut name = self.name.clone();
            name.push(suffix);
            (suffix, self.folder.join(name))
        })
    }

    /// The file that is to be replaced, if there is one.
    fn replaced(&self) -> Option<Metadata> {
        match self.existing {
            Existing::Refuse => None,
            Existing::Replace => self.path.metadata().ok(),
        }
    }

    fn sync_folder(&self) -> Result<(), RestoreError> {
        (self.sync)(&self.folder).map_err(|source| RestoreError::Write {
            action: "sync the folder",
            path: self.folder.clone(),
            source,
        })
    }

    /// A name that what is called `name` and `suffix` can have for a while.
    fn aside(&self, suffix: &str) -> PathBuf {
        let mut ending = OsString::from("-");
        ending.push(&self.name);
        ending.push(suffix);
        self.folder.join(temporary_name(&ending))
    }

    /// Removes what killed restores have put aside of databases that had this name. It belongs to
    /// none that is left, once the new one is certain to last.
    fn sweep_aside(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.take(SWEEP_MAX).flatten() {
            if self.is_aside(&entry.file_name()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn is_aside(&self, name: &OsStr) -> bool {
        let parts = name
            .as_bytes()
            .strip_prefix(PREFIX.as_bytes())
            .and_then(|rest| rest.split_at_checked(RANDOM_LEN));
        let Some((random, ending)) = parts else {
            return false;
        };
        let suffix = ending
            .strip_prefix(b"-")
            .and_then(|ending| ending.strip_prefix(self.name.as_bytes()));
        random.iter().all(u8::is_ascii_hexdigit)
            && BESIDE
                .iter()
                .any(|beside| suffix == Some(beside.as_bytes()))
    }
}

impl Staged {
    /// Makes an empty file in the target's folder, and removes there what restores that were
    /// killed have left. The file has the permissions `mode`, or those of the one it is to replace.
    pub(crate) fn new(destination: Destination, mode: u32) -> Result<Staged, RestoreError> {
        let created = create(&destination.folder, mode);
        let (path, file) = created.map_err(|source| RestoreError::Folder {
            folder: destination.folder.clone(),
            source: match source.kind() {
                // As /proc says it.
                io::ErrorKind::NotFound if destination.folder.is_dir() => {
                    io::Error::new(io::ErrorKind::Unsupported, source)
                }
                _ => source,
            },
        })?;
        let staged = Staged {
            path,
            file: Some(Arc::new(file)),
            destination,
        };
        if let Some(old) = staged.destination.replaced() {
            staged
                .take_access(&old)
                .map_err(|source| RestoreError::Write {
                    action: "give its permissions to the new",
                    path: staged.destination.path.clone(),
                    source,
                })?;
        }
        staged.sweep();
        Ok(staged)
    }

    /// Lets those use the file who may use `old`.
    fn take_access(&self, old: &Metadata) -> io::Result<()> {
        let file = self.file();
        // Only root may give a file away, and its group only to one that the user is in.
        if fchown(&*file, Some(old.uid()), Some(old.gid())).is_err() {
            let _ = fchown(&*file, None, Some(old.gid()));
        }
        let mut mode = old.mode() & 0o777;
        if file.metadata()?.gid() != old.gid() {
            // What the old group was allowed is not for another one.
            mode &= !0o070;
        }
        file.set_permissions(Permissions::from_mode(mode))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The file, to be written to.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(
            self.file
                .as_ref()
                .expect("it is open until it is published"),
        )
    }

    /// What publishes it. The file must be synced.
    ///
    /// Dropping the staged file first makes the publication fail, and that is what keeps a
    /// cancelled restore from appearing later, when the work was given to another thread.
    pub(crate) fn publication(&mut self) -> Publication {
        Publication {
            staged: self.path.clone(),
            file: self.file.take(),
            destination: self.destination.clone(),
        }
    }

    /// Removes temporary files of restores that are certain to be dead: nobody holds their lock,
    /// and nothing was written to them for long. That two times are compared which the file
    /// system has given makes clocks irrelevant.
    fn sweep(&self) {
        let now = self.path.metadata().and_then(|own| own.modified());
        let (Ok(now), Ok(entries)) = (now, fs::read_dir(&self.destination.folder)) else {
            return;
        };
        for entry in entries.take(SWEEP_MAX).flatten() {
            let name = entry.file_name();
            let ours = name
                .to_str()
                .is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
            if ours && entry.path() != self.path {
                // Whatever can't be removed stays, and does no harm.
                let _ = remove_if_dead(&entry.path(), now);
            }
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already, if it was published.
        let _ = fs::remove_file(&self.path);
    }
}

fn create(folder: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let mut tries = 0;
    loop {
        tries += 1;
        let path = folder.join(temporary_name(SUFFIX.as_ref()));
        let created = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path);
        let taken = match created {
            Ok(file) => match file.try_lock() {
                // A sweep may have seen the file before it was locked.
                Ok(()) if is_at(&file, &path) => return Ok((path, file)),
                // A file system without locks has no sweeps either.
                Err(TryLockError::Error(_)) => return Ok((path, file)),
                Ok(()) | Err(TryLockError::WouldBlock) => io::ErrorKind::AlreadyExists.into(),
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => error,
            Err(error) => return Err(error),
        };
        if tries == NAMES_MAX {
            return Err(taken);
        }
    }
}

fn temporary_name(suffix: &OsStr) -> OsString {
    // A hasher's keys are random, and that is all that is wanted of it.
    let random = RandomState::new().build_hasher().finish();
    let mut name = OsString::from(format!("{PREFIX}{random:0RANDOM_LEN$x}"));
    name.push(suffix);
    name
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(file), Ok(there)) => (file.dev(), file.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

fn remove_if_dead(path: &Path, now: std::time::SystemTime) -> io::Result<()> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)?;
    let age = now.duration_since(file.metadata()?.modified()?);
    if age.is_ok_and(|age| age >= SWEEP_AGE) && file.try_lock().is_ok() && is_at(&file, path) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The step that makes a staged file the database at the target.
#[derive(Debug)]
pub(crate) struct Publication {
    staged: PathBuf,
    /// Its lock keeps sweeps away.
    file: Option<Arc<File>>,
    destination: Destination,
}

impl Publication {
    /// Renames the file, and makes that survive a crash. On an error nothing has changed, unless
    /// the new database is in the place of an old one and only the folder could not be synced.
    pub(crate) fn publish(mut self) -> Result<(), RestoreError> {
        self.destination.check_nothing_is_there()?;
        // Closing a file drops all locks that this process has on it, so this one is closed before
        // anybody can open it as a database. A sweep in this moment would make the rename fail.
        self.file = None;
        match self.destination.existing {
            Existing::Refuse => {
                self.rename_to_nothing()?;
                self.destination.sync_folder().inspect_err(|_| {
                    let _ = fs::remove_file(&self.destination.path);
                })
            }
            Existing::Replace => self.replace(),
        }
    }

    fn rename_to_nothing(&self) -> Result<(), RestoreError> {
        let target = &self.destination.path;
        match rename_exclusively(&self.staged, target) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let path = target.clone();
                Err(RestoreError::TargetExists { path })
            }
            result => result.map_err(|source| self.failed(source)),
        }
    }

    /// Puts the staged file in the place of an old database.
    ///
    /// SQLite would apply the old database's log to the new one, so the log goes out of the way
    /// first, under another name, and comes back if the rename fails. A crash in between leaves
    /// the old database, and its log under that name: see [`Existing::Replace`].
    fn replace(self) -> Result<(), RestoreError> {
        let aside = Aside::put(&self.destination).map_err(|source| self.failed(source))?;
        if !aside.moved.is_empty() {
            self.destination.sync_folder()?;
        }
        fs::rename(&self.staged, &self.destination.path).map_err(|source| self.failed(source))?;
        let synced = self.destination.sync_folder();
        // Until the new name is certain to last, a crash may bring the old database back, and it
        // would need its log.
        match synced {
            Ok(()) => {
                aside.remove();
                self.destination.sweep_aside();
            }
            Err(_) => aside.keep(),
        }
        synced
    }

    fn failed(&self, source: io::Error) -> RestoreError {
        RestoreError::Write {
            action: "rename the restored database to",
            path: self.destination.path.clone(),
            source,
        }
    }
}

/// What was beside an old database, under other names. It goes back, unless it is removed.
struct Aside {
    /// From where to where.
    moved: Vec<(PathBuf, PathBuf)>,
}

impl Aside {
    fn put(destination: &Destination) -> io::Result<Aside> {
        let mut aside = Aside { moved: Vec::new() };
        for (suffix, path) in destination.beside() {
            let to = destination.aside(suffix);
            match fs::rename(&path, &to) {
                Ok(()) => aside.moved.push((path, to)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(aside)
    }

    /// Leaves it under the other names.
    fn keep(mut self) {
        self.moved.clear();
    }

    fn remove(mut self) {
        for (_, to) in self.moved.drain(..) {
            let _ = fs::remove_file(to);
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        for (from, to) in self.moved.drain(..) {
            let _ = fs::rename(to, from);
        }
    }
}

/// Renames `from` to `to`, unless there is something.
fn rename_exclusively(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // A file system or a kernel that can't.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            result => return Ok(result?),
        }
    }
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn staged(folder: &Path, existing: Existing) -> Staged {
        let destination = Destination::new(&folder.join("x.db"), existing).unwrap();
        Staged::new(destination, 0o600).unwrap()
    }

    #[test]
    fn what_was_dropped_can_not_be_published() {
        for existing in [Existing::Refuse, Existing::Replace] {
            let folder = tempfile::tempdir().unwrap();
            let mut staged = staged(folder.path(), existing);
            let publication = staged.publication();

            drop(staged);

            assert!(publication.publish().is_err());
            assert_eq!(names(folder.path()), Vec::<String>::new());
        }
    }

    #[test]
    fn a_replacement_that_fails_puts_everything_back() {
        let folder = tempfile::tempdir().unwrap();
        for name in OLD {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let mut staged = staged(folder.path(), Existing::Replace);
        let publication = staged.publication();
        drop(staged);

        let error = publication.publish().unwrap_err();

        assert!(matches!(error, RestoreError::Write { .. }), "{error}");
        assert_eq!(names(folder.path()), OLD);
        for name in OLD {
            assert_eq!(fs::read(folder.path().join(name)).unwrap(), name.as_bytes());
        }
    }

    /// A database with all that is beside it, and what would replace it.
    fn replacing(folder: &Path, sync: fn(&Path) -> io::Result<()>) -> Staged {
        for name in OLD {
            fs::write(folder.join(name), name).unwrap();
        }
        let mut destination = Destination::new(&folder.join("x.db"), Existing::Replace).unwrap();
        destination.sync = sync;
        let staged = Staged::new(destination, 0o600).unwrap();
        fs::write(staged.path(), "new").unwrap();
        staged
    }

    const OLD: [&str; 4] = ["x.db", "x.db-journal", "x.db-shm", "x.db-wal"];

    #[test]
    fn a_log_that_is_not_certain_to_be_out_of_the_way_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut staged = replacing(folder.path(), |_| Err(io::Error::other("no sync")));

        let error = staged.publication().publish().unwrap_err();

        assert!(error.to_string().contains("sync the folder"), "{error}");
        for name in OLD {
            assert_eq!(fs::read(folder.path().join(name)).unwrap(), name.as_bytes());
        }
    }

    /// The old database may come back with the next crash, and would miss its log.
    #[test]
    fn an_old_log_is_kept_where_the_new_name_is_not_certain_to_last() {
        let folder = tempfile::tempdir().unwrap();
        let mut staged = replacing(folder.path(), |folder| {
            match fs::read(folder.join("x.db"))? == b"new" {
                true => Err(io::Error::other("no sync")),
                false => Ok(()),
            }
        });

        let error = staged.publication().publish().unwrap_err();

        assert!(error.to_string().contains("sync the folder"), "{error}");
        let there = names(folder.path());
        assert_eq!(there.len(), 4, "{there:?}");
        assert_eq!(fs::read(folder.path().join("x.db")).unwrap(), b"new");
        let kept = there.iter().find(|name| name.ends_with("-x.db-wal"));
        let kept = kept.expect("under a name that tells what it is");
        assert!(kept.starts_with(PREFIX), "{kept}");
        assert_eq!(fs::read(folder.path().join(kept)).unwrap(), b"x.db-wal");
    }

    #[test]
    fn a_new_name_that_is_not_certain_to_last_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let mut destination = Destination::new(&path, Existing::Refuse).unwrap();
        destination.sync = |_| Err(io::Error::other("no sync"));
        let mut staged = Staged::new(destination, 0o600).unwrap();

        let error = staged.publication().publish().unwrap_err();

        assert!(error.to_string().contains("sync the folder"), "{error}");
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    /// What a restore had put aside when it was killed stayed for ever.
    #[test]
    fn what_killed_replacements_of_the_same_database_have_put_aside_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let mut staged = replacing(folder.path(), |_| Ok(()));
        let others = [
            ".replica-restore-0000000000000001-a-x.db-wal",
            ".replica-restore-0000000000000001-x.db",
            ".replica-restore-0000000000000002-y.db-wal",
            ".replica-restore-000000000000000g-x.db-wal",
        ];
        for name in others.into_iter().chain([
            ".replica-restore-0000000000000003-x.db-wal",
            ".replica-restore-0000000000000004-x.db-journal",
        ]) {
            fs::write(folder.path().join(name), "left").unwrap();
        }

        staged.publication().publish().unwrap();

        let mut left = names(folder.path());
        assert_eq!(left.pop().as_deref(), Some("x.db"));
        assert_eq!(left, others);
    }

    #[test]
    fn nothing_is_renamed_onto_what_exists() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        fs::write(&from, "new").unwrap();
        fs::write(&to, "old").unwrap();

        let error = rename_exclusively(&from, &to).unwrap_err();

        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"old");
    }

    #[test]
    fn two_staged_files_are_two() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (
            staged(folder.path(), Existing::Refuse),
            staged(folder.path(), Existing::Refuse),
        );

        assert_ne!(one.path(), two.path());
        assert_eq!(names(folder.path()).len(), 2);
    }
}

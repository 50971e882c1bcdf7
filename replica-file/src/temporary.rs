//! Temporary files: what they are called, and which of them are left over.
//!
//! A file is written under the name `<min>-<max>.ltx.<boot>-<serial>.tmp` in the folder of its
//! level, which no listing takes for a file of the replica, and is locked by its writer until it
//! is renamed or removed. A writer that dies loses the lock, and leaves the file.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::OnceLock;

use replica_core::TxidRange;
use rustix::fs::{FileType, OFlags};

use crate::blocking::Caller;
use crate::folder::Folder;
use crate::sys::{self, Lock};

/// How many left-over files one sweep removes at most; the next writer removes more.
const SWEEP_MAX: usize = 1000;

/// For how long a file of another machine must have been untouched before it is taken for left
/// over, in seconds: that machine's locks may not be visible here.
const FOREIGN_AGE_SECS: i64 = 24 * 60 * 60;

/// The name of a temporary file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TemporaryName {
    txids: TxidRange,
    boot: u64,
    serial: u64,
}

impl TemporaryName {
    /// A name that, most likely, nothing has yet.
    pub(crate) fn new(txids: TxidRange) -> TemporaryName {
        TemporaryName {
            txids,
            boot: boot(),
            serial: RandomState::new().build_hasher().finish(),
        }
    }

    /// Whether its writer runs, or ran, on this machine since this machine was booted, so that
    /// a lock of it would be seen.
    fn is_of_this_boot(self) -> bool {
        self.boot != UNKNOWN_BOOT && self.boot == boot()
    }
}

impl fmt::Display for TemporaryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TemporaryName {
            txids,
            boot,
            serial,
        } = self;
        write!(f, "{txids}.{boot:016x}-{serial:016x}.tmp")
    }
}

impl FromStr for TemporaryName {
    type Err = NotTemporary;

    fn from_str(name: &str) -> Result<TemporaryName, NotTemporary> {
        let parse = || {
            let (txids, rest) = name.split_at_checked(TxidRange::NAME_LEN)?;
            let (boot, serial) = rest
                .strip_prefix('.')?
                .strip_suffix(".tmp")?
                .split_once('-')?;
            Some(TemporaryName {
                txids: txids.parse().ok()?,
                boot: u64::from_str_radix(boot, 16).ok()?,
                serial: u64::from_str_radix(serial, 16).ok()?,
            })
        };
        parse()
            .filter(|parsed| parsed.to_string() == name)
            .ok_or(NotTemporary)
    }
}

/// The name is not one of our temporary files'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotTemporary;

const UNKNOWN_BOOT: u64 = 0;

/// A number that this machine got when it was booted, or [`UNKNOWN_BOOT`].
fn boot() -> u64 {
    static BOOT: OnceLock<u64> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = id
            .chars()
            .filter(char::is_ascii_hexdigit)
            .take(16)
            .collect();
        u64::from_str_radix(&digits, 16).unwrap_or(UNKNOWN_BOOT)
    })
}

/// Removes the temporary files in `folder` whose writers are dead: never one of a living writer,
/// here or on another machine that shares the folder, and not `own`.
///
/// `now` is the time by the clock of the file system, in seconds. What can't be looked at or
/// removed stays: a sweep is a courtesy, and must not fail a write.
pub(crate) fn sweep(folder: &Folder, own: TemporaryName, now: i64, caller: &Caller) {
    let Ok(entries) = folder.entries() else {
        return;
    };
    let left_over = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry.file_name().to_str().ok()?.parse().ok()
        })
        .filter(|name: &TemporaryName| {
            *name != own && matches!(remove_if_left_over(folder, *name, now), Ok(true))
        });
    left_over
        .take_while(|_| !caller.is_gone())
        .take(SWEEP_MAX)
        .for_each(drop);
}

/// Whether it was left over, and is gone.
fn remove_if_left_over(folder: &Folder, name: TemporaryName, now: i64) -> io::Result<bool> {
    let text = name.to_string();
    let fd = sys::open_entry(folder.as_fd(), text.as_str(), OFlags::RDWR)?;
    let meta = sys::meta(&fd)?;
    let is_old = now.saturating_sub(meta.changed) > FOREIGN_AGE_SECS;
    if meta.kind != FileType::RegularFile || !(name.is_of_this_boot() || is_old) {
        return Ok(false);
    }
    // The lock also keeps away a writer that has made the file and not locked it yet: it finds
    // its file locked or gone, and takes another name. Without locks only its age tells.
    let is_left_over = match sys::lock(&fd)? {
        Lock::Taken => true,
        Lock::Refused => false,
        Lock::Unsupported => is_old,
    };
    if !is_left_over {
        return Ok(false);
    }
    sys::unlink(folder.as_fd(), text.as_str())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use replica_core::Txid;
    use std::fs::{self, File};
    use std::path::Path;

    fn name() -> TemporaryName {
        TemporaryName::new(TxidRange::single(Txid::FIRST))
    }

    fn put(dir: &Path, name: TemporaryName) -> File {
        File::create(dir.join(name.to_string())).unwrap()
    }

    fn sweep_at(dir: &Path, now: i64) -> usize {
        let folder = Folder::open_root(dir).unwrap().expect("the folder exists");
        let (_waiting, caller) = Caller::new();
        sweep(&folder, name(), now, &caller);
        fs::read_dir(dir).unwrap().count()
    }

    fn now(dir: &Path) -> i64 {
        sys::meta(File::open(dir).unwrap()).unwrap().changed
    }

    #[test]
    fn a_name_parses_back_and_nothing_else_does() {
        let name = name();

        assert_eq!(name.to_string().parse(), Ok(name));
        for other in [
            "0000000000000001-0000000000000001.ltx",
            "0000000000000001-0000000000000001.ltx.tmp",
            "0000000000000001-0000000000000001.ltx.1-1.tmp",
            "0000000000000001-0000000000000001.ltx.00000000000000AB-0000000000000001.tmp",
            "0000000000000000-0000000000000001.ltx.0000000000000001-0000000000000001.tmp",
            "é",
        ] {
            assert_eq!(other.parse::<TemporaryName>(), Err(NotTemporary), "{other}");
        }
    }

    #[test]
    fn this_machine_has_a_boot_number() {
        assert_ne!(boot(), UNKNOWN_BOOT);
        assert_ne!(name(), name());
    }

    #[test]
    fn the_file_of_a_dead_writer_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        drop(put(dir.path(), name()));

        let left = sweep_at(dir.path(), now(dir.path()));

        assert_eq!(left, 0);
    }

    #[test]
    fn the_file_of_a_living_writer_stays_however_old() {
        let dir = tempfile::tempdir().unwrap();
        let living = put(dir.path(), name());
        assert_eq!(sys::lock(&living).unwrap(), Lock::Taken);

        let left = sweep_at(dir.path(), now(dir.path()) + 2 * FOREIGN_AGE_SECS);

        assert_eq!(left, 1);
    }

    #[test]
    fn a_file_of_another_machine_is_swept_when_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        for boot in [UNKNOWN_BOOT, !boot()] {
            drop(put(dir.path(), TemporaryName { boot, ..name() }));
        }
        let now = now(dir.path());

        assert_eq!(sweep_at(dir.path(), now), 2);
        assert_eq!(sweep_at(dir.path(), now + FOREIGN_AGE_SECS), 2);
        assert_eq!(sweep_at(dir.path(), now + FOREIGN_AGE_SECS + 2), 0);
    }

    /// Such a file once stayed for ever, because it could never be locked.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_on_a_file_system_without_locks_is_swept_when_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let trace = crate::trace::Trace::of(&dir.path().canonicalize().unwrap());
        trace.fail("lock", rustix::io::Errno::NOTSUP);
        drop(put(dir.path(), name()));
        let now = now(dir.path());

        assert_eq!(sweep_at(dir.path(), now + FOREIGN_AGE_SECS), 1);
        assert_eq!(sweep_at(dir.path(), now + FOREIGN_AGE_SECS + 2), 0);
    }

    #[test]
    fn what_is_not_a_temporary_file_of_ours_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = TxidRange::single(Txid::FIRST).to_string();
        File::create(dir.path().join(&file)).unwrap();
        File::create(dir.path().join(format!("{file}.tmp"))).unwrap();
        fs::create_dir(dir.path().join(name().to_string())).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join(name().to_string())).unwrap();

        let left = sweep_at(dir.path(), now(dir.path()) + 2 * FOREIGN_AGE_SECS);

        assert_eq!(left, 4);
    }

    #[test]
    fn a_sweep_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..SWEEP_MAX + 5 {
            drop(put(dir.path(), name()));
        }

        let left = sweep_at(dir.path(), now(dir.path()));

        assert_eq!(left, 5);
    }
}

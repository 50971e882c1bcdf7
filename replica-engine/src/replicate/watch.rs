//! Tells when a log is written, as far as the system does.

use std::future;
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::Notify;

#[cfg(target_os = "linux")]
use inotify::watch;

/// A watch on one file. Some systems tell nothing, others not about every file system, and all have
/// a limited number of watches, so nobody may rely on it.
#[derive(Debug)]
pub(crate) struct Watch(Option<Watched>);

#[derive(Debug)]
struct Watched {
    written: Arc<Notify>,
    #[cfg(target_os = "linux")]
    number: i32,
}

impl Watch {
    /// Watches the file at `path`, if that is possible.
    pub(crate) fn new(path: &Path) -> Watch {
        Watch(watch(path))
    }

    /// Whether it tells anything. Everybody who writes a log shares memory with us, and so the
    /// kernel that tells.
    pub(crate) fn works(&self) -> bool {
        self.0.is_some()
    }

    /// By which others tell it that the file was written.
    pub(crate) fn told(&self) -> Option<Arc<Notify>> {
        self.0.as_ref().map(|watched| Arc::clone(&watched.written))
    }

    /// Returns when the file has been written since this has returned the last time, or replaced, or
    /// when that may be.
    pub(crate) async fn written(&self) {
        match &self.0 {
            Some(watched) => watched.written.notified().await,
            None => future::pending().await,
        }
    }

    /// Forgets what was written until now.
    pub(crate) fn forget(&self) {
        self.written().now_or_never();
    }
}

#[cfg(not(target_os = "linux"))]
fn watch(_: &Path) -> Option<Watched> {
    None
}

/// The kernel's watches, which one thread of the process listens to for all databases: a user has
/// few such listeners, and many watches of each.
#[cfg(target_os = "linux")]
mod inotify {
    use std::collections::HashMap;
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::sync::{Mutex, OnceLock, Weak};
    use std::thread;
    use std::time::Duration;

    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
    use rustix::io::Errno;

    use super::{Arc, Notify, Path, Watched};
    use crate::replicate::pending::lock;

    /// How many bytes of events are read at a time. Equal ones in a row are one.
    const BUFFER_SIZE: usize = 4096;
    /// How long the listener leaves the kernel alone after each: a process that writes without a
    /// pause would wake it with each write, which costs that process a fifth of its speed. What is
    /// written meanwhile is one event.
    const PAUSE: Duration = Duration::from_millis(5);

    /// None where there is no listener.
    pub(super) static LISTENER: OnceLock<Option<Listener>> = OnceLock::new();

    pub(super) struct Listener {
        events: OwnedFd,
        /// Who wants to know of which file.
        watched: Mutex<HashMap<i32, Vec<Weak<Notify>>>>,
    }

    pub(super) fn watch(path: &Path) -> Option<Watched> {
        let listener = LISTENER.get_or_init(Listener::start).as_ref()?;
        let written = Arc::new(Notify::new());
        let mut watched = lock(&listener.watched);
        // A file that is removed has fewer names, which is an attribute of it.
        let happens = WatchFlags::MODIFY | WatchFlags::ATTRIB | WatchFlags::MOVE_SELF;
        let number = inotify::add_watch(&listener.events, path, happens).ok()?;
        watched
            .entry(number)
            .or_default()
            .push(Arc::downgrade(&written));
        Some(Watched { written, number })
    }

    impl Listener {
        fn start() -> Option<Listener> {
            let events = inotify::init(CreateFlags::CLOEXEC).ok()?;
            let thread = thread::Builder::new().name(String::from("replica-watch"));
            thread
                .spawn(|| LISTENER.wait().iter().for_each(Listener::listen))
                .ok()?;
            Some(Listener {
                events,
                watched: Mutex::default(),
            })
        }

        /// Passes on what the kernel tells, for as long as the process lives.
        fn listen(&self) {
            let mut buffer = [MaybeUninit::uninit(); BUFFER_SIZE];
            let mut reader = Reader::new(&self.events, &mut buffer);
            loop {
                let number = match reader.next() {
                    // What it could not remember may be anything.
                    Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => None,
                    Ok(event) => Some(event.wd()),
                    Err(Errno::INTR) => continue,
                    // The logs are looked at from time to time all the same.
                    Err(_) => return,
                };
                self.tell(number);
                if reader.is_buffer_empty() {
                    thread::sleep(PAUSE);
                }
            }
        }

        /// Tells whoever wants to know of the file with this number, or of any.
        pub(super) fn tell(&self, number: Option<i32>) {
            let watched = lock(&self.watched);
            let told = watched
                .iter()
                .filter(|(watched, _)| number.is_none_or(|number| **watched == number));
            for written in told.flat_map(|(_, written)| written) {
                if let Some(written) = written.upgrade() {
                    written.notify_one();
                }
            }
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            let Some(Some(listener)) = LISTENER.get() else {
                return;
            };
            let mut watched = lock(&listener.watched);
            let Some(others) = watched.get_mut(&self.number) else {
                return;
            };
            let own = Arc::as_ptr(&self.written);
            others.retain(|other| other.as_ptr() != own);
            if others.is_empty() {
                watched.remove(&self.number);
                // Where the file is gone, so is the watch.
                inotify::remove_watch(&listener.events, self.number).ok();
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::inotify::LISTENER;
    use super::*;

    async fn is_told(watch: &Watch) -> bool {
        let told = tokio::time::timeout(Duration::from_secs(10), watch.written());
        told.await.is_ok()
    }

    #[tokio::test]
    async fn everybody_who_watches_a_file_is_told_that_it_was_written() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&path, "").expect("a file can be written");
        fs::write(&other, "").expect("a file can be written");
        let watches = [&path, &path, &other].map(|path| Watch::new(path));

        fs::write(&path, "one").expect("a file can be written");

        let [first, second, other] = &watches;
        assert!(is_told(first).await && is_told(second).await);
        assert_eq!(other.written().now_or_never(), None);
        drop(watches);
    }

    #[tokio::test]
    async fn everybody_is_told_where_the_kernel_has_forgotten_whom_to_tell() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = [folder.path().join("a"), folder.path().join("b")];
        paths
            .iter()
            .for_each(|path| fs::write(path, "").expect("a file can be written"));
        let watches = [&paths[0], &paths[1]].map(|path| Watch::new(path));

        let listener = LISTENER.get().expect("somebody watches");
        listener.iter().for_each(|listener| listener.tell(None));

        let [first, second] = &watches;
        assert!(is_told(first).await && is_told(second).await);
    }

    #[tokio::test]
    async fn it_is_told_that_a_file_is_removed_or_replaced() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let paths = ["a", "b", "c"].map(|name| folder.path().join(name));
        paths
            .iter()
            .for_each(|path| fs::write(path, "").expect("a file can be written"));
        let [removed, moved, replaced] =
            [&paths[0], &paths[1], &paths[2]].map(|path| Watch::new(path));

        fs::remove_file(&paths[0]).expect("a file can be removed");
        fs::rename(&paths[1], &paths[2]).expect("a file can be moved");

        assert!(is_told(&removed).await && is_told(&moved).await && is_told(&replaced).await);
    }

    #[tokio::test]
    async fn what_was_forgotten_is_not_told_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a");
        fs::write(&path, "").expect("a file can be written");
        let watch = Watch::new(&path);
        let Some(watched) = &watch.0 else {
            panic!("a file that is there can be watched");
        };

        watched.written.notify_one();
        watch.forget();

        assert_eq!(watch.written().now_or_never(), None);
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_is_not_waited_for() {
        let watch = Watch::new(Path::new("nowhere/to/be/found"));

        watch.forget();

        assert!(watch.0.is_none());
    }
}

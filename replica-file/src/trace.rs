//! What this crate's tests see of the system calls: their order, and failures and delays on
//! demand.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::temporary::TemporaryName;

/// How long anyone waits for a call to come, or to be let through.
const PATIENCE: Duration = Duration::from_secs(20);

/// The calls below one folder, for as long as this lives. Tests run side by side in one process,
/// each with a folder of its own.
pub(crate) struct Trace(Arc<Watched>);

struct Watched {
    root: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    calls: Vec<String>,
    failing: Vec<(String, Errno)>,
    held: Option<String>,
    is_reached: bool,
}

static WATCHED: Mutex<Vec<Arc<Watched>>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trace {
    pub(crate) fn of(root: &Path) -> Trace {
        let watched = Arc::new(Watched {
            root: root.to_owned(),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        lock(&WATCHED).push(Arc::clone(&watched));
        Trace(watched)
    }

    /// Makes each call `call` (`rename`, or with a path) fail with `errno` from now on.
    pub(crate) fn fail(&self, call: &str, errno: Errno) {
        lock(&self.0.state).failing.push((call.to_owned(), errno));
    }

    /// Lets no call `call` (`rename`, or with a path) pass from now on.
    pub(crate) fn hold(&self, call: &str) {
        lock(&self.0.state).held = Some(call.to_owned());
    }

    /// Waits until a call is being held.
    pub(crate) fn wait_until_held(&self) {
        let state = lock(&self.0.state);
        let (_state, waited) = self
            .0
            .changed
            .wait_timeout_while(state, PATIENCE, |state| !state.is_reached)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "no such call came");
    }

    /// Lets every call pass, and succeed or fail as the system says.
    pub(crate) fn heal(&self) {
        let mut state = lock(&self.0.state);
        state.held = None;
        state.failing.clear();
        self.0.changed.notify_all();
    }

    /// Records something that is no call, among the calls.
    pub(crate) fn note(&self, what: &str) {
        lock(&self.0.state).calls.push(what.to_owned());
    }

    /// The calls since the last look, as `<call> <path below the root>`.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.0.state).calls)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.heal();
        lock(&WATCHED).retain(|watched| !Arc::ptr_eq(watched, &self.0));
    }
}

/// Called by `sys` before each call that changes something.
pub(crate) fn observe(call: &str, fd: BorrowedFd<'_>, name: Option<&str>) -> io::Result<()> {
    let opened = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let path = opened.unwrap_or_default().join(name.unwrap_or_default());
    let watched: Vec<_> = lock(&WATCHED).clone();
    for watched in watched {
        if let Ok(below) = path.strip_prefix(&watched.root) {
            watched.observe(format!("{call} {}", readable(below)))?;
        }
    }
    Ok(())
}

impl Watched {
    fn observe(&self, call: String) -> io::Result<()> {
        let is_held = |state: &State| {
            let held = state.held.as_deref();
            held.is_some_and(|held| is_a(&call, held))
        };
        let mut state = lock(&self.state);
        if is_held(&state) {
            state.is_reached = true;
            self.changed.notify_all();
            let waited = self
                .changed
                .wait_timeout_while(state, PATIENCE, |state| is_held(state))
                .unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
        }
        let mut failing = state.failing.iter();
        let failing = failing.find(|(failing, _)| is_a(&call, failing));
        let result = failing.map_or(Ok(()), |(_, errno)| Err((*errno).into()));
        state.calls.push(call);
        result
    }
}

/// Whether `call` is `pattern`, which may name the call alone.
fn is_a(call: &str, pattern: &str) -> bool {
    call == pattern || call.split(' ').next() == Some(pattern)
}

/// The path, with `TEMP` in place of a temporary file's name.
fn readable(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str());
    match name.map(str::parse::<TemporaryName>) {
        Some(Ok(_)) => path.with_file_name("TEMP").display().to_string(),
        _ if path.as_os_str().is_empty() => ".".to_owned(),
        _ => path.display().to_string().trim_end_matches('/').to_owned(),
    }
}

//! Glances at the indexes of all logs, whatever their replications are at.

use std::sync::{Arc, Condvar, Mutex, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;

use super::pending::{lock, try_lock};
use crate::database::{Database, IndexHeader};

/// How often. SQLite lets a reader wait for an index to be mended for ten seconds.
const PAUSE: Duration = Duration::from_secs(1);

/// Nothing where there is no thread for it.
static GLANCES: OnceLock<Option<Glances>> = OnceLock::new();

/// The one thread of the process that looks at the indexes, each second. It takes no system call for
/// each database, so that thousands of them cost next to nothing.
struct Glances {
    watched: Mutex<Vec<Watched>>,
    more: Condvar,
}

/// One database, for as long as it is open.
struct Watched {
    database: Weak<Mutex<Database>>,
    /// Who wants to know that something was committed, of all that replicate it.
    committed: Vec<Weak<Notify>>,
    /// The index at the last glance.
    last: Option<IndexHeader>,
}

/// Has the index of this database looked at for as long as it is open; `false` where nobody does.
///
/// Whoever dies while writing it leaves it to be mended, which takes the checkpoint lock: that is
/// let go of for it. Where anything was committed meanwhile, `committed` is told: the kernel tells
/// of what is written to the log before that.
pub(crate) fn watch(database: &Arc<Mutex<Database>>, committed: Option<&Arc<Notify>>) -> bool {
    let glances = GLANCES.get_or_init(Glances::start);
    let watched = glances
        .as_ref()
        .map(|glances| glances.watch(database, committed));
    watched.is_some()
}

impl Glances {
    fn new() -> Glances {
        Glances {
            watched: Mutex::default(),
            more: Condvar::new(),
        }
    }

    fn start() -> Option<Glances> {
        let thread = thread::Builder::new().name(String::from("replica-glance"));
        let spawned = thread.spawn(|| GLANCES.wait().iter().for_each(Glances::run));
        spawned.ok().map(|_| Glances::new())
    }

    fn watch(&self, database: &Arc<Mutex<Database>>, committed: Option<&Arc<Notify>>) {
        let committed = committed.map(Arc::downgrade);
        let mut watched = lock(&self.watched);
        let known = Arc::as_ptr(database);
        match watched
            .iter_mut()
            .find(|watched| watched.database.as_ptr() == known)
        {
            Some(watched) => watched.committed.extend(committed),
            None => watched.push(Watched {
                database: Arc::downgrade(database),
                committed: committed.into_iter().collect(),
                last: None,
            }),
        }
        self.more.notify_one();
    }

    /// Glances for as long as the process lives.
    fn run(&self) {
        loop {
            let mut watched = lock(&self.watched);
            while watched.is_empty() {
                watched = match self.more.wait(watched) {
                    Ok(watched) => watched,
                    Err(poisoned) => poisoned.into_inner(),
                };
            }
            watched.retain_mut(Watched::glance);
            drop(watched);
            thread::sleep(PAUSE);
        }
    }
}

impl Watched {
    /// Looks once, and says whether the database is still open.
    fn glance(&mut self) -> bool {
        let Some(database) = self.database.upgrade() else {
            return false;
        };
        // Who ends to replicate it leaves the others.
        self.committed
            .retain(|committed| committed.strong_count() > 0);
        // Whoever is at it looks for itself.
        let index = try_lock(&database).and_then(|open| open.index_header());
        let Some(index) = index else {
            return true;
        };
        let before = self.last.replace(index);
        if before == Some(index) && !index.is_whole() {
            // Nobody has gone on with it. It may take some time to mend it, which the others must
            // not wait for.
            let mending = thread::Builder::new().name(String::from("replica-mend"));
            // Where it fails, so does the next look, which tells.
            let mend = move || lock(&database).mend().ok();
            mending.spawn(mend).ok();
            self.last = None;
        } else if before.is_some_and(|before| before != index) {
            let committed = self.committed.iter().filter_map(Weak::upgrade);
            committed.for_each(|committed| committed.notify_one());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn a_database_is_looked_at_once_for_all_who_replicate_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("a.db");
        let application = Connection::open(&path).expect("a database in a temporary folder");
        let made = application.execute_batch("CREATE TABLE t(a)");
        made.expect("a table can be made");
        let database = Database::open(&path).expect("it is a database");
        let database = Arc::new(Mutex::new(database));
        let [first, second, ended] = [(); 3].map(|()| Arc::new(Notify::new()));
        let glances = Glances::new();
        for committed in [&first, &second, &ended] {
            glances.watch(&database, Some(committed));
        }
        drop(ended);
        let glance = || lock(&glances.watched).retain_mut(Watched::glance);

        glance();
        let written = application.execute_batch("INSERT INTO t VALUES(1)");
        written.expect("anybody may write");
        glance();

        let of = |watched: &Watched| watched.committed.len();
        let watched: Vec<usize> = lock(&glances.watched).iter().map(of).collect();
        assert_eq!(watched, [2]);
        for committed in [first, second] {
            assert_eq!(committed.notified().now_or_never(), Some(()));
        }
        drop(database);
        glance();
        assert!(lock(&glances.watched).is_empty());
    }
}

//! What is kept, under which root, and what a lagging listing shows of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use replica_core::{Capabilities, FileId, FileInfo, Level, Timestamp, Txid, TxidRange};
use tokio::time::Instant;

use crate::MockClient;

/// The files of one replica with their times and contents, as
/// [`MockClient::snapshot`](crate::MockClient::snapshot) gives them.
pub type Snapshot = BTreeMap<FileId, (Timestamp, Bytes)>;

/// A store that holds any number of roots, as a bucket or a file system does. Clones share it.
///
/// ```
/// use replica_core::{ReplicaClient, Timestamp};
/// use replica_mock::{MockStore, file};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> replica_core::Result<()> {
/// let store = MockStore::new();
/// let (db, neighbour) = (store.client("db"), store.client("db2"));
/// neighbour.write(file(0, 1..=1), Timestamp::EPOCH, vec![7].into()).await?;
///
/// db.delete_all().await?;
///
/// assert_eq!(neighbour.files(), [file(0, 1..=1)]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MockStore {
    shared: Arc<Shared>,
}

struct Shared {
    capabilities: Capabilities,
    roots: Mutex<BTreeMap<String, Replica>>,
}

/// What is kept under one root.
#[derive(Default)]
struct Replica {
    files: BTreeMap<FileId, (Timestamp, Bytes)>,
    /// What a listing shows: the files, without the changes that are still `unlisted`.
    listing: BTreeMap<FileId, FileInfo>,
    /// Changes that no listing shows yet, oldest first, with the time that each appears.
    unlisted: VecDeque<(Instant, FileId, Option<FileInfo>)>,
}

impl MockStore {
    /// An empty store that keeps every promise.
    pub fn new() -> MockStore {
        MockStore::with_capabilities(Capabilities::FULL)
    }

    /// An empty store that is as weak as `capabilities` says: its listings lag behind by all of
    /// [`list_lag`](Capabilities::list_lag), its times are rounded down, and without
    /// [`atomic_replace`](Capabilities::atomic_replace) a file is gone for a moment while it is
    /// replaced.
    pub fn with_capabilities(capabilities: Capabilities) -> MockStore {
        MockStore {
            shared: Arc::new(Shared {
                capabilities,
                roots: Mutex::default(),
            }),
        }
    }

    /// A client of the replica under `root`, with faults and a log of its own.
    ///
    /// Roots are paths: slashes at the ends, doubled ones and `.` mean nothing, and `x/db` is
    /// under `x`, for [`delete_all`](replica_core::ReplicaClient::delete_all) too.
    pub fn client(&self, root: &str) -> MockClient {
        let segments = root.split('/').filter(|name| !matches!(*name, "" | "."));
        MockClient::of(self.clone(), segments.collect::<Vec<_>>().join("/").into())
    }

    pub(crate) fn capabilities(&self) -> Capabilities {
        self.shared.capabilities
    }

    /// What the store keeps of `time`.
    pub(crate) fn kept_time(&self, time: Timestamp) -> Timestamp {
        let Some(resolution) = self.shared.capabilities.timestamp_resolution else {
            return Timestamp::EPOCH;
        };
        let step = i64::try_from(resolution.as_millis())
            .unwrap_or(i64::MAX)
            .max(1);
        // Rounding down has no room left only within a step of the very first time.
        let millis = time.as_millis();
        Timestamp::from_millis(millis.saturating_sub(millis.rem_euclid(step)))
    }

    pub(crate) fn get(&self, root: &str, file: FileId) -> Option<(Timestamp, Bytes)> {
        self.roots().get(root)?.files.get(&file).cloned()
    }

    pub(crate) fn put(&self, root: &str, file: FileId, created_at: Timestamp, bytes: Bytes) {
        self.change(root, file, Some((created_at, bytes)));
    }

    pub(crate) fn remove(&self, root: &str, file: FileId) {
        self.change(root, file, None);
    }

    /// Removes everything at and under `root`.
    pub(crate) fn remove_all(&self, root: &str) {
        let mut roots = self.roots();
        for (name, replica) in roots.iter_mut() {
            let under = root.is_empty()
                || name
                    .strip_prefix(root)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            if under {
                for file in replica.files.keys().copied().collect::<Vec<_>>() {
                    replica.change(&self.shared.capabilities, file, None);
                }
            }
        }
    }

    /// The first `count` files of `level` that a listing shows, from the name `from` on or, where
    /// one is given, behind the name `after`.
    pub(crate) fn page(
        &self,
        root: &str,
        level: Level,
        from: Txid,
        after: Option<FileId>,
        count: usize,
    ) -> VecDeque<FileInfo> {
        use std::ops::Bound::{Excluded, Included};
        let named = |txid| FileId {
            level,
            txids: TxidRange::single(txid),
        };
        let start = after.map_or(Included(named(from)), Excluded);
        let mut roots = self.roots();
        let Some(replica) = roots.get_mut(root) else {
            return VecDeque::new();
        };
        replica.list_what_is_due();
        let page = replica.listing.range((start, Included(named(Txid::MAX))));
        page.map(|(_, info)| *info).take(count).collect()
    }

    pub(crate) fn snapshot(&self, root: &str) -> Snapshot {
        let roots = self.roots();
        roots
            .get(root)
            .map_or_else(Snapshot::new, |replica| replica.files.clone())
    }

    fn change(&self, root: &str, file: FileId, content: Option<(Timestamp, Bytes)>) {
        let mut roots = self.roots();
        if !roots.contains_key(root) {
            roots.insert(root.to_owned(), Replica::default());
        }
        if let Some(replica) = roots.get_mut(root) {
            replica.change(&self.shared.capabilities, file, content);
        }
    }

    fn roots(&self) -> MutexGuard<'_, BTreeMap<String, Replica>> {
        let roots = self.shared.roots.lock();
        roots.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MockStore {
    fn default() -> MockStore {
        MockStore::new()
    }
}

/// Names the roots, and never what they hold.
impl fmt::Debug for MockStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roots: Vec<_> = self.roots().keys().cloned().collect();
        f.debug_struct("MockStore").field("roots", &roots).finish()
    }
}

impl Replica {
    fn change(
        &mut self,
        capabilities: &Capabilities,
        file: FileId,
        content: Option<(Timestamp, Bytes)>,
    ) {
        let info = content.as_ref().map(|(created_at, bytes)| FileInfo {
            id: file,
            size: bytes.len() as u64,
            created_at: *created_at,
        });
        match content {
            Some(content) => self.files.insert(file, content),
            None => self.files.remove(&file),
        };
        if capabilities.list_lag.is_zero() {
            self.list(file, info);
        } else {
            let due = Instant::now() + capabilities.list_lag;
            self.unlisted.push_back((due, file, info));
        }
    }

    fn list_what_is_due(&mut self) {
        if self.unlisted.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some((due, file, info)) = self.unlisted.front().copied() {
            if due > now {
                break;
            }
            self.unlisted.pop_front();
            self.list(file, info);
        }
    }

    fn list(&mut self, file: FileId, info: Option<FileInfo>) {
        match info {
            Some(info) => self.listing.insert(file, info),
            None => self.listing.remove(&file),
        };
    }
}

//! A live database, and what a restore of its replica must give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use replica_core::{FileId, Level, ReplicaClient, Timestamp, TxidRange};
use replica_engine::{
    ReplicateError, ReplicateOptions, Replicator, RestoreOptions, Synced, Target, restore,
};
use rusqlite::Connection;
use tempfile::TempDir;

/// The time at which everything in these tests happens.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_795_247_087_728);

/// A folder with a database that an application writes, and the states that were replicated.
pub(crate) struct Live {
    folder: TempDir,
    application: Option<Connection>,
    states: BTreeMap<u64, Vec<u8>>,
}

impl Live {
    /// A database with pages of `page_size` bytes and one table, in WAL mode.
    pub(crate) fn new(page_size: u32) -> Live {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut live = Live {
            folder,
            application: None,
            states: BTreeMap::new(),
        };
        live.connect();
        live.run(&format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; \
             CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB);"
        ));
        live
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    pub(crate) fn options(&self) -> ReplicateOptions {
        ReplicateOptions::new(self.path(), || NOW)
    }

    pub(crate) async fn replicator(
        &self,
        client: impl ReplicaClient + Clone,
    ) -> Result<Replicator, ReplicateError> {
        Replicator::open(Arc::new(client), self.options()).await
    }

    pub(crate) fn application(&self) -> &Connection {
        self.application.as_ref().expect("the application runs")
    }

    pub(crate) fn run(&self, sql: &str) {
        self.application().execute_batch(sql).unwrap();
    }

    /// Starts the application, as far as it does not run.
    pub(crate) fn connect(&mut self) {
        if self.application.is_none() {
            let connection = Connection::open(self.path()).unwrap();
            let settings = "PRAGMA busy_timeout=5000; PRAGMA cache_size=10; PRAGMA synchronous=OFF";
            connection.execute_batch(settings).unwrap();
            self.application = Some(connection);
        }
    }

    /// Ends the application.
    pub(crate) fn disconnect(&mut self) {
        self.application = None;
    }

    /// What the database is now, byte for byte.
    pub(crate) fn state(&self) -> Vec<u8> {
        let copy = tempfile::tempdir().unwrap();
        let path = copy.path().join("copy.db");
        // A process that closes the database's file loses the locks of its connections, so another
        // one does.
        copy_file(&self.path(), &path);
        let wal = self.folder.path().join("app.db-wal");
        if wal.exists() {
            copy_file(&wal, &copy.path().join("copy.db-wal"));
        }
        let connection = Connection::open(&path).unwrap();
        let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: u32 = connection
            .query_row(truncate, (), |row| row.get(0))
            .unwrap();
        assert_eq!(busy, 0);
        drop(connection);
        std::fs::read(path).unwrap()
    }

    /// Syncs while nobody writes, and notes which state that transaction is.
    pub(crate) async fn sync(&mut self, replicator: &mut Replicator) -> Synced {
        let synced = replicator.sync().await.unwrap();
        self.note(&synced);
        synced
    }

    pub(crate) fn note(&mut self, synced: &Synced) {
        let state = self.state();
        let noted = self.states.entry(synced.txid.get());
        let noted = noted.or_insert_with(|| state.clone());
        assert!(*noted == state, "transaction {} was another", synced.txid);
    }

    /// Restores each state that was noted, and compares.
    pub(crate) async fn assert_restorable(&self, client: impl ReplicaClient + Clone) {
        let client: Arc<dyn ReplicaClient> = Arc::new(client);
        assert!(!self.states.is_empty());
        for (number, state) in &self.states {
            let target = Target::Txid(replica_core::Txid::new(*number).unwrap());
            assert!(
                restored(&client, target).await == *state,
                "transaction {number} is another after a restore"
            );
        }
        let latest = self.states.values().next_back().unwrap();
        assert!(restored(&client, Target::Latest).await == *latest);
    }
}

pub(crate) async fn restored(client: &Arc<dyn ReplicaClient>, target: Target) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut options = RestoreOptions::new(folder.path().join("restored.db"));
    options.target = target;
    restore(Arc::clone(client), &options, |_| {}).await.unwrap();
    std::fs::read(&options.output).unwrap()
}

/// The file of level 0 that holds transaction `txid`.
pub(crate) fn raw(txid: u64) -> FileId {
    let txid = replica_core::Txid::new(txid).unwrap();
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(txid),
    }
}

fn copy_file(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

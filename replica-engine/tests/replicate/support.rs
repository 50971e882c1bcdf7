//! A live database, and what a restore of its replica must give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use ltx::{Compression, Encoder, Header, Pgno, Reader};
use replica_core::{FileId, Level, ReplicaClient, Timestamp, Txid, TxidRange};
use replica_engine::{
    ReplicateError, ReplicateOptions, Replicator, RestoreOptions, Synced, Target, restore,
};
use replica_mock::MockClient;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::application::{TABLE, checkpointed, connect, run};

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
             {TABLE}"
        ));
        live
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    /// The path of the log.
    pub(crate) fn wal(&self) -> PathBuf {
        self.folder.path().join("app.db-wal")
    }

    /// A connection of the application's that is reading for as long as it lives.
    pub(crate) fn reader(&self) -> Connection {
        let connection = connect(&self.path());
        run(&connection, "BEGIN; SELECT count(*) FROM t");
        connection
    }

    pub(crate) fn options(&self) -> ReplicateOptions {
        let mut options = ReplicateOptions::new(self.path(), || NOW);
        options.upkeep = None;
        options
    }

    pub(crate) async fn replicator(
        &self,
        client: impl ReplicaClient + Clone,
    ) -> Result<Replicator, ReplicateError> {
        Replicator::open(Arc::new(client), self.options()).await
    }

    /// A replicator that has begun to replicate to `replica`.
    pub(crate) async fn started(&self, client: &(impl ReplicaClient + Clone)) -> Replicator {
        let started = self.replicator(client.clone()).await;
        started.expect("a live database and a store that works")
    }

    pub(crate) fn application(&self) -> &Connection {
        self.application.as_ref().expect("the application runs")
    }

    pub(crate) fn run(&self, sql: &str) {
        run(self.application(), sql);
    }

    /// Starts the application, as far as it does not run.
    pub(crate) fn connect(&mut self) {
        if self.application.is_none() {
            let connection = connect(&self.path());
            let settings = "PRAGMA busy_timeout=5000; PRAGMA cache_size=10; PRAGMA synchronous=OFF";
            run(&connection, settings);
            self.application = Some(connection);
        }
    }

    /// Ends the application.
    pub(crate) fn disconnect(&mut self) {
        self.application = None;
    }

    /// A copy of the database and its log as they are now.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary folder");
        for file in [self.path(), self.wal()] {
            copy_file(&file, copy.path());
        }
        copy
    }

    /// Puts such a copy back while nobody has the database open but the application, which is
    /// started anew.
    pub(crate) fn replace(&mut self, copy: &TempDir) {
        self.disconnect();
        std::fs::remove_file(self.folder.path().join("app.db-shm")).ok();
        for file in [self.path(), self.wal()] {
            let name = file.file_name().expect("it is a file");
            std::fs::copy(copy.path().join(name), &file).expect("it was copied");
        }
        self.connect();
    }

    /// What the database is now, byte for byte.
    pub(crate) fn state(&self) -> Vec<u8> {
        let copy = tempfile::tempdir().expect("a temporary folder");
        let path = copy.path().join("copy.db");
        copy_file(&self.path(), &path);
        if self.wal().exists() {
            copy_file(&self.wal(), &copy.path().join("copy.db-wal"));
        }
        checkpointed(&path)
    }

    /// Syncs while nobody writes, and notes which state that transaction is.
    pub(crate) async fn sync(&mut self, replicator: &mut Replicator) -> Synced {
        let synced = replicator.sync().await.expect("a sync should succeed");
        self.note(&synced);
        synced
    }

    pub(crate) fn note(&mut self, synced: &Synced) {
        let state = self.state();
        let noted = self.states.entry(synced.txid.get());
        let noted = noted.or_insert_with(|| state.clone());
        assert!(*noted == state, "transaction {} was another", synced.txid);
    }

    /// Restores the latest state, and compares.
    pub(crate) async fn assert_latest(&self, client: &(impl ReplicaClient + Clone)) {
        let client: Arc<dyn ReplicaClient> = Arc::new(client.clone());
        assert!(restored(&client, Target::Latest).await == self.state());
    }

    /// Restores each state that was noted, and compares.
    pub(crate) async fn assert_restorable(&self, client: impl ReplicaClient + Clone) {
        let client: Arc<dyn ReplicaClient> = Arc::new(client);
        for (number, state) in &self.states {
            let target = Target::Txid(txid(*number));
            assert!(
                restored(&client, target).await == *state,
                "transaction {number} is another after a restore"
            );
        }
        let latest = self.states.values().next_back().expect("a state was noted");
        assert!(restored(&client, Target::Latest).await == *latest);
    }
}

pub(crate) async fn restored(client: &Arc<dyn ReplicaClient>, target: Target) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut options = RestoreOptions::new(folder.path().join("restored.db"));
    options.target = target;
    let restored = restore(Arc::clone(client), &options, |_| {}).await;
    restored.expect("what was replicated can be restored");
    std::fs::read(&options.output).expect("a restore makes a file")
}

/// The file that holds the transaction of this number: of level 0, but for the first one.
pub(crate) fn raw(number: u64) -> FileId {
    FileId {
        level: match number {
            1 => Level::SNAPSHOT,
            _ => Level::RAW,
        },
        txids: TxidRange::single(txid(number)),
    }
}

/// The bytes of that file.
pub(crate) fn stored(replica: &MockClient, number: u64) -> Bytes {
    let content = replica.content(raw(number));
    content.expect("the transaction should be stored")
}

/// The same pages as in `file` with another header.
pub(crate) fn with_header(file: &[u8], change: impl FnOnce(Header) -> Header) -> Vec<u8> {
    rewritten(file, change, |_, _| {})
}

/// The same file with other pages.
pub(crate) fn with_pages(file: &[u8], change: impl Fn(Pgno, &mut [u8])) -> Vec<u8> {
    rewritten(file, |header| header, change)
}

fn rewritten(
    file: &[u8],
    change: impl FnOnce(Header) -> Header,
    change_page: impl Fn(Pgno, &mut [u8]),
) -> Vec<u8> {
    let mut reader = Reader::new(file).expect("a stored file has a header");
    let header = change(*reader.header());
    let mut out = Vec::new();
    let mut encoder = Encoder::new(header, Compression::Blocks, &mut out);
    let mut page = vec![0; header.page_size().bytes()];
    while let Some(pgno) = reader.next_page(&mut page).expect("a stored file is whole") {
        change_page(pgno, &mut page);
        let added = encoder.page(pgno, &page, &mut out);
        added.expect("it has the pages of the one before");
    }
    encoder.finish(None, &mut out).expect("it has no checksums");
    out
}

fn txid(number: u64) -> Txid {
    Txid::new(number).expect("tests have no transaction 0")
}

/// Copies a file by a process of its own: one that closes a database's file loses the locks of its
/// connections.
pub(crate) fn copy_file(from: &Path, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status();
    assert!(status.expect("cp should run").success());
}

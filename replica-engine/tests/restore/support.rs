//! Replicas to restore from, and what must come of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ltx::{Checksum, Compression, DatabaseChecksum, Encoder, Header, PageSize, Pgno};
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, ReplicaClient,
    ReplicaClientExt, Result as StoreResult, Timestamp, Timestamps, Txid,
};
use replica_engine::{Damage, RestoreError, RestoreOptions, Restored, Target, restore};
use replica_mock::{MockClient, file};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const PAGE_SIZE: usize = 512;

/// A set of the replicas that Litestream wrote.
pub(crate) struct Golden {
    pub(crate) manifest: Value,
    pub(crate) replica: MockClient,
}

impl Golden {
    pub(crate) const SETS: [&str; 5] = ["ps512", "ps4096", "ps65536", "vacuum", "autovac"];

    /// The set `name`, whose files have the times that they were written with.
    pub(crate) fn load(name: &str) -> Golden {
        Golden::load_with_times(name, |_, written| written)
    }

    /// The set `name`, whose files have the times that `time` gives them.
    pub(crate) fn load_with_times(
        name: &str,
        time: impl Fn(FileId, Timestamp) -> Timestamp,
    ) -> Golden {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ltx/tests/golden");
        let manifest = std::fs::read(root.join("manifest.json")).expect("the golden manifest");
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let manifest = manifest["sets"][name].clone();
        let replica = MockClient::new();
        for (path, facts) in manifest["files"].as_object().expect("the set's files") {
            let id = replica_core::Layout::Tree
                .parse(path)
                .expect("a file of a replica");
            let written = Timestamp::from_millis(facts["mtime_ms"].as_i64().unwrap());
            let content = std::fs::read(root.join(name).join("replica").join(path)).unwrap();
            replica.put(id, time(id, written), content);
        }
        Golden { manifest, replica }
    }
}

/// A folder that a database is restored into.
pub(crate) struct Output {
    folder: TempDir,
}

impl Output {
    pub(crate) fn new() -> Output {
        Output {
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("restored.db")
    }

    pub(crate) fn options(&self, target: Target) -> RestoreOptions {
        let mut options = RestoreOptions::new(self.path());
        options.target = target;
        options
    }

    /// What was restored.
    pub(crate) fn content(&self) -> Vec<u8> {
        std::fs::read(self.path()).expect("a restored database")
    }

    /// The names in the folder.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.names(), Vec::<String>::new(), "something was left");
    }
}

/// Restores `target` into a new folder.
pub(crate) async fn restored(
    replica: &MockClient,
    target: Target,
) -> Result<(Restored, Vec<u8>), RestoreError> {
    let output = Output::new();
    let result = restore(Arc::new(replica.clone()), &output.options(target), |_| {}).await;
    match result {
        Ok(restored) => {
            assert_eq!(output.names(), ["restored.db"], "something was left");
            Ok((restored, output.content()))
        }
        Err(error) => {
            output.assert_empty();
            Err(error)
        }
    }
}

/// The files that were found damaged or gone by a restore that failed for that.
pub(crate) fn damages(error: RestoreError) -> Vec<Damage> {
    match error {
        RestoreError::Damaged { damaged, .. } => damaged,
        error => panic!("{error}"),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

pub(crate) fn txid(number: u64) -> Txid {
    Txid::new(number).expect("transactions count from 1")
}

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// One LTX file, page by page.
pub(crate) struct Made {
    pub(crate) id: FileId,
    pub(crate) page_size: usize,
    pub(crate) commit: u32,
    /// The pages' numbers, and what fills them.
    pub(crate) pages: Vec<(u32, u8)>,
    pub(crate) time: Timestamp,
    /// The checksums before and after, where it has some.
    pub(crate) checksums: Option<(Option<Checksum>, Checksum)>,
}

impl Made {
    /// A file without checksums, of the time that is its last transaction in seconds.
    pub(crate) fn new(id: FileId, commit: u32, pages: &[(u32, u8)]) -> Made {
        Made {
            id,
            page_size: PAGE_SIZE,
            commit,
            pages: pages.to_vec(),
            time: at(1000 * id.txids.max().get() as i64),
            checksums: None,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let page_size = PageSize::new(self.page_size as u32).unwrap();
        let mut header = Header::new(page_size, self.commit, self.id.txids, self.time);
        if let Some((pre_apply, _)) = self.checksums {
            header = header.with_checksums(pre_apply).unwrap();
        }
        let mut out = Vec::new();
        let mut encoder = Encoder::new(header, Compression::Blocks, &mut out);
        for &(pgno, fill) in &self.pages {
            let page = page(pgno, fill, self.page_size);
            encoder
                .page(Pgno::new(pgno).unwrap(), &page, &mut out)
                .unwrap();
        }
        let post_apply = self.checksums.map(|(_, post_apply)| post_apply);
        encoder.finish(post_apply, &mut out).unwrap();
        out
    }

    pub(crate) fn put(&self, replica: &MockClient) {
        replica.put(self.id, self.time, self.encode());
    }
}

/// A page whose beginning compresses little, so that many bytes of a file count.
pub(crate) fn page(pgno: u32, fill: u8, size: usize) -> Vec<u8> {
    let mut state = u64::from(pgno) << 8 | u64::from(fill);
    let mut page = vec![fill; size];
    for byte in &mut page[..60] {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    page
}

/// The database of `pages`, in the order of their numbers from 1.
pub(crate) fn database(fills: &[u8]) -> Vec<u8> {
    let pages = fills
        .iter()
        .zip(1..)
        .map(|(fill, pgno)| page(pgno, *fill, PAGE_SIZE));
    pages.collect::<Vec<_>>().concat()
}

/// Three transactions of a database of four pages, and its state after each.
///
/// The third also lies in a file of level 1 with the second.
pub(crate) fn small() -> (MockClient, [Vec<u8>; 3]) {
    let replica = MockClient::new();
    Made::new(file(0, 1..=1), 3, &[(1, 1), (2, 1), (3, 1)]).put(&replica);
    Made::new(file(0, 2..=2), 4, &[(1, 2), (4, 2)]).put(&replica);
    Made::new(file(0, 3..=3), 2, &[(2, 3)]).put(&replica);
    let states = [
        database(&[1, 1, 1]),
        database(&[2, 1, 1, 2]),
        database(&[2, 3]),
    ];
    (replica, states)
}

/// The checksum of the database of `pages`, in the order of their numbers from 1.
pub(crate) fn checksum(fills: &[u8]) -> Checksum {
    let mut database = DatabaseChecksum::default();
    for (fill, pgno) in fills.iter().zip(1..) {
        let page = page(pgno, *fill, PAGE_SIZE);
        database.add(Checksum::of_page(Pgno::new(pgno).unwrap(), &page));
    }
    database.get()
}

/// A file from the database `before` to the one `after`, with the checksums of both.
pub(crate) fn with_checksums(
    id: FileId,
    pages: &[(u32, u8)],
    before: Option<&[u8]>,
    after: &[u8],
) -> Made {
    let mut made = Made::new(id, after.len() as u32, pages);
    made.checksums = Some((before.map(checksum), checksum(after)));
    made
}

/// A store whose level 0 is slow to list, and whose level 0 is compacted into level 1 as soon as
/// that has been listed.
#[derive(Debug)]
pub(crate) struct Compacted(pub(crate) MockClient);

#[replica_core::async_trait]
impl ReplicaClient for Compacted {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, times: Timestamps) -> StoreResult<FileStream> {
        let compacted = file(1, 2..=3);
        if level == Level::RAW {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        let listed = self.0.list_all(level, from, times).await?;
        if level == compacted.level {
            Made::new(compacted, 2, &[(1, 2), (2, 3)]).put(&self.0);
            self.0.delete(&[file(0, 2..=2), file(0, 3..=3)]).await?;
        }
        Ok(replica_core::listing(listed, from))
    }

    async fn open(&self, file: FileId, range: ByteRange) -> StoreResult<ByteStream> {
        self.0.open(file, range).await
    }

    async fn write(
        &self,
        file: FileId,
        created_at: Timestamp,
        body: Body,
    ) -> StoreResult<FileInfo> {
        self.0.write(file, created_at, body).await
    }

    async fn delete(&self, files: &[FileId]) -> StoreResult<()> {
        self.0.delete(files).await
    }

    async fn delete_all(&self) -> StoreResult<()> {
        self.0.delete_all().await
    }
}

//! The one broken client that is told by the memory it takes, in a process of its own.

use std::future::ready;

use conformance::Verdict;
use replica_core::{
    Body, ByteRange, ByteStream, Capabilities, FileId, FileInfo, FileStream, Level, ReplicaClient,
    Result, Timestamp, Timestamps, Txid, async_trait,
};
use replica_mock::{MockClient, MockStore};

const CASE: &str = "big::small_writes_in_flight_cost_little";

/// Takes the buffer of a part for each write, however small.
#[derive(Debug)]
struct PartBuffer(MockClient);

#[async_trait]
impl ReplicaClient for PartBuffer {
    fn scheme(&self) -> &'static str {
        self.0.scheme()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    async fn list(&self, level: Level, from: Txid, timestamps: Timestamps) -> Result<FileStream> {
        self.0.list(level, from, timestamps).await
    }

    async fn open(&self, file: FileId, range: ByteRange) -> Result<ByteStream> {
        self.0.open(file, range).await
    }

    async fn write(&self, file: FileId, created_at: Timestamp, body: Body) -> Result<FileInfo> {
        let buffer = vec![7u8; 5 << 20];
        let written = self.0.write(file, created_at, body).await;
        drop(buffer);
        written
    }

    async fn delete(&self, files: &[FileId]) -> Result<()> {
        self.0.delete(files).await
    }

    async fn delete_all(&self) -> Result<()> {
        self.0.delete_all().await
    }
}

/// One test, because another one would take memory beside it.
#[tokio::test(start_paused = true)]
async fn a_part_buffer_for_each_write_is_found_and_small_writes_without_one_pass() {
    let store = MockStore::new();
    let honest = {
        let store = store.clone();
        move |namespace: String| ready(store.client(&namespace))
    };
    let broken = move |namespace: String| ready(PartBuffer(store.client(&namespace)));

    let honest = conformance::run(CASE, honest).await;
    let broken = conformance::run(CASE, broken).await;

    honest.assert_kept();
    assert_eq!(broken.verdict(), Verdict::Broken, "{broken}");
    assert!(
        broken.to_string().contains("a write of 1 KiB takes"),
        "{broken}"
    );
}

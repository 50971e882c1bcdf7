//! How much memory a large file takes, and many small ones, at most:
//!
//! ```text
//! cargo bench -p replica-s3 --bench memory -- \
//!     ENDPOINT BUCKET ACCESS_KEY SECRET_KEY [MIB [FILES]]
//! ```
//!
//! The kernel of Linux counts: resident memory, of this process, at its peak.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod store;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{Body, FileId, Level, ReplicaClient, Timestamp, Timestamps, Txid, TxidRange};
use replica_s3::S3Client;
use store::Store;

const PIECE: usize = 1 << 20;
/// How large a small file is, and how many calls are under way at once.
const SMALL: usize = 1 << 10;
const AT_ONCE: usize = 64;

#[tokio::main]
async fn main() -> ExitCode {
    let Some(store) = Store::of_arguments("[MIB [FILES]]") else {
        return ExitCode::SUCCESS;
    };
    let (pieces, files) = (store.number(0, 1024), store.number(1, 10_000));
    let client = S3Client::new(store.config("replica-s3-memory")).expect("a client");

    measured("before anything", async {}).await;
    measured(&format!("put of {pieces} MiB"), put(&client, pieces)).await;
    measured(&format!("get of {pieces} MiB"), get(&client, pieces)).await;
    measured("its deletion", delete_all(&client)).await;
    measured(
        &format!("put of {files} small files"),
        put_small(&client, files),
    )
    .await;
    measured("list of them, exact times", list(&client, files)).await;
    measured("get of them", get_small(&client, files)).await;
    measured("their deletion", delete_all(&client)).await;
    ExitCode::SUCCESS
}

async fn measured(what: &str, work: impl Future<Output = ()>) {
    // Makes the peak what it is now.
    fs::write("/proc/self/clear_refs", "5").expect("Linux, and leave to reset the peak");
    let begun = Instant::now();
    work.await;
    let seconds = begun.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!(
        "{what:30} {seconds:7.2} s, peak {}",
        peak.unwrap_or("unknown").trim()
    );
}

fn file(txid: usize) -> FileId {
    let txid = Txid::new(txid as u64).expect("they are counted from 1");
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(txid),
    }
}

async fn put(client: &S3Client, pieces: usize) {
    // Each piece has its own memory, as what is read from a file has.
    let body = stream::iter(0..pieces).map(|_| Ok(vec![7; PIECE].into()));
    let body = body.boxed();
    let body = Body::once((pieces * PIECE) as u64, body);
    let written = client.write(file(1), Timestamp::EPOCH, body).await;
    written.expect("a write");
}

async fn get(client: &S3Client, pieces: usize) {
    let mut bytes = client.open(file(1), (..).into()).await.expect("a file");
    let mut size = 0;
    while let Some(chunk) = bytes.try_next().await.expect("its bytes") {
        size += chunk.len();
    }
    assert_eq!(size, pieces * PIECE);
}

async fn put_small(client: &S3Client, files: usize) {
    let content = Bytes::from(vec![7; SMALL]);
    let writes = stream::iter(1..=files).map(|txid| {
        let body = Body::from(content.clone());
        client.write(file(txid), Timestamp::EPOCH, body)
    });
    let mut writes = writes.buffer_unordered(AT_ONCE);
    while let Some(written) = writes.next().await {
        written.expect("a write");
    }
}

async fn list(client: &S3Client, files: usize) {
    let listed = client
        .list(Level::RAW, Txid::FIRST, Timestamps::Exact)
        .await;
    let listed = listed
        .expect("a listing")
        .try_fold(0, async |count, _| Ok(count + 1));
    assert_eq!(listed.await.expect("all of it"), files);
}

async fn get_small(client: &S3Client, files: usize) {
    let reads = stream::iter(1..=files).map(|txid| async move {
        let bytes = client.open(file(txid), (..).into()).await.expect("a file");
        bytes
            .try_fold(0, async |size, chunk: Bytes| Ok(size + chunk.len()))
            .await
    });
    let mut reads = reads.buffer_unordered(AT_ONCE);
    while let Some(size) = reads.next().await {
        assert_eq!(size.expect("its bytes"), SMALL);
    }
}

async fn delete_all(client: &S3Client) {
    client.delete_all().await.expect("a deletion");
}

//! What a large file costs, beside the same sent by `object_store` alone, in one run:
//!
//! ```text
//! cargo bench -p replica-s3 -- ENDPOINT BUCKET ACCESS_KEY SECRET_KEY [MIB]
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use replica_core::{Body, FileId, Level, ReplicaClient, Timestamp, Txid, TxidRange};
use replica_s3::{Credentials, S3Client, S3Config};

const RUNS: usize = 3;
const PIECE: usize = 1 << 20;
const FILE: FileId = FileId {
    level: Level::RAW,
    txids: TxidRange::single(Txid::FIRST),
};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let [endpoint, bucket, access_key, secret_key, rest @ ..] = arguments.as_slice() else {
        // `cargo test --benches` gives no server to measure.
        println!("nothing measured: name ENDPOINT BUCKET ACCESS_KEY SECRET_KEY [MIB]");
        return ExitCode::SUCCESS;
    };
    let pieces = rest
        .first()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1024);
    let config = S3Config::new(bucket)
        .prefix("replica-s3-bench")
        .endpoint(endpoint)
        .allow_http(true)
        .credentials(Credentials::new(access_key, secret_key));
    let ours = S3Client::new(config).expect("a client");
    let raw = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_bucket_name(bucket)
        .with_access_key_id(access_key)
        .with_secret_access_key(secret_key)
        .build()
        .expect("a store");

    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..RUNS {
        times[0].push(seconds(put(&ours, pieces)).await);
        times[1].push(seconds(raw_put(&raw, pieces)).await);
        times[2].push(seconds(get(&ours, pieces)).await);
        times[3].push(seconds(raw_get(&raw, pieces)).await);
    }
    ours.delete_all().await.expect("a deletion");
    let [put, raw_put, get, raw_get] = times.map(median);
    println!("{pieces} MiB, median of {RUNS} runs, in turn");
    println!(
        "put  {put:6.2} s, object_store {raw_put:6.2} s: {:.2} of its speed",
        raw_put / put
    );
    println!(
        "get  {get:6.2} s, object_store {raw_get:6.2} s: {:.2} of its speed",
        raw_get / get
    );
    ExitCode::SUCCESS
}

async fn seconds(work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    begun.elapsed().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

async fn put(client: &S3Client, pieces: usize) {
    let piece = Bytes::from(vec![7; PIECE]);
    let body = stream::repeat(piece).take(pieces).map(Ok).boxed();
    let body = Body::once((pieces * PIECE) as u64, body);
    client
        .write(FILE, Timestamp::EPOCH, body)
        .await
        .expect("a write");
}

async fn get(client: &S3Client, pieces: usize) {
    let mut bytes = client.open(FILE, (..).into()).await.expect("a file");
    let mut size = 0;
    while let Some(chunk) = bytes.try_next().await.expect("its bytes") {
        size += chunk.len();
    }
    assert_eq!(size, pieces * PIECE);
}

async fn raw_put(store: &AmazonS3, pieces: usize) {
    let piece = Bytes::from(vec![7; PIECE]);
    let upload = store.put_multipart(&raw_path()).await.expect("an upload");
    let part_size = usize::try_from(S3Config::PART_SIZE).expect("a part fits into memory");
    let mut upload = WriteMultipart::new_with_chunk_size(upload, part_size);
    for _ in 0..pieces {
        upload.wait_for_capacity(4).await.expect("a part");
        upload.put(piece.clone());
    }
    upload.finish().await.expect("a file");
}

async fn raw_get(store: &AmazonS3, pieces: usize) {
    let got = store.get_opts(&raw_path(), Default::default()).await;
    let mut bytes = got.expect("a file").into_stream();
    let mut size = 0;
    while let Some(chunk) = bytes.try_next().await.expect("its bytes") {
        size += chunk.len();
    }
    assert_eq!(size, pieces * PIECE);
}

fn raw_path() -> Path {
    Path::from("replica-s3-bench/raw")
}

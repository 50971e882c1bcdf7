//! How fast a large file is, beside the same sent by `object_store` alone, in one run:
//!
//! ```text
//! cargo bench -p replica-s3 --bench beside_object_store -- \
//!     ENDPOINT BUCKET ACCESS_KEY SECRET_KEY [MIB [PAIRS]]
//! ```
//!
//! A pair is one of each, and the next pair begins with the other: a server is slower right after
//! a large write, whoever comes next. The server takes twice as many bytes as a pair for each.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod store;

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use replica_core::{Body, FileId, Level, ReplicaClient, Timestamp, Txid, TxidRange};
use replica_s3::{S3Client, S3Config};
use store::Store;

const PAIRS: usize = 5;
const PIECE: usize = 1 << 20;
const FILE: FileId = FileId {
    level: Level::RAW,
    txids: TxidRange::single(Txid::FIRST),
};

#[tokio::main]
async fn main() -> ExitCode {
    let Some(store) = Store::of_arguments("[MIB [PAIRS]]") else {
        return ExitCode::SUCCESS;
    };
    let (pieces, pairs) = (store.number(0, 1024), store.number(1, PAIRS).max(1));
    let ours = S3Client::new(store.config("replica-s3-bench")).expect("a client");
    let raw = AmazonS3Builder::new()
        .with_endpoint(&store.endpoint)
        .with_allow_http(true)
        .with_bucket_name(&store.bucket)
        .with_access_key_id(&store.access_key)
        .with_secret_access_key(&store.secret_key)
        .build()
        .expect("a store");

    println!("{pieces} MiB, {pairs} pairs in turn");
    let puts = Times::of(pairs, || put(&ours, pieces), || raw_put(&raw, pieces)).await;
    let gets = Times::of(pairs, || get(&ours, pieces), || raw_get(&raw, pieces)).await;
    ours.delete_all().await.expect("a deletion");
    println!("put  {puts}");
    println!("get  {gets}");
    ExitCode::SUCCESS
}

/// The seconds that each took, pair for pair.
struct Times {
    ours: Vec<f64>,
    raw: Vec<f64>,
}

impl Times {
    async fn of<A, B>(pairs: usize, ours: impl Fn() -> A, raw: impl Fn() -> B) -> Times
    where
        A: Future<Output = ()>,
        B: Future<Output = ()>,
    {
        let mut times = Times {
            ours: Vec::new(),
            raw: Vec::new(),
        };
        for pair in 0..pairs {
            if pair % 2 == 0 {
                times.ours.push(seconds(ours()).await);
                times.raw.push(seconds(raw()).await);
            } else {
                times.raw.push(seconds(raw()).await);
                times.ours.push(seconds(ours()).await);
            }
        }
        times
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratios = self
            .ours
            .iter()
            .zip(&self.raw)
            .map(|(ours, raw)| raw / ours);
        let ratios: Vec<_> = ratios.collect();
        write!(
            f,
            "{:6.2} s, object_store {:6.2} s: {:.2} of its speed (pair for pair",
            median(&self.ours),
            median(&self.raw),
            median(&self.raw) / median(&self.ours)
        )?;
        for ratio in &ratios {
            write!(f, " {ratio:.2}")?;
        }
        write!(f, ", median {:.2})", median(&ratios))
    }
}

async fn seconds(work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    begun.elapsed().as_secs_f64()
}

/// The middle one, or that between the two in the middle.
fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    let (low, high) = (times[(times.len() - 1) / 2], times[times.len() / 2]);
    f64::midpoint(low, high)
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

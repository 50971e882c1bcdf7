//! What only a look at the bucket shows, and what only a broken network or server brings about.

mod deletes;
mod keys;
mod outages;
mod reads;
mod refusals;
mod writes;

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, Error, ErrorKind, FileId, FileInfo, Level, ReplicaClient, ReplicaClientExt, Result,
    Timestamp, Timestamps, Txid, TxidRange,
};
use replica_layers::{Backoff, Retry, Timeout, TimeoutSettings};
use replica_s3::providers::{Addressing, Checksum, GENERIC, Provider};
use replica_s3::{Credentials, Encryption, S3Client, S3Config, Tls};
use testbed::http::{Answer, End, Scripted};
use testbed::{Direction, Fault, Proxy, S3Server, StoredObject, TlsRelay};

const NOON: Timestamp = Timestamp::from_millis(1_795_247_087_120);
const NOON_TEXT: &str = "2026-11-21T07:44:47.12Z";
const KEY_1: &str = "db/0000/0000000000000001-0000000000000001.ltx";
const MIB: usize = 1 << 20;

fn raw(txid: u64) -> FileId {
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::new(txid).expect("a test's txid is not zero")),
    }
}

/// What the key of a file ends with.
fn name(txid: u64) -> String {
    raw(txid).txids.to_string()
}

fn config(server: &S3Server, endpoint: &str) -> S3Config {
    S3Config::new(server.bucket())
        .endpoint(endpoint)
        .allow_http(true)
        .credentials(Credentials::new(server.access_key(), server.secret_key()))
        .prefix("db")
        .part_size(5 << 20)
}

fn client(server: &S3Server) -> S3Client {
    S3Client::new(config(server, &server.endpoint())).expect("a client")
}

/// A client of a server that answers as it is told, before one that keeps what it is given.
fn relayed() -> (S3Server, Scripted, S3Client) {
    let server = S3Server::start();
    let relay = Scripted::before(server.address());
    let client = S3Client::new(config(&server, &relay.endpoint())).expect("a client");
    (server, relay, client)
}

/// The same, before which the network breaks as it is told, and with limits of a second.
fn proxied() -> (S3Server, Proxy, S3Client) {
    let server = S3Server::start();
    let proxy = Proxy::start(server.address());
    let config = config(&server, &format!("http://{}", proxy.address()));
    let client = S3Client::new(hasty(config)).expect("a client");
    (server, proxy, client)
}

/// The same, with limits of a second.
fn hasty(config: S3Config) -> S3Config {
    config
        .connect_timeout(Duration::from_secs(1))
        .request_timeout(Duration::from_secs(1))
        .stall_timeout(Duration::from_secs(1))
}

/// A layer that tries again at once, for half a second.
fn retried(client: S3Client) -> Retry<S3Client> {
    let backoff = Backoff {
        pause_min: Duration::from_millis(1),
        pause_max: Duration::from_millis(20),
        total: Duration::from_millis(500),
        ..Backoff::default()
    };
    Retry::new(client, backoff)
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|index| (index % 251) as u8).collect()
}

async fn write(client: &S3Client, txid: u64, size: usize) -> Result<FileInfo> {
    client.write(raw(txid), NOON, content(size).into()).await
}

async fn names(client: &S3Client, timestamps: Timestamps) -> Result<Vec<FileInfo>> {
    client
        .list(Level::RAW, Txid::FIRST, timestamps)
        .await?
        .try_collect()
        .await
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

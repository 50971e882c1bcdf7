//! Calls as most tests make them.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use replica_core::{
    Body, ByteRange, Error, FileId, Level, ReplicaClient, ReplicaClientExt, Result, Timestamp,
    Timestamps, Txid, TxidRange,
};
use replica_sftp::{SftpClient, SftpConfig};

pub(crate) const NOON: Timestamp = Timestamp::from_millis(1_795_262_400_000);

/// What is waited for at most, where nothing says how long it should take.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn client(config: SftpConfig) -> SftpClient {
    SftpClient::new(config).expect("a configuration that makes sense")
}

/// A file of level 0 with one transaction.
pub(crate) fn file(txid: u64) -> FileId {
    FileId {
        level: Level::RAW,
        txids: TxidRange::single(Txid::new(txid).expect("a transaction")),
    }
}

/// So many bytes that differ from one place to the next, and from one `seed` to another.
pub(crate) fn content(len: usize, seed: u8) -> Bytes {
    (0..len)
        .map(|index| (index / 251) as u8 ^ (index % 251) as u8 ^ seed)
        .collect()
}

/// What `call` comes to, which must be soon.
pub(crate) async fn soon<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, call)
        .await
        .expect("it should have ended long ago")
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{what} did not come");
}

pub(crate) async fn write(client: &impl ReplicaClient, txid: u64, content: &Bytes) -> Result<()> {
    let body = Body::from(content.clone());
    soon(client.write(file(txid), NOON, body)).await.map(|_| ())
}

pub(crate) async fn read(client: &impl ReplicaClient, txid: u64) -> Result<Bytes> {
    soon(client.read(file(txid), ByteRange::ALL)).await
}

/// The transactions of the files in level 0.
pub(crate) async fn listed(client: &impl ReplicaClient) -> Result<Vec<u64>> {
    let all = client.list_all(Level::RAW, Txid::FIRST, Timestamps::Exact);
    let min = |info: &replica_core::FileInfo| info.id.txids.min().get();
    Ok(soon(all).await?.iter().map(min).collect())
}

/// The bytes that come of `stream` before it ends, and how it ends.
pub(crate) async fn drain(mut stream: replica_core::ByteStream) -> (Vec<u8>, Result<()>) {
    let mut bytes = Vec::new();
    loop {
        match soon(stream.try_next()).await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return (bytes, Ok(())),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

/// The failure of a first call.
pub(crate) async fn refusal(config: SftpConfig) -> Error {
    listed(&client(config))
        .await
        .expect_err("the call should fail")
}

/// A body that gives `first`, and then nothing until `gate` is dropped.
pub(crate) fn stuck(first: Bytes, gate: tokio::sync::oneshot::Receiver<()>) -> Body {
    let rest = stream::once(async move {
        let _ = gate.await;
        Ok(Bytes::from_static(b"the end"))
    });
    Body::once(None, stream::iter([Ok(first)]).chain(rest).boxed())
}

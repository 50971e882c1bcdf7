//! What every client can do because it is one.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use crate::{ByteRange, FileId, FileInfo, Level, ReplicaClient, Result, Timestamps, Txid};

/// What every [`ReplicaClient`] can do because it is one.
#[async_trait]
pub trait ReplicaClientExt: ReplicaClient {
    /// The listing of `level` from `from` on as a vector: memory grows with the number of files.
    async fn list_all(
        &self,
        level: Level,
        from: Txid,
        timestamps: Timestamps,
    ) -> Result<Vec<FileInfo>> {
        self.list(level, from, timestamps)
            .await?
            .try_collect()
            .await
    }

    /// The bytes of `range` in memory, as many as the file has.
    async fn read(&self, file: FileId, range: ByteRange) -> Result<Bytes> {
        let mut stream = self.open(file, range).await?;
        let Some(first) = stream.try_next().await? else {
            return Ok(Bytes::new());
        };
        let Some(second) = stream.try_next().await? else {
            return Ok(first);
        };
        let mut whole = BytesMut::from(first);
        whole.extend_from_slice(&second);
        while let Some(chunk) = stream.try_next().await? {
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }
}

impl<C: ReplicaClient + ?Sized> ReplicaClientExt for C {}

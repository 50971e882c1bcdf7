//! Reads files ahead, in pieces of bounded size.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};
use futures::{StreamExt, TryStreamExt};
use replica_core::{Error, ErrorKind, FileInfo, ReplicaClient, Result};
use tokio::task::JoinHandle;

/// How many pieces are fetched at a time. Each holds one open file or connection.
const FETCHES: u64 = 8;

/// The least that is worth a request.
const PIECE_MIN: u64 = 64 * 1024;

/// A run of bytes of one file.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) file: FileInfo,
    pub(crate) bytes: Result<Vec<Bytes>>,
    /// Whether the file ends with it.
    pub(crate) last: bool,
}

/// The bytes of `files`, one file after the other, of which up to `ahead` bytes are fetched before
/// they are asked for.
///
/// Each piece is read to its end at once, so that no connection waits idle for its turn until the
/// store closes it, however long the restore takes. The pieces of a file that is replaced
/// meanwhile may be of two versions: the file's checksum tells. Where a file turns out shorter than
/// it was listed, the piece that shows it is the last one, and more follow: pass over them.
pub(crate) fn pieces(
    client: Arc<dyn ReplicaClient>,
    files: Vec<FileInfo>,
    ahead: u64,
) -> impl Stream<Item = Piece> + Send {
    let size = (ahead / FETCHES).max(PIECE_MIN);
    let ranges = files.into_iter().flat_map(move |file| {
        let count = file.size.div_ceil(size).max(1);
        (0..count).map(move |index| (file, index * size, index + 1 == count))
    });
    stream::iter(ranges)
        .map(move |(file, start, last)| {
            // One byte more than there should be, to notice a file that has grown.
            let end = if last {
                file.size.saturating_add(1)
            } else {
                start + size
            };
            let client = Arc::clone(&client);
            let task = Abort(tokio::spawn(async move {
                let stream = client.open(file.id, (start..end).into()).await?;
                stream.try_collect::<Vec<Bytes>>().await
            }));
            async move {
                let bytes = task.join().await;
                let len = bytes
                    .iter()
                    .flatten()
                    .map(|chunk| chunk.len() as u64)
                    .sum::<u64>();
                Piece {
                    file,
                    last: last || len < end - start,
                    bytes,
                }
            }
        })
        .buffered(FETCHES as usize)
}

/// A task that ends when nobody waits for it any more.
struct Abort<T>(JoinHandle<Result<T>>);

impl<T> Abort<T> {
    async fn join(mut self) -> Result<T> {
        match (&mut self.0).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Error::new(
                    ErrorKind::Unavailable,
                    "the runtime is shutting down",
                )),
            },
        }
    }
}

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

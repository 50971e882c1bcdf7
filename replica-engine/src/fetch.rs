//! Reads files ahead, in pieces of bounded size.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use replica_core::{Error, ErrorKind, FileId, FileInfo, ReplicaClient, Result};
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
    pub(crate) follows: Follows,
}

/// What comes after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follows {
    /// More of the same file.
    More,
    /// The next file, if there is one.
    NextFile,
    /// Nothing of use: the file is shorter than it was listed.
    Nothing,
}

/// The bytes of `files`, one file after the other, of which up to `ahead` bytes are fetched before
/// they are asked for.
///
/// Each piece is read to its end at once, so that no connection waits idle for its turn until the
/// store closes it, however long the restore takes. The pieces of a file that is replaced
/// meanwhile may be of two versions: the file's checksum tells.
pub(crate) fn pieces(
    client: Arc<dyn ReplicaClient>,
    files: Vec<FileInfo>,
    ahead: u64,
) -> impl Stream<Item = Piece> + Send {
    let size = (ahead / FETCHES).max(PIECE_MIN);
    pieces_of(client, files, size, FETCHES as usize)
}

/// The same, in pieces of `size` bytes, of which so many are fetched at a time.
pub(crate) fn pieces_of(
    client: Arc<dyn ReplicaClient>,
    files: Vec<FileInfo>,
    size: u64,
    fetches: usize,
) -> impl Stream<Item = Piece> + Send {
    let ranges = files.into_iter().flat_map(move |file| {
        let count = file.size.div_ceil(size).max(1);
        (0..count).map(move |index| (file, index * size, index + 1 == count))
    });
    stream::iter(ranges)
        .map(move |(file, start, last)| {
            let end = if last { file.size } else { start + size };
            let task = Abort(tokio::spawn(fetch(
                Arc::clone(&client),
                file.id,
                start..end,
            )));
            task.join().map(move |bytes| {
                let len = bytes.iter().flatten().map(|chunk| chunk.len() as u64);
                let follows = match last {
                    _ if len.sum::<u64>() < end - start => Follows::Nothing,
                    true => Follows::NextFile,
                    false => Follows::More,
                };
                Piece {
                    file,
                    bytes,
                    follows,
                }
            })
        })
        .buffered(fetches)
}

/// Reads `range` of `file`.
async fn fetch(
    client: Arc<dyn ReplicaClient>,
    file: FileId,
    range: Range<u64>,
) -> Result<Vec<Bytes>> {
    let Range { start, end } = range;
    let mut stream = client.open(file, range.into()).await?;
    let (mut chunks, mut left) = (Vec::new(), end - start);
    while let Some(chunk) = stream.try_next().await? {
        left = left.checked_sub(chunk.len() as u64).ok_or_else(|| {
            let message = format!("the store sent more than bytes {start}..{end}");
            Error::new(ErrorKind::Other, message).of(file)
        })?;
        chunks.push(chunk);
    }
    Ok(chunks)
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

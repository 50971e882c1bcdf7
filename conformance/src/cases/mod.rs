//! The cases, a file a group, and the words that they share.

pub(crate) mod big;
pub(crate) mod cancel;
pub(crate) mod concurrency;
pub(crate) mod consistency;
pub(crate) mod contract;
pub(crate) mod delete;
pub(crate) mod errors;
pub(crate) mod isolation;
pub(crate) mod linear;
pub(crate) mod list;
pub(crate) mod model;
pub(crate) mod naming;
pub(crate) mod range;
pub(crate) mod timestamps;
pub(crate) mod write;

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future, stream};
use replica_core::{
    Body, ByteStream, Error, ErrorKind, FileId, Level, Result, Timestamp, Txid, TxidRange,
};
use tokio::sync::oneshot;

use crate::store::{Client, chain};

/// The file of `level` that holds the transactions `min` to `max`.
pub(crate) fn file(level: Level, min: u64, max: u64) -> FileId {
    let txids = TxidRange::new(txid(min), txid(max)).expect("the cases name files min first");
    FileId { level, txids }
}

/// The raw file of one transaction.
pub(crate) fn raw(number: u64) -> FileId {
    file(Level::RAW, number, number)
}

pub(crate) fn txid(number: u64) -> Txid {
    Txid::new(number).expect("the cases count transactions from 1")
}

pub(crate) fn level(number: u8) -> Level {
    Level::new(number).expect("the cases name levels from 0 to 9")
}

pub(crate) const NOON: Timestamp = Timestamp::from_millis(1_767_268_800_000);

/// `len` bytes that look like those of no other `tag`, and in which no part looks like another.
pub(crate) fn content(len: usize, tag: u64) -> Bytes {
    let mut random = Random::new(tag);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// A sequence of numbers that looks random, and is the same for the same seed (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// How many calls are under way where a case makes many.
const AT_ONCE: usize = 32;

/// Writes small files, many at once. Their sizes tell them apart.
pub(crate) async fn write_many(client: &Client, files: &[FileId]) {
    stream::iter(files.to_vec())
        .map(|file| {
            let content = small(file);
            async move { client.must_write(file, &content).await }
        })
        .buffer_unordered(AT_ONCE)
        .for_each(|_| future::ready(()))
        .await;
}

/// A content for `file` that differs from its neighbours' in length too.
pub(crate) fn small(file: FileId) -> Bytes {
    let number = file.txids.max().get();
    content(1 + (number % 97) as usize, number)
}

/// Panics unless these are the names, and says which is the first one that differs.
#[track_caller]
pub(crate) fn assert_names(found: &[FileId], wanted: &[FileId], what: &str) {
    if found == wanted {
        return;
    }
    let missing = wanted.iter().find(|file| !found.contains(file));
    let stray = found.iter().find(|file| !wanted.contains(file));
    let told = |file: Option<&FileId>| file.map_or("none".to_owned(), FileId::to_string);
    panic!(
        "{what}: {} files are listed and {} were wanted; the first missing one is {}, the first \
         that should not be there {}",
        found.len(),
        wanted.len(),
        told(missing),
        told(stray)
    );
}

/// Panics unless the bytes are the same, and says where they differ.
#[track_caller]
pub(crate) fn assert_bytes(found: &[u8], wanted: &[u8], what: &str) {
    if found == wanted {
        return;
    }
    let same = found.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    panic!(
        "{what}: {} bytes came and {} were wanted, the same up to byte {same}",
        found.len(),
        wanted.len()
    );
}

/// Panics unless `result` is an error of `kind`, which it returns.
#[track_caller]
pub(crate) fn assert_error<T>(result: Result<T>, kind: ErrorKind, what: &str) -> Error {
    match result {
        Ok(_) => panic!("{what} succeeded, and should have failed as {kind}"),
        Err(error) if error.kind() == kind => error,
        Err(error) => panic!(
            "{what} should have failed as {kind}, and failed otherwise: {}",
            chain(&error)
        ),
    }
}

/// The value of `result`, or a panic that tells the error with its causes.
#[track_caller]
pub(crate) fn ok<T>(result: Result<T>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what} failed: {}", chain(&error)),
    }
}

/// `bytes` cut into chunks of `sizes`, round and round, with the scheduler let in before each.
pub(crate) fn chunked(bytes: &Bytes, sizes: &'static [usize]) -> ByteStream {
    let cut = stream::unfold(
        (bytes.clone(), sizes.iter().cycle()),
        |(mut rest, mut sizes)| async move {
            if rest.is_empty() {
                return None;
            }
            tokio::task::yield_now().await;
            let size = sizes
                .next()
                .map_or(rest.len(), |size| *size)
                .min(rest.len());
            Some((Ok(rest.split_to(size)), (rest, sizes)))
        },
    );
    cut.boxed()
}

/// A body that comes up to a point and then waits, until its [`Gate`] is opened.
pub(crate) struct Gate {
    open: oneshot::Sender<()>,
    reached: oneshot::Receiver<()>,
    /// Resolves when the body has been dropped.
    dropped: oneshot::Receiver<()>,
}

impl Gate {
    /// A body of `content`, of known length, that waits behind its first `before` bytes.
    pub(crate) fn body(content: &Bytes, before: usize) -> (Body, Gate) {
        let (open, opened) = oneshot::channel::<()>();
        let (reach, reached) = oneshot::channel();
        let (drop_guard, dropped) = oneshot::channel::<()>();
        let (head, tail) = (content.slice(..before), content.slice(before..));
        let wait = async move {
            // Nobody may be listening, and that is fine.
            let _ = reach.send(());
            if opened.await.is_err() {
                // A gate that is gone never opens.
                future::pending::<()>().await;
            }
            drop(drop_guard);
            Ok(tail)
        };
        let stream = stream::iter((!head.is_empty()).then_some(Ok(head)))
            .chain(stream::once(wait))
            .boxed();
        let gate = Gate {
            open,
            reached,
            dropped,
        };
        (Body::once(content.len() as u64, stream), gate)
    }

    /// Waits until the body has been read up to the gate.
    pub(crate) async fn reached(&mut self) {
        // An error means that the body was dropped before; the caller sees that soon enough.
        let _ = (&mut self.reached).await;
    }

    /// Lets the rest of the body through.
    pub(crate) fn open(self) {
        // The body may be gone.
        let _ = self.open.send(());
    }

    /// Waits until nobody reads the body any more.
    pub(crate) async fn dropped(&mut self) {
        // The sender is never used: the error says that it is gone.
        let _ = (&mut self.dropped).await;
    }
}

/// A body that gives the first `before` bytes of `content` and then fails as `kind`.
pub(crate) fn failing_body(content: &Bytes, before: usize, kind: ErrorKind) -> Body {
    let head = content.slice(..before);
    let failure = stream::once(async move { Err(Error::new(kind, "the body broke off")) });
    let stream = stream::iter((!head.is_empty()).then_some(Ok(head))).chain(failure);
    Body::once(content.len() as u64, stream.boxed())
}

/// How long a case waits for something that should not happen any more.
pub(crate) const SETTLING: Duration = Duration::from_millis(200);

/// Polls `future` as often as `steps` says and then drops it. `None` where it had not ended.
pub(crate) async fn steps<T>(future: impl Future<Output = T>, steps: usize) -> Option<T> {
    let mut future = pin!(future);
    let mut left = steps;
    future::poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.poll_unpin(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_of_different_tags_differ() {
        assert_eq!(content(100, 1), content(100, 1));
        assert_ne!(content(100, 1), content(100, 2));
        assert_eq!(content(99, 1), content(100, 1)[..99]);
    }

    #[tokio::test]
    async fn a_future_is_dropped_after_its_steps() {
        let endless = || async {
            loop {
                tokio::task::yield_now().await;
            }
        };

        assert_eq!(steps(async { 7 }, 1).await, Some(7));
        assert_eq!(steps(async { 7 }, 0).await, None);
        assert_eq!(steps(endless(), 10).await, None::<()>);
    }
}
